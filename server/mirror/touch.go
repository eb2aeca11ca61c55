package mirror

import (
	"context"
	"errors"
	"time"

	"github.com/postern-auth/postern/server/store"
)

const (
	// touches is how often in its idle time a session in use is touched in the store.
	touches = 10
	// maxTouching is how many sessions can wait for it, maxTouches how many are
	// touched in one transaction.
	maxTouching = 4096
	maxTouches  = 200
	// gather is how long to wait for more before a transaction.
	gather = 100 * time.Millisecond
)

// touched is a session that was used at a time.
type touched struct {
	session *session
	at      int64
}

// touch notes that a session was used long enough after it was last noted. Of many
// requests at once one does it, and it waits for nothing: where too many wait
// already, the next request tries again.
func (m *Mirror) touch(s *session, now int64) {
	before := s.touched.Load()
	if now <= before || !s.touched.CompareAndSwap(before, now) {
		return
	}
	select {
	case m.touching <- touched{s, now}:
	default:
		s.touched.CompareAndSwap(now, before)
		m.health.touchesDropped.Add(1)
	}
}

// touchAll writes to the store which sessions were used. If that fails the sessions
// stay touched here, and are tried again after another tenth of their idle time.
func (m *Mirror) touchAll(ctx context.Context) {
	for {
		var all []touched
		select {
		case <-ctx.Done():
			return
		case t := <-m.touching:
			all = append(all, t)
		}
		sleep(ctx, gather)
		for more := true; more && len(all) < maxTouches; {
			select {
			case t := <-m.touching:
				all = append(all, t)
			default:
				more = false
			}
		}
		call, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		err := m.writeTouches(call, all)
		cancel()
		if err != nil {
			m.health.touchesDropped.Add(uint64(len(all)))
			m.deps.Logger.Warn("sessions in use were not touched in the store", "sessions", len(all), "error", err)
		}
	}
}

func (m *Mirror) writeTouches(ctx context.Context, all []touched) error {
	_, err := m.store.Update(ctx, func(tx store.Tx) error {
		for _, t := range all {
			if err := writeTouch(tx, t); err != nil {
				return err
			}
		}
		return nil
	})
	return err
}

// writeTouch moves the time of a session that is still there, unless another
// replica just has.
func writeTouch(tx store.Tx, t touched) error {
	s, err := store.Get[store.Session](tx, t.session.id)
	if errors.Is(err, store.ErrNotFound) || errors.Is(err, store.ErrCorrupt) {
		return nil
	}
	if err != nil {
		return err
	}
	at := store.Micro(time.Unix(0, t.at).UTC())
	if s.Revoked != nil || !s.ExpiresAt.After(at) || at.Sub(s.TouchedAt) < time.Duration(s.Idle)/touches {
		return nil
	}
	s.TouchedAt = at
	return store.Put(tx, s)
}
