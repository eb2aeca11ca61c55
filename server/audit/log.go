package audit

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"unicode"

	"github.com/postern-auth/postern/policy"
)

// Log writes decisions to a slog.Logger on a goroutine of its own. When it
// cannot keep up, records are dropped and counted, never waited for.
type Log struct {
	logger  *slog.Logger
	allows  bool
	records *queue[Record]
}

// NewLog starts a log of denies, and of allows as well if asked. Close ends it.
func NewLog(logger *slog.Logger, allows bool) *Log {
	l := &Log{logger: logger, allows: allows}
	l.records = newQueue(l.write)
	return l
}

// Record implements Recorder.
func (l *Log) Record(r *Record) {
	if r.Decision.Allowed && !l.allows || l.records.closing.Load() {
		return
	}
	l.records.put(r.own())
}

// Dropped is how many records were lost because the log could not keep up.
func (l *Log) Dropped() uint64 { return l.records.dropped.Load() }

// Close writes what is queued and ends the log, or gives up with ctx. It may be
// called once; records that come later are left out.
func (l *Log) Close(ctx context.Context) error { return l.records.close(ctx) }

func (l *Log) write(r Record) {
	r.scrub()
	level := slog.LevelInfo
	if r.Decision.Reason.Fault() {
		level = slog.LevelError
	}
	l.logger.LogAttrs(context.Background(), level, "decision", attrs(&r)...)
}

// attrs are the fields of one line. What clients and issuers chose is cut and
// written so that no terminal obeys it.
func attrs(r *Record) []slog.Attr {
	d := &r.Decision
	a := []slog.Attr{
		slog.String("decision_id", d.ID),
		slog.Bool("allowed", d.Allowed),
		slog.String("reason", d.Reason.String()),
		slog.String("phase", d.Phase.String()),
		slog.String("door", r.Door),
		slog.String("method", plain(r.Method)),
		slog.String("host", plain(r.Host)),
		slog.String("path", plain(r.Path)),
		slog.String("latency", r.Latency.String()),
		slog.String("revision", d.Revision),
	}
	add := func(name, value string) {
		if value != "" {
			a = append(a, slog.String(name, plain(value)))
		}
	}
	if r.Trace != nil {
		a = append(a, slog.String("trace_id", r.Trace.ID.String()), slog.String("span_id", r.Trace.Span.String()))
	}
	add("detail", d.Detail)
	add("approval", d.Approval)
	add("limits", limits(d))
	if d.Proposal != nil {
		add("action", d.Proposal.Action)
	}
	add("caller", r.Caller)
	add("request_id", r.RequestID)
	if r.ClientIP.IsValid() {
		add("client", r.ClientIP.String())
	}
	if p := d.Principal; p != nil {
		add("principal", p.ID)
		add("tenant", p.Tenant)
		add("principal_method", string(p.Method))
		add("credential", p.CredentialID)
		add("issuer", p.Issuer)
		if len(p.Actors) > 0 {
			a = append(a, slog.Any("actors", actors(p)))
		}
	}
	if d.Route != nil {
		add("route", d.Route.Name)
	}
	if v := d.Verdict; v != nil && v.File != "" {
		a = append(a, slog.String("rule", v.Rule), slog.String("file", v.File), slog.Int("line", v.Line))
	}
	return a
}

// limits are the budgets and rates that a decision was charged to, with what is left of
// each, or the one that refused: "llm-tokens/day 120/1000 tokens". The receipt of what
// was charged is in no log: who has it can say what was used.
func limits(d *policy.Decision) string {
	var b strings.Builder
	for i := range d.Budgets {
		s := &d.Budgets[i]
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "%s %d/%d %s", s.Name, s.Remaining, s.Limit, s.Unit)
	}
	return b.String()
}

// actors are the ids of those who act for the principal, the one who sent the request
// first.
func actors(p *policy.Principal) []string {
	ids := make([]string, len(p.Actors))
	for i := range ids {
		ids[i] = plain(p.Actors[i].ID)
	}
	return ids
}

// plain bounds a text and writes out the characters that slog's JSON leaves as
// they are and terminals obey: DEL, the C1 controls (U+009B is another ESC [), and
// marks of writing direction, which make a line look like another. What is below
// space, the handlers escape themselves.
func plain(s string) string {
	s = cut(s)
	if strings.IndexFunc(s, obeyed) < 0 {
		return s
	}
	var b strings.Builder
	for _, c := range s {
		if obeyed(c) {
			fmt.Fprintf(&b, `\u%04x`, c)
			continue
		}
		b.WriteRune(c)
	}
	return cut(b.String())
}

func obeyed(c rune) bool {
	return 0x7f <= c && c < 0xa0 || c > 0xff && unicode.Is(unicode.Bidi_Control, c)
}
