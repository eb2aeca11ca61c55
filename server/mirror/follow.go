package mirror

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/postern-auth/postern/server/store"
)

const (
	// page is how many records to ask for at once.
	page = 5000
	// settle is how long to wait after a hint: changes come in bursts.
	settle = 5 * time.Millisecond
	// maxBackoff is the longest time between two tries while the store fails.
	maxBackoff = time.Second
	// largeLoad is how many records leave much garbage when they have been read.
	largeLoad = 2 * page
	// maxCall is the longest that one call of the store may take, and maxHanging how
	// many that took longer may still be under way.
	maxCall    = 30 * time.Second
	maxHanging = 4
)

// Run follows the store until the context ends, and then writes what is left to be
// written. It returns nil.
func (m *Mirror) Run(ctx context.Context) error {
	if m.store == nil {
		<-ctx.Done()
		return nil
	}
	var all sync.WaitGroup
	hints := make(chan struct{}, 1)
	for _, part := range []func(context.Context){
		func(ctx context.Context) { m.listen(ctx, hints) },
		m.touchAll, m.flushAll, m.snapshotAll, m.watchAll,
	} {
		all.Go(func() { part(ctx) })
	}
	m.follow(ctx, hints)
	all.Wait()
	m.close()
	return nil
}

// close writes the counters of use and the snapshot for the last time.
func (m *Mirror) close() {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := m.Flush(ctx); err != nil {
		m.deps.Logger.Error("the last counters of use are lost", "error", err)
	}
	m.saveSnapshot()
}

// listen turns the store's hints into signals, each of which may stand for many.
func (m *Mirror) listen(ctx context.Context, hints chan<- struct{}) {
	for ctx.Err() == nil {
		_ = m.store.Listen(ctx, func() {
			select {
			case hints <- struct{}{}:
			default:
			}
		})
		sleep(ctx, time.Second)
	}
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// follow polls until the context ends.
func (m *Mirror) follow(ctx context.Context, hints <-chan struct{}) {
	failures := 0
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-hints:
			if failures > 0 {
				continue // a store that fails is tried again in its own time
			}
			sleep(ctx, settle)
		}
		err := m.Poll(ctx)
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			failures = 0
			timer.Reset(m.cfg.Poll)
			continue
		}
		failures++
		wait := min(m.cfg.Poll<<min(failures-1, 10), maxBackoff)
		timer.Reset(wait/2 + rand.N(wait/2+1))
	}
}

// Poll asks the store for changes once and applies them. Run does so by itself.
func (m *Mirror) Poll(ctx context.Context) error {
	if m.store == nil {
		return errNever
	}
	m.following.Lock()
	defer m.following.Unlock()
	var err error
	if w := m.world.Load(); w.epoch == "" {
		err = m.reload(ctx)
	} else {
		err = m.catchUp(ctx, w)
	}
	if err != nil && ctx.Err() == nil && m.health.failed(m.deps.Now(), err) {
		m.deps.Logger.Error("the store cannot be followed", "error", err)
	}
	return err
}

// catchUp applies all changes since the last poll.
func (m *Mirror) catchUp(ctx context.Context, w *world) error {
	known := m.View().witness
	after := w.head.Load()
	for first := true; ; first = false {
		start := m.deps.Now()
		batch, err := m.next(ctx, after, known, !first)
		switch {
		case errors.Is(err, errAnotherStore):
			m.deps.Logger.Warn("the store was put back to an earlier state and written to since; reading all of it", "change", after)
			return m.reload(ctx)
		case errors.Is(err, store.ErrPurged), err == nil && (batch.Epoch != w.epoch || batch.Next < after):
			return m.reload(ctx)
		case err != nil:
			return err
		}
		if len(batch.Records) > 0 || batch.Next > after {
			w.apply(m.decodeAll(batch.Records, nil), batch.Next)
			m.epoch.Add(1)
			known = witnessOf(&batch)
		}
		after = batch.Next
		v := *m.View()
		v.Number, v.witness = after, known
		if batch.Complete {
			v.Epoch, v.Since, v.Snapshot = w.epoch, start, false
			m.look(v)
			m.health.recovered()
			return nil
		}
		m.look(v)
	}
}

var errHanging = fmt.Errorf("%d calls of the store hang", maxHanging)

// changes asks the store, and gives it no longer than a fresh answer may take:
// one that hangs is worth nothing, and another connection may work. What has much
// to read takes longer.
func (m *Mirror) changes(ctx context.Context, after int64, long bool) (store.Batch, error) {
	limit := m.cfg.Bound << min(m.health.timeouts(), 5)
	if long {
		limit = maxCall
	}
	if m.hanging.Load() >= maxHanging {
		return store.Batch{}, errHanging
	}
	call, cancel := context.WithTimeout(ctx, min(limit, maxCall))
	defer cancel()
	type answer struct {
		batch store.Batch
		err   error
	}
	// A goroutine of its own: an engine may hang in a system call that no context
	// reaches, and then still nobody must believe that the view is fresh.
	got := make(chan answer, 1)
	m.hanging.Add(1)
	go func() {
		defer m.hanging.Add(-1)
		b, err := m.store.Changes(call, after, page)
		got <- answer{b, err}
	}()
	select {
	case a := <-got:
		if a.err == nil {
			m.health.answered()
		}
		return a.batch, a.err
	case <-call.Done():
		if ctx.Err() == nil {
			m.health.timedOut()
		}
		return store.Batch{}, fmt.Errorf("the store did not answer in %v: %w", limit, context.Cause(call))
	}
}
