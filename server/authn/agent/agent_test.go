package agent_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	golangjwt "github.com/golang-jwt/jwt/v5"
	"github.com/google/go-cmp/cmp"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn"
	"github.com/postern-auth/postern/server/authn/agent"
	"github.com/postern-auth/postern/server/authn/authntest"
	"github.com/postern-auth/postern/server/signer"
)

// noon is the time at which all these tests begin.
var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

const (
	issuer = "https://auth.example.com"
	tools  = "https://tools.example.com"
	secret = "a shared secret of 40 bytes, all of them"
)

// registry is an index of agents and users that tests write.
type registry struct {
	mu     sync.Mutex
	agents map[string]*authn.Agent
	people map[string]*person
	n      int64
}

func (r *registry) Agent(tenant, id string) *authn.Agent {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.agents[tenant+"/"+id]
}
func (r *registry) AgentBySPIFFE(string) *authn.Agent      { return nil }
func (r *registry) AgentByCertificate(string) *authn.Agent { return nil }

func (r *registry) Person(tenant, name string) authn.Person {
	r.mu.Lock()
	defer r.mu.Unlock()
	if p := r.people[tenant+"/"+name]; p != nil {
		return p
	}
	return nil
}

// put registers an agent, or changes it.
func (r *registry) put(tenant, id string, change func(*authn.Agent)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	next := &authn.Agent{Ended: policy.ReasonAllowed, Principal: &policy.Principal{ID: id, Kind: policy.KindAgent, Tenant: tenant, Issuer: "postern"}}
	if old := r.agents[tenant+"/"+id]; old != nil {
		copied, p := *old, *old.Principal
		next = &copied
		next.Principal = &p
	}
	r.n++
	next.Version = r.n
	change(next)
	r.agents[tenant+"/"+id] = next
}

type person struct {
	p       policy.Principal
	err     error
	changes int64
}

func (p *person) Version() authn.Version { return authn.Version{Change: p.changes} }
func (p *person) Alive() error           { return p.err }
func (p *person) Open() (*policy.Principal, authn.Version, error) {
	if p.err != nil {
		return nil, authn.Version{}, p.err
	}
	copied := p.p
	return &copied, p.Version(), nil
}

// key signs as somebody.
type key struct {
	kid, alg string
	private  any
	public   any
}

func newKey(t testing.TB, kid, alg string) *key {
	t.Helper()
	if alg == "EdDSA" {
		public, private, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return &key{kid, alg, private, public}
	}
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &key{kid, alg, private, &private.PublicKey}
}

// jwks is the key set of a record.
func jwks(t testing.TB, keys ...*key) []byte {
	t.Helper()
	b64 := base64.RawURLEncoding.EncodeToString
	var list []map[string]string
	for _, k := range keys {
		switch p := k.public.(type) {
		case ed25519.PublicKey:
			list = append(list, map[string]string{"kty": "OKP", "crv": "Ed25519", "kid": k.kid, "x": b64(p)})
		case *ecdsa.PublicKey:
			point, err := p.Bytes()
			if err != nil {
				t.Fatal(err)
			}
			list = append(list, map[string]string{"kty": "EC", "crv": "P-256", "kid": k.kid, "x": b64(point[1:33]), "y": b64(point[33:])})
		}
	}
	return []byte(text(t, map[string]any{"keys": list}))
}

func (k *key) sign(t testing.TB, header, claims map[string]any) string {
	t.Helper()
	return k.signText(t, text(t, with(map[string]any{"alg": k.alg, "kid": k.kid}, header)), text(t, claims))
}

func (k *key) signText(t testing.TB, header, payload string) string {
	t.Helper()
	b64 := base64.RawURLEncoding.EncodeToString
	signed := b64([]byte(header)) + "." + b64([]byte(payload))
	signature, err := golangjwt.GetSigningMethod(k.alg).Sign(signed, k.private)
	if err != nil {
		t.Fatal(err)
	}
	return signed + "." + b64(signature)
}

func text(t testing.TB, v any) string {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// with returns a copy with some members set; nil removes one.
func with(m, changes map[string]any) map[string]any {
	m = maps.Clone(m)
	maps.Copy(m, changes)
	maps.DeleteFunc(m, func(_ string, v any) bool { return v == nil })
	return m
}

// world is a tenant with agents, Postern's signing keys, and the time.
type world struct {
	*registry
	signs *signer.Signer
	own   *key // of researcher
	now   time.Time
	ids   atomic.Int64
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{
		registry: &registry{agents: map[string]*authn.Agent{}, people: map[string]*person{}},
		own:      newKey(t, "r-1", "ES256"), now: noon,
	}
	w.signs = newSigner(t, "k1")
	w.put("acme", "researcher", func(a *authn.Agent) {
		a.Keys = jwks(t, w.own)
		a.Roles, a.Tools = []string{"reader", "writer"}, []string{"search"}
		a.Principal.Scopes, a.Principal.Roles, a.Principal.Permissions = []string{"mail:send", "notes.*"}, []string{"bot"}, []string{"notes.read"}
		a.Principal.Claims = map[string]any{"model": "m-1"}
	})
	w.put("acme", "coder", func(a *authn.Agent) { a.Roles = []string{"reader"} })
	w.put("acme", "third", func(a *authn.Agent) { a.Roles = []string{"reader"} })
	w.put("acme", "fourth", func(a *authn.Agent) { a.Roles = []string{"reader"} })
	w.put("other", "researcher", func(a *authn.Agent) { a.Roles = []string{"reader", "executor"} })
	w.people["acme/ann"] = &person{p: policy.Principal{ID: "ann", Kind: policy.KindUser, Tenant: "acme", Scopes: []string{"data:read", "data:write"}, Roles: []string{"clerk"}}}
	return w
}

func newSigner(t testing.TB, ids ...string) *signer.Signer {
	t.Helper()
	cfg := signer.Config{Issuer: issuer}
	for _, id := range ids {
		seed := strings.Repeat(hex.EncodeToString([]byte(id)), 32)[:62] + "0f"
		cfg.Keys = append(cfg.Keys, signer.KeyConfig{ID: id, Key: policy.NewSecret(seed)})
	}
	s, err := signer.New(cfg, signer.Deps{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (w *world) authenticator(t testing.TB, change func(*agent.Config, *agent.Deps)) *agent.Authenticator {
	t.Helper()
	cfg := agent.Config{Audiences: []string{"postern", tools}}
	cfg.SetDefaults()
	deps := agent.Deps{Agents: w.registry, People: w.registry, Signer: w.signs, Now: func() time.Time { return w.now }}
	if change != nil {
		change(&cfg, &deps)
	}
	a, err := agent.New(cfg, deps)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func compat(cfg *agent.Config, _ *agent.Deps) {
	cfg.CompatHS256 = &agent.CompatHS256{Secret: policy.NewSecret(secret)}
}

// token is an agent token of Postern's.
func (w *world) token(t testing.TB, change func(*signer.Agent)) string {
	t.Helper()
	said := signer.Agent{
		ID: fmt.Sprintf("jti-%d", w.ids.Add(1)), Subject: "researcher", Tenant: "acme", Audience: []string{"postern"},
		Roles: []string{"writer"}, Scopes: []string{"data:read", "data:write"}, TokenBudget: 10_000,
		IssuedAt: w.now, ExpiresAt: w.now.Add(15 * time.Minute),
	}
	if change != nil {
		change(&said)
	}
	secret, err := w.signs.Agent(&said)
	if err != nil {
		t.Fatal(err)
	}
	return secret.Reveal()
}

// claims are those of a token that researcher signs itself.
func (w *world) claims() map[string]any {
	return map[string]any{
		"iss": "researcher", "sub": "researcher", "tenant": "acme", "aud": "postern",
		"iat": w.now.Unix(), "exp": w.now.Add(time.Minute).Unix(), "jti": fmt.Sprintf("own-%d", w.ids.Add(1)),
	}
}

func (w *world) elder() map[string]any {
	return map[string]any{
		"sub": "researcher", "tenant": "acme", "scopes": []string{"data:read", "exec:sandbox"}, "token_budget": 500,
		"iat": w.now.Unix(), "exp": w.now.Add(time.Hour).Unix(), "type": "agent",
	}
}

func hs256(secret string) *key { return &key{alg: "HS256", private: []byte(secret)} }

func ask(a authn.Authenticator, text string) (*authn.Proof, error) {
	return a.Authenticate(context.Background(), &authn.Credential{Uses: []policy.Method{policy.MethodAgent}, Secret: policy.NewSecret(text), Scheme: "bearer"})
}

// prove asks about a token that has to be good.
func prove(t testing.TB, a authn.Authenticator, text string) *authn.Proof {
	t.Helper()
	proof, err := ask(a, text)
	if err != nil {
		t.Fatalf("refused: %v", err)
	}
	return proof
}

// refused asks about a token that has to be refused.
func refused(t testing.TB, a authn.Authenticator, name, text string, want policy.Reason) {
	t.Helper()
	proof, err := ask(a, text)
	var refusal *authn.Refusal
	switch {
	case want == policy.ReasonUnspecified && proof == nil && errors.Is(err, authn.ErrNotMine):
	case proof != nil || !errors.As(err, &refusal) || refusal.Reason != want:
		t.Errorf("%s: proof %v, %v; want %v", name, proof != nil, err, want)
	}
}

// a token of Postern's is what it says, as far as the record goes.
func TestOwn(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.authenticator(t, nil)
	proof := prove(t, a, w.token(t, func(s *signer.Agent) { s.ID = "the-id" }))
	want := &policy.Principal{
		ID: "researcher", Kind: policy.KindAgent, Tenant: "acme", Roles: []string{"writer"}, Scopes: []string{"data:read", "data:write"},
		Method: policy.MethodAgent, Assurance: 3, CredentialID: "the-id", TokenBudget: 10_000, Issuer: "postern",
		IssuedAt: noon, ExpiresAt: noon.Add(15 * time.Minute), Claims: map[string]any{"model": "m-1"},
	}
	if diff := cmp.Diff(want, proof.Principal); diff != "" {
		t.Error(diff)
	}
	subject := authn.Subject{TokenID: "the-id", Issuer: "postern", ID: "researcher", Agent: "researcher", Tenant: "acme", KeyID: "k1", IssuedAt: noon}
	if diff := cmp.Diff(subject, proof.Subject); diff != "" {
		t.Error(diff)
	}
	if proof.Constraints != nil || proof.Confirm != (authn.Confirmation{}) || !proof.NotAfter.Equal(noon.Add(15*time.Minute+30*time.Second)) {
		t.Errorf("%+v %+v %s", proof.Constraints, proof.Confirm, proof.NotAfter)
	}

	// What it is bound to is the Checker's to ask for, and a certificate counts for more.
	bound := prove(t, a, w.token(t, func(s *signer.Agent) { s.Certificate = strings.Repeat("ab", 32) }))
	if bound.Confirm.Certificate != strings.Repeat("ab", 32) || bound.Principal.Assurance != 4 {
		t.Errorf("%+v, %d", bound.Confirm, bound.Principal.Assurance)
	}
	key := base64.RawURLEncoding.EncodeToString(make([]byte, 32))
	if bound = prove(t, a, w.token(t, func(s *signer.Agent) { s.Key = key })); bound.Confirm.Key != key || bound.Principal.Assurance != 3 {
		t.Errorf("%+v, %d", bound.Confirm, bound.Principal.Assurance)
	}
	// One for a service alone is held to it.
	if service := prove(t, a, w.token(t, func(s *signer.Agent) { s.Audience = []string{tools} })); !slices.Equal(service.Constraints.Audiences, []string{tools}) {
		t.Errorf("%+v", service.Constraints)
	}
	if both := prove(t, a, w.token(t, func(s *signer.Agent) { s.Audience = []string{tools, "postern"} })); both.Constraints != nil {
		t.Errorf("%+v", both.Constraints)
	}
}

// What the record allows now counts, in every moment, and not what it did when the token
// was issued.
func TestRecordCounts(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.authenticator(t, nil)
	text := w.token(t, nil)
	first := prove(t, a, text)
	if again := prove(t, a, text); again != first {
		t.Error("the proof was made anew, although nothing has changed")
	}
	w.put("acme", "researcher", func(r *authn.Agent) { r.Roles = []string{"reader"} })
	if p := prove(t, a, text).Principal; len(p.Roles) != 0 || !slices.Equal(p.Scopes, []string{"data:read"}) {
		t.Errorf("%q %q", p.Roles, p.Scopes)
	}
	if !slices.Equal(first.Principal.Scopes, []string{"data:read", "data:write"}) {
		t.Error("a principal changed after it was handed out")
	}
	for reason, want := range map[policy.Reason]policy.Reason{
		policy.ReasonDisabled: policy.ReasonDisabled, policy.ReasonRevoked: policy.ReasonRevoked, policy.ReasonUnspecified: policy.ReasonDisabled,
	} {
		w.put("acme", "researcher", func(r *authn.Agent) { r.Ended = reason })
		refused(t, a, reason.String(), text, want)
	}
	w.put("acme", "researcher", func(r *authn.Agent) { r.Ended = policy.ReasonAllowed })
	prove(t, a, text)
	delete(w.agents, "acme/researcher")
	refused(t, a, "deleted", text, policy.ReasonCredentialUnknown)
}

// A-07, BUDGET-06: chains are no longer than is accepted, and have what all in them may have.
func TestChains(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.authenticator(t, nil)
	agents := func(ids ...string) (all []policy.Actor) {
		for _, id := range ids {
			all = append(all, policy.Actor{ID: id, Kind: policy.KindAgent})
		}
		return all
	}
	chain := func(scopes []string, ids ...string) string {
		return w.token(t, func(s *signer.Agent) { s.Scopes, s.Actors = scopes, agents(ids...) })
	}
	read := []string{"data:read"}
	p := prove(t, a, chain(read, "coder", "third", "fourth")).Principal
	if !slices.Equal(p.Actors, agents("coder", "third", "fourth")) {
		t.Errorf("%v", p.Actors)
	}
	refused(t, a, "depth 4", chain(read, "coder", "third", "fourth", "coder"), policy.ReasonDelegation)
	refused(t, a, "wider than the actor", chain([]string{"data:read", "data:write"}, "coder"), policy.ReasonDelegation)
	refused(t, a, "wider than the second actor", chain([]string{"data:write"}, "researcher", "coder"), policy.ReasonDelegation)
	refused(t, a, "an actor that nobody knows", chain(read, "stranger"), policy.ReasonDelegation)
	text := chain(read, "coder")
	if p := prove(t, a, text).Principal; len(p.Roles) != 0 {
		t.Errorf("coder acts with roles that it may not have: %q", p.Roles)
	}
	w.put("acme", "coder", func(r *authn.Agent) { r.Roles = []string{"writer", "reader"} })
	if p := prove(t, a, text).Principal; !slices.Equal(p.Roles, []string{"writer"}) {
		t.Errorf("coder may have the role by now: %q", p.Roles)
	}
	w.put("acme", "coder", func(r *authn.Agent) { r.Ended = policy.ReasonRevoked })
	refused(t, a, "an actor that was ended", text, policy.ReasonRevoked)

	refused(t, a, "a service acts", w.token(t, func(s *signer.Agent) { s.Actors = []policy.Actor{{ID: "shop", Kind: policy.KindService}} }), policy.ReasonInvalidClaim)
	refused(t, a, "a user acts", w.token(t, func(s *signer.Agent) { s.Actors = []policy.Actor{{ID: "bob", Kind: policy.KindUser}} }), policy.ReasonInvalidClaim)
	short := w.authenticator(t, func(c *agent.Config, _ *agent.Deps) { c.MaxDepth = 1 })
	refused(t, short, "configured depth", chain(read, "third", "fourth"), policy.ReasonDelegation)
}

// an agent acts for a user, as long as both are there.
func TestForUser(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.authenticator(t, nil)
	forUser := func(change func(*signer.Agent)) string {
		return w.token(t, func(s *signer.Agent) {
			s.Subject, s.Kind, s.Roles, s.Scopes = "ann", policy.KindUser, nil, []string{"data:read"}
			s.Actors = []policy.Actor{{ID: "researcher", Kind: policy.KindAgent}}
			if change != nil {
				change(s)
			}
		})
	}
	text := forUser(nil)
	proof := prove(t, a, text)
	if p := proof.Principal; p.ID != "ann" || p.Kind != policy.KindUser || p.Issuer != "postern" || len(p.Actors) != 1 || proof.Subject.Agent != "" || proof.Subject.ID != "ann" {
		t.Errorf("%+v %+v", p, proof.Subject)
	}
	if prove(t, a, text) != proof {
		t.Error("the proof was made anew, although nothing has changed")
	}
	ann := w.people["acme/ann"]
	ann.p.Scopes, ann.changes = nil, 2
	if p := prove(t, a, text).Principal; len(p.Scopes) != 0 {
		t.Errorf("a scope that the user lost: %q", p.Scopes)
	}
	ann.err = authn.Refuse(policy.ReasonDisabled, "disabled")
	refused(t, a, "the user was disabled", text, policy.ReasonDisabled)
	refused(t, a, "no such user", forUser(func(s *signer.Agent) { s.Subject = "eve" }), policy.ReasonCredentialUnknown)
	refused(t, a, "nobody acts", forUser(func(s *signer.Agent) { s.Actors = nil }), policy.ReasonInvalidClaim)
	refused(t, a, "no kind", forUser(func(s *signer.Agent) { s.Kind = "" }), policy.ReasonCredentialUnknown)
	refused(t, a, "another kind", forUser(func(s *signer.Agent) { s.Kind = policy.KindService }), policy.ReasonInvalidClaim)
	// Of somebody for whom an issuer vouches: the token is Postern's all the same.
	idp := "https://idp.example.com"
	shown := signer.Origin{Issuer: idp, ID: "eve", Tenant: "acme", TokenID: "j-1", SessionID: "s-1", Client: "web", KeyID: "k-9", IssuedAt: noon.Add(-time.Hour)}
	foreign := prove(t, a, forUser(func(s *signer.Agent) {
		s.ID, s.Subject, s.Origin, s.Origins = "the-id", "eve", idp, []signer.Origin{shown}
	}))
	if foreign.Principal.Issuer != idp || foreign.Subject != (authn.Subject{TokenID: "the-id", KeyID: "k1", Issuer: "postern", Tenant: "acme", IssuedAt: noon}) ||
		!slices.Equal(foreign.Origins, []authn.Subject{authn.Subject(shown)}) {
		t.Errorf("%+v %+v", foreign.Subject, foreign.Origins)
	}
	for name, change := range map[string]func(*signer.Origin){
		"of another issuer": func(o *signer.Origin) { o.Issuer = "https://other.example.com" },
		"of somebody else":  func(o *signer.Origin) { o.ID = "mallory" },
		"another tenant's":  func(o *signer.Origin) { o.Tenant = "" },
	} {
		other := shown
		change(&other)
		refused(t, a, name, forUser(func(s *signer.Agent) { s.Subject, s.Origin, s.Origins = "eve", idp, []signer.Origin{other} }), policy.ReasonInvalidClaim)
	}
	refused(t, a, "of nobody knows whom", forUser(func(s *signer.Agent) { s.Subject, s.Origin = "eve", idp }), policy.ReasonInvalidClaim)
	nobody := w.authenticator(t, func(_ *agent.Config, d *agent.Deps) { d.People = nil })
	refused(t, nobody, "no users", text, policy.ReasonCredentialUnknown)
}

// A token says of all that it came from what a denylist may revoke of that, or is refused.
func TestOrigins(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.authenticator(t, func(_ *agent.Config, d *agent.Deps) { d.Parents = kept{} })
	base := map[string]any{
		"iss": issuer, "sub": "researcher", "tenant": "acme", "type": "agent", "aud": "postern", "jti": "the-id",
		"iat": noon.Unix(), "exp": noon.Add(time.Minute).Unix(),
	}
	token := func(changes map[string]any) string {
		return w.signs.Sign(signer.TypeAgent, []byte(text(t, with(base, changes))))
	}
	type m = map[string]any
	full := m{
		"iss": "https://idp.example.com", "sub": "ann", "agent": "bot", "tenant": "acme", "jti": "j", "sid": "s", "client_id": "c", "kid": "k",
		"fingerprint": strings.Repeat("ab", 32), "iat": noon.Add(-time.Hour).Unix(),
	}
	want := authn.Subject{
		Issuer: "https://idp.example.com", ID: "ann", Agent: "bot", Tenant: "acme", TokenID: "j", SessionID: "s", Client: "c", KeyID: "k",
		Fingerprint: strings.Repeat("ab", 32), IssuedAt: noon.Add(-time.Hour),
	}
	own := m{"iss": "postern", "jti": "AAAAAAAAAAAA"}
	session := m{"iss": "postern", "sid": "BBBBBBBBBBBB", "sub": "ann"}
	proof := prove(t, a, token(m{"origins": []any{full, own, session}, "via": []string{"AAAAAAAAAAAA", "BBBBBBBBBBBB"}}))
	if diff := cmp.Diff([]authn.Subject{want, {Issuer: "postern", TokenID: "AAAAAAAAAAAA"}, {Issuer: "postern", SessionID: "BBBBBBBBBBBB", ID: "ann"}}, proof.Origins); diff != "" {
		t.Error(diff)
	}
	if proof := prove(t, a, token(nil)); proof.Origins != nil {
		t.Errorf("from nowhere: %+v", proof.Origins)
	}
	if proof := prove(t, a, token(m{"origins": slices.Repeat([]any{full}, signer.MaxOrigins)})); len(proof.Origins) != signer.MaxOrigins {
		t.Errorf("%d", len(proof.Origins))
	}
	for name, changes := range map[string]m{
		"a text":               {"origins": "x"},
		"one that is no list":  {"origins": full},
		"null":                 {"origins": nullClaim},
		"none":                 {"origins": []any{}},
		"too many":             {"origins": slices.Repeat([]any{full}, signer.MaxOrigins+1)},
		"texts":                {"origins": []any{"j"}},
		"lists":                {"origins": []any{[]any{full}}},
		"nothing in it":        {"origins": []any{m{}}},
		"nobody's":             {"origins": []any{with(full, m{"iss": nil})}},
		"an empty issuer":      {"origins": []any{with(full, m{"iss": ""})}},
		"unnamed":              {"origins": []any{m{"iss": "postern", "iat": 1, "kid": "k", "client_id": "c", "tenant": "acme"}}},
		"an empty name":        {"origins": []any{with(full, m{"sid": ""})}},
		"a number for a name":  {"origins": []any{with(full, m{"jti": 7})}},
		"a list for a name":    {"origins": []any{with(full, m{"sub": []string{"ann"}})}},
		"a name that is null":  {"origins": []any{with(full, m{"kid": nullClaim})}},
		"no date":              {"origins": []any{with(full, m{"iat": "yesterday"})}},
		"a date before 1970":   {"origins": []any{with(full, m{"iat": -1})}},
		"another member":       {"origins": []any{with(full, m{"azp": "web"})}},
		"one is bad":           {"origins": []any{full, m{}}},
		"via a text":           {"via": "AAAAAAAAAAAA", "origins": []any{own}},
		"via a number":         {"via": []any{1}, "origins": []any{own}},
		"via alone":            {"via": []string{"AAAAAAAAAAAA"}},
		"via another":          {"via": []string{"BBBBBBBBBBBB"}, "origins": []any{own}},
		"via another issuer's": {"via": []string{"AAAAAAAAAAAA"}, "origins": []any{with(own, m{"iss": "https://idp.example.com"})}},
	} {
		refused(t, a, name, token(changes), policy.ReasonInvalidClaim)
	}
}

// kept are parents that are all in force.
type kept struct{}

func (kept) Ended(string) policy.Reason { return policy.ReasonAllowed }

// nullClaim is null in a claim, where nil takes the claim away.
var nullClaim = json.RawMessage("null")

// an agent signs by itself, with a key of its record, and each token once.
func TestSelfSigned(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.authenticator(t, nil)
	text := w.own.sign(t, nil, w.claims())
	p := prove(t, a, text).Principal
	if p.ID != "researcher" || p.Tenant != "acme" || p.Issuer != "postern" || p.Method != policy.MethodAgent || p.Assurance != 3 ||
		!slices.Equal(p.AMR, []string{"pop"}) || !slices.Equal(p.Roles, []string{"bot", "reader", "writer"}) ||
		!slices.Equal(p.Scopes, []string{"mail:send", "notes.*", "data:read", "data:write"}) || !slices.Equal(p.Permissions, []string{"notes.read"}) {
		t.Errorf("%+v", p)
	}
	refused(t, a, "replayed", text, policy.ReasonReplayed)

	narrow := func(changes map[string]any) *policy.Principal {
		return prove(t, a, w.own.sign(t, nil, with(w.claims(), changes))).Principal
	}
	if p := narrow(map[string]any{"scope": "data:read notes.x"}); !slices.Equal(p.Scopes, []string{"data:read", "notes.x"}) || len(p.Roles)+len(p.Permissions) != 0 {
		t.Errorf("%+v", p)
	}
	if p := narrow(map[string]any{"roles": []string{"reader"}, "token_budget": 7}); !slices.Equal(p.Scopes, []string{"data:read"}) || !slices.Equal(p.Roles, []string{"reader"}) || p.TokenBudget != 7 {
		t.Errorf("%+v", p)
	}
	if p := narrow(map[string]any{"scopes": []string{"data:read"}, "act": map[string]any{"sub": "coder"}}); len(p.Actors) != 1 || p.Actors[0] != (policy.Actor{ID: "coder", Kind: policy.KindAgent}) {
		t.Errorf("%+v", p)
	}
	// Whom an agent lets act for it gets by that none of the agent's rights but those that
	// it has as well.
	w.put("acme", "fifth", func(r *authn.Agent) { r.Roles, r.Principal.Scopes = []string{"writer"}, []string{"*"} })
	if p := narrow(map[string]any{"act": map[string]any{"sub": "fifth"}}); !slices.Equal(p.Roles, []string{"writer"}) || len(p.Permissions) != 0 {
		t.Errorf("%q %q", p.Roles, p.Permissions)
	}
	stranger, other := newKey(t, "r-1", "ES256"), newKey(t, "x-9", "ES256")
	for name, tt := range map[string]struct {
		by             *key
		header, claims map[string]any
		want           policy.Reason
	}{
		"unregistered key with a known kid": {by: stranger, want: policy.ReasonSignatureInvalid},
		"unregistered key and kid":          {by: other, want: policy.ReasonSignatureInvalid},
		"no such agent":                     {claims: map[string]any{"iss": "ghost", "sub": "ghost"}, want: policy.ReasonIssuerUntrusted},
		"another tenant's agent":            {claims: map[string]any{"tenant": "other"}, want: policy.ReasonSignatureInvalid},
		"no tenant":                         {claims: map[string]any{"tenant": nil}, want: policy.ReasonIssuerUntrusted},
		"tenant is no text":                 {claims: map[string]any{"tenant": []string{"acme"}}, want: policy.ReasonInvalidClaim},
		"another's subject":                 {claims: map[string]any{"sub": "coder"}},
		"no jti":                            {claims: map[string]any{"jti": nil}, want: policy.ReasonInvalidClaim},
		"no exp":                            {claims: map[string]any{"exp": nil}, want: policy.ReasonInvalidClaim},
		"no iat":                            {claims: map[string]any{"iat": nil}, want: policy.ReasonInvalidClaim},
		"expired":                           {claims: map[string]any{"iat": noon.Add(-2 * time.Minute).Unix(), "exp": noon.Add(-time.Minute).Unix()}, want: policy.ReasonExpired},
		"too long":                          {claims: map[string]any{"exp": noon.Add(6 * time.Minute).Unix()}, want: policy.ReasonLifetimeExceeded},
		"another audience":                  {claims: map[string]any{"aud": "elsewhere"}, want: policy.ReasonInvalidAudience},
		"no audience":                       {claims: map[string]any{"aud": nil}, want: policy.ReasonInvalidAudience},
		"a DPoP proof":                      {header: map[string]any{"typ": "dpop+jwt"}, want: policy.ReasonWrongTokenType},
		"typ of Postern's":                  {header: map[string]any{"typ": "agent+jwt"}, want: policy.ReasonWrongTokenType},
		"typ of a PAT":                      {header: map[string]any{"typ": "pat+jwt"}, want: policy.ReasonWrongTokenType},
		"nested":                            {header: map[string]any{"cty": "JWT"}, want: policy.ReasonWrongTokenType},
		"type":                              {claims: map[string]any{"type": "refresh"}, want: policy.ReasonWrongTokenType},
		"kind":                              {claims: map[string]any{"kind": "user"}, want: policy.ReasonInvalidClaim},
		"origin":                            {claims: map[string]any{"origin": "x"}, want: policy.ReasonInvalidClaim},
		"a role too many":                   {claims: map[string]any{"roles": []string{"executor"}}, want: policy.ReasonDelegation},
		"a scope too many":                  {claims: map[string]any{"scope": "exec:sandbox"}, want: policy.ReasonDelegation},
		"every scope":                       {claims: map[string]any{"scope": "*"}, want: policy.ReasonDelegation},
		"wider than the actor":              {claims: map[string]any{"scope": "data:write", "act": map[string]any{"sub": "coder"}}, want: policy.ReasonDelegation},
		"wider than the actor, unsaid":      {claims: map[string]any{"act": map[string]any{"sub": "coder"}}, want: policy.ReasonDelegation},
		"an actor that nobody knows":        {claims: map[string]any{"scope": "data:read", "act": map[string]any{"sub": "eve"}}, want: policy.ReasonDelegation},
		"depth 4":                           {claims: map[string]any{"scope": "data:read", "act": nest("coder", "third", "fourth", "coder")}, want: policy.ReasonDelegation},
		"act is a text":                     {claims: map[string]any{"act": "coder"}, want: policy.ReasonInvalidClaim},
		"act is a list":                     {claims: map[string]any{"act": []any{map[string]any{"sub": "coder"}}}, want: policy.ReasonInvalidClaim},
		"act without sub":                   {claims: map[string]any{"act": map[string]any{}}, want: policy.ReasonInvalidClaim},
		"act.sub is a number":               {claims: map[string]any{"act": map[string]any{"sub": 7}}, want: policy.ReasonInvalidClaim},
		"scopes is a number":                {claims: map[string]any{"scopes": 7}, want: policy.ReasonInvalidClaim},
		"a scope with a line end":           {claims: map[string]any{"scopes": []string{"data:read\nx"}}, want: policy.ReasonInvalidClaim},
		"budget 0":                          {claims: map[string]any{"token_budget": 0}, want: policy.ReasonInvalidClaim},
		"budget is a fraction":              {claims: map[string]any{"token_budget": 1.5}, want: policy.ReasonInvalidClaim},
		"budget is huge":                    {claims: map[string]any{"token_budget": 1e300}, want: policy.ReasonInvalidClaim},
		"budget is a text":                  {claims: map[string]any{"token_budget": "7"}, want: policy.ReasonInvalidClaim},
		"cnf that nobody knows":             {claims: map[string]any{"cnf": map[string]any{"jwk": map[string]any{}}}, want: policy.ReasonBinding},
	} {
		by := tt.by
		if by == nil {
			by = w.own
		}
		refused(t, a, name, by.sign(t, tt.header, with(w.claims(), tt.claims)), tt.want)
	}
	deep := w.own.signText(t, `{"alg":"ES256","kid":"r-1"}`, `{"iss":"researcher","sub":"researcher","act":`+strings.Repeat(`{"act":`, 100)+`{}`+strings.Repeat(`}`, 100)+`}`)
	refused(t, a, "nested deeper than anybody reads", deep, policy.ReasonUnspecified)
	w.put("acme", "researcher", func(r *authn.Agent) { r.Ended = policy.ReasonDisabled })
	refused(t, a, "disabled", w.own.sign(t, nil, w.claims()), policy.ReasonDisabled)
	w.put("acme", "researcher", func(r *authn.Agent) { r.Ended, r.Keys = policy.ReasonAllowed, nil })
	refused(t, a, "its keys were taken away", w.own.sign(t, nil, w.claims()), policy.ReasonSignatureInvalid)
	w.put("acme", "researcher", func(r *authn.Agent) { r.Keys = []byte("{") })
	if _, err := ask(a, w.own.sign(t, nil, w.claims())); err == nil || errors.As(err, new(*authn.Refusal)) {
		t.Errorf("keys that cannot be read: %v is an answer about the token", err)
	}
}

func nest(ids ...string) map[string]any {
	act := map[string]any{"sub": ids[0], "kind": "agent"}
	if len(ids) > 1 {
		act["act"] = nest(ids[1:]...)
	}
	return act
}

// A token that is refused is not used up, and of many who use one at once, one wins.
func TestOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.authenticator(t, nil)
	claims := w.claims()
	refused(t, a, "another key", newKey(t, "r-1", "ES256").sign(t, nil, claims), policy.ReasonSignatureInvalid)
	good := w.own.sign(t, nil, claims)
	var wins atomic.Int64
	var group sync.WaitGroup
	for range 16 {
		group.Go(func() {
			if _, err := ask(a, good); err == nil {
				wins.Add(1)
			}
		})
	}
	group.Wait()
	if wins.Load() != 1 {
		t.Errorf("%d won", wins.Load())
	}
	refused(t, a, "the same jti in another token", w.own.sign(t, nil, with(claims, map[string]any{"scope": "data:read"})), policy.ReasonReplayed)
	next := w.authenticator(t, func(c *agent.Config, d *agent.Deps) { d.Previous, c.MaxLifetime = a, time.Hour })
	refused(t, next, "after a reload", good, policy.ReasonReplayed)
	w.put("other", "researcher", func(r *authn.Agent) { r.Keys = jwks(t, w.own) })
	prove(t, a, w.own.sign(t, nil, with(claims, map[string]any{"tenant": "other"}))) // another agent's jti
}

// tokens of an older issuer are accepted where the secret is configured, and only
// there.
func TestCompat(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a, without := w.authenticator(t, compat), w.authenticator(t, nil)
	text := hs256(secret).sign(t, map[string]any{"kid": nil, "typ": "JWT"}, w.elder())
	p := prove(t, a, text).Principal
	if p.ID != "researcher" || p.Tenant != "acme" || !slices.Equal(p.Scopes, []string{"data:read"}) || p.TokenBudget != 500 || len(p.Roles) != 0 ||
		p.Issuer != "postern" || p.Kind != policy.KindAgent || !strings.HasPrefix(p.CredentialID, "hs256-") {
		t.Errorf("%+v", p)
	}
	prove(t, a, text) // it may be used again
	refused(t, without, "not configured", text, policy.ReasonUnspecified)
	if p := prove(t, a, hs256(secret).sign(t, map[string]any{"kid": nil}, with(w.elder(), map[string]any{"token_budget": nil, "jti": "j-1"}))).Principal; p.TokenBudget != 10_000 || p.CredentialID != "j-1" {
		t.Errorf("%+v", p)
	}
	public := base64.RawURLEncoding.EncodeToString(w.own.public.(*ecdsa.PublicKey).X.Bytes())
	for name, tt := range map[string]struct {
		by             *key
		header, claims map[string]any
		want           policy.Reason
	}{
		"another secret":      {by: hs256("another secret of forty bytes, or more!!"), want: policy.ReasonSignatureInvalid},
		"a public key for it": {by: hs256(public), want: policy.ReasonSignatureInvalid},
		"agent+jwt":           {header: map[string]any{"typ": "agent+jwt"}, want: policy.ReasonWrongTokenType},
		"iss":                 {claims: map[string]any{"iss": "somebody"}},
		"iss of Postern":      {claims: map[string]any{"iss": issuer}},
		"iss as sub":          {claims: map[string]any{"iss": "researcher"}, want: policy.ReasonSignatureInvalid}, // as one that the agent signed
		"no type":             {claims: map[string]any{"type": nil}},
		"another type":        {claims: map[string]any{"type": "user"}},
		"type is a list":      {claims: map[string]any{"type": []string{"agent"}}},
		"act":                 {claims: map[string]any{"act": map[string]any{"sub": "coder"}}, want: policy.ReasonInvalidClaim},
		"roles":               {claims: map[string]any{"roles": []string{"writer"}}, want: policy.ReasonInvalidClaim},
		"cnf":                 {claims: map[string]any{"cnf": map[string]any{"jkt": "x"}}, want: policy.ReasonInvalidClaim},
		"no iat":              {claims: map[string]any{"iat": nil}, want: policy.ReasonInvalidClaim},
		"no exp":              {claims: map[string]any{"exp": nil}, want: policy.ReasonInvalidClaim},
		"no sub":              {claims: map[string]any{"sub": nil}, want: policy.ReasonInvalidClaim},
		"two hours":           {claims: map[string]any{"exp": noon.Add(2 * time.Hour).Unix()}, want: policy.ReasonLifetimeExceeded},
		"expired":             {claims: map[string]any{"iat": noon.Add(-2 * time.Minute).Unix(), "exp": noon.Add(-time.Minute).Unix()}, want: policy.ReasonExpired},
		"another audience":    {claims: map[string]any{"aud": "elsewhere"}, want: policy.ReasonInvalidAudience},
		"another tenant":      {claims: map[string]any{"tenant": "nowhere"}, want: policy.ReasonCredentialUnknown},
		"nobody registered":   {claims: map[string]any{"sub": "ghost"}, want: policy.ReasonCredentialUnknown},
		"budget 0":            {claims: map[string]any{"token_budget": 0}, want: policy.ReasonInvalidClaim},
	} {
		by := tt.by
		if by == nil {
			by = hs256(secret)
		}
		header := map[string]any{"kid": nil}
		maps.Copy(header, tt.header)
		refused(t, a, name, by.sign(t, header, with(w.elder(), tt.claims)), tt.want)
	}
}

// None of what is signed with one key is taken for another, whatever its header says.
func TestConfusion(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.authenticator(t, compat)
	p := &policy.Principal{ID: "researcher", Kind: policy.KindAgent, Tenant: "acme", Issuer: "postern"}
	identity, _, err := w.signs.Identity(p, "postern", noon, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	pat := w.signs.PAT(signer.PAT{ID: "4fQzR8xW0bLm", Subject: "researcher", Tenant: "acme", IssuedAt: noon, ExpiresAt: noon.Add(time.Hour)}).Reveal()
	good := w.token(t, nil)
	head, rest, _ := strings.Cut(good, ".")
	payload, signature, _ := strings.Cut(rest, ".")
	_, identityRest, _ := strings.Cut(identity, ".")
	encode := func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }
	signs := func(typ string, claims map[string]any) string { return w.signs.Sign(typ, []byte(text(t, claims))) }
	claims := map[string]any{
		"iss": issuer, "sub": "researcher", "aud": "postern", "tenant": "acme", "type": "agent", "jti": "x", "scopes": []string{"data:read"},
		"iat": noon.Unix(), "exp": noon.Add(time.Minute).Unix(),
	}
	prove(t, a, signs("agent+jwt", claims))
	for name, tt := range map[string]struct {
		text string
		want policy.Reason
	}{
		"identity token":                   {identity, policy.ReasonUnspecified},
		"personal access token":            {pat, policy.ReasonUnspecified},
		"claims of an identity token":      {head + "." + identityRest, policy.ReasonSignatureInvalid},
		"without a signature":              {head + "." + payload + ".", policy.ReasonCredentialMalformed},
		"alg none":                         {encode(`{"alg":"none","kid":"k1","typ":"agent+jwt"}`) + "." + payload + ".", policy.ReasonUnspecified},
		"alg HS256":                        {encode(`{"alg":"HS256","kid":"k1","typ":"agent+jwt"}`) + "." + payload + "." + signature, policy.ReasonUnspecified},
		"another order of the header":      {encode(`{"typ":"agent+jwt","alg":"EdDSA","kid":"k1"}`) + "." + payload + "." + signature, policy.ReasonUnspecified},
		"a kid that is a path":             {encode(`{"alg":"EdDSA","kid":"../k1","typ":"agent+jwt"}`) + "." + payload + "." + signature, policy.ReasonUnspecified},
		"a kid twice":                      {encode(`{"alg":"EdDSA","kid":"k1","typ":"agent+jwt","kid":"k1"}`) + "." + payload + "." + signature, policy.ReasonUnspecified},
		"jwk in the header":                {encode(`{"alg":"EdDSA","kid":"k1","typ":"agent+jwt","jwk":{}}`) + "." + payload + "." + signature, policy.ReasonUnspecified},
		"typ JWT":                          {signs("JWT", claims), policy.ReasonUnspecified},
		"typ at+jwt":                       {signs("at+jwt", claims), policy.ReasonUnspecified},
		"no type":                          {signs("agent+jwt", with(claims, map[string]any{"type": nil})), policy.ReasonWrongTokenType},
		"type of another":                  {signs("agent+jwt", with(claims, map[string]any{"type": "user"})), policy.ReasonWrongTokenType},
		"another issuer":                   {signs("agent+jwt", with(claims, map[string]any{"iss": "https://evil.example"})), policy.ReasonWrongTokenType},
		"two hours":                        {signs("agent+jwt", with(claims, map[string]any{"exp": noon.Add(2 * time.Hour).Unix()})), policy.ReasonLifetimeExceeded},
		"no exp":                           {signs("agent+jwt", with(claims, map[string]any{"exp": nil})), policy.ReasonInvalidClaim},
		"no jti":                           {signs("agent+jwt", with(claims, map[string]any{"jti": nil})), policy.ReasonInvalidClaim},
		"another tenant of the same agent": {signs("agent+jwt", with(claims, map[string]any{"tenant": "nowhere"})), policy.ReasonCredentialUnknown},
		"a tenant as a list":               {signs("agent+jwt", with(claims, map[string]any{"tenant": []string{"acme"}})), policy.ReasonInvalidClaim},
		"act as a text":                    {signs("agent+jwt", with(claims, map[string]any{"act": "coder"})), policy.ReasonInvalidClaim},
		"a claim twice":                    {w.signs.Sign("agent+jwt", []byte(`{"iss":"`+issuer+`","sub":"a","sub":"b"}`)), policy.ReasonCredentialMalformed},
		"too long":                         {head + "." + strings.Repeat("A", 9<<10) + "." + signature, policy.ReasonTokenTooLarge},
	} {
		refused(t, a, name, tt.text, tt.want)
	}
	// Of a key that was taken away, nothing is left.
	later := w.authenticator(t, func(_ *agent.Config, d *agent.Deps) { d.Signer = newSigner(t, "k2") })
	refused(t, later, "a key that was taken away", good, policy.ReasonUnspecified)
	// One that was replaced goes on to verify.
	prove(t, w.authenticator(t, func(_ *agent.Config, d *agent.Deps) { d.Signer = newSigner(t, "k2", "k1") }), good)
}

// A token that an issuer or a workload of ours owns as well is nobody's.
func TestTwoOwners(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.authenticator(t, func(_ *agent.Config, d *agent.Deps) {
		d.AlsoOwned = func(issuer, subject string) bool { return issuer == "researcher" && subject == issuer }
	})
	refused(t, a, "two owners", w.own.sign(t, nil, w.claims()), policy.ReasonCredentialAmbiguous)
}

// The conformance suite, for what may be used again.
func TestConformance(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.authenticator(t, compat)
	authntest.Suite{
		Authenticator: a, Uses: []policy.Method{policy.MethodAgent},
		Good: map[string]string{
			w.token(t, nil): "researcher",
			w.token(t, func(s *signer.Agent) { s.Subject, s.Roles, s.Scopes = "coder", []string{"reader"}, nil }): "coder",
			hs256(secret).sign(t, map[string]any{"kid": nil}, w.elder()):                                          "researcher",
		},
		Bad: map[string]policy.Reason{
			w.token(t, func(s *signer.Agent) { s.Audience = []string{"elsewhere"} }):                                     policy.ReasonInvalidAudience,
			w.token(t, func(s *signer.Agent) { s.IssuedAt, s.ExpiresAt = noon.Add(-time.Hour), noon.Add(-time.Minute) }): policy.ReasonExpired,
			w.token(t, func(s *signer.Agent) { s.IssuedAt, s.ExpiresAt = noon.Add(time.Hour), noon.Add(2*time.Hour) }):   policy.ReasonNotYetValid,
			newKey(t, "r-1", "ES256").sign(t, nil, w.claims()):                                                           policy.ReasonSignatureInvalid,
		},
		NotMine: []string{"", "pst_key_x", "a.b.c", "hvs.xyz", w.own.sign(t, nil, with(w.claims(), map[string]any{"iss": "https://idp.example.com"}))},
	}.Run(t)
}

// A look at a token never takes one of ours for somebody else's, however it is written.
func TestWrittenOddly(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.authenticator(t, nil)
	for i, form := range []string{
		`{"iss" : "researcher" , "sub":	"researcher", %s}`,
		`{"\u0069ss":"researcher","sub":"researcher",%s}`,
		`{"iss":"r\u0065searcher","sub":"researcher",%s}`,
		`{"x":{"iss":"https://idp.example.com","sub":"y"},"sub":"researcher","iss":"researcher",%s}`,
		`{"x":"` + strings.Repeat("long ", 500) + `","sub":"researcher","iss":"researcher",%s}`,
	} {
		rest := fmt.Sprintf(`"tenant":"acme","aud":"postern","iat":%d,"exp":%d,"jti":"odd-%d"`, noon.Unix(), noon.Unix()+60, i)
		if _, err := ask(a, w.own.signText(t, `{"alg":"ES256","kid":"r-1"}`, fmt.Sprintf(form, rest))); err != nil {
			t.Errorf("%s: %v", form, err)
		}
	}
}

// the table of roles is exactly this.
func TestDefaultRoles(t *testing.T) {
	t.Parallel()
	want := map[string][]string{
		"reader": {"data:read"}, "writer": {"data:read", "data:write"}, "executor": {"data:read", "data:write", "exec:sandbox"},
	}
	c := agent.Config{}
	c = c.WithDefaults(issuer)
	if !reflect.DeepEqual(c.Roles, want) || c.TTL != 15*time.Minute || c.MaxTTL != time.Hour || c.TokenBudget != 10_000 || c.MaxDepth != 3 || !slices.Equal(c.Audiences, []string{issuer}) {
		t.Errorf("%+v", c)
	}
	if got := c.ScopesOf([]string{"executor", "reader", "root"}); !slices.Equal(got, want["executor"]) {
		t.Errorf("%q", got)
	}
}

// What is wrong with a configuration is said field by field, without the secret.
func TestConfig(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		issuer string
		change func(*agent.Config)
		field  string
	}{
		"no audience":       {"", func(c *agent.Config) { c.Audiences = nil }, "audiences"},
		"an odd audience":   {issuer, func(c *agent.Config) { c.Audiences = []string{" x"} }, "audiences[0]"},
		"an audience twice": {issuer, func(c *agent.Config) { c.Audiences = []string{"x", "x"} }, "audiences[1]"},
		"no roles":          {issuer, func(c *agent.Config) { c.Roles = map[string][]string{} }, "roles"},
		"a role of nothing": {issuer, func(c *agent.Config) { c.Roles = map[string][]string{"r": nil} }, "roles.r"},
		"a role of all":     {issuer, func(c *agent.Config) { c.Roles = map[string][]string{"r": {"*"}} }, "roles.r[0]"},
		"a scope of two":    {issuer, func(c *agent.Config) { c.Roles = map[string][]string{"r": {"a b"}} }, "roles.r[0]"},
		"all roles":         {issuer, func(c *agent.Config) { c.Roles = map[string][]string{"*": {"a"}} }, "roles.*"},
		"ttl over the most": {issuer, func(c *agent.Config) { c.TTL, c.MaxTTL = 20*time.Minute, 10*time.Minute }, "ttl"},
		"two hours":         {issuer, func(c *agent.Config) { c.MaxTTL = 2 * time.Hour }, "max_ttl"},
		"lifetime":          {issuer, func(c *agent.Config) { c.MaxLifetime = 2 * time.Hour }, "max_lifetime"},
		"skew":              {issuer, func(c *agent.Config) { c.ClockSkew = time.Hour }, "clock_skew"},
		"budget":            {issuer, func(c *agent.Config) { c.TokenBudget = -1 }, "token_budget"},
		"depth":             {issuer, func(c *agent.Config) { c.MaxDepth = 9 }, "max_depth"},
		"replay size":       {issuer, func(c *agent.Config) { c.ReplaySize = 1 }, "replay_size"},
		"HMAC":              {issuer, func(c *agent.Config) { c.Algorithms = []string{"HS256"} }, "algorithms[0]"},
		"a short secret": {issuer, func(c *agent.Config) {
			c.CompatHS256 = &agent.CompatHS256{Secret: policy.NewSecret("only 31 bytes of shared secret!")}
		}, "compat_hs256.secret"},
		"a repeating secret": {issuer, func(c *agent.Config) {
			c.CompatHS256 = &agent.CompatHS256{Secret: policy.NewSecret(strings.Repeat("ab", 32))}
		}, "compat_hs256.secret"},
		"no secret": {issuer, func(c *agent.Config) { c.CompatHS256 = &agent.CompatHS256{} }, "compat_hs256.secret"},
		"a secret that is no": {issuer, func(c *agent.Config) {
			c.CompatHS256 = &agent.CompatHS256{Secret: policy.NewSecret(secret), SecretEncoding: "base64url"}
		}, "compat_hs256.secret"},
	} {
		c := agent.Config{Audiences: []string{"postern"}}
		c.SetDefaults()
		tt.change(&c)
		var fields []string
		c.Check(tt.issuer, func(path, message, _ string) {
			fields = append(fields, path)
			if strings.Contains(message, "shared") {
				t.Errorf("%s: the secret is shown", name)
			}
		})
		if !slices.Equal(fields, []string{tt.field}) {
			t.Errorf("%s: %q, want %s", name, fields, tt.field)
		}
		if _, err := agent.New(c, agent.Deps{Agents: &registry{}, Signer: nil}); err == nil {
			t.Errorf("%s: made all the same", name)
		}
	}
	if _, err := agent.New(agent.Config{Audiences: []string{"x"}}, agent.Deps{}); err == nil {
		t.Error("made without a registry")
	}
}

// FuzzAuthenticate: no text makes it panic, none that was not signed is good, and what is
// no token is not a fault of ours.
func FuzzAuthenticate(f *testing.F) {
	w := newWorld(f)
	a := w.authenticator(f, compat)
	good := map[string]bool{}
	for _, s := range []string{
		w.token(f, nil), w.token(f, func(s *signer.Agent) { s.Actors = []policy.Actor{{ID: "coder", Kind: policy.KindAgent}} }),
		w.own.sign(f, nil, w.claims()), hs256(secret).sign(f, map[string]any{"kid": nil}, w.elder()),
	} {
		good[s] = true
		f.Add(s)
	}
	f.Add("a.b.c")
	f.Fuzz(func(t *testing.T, text string) {
		proof, err := ask(a, text)
		if proof != nil && !good[text] {
			t.Fatalf("%q is accepted", text)
		}
		if err != nil && !errors.Is(err, authn.ErrNotMine) && !errors.As(err, new(*authn.Refusal)) {
			t.Fatal(err)
		}
	})
}

// FuzzClaims: whatever a registered agent signs, it gets no more than its record has.
func FuzzClaims(f *testing.F) {
	w := newWorld(f)
	a := w.authenticator(f, nil)
	f.Add(`"scope":"data:read"`)
	f.Add(`"roles":["reader"],"act":{"sub":"coder","act":{"sub":"third"}}`)
	f.Add(`"scopes":["notes.x"],"kind":"user","tenant":"other"`)
	f.Add(`"cnf":{"jkt":"x"},"token_budget":1e3`)
	f.Fuzz(func(t *testing.T, members string) {
		payload := fmt.Sprintf(`{"iss":"researcher","sub":"researcher","tenant":"acme","aud":"postern","iat":%d,"exp":%d,"jti":"f-%d",%s}`,
			noon.Unix(), noon.Unix()+60, w.ids.Add(1), members)
		proof, err := ask(a, w.own.signText(t, `{"alg":"ES256","kid":"r-1"}`, payload))
		if err != nil {
			return
		}
		p := proof.Principal
		if p.ID != "researcher" || p.Tenant != "acme" || p.Kind != policy.KindAgent || p.Issuer != "postern" || len(p.Actors) > 3 || p.TokenBudget < 0 {
			t.Fatalf("%+v", p)
		}
		for _, s := range p.Scopes {
			if !slices.Contains([]string{"mail:send", "data:read", "data:write"}, s) && !strings.HasPrefix(s, "notes.") {
				t.Fatalf("scope %q", s)
			}
		}
		for _, r := range p.Roles {
			if !slices.Contains([]string{"bot", "reader", "writer"}, r) {
				t.Fatalf("role %q", r)
			}
		}
	})
}

func BenchmarkOwn(b *testing.B) {
	w := newWorld(b)
	a := w.authenticator(b, nil)
	c := &authn.Credential{Uses: []policy.Method{policy.MethodAgent}, Secret: policy.NewSecret(w.token(b, nil))}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := a.Authenticate(b.Context(), c); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSomebodyElses(b *testing.B) {
	w := newWorld(b)
	a := w.authenticator(b, nil)
	text := w.own.sign(b, nil, map[string]any{"iss": "https://idp.example.com", "sub": "ann", "aud": "x", "exp": noon.Unix(), "scope": "a b c"})
	c := &authn.Credential{Uses: []policy.Method{policy.MethodAgent}, Secret: policy.NewSecret(text)}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := a.Authenticate(b.Context(), c); err == nil {
			b.Fatal("taken")
		}
	}
}
