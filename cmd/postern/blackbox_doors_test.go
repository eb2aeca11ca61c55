package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/protobuf/encoding/protojson"

	posternv1 "github.com/postern-auth/postern/gen/postern/v1"
	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/vectortest"
)

// gatewayOn opens the listener of the doors that speak HTTP in a world.
func gatewayOn(t testing.TB, w world) {
	t.Helper()
	w.write(t, "postern.yaml", strings.Replace(w.read(t, "postern.yaml"), "listen: {", `listen: {gateway: "127.0.0.1:0", `, 1))
}

// speak sends one HTTP request byte for byte: no client library would send all that a
// gateway may.
func (b *box) speak(t testing.TB, line string, headers policy.Headers) (*http.Response, string) {
	t.Helper()
	conn, err := net.Dial("tcp", b.gateway)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	var raw strings.Builder
	raw.WriteString(line + " HTTP/1.1\r\nHost: postern\r\n")
	for _, h := range headers {
		raw.WriteString(h.Name + ": " + h.Value + "\r\n")
	}
	go func() { _, _ = io.WriteString(conn, raw.String()+"\r\n") }()
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatalf("%s: %v", line, err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	b.mu.Lock()
	fmt.Fprintln(&b.answers, res.Header, string(body))
	b.mu.Unlock()
	return res, string(body)
}

// forGateway is the request as a gateway tells it that speaks a dialect.
func (q request) forGateway(dialect string) policy.Headers {
	told := policy.Headers{{Name: "X-Forwarded-Method", Value: q.method}, {Name: "X-Forwarded-Proto", Value: q.scheme}, {Name: "X-Forwarded-Host", Value: q.host}, {Name: "X-Forwarded-Uri", Value: q.path}}
	if dialect == "nginx" {
		told = policy.Headers{{Name: "X-Original-Method", Value: q.method}, {Name: "X-Original-URL", Value: q.scheme + "://" + q.host + q.path}}
	}
	return append(append(told, policy.Header{Name: "X-Forwarded-For", Value: q.source}), q.headers...)
}

// askGateway asks by forward-auth. What is narrowed for nginx is widened again.
func (b *box) askGateway(t testing.TB, dialect string, q request) answer {
	t.Helper()
	res, body := b.speak(t, "GET /forward-auth/"+dialect, q.forGateway(dialect))
	a := answer{status: res.StatusCode, body: body}
	if meant := res.Header.Get("X-Postern-Status"); meant != "" {
		fmt.Sscan(meant, &a.status)
	}
	for name, values := range res.Header {
		for _, v := range values {
			a.headers = append(a.headers, policy.Header{Name: strings.ToLower(name), Value: v})
		}
	}
	var said struct{ Reason string }
	if a.status != http.StatusOK && json.Unmarshal([]byte(body), &said) == nil {
		a.reason = said.Reason
	}
	a.principal = res.Header.Get("X-Auth-Principal")
	return a
}

// askConnect asks CheckService as JSON.
func (b *box) askConnect(t testing.TB, q request) answer {
	t.Helper()
	text, err := protojson.Marshal(&posternv1.CheckRequest{Target: q.forPostern()})
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.Post("http://"+b.gateway+"/postern.v1.CheckService/Check", "application/json", bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	var m posternv1.CheckResponse
	if err := protojson.Unmarshal(body, &m); err != nil || res.StatusCode != 200 {
		t.Fatalf("%s %s %v", res.Status, body, err)
	}
	b.said(&m)
	return readPostern(t, &m)
}

// carries reports whether a gateway can put the question as it is: what HTTP/1.1 cannot
// hold, fields that belong to the gateway itself, and a URL that has no path, it cannot.
func (q request) carries(dialect string) bool {
	told := q.forGateway(dialect)
	own := len(told) - len(q.headers) // these the gateway sets
	for i, h := range told {
		twice := i >= own && slices.ContainsFunc(told[:own], func(g policy.Header) bool { return strings.EqualFold(g.Name, h.Name) })
		if twice || h.Name == "" || strings.ContainsFunc(h.Name, func(r rune) bool { return r <= ' ' || r >= 0x7f || strings.ContainsRune(`"(),/:;<=>?@[\]{}`, r) }) ||
			strings.ContainsFunc(h.Value, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }) || strings.TrimSpace(h.Value) != h.Value || h.Value == "" {
			return false
		}
	}
	return dialect != "nginx" || strings.HasPrefix(q.path, "/")
}

// aliased reports whether a field may be taken for another.
func (q request) aliased() bool {
	return slices.ContainsFunc(q.headers, func(h policy.Header) bool { return strings.ContainsAny(h.Name, "_.") })
}

// agree asks a question at every door, and says which of them answer otherwise than
// ext_authz.
func (b *box) agree(t testing.TB, q request) (disagree []string) {
	t.Helper()
	want := b.askEnvoy(t, q)
	public := ""
	if r, ok := policy.ParseReason(want.reason); ok && !want.allowed() {
		public = r.Public()
	}
	if a := b.askPostern(t, q); a.String() != want.String() {
		disagree = append(disagree, fmt.Sprintf("CheckService: %v, not %v", a, want))
	}
	if a := b.askConnect(t, q); a.String() != want.String() {
		disagree = append(disagree, fmt.Sprintf("Connect: %v, not %v", a, want))
	}
	for _, dialect := range []string{"nginx", "traefik", "caddy", "haproxy"} {
		if !q.carries(dialect) {
			continue
		}
		a := b.askGateway(t, dialect, q)
		if dialect != "haproxy" && q.aliased() && want.allowed() && a.status == http.StatusBadRequest {
			continue // Envoy takes the field away, whatever its name; these could not
		}
		if a.status != want.status || a.reason != "" && a.reason != public || want.allowed() && a.principal != want.upstream("x-auth-principal") {
			disagree = append(disagree, fmt.Sprintf("%s: %d %s %s, not %d %s %s", dialect, a.status, a.reason, a.principal, want.status, public, want.principal))
		}
	}
	return disagree
}

// requestOf is a vector's request in the words of all doors; false if it says more than
// they have in common, such as two readings of its own line.
func requestOf(req *authv3.CheckRequest) (q request, ok bool) {
	h := req.GetAttributes().GetRequest().GetHttp()
	source := req.GetAttributes().GetSource()
	q = request{method: h.GetMethod(), scheme: h.GetScheme(), host: h.GetHost(), path: h.GetPath(), source: source.GetAddress().GetSocketAddress().GetAddress()}
	if _, err := netip.ParseAddr(q.source); h == nil || err != nil || !utf8.ValidString(fmt.Sprint(q, sent(req))) || q.method == "" || q.scheme == "" || q.host == "" || q.path == "" || h.GetRawBody() != nil || h.GetBody() != "" || h.GetFragment() != "" || h.GetQuery() != "" ||
		source.GetPrincipal() != "" || source.GetCertificate() != "" || len(req.GetAttributes().GetContextExtensions()) > 0 || req.GetAttributes().GetMetadataContext() != nil {
		return q, false
	}
	for _, f := range sent(req) {
		switch {
		case strings.HasPrefix(f.Name, ":"):
			if want := map[string]string{":method": q.method, ":scheme": q.scheme, ":authority": q.host, ":path": q.path}[f.Name]; want != f.Value {
				return q, false
			}
		case f.Name == "host" || f.Name == "x-forwarded-for" || f.Name == "x-forwarded-proto" || f.Name == "content-length" || f.Name == "connection" || f.Name == "transfer-encoding":
			return q, false // of the gateway's own request in forward-auth
		default:
			q.headers = append(q.headers, f)
		}
	}
	return q, true
}

// G-01: the same question, the same answer, at every door, over the corpora of
// requests and of paths.
func TestVectorsDoorsAgree(t *testing.T) {
	t.Parallel()
	w, names := requestWorld(t)
	gatewayOn(t, w)
	b := start(t, w)
	b.hide(slices.Collect(maps.Values(names))...)
	results := tally{}
	ask := func(class, id string, q request) {
		disagree := b.agree(t, q)
		if results.count(class, len(disagree) == 0); len(disagree) > 0 {
			t.Errorf("%s: %q: %v", id, q.path, disagree)
		}
	}
	vectors := vectortest.Lines[checkVector](t, "http/check_requests.jsonl")
	for i := range vectors {
		if _, recipe := vectors[i].recipe(); recipe || vectors[i].ID == "EXTZ-158" { // not requests
			continue
		}
		if q, ok := requestOf(vectors[i].fill(t, names)); ok {
			ask("requests", vectors[i].ID, q)
		}
	}
	for _, v := range vectortest.Lines[struct{ ID, Path string }](t, "http/paths.jsonl") {
		if v.Path != "" {
			ask("paths", v.ID, get(v.Path, bearer(names["ALICE_JWT"])...))
		}
	}
	results.print(t)
	// What a client sent in the gateway's own fields makes the question one that nobody
	// can read, and not another question.
	for _, dialect := range []string{"nginx", "traefik", "caddy", "haproxy"} {
		q := get("/api/v1/things", bearer(names["ALICE_JWT"])...)
		for _, h := range q.forGateway(dialect)[:2] {
			forged := q
			forged.headers = append(slices.Clone(q.headers), policy.Header{Name: h.Name, Value: h.Value})
			if a := b.askGateway(t, dialect, forged); a.status != 403 || a.reason != "request_invalid" {
				t.Errorf("%s: %s twice: %v", dialect, h.Name, a)
			}
		}
	}
}

// G-01: authentication and authorization are two answers, over HTTP as elsewhere; and
// FORWARD-02, FAILOPEN-08: a gateway that is not listed is told nothing.
func TestGatewayDoor(t *testing.T) {
	t.Parallel()
	var key string
	b, i := startGateway(t, func(w world) { gatewayOn(t, w); w.shared(t); key = w.mint(t, order{id: "alice"}) })
	token := i.token(claims{"sub": "alice"})
	b.hide(key)
	b.hide(secretParts(token)...)
	for _, c := range []struct {
		q      request
		status int
	}{
		{get("/"), 401}, {get("/", "x-api-key", documented), 401}, {get("/", bearer(token+"x")...), 401},
		{get("/secret/1", "x-api-key", key), 403}, {get("/", bearer(token)...), 200}, {get("/", "x-api-key", key), 200},
	} {
		if disagree := b.agree(t, c.q); len(disagree) > 0 || b.askGateway(t, "caddy", c.q).status != c.status {
			t.Errorf("%v: %v", c.q, disagree)
		}
	}
	// FORWARD-03: what a client sent itself never stays.
	forged := get("/", "x-api-key", key, "x-auth-principal", "root", "x-auth-roles", "admin")
	res, _ := b.speak(t, "GET /forward-auth/caddy", forged.forGateway("caddy"))
	for name, want := range map[string]string{"X-Auth-Principal": "alice", "X-Auth-Roles": "", "X-Api-Key": ""} {
		if got := res.Header.Values(name); len(got) != 1 || got[0] != want {
			t.Errorf("%s: %q, not %q", name, got, want)
		}
	}
	w := b.world
	w.write(t, "postern.yaml", w.read(t, "postern.yaml")+"callers:\n  - {name: edge, cidrs: [127.0.0.0/8], token: \"${file:caller}\"}\n")
	w.write(t, "caller", "a token of the gateway's")
	listed := start(t, w)
	q := get("/", "x-api-key", key)
	if a := listed.askGateway(t, "caddy", q); a.status != 503 {
		t.Error("a gateway that is not listed:", a.status, a.body)
	}
	q.headers = append(q.headers, policy.Header{Name: "X-Postern-Caller-Token", Value: "a token of the gateway's"})
	if a := listed.askGateway(t, "caddy", q); a.status != 200 || a.header("x-postern-caller-token") != "" {
		t.Error("a gateway that is listed:", a.status, a.body)
	}
}

// askAuthZEN asks about an action in AuthZEN's words.
func (b *box) askAuthZEN(t testing.TB, subject, key, action, kind, id string) (allowed bool, reason string) {
	t.Helper()
	question := map[string]any{
		"subject": map[string]any{"type": "user", "id": subject, "properties": map[string]any{"api_key": key}},
		"action":  map[string]any{"name": action}, "resource": map[string]any{"type": kind, "id": id},
	}
	text, err := json.Marshal(question)
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.Post("http://"+b.gateway+"/access/v1/evaluation", "application/json", bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	var a struct {
		Decision *bool
		Context  struct{ Reason string }
	}
	if err != nil || json.Unmarshal(body, &a) != nil || res.StatusCode != 200 || a.Decision == nil {
		t.Fatalf("%s %s %v", res.Status, body, err)
	}
	b.mu.Lock()
	b.answers.Write(body)
	b.mu.Unlock()
	return *a.Decision, a.Context.Reason
}

// G-01: a question about an action gets the same answer in AuthZEN's words and in
// Postern's, and a credential is its subject's or nothing.
func TestAuthZENDoor(t *testing.T) {
	t.Parallel()
	w := prepare(t, "forwardauth")
	w.write(t, "policy/authz.rego", `package postern.authz

default decision := {"allow": false}

decision := {"allow": true} if {
	input.target.action.action == "read"
	input.target.action.resource_type == "order"
	input.principal.id == "alice"
}
`)
	key := w.mint(t, order{id: "alice"})
	b := start(t, w)
	b.hide(key)
	for _, c := range [][2]string{{"read", "order"}, {"read", "invoice"}, {"refund", "order"}} {
		for _, credential := range []string{key, documented} {
			allowed, reason := b.askAuthZEN(t, "alice", credential, c[0], c[1], "7")
			res, err := b.postern.Check(t.Context(), &posternv1.CheckRequest{
				Credential: &posternv1.Credential{Kind: &posternv1.Credential_ApiKey{ApiKey: credential}},
				Target:     &posternv1.Target{Kind: &posternv1.Target_Action{Action: &posternv1.ActionTarget{Action: c[0], ResourceType: c[1], ResourceId: "7"}}},
			})
			if err != nil {
				t.Fatal(err)
			}
			other := readPostern(t, res)
			public := "allowed"
			if r, ok := policy.ParseReason(other.reason); ok && !other.allowed() {
				public = r.Public()
			}
			if allowed != other.allowed() || reason != public || allowed != (credential == key && c == [2]string{"read", "order"}) {
				t.Errorf("%v: AuthZEN says %v %s, CheckService %v", c, allowed, reason, other)
			}
		}
	}
	if allowed, reason := b.askAuthZEN(t, "bob", key, "read", "order", "7"); allowed || reason != "binding" {
		t.Error("alice's key is bob's:", allowed, reason)
	}
}

// A policy that takes a parameter out of the query, or puts one in, is obeyed by Envoy
// alone: every other door would let the request through as it is, and denies.
func TestDoorsThatCannotChangeAQuery(t *testing.T) {
	t.Parallel()
	w := prepare(t, "forwardauth")
	w.write(t, "policy/authz.rego", `package postern.authz

decision := {"allow": true, "query_parameters_to_remove": ["admin"]} if not set

decision := {"allow": true, "query_parameters_to_set": {"page": "1"}} if set

set if input.request.path == "/set"
`)
	key := w.mint(t, order{id: "alice"})
	b := start(t, w)
	b.hide(key)
	for _, path := range []string{"/remove?admin=1", "/set?admin=1"} {
		q := get(path, "x-api-key", key)
		if a := b.askEnvoy(t, q); a.status != 200 {
			t.Errorf("%s: Envoy: %v", path, a)
		}
		for name, a := range map[string]answer{"CheckService": b.askPostern(t, q), "Connect": b.askConnect(t, q)} {
			if a.status != 403 || a.reason != "bad_decision" {
				t.Errorf("%s: %s: %v", path, name, a)
			}
		}
		for _, dialect := range []string{"nginx", "traefik", "caddy", "haproxy"} {
			if a := b.askGateway(t, dialect, q); a.status != 403 || a.reason != "policy_denied" {
				t.Errorf("%s: %s: %v", path, dialect, a)
			}
		}
	}
	if allowed, reason := b.askAuthZEN(t, "alice", key, "read", "order", "7"); allowed || reason != "policy_denied" {
		t.Error("AuthZEN:", allowed, reason)
	}
}
