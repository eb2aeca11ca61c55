package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"

	adminv1 "github.com/postern-auth/postern/gen/postern/admin/v1"
	posternv1 "github.com/postern-auth/postern/gen/postern/v1"
	"github.com/postern-auth/postern/policy"
)

// watcher is `postern watch`.
type watcher struct {
	remote
	deny, allow              bool
	principal, tenant, route string
	reasons                  []string
	recent                   int32
	output                   lineFormat

	out, complaints io.Writer
	colours         bool
	retry           time.Duration
}

// lineFormat is how a command prints that prints as it goes.
type lineFormat string

// String, Set and Type implement pflag.Value.
func (f *lineFormat) String() string { return string(*f) }
func (*lineFormat) Type() string     { return "format" }
func (f *lineFormat) Set(s string) error {
	if s != "table" && s != "json" {
		return errors.New("use table or json")
	}
	*f = lineFormat(s)
	return nil
}

func watchCommand() *cobra.Command {
	w := watcher{output: "table", retry: time.Second}
	cmd := &cobra.Command{
		Use:   "watch",
		Short: "Show the decisions of a server as they are made",
		Long: `Shows each decision of a replica in a line as it is made: the time, allow or deny, the
HTTP status, the reason, who called and by what, what was asked, the route, how long it
took, and the id, with which "postern explain" tells how it came about. It goes on until
Ctrl-C, and connects again when the server was restarted.

Watching delays no decision. A terminal that cannot keep up loses lines and is told how
many; what is decided while there is no connection is not shown, and that is said too.

There are colours on a terminal, unless NO_COLOR is set.`,
		Example: `  postern watch
  postern watch --deny --recent 20
  postern watch --principal ann --tenant acme
  postern watch --reason permission_missing --reason policy_denied
  postern watch --deny -o json | jq -r .decision.decision_id`,
		Args: arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			w.out, w.complaints = cmd.OutOrStdout(), cmd.ErrOrStderr()
			w.colours = w.output == "table" && wantsColours(w.out)
			return w.watch(cmd.Context())
		},
	}
	w.callerFlags(cmd)
	f := cmd.Flags()
	f.BoolVar(&w.deny, "deny", false, "only denies")
	f.BoolVar(&w.allow, "allow", false, "only allows")
	f.StringVar(&w.principal, "principal", "", "only this principal")
	f.StringVar(&w.tenant, "tenant", "", "only this tenant")
	f.StringVar(&w.route, "route", "", "only this route")
	f.StringArrayVar(&w.reasons, "reason", nil, "only this reason, as policy_denied; repeatable")
	f.Int32Var(&w.recent, "recent", 0, "begin with so many of the last decisions, up to 1000")
	f.VarP(&w.output, "output", "o", "how to print: table or json, one object in a line")
	exclusive(cmd, "deny", "allow")
	completions(cmd, "output", "table", "json")
	completions(cmd, "reason", reasonWords()...)
	return cmd
}

func reasonWords() (words []string) {
	for _, r := range policy.Reasons() {
		words = append(words, r.String())
	}
	slices.Sort(words)
	return words
}

// wantsColours reports whether w is a terminal of somebody who has not asked for none
// (no-color.org).
func wantsColours(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" && term.IsTerminal(int(f.Fd()))
}

func (w *watcher) request() (*adminv1.WatchDecisionsRequest, error) {
	filter := &adminv1.DecisionFilter{Tenant: w.tenant, PrincipalId: w.principal, Route: w.route}
	if w.deny || w.allow {
		filter.Allowed = &w.allow
	}
	for _, text := range w.reasons {
		r, ok := policy.ParseReason(text)
		if !ok {
			return nil, fmt.Errorf("--reason %s: there is no such reason; docs/reasons.md lists them", printable(text))
		}
		filter.Reasons = append(filter.Reasons, posternv1.Reason(r))
	}
	return &adminv1.WatchDecisionsRequest{Filter: filter, Recent: w.recent}, nil
}

// watch goes on until ctx ends, which is how it is meant to end. The first connection has
// to succeed; after that, it is tried again and again.
func (w *watcher) watch(ctx context.Context) error {
	req, err := w.request()
	if err != nil {
		return err
	}
	if !w.private() {
		return w.errPublic()
	}
	conn, err := w.Dial()
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	connected := false
	for said := ""; ; {
		err := w.follow(ctx, conn, req, func() {
			if connected {
				fmt.Fprintln(w.complaints, "postern: connected again; what was decided meanwhile is not shown")
			}
			connected, said, req.Recent = true, "", 0
		})
		switch {
		case ctx.Err() != nil:
			return nil
		case !connected || isFinal(err):
			return w.explain(err)
		}
		if text := w.lost(err); text != said { // said once, however long it takes
			fmt.Fprintln(w.complaints, "postern: "+text+"; trying again until Ctrl-C")
			said = text
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(w.retry):
		}
		conn.ResetConnectBackoff()
	}
}

// isFinal reports whether asking again is of no use.
func isFinal(err error) bool {
	s := status.Convert(err)
	info, _ := details(s)
	return slices.Contains(refusals, s.Code()) || s.Code() == codes.Unimplemented || info.GetReason() == "QUOTA_EXCEEDED"
}

// lost says why there are no more decisions.
func (w *watcher) lost(err error) string {
	if err == nil || errors.Is(err, io.EOF) {
		return "the server has ended the stream"
	}
	return printable(w.NoAnswer(status.Convert(err)).Error())
}

// silence is how long nothing may come from a server, which says every 10 s that it is there.
const silence = 30 * time.Second

var errSilent = status.Error(codes.DeadlineExceeded, "deadline exceeded")

// follow prints decisions until the stream ends. Began is called when it begins, which
// has to be within the time that a call may take.
func (w *watcher) follow(ctx context.Context, conn *grpc.ClientConn, req *adminv1.WatchDecisionsRequest, began func()) error {
	call, release, err := w.asCaller(ctx)
	if err != nil {
		return err
	}
	release() // only who is asking is taken from it: this call has no end
	shown, _ := metadata.FromOutgoingContext(call)
	ctx, cancel := context.WithCancelCause(metadata.NewOutgoingContext(ctx, shown))
	defer cancel(nil)
	silent := time.AfterFunc(w.Timeout, func() { cancel(errSilent) })
	defer silent.Stop()
	stream, err := adminv1.NewDecisionServiceClient(conn).WatchDecisions(ctx, req, grpc.MaxCallRecvMsgSize(maxAnswer))
	for first := true; err == nil; first = false {
		var res *adminv1.WatchDecisionsResponse
		if res, err = stream.Recv(); err != nil {
			break
		}
		silent.Reset(silence)
		if first {
			began()
		}
		err = w.print(res)
	}
	if errors.Is(context.Cause(ctx), errSilent) {
		return errSilent
	}
	return err
}

func (w *watcher) print(res *adminv1.WatchDecisionsResponse) error {
	if n := res.GetLost(); n > 0 {
		fmt.Fprintf(w.complaints, "postern: %d decisions were made too fast to be shown\n", n)
	}
	var b strings.Builder
	for _, d := range res.GetDecisions() {
		if w.output == "json" {
			text, err := jsonLine(d)
			if err != nil {
				return err
			}
			b.Write(text)
			continue
		}
		b.WriteString(w.line(d))
	}
	_, err := io.WriteString(w.out, b.String())
	return err
}

// jsonLine is a record in one line, always written alike.
func jsonLine(d *adminv1.DecisionRecord) ([]byte, error) {
	text, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(d)
	if err != nil {
		return nil, err
	}
	var v map[string]any
	if err := json.Unmarshal(text, &v); err != nil {
		return nil, err
	}
	text, err = json.Marshal(v)
	return append(text, '\n'), err
}

// The colours of a terminal (ECMA-48, SGR).
const (
	green, red, faint, plainly = "\x1b[32m", "\x1b[31m", "\x1b[2m", "\x1b[0m"
)

func (w *watcher) paint(colour, text string) string {
	if !w.colours || text == "" {
		return text
	}
	return colour + text + plainly
}

// line is a decision for people. What a client chose cannot move the cursor.
func (w *watcher) line(d *adminv1.DecisionRecord) string {
	colour, verdict := red, "deny"
	if d.GetDecision().GetAllowed() {
		colour, verdict = green, "allow"
	}
	p := d.GetPrincipal()
	who := p.GetId()
	if t := p.GetTenant(); t != "" {
		who = t + "/" + who
	}
	if who == "" {
		who = "-"
	}
	what := strings.TrimSpace(d.GetMethod() + " " + d.GetHost() + d.GetPath())
	if what == "" {
		what = "-"
	}
	line := w.paint(faint, d.GetTime().AsTime().Local().Format("15:04:05.000")) + "  " +
		w.paint(colour, fmt.Sprintf("%-5s %3d", verdict, d.GetDecision().GetHttpStatus())) +
		fmt.Sprintf("  %-22s  %-20s  %-8s  %s", word(d.GetDecision().GetReason(), "REASON_"), printable(who), printable(orDash(p.GetMethod())), printable(what))
	if route := d.GetRoute(); route != "" {
		line += w.paint(faint, "  ["+printable(route)+"]")
	}
	line += w.paint(faint, "  "+d.GetLatency().AsDuration().Round(time.Microsecond).String())
	if d.GetCached() {
		line += w.paint(faint, " cached")
	}
	return line + w.paint(faint, "  "+printable(d.GetDecision().GetDecisionId())) + "\n"
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
