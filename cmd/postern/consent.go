package main

import (
	"github.com/spf13/cobra"

	adminv1 "github.com/postern-auth/postern/gen/postern/admin/v1"
)

func consentCommand() *cobra.Command {
	cmd := group("consent", "Manage what users let agents and clients do in their name")
	for _, a := range []action{{
		use: "grant ACTOR-ID", short: "Let an agent or a client act for a user",
		long: `Gives the consent of a user that somebody acts in the user's name, within scopes; to
give it anew replaces them. Without --user it is the caller's own. Whoever gives it
for another says with --evidence what shows that the user wanted it.`,
		example: `  postern consent grant research-bot --scope data:read --scope data:write
  postern consent grant research-bot --tenant acme --user ann --issuer https://idp.example.com --scope data:write --evidence "form of 2026-03-01"`,
		method: adminv1.ConsentService_GrantConsent_FullMethodName, args: []string{"consent.actor_id"},
		flags: below("consent", []field{
			{flag: "user", path: "principal_id", usage: "the user, as tokens name one (default: the caller)"},
			{flag: "issuer", path: "issuer", usage: "whose tokens name the user so (default: postern)"},
			{flag: "scope", path: "scopes", usage: "what for"},
			{flag: "evidence", path: "evidence", usage: "what shows that the user wanted it"},
			{flag: "expires-at", path: "expire_time", usage: "when it is over (default: when it is withdrawn)"},
		}),
	}, {
		use: "withdraw ID", short: "End a consent; every replica knows within a second",
		example: `  postern consent withdraw 4fQzR8xW0bLm --reason "left the project"`,
		method:  adminv1.ConsentService_WithdrawConsent_FullMethodName, args: []string{"id"},
	}, {
		use: "get ID", short: "Show a consent", example: `  postern consent get 4fQzR8xW0bLm`,
		method: adminv1.ConsentService_GetConsent_FullMethodName, args: []string{"id"},
	}, {
		use: "list", short: "List consents, those that are over among them",
		example: `  postern consent list --tenant acme --user ann
  postern consent list --actor research-bot -o json`,
		method: adminv1.ConsentService_ListConsents_FullMethodName,
		flags: []field{
			{flag: "tenant", path: "tenant", usage: "only those of this tenant"},
			{flag: "user", path: "principal_id", usage: "only those of this user"},
			{flag: "issuer", path: "issuer", usage: "only those of users of this issuer"},
			{flag: "actor", path: "actor_id", usage: "only those for this agent or client"},
		},
		columns: []string{"id", "tenant", "principal_id", "issuer", "actor_id", "scopes", "grant_time", "expire_time", "withdraw_time"},
	}} {
		cmd.AddCommand(a.command())
	}
	return cmd
}
