// Package vaulttest is a Vault for tests: the part of its API that has to do with tokens,
// in one process, with the answers of OpenBao 2 (and so of Vault from 1.10 on) down to the
// texts of its errors:
//
//	POST auth/token/lookup            about another token; needs a policy that permits it
//	GET  auth/token/lookup-self
//	POST auth/token/renew-self
//	POST auth/<mount>/login           approle, cert and kubernetes
//	GET  identity/entity/id/<id>
//	GET  sys/health
//
// What makes the real one hard to use right is here as well: uses are counted down by
// whoever presents a token, bound_cidrs are held against whoever connects, a lookup finds
// tokens that are about to be deleted, tokens of namespaces are served where they belong,
// a refusal of the asker is a 403 as a bad token is, and a node may be sealed or a
// standby. Time is a clock that the test moves.
package vaulttest

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
)

// Token is what a token is made with. The zero value is a service token with the policy
// default that lives for an hour.
type Token struct {
	// Namespace is the path of its namespace; empty for root.
	Namespace string
	Policies  []string
	// TTL is its life from the last renewal, MaxTTL that from the beginning; 0 for an
	// hour, and no limit. Forever makes a token without an end, as only root tokens are.
	TTL, MaxTTL time.Duration
	Forever     bool
	// NumUses is how many uses it has; 0 is without limit.
	NumUses int
	Batch   bool
	// Legacy gives it a prefix of one letter, as OpenBao does.
	Legacy bool
	// NotRenewable refuses to renew it.
	NotRenewable bool
	EntityID     string
	DisplayName  string
	// Path is where it was made; default auth/token/create.
	Path       string
	Meta       map[string]string
	BoundCIDRs []string
}

// Entity is who stands behind tokens.
type Entity struct {
	Namespace string
	Policies  []string
	Disabled  bool
}

// AppRole is a role with one secret id.
type AppRole struct {
	RoleID, SecretID string
	// SecretIDUses is how often the secret id may be used; 0 is without limit.
	SecretIDUses int
	// Token is what a login brings.
	Token Token
}

// record is a token as it is stored.
type record struct {
	Token
	text, accessor  string
	created, expiry time.Time // expiry is zero for never
	uses            int
	// lingers keeps it findable by lookups though it has ended.
	lingers bool
}

// Vault answers as a Vault does. It is an http.Handler; Start gives it a listener.
type Vault struct {
	now func() time.Time

	mu         sync.Mutex
	tokens     map[string]*record
	namespaces map[string]string // id by path
	entities   map[string]*Entity
	policies   map[string][]string // paths that a policy permits
	approles   map[string]*AppRole // by mount and role id
	certs      map[string]certRole // by mount and role
	kubernetes map[string]kubernetesRole
	sealed     bool
	standby    int
	override   func(http.ResponseWriter, *http.Request) bool
	counts     map[string]int
}

type kubernetesRole struct {
	jwt   string
	token Token
}

// Paths that policies permit.
const (
	PathLookup     = "auth/token/lookup"
	PathLookupSelf = "auth/token/lookup-self"
	PathRenewSelf  = "auth/token/renew-self"
	PathEntity     = "identity/entity/id/"
	pathHealth     = "sys/health"
)

// New returns a Vault whose clock is now; nil for time.Now. It has the policies root,
// default and postern, of which the last permits what Postern needs.
func New(now func() time.Time) *Vault {
	if now == nil {
		now = time.Now
	}
	return &Vault{
		now:        now,
		tokens:     map[string]*record{},
		namespaces: map[string]string{"": ""},
		entities:   map[string]*Entity{},
		policies: map[string][]string{
			"default": {PathLookupSelf, PathRenewSelf},
			"postern": {PathLookup, PathEntity},
		},
		approles:   map[string]*AppRole{},
		certs:      map[string]certRole{},
		kubernetes: map[string]kubernetesRole{},
		counts:     map[string]int{},
	}
}

// CreateToken makes a token and returns its text.
func (v *Vault) CreateToken(t Token) string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.create(t).text
}

func (v *Vault) create(t Token) *record {
	if len(t.Policies) == 0 {
		t.Policies = []string{"default"}
	}
	if t.TTL == 0 && !t.Forever {
		t.TTL = time.Hour
	}
	if t.Path == "" {
		t.Path = "auth/token/create"
	}
	if t.DisplayName == "" {
		t.DisplayName = "token"
	}
	r := &record{Token: t, created: v.now(), uses: t.NumUses}
	if !t.Forever {
		r.expiry = r.created.Add(t.TTL)
	}
	r.text = v.text(t)
	if !t.Batch {
		r.accessor = random(24) + v.suffix(t.Namespace)
	}
	v.tokens[r.text] = r
	return r
}

// text makes the text of a token: of OpenBao's, 24 characters behind one letter, of
// Vault's, an id and a signature. A batch token is encrypted.
func (v *Vault) text(t Token) string {
	prefix, body := "hvs.", "CAESI"+random(86)
	switch {
	case t.Batch && t.Legacy:
		prefix, body = "b.", "AAAAAQ"+random(150)
	case t.Batch:
		prefix, body = "hvb.", "AAAAAQ"+random(150)
	case t.Legacy:
		prefix, body = "s.", random(24)
	}
	return prefix + body + v.suffix(t.Namespace)
}

func (v *Vault) suffix(namespace string) string {
	id, known := v.namespaces[namespace]
	if !known {
		panic("vaulttest: no namespace " + namespace)
	}
	if id == "" {
		return ""
	}
	return "." + id
}

// random returns characters of base62.
func random(n int) string {
	const digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	b := make([]byte, n)
	_, _ = rand.Read(b)
	for i := range b {
		b[i] = digits[int(b[i])%len(digits)]
	}
	return string(b)
}

// Accessor returns the accessor of a token.
func (v *Vault) Accessor(token string) string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.tokens[token].accessor
}

// Uses returns how many uses a token has left.
func (v *Vault) Uses(token string) int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.tokens[token].uses
}

// Revoke deletes a token.
func (v *Vault) Revoke(token string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.tokens, token)
}

// RevokeAll deletes the tokens that were made at a path, such as auth/approle/login.
func (v *Vault) RevokeAll(path string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for text, r := range v.tokens {
		if r.Path == path {
			delete(v.tokens, text)
		}
	}
}

// Linger lets lookups find a token after its end, as they do until Vault has come round
// to deleting it. If used is set it is also taken for used up.
func (v *Vault) Linger(token string, used bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.tokens[token].lingers = true
	if used {
		v.tokens[token].uses = -1
	}
}

// CreateNamespace makes a namespace, whose parent must exist, and returns its id.
func (v *Vault) CreateNamespace(path string) string {
	v.mu.Lock()
	defer v.mu.Unlock()
	if _, parent := v.namespaces[parentOf(path)]; !parent {
		panic("vaulttest: no namespace " + parentOf(path))
	}
	id := random(6)
	v.namespaces[path] = id
	return id
}

func parentOf(path string) string {
	at := strings.LastIndexByte(path, '/')
	return path[:max(at, 0)]
}

// CreateEntity makes an entity and returns its id.
func (v *Vault) CreateEntity(e Entity) string {
	v.mu.Lock()
	defer v.mu.Unlock()
	b := make([]byte, 16)
	_, _ = rand.Read(b)
	id := fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:]) + v.suffix(e.Namespace)
	v.entities[id] = &e
	return id
}

// DisableEntity disables an entity: its tokens are served no longer, and looked up as ever.
func (v *Vault) DisableEntity(id string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.entities[id].Disabled = true
}

// SetPolicy says which paths a policy permits. One that ends in a slash permits all below.
func (v *Vault) SetPolicy(name string, paths ...string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.policies[name] = paths
}

// EnableAppRole adds a role at a mount. Ids that are empty are made up.
func (v *Vault) EnableAppRole(mount string, r AppRole) AppRole {
	v.mu.Lock()
	defer v.mu.Unlock()
	if r.RoleID == "" {
		r.RoleID = "role-" + random(20)
	}
	if r.SecretID == "" {
		r.SecretID = "secret-" + random(20)
	}
	r.Token.Path = "auth/" + mount + "/login"
	own := r
	v.approles[mount+" "+r.RoleID] = &own
	return r
}

// EnableKubernetes adds a role for the service account that has the token.
func (v *Vault) EnableKubernetes(mount, role, jwt string, t Token) {
	v.mu.Lock()
	defer v.mu.Unlock()
	t.Path = "auth/" + mount + "/login"
	v.kubernetes[mount+" "+role] = kubernetesRole{jwt, t}
}

// Seal seals it, or unseals it.
func (v *Vault) Seal(sealed bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.sealed = sealed
}

// Standby makes it a standby that has nobody to forward to: sys/health answers the status
// (429, 472 or 473), and everything else is redirected. 0 makes it active.
func (v *Vault) Standby(status int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.standby = status
}

// Answer puts a handler in front, which reports whether it has answered; nil removes it.
func (v *Vault) Answer(with func(http.ResponseWriter, *http.Request) bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.override = with
}

// Fail answers each request whose path begins so with a status and an error; a status of
// 0 ends that.
func (v *Vault) Fail(path string, status int) {
	if status == 0 {
		v.Answer(nil)
		return
	}
	v.Answer(func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasPrefix(r.URL.Path, "/v1/"+path) {
			return false
		}
		refuse(w, status, "internal error")
		return true
	})
}

// Count returns how many requests there were to a path, such as PathLookup.
func (v *Vault) Count(path string) int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.counts[path]
}

// ServeHTTP answers one request.
func (v *Vault) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path, found := strings.CutPrefix(r.URL.Path, "/v1/")
	v.mu.Lock()
	v.counts[path]++
	override := v.override
	v.mu.Unlock()
	if override != nil && override(w, r) {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	switch {
	case !found:
		refuse(w, http.StatusNotFound)
	case path == pathHealth:
		v.health(w)
	case v.sealed:
		refuse(w, http.StatusServiceUnavailable, "Vault is sealed")
	case v.standby != 0:
		w.Header().Set("Location", "https://active.vault.test"+r.URL.Path)
		w.WriteHeader(http.StatusTemporaryRedirect)
	default:
		v.serve(w, r, path)
	}
}

func (v *Vault) health(w http.ResponseWriter) {
	status := http.StatusOK
	switch {
	case v.sealed:
		status = http.StatusServiceUnavailable
	case v.standby != 0:
		status = v.standby
	}
	answer(w, status, map[string]any{
		"initialized": true, "sealed": v.sealed, "standby": v.standby != 0, "server_time_utc": v.now().Unix(), "version": "2.4.0",
	})
}

// serve answers what an active node does.
func (v *Vault) serve(w http.ResponseWriter, r *http.Request, path string) {
	namespace := strings.Trim(r.Header.Get("X-Vault-Namespace"), "/")
	if _, known := v.namespaces[namespace]; !known {
		refuse(w, http.StatusNotFound, "no handler for route \""+path+"\". route entry not found.")
		return
	}
	body := map[string]any{}
	if r.Method == http.MethodPost || r.Method == http.MethodPut {
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<20)).Decode(&body); err != nil {
			refuse(w, http.StatusBadRequest, "error parsing JSON")
			return
		}
	}
	if mount, login := strings.CutSuffix(path, "/login"); login && r.Method == http.MethodPost {
		v.login(w, r, strings.TrimPrefix(mount, "auth/"), body)
		return
	}
	v.authenticated(w, r, path, namespace, body)
}

// call is a request by a token that may make it.
type call struct {
	by        *record
	namespace string
	body      map[string]any
}

// authenticated checks the token that asks, as Vault does: it lives, its networks hold
// the one who connects, its entity is not disabled, it has a use left, which this takes,
// and a policy that permits the path.
func (v *Vault) authenticated(w http.ResponseWriter, r *http.Request, path, namespace string, body map[string]any) {
	by := v.find(r.Header.Get("X-Vault-Token"), false)
	if by == nil || !by.admits(r.RemoteAddr) {
		refuse(w, http.StatusForbidden, denied)
		return
	}
	if e := v.entities[by.EntityID]; by.EntityID != "" && (e == nil || e.Disabled) {
		refuse(w, http.StatusForbidden, denied)
		return
	}
	// The namespace of a token in question is where the question is asked.
	target := namespace
	if text, ok := body["token"].(string); ok {
		if id := namespaceIn(text); id != "" {
			target = v.namespacePath(id, target)
		}
	}
	if path == PathLookupSelf || path == PathRenewSelf {
		target = by.Namespace
	}
	permitted := v.permitted(by, path, target)
	last := by.use()
	defer func() {
		if last {
			delete(v.tokens, by.text)
		}
	}()
	if !permitted {
		refuse(w, http.StatusForbidden, denied)
		return
	}
	v.route(w, r.Method, path, call{by, target, body})
}

// denied is what a lack of rights looks like.
const denied = "1 error occurred:\n\t* permission denied\n\n"

func (v *Vault) route(w http.ResponseWriter, method, path string, c call) {
	write := method == http.MethodPost || method == http.MethodPut
	entity, isEntity := strings.CutPrefix(path, PathEntity)
	switch {
	case path == PathLookup && write:
		token, given := c.body["token"].(string)
		if !given || token == "" {
			token = c.by.text
		}
		v.lookup(w, token)
	case path == PathLookupSelf && method == http.MethodGet:
		v.lookup(w, c.by.text)
	case path == PathRenewSelf && write:
		v.renew(w, c.by)
	case isEntity && method == http.MethodGet:
		v.entity(w, entity, c.namespace)
	default:
		refuse(w, http.StatusNotFound)
	}
}

// find returns a token that lives. Lookups also find what is about to be deleted.
func (v *Vault) find(text string, lookup bool) *record {
	r := v.tokens[text]
	switch {
	case r == nil:
		return nil
	case lookup && (r.lingers || r.uses < 0):
		return r
	case r.uses < 0, !r.expiry.IsZero() && !v.now().Before(r.expiry):
		return nil
	}
	return r
}

// use takes one use, and reports whether it was the last.
func (r *record) use() bool {
	switch r.uses {
	case 0:
		return false
	case 1:
		r.uses = -1
		return true
	}
	r.uses--
	return false
}

// admits holds the token's networks against whoever connects.
func (r *record) admits(remote string) bool {
	if len(r.BoundCIDRs) == 0 || r.Forever {
		return true
	}
	at, err := netip.ParseAddrPort(remote)
	if err != nil {
		return false
	}
	return slices.ContainsFunc(r.BoundCIDRs, func(text string) bool {
		if !strings.Contains(text, "/") {
			ip, err := netip.ParseAddr(text)
			return err == nil && ip == at.Addr().Unmap()
		}
		p, err := netip.ParsePrefix(text)
		return err == nil && p.Contains(at.Addr().Unmap())
	})
}

// permitted reports whether one of the token's policies permits a path in a namespace:
// in its own, or for administrators of it, in those below.
func (v *Vault) permitted(by *record, path, namespace string) bool {
	if by.Namespace != "" && namespace != by.Namespace && !strings.HasPrefix(namespace, by.Namespace+"/") {
		return false
	}
	policies := by.Policies
	if e := v.entities[by.EntityID]; e != nil {
		policies = append(slices.Clone(policies), e.Policies...)
	}
	for _, name := range policies {
		if name == "root" || slices.ContainsFunc(v.policies[name], func(p string) bool {
			return p == path || strings.HasSuffix(p, "/") && strings.HasPrefix(path, p)
		}) {
			return true
		}
	}
	return false
}

// namespaceIn returns the id of the namespace that a token names.
func namespaceIn(token string) string {
	if parts := strings.Split(token, "."); len(parts) == 3 {
		return parts[2]
	}
	return ""
}

func (v *Vault) namespacePath(id, otherwise string) string {
	for path, known := range v.namespaces {
		if known == id && id != "" {
			return path
		}
	}
	return otherwise
}

// lookup answers what is known of a token.
func (v *Vault) lookup(w http.ResponseWriter, text string) {
	for _, prefix := range []string{"b.", "hvb."} {
		body, isBatch := strings.CutPrefix(text, prefix)
		if !isBatch {
			continue
		}
		body, _, _ = strings.Cut(body, ".")
		if _, err := base64.RawURLEncoding.DecodeString(body); err != nil {
			refuse(w, http.StatusBadRequest, err.Error()) // as the real one does
			return
		}
	}
	r := v.find(text, true)
	if r == nil {
		refuse(w, http.StatusForbidden, "bad token")
		return
	}
	answer(w, http.StatusOK, envelope("data", v.describe(r)))
}

// describe is the data of a lookup.
func (v *Vault) describe(r *record) map[string]any {
	kind := "service"
	if r.Batch {
		kind = "batch"
	}
	data := map[string]any{
		"id": r.text, "accessor": r.accessor, "policies": r.Policies, "path": r.Path, "meta": r.Meta,
		"display_name": r.DisplayName, "num_uses": r.uses, "orphan": true, "creation_time": r.created.Unix(),
		"creation_ttl": int64(r.TTL.Seconds()), "expire_time": nil, "ttl": 0, "explicit_max_ttl": int64(r.MaxTTL.Seconds()),
		"entity_id": r.EntityID, "type": kind,
	}
	if !r.expiry.IsZero() {
		data["expire_time"] = r.expiry.UTC().Format(time.RFC3339Nano)
		data["ttl"] = int64(r.expiry.Sub(v.now().Round(time.Second)).Seconds())
		data["renewable"] = !r.NotRenewable && !r.Batch
		data["issue_time"] = r.created.UTC().Format(time.RFC3339Nano)
	}
	if len(r.BoundCIDRs) > 0 {
		data["bound_cidrs"] = r.BoundCIDRs
	}
	if r.Namespace != "" {
		data["namespace_path"] = r.Namespace + "/"
	}
	if e := v.entities[r.EntityID]; e != nil && len(e.Policies) > 0 {
		data["identity_policies"] = e.Policies
		data["external_namespace_policies"] = map[string]any{}
	}
	return data
}

// renew prolongs a token, up to its max_ttl.
func (v *Vault) renew(w http.ResponseWriter, r *record) {
	switch {
	case r.Batch:
		refuse(w, http.StatusBadRequest, "batch tokens cannot be renewed")
		return
	case r.NotRenewable || r.expiry.IsZero():
		refuse(w, http.StatusBadRequest, "lease is not renewable")
		return
	}
	r.expiry = v.now().Add(r.TTL)
	if end := r.created.Add(r.MaxTTL); r.MaxTTL > 0 && r.expiry.After(end) {
		r.expiry = end
	}
	answer(w, http.StatusOK, envelope("auth", v.auth(r)))
}

// auth is the auth part of the answer to a login or a renewal.
func (v *Vault) auth(r *record) map[string]any {
	lease := int64(0)
	if !r.expiry.IsZero() {
		lease = int64(r.expiry.Sub(v.now()).Round(time.Second).Seconds())
	}
	kind := "service"
	if r.Batch {
		kind = "batch"
	}
	return map[string]any{
		"client_token": r.text, "accessor": r.accessor, "policies": r.Policies, "token_policies": r.Policies, "metadata": r.Meta,
		"lease_duration": lease, "renewable": !r.NotRenewable && !r.Batch, "entity_id": r.EntityID, "token_type": kind,
		"orphan": true, "mfa_requirement": nil, "num_uses": r.uses,
	}
}

func (v *Vault) entity(w http.ResponseWriter, id, namespace string) {
	e := v.entities[id]
	if e == nil || e.Namespace != namespace {
		refuse(w, http.StatusNotFound)
		return
	}
	answer(w, http.StatusOK, envelope("data", map[string]any{
		"id": id, "name": "entity-" + id, "disabled": e.Disabled, "policies": e.Policies, "aliases": []any{}, "metadata": nil,
	}))
}

// login answers a login at one of the auth methods.
func (v *Vault) login(w http.ResponseWriter, r *http.Request, mount string, body map[string]any) {
	text := func(name string) string {
		s, _ := body[name].(string)
		return s
	}
	if role := v.approles[mount+" "+text("role_id")]; role != nil {
		if role.SecretIDUses < 0 || role.SecretID != text("secret_id") {
			refuse(w, http.StatusBadRequest, "invalid role or secret ID")
			return
		}
		if role.SecretIDUses == 1 {
			role.SecretIDUses = -1
		} else if role.SecretIDUses > 1 {
			role.SecretIDUses--
		}
		v.grant(w, role.Token)
		return
	}
	if role, ok := v.kubernetes[mount+" "+text("role")]; ok && role.jwt == text("jwt") {
		v.grant(w, role.token)
		return
	}
	if t, ok := v.certLogin(mount, text("name"), r.TLS); ok {
		v.grant(w, t)
		return
	}
	refuse(w, http.StatusBadRequest, "invalid role or secret ID")
}

func (v *Vault) grant(w http.ResponseWriter, t Token) {
	r := v.create(t)
	answer(w, http.StatusOK, envelope("auth", v.auth(r)))
}

// envelope is what every answer has around its data or auth.
func envelope(part string, content map[string]any) map[string]any {
	all := map[string]any{
		"request_id": random(8), "lease_id": "", "renewable": false, "lease_duration": 0,
		"data": nil, "wrap_info": nil, "warnings": nil, "auth": nil,
	}
	all[part] = content
	return all
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body)
}

func refuse(w http.ResponseWriter, status int, errors ...string) {
	if errors == nil {
		errors = []string{}
	}
	answer(w, status, map[string]any{"errors": errors})
}
