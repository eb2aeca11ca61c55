package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/postern-auth/postern/server"
)

// level says how bad a finding is.
type level string

// The levels. A problem lets somebody in, keeps everybody out, or soon will; a warning
// may be meant.
const (
	levelOK      level = "ok"
	levelWarning level = "warning"
	levelProblem level = "problem"
	levelSkipped level = "skipped"
)

// finding is one line of what the doctor says.
type finding struct {
	Level level  `json:"level" yaml:"level"`
	About string `json:"about" yaml:"about"`
	Text  string `json:"text" yaml:"text"`
	Hint  string `json:"hint,omitempty" yaml:"hint,omitempty"`
}

// doctor is `postern doctor`: where to look, and what was found.
type doctor struct {
	connection
	config      string
	admin       string
	gateway     string
	envoyAdmin  string
	envoyConfig string
	url         string
	credentials []string
	offline     bool
	quiet       bool
	output      format

	cfg    *server.Config // nil if it cannot be read
	fields []headerField  // those of credentials
	now    func() time.Time
	found  []finding
}

func doctorCommand() *cobra.Command {
	d := doctor{now: time.Now}
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
			if err := d.sane(cmd); err != nil {
				return err
			}
			d.look(cmd)
			return d.report(cmd.OutOrStdout())
		},
	}
	d.flags(cmd, "server", "")
	f := cmd.Flags()
	configFlag(cmd, &d.config, "postern.yaml", "the configuration file")
	f.StringVar(&d.admin, "admin", "", "address of the admin listener (default: the configuration's)")
	f.StringVar(&d.gateway, "gateway", "", "address of the listener for gateways over HTTP (default: the configuration's)")
	f.StringVar(&d.envoyAdmin, "envoy-admin", "", "URL of the admin listener of an Envoy, whose configuration is read")
	f.StringVar(&d.envoyConfig, "envoy-config", "", "file with the configuration of an Envoy, YAML or JSON")
	f.StringVar(&d.url, "url", "", "URL behind the gateway that needs a credential; requests are sent there")
	f.StringArrayVar(&d.credentials, "credential", nil, "header field with a good credential for --url, as 'name: @FILE'; repeatable")
	f.BoolVar(&d.offline, "offline", false, "look at files only, and ask nobody")
	f.BoolVarP(&d.quiet, "quiet", "q", false, "print warnings and problems only")
	_ = cmd.MarkFlagFilename("envoy-config", "yaml", "yml", "json")
	outputFlag(cmd, &d.output)
	exclusive(cmd, "offline", "server", "admin", "gateway", "envoy-admin", "url")
	exclusive(cmd, "envoy-config", "envoy-admin")
	return cmd
}

// sane refuses flags that cannot be followed, before anything is asked.
func (d *doctor) sane(cmd *cobra.Command) error {
	for _, u := range []struct{ flag, text string }{{"--envoy-admin", d.envoyAdmin}, {"--url", d.url}} {
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
	if len(d.credentials) > 0 && d.url == "" {
		return errors.New("--credential is for --url")
	}
	var err error
	d.fields, err = d.credentialsFrom(cmd.InOrStdin())
	return err
}

// look makes all the findings.
func (d *doctor) look(cmd *cobra.Command) {
	ctx := cmd.Context()
	d.lookAtConfig(ctx)
	d.lookAtFiles()
	d.lookAtCertificates()
	if d.offline {
		d.skip("server", "not asked: --offline")
	} else {
		d.lookAtServer(ctx)
		d.lookAtIssuers(ctx)
		d.lookAtGatewayListener(ctx)
	}
	d.lookAtEnvoy(cmd)
	if d.url != "" {
		d.lookThroughGateway(ctx)
	}
}

func (d *doctor) add(l level, about, text, hint string) {
	d.found = append(d.found, finding{l, about, text, hint})
}

func (d *doctor) ok(about, format string, args ...any) {
	d.add(levelOK, about, fmt.Sprintf(format, args...), "")
}
func (d *doctor) skip(about, text string)          { d.add(levelSkipped, about, text, "") }
func (d *doctor) warn(about, text, hint string)    { d.add(levelWarning, about, text, hint) }
func (d *doctor) problem(about, text, hint string) { d.add(levelProblem, about, text, hint) }

func (d *doctor) worst() level {
	for _, l := range []level{levelProblem, levelWarning} {
		if slices.ContainsFunc(d.found, func(f finding) bool { return f.Level == l }) {
			return l
		}
	}
	return levelOK
}

// report prints the findings, and is an error if one of them is a problem.
func (d *doctor) report(w io.Writer) error {
	shown := slices.DeleteFunc(slices.Clone(d.found), func(f finding) bool {
		return d.quiet && f.Level != levelProblem && f.Level != levelWarning
	})
	if d.output != "table" {
		if err := encodeValue(w, d.output, map[string]any{"worst": d.worst(), "findings": shown}); err != nil {
			return err
		}
	} else {
		for _, f := range shown {
			line := fmt.Sprintf("%-8s %-9s %s", f.Level, f.About, printable(f.Text))
			if f.Hint != "" {
				line += "; " + printable(f.Hint)
			}
			if _, err := fmt.Fprintln(w, line); err != nil {
				return err
			}
		}
	}
	if d.worst() == levelProblem {
		return &exitError{exitDeny}
	}
	return nil
}

// lookAtConfig is `postern config check`.
func (d *doctor) lookAtConfig(ctx context.Context) {
	cfg, err := loadConfig(d.config)
	if err == nil {
		d.cfg = cfg
		err = server.Verify(ctx, d.config)
	}
	for _, e := range single(err) {
		if e != nil {
			text, _, _ := strings.Cut(e.Error(), "\n") // the line of the file itself may be left out
			d.problem("config", text, "`postern config check -c "+d.config+"` shows the place")
		}
	}
	if err == nil {
		d.ok("config", "%s is good", d.config)
	}
	if d.cfg != nil {
		d.lookAtDangers()
	}
}

// lookAtDangers names the settings that say themselves what they are.
func (d *doctor) lookAtDangers() {
	if d.cfg.OnFault != "deny" {
		d.warn("config", "on_fault is "+string(d.cfg.OnFault)+": a gateway that fails open lets requests through that Postern could not decide on", "leave it out")
	}
	if d.cfg.Plaintext.InsecureAccept {
		d.warn("config", "plaintext.insecure_accept: credentials that anybody on the way has read are taken for good", "leave it out where clients use TLS")
	}
	if d.cfg.Upstream.InsecureKeepCredential {
		d.warn("config", "upstream.insecure_keep_credential: services get their callers' credentials and can use them elsewhere", "use upstream.identity_token")
	}
}

// base is the directory of the configuration.
func (d *doctor) base() string {
	dir, err := filepath.Abs(filepath.Dir(d.config))
	if err != nil {
		return "."
	}
	return dir
}
