package main

import (
	"bytes"
	"context"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/bcrypt"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	adminv1 "github.com/postern-auth/postern/gen/postern/admin/v1"
	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/store"
	"github.com/postern-auth/postern/server/store/sqlite"
)

const annsPassword = "correct horse battery staple"

// withAnn starts a server that has a user with a password.
func withAnn(t testing.TB) *replica {
	t.Helper()
	w := preparePlane(t, sqliteStore)
	w.bootstrap(t)
	p := launch(t, w)
	p.ann(t)
	return p
}

func (p *replica) ann(t testing.TB) {
	t.Helper()
	p.user(t, "ann", "user")
	does(t, p.users.SetPassword, &adminv1.SetPasswordRequest{Id: "ann", Password: annsPassword})
}

// visit is an answer of the endpoints for people.
type visit struct {
	status       int
	cookie, csrf string
	setCookie    string
	body         map[string]any
}

// post sends a form to an endpoint for people, with header fields in turn.
func (p *replica) post(t testing.TB, path string, form url.Values, headers ...string) visit {
	t.Helper()
	req, err := http.NewRequest(http.MethodPost, "http://"+p.login+path, strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	v := visit{status: res.StatusCode, setCookie: res.Header.Get("Set-Cookie"), csrf: res.Header.Get("X-Csrf-Token")}
	_ = json.Unmarshal(text, &v.body)
	if name, value, ok := strings.Cut(v.setCookie, "="); ok && name == "__Host-session" {
		v.cookie, _, _ = strings.Cut(value, ";")
	}
	p.hide(v.cookie, v.csrf)
	return v
}

// logIn logs in, which must succeed once the replica has heard of the user.
func (p *replica) logIn(t testing.TB, user, password string, headers ...string) (v visit) {
	t.Helper()
	eventually(t, user+" is logged in", func() bool {
		v = p.post(t, "/login", url.Values{"username": {user}, "password": {password}}, headers...)
		return v.status == http.StatusOK
	})
	if !secretForm.MatchString(v.cookie) {
		t.Fatalf("the cookie is %q", v.setCookie)
	}
	return v
}

func withCookie(path, cookie string) request {
	return get(path, "cookie", "a=b; __Host-session="+cookie)
}

// S-01 and S-08: log in, use and log out, with the lines of the documentation, by a
// gateway that asks Postern about each request. What reaches the service has no
// cookie of a session, and other cookies as they were.
func TestCurlWithACookieJar(t *testing.T) {
	t.Parallel()
	curl, err := exec.LookPath("curl")
	if err != nil {
		t.Skip("there is no curl on the PATH (Debian: apt-get install curl)")
	}
	p := withAnn(t)
	gateway := httptest.NewTLSServer(p.gateway(t))
	t.Cleanup(gateway.Close)
	p.write(t, "ca.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: gateway.Certificate().Raw})))
	run := func(line string) string {
		t.Helper()
		args := strings.Fields(strings.NewReplacer("cookies.txt", p.path("cookies.txt"), "https://app.example.com", gateway.URL, "…", "correct+horse+battery+staple").Replace(line))
		cmd := exec.Command(curl, append([]string{"-sS", "--cacert", p.path("ca.pem"), "-w", "\n%{http_code}"}, args[1:]...)...)
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		return string(out)
	}
	expect := func(line, want string) {
		t.Helper()
		if got := run(line); !regexp.MustCompile(`(?s)^` + want + `$`).MatchString(got) {
			t.Errorf("%s: %s, want %s", line, got, want)
		}
	}
	expect(`curl https://app.example.com/items/1`, `\n401`)
	expect(`curl -c cookies.txt -d username=ann -d password=wrong https://app.example.com/login`, `.*"login_failed".*\n401`)
	expect(`curl -c cookies.txt -d username=ann -d password=… https://app.example.com/login`, `\{"user":"ann",.*\n200`)
	p.hide(regexp.MustCompile(`pst_ses_\w+`).FindString(p.read(t, "cookies.txt")))
	expect(`curl -b cookies.txt https://app.example.com/session`, `\{"user":"ann",.*\n200`)
	expect(`curl -b cookies.txt -H cookie:theme=dark https://app.example.com/items/1`, `ann by session; cookie \[theme=dark\]\n200`)
	was := p.read(t, "cookies.txt")
	expect(`curl -b cookies.txt -c cookies.txt -X POST https://app.example.com/logout`, `\n204`)
	if strings.Contains(p.read(t, "cookies.txt"), "pst_ses_") {
		t.Error("curl still has the cookie")
	}
	p.write(t, "cookies.txt", was)
	eventually(t, "the session is over", func() bool {
		return strings.HasSuffix(run(`curl -b cookies.txt https://app.example.com/items/1`), "\n401")
	})
	expect(`curl -b cookies.txt https://app.example.com/session`, `.*\n401`)
}

// gateway is the least of a gateway: people's endpoints go to Postern, of all else
// it is asked, and what it allows reaches a service that says what it got.
func (p *replica) gateway(t testing.TB) http.Handler {
	people := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: p.login})
	mux := http.NewServeMux()
	for _, path := range []string{"/login", "/logout", "/session"} {
		mux.Handle(path, people)
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		q := get(r.URL.Path).with(r.Method)
		for name, values := range r.Header {
			for _, v := range values {
				q.headers = append(q.headers, policy.Header{Name: strings.ToLower(name), Value: v})
			}
		}
		a := p.askEnvoy(t, q)
		if !a.allowed() {
			w.WriteHeader(a.status)
			return
		}
		for _, name := range a.removed {
			r.Header.Del(name)
		}
		for _, h := range a.set {
			r.Header.Set(h.Name, h.Value)
		}
		fmt.Fprintf(w, "%s by %s; cookie %v", r.Header.Get("X-Auth-Principal"), r.Header.Get("X-Auth-Method"), r.Header["Cookie"])
	})
	return mux
}

// The life of a session, its cookie, and who may use it.
func TestSessions(t *testing.T) {
	t.Parallel()
	p := withAnn(t)
	t.Run("ids", func(t *testing.T) { idsAreNew(t, p) })
	t.Run("touches", func(t *testing.T) { touches(t, p) })
	ends := rotated(t, p) // while the others go on
	t.Run("cookie", func(t *testing.T) { cookieOfASession(t, p) })
	t.Run("cross-site", func(t *testing.T) { crossSite(t, p) })
	t.Run("timeouts", func(t *testing.T) { sessionsEnd(t, p) })
	t.Run("rotated", ends)
}

// S-04: the cookie as browsers guard it best. What weakens it says so in its name,
// and in the log.
func cookieOfASession(t *testing.T, p *replica) {
	v := p.logIn(t, "ann", annsPassword)
	if got, want := strings.Replace(v.setCookie, v.cookie, "SECRET", 1), "__Host-session=SECRET; Path=/; Secure; HttpOnly; SameSite=Lax"; got != want {
		t.Errorf("Set-Cookie: %s, want %s", got, want)
	}
	for setting, field := range map[string]string{
		"cookie: session": "cookie", "same_site: none": "same_site", "secure: false": "secure", "http_only: false": "http_only", "domain: example.com": "domain",
	} {
		w := preparePlane(t, sqliteStore, "{ login_tries: 1000 } # the tests log in often", "{ "+setting+" }")
		if err := loads(w); err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("sessions: {%s}: %v", setting, err)
		}
	}
	t.Run("weaker", func(t *testing.T) {
		w := preparePlane(t, "{ driver: memory }", "{ login_tries: 1000 } # the tests log in often", "{ cookie: session, insecure_http: true, insecure_script: true, insecure_name: true }",
			"cookie:__Host-session", "cookie:session")
		b := start(t, w)
		eventually(t, "two warnings in the log", func() bool { // which is written in the background
			warned := b.log.entries(t, "sessions")
			return len(warned) >= 2 && warned[0]["level"] == "WARN"
		})
	})
}

// S-03: a login makes a session of its own, whatever the browser brought.
func idsAreNew(t *testing.T, p *replica) {
	const planted = "pst_ses_AAAAAAAAAAAA_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA0000000"
	theirs := p.logIn(t, "ann", annsPassword).cookie
	for _, brought := range []string{planted, theirs} {
		mine := p.logIn(t, "ann", annsPassword, "Cookie", "__Host-session="+brought).cookie
		if mine == brought {
			t.Error("a session was adopted")
		}
		p.becomes(t, withCookie("/", mine), 200, "allowed")
	}
	if a := p.ask(t, withCookie("/", planted)); a.status != 401 {
		t.Errorf("the planted one: %v", a)
	}
}

// S-03: who gains rights gets another session, and the one before ends within ten
// seconds.
func rotated(t *testing.T, p *replica) (ends func(*testing.T)) {
	made := does(t, p.sessions.CreateSession, &adminv1.CreateSessionRequest{Session: &adminv1.Session{PrincipalId: "ann", Amr: []string{"pwd"}}}).GetCreated()
	old := withCookie("/", made.GetSecret())
	p.becomes(t, old, 200, "allowed")
	rotated := does(t, p.sessions.RotateSession, &adminv1.RotateSessionRequest{Id: made.GetSession().GetId(), Amr: []string{"otp"}})
	next, ack := rotated.GetCreated(), rotated.GetChange().GetCommitTime().AsTime()
	if next.GetSession().GetId() == made.GetSession().GetId() || next.GetSecret() == made.GetSecret() || len(next.GetSession().GetAmr()) != 2 {
		t.Errorf("rotated: %v", next.GetSession())
	}
	p.becomes(t, withCookie("/", next.GetSecret()), 200, "allowed")
	if a := p.ask(t, old); !a.allowed() && time.Since(ack) < 9*time.Second {
		t.Errorf("in the overlap: %v", a)
	}
	return func(t *testing.T) {
		time.Sleep(time.Until(ack.Add(10 * time.Second)))
		p.until(t, ack.Add(11*time.Second), old, 401, "rotated")
		p.expect(t, withCookie("/", next.GetSecret()), 200, "allowed")
	}
}

// S-05: a cookie does not show that its user meant the request. Who only reads needs
// no more; a change must come from the application's own pages.
func crossSite(t *testing.T, p *replica) {
	v := p.logIn(t, "ann", annsPassword)
	other := p.logIn(t, "ann", annsPassword)
	p.becomes(t, withCookie("/x", v.cookie), 200, "allowed")
	for _, c := range []struct {
		method  string
		headers []string
		status  int
	}{
		{"GET", nil, 200},
		{"GET", []string{"sec-fetch-site", "cross-site"}, 200},
		{"POST", nil, 403},
		{"DELETE", []string{"sec-fetch-site", "cross-site"}, 403},
		{"POST", []string{"sec-fetch-site", "same-site"}, 403},
		{"POST", []string{"sec-fetch-site", "same-origin"}, 200},
		{"POST", []string{"origin", "https://api.test"}, 200},
		{"POST", []string{"origin", "https://evil.test"}, 403},
		{"POST", []string{"origin", "null"}, 403},
		{"POST", []string{"x-csrf-token", v.csrf}, 200},
		{"POST", []string{"x-csrf-token", other.csrf}, 403},
		{"POST", []string{"x-csrf-token", "made-up"}, 403},
		{"POST", []string{"sec-fetch-site", "cross-site", "x-csrf-token", v.csrf}, 403},
	} {
		q := withCookie("/x", v.cookie).with(c.method)
		for i := 0; i < len(c.headers); i += 2 {
			q.headers = append(q.headers, policy.Header{Name: c.headers[i], Value: c.headers[i+1]})
		}
		reason := map[int]string{200: "allowed", 403: "csrf"}[c.status]
		p.expect(t, q, c.status, reason)
	}
	if got := p.post(t, "/logout", nil, "Cookie", "__Host-session="+v.cookie, "Sec-Fetch-Site", "cross-site"); got.status != 403 {
		t.Errorf("another site logs out: %d", got.status)
	}
}

// S-06: 10,000 requests touch a session no more than once in a tenth of its idle time.
func touches(t *testing.T, p *replica) {
	busy, _ := p.session(t, &adminv1.Session{})
	p.becomes(t, withCookie("/", busy), 200, "allowed")
	before := p.change(t)
	req := withCookie("/", busy).forEnvoy()
	var all sync.WaitGroup
	for range 10 {
		all.Go(func() {
			for range 1_000 {
				if _, err := p.envoy.Check(context.Background(), req); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	if p.change(t) != before {
		t.Error("using a session writes to the store long before three minutes are over")
	}
}

// session makes a session for ann without her password.
func (p *replica) session(t testing.TB, s *adminv1.Session) (cookie string, made *adminv1.Session) {
	t.Helper()
	s.PrincipalId = "ann"
	created := does(t, p.sessions.CreateSession, &adminv1.CreateSessionRequest{Session: s}).GetCreated()
	return created.GetSecret(), created.GetSession()
}

// S-06: a session ends some time after its last use, and at the latest at a fixed
// time however much it is used.
func sessionsEnd(t *testing.T, p *replica) {
	begin := time.Now()
	left, _ := p.session(t, &adminv1.Session{IdleTimeout: durationpb.New(2 * time.Second)})
	fixed, made := p.session(t, &adminv1.Session{ExpireTime: timestamppb.New(begin.Add(4 * time.Second))})
	used, _ := p.session(t, &adminv1.Session{IdleTimeout: durationpb.New(3 * time.Second)})
	unused := time.Now() // for nobody will
	p.becomes(t, withCookie("/", fixed), 200, "allowed")
	p.becomes(t, withCookie("/", used), 200, "allowed")
	for last := time.Now(); time.Since(begin) < 4*time.Second; time.Sleep(50 * time.Millisecond) {
		a, asked := p.askEnvoy(t, withCookie("/", used)), time.Now()
		if !a.allowed() && a.status != http.StatusServiceUnavailable && asked.Sub(last) < 2*time.Second {
			t.Errorf("used %v ago, it is %s", asked.Sub(last), a.reason)
		}
		last = asked
		p.askEnvoy(t, withCookie("/", fixed))
	}
	p.until(t, made.GetExpireTime().AsTime(), withCookie("/", fixed), 401, "expired")
	p.until(t, unused.Add(2*time.Second), withCookie("/", left), 401, "expired")
}

// B-07: users with hashes of other programs log in with their passwords, and are
// hashed as Postern does then. B-06: that is argon2id with 19 MiB,
// and a pepper.
func TestImportedUsersLogIn(t *testing.T) {
	t.Parallel()
	w := preparePlane(t, sqliteStore)
	w.bootstrap(t)
	p := launch(t, w)
	var file bytes.Buffer
	hashes := map[string]func(password string, salt []byte) string{
		"bcrypt": func(password string, _ []byte) string {
			hash, err := bcrypt.GenerateFromPassword([]byte(password), 5)
			if err != nil {
				t.Fatal(err)
			}
			return strings.Replace(string(hash), "$2a$", "$2y$", 1) // as htpasswd writes it
		},
		"argon2": func(password string, salt []byte) string {
			sum := argon2.IDKey([]byte(password), salt, 1, 1024, 1, 32)
			return fmt.Sprintf("$argon2id$v=19$m=1024,t=1,p=1$%s$%s", phc(salt), phc(sum))
		},
		"pbkdf2": func(password string, salt []byte) string {
			sum, err := pbkdf2.Key(sha256.New, password, salt, 10_000, 32)
			if err != nil {
				t.Fatal(err)
			}
			return fmt.Sprintf("$pbkdf2-sha256$i=10000,l=32$%s$%s", phc(salt), phc(sum))
		},
	}
	for name, hash := range hashes {
		salt := make([]byte, 16)
		_, _ = rand.Read(salt)
		fmt.Fprintf(&file, "%s:%s\n", name, hash(name+"'s password", salt))
	}
	w.write(t, "htpasswd", file.String())
	p.run(t, "user", "import", w.path("htpasswd"), "--role", "user")
	for name := range hashes {
		if v := p.post(t, "/login", url.Values{"username": {name}, "password": {"another password"}}); v.status != 401 {
			t.Errorf("%s with a wrong password: %d", name, v.status)
		}
		cookie := p.logIn(t, name, name+"'s password").cookie
		p.becomes(t, withCookie("/items/1", cookie), 200, "allowed")
		eventually(t, name+" is hashed anew", func() bool { return strings.HasPrefix(w.hashOf(t, name), "$argon2id$v=19$m=19456,t=2,p=1,keyid=") })
		p.logIn(t, name, name+"'s password")
	}
}

func phc(b []byte) string { return base64.RawStdEncoding.EncodeToString(b) }

// hashOf reads a user's password hash from the store.
func (w world) hashOf(t testing.TB, user string) (hash string) {
	t.Helper()
	st, err := sqlite.Open(t.Context(), w.path("postern.db"), sqlite.Options{MustExist: true})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = st.Close() }()
	err = st.View(t.Context(), func(from store.Reader) error {
		p, err := store.Get[store.Principal](from, store.PrincipalKey("", user))
		if err == nil {
			hash = p.Password
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return hash
}
