package vault_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn"
	"github.com/postern-auth/postern/server/authn/vault"
	"github.com/postern-auth/postern/server/authn/vault/vaulttest"
)

const renewPath, loginPath = vaulttest.PathRenewSelf, "auth/approle/login"

// own is what Postern's AppRole brings in these tests.
var own = vaulttest.Token{Policies: []string{"default", "postern"}, TTL: 30 * time.Minute}

// bubble runs a story whose time passes by itself when everybody waits.
func bubble(t *testing.T, role vaulttest.AppRole, story func(t *testing.T, v *vaulttest.Vault, a *vault.Authenticator)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		v := vaulttest.New(nil)
		role = v.EnableAppRole("approle", role)
		cfg := vault.Config{Address: address}
		cfg.SetDefaults()
		cfg.Login.AppRole = &vault.AppRole{RoleID: role.RoleID, SecretID: policy.NewSecret(role.SecretID)}
		a := start(t, cfg, vault.Deps{Transport: v.Transport(remote)})
		synctest.Wait()
		story(t, v, a)
		_ = a.Close()
	})
}

func wait(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// V-08: the login is renewed before it ends, again and again, with one login in all.
func TestRenewal(t *testing.T) {
	t.Parallel()
	bubble(t, vaulttest.AppRole{Token: own}, func(t *testing.T, v *vaulttest.Vault, a *vault.Authenticator) {
		token := v.CreateToken(vaulttest.Token{TTL: 48 * time.Hour})
		for range 48 {
			wait(30 * time.Minute)
			mustProve(t, a, token)
		}
		if logins, renewals := v.Count(loginPath), v.Count(renewPath); logins != 1 || renewals < 60 || renewals > 90 {
			t.Errorf("%d logins and %d renewals in a day, want 1 and one each 18 to 20 minutes", logins, renewals)
		}
		s := a.Status()
		if !s.Usable || s.Degraded || s.Err != nil || s.Name != "vault.test:8200" || s.Accessor == "" || time.Until(s.Ends) < 9*time.Minute {
			t.Errorf("status %+v", s)
		}
	})
}

// V-08: renewals fail, health says so, and the login lasts as long as it can; then it is
// made again.
func TestRenewalFails(t *testing.T) {
	t.Parallel()
	bubble(t, vaulttest.AppRole{Token: own}, func(t *testing.T, v *vaulttest.Vault, a *vault.Authenticator) {
		token := v.CreateToken(vaulttest.Token{TTL: 48 * time.Hour})
		v.Fail(renewPath, http.StatusInternalServerError)
		wait(17 * time.Minute)
		if s := a.Status(); s.Degraded {
			t.Errorf("degraded before the first renewal: %v", s.Err)
		}
		wait(4 * time.Minute)
		if s := a.Status(); !s.Degraded || !s.Usable || !errors.Is(s.Err, authn.ErrUnreachable) {
			t.Errorf("after a renewal that failed: %+v", s)
		}
		mustProve(t, a, token)
		wait(10 * time.Minute)
		if s := a.Status(); !s.Degraded || s.Usable {
			t.Errorf("after the end of the login: %+v", s)
		}
		_, err := ask(a, token)
		wantFault(t, err, true)
		if n := v.Count(renewPath); n > 40 {
			t.Errorf("%d attempts in ten minutes", n)
		}
		v.Fail("", 0)
		wait(31 * time.Second)
		mustProve(t, a, token)
		if s := a.Status(); s.Degraded || !s.Usable || v.Count(loginPath) != 2 {
			t.Errorf("after Vault came back: %+v", s)
		}
	})
}

// V-08: near its max_ttl the login is made again while the old one still works.
func TestMaxTTL(t *testing.T) {
	t.Parallel()
	limited := own
	limited.MaxTTL = time.Hour
	bubble(t, vaulttest.AppRole{Token: limited}, func(t *testing.T, v *vaulttest.Vault, a *vault.Authenticator) {
		token := v.CreateToken(vaulttest.Token{TTL: 48 * time.Hour})
		for range 60 {
			wait(5 * time.Minute)
			mustProve(t, a, token)
			if s := a.Status(); s.Degraded || !s.Usable {
				t.Fatalf("status %+v", s)
			}
		}
		if n := v.Count(loginPath); n < 5 || n > 9 {
			t.Errorf("%d logins in five hours, want about 7", n)
		}
	})
}

// V-08: a login that cannot be renewed is made again at two thirds.
func TestNotRenewable(t *testing.T) {
	t.Parallel()
	for name, token := range map[string]vaulttest.Token{
		"service": {Policies: own.Policies, TTL: own.TTL, NotRenewable: true},
		"batch":   {Policies: own.Policies, TTL: own.TTL, Batch: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble(t, vaulttest.AppRole{Token: token}, func(t *testing.T, v *vaulttest.Vault, a *vault.Authenticator) {
				caller := v.CreateToken(vaulttest.Token{TTL: 48 * time.Hour})
				for range 24 {
					wait(10 * time.Minute)
					mustProve(t, a, caller)
				}
				if renewals, logins := v.Count(renewPath), v.Count(loginPath); renewals != 0 || logins < 12 || logins > 14 {
					t.Errorf("%d renewals and %d logins in four hours, want 0 and 12 to 14", renewals, logins)
				}
			})
		})
	}
}

// V-08: the first login waits for a Vault that is down, with growing pauses.
func TestFirstLogin(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		v := vaulttest.New(nil)
		v.Seal(true)
		role := v.EnableAppRole("approle", vaulttest.AppRole{Token: own})
		cfg := vault.Config{Address: address}
		cfg.SetDefaults()
		cfg.Login.AppRole = &vault.AppRole{RoleID: role.RoleID, SecretID: policy.NewSecret(role.SecretID)}
		var events []vault.Status
		a := start(t, cfg, vault.Deps{Transport: v.Transport(remote), OnLogin: func(s vault.Status) { events = append(events, s) }})
		token := v.CreateToken(vaulttest.Token{TTL: 48 * time.Hour})
		_, err := ask(a, token)
		wantFault(t, err, true)
		wait(5 * time.Minute)
		if n := v.Count(loginPath); n < 10 || n > 20 {
			t.Errorf("%d attempts in five minutes", n)
		}
		_, err = ask(a, token)
		wantFault(t, err, true)
		v.Seal(false)
		wait(31 * time.Second)
		mustProve(t, a, token)
		last := events[len(events)-1]
		if !events[0].Degraded || events[0].Name == "" || last.Degraded || !last.Usable || len(events) != v.Count(loginPath) {
			t.Errorf("%d events, the last %+v", len(events), last)
		}
		_ = a.Close()
	})
}

// The own token dies: one more login, and the caller notices nothing.
func TestOwnTokenRevoked(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	token := s.vault.CreateToken(vaulttest.Token{})
	mustProve(t, s, token)
	s.vault.RevokeAll(loginPath)
	s.clock.advance(10 * time.Second)
	mustProve(t, s, token)
	if n := s.vault.Count(loginPath); n != 2 {
		t.Errorf("%d logins, want 2", n)
	}
	_, err := ask(s, "hvs.CAESIunknownunknown")
	wantRefusal(t, err, policy.ReasonCredentialUnknown)
}

// "permission denied" is not "bad token": the caller is not refused for what Postern may
// not do, the login is not made again and again, and health does not hang on what
// callers send.
func TestOwnPolicyMissing(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	token := s.vault.CreateToken(vaulttest.Token{})
	mustProve(t, s, token)
	s.vault.SetPolicy("postern")
	s.clock.advance(time.Minute)
	for range 20 {
		_, err := ask(s, token)
		wantFault(t, err, false)
		if err != nil && !strings.Contains(err.Error(), "auth/token/lookup") {
			t.Errorf("%v does not say what to do", err)
		}
	}
	if logins, looks := s.vault.Count(loginPath), s.vault.Count(vaulttest.PathLookupSelf); logins != 1 || looks != 1 || s.Status().Degraded {
		t.Errorf("%d logins, %d looks at itself, status %+v", logins, looks, s.Status())
	}
	s.vault.SetPolicy("postern", vaulttest.PathLookup)
	mustProve(t, s, token)
}

// A token of a namespace that Postern does not reach is the same.
func TestForeignNamespace(t *testing.T) {
	t.Parallel()
	c := newClock()
	v := vaulttest.New(c.Now)
	v.CreateNamespace("ours")
	v.CreateNamespace("theirs")
	role := v.EnableAppRole("approle", vaulttest.AppRole{Token: vaulttest.Token{Namespace: "ours", Policies: own.Policies}})
	cfg := vault.Config{Address: address, Namespace: "/ours/"}
	cfg.SetDefaults()
	cfg.Login.AppRole = &vault.AppRole{RoleID: role.RoleID, SecretID: policy.NewSecret(role.SecretID)}
	a := start(t, cfg, vault.Deps{Now: c.Now, Transport: v.Transport(remote)})
	mustProve(t, a, v.CreateToken(vaulttest.Token{Namespace: "ours"}))
	_, err := ask(a, v.CreateToken(vaulttest.Token{Namespace: "theirs"}))
	wantFault(t, err, false)
}

// Each way to log in.
func TestLogins(t *testing.T) {
	t.Parallel()
	c := newClock()
	v := vaulttest.New(c.Now)
	s := vaulttest.StartTLS(t, v)
	role := v.EnableAppRole("machines/approle", vaulttest.AppRole{Token: own})
	bare := v.EnableAppRole("approle", vaulttest.AppRole{Token: own})
	s.EnableCert("cert", "postern", "postern.test", own)
	certFile, keyFile := s.ClientCert(t, "postern.test")
	otherCert, otherKey := s.ClientCert(t, "stranger.test")
	v.EnableKubernetes("kubernetes", "postern", "service-account-token", own)
	account := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(account, []byte("service-account-token\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	static := v.CreateToken(own)
	for name, test := range map[string]struct {
		login vault.Login
		fails string // what the error says; empty if it works
	}{
		"approle at another mount": {login: vault.Login{AppRole: &vault.AppRole{RoleID: role.RoleID, SecretID: policy.NewSecret(role.SecretID), Mount: "machines/approle"}}},
		"approle, wrong secret":    {login: vault.Login{AppRole: &vault.AppRole{RoleID: bare.RoleID, SecretID: policy.NewSecret("wrong-secret-id")}}, fails: "refuses the login at auth/approle/login"},
		"cert":                     {login: vault.Login{Cert: &vault.Cert{CertFile: certFile, KeyFile: keyFile}}},
		"cert, with the role":      {login: vault.Login{Cert: &vault.Cert{CertFile: certFile, KeyFile: keyFile, Role: "postern"}}},
		"cert, wrong role":         {login: vault.Login{Cert: &vault.Cert{CertFile: certFile, KeyFile: keyFile, Role: "another"}}, fails: "refuses the login at auth/cert/login"},
		"cert of a stranger":       {login: vault.Login{Cert: &vault.Cert{CertFile: otherCert, KeyFile: otherKey}}, fails: "refuses the login at auth/cert/login"},
		"kubernetes":               {login: vault.Login{Kubernetes: &vault.Kubernetes{Role: "postern", TokenFile: account}}},
		"kubernetes, no file":      {login: vault.Login{Kubernetes: &vault.Kubernetes{Role: "postern", TokenFile: account + "x"}}, fails: "token_file"},
		"token":                    {login: vault.Login{Token: policy.NewSecret(static)}},
		"token, dead":              {login: vault.Login{Token: policy.NewSecret("hvs.dead")}, fails: "expired, was revoked"},
		"token of few uses":        {login: vault.Login{Token: policy.NewSecret(v.CreateToken(vaulttest.Token{Policies: own.Policies, NumUses: 9}))}, fails: "token_num_uses"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := vault.Config{Address: s.URL, CAFile: s.CAFile, Login: test.login, Timeout: 5 * time.Second}
			a := start(t, cfg, vault.Deps{Now: c.Now})
			token := v.CreateToken(vaulttest.Token{})
			_, err := ask(a, token)
			if test.fails == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			wantFault(t, err, false)
			if err == nil || !strings.Contains(err.Error(), test.fails) || !a.Status().Degraded || a.Status().Usable {
				t.Errorf("%v, status %+v: want %q", err, a.Status(), test.fails)
			}
			for _, secret := range []string{"wrong-secret-id", "hvs.dead", token, "service-account-token"} {
				if strings.Contains(fmt.Sprintf("%v %+v", err, a.Status()), secret) {
					t.Error("the error shows a secret")
				}
			}
		})
	}
}

// A token of one's own that nobody renews: health says so in time.
func TestStaticTokenEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		v := vaulttest.New(nil)
		cfg := vault.Config{Address: address}
		cfg.SetDefaults()
		cfg.Login.Token = policy.NewSecret(v.CreateToken(vaulttest.Token{Policies: own.Policies, TTL: time.Hour, NotRenewable: true}))
		a := start(t, cfg, vault.Deps{Transport: v.Transport(remote)})
		token := v.CreateToken(vaulttest.Token{TTL: 48 * time.Hour})
		mustProve(t, a, token)
		wait(41 * time.Minute)
		if s := a.Status(); !s.Degraded || !s.Usable {
			t.Errorf("status %+v", s)
		}
		mustProve(t, a, token)
		wait(20 * time.Minute)
		_, err := ask(a, token)
		wantFault(t, err, false)
		_ = a.Close()
	})
}

// A periodic token of one's own lasts.
func TestStaticTokenIsRenewed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		v := vaulttest.New(nil)
		cfg := vault.Config{Address: address}
		cfg.SetDefaults()
		cfg.Login.Token = policy.NewSecret(v.CreateToken(vaulttest.Token{Policies: own.Policies, TTL: time.Hour}))
		a := start(t, cfg, vault.Deps{Transport: v.Transport(remote)})
		wait(24 * time.Hour)
		if s := a.Status(); s.Degraded || !s.Usable || v.Count(renewPath) < 30 {
			t.Errorf("%d renewals, status %+v", v.Count(renewPath), s)
		}
		_ = a.Close()
	})
}

// A reload takes the login over: a secret id of one use is enough for both.
func TestInherit(t *testing.T) {
	t.Parallel()
	c := newClock()
	v := vaulttest.New(c.Now)
	role := v.EnableAppRole("approle", vaulttest.AppRole{Token: own, SecretIDUses: 1})
	cfg := vault.Config{Address: address}
	cfg.SetDefaults()
	cfg.Login.AppRole = &vault.AppRole{RoleID: role.RoleID, SecretID: policy.NewSecret(role.SecretID)}
	token := v.CreateToken(vaulttest.Token{})
	old := start(t, cfg, vault.Deps{Now: c.Now, Transport: v.Transport(remote)})
	mustProve(t, old, token)

	again := cfg
	again.Roles = map[string][]string{"default": {"reader"}}
	a := start(t, again, vault.Deps{Now: c.Now, Transport: v.Transport(remote), Inherit: old})
	_ = old.Close()
	if proof := mustProve(t, a, token); len(proof.Principal.Roles) != 1 || v.Count(loginPath) != 1 {
		t.Errorf("%d logins, roles %v", v.Count(loginPath), proof.Principal.Roles)
	}

	changed := cfg
	changed.Login.AppRole = &vault.AppRole{RoleID: role.RoleID, SecretID: policy.NewSecret("another")}
	other := start(t, changed, vault.Deps{Now: c.Now, Transport: v.Transport(remote), Inherit: a})
	_, err := ask(other, token)
	wantFault(t, err, false)
}

// While Postern logs in, a caller waits no longer than it wants to, and takes nobody down
// when it leaves; Close ends the attempt.
func TestWaitingForTheLogin(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		v := vaulttest.New(nil)
		role := v.EnableAppRole("approle", vaulttest.AppRole{Token: own})
		hang := func(_ http.ResponseWriter, r *http.Request) bool {
			<-r.Context().Done()
			return true
		}
		v.Answer(hang)
		cfg := vault.Config{Address: address}
		cfg.SetDefaults()
		cfg.Login.AppRole = &vault.AppRole{RoleID: role.RoleID, SecretID: policy.NewSecret(role.SecretID)}
		a := start(t, cfg, vault.Deps{Transport: v.Transport(remote)})
		token := v.CreateToken(vaulttest.Token{TTL: time.Hour})
		began := time.Now()
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_, err := a.Authenticate(ctx, credential(token))
		if took := time.Since(began); !errors.Is(err, context.DeadlineExceeded) || took != time.Second {
			t.Errorf("after %s: %v", took, err)
		}
		_, err = ask(a, token)
		if took := time.Since(began); took != 5*time.Second {
			t.Errorf("an attempt took %s, want 5s", took)
		}
		wantFault(t, err, true)
		v.Answer(nil)
		wait(2 * time.Second)
		mustProve(t, a, token)
		v.Answer(hang)
		v.RevokeAll(loginPath)
		_ = a.Close()
		_ = a.Close()
	})
}

// However many tokens somebody makes up, Vault is asked about so many at once.
func TestQuestionsAtOnce(t *testing.T) {
	t.Parallel()
	bubble(t, vaulttest.AppRole{Token: own}, func(t *testing.T, v *vaulttest.Vault, a *vault.Authenticator) {
		release := make(chan struct{})
		v.Answer(func(http.ResponseWriter, *http.Request) bool {
			<-release
			return false
		})
		var callers sync.WaitGroup
		for i := range 100 {
			callers.Go(func() {
				_, err := ask(a, fmt.Sprintf("hvs.CAESImadeup%d", i))
				wantFault(t, err, strings.Contains(err.Error(), "deadline"))
			})
		}
		wait(time.Second)
		if n := v.Count(vaulttest.PathLookup); n != 64 {
			t.Errorf("%d lookups at once, want 64", n)
		}
		close(release)
		callers.Wait()
	})
}
