package check_test

import (
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn"
	"github.com/postern-auth/postern/server/check"
)

// tokens knows one token for each session.
type tokens map[string]string

func (k tokens) VerifyCSRF(p *authn.Proof, token string) bool {
	return token != "" && k[p.Subject.SessionID] == token
}

// browser is a world whose users come with a session cookie, or a JWT in one.
func browser(t *testing.T) *world {
	t.Helper()
	w := newWorld(t)
	w.cfg.Rules = append(w.cfg.Rules, rule(t, "cookie:__Host-session", "session"), rule(t, "cookie:__Host-jwt", "jwt"))
	w.cfg.Extractor = authn.NewExtractor(w.cfg.Rules)
	w.proofs["s1"] = proof("alice", "session")
	w.proofs["s1"].Subject = authn.Subject{SessionID: "1"}
	w.cfg.CSRF.Tokens = tokens{"1": "t1", "2": "t2"}
	return w
}

// S-05: a session cookie and a method that changes something need a sign that the
// application itself sent the request. Every row is a POST to https://api.test.
func TestCSRF(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, site, origin, token string // "-" sends an empty field, "" none
		ok                        bool
	}{
		{"nothing", "", "", "", false},

		{"same origin", "same-origin", "", "", true},
		{"same origin, both agree", "same-origin", "https://api.test", "", true},
		{"same origin, TLS ended before", "same-origin", "https://api.test:8443", "", true},
		{"the user's own doing", "none", "", "", true},
		{"the user's own doing, sandboxed", "none", "null", "", true},
		{"cross site", "cross-site", "", "", false},
		{"cross site with a good Origin", "cross-site", "https://api.test", "", false},
		{"cross site with a good token", "cross-site", "", "t1", false},
		{"same site", "same-site", "", "", false},
		{"same site with a good token", "same-site", "", "t1", false},
		{"unknown word", "self", "", "t1", false},
		{"wrong case", "Same-Origin", "", "t1", false},
		{"empty", "-", "", "t1", false},
		{"the two contradict each other", "same-origin", "https://evil.test", "", false},
		{"none contradicts Origin", "none", "https://evil.test", "", false},
		{"none and no Origin that could be read", "none", "evil", "", false},

		{"own Origin", "", "https://api.test", "", true},
		{"own Origin with the default port", "", "https://api.test:443", "", true},
		{"another host", "", "https://evil.test", "", false},
		{"another host and a good token", "", "https://evil.test", "t1", false},
		{"a longer host", "", "https://api.test.evil.test", "", false},
		{"a shorter host", "", "https://test", "", false},
		{"a name before", "", "https://evil-api.test", "", false},
		{"user information", "", "https://api.test@evil.test", "", false},
		{"another port", "", "https://api.test:8443", "", false},
		{"another scheme", "", "http://api.test", "", false},
		{"another scheme with the port", "", "http://api.test:443", "", false},
		{"a path", "", "https://api.test/", "", false},
		{"upper case", "", "https://API.test", "", false},
		{"port zero", "", "https://api.test:0", "", false},
		{"no port behind the colon", "", "https://api.test:", "", false},
		{"no scheme", "", "api.test", "", false},
		{"scheme alone", "", "https://", "", false},
		{"two origins", "", "https://api.test https://evil.test", "", false},
		{"two origins, joined", "", "https://api.test, https://evil.test", "", false},
		{"empty Origin", "", "-", "t1", false},

		{"token", "", "", "t1", true},
		{"token, opaque Origin", "", "null", "t1", true},
		{"opaque Origin", "", "null", "", false},
		{"wrong token", "", "", "t", false},
		{"empty token", "", "", "-", false},
		{"another session's token", "", "", "t2", false},
	}
	for _, tt := range tests {
		w := browser(t)
		fields := []string{"cookie", "theme=dark; __Host-session=s1"}
		for name, value := range map[string]string{"sec-fetch-site": tt.site, "origin": tt.origin, "x-csrf-token": tt.token} {
			if value != "" {
				fields = append(fields, name, strings.TrimPrefix(value, "-"))
			}
		}
		reason, phase := policy.ReasonCSRF, policy.PhaseHold
		if tt.ok {
			reason, phase = policy.ReasonAllowed, policy.PhaseRecord
		}
		for _, method := range []string{"POST", "PUT", "PATCH", "DELETE", "get", "PURGE"} {
			a := request(fields...)
			a.Method = method
			if d := w.check(t, a); d.Reason != reason || d.Phase != phase || d.Status != reason.Status() {
				t.Errorf("%s: %s: %v, %s", tt.name, method, d.Reason, d.Detail)
			}
		}
		// S-05: what changes nothing is not affected.
		for _, method := range []string{"GET", "HEAD", "OPTIONS", "TRACE"} {
			a := request(fields...)
			a.Method = method
			if d := w.check(t, a); !d.Allowed {
				t.Errorf("%s: %s: %v, %s", tt.name, method, d.Reason, d.Detail)
			}
			// But an upgrade to WebSocket is, with or without the field that a gateway may
			// take out.
			for _, field := range []string{"upgrade", "sec-websocket-key"} {
				a = request(append(fields, field, "websocket")...)
				a.Method = method
				if d := w.check(t, a); d.Reason != reason {
					t.Errorf("%s: upgrade by %s with %s: %v", tt.name, method, field, d.Reason)
				}
			}
		}
		// A credential that did not come in a cookie is not either.
		a := request(append([]string{"x-api-key", "key"}, fields[2:]...)...)
		a.Method = "POST"
		if d := w.check(t, a); !d.Allowed {
			t.Errorf("%s: with a key: %v", tt.name, d.Reason)
		}
	}
}

// Fields that occur twice have no reading, whoever looks first.
func TestCSRFTwice(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"sec-fetch-site", "origin", "x-csrf-token"} {
		value := map[string]string{"sec-fetch-site": "same-origin", "origin": "https://api.test", "x-csrf-token": "t1"}[name]
		a := request("cookie", "__Host-session=s1", name, value, name, value)
		a.Method = "POST"
		if d := browser(t).check(t, a); d.Allowed {
			t.Errorf("%s twice is allowed", name)
		}
	}
}

// S-05: requests from the rest of the site are taken where the configuration says so.
func TestCSRFSameSite(t *testing.T) {
	t.Parallel()
	w := browser(t)
	w.cfg.CSRF.SameSite = true
	for site, ok := range map[string]bool{"same-site": true, "same-origin": true, "cross-site": false} {
		a := request("cookie", "__Host-session=s1", "sec-fetch-site", site, "origin", "https://api.test")
		a.Method = "POST"
		if d := w.check(t, a); d.Allowed != ok {
			t.Errorf("%s: %v", site, d.Reason)
		}
	}
}

// J-11: a JWT that comes in a cookie is under the same rules, and has no token of a
// session.
func TestCSRFOfJWT(t *testing.T) {
	t.Parallel()
	w := browser(t)
	for site, reason := range map[string]policy.Reason{"cross-site": policy.ReasonCSRF, "same-origin": policy.ReasonAllowed, "": policy.ReasonCSRF} {
		fields := []string{"cookie", "__Host-jwt=jwt", "x-csrf-token", "t1"}
		if site != "" {
			fields = append(fields, "sec-fetch-site", site)
		}
		a := request(fields...)
		a.Method = "POST"
		if d := w.check(t, a); d.Reason != reason || d.Status != reason.Status() {
			t.Errorf("%q: %v", site, d.Reason)
		}
	}
	w.cfg.CSRF.Tokens = nil
	a := request("cookie", "__Host-session=s1", "x-csrf-token", "t1")
	a.Method = "POST"
	want(t, w.check(t, a), policy.ReasonCSRF, policy.PhaseHold)
}

// A session that the caller hands over apart from the headers is still a browser's,
// but a question about an action comes from no browser.
func TestCSRFOfPresented(t *testing.T) {
	t.Parallel()
	w := browser(t)
	a := request()
	a.Method = "POST"
	a.Presented = &policy.Presented{Use: "session", Secret: policy.NewSecret("s1")}
	want(t, w.check(t, a), policy.ReasonCSRF, policy.PhaseHold)
	a = &policy.Attributes{Door: "test", Action: &policy.Action{Name: "orders.refund"}, Presented: a.Presented}
	want(t, w.check(t, a), policy.ReasonAllowed, policy.PhaseRecord)
}

// An Origin lets a request on for no more than the one host, port and scheme that it
// went to.
func TestCSRFOrigins(t *testing.T) {
	t.Parallel()
	w := browser(t)
	checker := check.New(w.cfg)
	part := rapid.SampledFrom([]string{"https", "http", "://", ":", "//", "api.test", "API.test", "evil.test", ".", "@", "/", "443", "8443", "0", " ", "[::1]", "null", "\\"})
	rapid.Check(t, func(r *rapid.T) {
		origin := strings.Join(rapid.SliceOfN(part, 1, 6).Draw(r, "origin"), "")
		a := request("cookie", "__Host-session=s1", "origin", origin)
		a.Method = "POST"
		d := checker.Check(t.Context(), a)
		own := origin == "https://api.test" || origin == "https://api.test:443"
		if d.Allowed != own {
			r.Fatalf("%q: %v", origin, d.Reason)
		}
	})
}

// The upstream sees the other cookies and not ours.
func TestCookieIsStripped(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, sent, want string }{
		{"alone", "__Host-session=s1", ""},
		{"first", "__Host-session=s1; theme=dark", "theme=dark"},
		{"last", "theme=dark; __Host-session=s1", "theme=dark"},
		{"between", "a=1;__Host-session=s1;b=2", "a=1; b=2"},
		{"twice", "__Host-session=s1; a=1; __Host-session=s1", "a=1"},
		{"names that are like it", "x__Host-session=1; __Host-session=s1; __host-session=2", "x__Host-session=1; __host-session=2"},
		{"odd ones", "; a; =b; __Host-session=s1; c=", "a; =b; c="},
		{"not UTF-8", "a=\xff; __Host-session=s1; b=2", "b=2"},
	} {
		w := browser(t)
		d := w.check(t, request("cookie", tt.sent))
		set, n := policy.Headers(d.Upstream).Get("cookie")
		if !d.Allowed || set != tt.want || n > 1 || (n == 0) != slices.Contains(d.Remove, "cookie") {
			t.Errorf("%s: %v, set %q, removed %v", tt.name, d.Reason, set, d.Remove)
		}
		if id, _ := policy.Headers(d.Upstream).Get("x-auth-principal"); id != "alice" {
			t.Errorf("%s: %v", tt.name, d.Upstream)
		}

		w.cfg.KeepCredential = true
		d = w.check(t, request("cookie", tt.sent))
		if _, n := policy.Headers(d.Upstream).Get("cookie"); n != 0 || slices.Contains(d.Remove, "cookie") {
			t.Errorf("%s: not kept: %v %v", tt.name, d.Upstream, d.Remove)
		}
	}

	w := browser(t)
	d := w.check(t, request("x-api-key", "key", "cookie", "a=1"))
	if _, n := policy.Headers(d.Upstream).Get("cookie"); n != 0 || slices.Contains(d.Remove, "cookie") {
		t.Errorf("cookies of others are touched: %v %v", d.Upstream, d.Remove)
	}
}

// A policy that says what becomes of the cookies is believed.
func TestCookieOfThePolicy(t *testing.T) {
	t.Parallel()
	w := browser(t)
	w.decider.verdict = &policy.Verdict{Allow: true, RemoveHeaders: []string{"cookie"}}
	d := w.check(t, request("cookie", "__Host-session=s1; a=1"))
	if _, n := policy.Headers(d.Upstream).Get("cookie"); n != 0 || !slices.Contains(d.Remove, "cookie") {
		t.Errorf("%v %v", d.Upstream, d.Remove)
	}
	w.decider.verdict = &policy.Verdict{Allow: true, UpstreamHeaders: []policy.Header{{Name: "cookie", Value: "b=2"}}}
	d = w.check(t, request("cookie", "__Host-session=s1; a=1"))
	if set, n := policy.Headers(d.Upstream).Get("cookie"); set != "b=2" || n != 1 || slices.Contains(d.Remove, "cookie") {
		t.Errorf("%v %v", d.Upstream, d.Remove)
	}
}
