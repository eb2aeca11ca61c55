package main

import (
	"github.com/spf13/cobra"

	adminv1 "github.com/postern-auth/postern/gen/postern/admin/v1"
)

func sessionCommand() *cobra.Command {
	cmd := group("session", "Manage the sessions of users in browsers", sessionCreateCommand())
	for _, a := range []action{{
		use: "get ID", short: "Show a session, without its secret", example: `  postern session get 4fQzR8xW0bLm`,
		method: adminv1.SessionService_GetSession_FullMethodName, args: []string{"id"},
	}, {
		use: "list", short: "List living sessions",
		example: `  postern session list --tenant acme --user ann
  postern session list -o json`,
		method: adminv1.SessionService_ListSessions_FullMethodName,
		flags: []field{
			{flag: "tenant", path: "tenant", usage: "only those of this tenant"},
			{flag: "user", path: "principal_id", usage: "only those of this user of the tenant"},
		},
		columns: []string{"id", "tenant", "principal_id", "amr", "auth_time", "last_use_time", "expire_time"},
	}, {
		use: "rotate ID", short: "Give a session a new id and secret",
		long: `Gives the session a new id and secret, which is shown once; the old one ends within
seconds. For example after the user's rights have changed, or a second factor.`,
		example: `  postern session rotate 4fQzR8xW0bLm --amr otp -q`,
		method:  adminv1.SessionService_RotateSession_FullMethodName, args: []string{"id"},
		flags: []field{
			{flag: "amr", path: "amr", usage: "how the user authenticated meanwhile (RFC 8176), such as otp"},
			{flag: "acr", path: "acr", usage: "the new authentication context class"},
		},
	}, {
		use: "delete [ID]", short: "End a session, or all sessions of a user",
		example: `  postern session delete 4fQzR8xW0bLm
  postern session delete --tenant acme --user ann`,
		method: adminv1.SessionService_DeleteSession_FullMethodName, args: []string{"id?"},
		flags: []field{
			{flag: "user", path: "principal_id", usage: "all sessions of this user"},
			{flag: "tenant", path: "tenant", usage: "of this tenant (default: none, the installation itself)"},
		},
		danger: "delete session",
	}} {
		cmd.AddCommand(a.command())
	}
	return cmd
}

func sessionCreateCommand() *cobra.Command {
	var file string
	r, cmd := action{
		use: "create USER-ID", short: "Start a session of a user: its secret is shown once",
		long: `Starts a session of a user whose password is handed over, or whom you vouch for,
which takes the permission postern.sessions.vouch. The secret is the value of the
cookie; -o json also has the whole Set-Cookie field and the CSRF token.`,
		example: `  postern session create ann --password-file - < password.txt
  postern session create acme/ann --amr otp --expires-at 8h -o json`,
		method: adminv1.SessionService_CreateSession_FullMethodName, args: []string{"session.principal_id"},
		flags: below("session", []field{
			{flag: "amr", path: "amr", usage: "how the user authenticated (RFC 8176), such as pwd or otp"},
			{flag: "acr", path: "acr", usage: "the authentication context class"},
			{flag: "auth-time", path: "auth_time", usage: "when the user authenticated (default: now)", past: true},
			{flag: "idle-timeout", path: "idle_timeout", usage: "how long it lives without use (default: the tenant's)"},
			{flag: "expires-at", path: "expire_time", usage: "when it ends at the latest (default: as late as the tenant allows)"},
			{flag: "metadata", path: "metadata", usage: "a note of the application, as device=phone"},
		}),
	}.bound()
	passwordFlag(cmd, &file, "file with the user's password, or - for standard input (default: you vouch for the user)")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		req, err := r.build(cmd.Context(), args)
		if err != nil {
			return err
		}
		if file != "" {
			password, err := readSecret(cmd.InOrStdin(), file)
			if err != nil {
				return err
			}
			req.(*adminv1.CreateSessionRequest).Password = password.Reveal()
		}
		return r.finish(cmd, req, args)
	}
	return cmd
}
