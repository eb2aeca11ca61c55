package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	adminv1 "github.com/postern-auth/postern/gen/postern/admin/v1"
	posternv1 "github.com/postern-auth/postern/gen/postern/v1"
)

func explainCommand() *cobra.Command {
	var c remote
	var output format
	cmd := &cobra.Command{
		Use:   "explain DECISION-ID",
		Short: "Show the phases that a recent decision went through",
		Long: `Shows how a recent decision came about, phase by phase. The id stands in the
answer, in the decision log, and in the header x-auth-decision. Each replica
remembers its own decisions (decisions.keep); ask the one that decided.

Where the policy denied, it also shows the rule, what the policy could read of the
request and what stood there, and the expressions in it that had no answer, the one
that decided first. Bodies, queries, and what is named like a secret are not shown.`,
		Example: `  postern explain 7d1k2m9qxw4e0000001
  postern explain 7d1k2m9qxw4e0000001 -o json --admin 10.0.0.7:9192`,
		Args: arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			conn, err := c.Dial()
			if err != nil {
				return err
			}
			defer conn.Close()
			ctx, cancel, err := c.asCaller(cmd.Context())
			if err != nil {
				return err
			}
			defer cancel()
			res, err := adminv1.NewDecisionServiceClient(conn).GetDecision(ctx, &adminv1.GetDecisionRequest{DecisionId: args[0]})
			if err != nil {
				return c.ExplainRPC(err)
			}
			return render(cmd.OutOrStdout(), output, res, func() []row { return explainRows(res) })
		},
	}
	c.callerFlags(cmd)
	outputFlag(cmd, &output)
	return cmd
}

// callerFlags are those of commands that read decisions: as somebody of the store, or as
// a caller in the server's list.
func (r *remote) callerFlags(cmd *cobra.Command) {
	r.flagsAs(cmd, "admin")
	cmd.Flags().StringVar(&r.TokenFile, "caller-token-file", "", "file with the token of a caller, if the server's list asks for one")
	exclusive(cmd, "token-file", "caller-token-file")
}

// asCaller is the context of a call of either of them.
func (r *remote) asCaller(ctx context.Context) (context.Context, context.CancelFunc, error) {
	if r.TokenFile != "" {
		return r.connection.Context(ctx)
	}
	return r.Context(ctx)
}

func explainRows(res *adminv1.GetDecisionResponse) []row {
	r := res.GetRecord()
	rows := []row{
		{"time", r.GetTime().AsTime().Local().Format(time.RFC3339Nano)},
		{"request", strings.TrimSpace(r.GetMethod() + " " + r.GetHost() + r.GetPath())},
		{"client", r.GetClientIp()},
		{"asked by", strings.Join(strings.Fields(r.GetDoor()+" "+r.GetCaller()), " ")},
		{"latency", r.GetLatency().AsDuration().String()},
	}
	rows = append(rows, decisionRows(&posternv1.CheckResponse{Decision: r.GetDecision(), Principal: r.GetPrincipal()})...)
	for i, s := range res.GetSteps() {
		text := word(s.GetOutcome(), "STEP_OUTCOME_")
		if s.GetMessage() != "" {
			text += ": " + s.GetMessage()
		}
		rows = append(rows, row{fmt.Sprintf("%d %s", i+1, s.GetPhase()), text})
	}
	return append(rows, groundsRows(r.GetGrounds())...)
}

// groundsRows say what a policy read before it denied, and what failed in it.
func groundsRows(g *adminv1.PolicyGrounds) (rows []row) {
	for _, r := range g.GetReads() {
		text := r.GetPath() + " = " + r.GetValue()
		switch {
		case r.GetAbsent():
			text = r.GetPath() + " is not there"
		case r.GetMasked():
			text = r.GetPath() + " is there, and is not shown"
		}
		rows = append(rows, row{"read", text})
	}
	if n := g.GetMoreReads(); n > 0 {
		rows = append(rows, row{"read", fmt.Sprintf("… and %d more", n)})
	}
	for _, f := range g.GetFailed() {
		rows = append(rows, row{"failed", fmt.Sprintf("%s:%d: %s   (%s)", f.GetFile(), f.GetLine(), f.GetExpression(), f.GetRule())})
	}
	if n := g.GetMoreFailed(); n > 0 {
		rows = append(rows, row{"failed", fmt.Sprintf("… and %d more", n)})
	}
	return rows
}
