package vault_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn"
	"github.com/postern-auth/postern/server/authn/authntest"
	"github.com/postern-auth/postern/server/authn/vault"
	"github.com/postern-auth/postern/server/authn/vault/vaulttest"
	"github.com/postern-auth/postern/server/breaker"
)

const (
	address = "https://vault.test:8200"
	remote  = "10.9.9.9:4444" // from where Postern connects
)

// clock is a time that only the test moves.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func newClock() *clock { return &clock{now: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// scene is a Vault, and an Authenticator that logs in there by an AppRole.
type scene struct {
	*vault.Authenticator
	vault  *vaulttest.Vault
	clock  *clock
	config vault.Config
}

// set changes the configuration of a scene before the Authenticator is made.
type set func(*vault.Config)

func newScene(t *testing.T, sets ...set) *scene {
	t.Helper()
	c := newClock()
	v := vaulttest.New(c.Now)
	role := v.EnableAppRole("approle", vaulttest.AppRole{Token: vaulttest.Token{Policies: []string{"default", "postern"}}})
	cfg := vault.Config{Address: address}
	cfg.SetDefaults()
	cfg.Login.AppRole = &vault.AppRole{RoleID: role.RoleID, SecretID: policy.NewSecret(role.SecretID)}
	for _, s := range sets {
		s(&cfg)
	}
	return &scene{start(t, cfg, vault.Deps{Now: c.Now, Transport: v.Transport(remote)}), v, c, cfg}
}

func start(t *testing.T, cfg vault.Config, deps vault.Deps) *vault.Authenticator {
	t.Helper()
	a, err := vault.New(cfg, deps)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = a.Close() })
	return a
}

// self is the mode without a login.
func self(c *vault.Config) { c.Mode, c.Login = vault.LookupSelf, vault.Login{} }

func credential(token string) *authn.Credential {
	return &authn.Credential{Uses: []policy.Method{policy.MethodVault}, Secret: policy.NewSecret(token), From: "header:x-vault-token", Header: "x-vault-token"}
}

func ask(a authn.Authenticator, token string) (*authn.Proof, error) {
	return a.Authenticate(context.Background(), credential(token))
}

func mustProve(t *testing.T, a authn.Authenticator, token string) *authn.Proof {
	t.Helper()
	proof, err := ask(a, token)
	if err != nil {
		t.Fatal(err)
	}
	return proof
}

// wantRefusal checks that the answer is "no" for the reason.
func wantRefusal(t *testing.T, err error, reason policy.Reason) {
	t.Helper()
	var refusal *authn.Refusal
	if !errors.As(err, &refusal) || refusal.Reason != reason {
		t.Errorf("%v, want a refusal: %s", err, reason)
	}
}

// wantFault checks that the answer is "could not find out".
func wantFault(t *testing.T, err error, unreachable bool) {
	t.Helper()
	var refusal *authn.Refusal
	switch {
	case err == nil || errors.As(err, &refusal) || errors.Is(err, authn.ErrNotMine):
		t.Errorf("%v, want a fault", err)
	case errors.Is(err, authn.ErrUnreachable) != unreachable:
		t.Errorf("%v: unreachable %v, want %v", err, !unreachable, unreachable)
	}
}

// V-01 in both modes.
func TestConformance(t *testing.T) {
	t.Parallel()
	for name, mode := range map[string]set{"lookup": func(*vault.Config) {}, "lookup_self": self} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, mode)
			entity := s.vault.CreateEntity(vaulttest.Entity{})
			one, two := s.vault.CreateToken(vaulttest.Token{EntityID: entity}), s.vault.CreateToken(vaulttest.Token{Legacy: true})
			crowd := s.vault.CreateToken(vaulttest.Token{EntityID: entity, Batch: true})
			gone := s.vault.CreateToken(vaulttest.Token{})
			s.vault.Revoke(gone)
			authntest.Suite{
				Authenticator: s,
				Uses:          []policy.Method{policy.MethodVault},
				Good:          map[string]string{one: entity, two: "accessor:" + s.vault.Accessor(two), crowd: entity},
				Bad: map[string]policy.Reason{
					gone:                                  policy.ReasonCredentialUnknown,
					"hvs.CAESIunknownunknownunknown":      policy.ReasonCredentialUnknown,
					"s." + strings.Repeat("x", 24):        policy.ReasonCredentialUnknown,
					"hvr.CAESIxyxyxyxyxyxyxyxyxyxyxyxyxy": policy.ReasonWrongTokenType,
				},
				NotMine: []string{"", "eyJhbGciOiJub25lIn0.e30.", "pst_key_live_4fQzR8xW0bLm_secret", "opaque", "hvs", "x.hvs.abc", "root"},
			}.Run(t)
		})
	}
}

// V-10: what a token looks like.
func TestShapes(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	long := func(n int) string { return strings.Repeat("a", n) }
	for name, test := range map[string]struct {
		token  string
		reason policy.Reason // ReasonAllowed: asks Vault, which does not know it
	}{
		"service":                {"hvs." + long(90), policy.ReasonAllowed},
		"service, of namespace":  {"hvs." + long(90) + ".a1B2c", policy.ReasonAllowed},
		"service, old":           {"s." + long(24), policy.ReasonAllowed},
		"service, old, of one":   {"s." + long(24) + ".a1B2c", policy.ReasonAllowed},
		"batch":                  {"hvb." + long(160), policy.ReasonAllowed},
		"batch, old":             {"b." + long(160), policy.ReasonAllowed},
		"service, cut off":       {"hvs.", policy.ReasonCredentialMalformed},
		"old, cut off":           {"s." + long(23), policy.ReasonCredentialMalformed},
		"too long":               {"hvs." + long(513), policy.ReasonCredentialMalformed},
		"batch, too long":        {"hvb." + long(8<<10+4), policy.ReasonCredentialMalformed},
		"batch, not base64":      {"hvb." + long(161), policy.ReasonCredentialMalformed},
		"slash":                  {"hvs." + long(20) + "/../sys", policy.ReasonCredentialMalformed},
		"line end":               {"hvs." + long(20) + "\r\nX-Vault-Namespace: x", policy.ReasonCredentialMalformed},
		"quote":                  {"hvs." + long(20) + `","a":"`, policy.ReasonCredentialMalformed},
		"not ASCII":              {"hvs." + long(20) + "ä", policy.ReasonCredentialMalformed},
		"empty namespace":        {"hvs." + long(20) + ".", policy.ReasonCredentialMalformed},
		"two namespaces":         {"hvs." + long(20) + ".a.b", policy.ReasonCredentialMalformed},
		"namespace with a slash": {"hvs." + long(20) + ".a/b", policy.ReasonCredentialMalformed},
		"recovery":               {"hvr." + long(30), policy.ReasonWrongTokenType},
		"recovery, old":          {"r." + long(30), policy.ReasonWrongTokenType},
	} {
		before := s.vault.Count(vaulttest.PathLookup)
		_, err := ask(s, test.token)
		asked := s.vault.Count(vaulttest.PathLookup) - before
		if test.reason == policy.ReasonAllowed {
			wantRefusal(t, err, policy.ReasonCredentialUnknown)
			if asked != 1 {
				t.Errorf("%s: Vault was asked %d times", name, asked)
			}
			continue
		}
		if wantRefusal(t, err, test.reason); asked != 0 {
			t.Errorf("%s: Vault was asked", name)
		}
	}
}

// A token is shown to the one Vault that can own it.
func TestRouting(t *testing.T) {
	t.Parallel()
	s := newScene(t, func(c *vault.Config) { c.Prefixes, c.NamespaceIDs = []string{"s."}, []string{"root"} })
	mine := s.vault.CreateToken(vaulttest.Token{Legacy: true})
	mustProve(t, s, mine)
	for _, other := range []string{s.vault.CreateToken(vaulttest.Token{}), mine + ".other", "b." + strings.Repeat("a", 40)} {
		before := s.vault.Count(vaulttest.PathLookup)
		if _, err := ask(s, other); !errors.Is(err, authn.ErrNotMine) || s.vault.Count(vaulttest.PathLookup) != before {
			t.Errorf("%.4s…: %v, want ErrNotMine unasked", other, err)
		}
	}
}

// V-02, V-03, V-07: what becomes of an answer.
func TestPrincipal(t *testing.T) {
	t.Parallel()
	s := newScene(t, func(c *vault.Config) {
		c.Roles = map[string][]string{"orders-rw": {"orders.reader", "orders.writer"}, "staff": {"orders.reader", "desk"}}
		c.Scopes = map[string][]string{"orders-rw": {"orders:write"}, "unused": {"everything"}}
	})
	entity := s.vault.CreateEntity(vaulttest.Entity{Policies: []string{"staff"}})
	token := s.vault.CreateToken(vaulttest.Token{
		Policies: []string{"default", "orders-rw"}, EntityID: entity, DisplayName: "approle-orders", Path: "auth/approle/login",
		Meta: map[string]string{"app_id": "orders", "user_id": "42"}, TTL: time.Minute,
	})
	proof := mustProve(t, s, token)
	now := s.clock.Now()
	accessor := s.vault.Accessor(token)
	want := &policy.Principal{
		ID: entity, Kind: policy.KindService, Method: policy.MethodVault, Assurance: 2,
		Roles: []string{"orders.reader", "orders.writer", "desk"}, Scopes: []string{"orders:write"},
		Claims: map[string]any{
			"policies": []any{"default", "orders-rw", "staff"}, "type": "service", "path": "auth/approle/login",
			"display_name": "approle-orders", "entity_id": entity,
		},
		Metadata:     map[string]any{"app_id": "orders", "user_id": "42"},
		CredentialID: accessor, Issuer: address, IssuedAt: time.Unix(now.Unix(), 0).UTC(), ExpiresAt: now.Add(time.Minute),
	}
	if !reflect.DeepEqual(proof.Principal, want) {
		t.Errorf("principal\n%+v, want\n%+v", proof.Principal, want)
	}
	subject := authn.Subject{TokenID: accessor, Issuer: address, ID: entity, IssuedAt: time.Unix(now.Unix(), 0).UTC()}
	if proof.Subject != subject || !proof.NotAfter.Equal(now.Add(time.Minute)) || proof.State != policy.StateStore || proof.Constraints != nil {
		t.Errorf("proof %+v", proof)
	}
	if text := fmt.Sprintf("%+v %+v %+v", proof.Principal, proof.Subject, proof.Constraints); strings.Contains(text, token) {
		t.Error("the proof holds the token")
	}
}

// V-02, V-03: the options about it.
func TestPrincipalOptions(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		set   set
		token vaulttest.Token
		check func(t *testing.T, p *policy.Principal)
		want  policy.Reason
	}{
		"without the policies of the entity": {
			set:   func(c *vault.Config) { c.IdentityPolicies, c.Roles = false, map[string][]string{"staff": {"desk"}} },
			token: vaulttest.Token{EntityID: "with staff"},
			check: func(t *testing.T, p *policy.Principal) {
				if p.Roles != nil {
					t.Errorf("roles %v", p.Roles)
				}
			},
		},
		"some metadata": {
			set:   func(c *vault.Config) { c.Metadata = []string{"app_id", "none"} },
			token: vaulttest.Token{Meta: map[string]string{"app_id": "x", "note": "y"}},
			check: func(t *testing.T, p *policy.Principal) {
				if !reflect.DeepEqual(p.Metadata, map[string]any{"app_id": "x"}) {
					t.Errorf("metadata %v", p.Metadata)
				}
			},
		},
		"id from metadata": {
			set:   func(c *vault.Config) { c.ID, c.Kind = "metadata.user_id", policy.KindUser },
			token: vaulttest.Token{Meta: map[string]string{"user_id": "alice"}},
			check: wantID("alice"),
		},
		"id from metadata that is not there": {set: func(c *vault.Config) { c.ID = "metadata.user_id" }, want: policy.ReasonInvalidClaim},
		"id that is no name": {
			set:   func(c *vault.Config) { c.ID = "metadata.user_id" },
			token: vaulttest.Token{Meta: map[string]string{"user_id": "alice\u202e"}},
			want:  policy.ReasonInvalidClaim,
		},
		"id from the display name":   {set: func(c *vault.Config) { c.ID = "display_name" }, token: vaulttest.Token{DisplayName: "ldap-bob"}, check: wantID("ldap-bob")},
		"an entity that is required": {set: func(c *vault.Config) { c.ID = "entity_id" }, want: policy.ReasonInvalidClaim},
		"tenant from metadata": {
			set:   func(c *vault.Config) { c.Tenant = "metadata.tenant" },
			token: vaulttest.Token{Meta: map[string]string{"tenant": "acme"}},
			check: func(t *testing.T, p *policy.Principal) {
				if p.Tenant != "acme" {
					t.Errorf("tenant %q", p.Tenant)
				}
			},
		},
		"tenant from metadata that is not there": {set: func(c *vault.Config) { c.Tenant = "metadata.tenant" }, want: policy.ReasonInvalidClaim},
		"made where it is accepted":              {set: paths("auth/userpass/login/*"), token: vaulttest.Token{Path: "auth/userpass/login/bob"}},
		"made elsewhere":                         {set: paths("auth/userpass/login/*"), token: vaulttest.Token{Path: "auth/token/create"}, want: policy.ReasonMethodNotAccepted},
		"made beside it":                         {set: paths("auth/approle/login"), token: vaulttest.Token{Path: "auth/approle/login2"}, want: policy.ReasonMethodNotAccepted},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, test.set)
			if test.token.EntityID != "" {
				test.token.EntityID = s.vault.CreateEntity(vaulttest.Entity{Policies: []string{"staff"}})
			}
			proof, err := ask(s, s.vault.CreateToken(test.token))
			switch {
			case test.want != policy.ReasonUnspecified:
				wantRefusal(t, err, test.want)
			case err != nil:
				t.Error(err)
			case test.check != nil:
				test.check(t, proof.Principal)
			}
		})
	}
}

func wantID(id string) func(*testing.T, *policy.Principal) {
	return func(t *testing.T, p *policy.Principal) {
		if p.ID != id {
			t.Errorf("id %q, want %q", p.ID, id)
		}
	}
}

func paths(all ...string) set { return func(c *vault.Config) { c.Paths = all } }

// INTROSPECT-07, V-10: tokens that are more, or less, than they should be.
func TestSpecialTokens(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		set   set
		token vaulttest.Token
		want  policy.Reason
	}{
		"root":                         {token: vaulttest.Token{Policies: []string{"root"}, Forever: true}, want: policy.ReasonWrongTokenType},
		"root that ends":               {token: vaulttest.Token{Policies: []string{"root"}}, want: policy.ReasonWrongTokenType},
		"root among others":            {token: vaulttest.Token{Policies: []string{"default", "root"}}, want: policy.ReasonWrongTokenType},
		"root, accepted":               {set: func(c *vault.Config) { c.InsecureAcceptRoot = true }, token: vaulttest.Token{Policies: []string{"root"}, Forever: true}, want: policy.ReasonAllowed},
		"batch":                        {token: vaulttest.Token{Batch: true}, want: policy.ReasonAllowed},
		"batch, old":                   {token: vaulttest.Token{Batch: true, Legacy: true}, want: policy.ReasonAllowed},
		"batch, not accepted":          {set: func(c *vault.Config) { c.AcceptBatch = false }, token: vaulttest.Token{Batch: true}, want: policy.ReasonWrongTokenType},
		"one use":                      {token: vaulttest.Token{NumUses: 1}, want: policy.ReasonWrongTokenType},
		"five uses, accepted":          {set: func(c *vault.Config) { c.AcceptLimitedUse = true }, token: vaulttest.Token{NumUses: 5}, want: policy.ReasonAllowed},
		"wrapping, limited accepted":   {set: func(c *vault.Config) { c.AcceptLimitedUse = true }, token: vaulttest.Token{NumUses: 1, Policies: []string{"response-wrapping"}}, want: policy.ReasonWrongTokenType},
		"root, in mode lookup_self":    {set: self, token: vaulttest.Token{Policies: []string{"root"}, Forever: true}, want: policy.ReasonWrongTokenType},
		"one use, in mode lookup_self": {set: self, token: vaulttest.Token{NumUses: 1}, want: policy.ReasonRevoked},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if test.set == nil {
				test.set = func(*vault.Config) {}
			}
			s := newScene(t, test.set)
			token := s.vault.CreateToken(test.token)
			proof, err := ask(s, token)
			if test.want != policy.ReasonAllowed {
				wantRefusal(t, err, test.want)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if p := proof.Principal; p.CredentialID == "" || p.CredentialID != proof.Subject.TokenID || strings.Contains(token, strings.TrimPrefix(p.CredentialID, "sha256:")) {
				t.Errorf("credential id %q", p.CredentialID)
			}
			if test.token.Forever == proof.Principal.ExpiresAt.After(time.Time{}) {
				t.Errorf("it ends at %s", proof.Principal.ExpiresAt)
			}
		})
	}
}

// V-10: a lookup by another identity costs no use, and a look at itself costs one in all.
func TestUsesAreNotBurnt(t *testing.T) {
	t.Parallel()
	s := newScene(t, func(c *vault.Config) { c.AcceptLimitedUse = true })
	token := s.vault.CreateToken(vaulttest.Token{NumUses: 3})
	for range 10 {
		mustProve(t, s, token)
	}
	if n := s.vault.Uses(token); n != 3 {
		t.Errorf("%d uses left of 3", n)
	}

	s = newScene(t, self)
	token = s.vault.CreateToken(vaulttest.Token{NumUses: 3})
	for range 10 {
		_, err := ask(s, token)
		wantRefusal(t, err, policy.ReasonWrongTokenType)
	}
	if n := s.vault.Uses(token); n != 2 {
		t.Errorf("in mode lookup_self %d uses left of 3, want 2", n)
	}
}

// A lookup finds what Vault is about to delete.
func TestLingeringTokens(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	used, expired := s.vault.CreateToken(vaulttest.Token{}), s.vault.CreateToken(vaulttest.Token{TTL: time.Minute})
	s.vault.Linger(used, true)
	s.vault.Linger(expired, false)
	mustProve(t, s, expired)
	s.clock.advance(time.Minute)
	_, err := ask(s, expired)
	wantRefusal(t, err, policy.ReasonExpired)
	_, err = ask(s, used)
	wantRefusal(t, err, policy.ReasonRevoked)
}

// V-10: namespaces become tenants, and nobody gets a role by the policies of another
// namespace.
func TestNamespaces(t *testing.T) {
	t.Parallel()
	byNamespace := func(c *vault.Config) { c.Tenant = "namespace_path" }
	for name, test := range map[string]struct {
		set       set
		namespace string
		tenant    string
		want      policy.Reason
	}{
		"root":                                {namespace: ""},
		"another one":                         {namespace: "team-a", want: policy.ReasonCredentialUnknown},
		"as the tenant":                       {set: byNamespace, namespace: "team-a", tenant: "team-a"},
		"below, as the tenant":                {set: byNamespace, namespace: "team-a/orders", tenant: "team-a/orders"},
		"root has no tenant":                  {set: byNamespace, namespace: ""},
		"below the configured one":            {set: both(byNamespace, inside("team-a")), namespace: "team-a/orders", tenant: "team-a/orders"},
		"beside the configured one":           {set: both(byNamespace, inside("team-a")), namespace: "team-ab", want: policy.ReasonCredentialUnknown},
		"above the configured one":            {set: both(byNamespace, inside("team-a")), namespace: "", want: policy.ReasonCredentialUnknown},
		"the configured one alone":            {set: inside("team-a"), namespace: "team-a"},
		"below the configured one alone":      {set: inside("team-a"), namespace: "team-a/orders", want: policy.ReasonCredentialUnknown},
		"listed":                              {set: listed("team-ab"), namespace: "team-ab"},
		"not listed":                          {set: listed("team-ab"), namespace: "team-a", want: policy.ReasonCredentialUnknown},
		"below one that is listed":            {set: listed("team-a/*"), namespace: "team-a/orders"},
		"the one that all listed ones are in": {set: listed("team-a/*"), namespace: "team-a", want: policy.ReasonCredentialUnknown},
		"all listed":                          {set: listed("*"), namespace: "team-ab"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if test.set == nil {
				test.set = func(*vault.Config) {}
			}
			c := newClock()
			v := vaulttest.New(c.Now)
			for _, path := range []string{"team-a", "team-ab", "team-a/orders"} {
				v.CreateNamespace(path)
			}
			role := v.EnableAppRole("approle", vaulttest.AppRole{Token: vaulttest.Token{Policies: []string{"postern", "default"}}})
			cfg := vault.Config{Address: address, Login: vault.Login{AppRole: &vault.AppRole{RoleID: role.RoleID, SecretID: policy.NewSecret(role.SecretID)}}}
			cfg.SetDefaults()
			cfg.Roles = map[string][]string{"admin": {"admin"}}
			test.set(&cfg)
			a := start(t, cfg, vault.Deps{Now: c.Now, Transport: v.Transport(remote)})
			proof, err := ask(a, v.CreateToken(vaulttest.Token{Namespace: test.namespace, Policies: []string{"admin"}}))
			switch {
			case test.want != policy.ReasonUnspecified:
				wantRefusal(t, err, test.want)
			case err != nil:
				t.Error(err)
			case proof.Principal.Tenant != test.tenant || proof.Subject.Tenant != test.tenant:
				t.Errorf("tenant %q, want %q", proof.Principal.Tenant, test.tenant)
			}
		})
	}
}

func both(a, b set) set { return func(c *vault.Config) { a(c); b(c) } }

func inside(namespace string) set { return func(c *vault.Config) { c.Namespace = namespace } }

func listed(all ...string) set { return func(c *vault.Config) { c.Namespaces = all } }

// V-05: bound_cidrs hold for the true client.
func TestBoundCIDRs(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		cidrs   []string
		in, out string // addresses of clients, separated by spaces; "-" is an unknown one
	}{
		{nil, "10.1.2.3 2001:db8::1 -", ""},
		{[]string{}, "10.1.2.3 -", ""},
		{[]string{"10.0.0.0/8"}, "10.1.2.3 10.255.255.255", "11.0.0.0 ::ffff:11.0.0.1 2001:db8::1 -"},
		{[]string{"10.9.9.9"}, "10.9.9.9", "10.9.9.8 -"},
		{[]string{"10.9.9.9/8"}, "10.1.2.3", "11.1.1.1"},
		{[]string{"::ffff:10.0.0.0/104"}, "10.1.2.3", "11.0.0.1 -"},
		{[]string{"::ffff:10.9.9.9"}, "10.9.9.9", "10.9.9.8"},
		{[]string{"2001:db8::/32", "10.9.0.0/16"}, "2001:db8::7 10.9.1.1", "2001:db9::1 10.8.1.1 -"},
		{[]string{"2001:db8::7"}, "2001:db8::7", "2001:db8::8"},
		{[]string{"0.0.0.0/0"}, "10.1.2.3", "2001:db8::1 -"},
	} {
		s := newScene(t)
		proof := mustProve(t, s, s.vault.CreateToken(vaulttest.Token{BoundCIDRs: test.cidrs}))
		for want, list := range map[policy.Reason]string{policy.ReasonAllowed: test.in, policy.ReasonNetwork: test.out} {
			for ip := range strings.FieldsSeq(list) {
				request := &policy.Request{ClientIP: parseIP(ip)}
				if got := proof.Constraints.Check(policy.Use{Request: request, Now: s.clock.Now()}); got != want {
					t.Errorf("%v from %s: %s, want %s", test.cidrs, ip, got, want)
				}
			}
		}
	}
}

// V-05: Vault holds them against Postern, where Postern presents the token itself.
func TestBoundCIDRsInLookupSelf(t *testing.T) {
	t.Parallel()
	s := newScene(t, self)
	_, err := ask(s, s.vault.CreateToken(vaulttest.Token{BoundCIDRs: []string{"192.168.0.0/16"}}))
	wantRefusal(t, err, policy.ReasonCredentialUnknown)
	proof := mustProve(t, s, s.vault.CreateToken(vaulttest.Token{BoundCIDRs: []string{"10.0.0.0/8"}}))
	if len(proof.Constraints.Networks) != 1 {
		t.Errorf("constraints %+v", proof.Constraints)
	}
}

// V-05: what cannot be read is not taken for no limit, and neither are two limits that
// have nothing in common.
func TestBoundCIDRsRefused(t *testing.T) {
	t.Parallel()
	for _, bad := range []string{"", "nonsense", "10.0.0.0/33", "10.0.0.1:80", "/var/run/socket", "fe80::1%eth0", "10.0.0/8", "010.0.0.0/8", "::ffff:10.0.0.0/200", "10.0.0.0/-1"} {
		s := newScene(t)
		_, err := ask(s, s.vault.CreateToken(vaulttest.Token{BoundCIDRs: []string{"10.0.0.0/8", bad}}))
		wantRefusal(t, err, policy.ReasonInvalidClaim)
	}
	s := newScene(t, func(c *vault.Config) {
		c.Constraints = &policy.Constraints{Networks: parsePrefixes("192.168.0.0/16", "10.1.0.0/16"), RequireTLS: true}
	})
	_, err := ask(s, s.vault.CreateToken(vaulttest.Token{BoundCIDRs: []string{"172.16.0.0/12"}}))
	wantRefusal(t, err, policy.ReasonInvalidClaim)
	proof := mustProve(t, s, s.vault.CreateToken(vaulttest.Token{BoundCIDRs: []string{"10.0.0.0/8", "192.168.7.7"}}))
	if want := parsePrefixes("192.168.7.7/32", "10.1.0.0/16"); !reflect.DeepEqual(proof.Constraints.Networks, want) || !proof.Constraints.RequireTLS {
		t.Errorf("constraints %+v, want networks %v", proof.Constraints, want)
	}
	proof = mustProve(t, s, s.vault.CreateToken(vaulttest.Token{}))
	if len(proof.Constraints.Networks) != 2 {
		t.Error("the configured networks are not what they were")
	}
}

// V-04: a token ends when its ttl is over, whatever was remembered.
func TestExpiryWhileCached(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	cached := s.cached(t)
	token := s.vault.CreateToken(vaulttest.Token{TTL: 2 * time.Second})
	proof := mustProve(t, cached, token)
	if !proof.NotAfter.Equal(s.clock.Now().Add(2 * time.Second)) {
		t.Errorf("it ends at %s", proof.NotAfter)
	}
	s.clock.advance(2*time.Second - time.Millisecond)
	mustProve(t, cached, token)
	if n := s.vault.Count(vaulttest.PathLookup); n != 1 {
		t.Errorf("%d lookups, want 1", n)
	}
	s.clock.advance(time.Millisecond)
	_, err := ask(cached, token)
	wantRefusal(t, err, policy.ReasonCredentialUnknown)
}

func (s *scene) cached(t *testing.T) *authn.Cached {
	t.Helper()
	cfg := s.config.Cache()
	cfg.Now = s.clock.Now
	return authn.NewCached(s.Authenticator, cfg)
}

// V-06: revoked in Vault, denied within ttl_cap; at once if that is 0.
func TestRevocation(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	cached := s.cached(t)
	token := s.vault.CreateToken(vaulttest.Token{})
	mustProve(t, cached, token)
	s.vault.Revoke(token)
	s.clock.advance(5*time.Second - time.Millisecond)
	mustProve(t, cached, token)
	s.clock.advance(time.Millisecond)
	_, err := ask(cached, token)
	wantRefusal(t, err, policy.ReasonCredentialUnknown)

	s = newScene(t, func(c *vault.Config) { c.TTLCap = 0 })
	cached = s.cached(t)
	token = s.vault.CreateToken(vaulttest.Token{})
	for range 3 {
		mustProve(t, cached, token)
		s.clock.advance(time.Millisecond)
	}
	if n := s.vault.Count(vaulttest.PathLookup); n != 3 {
		t.Errorf("%d lookups of 3 with ttl_cap 0", n)
	}
	s.vault.Revoke(token)
	_, err = ask(cached, token)
	wantRefusal(t, err, policy.ReasonCredentialUnknown)
}

// V-08: a renewal by the caller is seen at the next lookup.
func TestRenewedToken(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	token := s.vault.CreateToken(vaulttest.Token{TTL: time.Minute})
	mustProve(t, s, token)
	s.clock.advance(40 * time.Second)
	renewAs(t, s.vault, token)
	if proof := mustProve(t, s, token); !proof.NotAfter.Equal(s.clock.Now().Add(time.Minute)) {
		t.Errorf("after its renewal it ends at %s", proof.NotAfter)
	}
}

// renewAs renews a token as its owner.
func renewAs(t *testing.T, v *vaulttest.Vault, token string) {
	t.Helper()
	request, err := http.NewRequest(http.MethodPost, address+"/v1/auth/token/renew-self", strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("X-Vault-Token", token)
	response, err := v.Transport(remote).RoundTrip(request)
	if err != nil || response.StatusCode != http.StatusOK {
		t.Fatal("renewing:", response.StatusCode, err)
	}
}

// V-06: what a lookup does not tell.
func TestDisabledEntity(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		set  set
		want policy.Reason
	}{
		"unseen by a lookup alone": {func(*vault.Config) {}, policy.ReasonAllowed},
		"check_entity":             {func(c *vault.Config) { c.CheckEntity = true }, policy.ReasonDisabled},
		"lookup_self":              {self, policy.ReasonCredentialUnknown},
	} {
		s := newScene(t, test.set)
		entity := s.vault.CreateEntity(vaulttest.Entity{})
		token := s.vault.CreateToken(vaulttest.Token{EntityID: entity})
		mustProve(t, s, token)
		s.vault.DisableEntity(entity)
		if _, err := ask(s, token); test.want != policy.ReasonAllowed {
			wantRefusal(t, err, test.want)
		} else if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	s := newScene(t, func(c *vault.Config) { c.CheckEntity = true })
	s.vault.SetPolicy("postern", vaulttest.PathLookup)
	_, err := ask(s, s.vault.CreateToken(vaulttest.Token{EntityID: s.vault.CreateEntity(vaulttest.Entity{})}))
	wantFault(t, err, false)
	mustProve(t, s, s.vault.CreateToken(vaulttest.Token{}))
}

// INTROSPECT-07, V-11: whoever cannot answer is out of reach, and no token is bad for it.
func TestOutOfReach(t *testing.T) {
	t.Parallel()
	for _, mode := range []set{func(*vault.Config) {}, self} {
		for name, down := range map[string]func(*vaulttest.Vault){
			"sealed":              func(v *vaulttest.Vault) { v.Seal(true) },
			"redirecting standby": func(v *vaulttest.Vault) { v.Standby(429) },
			"429":                 func(v *vaulttest.Vault) { v.Fail("", 429) },
			"472":                 func(v *vaulttest.Vault) { v.Fail("", 472) },
			"473":                 func(v *vaulttest.Vault) { v.Fail("", 473) },
			"412":                 func(v *vaulttest.Vault) { v.Fail("", 412) },
			"500":                 func(v *vaulttest.Vault) { v.Fail("", 500) },
			"502":                 func(v *vaulttest.Vault) { v.Fail("", 502) },
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				s := newScene(t, mode)
				token := s.vault.CreateToken(vaulttest.Token{})
				mustProve(t, s, token)
				down(s.vault)
				_, err := ask(s, token)
				wantFault(t, err, true)
			})
		}
	}
}

// V-11: a known token is believed a while longer, an unknown one never, and one that was
// refused since not either.
func TestStale(t *testing.T) {
	t.Parallel()
	s := newScene(t, func(c *vault.Config) { c.StaleFor = time.Minute })
	cached := s.cached(t)
	token, short, other := s.vault.CreateToken(vaulttest.Token{}), s.vault.CreateToken(vaulttest.Token{TTL: 20 * time.Second}), s.vault.CreateToken(vaulttest.Token{})
	mustProve(t, cached, token)
	mustProve(t, cached, short)
	s.vault.Seal(true)
	s.clock.advance(30 * time.Second)
	if proof := mustProve(t, cached, token); proof.State != policy.StateStale {
		t.Errorf("state %s", proof.State)
	}
	for _, dead := range []string{short, other} {
		_, err := ask(cached, dead)
		wantFault(t, err, true)
	}
	s.clock.advance(36 * time.Second)
	_, err := ask(cached, token)
	wantFault(t, err, true)

	s.vault.Seal(false)
	s.clock.advance(time.Minute)
	mustProve(t, cached, token)
	s.vault.Fail(vaulttest.PathLookup, 403) // no answer about the token, and no outage
	s.clock.advance(10 * time.Second)
	_, err = ask(cached, token)
	wantFault(t, err, false)
}

// V-11: a Vault that fails is left alone, and asked again after a pause.
func TestBreaker(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	token := s.vault.CreateToken(vaulttest.Token{})
	mustProve(t, s, token)
	s.vault.Seal(true)
	before := s.vault.Count(vaulttest.PathLookup)
	for range 100 {
		_, err := ask(s, token)
		wantFault(t, err, true)
	}
	if n := s.vault.Count(vaulttest.PathLookup) - before; n != 5 {
		t.Errorf("%d lookups of 100 while it is sealed, want 5", n)
	}
	if _, err := ask(s, token); !errors.Is(err, breaker.ErrOpen) || !s.Status().Breaker.Open {
		t.Errorf("%v, want it open", err)
	}
	s.vault.Seal(false)
	s.clock.advance(time.Second)
	mustProve(t, s, token)
	if s.Status().Breaker.Open {
		t.Error("it is still open")
	}
}

// What callers send cannot open the breaker.
func TestBadTokensDoNotOpenTheBreaker(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	for i := range 50 {
		_, err := ask(s, fmt.Sprintf("hvs.CAESIunknown%d", i))
		wantRefusal(t, err, policy.ReasonCredentialUnknown)
	}
	s.vault.CreateNamespace("elsewhere")
	s.vault.SetPolicy("postern") // may look nothing up
	for range 50 {
		_, err := ask(s, s.vault.CreateToken(vaulttest.Token{Namespace: "elsewhere"}))
		wantFault(t, err, false)
	}
	if st := s.Status(); st.Breaker.Failures != 0 || st.Degraded {
		t.Errorf("status %+v", st)
	}
}

// V-11: 1,000 parallel misses are one lookup.
func TestSingleFlight(t *testing.T) {
	t.Parallel()
	bubble(t, vaulttest.AppRole{Token: own}, func(t *testing.T, v *vaulttest.Vault, a *vault.Authenticator) {
		token := v.CreateToken(vaulttest.Token{})
		cached := authn.NewCached(a, authn.CacheConfig{})
		release := make(chan struct{})
		v.Answer(func(http.ResponseWriter, *http.Request) bool {
			<-release
			return false
		})
		var callers sync.WaitGroup
		for range 1000 {
			callers.Go(func() {
				if _, err := ask(cached, token); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait() // all of them wait
		close(release)
		callers.Wait()
		if n := v.Count(vaulttest.PathLookup); n != 1 {
			t.Errorf("%d lookups, want 1", n)
		}
	})
}

// With a context that is over, nobody is asked.
func TestContextThatIsOver(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	token := s.vault.CreateToken(vaulttest.Token{})
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := s.Authenticate(ctx, credential(token)); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if n := s.vault.Count(vaulttest.PathLookup); n != 0 {
		t.Errorf("%d lookups", n)
	}
}
