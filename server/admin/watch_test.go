package admin_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

	adminv1 "github.com/postern-auth/postern/gen/postern/admin/v1"
	posternv1 "github.com/postern-auth/postern/gen/postern/v1"
	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/admin"
	"github.com/postern-auth/postern/server/audit"
)

// decided is a decision about a principal of a tenant.
func decided(id, tenant string, allowed bool) *audit.Record {
	d := policy.Decision{
		ID: id, Allowed: allowed, Reason: policy.ReasonPolicyDenied, Phase: policy.PhaseDecide,
		Principal: &policy.Principal{ID: "ann", Tenant: tenant, Roles: []string{"reader"}}, Route: &policy.Route{Name: "r-" + tenant},
	}
	if allowed {
		d.Reason, d.Phase = policy.ReasonAllowed, policy.PhaseRecord
	}
	return &audit.Record{Time: time.Unix(1, 0), Decision: d, Method: "GET", Host: "api.test", Path: "/" + id}
}

// watch begins to watch as somebody.
func (d *desk) watch(caller string, req *adminv1.WatchDecisionsRequest) (grpc.ServerStreamingClient[adminv1.WatchDecisionsResponse], context.CancelFunc) {
	d.t.Helper()
	ctx, leave := context.WithCancel(d.t.Context())
	if caller != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "x-api-key", caller)
	}
	s, err := adminv1.NewDecisionServiceClient(d.as("")).WatchDecisions(ctx, req)
	if err != nil {
		d.t.Fatal(err)
	}
	return s, leave
}

// next reads until there are n decisions, and returns their ids.
func next(t *testing.T, s grpc.ServerStreamingClient[adminv1.WatchDecisionsResponse], n int) (ids string, lost uint64) {
	t.Helper()
	for got := 0; got < n; {
		res, err := s.Recv()
		if err != nil {
			t.Fatal(err)
		}
		lost += res.GetLost()
		for _, d := range res.GetDecisions() {
			ids += d.GetDecision().GetDecisionId() + " "
			got++
		}
	}
	return strings.TrimSpace(ids), lost
}

// Who watches sees decisions as they are made, each once and in order, and those alone that
// a listing would show.
func TestWatchDecisions(t *testing.T) {
	t.Parallel()
	d := open(t)
	d.remote, d.overTLS = "192.0.2.7:1", true // a credential is asked for
	d.ring.Record(decided("a1", "acme", true))
	d.ring.Record(decided("o1", "other", false))
	d.ring.Record(decided("a2", "acme", false))
	no := false
	watchers := map[string]grpc.ServerStreamingClient[adminv1.WatchDecisionsResponse]{}
	for name, w := range map[string]struct {
		caller string
		req    *adminv1.WatchDecisionsRequest
		want   string
	}{
		"everything":   {"root", &adminv1.WatchDecisionsRequest{Recent: 2}, "o1 a2"},
		"a tenant's":   {"boss", &adminv1.WatchDecisionsRequest{Recent: 9}, "a1 a2"},
		"another's":    {"rival", &adminv1.WatchDecisionsRequest{Recent: 9}, "o1"},
		"denies":       {"root", &adminv1.WatchDecisionsRequest{Recent: 1, Filter: &adminv1.DecisionFilter{Allowed: &no}}, "a2"},
		"by tenant":    {"root", &adminv1.WatchDecisionsRequest{Recent: 9, Filter: &adminv1.DecisionFilter{Tenant: "other"}}, "o1"},
		"by route":     {"root", &adminv1.WatchDecisionsRequest{Recent: 9, Filter: &adminv1.DecisionFilter{Route: "r-acme"}}, "a1 a2"},
		"by reason":    {"root", &adminv1.WatchDecisionsRequest{Recent: 9, Filter: &adminv1.DecisionFilter{Reasons: []posternv1.Reason{posternv1.Reason_REASON_POLICY_DENIED}}}, "o1 a2"},
		"what comes":   {"root", &adminv1.WatchDecisionsRequest{}, ""},
		"an auditor's": {"auditor", &adminv1.WatchDecisionsRequest{Recent: 9}, "a1 a2"},
	} {
		s, leave := d.watch(w.caller, w.req)
		defer leave()
		watchers[name] = s
		if got, _ := next(t, s, len(strings.Fields(w.want))); got != w.want {
			t.Errorf("%s: %q, want %q", name, got, w.want)
		}
	}
	if _, err := watchers["what comes"].Recv(); err != nil { // it says at once that it is there
		t.Fatal(err)
	}
	d.ring.Record(decided("o2", "other", true))
	d.ring.Record(decided("a3", "acme", false))
	for name, want := range map[string]string{"everything": "o2 a3", "a tenant's": "a3", "another's": "o2", "denies": "a3", "by route": "a3", "what comes": "o2 a3"} {
		if got, lost := next(t, watchers[name], len(strings.Fields(want))); got != want || lost > 0 {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

// A watcher goes through the gate as every call does.
func TestWatchDecisionsRefuses(t *testing.T) {
	t.Parallel()
	d := open(t)
	d.remote, d.overTLS = "192.0.2.7:1", true
	for caller, want := range map[string]codes.Code{"": codes.Unauthenticated, "stranger": codes.Unauthenticated, "nobody": codes.PermissionDenied, "ann": codes.PermissionDenied} {
		s, leave := d.watch(caller, &adminv1.WatchDecisionsRequest{})
		if _, err := s.Recv(); err == nil {
			t.Errorf("%q may watch", caller)
		} else if code, _, _ := problem(t, err); code != want {
			t.Errorf("%q: %v", caller, err)
		}
		leave()
	}
	s, leave := d.watch("boss", &adminv1.WatchDecisionsRequest{Filter: &adminv1.DecisionFilter{Tenant: "other"}})
	defer leave()
	_, err := s.Recv()
	fails(t, "another tenant", err, codes.PermissionDenied, "PERMISSION_DENIED")
	s, leave = d.watch("root", &adminv1.WatchDecisionsRequest{Recent: -1})
	defer leave()
	_, err = s.Recv()
	fails(t, "less than nothing", err, codes.InvalidArgument, "INVALID_FIELD")
	empty := open(t, func(c *admin.Config) { c.Decisions = &admin.Decisions{Ring: audit.NewRing(0)} })
	s, leave = empty.watch("root", &adminv1.WatchDecisionsRequest{})
	defer leave()
	_, err = s.Recv()
	fails(t, "no ring", err, codes.FailedPrecondition, "NOT_CONFIGURED")
}

// A credential that counts no more ends what it began, before another decision is shown.
func TestWatchEndsWithItsCredential(t *testing.T) {
	t.Parallel()
	d := open(t)
	d.remote, d.overTLS = "192.0.2.7:1", true
	s, leave := d.watch("root", &adminv1.WatchDecisionsRequest{})
	defer leave()
	if _, err := s.Recv(); err != nil {
		t.Fatal(err)
	}
	d.mu.Lock()
	delete(d.callers, "root")
	d.now = d.now.Add(time.Second)
	d.mu.Unlock()
	d.ring.Record(decided("a1", "acme", true))
	_, err := s.Recv()
	fails(t, "a revoked credential", err, codes.Unauthenticated, "UNAUTHENTICATED")
}

// There are so many watchers, and of one caller fewer; who leaves makes room.
func TestWatchersAreFew(t *testing.T) {
	t.Parallel()
	d := open(t)
	d.remote, d.overTLS = "192.0.2.7:1", true
	var leaves []context.CancelFunc
	enter := func(caller string) error {
		s, leave := d.watch(caller, &adminv1.WatchDecisionsRequest{})
		leaves = append(leaves, leave)
		_, err := s.Recv()
		return err
	}
	for range 8 {
		if err := enter("root"); err != nil {
			t.Fatal(err)
		}
	}
	fails(t, "a ninth", enter("root"), codes.ResourceExhausted, "QUOTA_EXCEEDED")
	if err := enter("boss"); err != nil {
		t.Error("nor may anybody else: ", err)
	}
	leaves[0]()
	for deadline := time.Now().Add(20 * time.Second); enter("root") != nil; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("who leaves makes no room")
		}
	}
	for _, leave := range leaves {
		leave()
	}
}

// Watchers end when the server does.
func TestWatchEndsWithTheServer(t *testing.T) {
	t.Parallel()
	ending := make(chan struct{})
	d := open(t, func(c *admin.Config) { c.Decisions.Ending = ending })
	s, leave := d.watch("", &adminv1.WatchDecisionsRequest{})
	defer leave()
	if _, err := s.Recv(); err != nil {
		t.Fatal(err)
	}
	close(ending)
	if _, err := s.Recv(); !errors.Is(err, io.EOF) {
		t.Error(err)
	}
}

// What was made too fast is counted: every decision is seen or lost.
func TestWatchLoses(t *testing.T) {
	t.Parallel()
	d := open(t) // its ring holds 16
	s, leave := d.watch("", &adminv1.WatchDecisionsRequest{})
	defer leave()
	if _, err := s.Recv(); err != nil {
		t.Fatal(err)
	}
	const all = 500
	go func() {
		for i := range all {
			d.ring.Record(decided(fmt.Sprint(i), "", true))
		}
	}()
	for seen := uint64(0); seen < all; {
		res, err := s.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if seen += res.GetLost() + uint64(len(res.GetDecisions())); seen > all {
			t.Fatal(seen, " of ", all)
		}
	}
}
