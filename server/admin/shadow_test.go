package admin_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	adminv1 "github.com/postern-auth/postern/gen/postern/admin/v1"
	posternv1 "github.com/postern-auth/postern/gen/postern/v1"
	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/admin"
	"github.com/postern-auth/postern/server/audit"
)

// Who is of a tenant sees where a shadow policy differs about its own principals, and
// not how often about others.
func TestShadowDifferencesOfATenant(t *testing.T) {
	t.Parallel()
	difference := func(id, tenant string) audit.Difference {
		return audit.Difference{
			Time: time.Unix(9, 0), ID: id, Tenant: tenant, Route: "r", Change: "deny to allow",
			Live:   audit.Outcome{Word: "deny", Reason: policy.ReasonPolicyDenied, Rule: "data.p.a", File: "p.rego", Line: 7, Revision: "l1"},
			Shadow: audit.Outcome{Word: "allow", Reason: policy.ReasonAllowed, Revision: "s1"},
		}
	}
	stats := audit.ShadowStats{
		Revision: "s1", Since: time.Unix(1, 0), Compared: 7, Different: 3, Lost: 1,
		Kinds: []audit.ShadowCount{{ShadowKind: audit.ShadowKind{Change: "deny to allow", Rule: "data.p.a", Route: "r"}, N: 3}},
		Last:  []audit.Difference{difference("d3", "other"), difference("d2", "acme"), difference("d1", "")},
	}
	d := open(t, func(c *admin.Config) {
		c.Decisions.Shadow = func() (audit.ShadowStats, string, bool) { return stats, "l1", true }
	})
	d.remote, d.overTLS = "192.0.2.7:1", true
	ask := func(caller string) (*adminv1.ListShadowDifferencesResponse, error) {
		return adminv1.NewDecisionServiceClient(d.as(caller)).ListShadowDifferences(t.Context(), &adminv1.ListShadowDifferencesRequest{})
	}
	for caller, want := range map[string]string{"root": "7 3 1 1 d3 d2 d1", "auditor": "0 0 0 0 d2", "rival": "0 0 0 0 d3"} {
		res, err := ask(caller)
		if err != nil {
			t.Fatal(err)
		}
		got := fmt.Sprint(res.GetCompared(), res.GetDifferent(), res.GetDropped(), len(res.GetCounts()))
		for _, d := range res.GetDifferences() {
			got += " " + d.GetDecisionId()
		}
		first := res.GetDifferences()[0]
		if got != want || res.GetRevision() != "s1" || res.GetEnforcedRevision() != "l1" || res.GetSinceTime().GetSeconds() != 1 ||
			first.GetEnforced().GetLine() != 7 || first.GetEnforced().GetReason() != posternv1.Reason(policy.ReasonPolicyDenied) || first.GetShadow().GetOutcome() != "allow" {
			t.Errorf("%s sees %s, want %s: %v", caller, got, want, res)
		}
	}
	for caller, code := range map[string]codes.Code{"nobody": codes.PermissionDenied, "ann": codes.PermissionDenied, "": codes.Unauthenticated} {
		_, err := ask(caller)
		fails(t, caller, err, code, map[codes.Code]string{codes.PermissionDenied: "PERMISSION_DENIED", codes.Unauthenticated: "UNAUTHENTICATED"}[code])
	}
}

// Where there is no shadow policy, that is said.
func TestNoShadowDifferences(t *testing.T) {
	t.Parallel()
	d := open(t)
	_, err := adminv1.NewDecisionServiceClient(d.as("root")).ListShadowDifferences(t.Context(), &adminv1.ListShadowDifferencesRequest{})
	fails(t, "no shadow", err, codes.FailedPrecondition, "NOT_CONFIGURED")
}

// The grounds of a policy's deny come with the decision, but not with a list; who is of
// a tenant does not see the text of the policy. No key of ours is in them.
func TestGrounds(t *testing.T) {
	t.Parallel()
	d := open(t)
	const key = "pst_key_4fQzR8xW0bLm_0123456789012345678901234567890123456789012abcdef"
	v := &policy.Verdict{Rule: "data.p.a", File: "p.rego", Line: 7, Grounds: &policy.Grounds{
		Reads:     []policy.Reading{{Path: "input.request.path", Value: `"/` + key + `"`}, {Path: "input.peer", Absent: true}, {Path: "input.parsed_body", Masked: true}},
		MoreReads: 2,
		Failed:    []policy.Failure{{Rule: "data.p.a", File: "p.rego", Line: 7, Expression: `input.principal.tenant == "globex"`}}, MoreFailed: 3,
	}}
	who := &policy.Principal{ID: "x", Tenant: "acme"}
	d.ring.Record(&audit.Record{Time: time.Unix(9, 0), Decision: policy.Decision{ID: "deny", Principal: who, Verdict: v, Phase: policy.PhaseDecide}})
	d.ring.Record(&audit.Record{Time: time.Unix(9, 0), Decision: policy.Decision{ID: "allow", Principal: who, Verdict: &policy.Verdict{Allow: true}, Allowed: true}})
	d.remote, d.overTLS = "192.0.2.7:1", true
	for caller, expression := range map[string]string{"root": `input.principal.tenant == "globex"`, "auditor": ""} {
		c := adminv1.NewDecisionServiceClient(d.as(caller))
		res, err := c.GetDecision(t.Context(), &adminv1.GetDecisionRequest{DecisionId: "deny"})
		if err != nil {
			t.Fatal(err)
		}
		g := res.GetRecord().GetGrounds()
		if g.GetRule() != "data.p.a" || g.GetLine() != 7 || len(g.GetReads()) != 3 || !g.GetReads()[1].GetAbsent() || !g.GetReads()[2].GetMasked() ||
			g.GetMoreReads() != 2 || g.GetMoreFailed() != 3 || g.GetFailed()[0].GetLine() != 7 || g.GetFailed()[0].GetExpression() != expression {
			t.Errorf("%s sees %v", caller, g)
		}
		if strings.Contains(g.String(), "0123456789") {
			t.Errorf("a key: %v", g)
		}
		if res, err := c.GetDecision(t.Context(), &adminv1.GetDecisionRequest{DecisionId: "allow"}); err != nil || res.GetRecord().GetGrounds() != nil {
			t.Errorf("%v %v", res, err)
		}
		list, err := c.ListDecisions(t.Context(), &adminv1.ListDecisionsRequest{})
		if err != nil || len(list.GetDecisions()) != 2 || list.GetDecisions()[1].GetGrounds() != nil {
			t.Errorf("%v %v", list, err)
		}
	}
	if v.Grounds.Failed[0].Expression == "" {
		t.Error("what is kept was changed")
	}
}
