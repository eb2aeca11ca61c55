package admin_test

import (
	"errors"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"google.golang.org/grpc/codes"

	adminv1 "github.com/postern-auth/postern/gen/postern/admin/v1"
	posternv1 "github.com/postern-auth/postern/gen/postern/v1"
	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/policy/rego"
	"github.com/postern-auth/postern/server/admin"
	"github.com/postern-auth/postern/server/audit"
)

// inForce is a policy that denies everybody.
func inForce(t *testing.T) *rego.Snapshot {
	t.Helper()
	files, err := rego.LoadFS(fstest.MapFS{"authz.rego": {Data: []byte("package postern.authz\n\ndecision := {\"allow\": false}\n")}}, rego.Config{})
	if err != nil {
		t.Fatal(err)
	}
	s, err := rego.Compile(t.Context(), files, rego.Config{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Everybody who operates something knows which policy is in force; what is wrong with the
// newest is for the installation's own.
func TestGetPolicy(t *testing.T) {
	t.Parallel()
	snapshot := inForce(t)
	d := open(t, func(c *admin.Config) {
		c.Policy = func() admin.PolicyState {
			return admin.PolicyState{Snapshot: snapshot, Ready: true, Err: errors.New("other/tenants.rego:7: is wrong")}
		}
	})
	for caller, wrong := range map[string]string{"root": "other/tenants.rego:7: is wrong", "boss": "", "auditor": ""} {
		res, err := adminv1.NewPolicyServiceClient(d.as(caller)).GetPolicy(t.Context(), &adminv1.GetPolicyRequest{})
		if err != nil {
			t.Errorf("%s: %v", caller, err)
			continue
		}
		if res.GetRevision() != snapshot.Revision || !res.GetReady() || res.GetError() != wrong || res.GetEntrypoint() != rego.DefaultEntrypoint || res.GetActivateTime() == nil {
			t.Errorf("%s: %v", caller, res)
		}
	}
	_, err := adminv1.NewPolicyServiceClient(d.as("nobody")).GetPolicy(t.Context(), &adminv1.GetPolicyRequest{})
	fails(t, "nobody", err, codes.PermissionDenied, "PERMISSION_DENIED")
	none, err := adminv1.NewPolicyServiceClient(open(t).as("root")).GetPolicy(t.Context(), &adminv1.GetPolicyRequest{})
	if err != nil || none.GetReady() || none.GetRevision() != "" {
		t.Error(none, err)
	}
}

// A draft is asked about what was recorded or written, answers with its reasons, and
// changes nothing.
func TestTryPolicy(t *testing.T) {
	t.Parallel()
	snapshot := inForce(t)
	d := open(t, func(c *admin.Config) {
		c.Policy = func() admin.PolicyState { return admin.PolicyState{Snapshot: snapshot, Ready: true} }
	})
	denied := decided("d1", "acme", false)
	denied.Path = "/orders/pst_key_live_4fQzR8xW0bLm_0000000000000000000000000000000000000000000abcdef"
	d.ring.Record(denied)
	unasked := decided("d2", "acme", false)
	unasked.Decision.Phase, unasked.Decision.Reason = policy.PhaseProve, policy.ReasonCredentialUnknown
	d.ring.Record(unasked)
	d.ring.Record(&audit.Record{Time: time.Unix(1, 0), Decision: policy.Decision{ID: "d3", Allowed: true, Reason: policy.ReasonAllowed, Phase: policy.PhaseRecord}})

	client := adminv1.NewPolicyServiceClient(d.as("root"))
	file := func(text string) []*adminv1.PolicyFile {
		return []*adminv1.PolicyFile{{Name: "authz.rego", Text: "package postern.authz\n\n" + text}}
	}
	about := func(id string) *adminv1.TryPolicyRequest_DecisionId {
		return &adminv1.TryPolicyRequest_DecisionId{DecisionId: id}
	}
	res, err := client.TryPolicy(t.Context(), &adminv1.TryPolicyRequest{Files: file(`decision := {"allow": input.principal.id == "ann"}`), Question: about("d1")})
	if err != nil || !res.GetAllowed() || res.GetStatus() != 200 || res.GetRecorded().GetDecision().GetAllowed() || res.GetRecorded().GetDecision().GetDecisionId() != "d1" || res.GetCompileTime() == nil {
		t.Errorf("%v %v", res, err)
	}
	// What was a secret in the request is none any more, so that no draft can show it.
	res, err = client.TryPolicy(t.Context(), &adminv1.TryPolicyRequest{Files: file(`decision := {"allow": false, "message": input.request.path, "reason": "policy_denied"}`), Question: about("d1")})
	if err != nil || strings.Contains(res.String(), "000000000000000000000") {
		t.Errorf("%v %v", res, err)
	}
	written := &adminv1.TryPolicyRequest_Request{Request: `{"request": {"path": "/x"}, "principal": {"id": "bob"}}`}
	res, err = client.TryPolicy(t.Context(), &adminv1.TryPolicyRequest{Files: file(`decision := {"allow": input.principal.id == "ann"}`), Question: written})
	if err != nil || res.GetAllowed() || res.GetReason() != posternv1.Reason_REASON_POLICY_DENIED || res.GetStatus() != 403 || res.GetGrounds().GetFile() != "authz.rego" || res.GetRecorded() != nil {
		t.Errorf("%v %v", res, err)
	}
	res, err = client.TryPolicy(t.Context(), &adminv1.TryPolicyRequest{Files: file("nonsense"), Question: written})
	if err != nil || len(res.GetProblems()) == 0 || res.GetProblems()[0].GetLine() != 3 || res.GetAllowed() {
		t.Errorf("%v %v", res, err)
	}
	res, err = client.TryPolicy(t.Context(), &adminv1.TryPolicyRequest{
		Files: []*adminv1.PolicyFile{{Name: "a.rego", Text: "package app\n\nallow := true"}}, Entrypoint: "data.app.allow", Question: written,
	})
	if err != nil || !res.GetAllowed() {
		t.Errorf("%v %v", res, err)
	}
	if stats := snapshot.Stats(); stats.Hits+stats.Misses > 0 {
		t.Error("a draft came near the policy in force")
	}

	for name, c := range map[string]struct {
		req    *adminv1.TryPolicyRequest
		code   codes.Code
		reason string
	}{
		"no question":           {&adminv1.TryPolicyRequest{Files: file("")}, codes.InvalidArgument, "INVALID_FIELD"},
		"no such decision":      {&adminv1.TryPolicyRequest{Files: file(""), Question: about("nope")}, codes.NotFound, "NOT_FOUND"},
		"never got to a policy": {&adminv1.TryPolicyRequest{Files: file(""), Question: about("d2")}, codes.FailedPrecondition, "WRONG_STATE"},
		"an action":             {&adminv1.TryPolicyRequest{Files: file(""), Question: about("d3")}, codes.FailedPrecondition, "WRONG_STATE"},
		"no request":            {&adminv1.TryPolicyRequest{Files: file(""), Question: &adminv1.TryPolicyRequest_Request{Request: "{"}}, codes.InvalidArgument, "INVALID_FIELD"},
		"two readings":          {&adminv1.TryPolicyRequest{Files: file(""), Question: &adminv1.TryPolicyRequest_Request{Request: `{"request":{"path":"/a/../b%00"}}`}}, codes.InvalidArgument, "INVALID_FIELD"},
		"a file twice":          {&adminv1.TryPolicyRequest{Files: append(file(""), file("")...), Question: about("d1")}, codes.InvalidArgument, "INVALID_FIELD"},
	} {
		_, err := client.TryPolicy(t.Context(), c.req)
		fails(t, name, err, c.code, c.reason)
	}
	for _, caller := range []string{"boss", "auditor", "issuer", "ann", "nobody"} {
		_, err := adminv1.NewPolicyServiceClient(d.as(caller)).TryPolicy(t.Context(), &adminv1.TryPolicyRequest{Files: file("decision := true"), Question: written})
		fails(t, caller, err, codes.PermissionDenied, "PERMISSION_DENIED")
	}
}
