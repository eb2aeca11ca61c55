package main

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/postern-auth/postern/server/authn/apikey"
)

func tokenCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "token",
		Short: "Look at keys without a server",
	}
	cmd.AddCommand(tokenInspectCommand(), tokenRegexpCommand())
	return cmd
}

func tokenInspectCommand() *cobra.Command {
	var prefix string
	cmd := &cobra.Command{
		Use:   "inspect [FILE|DIRECTORY|-]...",
		Short: "Find keys in files, by shape and checksum",
		Long: `Looks for Postern's keys in files, directories or standard input and prints
where each one is, with its public id: never the key itself. Meant for commit
hooks and CI. The exit status is 1 if there is a key, and 0 if there is none.`,
		Example: `  postern token inspect .                  is there a key in this checkout?
  git diff --cached | postern token inspect -
  postern token inspect - < key.txt        what is this key?`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			found := 0
			report := func(name string, r io.Reader) error {
				for f, err := range apikey.Scan(r, prefix) {
					if err != nil {
						return fmt.Errorf("%s: %w", name, err)
					}
					found++
					fmt.Fprintf(cmd.OutOrStdout(), "%s:%d: %s key %s%s\n", printable(name), f.Line, f.Prefix, f.ID, environment(f.Environment))
				}
				return nil
			}
			for _, arg := range args {
				if err := scan(arg, cmd.InOrStdin(), report); err != nil {
					return err
				}
			}
			if found > 0 {
				return &exitError{status: exitDeny}
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&prefix, "prefix", apikey.DefaultPrefix, "the prefix of the keys (api_keys.prefix)")
	return cmd
}

func environment(env string) string {
	if env == "" {
		return ""
	}
	return " (" + env + ")"
}

// scan reads standard input, a file, or every regular file of a directory but
// what lies in .git.
func scan(arg string, stdin io.Reader, report func(string, io.Reader) error) error {
	if arg == "-" {
		return report("stdin", stdin)
	}
	return filepath.WalkDir(arg, func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && d.Name() == ".git":
			return fs.SkipDir
		case !d.Type().IsRegular():
			return nil
		}
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		defer f.Close()
		return report(name, f)
	})
}

func tokenRegexpCommand() *cobra.Command {
	var prefix string
	cmd := &cobra.Command{
		Use:   "regexp",
		Short: "Print the regular expression of keys, for secret scanners",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintln(cmd.OutOrStdout(), strings.TrimSpace(apikey.ScannerRegexp(prefix)))
			return err
		},
	}
	cmd.Flags().StringVar(&prefix, "prefix", apikey.DefaultPrefix, "the prefix of the keys (api_keys.prefix)")
	return cmd
}
