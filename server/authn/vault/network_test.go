package vault_test

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn"
	"github.com/postern-auth/postern/server/authn/vault"
	"github.com/postern-auth/postern/server/authn/vault/vaulttest"
)

// listening starts a Vault on loopback, and returns a configuration for it.
func listening(t *testing.T, tls bool) (*vaulttest.Server, vault.Config) {
	t.Helper()
	v := vaulttest.New(nil)
	role := v.EnableAppRole("approle", vaulttest.AppRole{Token: own})
	s := &vaulttest.Server{}
	if tls {
		s = vaulttest.StartTLS(t, v)
	} else {
		s = vaulttest.Start(t, v)
	}
	cfg := good()
	cfg.Address, cfg.CAFile, cfg.InsecureAllowHTTP = s.URL, s.CAFile, !tls
	cfg.Login.AppRole = &vault.AppRole{RoleID: role.RoleID, SecretID: policy.NewSecret(role.SecretID)}
	cfg.Timeout = 5 * time.Second // of a machine that is busy with other tests
	return s, cfg
}

// V-12, V-01: over a real connection, with TLS and without, keeping it open.
func TestOverTheNetwork(t *testing.T) {
	t.Parallel()
	for _, tls := range []bool{true, false} {
		s, cfg := listening(t, tls)
		token := s.CreateToken(vaulttest.Token{})
		a := start(t, cfg, vault.Deps{})
		for range 3 {
			mustProve(t, a, token)
		}
		s.Revoke(token)
		_, err := ask(a, token)
		wantRefusal(t, err, policy.ReasonCredentialUnknown)

		cfg.Mode, cfg.Login = vault.LookupSelf, vault.Login{}
		mustProve(t, start(t, cfg, vault.Deps{}), s.CreateToken(vaulttest.Token{BoundCIDRs: []string{"127.0.0.0/8"}}))
	}
}

// Whoever is not the Vault that was meant gets no token to see.
func TestNotTheRightServer(t *testing.T) {
	t.Parallel()
	s, cfg := listening(t, true)
	cfg.CAFile = ""
	a := start(t, cfg, vault.Deps{})
	_, err := ask(a, s.CreateToken(vaulttest.Token{}))
	wantFault(t, err, false)
	if n := s.Count(loginPath) + s.Count(vaulttest.PathLookup); n != 0 {
		t.Errorf("%d requests to a server without a good certificate", n)
	}

	plain := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("a redirect was followed") }))
	t.Cleanup(plain.Close)
	s, cfg = listening(t, true)
	s.Answer(func(w http.ResponseWriter, r *http.Request) bool {
		http.Redirect(w, r, plain.URL, http.StatusTemporaryRedirect)
		return true
	})
	cfg.Mode, cfg.Login = vault.LookupSelf, vault.Login{}
	_, err = ask(start(t, cfg, vault.Deps{}), s.CreateToken(vaulttest.Token{}))
	wantFault(t, err, true)
}

// Slow, silent, cut off, endless: could not find out, in bounded time and memory.
func TestBadServers(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		serve       http.HandlerFunc
		unreachable bool
	}{
		"slow":    {func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, true},
		"cut off": {hangUp, true},
		"stops in the middle": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "1000")
			_, _ = w.Write([]byte(`{"data":`))
		}, true},
		"trickles": {func(w http.ResponseWriter, r *http.Request) {
			_, _ = w.Write([]byte(`{"data":`))
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		}, true},
		"endless": {func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				if _, err := w.Write([]byte(strings.Repeat(" ", 64<<10))); err != nil {
					return
				}
			}
		}, false},
		"100 MB": {func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Content-Length", fmt.Sprint(100<<20)) }, false},
		"a web page": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/html")
			_, _ = w.Write([]byte("<html>sign in</html>"))
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := httptest.NewServer(test.serve)
			t.Cleanup(server.Close)
			cfg := vault.Config{Address: server.URL, Mode: vault.LookupSelf, InsecureAllowHTTP: true, Timeout: 100 * time.Millisecond}
			if name == "endless" || name == "100 MB" {
				cfg.Timeout = 5 * time.Second
			}
			_, err := ask(start(t, cfg, vault.Deps{}), question)
			wantFault(t, err, test.unreachable)
		})
	}
	closed := httptest.NewServer(http.NotFoundHandler())
	closed.Close()
	_, err := ask(start(t, vault.Config{Address: closed.URL, Mode: vault.LookupSelf, InsecureAllowHTTP: true}, vault.Deps{}), question)
	wantFault(t, err, true)
}

func hangUp(w http.ResponseWriter, _ *http.Request) {
	if conn, _, err := w.(http.Hijacker).Hijack(); err == nil {
		_ = conn.(*net.TCPConn).SetLinger(0)
		_ = conn.Close()
	}
}

// An Agent that puts its own token in the place of the caller's makes everybody the
// agent; it is noticed.
func TestAgentThatUsesItsOwnToken(t *testing.T) {
	t.Parallel()
	s, cfg := listening(t, false)
	cfg.Mode, cfg.Login = vault.LookupSelf, vault.Login{}
	agents := s.CreateToken(vaulttest.Token{Policies: []string{"default", "admin"}})
	s.Answer(func(_ http.ResponseWriter, r *http.Request) bool {
		r.Header.Set("X-Vault-Token", agents)
		return false
	})
	_, err := ask(start(t, cfg, vault.Deps{}), s.CreateToken(vaulttest.Token{}))
	wantFault(t, err, false)
}

// BenchmarkCold is a lookup over a kept connection, without TLS; BenchmarkWarm is a proof
// from the cache.
func BenchmarkCold(b *testing.B) {
	a, token := benchmarked(b)
	c := credential(token)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := a.Authenticate(b.Context(), c); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkWarm(b *testing.B) {
	a, token := benchmarked(b)
	cached := authn.NewCached(a, authn.CacheConfig{})
	c := credential(token)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := cached.Authenticate(b.Context(), c); err != nil {
			b.Fatal(err)
		}
	}
}

func benchmarked(b *testing.B) (*vault.Authenticator, string) {
	b.Helper()
	v := vaulttest.New(nil)
	s := vaulttest.Start(b, v)
	static := v.CreateToken(vaulttest.Token{Policies: own.Policies})
	a, err := vault.New(vault.Config{Address: s.URL, InsecureAllowHTTP: true, Login: vault.Login{Token: policy.NewSecret(static)}}, vault.Deps{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = a.Close() })
	return a, v.CreateToken(vaulttest.Token{})
}
