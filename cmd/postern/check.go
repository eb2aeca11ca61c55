package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	posternv1 "github.com/postern-auth/postern/gen/postern/v1"
	"github.com/postern-auth/postern/server"
	grpcdoor "github.com/postern-auth/postern/server/door/grpc"
)

// question is what `postern check` asks.
type question struct {
	connection
	config  string
	headers []string
	source  string
	output  string
}

func checkCommand() *cobra.Command {
	var q question
	cmd := &cobra.Command{
		Use:   "check [METHOD] URL",
		Short: "Ask whether a request would be allowed, and why",
		Long: `Asks a running server about one request, or with -c decides here and now with
the configuration in a file. Prints the decision; the exit status is 0 for allow,
1 for deny, and 2 if there is no answer.

A header value that starts with @ is read from that file, and @- from standard
input, so that a credential shows up in no process list or shell history.`,
		Example: `  postern check https://api.example.com/orders/7 -H 'x-api-key: @key.txt'
  postern check POST https://api.example.com/orders -H 'authorization: Bearer @token.txt'
  postern check -c postern.yaml https://api.example.com/orders/7 -H 'x-api-key: @-' < key.txt
  postern check -o json https://api.example.com/healthz`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			req, err := q.request(cmd.InOrStdin(), args)
			if err != nil {
				return err
			}
			res, err := q.ask(cmd.Context(), req)
			if err != nil {
				return err
			}
			if err := render(cmd.OutOrStdout(), q.output, res, func() []row { return decisionRows(res) }); err != nil {
				return err
			}
			return exitOf(res.GetDecision())
		},
	}
	q.flags(cmd, "server", "127.0.0.1:9191")
	f := cmd.Flags()
	f.StringVarP(&q.config, "config", "c", "", "decide here with this configuration instead of asking a server")
	f.StringArrayVarP(&q.headers, "header", "H", nil, "header field of the request, as 'name: value'; repeatable")
	f.StringVar(&q.source, "source", "127.0.0.1", "address of the client")
	outputFlag(cmd, &q.output)
	return cmd
}

// exitOf makes a decision the exit status. A fault is no answer.
func exitOf(d *posternv1.Decision) error {
	switch {
	case d.GetAllowed():
		return nil
	case d.GetHttpStatus() == http.StatusServiceUnavailable:
		return &exitError{status: exitFault}
	}
	return &exitError{status: exitDeny}
}

func (q *question) request(stdin io.Reader, args []string) (*posternv1.CheckRequest, error) {
	method, target := http.MethodGet, args[len(args)-1]
	if len(args) == 2 {
		method = args[0]
	}
	u, err := url.Parse(target)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, fmt.Errorf("%q is not a URL such as https://api.example.com/orders/7", target)
	}
	if _, err := netip.ParseAddr(q.source); err != nil {
		return nil, fmt.Errorf("--source %q is not an address", q.source)
	}
	// The path goes out as it was typed: how it is read is the server's business.
	_, rest, _ := strings.Cut(target, "://")
	path := "/"
	if i := strings.IndexAny(rest, "/?"); i >= 0 {
		path = rest[i:]
	}
	if strings.HasPrefix(path, "?") {
		path = "/" + path
	}
	http := &posternv1.HttpTarget{Method: method, Scheme: u.Scheme, Host: u.Host, Path: path, SourceIp: q.source}
	for _, h := range q.headers {
		name, value, ok := strings.Cut(h, ":")
		if !ok {
			return nil, fmt.Errorf("-H %q: a header field is 'name: value'", name)
		}
		value, err := fromFile(stdin, strings.TrimSpace(value))
		if err != nil {
			return nil, err
		}
		http.Headers = append(http.Headers, &posternv1.HeaderField{Name: strings.TrimSpace(name), Value: value})
	}
	return &posternv1.CheckRequest{Target: &posternv1.Target{Kind: &posternv1.Target_Http{Http: http}}}, nil
}

// fromFile puts the content of a file where a value says @FILE, also after a
// scheme: "Bearer @token.txt".
func fromFile(stdin io.Reader, value string) (string, error) {
	before, name, found := strings.Cut(value, "@")
	if !found || before != "" && !strings.HasSuffix(before, " ") {
		return value, nil
	}
	var content []byte
	var err error
	if name == "-" {
		content, err = io.ReadAll(io.LimitReader(stdin, 1<<20))
	} else {
		content, err = os.ReadFile(name)
	}
	return before + strings.TrimSpace(string(content)), err
}

func (q *question) ask(ctx context.Context, req *posternv1.CheckRequest) (*posternv1.CheckResponse, error) {
	if q.config != "" {
		return q.decideHere(ctx, req)
	}
	conn, err := q.dial()
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	ctx, cancel, err := q.context(ctx)
	if err != nil {
		return nil, err
	}
	defer cancel()
	res, err := posternv1.NewCheckServiceClient(conn).Check(ctx, req)
	if err != nil {
		return nil, q.explainRPC(err)
	}
	return res, nil
}

// decideHere asks the same door as a server's caller would, without a wire.
func (q *question) decideHere(ctx context.Context, req *posternv1.CheckRequest) (*posternv1.CheckResponse, error) {
	cfg, err := server.LoadConfig(q.config)
	if err != nil {
		return nil, err
	}
	checker, done, err := server.Offline(ctx, cfg)
	if err != nil {
		return nil, err
	}
	defer done()
	ctx, cancel := context.WithTimeout(ctx, q.timeout)
	defer cancel()
	return grpcdoor.New(checker, checker, slog.New(slog.DiscardHandler)).Check(ctx, req)
}

func decisionRows(res *posternv1.CheckResponse) []row {
	d, p := res.GetDecision(), res.GetPrincipal()
	verdict := "deny"
	if d.GetAllowed() {
		verdict = "allow"
	}
	rows := []row{
		{"decision", verdict},
		{"reason", strings.ToLower(strings.TrimPrefix(d.GetReason().String(), "REASON_"))},
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
			row{"kind", strings.ToLower(strings.TrimPrefix(p.GetKind().String(), "PRINCIPAL_KIND_"))},
			row{"tenant", p.GetTenant()},
			row{"roles", strings.Join(p.GetRoles(), " ")},
			row{"scopes", strings.Join(p.GetScopes(), " ")},
			row{"method", p.GetMethod()},
			row{"credential", p.GetCredentialId()},
			row{"issuer", p.GetIssuer()},
		)
	}
	return append(rows, row{"policy", d.GetPolicyRevision()}, row{"decision id", d.GetDecisionId()})
}
