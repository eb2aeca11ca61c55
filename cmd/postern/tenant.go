package main

import (
	"github.com/spf13/cobra"

	adminv1 "github.com/postern-auth/postern/gen/postern/admin/v1"
)

var tenantFields = []field{
	{flag: "name", path: "display_name", usage: "what people call it"},
	{flag: "max-ttl", path: "max_ttl", usage: "the longest life of its keys and tokens (default: the installation's)"},
	{flag: "max-pats", path: "max_pats", usage: "how many living personal access tokens a user may have (default: the installation's)"},
	{flag: "unused-for", path: "unused_for", usage: "disable what was not used for so long (default: never)"},
	{flag: "session-idle", path: "session_idle", usage: "how long a session lives without use (default: the installation's)"},
	{flag: "session-max", path: "session_max", usage: "how long a session lives at most (default: the installation's)"},
	{flag: "label", path: "labels", usage: "a note, as plan=gold"},
}

func tenantCommand() *cobra.Command {
	cmd := group("tenant", "Manage tenants: customers, teams or environments that are apart")
	for _, a := range []action{{
		use: "create ID", short: "Make a tenant",
		example: `  postern tenant create acme --name "Acme Ltd" --max-ttl 30d
  postern tenant create staging --session-idle 15m --label owner=platform`,
		method: adminv1.TenantService_CreateTenant_FullMethodName, args: []string{"tenant.id"}, flags: below("tenant", tenantFields),
	}, {
		use: "get ID", short: "Show a tenant", example: `  postern tenant get acme -o yaml`,
		method: adminv1.TenantService_GetTenant_FullMethodName, args: []string{"id"},
	}, {
		use: "list", short: "List tenants", example: `  postern tenant list`,
		method:  adminv1.TenantService_ListTenants_FullMethodName,
		columns: []string{"id", "display_name", "disabled", "max_ttl", "max_pats", "unused_for", "create_time"},
	}, {
		use: "update ID", short: "Change the rules and the name of a tenant",
		long: `Changes the fields whose flags are given and no others; --clear FLAG gives a field
back to the installation.`,
		example: `  postern tenant update acme --max-ttl 60d --clear unused-for`,
		method:  adminv1.TenantService_UpdateTenant_FullMethodName, args: []string{"tenant.id"}, flags: below("tenant", tenantFields),
	}, {
		use: "disable ID", short: "Turn a tenant off, with all that is its own",
		example: `  postern tenant disable acme --reason "contract ended"`,
		method:  adminv1.TenantService_UpdateTenant_FullMethodName, args: []string{"tenant.id"},
		flags: below("tenant", disabledReason), fixed: []string{"tenant.disabled=true"}, mask: disabledMask,
	}, {
		use: "enable ID", short: "Turn a tenant on again", example: `  postern tenant enable acme`,
		method: adminv1.TenantService_UpdateTenant_FullMethodName, args: []string{"tenant.id"},
		fixed: []string{"tenant.disabled=false"}, mask: disabledMask,
	}, {
		use: "delete ID", short: "Remove a disabled tenant with all that is its own",
		example: `  postern tenant delete acme --dry-run
  postern tenant delete acme --yes`,
		method: adminv1.TenantService_DeleteTenant_FullMethodName, args: []string{"id"}, danger: "delete tenant",
	}} {
		cmd.AddCommand(a.command())
	}
	return cmd
}
