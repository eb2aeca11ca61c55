package main

import (
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
remembers its own decisions (decisions.keep); ask the one that decided.`,
		Example: `  postern explain 7d1k2m9qxw4e0000001
  postern explain 7d1k2m9qxw4e0000001 -o json --admin 10.0.0.7:9192`,
		Args: arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			conn, err := c.dial()
			if err != nil {
				return err
			}
			defer conn.Close()
			identify := c.context
			if c.tokenFile != "" {
				identify = c.connection.context
			}
			ctx, cancel, err := identify(cmd.Context())
			if err != nil {
				return err
			}
			defer cancel()
			res, err := adminv1.NewDecisionServiceClient(conn).GetDecision(ctx, &adminv1.GetDecisionRequest{DecisionId: args[0]})
			if err != nil {
				return c.explainRPC(err)
			}
			return render(cmd.OutOrStdout(), output, res, func() []row { return explainRows(res) })
		},
	}
	c.flagsAs(cmd, "admin")
	cmd.Flags().StringVar(&c.tokenFile, "caller-token-file", "", "file with the token of a caller, if the server's list asks for one")
	exclusive(cmd, "token-file", "caller-token-file")
	outputFlag(cmd, &output)
	return cmd
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
	return rows
}
