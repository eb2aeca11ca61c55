package audit_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/audit"
)

// other is a policy in the shadow.
type other struct {
	revision atomic.Pointer[string]
	decide   func(in *policy.Input) (*policy.Verdict, error)
}

func newOther(decide func(in *policy.Input) (*policy.Verdict, error)) *other {
	o := &other{decide: decide}
	o.is("s1")
	return o
}

func (o *other) is(revision string) { o.revision.Store(&revision) }

func (o *other) Revision() string { return *o.revision.Load() }

func (o *other) Decide(_ context.Context, in *policy.Input) (*policy.Verdict, bool, error) {
	v, err := o.decide(in)
	if v != nil && v.Revision == "" {
		own := *v
		own.Revision, v = o.Revision(), &own
	}
	return v, false, err
}

// always says the same to everybody.
func always(v *policy.Verdict, err error) *other {
	return newOther(func(*policy.Input) (*policy.Verdict, error) { return v, err })
}

// decided is a record of what the policy in force said; nil is an error.
func decided(id string, v *policy.Verdict) *audit.Record {
	in := &policy.Input{Attributes: &policy.Attributes{}, Request: &policy.Request{Path: "/" + id}}
	r := &audit.Record{Time: time.Now(), Input: in, Decision: policy.Decision{ID: id, Revision: "l1", Verdict: v, Phase: policy.PhaseDecide, Reason: policy.ReasonPolicyFault}}
	if v != nil && v.Allow {
		r.Decision.Allowed, r.Decision.Phase = true, policy.PhaseRecord
	}
	return r
}

func yes(change func(*policy.Verdict)) *policy.Verdict {
	v := &policy.Verdict{Allow: true, Reason: policy.ReasonAllowed}
	change(v)
	return v
}

func no(change func(*policy.Verdict)) *policy.Verdict {
	v := &policy.Verdict{Reason: policy.ReasonPolicyDenied, Rule: "data.p.allow", File: "p.rego", Line: 7}
	change(v)
	return v
}

func same(*policy.Verdict) {}

// What counts as a difference, and what it is called.
func TestShadowChanges(t *testing.T) {
	t.Parallel()
	field := []policy.Header{{Name: "x-a", Value: "1"}}
	for name, tt := range map[string]struct {
		live, shadow *policy.Verdict
		want         string
	}{
		"both allow":               {yes(same), yes(same), ""},
		"both deny":                {no(same), no(same), ""},
		"neither answers":          {nil, nil, ""},
		"empty and none":           {yes(func(v *policy.Verdict) { v.RemoveHeaders = []string{} }), yes(same), ""},
		"another line":             {no(same), no(func(v *policy.Verdict) { v.File, v.Line = "q.rego", 9 }), ""},
		"the message in words":     {no(same), no(func(v *policy.Verdict) { v.Message = policy.ReasonPolicyDenied.Message() }), ""},
		"no reason is the usual":   {no(same), no(func(v *policy.Verdict) { v.Reason = policy.ReasonUnspecified }), ""},
		"grounds":                  {no(same), no(func(v *policy.Verdict) { v.Grounds = &policy.Grounds{} }), ""},
		"would allow":              {no(same), yes(same), "deny to allow"},
		"would deny":               {yes(same), no(same), "allow to deny"},
		"would fail":               {yes(same), nil, "allow to error"},
		"would answer":             {nil, no(same), "error to deny"},
		"reason":                   {no(same), no(func(v *policy.Verdict) { v.Reason, v.Message = policy.ReasonScope, "x" }), "reason"},
		"status":                   {no(same), no(func(v *policy.Verdict) { v.Status = 404 }), "status"},
		"message":                  {no(same), no(func(v *policy.Verdict) { v.Message = "no" }), "message"},
		"body":                     {no(same), no(func(v *policy.Verdict) { v.Body = "no" }), "body"},
		"missing":                  {no(func(v *policy.Verdict) { v.MissingScopes = []string{"a"} }), no(func(v *policy.Verdict) { v.MissingPermissions = []string{"a"} }), "missing"},
		"headers of a deny":        {no(same), no(func(v *policy.Verdict) { v.ClientHeaders = field }), "headers"},
		"metadata of a deny":       {no(same), no(func(v *policy.Verdict) { v.Metadata = map[string]any{"a": 1} }), "metadata"},
		"rule":                     {no(same), no(func(v *policy.Verdict) { v.Rule = "data.p.other" }), "rule"},
		"headers":                  {yes(func(v *policy.Verdict) { v.ClientHeaders = field }), yes(func(v *policy.Verdict) { v.UpstreamHeaders = field }), "headers"},
		"headers to remove":        {yes(same), yes(func(v *policy.Verdict) { v.RemoveHeaders = []string{"a"} }), "headers"},
		"query":                    {yes(same), yes(func(v *policy.Verdict) { v.SetQuery = field }), "query"},
		"query to remove":          {yes(same), yes(func(v *policy.Verdict) { v.RemoveQuery = []string{"a"} }), "query"},
		"metadata":                 {yes(same), yes(func(v *policy.Verdict) { v.Metadata = map[string]any{"a": 1} }), "metadata"},
		"obligations":              {yes(same), yes(func(v *policy.Verdict) { v.Obligations = []policy.Obligation{{Type: "a"}} }), "obligations"},
		"what only denies have":    {yes(same), yes(func(v *policy.Verdict) { v.Message, v.Rule = "x", "y" }), ""},
		"deny that says it allows": {no(same), no(func(v *policy.Verdict) { v.Reason = policy.ReasonAllowed }), ""},
	} {
		synctest.Test(t, func(t *testing.T) {
			var err error
			if tt.shadow == nil {
				err = errors.New("no answer")
			}
			s := audit.NewShadow(audit.ShadowConfig{Policy: always(tt.shadow, err)})
			s.Record(decided("d", tt.live))
			synctest.Wait()
			st, want := s.Stats(), uint64(0)
			if tt.want != "" {
				want = 1
			}
			if st.Compared != 1 || st.Different != want || want == 1 && st.Last[0].Change != tt.want {
				t.Errorf("%s: %+v, want %q", name, st, tt.want)
			}
			if err := s.Close(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

// Only requests about which the policy in force was asked are compared, and none while
// there is no other policy.
func TestShadowIsAskedWhenThePolicyWas(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o := always(yes(same), nil)
		s := audit.NewShadow(audit.ShadowConfig{Policy: o})
		unasked := decided("a", nil)
		unasked.Decision.Phase = policy.PhaseHold
		s.Record(unasked)
		o.is("")
		s.Record(decided("b", no(same)))
		synctest.Wait()
		o.is("s1")
		s.Record(decided("c", no(same)))
		spent := decided("d", yes(same)) // the policy allowed, the budget did not
		spent.Decision.Allowed, spent.Decision.Phase = false, policy.PhaseSpend
		s.Record(spent)
		synctest.Wait()
		if st := s.Stats(); st.Compared != 2 || st.Different != 1 || st.Last[0].ID != "c" || st.Lost != 0 {
			t.Errorf("%+v", st)
		}
		_ = s.Close(t.Context())
		s.Record(decided("e", no(same))) // forgotten
	})
}

// A policy that is slow, panics or fails costs comparisons and nothing else: recording
// goes on at once, and what waits is bounded.
func TestShadowThatIsSlow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		hold := make(chan struct{})
		s := audit.NewShadow(audit.ShadowConfig{Workers: 2, Policy: newOther(func(in *policy.Input) (*policy.Verdict, error) {
			<-hold
			if in.Request.Path == "/0" {
				panic("hunter2")
			}
			return yes(same), nil
		})})
		const many = 6000
		for i := range many {
			s.Record(decided(fmt.Sprint(i), yes(same)))
		}
		synctest.Wait()
		lost := s.Stats().Lost
		if lost < many-4096-2 || lost > many-4096 {
			t.Errorf("%d lost", lost)
		}
		close(hold)
		synctest.Wait()
		st := s.Stats()
		if st.Compared+st.Lost != many || st.Different != 1 || st.Last[0].Change != "allow to error" || strings.Contains(fmt.Sprint(st), "hunter2") {
			t.Errorf("%d compared, %d different, %v", st.Compared, st.Different, st.Last)
		}
		// What is large is bounded in bytes.
		big := decided("big", yes(same))
		big.Input.Attributes.Body = make([]byte, 33<<20)
		s.Record(big)
		synctest.Wait()
		if after := s.Stats(); after.Lost != st.Lost+1 {
			t.Errorf("%+v", after)
		}
		_ = s.Close(t.Context())
	})
}

// What waited for too long is left out: it would be compared at another time.
func TestShadowThatIsLate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := audit.NewShadow(audit.ShadowConfig{Policy: newOther(func(*policy.Input) (*policy.Verdict, error) {
			time.Sleep(4 * time.Second)
			return yes(same), nil
		})})
		for i := range 4 { // begun after 0, 4, 8 and 8 seconds
			s.Record(decided(fmt.Sprint(i), yes(same)))
		}
		time.Sleep(time.Minute)
		if st := s.Stats(); st.Compared != 2 || st.Lost != 2 {
			t.Errorf("%+v", st)
		}
		_ = s.Close(t.Context())
	})
}

// Closing forgets what waits, and gives up on an evaluation that does not end.
func TestShadowCloses(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		hold, asked := make(chan struct{}), 0
		s := audit.NewShadow(audit.ShadowConfig{Policy: newOther(func(*policy.Input) (*policy.Verdict, error) {
			asked++
			<-hold
			return yes(same), nil
		})})
		for i := range 10 {
			s.Record(decided(fmt.Sprint(i), yes(same)))
		}
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := s.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		close(hold)
		synctest.Wait()
		if asked != 1 {
			t.Errorf("asked %d times", asked)
		}
	})
}

// The counts are those of one revision, and what an older one said does not count.
func TestShadowIsCountedByRevision(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o := always(yes(same), nil)
		s := audit.NewShadow(audit.ShadowConfig{Policy: o})
		s.Record(decided("a", no(same)))
		synctest.Wait()
		o.is("s2")
		if st := s.Stats(); st.Revision != "s2" || st.Compared != 0 || len(st.Kinds)+len(st.Last) != 0 {
			t.Errorf("%+v", st)
		}
		s.Record(decided("b", no(same)))
		synctest.Wait()
		if st := s.Stats(); st.Revision != "s2" || st.Compared != 1 || st.Last[0].ID != "b" {
			t.Errorf("%+v", st)
		}
		o.decide = func(*policy.Input) (*policy.Verdict, error) {
			o.is("s3") // while s2 was asked
			return no(func(v *policy.Verdict) { v.Revision = "s2" }), nil
		}
		s.Record(decided("c", yes(same)))
		synctest.Wait()
		if st := s.Stats(); st.Revision != "s3" || st.Compared != 0 {
			t.Errorf("%+v", st)
		}
		_ = s.Close(t.Context())
	})
}

// Kinds, the last differences and lines of the log are bounded, whatever differs.
func TestShadowIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		s := audit.NewShadow(audit.ShadowConfig{Logger: slog.New(slog.NewJSONHandler(&log, nil)), Policy: newOther(func(in *policy.Input) (*policy.Verdict, error) {
			return no(func(v *policy.Verdict) { v.Rule = "data.p" + strings.ReplaceAll(in.Request.Path, "/", ".r") }), nil
		})})
		const many = 1000
		for i := range many {
			r := decided(fmt.Sprint(i), yes(same))
			r.Decision.Route = &policy.Route{Name: "route"}
			r.Decision.Principal = &policy.Principal{Tenant: "acme"}
			s.Record(r)
		}
		synctest.Wait()
		st := s.Stats()
		var sum, others uint64
		for _, k := range st.Kinds {
			sum += k.N
			if k.Rule == "other" {
				others += k.N
			}
		}
		if len(st.Kinds) != 257 || sum != many || others != many-256 || st.Kinds[0].Rule != "other" || st.Kinds[0].Change != "allow to deny" {
			t.Errorf("%d kinds, %d of them others, %d in all, %+v", len(st.Kinds), others, sum, st.Kinds[0])
		}
		if len(st.Last) != 100 || st.Last[0].ID != "999" || st.Last[99].ID != "900" || st.Last[0].Route != "route" || st.Last[0].Tenant != "acme" {
			t.Errorf("%d last, %+v", len(st.Last), st.Last[0])
		}
		if n := strings.Count(log.String(), "\n"); n != 10 {
			t.Errorf("%d lines", n)
		}
		time.Sleep(time.Second)
		s.Record(decided("more", yes(same)))
		synctest.Wait()
		if !strings.Contains(log.String(), `"omitted":990`) {
			t.Error(log.String())
		}
		_ = s.Close(t.Context())
	})
}

// The check goes on with its request, and takes the next one into the same memory,
// while this one is compared.
func TestShadowOwnsWhatItReads(t *testing.T) {
	t.Parallel()
	var wrong atomic.Int64
	s := audit.NewShadow(audit.ShadowConfig{Workers: 4, Policy: newOther(func(in *policy.Input) (*policy.Verdict, error) {
		if id := in.Attributes.RequestID; in.Request.Path != "/"+id || in.Request.Zones[0] != id || in.Request.Segments != nil || in.Principal.ID != id {
			wrong.Add(1)
		}
		return no(same), nil
	})})
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			request, attributes := policy.Request{Zones: make([]string, 1), Segments: make([]string, 1)}, policy.Attributes{}
			input := policy.Input{Request: &request, Attributes: &attributes}
			for i := range 500 {
				id := fmt.Sprint(i)
				request.Path, request.Zones[0], request.Segments[0], attributes.RequestID = "/"+id, id, id, id
				input.Principal = &policy.Principal{ID: id}
				s.Record(&audit.Record{Time: time.Now(), Input: &input, Decision: policy.Decision{ID: id, Verdict: no(same), Phase: policy.PhaseDecide}})
				_ = s.Stats()
			}
			request.Path, request.Zones[0], request.Segments[0] = "", "", ""
		})
	}
	all.Wait()
	if err := s.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if n := wrong.Load(); n != 0 {
		t.Errorf("%d read what was not theirs", n)
	}
}
