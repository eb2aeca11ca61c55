package admin_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/reflection"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	adminv1 "github.com/postern-auth/postern/gen/postern/admin/v1"
	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/admin"
	"github.com/postern-auth/postern/server/audit"
	"github.com/postern-auth/postern/server/check"
	"github.com/postern-auth/postern/server/registry"
	"github.com/postern-auth/postern/server/seal"
	"github.com/postern-auth/postern/server/signer"
	"github.com/postern-auth/postern/server/store"
	"github.com/postern-auth/postern/server/store/memory"
)

// desk is the API on a real listener, over a registry and a store in memory. Who
// calls is what the header "x-api-key" names.
type desk struct {
	t       testing.TB
	store   *memory.Store
	url     string
	ring    *audit.Ring
	callers map[string]*policy.Principal
	limits  map[string]*policy.Constraints
	log     lines

	mu      sync.Mutex
	now     time.Time
	asked   []policy.Attributes
	answer  func(*policy.Attributes) policy.Decision // if set, instead of callers
	remote  string                                   // if set, the address that calls come from
	overTLS bool                                     // as if they came over TLS
	chain   []*x509.Certificate                      // if set, what the handshake has verified
	signer  *signer.Signer                           // nil: there are no signing keys
}

// lines is a log that can be read while it is written.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (d *desk) clock() time.Time {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.now
}

func (d *desk) authenticate(_ context.Context, a *policy.Attributes) (policy.Decision, check.Identity) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.asked = append(d.asked, *a)
	if d.answer != nil {
		return d.answer(a), check.Identity{Limits: d.limits["answer"]}
	}
	name, n := a.Headers.Get("x-api-key")
	switch p := d.callers[name]; {
	case n == 0:
		return policy.Decision{Reason: policy.ReasonCredentialMissing}, check.Identity{}
	case p == nil:
		return policy.Decision{Reason: policy.ReasonCredentialUnknown, Detail: "looked for " + name}, check.Identity{}
	default:
		return policy.Decision{Allowed: true, Reason: policy.ReasonAllowed, Principal: p}, check.Identity{Limits: d.limits[name]}
	}
}

// open opens the desk. The tenants acme and other are there, with a service "app"
// and a user "ann" each, and callers of all roles.
func open(t testing.TB, change ...func(*admin.Config)) *desk {
	t.Helper()
	d := &desk{
		t: t, now: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC), ring: audit.NewRing(16),
		callers: map[string]*policy.Principal{
			"root":    holder(policy.KindUser, "", "root", policy.MethodSession, "platform-admin"),
			"boss":    holder(policy.KindUser, "acme", "boss", policy.MethodSession, "tenant-admin"),
			"rival":   holder(policy.KindUser, "other", "rival", policy.MethodSession, "tenant-admin"),
			"issuer":  holder(policy.KindService, "acme", "ci", policy.MethodAPIKey, "issuer"),
			"auditor": holder(policy.KindService, "acme", "eye", policy.MethodAPIKey, "auditor"),
			"ann":     holder(policy.KindUser, "acme", "ann", policy.MethodSession, "user"),
			"nobody":  holder(policy.KindService, "acme", "nobody", policy.MethodAPIKey),
		},
		limits: map[string]*policy.Constraints{},
	}
	d.callers["issuer"].Scopes = []string{"a"}
	d.store = memory.New(d.clock)
	peppers, err := seal.NewPeppers([]seal.Pepper{{Version: 1, Secret: policy.NewSecret("a pepper for tests, of more than 32 bytes")}})
	if err != nil {
		t.Fatal(err)
	}
	reg := registry.New(registry.Config{}, d.store, registry.Deps{
		Now: d.clock, Peppers: peppers, Passwords: plain{}, Signer: func() *signer.Signer { return d.signer },
	})
	cfg := admin.Config{
		Conditions: func() []admin.Condition { return nil }, Metrics: http.NotFoundHandler(),
		Decisions: &admin.Decisions{Ring: d.ring}, Register: func(s *grpc.Server) { reflection.Register(s) },
		Authenticate: d.authenticate, Authorizer: authorizer(t), Registry: reg, Budgets: accounts{},
		Browser: func(s *store.Session, secret policy.Secret) (string, string) {
			return "__Host-session=" + secret.Reveal(), "csrf-" + s.ID
		},
		Logger: slog.New(slog.NewTextHandler(&d.log, nil)), Now: d.clock,
	}
	for _, c := range change {
		c(&cfg)
	}
	handler := admin.Handler(cfg)
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		d.mu.Lock()
		if d.remote != "" {
			r.RemoteAddr = d.remote
		}
		if d.overTLS {
			r.TLS = &tls.ConnectionState{HandshakeComplete: true}
			if d.chain != nil {
				r.TLS.VerifiedChains = [][]*x509.Certificate{d.chain}
			}
		}
		d.mu.Unlock()
		handler.ServeHTTP(w, r)
	}))
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetHTTP1(true)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Start()
	t.Cleanup(s.Close)
	d.url = strings.TrimPrefix(s.URL, "http://")
	return d
}

// plain are passwords that are their own hashes, which takes no time.
type plain struct{}

func (plain) Hash(_ context.Context, p policy.Secret) (string, error) {
	return "$plain$" + p.Reveal(), nil
}
func (plain) Verify(_ context.Context, hash string, p policy.Secret) (bool, error) {
	return hash == "$plain$"+p.Reveal(), nil
}
func (plain) NeedsRehash(string) bool { return false }
func (plain) Check(hash string) error {
	if !strings.HasPrefix(hash, "$plain$") {
		return fmt.Errorf("is of no known kind")
	}
	return nil
}

// as returns a connection whose calls show a key; none for "".
func (d *desk) as(caller string) grpc.ClientConnInterface {
	d.t.Helper()
	show := func(ctx context.Context, method string, req, res any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		if caller != "" {
			ctx = metadata.AppendToOutgoingContext(ctx, "x-api-key", caller)
		}
		return invoke(ctx, method, req, res, cc, opts...)
	}
	conn, err := grpc.NewClient("passthrough:///"+d.url, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithUnaryInterceptor(show))
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// problem returns the status and the reason of an error. An error without a reason
// of the closed set fails the test.
func problem(t testing.TB, err error) (codes.Code, string, map[string]string) {
	t.Helper()
	if err == nil {
		t.Error("no error")
		return codes.OK, "", nil
	}
	st := status.Convert(err)
	for _, detail := range st.Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok {
			if n := adminv1.ErrorReason_value["ERROR_REASON_"+info.GetReason()]; n == 0 || info.GetDomain() != "postern" {
				t.Errorf("reason %q of %q is not in the set: %v", info.GetReason(), info.GetDomain(), err)
			}
			return st.Code(), info.GetReason(), info.GetMetadata()
		}
	}
	t.Errorf("no ErrorInfo: %v", err)
	return st.Code(), "", nil
}

// fails fails the test unless the error is of the status and the reason.
func fails(t testing.TB, what string, err error, code codes.Code, reason string) map[string]string {
	t.Helper()
	c, r, meta := problem(t, err)
	if c != code || r != reason {
		t.Errorf("%s: %v %s, want %v %s: %v", what, c, r, code, reason, err)
	}
	return meta
}

// everyMethod are all RPCs of the package, from the descriptors.
func everyMethod() []string {
	var all []string
	for _, desc := range []grpc.ServiceDesc{
		adminv1.CredentialService_ServiceDesc, adminv1.PrincipalService_ServiceDesc, adminv1.UserService_ServiceDesc,
		adminv1.SessionService_ServiceDesc, adminv1.TenantService_ServiceDesc, adminv1.DenylistService_ServiceDesc,
		adminv1.AuditService_ServiceDesc, adminv1.BudgetService_ServiceDesc, adminv1.DecisionService_ServiceDesc, adminv1.ApprovalService_ServiceDesc, adminv1.ConsentService_ServiceDesc, adminv1.AgentService_ServiceDesc,
		adminv1.TokenService_ServiceDesc, adminv1.PolicyService_ServiceDesc,
	} {
		for _, m := range desc.Methods {
			all = append(all, "/"+desc.ServiceName+"/"+m.MethodName)
		}
		for _, s := range desc.Streams {
			all = append(all, "/"+desc.ServiceName+"/"+s.StreamName)
		}
	}
	slices.Sort(all)
	return all
}

// The table has a row for each RPC of each service that there is, and no other.
func TestEveryMethodIsInTheTable(t *testing.T) {
	t.Parallel()
	if got, want := admin.Methods(), everyMethod(); !slices.Equal(got, want) {
		t.Errorf("the table has\n%s\nthe services\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	files := adminv1.File_postern_admin_v1_change_proto.Package()
	services := map[string]bool{}
	for _, m := range everyMethod() {
		services[strings.Split(m, "/")[1]] = true
	}
	served := 0
	for _, name := range servedNames(t) {
		if strings.HasPrefix(name, string(files)+".") {
			served++
			if !services[name] {
				t.Errorf("%s is served and not in the test's list", name)
			}
		}
	}
	if served != len(services) {
		t.Errorf("%d services are served, want %d", served, len(services))
	}
}

// servedNames asks reflection, which needs no credential, what is served.
func servedNames(t *testing.T) (names []string) {
	stream, err := reflectionpb.NewServerReflectionClient(open(t).as("")).ServerReflectionInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{}}); err != nil {
		t.Fatal(err)
	}
	res, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range res.GetListServicesResponse().GetService() {
		names = append(names, s.GetName())
	}
	return names
}

// K-01: nothing is done for who has no credential, or a bad one, by any method but the
// reading of decisions on the machine itself.
func TestUnauthenticated(t *testing.T) {
	t.Parallel()
	d := open(t)
	for _, caller := range []string{"", "stranger"} {
		for _, method := range everyMethod() {
			err := d.as(caller).Invoke(t.Context(), method, &emptypb.Empty{}, &emptypb.Empty{})
			if strings.Contains(method, "DecisionService") {
				if status.Code(err) == codes.Unauthenticated {
					t.Errorf("%s from this machine: %v", method, err)
				}
				continue
			}
			meta := fails(t, method, err, codes.Unauthenticated, "UNAUTHENTICATED")
			if cause := map[string]string{"": "credential_missing", "stranger": "credential_invalid"}[caller]; meta["cause"] != cause {
				t.Errorf("%s: cause %q, want %q", method, meta["cause"], cause)
			}
			if strings.Contains(err.Error(), "looked for") {
				t.Errorf("%s shows what is for the log: %v", method, err)
			}
		}
	}
	if report, err := d.store.Check(t.Context()); err != nil || report.Head != 0 || report.Audit != 0 {
		t.Errorf("the store was written: %+v %v", report, err)
	}
}

// Any answer but a whole yes is a no, and a fault is no answer about the caller.
func TestHalfAuthenticated(t *testing.T) {
	t.Parallel()
	d := open(t)
	ann := d.callers["ann"]
	for name, tt := range map[string]struct {
		answer policy.Decision
		code   codes.Code
		reason string
	}{
		"zero":             {policy.Decision{}, codes.Unauthenticated, "UNAUTHENTICATED"},
		"only the word":    {policy.Decision{Allowed: true, Principal: ann}, codes.Unauthenticated, "UNAUTHENTICATED"},
		"only the reason":  {policy.Decision{Reason: policy.ReasonAllowed, Principal: ann}, codes.Unauthenticated, "UNAUTHENTICATED"},
		"nobody":           {policy.Decision{Allowed: true, Reason: policy.ReasonAllowed}, codes.Unauthenticated, "UNAUTHENTICATED"},
		"no name":          {policy.Decision{Allowed: true, Reason: policy.ReasonAllowed, Principal: &policy.Principal{Kind: policy.KindUser}}, codes.Unauthenticated, "UNAUTHENTICATED"},
		"no kind":          {policy.Decision{Allowed: true, Reason: policy.ReasonAllowed, Principal: &policy.Principal{ID: "x"}}, codes.Unauthenticated, "UNAUTHENTICATED"},
		"anonymous":        {policy.Decision{Allowed: true, Reason: policy.ReasonAllowed, Principal: &policy.Principal{ID: "x", Kind: policy.KindAnonymous}}, codes.Unauthenticated, "UNAUTHENTICATED"},
		"revoked":          {policy.Decision{Reason: policy.ReasonRevoked, Principal: ann}, codes.Unauthenticated, "UNAUTHENTICATED"},
		"cannot find out":  {policy.Decision{Reason: policy.ReasonUnavailable}, codes.Unavailable, "STORE_UNAVAILABLE"},
		"something failed": {policy.Decision{Reason: policy.ReasonInternal}, codes.Internal, "INTERNAL"},
	} {
		d.mu.Lock()
		d.answer = func(*policy.Attributes) policy.Decision { return tt.answer }
		d.mu.Unlock()
		_, err := adminv1.NewTenantServiceClient(d.as("ann")).ListTenants(t.Context(), &adminv1.ListTenantsRequest{})
		fails(t, name, err, tt.code, tt.reason)
	}
}

// A panic is INTERNAL, and its text is nowhere.
func TestPanic(t *testing.T) {
	t.Parallel()
	d := open(t)
	d.answer = func(*policy.Attributes) policy.Decision { panic("hunter2") }
	_, err := adminv1.NewTenantServiceClient(d.as("ann")).ListTenants(t.Context(), &adminv1.ListTenantsRequest{})
	fails(t, "panic", err, codes.Internal, "INTERNAL")
	if strings.Contains(err.Error()+d.log.String(), "hunter2") {
		t.Errorf("the text got out: %v\n%s", err, &d.log)
	}
	if !strings.Contains(d.log.String(), "ListTenants") {
		t.Errorf("the log does not say where: %s", &d.log)
	}
}

// Credentials go over TLS, or do not leave the machine. The authenticator is not even
// asked.
func TestPlaintext(t *testing.T) {
	t.Parallel()
	d := open(t)
	list := func() error {
		_, err := adminv1.NewTenantServiceClient(d.as("root")).ListTenants(t.Context(), &adminv1.ListTenantsRequest{})
		return err
	}
	for _, remote := range []string{"192.0.2.7:1234", "[2001:db8::1]:1234", "not an address", "10.0.0.1:1"} {
		d.mu.Lock()
		d.remote, d.asked = remote, nil
		d.mu.Unlock()
		meta := fails(t, remote, list(), codes.Unauthenticated, "UNAUTHENTICATED")
		if meta["cause"] != "credential_over_plaintext" || len(d.asked) != 0 {
			t.Errorf("%s: cause %q, asked %d times", remote, meta["cause"], len(d.asked))
		}
	}
	// From elsewhere, decisions need a credential as well.
	_, err := adminv1.NewDecisionServiceClient(d.as("")).ListDecisions(t.Context(), &adminv1.ListDecisionsRequest{})
	fails(t, "decisions", err, codes.Unauthenticated, "UNAUTHENTICATED")
	for _, remote := range []string{"127.0.0.1:1", "[::1]:1", "[::ffff:127.0.0.1]:1"} {
		d.mu.Lock()
		d.remote = remote
		d.mu.Unlock()
		if err := list(); err != nil {
			t.Errorf("%s: %v", remote, err)
		}
	}
}

// What the authenticators get is the call as it is on the wire.
func TestAttributes(t *testing.T) {
	t.Parallel()
	d := open(t)
	ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer one", "authorization", "Bearer two", "trace-bin", "\x00")
	_, _ = adminv1.NewTenantServiceClient(d.as("ann")).ListTenants(ctx, &adminv1.ListTenantsRequest{})
	a := d.asked[0]
	if a.Door != "admin" || a.Method != "POST" || a.Path != adminv1.TenantService_ListTenants_FullMethodName || a.Host != d.url || a.Scheme != "" || a.Size != -1 {
		t.Errorf("%+v", a)
	}
	if !a.Source.Address.Addr().IsLoopback() {
		t.Errorf("from %v", a.Source.Address)
	}
	var seen []string
	for _, h := range a.Headers {
		if h.Name == "authorization" || strings.HasSuffix(h.Name, "-bin") || strings.HasPrefix(h.Name, ":") {
			seen = append(seen, h.Value)
		}
	}
	if !slices.Equal(seen, []string{"Bearer one", "Bearer two"}) {
		t.Errorf("headers %q", seen)
	}
}

// A credential that is limited is limited here as well.
func TestLimitsOfTheCredential(t *testing.T) {
	t.Parallel()
	d := open(t)
	path := func(text string) []policy.PathPattern {
		p, err := policy.ParsePathPattern(text)
		if err != nil {
			t.Fatal(err)
		}
		return []policy.PathPattern{p}
	}
	for name, tt := range map[string]struct {
		limits *policy.Constraints
		cause  string
	}{
		"none":              {nil, ""},
		"this machine":      {&policy.Constraints{Networks: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}, ""},
		"another network":   {&policy.Constraints{Networks: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}}, "network_not_allowed"},
		"another path":      {&policy.Constraints{Paths: path("/orders/**")}, "path_not_allowed"},
		"this API":          {&policy.Constraints{Paths: path("/postern.admin.v1.TenantService/*")}, ""},
		"methods":           {&policy.Constraints{Methods: []string{"GET"}}, "method_not_allowed"},
		"TLS":               {&policy.Constraints{RequireTLS: true}, "credential_over_plaintext"},
		"another audience":  {&policy.Constraints{Audiences: []string{"shop"}}, "invalid_audience"},
		"this API's":        {&policy.Constraints{Audiences: []string{"shop", "postern.admin"}}, ""},
		"another workload":  {&policy.Constraints{Peers: []string{"spiffe://acme/ops"}}, "binding"},
		"certain resources": {&policy.Constraints{Resources: []string{"repo:7"}}, "resource_not_allowed"},
		"another time":      {&policy.Constraints{Windows: []policy.TimeWindow{{From: "13:00", To: "14:00"}}}, "time_not_allowed"},
	} {
		d.mu.Lock()
		d.limits["root"] = tt.limits
		d.mu.Unlock()
		_, err := adminv1.NewTenantServiceClient(d.as("root")).ListTenants(t.Context(), &adminv1.ListTenantsRequest{})
		switch {
		case tt.cause == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case tt.cause != "":
			if meta := fails(t, name, err, codes.Unauthenticated, "UNAUTHENTICATED"); meta["cause"] != tt.cause {
				t.Errorf("%s: cause %q, want %q", name, meta["cause"], tt.cause)
			}
		}
	}
}

// Every reason has a status of its own choosing.
func TestEveryReasonHasAStatus(t *testing.T) {
	t.Parallel()
	coded := admin.CodedReasons()
	for n, name := range adminv1.ErrorReason_name {
		if name = strings.TrimPrefix(name, "ERROR_REASON_"); n != 0 && !slices.Contains(coded, name) {
			t.Errorf("%s comes with no status", name)
		}
	}
}

// Nothing of the API is there where nobody can be authenticated.
func TestWithoutAuthentication(t *testing.T) {
	t.Parallel()
	s := serve(t, nil, audit.NewRing(1))
	for _, method := range everyMethod() {
		conn, err := grpc.NewClient("passthrough:///"+strings.TrimPrefix(s.URL, "http://"), grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		err = conn.Invoke(t.Context(), method, &emptypb.Empty{}, &emptypb.Empty{})
		if served := status.Code(err) != codes.Unimplemented; served != strings.Contains(method, "DecisionService") {
			t.Errorf("%s: %v", method, err)
		}
		_ = conn.Close()
	}
}
