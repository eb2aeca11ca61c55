package canonical_test

import (
	"cmp"
	"encoding/json"
	"net/netip"
	"strings"
	"testing"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/canonical"
	"github.com/postern-auth/postern/server/vectortest"
)

func newReader(t testing.TB, c canonical.Config) *canonical.Reader {
	t.Helper()
	r, err := canonical.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// get is a plain request for the target.
func get(target string) *policy.Attributes {
	return &policy.Attributes{Method: "GET", Scheme: "https", Host: "api.test", Path: target}
}

func patterns(t testing.TB, texts ...string) []policy.PathPattern {
	t.Helper()
	all := make([]policy.PathPattern, len(texts))
	for i, text := range texts {
		p, err := policy.ParsePathPattern(text)
		if err != nil {
			t.Fatal(err)
		}
		all[i] = p
	}
	return all
}

func matches(patterns []policy.PathPattern, path string) bool {
	for _, p := range patterns {
		if p.Match(path) {
			return true
		}
	}
	return false
}

// TestPathVectors reads the paths of an oracle that knows 19 ways to read a path
// differently. P1 allows /public only, P2 denies /admin only.
func TestPathVectors(t *testing.T) {
	t.Parallel()
	type vector struct{ ID, Path, Category, P1, P2 string }
	r := newReader(t, canonical.Config{})
	public := patterns(t, "/public", "/public/**")
	admin := patterns(t, "/admin", "/admin/**")
	answer := func(allowed bool) string {
		if allowed {
			return "allow"
		}
		return "deny"
	}
	for _, v := range vectortest.Lines[vector](t, "http/paths.jsonl") {
		var q policy.Request
		err := r.Read(get(v.Path), &q)
		p1 := answer(err == nil && matches(public, q.Path))
		p2 := answer(err == nil && !matches(admin, q.Path) && !matches(admin, canonical.Fold(q.Path)))
		if v.P1 != "either" && p1 != v.P1 || v.P2 != "either" && p2 != v.P2 {
			t.Errorf("%s %s %.80q: got %s/%s, want %s/%s (%v, %q)", v.ID, v.Category, v.Path, p1, p2, v.P1, v.P2, err, q.Path)
		}
	}
}

// TestEnvoyPathVectors holds our reading against Envoy's own. We refuse what
// Envoy repairs where a repair could be wrong; what we accept we read as it does.
func TestEnvoyPathVectors(t *testing.T) {
	t.Parallel()
	type vector struct {
		Op, Input string
		Output    *string
	}
	strict := newReader(t, canonical.Config{})
	decoding := newReader(t, canonical.Config{Paths: canonical.PathConfig{EncodedSlash: canonical.EncodedSlashDecode}})
	accepted := map[string]int{}
	for _, v := range vectortest.Lines[vector](t, "http/envoy_path_vectors.jsonl") {
		r := strict
		if v.Op == "unescape_slashes" {
			r = decoding
		}
		var q policy.Request
		if r.Read(get(v.Input), &q) != nil {
			continue
		}
		accepted[v.Op]++
		got := q.Path
		if q.Query != "" && v.Op != "remove_query_and_fragment" {
			got += "?" + q.Query
		}
		if v.Output == nil {
			t.Errorf("%s %q: got %q, want a refusal", v.Op, v.Input, got)
		} else if got != strings.TrimSuffix(*v.Output, "?") {
			t.Errorf("%s %q: got %q, want %q", v.Op, v.Input, got, *v.Output)
		}
	}
	for op, want := range map[string]int{"normalize_path_rfc3986": 3, "merge_slashes": 5, "unescape_slashes": 1, "remove_query_and_fragment": 3} {
		if accepted[op] < want {
			t.Errorf("%s: %d accepted, want at least %d", op, accepted[op], want)
		}
	}
}

func TestHostVectors(t *testing.T) {
	t.Parallel()
	type vector struct {
		ID, Host, Expect, Why string
		Rule                  string `json:"rule_host"`
	}
	r := newReader(t, canonical.Config{})
	for _, v := range vectortest.Lines[vector](t, "http/hosts.jsonl") {
		rule, err := policy.ParseHostPattern(v.Rule)
		if err != nil {
			t.Fatal(err)
		}
		a := get("/")
		a.Host = v.Host
		var q policy.Request
		err = r.Read(a, &q)
		matched := err == nil && rule.Match(q.Host)
		ok := map[string]bool{
			"match":         matched,
			"match-or-deny": matched || err != nil,
			"other":         !matched,
			"deny":          err != nil,
		}[v.Expect]
		if !ok {
			t.Errorf("%s %s %q: got %q, %v, want %s", v.ID, v.Why, v.Host, q.Host, err, v.Expect)
		}
	}
}

// TestClientIPVectors holds the examples of Envoy's documentation and attempts to
// claim another address.
func TestClientIPVectors(t *testing.T) {
	t.Parallel()
	type vector struct {
		ID, Remote, Client, Why, Header string
		XFF                             *string     `json:"x_forwarded_for"`
		Hops                            json.Number `json:"trusted_hops"`
		UseRemote                       *bool       `json:"use_remote_address"`
	}
	for _, v := range vectortest.Lines[vector](t, "http/client_ip.jsonl") {
		hops, err := json.Number(cmp.Or(string(v.Hops), "0")).Int64()
		if err != nil {
			t.Fatal(err)
		}
		r := newReader(t, canonical.Config{Client: canonical.ClientConfig{TrustedHops: int(hops), UseRemoteAddress: v.UseRemote}})
		a := get("/")
		a.Source.Address = netip.AddrPortFrom(netip.MustParseAddr(v.Remote), 40000)
		if v.XFF != nil {
			a.Headers = append(a.Headers, policy.Header{Name: "x-forwarded-for", Value: *v.XFF})
		}
		if name, value, ok := strings.Cut(v.Header, ": "); ok {
			a.Headers = append(a.Headers, policy.Header{Name: strings.ToLower(name), Value: value})
		}
		var q policy.Request
		if err := r.Read(a, &q); err != nil || q.ClientIP.String() != v.Client {
			t.Errorf("%s %s: got %v, %v, want %s", v.ID, v.Why, q.ClientIP, err, v.Client)
		}
	}
}

// httpRequest is what the vectors hold of an Envoy request.
type httpRequest struct {
	Method, Path, Host, Scheme, Protocol string
	Headers                              map[string]string
	HeaderMap                            struct {
		Headers []struct {
			Key, Value string
			RawValue   []byte
		}
	}
}

// attributes does what the ext_authz door does, and lowers names.
func (h *httpRequest) attributes() *policy.Attributes {
	a := &policy.Attributes{Door: "extauthz", Method: h.Method, Path: h.Path, Host: h.Host, Scheme: h.Scheme, Proxyless: h.Host == "" && h.Scheme == ""}
	for name, value := range h.Headers {
		a.Headers = append(a.Headers, policy.Header{Name: strings.ToLower(name), Value: value})
	}
	for _, f := range h.HeaderMap.Headers {
		a.Headers = append(a.Headers, policy.Header{Name: strings.ToLower(f.Key), Value: cmp.Or(f.Value, string(f.RawValue))})
	}
	return a
}

// TestCheckRequestVectors takes from the ext_authz requests what the reading of a
// request decides: request lines that contradict themselves or a header, and
// headers that a client must not be able to smuggle.
func TestCheckRequestVectors(t *testing.T) {
	t.Parallel()
	type vector struct {
		ID, Group, Expect, Why string
		Request                struct {
			Attributes struct{ Request struct{ HTTP httpRequest } }
		}
	}
	r := newReader(t, canonical.Config{CredentialHeaders: []string{"authorization", "x-api-key"}})
	counts := map[string]int{}
	for _, v := range vectortest.Lines[vector](t, "http/check_requests.jsonl") {
		a := v.Request.Attributes.Request.HTTP.attributes()
		var q policy.Request
		err := r.Read(a, &q)
		counts[v.Group]++
		switch {
		case v.Group == "line" && strings.HasPrefix(v.Expect, "deny unless"):
			if err == nil && (q.Method == "GET" || q.Method != a.Method || q.Method == "*") {
				t.Errorf("%s %s: read as %q", v.ID, v.Why, q.Method)
			}
		case v.Group == "line" && v.Expect == "deny":
			if err == nil {
				t.Errorf("%s %s: accepted as %q", v.ID, v.Why, q.Path)
			}
		case v.Group == "line" && strings.HasPrefix(v.Expect, "decision on "):
			if want, _, _ := strings.Cut(strings.TrimPrefix(v.Expect, "decision on "), " "); err != nil || q.Path != want {
				t.Errorf("%s %s: %q, %v, want %q", v.ID, v.Why, q.Path, err, want)
			}
		case v.Group == "spoof" && strings.Contains(v.Expect, "stricter of both methods"), strings.HasPrefix(v.Why, "hop-by-hop"):
			if err == nil {
				t.Errorf("%s %s: accepted", v.ID, v.Why)
			}
		case v.Group == "spoof" && strings.HasPrefix(v.Expect, "decision on the real"):
			if err != nil || q.Path != a.Path || q.Host != a.Host {
				t.Errorf("%s %s: %q %q, %v", v.ID, v.Why, q.Host, q.Path, err)
			}
		case v.Group == "spoof" && strings.HasPrefix(v.Expect, "allow"):
			checkSmuggled(t, r, a, v.ID+" "+v.Why, err, strings.HasPrefix(v.Expect, "allow-or-deny"))
		case v.Group == "extract" && strings.HasPrefix(v.Expect, "allow"):
			if err != nil {
				t.Errorf("%s %s: %v", v.ID, v.Why, err)
			}
		}
	}
	if counts["line"] == 0 || counts["spoof"] == 0 || counts["extract"] == 0 {
		t.Errorf("groups are missing: %v", counts)
	}
}

// checkSmuggled says that every identity header that the client sent is listed
// for removal, under any spelling.
func checkSmuggled(t *testing.T, r *canonical.Reader, a *policy.Attributes, name string, err error, mayRefuse bool) {
	t.Helper()
	if err != nil {
		if !mayRefuse {
			t.Errorf("%s: %v", name, err)
		}
		return
	}
	listed := r.Smuggled(a.Headers, nil)
	for _, h := range a.Headers {
		if strings.Contains(h.Name, "auth") && h.Name != "authorization" && h.Name != ":authority" && !contains(listed, h.Name) {
			t.Errorf("%s: %q is not listed in %q", name, h.Name, listed)
		}
	}
}

func contains(list []string, s string) bool {
	for _, e := range list {
		if e == s {
			return true
		}
	}
	return false
}

// TestURLVectors puts the inputs and results of the WHATWG URL tests where a path
// and a host stand. They do not say what we must accept; so what is accepted must
// be clean, be the same when read again, and hold one reading for our oracle. A
// path that the standard calls its normal form and that is free of escapes,
// parameters and dots at an edge must be accepted unchanged.
func TestURLVectors(t *testing.T) {
	t.Parallel()
	var all []json.RawMessage
	if err := json.Unmarshal(vectortest.Read(t, "url/urltestdata.json"), &all); err != nil {
		t.Fatal(err)
	}
	r := newReader(t, canonical.Config{})
	accepted, plain := 0, 0
	for _, raw := range all {
		var v struct{ Input, Pathname, Host, Search string }
		if raw[0] == '"' {
			continue // a comment
		}
		if err := json.Unmarshal(raw, &v); err != nil {
			t.Fatal(err)
		}
		for _, target := range []string{v.Input, v.Pathname, v.Pathname + v.Search} {
			if checkPath(t, r, target) {
				accepted++
			}
		}
		for _, host := range []string{v.Input, v.Host} {
			checkHost(t, r, host)
		}
		if strings.HasPrefix(v.Pathname, "/") && !strings.ContainsAny(v.Pathname, "%;.\\") && !strings.Contains(v.Pathname, "//") && isASCII(v.Pathname) && !strings.Contains(v.Pathname, " ") {
			plain++
			var q policy.Request
			if err := r.Read(get(v.Pathname), &q); err != nil || q.Path != v.Pathname {
				t.Errorf("%q: %q, %v", v.Pathname, q.Path, err)
			}
		}
	}
	if accepted < 300 || plain < 100 {
		t.Errorf("%d accepted, %d plain: the test has lost its subject", accepted, plain)
	}
}

// TestNaughtyStrings puts every naughty string everywhere. Nothing panics, and no
// refusal repeats what the client sent.
func TestNaughtyStrings(t *testing.T) {
	t.Parallel()
	var all [][]byte
	if err := json.Unmarshal(vectortest.Read(t, "strings/blns.base64.json"), &all); err != nil {
		t.Fatal(err)
	}
	r := newReader(t, canonical.Config{Client: canonical.ClientConfig{TrustedHops: 1, TrustForwardedProto: true}})
	for _, b := range all {
		s := string(b)
		checkPath(t, r, s)
		checkPath(t, r, "/"+s)
		checkPath(t, r, "/"+escape(s))
		checkHost(t, r, s)
		requests := []*policy.Attributes{
			{Method: s, Scheme: "https", Host: "api.test", Path: "/"},
			{Method: "GET", Scheme: s, Host: "api.test", Path: "/"},
			{Method: "GET", Scheme: "https", Host: "api.test", Path: "/?" + s},
			{Action: &policy.Action{Name: s, ResourceType: s, ResourceID: s}, Tenant: s, Asserted: &policy.Asserted{ID: s, Tenant: s}},
		}
		for _, name := range []string{s, "x-forwarded-for", "x-forwarded-proto", "authorization", "host", "connection", "x-http-method-override", ":path"} {
			a := get("/")
			a.Headers = policy.Headers{{Name: name, Value: s}, {Name: "x-" + s, Value: "1"}}
			requests = append(requests, a)
		}
		for _, a := range requests {
			var q policy.Request
			checkRefusal(t, r.Read(a, &q))
			r.Smuggled(a.Headers, nil)
		}
	}
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}

// TestCIDRVectors compares addresses the way policy.Constraints does: with the
// prefix as it was configured and the client's address as it was read.
func TestCIDRVectors(t *testing.T) {
	t.Parallel()
	type vector struct {
		ID, CIDR, IP, Why string
		Member            *bool
	}
	r := newReader(t, canonical.Config{})
	for _, v := range vectortest.Lines[vector](t, "http/cidr.jsonl") {
		p, err := policy.ParsePrefix(v.CIDR)
		if v.Member == nil && !strings.Contains(v.Why, "zone") && !strings.Contains(v.Why, "bare") {
			if err == nil {
				t.Errorf("%s %q: got %v, want an error: %s", v.ID, v.CIDR, p, v.Why)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s %q: %v", v.ID, v.CIDR, err)
			continue
		}
		a := get("/")
		a.Source.Address = netip.AddrPortFrom(netip.MustParseAddr(v.IP), 1)
		var q policy.Request
		if err := r.Read(a, &q); err != nil {
			t.Fatal(err)
		}
		c := policy.Constraints{Networks: []netip.Prefix{p}}
		member := v.Member == nil || *v.Member // zone and bare address: stripped, and itself
		if got := c.Check(policy.Use{Request: &q, Now: a.Time}) == policy.ReasonAllowed; got != member {
			t.Errorf("%s %s in %s: got %t, want %t (%s)", v.ID, v.IP, v.CIDR, got, member, v.Why)
		}
	}
}
