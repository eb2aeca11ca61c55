package vault

import (
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn"
	"github.com/postern-auth/postern/server/jose"
	"github.com/postern-auth/postern/server/outbound"
)

// Config is one Vault or OpenBao whose tokens are credentials. One that is made in Go
// starts with SetDefaults; New takes a zero for the default too where it could mean
// nothing else.
type Config struct {
	// Name is how logs and metrics call it; default: the host of `address`.
	Name string `yaml:"name"`
	// Address is the URL of its API without "/v1", for example
	// https://vault.internal:8200. It may be private or loopback: it is written here and
	// comes from nowhere else. Redirects are not followed, so it names the active node,
	// or what balances to it.
	Address string `yaml:"address,required"`
	// Namespace is the path of the namespace in which Postern logs in and asks; default:
	// the root namespace.
	Namespace string `yaml:"namespace"`
	// CAFile is a PEM file of the authorities that its certificate must come from;
	// default: those of the system.
	CAFile string `yaml:"ca_file"`
	// Timeout bounds one question about a token; default 500ms, at most 10s.
	Timeout time.Duration `yaml:"timeout"`
	// InsecureAllowHTTP permits an http address. Danger: who is on the way reads every
	// token and decides what it may do. For development.
	InsecureAllowHTTP bool `yaml:"insecure_allow_http"`

	// Mode says who asks: "lookup" (the default: Postern, by `login`) or "lookup_self"
	// (the caller's own token, which must be permitted to; each question is a use of it).
	Mode Mode `yaml:"mode"`
	// Login is how Postern proves itself, in mode lookup. What it logs in as needs a
	// policy with update on auth/token/lookup, and no more.
	Login Login `yaml:"login"`

	// Prefixes are the beginnings of the tokens that are this Vault's: hvs., hvb., s. and
	// b.; default: all of them. Where several Vaults share a method, each token must be
	// of one alone: it is shown to that one only.
	Prefixes []string `yaml:"prefixes"`
	// NamespaceIDs are the ids of the namespaces whose tokens are this Vault's: what
	// follows the second dot of a token, or "root" for tokens without; default: all.
	NamespaceIDs []string `yaml:"namespace_ids"`

	// Namespaces are the paths of the namespaces whose tokens are accepted; a path that
	// ends in "/*" means all below, "*" all. Default: `namespace`; and what is below it,
	// if the tenant comes from the namespace. Danger: whoever administers a namespace
	// names its policies, and so can give its tokens any role that `roles` has.
	Namespaces []string `yaml:"namespaces"`
	// Paths are where accepted tokens were made, for example auth/approle/login or
	// auth/userpass/login/*; default: anywhere, auth/token/create included.
	Paths []string `yaml:"paths"`
	// InsecureAcceptRoot accepts tokens with the policy root. Danger: the key to all of
	// Vault then travels to services and gateways.
	InsecureAcceptRoot bool `yaml:"insecure_accept_root"`
	// AcceptBatch accepts batch tokens; default true. They cannot be revoked in Vault,
	// and have no accessor: a line of the denylist with the jti that the decision log
	// shows stops one.
	AcceptBatch bool `yaml:"accept_batch"`
	// AcceptLimitedUse accepts tokens with a number of uses, in mode lookup. Their uses
	// are counted at Vault only: here they may be used without limit until they end.
	AcceptLimitedUse bool `yaml:"accept_limited_use"`
	// CheckEntity asks on each lookup whether the token's entity was disabled, which a
	// lookup alone does not tell; default false. The login's policy needs read on
	// identity/entity/id/* for it.
	CheckEntity bool `yaml:"check_entity"`

	// Roles and Scopes say which of them each policy of Vault stands for.
	Roles  map[string][]string `yaml:"roles"`
	Scopes map[string][]string `yaml:"scopes"`
	// IdentityPolicies counts the policies that come from the token's entity and its
	// groups too; default true.
	IdentityPolicies bool `yaml:"identity_policies"`
	// Metadata are the keys of the token's metadata that become principal.metadata;
	// default: all. Whoever may create tokens chooses their metadata; `paths` says whom
	// to believe.
	Metadata []string `yaml:"metadata"`
	// ID is who the caller is: entity_id, display_name, accessor or metadata.KEY.
	// Default: entity_id, and "accessor:" and the accessor for a token without one. It
	// must be unique within this Vault.
	ID Field `yaml:"id"`
	// Tenant is the tenant of the caller: namespace_path or metadata.KEY; default: none.
	// Tokens of the root namespace then have none, and tokens without the key are refused.
	Tenant Field `yaml:"tenant"`
	// Kind is what the callers are: user, service, agent or device; default service.
	Kind policy.Kind `yaml:"kind"`
	// Method is the name by which routes know these tokens; default vault.
	Method policy.Method `yaml:"method"`
	// Assurance is the level of the proof, 1 to 4; default 2.
	Assurance int `yaml:"assurance"`
	// Constraints limit where and when the tokens may be used, besides their bound_cidrs.
	Constraints *policy.Constraints `yaml:"constraints"`

	// TTLCap is how long an answer is believed at most, and so how long a token that was
	// revoked goes on being accepted; default 5s. 0s asks each time.
	TTLCap time.Duration `yaml:"ttl_cap"`
	// StaleFor is how much longer an answer is believed while Vault cannot be reached;
	// default 0s: not at all. Never longer than the token lives. Danger: what is revoked
	// meanwhile goes on being accepted.
	StaleFor time.Duration `yaml:"stale_for"`
}

// Login is how Postern proves itself to Vault: exactly one of these. The login is
// renewed, and made again when it cannot be.
type Login struct {
	// AppRole is by a role id and a secret id.
	AppRole *AppRole `yaml:"approle"`
	// Cert is by a client certificate.
	Cert *Cert `yaml:"cert"`
	// Kubernetes is by the token of a service account.
	Kubernetes *Kubernetes `yaml:"kubernetes"`
	// Token is a token of Postern's own. It is renewed, but when it has come to its end
	// nobody can make another: a periodic one has none.
	Token policy.Secret `yaml:"token"`
}

// AppRole logs in by a role id and a secret id.
type AppRole struct {
	// RoleID names the role. Required.
	RoleID string `yaml:"role_id,required"`
	// SecretID may be left out for a role that binds none. One of limited uses loses one
	// at each login, not at renewals.
	SecretID policy.Secret `yaml:"secret_id"`
	// Mount is where the auth method is mounted; default approle.
	Mount string `yaml:"mount"`
}

// Cert logs in by a TLS client certificate.
type Cert struct {
	// CertFile and KeyFile are PEM files of the certificate with its chain, and the key.
	CertFile string `yaml:"cert_file,required"`
	KeyFile  string `yaml:"key_file,required"`
	// Role is the name of the role; default: whichever the certificate fits.
	Role string `yaml:"role"`
	// Mount is where the auth method is mounted; default cert.
	Mount string `yaml:"mount"`
}

// Kubernetes logs in by the token of a service account.
type Kubernetes struct {
	// Role is the name of the role. Required.
	Role string `yaml:"role,required"`
	// TokenFile is read at each login; default
	// /var/run/secrets/kubernetes.io/serviceaccount/token.
	TokenFile string `yaml:"token_file"`
	// Mount is where the auth method is mounted; default kubernetes.
	Mount string `yaml:"mount"`
}

// Mode says who asks about a token.
type Mode string

// The modes.
const (
	Lookup     Mode = "lookup"
	LookupSelf Mode = "lookup_self"
)

// Values returns what the configuration may say.
func (Mode) Values() []string { return []string{string(Lookup), string(LookupSelf)} }

// Field names a part of what Vault says of a token.
type Field string

// The fields, besides metadata.KEY.
const (
	idEntity        Field = "entity_id"
	idDisplayName   Field = "display_name"
	idAccessor      Field = "accessor"
	tenantNamespace Field = "namespace_path"
	metadataPrefix        = "metadata."
)

// key returns the KEY of metadata.KEY, or "".
func (f Field) key() string {
	key, found := strings.CutPrefix(string(f), metadataPrefix)
	if !found {
		return ""
	}
	return key
}

// The defaults and bounds of Config.
const (
	defaultTimeout   = 500 * time.Millisecond
	maxTimeout       = 10 * time.Second
	defaultTTLCap    = 5 * time.Second
	maxTTLCap        = time.Hour
	maxStaleFor      = 24 * time.Hour
	defaultAssurance = 2
	maxAssurance     = 4
	defaultTokenFile = "/var/run/secrets/kubernetes.io/serviceaccount/token"
	keepConnections  = 16
)

// SetDefaults sets what each field states as its default.
func (c *Config) SetDefaults() {
	c.AcceptBatch, c.IdentityPolicies, c.TTLCap = true, true, defaultTTLCap
	c.Timeout, c.Mode, c.Kind = defaultTimeout, Lookup, policy.KindService
	c.Method, c.Assurance = policy.MethodVault, defaultAssurance
}

// withDefaults sets the fields whose zero value means nothing to their defaults.
func (c Config) withDefaults() Config {
	c.Name = cmp.Or(c.Name, c.host())
	c.Timeout = cmp.Or(c.Timeout, defaultTimeout)
	c.Mode = cmp.Or(c.Mode, Lookup)
	c.Kind = cmp.Or(c.Kind, policy.KindService)
	c.Method = cmp.Or(c.Method, policy.MethodVault)
	c.Assurance = cmp.Or(c.Assurance, defaultAssurance)
	c.Namespace = strings.Trim(c.Namespace, "/")
	return c
}

// host returns the host of the address, for a name.
func (c *Config) host() string {
	u, err := url.Parse(c.Address)
	if err != nil {
		return ""
	}
	return u.Host
}

// Cache is how an authn.Cached around the Authenticator keeps its answers.
func (c *Config) Cache() authn.CacheConfig {
	return authn.CacheConfig{
		MaxTTL:      max(c.TTLCap, 1), // zero would be the cache's own default
		NegativeTTL: max(min(c.TTLCap, 2*time.Second), 1),
		StaleFor:    c.StaleFor,
		// Time for the login that the first question waits for, and for asking twice.
		Timeout: loginTimeout + 2*cmp.Or(c.Timeout, defaultTimeout),
	}
}

// outbound is how Vault is reached. Private addresses are permitted without an option:
// Vault belongs on one, and where the requests go is in the configuration alone.
func (c *Config) outbound() outbound.Config {
	o := outbound.Config{
		Timeout:                       max(loginTimeout, c.Timeout),
		CAFile:                        c.CAFile,
		InsecureAllowHTTP:             c.InsecureAllowHTTP,
		InsecureAllowPrivateAddresses: true,
		KeepConnections:               keepConnections,
	}
	if c.Login.Cert != nil {
		o.ClientCertFile, o.ClientKeyFile = c.Login.Cert.CertFile, c.Login.Cert.KeyFile
	}
	return o
}

// check joins what Check reports.
func (c *Config) check() error {
	var all []error
	c.Check(func(path, message, _ string) {
		all = append(all, fmt.Errorf("vault %s: %s: %s", c.Name, path, message))
	})
	return errors.Join(all...)
}

// Check calls report for everything that is wrong with the configuration: path is the
// field, message says what is wrong, suggestion what to do instead. It reads no file.
func (c *Config) Check(report func(path, message, suggestion string)) {
	c.checkAddress(report)
	c.checkLogin(report)
	c.checkRoutes(report)
	c.checkAccepted(report)
	c.checkPrincipal(report)
	c.checkTimes(report)
	c.Constraints.Faults(func(path, message, suggestion string) { report("constraints."+path, message, suggestion) })
}

func (c *Config) checkAddress(report func(path, message, suggestion string)) {
	to := c.outbound()
	u, err := outbound.ParseURL(c.Address, &to)
	switch {
	case err != nil:
		report("address", err.Error(), "for example https://vault.internal:8200")
	case u.RawQuery != "" || u.ForceQuery:
		report("address", "it has a query", "leave it out")
	case strings.HasSuffix(strings.TrimSuffix(u.Path, "/"), "/v1"):
		report("address", "it ends in /v1, which is added to it", "leave it out")
	}
	if !isPath(c.Namespace, true) {
		report("namespace", "is not the path of a namespace", "for example team-a/orders")
	}
}

func (c *Config) checkLogin(report func(path, message, suggestion string)) {
	ways := 0
	for _, given := range []bool{c.Login.AppRole != nil, c.Login.Cert != nil, c.Login.Kubernetes != nil, !c.Login.Token.IsZero()} {
		if given {
			ways++
		}
	}
	switch {
	case c.Mode != "" && !slices.Contains(c.Mode.Values(), string(c.Mode)):
		report("mode", "must be lookup or lookup_self", "")
	case c.Mode == LookupSelf && ways > 0:
		report("login", "is not used in mode lookup_self", "remove it, or use mode lookup")
	case c.Mode == LookupSelf && c.CheckEntity:
		report("check_entity", "is not needed in mode lookup_self: Vault serves no token of a disabled entity", "remove it")
	case c.Mode == LookupSelf && c.AcceptLimitedUse:
		report("accept_limited_use", "does not go with mode lookup_self: every look costs the token a use", "use mode lookup")
	case c.Mode != LookupSelf && ways == 0:
		report("login", "is required: somebody has to ask", "for example {approle: {role_id: …, secret_id: …}}")
	case ways > 1:
		report("login", "approle, cert, kubernetes and token exclude each other", "keep one of them")
	}
	if a := c.Login.AppRole; a != nil {
		require(report, "login.approle.role_id", a.RoleID)
		checkMount(report, "login.approle.mount", a.Mount)
	}
	if l := c.Login.Cert; l != nil {
		require(report, "login.cert.cert_file", l.CertFile)
		require(report, "login.cert.key_file", l.KeyFile)
		checkMount(report, "login.cert.mount", l.Mount)
	}
	if k := c.Login.Kubernetes; k != nil {
		require(report, "login.kubernetes.role", k.Role)
		checkMount(report, "login.kubernetes.mount", k.Mount)
	}
}

func require(report func(path, message, suggestion string), path, text string) {
	if text == "" {
		report(path, "is required", "")
	}
}

func checkMount(report func(path, message, suggestion string), path, mount string) {
	if !isPath(mount, true) {
		report(path, "is not the path of a mount", "without auth/ and slashes around it")
	}
}

func (c *Config) checkRoutes(report func(path, message, suggestion string)) {
	for i, p := range c.Prefixes {
		if !slices.Contains(prefixNames(), p) {
			report(fmt.Sprintf("prefixes[%d]", i), "is not one of "+strings.Join(prefixNames(), ", "), "")
		}
	}
	for i, id := range c.NamespaceIDs {
		if !isNamespaceID(id) {
			report(fmt.Sprintf("namespace_ids[%d]", i), "is not the id of a namespace", "it is what follows the second dot of a token; write root for tokens without")
		}
	}
}

func (c *Config) checkAccepted(report func(path, message, suggestion string)) {
	for i, p := range c.Namespaces {
		if p != "*" && !isPath(strings.TrimSuffix(p, "/*"), p == "") {
			report(fmt.Sprintf("namespaces[%d]", i), "is not the path of a namespace", `for example team-a, team-a/*, or "" for the root namespace`)
		}
	}
	for i, p := range c.Paths {
		if !isPath(strings.TrimSuffix(p, "/*"), false) {
			report(fmt.Sprintf("paths[%d]", i), "is not the path of a login", "for example auth/approle/login or auth/userpass/login/*")
		}
	}
	for _, list := range []struct {
		name  string
		empty bool
	}{
		{"prefixes", c.Prefixes != nil && len(c.Prefixes) == 0},
		{"namespace_ids", c.NamespaceIDs != nil && len(c.NamespaceIDs) == 0},
		{"namespaces", c.Namespaces != nil && len(c.Namespaces) == 0},
		{"paths", c.Paths != nil && len(c.Paths) == 0},
	} {
		if list.empty {
			report(list.name, "is empty, which limits nothing", "leave it out, or list what is accepted")
		}
	}
}

func (c *Config) checkPrincipal(report func(path, message, suggestion string)) {
	if id := c.ID; id != "" && id != idEntity && id != idDisplayName && id != idAccessor && id.key() == "" {
		report("id", "must be entity_id, display_name, accessor or metadata.KEY", "")
	}
	if tenant := c.Tenant; tenant != "" && tenant != tenantNamespace && tenant.key() == "" {
		report("tenant", "must be namespace_path or metadata.KEY", "")
	}
	switch c.Kind {
	case "", policy.KindUser, policy.KindService, policy.KindAgent, policy.KindDevice:
	default:
		report("kind", "must be user, service, agent or device", "")
	}
	if c.Assurance < 0 || c.Assurance > maxAssurance {
		report("assurance", fmt.Sprintf("must be between 1 and %d", maxAssurance), "")
	}
	c.checkMapped(report, "roles", c.Roles)
	c.checkMapped(report, "scopes", c.Scopes)
}

// checkMapped goes through the policies in the order of their names, so that the same
// mistakes are reported in the same order.
func (c *Config) checkMapped(report func(path, message, suggestion string), field string, to map[string][]string) {
	policies := make([]string, 0, len(to))
	for p := range to {
		policies = append(policies, p)
	}
	slices.Sort(policies)
	for _, p := range policies {
		switch {
		case p == "" || p != strings.ToLower(strings.TrimSpace(p)):
			report(field, fmt.Sprintf("%q is no policy: their names are in lower case", p), "write it as `vault policy list` does")
		case p == policyRoot && !c.InsecureAcceptRoot:
			report(field, "the policy root is never accepted", "remove it")
		}
		for _, name := range to[p] {
			if !jose.IsIdentifier(name) || field == "scopes" && strings.ContainsAny(name, ` "\`) {
				report(field, fmt.Sprintf("%q of policy %q cannot be a name", name, p), "")
			}
		}
	}
}

func (c *Config) checkTimes(report func(path, message, suggestion string)) {
	for _, t := range []struct {
		path     string
		at, most time.Duration
	}{{"timeout", c.Timeout, maxTimeout}, {"ttl_cap", c.TTLCap, maxTTLCap}, {"stale_for", c.StaleFor, maxStaleFor}} {
		if t.at < 0 || t.at > t.most {
			report(t.path, fmt.Sprintf("must be between 0s and %s", t.most), "")
		}
	}
}

// isPath reports whether a text is a path of namespaces or mounts: names between single
// slashes, so that it cannot lead anywhere else as a part of a URL.
func isPath(text string, empty bool) bool {
	if text == "" {
		return empty
	}
	for name := range strings.SplitSeq(text, "/") {
		if name == "" || name == "." || name == ".." || !isBase64URL(strings.ReplaceAll(name, ".", "")) {
			return false
		}
	}
	return true
}

// Overlap reports the first two of several configurations that could own the same token.
// Each token is shown to one Vault only: the wrong one would learn it.
func Overlap(all []Config) (first, second int, found bool) {
	for j := range all {
		for i := range j {
			if all[i].overlaps(&all[j]) {
				return i, j, true
			}
		}
	}
	return 0, 0, false
}

func (c *Config) overlaps(other *Config) bool {
	return cmp.Or(c.Method, policy.MethodVault) == cmp.Or(other.Method, policy.MethodVault) &&
		meet(c.Prefixes, other.Prefixes) && meet(c.NamespaceIDs, other.NamespaceIDs)
}

// meet reports whether two lists have a member in common. An empty one has all.
func meet(a, b []string) bool {
	return len(a) == 0 || len(b) == 0 || slices.ContainsFunc(a, func(s string) bool { return slices.Contains(b, s) })
}
