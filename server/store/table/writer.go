package table

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/postern-auth/postern/server/store"
)

const (
	// groupSize is how many transactions share a commit at most.
	groupSize = 64
	// groupTime is how long a group may take; then the database is taken for dead.
	groupTime = 20 * time.Second
)

// job is a transaction that somebody waits for.
type job struct {
	ctx    context.Context
	fn     func(*tx) error
	turn   chan *tx      // gives the caller the transaction to work with
	ran    chan struct{} // closed when the caller has done so
	done   chan struct{} // closed when it is decided what became of it
	change store.Change
	err    error
}

// do takes part in a group: the writer says when, and fn runs here, so that its
// panics end here as well.
func (s *Store) do(ctx context.Context, fn func(*tx) error) (store.Change, error) {
	if err := s.enter(ctx); err != nil {
		return store.Change{}, err
	}
	defer s.life.RUnlock()
	j := &job{ctx: ctx, fn: fn, turn: make(chan *tx), ran: make(chan struct{}), done: make(chan struct{})}
	select {
	case s.jobs <- j:
	case <-ctx.Done():
		return store.Change{}, ctx.Err()
	}
	select {
	case t := <-j.turn:
		j.use(t)
		<-j.done
	case <-j.done:
	}
	return j.change, j.err
}

var (
	errSlow      = fmt.Errorf("the database has not answered for %v", groupTime)
	errAbandoned = errors.New("the transaction was abandoned")
)

func (j *job) use(t *tx) {
	j.err = errAbandoned // unless fn comes to its end
	defer close(j.ran)
	j.err = t.run()
}

// serve is the writer.
func (s *Store) serve() {
	defer close(s.stopped)
	for j := range s.jobs {
		s.group(j)
	}
}

// group commits a job together with all that wait by then.
func (s *Store) group(first *job) {
	ctx, cancel := context.WithTimeoutCause(context.Background(), groupTime, errSlow)
	defer cancel()
	var jobs []*job
	g, err := s.begin(ctx)
	for j := first; j != nil; j = s.waiting(len(jobs)) {
		jobs = append(jobs, j)
		if err == nil {
			err = g.run(j)
		}
		if err != nil {
			break
		}
	}
	if err == nil {
		err = g.commit()
	}
	if g != nil {
		_ = g.tx.Rollback() // of what was not committed
	}
	for _, j := range jobs {
		if err != nil { // even a refusal may have come of what is now undone
			j.change, j.err = store.Change{}, err
		}
		close(j.done)
	}
	if err == nil && g.feed.Head != g.found.Head {
		s.hints.Send()
	}
}

// waiting returns a job to add to a group, or nil.
func (s *Store) waiting(size int) *job {
	if size == groupSize {
		return nil
	}
	select {
	case j := <-s.jobs: // nil if the store is being closed
		return j
	default:
		return nil
	}
}

// group is a transaction of the database that is under way.
type group struct {
	reader
	found, feed store.Feed // as it was, and as it will be
}

// begin locks the feed. A connection can have died since it was used, so there is a
// second attempt on another one.
func (s *Store) begin(ctx context.Context) (*group, error) {
	if err := s.writable(); err != nil {
		return nil, err
	}
	g, err := s.lock(ctx)
	if err != nil && ctx.Err() == nil && !errors.Is(err, store.ErrCorrupt) {
		g, err = s.lock(ctx)
	}
	return g, err
}

func (s *Store) lock(ctx context.Context) (*group, error) {
	tx, err := s.write.BeginTx(ctx, nil)
	if err != nil {
		return nil, s.fault(ctx, "begin", err)
	}
	g := &group{reader: reader{ctx, s, tx}}
	if g.found, err = g.reader.feed(s.dialect.Lock); err != nil {
		_ = tx.Rollback() // nothing was written
		return nil, err
	}
	g.feed = g.found
	return g, nil
}

// tryWriting finds out early whether anything can be written.
func (s *Store) tryWriting(ctx context.Context) error {
	g, err := s.begin(ctx)
	if err != nil {
		return err
	}
	defer g.tx.Rollback() //nolint:errcheck // that is the point
	return g.exec("UPDATE feed SET head = head")
}

func (g *group) exec(query string, args ...any) error {
	_, err := g.tx.ExecContext(g.ctx, query, args...)
	return g.s.fault(g.ctx, "write", err)
}

// run carries out a job. An error of the job's own is left in the job; one that is
// returned is the end of the whole group.
func (g *group) run(j *job) error {
	select {
	case <-j.ctx.Done():
		j.err = j.ctx.Err()
		return nil
	default:
	}
	if err := g.exec("SAVEPOINT job"); err != nil {
		return err
	}
	t := &tx{group: g, job: j, feed: g.feed, at: store.Micro(g.s.now())}
	j.turn <- t
	<-j.ran
	if j.err != nil {
		err := g.exec("ROLLBACK TO SAVEPOINT job")
		if err != nil && t.fault != nil {
			return t.fault // it took the whole transaction with it
		}
		return err
	}
	g.feed = t.feed
	j.change = store.Change{Number: t.feed.Head, At: t.at}
	return g.exec("RELEASE SAVEPOINT job")
}

// commit ends the group.
func (g *group) commit() error {
	f := g.feed
	if f != g.found {
		if err := g.exec(`UPDATE feed SET epoch = $1, head = $2, audit = $3, floor = $4, purges = $5`,
			f.Epoch, f.Head, f.Audit, f.Floor, f.Purges); err != nil {
			return err
		}
	}
	if f.Head != g.found.Head && g.s.dialect.Announce != "" {
		if err := g.exec(g.s.dialect.Announce); err != nil {
			return err
		}
	}
	err := g.tx.Commit()
	if err != nil && !g.s.dialect.Undone(err) {
		return fmt.Errorf("%w: %w", store.ErrUncertain, g.s.fault(g.ctx, "commit", err))
	}
	return g.s.fault(g.ctx, "commit", err)
}

var _ store.Store = (*Store)(nil)
