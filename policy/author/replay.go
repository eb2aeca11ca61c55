package author

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/postern-auth/postern/policy"
)

// Answered is what a policy says to a recorded request.
type Answered struct {
	Allow   bool   `json:"allow" yaml:"allow"`
	Reason  string `json:"reason" yaml:"reason"`
	Status  int    `json:"status" yaml:"status"`
	Message string `json:"message,omitempty" yaml:"message,omitempty"`
	// Rule says which rule decided a deny, and where it stands.
	Rule string `json:"rule,omitempty" yaml:"rule,omitempty"`
	// Error is set where the policy could not be asked; all else is empty then.
	Error string `json:"error,omitempty" yaml:"error,omitempty"`
}

// Word is the answer in a word: allow, deny or error.
func (a *Answered) Word() string {
	switch {
	case a.Error != "":
		return "error"
	case a.Allow:
		return "allow"
	}
	return "deny"
}

// Change is a recorded decision that would fall otherwise.
type Change struct {
	Line      int       `json:"line" yaml:"line"`
	ID        string    `json:"id,omitempty" yaml:"id,omitempty"`
	Time      time.Time `json:"time,omitzero" yaml:"time,omitempty"`
	Method    string    `json:"method" yaml:"method"`
	Host      string    `json:"host,omitempty" yaml:"host,omitempty"`
	Path      string    `json:"path" yaml:"path"`
	Principal string    `json:"principal,omitempty" yaml:"principal,omitempty"`
	Route     string    `json:"route,omitempty" yaml:"route,omitempty"`
	// What changes: "allow to deny", or "message" where only that does.
	What string    `json:"change" yaml:"change"`
	Old  *Answered `json:"old" yaml:"old"`
	New  *Answered `json:"new" yaml:"new"`
}

// Count is how often something changes.
type Count struct {
	What  string `json:"change" yaml:"change"`
	Where string `json:"where" yaml:"where"`
	N     int    `json:"n" yaml:"n"`
}

// Replay holds recorded decisions against a new policy.
type Replay struct {
	// Old is the policy in force; nil to hold the recorded answers themselves against
	// New.
	Old, New *Policy
	// Principals are filled in where a record only names who called.
	Principals []Principal
	// Routes are filled in where a record only names the route.
	Routes []Route
	// Keep bounds how many changes are kept; the others are counted. 0 keeps all.
	Keep int

	// Decisions is how many were compared, Changed how many of them would change.
	// Skipped were never the policy's, Untold could not be told.
	Decisions, Changed, Skipped, Untold int
	// Drifted is how often the old policy says something else than was recorded: its
	// data or the record is not what it was.
	Drifted int
	Changes []Change
	// WhyUntold counts the reasons, WhySkipped those of skips.
	WhyUntold, WhySkipped map[string]int
	rules, routes         map[[2]string]int
}

// Add replays one record.
func (r *Replay) Add(ctx context.Context, rec *Record) error {
	if r.rules == nil {
		r.rules, r.routes = map[[2]string]int{}, map[[2]string]int{}
		r.WhyUntold, r.WhySkipped = map[string]int{}, map[string]int{}
	}
	for i := range r.Principals {
		rec.Know(&r.Principals[i])
	}
	for i := range r.Routes {
		rec.Lead(&r.Routes[i])
	}
	if rec.skip != "" {
		r.Skipped++
		r.WhySkipped[rec.skip]++
		return nil
	}
	if why := r.untold(rec); why != "" {
		r.Untold++
		r.WhyUntold[why]++
		return nil
	}
	before, after, err := r.ask(ctx, rec)
	if err != nil {
		return err
	}
	r.Decisions++
	if r.Old != nil && rec.Answered && before.Error == "" && before.Allow != rec.Allowed {
		r.Drifted++
	}
	if what := changeOf(before, after, r.Old == nil); what != "" {
		r.note(rec, what, before, after)
	}
	return nil
}

// untold says why it cannot be told what the policies would say.
func (r *Replay) untold(rec *Record) string {
	for _, p := range []*Policy{r.Old, r.New} {
		if p == nil {
			continue
		}
		if missing := rec.missing(p); len(missing) > 0 {
			return "the record does not hold " + strings.Join(missing, ", ")
		}
		if len(p.Analysis.Impure) > 0 {
			return "the policy asks more than its input: " + p.Analysis.Impure[0].String()
		}
	}
	if rec.cut {
		return "the record holds only a part of a long text, or one with escapes"
	}
	if r.Old == nil && !rec.Answered {
		return "the record holds no answer to compare with; give the old policy"
	}
	return ""
}

func (r *Replay) ask(ctx context.Context, rec *Record) (before, after *Answered, err error) {
	before = &Answered{Allow: rec.Allowed, Reason: rec.Reason}
	if r.Old != nil {
		if before, err = rec.answer(ctx, r.Old); err != nil {
			return nil, nil, err
		}
	}
	after, err = rec.answer(ctx, r.New)
	return before, after, err
}

// answer asks a policy about a record, at the time of the record.
func (r *Record) answer(ctx context.Context, p *Policy) (*Answered, error) {
	input, err := r.input(p)
	if err != nil {
		return &Answered{Error: "the recorded request cannot be read: " + oneText(err)}, nil
	}
	at := r.Time
	if at.IsZero() {
		at = time.Now()
	}
	v, err := p.DecideDocument(ctx, input, at)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err != nil {
		return &Answered{Error: oneText(err)}, nil
	}
	return AnsweredBy(v), nil
}

// AnsweredBy is a verdict in words.
func AnsweredBy(v *policy.Verdict) *Answered {
	a := &Answered{Allow: v.Allow, Reason: v.Reason.String(), Status: Status(v), Message: v.Message}
	if !v.Allow {
		a.Rule = Where(v)
	}
	return a
}

// changeOf says what the caller would notice; "" for nothing. Where only the recorded
// answer is there, only what it surely holds is compared.
func changeOf(before, after *Answered, recorded bool) string {
	if before.Word() != after.Word() {
		return before.Word() + " to " + after.Word()
	}
	var what []string
	note := func(name string, differs bool) {
		if differs {
			what = append(what, name)
		}
	}
	_, known := policy.ParseReason(before.Reason)
	note("reason", before.Reason != after.Reason && (!recorded || known && !before.Allow))
	note("status", !recorded && before.Status != after.Status)
	note("message", !recorded && before.Message != after.Message)
	return strings.Join(what, ", ")
}

func (r *Replay) note(rec *Record, what string, before, after *Answered) {
	r.Changed++
	rule := orElse(after.Rule, before.Rule)
	r.rules[[2]string{what, orElse(rule, "-")}]++
	r.routes[[2]string{what, rec.place()}]++
	if r.Keep > 0 && len(r.Changes) >= r.Keep {
		return
	}
	r.Changes = append(r.Changes, Change{
		Line: rec.Line, ID: rec.ID, Time: rec.Time, Method: rec.Method, Host: rec.Host, Path: rec.Path,
		Principal: rec.Principal, Route: rec.Route, What: what, Old: before, New: after,
	})
}

// place is the route, or what stands for it: the method and the first step of the path.
func (r *Record) place() string {
	if r.Route != "" {
		return r.Route
	}
	first, _, deeper := strings.Cut(strings.TrimPrefix(r.Path, "/"), "/")
	if deeper {
		first += "/**"
	}
	return strings.TrimSpace(fmt.Sprintf("%s /%s", r.Method, first))
}

// ByRule counts the changes by the rule that makes them, most first.
func (r *Replay) ByRule() []Count { return counts(r.rules) }

// ByRoute counts the changes by route, most first.
func (r *Replay) ByRoute() []Count { return counts(r.routes) }

func counts(m map[[2]string]int) []Count {
	all := make([]Count, 0, len(m))
	for k, n := range m {
		all = append(all, Count{What: k[0], Where: k[1], N: n})
	}
	slices.SortFunc(all, func(a, b Count) int {
		return cmp.Or(b.N-a.N, strings.Compare(a.What, b.What), strings.Compare(a.Where, b.Where))
	})
	return all
}

// Reasons are the reasons of a count, most first.
func Reasons(m map[string]int) []string {
	return slices.SortedFunc(maps.Keys(m), func(a, b string) int { return cmp.Or(m[b]-m[a], strings.Compare(a, b)) })
}

// ErrNothing says that nothing was replayed.
var ErrNothing = errors.New("no decision could be replayed")
