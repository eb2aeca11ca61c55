package extauthz

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	gocmp "github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"pgregory.net/rapid"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/door"
)

var update = flag.Bool("update", false, "write the golden files anew")

func respond(t testing.TB, d *Door, dec policy.Decision, a *policy.Attributes) *authv3.CheckResponse {
	t.Helper()
	door.Settle(&dec)
	p := newResponse()
	d.answer(p, &dec, a)
	m := new(authv3.CheckResponse)
	if err := proto.Unmarshal(p.wire, m); err != nil {
		t.Fatalf("%v: %x", err, p.wire)
	}
	if diff := gocmp.Diff(oracle{door: d}.response(&dec, a), m, protocmp.Transform()); diff != "" {
		t.Errorf("not what the generated types say:\n%s", diff)
	}
	return m
}

// refuse is what a Checker returns for a deny.
func refuse(r policy.Reason, change ...func(*policy.Decision)) policy.Decision {
	d := policy.Decision{Reason: r, Status: r.Status(), Message: r.Message(), ID: "d-1", Revision: "r-1"}
	for _, c := range change {
		c(&d)
	}
	return d
}

func challenge(values ...string) func(*policy.Decision) {
	return func(d *policy.Decision) { d.Challenges = values }
}

// T-01, T-04, J-05: what a refused client sees, by reason and language. The
// challenges pass through unchanged.
func TestDeniedGolden(t *testing.T) {
	get := func(headers ...string) *policy.Attributes {
		a := &policy.Attributes{Method: "GET", Host: "api.test", Path: "/<script>alert(1)</script>"}
		for i := 0; i < len(headers); i += 2 {
			a.Headers = append(a.Headers, policy.Header{Name: headers[i], Value: headers[i+1]})
		}
		return a
	}
	head := get()
	head.Method = "HEAD"
	proxyless := get("content-type", "application/grpc")
	proxyless.Host = ""
	bearer := challenge(`Bearer realm="postern", error="invalid_token", error_description="The credential has expired."`)
	var out strings.Builder
	for _, c := range []struct {
		name   string
		config Config
		dec    policy.Decision
		a      *policy.Attributes
	}{
		{"no credential", Config{}, refuse(policy.ReasonCredentialMissing, challenge(`Bearer realm="postern"`, `ApiKey realm="postern"`)), get()},
		{"expired token", Config{}, refuse(policy.ReasonExpired, bearer), get("accept", "*/*")},
		{"scope, wants text", Config{}, refuse(policy.ReasonScope, challenge(`Bearer realm="postern", error="insufficient_scope", scope="a b"`)),
			get("accept", "text/plain, application/json;q=0.5")},
		{"a browser gets no HTML", Config{}, refuse(policy.ReasonPolicyDenied), get("accept", "text/html,application/xhtml+xml,*/*;q=0.8")},
		{"gRPC caller", Config{}, refuse(policy.ReasonRateLimited, func(d *policy.Decision) { d.RetryAfter = 1500 * time.Millisecond }),
			get("content-type", "application/grpc+proto")},
		{"proxyless gRPC caller", Config{}, refuse(policy.ReasonExpired, bearer), proxyless},
		{"HEAD", Config{}, refuse(policy.ReasonExpired, bearer), head},
		{"invalid request", Config{}, refuse(policy.ReasonRequestInvalid), get()},
		{"fault", Config{}, refuse(policy.ReasonUnavailable), get()},
		{"fault as error", Config{OnFault: OnFaultErrorResponse}, refuse(policy.ReasonUnavailable), get()},
		{"a deny is no error", Config{OnFault: OnFaultErrorResponse}, refuse(policy.ReasonPolicyDenied), get()},
		{"policy's own answer", Config{}, refuse(policy.ReasonPolicyDenied, func(d *policy.Decision) {
			d.Status, d.Message = 302, "Log in."
			d.Client = []policy.Header{{Name: "location", Value: "https://login.test/"}, {Name: "set-cookie", Value: "a=1"}, {Name: "set-cookie", Value: "b=2"}}
			d.Verdict = &policy.Verdict{Body: "moved", Metadata: map[string]any{"why": "login"}}
		}), get()},
		{"policy's own JSON", Config{}, refuse(policy.ReasonPolicyDenied, func(d *policy.Decision) {
			d.Verdict = &policy.Verdict{Body: `{"own":true}`}
			d.Client = []policy.Header{{Name: "content-type", Value: "application/problem+json"}, {Name: "bad name", Value: "x"}, {Name: "x", Value: "a\r\nb: c"}}
		}), get()},
		{"legacy, no key", Config{StatusProfile: door.StatusLegacy}, refuse(policy.ReasonCredentialMissing), get()},
		{"legacy, unknown key", Config{StatusProfile: door.StatusLegacy}, refuse(policy.ReasonCredentialUnknown), get("x-api-key", "k")},
		{"legacy, revoked key", Config{StatusProfile: door.StatusLegacy}, refuse(policy.ReasonRevoked), get("x-api-key", "k")},
		{"legacy, expired key", Config{StatusProfile: door.StatusLegacy}, refuse(policy.ReasonExpired), get("x-api-key", "k")},
		{"legacy, expired token", Config{StatusProfile: door.StatusLegacy}, refuse(policy.ReasonExpired), get("authorization", "Bearer x")},
		{"legacy, key elsewhere", Config{StatusProfile: door.StatusLegacy, KeyHeaders: []string{"x-token"}}, refuse(policy.ReasonExpired), get("x-token", "k")},
		{"the zero decision", Config{}, policy.Decision{}, get()},
		{"a deny cannot succeed", Config{}, policy.Decision{Reason: policy.ReasonAllowed, Status: 200}, get()},
	} {
		m := respond(t, New(nil, c.config, nil), c.dec, c.a)
		fmt.Fprintf(&out, "%s\n----\n%s\n", c.name, show(m))
	}
	const file = "testdata/denied.golden"
	if *update {
		if err := os.WriteFile(file, []byte(out.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := gocmp.Diff(string(want), out.String()); diff != "" {
		t.Errorf("%s (write it anew with -update)\n%s", file, diff)
	}
}

// show prints a denied response as the client would get it.
func show(m *authv3.CheckResponse) string {
	var s strings.Builder
	kind, den := "denied_response", m.GetDeniedResponse()
	if den == nil {
		kind, den = "error_response", m.GetErrorResponse()
	}
	fmt.Fprintf(&s, "%v %q\n%s %d\n", codes.Code(m.GetStatus().GetCode()), m.GetStatus().GetMessage(), kind, den.GetStatus().GetCode())
	for _, h := range den.GetHeaders() {
		sign := ":"
		if h.GetAppendAction() == corev3.HeaderValueOption_APPEND_IF_EXISTS_OR_ADD {
			sign = "+:"
		}
		fmt.Fprintf(&s, "%s%s %s\n", h.GetHeader().GetKey(), sign, h.GetHeader().GetValue())
	}
	return s.String() + "\n" + den.GetBody() + "\n"
}

// An allow sets, removes, adds and hands on what the decision says.
func TestAllowed(t *testing.T) {
	dec := allowed
	dec.Remove = append(dec.Remove, "x-auth-roles") // set as well: the setting counts
	dec.Client = []policy.Header{{Name: "x-decision", Value: "1"}}
	dec.Verdict = &policy.Verdict{
		Allow: true, SetQuery: []policy.Header{{Name: "Page", Value: "1"}}, RemoveQuery: []string{"debug"},
		Metadata: map[string]any{"tier": "gold", "postern": "no policy can write this", "n": []any{1.0, nil, true, map[string]any{"a": "b"}}},
	}
	m := respond(t, doorTo(nil), dec, &policy.Attributes{Method: "GET", Host: "h"})
	ok := m.GetOkResponse()
	if m.GetStatus().GetCode() != 0 || ok == nil {
		t.Fatalf("not allowed: %v", m)
	}
	if got := ok.GetHeadersToRemove(); strings.Join(got, " ") != "x-api-key x-auth-scopes x-auth-issuer" {
		t.Errorf("remove %v", got)
	}
	own := m.GetDynamicMetadata().AsMap()["postern"].(map[string]any)
	if who := own["principal"].(map[string]any); who["id"] != "alice" || who["credential_id"] != "0123456789ab" {
		t.Errorf("principal %v", who)
	}
	if m.GetDynamicMetadata().AsMap()["tier"] != "gold" {
		t.Errorf("metadata %v", m.GetDynamicMetadata())
	}
}

// Only both words together are an allow.
func TestHalfAnAllow(t *testing.T) {
	for _, dec := range []policy.Decision{{}, {Allowed: true}, {Reason: policy.ReasonAllowed}, {Allowed: true, Reason: policy.ReasonExpired}} {
		if m := respond(t, doorTo(nil), dec, &policy.Attributes{}); m.GetStatus().GetCode() == 0 || m.GetOkResponse() != nil {
			t.Errorf("%+v is let through: %v", dec, m)
		}
	}
}

// Whatever a policy or token puts into the metadata, the gateway can parse it.
func TestMetadataIsAlwaysValid(t *testing.T) {
	var deep any = "x"
	for range 1000 {
		deep = []any{map[string]any{"a": deep}}
	}
	dec := allowed
	dec.Principal = &policy.Principal{ID: "a\xffb", Roles: []string{"\xff"}}
	dec.Verdict = &policy.Verdict{Metadata: map[string]any{"deep": deep, "\xff": "\xff", "none": func() {}, "strings": []string{"a"}}}
	p := newResponse()
	doorTo(nil).answer(p, &dec, &policy.Attributes{})
	m := new(authv3.CheckResponse)
	// 100 is the limit of the C++ parser.
	if err := (proto.UnmarshalOptions{RecursionLimit: 100}).Unmarshal(p.wire, m); err != nil {
		t.Fatal(err)
	}
	if got := m.GetDynamicMetadata().AsMap()["strings"]; gocmp.Diff([]any{"a"}, got) != "" {
		t.Errorf("strings: %v", got)
	}
}

// T-08: nothing of the request comes back in a deny.
func TestDeniedEchoesNothing(t *testing.T) {
	a := &policy.Attributes{Method: "GET", Host: "canary", Path: "/canary?canary", RequestID: "canary", Headers: policy.Headers{
		{Name: "authorization", Value: "Bearer canary"}, {Name: "accept", Value: "text/canary"}, {Name: "canary", Value: "canary"}}}
	for _, r := range policy.Reasons() {
		for _, profile := range []door.StatusProfile{door.StatusStandard, door.StatusLegacy} {
			m := respond(t, New(nil, Config{StatusProfile: profile}, nil), refuse(r), a)
			if strings.Contains(m.String(), "canary") {
				t.Errorf("%v: %v", r, m)
			}
		}
	}
}

// G-01: every reason has its status, and 401 is never mixed with 403.
func TestStatusMatrix(t *testing.T) {
	want := map[int]codes.Code{400: codes.InvalidArgument, 401: codes.Unauthenticated, 403: codes.PermissionDenied, 429: codes.ResourceExhausted, 503: codes.Unavailable}
	for _, r := range policy.Reasons() {
		if r == policy.ReasonAllowed {
			continue
		}
		m := respond(t, doorTo(nil), refuse(r), &policy.Attributes{Method: "GET", Host: "h"})
		status := int(m.GetDeniedResponse().GetStatus().GetCode())
		if status != r.Status() || codes.Code(m.GetStatus().GetCode()) != want[status] {
			t.Errorf("%v: %d and %v", r, status, codes.Code(m.GetStatus().GetCode()))
		}
	}
}

// Any decision is written as the generated types would.
func TestResponseSameAsProtobuf(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		name := rapid.SampledFrom([]string{"a", "x-a", "content-type", "grpc-status", "Not a name"})
		text := rapid.SampledFrom([]string{"", "a", "x-a", "content-type", strings.Repeat("long ", 40), strings.Repeat("very long ", 2000)})
		headers := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) policy.Header {
			return policy.Header{Name: name.Draw(t, "name"), Value: text.Draw(t, "value")}
		}), 0, 3)
		texts := rapid.SliceOfN(text, 0, 3)
		dec := policy.Decision{
			Allowed: rapid.Bool().Draw(rt, "allowed"), Reason: policy.Reason(rapid.IntRange(0, len(policy.Reasons())).Draw(rt, "reason")),
			ID: text.Draw(rt, "id"), Message: text.Draw(rt, "message"), Status: rapid.IntRange(0, 700).Draw(rt, "status"),
			Upstream: headers.Draw(rt, "upstream"), Client: headers.Draw(rt, "client"), Remove: texts.Draw(rt, "remove"),
			RemoveQuery: texts.Draw(rt, "credential"),
			Challenges:  texts.Draw(rt, "challenges"), Revision: text.Draw(rt, "revision"),
		}
		if rapid.Bool().Draw(rt, "verdict") {
			dec.Verdict = &policy.Verdict{Body: text.Draw(rt, "body"), SetQuery: headers.Draw(rt, "set"), RemoveQuery: texts.Draw(rt, "unset"),
				Metadata: map[string]any{text.Draw(rt, "member"): text.Draw(rt, "metadata"), "n": rapid.Float64().Draw(rt, "n")}}
		}
		respond(t, doorTo(nil), dec, &policy.Attributes{Method: "GET", Host: "h"})
	})
}
