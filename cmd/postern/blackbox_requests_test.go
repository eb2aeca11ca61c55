package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn/apikey"
	"github.com/postern-auth/postern/server/vectortest"
)

// checkVector is a line of http/check_requests.jsonl.
type checkVector struct {
	ID, Group, Expect, Why string
	Request                json.RawMessage
}

// requestRecipe builds a request that is too big to be written down.
type requestRecipe struct {
	Headers          int
	HeaderValueBytes int `json:"header_value_bytes"`
	PathBytes        int `json:"path_bytes"`
	BodyBytes        int `json:"body_bytes"`
}

// requestWorld is the world of the vectors, and their ${NAMES}.
func requestWorld(t testing.TB) (world, map[string]string) {
	t.Helper()
	i := newIssuer("https://issuer.test", "k1")
	w := prepare(t, "requests")
	w.write(t, "jwks.json", jwks(i))
	w.write(t, "users", "alice:"+quickHash("correct horse battery staple")+":reader\n")
	acme := func(id string) order { return order{id: id, tenant: "acme", scopes: []string{"read"}} }
	yesterday := time.Now().Add(-24 * time.Hour).Truncate(time.Second)
	return w, map[string]string{
		"ALICE_JWT":   i.token(claims{"sub": "alice", "tenant": "acme", "scope": "read"}),
		"BOB_JWT":     i.token(claims{"sub": "bob", "tenant": "acme", "scope": "read"}),
		"ALICE_KEY":   w.mint(t, acme("alice-key")),
		"BOB_KEY":     w.mint(t, acme("bob-key")),
		"REVOKED_KEY": w.mint(t, acme("alice-key"), func(k *apikey.Key) { k.Revoked = &apikey.Revoked{} }),
		"EXPIRED_KEY": w.mint(t, acme("alice-key"), func(k *apikey.Key) {
			k.CreatedAt, k.ExpiresAt = yesterday.Add(-time.Hour), yesterday
		}),
		"OTHER_TENANT_KEY": w.mint(t, order{id: "mallory", tenant: "other", scopes: []string{"read"}}),
		// A key that is right in form and checksum, and that nobody knows.
		"UNKNOWN_KEY": prepare(t, "requests").mint(t, acme("alice-key")),
		"ALICE_BASIC": base64.StdEncoding.EncodeToString([]byte("alice:correct horse battery staple")),
		"SESSION":     "c2Vzc2lvbi1vZi1hbGljZQ", "BOB_SESSION": "c2Vzc2lvbi1vZi1ib2Itbm93",
	}
}

// fill reads the request of a vector and puts the credentials in.
func (v *checkVector) fill(t testing.TB, names map[string]string) *authv3.CheckRequest {
	t.Helper()
	var pairs []string
	for name, value := range names {
		pairs = append(pairs, "${"+name+"}", value)
	}
	in := strings.NewReplacer(pairs...).Replace
	req := &authv3.CheckRequest{}
	if err := (protojson.UnmarshalOptions{}).Unmarshal(v.Request, req); err != nil {
		t.Fatal(v.ID, err)
	}
	h := req.GetAttributes().GetRequest().GetHttp()
	if h == nil {
		return req
	}
	h.Path = in(h.GetPath())
	for name, value := range h.GetHeaders() {
		h.Headers[name] = in(value)
	}
	for _, f := range h.GetHeaderMap().GetHeaders() {
		f.RawValue = []byte(in(string(f.GetRawValue())))
	}
	return req
}

// build makes the request of a recipe: alice's, and something huge.
func (r requestRecipe) build(token string) *authv3.CheckRequest {
	q := get("/api/v1/things"+strings.Repeat("a", r.PathBytes), bearer(token)...)
	for i := range r.Headers {
		q.headers = append(q.headers, policy.Header{Name: fmt.Sprintf("x-%d", i), Value: "v"})
	}
	if r.HeaderValueBytes > 0 {
		q.headers = append(q.headers, policy.Header{Name: "x-big", Value: strings.Repeat("v", r.HeaderValueBytes)})
	}
	req := q.forEnvoy()
	req.Attributes.Request.Http.RawBody = bytes.Repeat([]byte("b"), r.BodyBytes)
	return req
}

// sent are the header fields of a request, names in lower case.
func sent(req *authv3.CheckRequest) (all policy.Headers) {
	h := req.GetAttributes().GetRequest().GetHttp()
	for _, name := range slices.Sorted(maps.Keys(h.GetHeaders())) {
		all = append(all, policy.Header{Name: strings.ToLower(name), Value: h.GetHeaders()[name]})
	}
	for _, f := range h.GetHeaderMap().GetHeaders() {
		all = append(all, policy.Header{Name: strings.ToLower(f.GetKey()), Value: string(f.GetRawValue())})
	}
	return all
}

// forwarded is what the upstream gets of an allowed request, as Envoy does it:
// what Postern set replaces the client's, then what it named is removed, then
// what Connection names is dropped.
func forwarded(a answer, client policy.Headers) (all policy.Headers) {
	for _, f := range client {
		if joined(a.set, f.Name) == "" {
			all = append(all, f)
		}
	}
	all = append(all, a.set...)
	drop := slices.Clone(a.removed)
	for _, f := range all {
		if f.Name == "connection" && !slices.Contains(drop, f.Name) {
			for name := range strings.SplitSeq(f.Value, ",") {
				drop = append(drop, strings.ToLower(strings.TrimSpace(name)))
			}
		}
	}
	return slices.DeleteFunc(all, func(f policy.Header) bool { return slices.Contains(drop, f.Name) })
}

// judge holds an answer against the expectation, which is a sentence. It returns
// what is wrong.
func (v *checkVector) judge(req *authv3.CheckRequest, a answer) string {
	client := sent(req)
	upstream := forwarded(a, client)
	want := func(ok bool) string {
		if ok {
			return ""
		}
		return fmt.Sprintf("%v, upstream %v", a, upstream)
	}
	alice := a.allowed() && a.principal == "alice" && a.issuer == "https://issuer.test"
	if v.Why == "Basic" {
		alice = a.allowed() && a.principal == "alice" && a.method == "basic"
	}
	if a.allowed() && (joined(upstream, "authorization") != "" || joined(upstream, "x-api-key") != "") {
		return "the credential goes upstream"
	}
	if name, ok := strings.CutPrefix(v.Expect, "allow:alice + upstream never sees client value of "); ok {
		return want(alice && joined(upstream, name) != "admin")
	}
	switch v.Expect {
	case "deny", "deny, no panic",
		"deny unless the policy names exactly this method; never treated as GET",
		"decision uses the stricter of both methods, or deny":
		return want(!a.allowed())
	case "deny:multiple_credentials":
		return want(a.status == 401 && a.reason == "multiple_credentials")
	case "allow:alice":
		return want(alice)
	case "allow:alice-key":
		return want(a.allowed() && a.principal == "alice-key" && a.method == "api_key")
	case "allow:anonymous + header removed":
		return want(a.allowed() && a.method == "anonymous" && a.principal == "" && joined(upstream, "x-auth-principal") == "")
	case "allow:alice + header overwritten, not appended":
		return want(alice && joined(upstream, "x-auth-principal") == "alice")
	case "allow:alice + identity headers survive or request denied":
		return want(!a.allowed() || alice && joined(upstream, "x-auth-principal") == "alice")
	case "allow-or-deny + upstream never sees it":
		return want(!a.allowed() || alice && !slices.ContainsFunc(upstream, func(f policy.Header) bool { return f.Value == "admin" }))
	case "decision on the real path only (deny: /admin needs admin)":
		return want(a.status == 403 && a.reason == "insufficient_scope" || a.status == 400)
	case "decision on the real host", "decision on /api/v1/things/7 only":
		return want(alice)
	case "deny or allow, no panic", "answered, no panic":
		return want(!a.allowed() || alice)
	case "no echo of request data in the body":
		return want(!a.allowed() && !strings.Contains(a.body+fmt.Sprint(a.headers), "script"))
	case "WWW-Authenticate has no quote breakage":
		return want(!a.allowed() && wellQuoted(a.header("www-authenticate")))
	}
	if v.Group == "log" || v.Group == "leak" {
		return want(!a.allowed() || alice)
	}
	return "an expectation that this test does not know"
}

// wellQuoted reports whether challenges hold nothing but what Postern writes.
func wellQuoted(challenges string) bool {
	return challenges == `Bearer realm="postern", error="invalid_token", error_description="The credential is not valid." | ApiKey realm="postern" | Basic realm="postern", charset="UTF-8"`
}

// G-01 G-11 G-13 G-14 G-15 T-01 T-02 T-08: every vector of
// http/check_requests.jsonl.
func TestVectorsCheckRequests(t *testing.T) {
	t.Parallel()
	w, names := requestWorld(t)
	b := start(t, w)
	b.hide(slices.Collect(maps.Values(names))...)
	var decisions []string
	results := tally{}
	vectors := vectortest.Lines[checkVector](t, "http/check_requests.jsonl")
	for i := range vectors {
		v := &vectors[i]
		problem, class := "", v.Group
		switch recipe, ok := v.recipe(); {
		case v.ID == "EXTZ-158": // the search for secrets at the end of every box
		case ok:
			problem = b.bounded(t, recipe.build(names["ALICE_JWT"]))
		default:
			req := v.fill(t, names)
			a := b.askRaw(t, req)
			decisions = append(decisions, a.id)
			if problem = v.judge(req, a); problem == "" && v.Group == "log" {
				problem = b.logged(t, a)
			}
		}
		if results.count(class, problem == ""); problem != "" {
			t.Errorf("%s (%s): want %s, got %s", v.ID, v.Why, v.Expect, problem)
		}
	}
	results.print(t)
	if len(vectors) != 162 {
		t.Errorf("%d vectors, not 162", len(vectors))
	}
	b.oneLineEach(t, decisions)
	testGuesses(t, b, names)
	testClaimedPlaces(t, b, names)
	testForgedLogLines(t, b, names)
}

func (v *checkVector) recipe() (r requestRecipe, ok bool) {
	var outer struct{ Recipe *requestRecipe }
	if json.Unmarshal(v.Request, &outer) != nil || outer.Recipe == nil {
		return r, false
	}
	return *outer.Recipe, true
}

// bounded sends what is too much. It is denied, or, if the message does not fit,
// refused by the protocol before it is read.
func (b *box) bounded(t testing.TB, req *authv3.CheckRequest) string {
	t.Helper()
	res, err := b.envoy.Check(t.Context(), req)
	if size := len(req.GetAttributes().GetRequest().GetHttp().GetRawBody()); size+200 > maxMessage {
		if status.Code(err) != codes.ResourceExhausted {
			return fmt.Sprintf("%v %v, want RESOURCE_EXHAUSTED", res, err)
		}
		return ""
	}
	if err != nil {
		return err.Error()
	}
	if a, problem := readEnvoy(res); problem != "" || a.status != 400 || a.reason != "request_too_large" {
		return fmt.Sprintf("%v %s", a, problem)
	}
	return ""
}

// maxLogged is how much of a text that a client chose stands in the log.
const maxLogged = 256

// logged says what is wrong with the log's entry for an answer: there is one line
// of it, in JSON, on which nothing of the client's is long or moves a cursor.
func (b *box) logged(t testing.TB, a answer) string {
	t.Helper()
	var lines []map[string]any
	eventually(t, "the decision is in the log", func() bool {
		lines = slices.DeleteFunc(b.log.entries(t, "decision"), func(e map[string]any) bool { return e["decision_id"] != a.id })
		return len(lines) > 0
	})
	if len(lines) != 1 {
		return fmt.Sprintf("%d lines", len(lines))
	}
	line := strings.TrimSuffix(lines[0][""].(string), "\n")
	delete(lines[0], "")
	for name, value := range lines[0] {
		if text, ok := value.(string); ok && (len(text) > maxLogged || name == "path" && strings.Contains(text, "?")) {
			return fmt.Sprintf("%s: %q", name, text)
		}
	}
	if !utf8.ValidString(line) || strings.IndexFunc(line, isControl) >= 0 {
		return fmt.Sprintf("a control character in %q", line)
	}
	return ""
}

// oneLineEach waits until every decision is in the log, and holds that each is
// there once.
func (b *box) oneLineEach(t *testing.T, ids []string) {
	t.Helper()
	lines := map[any]int{}
	eventually(t, "all decisions are in the log", func() bool {
		clear(lines)
		for _, e := range b.log.entries(t, "decision") {
			lines[e["decision_id"]]++
		}
		return !slices.ContainsFunc(ids, func(id string) bool { return lines[id] == 0 })
	})
	for id, n := range lines {
		if n != 1 {
			t.Errorf("%d lines of the log for decision %s", n, id)
		}
	}
}

func isControl(r rune) bool {
	return r < ' ' || r == 0x7f || 0x80 <= r && r < 0xa0 || r == 0x2028 || r == 0x2029
}

// EXTZ-160: answers to guesses do not differ in a byte: not for an id that does
// not exist, not for a secret that is wrong, not for a checksum that fits.
func testGuesses(t *testing.T, b *box, names map[string]string) {
	known := names["ALICE_KEY"]
	at := strings.LastIndexByte(known, '_') + 1
	unknown := names["UNKNOWN_KEY"]
	misspelt := known[:len(known)-1] + string('a'+(known[len(known)-1]+1)%26)
	guesses := []string{unknown, known[:at] + unknown[strings.LastIndexByte(unknown, '_')+1:], misspelt, "nonsense"}
	first := b.askEnvoy(t, get("/api/v1/things", "x-api-key", guesses[0]))
	for _, guess := range guesses {
		a := b.askEnvoy(t, get("/api/v1/things", "x-api-key", guess))
		if a.status != 401 || a.body != first.body || fmt.Sprint(a.headers) != fmt.Sprint(first.headers) || a.code != codes.Unauthenticated {
			t.Errorf("one guess gets\n%v %s, another\n%v %s", first.headers, first.body, a.headers, a.body)
		}
	}
}

// What a header claims of host and path opens nothing: the other way round of
// what the vectors ask.
func testClaimedPlaces(t *testing.T, b *box, names map[string]string) {
	for _, header := range []string{"x-forwarded-host", "x-host", "forwarded", "x-forwarded-server"} {
		q := get("/api/v1/things", append(bearer(names["ALICE_JWT"]), header, "api.test")...)
		q.host = "admin.test"
		b.expect(t, q, 403, "insufficient_scope")
	}
	b.expect(t, get("/api/v1/things/7?x=/../../public/"), 401, "credential_missing")
	for _, header := range []string{"x-original-url", "x-rewrite-url"} {
		a := b.expect(t, get("/api/v1/things", append(bearer(names["ALICE_JWT"]), header, "/admin/users")...), 200, "allowed")
		if !slices.Contains(a.removed, header) {
			t.Errorf("%s goes upstream", header)
		}
	}
}

// Everything in the log that a client can choose, with what terminals obey.
func testForgedLogLines(t *testing.T, b *box, names map[string]string) {
	for _, forged := range []string{"\x1b[2J", "\u009b31m", "\u2028", "\x7f", "\u0085{}", strings.Repeat("é", 300), "\xff"} {
		req := get("/api/v1/things", bearer(names["ALICE_JWT"])...).forEnvoy()
		h := req.GetAttributes().GetRequest().GetHttp()
		h.HeaderMap = &corev3.HeaderMap{Headers: []*corev3.HeaderValue{{Key: "x-request-id", RawValue: []byte(forged)}, {Key: "authorization", RawValue: []byte(h.GetHeaders()["authorization"])}}}
		h.Headers = nil
		if problem := b.logged(t, b.askRaw(t, req)); problem != "" {
			t.Errorf("request id %q: %s", forged, problem)
		}
	}
}
