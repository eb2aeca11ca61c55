package admin_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	adminv1 "github.com/postern-auth/postern/gen/postern/admin/v1"
	posternv1 "github.com/postern-auth/postern/gen/postern/v1"
	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/admin"
	"github.com/postern-auth/postern/server/audit"
)

func serve(t *testing.T, conditions []admin.Condition, ring *audit.Ring) *httptest.Server {
	t.Helper()
	s := httptest.NewUnstartedServer(admin.Handler(admin.Config{
		Conditions: func() []admin.Condition { return conditions },
		Metrics:    http.NotFoundHandler(),
		Decisions:  &admin.Decisions{Ring: ring},
	}))
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetHTTP1(true)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Start()
	t.Cleanup(s.Close)
	return s
}

func client(t *testing.T, s *httptest.Server) adminv1.DecisionServiceClient {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+strings.TrimPrefix(s.URL, "http://"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return adminv1.NewDecisionServiceClient(conn)
}

// Ready needs every part; a list that nobody filled in is not ready.
func TestReadiness(t *testing.T) {
	t.Parallel()
	good, bad := admin.Condition{Name: "policy", Ready: true, Detail: "revision 1"}, admin.Condition{Name: "keys"}
	for _, tt := range []struct {
		conditions []admin.Condition
		want       int
	}{{nil, 503}, {[]admin.Condition{good}, 200}, {[]admin.Condition{good, bad}, 503}} {
		s := serve(t, tt.conditions, audit.NewRing(1))
		res, err := http.Get(s.URL + "/readyz")
		if err != nil {
			t.Fatal(err)
		}
		var body struct{ Ready bool }
		if err := json.NewDecoder(res.Body).Decode(&body); err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		if res.StatusCode != tt.want || body.Ready != (tt.want == 200) {
			t.Errorf("%v: %d %v", tt.conditions, res.StatusCode, body)
		}
		if res, err := http.Get(s.URL + "/healthz"); err != nil || res.StatusCode != 200 {
			t.Errorf("healthz: %v %v", res, err)
		}
	}
}

func fill(ring *audit.Ring, n int) {
	for i := range n {
		d := policy.Decision{
			ID: fmt.Sprint("d", i), Allowed: i%2 == 0, Reason: policy.ReasonAllowed, Phase: policy.PhaseRecord, Revision: "r1",
			Principal: &policy.Principal{ID: "alice", Kind: policy.KindUser, Tenant: "acme", Method: "api_key"},
		}
		if !d.Allowed {
			d.Reason, d.Phase, d.Detail = policy.ReasonScope, policy.PhaseHold, "the route asks for more"
			d.MissingScopes = []string{"orders:write"}
		}
		ring.Record(&audit.Record{Time: time.Unix(int64(i)+1, 0), Decision: d, Door: "grpc", Method: "GET", Host: "api.test", Path: "/x", Found: "header:x-api-key"})
	}
}

// A decision is explained phase by phase.
func TestGetDecision(t *testing.T) {
	t.Parallel()
	ring := audit.NewRing(8)
	fill(ring, 2)
	c := client(t, serve(t, nil, ring))
	steps := func(id string) string {
		res, err := c.GetDecision(t.Context(), &adminv1.GetDecisionRequest{DecisionId: id})
		if err != nil {
			t.Fatal(err)
		}
		var all []string
		for _, s := range res.GetSteps() {
			all = append(all, fmt.Sprintf("%s %s: %s", s.GetPhase(), strings.ToLower(strings.TrimPrefix(s.GetOutcome().String(), "STEP_OUTCOME_")), s.GetMessage()))
		}
		return strings.Join(all, "\n")
	}
	const allowed = `read passed: GET api.test/x
find passed: credential in header:x-api-key
prove passed: user "alice" by api_key
hold passed: 
decide passed: policy r1
spend passed: 
record passed: `
	if got := steps("d0"); got != allowed {
		t.Errorf("allowed:\n%s", got)
	}
	const denied = `read passed: GET api.test/x
find passed: credential in header:x-api-key
prove passed: user "alice" by api_key
hold failed: insufficient_scope; the route asks for more; missing scopes: orders:write
decide skipped: 
spend skipped: 
record passed: `
	if got := steps("d1"); got != denied {
		t.Errorf("denied:\n%s", got)
	}
	for id, want := range map[string]codes.Code{"": codes.InvalidArgument, "d9": codes.NotFound} {
		if _, err := c.GetDecision(t.Context(), &adminv1.GetDecisionRequest{DecisionId: id}); status.Code(err) != want {
			t.Errorf("%q: %v, want %v", id, err, want)
		}
	}
}

// Why a request without a credential went on is said of who it came from.
func TestWithoutCredential(t *testing.T) {
	t.Parallel()
	ring := audit.NewRing(8)
	c := client(t, serve(t, nil, ring))
	for want, p := range map[string]*policy.Principal{
		"no credential; the route takes anonymous callers":      {Kind: policy.KindAnonymous, Method: policy.MethodAnonymous},
		"no credential; the caller pep vouches for the subject": {ID: "ann", Kind: policy.KindUser, Method: policy.MethodAsserted, Issuer: "pep"},
		"no credential; the caller vouches for the subject":     {ID: "ann", Kind: policy.KindUser, Method: policy.MethodAsserted},
		"no credential but that of the connection":              {ID: "web", Kind: policy.KindService, Method: policy.MethodMTLS},
		"no credential in the request":                          nil,
	} {
		ring.Record(&audit.Record{Decision: policy.Decision{ID: want, Reason: policy.ReasonPolicyDenied, Phase: policy.PhaseDecide, Principal: p}})
		res, err := c.GetDecision(t.Context(), &adminv1.GetDecisionRequest{DecisionId: want})
		if err != nil {
			t.Fatal(err)
		}
		if got := res.GetSteps()[policy.PhaseFind].GetMessage(); got != want {
			t.Errorf("%+v: %q, not %q", p, got, want)
		}
	}
}

func TestListDecisions(t *testing.T) {
	t.Parallel()
	ring := audit.NewRing(16)
	fill(ring, 10)
	c := client(t, serve(t, nil, ring))
	list := func(req *adminv1.ListDecisionsRequest) (ids string, next string) {
		res, err := c.ListDecisions(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range res.GetDecisions() {
			ids += d.GetDecision().GetDecisionId() + " "
		}
		return ids, res.GetNextPageToken()
	}
	ids, next := list(&adminv1.ListDecisionsRequest{PageSize: 4})
	if ids != "d9 d8 d7 d6 " || next == "" {
		t.Errorf("first page %q, next %q", ids, next)
	}
	if ids, _ = list(&adminv1.ListDecisionsRequest{PageSize: 4, PageToken: next}); ids != "d5 d4 d3 d2 " {
		t.Errorf("second page %q", ids)
	}
	deny := false
	for name, tt := range map[string]struct {
		filter *adminv1.DecisionFilter
		want   string
	}{
		"denies":          {&adminv1.DecisionFilter{Allowed: &deny}, "d9 d7 d5 d3 d1 "},
		"by reason":       {&adminv1.DecisionFilter{Reasons: []posternv1.Reason{posternv1.Reason_REASON_ALLOWED}}, "d8 d6 d4 d2 d0 "},
		"another tenant":  {&adminv1.DecisionFilter{Tenant: "other"}, ""},
		"both must match": {&adminv1.DecisionFilter{Allowed: &deny, PrincipalId: "bob"}, ""},
	} {
		if ids, next := list(&adminv1.ListDecisionsRequest{Filter: tt.filter}); ids != tt.want || next != "" {
			t.Errorf("%s: %q, next %q", name, ids, next)
		}
	}
	for _, bad := range []*adminv1.ListDecisionsRequest{{PageSize: -1}, {PageToken: "x"}, {PageToken: "-1"}} {
		if _, err := c.ListDecisions(t.Context(), bad); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%v: %v", bad, err)
		}
	}
}

// The numbers of the reasons in Go and on the wire are the same, and so are
// their names: clients compile them in.
func TestReasonsOnTheWire(t *testing.T) {
	t.Parallel()
	for _, r := range policy.Reasons() {
		if got, want := posternv1.Reason(r).String(), "REASON_"+strings.ToUpper(r.String()); got != want {
			t.Errorf("%d is %s on the wire, want %s", r, got, want)
		}
	}
	if len(posternv1.Reason_name) != len(policy.Reasons()) {
		t.Errorf("%d reasons on the wire, %d in Go", len(posternv1.Reason_name), len(policy.Reasons()))
	}
}
