package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/postern-auth/postern/policy/author"
	"github.com/postern-auth/postern/policy/bundle"
	"github.com/postern-auth/postern/policy/rego"
	"github.com/postern-auth/postern/server/regular"
	"github.com/postern-auth/postern/server/strictyaml"
)

func policyCommand() *cobra.Command {
	return group("policy", "Write, test, build and compare policies",
		policyCheckCommand(),
		policyTestCommand(),
		policyEvalCommand(),
		policyFmtCommand(),
		policyCoverCommand(),
		policyBenchCommand(),
		policyAnalyzeCommand(),
		policyBuildCommand(),
		policySignCommand(),
		policyDiffCommand(),
		policyStatusCommand(),
		policyShadowCommand(),
	)
}

// desk says how the policies of a command are read: as a configuration says, or
// as flags do.
type desk struct {
	config        string
	entrypoint    string
	regoVersion   int
	opaEnvoy      bool
	allowBuiltins []string

	settled *rego.Config
	routes  []author.Route
	keys    []bundle.Key
	limits  bundle.Limits
}

func (d *desk) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	configFlag(cmd, &d.config, "", "read the policy as this configuration says; DIR is then its policy.path unless it is given")
	f.StringVar(&d.entrypoint, "entrypoint", "", "the rule that decides (default: "+rego.DefaultEntrypoint+")")
	f.IntVar(&d.regoVersion, "rego-version", 1, "syntax of the *.rego files: 1, or 0 for policies older than OPA 1.0")
	f.BoolVar(&d.opaEnvoy, "opa-envoy", false, "read results as the OPA-Envoy plugin does")
	f.StringArrayVar(&d.allowBuiltins, "allow-builtin", nil, "function to allow that is refused by default, such as http.send; repeatable")
	exclusive(cmd, "config", "entrypoint", "rego-version", "opa-envoy", "allow-builtin")
}

// settings are how the policy is read.
func (d *desk) settings() (rego.Config, error) {
	if d.settled != nil {
		return *d.settled, nil
	}
	c := rego.Config{Entrypoint: d.entrypoint, RegoVersion: &d.regoVersion, OPAEnvoy: d.opaEnvoy, AllowBuiltins: d.allowBuiltins}
	if d.config != "" {
		cfg, err := loadConfig(d.config)
		if err != nil {
			return c, err
		}
		c = cfg.Policy.Config
		c.CredentialHeaders = append(c.CredentialHeaders, cfg.CredentialFields()...)
		for i := range cfg.Routes {
			r := cfg.Routes[i].Policy()
			d.routes = append(d.routes, author.Route{Name: r.Name, Tenant: r.Tenant, Scopes: r.Scopes, Permission: r.Permission, Labels: r.Labels})
		}
		d.keys, d.limits = cfg.Policy.Keys, cfg.Policy.BundleLimits
	}
	d.settled = &c
	return c, nil
}

// source is one policy that a command was told of.
type source struct {
	// name is what it was called; dir is its directory, nil for a bundle.
	name   string
	dir    fs.FS
	bundle *rego.Bundle
	opened *bundle.Opened
	config rego.Config
}

// place is a file of the source as an editor finds it; other names stay as they are.
func (s *source) place(file string) string {
	if file == "" {
		return s.name
	}
	if s.dir == nil {
		return file
	}
	if _, err := fs.Stat(s.dir, file); err != nil {
		return file
	}
	return filepath.Join(s.name, filepath.FromSlash(file))
}

// placed are problems with their places, each an error of its own.
func (s *source) placed(err error) error {
	if err == nil {
		return nil
	}
	var all []error
	for _, e := range single(err) {
		var found rego.Problems
		var line *strictyaml.Error
		switch {
		case errors.As(e, &found):
			for _, p := range found {
				p.File = s.place(p.File)
				all = append(all, problemError(p))
			}
		case errors.As(e, &line) && s.dir != nil:
			own := *line
			own.File = s.place(own.File)
			all = append(all, &own)
		default:
			all = append(all, e)
		}
	}
	return errors.Join(all...)
}

// problemError prints as the place and the text, without the program in front, so
// that editors find it.
type problemError rego.Problem

func (p problemError) Error() string { return printable(rego.Problem(p).String()) }

// named is the source that the arguments name, or the one of the configuration.
func (d *desk) named(args []string) (string, error) {
	if len(args) > 0 {
		return args[0], nil
	}
	c, err := d.settings()
	switch {
	case err != nil:
		return "", err
	case c.Path == "":
		return "", errors.New("say which policy: a directory, a bundle, or -c and a configuration with policy.path")
	}
	return c.Path, nil
}

// maxBundle bounds a bundle that is read from disk, in bytes.
const maxBundle = 1 << 30

// open reads a directory or a packed bundle. Verify says which signature a bundle must
// have; nil for any.
func (d *desk) open(name string, verify *bundle.Verify) (*source, error) {
	config, err := d.settings()
	if err != nil {
		return nil, err
	}
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	s := &source{name: name, config: config}
	if !info.IsDir() {
		raw, err := readBundle(name)
		if err != nil {
			return nil, err
		}
		if verify == nil {
			verify = &bundle.Verify{InsecureSkip: true}
		}
		if s.opened, err = bundle.Open(raw, d.limits, *verify, config, time.Now()); err != nil {
			return nil, fmt.Errorf("%s: %w", name, s.placed(err))
		}
		s.bundle = s.opened.Policy
		return s, nil
	}
	root, err := os.OpenRoot(name)
	if err != nil {
		return nil, err
	}
	s.dir = regular.Root(root)
	s.bundle, err = rego.LoadFS(s.dir, config)
	return s, err
}

func readBundle(name string) ([]byte, error) {
	info, err := os.Stat(name)
	switch {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%s is no file", name)
	case info.Size() > maxBundle:
		return nil, fmt.Errorf("%s is larger than %d MiB", name, maxBundle>>20)
	}
	return os.ReadFile(name)
}

// compile opens a policy and makes it ready.
func (d *desk) compile(cmd *cobra.Command, args []string) (*source, *author.Policy, error) {
	name, err := d.named(args)
	if err != nil {
		return nil, nil, err
	}
	s, err := d.open(name, nil)
	if err != nil {
		if s != nil {
			err = s.placed(err)
		}
		return nil, nil, err
	}
	p, err := author.Compile(cmd.Context(), s.bundle, s.config)
	return s, p, s.placed(err)
}

// tests reads the tests beside a policy, and further tables.
func (s *source) tests(tables []string) (*author.Tests, error) {
	t := &author.Tests{}
	var errs []error
	if s.dir != nil {
		found, err := author.LoadTests(s.dir, s.config)
		t, errs = found, append(errs, s.placed(err))
	}
	for _, name := range tables {
		text, err := readBundle(name)
		if err == nil {
			var table *author.Table
			if table, err = author.ReadTable(path.Clean(filepath.ToSlash(name)), text); err == nil {
				t.AddTable(table)
			}
		}
		errs = append(errs, err)
	}
	return t, errors.Join(errs...)
}

// jsonFlag adds --json, short for -o json.
func jsonFlag(cmd *cobra.Command, output *format) {
	f := cmd.Flags().VarPF(asJSON{output}, "json", "", "short for -o json")
	f.NoOptDefVal = "true"
	exclusive(cmd, "json", "output")
}

type asJSON struct{ output *format }

func (asJSON) String() string { return "false" }
func (asJSON) Type() string   { return "bool" }
func (a asJSON) Set(s string) error {
	if s != "true" {
		return errors.New("it takes no value")
	}
	*a.output = "json"
	return nil
}

// watch tells a person who watches how far long work is, each second.
type watch struct {
	cmd   *cobra.Command
	seen  bool
	last  time.Time
	shown bool
}

func newWatch(cmd *cobra.Command) *watch {
	f, ok := cmd.ErrOrStderr().(*os.File)
	return &watch{cmd: cmd, seen: ok && term.IsTerminal(int(f.Fd())), last: time.Now()}
}

func (p *watch) say(format string, args ...any) {
	if !p.seen || time.Since(p.last) < time.Second {
		return
	}
	p.last, p.shown = time.Now(), true
	fmt.Fprintf(p.cmd.ErrOrStderr(), "\r\x1b[K"+format, args...)
}

// end takes the line away.
func (p *watch) end() {
	if p.shown {
		fmt.Fprint(p.cmd.ErrOrStderr(), "\r\x1b[K")
	}
}

// printTable prints rows under a heading.
func printTable(w io.Writer, heading []string, rows [][]string) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, strings.Join(heading, "\t"))
	for _, cells := range rows {
		line := make([]string, len(cells))
		for i, c := range cells {
			line[i] = cmp.Or(printable(c), "-")
		}
		fmt.Fprintln(t, strings.Join(line, "\t"))
	}
	return t.Flush()
}
