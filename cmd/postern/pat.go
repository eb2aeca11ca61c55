package main

import "github.com/spf13/cobra"

var pats = credentialSort{command: "pat", name: "personal access token", names: "personal access tokens", value: "pat"}

func patCommand() *cobra.Command {
	cmd := group("pat", "Manage the personal access tokens of users",
		pats.issue("issue USER-ID", `  postern pat issue ann --name "my laptop"
  postern pat issue acme/ann --name CI --scope orders:read --expires-in 30d
  postern pat issue ann --name "a tool that takes JWTs only" --format jwt
  postern pat issue ann --name backup --permission orders.read --window mon-fri/02:00-04:00 -q > token.txt`, formatField))
	cmd.AddCommand(pats.commands()...)
	return cmd
}
