package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	adminv1 "github.com/postern-auth/postern/gen/postern/admin/v1"
)

var agentFields = slices.Concat([]field{
	{flag: "name", path: "display_name", usage: "what people call it"},
	{flag: "owner", path: "owner_id", usage: "whose it is, and with whom it falls: a user, a service, or the agent that is its parent"},
	{flag: "model", path: "model", usage: "the model that it runs on"},
	{flag: "version", path: "version", usage: "the version of the agent"},
	{flag: "purpose", path: "purpose", usage: "what it is for"},
	{flag: "token-role", path: "token_roles", usage: "a role of which it may get tokens, such as reader"},
	{flag: "tool", path: "tools", usage: "a tool that it may call; github.* is all of these"},
	{flag: "keys", path: "jwks", usage: "file with the JWK set of its public keys, or - for standard input"},
	{flag: "spiffe-id", path: "spiffe_ids", usage: "a workload that it is"},
	{flag: "certificate", path: "certificates", usage: "a certificate that it shows: a PEM file, or its SHA-256 in hex"},
}, rightsFields)

func agentCommand() *cobra.Command {
	list := action{
		use: "list", short: "List agents",
		example: `  postern agent list --tenant acme
  postern agent list --owner planner --state active -o json`,
		method:  adminv1.AgentService_ListAgents_FullMethodName,
		columns: []string{"id", "tenant", "owner_id", "model", "version", "token_roles", "tools", "state"},
		flags: []field{
			{flag: "tenant", path: "tenant", usage: "only those of this tenant"},
			{flag: "owner", path: "owner_id", usage: "only those that this principal of the tenant owns"},
			{flag: "state", path: "states", usage: "only those in this state"},
		},
	}
	get := action{
		use: "get ID", short: "Show an agent", example: `  postern agent get researcher
  postern agent get acme/researcher -o yaml`,
		method: adminv1.AgentService_GetAgent_FullMethodName, args: []string{"id"},
	}
	disable := action{
		use: "disable ID", short: "Turn an agent off, with all that it holds and its child agents",
		example: `  postern agent disable acme/researcher --reason "asks for too much"`,
		method:  adminv1.AgentService_DisableAgent_FullMethodName, args: []string{"id"},
	}
	enable := action{
		use: "enable ID", short: "Turn an agent on again",
		example: `  postern agent enable acme/researcher`,
		method:  adminv1.AgentService_EnableAgent_FullMethodName, args: []string{"id"},
	}
	decommission := action{
		use: "decommission ID", short: "End an agent for good, with all that it ever held and its child agents",
		long: `Ends an agent for good: its keys, tokens, sessions and approvals, and its child
agents with theirs, in one step. It cannot be taken back, and the id is never used
again. To turn an agent off for a while, see "postern agent disable".`,
		example: `  postern agent decommission acme/researcher --dry-run
  postern agent decommission acme/researcher --reason "replaced by researcher-2" --yes`,
		method: adminv1.AgentService_DecommissionAgent_FullMethodName, args: []string{"id"}, danger: "decommission agent",
	}
	return group("agent", "Manage AI agents: what they are, what they may get, and their end",
		agentCreateCommand(), get.command(), list.command(), agentUpdateCommand(),
		disable.command(), enable.command(), decommission.command(), agentTokenCommand())
}

func agentCreateCommand() *cobra.Command {
	return agentFiles(action{
		use: "create ID", short: "Register an agent",
		long: `Registers an agent, which can then have keys and get tokens. It falls with its
owner: an agent that owns it is its parent. Private keys are refused: an agent keeps
its own to itself.`,
		example: `  postern agent create acme/researcher --owner ann --model gpt-4o-mini --token-role reader --tool "search.*"
  postern agent create acme/coder --owner researcher --keys coder.jwks.json --purpose "writes patches"
  postern agent create mailer --spiffe-id spiffe://example.org/agents/mailer --certificate mailer.pem`,
		method: adminv1.AgentService_CreateAgent_FullMethodName, args: []string{"agent.id"},
		flags: below("agent", agentFields),
	})
}

func agentUpdateCommand() *cobra.Command {
	return agentFiles(action{
		use: "update ID", short: "Change what an agent is, and what it may get",
		long: `Changes the fields whose flags are given and no others. A list that is given takes
the place of the old one; --clear FLAG empties a field. To replace a key of an agent
without a gap, let the set of --keys hold the old and the new one for a while.`,
		example: `  postern agent update acme/researcher --model gpt-4o --version 2.1
  postern agent update acme/researcher --keys both.jwks.json
  postern agent update acme/researcher --clear tool --token-role reader`,
		method: adminv1.AgentService_UpdateAgent_FullMethodName, args: []string{"agent.id"},
		flags: below("agent", agentFields),
	})
}

// agentFiles makes a command whose --keys and --certificate name files.
func agentFiles(a action) *cobra.Command {
	r, cmd := a.bound()
	_ = cmd.MarkFlagFilename("keys", "json", "jwks")
	_ = cmd.MarkFlagFilename("certificate", "pem", "crt")
	read := map[string]func(io.Reader, string) (string, error){"keys": readKeySet, "certificate": readFingerprint}
	run := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		for _, v := range r.values {
			for i, name := range v.texts {
				if read[v.flag] == nil {
					continue
				}
				text, err := read[v.flag](cmd.InOrStdin(), name)
				if err != nil {
					return fmt.Errorf("--%s: %w", v.flag, err)
				}
				v.texts[i] = text
			}
		}
		return run(cmd, args)
	}
	return cmd
}

// maxAgentFile is the longest file that is read, in bytes.
const maxAgentFile = 64 << 10

// readKeySet reads a JWK set; what is in it the server looks at.
func readKeySet(stdin io.Reader, name string) (string, error) {
	text, err := readShort(stdin, name)
	switch {
	case err != nil:
		return "", err
	case strings.Contains(text, "PRIVATE KEY"):
		return "", fmt.Errorf("%s holds a private key: an agent keeps its own to itself; give the JWK set of the public ones", printable(name))
	case !strings.HasPrefix(strings.TrimSpace(text), "{"):
		return "", fmt.Errorf("%s is no JWK set: write {\"keys\": [...]} (RFC 7517)", printable(name))
	}
	return text, nil
}

var fingerprint = regexp.MustCompile(`^([0-9a-fA-F]{2}:?){31}[0-9a-fA-F]{2}$`)

// readFingerprint returns the SHA-256 of a certificate: as it was given, with colons or
// not, or that of the first one of a PEM file.
func readFingerprint(stdin io.Reader, name string) (string, error) {
	if fingerprint.MatchString(name) {
		return strings.ToLower(strings.ReplaceAll(name, ":", "")), nil
	}
	text, err := readShort(stdin, name)
	if err != nil {
		return "", err
	}
	for rest := []byte(text); ; {
		block, more := pem.Decode(rest)
		if block == nil {
			return "", fmt.Errorf("%s holds no certificate in PEM, and is no SHA-256 in hex", printable(name))
		}
		if rest = more; block.Type == "CERTIFICATE" {
			sum := sha256.Sum256(block.Bytes)
			return hex.EncodeToString(sum[:]), nil
		}
	}
}

// readShort reads a short file, or standard input if its name is "-".
func readShort(stdin io.Reader, name string) (string, error) {
	source := stdin
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return "", err
		}
		defer f.Close()
		source = f
	}
	text, err := io.ReadAll(io.LimitReader(source, maxAgentFile+1))
	switch {
	case err != nil:
		return "", err
	case len(text) > maxAgentFile:
		return "", fmt.Errorf("%s is longer than %d KiB", printable(name), maxAgentFile>>10)
	case len(strings.TrimSpace(string(text))) == 0:
		return "", errors.New("there is nothing in it")
	}
	return string(text), nil
}
