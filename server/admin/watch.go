package admin

import (
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc"

	adminv1 "github.com/postern-auth/postern/gen/postern/admin/v1"
	"github.com/postern-auth/postern/policy"
)

// Watching costs a check nothing: nobody is told of a decision, but each watcher looks
// into the ring, often enough for people. One that reads slowly is waited for by its own
// stream alone, and what the ring forgets meanwhile it has lost.
const (
	lookEvery    = 100 * time.Millisecond
	lookBatch    = 256              // decisions in a message
	aliveEvery   = 10 * time.Second // a message without news
	maxWatchers  = 32
	maxPerCaller = 8
)

// WatchDecisions sends decisions as they are made.
func (s *Decisions) WatchDecisions(req *adminv1.WatchDecisionsRequest, stream grpc.ServerStreamingServer[adminv1.WatchDecisionsResponse]) error {
	ctx, recent := stream.Context(), int(req.GetRecent())
	if recent < 0 || recent > maxPage {
		var v invalid
		v.add("recent", fmt.Sprintf("must be 0 to %d", maxPage))
		return v.err()
	}
	if s.Ring.Len() == 0 {
		return &failure{reason: adminv1.ErrorReason_ERROR_REASON_NOT_CONFIGURED, message: "this replica remembers no decisions: decisions.keep is 0"}
	}
	leave, err := s.watchers.enter(callerOf(callOf(ctx)))
	if err != nil {
		return err
	}
	defer leave()
	chosen := matcher(req.GetFilter())
	match := func(d *policy.Decision) bool { return chosen(d) && sees(ctx, d) }
	tail := s.Ring.Tail(recent, match)
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for silent := aliveEvery; ; silent += lookEvery {
		records, lost := tail.Read(lookBatch, match)
		if len(records) > 0 || lost > 0 || silent >= aliveEvery {
			res := &adminv1.WatchDecisionsResponse{Lost: lost}
			for i := range records {
				res.Decisions = append(res.Decisions, record(&records[i]))
			}
			if err := stream.Send(res); err != nil {
				return err
			}
			silent = 0
		}
		select {
		case <-ctx.Done():
			return nil // whoever watched has gone
		case <-s.Ending:
			return nil
		default:
		}
		if len(records) == lookBatch {
			continue
		}
		select {
		case <-ctx.Done():
		case <-s.Ending:
		case <-tick.C:
		}
	}
}

// watchers counts those who watch. The zero value has none.
type watchers struct {
	mu       sync.Mutex
	all      int
	byCaller map[string]int
}

// callerOf names who watches; all without a credential are one.
func callerOf(c *call) string {
	if c == nil {
		return ""
	}
	return c.principal.Issuer + "#" + c.principal.Tenant + "/" + c.principal.ID
}

// enter lets one more watch until it leaves.
func (w *watchers) enter(caller string) (leave func(), err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.all >= maxWatchers || w.byCaller[caller] >= maxPerCaller {
		return nil, &failure{
			reason:  adminv1.ErrorReason_ERROR_REASON_QUOTA_EXCEEDED,
			message: fmt.Sprintf("too many watch already: %d may, and %d for one caller", maxWatchers, maxPerCaller),
		}
	}
	if w.byCaller == nil {
		w.byCaller = map[string]int{}
	}
	w.all++
	w.byCaller[caller]++
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.all--
		if w.byCaller[caller]--; w.byCaller[caller] == 0 {
			delete(w.byCaller, caller)
		}
	}, nil
}
