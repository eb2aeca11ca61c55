package login_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn"
	"github.com/postern-auth/postern/server/authn/session"
	"github.com/postern-auth/postern/server/canonical"
	"github.com/postern-auth/postern/server/check"
	"github.com/postern-auth/postern/server/door/login"
	"github.com/postern-auth/postern/server/password"
	"github.com/postern-auth/postern/server/seal"
)

var noon = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

// world is a Handler with real passwords, real sessions and a real Checker over users
// in memory.
type world struct {
	*login.Handler
	cfg     login.Config
	deps    login.Deps
	hasher  *password.Hasher
	peppers *seal.Peppers
	log     bytes.Buffer

	mu       sync.Mutex
	now      time.Time
	users    map[string]string // name to hash; "" is a user without a password
	sessions map[string]*record
	fault    error
	asked    int
}

type record struct {
	digest seal.Digest
	user   string
	end    time.Time
	over   bool
}

func (r *record) Seal() (*[32]byte, uint16) {
	sum := r.digest.Sum()
	return &sum, r.digest.Pepper()
}

func (r *record) Open(time.Time) (*authn.Proof, error) {
	if r.over {
		return nil, authn.Refuse(policy.ReasonRevoked, "")
	}
	id := r.user + "-1"
	return &authn.Proof{
		Principal: &policy.Principal{ID: r.user, Kind: policy.KindUser, Method: policy.MethodSession, Assurance: 1, CredentialID: id, ExpiresAt: r.end},
		Subject:   authn.Subject{SessionID: id}, State: policy.StateMirror, NotAfter: r.end,
	}, nil
}

// ByID and ByDigest play the mirror.
func (w *world) ByID(id string) authn.Sealed {
	w.mu.Lock()
	defer w.mu.Unlock()
	if r := w.sessions[id]; r != nil {
		return r
	}
	return nil
}

func (w *world) ByDigest([32]byte) authn.Sealed { return nil }

// Login and Logout play the registry.
func (w *world) Login(ctx context.Context, _ netip.Addr, _, user string, pw policy.Secret) (login.Session, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asked++
	if w.fault != nil {
		return login.Session{}, w.fault
	}
	ok, err := w.hasher.Verify(ctx, w.users[user], pw)
	if err != nil {
		return login.Session{}, err
	}
	if !ok {
		return login.Session{}, login.ErrFailed
	}
	m, err := seal.Mint(rand.Reader, seal.Spec{Kind: seal.KindSession}, w.peppers)
	if err != nil {
		return login.Session{}, err
	}
	w.sessions[m.ID] = &record{digest: m.Digest, user: user, end: w.now.Add(8 * time.Hour)}
	return login.Session{ID: user + "-1", Secret: m.Secret, User: user, ExpiresAt: w.now.Add(8 * time.Hour)}, nil
}

func (w *world) Logout(_ context.Context, p *policy.Principal) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, r := range w.sessions {
		r.over = r.over || r.user == p.ID
	}
	return w.fault
}

// never is a policy that is not asked.
type never struct{}

func (never) Decide(context.Context, *policy.Input) (*policy.Verdict, bool, error) {
	return nil, false, errors.New("asked")
}
func (never) Revision() string { return "" }

func (w *world) clock() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

func (w *world) pass(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = w.now.Add(d)
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// hashes are of "secret", made once: making them is meant to take long.
var hashes = sync.OnceValue(func() string {
	h := must(password.New(password.Config{}, password.Deps{}))
	return must(h.Hash(context.Background(), policy.NewSecret("secret")))
})

func newWorld(t *testing.T, cfg login.Config) *world {
	t.Helper()
	w := &world{
		cfg: cfg, now: noon, sessions: map[string]*record{}, users: map[string]string{"alice": hashes(), "bob": hashes(), "robot": ""},
		hasher:  must(password.New(password.Config{}, password.Deps{})),
		peppers: must(seal.NewPeppers([]seal.Pepper{{Version: 1, Secret: policy.NewSecret("the pepper of these tests and of nothing else")}})),
	}
	sessions := must(session.New(session.Config{}, session.Deps{Index: w, Peppers: w.peppers, Now: w.clock}))
	reader := must(canonical.New(canonical.Config{}))
	at := must(authn.ParseLocation("cookie:" + cfg.WithDefaults().Cookie))
	rules := []authn.Rule{{From: at, Uses: []policy.Method{policy.MethodSession}}}
	log := slog.New(slog.NewTextHandler(&w.log, nil))
	checker := check.New(check.Config{
		Reader: reader, Extractor: authn.NewExtractor(rules), Rules: rules, Decider: never{}, Now: w.clock, Logger: log,
		Authenticator: authn.Chain{{Method: policy.MethodSession, Authenticator: sessions}},
	})
	w.deps = login.Deps{Accounts: w, Prover: checker, Tokens: sessions, Reader: reader, Logger: log, Now: w.clock}
	w.Handler = login.New(cfg, w.deps)
	return w
}

const formType = "application/x-www-form-urlencoded"

// ask sends a request over TLS from 192.0.2.1 to https://app.test, with header fields
// as name, value, ….
func (w *world) ask(method, path, body string, fields ...string) *http.Response {
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	r.Host, r.TLS = "app.test", &tls.ConnectionState{}
	if body != "" {
		r.Header.Set("Content-Type", formType)
	}
	for i := 0; i < len(fields); i += 2 {
		switch {
		case fields[i] == "from":
			r.RemoteAddr = fields[i+1]
		case fields[i] == "host":
			r.Host = fields[i+1]
		case fields[i] == "plaintext":
			r.TLS = nil
		case fields[i] == "content-type":
			r.Header.Set("Content-Type", fields[i+1])
		default:
			r.Header.Add(fields[i], fields[i+1])
		}
	}
	rec := httptest.NewRecorder()
	w.ServeHTTP(rec, r)
	return rec.Result()
}

const good = "username=alice&password=secret"

func body(t *testing.T, r *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// S-01: the three lines of curl: log in with -c, use with -b, log out.
func TestThreeLines(t *testing.T) {
	t.Parallel()
	w := newWorld(t, login.Config{})
	server := httptest.NewTLSServer(w)
	defer server.Close()
	client := server.Client()
	client.Jar = must(cookiejar.New(nil))

	r := must(client.PostForm(server.URL+"/login", url.Values{"username": {"alice"}, "password": {"secret"}}))
	if text := body(t, r); r.StatusCode != 200 || !strings.Contains(text, `"user":"alice"`) || strings.Contains(text, "pst_") {
		t.Fatal(r.StatusCode, text)
	}
	if r.Header.Get("X-Csrf-Token") == "" || r.Header.Get("Cache-Control") != "no-store" {
		t.Error(r.Header)
	}
	r = must(client.Get(server.URL + "/session"))
	var who struct {
		User, Session string
		ExpireTime    time.Time `json:"expire_time"`
	}
	if text := body(t, r); r.StatusCode != 200 || json.Unmarshal([]byte(text), &who) != nil || who.User != "alice" || who.Session == "" || !who.ExpireTime.Equal(noon.Add(8*time.Hour)) {
		t.Fatal(r.StatusCode, text)
	}
	if r.Header.Get("X-Csrf-Token") == "" {
		t.Error("no new CSRF token")
	}
	before := client.Jar.Cookies(r.Request.URL)
	r = must(client.Post(server.URL+"/logout", "", nil))
	if r.StatusCode != 204 || len(client.Jar.Cookies(r.Request.URL)) != 0 {
		t.Fatal(r.StatusCode, client.Jar.Cookies(r.Request.URL))
	}
	client.Jar.SetCookies(r.Request.URL, before)
	if r = must(client.Get(server.URL + "/session")); r.StatusCode != 401 || r.Header.Get("WWW-Authenticate") == "" {
		t.Errorf("after logout, with the old cookie: %d", r.StatusCode)
	}
	if r = must(client.Post(server.URL+"/logout", "", nil)); r.StatusCode != 204 {
		t.Errorf("logging out twice: %d", r.StatusCode)
	}
}

// S-03: a session that the client brings is not adopted, neither before the login nor
// after it.
func TestPlantedSession(t *testing.T) {
	t.Parallel()
	w := newWorld(t, login.Config{})
	planted := must(seal.Mint(rand.Reader, seal.Spec{Kind: seal.KindSession}, w.peppers)).Secret.Reveal()
	cookie := "__Host-session=" + planted
	if r := w.ask("GET", "/session", "", "cookie", cookie); r.StatusCode != 401 {
		t.Errorf("before: %d", r.StatusCode)
	}
	r := w.ask("POST", "/login", good, "cookie", cookie)
	if r.StatusCode != 200 || len(r.Cookies()) != 1 || r.Cookies()[0].Value == planted {
		t.Fatal(r.StatusCode, r.Header)
	}
	first := r.Cookies()[0].Value
	if r := w.ask("GET", "/session", "", "cookie", cookie); r.StatusCode != 401 {
		t.Errorf("after: %d", r.StatusCode)
	}
	r = w.ask("POST", "/login", good, "cookie", "__Host-session="+first)
	if r.StatusCode != 200 || r.Cookies()[0].Value == first {
		t.Error("a second login goes on with the first session")
	}
}

// B-06: an unknown user, one without a password and a wrong password get the same
// answer, byte for byte, and cost the same number of hashes. Counted, not timed.
func TestEnumeration(t *testing.T) {
	t.Parallel()
	w := newWorld(t, login.Config{})
	var first string
	for _, sent := range []string{"username=alice&password=wrong", "username=nobody&password=wrong", "username=robot&password=wrong", "username=alice&tenant=x&password=wrong"} {
		before := w.hasher.Computed()
		r := w.ask("POST", "/login", sent)
		answer := fmt.Sprint(r.StatusCode, r.Header, body(t, r))
		if r.StatusCode != 401 || r.Header.Get("Set-Cookie") != "" || r.Header.Get("X-Csrf-Token") != "" {
			t.Error(answer)
		}
		if first == "" {
			first = answer
		}
		if answer != first {
			t.Errorf("%s: %s\nnot %s", sent, answer, first)
		}
		if n := w.hasher.Computed() - before; n != 1 {
			t.Errorf("%s: %d hashes", sent, n)
		}
	}
	if !strings.Contains(first, "Login failed.") {
		t.Error(first)
	}
}

// B-06: five wrong passwords for a name lock it for 15 minutes, whether it exists or
// not, also for the right password; not from elsewhere, and not other names.
func TestLockout(t *testing.T) {
	t.Parallel()
	w := newWorld(t, login.Config{})
	for i := range 5 {
		for _, name := range []string{"alice", "nobody"} {
			if r := w.ask("POST", "/login", "username="+name+"&password=wrong"); r.StatusCode != 401 {
				t.Fatalf("try %d of %s: %d", i+1, name, r.StatusCode)
			}
		}
	}
	w.pass(5 * time.Minute)
	asked := w.asked
	var first string
	for _, sent := range []string{"username=alice&password=wrong", "username=nobody&password=wrong", good, "username=ALICE&password=secret"} {
		r := w.ask("POST", "/login", sent)
		answer := fmt.Sprint(r.StatusCode, r.Header, body(t, r))
		if first == "" {
			first = answer
		}
		if r.StatusCode != 429 || r.Header.Get("Retry-After") != "600" || answer != first {
			t.Errorf("%s: %s", sent, answer)
		}
	}
	if w.asked != asked {
		t.Error("a locked name costs a hash")
	}
	if r := w.ask("POST", "/login", good, "from", "198.51.100.7:1"); r.StatusCode != 200 {
		t.Errorf("from elsewhere: %d", r.StatusCode)
	}
	if r := w.ask("POST", "/login", "username=bob&password=secret"); r.StatusCode != 200 {
		t.Errorf("another name: %d", r.StatusCode)
	}
	w.pass(10 * time.Minute)
	if r := w.ask("POST", "/login", good); r.StatusCode != 200 {
		t.Errorf("after the window: %d", r.StatusCode)
	}
}

// Behind a proxy on this machine, one client does not use up the tries of the others.
// What comes over the network says of itself what it likes, and that does not count.
func TestLockoutBehindProxy(t *testing.T) {
	t.Parallel()
	for from, want := range map[string]int{"127.0.0.1:1": 200, "192.0.2.9:1": 429} {
		w := newWorld(t, login.Config{LoginTries: 1})
		for i := range 20 {
			w.ask("POST", "/login", fmt.Sprintf("username=nobody%d&password=wrong", i), "from", from,
				"X-Forwarded-For", fmt.Sprintf("10.0.0.%d", i), "X-Forwarded-For", "203.0.113.1, 198.51.100.7")
		}
		if r := w.ask("POST", "/login", good, "from", from, "X-Forwarded-For", "198.51.100.8"); r.StatusCode != want {
			t.Errorf("from %s, another client: %d, want %d", from, r.StatusCode, want)
		}
		if r := w.ask("POST", "/login", good, "from", from, "X-Forwarded-For", "198.51.100.8, 198.51.100.7"); r.StatusCode != 429 {
			t.Errorf("from %s, the same client: %d", from, r.StatusCode)
		}
	}
}

// A login that succeeds starts the count anew.
func TestSuccessResets(t *testing.T) {
	t.Parallel()
	w := newWorld(t, login.Config{LoginTries: 2})
	for range 3 {
		if r := w.ask("POST", "/login", "username=alice&password=wrong"); r.StatusCode != 401 {
			t.Fatal(r.StatusCode)
		}
		if r := w.ask("POST", "/login", good); r.StatusCode != 200 {
			t.Fatal(r.StatusCode)
		}
	}
}

// What could not be found out is 503, tells nothing, and counts as no try.
func TestCouldNotFindOut(t *testing.T) {
	t.Parallel()
	w := newWorld(t, login.Config{})
	for _, fault := range []error{password.ErrBusy, context.DeadlineExceeded, errors.New("disk of alice is full")} {
		w.fault = fault
		for range 6 {
			r := w.ask("POST", "/login", good)
			if text := body(t, r); r.StatusCode != 503 || strings.Contains(text, "alice") || r.Header.Get("Retry-After") == "" {
				t.Fatal(r.StatusCode, text)
			}
		}
	}
	w.fault = nil
	r := w.ask("POST", "/login", good)
	if r.StatusCode != 200 {
		t.Fatal(r.StatusCode)
	}
	w.fault = errors.New("disk is full")
	r = w.ask("POST", "/logout", "", "cookie", "__Host-session="+r.Cookies()[0].Value)
	if r.StatusCode != 503 || r.Header.Get("Set-Cookie") != "" {
		t.Errorf("a logout that did not happen: %d %v", r.StatusCode, r.Header)
	}
	if strings.Contains(w.log.String(), "secret") {
		t.Error("the password is in the log")
	}
}

// S-05: a page of another site can log nobody in or out; a program that is no browser
// needs nothing.
func TestCrossSite(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		fields []string
		ok     bool
	}{
		{nil, true},
		{[]string{"sec-fetch-site", "same-origin"}, true},
		{[]string{"sec-fetch-site", "none"}, true},
		{[]string{"sec-fetch-site", "same-origin", "origin", "https://app.test"}, true},
		{[]string{"sec-fetch-site", "same-origin", "origin", "null"}, true},
		{[]string{"origin", "https://app.test"}, true},
		{[]string{"sec-fetch-site", "same-site"}, false},
		{[]string{"sec-fetch-site", "cross-site"}, false},
		{[]string{"sec-fetch-site", "cross-site", "origin", "https://app.test"}, false},
		{[]string{"sec-fetch-site", "same-origin", "origin", "https://evil.test"}, false},
		{[]string{"origin", "https://evil.test"}, false},
		{[]string{"origin", "http://app.test"}, false},
		{[]string{"origin", "https://app.test:8443"}, false},
		{[]string{"origin", "null"}, false},
		{[]string{"origin", ""}, false},
	} {
		w := newWorld(t, login.Config{})
		in := w.ask("POST", "/login", good, tt.fields...)
		if want := map[bool]int{true: 200, false: 403}[tt.ok]; in.StatusCode != want {
			t.Errorf("login with %q: %d", tt.fields, in.StatusCode)
		}
		if tt.ok != (w.asked == 1) {
			t.Errorf("%q: asked %d times", tt.fields, w.asked)
		}
		if text := body(t, in); !tt.ok && !strings.Contains(text, `"reason":"csrf"`) {
			t.Error(text)
		}
		if out := w.ask("POST", "/logout", "", tt.fields...); out.StatusCode != map[bool]int{true: 204, false: 403}[tt.ok] {
			t.Errorf("logout with %q: %d", tt.fields, out.StatusCode)
		}
	}
	w := newWorld(t, login.Config{InsecureSameSiteRequests: true})
	if r := w.ask("POST", "/login", good, "sec-fetch-site", "same-site"); r.StatusCode != 200 {
		t.Errorf("same-site where it is taken: %d", r.StatusCode)
	}
}

// The body is read in one way or not at all, and no more of it than 4 KiB.
func TestBodies(t *testing.T) {
	t.Parallel()
	const jsonType = "application/json"
	for _, tt := range []struct {
		kind, body string
		want       int
	}{
		{formType, good, 200},
		{formType + "; charset=UTF-8", good, 200},
		{formType, "password=s%65cret&username=alice&tenant=", 200},
		{jsonType, `{"username":"alice","password":"secret"}`, 200},
		{jsonType + "; charset=utf-8", ` {"username":"alice","password":"s\u0065cret","tenant":""} `, 200},

		{"text/plain", good, 415},
		{"multipart/form-data; boundary=x", good, 415},
		{formType + "; charset=latin1", good, 415},
		{formType + "; charset=utf-8; x=y", good, 415},
		{formType + ", " + jsonType, good, 415},
		{"", good, 415},

		{formType, "", 400},
		{formType, "username=alice", 400},
		{formType, "password=secret", 400},
		{formType, "username=&password=secret", 400},
		{formType, good + "&username=bob", 400},
		{formType, good + "&admin=true", 400},
		{formType, "username=alice;password=secret", 400},
		{formType, "username=%zz&password=secret", 400},
		{formType, "username=%ff&password=secret", 400},
		{formType, "username=" + strings.Repeat("a", 257) + "&password=secret", 400},
		{formType, "username=alice&password=" + strings.Repeat("p", 1025), 400},
		{formType, good + "&tenant=" + strings.Repeat("t", 4096), 413},
		{jsonType, good, 400},
		{jsonType, "", 400},
		{jsonType, "null", 400},
		{jsonType, `["alice","secret"]`, 400},
		{jsonType, `{"username":"alice","password":"secret","username":"bob"}`, 400},
		{jsonType, `{"username":"alice","Password":"secret"}`, 400},
		{jsonType, `{"username":"alice","password":["secret"]}`, 400},
		{jsonType, `{"username":"alice","password":123}`, 400},
		{jsonType, `{"username":"alice","password":"secret"}{}`, 400},
		{jsonType, `{"username":"alice","password":"secret","admin":"true"}`, 400},
		{jsonType, strings.Repeat("[", 4000), 400},
		{jsonType, strings.Repeat(" ", 4097), 413},
	} {
		w := newWorld(t, login.Config{})
		if r := w.ask("POST", "/login", tt.body, "content-type", tt.kind); r.StatusCode != tt.want {
			t.Errorf("%s, %.60s: %d, want %d", tt.kind, tt.body, r.StatusCode, tt.want)
		}
		if (w.asked == 1) != (tt.want == 200) {
			t.Errorf("%s, %.60s: asked %d times", tt.kind, tt.body, w.asked)
		}
	}
	w := newWorld(t, login.Config{})
	if r := w.ask("POST", "/login", good, "content-encoding", "gzip"); r.StatusCode != 415 {
		t.Errorf("compressed: %d", r.StatusCode)
	}
}

func TestSurface(t *testing.T) {
	t.Parallel()
	w := newWorld(t, login.Config{})
	for _, tt := range []struct {
		method, target string
		want           int
		allow          string
	}{
		{"GET", "/login", 405, "POST"}, {"PUT", "/login", 405, "POST"}, {"HEAD", "/session", 405, "GET"}, {"POST", "/session", 405, "GET"},
		{"GET", "/logout", 405, "POST"}, {"OPTIONS", "/login", 405, "POST"}, {"POST", "/login/", 404, ""}, {"GET", "/", 404, ""},
		{"POST", "/login?username=alice", 400, ""}, {"GET", "/session?x", 400, ""}, {"POST", "/logout?", 400, ""},
	} {
		r := w.ask(tt.method, tt.target, "")
		if r.StatusCode != tt.want || r.Header.Get("Allow") != tt.allow {
			t.Errorf("%s %s: %d, allow %q", tt.method, tt.target, r.StatusCode, r.Header.Get("Allow"))
		}
		for name, want := range map[string]string{"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "Content-Type": "application/json", "Access-Control-Allow-Origin": ""} {
			if got := r.Header.Get(name); got != want {
				t.Errorf("%s %s: %s is %q", tt.method, tt.target, name, got)
			}
		}
	}
	if r := w.ask("POST", "/login", good, "host", "a b"); r.StatusCode != 400 {
		t.Errorf("a host that is none: %d", r.StatusCode)
	}
}

// A password is not taken from a connection that others can read, unless it never
// left the machine or the configuration says so.
func TestPlaintextLogin(t *testing.T) {
	t.Parallel()
	w := newWorld(t, login.Config{})
	if r := w.ask("POST", "/login", good, "plaintext", ""); r.StatusCode != 403 || !strings.Contains(body(t, r), "credential_over_plaintext") || w.asked != 0 {
		t.Error(r.StatusCode)
	}
	if r := w.ask("POST", "/login", good, "plaintext", "", "from", "127.0.0.1:1", "origin", "http://app.test"); r.StatusCode != 200 {
		t.Errorf("from this machine: %d", r.StatusCode)
	}
	w.deps.InsecurePlaintext = true
	w.Handler = login.New(w.cfg, w.deps)
	if r := w.ask("POST", "/login", good, "plaintext", ""); r.StatusCode != 200 {
		t.Errorf("where it is taken: %d", r.StatusCode)
	}
}

type panics struct{ login.Accounts }

func (panics) Login(context.Context, netip.Addr, string, string, policy.Secret) (login.Session, error) {
	panic("the password is secret")
}

func TestPanic(t *testing.T) {
	t.Parallel()
	w := newWorld(t, login.Config{})
	w.deps.Accounts = panics{}
	w.Handler = login.New(w.cfg, w.deps)
	if r := w.ask("POST", "/login", good); r.StatusCode != 503 {
		t.Error(r.StatusCode)
	}
	if log := w.log.String(); !strings.Contains(log, "panic") || strings.Contains(log, "secret") {
		t.Error(log)
	}
}

// A fault of the mirror is not a logout.
func TestSessionFault(t *testing.T) {
	t.Parallel()
	w := newWorld(t, login.Config{})
	w.deps.Prover = new(check.Live) // not ready
	w.Handler = login.New(w.cfg, w.deps)
	for _, ask := range [][2]string{{"GET", "/session"}, {"POST", "/logout"}} {
		if r := w.ask(ask[0], ask[1], "", "cookie", "__Host-session=x"); r.StatusCode != 503 || r.Header.Get("Set-Cookie") != "" {
			t.Errorf("%s: %d %v", ask[1], r.StatusCode, r.Header)
		}
	}
}
