package introspect_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn"
	"github.com/postern-auth/postern/server/authn/introspect"
	"github.com/postern-auth/postern/server/jose"
	"github.com/postern-auth/postern/server/outbound"
	"github.com/postern-auth/postern/server/strictyaml"
)

// asked is what an issuer saw of a question.
type asked struct {
	authorization string
	form          url.Values
}

// listen answers that every token is active, and keeps the last question.
func listen(t *testing.T, last *asked) http.RoundTripper {
	t.Helper()
	return &issuer{answer: func(r *http.Request) (*http.Response, error) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		form, err := url.ParseQuery(string(body))
		if err != nil || r.URL.RawQuery != "key=query-secret" {
			t.Errorf("%v, query %q", err, r.URL.RawQuery)
		}
		*last = asked{r.Header.Get("Authorization"), form}
		return reply(200, "application/json", active("alice").json()), nil
	}}
}

func mustAsk(t *testing.T, a *introspect.Authenticator) {
	t.Helper()
	if got := outcome(a.Authenticate(t.Context(), credential("a+b/c="))); got != "alice" {
		t.Fatal(got)
	}
}

// G-13 (RFC 7662 section 2.1, RFC 6749 section 2.3.1): the question, and how Postern
// proves itself with a secret.
func TestQuestion(t *testing.T) {
	t.Parallel()
	var last asked
	cfg := config()
	cfg.ClientID = "post ern:1"
	mustAsk(t, made(t, listen(t, &last), cfg))
	user, password, _ := (&http.Request{Header: http.Header{"Authorization": {last.authorization}}}).BasicAuth()
	id, _ := url.QueryUnescape(user)
	secret, _ := url.QueryUnescape(password)
	if id != cfg.ClientID || secret != clientSecret || strings.ContainsAny(user+password, ": %&ä") && !strings.Contains(password, "%") {
		t.Errorf("basic of %q and %q", user, password)
	}
	if last.form.Get("token") != "a+b/c=" || last.form.Get("token_type_hint") != "access_token" || len(last.form) != 2 {
		t.Errorf("form %v", last.form)
	}

	cfg.Auth = introspect.AuthPost
	mustAsk(t, made(t, listen(t, &last), cfg))
	if last.authorization != "" || last.form.Get("client_id") != cfg.ClientID || last.form.Get("client_secret") != clientSecret {
		t.Errorf("post: %+v", last)
	}

	cfg.Auth, cfg.ClientID, cfg.ClientSecret, cfg.BearerToken = "", "", policy.Secret{}, policy.NewSecret("of-ours")
	mustAsk(t, made(t, listen(t, &last), cfg))
	if last.authorization != "Bearer of-ours" || len(last.form) != 2 {
		t.Errorf("bearer: %+v", last)
	}
}

// G-13 (RFC 7523 section 3): an assertion is signed for this issuer, counts for one
// minute, and no two are the same.
func TestPrivateKey(t *testing.T) {
	t.Parallel()
	_, edwards, _ := ed25519.GenerateKey(rand.Reader)
	curve, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	modulus, _ := rsa.GenerateKey(rand.Reader, 2048)
	for algorithm, key := range map[string]crypto.Signer{"EdDSA": edwards, "ES256": curve, "RS256": modulus} {
		t.Run(algorithm, func(t *testing.T) {
			t.Parallel()
			var last asked
			cfg := config()
			cfg.ClientSecret, cfg.KeyFile, cfg.KeyID = policy.Secret{}, strictyaml.Path(keyFile(t, key)), "k1"
			a := made(t, listen(t, &last), cfg)
			seen := map[string]bool{}
			for range 3 {
				mustAsk(t, a)
				if last.authorization != "" || last.form.Get("client_assertion_type") != "urn:ietf:params:oauth:client-assertion-type:jwt-bearer" {
					t.Errorf("%+v", last)
				}
				token, err := jose.ParseCompact(last.form.Get("client_assertion"), jose.Limits{})
				if err != nil {
					t.Fatal(err)
				}
				if _, err := jose.Verify(token, []*jose.Key{{ID: "k1", Public: key.Public()}}, []string{algorithm}); err != nil {
					t.Error(err)
				}
				claims := token.Claims()
				iat, _ := claims.Get("iat").NumericDate()
				exp, _ := claims.Get("exp").NumericDate()
				jti, _ := claims.Get("jti").Text()
				if !claims.Get("iss").Is("postern") || !claims.Get("sub").Is("postern") || !claims.Get("aud").Is(issuerURL) || token.KeyID() != "k1" ||
					!iat.Equal(start) || exp.Sub(iat) != time.Minute || len(jti) < 20 || seen[jti] {
					t.Errorf("%s", last.form.Get("client_assertion"))
				}
				seen[jti] = true
			}
		})
	}
}

func keyFile(t *testing.T, key any) string {
	t.Helper()
	return write(t, "key.pem", pemOf(t, key))
}

func write(t *testing.T, name string, data []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// real is a configuration for a server of a test, without the guards that such a one
// would not pass.
func real(at string) introspect.Config {
	cfg := config()
	cfg.URL = at
	cfg.HTTP.InsecureAllowHTTP, cfg.HTTP.InsecureAllowPrivateAddresses = true, true
	return cfg
}

func live(t *testing.T, cfg introspect.Config) *introspect.Authenticator {
	t.Helper()
	return made(t, nil, cfg)
}

func serve(t *testing.T, h http.HandlerFunc) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s
}

// INTROSPECT-03, INTROSPECT-01: over a real connection, whatever the endpoint does is
// denied in its time and in bounded memory, and leads nowhere else.
func TestFaultsOfEndpoint(t *testing.T) {
	hang := func(r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // only then does the server notice that the client has left
		<-r.Context().Done()
	}
	var trapped atomic.Int32
	trap := serve(t, func(http.ResponseWriter, *http.Request) { trapped.Add(1) })
	megabyte := make([]byte, 1<<20)
	for name, tt := range map[string]struct {
		handle http.HandlerFunc
		want   string
	}{
		"hangs": {func(_ http.ResponseWriter, r *http.Request) { hang(r) }, "unreachable"},
		"drips": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, `{"active":true,`)
			w.(http.Flusher).Flush()
			hang(r)
		}, "unreachable"},
		"10 GB": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			for range 10 << 10 {
				if _, err := w.Write(megabyte); err != nil {
					return
				}
			}
		}, "fault"},
		"10 GB announced": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("Content-Length", "10000000000")
			_, _ = w.Write(megabyte)
		}, "fault"},
		"huge header": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("X", strings.Repeat("x", 1<<20))
			_, _ = io.WriteString(w, active("alice").json())
		}, "fault"},
		"redirect": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, trap.URL, http.StatusTemporaryRedirect)
		}, "fault"},
		"redirect to metadata": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://169.254.169.254/latest/meta-data/", http.StatusFound)
		}, "fault"},
		"closes": {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, "unreachable"},
		"less than announced": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("Content-Length", "1000")
			_, _ = io.WriteString(w, active("alice").json())
		}, "unreachable"},
		"no content": {func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusNoContent) }, "fault"},
	} {
		t.Run("INTROSPECT-03/"+name, func(t *testing.T) {
			cfg := real(serve(t, tt.handle).URL)
			cfg.HTTP.Timeout = 100 * time.Millisecond
			if name != "hangs" && name != "drips" {
				cfg.HTTP.Timeout = 10 * time.Second
			}
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			proof, err := live(t, cfg).Authenticate(t.Context(), credential("opaque"))
			runtime.ReadMemStats(&after)
			if got := outcome(proof, err); got != tt.want {
				t.Errorf("%s (%v), want %s", got, err, tt.want)
			}
			if grown := after.TotalAlloc - before.TotalAlloc; grown > 8<<20 {
				t.Errorf("%d MiB allocated", grown>>20)
			}
		})
	}
	if trapped.Load() != 0 {
		t.Error("a redirect was followed")
	}
}

// INTROSPECT-03, O-01: whom a connection leads to, and who may be at its other end.
func TestConnection(t *testing.T) {
	t.Parallel()
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, active("alice").with("iss", "https://"+r.Host).json())
	}))
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	t.Cleanup(server.Close)
	ca := write(t, "ca.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}))
	_, port, _ := net.SplitHostPort(server.Listener.Addr().String())
	for name, tt := range map[string]struct {
		change func(*introspect.Config)
		want   string
	}{
		"good":              {func(c *introspect.Config) {}, "alice"},
		"unknown authority": {func(c *introspect.Config) { c.HTTP.CAFile = "" }, "fault"},
		"another name":      {func(c *introspect.Config) { c.URL = "https://localhost:" + port }, "fault"},
		"private address": {func(c *introspect.Config) {
			c.URL, c.HTTP.InsecureAllowPrivateAddresses = "https://localhost:"+port, false
		}, "fault"},
		"nobody listens":     {func(c *introspect.Config) { c.URL = "https://127.0.0.1:1" }, "unreachable"},
		"plain to encrypted": {func(c *introspect.Config) { c.URL, c.HTTP.InsecureAllowHTTP = "http://127.0.0.1:"+port, true }, "fault"},
	} {
		cfg := real(server.URL)
		cfg.HTTP.CAFile, cfg.HTTP.InsecureAllowHTTP, cfg.HTTP.Timeout = ca, false, 10*time.Second
		tt.change(&cfg)
		proof, err := live(t, cfg).Authenticate(t.Context(), credential("opaque"))
		if got := outcome(proof, err); got != tt.want {
			t.Errorf("%s: %s (%v), want %s", name, got, err, tt.want)
		}
	}
	cfg := real("https://127.0.0.1")
	cfg.HTTP.InsecureAllowPrivateAddresses = false
	if _, err := introspect.New(cfg, introspect.Deps{}); err == nil || !strings.Contains(err.Error(), "insecure_allow_private_addresses") {
		t.Errorf("a private address in the configuration: %v", err)
	}
}

// Connections are kept, and one that the endpoint has closed meanwhile fails nobody.
func TestConnectionsAreKept(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	var connections atomic.Int32
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, active("alice").with("iss", "http://"+r.Host).json())
	}))
	server.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			connections.Add(1)
		}
	}
	server.Start()
	defer server.Close()
	a := live(t, real(server.URL))
	for range 10 {
		mustAsk(t, a)
	}
	if n := connections.Load(); n != 1 {
		t.Errorf("%d connections", n)
	}
	server.CloseClientConnections()
	mustAsk(t, a)
	if err := a.Close(); err != nil {
		t.Error(err)
	}
}

// INTROSPECT-04: while the endpoint is down, 5,000 tokens a second cause no more than
// ten questions a second, every one of them is answered within 5 ms once the breaker is
// open, and the endpoint is used again within 5 s of being well.
func TestDownUnderLoad(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		i := &issuer{}
		down := func(r *http.Request) (*http.Response, error) { // silence, the worst way to be down
			<-r.Context().Done()
			return nil, r.Context().Err()
		}
		i.will(down)
		cfg := config()
		a, err := introspect.New(cfg, introspect.Deps{Transport: i})
		if err != nil {
			t.Fatal(err)
		}
		c := authn.NewCached(a, cfg.CacheConfig())
		var group sync.WaitGroup
		var late atomic.Int32
		ask := func(n int, patience time.Duration) {
			group.Go(func() {
				begin := time.Now()
				if got := outcome(c.Authenticate(t.Context(), credential(fmt.Sprint("opaque-", n)))); got != "unreachable" && got != "fault" {
					t.Errorf("%s while the endpoint is down", got)
				}
				if time.Since(begin) > patience {
					late.Add(1)
				}
			})
		}
		for n := range 100 { // until it opens
			ask(n, time.Second)
		}
		group.Wait()
		if a.Status().Usable || late.Load() != 0 {
			t.Fatalf("%+v, %d late", a.Status(), late.Load())
		}
		before := i.count()
		const seconds, rate = 3, 5000
		for n := range seconds * rate {
			ask(1000+n, 5*time.Millisecond)
			time.Sleep(time.Second / rate)
		}
		group.Wait()
		probes := i.count() - before
		if probes == 0 || probes > 10*seconds {
			t.Errorf("%d questions in %d seconds", probes, seconds)
		}
		t.Logf("%d questions in %d seconds of %d tokens each", probes, seconds, rate)
		if n := int(late.Load()); n > probes { // who probes waits
			t.Errorf("%d callers waited, %d questions were asked", n, probes)
		}
		i.will(nil)
		i.set("opaque", members{"active": true, "sub": "alice", "aud": "orders"}.json())
		well := time.Now()
		for outcome(c.Authenticate(t.Context(), credential("opaque"))) != "alice" {
			time.Sleep(10 * time.Millisecond)
			if time.Since(well) > 5*time.Second {
				t.Fatal("not used again within 5 s")
			}
		}
		if s := a.Status(); !s.Usable || s.Err != nil || s.Asking != 0 {
			t.Errorf("%+v", s)
		}
	})
}

// What a token brings about by its text does not open the breaker for others, or
// strangers could shut out everybody.
func TestStrangersDoNotOpenTheBreaker(t *testing.T) {
	t.Parallel()
	for _, answer := range []func(*http.Request) (*http.Response, error){
		always(400, "", ""), always(403, "text/html", "blocked"), always(404, "", ""), always(200, "text/html", ""), always(200, "application/json", "{"),
		always(200, "application/json", strings.Repeat(" ", 100<<10)),
	} {
		a := made(t, &issuer{answer: answer}, config())
		for range 20 {
			_, _ = a.Authenticate(t.Context(), credential("../../etc/passwd"))
		}
		if s := a.Status(); !s.Usable || s.Failures != 0 {
			t.Errorf("%+v", s)
		}
	}
	a := made(t, &issuer{answer: always(429, "", "")}, config())
	for range 5 {
		_, _ = a.Authenticate(t.Context(), credential("opaque"))
	}
	if a.Status().Usable {
		t.Error("an endpoint that has had enough of us is asked on")
	}
}

// E-05: a thousand callers with one cold token cause one question.
func TestOneQuestion(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		i := &issuer{}
		i.will(func(*http.Request) (*http.Response, error) {
			time.Sleep(100 * time.Millisecond)
			return reply(200, "application/json", `{"active":true,"sub":"alice","aud":"orders"}`), nil
		})
		cfg := config()
		a, err := introspect.New(cfg, introspect.Deps{Transport: i})
		if err != nil {
			t.Fatal(err)
		}
		c := authn.NewCached(a, cfg.CacheConfig())
		var group sync.WaitGroup
		for range 1000 {
			group.Go(func() {
				if got := outcome(c.Authenticate(t.Context(), credential("cold"))); got != "alice" {
					t.Error(got)
				}
			})
		}
		group.Wait()
		if i.count() != 1 {
			t.Errorf("%d questions", i.count())
		}
	})
}

// No more questions are under way than max_concurrent. Who waits too long for a turn
// hears so, which is not held against the issuer.
func TestConcurrencyIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var under, most atomic.Int32
		i := &issuer{}
		i.will(func(*http.Request) (*http.Response, error) {
			if n := under.Add(1); n > most.Load() {
				most.Store(n)
			}
			defer under.Add(-1)
			time.Sleep(400 * time.Millisecond)
			return reply(200, "application/json", `{"active":true,"sub":"alice","aud":"orders"}`), nil
		})
		cfg := config()
		cfg.MaxConcurrent = 3
		a, err := introspect.New(cfg, introspect.Deps{Transport: i})
		if err != nil {
			t.Fatal(err)
		}
		outcomes := make(chan string, 9)
		for range 9 {
			go func() { outcomes <- outcome(a.Authenticate(t.Context(), credential("opaque"))) }()
		}
		count := map[string]int{}
		for range 9 {
			count[<-outcomes]++
		}
		// Three are answered after 400 ms, three more begin then and have 100 ms left.
		if most.Load() != 3 || count["alice"] != 6 || count["fault"] != 3 {
			t.Errorf("%d at once, %v", most.Load(), count)
		}
		if !a.Status().Usable {
			t.Errorf("%+v", a.Status())
		}
	})
}

// A caller who gives up says nothing about the issuer.
func TestCallerGivesUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		i := &issuer{answer: func(r *http.Request) (*http.Response, error) {
			<-r.Context().Done()
			return nil, r.Context().Err()
		}}
		a, err := introspect.New(config(), introspect.Deps{Transport: i})
		if err != nil {
			t.Fatal(err)
		}
		for range 10 {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
			_, err := a.Authenticate(ctx, credential("opaque"))
			cancel()
			if err == nil {
				t.Error("a proof")
			}
		}
		if s := a.Status(); !s.Usable || s.Failures != 0 {
			t.Errorf("%+v", s)
		}
	})
}

// O-01: the endpoint is found by the issuer's metadata, which must be its own, and found
// again when it moves. While the metadata cannot be had, the last one is used.
func TestDiscovery(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		pages := map[string]string{issuerURL + "/.well-known/oauth-authorization-server": `{"issuer":"` + issuerURL + `","introspection_endpoint":"` + issuerURL + `/v1"}`}
		fetched, endpoint := 0, ""
		i := &issuer{answer: func(r *http.Request) (*http.Response, error) {
			mu.Lock()
			defer mu.Unlock()
			if r.Method == http.MethodPost {
				endpoint = r.URL.String()
				return reply(200, "application/json", `{"active":true,"sub":"alice","aud":"orders"}`), nil
			}
			fetched++
			if page, ok := pages[r.URL.String()]; ok {
				if page == "down" {
					return nil, io.EOF
				}
				return reply(200, "application/json", page), nil
			}
			return reply(404, "text/plain", ""), nil
		}}
		cfg := config()
		cfg.URL, cfg.Issuer = "", issuerURL
		a, err := introspect.New(cfg, introspect.Deps{Transport: i})
		if err != nil {
			t.Fatal(err)
		}
		ask := func(want string) {
			t.Helper()
			if got := outcome(a.Authenticate(t.Context(), credential("opaque"))); got != "alice" {
				t.Fatal(got)
			}
			if mu.Lock(); endpoint != issuerURL+want {
				t.Errorf("asked at %s", endpoint)
			}
			mu.Unlock()
		}
		put := func(page string) {
			mu.Lock()
			pages[issuerURL+"/.well-known/oauth-authorization-server"] = page
			mu.Unlock()
		}
		var group sync.WaitGroup
		for range 20 {
			group.Go(func() { ask("/v1") })
		}
		group.Wait()
		if fetched != 2 {
			t.Errorf("%d fetches", fetched)
		}
		put(`{"issuer":"` + issuerURL + `","introspection_endpoint":"` + issuerURL + `/v2"}`)
		ask("/v1")
		time.Sleep(time.Hour)
		ask("/v1") // nobody waits for the news
		synctest.Wait()
		ask("/v2")
		put("down")
		time.Sleep(time.Hour)
		ask("/v2")
		synctest.Wait()
		before := fetched
		ask("/v2")
		synctest.Wait()
		if fetched != before {
			t.Error("looked again at once")
		}
	})
	for name, page := range map[string]string{
		"another issuer":   `{"issuer":"` + issuerURL + `/","introspection_endpoint":"` + issuerURL + `/v1"}`,
		"another host":     `{"issuer":"` + issuerURL + `","introspection_endpoint":"https://evil.test/v1"}`,
		"http":             `{"issuer":"` + issuerURL + `","introspection_endpoint":"http://issuer.test/v1"}`,
		"metadata service": `{"issuer":"` + issuerURL + `","introspection_endpoint":"https://169.254.169.254/"}`,
		"none":             `{"issuer":"` + issuerURL + `"}`,
		"twice":            `{"issuer":"` + issuerURL + `","introspection_endpoint":"https://a.test/","introspection_endpoint":"` + issuerURL + `/v1"}`,
	} {
		posted := false
		i := &issuer{answer: func(r *http.Request) (*http.Response, error) {
			posted = posted || r.Method == http.MethodPost
			return reply(200, "application/json", page), nil
		}}
		cfg := config()
		cfg.URL, cfg.Issuer = "", issuerURL
		if got := outcome(made(t, i, cfg).Authenticate(t.Context(), credential("opaque"))); got != "fault" || posted {
			t.Errorf("%s: %s, a token was sent: %v", name, got, posted)
		}
	}
}

// Metadata that takes longer than a question is found all the same.
func TestDiscoverySlow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		i := &issuer{answer: func(r *http.Request) (*http.Response, error) {
			if r.Method == http.MethodPost {
				return reply(200, "application/json", `{"active":true,"sub":"alice","aud":"orders"}`), nil
			}
			select {
			case <-time.After(2 * time.Second):
				return reply(200, "application/json", `{"issuer":"`+issuerURL+`","introspection_endpoint":"`+issuerURL+`/v1"}`), nil
			case <-r.Context().Done():
				return nil, r.Context().Err()
			}
		}}
		cfg := config()
		cfg.URL, cfg.Issuer = "", issuerURL
		a, err := introspect.New(cfg, introspect.Deps{Transport: i})
		if err != nil {
			t.Fatal(err)
		}
		if got := outcome(a.Authenticate(t.Context(), credential("opaque"))); got != "unreachable" {
			t.Error(got)
		}
		time.Sleep(2 * time.Second)
		if got := outcome(a.Authenticate(t.Context(), credential("opaque"))); got != "alice" {
			t.Error(got)
		}

		i.will(func(r *http.Request) (*http.Response, error) {
			<-r.Context().Done()
			return nil, r.Context().Err()
		})
		time.Sleep(time.Hour)
		_, _ = a.Authenticate(t.Context(), credential("opaque"))
		_ = a.Close() // or the search would go on for seconds
	})
}

// An endpoint that is down while it is looked for can be bridged like one that is down.
func TestDiscoveryDown(t *testing.T) {
	t.Parallel()
	for want, answer := range map[string]func(*http.Request) (*http.Response, error){
		"unreachable": func(*http.Request) (*http.Response, error) { return nil, io.EOF },
		"fault":       always(404, "", ""),
	} {
		cfg := config()
		cfg.URL, cfg.Issuer = "", issuerURL
		_, err := made(t, &issuer{answer: answer}, cfg).Authenticate(t.Context(), credential("opaque"))
		if got := outcome(nil, err); got != want || errors.Is(err, outbound.ErrAddress) {
			t.Errorf("%s (%v), want %s", got, err, want)
		}
	}
}

// RFC 8705 section 2: Postern proves itself by a certificate.
func TestClientCertificate(t *testing.T) {
	t.Parallel()
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if r.FormValue("client_id") == "postern" && len(r.TLS.PeerCertificates) == 1 {
			_, _ = io.WriteString(w, active("alice").with("iss", "https://"+r.Host).json())
			return
		}
		_, _ = io.WriteString(w, `{"active":false}`)
	}))
	certificate, key := selfSigned(t)
	server.TLS = demandCertificate(t, certificate)
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	t.Cleanup(server.Close)
	cfg := real(server.URL)
	cfg.ClientSecret = policy.Secret{}
	cfg.HTTP.CAFile = write(t, "ca.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}))
	cfg.HTTP.Timeout = 10 * time.Second
	cfg.HTTP.ClientCertFile, cfg.HTTP.ClientKeyFile = certificate, key
	mustAsk(t, live(t, cfg))
	cfg.HTTP.ClientCertFile, cfg.HTTP.ClientKeyFile = "", ""
	cfg.ClientSecret = policy.NewSecret("x")
	if got := outcome(live(t, cfg).Authenticate(t.Context(), credential("opaque"))); got != "fault" {
		t.Errorf("without a certificate: %s", got)
	}
}
