package mirror

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/postern-auth/postern/server/store"
)

// Load reads everything for the first time. If the store does not answer and there
// is a snapshot, that is what the mirror knows, and Run goes on from there; the
// error is nil then, and Status tells. Otherwise the mirror stays blind.
func (m *Mirror) Load(ctx context.Context) error {
	if m.store == nil {
		return nil
	}
	m.following.Lock()
	defer m.following.Unlock()
	err := m.reload(ctx)
	if err == nil {
		return nil
	}
	m.health.failed(m.deps.Now(), err)
	if m.cfg.Snapshot == "" {
		return fmt.Errorf("reading the store: %w", err)
	}
	if e := m.restore(); e != nil {
		return fmt.Errorf("reading the store: %w; and its snapshot: %w", err, e)
	}
	m.deps.Logger.Warn("the store does not answer; starting from its snapshot", "error", err, "age", m.View().Age(m.deps.Now()))
	return nil
}

// reload reads everything into a new world and swaps it in.
func (m *Mirror) reload(ctx context.Context) error {
	begun, coming := m.deps.Now(), m.fetch(ctx, 0)
	var l *loading
	defer func() { l.settle() }()
	for restarts := 0; ; {
		f := <-coming
		switch {
		case errors.Is(f.err, store.ErrPurged), f.err == nil && l != nil && f.batch.Epoch != l.w.epoch:
			// Something was purged while we read, or the store was restored: once more.
			if restarts++; restarts > 5 {
				return fmt.Errorf("reading all of the store: it changes too fast: %w", store.ErrPurged)
			}
			l.settle()
			l, coming = nil, m.fetch(ctx, 0)
			continue
		case f.err != nil:
			return f.err
		}
		if l == nil {
			m.health.forgetDamage()
			l = m.newLoading(f.batch.Epoch)
		}
		if !f.batch.Complete {
			coming = m.fetch(ctx, f.batch.Next)
		}
		l.add(f.batch.Records, max(0, f.batch.Next))
		if f.batch.Complete {
			v := View{Number: f.batch.Next, Epoch: f.batch.Epoch, Since: f.start, witness: witnessOf(&f.batch)}
			m.swap(l.settle(), v)
			m.health.loaded(m.deps.Now().Sub(begun))
			return nil
		}
	}
}

// fetched is a page of the feed, and when it was asked for.
type fetched struct {
	batch store.Batch
	start time.Time
	err   error
}

// fetch asks for a page while those before it are being decoded and applied.
func (m *Mirror) fetch(ctx context.Context, after int64) <-chan fetched {
	got := make(chan fetched, 1)
	go func() {
		f := fetched{start: m.deps.Now()}
		f.batch, f.err = m.changes(ctx, after, after != 0)
		got <- f
	}()
	return got
}

// loading fills a world that nobody sees yet. It keeps two processors busy: while
// one batch is applied the next is decoded, and whoever calls reads the one after
// that meanwhile.
type loading struct {
	w       *world
	records int
	// applied gives the memory of the batch back that is being applied; nil if none is.
	// free is that of the one before it.
	applied chan []decoded
	free    []decoded
}

func (m *Mirror) newLoading(epoch string) *loading {
	return &loading{w: newWorld(m, epoch)}
}

// add applies records, up to a number. It does not wait until it is done.
func (l *loading) add(records []store.Record, upTo int64) {
	batch := l.w.mirror.decodeAll(records, l.free)
	l.records += len(records)
	l.wait()
	l.applied = make(chan []decoded, 1)
	go func() {
		l.w.apply(batch, upTo)
		l.applied <- batch
	}()
}

func (l *loading) wait() {
	if l.applied != nil {
		l.free, l.applied = <-l.applied, nil
	}
}

// settle returns the world when all is applied. There may be none.
func (l *loading) settle() *world {
	if l == nil {
		return nil
	}
	l.wait()
	return l.w
}

// swap puts a world in force that has been built aside.
func (m *Mirror) swap(w *world, v View) {
	w.visible = true
	m.world.Store(w)
	m.epoch.Add(1)
	m.look(v)
	if w.credentials.len()+w.sessions.len()+w.denials.len() > largeLoad {
		// What reading needed is garbage now, and would stay with the process until as
		// much has been allocated again, which a server that hardly allocates never does.
		// It waits until the first answers are given.
		time.AfterFunc(time.Second, debug.FreeOSMemory)
	}
}
