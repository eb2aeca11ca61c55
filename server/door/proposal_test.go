package door_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/door"
)

// a deny says what has to be approved, in the body and in CheckService's words, and
// what comes back of it is the same.
func TestProposalOfADeny(t *testing.T) {
	t.Parallel()
	proposal := policy.Proposal{
		Version: 1, Approver: policy.ApproverHuman, Requester: policy.Requester{ID: "bot", Kind: policy.KindAgent},
		Request: &policy.ProposedRequest{Method: "GET", Target: "/a?b=<1>&c=2"},
	}
	proposed, err := proposal.Encode()
	if err != nil {
		t.Fatal(err)
	}
	d := policy.Decision{
		Reason: policy.ReasonApproval, Status: 403, ID: "d1", Proposal: &proposed,
		Client: []policy.Header{{Name: "x-postern-action", Value: proposed.Action}},
	}
	den := (&door.Refusals{}).Render(&d, &policy.Attributes{Method: "GET"})
	var body struct {
		Reason, Action string
		Proposal       json.RawMessage
	}
	if err := json.Unmarshal([]byte(den.Body), &body); err != nil || body.Action != proposed.Action || body.Reason != "approval_required" {
		t.Fatalf("%v: %s", err, den.Body)
	}
	back, err := policy.ParseProposal(string(body.Proposal))
	if err != nil {
		t.Fatal(err)
	}
	if again, err := back.Encode(); err != nil || again != proposed {
		t.Errorf("%v: %s became %s", err, proposed.Text, again.Text)
	}
	m := door.DecisionProto(&d)
	if m.GetProposal().GetText() != proposed.Text || m.GetProposal().GetAction() != proposed.Action || m.GetApprovalId() != "" {
		t.Errorf("%v", m)
	}
	// An allow proposes nothing, and says what it has used up.
	d.Allowed, d.Reason, d.Status, d.Approval = true, policy.ReasonAllowed, 200, "a1"
	if m := door.DecisionProto(&d); m.GetProposal() != nil || m.GetApprovalId() != "a1" {
		t.Errorf("%v", m)
	}
	// gRPC clients, and those who want text, get the digest in the header.
	d.Allowed, d.Reason, d.Status = false, policy.ReasonApproval, 403
	den = (&door.Refusals{}).Render(&d, &policy.Attributes{Method: "POST", Headers: policy.Headers{{Name: "content-type", Value: "application/grpc"}}})
	if v, _ := policy.Headers(den.Headers).Get("x-postern-action"); v != proposed.Action || strings.Contains(den.Body, "bot") {
		t.Errorf("%v %s", den.Headers, den.Body)
	}
}
