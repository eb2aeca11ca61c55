package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	adminv1 "github.com/postern-auth/postern/gen/postern/admin/v1"
	"github.com/postern-auth/postern/policy"
)

func approvalCommand() *cobra.Command {
	cmd := group("approval", "Approve what others are about to do, or ask for it", approvalRequestCommand(), approvalApproveCommand())
	for _, a := range []action{{
		use: "get ID", short: "Show what is to be approved, and who has decided",
		example: `  postern approval get 4fQzR8xW0bLm
  postern approval get 4fQzR8xW0bLm -o json`,
		method: adminv1.ApprovalService_GetApproval_FullMethodName, args: []string{"id"},
	}, {
		use: "list", short: "List approvals",
		example: `  postern approval list --state pending
  postern approval list --tenant acme --principal research-bot`,
		method: adminv1.ApprovalService_ListApprovals_FullMethodName,
		flags: []field{
			{flag: "tenant", path: "tenant", usage: "only those of this tenant"},
			{flag: "principal", path: "principal_id", usage: "only what this principal of the tenant is about to do: the agent, or the requester if nobody acts for it"},
			{flag: "state", path: "states", usage: "only those in this state"},
		},
		columns: []string{"id", "tenant", "state", "approver", "requester", "description", "expire_time"},
	}, {
		use: "deny ID", short: "Say no, for good",
		example: `  postern approval deny 4fQzR8xW0bLm --reason "not before the audit"`,
		method:  adminv1.ApprovalService_DenyApproval_FullMethodName, args: []string{"id"},
	}, {
		use: "withdraw ID", short: "Take back a wish, or a yes that was not used",
		example: `  postern approval withdraw 4fQzR8xW0bLm`,
		method:  adminv1.ApprovalService_WithdrawApproval_FullMethodName, args: []string{"id"},
	}} {
		cmd.AddCommand(a.command())
	}
	return cmd
}

func approvalApproveCommand() *cobra.Command {
	r, cmd := action{
		use: "approve ID", short: "Say yes: it can be done once, exactly so",
		long: `Says yes to what "postern approval get" shows: the requester can do exactly that, once,
within minutes. It takes a user, who is neither the requester nor asked through an
agent; where the route asks for an administrator, one with such a role.`,
		example: `  postern approval get 4fQzR8xW0bLm
  postern approval approve 4fQzR8xW0bLm --reason "the rent"`,
		method: adminv1.ApprovalService_ApproveApproval_FullMethodName, args: []string{"id"}, danger: "approve",
	}.bound()
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		req, err := r.build(cmd.Context(), args)
		if err != nil {
			return err
		}
		if !r.yes && !isDryRun(req) && interactive(cmd) {
			got := &adminv1.GetApprovalResponse{}
			if err := r.call(cmd.Context(), adminv1.ApprovalService_GetApproval_FullMethodName, &adminv1.GetApprovalRequest{Id: args[0]}, got); err != nil {
				return err
			}
			fmt.Fprintln(cmd.ErrOrStderr(), printable(got.GetApproval().GetDescription()))
		}
		return r.finish(cmd, req, args)
	}
	return cmd
}

func approvalRequestCommand() *cobra.Command {
	var body string
	r, cmd := action{
		use: "request FILE", short: "Ask somebody to approve what a denied request would do",
		long: `Asks for the approval of what a request would do that was denied with
approval_required. FILE, or - for standard input, is what was answered: the body of
the answer, the decision of CheckService as JSON, or the proposal alone. Once it is
approved, send the same request again with x-postern-approval: ID.`,
		example: `  curl -s https://api.example.com/pay -d @payment.json | postern approval request - --body payment.json
  postern approval request denied.json --reason "the rent of May"`,
		method: adminv1.ApprovalService_RequestApproval_FullMethodName,
		flags:  []field{{flag: "expires-at", path: "expire_time", usage: "when the wish is over (default: as late as is allowed)"}},
	}.bound()
	cmd.Args = arguments(1, 1)
	r.fields = append(r.fields, field{flag: "FILE", path: "proposal"}, field{flag: "body", path: "body"})
	cmd.Flags().StringVar(&body, "body", "", "file with the body of the request, for the approver to see")
	_ = cmd.MarkFlagFilename("body")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		req, err := r.build(cmd.Context(), nil)
		if err != nil {
			return err
		}
		ask := req.(*adminv1.RequestApprovalRequest)
		if ask.Proposal, err = readProposal(cmd.InOrStdin(), args[0]); err != nil {
			return err
		}
		if body != "" {
			if ask.Body, err = os.ReadFile(body); err != nil {
				return err
			}
		}
		return r.finish(cmd, ask, args)
	}
	return cmd
}

// readProposal finds the proposal in what a door has answered.
func readProposal(stdin io.Reader, name string) (string, error) {
	text, err := readImport(stdin, name)
	if err != nil {
		return "", err
	}
	for range 4 { // answer, decision, proposal, text
		if _, err := policy.ParseProposal(text); err == nil {
			return text, nil
		}
		var around struct {
			Decision, Proposal json.RawMessage
			Text               string
		}
		if json.Unmarshal([]byte(text), &around) != nil {
			break
		}
		text = cmp.Or(around.Text, string(around.Proposal), string(around.Decision))
	}
	return "", errors.New("there is no proposal in it: give the answer to a request that was denied with approval_required")
}
