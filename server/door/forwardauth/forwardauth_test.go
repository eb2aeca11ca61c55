package forwardauth_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/door"
	"github.com/postern-auth/postern/server/door/forwardauth"
)

// answers is a Checker that answers by a function.
type answers func(a *policy.Attributes) policy.Decision

func (f answers) Check(_ context.Context, a *policy.Attributes) policy.Decision { return f(a) }

func allowed(*policy.Attributes) policy.Decision {
	return policy.Decision{
		Allowed: true, Reason: policy.ReasonAllowed, Status: 200,
		Upstream: []policy.Header{{Name: "x-auth-principal", Value: "ann"}},
		Remove:   []string{"authorization", "x-auth-principal", "x-auth-roles", "connection"},
		Client:   []policy.Header{{Name: "x-auth-principal", Value: "mallory"}, {Name: "x-trace", Value: "7"}},
	}
}

func denied(r policy.Reason) answers {
	return func(*policy.Attributes) policy.Decision {
		return policy.Decision{Reason: r, Status: r.Status(), Message: r.Message()}
	}
}

func serve(t testing.TB, c forwardauth.Checker, cfg forwardauth.Config) string {
	t.Helper()
	mux := http.NewServeMux()
	forwardauth.New(c, cfg, slog.New(slog.DiscardHandler)).Register(mux)
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return s.URL
}

var client = &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, Timeout: 10 * time.Second}

// ask sends header fields in pairs.
func ask(t testing.TB, url string, fields ...string) *http.Response {
	t.Helper()
	q, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(fields); i += 2 {
		q.Header[fields[i]] = append(q.Header[fields[i]], fields[i+1])
	}
	res, err := client.Do(q)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = res.Body.Close() })
	return res
}

func said(dialect, method, url string) []string {
	if dialect == "nginx" {
		return []string{"X-Original-Method", method, "X-Original-Url", url}
	}
	scheme, rest, _ := strings.Cut(url, "://")
	at := strings.IndexByte(rest, '/')
	return []string{"X-Forwarded-Method", method, "X-Forwarded-Proto", scheme, "X-Forwarded-Host", rest[:at], "X-Forwarded-Uri", rest[at:]}
}

var dialects = []string{"nginx", "traefik", "caddy", "haproxy"}

// What the gateway says arrives as it said it, and apart from what the client sent.
func TestQuestions(t *testing.T) {
	t.Parallel()
	for _, dialect := range dialects {
		var got policy.Attributes
		url := serve(t, answers(func(a *policy.Attributes) policy.Decision { got = *a; return allowed(a) }), forwardauth.Config{})
		fields := append(said(dialect, "DELETE", "https://api.test:8443/a%2Fb/../c?x=1&y"), "X-Forwarded-For", "198.51.100.7, 192.0.2.9", "X-A", "1", "X-A", "2", "Authorization", "Bearer t")
		if res := ask(t, url+forwardauth.Prefix+dialect, fields...); res.StatusCode != 200 {
			t.Error(dialect, res.Status)
		}
		want := policy.Attributes{
			Door: "forwardauth", Method: "DELETE", Scheme: "https", Host: "api.test:8443", Path: "/a%2Fb/../c?x=1&y", Size: -1,
			Source: policy.Endpoint{Address: netip.AddrPortFrom(netip.MustParseAddr("192.0.2.9"), 0)},
			Headers: policy.Headers{
				{Name: "accept-encoding", Value: "gzip"}, {Name: "authorization", Value: "Bearer t"}, {Name: "user-agent", Value: "Go-http-client/1.1"},
				{Name: "x-a", Value: "1"}, {Name: "x-a", Value: "2"}, {Name: "x-forwarded-for", Value: "198.51.100.7, 192.0.2.9"},
			},
		}
		if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.AddrPort{})); diff != "" {
			t.Errorf("%s: %s", dialect, diff)
		}
	}
}

// FAILOPEN-08: what the gateway does not say, or somebody says beside it, is never
// guessed.
func TestUntold(t *testing.T) {
	t.Parallel()
	url := serve(t, answers(allowed), forwardauth.Config{})
	for _, dialect := range dialects {
		whole := said(dialect, "GET", "https://api.test/a")
		for i := 0; i < len(whole); i += 2 {
			missing := append(append([]string{}, whole[:i]...), whole[i+2:]...)
			for what, fields := range map[string][]string{
				"missing": missing,
				"empty":   append(append([]string{}, missing...), whole[i], ""),
				"twice":   append(append([]string{}, whole...), whole[i], whole[i+1]),
				"two":     append(append([]string{}, whole...), whole[i], "/admin"),
			} {
				if res := ask(t, url+forwardauth.Prefix+dialect, fields...); res.StatusCode != http.StatusForbidden {
					t.Errorf("%s: %s %s: %s", dialect, what, whole[i], res.Status)
				}
			}
		}
	}
	for _, text := range []string{"/a", "api.test/a", "https://api.test", "https:/api.test/a", "://", "://api.test/a", "https:///a", ":///a"} {
		if res := ask(t, url+"/forward-auth/nginx", "X-Original-Method", "GET", "X-Original-Url", text); res.StatusCode != http.StatusForbidden {
			t.Errorf("%q: %s", text, res.Status)
		}
	}
	if res := ask(t, url+"/forward-auth/apache"); res.StatusCode != http.StatusNotFound {
		t.Error(res.Status)
	}
}

// FORWARD-03: every field that a client must not keep is in an allow, empty if there is
// nothing to say; what is for the client cannot be taken for one of them.
func TestAllow(t *testing.T) {
	t.Parallel()
	res := ask(t, serve(t, answers(allowed), forwardauth.Config{})+"/forward-auth/caddy", said("caddy", "GET", "https://a.test/")...)
	for name, want := range map[string][]string{
		"Authorization": {""}, "X-Auth-Principal": {"ann"}, "X-Auth-Roles": {""}, "X-Trace": {"7"}, "Cache-Control": {"no-store"}, "Connection": nil,
	} {
		if diff := cmp.Diff(want, res.Header.Values(name)); diff != "" && len(want)+len(res.Header.Values(name)) > 0 {
			t.Errorf("%s: %s", name, diff)
		}
	}
	if body, _ := io.ReadAll(res.Body); len(body) > 0 {
		t.Errorf("%q", body)
	}
}

// FORWARD-03: an allow cannot have every spelling of a field taken away by a gateway that
// goes by a list; by the one that takes what the answer says, it can.
func TestAliases(t *testing.T) {
	t.Parallel()
	url := serve(t, answers(func(a *policy.Attributes) policy.Decision {
		d := allowed(a)
		d.Remove = append(d.Remove, "x_auth_principal", "x.auth.principal", "api_key")
		return d
	}), forwardauth.Config{KeyHeaders: []string{"api_key"}})
	for dialect, want := range map[string]int{"nginx": 403, "traefik": 400, "caddy": 400, "haproxy": 200} {
		for _, name := range []string{"X_Auth_Principal", "X.auth.principal"} {
			if res := ask(t, url+forwardauth.Prefix+dialect, append(said(dialect, "GET", "https://a.test/"), name, "root")...); res.StatusCode != want {
				t.Errorf("%s to %s: %s", name, dialect, res.Status)
			}
		}
		if res := ask(t, url+forwardauth.Prefix+dialect, append(said(dialect, "GET", "https://a.test/"), "X-Auth-Principal", "root", "Api_key", "k")...); res.StatusCode != 200 {
			t.Errorf("what a list has, to %s: %s", dialect, res.Status)
		}
	}
}

// G-01: the statuses that each gateway can pass on. nginx gets 403 where it would make
// 500 of what was meant, and hears what that is.
func TestDenies(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		reason        policy.Reason
		status, nginx int
	}{
		{policy.ReasonCredentialMissing, 401, 401}, {policy.ReasonScope, 403, 403}, {policy.ReasonRequestInvalid, 400, 403},
		{policy.ReasonRateLimited, 429, 403}, {policy.ReasonUnavailable, 503, 503}, {policy.ReasonUnspecified, 403, 403},
	} {
		url := serve(t, denied(c.reason), forwardauth.Config{})
		for _, dialect := range dialects {
			res := ask(t, url+forwardauth.Prefix+dialect, said(dialect, "GET", "https://a.test/")...)
			want, meant := c.status, ""
			if dialect == "nginx" {
				want, meant = c.nginx, fmt.Sprint(c.status)
			}
			if res.StatusCode != want || res.Header.Get(forwardauth.StatusHeader) != meant {
				t.Errorf("%s to %s: %s %v", c.reason, dialect, res.Status, res.Header)
			}
			if challenge := res.Header.Get("WWW-Authenticate"); (challenge != "") != (want == 401) {
				t.Errorf("%s to %s: challenge %q", c.reason, dialect, challenge)
			}
		}
	}
}

// FAILOPEN-09: a fault, a panic, an answer that contradicts itself, or a caller that is
// not listed, is never a success.
func TestFaults(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]answers{
		"panic":       func(*policy.Attributes) policy.Decision { panic("hunter2") },
		"zero":        func(*policy.Attributes) policy.Decision { return policy.Decision{} },
		"only a word": func(*policy.Attributes) policy.Decision { return policy.Decision{Allowed: true, Status: 200} },
		"only a reason": func(*policy.Attributes) policy.Decision {
			return policy.Decision{Reason: policy.ReasonAllowed, Status: 200}
		},
		"unsendable": func(a *policy.Attributes) policy.Decision {
			d := allowed(a)
			d.Upstream = append(d.Upstream, policy.Header{Name: "x-role", Value: "a\r\nx-admin: 1"})
			return d
		},
		"a success by policy": func(*policy.Attributes) policy.Decision {
			return policy.Decision{Reason: policy.ReasonPolicyDenied, Status: 204}
		},
		"the client's own copy by policy": func(*policy.Attributes) policy.Decision {
			return policy.Decision{Reason: policy.ReasonPolicyDenied, Status: 304}
		},
	} {
		for _, dialect := range dialects {
			res := ask(t, serve(t, c, forwardauth.Config{})+forwardauth.Prefix+dialect, said(dialect, "GET", "https://a.test/")...)
			body, _ := io.ReadAll(res.Body)
			if res.StatusCode < 400 || strings.Contains(string(body), "hunter2") || res.Header.Get("X-Admin") != "" {
				t.Errorf("%s to %s: %s %s", name, dialect, res.Status, body)
			}
		}
	}
	mux := http.NewServeMux()
	forwardauth.New(answers(allowed), forwardauth.Config{}, nil).Register(mux)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mux.ServeHTTP(w, r.WithContext(door.WithUnlisted(r.Context())))
	}))
	defer s.Close()
	if res := ask(t, s.URL+"/forward-auth/caddy", said("caddy", "GET", "https://a.test/")...); res.StatusCode != 503 {
		t.Error("a caller that is not listed:", res.Status)
	}
}

// FORWARD-01: the length of a body that never comes makes nobody wait, and HEAD has no
// body.
func TestLengthWithoutBody(t *testing.T) {
	t.Parallel()
	for _, c := range []answers{allowed, denied(policy.ReasonScope)} {
		url := serve(t, c, forwardauth.Config{MaxBody: 1 << 20})
		for _, method := range []string{"GET", "POST", "HEAD"} {
			conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
			if err != nil {
				t.Fatal(err)
			}
			_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
			fmt.Fprintf(conn, "%s /forward-auth/nginx HTTP/1.1\r\nHost: postern\r\nX-Original-Method: POST\r\nX-Original-URL: https://a.test/x\r\nContent-Length: 1000\r\n\r\n", method)
			res, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadAll(res.Body); err != nil || res.StatusCode != 200 && res.StatusCode != 403 {
				t.Errorf("%s: %s %v", method, res.Status, err)
			}
			_ = conn.Close()
		}
	}
}

// A body is read only where that is asked for, and only whole.
func TestBody(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		most int64
		send string
		want string
		cut  bool
		size int64 // that is said; -1 for chunks
	}{{0, "abc", "", true, 3}, {3, "abc", "abc", false, 3}, {2, "abc", "", true, 3}, {3, "abc", "", true, -1}} {
		var got policy.Attributes
		url := serve(t, answers(func(a *policy.Attributes) policy.Decision { got = *a; return allowed(a) }), forwardauth.Config{MaxBody: c.most})
		q, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+"/forward-auth/traefik", strings.NewReader(c.send))
		if err != nil {
			t.Fatal(err)
		}
		for f := said("traefik", "POST", "https://a.test/x"); len(f) > 0; f = f[2:] {
			q.Header.Set(f[0], f[1])
		}
		q.ContentLength = c.size
		res, err := client.Do(q)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		if string(got.Body) != c.want || got.BodyTruncated != c.cut {
			t.Errorf("at most %d: %q, cut %v", c.most, got.Body, got.BodyTruncated)
		}
	}
}

// FuzzForwardAuth: whatever the fields hold, nothing panics, and an allow is one of the
// Checker's about exactly what the gateway said.
func FuzzForwardAuth(f *testing.F) {
	f.Add("GET", "https://a.test/x?y", "10.0.0.1")
	f.Add("", "://", "[::1]:8")
	f.Add("GET", "http://a@b\\c#/", ", ,")
	f.Fuzz(func(t *testing.T, method, url, from string) {
		var got *policy.Attributes
		mux := http.NewServeMux()
		forwardauth.New(answers(func(a *policy.Attributes) policy.Decision { got = a; return allowed(a) }), forwardauth.Config{}, slog.New(slog.DiscardHandler)).Register(mux)
		r := httptest.NewRequest(http.MethodGet, "/forward-auth/nginx", nil)
		r.Header = http.Header{"X-Original-Method": {method}, "X-Original-Url": {url}, "X-Forwarded-For": {from}}
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, r)
		if (w.Code == 200) != (got != nil) {
			t.Fatalf("%d, asked %v", w.Code, got != nil)
		}
		if got != nil && (got.Method != method || got.Scheme+"://"+got.Host+got.Path != url) {
			t.Fatalf("%q is asked about as %+v", url, got)
		}
	})
}
