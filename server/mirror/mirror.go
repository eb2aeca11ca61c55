// Package mirror holds in RAM what a store knows of credentials, sessions and
// revocations, and follows its changes.
//
// # Following
//
// One goroutine asks the store every 200 ms, and at once after a hint, for the
// changes over the last number that it has seen, and applies them. Only the polls
// count: a hint that is lost costs time, not truth. A store that has become another
// one (a new epoch, or a last change that is not what it was: see witness), or that
// no longer reaches back so far, is read as a whole into a world of its own, which is
// then swapped in.
//
//	store ── Changes ─→ decode ─→ tables of atomic pointers ─→ readers
//	  └───── Listen ──→ "ask now"
//
// # Reading
//
// Readers take no lock, wait for nothing and allocate nothing. Principals and
// tenants have a place each, to which credentials point: disabling one counts at
// once for all that belongs to it, and touches none of it. A proof is built when a
// credential is first used after it or its principal has changed; owners and the
// tenant are looked at each time.
//
// An answer about a credential is made of whole changes: what one transaction did
// to the credential, its parents, its principal, the owners and the tenant, an
// answer has seen all of or nothing of. (A batch writes its states behind those in
// force and then moves one number; a reader that finds the number moved reads
// again.) It says nothing about two answers: of two credentials that one
// transaction changed, one may be asked before it and the other after. Lines of the
// denylist count a moment before the rest of their transaction, and go a moment
// after it.
//
// A record that cannot be read never stops the feed. What it names does not count,
// and Status says so.
//
// # How old
//
// A replica that does not hear of revocations must not go on as if there were none.
// That is the reader's to check, at each decision, because a process that was
// stopped cannot: View.State compares the start of the last poll that found nothing
// more to read with the clock. Up to the bound, one second, the view is fresh; past
// it, blind, or stale for a while if the configuration prefers an old answer to
// none.
//
// # Restarting without the store
//
// The mirror writes what it knows to a file, sealed with a key that is made from
// the pepper (see snapshot). A replica that starts while the store is down reads
// it, and is stale until the store answers. It holds no secret: digests only, and
// no passwords.
//
// # What goes back
//
// Uses are counted in RAM and added to the store every 30 s. A session is touched
// in the store when a tenth of its idle time has passed since it last was. Neither
// makes a decision wait.
package mirror

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn"
	"github.com/postern-auth/postern/server/seal"
	"github.com/postern-auth/postern/server/store"
)

// Mode is what to do when the store cannot be followed.
type Mode string

// The modes.
const (
	// Strict denies past the bound.
	Strict Mode = "strict"
	// Available answers from what is known, up to MaxStale, and says so.
	Available Mode = "available"
)

// Values lists the values that configuration may use.
func (Mode) Values() []string { return []string{string(Strict), string(Available)} }

// Config says how to follow. Zero fields take the defaults.
type Config struct {
	// Bound is how old a view may be and still count as fresh. Default: 1s.
	Bound time.Duration
	// Mode is Strict by default.
	Mode Mode
	// MaxStale is how old a view may be in the mode Available. Default: 10m.
	MaxStale time.Duration
	// Poll is the time between polls. Default: 200ms.
	Poll time.Duration
	// Snapshot is the file that lets a replica start while the store is down; empty
	// for none.
	Snapshot string
	// SnapshotEvery is the least time between two of them. Default: 10s. Writing takes
	// at most a twentieth of the time.
	SnapshotEvery time.Duration
	// Flush is the time between two writes of the counters of use. Default: 30s.
	Flush time.Duration
}

const (
	defaultBound    = time.Second
	defaultMaxStale = 10 * time.Minute
	defaultPoll     = 200 * time.Millisecond
	defaultFlush    = 30 * time.Second
	defaultSnapshot = 10 * time.Second
)

// WithDefaults returns the configuration with what it leaves out.
func (c Config) WithDefaults() Config {
	for _, d := range []struct {
		field *time.Duration
		value time.Duration
	}{
		{&c.Bound, defaultBound}, {&c.MaxStale, defaultMaxStale}, {&c.Poll, defaultPoll},
		{&c.Flush, defaultFlush}, {&c.SnapshotEvery, defaultSnapshot},
	} {
		if *d.field <= 0 {
			*d.field = d.value
		}
	}
	if c.Mode == "" {
		c.Mode = Strict
	}
	return c
}

// Deps are what the mirror takes from outside. Zero fields are the real things.
type Deps struct {
	// Now is the clock; time.Now by default. Its times should carry a monotonic
	// reading.
	Now func() time.Time
	// Peppers seal the snapshot. Without any it is only protected from damage, not
	// from forgery.
	Peppers *seal.Peppers
	// Logger hears of damaged records, of a store that cannot be followed, and of
	// snapshots that are refused.
	Logger *slog.Logger
	// Ending hears of credentials that end within 14, 7 and 1 days: once for each and
	// each of the three, in every process (K-07).
	Ending func(Ending)
}

// Ending says that a credential will end.
type Ending struct {
	// Credential is its id, Tenant and Principal whose it is, Name what people call it.
	Credential, Tenant, Principal, Name string
	// At is when, Days the threshold that was passed: 14, 7 or 1.
	At   time.Time
	Days int
}

// Mirror follows a store.
type Mirror struct {
	cfg   Config
	store store.Store // nil for none
	deps  Deps

	world atomic.Pointer[world]
	view  atomic.Pointer[View]
	epoch atomic.Uint64

	profiles *pool[profile]
	persons  *pool[person]
	duties   *pool[duties]

	following sync.Mutex // one poll or load at a time
	hanging   atomic.Int32
	waiting   waiting
	health    health
	usage     *usage
	touching  chan touched
	snapshots snapshots
}

// New returns a mirror of the store. It knows nothing until Load or Run. Without a
// store it is empty, and always fresh.
func New(cfg Config, s store.Store, deps Deps) *Mirror {
	if deps.Now == nil {
		deps.Now = time.Now
	}
	if deps.Logger == nil {
		deps.Logger = slog.New(slog.DiscardHandler)
	}
	m := &Mirror{
		cfg: cfg.WithDefaults(), store: s, deps: deps,
		profiles: newPool[profile](), persons: newPool[person](), duties: newPool[duties](),
		touching: make(chan touched, maxTouching),
		usage:    newUsage(),
	}
	m.world.Store(newWorld(m, ""))
	m.look(View{always: s == nil})
	return m
}

// look puts a view in force.
func (m *Mirror) look(v View) {
	v.mode, v.bound, v.maxStale = m.cfg.Mode, m.cfg.Bound, m.cfg.MaxStale
	m.view.Store(&v)
	m.waiting.wake()
}

// View returns what the mirror has seen up to now. It does not allocate.
func (m *Mirror) View() *View { return m.view.Load() }

// State says how fresh the mirror is; see View.State.
func (m *Mirror) State(now time.Time) Freshness { return m.View().State(now) }

// Epoch changes whenever an earlier answer may no longer be right: with every batch
// of changes (see authn.Epoch).
func (m *Mirror) Epoch() uint64 { return m.epoch.Load() }

// Revoked reports whether the denylist of the store names the credential, or it is of an
// agent that is registered and no longer in force.
func (m *Mirror) Revoked(s *authn.Subject) (policy.Reason, bool) {
	w := m.world.Load()
	if reason, revoked := w.denylist.Revoked(s); revoked {
		return reason, true
	}
	return w.agentOver(s)
}

// Credentials is the index of API keys, personal access tokens and imported tokens.
func (m *Mirror) Credentials() authn.Index { return credentials{m} }

// Sessions is the index of sessions.
func (m *Mirror) Sessions() authn.Index { return sessions{m} }

type credentials struct{ m *Mirror }

func (ix credentials) ByID(id string) authn.Sealed {
	if c := ix.m.world.Load().credentials.get(id); c != nil {
		return c
	}
	return nil
}

func (ix credentials) ByDigest(sum [32]byte) authn.Sealed {
	if c := ix.m.world.Load().foreign.get(sum); c != nil {
		return c
	}
	return nil
}

type sessions struct{ m *Mirror }

func (ix sessions) ByID(id string) authn.Sealed {
	if s := ix.m.world.Load().sessions.get(id); s != nil {
		return s
	}
	return nil
}

// ByDigest finds none: sessions are never imported.
func (sessions) ByDigest([32]byte) authn.Sealed { return nil }

// waiting wakes those who wait for a change.
type waiting struct {
	mu   sync.Mutex
	next chan struct{}
}

func (w *waiting) wake() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.next != nil {
		close(w.next)
		w.next = nil
	}
}

func (w *waiting) wait() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.next == nil {
		w.next = make(chan struct{})
	}
	return w.next
}

// WaitFor returns when the mirror has applied the change, or the context's error.
// Without a store there is nothing to wait for.
func (m *Mirror) WaitFor(ctx context.Context, number int64) error {
	for {
		next := m.waiting.wait()
		if v := m.View(); v.always || v.Number >= number && !v.Snapshot {
			return nil
		}
		select {
		case <-next:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// errNever says that there is nothing to follow.
var errNever = errors.New("there is no store to load from")
