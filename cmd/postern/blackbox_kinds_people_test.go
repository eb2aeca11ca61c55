package main

import (
	"context"
	"encoding/base64"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	adminv1 "github.com/postern-auth/postern/gen/postern/admin/v1"
)

// peopleLab is world "people", running in a process of its own.
type peopleLab struct {
	*replica
	pki  pki
	mesh mesh
	web  certificate
}

// launchPeople prepares and launches world "people", with ann.
func launchPeople(t testing.TB) *peopleLab {
	t.Helper()
	w := prepare(t, "people", "@STORE@", sqliteStore)
	lab := &peopleLab{pki: newPKI(t, w.path("ca")), mesh: newMesh(t)}
	lab.web = lab.pki.workload(t, "ns/shop/sa/web")
	w.write(t, "jwks.json", jwks(testIssuer))
	w.write(t, "bundle.json", lab.mesh.bundle(t))
	w.bootstrap(t)
	lab.replica = launch(t, w)
	lab.ann(t)
	lab.hide(annsPassword)
	return lab
}

// at is the request for another host, from another address.
func (q request) at(host string) request      { q.host = host; return q }
func (q request) from(address string) request { q.source = address; return q }

const office = "198.18.0.7"

// What users, sessions and passwords of the store are on routes that ask for more.
func TestKindsPeople(t *testing.T) {
	t.Parallel()
	lab := launchPeople(t)
	lab.service(t, "app", "reader")
	_, key := lab.key(t, "app")
	patID, token := lab.issue(t, &adminv1.Credential{Type: pat, PrincipalId: "ann", DisplayName: "laptop"})
	cookie := lab.logIn(t, "ann", annsPassword).cookie
	for _, q := range []request{withKey("/", key), withKey("/", token), withCookie("/", cookie)} {
		lab.becomes(t, q, 200, "allowed")
	}
	t.Run("profiles", func(t *testing.T) { profilesOfRoutes(t, lab, key, token, cookie) })
	t.Run("session and token", func(t *testing.T) { sessionAndToken(t, lab, cookie) })
	t.Run("step up", func(t *testing.T) { sessionStepsUp(t, lab) })
	t.Run("git", func(t *testing.T) { tokenAsPassword(t, lab, patID, token) })
	t.Run("passwords", func(t *testing.T) { passwords(t, lab) })
	t.Run("unknown before", func(t *testing.T) { unknownBefore(t, lab) })
	t.Run("guesses", func(t *testing.T) { guesses(t, lab) })
}

// what each of the ready profiles takes, and what not.
func profilesOfRoutes(t *testing.T, lab *peopleLab, key, token, cookie string) {
	var (
		cert    = lab.web.xfcc()
		user    = bearer(testIssuer.token(claims{"sub": "ann", "client_id": "app"}))
		service = bearer(testIssuer.token(claims{"sub": "batch", "client_id": "batch"}))
		svid    = bearer(lab.mesh.svid(t, "x", nil))
		session = []string{"cookie", "__Host-session=" + cookie}
		byKey   = []string{"x-api-key", key}
		byPAT   = bearer(token)
		basic   = basicOf("ann", annsPassword)
	)
	for profile, cases := range map[string][]struct {
		name    string
		headers []string
		status  int
		reason  string
	}{
		"s2s": {
			{"certificate", cert, 200, "allowed"}, {"JWT-SVID", svid, 200, "allowed"}, {"a client's own token", service, 200, "allowed"},
			{"a user's token", user, 403, "principal_kind"}, {"key", byKey, 401, "method_not_accepted"}, {"session", session, 401, "method_not_accepted"}, {"nothing", nil, 401, "credential_missing"},
		},
		"web": {
			{"session", session, 200, "allowed"},
			{"token", user, 401, "method_not_accepted"}, {"key", byKey, 401, "method_not_accepted"}, {"certificate", cert, 401, "credential_missing"},
		},
		"mobile": {
			{"token", user, 200, "allowed"},
			{"a client's own token", service, 403, "principal_kind"}, {"session", session, 401, "method_not_accepted"}, {"PAT", byPAT, 401, "method_not_accepted"},
		},
		"microservice": {
			{"certificate", cert, 200, "allowed"}, {"JWT-SVID", svid, 200, "allowed"},
			{"a client's own token", service, 401, "method_not_accepted"}, {"key", byKey, 401, "method_not_accepted"},
		},
		"spa": {
			{"session", session, 200, "allowed"}, {"token", user, 200, "allowed"},
			{"key", byKey, 401, "method_not_accepted"}, {"a client's own token", service, 403, "principal_kind"},
		},
		"internal": {
			{"certificate: the mesh is inside", cert, 200, "allowed"}, {"key and certificate", plus(byKey, cert), 200, "allowed"},
			{"key from outside", byKey, 403, "network_not_allowed"}, {"nothing, from outside", nil, 401, "credential_missing"},
		},
		"finance": {
			{"token and certificate", plus(user, cert), 200, "allowed"}, {"a service's", plus(service, cert), 200, "allowed"},
			{"token", user, 401, "credential_missing"}, {"certificate", cert, 401, "credential_missing"}, {"key and certificate", plus(byKey, cert), 401, "method_not_accepted"},
		},
		"third-party": {
			{"key", byKey, 200, "allowed"}, {"PAT", byPAT, 200, "allowed"}, {"token", user, 200, "allowed"},
			{"session", session, 401, "method_not_accepted"}, {"certificate", cert, 401, "credential_missing"},
		},
	} {
		for _, c := range cases {
			if a := lab.ask(t, get("/", c.headers...).at(profile+".test")); a.status != c.status || a.reason != c.reason {
				t.Errorf("%s, %s: %v, want %d %s", profile, c.name, a, c.status, c.reason)
			}
		}
		// Passwords, where they are looked at at all, and plaintext.
		want := map[bool]int{true: 200, false: 401}[profile == "internal"]
		if a := lab.ask(t, get("/", basic...).at(profile+".test").from(office)); a.status != want {
			t.Errorf("%s, password: %v", profile, a)
		}
		plain := get("/", cases[0].headers...).at(profile + ".test")
		if plain.scheme = "http"; profile == "internal" { // TLS is not asked for, but a secret is one inside too
			plain.headers = get("/", plus(byKey, cert)...).headers
		}
		if a := lab.ask(t, plain); a.allowed() {
			t.Errorf("%s over plaintext: %v", profile, a)
		}
	}
}

// session and JWT, both.
func sessionAndToken(t *testing.T, lab *peopleLab, cookie string) {
	token, session := bearer(testIssuer.token(claims{"sub": "ann"})), []string{"cookie", "__Host-session=" + cookie}
	if a := lab.expect(t, get("/session-and-jwt/", plus(token, session)...), 200, "allowed"); a.principal != "ann" || a.method != "session" {
		t.Error(a)
	}
	lab.expect(t, get("/session-and-jwt/", token...), 401, "credential_missing")
	lab.expect(t, get("/session-and-jwt/", session...), 401, "credential_missing")
	lab.expect(t, get("/session-and-jwt/", plus(session, bearer(testIssuer.token(claims{"sub": "ann", "aud": "x"})))...), 401, "invalid_audience")
	lab.expect(t, get("/session-and-jwt/", plus(token, session)...).with("POST"), 403, "csrf") // with a token beside it a cookie is still one
	lab.expect(t, get("/", plus(token, session)...), 401, "multiple_credentials")
}

// G-04: a session with a password alone is not enough where a code is asked for; the
// challenge says so, and the session that has both is.
func sessionStepsUp(t *testing.T, lab *peopleLab) {
	weak, _ := lab.session(t, &adminv1.Session{Amr: []string{"pwd"}})
	strong, _ := lab.session(t, &adminv1.Session{Amr: []string{"pwd", "otp"}})
	lab.becomes(t, withCookie("/", weak), 200, "allowed")
	lab.becomes(t, withCookie("/", strong), 200, "allowed")
	a := lab.expect(t, withCookie("/otp/", weak), 401, "insufficient_user_authentication")
	if !strings.Contains(a.header("www-authenticate"), `error="insufficient_user_authentication"`) || !strings.Contains(a.header("www-authenticate"), `acr_values="otp"`) {
		t.Error(a.header("www-authenticate"))
	}
	lab.expect(t, withCookie("/otp/", strong), 200, "allowed")
	// the level of a session.
	for cookie, level := range map[string]int{weak: 2, strong: 4} {
		if a := lab.ask(t, withCookie("/", cookie)); a.seen(t).Assurance != level {
			t.Errorf("a session with amr %v is of level %d, want %d", a.seen(t).AMR, a.seen(t).Assurance, level)
		}
	}
}

// P-04: git sends a token as the password of Basic. Whoever brings it so is who he is
// with it elsewhere, from any place, and no password is hashed for it.
func tokenAsPassword(t *testing.T, lab *peopleLab, id, token string) {
	for _, user := range []string{"ann", "x-token", "git", ""} {
		lab.hide(base64.StdEncoding.EncodeToString([]byte(user + ":" + token)))
		a := lab.expect(t, get("/people/repo.git", basicOf(user, token)...), 200, "allowed")
		if a.principal != "ann" || a.method != "pat" || a.credential != id {
			t.Errorf("user-id %q: %v by %s", user, a, a.method)
		}
	}
	for name, value := range map[string][]string{"bearer": bearer(token), "token": {"authorization", "token " + token}, "field": {"x-api-key", token}} {
		if a := lab.expect(t, get("/people/", value...), 200, "allowed"); a.principal != "ann" || a.credential != id {
			t.Errorf("%s: %v", name, a)
		}
	}
	lab.expect(t, get("/people/", basicOf("ann", token[:len(token)-2]+"xx")...), 401, "credential_malformed")
}

// B-01, B-03, B-04, CACHE-12: passwords with each request, in their zone, at level 1; a
// change counts at once.
func passwords(t *testing.T, lab *peopleLab) {
	lab.user(t, "bea", "user")
	does(t, lab.users.SetPassword, &adminv1.SetPasswordRequest{Id: "bea", Password: "Zq7-mwofl-first"})
	first, second := basicOf("bea", "Zq7-mwofl-first"), basicOf("bea", "Kx2-vbnel-second")
	lab.hide("Zq7-mwofl-first", "Kx2-vbnel-second")
	in := func(path string, headers []string) request { return get(path, headers...).from(office) }
	eventually(t, "the user is known", func() bool { return lab.askEnvoy(t, in("/", first)).allowed() })
	a := lab.expect(t, in("/", first), 200, "allowed")
	if s := a.seen(t); a.principal != "bea" || a.method != "basic" || s.Assurance != 1 || fmt.Sprint(s.AMR) != "[pwd]" || fmt.Sprint(s.Roles) != "[user]" {
		t.Errorf("%v %+v", a, s)
	}
	lab.expect(t, in("/strong/", first), 403, "assurance")
	lab.expect(t, get("/", first...), 401, "credential_unknown") // from elsewhere it is not looked at
	if got := lab.ask(t, get("/", "x-forwarded-for", office, "authorization", first[1])); got.allowed() {
		t.Error("x-forwarded-for moves the client into the zone")
	}
	does(t, lab.users.SetPassword, &adminv1.SetPasswordRequest{Id: "bea", Password: "Kx2-vbnel-second"})
	lab.becomes(t, in("/", first), 401, "credential_unknown")
	lab.expect(t, in("/", second), 200, "allowed")
	if hash := lab.hashOf(t, "bea"); !strings.HasPrefix(hash, "$argon2id$v=19$m=19456,t=2,p=1,keyid=") { // B-06
		t.Error(hash)
	}
}

// B-06, TIMING-04 (the answers, not the times): five wrong passwords lock the user for that address, and no answer tells an
// attacker whether it was the user, the password or the lock.
func guesses(t *testing.T, lab *peopleLab) {
	lab.user(t, "cem", "user")
	does(t, lab.users.SetPassword, &adminv1.SetPasswordRequest{Id: "cem", Password: "Wt9-ghaqz-third"})
	lab.hide("Wt9-ghaqz-third")
	const attacker, home = "198.18.66.6", "198.18.0.8"
	right := func(from string) request { return get("/", basicOf("cem", "Wt9-ghaqz-third")...).from(from) }
	eventually(t, "the user is known", func() bool { return lab.askEnvoy(t, right(home)).allowed() })
	wrong := lab.askEnvoy(t, get("/", basicOf("cem", "guess 0")...).from(attacker))
	unknown := lab.askEnvoy(t, get("/", basicOf("nobody", "guess 0")...).from(attacker))
	for i := range 4 {
		lab.askEnvoy(t, get("/", basicOf("cem", fmt.Sprint("guess ", i+1))...).from(attacker))
	}
	locked := lab.askEnvoy(t, right(attacker))
	for name, a := range map[string]answer{"wrong": wrong, "unknown user": unknown, "locked": locked} {
		if a.status != 401 || a.body != wrong.body || fmt.Sprint(a.headers) != fmt.Sprint(wrong.headers) {
			t.Errorf("%s: %v %v %s", name, a, a.headers, a.body)
		}
	}
	lab.expect(t, right(home), 200, "allowed") // somebody else's guesses lock nobody out
}

// CACHE-14: what was refused many times as unknown works within a second of being made.
func unknownBefore(t *testing.T, lab *peopleLab) {
	secret := foreign()
	q := withKey("/", secret)
	for range 100 {
		lab.expect(t, q, 401, "credential_unknown")
	}
	does(t, lab.credentials.ImportCredentials, &adminv1.ImportCredentialsRequest{Credentials: []*adminv1.ImportedCredential{
		{Credential: &adminv1.Credential{Type: opaque, PrincipalId: "app"}, Known: &adminv1.ImportedCredential_Secret{Secret: secret}},
	}})
	bound := time.Now().Add(time.Second)
	eventually(t, "the token is known", func() bool {
		asked := time.Now()
		a := lab.askEnvoy(t, q)
		if a.reason == "credential_unknown" && asked.After(bound) {
			t.Fatalf("unknown %v after it was made", time.Since(bound)+time.Second)
		}
		return a.allowed()
	})
}

// B-06, RESOURCE-01: a thousand wrong passwords at once need bounded memory, get an
// answer each, and do not stop tokens and keys from being checked.
func TestKindsManyLogins(t *testing.T) {
	t.Parallel()
	lab := launchPeople(t)
	token := get("/", bearer(testIssuer.token(claims{"sub": "ann"}))...)
	lab.expect(t, token, 200, "allowed")
	lab.service(t, "honest")
	_, key := lab.key(t, "honest")
	lab.becomes(t, withKey("/", key), 200, "allowed")
	before := lab.peak(t)
	var all sync.WaitGroup
	var refused, busy, other atomic.Int64
	for i := range 1000 {
		q := get("/", basicOf(fmt.Sprint("user-", i), fmt.Sprint("guess-", i))...).from(fmt.Sprintf("198.18.%d.%d", 1+i/250, 1+i%250))
		all.Go(func() {
			res, err := lab.envoy.Check(context.Background(), q.forEnvoy())
			a, problem := readEnvoy(res)
			switch {
			case err != nil || problem != "":
				other.Add(1)
				t.Errorf("%v %s", err, problem)
			case a.status == 401:
				refused.Add(1)
			case a.status == 503 && !a.faulted:
				busy.Add(1)
			default:
				other.Add(1)
				t.Error(a)
			}
		})
	}
	done := make(chan struct{})
	go func() { all.Wait(); close(done) }()
	checks, slowest := 0, time.Duration(0)
	for waiting := true; waiting; {
		select {
		case <-done:
			waiting = false
		default:
			fresh := get("/", bearer(testIssuer.token(claims{"sub": fmt.Sprint("u", checks)}))...)
			began := time.Now()
			if a := lab.askEnvoy(t, fresh); !a.allowed() {
				t.Errorf("a good token: %v", a)
			}
			lab.expect(t, withKey("/", key), 200, "allowed")
			slowest = max(slowest, time.Since(began))
			checks++
		}
	}
	grown := lab.peak(t) - before
	t.Logf("%d refused, %d turned away; %d tokens checked meanwhile, the slowest in %v; the process grew by %d MiB", refused.Load(), busy.Load(), checks, slowest, grown>>20)
	if other.Load() > 0 || busy.Load() == 0 {
		t.Errorf("%d answers of another kind; %d were turned away", other.Load(), busy.Load())
	}
	if grown > 512<<20 { // a thousand hashes at once would be 19 GiB
		t.Errorf("the process grew by %d MiB", grown>>20)
	}
	lab.expect(t, token, 200, "allowed")
}

// peak is the most memory that the process has had, in bytes; 0 where nobody says.
func (p *replica) peak(t testing.TB) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		if fields := strings.Fields(line); len(fields) == 3 && fields[0] == "VmHWM:" {
			n, err := strconv.Atoi(fields[1])
			if err != nil {
				t.Fatal(err)
			}
			return n << 10
		}
	}
	return 0
}

// B-03: Basic does not start without a zone or a sentence that says so; what is
// dangerous is in the log.
func TestKindsBasicIsOff(t *testing.T) {
	t.Parallel()
	basic := "basic: { zones: [office], workers: 1, queue: 16 }"
	world := func(section string) world {
		w := prepare(t, "people", "@STORE@", "{ driver: memory }", basic, section)
		newPKI(t, w.path("ca"))
		w.write(t, "jwks.json", jwks(testIssuer))
		w.write(t, "bundle.json", newMesh(t).bundle(t))
		return w
	}
	for section, problem := range map[string]string{
		"basic: {}":                   "basic.zones",
		"basic: { zones: [] }":        "basic.zones",
		"basic: { zones: [nowhere] }": "there is no zone",
		"basic: { zones: [office], insecure_anywhere: true }": "insecure_anywhere",
		"basic: { zones: [office], cache_ttl: 2m }":           "cache_ttl",
		"": "basic",
	} {
		if err := loads(world(section)); err == nil || !strings.Contains(err.Error(), problem) {
			t.Errorf("%q: %v", section, err)
		}
	}
	b := start(t, world("basic: { insecure_anywhere: true }"))
	eventually(t, "it warns", func() bool { return len(b.log.entries(t, "basic")) > 0 })
	if warned := b.log.entries(t, "basic"); warned[0]["level"] != "WARN" {
		t.Errorf("warnings: %v", warned)
	}
	// Without the section nothing reads Basic, and nothing offers it.
	off := prepare(t, "gateway")
	off.write(t, "jwks.json", jwks(testIssuer))
	off.mint(t, order{id: "somebody"})
	b = start(t, off)
	if a := b.expect(t, get("/", basicOf("ann", annsPassword)...), 401, "unsupported_scheme"); strings.Contains(a.header("www-authenticate"), "Basic") {
		t.Error(a.header("www-authenticate"))
	}
}
