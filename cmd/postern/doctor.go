package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/postern-auth/postern/cmd/postern/doctor"
	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/policy/rego"
	"github.com/postern-auth/postern/server"
)

// checkup is what the flags of `postern doctor` say: where to look, and how to print what
// is found.
type checkup struct {
	connection
	ask         doctor.Question
	credentials []string
	quiet       bool
	output      format
}

func doctorCommand() *cobra.Command {
	var c checkup
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Look at a wiring that runs, and say what is wrong with it",
		Long: `Looks at the configuration and its files, at the server that runs with it, and at
the gateway in front, and prints one line for each thing that it has found, with what
to do. Nothing is changed.

The server is asked at the listeners of the configuration, unless --server and
--admin name others. Of Envoy, it reads the configuration that is in force
(--envoy-admin, the address of Envoy's admin listener) or a file (--envoy-config).
Of any gateway, it sends requests to a URL that the gateway protects (--url): with no
credential, a false one and yours (--credential), with header fields of an identity
that only Postern may set, and with paths that some servers read in another way; and
it holds the answers against those of Postern itself. All of them are GET.

The exit status is 0 if there is no problem, 1 if there is one, and 2 if the doctor
could not look. Warnings are not problems.`,
		Example: `  postern doctor -c /etc/postern/postern.yaml
  postern doctor -c postern.yaml --envoy-admin http://127.0.0.1:9901
  postern doctor -c postern.yaml --envoy-config envoy.yaml --offline
  postern doctor -c postern.yaml --url https://shop.example.com/orders --credential 'x-api-key: @key.txt'
  postern doctor -c postern.yaml -o json`,
		Args: arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := c.settle(cmd); err != nil {
				return err
			}
			return c.report(cmd.OutOrStdout(), doctor.Examine(cmd.Context(), c.ask))
		},
	}
	c.flags(cmd)
	return cmd
}

func (c *checkup) flags(cmd *cobra.Command) {
	c.connection.flags(cmd, "server", "")
	f := cmd.Flags()
	configFlag(cmd, &c.ask.File, "postern.yaml", "the configuration file")
	f.StringVar(&c.ask.Admin, "admin", "", "address of the admin listener (default: the configuration's)")
	f.StringVar(&c.ask.Gateway, "gateway", "", "address of the listener for gateways over HTTP (default: the configuration's)")
	f.StringVar(&c.ask.EnvoyAdmin, "envoy-admin", "", "URL of the admin listener of an Envoy, whose configuration is read")
	f.StringVar(&c.ask.EnvoyConfig, "envoy-config", "", "file with the configuration of an Envoy, YAML or JSON")
	f.StringVar(&c.ask.URL, "url", "", "URL behind the gateway that needs a credential; requests are sent there")
	f.StringArrayVar(&c.credentials, "credential", nil, "header field with a good credential for --url, as 'name: @FILE'; repeatable")
	f.BoolVar(&c.ask.Offline, "offline", false, "look at files only, and ask nobody")
	f.BoolVarP(&c.quiet, "quiet", "q", false, "print warnings and problems only")
	_ = cmd.MarkFlagFilename("envoy-config", "yaml", "yml", "json")
	outputFlag(cmd, &c.output)
	exclusive(cmd, "offline", "server", "admin", "gateway", "envoy-admin", "url")
	exclusive(cmd, "envoy-config", "envoy-admin")
}

// settle refuses flags that cannot be followed, before anything is asked, and reads what
// the question is made of.
func (c *checkup) settle(cmd *cobra.Command) (err error) {
	for _, u := range []struct{ flag, text string }{{"--envoy-admin", c.ask.EnvoyAdmin}, {"--url", c.ask.URL}} {
		if u.text == "" {
			continue
		}
		parsed, err := url.Parse(u.text)
		switch {
		case err != nil || parsed.Hostname() == "" || parsed.Scheme != "http" && parsed.Scheme != "https":
			return fmt.Errorf("%s is not a URL such as http://127.0.0.1:9901", u.flag)
		case parsed.User != nil || parsed.RawQuery != "" || parsed.Fragment != "":
			return fmt.Errorf("%s: write it without user, query and fragment", u.flag)
		}
	}
	if len(c.credentials) > 0 && c.ask.URL == "" {
		return errors.New("--credential is for --url")
	}
	if c.ask.Credential, err = credentialFrom(cmd.InOrStdin(), c.credentials); err != nil {
		return err
	}
	c.ask.Server = c.Connection
	c.ask.Config, c.ask.Faults = checkedConfig(cmd.Context(), c.ask.File)
	c.ask.Policy = func() *rego.Analysis { return policyReads(cmd, c.ask.Config, c.ask.File) }
	return nil
}

// credentialFrom reads the header fields of --credential. It is called once: one of them
// may be of standard input.
func credentialFrom(stdin io.Reader, fields []string) (all []doctor.Field, err error) {
	if len(fields) == 0 {
		return nil, nil
	}
	q := question{headers: fields, source: "127.0.0.1"}
	req, err := q.request(stdin, []string{"http://doctor.invalid/"})
	if err != nil {
		return nil, errors.New(strings.Replace(err.Error(), "-H", "--credential", 1))
	}
	for _, h := range req.GetTarget().GetHttp().GetHeaders() {
		all = append(all, doctor.Field{Name: h.GetName(), Value: policy.NewSecret(h.GetValue())})
	}
	return all, nil
}

// checkedConfig is the configuration, nil if it cannot be read, and what `postern config
// check` says of it.
func checkedConfig(ctx context.Context, file string) (*server.Config, []error) {
	cfg, err := loadConfig(file)
	if err == nil {
		_, err = server.Verify(ctx, file)
	}
	if err == nil {
		return cfg, nil
	}
	return cfg, single(err)
}

// policyReads is what the policy of a configuration reads; nil if that is not known.
func policyReads(cmd *cobra.Command, cfg *server.Config, file string) *rego.Analysis {
	if cfg == nil || cfg.Policy.Path == "" {
		return nil
	}
	_, p, err := (&desk{config: file}).compile(cmd, nil)
	if err != nil {
		return nil
	}
	return p.Analysis
}

// report prints the findings, and is an error if one of them is a problem.
func (c *checkup) report(w io.Writer, found []doctor.Finding) error {
	worst := doctor.Worst(found)
	if c.quiet {
		found = slices.DeleteFunc(found, func(f doctor.Finding) bool { return f.Level != doctor.Problem && f.Level != doctor.Warning })
	}
	if c.output != "table" {
		if err := encodeValue(w, c.output, map[string]any{"worst": worst, "findings": found}); err != nil {
			return err
		}
	} else if err := printFindings(w, found); err != nil {
		return err
	}
	if worst == doctor.Problem {
		return &exitError{exitDeny}
	}
	return nil
}

func printFindings(w io.Writer, found []doctor.Finding) error {
	for _, f := range found {
		line := fmt.Sprintf("%-8s %-9s %s", f.Level, f.About, printable(f.Text))
		if f.Hint != "" {
			line += "; " + printable(f.Hint)
		}
		if _, err := fmt.Fprintln(w, line); err != nil {
			return err
		}
	}
	return nil
}
