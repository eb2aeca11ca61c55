package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	adminv1 "github.com/postern-auth/postern/gen/postern/admin/v1"
)

func policyShadowCommand() *cobra.Command {
	var c remote
	var output format
	cmd := &cobra.Command{
		Use:   "shadow",
		Short: "Show where a running server's shadow policy would decide otherwise",
		Long: `Asks a server how its shadow policy (policy.shadow) agrees with the policy in force:
how many decisions were compared since it was loaded, the differences by change, rule
and route, and the last of them, which ` + "`postern explain`" + ` explains by their ids. Each
replica counts its own.

The exit status is 0 if they agree, 1 if not, and 2 if there is no answer, or nothing
to compare.`,
		Example: `  postern policy shadow
  postern policy shadow -o json --admin 10.0.0.7:9192`,
		Args: arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
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
			res, err := adminv1.NewDecisionServiceClient(conn).ListShadowDifferences(ctx, &adminv1.ListShadowDifferencesRequest{})
			if err != nil {
				return c.ExplainRPC(err)
			}
			if err := printShadow(cmd.OutOrStdout(), output, res); err != nil {
				return err
			}
			if res.GetDifferent() > 0 || len(res.GetDifferences()) > 0 {
				return &exitError{exitDeny}
			}
			return nil
		},
	}
	c.callerFlags(cmd)
	outputFlag(cmd, &output)
	return cmd
}

func printShadow(w io.Writer, output format, res *adminv1.ListShadowDifferencesResponse) error {
	if output != "table" {
		return encode(w, output, res)
	}
	rows := []row{
		{"in force", res.GetEnforcedRevision()},
		{"shadow", orNone(res.GetRevision())},
		{"compared", strconv.FormatUint(res.GetCompared(), 10)},
		{"different", strconv.FormatUint(res.GetDifferent(), 10)},
		{"left out", strconv.FormatUint(res.GetDropped(), 10)},
	}
	if res.GetSinceTime() != nil {
		rows = append(rows, row{"since", formatTime(res.GetSinceTime().AsTime())})
	}
	if err := printRows(w, rows); err != nil {
		return err
	}
	counts := [][]string{}
	for _, n := range res.GetCounts() {
		counts = append(counts, []string{strconv.FormatUint(n.GetCount(), 10), n.GetChange(), n.GetRule(), n.GetRoute()})
	}
	if err := printPart(w, []string{"COUNT", "CHANGE", "RULE", "ROUTE"}, counts); err != nil {
		return err
	}
	last := [][]string{}
	for _, d := range res.GetDifferences() {
		last = append(last, []string{
			formatTime(d.GetTime().AsTime()), d.GetDecisionId(), d.GetRoute(), d.GetChange(), saidBy(d.GetEnforced()), saidBy(d.GetShadow()),
		})
	}
	return printPart(w, []string{"TIME", "DECISION", "ROUTE", "CHANGE", "ENFORCED", "SHADOW"}, last)
}

// printPart prints a table after what stands above it; one without lines is left out.
func printPart(w io.Writer, heading []string, lines [][]string) error {
	if len(lines) == 0 {
		return nil
	}
	fmt.Fprintln(w)
	return printTable(w, heading, lines)
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

// saidBy is what a policy said, and where.
func saidBy(o *adminv1.ShadowOutcome) string {
	if o.GetOutcome() == "allow" {
		return "allow"
	}
	text := o.GetOutcome() + " " + word(o.GetReason(), "REASON_")
	switch {
	case o.GetError() != "":
		text += ": " + o.GetError()
	case o.GetFile() != "":
		text += fmt.Sprintf(" by %s at %s:%d", o.GetRule(), o.GetFile(), o.GetLine())
	case o.GetRule() != "":
		text += " by " + o.GetRule()
	}
	return strings.TrimSpace(text)
}
