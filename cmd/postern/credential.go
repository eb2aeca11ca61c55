package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	adminv1 "github.com/postern-auth/postern/gen/postern/admin/v1"
)

// credentialSort is a type of credential. Keys, personal access tokens and tokens are managed
// by the same calls; what is written of a "key" here holds for all of them.
type credentialSort struct {
	// command is the group in which its commands are: "key".
	command string
	// name is what people call one, names what they call many.
	name, names string
	// value is its CredentialType, as a flag would say it.
	value string
}

// in makes an action of keys one of the sort.
func (s credentialSort) in(a action) action {
	words := strings.NewReplacer("postern key", "postern "+s.command, "API keys", s.names, "an API key", "a "+s.name, "the API key", "the "+s.name)
	a.short, a.long, a.example = words.Replace(a.short), words.Replace(a.long), words.Replace(a.example)
	return a
}

// rightsFields are what a credential or a principal may do.
var rightsFields = []field{
	{flag: "role", path: "roles", usage: "a role"},
	{flag: "scope", path: "scopes", usage: "a scope"},
	{flag: "permission", path: "permissions", usage: "a permission"},
	{flag: "metadata", path: "metadata", usage: "a fact for the policy, as team=billing, or a JSON object"},
}

// credentialFields are what can be said of a credential and changed later.
var credentialFields = slices.Concat([]field{
	{flag: "name", path: "display_name", usage: "what it is for, in a few words"},
}, rightsFields, []field{
	{flag: "network", path: "constraints.networks", usage: "CIDR from which it may be used"},
	{flag: "method", path: "constraints.methods", usage: "HTTP method with which it may be used"},
	{flag: "host", path: "constraints.hosts", usage: "host for which it may be used, such as *.example.com"},
	{flag: "path", path: "constraints.paths", usage: "path pattern for which it may be used, such as /orders/**"},
	{flag: "audience", path: "constraints.audiences", usage: "audience for which it may be used"},
	{flag: "resource", path: "constraints.resources", usage: "resource for which it may be used, as type:id or type:*"},
	{flag: "peer", path: "constraints.peers", usage: "workload over whose TLS connection it must come: a SPIFFE id, a DNS name, or sha256: and a certificate's fingerprint in hex"},
	{flag: "window", path: "constraints.windows", usage: "time in UTC at which it may be used, as mon-fri/08:00-17:30"},
	{flag: "require-tls", path: "constraints.require_tls", usage: "it may only be used over TLS"},
	{flag: "not-before", path: "not_before", usage: "when it begins to be good: a time, or 2h for in two hours"},
	{flag: "expires-in", path: "ttl", usage: "how long it lives, such as 90d (default: as long as the tenant allows)"},
	{flag: "expires-at", path: "expire_time", usage: "when it ends, instead of --expires-in"},
	{flag: "renew-period", path: "renew_period", usage: "by how much renewing moves its end (default: it cannot be renewed)"},
	{flag: "max-expires-at", path: "max_expire_time", usage: "how far renewing moves its end at most"},
})

// issueFields are those that never change besides.
var issueFields = slices.Concat(credentialFields, []field{
	{flag: "env", path: "environment", usage: "environment that stands in the secret, such as live or test"},
	{flag: "parent", path: "parent_id", usage: "id of the credential with which it falls"},
})

var credentialColumns = []string{"id", "tenant", "principal_id", "display_name", "roles", "scopes", "state", "expire_time", "last_use_time"}

// formatField is for what can be a JWT.
var formatField = field{flag: "format", path: "format", usage: "form of the secret (default: opaque); a jwt needs signing keys, and cannot be renewed"}

func (s credentialSort) issue(use, example string, more ...field) *cobra.Command {
	return s.in(action{
		use: use, short: "Issue an API key: its secret is shown once",
		long: `The secret is in the answer and nowhere else: it is not stored, and comes last on
standard output, or with -q alone.

Nobody can grant more than they have. Without --expires-in it lives as long as the
tenant allows.`,
		example: example,
		method:  adminv1.CredentialService_IssueCredential_FullMethodName,
		args:    []string{"credential.principal_id"},
		fixed:   []string{"credential.type=" + s.value},
		flags:   below("credential", slices.Concat(issueFields, more)),
	}).command()
}

// commands are those that all sorts have.
func (s credentialSort) commands() []*cobra.Command {
	actions := []action{{
		use: "get ID", short: "Show an API key, without its secret",
		example: `  postern key get 4fQzR8xW0bLm
  postern key get 4fQzR8xW0bLm -o yaml`,
		method: adminv1.CredentialService_GetCredential_FullMethodName, args: []string{"id"},
	}, {
		use: "list", short: "List API keys",
		example: `  postern key list
  postern key list --principal billing-job --tenant acme -o json
  postern key list --state active --expires-before 14d      which ones end within two weeks?
  postern key list --unused-for 90d -q | postern key revoke - --reason unused`,
		method: adminv1.CredentialService_ListCredentials_FullMethodName, fixed: []string{"types=" + s.value},
		flags: []field{
			{flag: "tenant", path: "tenant", usage: "only those of this tenant"},
			{flag: "principal", path: "principal_id", usage: "only those of this principal of the tenant"},
			{flag: "state", path: "states", usage: "only those in this state"},
			{flag: "unused-for", path: "unused_for", usage: "only those that nobody used for so long"},
			{flag: "expires-before", path: "expires_before", usage: "only those that end before a time, or within 14d"},
		},
		columns: credentialColumns,
	}, {
		use: "update ID", short: "Change what an API key may do, or its life",
		long: `Changes the fields whose flags are given and no others. A list that is given takes
the place of the old one; --clear FLAG empties a field.`,
		example: `  postern key update 4fQzR8xW0bLm --role reader --role writer
  postern key update 4fQzR8xW0bLm --network 10.0.0.0/8 --clear path
  postern key update 4fQzR8xW0bLm --expires-in 30d`,
		method: adminv1.CredentialService_UpdateCredential_FullMethodName, args: []string{"credential.id"},
		flags: below("credential", credentialFields),
	}, {
		use: "rotate ID", short: "Issue a successor; the old one stays good for a while",
		long: `Issues a successor with the same rights and shows its secret, once. The old one
stays good for --grace: long enough to put the new one into place. It ends then, at
"grace ends", whatever it says under "expires".`,
		example: `  postern key rotate 4fQzR8xW0bLm --grace 24h
  postern key rotate 4fQzR8xW0bLm --grace 1h -q > key.txt`,
		method: adminv1.CredentialService_RotateCredential_FullMethodName, args: []string{"id"},
		flags: []field{
			{flag: "grace", path: "grace_period", usage: "how long the old one stays good (default: not at all)"},
			{flag: "expires-in", path: "ttl", usage: "how long the successor lives (default: as long as the old one did)"},
		},
	}, {
		use: "renew ID", short: "Move the end of an API key by its period",
		long: `Moves the end by the --renew-period with which it was issued, and not beyond its
--max-expires-at.`,
		example: `  postern key renew 4fQzR8xW0bLm`,
		method:  adminv1.CredentialService_RenewCredential_FullMethodName, args: []string{"id"},
	}, {
		use: "disable ID", short: "Turn an API key off, until it is turned on again",
		example: `  postern key disable 4fQzR8xW0bLm --reason "seen in a log"`,
		method:  adminv1.CredentialService_DisableCredential_FullMethodName, args: []string{"id"},
	}, {
		use: "enable ID", short: "Turn an API key on again",
		example: `  postern key enable 4fQzR8xW0bLm`,
		method:  adminv1.CredentialService_EnableCredential_FullMethodName, args: []string{"id"},
	}, {
		use: "usage [ID]", short: "Show how often API keys were used, by day and route",
		long: `Shows the counters of one credential, or of all that fit, whatever their type,
newest day first. They are a minute or so behind.`,
		example: `  postern key usage 4fQzR8xW0bLm
  postern key usage --tenant acme --from 2026-11-01 --to 2026-11-30 -o json`,
		method: adminv1.CredentialService_GetUsage_FullMethodName, args: []string{"credential_id?"},
		flags: []field{
			{flag: "tenant", path: "tenant", usage: "only of this tenant"},
			{flag: "principal", path: "principal_id", usage: "only of this principal of the tenant"},
			{flag: "from", path: "from_day", usage: "the first day in UTC, as 2026-11-01"},
			{flag: "to", path: "to_day", usage: "the last day"},
		},
		columns: []string{"day", "credential_id", "tenant", "principal_id", "route", "allowed", "denied", "last_use_time"},
	}}
	all := []*cobra.Command{s.revoke(), s.importing()}
	for _, a := range actions {
		all = append(all, s.in(a).command())
	}
	return all
}

// revoke ends one credential by RevokeCredential, and many by one change.
func (s credentialSort) revoke() *cobra.Command {
	one, cmd := s.in(action{
		use: "revoke ID...|-", short: "End API keys for good, and those that fall with them",
		long: `Ends those whose ids are given, or stand in lines on standard input. Prints the
number of the change and the time by which every replica knows: from then on, none
lets anything through that it forbids.

--principal ends whatever the principal has, keys and tokens of every type, and
--all whatever the tenant has. Many are ended in one change.

What took the place of one that was rotated stays good, and is named: who has found a
secret in a log replaces it, and then revokes it. Where a thief may have rotated it,
--successors ends all of them.`,
		example: `  postern key revoke 4fQzR8xW0bLm --reason "seen in a log"
  postern key list --unused-for 90d -q | postern key revoke - --reason unused
  postern key revoke --principal billing-job --tenant acme --reason "project ended"`,
		method: adminv1.CredentialService_RevokeCredential_FullMethodName, args: []string{"id?"},
		flags:  []field{{flag: "successors", path: "successors", usage: "end what took its place as well, if it was rotated"}},
		danger: "revoke",
	}).bound()
	many := &batchRevoke{invocation: one}
	f := cmd.Flags()
	f.StringVar(&many.principal, "principal", "", "revoke all that this principal of the tenant has")
	f.StringVar(&many.tenant, "tenant", "", "the tenant of --principal or --all (default: none, the installation itself)")
	f.BoolVar(&many.all, "all", false, "revoke all that the tenant has")
	cmd.Args = arguments(0, -1)
	cmd.RunE = many.run
	return cmd
}

// batchRevoke revokes one or many.
type batchRevoke struct {
	*invocation
	principal, tenant string
	all               bool
}

func (b *batchRevoke) run(cmd *cobra.Command, args []string) error {
	selected := b.principal != "" || b.all
	switch {
	case selected == (len(args) > 0), b.principal != "" && b.all, b.tenant != "" && !selected, b.all && b.tenant == "":
		return errors.New("say what to revoke: ids, - for ids on standard input, --principal ID, or --tenant ID --all")
	case len(args) == 1 && args[0] != "-":
		b.danger = "" // it was named, letter by letter
		return b.invocation.run(cmd, args)
	case len(args) == 1:
		var err error
		if args, err = idsFrom(cmd.InOrStdin()); err != nil {
			return err
		}
	}
	plain, err := b.build(cmd.Context(), nil)
	if err != nil {
		return err
	}
	said := plain.(*adminv1.RevokeCredentialRequest)
	switch {
	case said.GetEtag() != "":
		return errors.New("--etag is for one credential")
	case said.GetSuccessors():
		return errors.New("--successors is for one credential; --principal ends all of somebody")
	}
	b.method = adminv1.CredentialService_BatchRevokeCredentials_FullMethodName
	what := args
	if selected {
		what = []string{"all of", strings.Trim(b.tenant+"/"+b.principal, "/")}
	}
	return b.finish(cmd, &adminv1.BatchRevokeCredentialsRequest{
		Ids: args, Tenant: b.tenant, PrincipalId: b.principal,
		Reason: said.GetReason(), RequestId: said.GetRequestId(), ValidateOnly: said.GetValidateOnly(),
	}, what)
}

// idsFrom reads ids from lines.
func idsFrom(r io.Reader) ([]string, error) {
	text, err := io.ReadAll(io.LimitReader(r, 1<<20))
	ids := strings.Fields(string(text))
	switch {
	case err != nil:
		return nil, err
	case len(ids) == 0:
		return nil, errors.New("there are no ids on standard input")
	case len(ids) > maxPage:
		return nil, fmt.Errorf("there are %d ids; at most %d are revoked in one change", len(ids), maxPage)
	}
	return ids, nil
}

// importing takes over credentials that were made elsewhere.
func (s credentialSort) importing() *cobra.Command {
	im := &credentialImport{sort: s, importing: importing{
		method: adminv1.CredentialService_ImportCredentials_FullMethodName, list: "credentials", formats: []string{"csv", "pipe", "json"},
	}}
	a := s.in(action{
		use: "import [FILE|-]", short: "Take over API keys that were made elsewhere",
		long: `Takes over all that a file lists, or with --secret-file a single one. Only digests
are kept. Flags say what the rows leave open.

A table has a row for each: secret, user, role, with commas or with bars between.
Its first row may name the columns: secret or sha256, user, role, scopes,
permissions, tenant, name, expires. JSON is an array, or an object in each line:
{"secret": "...", "credential": {"principal_id": "alice", "display_name": "CI"}}

All rows are checked before any is taken. Bad ones are reported with their lines;
the good ones are taken only with --skip-bad.`,
		example: `  postern key import keys.csv --tenant acme --dry-run
  postern key import keys.jsonl --skip-bad --expires-in 30d
  postern key import --secret-file - --principal billing-job --role writer < old-key.txt
  postern key import --sha256 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08 --principal billing-job`,
	})
	if s.value == "token" {
		a.long += `

A token has the rights of its user: the role in a row is the user's. With
--create-users, users that do not exist are made, with that role; those that exist
must have it.`
		a.example = `  printf 'abc1234 | Alice | admin\nxyz9876 | Bob | user\n' | postern token import - --create-users
` + a.example
	}
	cmd := &cobra.Command{Use: a.use, Short: a.short, Long: a.long, Example: a.example, Args: arguments(0, 1), RunE: im.run}
	im.bind(cmd, slices.Concat(below("credential", issueFields), []field{
		{flag: "principal", path: "credential.principal_id", usage: "the principal, where a row names none"},
		{flag: "tenant", path: "credential.tenant", usage: "the tenant, where a row names none"},
		{flag: "sha256", path: "sha256", usage: "SHA-256 of a single secret in hex, instead of a file"},
	}))
	cmd.Flags().StringVar(&im.secretFile, "secret-file", "", "file with a single secret, or - for standard input")
	if s.value == "token" {
		cmd.Flags().BoolVar(&im.createUsers, "create-users", false, "make users that do not exist, with the roles of their rows")
	}
	return cmd
}

type credentialImport struct {
	importing
	sort        credentialSort
	secretFile  string
	createUsers bool
}

func (im *credentialImport) run(cmd *cobra.Command, args []string) error {
	rows, err := im.rows(cmd, args)
	if err != nil {
		return err
	}
	for i := range rows {
		if err := fill(rows[i].message, "credential.type", im.sort.value); err != nil {
			return err
		}
	}
	if im.sort.value != "token" {
		return im.take(cmd, rows, nil)
	}
	return im.withUsers(cmd, rows)
}

// rows are those of the file, or the one that the flags describe.
func (im *credentialImport) rows(cmd *cobra.Command, args []string) ([]importRow, error) {
	single := importRow{line: 1, message: im.emptyRow()}
	said := cmd.Flags().Changed("sha256")
	switch {
	case len(args) == 1 && im.secretFile == "" && !said:
		im.file = args[0]
		return im.read(cmd)
	case len(args) == 1 || im.secretFile == "" && !said || im.secretFile != "" && said:
		return nil, errors.New("say what to import: a file, or - for standard input; or a single secret with --secret-file or --sha256")
	case im.secretFile != "":
		secret, err := readSecret(cmd.InOrStdin(), im.secretFile)
		if err != nil {
			return nil, err
		}
		_ = fill(single.message, "secret", secret.Reveal())
	}
	rows := []importRow{single}
	return rows, im.fillUp(rows)
}
