package main

import (
	"github.com/spf13/cobra"

	adminv1 "github.com/postern-auth/postern/gen/postern/admin/v1"
)

func budgetCommand() *cobra.Command {
	cmd := group("budget", "See what is left of budgets, and change limits")
	for _, a := range []action{{
		use: "list", short: "List accounts: what was used of each budget by whom",
		long: `Lists accounts: what the budgets of the configuration hold for each of those whom they
tell apart, and what was used of it. In every moment, settled + reserved + leased is at
most the limit.

  settled    what was used for sure
  reserved   what requests have reserved and not reported yet
  leased     what replicas have taken to spend without asking the store
  remaining  what is left besides`,
		example: `  postern budget list --tenant acme
  postern budget list --budget llm-tokens/day -o json`,
		method: adminv1.BudgetService_ListBudgets_FullMethodName,
		flags: []field{
			{flag: "budget", path: "budget", usage: "only those of this budget"},
			{flag: "tenant", path: "tenant", usage: "only those of this tenant"},
			{flag: "subject", path: "subject", usage: `only that of whom the list names so, as "tenant=acme agent=a1"`},
		},
		columns: []string{"id", "budget", "subject", "unit", "limit", "settled", "reserved", "leased", "remaining", "end_time"},
	}, {
		use: "get ID", short: "Show an account", example: `  postern budget get 5b1f0c9d2e -o yaml`,
		method: adminv1.BudgetService_GetBudget_FullMethodName, args: []string{"id"},
	}, {
		use: "limit ID LIMIT", short: "Give one of those who have a budget another limit",
		long: `Gives one of those who have a budget another limit than the configuration says, in
this window and all that follow; 0 goes back to the configuration. Replicas hold to it
within seconds. What was used already stays used.`,
		example: `  postern budget limit 5b1f0c9d2e 250000
  postern budget limit 5b1f0c9d2e 0          as the configuration says`,
		method: adminv1.BudgetService_SetLimit_FullMethodName, args: []string{"id", "limit"},
	}} {
		cmd.AddCommand(a.command())
	}
	return cmd
}
