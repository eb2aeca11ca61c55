package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/policy/author"
	"github.com/postern-auth/postern/policy/rego"
	"github.com/postern-auth/postern/server/canonical"
)

// caller is a request that nobody makes: what it asks and who asks, by flags.
type caller struct {
	headers, roles, scopes, permissions []string
	id, kind, tenant, principal, source string
	claims, metadata                    map[string]string
	route, permission                   string
}

func (c *caller) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringArrayVarP(&c.headers, "header", "H", nil, "header field of the request, as 'name: value'; repeatable")
	f.StringVar(&c.source, "source", "127.0.0.1", "address of the client")
	f.StringVar(&c.principal, "principal", "", "YAML file with the principal, as in a table of tests")
	f.StringVar(&c.id, "id", "", "id of the principal (default: nobody, anonymous)")
	f.StringVar(&c.kind, "kind", "user", "user, service, agent or device")
	f.StringVar(&c.tenant, "tenant", "", "the principal's tenant")
	f.StringArrayVar(&c.roles, "role", nil, "a role; repeatable")
	f.StringArrayVar(&c.scopes, "scope", nil, "a scope; repeatable")
	f.StringArrayVar(&c.permissions, "permission", nil, "a permission; repeatable")
	f.StringToStringVar(&c.claims, "claim", nil, "a claim, as team=billing; repeatable")
	f.StringToStringVar(&c.metadata, "metadata", nil, "a fact on the credential, as team=billing; repeatable")
	f.StringVar(&c.route, "route", "", "name of the route that matched")
	f.StringVar(&c.permission, "route-permission", "", "permission that the route needs")
	for _, flag := range []string{"id", "tenant", "role", "scope", "permission", "claim", "metadata"} {
		exclusive(cmd, "principal", flag)
	}
	completions(cmd, "kind", "user", "service", "agent", "device")
	_ = cmd.MarkFlagFilename("principal", "yaml", "yml")
}

// question is the request as a table of tests has it.
func (c *caller) question(stdin io.Reader, args []string) (*author.Question, error) {
	target, err := httpTarget(args)
	if err != nil {
		return nil, err
	}
	q := &author.Question{Request: &author.Request{
		Method: target.GetMethod(), Scheme: target.GetScheme(), Host: target.GetHost(), Path: target.GetPath(),
		Source: c.source, Headers: map[string]string{},
	}}
	for _, h := range c.headers {
		name, value, ok := strings.Cut(h, ":")
		if !ok { // not shown: it may be the credential itself
			return nil, errors.New("-H has no colon; a header field is 'name: value'")
		}
		name, value = strings.TrimSpace(name), strings.TrimSpace(value)
		if q.Request.Headers[name], err = fromFile(stdin, name, value); err != nil {
			return nil, fmt.Errorf("-H %s: %w", name, err)
		}
	}
	if c.route != "" || c.permission != "" {
		q.Route = &author.Route{Name: c.route, Permission: c.permission}
	}
	q.Principal, err = c.who()
	return q, err
}

func (c *caller) who() (*author.Principal, error) {
	if c.principal != "" {
		f, err := os.Open(c.principal)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		return author.ReadPrincipal(c.principal, f)
	}
	if c.id == "" {
		if len(c.roles)+len(c.scopes)+len(c.permissions)+len(c.claims)+len(c.metadata) > 0 || c.tenant != "" {
			return nil, errors.New("say who it is: --id")
		}
		return nil, nil
	}
	return &author.Principal{
		ID: c.id, Kind: c.kind, Tenant: c.tenant, Roles: c.roles, Scopes: c.scopes, Permissions: c.permissions,
		Claims: anyValues(c.claims), Metadata: anyValues(c.metadata),
	}, nil
}

func anyValues(m map[string]string) map[string]any {
	if len(m) == 0 {
		return nil
	}
	out := map[string]any{}
	for name, v := range m {
		out[name] = v
	}
	return out
}

// evaluation is what `postern policy eval` says.
type evaluation struct {
	*author.Answer `yaml:",inline"`
	// Decision is that of the entrypoint; nil for another query.
	Decision *author.Answered `json:"decision,omitempty" yaml:"decision,omitempty"`
	// Cached says that the same request was answered from memory the second time.
	Cached *bool `json:"cached,omitempty" yaml:"cached,omitempty"`
	// First and Second are how long the two took.
	First  time.Duration `json:"first_ns,omitempty" yaml:"first_ns,omitempty"`
	Second time.Duration `json:"second_ns,omitempty" yaml:"second_ns,omitempty"`

	verdict *policy.Verdict
}

func policyEvalCommand() *cobra.Command {
	var d desk
	var c caller
	var output format
	var query, input string
	cmd := &cobra.Command{
		Use:   "eval DIR|BUNDLE [[METHOD] URL]",
		Short: "Ask a policy, and show which rules had a part in the answer",
		Long: `Asks the policy about a request that nobody made, or about an input document. Without
--query, it asks the rule that decides. Prints the answer, whether it can be
remembered, how long it took, and the rules that were tried: those that had a value,
and where the others failed.

The exit status is 0, or 1 for a deny and for a query that is undefined.`,
		Example: `  postern policy eval policy https://shop.test/orders/7 --id ann --role reader
  postern policy eval policy POST https://shop.test/orders/7/refund --principal ann.yaml
  postern policy eval policy -i input.json
  postern policy eval policy --query 'data.postern.lib.rbac.decision.missing_permissions' -i input.json
  postern policy eval policy --query 'data.roles[name]'`,
		Args: arguments(1, 3),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, p, err := d.compile(cmd, args[:1])
			if err != nil {
				return err
			}
			var out *evaluation
			switch {
			case input != "" && len(args) > 1:
				return errors.New("give a request or an input document, not both")
			case len(args) > 1:
				out, err = evalRequest(cmd, p, &c, args[1:], query)
			default:
				out, err = evalDocument(cmd, p, query, input)
			}
			if err != nil {
				return s.placed(err)
			}
			if err := out.print(cmd.OutOrStdout(), output, s); err != nil {
				return err
			}
			if out.verdict != nil && !out.verdict.Allow || len(out.Results) == 0 {
				return &exitError{exitDeny}
			}
			return nil
		},
	}
	d.flags(cmd)
	c.flags(cmd)
	cmd.Flags().StringVarP(&query, "query", "q", "", "Rego to evaluate (default: the rule that decides)")
	cmd.Flags().StringVarP(&input, "input", "i", "", "JSON file with the input document, - for standard input")
	_ = cmd.MarkFlagFilename("input", "json")
	outputFlag(cmd, &output)
	return cmd
}

func evalRequest(cmd *cobra.Command, p *author.Policy, c *caller, args []string, query string) (*evaluation, error) {
	q, err := c.question(cmd.InOrStdin(), args)
	if err != nil {
		return nil, err
	}
	in, err := q.Input()
	if refusal, ok := errors.AsType[*canonical.Refusal](err); ok {
		return nil, fmt.Errorf("the request never gets to a policy: %w", refusal)
	}
	if err != nil {
		return nil, err
	}
	answer, err := p.EvalRequest(cmd.Context(), query, in)
	if err != nil {
		return nil, err
	}
	out := &evaluation{Answer: answer}
	if query != "" {
		return out, nil
	}
	decided, err := p.Decide(cmd.Context(), in)
	if err != nil {
		return nil, err
	}
	out.decided(decided.Verdict)
	out.Cached, out.First, out.Second = &decided.Cached, decided.Took, decided.Again
	return out, nil
}

func (e *evaluation) decided(v *policy.Verdict) {
	e.verdict = v
	e.Decision = author.AnsweredBy(v)
}

func evalDocument(cmd *cobra.Command, p *author.Policy, query, file string) (*evaluation, error) {
	document := any(map[string]any{})
	if file != "" {
		text, err := readImport(cmd.InOrStdin(), file)
		if err != nil {
			return nil, err
		}
		if document, err = rego.DecodeDocument([]byte(text)); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
	}
	answer, err := p.Eval(cmd.Context(), query, document)
	if err != nil {
		return nil, err
	}
	out := &evaluation{Answer: answer}
	if query == "" {
		v, err := p.DecideInput(cmd.Context(), document, time.Now())
		if err != nil {
			return nil, err
		}
		out.decided(v)
	}
	return out, nil
}

func (e *evaluation) print(w io.Writer, output format, s *source) error {
	for i := range e.Steps {
		e.Steps[i].File = s.place(e.Steps[i].File)
	}
	if output != "table" {
		return encodeEvaluation(w, output, e)
	}
	rows := e.rows(s)
	if err := printRows(w, rows); err != nil || len(e.Steps) == 0 {
		return err
	}
	fmt.Fprintln(w)
	for _, step := range e.Steps {
		if _, err := fmt.Fprintln(w, printable(step.String())); err != nil {
			return err
		}
	}
	return nil
}

// encodeEvaluation goes through JSON: results hold numbers with all their digits.
func encodeEvaluation(w io.Writer, output format, e *evaluation) error {
	if output == "json" {
		return encodeValue(w, output, e)
	}
	text, err := json.Marshal(e)
	if err != nil {
		return err
	}
	var v any
	if err := json.Unmarshal(text, &v); err != nil {
		return err
	}
	return encodeValue(w, output, v)
}

func (e *evaluation) rows(s *source) []row {
	var rows []row
	if v := e.verdict; v != nil {
		rows = append(rows, row{"decision", map[bool]string{true: "allow", false: "deny"}[v.Allow]}, row{"reason", v.Reason.String()})
		if !v.Allow {
			rows = append(rows,
				row{"status", strconv.Itoa(author.Status(v))}, row{"message", author.Message(v)},
				row{"missing scopes", strings.Join(v.MissingScopes, " ")}, row{"missing permissions", strings.Join(v.MissingPermissions, " ")},
				row{"rule", s.where(v)})
		}
	}
	for _, r := range e.Results {
		text, err := json.Marshal(r)
		if err != nil {
			text = []byte(err.Error())
		}
		rows = append(rows, row{"result", string(text)})
	}
	if len(e.Results) == 0 {
		rows = append(rows, row{"result", "undefined"})
	}
	rows = append(rows, row{"took", e.Took.Round(time.Microsecond / 10).String()}, row{"cached", e.memory()})
	for _, cause := range e.Causes {
		rows = append(rows, row{"not cached", cause})
	}
	return rows
}

// memory says whether the answer can be remembered.
func (e *evaluation) memory() string {
	switch {
	case e.Cached != nil && *e.Cached:
		return fmt.Sprintf("yes: the second time took %s", e.Second.Round(time.Microsecond/10))
	case !e.Cacheable:
		return "no"
	case e.Cached != nil:
		return "no: the cache is off"
	}
	return "it could be"
}

// where is the rule of a deny, and where an editor finds it.
func (s *source) where(v *policy.Verdict) string {
	own := *v
	if own.File != "" {
		own.File = s.place(own.File)
	}
	return author.Where(&own)
}
