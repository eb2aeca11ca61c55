package main

import (
	"errors"
	"slices"

	"github.com/spf13/cobra"

	adminv1 "github.com/postern-auth/postern/gen/postern/admin/v1"
)

func userCommand() *cobra.Command {
	list := action{
		use: "list", short: "List users",
		example: `  postern user list --tenant acme
  postern user list -q`,
		method: adminv1.PrincipalService_ListPrincipals_FullMethodName, columns: principalColumns,
		fixed: []string{"kinds=user"}, flags: principalFilters,
	}
	cmd := group("user", "Manage users and their passwords",
		userCreateCommand(), list.command(), userPasswordCommand(), userImportCommand())
	cmd.AddCommand(principalCommands("user")...)
	return cmd
}

func userCreateCommand() *cobra.Command {
	var file string
	r, cmd := action{
		use: "create ID", short: "Make a user, who can have personal access tokens, sessions and a password",
		long: `Makes a user. The id is the name that the user logs in with. A user without a
password cannot log in here; "postern user password" gives one later.`,
		example: `  postern user create ann --role reader --name "Ann Smith"
  postern user create acme/bob --role admin --password-file - < password.txt`,
		method: adminv1.PrincipalService_CreatePrincipal_FullMethodName, args: []string{"principal.id"},
		fixed: []string{"principal.kind=user"}, flags: below("principal", principalFields),
	}.bound()
	passwordFlag(cmd, &file, "file with the password, or - for standard input (default: none)")
	create := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if file == "" {
			return create(cmd, args)
		}
		password, err := readSecret(cmd.InOrStdin(), file)
		if err != nil {
			return err
		}
		req, err := r.build(cmd.Context(), args)
		if err != nil {
			return err
		}
		res := &adminv1.CreatePrincipalResponse{}
		if err := r.call(cmd.Context(), r.method, req, res); err != nil {
			return err
		}
		if isDryRun(req) {
			return r.print(cmd, res, true)
		}
		set := &adminv1.SetPasswordResponse{}
		err = r.call(cmd.Context(), adminv1.UserService_SetPassword_FullMethodName, &adminv1.SetPasswordRequest{
			Tenant: res.GetPrincipal().GetTenant(), Id: res.GetPrincipal().GetId(), Password: password.Reveal(),
		}, set)
		if err != nil {
			return errors.Join(errors.New("the user was made, without a password"), err)
		}
		return r.print(cmd, set, false)
	}
	return cmd
}

func passwordFlag(cmd *cobra.Command, file *string, usage string) {
	cmd.Flags().StringVar(file, "password-file", "", usage)
	_ = cmd.MarkFlagFilename("password-file")
}

func userPasswordCommand() *cobra.Command {
	var file string
	var remove bool
	r, cmd := action{
		use: "password ID", short: "Set the password of a user, and end the user's sessions",
		long: `Sets the password, which is typed twice on a terminal, or read from a file. The
user's sessions end, unless they are kept.`,
		example: `  postern user password ann
  postern user password acme/ann --password-file - < password.txt
  postern user password ann --remove`,
		method: adminv1.UserService_SetPassword_FullMethodName, args: []string{"id"},
		flags: []field{{flag: "keep-sessions", path: "keep_sessions", usage: "keep the user's sessions"}},
	}.bound()
	passwordFlag(cmd, &file, "file with the password, or - for standard input")
	cmd.Flags().BoolVar(&remove, "remove", false, "take the password away: the user cannot log in with one")
	exclusive(cmd, "remove", "password-file")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		req, err := r.build(cmd.Context(), args)
		if err != nil {
			return err
		}
		if !remove {
			password, err := newPassword(cmd, file)
			if err != nil {
				return err
			}
			req.(*adminv1.SetPasswordRequest).Password = password.Reveal()
		}
		return r.finish(cmd, req, args)
	}
	return cmd
}

func userImportCommand() *cobra.Command {
	im := &importing{
		method: adminv1.UserService_ImportUsers_FullMethodName, list: "users",
		table: "htpasswd", formats: []string{"htpasswd", "json"},
	}
	cmd := &cobra.Command{
		Use: "import FILE|-", Short: "Take over users with the hashes of their passwords",
		Long: `Takes over the users of an htpasswd file (bcrypt), or of JSON with hashes in PHC
form (argon2id, PBKDF2) or bcrypt: an array, or an object in each line, such as
{"user": {"id": "ann", "roles": ["reader"]}, "password_hash": "$argon2id$..."}
A hash becomes argon2id when its user logs in. Flags say what the rows leave open.

All rows are checked before any is taken. Bad ones are reported with their lines;
the good ones are taken only with --skip-bad.`,
		Example: `  postern user import .htpasswd --role reader
  postern user import users.jsonl --tenant acme --dry-run
  htpasswd -nB ann | postern user import -`,
		Args: arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			im.file = args[0]
			rows, err := im.read(cmd)
			if err != nil {
				return err
			}
			return im.take(cmd, rows, nil)
		},
	}
	im.bind(cmd, slices.Concat(below("user", rightsFields), []field{
		{flag: "tenant", path: "user.tenant", usage: "the tenant, where a row names none"},
	}))
	return cmd
}
