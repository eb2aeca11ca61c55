package main

import (
	"errors"

	"github.com/spf13/cobra"

	adminv1 "github.com/postern-auth/postern/gen/postern/admin/v1"
)

// tokenFields are those of every token that is made.
var tokenFields = []field{
	{flag: "budget", path: "token_budget", usage: "how many model tokens may be spent by it (default: 10000, or what the server says)"},
	{flag: "ttl-minutes", path: "ttl_minutes", usage: "how long it lives (default: 15, or what the server says; 60 at most)"},
	{flag: "certificate-sha256", path: "cnf.certificate_sha256", usage: "bind it to a client certificate, by the SHA-256 of its DER in hex"},
	{flag: "jkt", path: "cnf.jkt", usage: "bind it to the key of DPoP proofs, by its thumbprint (RFC 7638)"},
}

func agentTokenCommand() *cobra.Command {
	return action{
		use: "token ID", short: "Issue a token for an agent: it is shown once",
		long: `Makes a token of a role that the agent may have tokens of: a JWT that ends after 15
minutes, or 60 at most. It is the last line of the output, and is kept nowhere. What it
says is noted in the audit log; "postern token revoke-agent" ends it by its jti.`,
		example: `  postern agent token acme/researcher --role reader -q
  postern agent token acme/researcher --role writer --scope data:write --budget 2000 --ttl-minutes 5
  postern agent token acme/researcher --role executor --certificate-sha256 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08`,
		method: adminv1.TokenService_IssueAgentToken_FullMethodName, args: []string{"agent_id"},
		flags: append([]field{
			{flag: "role", path: "role", usage: "reader, writer, executor, or another one that the server knows"},
			{flag: "tenant", path: "tenant_id", usage: "the tenant of the agent (default: none, the installation itself)"},
			{flag: "scope", path: "scopes", usage: "only this scope of the role"},
			{flag: "audience", path: "audiences", usage: "a service that it is for (default: the installation)"},
		}, tokenFields...),
	}.command()
}

func tokenExchangeCommand() *cobra.Command {
	var subject, actor string
	r, cmd := action{
		use: "exchange", short: "Exchange tokens for one by which an actor acts for a subject (RFC 8693)",
		long: `Makes a token by which an agent, the actor, acts for a subject: a user, or another
agent. It grants what both have in common and lives no longer than both. Without
--actor-file, the actor is who calls. Tokens are read from files, so that none is in the
list of processes.`,
		example: `  postern token exchange --subject-file user.jwt --actor-file agent.jwt --scope data:read -q
  postern token exchange --subject-file - --ttl-minutes 5 < user.jwt`,
		method: adminv1.TokenService_ExchangeToken_FullMethodName,
		flags: append([]field{
			{flag: "subject-type", path: "subject_token_type", usage: "what the subject's token is (default: urn:ietf:params:oauth:token-type:access_token)"},
			{flag: "actor-type", path: "actor_token_type", usage: "what the actor's token is (default: the same)"},
			{flag: "scope", path: "scope", usage: "the scopes that are asked for, separated by spaces (default: all that both have)"},
			{flag: "audience", path: "audience", usage: "a service that it is for (default: the installation)"},
		}, tokenFields...),
	}.bound()
	cmd.Flags().StringVar(&subject, "subject-file", "", "file with the subject's token, or - for standard input")
	cmd.Flags().StringVar(&actor, "actor-file", "", "file with the actor's token, or - for standard input (default: the caller is the actor)")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if subject == "" || subject == "-" && actor == "-" {
			return errors.New("say where the subject's token is: --subject-file FILE, or - for standard input, which holds one token")
		}
		built, err := r.build(cmd.Context(), args)
		if err != nil {
			return err
		}
		req := built.(*adminv1.ExchangeTokenRequest)
		for _, f := range []struct {
			file string
			to   *string
		}{{subject, &req.SubjectToken}, {actor, &req.ActorToken}} {
			if f.file == "" {
				continue
			}
			secret, err := readSecret(cmd.InOrStdin(), f.file)
			if err != nil {
				return err
			}
			*f.to = secret.Reveal()
		}
		return r.finish(cmd, req, args)
	}
	return cmd
}

func tokenRevokeAgentCommand() *cobra.Command {
	return action{
		use: "revoke-agent JTI", short: "End a token of an agent before its time",
		long: `Ends one token that Postern issued to an agent, or exchanged, by its jti: the id under
which decisions and the audit log name it. Prints the time by which every replica knows.`,
		example: `  postern token revoke-agent 8XqIDm7K2vWf0aYcPz1RtA --tenant acme --reason "seen in a log"`,
		method:  adminv1.TokenService_RevokeAgentToken_FullMethodName, args: []string{"jti"},
		flags: []field{{flag: "tenant", path: "tenant_id", usage: "the tenant of the token (default: none, the installation itself)"}},
	}.command()
}
