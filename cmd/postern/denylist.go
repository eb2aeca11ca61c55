package main

import (
	"github.com/spf13/cobra"

	adminv1 "github.com/postern-auth/postern/gen/postern/admin/v1"
)

func denylistCommand() *cobra.Command {
	cmd := group("denylist", "Revoke what others issued: tokens, certificates, signing keys")
	for _, a := range []action{{
		use: "add", short: "Add a line: what is no longer believed",
		long: `Adds a line that says what is no longer believed although its signature is good and
its time has not run out: exactly one of --jti, --sid, --kid, --subject, --client,
--agent, --of-tenant and --fingerprint. Prints the time by which every replica
knows.`,
		example: `  postern denylist add --jti 8f14e45f --issuer https://idp.example.com --note "seen in a log"
  postern denylist add --subject ann --issuer https://idp.example.com          all that were issued until now
  postern denylist add --kid 2026-01 --issuer https://idp.example.com
  postern denylist add --fingerprint 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08`,
		method: adminv1.DenylistService_AddDenial_FullMethodName,
		flags: below("denial", []field{
			{flag: "jti", path: "jti", usage: "a token, by its jti claim"},
			{flag: "sid", path: "sid", usage: "the tokens of a session, by their sid claim"},
			{flag: "kid", path: "kid", usage: "what was signed with a key; needs --issuer"},
			{flag: "subject", path: "subject", usage: "what was issued to a subject; needs --issuer"},
			{flag: "client", path: "client", usage: "what was issued to a client; needs --issuer"},
			{flag: "agent", path: "agent", usage: "what was issued to an agent"},
			{flag: "of-tenant", path: "of_tenant", usage: "what was issued to anybody of a tenant"},
			{flag: "fingerprint", path: "fingerprint", usage: "a certificate, by the SHA-256 of its DER in hex"},
			{flag: "issuer", path: "issuer", usage: "whose tokens are meant; \"postern\" for its own"},
			{flag: "issued-before", path: "issued_before", usage: "tokens issued before this are meant (default: now)", past: true},
			{flag: "note", path: "note", usage: "why"},
			{flag: "expires-at", path: "expire_time", usage: "when the line may go: nothing that it names can live so long (default: never)"},
			{flag: "tenant", path: "tenant", usage: "the tenant that owns the line (default: none, the installation itself)"},
		}),
	}, {
		use: "list", short: "List what is denied", example: `  postern denylist list --tenant acme -o json`,
		method: adminv1.DenylistService_ListDenials_FullMethodName,
		flags:  []field{{flag: "tenant", path: "tenant", usage: "only what this tenant owns"}},
		columns: []string{
			"id", "tenant", "what", "issuer", "issued_before", "note", "expire_time", "created_by",
		},
	}, {
		use: "remove ID", short: "Take a line off", example: `  postern denylist remove 4fQzR8xW0bLm`,
		method: adminv1.DenylistService_RemoveDenial_FullMethodName, args: []string{"id"},
	}} {
		cmd.AddCommand(a.command())
	}
	return cmd
}
