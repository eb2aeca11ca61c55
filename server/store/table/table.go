// Package table keeps a store in the tables of an SQL database; sqlite and postgres
// are this engine with a Dialect each. The tables stand in migrations/001.
//
// # Writing
//
// All transactions of a process go through one goroutine, the writer. It begins a
// transaction of the database and locks the feed's row, so that it is alone among
// all processes; runs the first transaction that waits; and then whatever others
// wait by now, each in a savepoint of its own, so that one can fail alone. Then it
// writes the row, commits, and only now tells all of them. While the disk works at
// one commit the next group gathers: 16 writers share a commit, and one alone waits
// for nobody.
//
//	BEGIN, lock feed   SAVEPOINT fn RELEASE   SAVEPOINT fn RELEASE …   feed, COMMIT
//
// If a commit ends without an answer of the database, nobody knows whether it was
// made; the error says so, and is never taken for success. After an error that leaves
// open what is on the disk nothing is written any more (Failed).
//
// # Reading
//
// Every View, Changes, Audit, Usage and Check is one transaction that reads one
// state. Numbers become visible in order because the row's lock outlasts the
// commit.
package table

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/postern-auth/postern/server/store"
)

// Dialect is in what databases differ. All of them take $1 for arguments, ON
// CONFLICT and RETURNING.
type Dialect struct {
	// Types are pairs for strings.NewReplacer: a type of the migrations, and how the
	// database calls it.
	Types []string
	// Lock is what a SELECT needs at its end to lock the row.
	Lock string
	// Schema prepares a transaction that migrates, and keeps others from doing so.
	Schema string
	// HasSchema returns how many tables called schema_migrations there are.
	HasSchema string
	// Announce tells other processes of a change when it commits; empty for none.
	Announce string
	// Fault turns an error of the driver into one of package store, if it is one.
	Fault func(error) error
	// Undone says of the error of a COMMIT that nothing was committed for certain.
	Undone func(error) bool
	// Again says of an error that the database has undone the transaction for another's
	// sake, so that it can be tried again; nil for never.
	Again func(error) bool
	// Fatal says of an error that nothing may be written after it until the store is
	// opened again; nil for never.
	Fatal func(error) bool
	// Gone says before each transaction that writes why it would be lost, if so: what
	// was opened is no longer what the store's name means. Nil for never.
	Gone func() error
	// Describe adds to a report what the engine is, its size, and what the database
	// itself finds wrong.
	Describe func(ctx context.Context, tx *sql.Tx, report *store.Report) error
}

// Options are for opening a store.
type Options struct {
	// Now is the clock; nil for the machine's.
	Now func() time.Time
	// NoMigrate refuses a schema that is older than this program, instead of changing
	// it.
	NoMigrate bool
	// MustExist refuses to begin an empty store, which may only mean that the real one
	// is somewhere else.
	MustExist bool
	// Alone refuses a store that another server uses, and keeps others from it until it
	// is closed or the process ends. It means something only to those that have no
	// server of their own which sees to that: to SQLite.
	Alone bool
}

// Store implements store.Store.
type Store struct {
	dialect     Dialect
	write, read *sql.DB // the same, or one that writes and one that reads
	ledger      *sql.DB // the same as write, or one of its own
	now         func() time.Time
	jobs        chan *job
	hints       store.Hints
	failed      atomic.Pointer[error] // a fatal one; nil for none

	life    sync.RWMutex // whatever uses the store holds it for reading
	closed  bool
	stopped chan struct{} // closed when the writer has ended
}

// New opens the store in a database, brings its schema up to date, and takes over
// the connections: those of the writer, of readers and of the ledger.
func New(ctx context.Context, d Dialect, write, read, ledger *sql.DB, o Options) (*Store, error) {
	s := &Store{
		dialect: d, write: write, read: read, ledger: ledger, now: o.Now,
		jobs: make(chan *job), stopped: make(chan struct{}),
	}
	if s.now == nil {
		s.now = time.Now
	}
	err := s.migrate(ctx, o)
	if err == nil {
		err = s.tryWriting(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, s.closePools())
	}
	go s.serve()
	return s, nil
}

// Close implements store.Store.
func (s *Store) Close() error {
	s.life.Lock() // waits for what is under way
	defer s.life.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	s.hints.Close()
	close(s.jobs)
	<-s.stopped
	return s.closePools()
}

func (s *Store) closePools() error {
	err := s.read.Close()
	if s.ledger != s.write {
		err = errors.Join(err, s.ledger.Close())
	}
	if s.write != s.read {
		err = errors.Join(err, s.write.Close()) // the last one, which tidies up
	}
	return err
}

// enter begins a use of the store, which ends with life.RUnlock.
func (s *Store) enter(ctx context.Context) error {
	s.life.RLock()
	err := ctx.Err()
	if s.closed {
		err = store.ErrClosed
	}
	if err != nil {
		s.life.RUnlock()
	}
	return err
}

// Hint tells those who listen that another process has changed something.
func (s *Store) Hint() { s.hints.Send() }

// Listen implements store.Store for changes of this process.
func (s *Store) Listen(ctx context.Context, hint func()) error { return s.hints.Listen(ctx, hint) }

// View implements store.Store.
func (s *Store) View(ctx context.Context, fn func(store.Reader) error) error {
	return s.snapshot(ctx, func(r reader) error { return fn(r) })
}

var snapshot = &sql.TxOptions{Isolation: sql.LevelRepeatableRead, ReadOnly: true}

// snapshot reads one state.
func (s *Store) snapshot(ctx context.Context, fn func(reader) error) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	defer s.life.RUnlock()
	tx, err := s.read.BeginTx(ctx, snapshot)
	if err != nil {
		return s.fault(ctx, "begin to read", err)
	}
	defer tx.Rollback() //nolint:errcheck // nothing was written
	return fn(reader{ctx, s, tx})
}

// Update implements store.Store.
func (s *Store) Update(ctx context.Context, fn func(store.Tx) error) (store.Change, error) {
	return s.do(ctx, func(t *tx) error { return fn(t) })
}

// Renew gives the store a new epoch, because it was restored from a copy.
func (s *Store) Renew(ctx context.Context) error {
	_, err := s.do(ctx, func(t *tx) error {
		t.feed.Epoch = newEpoch()
		return nil
	})
	return err
}

// Purge implements store.Store.
func (s *Store) Purge(ctx context.Context, before time.Time) (int, error) {
	for total := 0; ; {
		var n int
		_, err := s.do(ctx, func(t *tx) (err error) {
			n, err = t.purge(micros(before))
			return err
		})
		if err != nil || n == 0 {
			return total, err
		}
		total += n
	}
}

// AddUsage implements store.Store.
func (s *Store) AddUsage(ctx context.Context, add []store.Usage) error {
	_, err := s.do(ctx, func(t *tx) error {
		for _, u := range add {
			if err := t.addUsage(u.Normal()); err != nil {
				return err
			}
		}
		return nil
	})
	return err
}

// Failed says why nothing more is written until the store is opened again; nil if
// nothing is wrong. What a disk has said it could not keep may be gone although it says
// the next time that all is well, so nobody asks it a second time.
func (s *Store) Failed() error {
	if err := s.failed.Load(); err != nil {
		return fmt.Errorf("%w: nothing more is written after an error of the disk; see to it, and restart Postern: %w", store.ErrReadOnly, *err)
	}
	return nil
}

// writable says why nothing may be written.
func (s *Store) writable() error {
	err := s.Failed()
	if err == nil && s.dialect.Gone != nil {
		err = s.dialect.Gone()
	}
	return err
}

// fault says what failed, and why in the words of package store where it has some.
func (s *Store) fault(ctx context.Context, doing string, err error) error {
	if err == nil {
		return nil
	}
	if s.dialect.Fatal != nil && s.dialect.Fatal(err) {
		s.failed.CompareAndSwap(nil, &err)
	}
	if ctx.Err() != nil {
		return fmt.Errorf("%s: %w", doing, context.Cause(ctx))
	}
	return fmt.Errorf("%s: %w", doing, s.dialect.Fault(err))
}
