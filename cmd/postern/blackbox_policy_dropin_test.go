package main

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net/url"
	"reflect"
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/types/descriptorpb"
	"pgregory.net/rapid"
)

// dropin is the world of a policy that was written for OPA's plugin for Envoy. More is
// added to the section of the policy.
func dropin(t testing.TB, more string) world {
	t.Helper()
	w := prepare(t, "dropin", "@MORE@", more)
	set, err := proto.Marshal(&descriptorpb.FileDescriptorSet{File: []*descriptorpb.FileDescriptorProto{protodesc.ToFileDescriptorProto(healthpb.File_grpc_health_v1_health_proto)}})
	if err != nil {
		t.Fatal(err)
	}
	w.write(t, "all.binpb", string(set))
	return w
}

// posted is a request with a body as Envoy tells it: as text, or as bytes with
// pack_as_bytes.
func posted(path, kind, body string, raw bool, headers ...string) *authv3.CheckRequest {
	q := get(path, append([]string{"content-type", kind}, headers...)...).with("POST").forEnvoy()
	if h := q.Attributes.Request.Http; raw {
		h.RawBody = []byte(body)
	} else {
		h.Body = body
	}
	return q
}

// askWhole asks ext_authz and returns its own words.
func (b *box) askWhole(t testing.TB, q *authv3.CheckRequest) *authv3.CheckResponse {
	t.Helper()
	res, err := b.envoy.Check(t.Context(), q)
	if err != nil {
		t.Fatalf("a gRPC error, on which a gateway that fails open lets the request through: %v", err)
	}
	return res
}

// seen is what the policy saw of a request, or the status of a deny.
func (b *box) seen(t testing.TB, q *authv3.CheckRequest) map[string]any {
	t.Helper()
	res := b.askWhole(t, q)
	if denied := res.GetDeniedResponse(); denied != nil {
		return map[string]any{"denied": float64(denied.GetStatus().GetCode())}
	}
	text, err := res.GetDynamicMetadata().GetFields()["seen"].MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	var v map[string]any
	if err := json.Unmarshal(text, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

func inFrames(t testing.TB, m proto.Message) string {
	t.Helper()
	text, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return string(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(text)))) + string(text)
}

// What a policy for the plugin reads is there under the plugin's names, with its values:
// path, query, and bodies in JSON, forms, forms of parts and gRPC, as text or as bytes.
func TestDropInInput(t *testing.T) {
	t.Parallel()
	b := start(t, dropin(t, ""))
	const boundary = "multipart/form-data; boundary=x"
	parts := "--x\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n1\r\n--x\r\nContent-Disposition: form-data; name=\"j\"\r\nContent-Type: application/json\r\n\r\n{\"k\":[2]}\r\n--x--\r\n"
	call := inFrames(t, &healthpb.HealthCheckRequest{Service: "orders"})
	for name, tt := range map[string]struct{ path, kind, body, want string }{
		"path":      {"/echo/a%20b/c?x=1&x=2&y", "text/plain", "", `{"parsed_path":["echo","a b","c"],"parsed_query":{"x":["1","2"],"y":[""]},"parsed_body":null,"truncated_body":false}`},
		"last":      {"/echo/", "text/plain", "", `{"parsed_path":["echo",""],"parsed_query":{},"parsed_body":null,"truncated_body":false}`},
		"JSON":      {"/echo", "application/json; charset=utf-8", `{"a":{"b":[1,"x",null,true]}}`, `{"parsed_path":["echo"],"parsed_query":{},"parsed_body":{"a":{"b":[1,"x",null,true]}},"truncated_body":false}`},
		"form":      {"/echo", "application/x-www-form-urlencoded", `a=1&a=2&b=%20`, `{"parsed_path":["echo"],"parsed_query":{},"parsed_body":{"a":["1","2"],"b":[" "]},"truncated_body":false}`},
		"parts":     {"/echo", boundary, parts, `{"parsed_path":["echo"],"parsed_query":{},"parsed_body":{"a":["1"],"j":[{"k":[2]}]},"truncated_body":false}`},
		"plain":     {"/echo", "text/plain", "hello", `{"parsed_path":["echo"],"parsed_query":{},"parsed_body":null,"truncated_body":false}`},
		"forbidden": {"/nowhere", "text/plain", "", `{"denied":403}`},
	} {
		for _, raw := range []bool{false, true} {
			var want map[string]any
			if err := json.Unmarshal([]byte(tt.want), &want); err != nil {
				t.Fatal(err)
			}
			if want["denied"] == nil {
				want["version"] = map[string]any{"ext_authz": "v3", "encoding": "protojson"}
			}
			if got := b.seen(t, posted(tt.path, tt.kind, tt.body, raw)); !reflect.DeepEqual(got, want) {
				t.Errorf("%s: %v, want %v", name, got, want)
			}
		}
	}
	cut := posted("/echo", "application/json", `{"a":`, false, "content-length", "100")
	if got := b.seen(t, cut); got["truncated_body"] != true || got["parsed_body"] != nil {
		t.Error("a part of a body: ", got)
	}
	partial := posted("/echo", "application/json", `{"a":1}`, false, "x-envoy-auth-partial-body", "true")
	if got := b.seen(t, partial); got["truncated_body"] != true || got["parsed_body"] != nil {
		t.Error("a part of a body, as Envoy says it: ", got)
	}
	// The path of a gRPC call is that of its method, so the policy that decides is another.
	w := dropin(t, "")
	w.write(t, "policy/authz.rego", "package envoy.authz\ndefault allow := false\nallow if {\n\tinput.parsed_path == [\"grpc.health.v1.Health\", \"Check\"]\n\tinput.parsed_body.service == \"orders\"\n}\n")
	rpc := start(t, w)
	for body, status := range map[string]float64{call: 0, inFrames(t, &healthpb.HealthCheckRequest{Service: "other"}): 403, call[:len(call)-1]: 403, "\x01" + call[1:]: 400, call + call: 400} {
		denied := rpc.askWhole(t, posted("/grpc.health.v1.Health/Check", "application/grpc", body, true)).GetDeniedResponse()
		if got := float64(denied.GetStatus().GetCode()); got != status {
			t.Errorf("%q: %v, want %v", body, got, status)
		}
	}
}

// For whatever path and query has one reading, Postern reads what the plugin reads.
func TestDropInReadsAlike(t *testing.T) {
	t.Parallel()
	b := start(t, dropin(t, ""))
	word := rapid.StringMatching(`[a-zA-Z0-9äöü]([a-z_~ €-]{0,5}[A-Z0-9])?`)
	rapid.Check(t, func(rt *rapid.T) {
		segments := append([]string{"echo"}, rapid.SliceOfN(word, 0, 4).Draw(rt, "segments")...)
		query := url.Values(rapid.MapOfN(word, rapid.SliceOfN(rapid.StringMatching(`[ -~]{0,8}`), 1, 3), 0, 3).Draw(rt, "query"))
		var path strings.Builder
		for _, s := range segments {
			path.WriteString("/" + url.PathEscape(s))
		}
		got := b.seen(t, posted(path.String()+"?"+query.Encode(), "text/plain", "", false))
		want := map[string]any{"parsed_path": segments, "parsed_query": query}
		var expected map[string]any
		text, _ := json.Marshal(want)
		_ = json.Unmarshal(text, &expected)
		if !reflect.DeepEqual(got["parsed_path"], expected["parsed_path"]) || !reflect.DeepEqual(got["parsed_query"], expected["parsed_query"]) {
			rt.Fatalf("%v, want %v", got, expected)
		}
	})
}

// What the plugin's results do, Postern's answer does.
func TestDropInResult(t *testing.T) {
	t.Parallel()
	b := start(t, dropin(t, ""))
	res := b.askWhole(t, get("/echo?debug=1").forEnvoy())
	ok := res.GetOkResponse()
	got := map[string]string{}
	for _, h := range ok.GetHeaders() {
		got[h.GetHeader().GetKey()] += h.GetHeader().GetValue() + ";"
	}
	for _, h := range ok.GetResponseHeadersToAdd() {
		got["client "+h.GetHeader().GetKey()] += h.GetHeader().GetValue() + ";"
	}
	for _, name := range ok.GetHeadersToRemove() {
		got["remove "+name] = "yes"
	}
	for _, p := range ok.GetQueryParametersToSet() {
		got["set "+p.GetKey()] = p.GetValue()
	}
	got["unquery"] = strings.Join(ok.GetQueryParametersToRemove(), ",")
	for name, want := range map[string]string{"x-user": "ann;", "client x-cost": "7;", "remove x-secret": "yes", "set page": "1", "unquery": "debug"} {
		if got[name] != want {
			t.Errorf("%s: %q, want %q", name, got[name], want)
		}
	}
	if got["x-groups"] != "a;b;" && got["x-groups"] != "a,b;" {
		t.Errorf("x-groups: %q", got["x-groups"])
	}
	res = b.askWhole(t, get("/answers/denied").forEnvoy())
	denied := res.GetDeniedResponse()
	why := ""
	for _, h := range denied.GetHeaders() {
		if h.GetHeader().GetKey() == "x-why" {
			why = h.GetHeader().GetValue()
		}
	}
	if denied.GetStatus().GetCode() != 418 || denied.GetBody() != "no tea" || why != "because" || res.GetDynamicMetadata().GetFields()["k"].GetStringValue() != "v" {
		t.Errorf("%v", res)
	}
	b.expect(t, get("/plain/yes"), 200, "allowed")
	b.expect(t, get("/plain/no"), 403, "policy_denied")
}

// FAILOPEN-01, FAILOPEN-03: what the plugin answers with a gRPC error, on which a
// gateway that fails open lets the request through, Postern denies.
func TestDropInBadDecisions(t *testing.T) {
	t.Parallel()
	b := start(t, dropin(t, ""))
	for _, name := range []string{
		"status-text", "status-999", "status-200", "no-allowed", "allowed-text", "header-number", "header-lf", "header-cr", "header-name",
		"header-nul", "query-lf", "framing", "list", "null", "text",
	} {
		a := b.askEnvoy(t, get("/answers/"+name))
		if a.status != 403 || a.reason != "bad_decision" || strings.ContainsAny(fmt.Sprint(a.headers, a.set), "\r\n\x00") {
			t.Errorf("%s: %v %v", name, a, a.headers)
		}
	}
	w := dropin(t, "")
	w.write(t, "postern.yaml", strings.Replace(w.read(t, "postern.yaml"), "authz.allow", "authz.nothing", 1))
	if a := start(t, w).askEnvoy(t, get("/anything")); a.status != 403 || a.reason != "policy_undefined" {
		t.Errorf("undefined: %v", a)
	}
}

// REGO-14: the plugin reads //admin as admin and takes the rest of the path as it comes
// (CVE-2026-26205). Here there is one reading, which is the upstream's too, or none.
func TestDropInPaths(t *testing.T) {
	t.Parallel()
	b := start(t, dropin(t, ""))
	for path, want := range map[string]string{
		"//plain/yes": "", "///plain/yes": "", "/plain//yes": "[plain yes]", // merged, as Envoy does with merge_slashes; the first could be a host
		"/plain/%79es": "[plain yes]", "/plain/./yes": "", "/plain/x/../yes": "", "/plain/%2e%2e/plain/yes": "", "/plain%2Fyes": "", "/plain%252Fyes": "",
		"/plain/yes%00": "", "/plain\\yes": "", "/plain/yes#x": "", "/plain/%zz": "", "/echo?%zz=1": "",
	} {
		a := b.askEnvoy(t, get(path))
		switch {
		case want != "" && a.status != 200:
			t.Errorf("%s: %v, and it means %s", path, a, want)
		case want == "" && a.status == 200:
			t.Errorf("%s: %v, though it can be read in two ways", path, a)
		}
	}
	for _, path := range []string{"//admin", "/admin", "/%61dmin", "//admin/", "/x/../admin"} {
		if a := b.askEnvoy(t, get(path)); a.status < 400 {
			t.Errorf("%s: %v", path, a)
		}
	}
}

// A body that two servers read in two ways, or that a policy does not see at all, does
// not get past a rule that denies by what is in it.
func TestDropInBodies(t *testing.T) {
	t.Parallel()
	b := start(t, dropin(t, ""))
	for name, tt := range map[string]struct {
		kind, body string
		status     int
	}{
		"small":            {"application/json", `{"amount":1}`, 200},
		"large":            {"application/json", `{"amount":1000}`, 403},
		"twice":            {"application/json", `{"amount":1000,"amount":1}`, 400},
		"twice, other way": {"application/json", `{"amount":1,"amount":1000}`, 400},
		"nested twice":     {"application/json", `{"x":{"a":1,"a":2}}`, 400},
		"two texts":        {"application/json", `{"amount":1}{"amount":1000}`, 400},
		"not JSON":         {"application/json", `amount=1000`, 400},
		"case of type":     {"Application/JSON", `{"amount":1000}`, 403},
		"relative":         {"application/vnd.api+json", `{"amount":1000}`, 403},
		"broken type":      {"application/json/x", `{"amount":1000}`, 400},
		"no boundary":      {"multipart/form-data", `x`, 400},
	} {
		res := b.askWhole(t, posted("/orders", tt.kind, tt.body, false))
		got := 200
		if denied := res.GetDeniedResponse(); denied != nil {
			got = int(denied.GetStatus().GetCode())
		}
		if got != tt.status {
			t.Errorf("%s: %d, want %d", name, got, tt.status)
		}
	}
	twice := get("/orders").with("POST").forEnvoy()
	twice.Attributes.Request.Http.Headers, twice.Attributes.Request.Http.HeaderMap = nil, &corev3.HeaderMap{}
	for _, f := range [][2]string{{":method", "POST"}, {":path", "/orders"}, {":authority", "api.test"}, {":scheme", "https"}, {"content-type", "application/json"}, {"content-type", "text/plain"}} {
		twice.Attributes.Request.Http.HeaderMap.Headers = append(twice.Attributes.Request.Http.HeaderMap.Headers, &corev3.HeaderValue{Key: f[0], RawValue: []byte(f[1])})
	}
	twice.Attributes.Request.Http.Body = `{"amount":1000}`
	if a := b.askRaw(t, twice); a.status != 400 {
		t.Errorf("two content types: %v", a)
	}
}

// A policy that reads credentials itself sees none unless the configuration says so, and
// Postern does not take them for its own.
func TestDropInCredentials(t *testing.T) {
	t.Parallel()
	for more, status := range map[string]int{"": 403, ", insecure_expose_credentials: true": 200} {
		w := dropin(t, more)
		w.write(t, "policy/authz.rego", "package envoy.authz\ndefault allow := false\nallow if startswith(input.attributes.request.http.headers.authorization, \"Bearer correct-\")\n")
		b := start(t, w)
		b.hide("correct-horse-battery-staple")
		if a := b.askEnvoy(t, get("/x", "authorization", "Bearer correct-horse-battery-staple")); a.status != status {
			t.Errorf("%q: %v, want %d", more, a, status)
		}
		eventually(t, "the decision is in the file", func() bool { return strings.Contains(w.read(t, "decisions.jsonl"), "\n") })
		b.leaks(t, "decisions", w.read(t, "decisions.jsonl"))
	}
}
