package postgres

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	// quiet is how long nothing may come before the connection is tried.
	quiet = 15 * time.Second
	// firstWait and longestWait bound the time between attempts to connect.
	firstWait   = 100 * time.Millisecond
	longestWait = 5 * time.Second
)

// Listen implements store.Store for changes of all replicas.
func (s *Store) Listen(ctx context.Context, hint func()) error {
	s.listen.Do(func() { s.ended.Go(s.keepListening) })
	return s.Store.Listen(ctx, hint)
}

// keepListening hears notifications until the store is closed.
func (s *Store) keepListening() {
	wait := firstWait
	for s.ctx.Err() == nil {
		if s.hear() {
			wait = firstWait
		}
		select {
		case <-time.After(wait/2 + rand.N(wait/2)):
		case <-s.ctx.Done():
		}
		wait = min(2*wait, longestWait)
	}
}

// hear passes notifications on until the connection is lost, and reports whether
// there was one.
func (s *Store) hear() (connected bool) {
	conn, err := pgx.ConnectConfig(s.ctx, s.config.Copy())
	if err != nil {
		return false
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = conn.Close(ctx) // it may be dead already
	}()
	if _, err := conn.Exec(s.ctx, "LISTEN "+channel); err != nil {
		return false
	}
	for err == nil {
		s.Hint() // the first one for what came before
		err = s.next(conn)
	}
	return true
}

// next waits for a notification, or makes sure that the connection still lives.
func (s *Store) next(conn *pgx.Conn) error {
	ctx, cancel := context.WithTimeout(s.ctx, quiet)
	defer cancel()
	_, err := conn.WaitForNotification(ctx)
	if s.ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	ctx, cancel = context.WithTimeout(s.ctx, connectTimeout)
	defer cancel()
	return conn.Ping(ctx)
}
