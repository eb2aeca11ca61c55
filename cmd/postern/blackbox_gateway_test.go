package main

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	posternv1 "github.com/postern-auth/postern/gen/postern/v1"
	"github.com/postern-auth/postern/server/authn/apikey"
)

// startGateway runs a box of world "gateway" with its issuer, after changes to the world.
func startGateway(t testing.TB, changes ...func(w world)) (*box, issuer) {
	t.Helper()
	i := newIssuer("https://issuer.test", "k1")
	w := prepare(t, "gateway")
	w.write(t, "jwks.json", jwks(i))
	w.mint(t, order{id: "somebody"})
	for _, change := range changes {
		change(w)
	}
	return start(t, w), i
}

// G-01: who is calling and whether they may are two answers. 401 and 403 are
// never mixed, in either door, for either kind of credential.
func TestAuthenticationIsNotAuthorization(t *testing.T) {
	t.Parallel()
	var key, old string
	b, i := startGateway(t, func(w world) {
		key = w.mint(t, order{id: "alice"})
		old = w.mint(t, order{id: "alice"}, func(k *apikey.Key) {
			k.CreatedAt = time.Now().Add(-2 * time.Hour)
			k.ExpiresAt = k.CreatedAt.Add(time.Hour)
		})
	})
	token := i.token(claims{"sub": "alice"})
	expired := i.token(claims{"sub": "alice", "exp": time.Now().Add(-time.Hour).Unix()})
	b.hide(key, old)
	b.hide(secretParts(token)...)
	b.hide(secretParts(expired)...)
	for _, c := range []struct {
		name   string
		q      request
		status int
		code   codes.Code
		known  bool
	}{
		{"no credential", get("/"), 401, codes.Unauthenticated, false},
		{"bad key", get("/", "x-api-key", documented), 401, codes.Unauthenticated, false},
		{"bad token", get("/", bearer(token+"x")...), 401, codes.Unauthenticated, false},
		{"expired key", get("/", "x-api-key", old), 401, codes.Unauthenticated, false},
		{"expired token", get("/", bearer(expired)...), 401, codes.Unauthenticated, false},
		{"key, denied", get("/secret/1", "x-api-key", key), 403, codes.PermissionDenied, true},
		{"token, denied", get("/secret/1", bearer(token)...), 403, codes.PermissionDenied, true},
		{"key, allowed", get("/", "x-api-key", key), 200, codes.OK, true},
		{"token, allowed", get("/", bearer(token)...), 200, codes.OK, true},
	} {
		a := b.ask(t, c.q)
		if a.status != c.status || a.code != c.code || (a.principal == "alice") != c.known {
			t.Errorf("%s: %v with code %v", c.name, a, a.code)
		}
		// A 401 carries a challenge (RFC 9110 section 15.5.2), a deny by policy none.
		if (a.header("www-authenticate") != "") != (c.status == 401) {
			t.Errorf("%s: challenge %q", c.name, a.header("www-authenticate"))
		}
	}
}

// G-03, X-01 and K-10: routes choose what proves who is calling, and how well.
func TestRoutesChooseMethods(t *testing.T) {
	t.Parallel()
	var key, service string
	b, i := startGateway(t, func(w world) {
		key, service = w.mint(t, order{id: "alice"}), w.mint(t, order{id: "job", principalKind: "service"})
	})
	token := i.token(claims{"sub": "alice"})
	b.hide(key, service)
	withKey, withToken := []string{"x-api-key", key}, bearer(token)
	withBoth := append(bearer(token), withKey...)
	for _, c := range []struct {
		path    string
		headers []string
		status  int
		reason  string
	}{
		{"/keys/1", withKey, 200, "allowed"},
		{"/keys/1", withToken, 401, "method_not_accepted"},
		{"/tokens/1", withToken, 200, "allowed"},
		{"/tokens/1", withKey, 401, "method_not_accepted"},
		{"/tokens/1", withBoth, 401, "multiple_credentials"},
		{"/both/1", withBoth, 200, "allowed"},
		{"/both/1", withKey, 401, "credential_missing"},
		{"/both/1", withToken, 401, "credential_missing"},
		{"/both/1", nil, 401, "credential_missing"},
		{"/strong/1", withToken, 200, "allowed"},
		{"/strong/1", withKey, 403, "assurance"},
		{"/people/1", withKey, 200, "allowed"},
		{"/people/1", []string{"x-api-key", service}, 403, "principal_kind"},
	} {
		b.expect(t, get(c.path, c.headers...), c.status, c.reason)
	}
}

// FAILOPEN-11 and FAILOPEN-12: nothing gets through because of what it is called.
// A preflight and the paths that Postern itself serves elsewhere are requests like
// all others.
func TestNoBuiltInBypass(t *testing.T) {
	t.Parallel()
	var key string
	b, _ := startGateway(t, func(w world) { key = w.mint(t, order{id: "alice"}) })
	for _, path := range []string{"/healthz", "/readyz", "/metrics", "/grpc.health.v1.Health/Check", "/favicon.ico", "/.well-known/acme-challenge/x", "/robots.txt"} {
		b.expect(t, get(path), 401, "credential_missing")
		b.expect(t, get(path, "x-api-key", key), 200, "allowed")
	}
	preflight := get("/orders", "origin", "https://app.test", "access-control-request-method", "GET").with("OPTIONS")
	b.expect(t, preflight, 401, "credential_missing")
	preflight.headers = append(preflight.headers, get("", "x-api-key", key).headers...)
	b.expect(t, preflight, 403, "policy_denied") // the policy allows GET and POST
}

// A deny comes in the language of whoever asked, and a gRPC server that asks for
// itself needs neither host nor method.
func TestLanguages(t *testing.T) {
	t.Parallel()
	var key string
	b, _ := startGateway(t, func(w world) { key = w.mint(t, order{id: "alice"}) })
	var body struct{ Error, Reason, Message string }
	a := b.askEnvoy(t, get("/"))
	if err := json.Unmarshal([]byte(a.body), &body); err != nil || body.Error != "unauthenticated" || body.Reason != "credential_missing" || a.header("content-type") != "application/json" {
		t.Errorf("JSON: %s", a.body)
	}
	if a := b.askEnvoy(t, get("/", "accept", "text/plain")); a.body != "A credential is required.\n" || !strings.HasPrefix(a.header("content-type"), "text/plain") {
		t.Errorf("text: %q", a.body)
	}
	if a := b.askEnvoy(t, get("/acme.Orders/Get", "content-type", "application/grpc+proto").with("POST")); a.header("grpc-status") != "16" || a.status != 401 {
		t.Errorf("gRPC: %v %v", a.status, a.headers)
	}
	proxyless := &authv3.CheckRequest{Attributes: &authv3.AttributeContext{
		Source: &authv3.AttributeContext_Peer{Address: socket("192.0.2.5")},
		Request: &authv3.AttributeContext_Request{Http: &authv3.AttributeContext_HttpRequest{
			Path: "/acme.Orders/Get",
			HeaderMap: &corev3.HeaderMap{Headers: []*corev3.HeaderValue{
				{Key: "content-type", RawValue: []byte("application/grpc")}, {Key: "x-api-key", RawValue: []byte(key)},
			}},
		}},
	}}
	if a := b.askRaw(t, proxyless); a.principal != "alice" || !a.allowed() {
		t.Errorf("proxyless: %v", a)
	}
}

// CheckService says the same about a credential that is handed over apart from
// the request, one by one, in a batch, and with no policy asked.
func TestCheckService(t *testing.T) {
	t.Parallel()
	var key string
	b, i := startGateway(t, func(w world) { key = w.mint(t, order{id: "alice", roles: []string{"r"}}) })
	token := i.token(claims{"sub": "alice", "scope": "read"})
	b.hide(key)
	b.hide(secretParts(token)...)
	byKey := &posternv1.Credential{Kind: &posternv1.Credential_ApiKey{ApiKey: key}}
	byToken := &posternv1.Credential{Kind: &posternv1.Credential_BearerToken{BearerToken: token}}
	for method, c := range map[string]*posternv1.Credential{"api_key": byKey, "jwt": byToken} {
		if a := b.askCheck(t, get("/"), c); !a.allowed() || a.principal != "alice" || a.method != method {
			t.Errorf("%s: %v by %s", method, a, a.method)
		}
		if a := b.askCheck(t, get("/secret/1"), c); a.reason != "permission_missing" || a.missingPermissions[0] != "secrets.read" {
			t.Errorf("%s: %v misses %v", method, a, a.missingPermissions)
		}
		res, err := b.postern.Authenticate(t.Context(), &posternv1.AuthenticateRequest{Credential: c})
		if err != nil || !res.GetDecision().GetAllowed() || res.GetPrincipal().GetId() != "alice" {
			t.Errorf("%s: %v %v", method, res, err)
		}
		b.said(res)
		batch, err := b.postern.BatchCheck(t.Context(), &posternv1.BatchCheckRequest{Credential: c, Items: []*posternv1.CheckItem{
			{Target: get("/").forPostern()}, {Target: get("/secret/1").forPostern()}, {Target: get("/../x").forPostern()},
		}})
		if err != nil || len(batch.GetDecisions()) != 3 || !batch.GetDecisions()[0].GetAllowed() || batch.GetDecisions()[1].GetHttpStatus() != 403 || batch.GetDecisions()[2].GetHttpStatus() != 400 {
			t.Errorf("%s: %v %v", method, batch, err)
		}
		b.said(batch)
	}
	if a := b.askCheck(t, get("/", "x-api-key", key), byToken); a.reason != "multiple_credentials" {
		t.Errorf("two credentials: %v", a)
	}
	if a := b.askCheck(t, get("/"), &posternv1.Credential{}); a.status != 401 {
		t.Errorf("an empty credential: %v", a)
	}
}

// FAILOPEN-01: what is no message, or two of them, is denied by ext_authz too, and
// not answered with an error.
func TestGarbage(t *testing.T) {
	t.Parallel()
	b, i := startGateway(t)
	conn, err := grpc.NewClient(b.rpc, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.ForceCodecV2(bytesCodec{})))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	good, err := proto.Marshal(get("/", bearer(i.token(claims{"sub": "alice"}))...).forEnvoy())
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		message []byte
		status  int
	}{
		"good":      {good, 200},
		"empty":     {nil, 400},
		"garbage":   {[]byte("\xff\xff\xff\xffgarbage"), 400},
		"cut off":   {good[:len(good)-3], 400},
		"twice":     {slices.Concat(good, good), 400},
		"not UTF-8": {bytes.Replace(good, []byte("api.test"), []byte("api.\xff\xfest"), 1), 400},
	} {
		var reply []byte
		if err := conn.Invoke(t.Context(), authv3.Authorization_Check_FullMethodName, c.message, &reply); err != nil {
			t.Errorf("%s: a gRPC error: %v", name, err)
			continue
		}
		res := &authv3.CheckResponse{}
		if err := proto.Unmarshal(reply, res); err != nil {
			t.Fatal(err)
		}
		if a, problem := readEnvoy(res); problem != "" || a.status != c.status {
			t.Errorf("%s: %v %s", name, a, problem)
		}
	}
}

// bytesCodec sends messages as they are.
type bytesCodec struct{}

func (bytesCodec) Name() string { return "proto" }

func (bytesCodec) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(v.([]byte))}, nil
}

func (bytesCodec) Unmarshal(data mem.BufferSlice, v any) error {
	*v.(*[]byte) = data.Materialize()
	return nil
}

// faults is a box of world "faults", and an issuer for each fault.
func faults(t testing.TB, onFault string) (b *box, down, hangs issuer) {
	t.Helper()
	broken := publish(t, "")
	broken.keys.Store(nil)
	release := make(chan struct{})
	silent := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	t.Cleanup(func() { close(release); silent.Close() })
	w := prepare(t, "faults", "@DOWN@", broken.URL+"/jwks", "@HANGS@", silent.URL, "@ON_FAULT@", onFault)
	w.write(t, "down.pem", broken.ca())
	w.write(t, "hangs.pem", (&keyServer{Server: silent}).ca())
	return start(t, w), newIssuer("https://down.test", "k1"), newIssuer("https://hangs.test", "k1")
}

// FAILOPEN-01, and E-06 for an issuer that was never up: whatever fails inside,
// the answer is a deny in the protocol, with 503, that a gateway obeys even if it
// lets requests through on errors.
func TestFaultsAreDenies(t *testing.T) {
	t.Parallel()
	b, down, hangs := faults(t, "deny")
	b.expect(t, get("/fine"), 200, "allowed")
	tests := map[string]struct {
		q      request
		reason string
	}{
		"issuer down":    {get("/tokens/1", bearer(down.token(claims{"sub": "alice"}))...), "dependency_unavailable"},
		"issuer hangs":   {get("/tokens/1", bearer(hangs.token(claims{"sub": "alice"}))...), "dependency_unavailable"},
		"policy fails":   {get("/fault"), "policy_fault"},
		"policy is slow": {get("/slow"), "policy_timeout"},
	}
	for name, c := range tests {
		a := b.ask(t, c.q)
		if a.status != 503 || a.code != codes.Unavailable || a.faulted || a.reason != c.reason {
			t.Errorf("%s: %v, error_response %v", name, a, a.faulted)
		}
		if strings.Contains(a.body, "test") || strings.Contains(a.body, "127.0.0.1") {
			t.Errorf("%s: the client is told %q", name, a.body)
		}
	}
	b.expect(t, get("/fine"), 200, "allowed")

	// Where the configuration says so, it is an error that the gateway may count.
	b, down, _ = faults(t, "error_response")
	if a := b.askEnvoy(t, get("/tokens/1", bearer(down.token(claims{"sub": "alice"}))...)); a.status != 503 || !a.faulted {
		t.Errorf("on_fault: error_response: %v, %v", a, a.faulted)
	}
	if a := b.askEnvoy(t, get("/tokens/1")); a.status != 401 || a.faulted {
		t.Errorf("a deny is no fault: %v", a)
	}
}

// FAILOPEN-03 and FAILOPEN-04: a policy that does not say yes in so many words
// says no, and a deny wins.
func TestNonsenseIsDenied(t *testing.T) {
	t.Parallel()
	b, _, _ := faults(t, "deny")
	for path, reason := range map[string]string{
		"/undefined": "policy_undefined", "/conflict": "bad_decision", "/denied": "policy_denied", "/set": "bad_decision",
		"/nonsense/null": "bad_decision", "/nonsense/text": "bad_decision", "/nonsense/one": "bad_decision",
		"/nonsense/empty": "bad_decision", "/nonsense/list": "bad_decision", "/nonsense/list_of_true": "bad_decision",
		"/nonsense/text_inside": "bad_decision", "/nonsense/one_inside": "bad_decision", "/nonsense/list_inside": "bad_decision",
		"/nonsense/other_word": "bad_decision", "/nonsense/other_case": "bad_decision", "/nonsense/status_200": "bad_decision",
		"/nonsense/split_header": "bad_decision",
	} {
		if a := b.ask(t, get(path)); a.allowed() || a.reason != reason {
			t.Errorf("%s: %v, want %s", path, a, reason)
		}
	}
}

// FAILOPEN-02: without a policy nothing is allowed, not even what needs no
// credential, and the replica is not ready, until there is one.
func TestNoPolicy(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(w world){
		"not configured": func(w world) {
			w.write(t, "postern.yaml", strings.Replace(w.read(t, "postern.yaml"), "path: policy, ", "", 1))
		},
		"empty directory": func(w world) { remove(t, w, "policy/tables.yaml") },
	} {
		b, i := startGateway(t, change)
		b.expect(t, get("/", bearer(i.token(claims{"sub": "alice"}))...), 503, "no_policy")
		if status, body := b.fetch(t, "/readyz"); status != 503 || !strings.Contains(body, `"ready":false`) {
			t.Errorf("%s: /readyz says %d %s", name, status, body)
		}
		if status, _ := b.fetch(t, "/healthz"); status != 200 {
			t.Errorf("%s: /healthz says %d", name, status)
		}
		if name == "empty directory" {
			b.write(t, "policy/tables.yaml", "routes: [{path: /**, public: true}]\n")
			eventually(t, "the policy is there", func() bool { status, _ := b.fetch(t, "/readyz"); return status == 200 })
			b.expect(t, get("/", bearer(i.token(claims{"sub": "alice"}))...), 200, "allowed")
		}
	}
}
