package check_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/audit"
	"github.com/postern-auth/postern/server/authn"
	"github.com/postern-auth/postern/server/check"
)

// thrower panics whatever it is asked, as every part of a Checker that is behind an
// interface.
type thrower struct{}

const thrown = "a secret text"

func (thrower) Authenticate(context.Context, *authn.Credential) (*authn.Proof, error) { panic(thrown) }
func (thrower) Decide(context.Context, *policy.Input) (*policy.Verdict, bool, error)  { panic(thrown) }
func (thrower) Revision() string                                                      { return "r1" }
func (thrower) Spend(context.Context, *policy.Charge) policy.Spent                    { panic(thrown) }
func (thrower) Undo(*policy.Spent)                                                    { panic(thrown) }
func (thrower) Revoked(*authn.Subject) (policy.Reason, bool)                          { panic(thrown) }
func (thrower) Freshness(time.Time) check.Freshness                                   { panic(thrown) }
func (thrower) Write(context.Context, *audit.Record) error                            { panic(thrown) }

// GRPC-14: a panic in whichever phase denies that one request, and the log has the stack
// but not the text, which may quote a credential.
func TestPanicInEachPhase(t *testing.T) {
	t.Parallel()
	throws := func(any) { panic(thrown) }
	for name, change := range map[string]func(w *world, a *policy.Attributes) policy.Phase{
		"find": func(w *world, a *policy.Attributes) policy.Phase {
			w.cfg.Extractor = nil
			return policy.PhaseFind
		},
		"prove": func(w *world, a *policy.Attributes) policy.Phase {
			w.cfg.Authenticator = thrower{}
			return policy.PhaseProve
		},
		"hold: a proof without a principal": func(w *world, a *policy.Attributes) policy.Phase {
			w.proofs["key"] = &authn.Proof{}
			return policy.PhaseHold
		},
		"prove: the sight of the store": func(w *world, a *policy.Attributes) policy.Phase {
			w.cfg.Sight = func() check.Sight { throws(nil); return nil }
			return policy.PhaseProve
		},
		"hold: the sight of the store": func(w *world, a *policy.Attributes) policy.Phase {
			w.cfg.Sight = func() check.Sight { return thrower{} }
			return policy.PhaseHold
		},
		"hold: revocations": func(w *world, a *policy.Attributes) policy.Phase {
			w.cfg.Revocations = thrower{}
			return policy.PhaseHold
		},
		"decide": func(w *world, a *policy.Attributes) policy.Phase {
			w.cfg.Decider = thrower{}
			return policy.PhaseDecide
		},
		"spend": func(w *world, a *policy.Attributes) policy.Phase {
			w.cfg.Spender = thrower{}
			return policy.PhaseSpend
		},
		"record: the journal": func(w *world, a *policy.Attributes) policy.Phase {
			w.cfg.Routes, w.cfg.Journal = []policy.Route{{AuditFirst: true}}, thrower{}
			return policy.PhaseRecord
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, a := newWorld(t), request("x-api-key", "key")
			phase := change(w, a)
			d := w.check(t, a)
			want(t, d, policy.ReasonInternal, phase)
			if r, ok := w.ring.Find(d.ID); !ok || r.Decision.Allowed {
				t.Errorf("recorded %v %+v", ok, r)
			}
			if log := w.log.String(); strings.Contains(log+d.Detail+d.Message, thrown) || strings.Count(log, "panic in a check") != 1 || !strings.Contains(log, "stack") {
				t.Errorf("%s %q %s", d.Detail, d.Message, log)
			}
		})
	}
}
