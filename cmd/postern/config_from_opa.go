package main

import (
	"fmt"
	"io"
	"net/netip"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/policy/bundle"
)

func configFromOPACommand() *cobra.Command {
	return &cobra.Command{
		Use:   "from-opa FILE",
		Short: "Turn a configuration of OPA and its Envoy plugin into one of Postern",
		Long: `Reads a configuration file of OPA, YAML or JSON, and prints a postern.yaml that
does the same. What has no equal here is an error, by line, and nothing is printed
then; what means something else is a comment. No secret is printed: one that the
file takes from the environment stays a reference, and in the place of any other
stands the name of a file to put it into.`,
		Example: `  postern config from-opa opa.yaml > postern.yaml
  postern config check -c postern.yaml`,
		Args: arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			text, err := os.ReadFile(args[0])
			if err != nil {
				return err
			}
			return fromOPA(cmd.OutOrStdout(), args[0], text, os.Getenv)
		},
	}
}

// fromOPA prints the translation.
func fromOPA(out io.Writer, name string, text []byte, getenv func(string) string) error {
	filled, err := bundle.FromOPA(name, text, getenv)
	if err != nil {
		return err
	}
	// Read again, with names in the place of what they stand for: secrets are taken
	// from here.
	named, err := bundle.FromOPA(name, text, func(name string) string { return "${env:" + name + "}" })
	if err != nil {
		return err
	}
	t := opaTranslation{Translation: filled, named: named}
	config := t.config()
	for _, note := range append(t.notes, filled.Notes...) {
		fmt.Fprintf(out, "# %s\n", note)
	}
	encoder := yaml.NewEncoder(out)
	encoder.SetIndent(2)
	if err := encoder.Encode(config.node()); err != nil {
		return err
	}
	return encoder.Close()
}

// section is a part of a configuration, in the order in which it is printed. What is
// empty is left out.
type section []setting

type setting struct {
	name  string
	value any
}

func (s section) node() *yaml.Node {
	n := &yaml.Node{Kind: yaml.MappingNode}
	for _, e := range s {
		var value yaml.Node
		switch v := e.value.(type) {
		case section:
			if len(v) == 0 {
				continue
			}
			value = *v.node()
			if len(value.Content) == 0 {
				continue
			}
		case []section:
			value.Kind = yaml.SequenceNode
			for _, one := range v {
				value.Content = append(value.Content, one.node())
			}
			if len(v) == 0 {
				continue
			}
		default:
			if isEmpty(v) {
				continue
			}
			_ = value.Encode(v) // plain values
		}
		n.Content = append(n.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: e.name}, &value)
	}
	return n
}

func isEmpty(v any) bool {
	switch v := v.(type) {
	case string:
		return v == ""
	case bool:
		return !v
	case []string:
		return len(v) == 0
	case map[string]string:
		return len(v) == 0
	}
	return false
}

// opaTranslation makes the sections.
type opaTranslation struct {
	*bundle.Translation
	named *bundle.Translation
	notes []string
}

func (t *opaTranslation) note(format string, values ...any) {
	t.notes = append(t.notes, fmt.Sprintf(format, values...))
}

// noCredentials is an empty list that is printed.
var noCredentials = yaml.Node{Kind: yaml.SequenceNode, Style: yaml.FlowStyle}

func (t *opaTranslation) config() section {
	t.note("OPA knows no callers: Postern looks for no credentials, and the policy decides about everybody.")
	t.note("Let Postern verify them instead (`credentials`, `issuers`); until then, a policy that reads Authorization")
	t.note("or cookies itself needs policy.insecure_expose_credentials: true.")
	return section{
		{"version", 1},
		{"listen", section{{"grpc", t.listen()}}},
		{"credentials", &noCredentials},
		{"routes", []section{{{"name", "everything"}, {"anonymous", true}}}},
		{"policy", t.policy()},
		{"decisions", section{{"events", t.events()}}},
	}
}

// listen keeps an address that only this machine reaches.
func (t *opaTranslation) listen() string {
	at := strings.TrimPrefix(t.Listen, "tcp://")
	if strings.HasPrefix(at, "unix://") {
		return "unix:" + strings.TrimPrefix(at, "unix://")
	}
	port := "9191"
	if i := strings.LastIndexByte(at, ':'); i >= 0 {
		port = at[i+1:]
	}
	if addr, err := netip.ParseAddrPort(at); err == nil && addr.Addr().IsLoopback() {
		return at
	}
	t.note("listen: other machines could reach %q; Postern wants `callers` or `tls.client_ca` for that, so this is loopback.", t.Listen)
	return "127.0.0.1:" + port
}

func (t *opaTranslation) policy() section {
	p := section{{"entrypoint", t.Entrypoint}, {"opa_envoy", t.Listen != ""}, {"proto_descriptor", string(t.ProtoDescriptor)}}
	if len(t.Config.Bundles) == 0 {
		t.note("policy: the file has no bundles; name the directory of the policy in policy.path.")
		return append(section{{"path", "policy"}}, p...)
	}
	var all []section
	for i := range t.Config.Bundles {
		all = append(all, t.bundle(&t.Config.Bundles[i], &t.named.Config.Bundles[i]))
	}
	p = append(p, setting{"bundles", all}, setting{"persist", string(t.Config.Persist)})
	if size := t.Config.Limits.Download; size > 0 {
		p = append(p, setting{"bundle_limits", section{{"download", size.String()}, {"bytes", size.String()}}})
	}
	return p
}

func (t *opaTranslation) bundle(b, named *bundle.Bundle) section {
	verify := section{{"insecure_skip", true}}
	if !b.Verify.InsecureSkip {
		var keys []section
		for i, k := range b.Verify.Keys { // its own, so that no key verifies the bundle of another
			keys = append(keys, t.key(k, named.Verify.Keys[i]))
		}
		verify = section{{"keys", keys}, {"scope", b.Verify.Scope}, {"exclude", b.Verify.Exclude}}
	}
	return section{
		{"name", b.Name}, {"url", b.URL}, {"oci", b.OCI}, {"file", string(b.File)},
		{"credentials", t.credentials(b.Name, &b.Credentials, &named.Credentials)}, {"ca_file", string(b.CAFile)}, {"insecure_http", b.InsecureHTTP},
		{"poll", section{{"min", lasting(b.Poll.Min)}, {"max", lasting(b.Poll.Max)}, {"wait", lasting(b.Poll.Wait)}}},
		{"verify", verify},
	}
}

func (t *opaTranslation) key(k, named bundle.Key) section {
	return section{
		{"id", k.ID}, {"algorithm", k.Algorithm}, {"key", k.Key}, {"file", string(k.File)},
		{"secret", t.secret("the secret of the key "+k.ID, k.ID+".secret", named.Secret)},
	}
}

var reference = regexp.MustCompile(`^\$\{env:[A-Za-z_][A-Za-z0-9_]*\}$`)

// secret is a reference to a secret, by the name of the variable or of a file.
func (t *opaTranslation) secret(what, file string, named policy.Secret) string {
	switch text := named.Reveal(); {
	case text == "":
		return ""
	case reference.MatchString(text):
		return text
	}
	t.note("Put %s into the file %s, readable for Postern only.", what, file)
	return "${file:" + file + "}"
}

func (t *opaTranslation) credentials(of string, c, named *bundle.Credentials) section {
	file := func(kind string) string { return strings.ReplaceAll(of, "/", "-") + "." + kind }
	s := section{{"bearer", t.secret("the token for "+of, file("token"), named.Bearer)}, {"bearer_file", string(c.BearerFile)}}
	if m := c.ClientCertificate; m != nil {
		s = append(s, setting{"client_certificate", section{{"cert", string(m.Cert)}, {"key", string(m.Key)}}})
	}
	if o := c.OAuth2; o != nil {
		secret := t.secret("the client's secret for "+of, file("secret"), named.OAuth2.ClientSecret)
		s = append(s, setting{"oauth2", section{{"token_url", o.TokenURL}, {"client_id", o.ClientID}, {"client_secret", secret}, {"scopes", o.Scopes}}})
	}
	if a := c.S3; a != nil {
		s = append(s, setting{"s3", section{{"from", string(a.From)}, {"region", a.Region}, {"profile", a.Profile}}})
	}
	if g := c.GCP; g != nil {
		s = append(s, setting{"gcp", section{{"scopes", g.Scopes}, {"audience", g.Audience}}})
	}
	if a := c.Azure; a != nil {
		s = append(s, setting{"azure", section{{"resource", a.Resource}, {"client_id", a.ClientID}}})
	}
	return s
}

func (t *opaTranslation) events() section {
	if t.Status != nil {
		t.note("status: Postern sends no reports; /readyz and /metrics say the same.")
	}
	d := t.DecisionLog
	if d == nil {
		return nil
	}
	t.note("decisions: OPA logs queries and bodies; Postern does so with events.query and events.body.")
	e := section{{"labels", t.Labels}, {"mask", ruleOf(d.Mask)}, {"drop", ruleOf(d.Drop)}, {"stdout", d.Console || d.URL == ""}}
	if d.URL == "" {
		return e
	}
	return append(e, setting{"service", section{
		{"url", d.URL}, {"credentials", t.credentials("decisions", &d.Credentials, &t.named.DecisionLog.Credentials)}, {"ca_file", string(d.CAFile)},
		{"delay", lasting(min(d.MinDelay, 10*time.Minute))},
	}})
}

// ruleOf is the name of a rule as Postern writes it.
func ruleOf(path string) string {
	if path == "" || strings.HasPrefix(path, "data.") {
		return path
	}
	return "data." + strings.ReplaceAll(strings.Trim(path, "/"), "/", ".")
}

func lasting(d time.Duration) string {
	if d == 0 {
		return ""
	}
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}
