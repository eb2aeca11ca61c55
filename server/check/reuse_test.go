package check_test

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/postern-auth/postern/policy"
)

// E-03: whatever ends when, no allow may be reused past any of it, nor for longer than
// the route says.
func TestReuseEndsInTime(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	rapid.Check(t, func(rt *rapid.T) {
		most := time.Duration(rapid.Int64Range(0, int64(time.Minute)).Draw(rt, "route"))
		end := func(name string) time.Time {
			if rapid.Bool().Draw(rt, name+" ends") {
				return noon.Add(time.Duration(rapid.Int64Range(1, int64(2*time.Minute)).Draw(rt, name)))
			}
			return time.Time{}
		}
		p := proof("alice", "api_key")
		p.NotAfter, p.Principal.ExpiresAt = end("proof"), end("credential")
		w.proofs["key"] = p
		w.cfg.Routes = route(func(r *policy.Route) { r.CacheTTL = most })
		d := w.check(t, request("x-api-key", "key"))
		want := most
		for _, e := range []time.Time{p.NotAfter, p.Principal.ExpiresAt} {
			if !e.IsZero() {
				want = min(want, e.Sub(noon))
			}
		}
		if d.CacheTTL != want {
			rt.Fatalf("%s, not %s", d.CacheTTL, want)
		}
	})
}

// What is for one use, or nothing, is not reused: denies, self-signed tokens, tokens
// bound to a key, approvals.
func TestReuseOfNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.cfg.Routes = route(func(r *policy.Route) { r.CacheTTL = time.Minute })
	if d := w.check(t, request("x-api-key", "key")); d.CacheTTL != time.Minute {
		t.Error(d.CacheTTL)
	}
	w.proofs["key"].Principal.Method = policy.MethodWorkload
	if d := w.check(t, request("x-api-key", "key")); !d.Allowed || d.CacheTTL != 0 {
		t.Error("what a workload signs for one request is reused:", d.CacheTTL)
	}
	w.proofs["key"].Principal.Method = "api_key"
	w.decider.verdict = &policy.Verdict{}
	if d := w.check(t, request("x-api-key", "key")); d.Allowed || d.CacheTTL != 0 {
		t.Error("a deny is reused:", d.CacheTTL)
	}
}
