package main

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"

	adminv1 "github.com/postern-auth/postern/gen/postern/admin/v1"
)

var principalFields = slices.Concat([]field{
	{flag: "name", path: "display_name", usage: "what people call it"},
	{flag: "owner", path: "owner_id", usage: "the principal of the tenant with which it falls"},
}, rightsFields)

var (
	principalColumns = []string{"id", "tenant", "kind", "display_name", "owner_id", "roles", "scopes", "permissions", "disabled"}
	principalFilters = []field{
		{flag: "tenant", path: "tenant", usage: "only those of this tenant"},
		{flag: "owner", path: "owner_id", usage: "only those that this principal of the tenant owns"},
	}
)

func principalCommand() *cobra.Command {
	kind := field{flag: "kind", path: "kind", usage: "what it is (default: service)"}
	create := action{
		use: "create ID", short: "Make a principal: a service, an app, an agent or a device",
		long: `Makes a principal, which can have keys then. What it may do bounds what its keys
may do. Disabling or deleting an owner takes what it owns with it: --owner makes an
app the owner of its services.`,
		example: `  postern principal create billing-job --kind service --tenant acme --role writer
  postern principal create scanner-7 --kind device --owner warehouse --metadata site=basel`,
		method: adminv1.PrincipalService_CreatePrincipal_FullMethodName, args: []string{"principal.id"},
		fixed: []string{"principal.kind=service"}, flags: below("principal", append([]field{kind}, principalFields...)),
	}
	list := action{
		use: "list", short: "List principals",
		example: `  postern principal list --tenant acme
  postern principal list --kind service --kind agent -o json`,
		method: adminv1.PrincipalService_ListPrincipals_FullMethodName, columns: principalColumns,
		flags: append([]field{{flag: "kind", path: "kinds", usage: "only those of this kind"}}, principalFilters...),
	}
	cmd := group("principal", "Manage who can have keys: services, apps, agents, devices", create.command(), list.command())
	cmd.AddCommand(principalCommands("principal")...)
	return cmd
}

// principalCommands are those that users and other principals have in common.
func principalCommands(what string) (all []*cobra.Command) {
	words := strings.NewReplacer("principal", what, "billing-job", map[string]string{"principal": "billing-job", "user": "ann"}[what])
	for _, a := range []action{{
		use: "get ID", short: "Show a principal", example: `  postern principal get billing-job
  postern principal get acme/billing-job -o json`,
		method: adminv1.PrincipalService_GetPrincipal_FullMethodName, args: []string{"id"},
	}, {
		use: "update ID", short: "Change what a principal may do, and its facts",
		long: `Changes the fields whose flags are given and no others. A list that is given takes
the place of the old one; --clear FLAG empties a field. Keys and tokens that stand
for the principal follow at once.`,
		example: `  postern principal update billing-job --role reader --role writer
  postern principal update billing-job --clear scope --metadata team=billing`,
		method: adminv1.PrincipalService_UpdatePrincipal_FullMethodName, args: []string{"principal.id"},
		flags: below("principal", principalFields),
	}, {
		use: "disable ID", short: "Turn a principal off, with all its credentials and what it owns",
		example: `  postern principal disable billing-job --reason "under investigation"`,
		method:  adminv1.PrincipalService_UpdatePrincipal_FullMethodName, args: []string{"principal.id"},
		flags: below("principal", disabledReason), fixed: []string{"principal.disabled=true"}, mask: disabledMask,
	}, {
		use: "enable ID", short: "Turn a principal on again",
		example: `  postern principal enable billing-job`,
		method:  adminv1.PrincipalService_UpdatePrincipal_FullMethodName, args: []string{"principal.id"},
		fixed: []string{"principal.disabled=false"}, mask: disabledMask,
	}, {
		use: "delete ID", short: "Remove a principal with its credentials and sessions, and what it owns",
		example: `  postern principal delete billing-job --dry-run
  postern principal delete acme/billing-job --yes`,
		method: adminv1.PrincipalService_DeletePrincipal_FullMethodName, args: []string{"id"}, danger: "delete principal",
	}} {
		a.short, a.long, a.example, a.danger = words.Replace(a.short), words.Replace(a.long), words.Replace(a.example), words.Replace(a.danger)
		all = append(all, a.command())
	}
	return all
}

// What turns a record off and on.
var (
	disabledReason = []field{{flag: "reason", path: "disabled_reason", usage: "why, for the record"}}
	disabledMask   = []string{"disabled", "disabled_reason"}
)
