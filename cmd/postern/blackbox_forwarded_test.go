package main

import (
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"

	adminv1 "github.com/postern-auth/postern/gen/postern/admin/v1"
	"github.com/postern-auth/postern/server/vectortest"
)

// The scenarios of what gateways forward: paths that have more than one reading, and
// cookies of sessions.

// dialects are those of the forward-auth doors.
var dialects = []string{"nginx", "traefik", "caddy", "haproxy"}

// forwards asks in a dialect about a request, and returns the status.
func (b *box) forwards(t testing.TB, dialect, path string, headers ...string) int {
	t.Helper()
	return b.askGateway(t, dialect, get(path, headers...)).status
}

// startForwarded lets everybody into /public and nowhere else.
func startForwarded(t testing.TB) *box {
	t.Helper()
	w := prepare(t, "paths")
	gatewayOn(t, w)
	w.write(t, "policy/tables.yaml", onlyPublic)
	return start(t, w)
}

// FORWARD-04: a path that means one thing to a gateway and another to a service is refused
// in every dialect, whatever way it is said.
func TestForwardedPaths(t *testing.T) {
	t.Parallel()
	b := startForwarded(t)
	for _, dialect := range dialects {
		for path, want := range map[string]int{
			"/public/a": 200, "/public": 200, "/secret": 403, "/public/a?x=1": 200,
			"//evil": 0, "http://evil/public/x": 0, "https://api.test/public/a": 0, "//evil.test/public/x": 0, "/public/../admin": 0,
			"/public/%2e%2e/admin": 0, "/public/..%2fadmin": 0, "/public/..;/admin": 0, `/public\..\admin`: 0, "/public/%5c..%5cadmin": 0, "/public/./admin": 0,
			"/public#/../admin": 0, "/public/a#b": 0, "/public/%00": 0, "/public/a\x00b": 0, "/public/\xc0\xae\xc0\xae/admin": 0,
			"/public/%c0%ae%c0%ae/admin": 0, "/public/a b": 0, "/public/a\tb": 0, "": 0, "*": 0, "public/a": 0, "?x": 0, "evil.test:443": 0, "/public/%zz": 0,
		} {
			if got := b.forwards(t, dialect, path); want > 0 && got != want || want == 0 && got < 400 {
				t.Errorf("%s of %q: %d, want %d", dialect, path, got, want)
			}
		}
		// Two fields are two paths.
		for _, h := range get("/public/a").forGateway(dialect) {
			if h.Name != "X-Forwarded-Uri" && h.Name != "X-Original-URL" {
				continue
			}
			if got := b.forwards(t, dialect, "/public/a", h.Name, strings.Replace(h.Value, "/public/a", "/secret", 1)); got == 200 {
				t.Errorf("%s with %s twice: %d", dialect, h.Name, got)
			}
		}
	}
}

// FORWARD-04: the corpus of paths, through every dialect, gives what it gives at the other
// doors: a deny wherever any reading of a path leads out of what is allowed.
func TestForwardedPathCorpus(t *testing.T) {
	t.Parallel()
	b := startForwarded(t)
	counts := tally{}
	for _, v := range vectortest.Lines[struct {
		ID, Path, P1 string
	}](t, "http/paths.jsonl") {
		if strings.ContainsAny(v.Path, "\r\n") {
			continue // no field can hold one
		}
		for _, dialect := range dialects {
			got := b.forwards(t, dialect, v.Path)
			good := v.P1 != "deny" || got != 200
			if v.P1 == "allow" {
				good = got == 200
			}
			counts.count(dialect, good)
			if !good {
				t.Errorf("%s, %s of %q: %d, want %s", v.ID, dialect, v.Path, got, v.P1)
			}
		}
	}
	counts.print(t)
}

// FORWARD-06: the cookie of a session, through every door.
func TestSessionCookiesThroughDoors(t *testing.T) {
	t.Parallel()
	w := prepare(t, "caches", "@STORE@", sqliteStore)
	w.write(t, "jwks.json", jwks(testIssuer))
	w.write(t, "curve.json", newCurve(t).jwks(t))
	w.bootstrap(t)
	p := launch(t, w)
	p.ann(t)
	mine := p.logIn(t, "ann", annsPassword)
	everywhere := func(p *replica, cookie string) (statuses []int) {
		statuses = append(statuses, p.askEnvoy(t, get("/x", "cookie", cookie)).status, p.askPostern(t, get("/x", "cookie", cookie)).status)
		for _, dialect := range dialects {
			statuses = append(statuses, p.forwards(t, dialect, "/x", "cookie", cookie))
		}
		return statuses
	}
	expect := func(p *replica, what, cookie string, want int) {
		t.Helper()
		var got []int
		eventually(t, "an answer", func() bool {
			got = everywhere(p, cookie)
			for _, s := range got {
				if s == 503 {
					return false
				}
			}
			return true
		})
		for _, s := range got {
			if want == 200 && s != 200 || want != 200 && s < 400 {
				t.Errorf("%s: %v, want %d", what, got, want)
				return
			}
		}
	}
	p.becomes(t, withCookie("/x", mine.cookie), 200, "allowed")
	const name = "__Host-session="
	expect(p, "a good one", name+mine.cookie, 200)

	// Its attributes: who set it on another way has another cookie.
	for _, attribute := range []string{"Secure", "HttpOnly", "SameSite=Lax", "Path=/"} {
		if !strings.Contains(mine.setCookie, "; "+attribute) {
			t.Errorf("without %s: %s", attribute, mine.setCookie)
		}
	}
	if strings.Contains(strings.ToLower(mine.setCookie), "domain=") {
		t.Error("a sibling domain could set it")
	}
	// Fixation: whatever id a browser brings to a login, it leaves with another.
	planted := name + strings.Replace(mine.cookie, mine.cookie[8:20], "AAAAAAAAAAAA", 1)
	expect(p, "a planted one", planted, 401)
	if again := p.logIn(t, "ann", annsPassword, "Cookie", planted); name+again.cookie == planted {
		t.Error("the planted one was adopted")
	}
	expect(p, "the planted one after a login", planted, 401)
	// Tossing: a sibling's cookie beside ours is not chosen, and neither is ours then.
	other := p.logIn(t, "ann", annsPassword)
	p.becomes(t, withCookie("/x", other.cookie), 200, "allowed")
	expect(p, "two of them", name+mine.cookie+"; "+name+other.cookie, 401)
	expect(p, "two of them, one planted", planted+"; "+name+mine.cookie, 401)
	expect(p, "under a name that siblings can set", "session="+mine.cookie, 401)
	expect(p, "in another case", strings.ToLower(name)+mine.cookie, 401)
	// Tampering, letter by letter.
	for _, at := range []int{0, 5, 9, 21, 30, len(mine.cookie) - 7, len(mine.cookie) - 1} {
		letter := byte('a')
		if mine.cookie[at] == letter {
			letter = 'b'
		}
		expect(p, "tampered with", name+mine.cookie[:at]+string(letter)+mine.cookie[at+1:], 401)
	}
	expect(p, "cut", name+mine.cookie[:len(mine.cookie)-1], 401)
	expect(p, "longer", name+mine.cookie+"a", 401)
	expect(p, "nothing", name, 401)
	// After the logout it is nothing.
	gone := p.logIn(t, "ann", annsPassword)
	p.becomes(t, withCookie("/x", gone.cookie), 200, "allowed")
	if v := p.post(t, "/logout", url.Values{}, "Cookie", name+gone.cookie, "Sec-Fetch-Site", "same-origin"); v.status >= 400 {
		t.Errorf("logout: %d", v.status)
	}
	eventually(t, "it is over", func() bool { return p.askEnvoy(t, withCookie("/x", gone.cookie)).status == 401 })
	expect(p, "after the logout", name+gone.cookie, 401)
	rotated := does(t, p.sessions.CreateSession, &adminv1.CreateSessionRequest{Session: &adminv1.Session{PrincipalId: "ann"}}).GetCreated()
	does(t, p.sessions.DeleteSession, &adminv1.DeleteSessionRequest{Id: rotated.GetSession().GetId()})
	expect(p, "after it was deleted", name+rotated.GetSecret(), 401)

	// Another pepper: the one before is good as long as it is kept, and not for new ones.
	p.stop(t, os.Interrupt)
	w.write(t, "old", w.read(t, "pepper"))
	w.write(t, "new", strings.Repeat("0123456789abcdef", 4))
	config := w.read(t, "postern.yaml")
	both := `api_keys: { peppers: [{ version: 2, secret: "${file:new}" }, { version: 1, secret: "${file:old}" }] }`
	alone := `api_keys: { peppers: [{ version: 2, secret: "${file:new}" }] }`
	const single = `api_keys: { pepper: "${file:pepper}" }`
	w.write(t, "postern.yaml", strings.Replace(config, single, both, 1))
	q := launch(t, w)
	expect(q, "of the old pepper, which is kept", name+mine.cookie, 200)
	fresh := q.logIn(t, "ann", annsPassword)
	q.becomes(t, withCookie("/x", fresh.cookie), 200, "allowed")
	q.stop(t, os.Interrupt)
	w.write(t, "postern.yaml", strings.Replace(config, single, alone, 1))
	r := launch(t, w)
	expect(r, "of the old pepper, which is gone", name+mine.cookie, 401)
	expect(r, "of the new one", name+fresh.cookie, 200)
}

// ADMIN-05, of the other door that takes JSON: what has two readings is refused as JSON,
// and each of them alone is answered.
func TestConnectJSONIsStrict(t *testing.T) {
	t.Parallel()
	b := startForwarded(t)
	ask := func(body string) (status int, answer string) {
		res, err := http.Post("http://"+b.gateway+"/postern.v1.CheckService/Check", "application/json", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		text, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return res.StatusCode, string(text)
	}
	const good = `{"target":{"http":{"method":"GET","host":"api.test","path":"/public/a"}}}`
	with := func(more string) string { return strings.TrimSuffix(good, "}") + "," + more + "}" }
	for _, body := range []string{good, with(`"correlationId":"x"`), with(`"correlation_id":"x"`), with(`"context":{"x":1}`), with(`"cost":{"tokens":1}`), with(`"cost":{"tokens":"1"}`)} {
		if status, answer := ask(body); status != http.StatusOK || !strings.Contains(answer, `"allowed":true`) {
			t.Fatalf("%s: %d %s", body, status, answer)
		}
	}
	bodies := oddBodies(good, "method")
	maps.Copy(bodies, map[string]string{
		"a field in both spellings":  with(`"correlationId":"x","correlation_id":"x"`),
		"a name twice in a context":  with(`"context":{"x":1,"x":2}`),
		"a unit twice":               with(`"cost":{"tokens":1,"tokens":2}`),
		"a context, deep":            with(`"context":{"x":` + strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000) + `}`),
		"a number for a text":        with(`"correlationId":1`),
		"NaN":                        with(`"cost":{"tokens":NaN}`),
		"NaN, as a text":             with(`"cost":{"tokens":"NaN"}`),
		"a part of a token":          with(`"cost":{"tokens":1.5}`),
		"a number that is too large": with(`"cost":{"tokens":1e300}`),
	})
	for name, body := range bodies {
		if status, answer := ask(body); status != http.StatusBadRequest || !strings.Contains(answer, `"code":"invalid_argument"`) {
			t.Errorf("%s: %d %.300s", name, status, answer)
		}
	}
	if status, _ := ask(good); status != http.StatusOK {
		t.Errorf("afterwards: %d", status)
	}
}
