package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	posternv1 "github.com/postern-auth/postern/gen/postern/v1"
	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server"
	grpcdoor "github.com/postern-auth/postern/server/door/grpc"
)

// question is what `postern check` asks.
type question struct {
	connection
	config  string
	headers []string
	source  string
	cost    []string
	body    string
	output  format
}

func checkCommand() *cobra.Command {
	var q question
	cmd := &cobra.Command{
		Use:   "check [METHOD] URL",
		Short: "Ask whether a request would be allowed, and why",
		Long: `Asks a running server about one request, or with -c decides here and now with
the configuration in a file, where nothing is charged to budgets and rates. Prints
the decision; the exit status is 0 for allow, 1 for deny, and 2 if there is no
answer.

A header value @FILE is read from that file, and @- from standard input, so that
a credential shows up in no process list or shell history; in authorization, it
may follow the scheme.

The path is sent as it is typed, dots and escapes included: how it is read is the
server's business.`,
		Example: `  postern check https://api.example.com/orders/7 -H 'x-api-key: @key.txt'
  postern check POST https://api.example.com/orders -H 'authorization: Bearer @token.txt'
  postern check -c postern.yaml https://api.example.com/orders/7 -H 'x-api-key: @-' < key.txt
  postern check POST https://api.example.com/v1/chat/completions -H 'x-api-key: @key.txt' --body prompt.json
  postern check --cost tokens=500 POST https://llm.example.com/v1/chat/completions -H 'x-api-key: @key.txt'
  postern check -o json https://api.example.com/healthz`,
		Args: arguments(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			req, err := q.request(cmd.InOrStdin(), args)
			if err != nil {
				return err
			}
			res, err := q.ask(cmd.Context(), req)
			if err != nil {
				return err
			}
			if err := render(cmd.OutOrStdout(), q.output, res, func() []row { return decisionRows(res, asked(req)) }); err != nil {
				return err
			}
			return exitOf(res.GetDecision())
		},
	}
	q.flags(cmd, "server", defaultServer)
	configFlag(cmd, &q.config, "", "decide here with this configuration instead of asking a server")
	q.requestFlags(cmd)
	outputFlag(cmd, &q.output)
	exclusive(cmd, "config", "server", "tls", "ca", "cert", "key", "caller-token-file")
	return cmd
}

// requestFlags adds the flags that say what a request is, besides its URL.
func (q *question) requestFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringArrayVarP(&q.headers, "header", "H", nil, "header field of the request, as 'name: value'; repeatable")
	f.StringVar(&q.body, "body", "", "file with the body of the request; - is standard input")
	f.StringVar(&q.source, "source", "127.0.0.1", "address of the client")
	f.StringArrayVar(&q.cost, "cost", nil, "what the request costs, as tokens=500: tokens, requests or micros; repeatable")
	completions(cmd, "cost", "tokens=", "requests=", "micros=")
}

// exitOf makes a decision the exit status. A fault is no answer.
func exitOf(d *posternv1.Decision) error {
	switch {
	case d.GetAllowed():
		return nil
	case policy.Reason(d.GetReason()).Fault():
		return &exitError{exitFault}
	}
	return &exitError{exitDeny}
}

func (q *question) request(stdin io.Reader, args []string) (*posternv1.CheckRequest, error) {
	target, err := httpTarget(args)
	if err != nil {
		return nil, err
	}
	if _, err := netip.ParseAddr(q.source); err != nil {
		return nil, fmt.Errorf("--source %q is not an IP address", q.source)
	}
	target.SourceIp = q.source
	for _, h := range q.headers {
		name, value, ok := strings.Cut(h, ":")
		if !ok { // not shown: it may be the credential itself
			return nil, errors.New("-H has no colon; a header field is 'name: value'")
		}
		name, value = strings.TrimSpace(name), strings.TrimSpace(value)
		if value, err = fromFile(stdin, name, value); err != nil {
			return nil, fmt.Errorf("-H %s: %w", name, err)
		}
		target.Headers = append(target.Headers, &posternv1.HeaderField{Name: name, Value: value})
	}
	if target.Body, err = q.readBody(stdin); err != nil {
		return nil, err
	}
	cost, err := amounts("--cost", q.cost)
	if err != nil {
		return nil, err
	}
	return &posternv1.CheckRequest{Target: &posternv1.Target{Kind: &posternv1.Target_Http{Http: target}}, Cost: cost}, nil
}

// maxBodyFile is more than request.limits.max_body_bytes is anywhere: the server says so.
const maxBodyFile = 3 << 20

// readBody reads the file of --body; nil without it.
func (q *question) readBody(stdin io.Reader) ([]byte, error) {
	if q.body == "" {
		return nil, nil
	}
	source := stdin
	if q.body != "-" {
		f, err := os.Open(q.body)
		if err != nil {
			return nil, fmt.Errorf("--body: %w", err)
		}
		defer func() { _ = f.Close() }()
		source = f
	}
	text, err := io.ReadAll(io.LimitReader(source, maxBodyFile+1))
	if err == nil && len(text) > maxBodyFile {
		err = fmt.Errorf("longer than %d MiB, which no message holds", maxBodyFile>>20)
	}
	if err != nil {
		return nil, fmt.Errorf("--body: %w", err)
	}
	return text, nil
}

// errURL does not repeat the URL, in which there may be a password.
var errURL = errors.New("that is not a URL such as https://api.example.com/orders/7")

// httpTarget reads [METHOD] URL. Only what stands before the path is parsed.
func httpTarget(args []string) (*posternv1.HttpTarget, error) {
	method, target := http.MethodGet, args[len(args)-1]
	if len(args) == 2 {
		method = args[0]
	}
	scheme, rest, _ := strings.Cut(target, "://")
	authority, path := rest, "/"
	if i := strings.IndexAny(rest, "/?#"); i >= 0 {
		authority, path = rest[:i], rest[i:]
	}
	if path[0] != '/' {
		path = "/" + path
	}
	u, err := url.Parse(scheme + "://" + authority)
	switch {
	case err != nil || u.Hostname() == "" || u.Scheme != "http" && u.Scheme != "https":
		return nil, errURL
	case u.User != nil:
		return nil, errors.New("the URL holds a user's name or password; send them as -H 'authorization: Basic @FILE'")
	}
	return &posternv1.HttpTarget{Method: method, Scheme: u.Scheme, Host: authority, Path: path}, nil
}

// maxHeaderFile is more than any server takes as a header field.
const maxHeaderFile = 1 << 20

// fromFile puts the content of a file in place of @FILE, which in authorization
// may follow a scheme: "Bearer @token.txt".
func fromFile(stdin io.Reader, header, value string) (string, error) {
	before, name, found := strings.Cut(value, "@")
	scheme := strings.EqualFold(header, "authorization") && strings.Count(before, " ") == 1 && strings.HasSuffix(before, " ")
	if !found || before != "" && !scheme {
		return value, nil
	}
	source := stdin
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return "", err
		}
		defer func() { _ = f.Close() }()
		source = f
	}
	content, err := io.ReadAll(io.LimitReader(source, maxHeaderFile))
	text := strings.TrimSpace(string(content))
	if err == nil && text == "" {
		err = fmt.Errorf("@%s is empty", name)
	}
	return before + text, err
}

func (q *question) ask(ctx context.Context, req *posternv1.CheckRequest) (*posternv1.CheckResponse, error) {
	if q.config != "" {
		return q.decideHere(ctx, req)
	}
	conn, err := q.Dial()
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	ctx, cancel, err := q.Context(ctx)
	if err != nil {
		return nil, err
	}
	defer cancel()
	res, err := posternv1.NewCheckServiceClient(conn).Check(ctx, req)
	if err != nil {
		return nil, q.ExplainRPC(err)
	}
	return res, nil
}

// decideHere asks the same door as a server's caller would, without a wire.
func (q *question) decideHere(ctx context.Context, req *posternv1.CheckRequest) (*posternv1.CheckResponse, error) {
	cfg, err := loadConfig(q.config)
	if err != nil {
		return nil, err
	}
	checker, done, err := server.Offline(ctx, cfg)
	if err != nil {
		return nil, err
	}
	defer done()
	ctx, cancel := context.WithTimeout(ctx, q.Timeout)
	defer cancel()
	return grpcdoor.New(checker, checker, slog.New(slog.DiscardHandler)).Check(ctx, req)
}

// asked is what was asked about, as it was typed: a method in small letters is another
// method (RFC 9110 section 9.1). A query may hold a secret, and is left out.
func asked(req *posternv1.CheckRequest) row {
	t := req.GetTarget().GetHttp()
	path, _, _ := strings.Cut(t.GetPath(), "?")
	return row{"request", t.GetMethod() + " " + t.GetScheme() + "://" + t.GetHost() + path}
}

// decisionRows are a decision as a table. What is known besides stands behind who asked.
func decisionRows(res *posternv1.CheckResponse, besides ...row) []row {
	d, p := res.GetDecision(), res.GetPrincipal()
	verdict := "deny"
	if d.GetAllowed() {
		verdict = "allow"
	}
	rows := []row{
		{"decision", verdict},
		{"reason", word(d.GetReason(), "REASON_")},
		{"status", strconv.Itoa(int(d.GetHttpStatus()))},
		{"message", d.GetMessage()},
		{"missing scopes", strings.Join(d.GetMissingScopes(), " ")},
		{"missing permissions", strings.Join(d.GetMissingPermissions(), " ")},
	}
	if r := d.GetRule(); r != nil {
		rows = append(rows, row{"rule", fmt.Sprintf("%s at %s:%d", r.GetRule(), r.GetFile(), r.GetLine())})
	}
	if p != nil {
		rows = append(rows,
			row{"principal", p.GetId()},
			row{"kind", word(p.GetKind(), "PRINCIPAL_KIND_")},
			row{"tenant", p.GetTenant()},
			row{"roles", strings.Join(p.GetRoles(), " ")},
			row{"scopes", strings.Join(p.GetScopes(), " ")},
			row{"method", p.GetMethod()},
			row{"credential", p.GetCredentialId()},
			row{"issuer", p.GetIssuer()},
		)
	}
	if delay := d.GetRetryDelay(); delay != nil {
		rows = append(rows, row{"try again in", formatDuration(delay.AsDuration().Round(time.Millisecond))})
	}
	rows = append(append(rows, besides...), limitRows(d.GetBudgets())...)
	return append(rows, row{"reservation", d.GetReservation()}, row{"policy", d.GetPolicyRevision()}, row{"decision id", d.GetDecisionId()})
}

// word is a value of an enumeration as people write it.
func word(value fmt.Stringer, prefix string) string {
	return strings.ToLower(strings.TrimPrefix(value.String(), prefix))
}
