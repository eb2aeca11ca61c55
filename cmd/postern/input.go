package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/postern-auth/postern/policy"
)

// maxSecret is longer than any password or token, in bytes.
const maxSecret = 64 << 10

// readSecret reads a secret from a file, or from standard input if that is "-". One
// line end at its end is not part of it.
func readSecret(stdin io.Reader, name string) (policy.Secret, error) {
	source, what := stdin, "standard input"
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return policy.Secret{}, err
		}
		defer f.Close()
		source, what = f, name
	}
	text, err := io.ReadAll(io.LimitReader(source, maxSecret+1))
	if err != nil {
		return policy.Secret{}, err
	}
	secret := strings.TrimSuffix(strings.TrimSuffix(string(text), "\n"), "\r")
	switch {
	case secret == "":
		return policy.Secret{}, fmt.Errorf("%s is empty", what)
	case len(secret) > maxSecret:
		return policy.Secret{}, fmt.Errorf("%s is longer than %d bytes", what, maxSecret)
	}
	return policy.NewSecret(secret), nil
}

// newPassword reads a password that is to be set: from a file, or twice from a person.
func newPassword(cmd *cobra.Command, file string) (policy.Secret, error) {
	if file != "" {
		return readSecret(cmd.InOrStdin(), file)
	}
	if !interactive(cmd) {
		return policy.Secret{}, errors.New("say where the password is: --password-file FILE, or - for standard input")
	}
	first, err := prompt(cmd, "new password: ")
	if err != nil {
		return policy.Secret{}, err
	}
	again, err := prompt(cmd, "the same again: ")
	if err == nil && first.Reveal() != again.Reveal() {
		err = errors.New("the passwords differ; nothing was changed")
	}
	return first, err
}

// interactive reports whether a person sits at standard input.
func interactive(cmd *cobra.Command) bool {
	f, ok := cmd.InOrStdin().(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// prompt asks a person for a secret, without showing it. Who gives up with Ctrl-C
// gets a terminal back that shows what is typed.
func prompt(cmd *cobra.Command, text string) (policy.Secret, error) {
	fd := int(os.Stdin.Fd())
	before, err := term.GetState(fd)
	if err != nil {
		return policy.Secret{}, err
	}
	fmt.Fprint(cmd.ErrOrStderr(), text)
	line, err := await(cmd.Context(), func() (string, error) {
		line, err := term.ReadPassword(fd)
		return string(line), err
	})
	fmt.Fprintln(cmd.ErrOrStderr())
	if err != nil {
		_ = term.Restore(fd, before)
		return policy.Secret{}, err
	}
	if line == "" {
		return policy.Secret{}, errors.New("nothing was typed")
	}
	return policy.NewSecret(line), nil
}

// errUnchanged ends a command that a person has not agreed to.
var errUnchanged = errors.New("nothing was changed")

// await returns what a function reads from a terminal, or the end of the context,
// which the function cannot see.
func await(ctx context.Context, read func() (string, error)) (string, error) {
	type answer struct {
		line string
		err  error
	}
	answers := make(chan answer, 1)
	go func() {
		line, err := read()
		answers <- answer{line, err}
	}()
	select {
	case a := <-answers:
		return a.line, a.err
	case <-ctx.Done():
		return "", errUnchanged
	}
}

func yesFlag(cmd *cobra.Command, yes *bool) {
	cmd.Flags().BoolVarP(yes, "yes", "y", false, "do not ask on a terminal whether it is meant")
}

// askYes goes on if a person says so.
func askYes(cmd *cobra.Command, question string) error {
	fmt.Fprintf(cmd.ErrOrStderr(), "%s? [y/N] ", printable(question))
	line, err := await(cmd.Context(), func() (string, error) {
		return bufio.NewReader(cmd.InOrStdin()).ReadString('\n')
	})
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	switch strings.ToLower(strings.TrimSpace(line)) {
	case "y", "yes":
		return nil
	}
	return errUnchanged
}
