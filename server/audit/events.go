package audit

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/postern-auth/postern/policy"
)

// Policy answers what events ask the policy in force (rego.Scribe). Its errors hold
// nothing of the request.
type Policy interface {
	Revision() string
	// Entrypoint is the rule that decides, data.postern.authz.decision.
	Entrypoint() string
	// Input is the input document as a JSON value that belongs to the caller. With an
	// error that is not nil, parts of it are missing.
	Input(in *policy.Input) (map[string]any, error)
	// Silent reports that it would neither mask nor drop anything.
	Silent() bool
	// Mask says what of an event to hide; nil for nothing.
	Mask(ctx context.Context, event map[string]any) (any, error)
	// Drop says whether to leave the event out.
	Drop(ctx context.Context, event map[string]any) (bool, error)
}

// EventsConfig says what events there are and what is in them.
type EventsConfig struct {
	// Allows has allows logged as well as denies.
	Allows bool
	// Query and Body keep queries, and what was read of bodies, in the input.
	Query, Body bool
	// Labels are in each event.
	Labels map[string]string
	// LooksSecret tells the names of what is left out wherever clients choose names.
	LooksSecret func(name string) bool
	// Policy is the policy in force; nil if there is none, and events then have no
	// input, because nobody can say what of it is to be masked.
	Policy func() Policy
	// Bundles are the revisions of the bundles in force, by name; may be nil.
	Bundles func() map[string]string
	// Logger is told of masks that fail, once for each way in which they do.
	Logger *slog.Logger
}

// Events makes events of decisions and hands them to sinks. It is a Recorder.
type Events struct {
	cfg     EventsConfig
	boxes   []*outbox
	entries *waiting

	counts eventCounts
	told   string // the last failure that was logged; of the one goroutine
}

// eventCounts count what does not wait: lost are those that could not be written.
type eventCounts struct{ made, lost, dropped, unmasked atomic.Uint64 }

// EventStats count events.
type EventStats struct {
	// Made became events, Lost did not because too many waited, and Dropped because
	// the policy said so.
	Made, Lost, Dropped uint64
	// Withheld were made without their input, because the policy could not be asked
	// what of it to mask.
	Withheld uint64
	// Sinks are where events go.
	Sinks []SinkStats
}

// NewEvents starts making events. Close ends it, and closes the sinks.
func NewEvents(cfg EventsConfig, sinks ...Sink) *Events {
	e := &Events{cfg: cfg}
	for _, s := range sinks {
		e.boxes = append(e.boxes, newOutbox(s))
	}
	e.entries = newWaiting(1, e.make)
	return e
}

// Record implements Recorder.
func (l *Events) Record(r *Record) {
	if r.Decision.Allowed && !l.cfg.Allows {
		return
	}
	l.entries.take(r)
}

// make turns one entry into an event and sends it off.
func (l *Events) make(entry *entry) {
	text, err := l.encode(entry)
	switch {
	case err != nil:
		l.counts.lost.Add(1)
		l.complain("an event could not be written", err)
	case text == nil:
		l.counts.dropped.Add(1)
	default:
		l.counts.made.Add(1)
		for _, b := range l.boxes {
			b.put(text)
		}
	}
}

// encode returns the event's JSON; nil if the policy drops it. Nothing that goes wrong
// on the way can panic past it: a log must not end the process.
func (l *Events) encode(entry *entry) (text []byte, err error) {
	defer func() {
		if recover() != nil {
			text, err = nil, errors.New("panic")
		}
	}()
	asks := l.cfg.Policy()
	e := l.event(&entry.record, asks)
	if asks == nil {
		l.withholdInput(e, errors.New("there is no policy in force"))
	} else if keep := l.fill(e, asks, &entry.input); !keep {
		return nil, nil
	}
	return json.Marshal(e)
}

// fill puts the input into the event, as far as configuration and policy let it, and
// reports whether the event is to be kept. Whatever goes wrong keeps it.
func (l *Events) fill(e *Event, asks Policy, in *policy.Input) bool {
	doc, err := asks.Input(in)
	if doc == nil {
		l.withholdInput(e, err)
		return true
	}
	if err != nil {
		e.Postern["unreadable"] = true
	}
	e.Input = doc
	// Without a route, nobody knows which parameter of the query is a credential.
	e.withhold(l.cfg.Query && in.Route != nil, l.cfg.Body, l.cfg.LooksSecret)
	scrubbed(e.Input)
	if asks.Silent() {
		return true
	}
	drop, err := l.ask(e, asks)
	if err != nil {
		l.withholdInput(e, err)
	}
	return !drop
}

// ask asks the policy whether to drop, and what to mask.
func (l *Events) ask(e *Event, asks Policy) (drop bool, err error) {
	shown, err := e.document()
	if err != nil {
		return false, err
	}
	drop, failed := asks.Drop(context.Background(), shown)
	if failed == nil && drop {
		return true, nil
	}
	if failed != nil {
		l.complain("the policy's drop rule failed; the decision is logged", failed)
	}
	mask, err := asks.Mask(context.Background(), shown)
	if err != nil {
		return false, err
	}
	rules, err := parseMask(mask)
	if err != nil {
		return false, err
	}
	e.apply(rules)
	return false, nil
}

// withholdInput keeps the event without what nobody could mask.
func (l *Events) withholdInput(e *Event, why error) {
	l.counts.unmasked.Add(1)
	e.Erased, e.Masked = nil, nil
	e.Input, e.Result = nil, nil
	e.note([]string{partInput}, false)
	e.note([]string{partResult}, false)
	e.Postern["withheld"] = true
	l.complain("decisions are logged without their input, because it cannot be masked", why)
}

// complain logs a failure once, until it is another one.
func (l *Events) complain(what string, err error) {
	if told := what + err.Error(); told != l.told && l.cfg.Logger != nil {
		l.told = told
		l.cfg.Logger.Warn(what, "error", err)
	}
}

// event is all but the input.
func (l *Events) event(r *Record, asks Policy) *Event {
	d := &r.Decision
	e := &Event{
		Labels: l.cfg.Labels, DecisionID: d.ID, Revision: d.Revision, Timestamp: r.Time.UTC(),
		Metrics: map[string]int64{"timer_server_handler_ns": int64(r.Latency)},
		Postern: map[string]any{
			"allowed": d.Allowed, "reason": d.Reason.String(), "phase": d.Phase.String(), "http_status": d.Status,
			"door": r.Door, "cached": d.Cached, "state": string(d.State),
		},
	}
	if r.Trace != nil {
		e.TraceID, e.SpanID = r.Trace.ID.String(), r.Trace.Span.String()
	}
	add := func(name, value string) {
		if value != "" {
			e.Postern[name] = scrubText(plain(value))
		}
	}
	add("caller", r.Caller)
	add("found", r.Found)
	add("detail", d.Detail)
	add("limits", limits(d))
	if v := d.Verdict; v != nil {
		if asks != nil {
			e.Path = strings.ReplaceAll(strings.TrimPrefix(asks.Entrypoint(), "data."), ".", "/")
		}
		add("rule", v.Rule)
		if v.File != "" {
			e.Postern["file"], e.Postern["line"] = v.File, v.Line
		}
		e.Result = result(v)
		if len(v.UpstreamHeaders)+len(v.ClientHeaders) > 0 {
			e.note([]string{partResult, "headers"}, false)
		}
		if len(v.Metadata) > 0 {
			e.note([]string{partResult, "dynamic_metadata"}, false)
		}
	}
	if d.Reason.Fault() {
		e.Error = &EventError{Code: d.Reason.String(), Message: d.Reason.Message()}
	}
	if l.cfg.Bundles != nil && asks != nil && asks.Revision() == d.Revision {
		for name, revision := range l.cfg.Bundles() {
			if e.Bundles == nil {
				e.Bundles = map[string]BundleVersion{}
			}
			e.Bundles[name] = BundleVersion{revision}
		}
	}
	return e
}

// result is what the policy said, with the keys by which it said it. Header fields and
// dynamic metadata are left out: they are where policies put tokens for others.
func result(v *policy.Verdict) map[string]any {
	r := map[string]any{"allow": v.Allow}
	if !v.Allow {
		r["reason"] = v.Reason.String()
	}
	if v.Message != "" {
		r["message"] = scrubText(v.Message)
	}
	if v.Status != 0 {
		r["http_status"] = v.Status
	}
	for _, l := range []struct {
		name  string
		texts []string
	}{{"missing_scopes", v.MissingScopes}, {"missing_permissions", v.MissingPermissions}} {
		if len(l.texts) > 0 {
			r[l.name] = slices.Clone(l.texts)
		}
	}
	if len(v.Obligations) > 0 {
		types := make([]string, len(v.Obligations))
		for i := range types {
			types[i] = v.Obligations[i].Type
		}
		r["obligations"] = types
	}
	return r
}

// Stats returns the counts so far.
func (l *Events) Stats() EventStats {
	s := EventStats{
		Made: l.counts.made.Load(), Lost: l.counts.lost.Load() + l.entries.lost.Load(),
		Dropped: l.counts.dropped.Load(), Withheld: l.counts.unmasked.Load(),
	}
	for _, b := range l.boxes {
		s.Sinks = append(s.Sinks, b.stats())
	}
	return s
}

// Close makes events of what waits, writes them and closes the sinks, or gives up with
// ctx. It may be called once; decisions that come later are left out.
func (l *Events) Close(ctx context.Context) error {
	err := l.entries.queue.close(ctx)
	var all sync.WaitGroup
	errs := make([]error, len(l.boxes))
	for i, b := range l.boxes {
		all.Go(func() { errs[i] = b.close(ctx) })
	}
	all.Wait()
	return errors.Join(append(errs, err)...)
}

// NewLabels returns labels with the two that OPA always has, unless they are given.
func NewLabels(given map[string]string, id, version string) map[string]string {
	all := map[string]string{"id": id, "version": version}
	maps.Copy(all, given)
	return all
}
