package audit

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/postern-auth/postern/policy"
)

// ShadowPolicy is the policy that is only asked what it would say.
type ShadowPolicy interface {
	// Decide is asked with an input that is valid until it returns. Its errors hold
	// nothing of the request.
	Decide(ctx context.Context, in *policy.Input) (v *policy.Verdict, cached bool, err error)
	// Revision is the revision that is asked now; empty if there is none, and nobody is
	// asked then.
	Revision() string
}

// ShadowConfig says whom to ask.
type ShadowConfig struct {
	Policy ShadowPolicy
	// Workers is how many decisions are compared at once; 1 if it is less.
	Workers int
	// Logger is told of differences, of some if there are many.
	Logger *slog.Logger
	// Now is the clock; time.Now if nil.
	Now func() time.Time
}

const (
	// maxLate is how long a decision may wait: a policy that looks at the clock would
	// differ for no other reason.
	maxLate = 5 * time.Second
	// maxDifferences is how many of the last differences are kept.
	maxDifferences = 100
	// maxDifferenceKinds bounds the combinations of change, rule and route that are
	// counted apart. Routes and rules are closed sets, but their product can be large.
	maxDifferenceKinds = 256
	// maxDifferenceLines is how many differences are logged in a second.
	maxDifferenceLines = 10
)

// Shadow holds every decision of the policy in force against what another one says to
// the same request. It is a Recorder: it is told of the decision when that has been
// made, copies the request as Events does, and asks on goroutines of its own, so that
// nothing that the other policy does can change, delay or fail an answer.
//
// It counts by the revision of the other policy: when that changes, it begins anew.
type Shadow struct {
	cfg     ShadowConfig
	waiting *waiting

	mu    sync.Mutex
	book  ShadowStats
	kinds map[ShadowKind]uint64
	next  int // place in book.Last, once it is full
	lines lineRate
}

// ShadowStats says how two policies agree.
type ShadowStats struct {
	// Revision is that of the policy in the shadow; empty if it was never asked.
	Revision string
	// Since is when the first of these decisions was made.
	Since time.Time
	// Compared is how many decisions were compared, and Different how many of these
	// would have been others.
	Compared, Different uint64
	// Lost were not compared because too many waited, or for too long, since the start.
	Lost uint64
	// Kinds count the differences, most first.
	Kinds []ShadowCount
	// Last are the last differences, newest first.
	Last []Difference
}

// ShadowKind is what differences are counted by: the change, as Difference.Change has
// it, the rule that makes it, and the route. What there is none of is "-"; what comes
// after the first 256 is "other".
type ShadowKind struct{ Change, Rule, Route string }

// ShadowCount is how often there was a difference of a kind.
type ShadowCount struct {
	ShadowKind
	N uint64
}

// Difference is one decision about which two policies differ. It holds nothing of the
// request; the id leads to that.
type Difference struct {
	Time   time.Time
	ID     string
	Tenant string // of the principal
	Route  string
	// Change says what is different: "deny to allow", "allow to error" and so on, or, in
	// one word, what of the answer is.
	Change       string
	Live, Shadow Outcome
}

// Outcome is what one policy said.
type Outcome struct {
	// Word is "allow", "deny" or "error".
	Word     string
	Reason   policy.Reason
	Revision string
	// Rule, File and Line are those of a deny.
	Rule, File string
	Line       int
	// Error says why there is no answer.
	Error string
}

// rule is the one that counts a difference under its name.
func (d *Difference) rule() string { return cmp.Or(d.Shadow.Rule, d.Live.Rule, "-") }

// NewShadow starts to compare. Close ends it.
func NewShadow(cfg ShadowConfig) *Shadow {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Shadow{cfg: cfg, kinds: map[ShadowKind]uint64{}}
	s.waiting = newWaiting(max(1, cfg.Workers), s.compare)
	return s
}

// Record implements Recorder.
func (s *Shadow) Record(r *Record) {
	if d := &r.Decision; d.Verdict == nil && d.Phase != policy.PhaseDecide || s.cfg.Policy.Revision() == "" {
		return // the policy in force was not asked, or there is no other one
	}
	s.waiting.take(r)
}

// Close forgets what waits and ends the goroutines, or gives up with ctx. It may be
// called once.
func (s *Shadow) Close(ctx context.Context) error { return s.waiting.queue.close(ctx) }

// compare asks about one decision.
func (s *Shadow) compare(e *entry) {
	if s.waiting.queue.closing.Load() {
		return
	}
	if s.cfg.Now().Sub(e.record.Time) > maxLate {
		s.waiting.lost.Add(1)
		return
	}
	v, err := s.ask(&e.input)
	other := s.cfg.Policy.Revision()
	if v != nil && v.Revision != other || other == "" {
		return // this one is not asked any more
	}
	live := &e.record.Decision
	d := Difference{
		Time: e.record.Time, ID: live.ID, Live: outcomeOf(live.Verdict, live.Reason, live.Revision, live.Detail),
		Shadow: outcomeOf(v, policy.ReasonPolicyFault, other, errorText(err)),
	}
	if live.Route != nil {
		d.Route = live.Route.Name
	}
	if live.Principal != nil {
		d.Tenant = cut(live.Principal.Tenant)
	}
	d.Change = changeOf(d.Live.Word, d.Shadow.Word, live.Verdict, v)
	if omitted, told := s.note(d); told {
		s.tell(&d, omitted)
	}
}

// ask asks the other policy. Not even its panic gets past here.
func (s *Shadow) ask(in *policy.Input) (v *policy.Verdict, err error) {
	defer func() {
		if p := recover(); p != nil {
			v, err = nil, fmt.Errorf("panic of type %T", p)
		}
	}()
	v, _, err = s.cfg.Policy.Decide(context.Background(), in)
	return v, err
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return cut(err.Error())
}

// outcomeOf is what a policy said; the reason and the text are those of an error.
func outcomeOf(v *policy.Verdict, failed policy.Reason, revision, text string) Outcome {
	switch {
	case v == nil:
		return Outcome{Word: "error", Reason: failed, Revision: revision, Error: cut(text)}
	case v.Allow:
		return Outcome{Word: "allow", Reason: policy.ReasonAllowed, Revision: revision}
	}
	return Outcome{Word: "deny", Reason: denyReason(v), Revision: revision, Rule: v.Rule, File: v.File, Line: v.Line}
}

// denyReason is the reason that a deny is answered with.
func denyReason(v *policy.Verdict) policy.Reason {
	if v.Reason == policy.ReasonUnspecified || v.Reason == policy.ReasonAllowed {
		return policy.ReasonPolicyDenied
	}
	return v.Reason
}

// changeOf says what the second policy would change; "" for nothing. Of several parts
// of an answer it names the first: which of them differ together says little, and each
// set would be counted apart.
func changeOf(before, after string, a, b *policy.Verdict) string {
	switch {
	case before != after:
		return before + " to " + after
	case before == "error":
		return ""
	}
	parts := allowParts
	if !a.Allow {
		parts = denyParts
	}
	for _, p := range parts {
		if !equalValues(p.of(a), p.of(b)) {
			return p.name
		}
	}
	return ""
}

// part is one part of an answer that a caller or an upstream would notice, or of its
// grounds.
type part struct {
	name string
	of   func(*policy.Verdict) any
}

var denyParts = []part{
	{"reason", func(v *policy.Verdict) any { return denyReason(v) }},
	{"status", func(v *policy.Verdict) any { return cmp.Or(v.Status, denyReason(v).Status()) }},
	{"message", func(v *policy.Verdict) any { return cmp.Or(v.Message, denyReason(v).Message()) }},
	{"body", func(v *policy.Verdict) any { return v.Body }},
	{"missing", func(v *policy.Verdict) any { return slices.Concat(v.MissingScopes, []string{""}, v.MissingPermissions) }},
	{"headers", func(v *policy.Verdict) any { return v.ClientHeaders }},
	{"metadata", func(v *policy.Verdict) any { return v.Metadata }},
	{"rule", func(v *policy.Verdict) any { return v.Rule }},
}

var allowParts = []part{
	{"headers", func(v *policy.Verdict) any {
		return slices.Concat(v.UpstreamHeaders, []policy.Header{{}}, v.ClientHeaders)
	}},
	{"headers", func(v *policy.Verdict) any { return v.RemoveHeaders }},
	{"query", func(v *policy.Verdict) any { return v.SetQuery }},
	{"query", func(v *policy.Verdict) any { return v.RemoveQuery }},
	{"metadata", func(v *policy.Verdict) any { return v.Metadata }},
	{"obligations", func(v *policy.Verdict) any { return v.Obligations }},
}

// equalValues takes what is empty for what is not there.
func equalValues(a, b any) bool {
	return reflect.DeepEqual(a, b) || isEmpty(a) && isEmpty(b)
}

func isEmpty(v any) bool {
	r := reflect.ValueOf(v)
	switch r.Kind() {
	case reflect.Slice, reflect.Map:
		return r.Len() == 0
	}
	return false
}

// note counts a comparison. It reports whether a difference is to be logged, and how
// many before it were not.
func (s *Shadow) note(d Difference) (omitted uint64, told bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := &s.book
	if b.Revision != d.Shadow.Revision {
		*b, s.next = ShadowStats{Revision: d.Shadow.Revision, Since: d.Time}, 0
		clear(s.kinds)
	}
	b.Compared++
	if d.Change == "" {
		return 0, false
	}
	b.Different++
	kind := ShadowKind{Change: d.Change, Rule: d.rule(), Route: cmp.Or(d.Route, "-")}
	if _, known := s.kinds[kind]; !known && len(s.kinds) >= maxDifferenceKinds {
		kind.Rule, kind.Route = "other", "other" // the changes are few
	}
	s.kinds[kind]++
	if len(b.Last) < maxDifferences {
		b.Last = append(b.Last, d)
	} else {
		b.Last[s.next] = d
		s.next = (s.next + 1) % maxDifferences
	}
	return s.lines.take(s.cfg.Now())
}

// tell logs a difference.
func (s *Shadow) tell(d *Difference, omitted uint64) {
	a := []slog.Attr{
		slog.String("decision_id", d.ID), slog.String("change", d.Change), slog.String("enforced", d.Live.String()), slog.String("shadow", d.Shadow.String()),
		slog.String("rule", d.rule()), slog.String("revision", d.Live.Revision), slog.String("shadow_revision", d.Shadow.Revision),
	}
	if d.Route != "" {
		a = append(a, slog.String("route", d.Route))
	}
	if d.Shadow.File != "" {
		a = append(a, slog.String("file", d.Shadow.File), slog.Int("line", d.Shadow.Line))
	}
	if d.Shadow.Error != "" {
		a = append(a, slog.String("error", plain(d.Shadow.Error)))
	}
	if omitted > 0 {
		a = append(a, slog.Uint64("omitted", omitted))
	}
	s.cfg.Logger.LogAttrs(context.Background(), slog.LevelInfo, "the shadow policy would decide otherwise; the decision stands", a...)
}

// String is the outcome in a word or two: "allow", "deny policy_denied".
func (o *Outcome) String() string {
	if o.Word == "allow" {
		return o.Word
	}
	return o.Word + " " + o.Reason.String()
}

// Stats returns the counts since the policy in the shadow was asked first. Where there
// is another one by now that was asked nothing yet, they are empty.
func (s *Shadow) Stats() ShadowStats {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := s.book
	if now := s.cfg.Policy.Revision(); now != out.Revision {
		return ShadowStats{Revision: now, Lost: s.waiting.lost.Load()}
	}
	out.Lost = s.waiting.lost.Load()
	out.Kinds = make([]ShadowCount, 0, len(s.kinds))
	for kind, n := range maps.All(s.kinds) {
		out.Kinds = append(out.Kinds, ShadowCount{kind, n})
	}
	slices.SortFunc(out.Kinds, func(a, b ShadowCount) int {
		return cmp.Or(cmp.Compare(b.N, a.N), strings.Compare(a.Change, b.Change), strings.Compare(a.Rule, b.Rule), strings.Compare(a.Route, b.Route))
	})
	out.Last = slices.Concat(s.book.Last[s.next:], s.book.Last[:s.next])
	slices.Reverse(out.Last)
	return out
}

// lineRate lets so many lines pass in a second.
type lineRate struct {
	second  int64
	n       int
	omitted uint64
}

// take reports whether a line may be written, and how many before it were not.
func (l *lineRate) take(now time.Time) (omitted uint64, ok bool) {
	if second := now.Unix(); second != l.second {
		l.second, l.n = second, 0
	}
	if l.n++; l.n > maxDifferenceLines {
		l.omitted++
		return 0, false
	}
	omitted, l.omitted = l.omitted, 0
	return omitted, true
}
