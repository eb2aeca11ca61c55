package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/rogpeppe/go-internal/diff"
	"github.com/spf13/cobra"

	"github.com/postern-auth/postern/policy/author"
	"github.com/postern-auth/postern/policy/rego"
)

// formatter is one run of `postern policy fmt`.
type formatter struct {
	list, diff, write bool
	config            rego.Config
	out               io.Writer
	differ            int
	errs              []error
}

func policyFmtCommand() *cobra.Command {
	var f formatter
	version := 1
	cmd := &cobra.Command{
		Use:   "fmt FILE|DIR|-...",
		Short: "Write Rego files as everybody writes them",
		Long: `Writes Rego as ` + "`opa fmt`" + ` does: to standard output, or with -w back into the files. -l
lists the files that are not written so, -d shows how they differ; the exit status
is then 1 if there are any. A file that does not parse is left alone.`,
		Example: `  postern policy fmt -w policy
  postern policy fmt -l policy
  postern policy fmt -d policy/authz.rego
  postern policy fmt - < authz.rego`,
		Args: arguments(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			f.out, f.config = cmd.OutOrStdout(), rego.Config{RegoVersion: &version}
			for _, arg := range args {
				f.look(cmd.InOrStdin(), arg)
			}
			if err := errors.Join(f.errs...); err != nil {
				return err
			}
			if f.differ > 0 && !f.write && (f.list || f.diff) {
				return &exitError{exitDeny}
			}
			return nil
		},
	}
	cmd.Flags().BoolVarP(&f.list, "list", "l", false, "list the files that would change")
	cmd.Flags().BoolVarP(&f.diff, "diff", "d", false, "show how they would change")
	cmd.Flags().BoolVarP(&f.write, "write", "w", false, "write the files")
	cmd.Flags().IntVar(&version, "rego-version", 1, "syntax of the files: 1, or 0 for policies older than OPA 1.0")
	exclusive(cmd, "write", "diff")
	return cmd
}

// maxRego bounds one file, in bytes.
const maxRego = 64 << 20

func (f *formatter) look(stdin io.Reader, arg string) {
	if arg == "-" {
		if f.write {
			f.errs = append(f.errs, errors.New("standard input cannot be written: leave out -w"))
			return
		}
		text, err := io.ReadAll(io.LimitReader(stdin, maxRego))
		f.note(err)
		if err == nil {
			f.note(f.format("stdin.rego", text))
		}
		return
	}
	info, err := os.Stat(arg)
	switch {
	case err != nil:
		f.note(err)
	case !info.IsDir():
		f.note(f.file(arg))
	default:
		f.note(filepath.WalkDir(arg, func(name string, d fs.DirEntry, err error) error {
			hidden := strings.HasPrefix(d.Name(), ".") && name != arg
			switch {
			case err != nil:
				return err
			case d.IsDir() && hidden:
				return fs.SkipDir
			case d.Type().IsRegular() && filepath.Ext(name) == ".rego" && !hidden:
				f.note(f.file(name))
			}
			return nil
		}))
	}
}

func (f *formatter) note(err error) {
	if err != nil {
		f.errs = append(f.errs, err)
	}
}

func (f *formatter) file(name string) error {
	info, err := os.Stat(name)
	switch {
	case err != nil:
		return err
	case !info.Mode().IsRegular() || info.Size() > maxRego:
		return fmt.Errorf("%s is no regular file of up to %d MiB", name, maxRego>>20)
	}
	text, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	return f.format(name, text)
}

func (f *formatter) format(name string, text []byte) error {
	formatted, err := author.Format(name, text, f.config)
	if err != nil {
		var found rego.Problems
		if errors.As(err, &found) {
			return (&source{}).placed(found)
		}
		return err
	}
	same := bytes.Equal(text, formatted)
	if !same {
		f.differ++
	}
	switch {
	case f.list && !same:
		fmt.Fprintln(f.out, printable(name))
	case f.diff && !same:
		_, err = f.out.Write(diff.Diff(name, text, name+" (formatted)", formatted))
	case !f.list && !f.diff && !f.write:
		_, err = f.out.Write(formatted)
	}
	if err == nil && f.write && !same {
		err = replaceFile(name, string(formatted))
	}
	return err
}
