package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/postern-auth/postern/server/seal"
)

func tokenCommand() *cobra.Command {
	cmd := group("token", "Manage opaque tokens that were made elsewhere, and find keys in files",
		tokenInspectCommand(), tokenRegexpCommand(), tokenExchangeCommand(), tokenRevokeAgentCommand())
	cmd.AddCommand(tokens.commands()...)
	return cmd
}

var tokens = credentialSort{command: "token", name: "token", names: "tokens", value: "token"}

func tokenInspectCommand() *cobra.Command {
	var prefix string
	cmd := &cobra.Command{
		Use:   "inspect FILE|DIRECTORY|-...",
		Short: "Find keys in files, by shape and checksum",
		Long: `Looks for Postern's keys in files, directories or standard input and prints
where each one is, with its public id: never the key itself. Meant for commit
hooks and CI. The exit status is 1 if there is a key, 0 if there is none, and 2
if there is none in what could be read, and something could not.`,
		Example: `  postern token inspect .                            is there a key in this checkout?
  git diff --cached | postern token inspect -
  postern token inspect - < key.txt                  what is this key?`,
		Args: arguments(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			s := search{prefix: prefix, out: cmd.OutOrStdout()}
			for _, arg := range args {
				s.look(arg, cmd.InOrStdin())
			}
			if s.found > 0 {
				complain(cmd.ErrOrStderr(), errors.Join(s.errs...))
				return &exitError{exitDeny}
			}
			return errors.Join(s.errs...)
		},
	}
	prefixFlag(cmd, &prefix)
	return cmd
}

func prefixFlag(cmd *cobra.Command, prefix *string) {
	cmd.Flags().StringVar(prefix, "prefix", seal.DefaultPrefix, "the prefix of the keys (api_keys.prefix)")
}

// search counts the keys that it finds. What it cannot read does not stop it.
type search struct {
	prefix string
	out    io.Writer
	found  int
	errs   []error
}

// look searches standard input, a file, or every regular file of a directory but
// what lies in .git. What is named itself is read whatever it is, a link or a
// pipe; within a directory, links are not followed.
func (s *search) look(arg string, stdin io.Reader) {
	if arg == "-" {
		s.scan("stdin", stdin)
		return
	}
	if info, err := os.Stat(arg); err != nil || !info.IsDir() {
		s.file(arg)
		return
	}
	root := arg
	if real, err := filepath.EvalSymlinks(arg); err == nil {
		root = real
	}
	_ = filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			s.errs = append(s.errs, err)
		case d.IsDir() && d.Name() == ".git":
			return fs.SkipDir
		case d.Type().IsRegular():
			s.file(name)
		}
		return nil
	})
}

func (s *search) file(name string) {
	f, err := os.Open(name)
	if err != nil {
		s.errs = append(s.errs, err)
		return
	}
	defer func() { _ = f.Close() }()
	s.scan(name, f)
}

func (s *search) scan(name string, r io.Reader) {
	for f, err := range seal.Scan(r, s.prefix) {
		if err != nil {
			s.errs = append(s.errs, fmt.Errorf("%s: %w", printable(name), err))
			return
		}
		s.found++
		fmt.Fprintf(s.out, "%s:%d: %s key %s%s\n", printable(name), f.Line, f.Prefix, f.ID, environment(f.Env))
	}
}

func environment(env string) string {
	if env == "" {
		return ""
	}
	return " (" + env + ")"
}

func tokenRegexpCommand() *cobra.Command {
	var prefix string
	cmd := &cobra.Command{
		Use:   "regexp",
		Short: "Print the regular expression of keys, for secret scanners",
		Long: `Prints the regular expression of keys, in RE2 syntax, for secret scanners that
cannot run "postern token inspect", which also compares the checksum.`,
		Example: `  postern token regexp
  grep -rPn "$(postern token regexp --prefix acme)" .`,
		Args: arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, err := range seal.Scan(strings.NewReader(""), prefix) {
				return err // the prefix is none
			}
			_, err := fmt.Fprintln(cmd.OutOrStdout(), seal.ScannerRegexp(prefix))
			return err
		},
	}
	prefixFlag(cmd, &prefix)
	return cmd
}
