package main

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/postern-auth/postern/server/authn/vault/vaulttest"
)

// vaultLab is world "vault", running, with the Vault that it asks.
type vaultLab struct {
	*box
	vault *vaulttest.Server
	role  vaulttest.AppRole
}

// byAppRole is how Postern logs in by default.
const byAppRole = `login: { approle: { role_id: "@ROLE@", secret_id: "${file:secret-id}" } }`

// startVault starts a fake Vault with a real listener, and a server that logs in to it.
func startVault(t testing.TB, mode, ttl, more string, own vaulttest.Token, changes ...func(*vaultLab, world)) *vaultLab {
	t.Helper()
	lab := &vaultLab{vault: vaulttest.StartTLS(t, vaulttest.New(nil))}
	own.Policies = append(own.Policies, "postern")
	lab.role = lab.vault.EnableAppRole("approle", vaulttest.AppRole{Token: own})
	w := prepare(t, "vault", "@MODE@", mode, "@TTL@", ttl, "@MORE@", more)
	text := strings.NewReplacer("@VAULT@", lab.vault.URL, "@CA@", lab.vault.CAFile, "@ROLE@", lab.role.RoleID).Replace(w.read(t, "postern.yaml"))
	w.write(t, "postern.yaml", text)
	w.write(t, "secret-id", lab.role.SecretID)
	w.write(t, "jwks.json", jwks(testIssuer))
	w.mint(t, order{id: "somebody"})
	for _, change := range changes {
		change(lab, w)
	}
	lab.box = start(t, w)
	lab.hide(lab.role.SecretID)
	return lab
}

// token makes a token that no output may hold. What names its namespace, after its last
// dot, is no secret: its accessor, which the log holds, ends with the same.
func (lab *vaultLab) token(t vaulttest.Token) string {
	token := lab.vault.CreateToken(t)
	_, secret, _ := strings.Cut(token, ".")
	if t.Namespace != "" {
		secret = secret[:strings.LastIndexByte(secret, '.')]
	}
	lab.hide(strings.TrimPrefix(secret, "CAESI"))
	return token
}

func byVault(token string) request { return get("/", "x-vault-token", token) }

// Whom Vault's answers make a caller, and which tokens are no credentials.
func TestKindsVault(t *testing.T) {
	t.Parallel()
	lab := startVault(t, byAppRole, "5s", "check_entity: true", vaulttest.Token{TTL: time.Hour})
	vault := lab.vault
	vault.SetPolicy("postern", vaulttest.PathLookup, vaulttest.PathEntity+"/", vaulttest.PathEntity)

	// V-01, V-02, V-03, V-07 and V-12: policies are roles, metadata is the policy's to read, and
	// the log names the token as Vault's own does.
	group := vault.CreateEntity(vaulttest.Entity{Policies: []string{"staff"}})
	token := lab.token(vaulttest.Token{
		Policies: []string{"orders-rw", "api-read", "api-write"}, EntityID: group, Path: "auth/approle/login",
		Meta: map[string]string{"app_id": "app-123", "user_id": "u-7"},
	})
	for name, q := range map[string]request{"X-Vault-Token": byVault(token), "bearer": get("/", bearer(token)...)} {
		a := lab.expect(t, q, 200, "allowed")
		s := a.seen(t)
		slices.Sort(s.Roles)
		if a.principal != group || a.method != "vault" || a.issuer != vault.URL || s.Kind != "service" || s.Assurance != 2 ||
			fmt.Sprint(slices.Compact(s.Roles), s.Scopes) != "[orders.reader orders.writer] [write]" || s.Metadata["app_id"] != "app-123" || s.Metadata["user_id"] != "u-7" {
			t.Errorf("%s: %v %+v", name, a, s)
		}
		if accessor := vault.Accessor(token); a.credential != accessor || accessor == "" {
			t.Errorf("%s: the credential is %q, not the accessor", name, a.credential)
		}
		if !slices.Contains(a.removed, "x-vault-token") {
			t.Error("the token goes upstream")
		}
	}
	only := lab.expect(t, byVault(lab.token(vaulttest.Token{EntityID: group})), 200, "allowed")
	if s := only.seen(t); !slices.Equal(s.Roles, []string{"orders.reader"}) { // by identity_policies alone
		t.Errorf("%+v", s)
	}
	lab.expect(t, request{method: "GET", scheme: "https", host: "api.test", path: "/strong/", source: "192.0.2.5", headers: byVault(token).headers}, 403, "assurance")
	lab.expect(t, get("/keys/", byVault(token).headers[0].Name, token), 401, "method_not_accepted")

	// V-10 and INTROSPECT-07: kinds of tokens.
	vault.CreateNamespace("acme")
	once := lab.token(vaulttest.Token{Policies: []string{"staff"}, NumUses: 3})
	for name, c := range map[string]struct {
		token  string
		status int
		reason string
		tenant string
	}{
		"a batch token":         {lab.token(vaulttest.Token{Policies: []string{"staff"}, Batch: true}), 200, "allowed", ""},
		"OpenBao's form":        {lab.token(vaulttest.Token{Policies: []string{"staff"}, Legacy: true}), 200, "allowed", ""},
		"OpenBao's batch token": {lab.token(vaulttest.Token{Policies: []string{"staff"}, Legacy: true, Batch: true}), 200, "allowed", ""},
		"of a namespace":        {lab.token(vaulttest.Token{Policies: []string{"staff"}, Namespace: "acme"}), 200, "allowed", "acme"},
		"root":                  {lab.token(vaulttest.Token{Policies: []string{"root"}, Forever: true}), 401, "", ""},
		"of limited uses":       {once, 401, "", ""},
		"unknown":               {"hvs." + strings.Repeat("x", 91), 401, "credential_unknown", ""},
		"a recovery token":      {"hvr." + strings.Repeat("x", 91), 401, "", ""},
		"too short to be one":   {"hvs.x", 401, "", ""},
		"of a disabled entity":  {lab.token(vaulttest.Token{Policies: []string{"staff"}, EntityID: disabled(vault)}), 401, "", ""},
		"looks like a JWT too":  {"hvs.a.b", 401, "", ""},
	} {
		a := lab.ask(t, byVault(c.token))
		if a.status != c.status || c.reason != "" && a.reason != c.reason || a.seen(t).Tenant != c.tenant {
			t.Errorf("%s: %v %+v", name, a, a.seen(t))
		}
	}
	if n := vault.Uses(once); n != 3 {
		t.Errorf("looking a token up has used it: %d of 3 are left", n)
	}
	// T-02: other bearer tokens are never shown to Vault.
	before := vault.Count(vaulttest.PathLookup)
	for _, other := range []string{testIssuer.token(claims{"sub": "ann"}), "pst_key_nonsense", "opaque-" + strings.Repeat("x", 30), "eyJhbGciOiJub25lIn0.e30."} {
		lab.ask(t, get("/", bearer(other)...))
	}
	if n := vault.Count(vaulttest.PathLookup) - before; n != 0 {
		t.Errorf("Vault was shown %d tokens of others", n)
	}

	// V-05: Vault holds bound_cidrs against us, and so do we against the client.
	bound := lab.token(vaulttest.Token{Policies: []string{"staff"}, BoundCIDRs: []string{"198.51.100.0/24", "2001:db8::/32"}})
	for from, want := range map[string]int{
		"198.51.100.7": 200, "::ffff:198.51.100.7": 200, "2001:db8::1": 200, "192.0.2.5": 403, "198.51.101.1": 403, "2001:db9::1": 403, "": 403,
	} {
		q := byVault(bound)
		q.source = from
		ask := lab.ask
		if from == "" {
			q.source, ask = "a pipe", lab.askEnvoy // CheckService does not take this for a question
		}
		if a := ask(t, q); a.status != want {
			t.Errorf("from %q: %v, want %d", from, a, want)
		}
	}
	spoofed := get("/", "x-vault-token", bound, "x-forwarded-for", "198.51.100.7")
	lab.expect(t, spoofed, 403, "network_not_allowed")
}

func disabled(v *vaulttest.Server) string {
	id := v.CreateEntity(vaulttest.Entity{})
	v.DisableEntity(id)
	return id
}

// V-01: by a certificate, by a token, and by nobody but the callers themselves.
func TestKindsVaultLogins(t *testing.T) {
	t.Parallel()
	for name, mode := range map[string]string{
		"cert":        "login: { cert: { cert_file: own.pem, key_file: own.key, role: postern } }",
		"token":       `login: { token: "${file:own.token}" }`,
		"lookup_self": "mode: lookup_self",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			lab := startVault(t, mode, "5s", "", vaulttest.Token{}, func(lab *vaultLab, w world) {
				cert, key := lab.vault.ClientCert(t, "postern")
				lab.vault.EnableCert("cert", "postern", "postern", vaulttest.Token{Policies: []string{"postern"}, TTL: time.Hour})
				w.write(t, "own.pem", world("/").read(t, cert))
				w.write(t, "own.key", world("/").read(t, key))
				w.write(t, "own.token", lab.vault.CreateToken(vaulttest.Token{Policies: []string{"default", "postern"}, TTL: time.Hour}))
			})
			a := lab.expect(t, byVault(lab.token(vaulttest.Token{Policies: []string{"default", "staff"}})), 200, "allowed")
			if !slices.Equal(a.seen(t).Roles, []string{"orders.reader"}) {
				t.Errorf("%+v", a.seen(t))
			}
			lab.expect(t, byVault("hvs."+strings.Repeat("x", 91)), 401, "credential_unknown")
			if name == "lookup_self" { // V-10: each question would be a use
				limited := lab.token(vaulttest.Token{Policies: []string{"default", "staff"}, NumUses: 5})
				if a := lab.ask(t, byVault(limited)); a.status != 401 || lab.vault.Uses(limited) < 3 {
					t.Errorf("%v, %d of 5 uses are left", a, lab.vault.Uses(limited))
				}
			}
		})
	}
}

// V-04 and V-06: what is remembered of a token ends with it, and after ttl_cap at the
// latest; with 0s Vault is asked each time.
func TestKindsVaultTimes(t *testing.T) {
	t.Parallel()
	t.Run("cached", func(t *testing.T) {
		t.Parallel()
		lab := startVault(t, byAppRole, "1s", "", vaulttest.Token{TTL: time.Hour})
		begin := time.Now()
		short := byVault(lab.token(vaulttest.Token{TTL: 2 * time.Second}))
		revoked := lab.token(vaulttest.Token{})
		lab.expect(t, short, 200, "allowed")
		lab.expect(t, byVault(revoked), 200, "allowed")
		lab.vault.Revoke(revoked)
		began := time.Now()
		a := lab.denied(t, byVault(revoked), began.Add(time.Second))
		t.Logf("revoked: denied after %v as %v", time.Since(began), a)
		// Vault tells a ttl in whole seconds, and may tell one too few.
		if a := lab.denied(t, short, begin.Add(2500*time.Millisecond)); a.status != 401 {
			t.Error(a)
		}
	})
	t.Run("not cached", func(t *testing.T) {
		t.Parallel()
		lab := startVault(t, byAppRole, "0s", "", vaulttest.Token{TTL: time.Hour})
		token := lab.token(vaulttest.Token{})
		lab.expect(t, byVault(token), 200, "allowed")
		lab.vault.Revoke(token)
		lab.expect(t, byVault(token), 401, "credential_unknown")
	})
	t.Run("offline", func(t *testing.T) { // V-04, V-11: stale, and yet over when it is over
		t.Parallel()
		lab := startVault(t, byAppRole, "100ms", "stale_for: 1m", vaulttest.Token{TTL: time.Hour})
		begin := time.Now()
		short, long := byVault(lab.token(vaulttest.Token{TTL: 2 * time.Second})), byVault(lab.token(vaulttest.Token{}))
		lab.expect(t, short, 200, "allowed")
		lab.expect(t, long, 200, "allowed")
		lab.vault.Seal(true)
		stranger := byVault(lab.token(vaulttest.Token{}))
		lab.expect(t, stranger, 503, "dependency_unavailable")
		if a := lab.denied(t, short, begin.Add(2500*time.Millisecond)); a.status != 503 { // it may have been renewed
			t.Error(a)
		}
		lab.expect(t, long, 200, "allowed")
		lab.vault.Seal(false)
		eventually(t, "Vault is used again", func() bool { return lab.askEnvoy(t, stranger).allowed() })
	})
}

// denied waits until the request is denied, which it must be from the bound on.
func (b *box) denied(t testing.TB, q request, bound time.Time) (a answer) {
	t.Helper()
	eventually(t, "the end of "+q.path, func() bool {
		asked := time.Now()
		a = b.askEnvoy(t, q)
		if a.allowed() && asked.After(bound) {
			t.Fatalf("still allowed %v after it was to end", asked.Sub(bound))
		}
		return !a.allowed()
	})
	return a
}

// V-08: Postern renews its own token; if it cannot, /readyz says so long before anybody
// is denied, and when Vault is well again so is Postern.
func TestKindsVaultRenewal(t *testing.T) {
	t.Parallel()
	lab := startVault(t, byAppRole, "5s", "", vaulttest.Token{TTL: 2 * time.Second})
	token := lab.token(vaulttest.Token{})
	lab.expect(t, byVault(token), 200, "allowed")
	eventually(t, "the login is renewed", func() bool { return lab.vault.Count(vaulttest.PathRenewSelf) > 0 })
	lab.vault.Fail(vaulttest.PathRenewSelf, 500)
	lab.vault.Fail("auth/approle/login", 500)
	degraded := func() bool {
		status, body := lab.fetch(t, "/readyz")
		if status != http.StatusOK {
			t.Fatalf("a replica is unready for what no other could do better: %d %s", status, body)
		}
		return strings.Contains(body, "login") || strings.Contains(body, "renew")
	}
	eventually(t, "/readyz tells that the login cannot be renewed", degraded)
	lab.vault.Fail(vaulttest.PathRenewSelf, 0)
	lab.vault.Fail("auth/approle/login", 0)
	eventually(t, "it is well again", func() bool { return !degraded() })
	lab.expect(t, byVault(lab.token(vaulttest.Token{})), 200, "allowed")
}

// V-11: a thousand callers with one token that nobody has seen cause one question; and
// a Vault that is down is left alone.
func TestKindsVaultFlights(t *testing.T) {
	t.Parallel()
	lab := startVault(t, byAppRole, "5s", "", vaulttest.Token{TTL: time.Hour})
	lab.expect(t, byVault(lab.token(vaulttest.Token{})), 200, "allowed") // it is logged in
	before := lab.vault.Count(vaulttest.PathLookup)
	lab.letsIn(t, 1000, byVault(lab.token(vaulttest.Token{})))
	if n := lab.vault.Count(vaulttest.PathLookup) - before; n != 1 {
		t.Errorf("%d questions for one token", n)
	}
	lab.vault.Seal(true)
	var all sync.WaitGroup
	var wrong atomic.Int64
	for range 500 {
		token := lab.vault.CreateToken(vaulttest.Token{})
		all.Go(func() {
			res, err := lab.envoy.Check(context.Background(), byVault(token).forEnvoy())
			if a, problem := readEnvoy(res); err != nil || problem != "" || a.status != 503 {
				wrong.Add(1)
			}
		})
	}
	all.Wait()
	if n := lab.vault.Count(vaulttest.PathLookup) - before; wrong.Load() > 0 || n > 200 {
		t.Errorf("%d wrong answers; a sealed Vault was asked %d times", wrong.Load(), n)
	}
}

// letsIn sends so many of a request at once, and wants all of them allowed.
func (b *box) letsIn(t testing.TB, n int, q request) {
	t.Helper()
	answers := b.crowd(t, n, q)
	late := 0
	if raced { // evaluations take ten times as long, and not all of so many get their turn
		late = answers["overloaded"]
	}
	if answers["allowed"] == 0 || answers["allowed"]+late != n {
		t.Errorf("of %d: %v", n, answers)
	}
}

// crowd asks the same by many callers at once, and returns how many got each answer.
func (b *box) crowd(t testing.TB, n int, q request) map[string]int {
	t.Helper()
	var all sync.WaitGroup
	var mu sync.Mutex
	answers := map[string]int{}
	start := make(chan struct{})
	for range n {
		all.Go(func() {
			<-start
			res, err := b.envoy.Check(context.Background(), q.forEnvoy())
			if err != nil {
				t.Error(err)
				return
			}
			a, _ := readEnvoy(res)
			mu.Lock()
			defer mu.Unlock()
			answers[a.reason]++
		})
	}
	close(start)
	all.Wait()
	return answers
}
