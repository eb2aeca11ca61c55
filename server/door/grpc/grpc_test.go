package grpc_test

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	grpclib "google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	posternv1 "github.com/postern-auth/postern/gen/postern/v1"
	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/door"
	"github.com/postern-auth/postern/server/door/grpc"
)

// asked is a Checker and Authenticator that notes what it was asked.
type asked struct {
	answer func(*policy.Attributes) policy.Decision

	mu  sync.Mutex
	all []policy.Attributes
}

func (c *asked) Check(_ context.Context, a *policy.Attributes) policy.Decision {
	c.mu.Lock()
	c.all = append(c.all, *a)
	c.mu.Unlock()
	return c.answer(a)
}

func (c *asked) Authenticate(ctx context.Context, a *policy.Attributes) policy.Decision {
	return c.Check(ctx, a)
}

func allow(*policy.Attributes) policy.Decision {
	return policy.Decision{Allowed: true, Reason: policy.ReasonAllowed, Status: 200, Principal: &policy.Principal{ID: "alice"}}
}

func refuse(r policy.Reason) policy.Decision {
	return policy.Decision{Reason: r, Status: r.Status(), Message: r.Message()}
}

func serve(t *testing.T, c *asked, log *slog.Logger, options ...grpclib.ServerOption) posternv1.CheckServiceClient {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpclib.NewServer(options...)
	grpc.New(c, c, log).Register(s)
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(l) }()
	conn, err := grpclib.NewClient(l.Addr().String(), grpclib.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(); s.Stop(); <-done })
	return posternv1.NewCheckServiceClient(conn)
}

func apiKey(key string) *posternv1.Credential {
	return &posternv1.Credential{Kind: &posternv1.Credential_ApiKey{ApiKey: key}}
}

func httpTarget(path string) *posternv1.Target {
	return &posternv1.Target{Kind: &posternv1.Target_Http{Http: &posternv1.HttpTarget{Method: "GET", Path: path}}}
}

func grpcTarget(service, method string) *posternv1.Target {
	return &posternv1.Target{Kind: &posternv1.Target_Grpc{Grpc: &posternv1.GrpcTarget{Service: service, Method: method}}}
}

func actionTarget(action, tenant string) *posternv1.Target {
	return &posternv1.Target{Tenant: tenant, Kind: &posternv1.Target_Action{Action: &posternv1.ActionTarget{Action: action}}}
}

func object(t *testing.T, m map[string]any) *structpb.Struct {
	t.Helper()
	s, err := structpb.NewStruct(m)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Every field of a question arrives where it belongs.
func TestQuestions(t *testing.T) {
	t.Parallel()
	c := &asked{answer: allow}
	name := func(ctx context.Context, q any, _ *grpclib.UnaryServerInfo, next grpclib.UnaryHandler) (any, error) {
		return next(door.WithCaller(ctx, "orders"), q)
	}
	client := serve(t, c, nil, grpclib.UnaryInterceptor(name))
	addr := netip.MustParseAddrPort("192.0.2.5:0")
	fields := []*posternv1.HeaderField{{Name: "X-A", Value: "1"}, {Name: "x-a", Value: "2"}}
	for name, q := range map[string]struct {
		in   *posternv1.CheckRequest
		want policy.Attributes
	}{
		"http": {
			&posternv1.CheckRequest{CorrelationId: "id-1", Context: object(t, map[string]any{"k": []any{1.0, "x"}}), Credential: apiKey("key"),
				Target: &posternv1.Target{Kind: &posternv1.Target_Http{Http: &posternv1.HttpTarget{
					Method: "PATCH", Host: "api.test:8443", Path: "/a%2Fb?x", Headers: fields, SourceIp: "192.0.2.5", Scheme: "https"}}}},
			policy.Attributes{RequestID: "id-1", Context: map[string]any{"k": []any{1.0, "x"}}, Method: "PATCH", Host: "api.test:8443", Path: "/a%2Fb?x", Scheme: "https",
				Headers: policy.Headers{{Name: "x-a", Value: "1"}, {Name: "x-a", Value: "2"}}, Source: policy.Endpoint{Address: addr},
				Presented: &policy.Presented{Use: "api_key", Secret: policy.NewSecret("key")}},
		},
		"grpc": {
			&posternv1.CheckRequest{Credential: &posternv1.Credential{Kind: &posternv1.Credential_BearerToken{BearerToken: "token"}},
				Target: &posternv1.Target{Kind: &posternv1.Target_Grpc{Grpc: &posternv1.GrpcTarget{Service: "acme.Orders", Method: "Get", Metadata: fields[:1], SourceIp: "192.0.2.5"}}}},
			policy.Attributes{Method: "POST", Path: "/acme.Orders/Get", Protocol: "HTTP/2", Source: policy.Endpoint{Address: addr},
				Headers:   policy.Headers{{Name: "x-a", Value: "1"}, {Name: "content-type", Value: "application/grpc"}},
				Presented: &policy.Presented{Use: "bearer", Secret: policy.NewSecret("token")}},
		},
		"grpc with its own content-type": {
			&posternv1.CheckRequest{Target: &posternv1.Target{Kind: &posternv1.Target_Grpc{Grpc: &posternv1.GrpcTarget{Service: "s", Method: "m",
				Metadata: []*posternv1.HeaderField{{Name: "Content-Type", Value: "application/grpc+json"}}}}}},
			policy.Attributes{Method: "POST", Path: "/s/m", Protocol: "HTTP/2", Headers: policy.Headers{{Name: "content-type", Value: "application/grpc+json"}}},
		},
		"action": {
			&posternv1.CheckRequest{Credential: apiKey(""), Target: &posternv1.Target{Tenant: "acme", Kind: &posternv1.Target_Action{Action: &posternv1.ActionTarget{
				Action: "orders.refund", ResourceType: "order", ResourceId: "7", Properties: object(t, map[string]any{"amount": 3.5})}}}},
			policy.Attributes{Action: &policy.Action{Name: "orders.refund", ResourceType: "order", ResourceID: "7", Properties: map[string]any{"amount": 3.5}}, Tenant: "acme",
				Presented: &policy.Presented{Use: "api_key", Secret: policy.NewSecret("")}},
		},
		"an empty credential is not none": {
			&posternv1.CheckRequest{Credential: &posternv1.Credential{}, Target: httpTarget("/")},
			policy.Attributes{Method: "GET", Path: "/", Presented: &policy.Presented{}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := client.Check(t.Context(), q.in); err != nil {
				t.Fatal(err)
			}
			q.want.Door, q.want.Caller, q.want.Size = "grpc", "orders", -1
			got := c.all[len(c.all)-1]
			opts := cmp.Options{cmp.AllowUnexported(policy.Secret{}), cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })}
			if diff := cmp.Diff(q.want, got, opts); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// A malformed question is INVALID_ARGUMENT, names all fields that are wrong, and
// asks nobody. It quotes nothing.
func TestMalformedQuestions(t *testing.T) {
	t.Parallel()
	c := &asked{answer: allow}
	client := serve(t, c, nil)
	check := func(q *posternv1.CheckRequest) func() error {
		return func() error { _, err := client.Check(t.Context(), q); return err }
	}
	batch := func(q *posternv1.BatchCheckRequest) func() error {
		return func() error { _, err := client.BatchCheck(t.Context(), q); return err }
	}
	for name, q := range map[string]struct {
		ask  func() error
		want []string
	}{
		"nothing":      {check(&posternv1.CheckRequest{}), []string{"target"}},
		"empty target": {check(&posternv1.CheckRequest{Target: &posternv1.Target{}}), []string{"target"}},
		"no rpc":       {check(&posternv1.CheckRequest{Target: grpcTarget("", "")}), []string{"target.grpc.service", "target.grpc.method"}},
		"no action":    {check(&posternv1.CheckRequest{Target: actionTarget("", "")}), []string{"target.action.action"}},
		"no address":   {check(&posternv1.CheckRequest{Target: &posternv1.Target{Kind: &posternv1.Target_Http{Http: &posternv1.HttpTarget{SourceIp: "canary"}}}}), []string{"target.http.source_ip"}},
		"no items":     {batch(&posternv1.BatchCheckRequest{}), []string{"items"}},
		"101 items":    {batch(&posternv1.BatchCheckRequest{Items: make([]*posternv1.CheckItem, 101)}), []string{"items"}},
		"semantic":     {batch(&posternv1.BatchCheckRequest{Semantic: 9, Items: []*posternv1.CheckItem{{Target: httpTarget("/")}}}), []string{"semantic"}},
		"one of the items": {batch(&posternv1.BatchCheckRequest{Items: []*posternv1.CheckItem{{Target: httpTarget("/")}, {}, {Target: grpcTarget("s", "")}}}),
			[]string{"items[1].target", "items[2].target.grpc.method"}},
	} {
		err := q.ask()
		st := status.Convert(err)
		var fields []string
		var info *errdetails.ErrorInfo
		for _, d := range st.Details() {
			switch d := d.(type) {
			case *errdetails.BadRequest:
				for _, v := range d.GetFieldViolations() {
					fields = append(fields, v.GetField())
				}
			case *errdetails.ErrorInfo:
				info = d
			}
		}
		if st.Code() != codes.InvalidArgument || !slices.Equal(fields, q.want) || info.GetDomain() != "postern" || strings.Contains(st.String(), "canary") {
			t.Errorf("%s: %v, fields %v, want %v", name, err, fields, q.want)
		}
	}
	if len(c.all) != 0 {
		t.Errorf("%d questions were asked", len(c.all))
	}
}

// What a client can get wrong is a deny, never an error.
func TestClientsMistakesAreDenies(t *testing.T) {
	t.Parallel()
	client := serve(t, &asked{answer: func(*policy.Attributes) policy.Decision { return refuse(policy.ReasonRequestInvalid) }}, nil)
	for _, target := range []*posternv1.Target{httpTarget(""), httpTarget("/\x00"), grpcTarget("a/b", "c?d"), {Kind: &posternv1.Target_Http{}}} {
		if m, err := client.Check(t.Context(), &posternv1.CheckRequest{Target: target}); err != nil || m.GetDecision().GetAllowed() {
			t.Errorf("%v: %v %v", target, m, err)
		}
	}
}

// G-01: authentication and authorization are told apart, and every deny is OK.
func TestCheckMatrix(t *testing.T) {
	t.Parallel()
	var next policy.Decision
	client := serve(t, &asked{answer: func(*policy.Attributes) policy.Decision { return next }}, nil)
	known := &policy.Principal{ID: "alice"}
	for name, c := range map[string]struct {
		dec    policy.Decision
		status uint32
	}{
		"no credential":  {refuse(policy.ReasonCredentialMissing), 401},
		"bad credential": {refuse(policy.ReasonCredentialUnknown), 401},
		"expired":        {refuse(policy.ReasonExpired), 401},
		"denied":         {policy.Decision{Reason: policy.ReasonPolicyDenied, Principal: known}, 403},
		"allowed":        {policy.Decision{Allowed: true, Reason: policy.ReasonAllowed, Principal: known}, 200},
	} {
		next = c.dec
		m, err := client.Check(t.Context(), &posternv1.CheckRequest{Target: httpTarget("/")})
		if err != nil || m.GetDecision().GetHttpStatus() != c.status || m.GetDecision().GetAllowed() != (c.status == 200) ||
			(m.GetPrincipal() == nil) != (c.dec.Principal == nil) {
			t.Errorf("%s: %v %v", name, m, err)
		}
		a, err := client.Authenticate(t.Context(), &posternv1.AuthenticateRequest{Credential: apiKey("k")})
		if err != nil || a.GetDecision().GetHttpStatus() != c.status {
			t.Errorf("%s: authenticate: %v %v", name, a, err)
		}
	}
}

// Everything that a Decision holds is in the answer.
func TestAnswers(t *testing.T) {
	t.Parallel()
	var next policy.Decision
	client := serve(t, &asked{answer: func(*policy.Attributes) policy.Decision { return next }}, nil)
	who := &policy.Principal{
		ID: "alice", Kind: policy.KindUser, Tenant: "acme", Roles: []string{"r"}, Scopes: []string{"s"}, Permissions: []string{"p"},
		Claims: map[string]any{"a": []any{"b", nil, 1.0, true}}, Metadata: map[string]any{"team": "billing", "odd\xff": "\xff", "none": struct{}{}},
		Method: policy.MethodJWT, Assurance: 3, Actors: []policy.Actor{{ID: "bot", Kind: policy.KindAgent}},
		CredentialID: "jti", Issuer: "https://issuer.test", ExpiresAt: time.Unix(2_000_000_000, 0),
	}
	wantWho := &posternv1.Principal{
		Id: "alice", Kind: posternv1.PrincipalKind_PRINCIPAL_KIND_USER, Tenant: "acme", Roles: []string{"r"}, Scopes: []string{"s"}, Permissions: []string{"p"},
		Claims: object(t, map[string]any{"a": []any{"b", nil, 1.0, true}}), Metadata: object(t, map[string]any{"team": "billing", "odd\uFFFD": "\uFFFD", "none": nil}),
		Method: "jwt", Assurance: 3, Actors: []*posternv1.Actor{{Id: "bot", Kind: posternv1.PrincipalKind_PRINCIPAL_KIND_AGENT}},
		CredentialId: "jti", Issuer: "https://issuer.test", ExpireTime: timestamppb.New(time.Unix(2_000_000_000, 0)),
	}
	for name, c := range map[string]struct {
		dec  policy.Decision
		want *posternv1.Decision
	}{
		"allow": {
			policy.Decision{Allowed: true, Reason: policy.ReasonAllowed, ID: "d", Revision: "r", Principal: who, CacheTTL: time.Second,
				Upstream: []policy.Header{{Name: "x-id", Value: "alice"}}, Client: []policy.Header{{Name: "x", Value: "y"}}, Remove: []string{"x-api-key"},
				Verdict: &policy.Verdict{Obligations: []policy.Obligation{{Type: "notify", Parameters: map[string]any{"to": "bob"}}}, Rule: "not shown"}},
			&posternv1.Decision{Allowed: true, Reason: posternv1.Reason_REASON_ALLOWED, HttpStatus: 200, DecisionId: "d", PolicyRevision: "r", CacheTtl: durationpb.New(time.Second),
				UpstreamHeaders: []*posternv1.Header{{Name: "x-id", Value: "alice"}}, ResponseHeaders: []*posternv1.Header{{Name: "x", Value: "y"}}, HeadersToRemove: []string{"x-api-key"},
				Obligations: []*posternv1.Obligation{{Type: "notify", Parameters: object(t, map[string]any{"to": "bob"})}}},
		},
		"deny": { // T-01: the challenges pass through
			policy.Decision{Reason: policy.ReasonScope, Message: "No.", ID: "d", Principal: who, RetryAfter: 1500 * time.Millisecond,
				Upstream: []policy.Header{{Name: "x-id", Value: "not on a deny"}}, Client: []policy.Header{{Name: "x", Value: "a\r\nb"}},
				Challenges:    []string{`Bearer realm="postern", error="insufficient_scope", scope="a b"`},
				MissingScopes: []string{"a", "b"}, MissingPermissions: []string{"p"},
				Verdict: &policy.Verdict{Rule: "data.x.deny", File: "x.rego", Line: 7}},
			&posternv1.Decision{Reason: posternv1.Reason_REASON_INSUFFICIENT_SCOPE, Message: "No.", HttpStatus: 403, DecisionId: "d", RetryDelay: durationpb.New(1500 * time.Millisecond),
				ResponseHeaders: []*posternv1.Header{{Name: "www-authenticate", Value: `Bearer realm="postern", error="insufficient_scope", scope="a b"`}, {Name: "retry-after", Value: "2"}},
				MissingScopes:   []string{"a", "b"}, MissingPermissions: []string{"p"}, Rule: &posternv1.RuleLocation{Rule: "data.x.deny", File: "x.rego", Line: 7}},
		},
		"half an allow": {
			policy.Decision{Allowed: true, Reason: policy.ReasonExpired, Status: 200, Principal: who},
			&posternv1.Decision{Reason: posternv1.Reason_REASON_EXPIRED, Message: policy.ReasonExpired.Message(), HttpStatus: 401},
		},
		"an allow that cannot be sent": {
			policy.Decision{Allowed: true, Reason: policy.ReasonAllowed, Principal: who, ID: "d", Upstream: []policy.Header{{Name: "x-id", Value: "a\nb"}}},
			&posternv1.Decision{Reason: posternv1.Reason_REASON_INTERNAL, Message: policy.ReasonInternal.Message(), HttpStatus: 503, DecisionId: "d"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			next = c.dec
			m, err := client.Check(t.Context(), &posternv1.CheckRequest{Target: httpTarget("/")})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, m.GetDecision(), protocmp.Transform()); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(wantWho, m.GetPrincipal(), protocmp.Transform()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// The zero Decision is a deny, and its reason the zero of the enumeration.
func TestZeroDecision(t *testing.T) {
	t.Parallel()
	client := serve(t, &asked{answer: func(*policy.Attributes) policy.Decision { return policy.Decision{} }}, nil)
	m, err := client.Check(t.Context(), &posternv1.CheckRequest{Target: httpTarget("/")})
	if err != nil || m.GetDecision().GetAllowed() || m.GetDecision().GetHttpStatus() != 403 || m.GetPrincipal() != nil {
		t.Errorf("%v %v", m, err)
	}
}

// Every reason has its number on the wire.
func TestReasonNumbers(t *testing.T) {
	for _, r := range policy.Reasons() {
		if got, want := posternv1.Reason_name[int32(r)], "REASON_"+strings.ToUpper(r.String()); got != want {
			t.Errorf("%d is %s, want %s", r, got, want)
		}
	}
	if len(posternv1.Reason_name) != len(policy.Reasons()) {
		t.Errorf("%d reasons on the wire, %d in the words", len(posternv1.Reason_name), len(policy.Reasons()))
	}
}

// A batch goes on as its semantic says, and asks with one credential.
func TestBatch(t *testing.T) {
	t.Parallel()
	answers := map[string]bool{"/yes": true, "/no": false}
	for name, b := range map[string]struct {
		semantic posternv1.BatchSemantic
		paths    []string
		want     []bool
	}{
		"default":     {0, []string{"/no", "/yes", "/no"}, []bool{false, true, false}},
		"all":         {posternv1.BatchSemantic_BATCH_SEMANTIC_EXECUTE_ALL, []string{"/yes", "/no"}, []bool{true, false}},
		"first deny":  {posternv1.BatchSemantic_BATCH_SEMANTIC_DENY_ON_FIRST_DENY, []string{"/yes", "/no", "/yes"}, []bool{true, false}},
		"first allow": {posternv1.BatchSemantic_BATCH_SEMANTIC_PERMIT_ON_FIRST_PERMIT, []string{"/no", "/yes", "/no"}, []bool{false, true}},
		"100 items":   {0, slices.Repeat([]string{"/yes"}, 100), slices.Repeat([]bool{true}, 100)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := &asked{answer: func(a *policy.Attributes) policy.Decision {
				if answers[a.Path] {
					return allow(a)
				}
				d := refuse(policy.ReasonPolicyDenied)
				d.Principal = &policy.Principal{ID: "alice"}
				return d
			}}
			q := &posternv1.BatchCheckRequest{Credential: apiKey("k"), Semantic: b.semantic}
			for _, p := range b.paths {
				q.Items = append(q.Items, &posternv1.CheckItem{Target: httpTarget(p)})
			}
			m, err := serve(t, c, nil).BatchCheck(t.Context(), q)
			if err != nil {
				t.Fatal(err)
			}
			var got []bool
			for _, d := range m.GetDecisions() {
				got = append(got, d.GetAllowed())
			}
			if !slices.Equal(got, b.want) || m.GetPrincipal().GetId() != "alice" || len(c.all) != len(b.want) {
				t.Errorf("%v, asked %d times", m, len(c.all))
			}
			for _, a := range c.all {
				if a.Presented == nil || a.Presented.Secret.Reveal() != "k" {
					t.Errorf("asked without the credential: %+v", a)
				}
			}
		})
	}
}

// A batch whose items have different callers has no principal of its own.
func TestBatchOfSeveral(t *testing.T) {
	t.Parallel()
	for _, last := range []*policy.Principal{nil, {ID: "bob"}, {ID: "alice", Tenant: "other"}} {
		c := &asked{}
		c.answer = func(a *policy.Attributes) policy.Decision {
			d := allow(a)
			if a.Path == "/2" {
				d.Principal = last
			}
			return d
		}
		var items []*posternv1.CheckItem
		for _, p := range []string{"/1", "/2", "/1"} {
			items = append(items, &posternv1.CheckItem{Target: httpTarget(p)})
		}
		m, err := serve(t, c, nil).BatchCheck(t.Context(), &posternv1.BatchCheckRequest{Items: items})
		if err != nil || m.GetPrincipal() != nil {
			t.Errorf("%v %v", m, err)
		}
	}
}

// Authenticate hands on the credential and nothing else; having none is an
// answer too.
func TestAuthenticate(t *testing.T) {
	t.Parallel()
	c := &asked{answer: func(a *policy.Attributes) policy.Decision {
		if a.Presented == nil {
			return refuse(policy.ReasonCredentialMissing)
		}
		return allow(a)
	}}
	client := serve(t, c, nil)
	m, err := client.Authenticate(t.Context(), &posternv1.AuthenticateRequest{Credential: apiKey("k"), CorrelationId: "id"})
	if err != nil || !m.GetDecision().GetAllowed() || m.GetPrincipal().GetId() != "alice" || c.all[0].RequestID != "id" {
		t.Errorf("%v %v", m, err)
	}
	m, err = client.Authenticate(t.Context(), &posternv1.AuthenticateRequest{})
	if err != nil || m.GetDecision().GetReason() != posternv1.Reason_REASON_CREDENTIAL_MISSING {
		t.Errorf("%v %v", m, err)
	}
}

// A panic is a deny that shows nothing of it. T-08
func TestPanicIsADeny(t *testing.T) {
	t.Parallel()
	const text = "secret-in-a-panic"
	var log bytes.Buffer
	client := serve(t, &asked{answer: func(*policy.Attributes) policy.Decision { panic(text) }}, slog.New(slog.NewTextHandler(&log, nil)))
	m, err := client.Check(t.Context(), &posternv1.CheckRequest{Target: httpTarget("/")})
	if err != nil || m.GetDecision().GetAllowed() || m.GetDecision().GetReason() != posternv1.Reason_REASON_INTERNAL || m.GetDecision().GetHttpStatus() != 503 {
		t.Errorf("%v %v", m, err)
	}
	if strings.Contains(m.String()+log.String(), text) || !strings.Contains(log.String(), "panic") {
		t.Errorf("sent %v, logged %s", m, log.String())
	}
}
