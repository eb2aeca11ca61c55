package main

import (
	"github.com/spf13/cobra"

	adminv1 "github.com/postern-auth/postern/gen/postern/admin/v1"
)

func auditCommand() *cobra.Command {
	list := action{
		use: "list", short: "List what was done and what was refused, newest first",
		example: `  postern audit list --from 24h
  postern audit list --tenant acme --action credential.revoke --from 2026-11-01 -o json
  postern audit list --target credential/4fQzR8xW0bLm
  postern audit list --actor acme/ann --limit 20`,
		method: adminv1.AuditService_ListAuditEntries_FullMethodName,
		flags: []field{
			{flag: "tenant", path: "tenant", usage: "only what was done to this tenant's"},
			{flag: "actor", path: "actor", usage: "only what this principal did, as tenant/id"},
			{flag: "action", path: "action", usage: "only this action, such as credential.revoke"},
			{flag: "target", path: "target", usage: "only what was done to this record, as credential/4fQzR8xW0bLm"},
			{flag: "from", path: "from_time", usage: "from this time on: a time, or 24h for the last day", past: true},
			{flag: "to", path: "to_time", usage: "before this time", past: true},
		},
		columns: []string{"sequence", "time", "actor", "credential_id", "action", "target", "tenant", "denied", "reason", "change_number"},
	}
	return group("audit", "Read who did what", list.command())
}
