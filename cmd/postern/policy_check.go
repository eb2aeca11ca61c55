package main

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/postern-auth/postern/policy/author"
	"github.com/postern-auth/postern/policy/bundle"
	"github.com/postern-auth/postern/policy/rego"
	"github.com/postern-auth/postern/server/strictyaml"
)

// verdictOf is what `postern policy check` says.
type verdictOf struct {
	OK       bool           `json:"ok" yaml:"ok"`
	Problems []policyDefect `json:"problems" yaml:"problems"`
	Revision string         `json:"revision,omitempty" yaml:"revision,omitempty"`
	Files    int            `json:"files" yaml:"files"`
	Verified bool           `json:"verified,omitempty" yaml:"verified,omitempty"`
}

// policyDefect is one thing that is wrong, and where.
type policyDefect struct {
	File   string `json:"file" yaml:"file"`
	Line   int    `json:"line,omitempty" yaml:"line,omitempty"`
	Column int    `json:"column,omitempty" yaml:"column,omitempty"`
	Text   string `json:"text" yaml:"text"`
}

func (d policyDefect) String() string {
	return rego.Problem{File: d.File, Line: d.Line, Column: d.Column, Text: d.Text}.String()
}

func policyCheckCommand() *cobra.Command {
	var d desk
	var output format
	var key bundle.Key
	var keyFile, scope string
	cmd := &cobra.Command{
		Use:   "check [DIR|BUNDLE]",
		Short: "Say everything that is wrong with a policy, by file and line",
		Long: `Compiles the policy as the server does, in strict mode, and prints all that is
wrong with it: syntax, functions that are refused, a missing entrypoint, mistakes in
the tables, contradicting data, fields of the input that no request has. The tests
beside it are compiled too. A bundle is unpacked and screened like one from a server;
with --key or the keys of a configuration, its signature is verified.

The exit status is 0 if the policy is good, 1 if it is not, and 2 if that could not
be found out.`,
		Example: `  postern policy check policy
  postern policy check -c postern.yaml
  postern policy check policy --entrypoint data.envoy.authz.allow --opa-envoy
  postern policy check shop.tar.gz --key shop.pub.pem --key-id shop-2026
  postern policy check policy --json`,
		Args: arguments(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			name, err := d.named(args)
			if err != nil {
				return err
			}
			key.File = strictyaml.Path(keyFile)
			verify, err := d.verification(key, scope)
			if err != nil {
				return err
			}
			found, err := checkPolicy(cmd, &d, name, verify)
			if err != nil {
				return err
			}
			if err := printVerdict(cmd.OutOrStdout(), output, name, found); err != nil {
				return err
			}
			if !found.OK {
				return &exitError{exitDeny}
			}
			return nil
		},
	}
	d.flags(cmd)
	f := cmd.Flags()
	f.StringVar(&keyFile, "key", "", "PEM file of the public key that must have signed the bundle")
	f.StringVar(&key.ID, "key-id", "", "id of that key")
	f.StringVar(&scope, "scope", "", "scope that the signature must have")
	outputFlag(cmd, &output)
	jsonFlag(cmd, &output)
	return cmd
}

// verification says which signature is wanted; nil for none.
func (d *desk) verification(key bundle.Key, scope string) (*bundle.Verify, error) {
	if _, err := d.settings(); err != nil {
		return nil, err
	}
	switch {
	case (key.File == "") != (key.ID == ""):
		return nil, errors.New("--key and --key-id belong together")
	case key.File != "":
		return &bundle.Verify{Keys: []bundle.Key{key}, Scope: scope}, nil
	case len(d.keys) > 0:
		return &bundle.Verify{Keys: d.keys, Scope: scope}, nil
	case scope != "":
		return nil, errors.New("--scope needs a --key")
	}
	return nil, nil
}

func checkPolicy(cmd *cobra.Command, d *desk, name string, verify *bundle.Verify) (*verdictOf, error) {
	out := &verdictOf{Problems: []policyDefect{}}
	s, err := d.open(name, verify)
	if err != nil {
		if s != nil {
			err = s.placed(err)
		}
		return out, out.take(name, err)
	}
	out.Revision, out.Files = s.bundle.Revision, len(s.bundle.Files)
	out.Verified = s.opened != nil && s.opened.Verified
	tests, err := s.tests(nil)
	if err := out.take(name, err); err != nil {
		return nil, err
	}
	if err != nil {
		tests = nil
	}
	found, err := author.Check(cmd.Context(), s.bundle, tests, s.config)
	if err != nil {
		return nil, s.placed(err)
	}
	for _, p := range found {
		out.Problems = append(out.Problems, policyDefect{s.place(p.File), p.Line, p.Column, p.Text})
	}
	out.OK = len(out.Problems) == 0
	return out, nil
}

// take makes what is wrong with the policy a part of the verdict; what is wrong with
// looking at it stays an error.
func (v *verdictOf) take(name string, err error) error {
	if err == nil {
		return nil
	}
	for _, e := range single(err) {
		var one problemError
		var line *strictyaml.Error
		var broken *bundle.Error
		switch {
		case errors.As(e, &one):
			v.Problems = append(v.Problems, policyDefect(one))
		case errors.As(e, &line):
			v.Problems = append(v.Problems, policyDefect{line.File, line.Line, line.Column, strings.TrimSuffix(line.Message+"; "+line.Suggestion, "; ")})
		case errors.As(e, &broken), errors.Is(e, rego.ErrNoPolicy):
			v.Problems = append(v.Problems, policyDefect{File: name, Text: strings.TrimPrefix(e.Error(), name+": ")})
		default:
			return e
		}
	}
	return nil
}

func printVerdict(w io.Writer, output format, name string, v *verdictOf) error {
	if output != "table" {
		return encodeValue(w, output, v)
	}
	for _, p := range v.Problems {
		if _, err := fmt.Fprintln(w, printable(p.String())); err != nil {
			return err
		}
	}
	if !v.OK {
		return nil
	}
	text := ""
	if v.Verified {
		text = ", its signature is verified"
	}
	files := ""
	if v.Files > 0 {
		files = ", " + plural(v.Files, "file")
	}
	_, err := fmt.Fprintf(w, "%s is good: revision %s%s%s\n", name, v.Revision, files, text)
	return err
}

// plural is a number of things.
func plural(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return strconv.Itoa(n) + " " + thing + "s"
}
