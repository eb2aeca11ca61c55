package authn

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"sync/atomic"
	"time"

	"github.com/maypok86/otter/v2"
	"golang.org/x/sync/singleflight"

	"github.com/postern-auth/postern/policy"
)

// CacheConfig bounds what Cached keeps. Zero fields take the defaults.
type CacheConfig struct {
	// Size is how many good credentials are kept; 100,000 by default.
	Size int
	// MaxTTL is the longest time before a good credential is proven again,
	// however long it lives; 5 minutes by default.
	MaxTTL time.Duration
	// NegativeSize and NegativeTTL bound the separate memory of bad credentials,
	// so that garbage cannot drive out good ones; 20,000 and 2 seconds by default.
	NegativeSize int
	NegativeTTL  time.Duration
	// StaleFor is how much longer than MaxTTL a good credential is believed while it
	// cannot be asked about (ErrUnreachable), but never past its own NotAfter; 0, the
	// default, is not at all. Danger: a credential that was withdrawn meanwhile goes on
	// being accepted for as long.
	StaleFor time.Duration
	// Timeout bounds one proof, also after its first caller has left; 5 seconds
	// by default.
	Timeout time.Duration
	// Effort bounds what unknown credentials may cost; nil for no bound. It is for those
	// whose proof takes nothing but a CPU.
	Effort *Effort
	// Now is the clock; time.Now by default.
	Now func() time.Time
}

func (c CacheConfig) withDefaults() CacheConfig {
	c.Size = positiveOr(c.Size, 100_000)
	c.MaxTTL = positiveOr(c.MaxTTL, 5*time.Minute)
	c.NegativeSize = positiveOr(c.NegativeSize, 20_000)
	c.NegativeTTL = positiveOr(c.NegativeTTL, 2*time.Second)
	c.StaleFor = max(c.StaleFor, 0)
	c.Timeout = positiveOr(c.Timeout, 5*time.Second)
	if c.Now == nil {
		c.Now = time.Now
	}
	return c
}

func positiveOr[T int | time.Duration](v, def T) T {
	if v > 0 {
		return v
	}
	return def
}

// Epoch is what an authenticator may have besides: a number that changes
// whenever the grounds of earlier answers do, for example a key set. Entries of
// another epoch are not used.
type Epoch interface {
	Epoch() uint64
}

// Cached is an Authenticator that remembers the answers of another.
//
// An entry is found by a keyed hash of the whole credential, so that the cache
// holds no secret and two credentials never share an entry by a common prefix.
// Proofs live until the least of MaxTTL and their own NotAfter, refusals for
// NegativeTTL in a memory of their own; what could not be found out is never
// remembered. A proof whose time in memory is over is kept for StaleFor besides, for
// when nobody can be asked: marked as stale, and only until something is known again.
// What was remembered later than it is now, because the clock was set back since, is not
// used: it would live for longer than it may.
//
// An unknown credential is first asked about with a context that is over: who
// needs nothing but RAM answers at once, on the caller's own goroutine. Only if
// something must be waited for do all callers with the same credential share one
// flight, which goes on when the first of them leaves.
type Cached struct {
	next   Authenticator
	epoch  func() uint64
	cfg    CacheConfig
	key    [32]byte
	good   *otter.Cache[[32]byte, *entry]
	bad    *otter.Cache[[32]byte, *entry]
	flight singleflight.Group

	hits, negativeHits, misses, stale atomic.Uint64
}

type entry struct {
	proof   *Proof
	refusal *Refusal
	epoch   uint64
	// since is when it was remembered, less backwards, and until how long it holds,
	// exclusive, in Unix nanoseconds.
	since, until int64
	// stale is until when the proof may stand in for an answer that cannot be had, in
	// Unix nanoseconds, exclusive; never before until.
	stale int64
}

// NewCached wraps an authenticator.
func NewCached(next Authenticator, cfg CacheConfig) *Cached {
	cfg = cfg.withDefaults()
	c := &Cached{
		next:  next,
		epoch: func() uint64 { return 0 },
		cfg:   cfg,
		good:  otter.Must(&otter.Options[[32]byte, *entry]{MaximumSize: cfg.Size}),
		bad:   otter.Must(&otter.Options[[32]byte, *entry]{MaximumSize: cfg.NegativeSize}),
	}
	if e, ok := next.(Epoch); ok {
		c.epoch = e.Epoch
	}
	_, _ = rand.Read(c.key[:]) // crypto/rand.Read never fails: it ends the process instead
	return c
}

// Authenticate answers from memory or asks the authenticator once.
func (c *Cached) Authenticate(ctx context.Context, cred *Credential) (*Proof, error) {
	key := c.hash(cred)
	now := c.cfg.Now().UnixNano()
	if e, ok := c.good.GetIfPresent(key); ok && e.usable(now, c.epoch()) {
		c.hits.Add(1)
		return e.proof, nil
	}
	if e, ok := c.bad.GetIfPresent(key); ok && e.usable(now, c.epoch()) {
		c.negativeHits.Add(1)
		return nil, e.refusal
	}
	c.misses.Add(1)
	return c.prove(ctx, key, cred)
}

// backwards is how far a clock may go back without a credential being proven again: more
// than the callers of one moment differ in when they looked at it, or a clock that is
// being disciplined is moved at once.
const backwards = time.Second

func (e *entry) usable(now int64, epoch uint64) bool {
	return e.since <= now && now < e.until && e.epoch == epoch
}

// over is a context that is over.
var over = func() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}()

// prove asks the authenticator.
func (c *Cached) prove(ctx context.Context, key [32]byte, cred *Credential) (*Proof, error) {
	epoch := c.epoch()
	proof, err := c.cfg.Effort.spend(ctx, cred.Client, func() (*Proof, error) { return c.ask(over, cred) })
	if errors.Is(err, errEffort) {
		return nil, err
	}
	var refusal *Refusal
	if err == nil || errors.As(err, &refusal) || errors.Is(err, ErrNotMine) {
		c.remember(key, epoch, proof, err)
		return proof, err
	}
	return c.fly(ctx, key, cred)
}

// fly asks again, once for all who wait. The flight has a context of its own: a
// caller that gives up takes nobody down.
func (c *Cached) fly(ctx context.Context, key [32]byte, cred *Credential) (*Proof, error) {
	own := *cred // the caller may reuse its credential while the flight goes on
	flight := c.flight.DoChan(string(key[:]), func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.cfg.Timeout)
		defer cancel()
		epoch := c.epoch()
		if e, ok := c.good.GetIfPresent(key); ok && e.usable(c.cfg.Now().UnixNano(), epoch) {
			return e.proof, nil // the flight before this one landed just now
		}
		proof, err := c.ask(ctx, &own)
		c.remember(key, epoch, proof, err)
		if errors.Is(err, ErrUnreachable) {
			return c.standIn(key, epoch, err)
		}
		return proof, err
	})
	// A name of its own: the flight still reads ctx.
	waiting, cancel := policy.LeaveRoom(ctx)
	defer cancel()
	select {
	case r := <-flight:
		proof, _ := r.Val.(*Proof)
		return proof, r.Err
	case <-waiting.Done():
		return nil, context.Cause(waiting)
	}
}

// ask turns a panic of the authenticator into an error: a flight runs on a
// goroutine of its own, where nobody else could recover it.
func (c *Cached) ask(ctx context.Context, cred *Credential) (proof *Proof, err error) {
	defer func() {
		if recover() != nil {
			proof, err = nil, errors.New("the authenticator panicked")
		}
	}()
	return c.next.Authenticate(ctx, cred)
}

// remember keeps an answer, and forgets what it contradicts: a proof that was refused
// since never stands in for anything.
func (c *Cached) remember(key [32]byte, epoch uint64, proof *Proof, err error) {
	now := c.cfg.Now()
	e := &entry{proof: proof, epoch: epoch, since: now.Add(-backwards).UnixNano()}
	switch {
	case err == nil && proof != nil:
		if proof.State == policy.StateStore {
			e.proof = proof.as(policy.StateMirror, time.Time{}) // who finds it here waits for nobody
		}
		e.until = proof.sooner(now.Add(c.cfg.MaxTTL)).UnixNano()
		e.stale = proof.sooner(now.Add(c.cfg.MaxTTL + c.cfg.StaleFor)).UnixNano()
		c.good.Set(key, e)
	case errors.As(err, &e.refusal):
		e.until = now.Add(c.cfg.NegativeTTL).UnixNano()
		c.bad.Set(key, e)
		c.good.Invalidate(key)
	case errors.Is(err, ErrNotMine):
		c.good.Invalidate(key)
	}
}

// standIn returns the proof that a credential had when it could last be asked about,
// or else the error because of which it is needed.
func (c *Cached) standIn(key [32]byte, epoch uint64, err error) (*Proof, error) {
	e, ok := c.good.GetIfPresent(key)
	if now := c.cfg.Now().UnixNano(); !ok || e.epoch != epoch || now < e.since || now >= e.stale {
		return nil, err
	}
	c.stale.Add(1)
	return e.proof.as(policy.StateStale, time.Unix(0, e.stale)), nil
}

// sooner returns the time, or NotAfter if that comes first.
func (p *Proof) sooner(t time.Time) time.Time {
	if !p.NotAfter.IsZero() && p.NotAfter.Before(t) {
		return p.NotAfter
	}
	return t
}

// as returns a copy of another state, that holds no longer than until end unless that
// is zero. It shares the principal, but not what the Checker derived from the proof.
func (p *Proof) as(state policy.State, end time.Time) *Proof {
	if end.IsZero() {
		end = p.NotAfter
	}
	return &Proof{
		Principal:   p.Principal,
		Constraints: p.Constraints,
		NotAfter:    p.sooner(end),
		Subject:     p.Subject,
		Origins:     p.Origins,
		Confirm:     p.Confirm,
		Audiences:   p.Audiences,
		Peer:        p.Peer,
		State:       state,
	}
}

// hash is SHA-256 over a random key of this process and the parts, each with
// its length before it. It never leaves the process, so length extension is of
// no use to anybody, and one pass is enough.
func (c *Cached) hash(cred *Credential) [32]byte {
	var scratch [2048]byte
	b := append(scratch[:0], c.key[:]...)
	for _, use := range cred.Uses {
		b = binary.BigEndian.AppendUint32(b, uint32(len(use)))
		b = append(b, use...)
	}
	b = binary.BigEndian.AppendUint32(b, uint32(len(cred.User)))
	b = append(b, cred.User...)
	b = binary.BigEndian.AppendUint32(b, uint32(len(cred.Secret.Reveal())))
	b = append(b, cred.Secret.Reveal()...)
	return sha256.Sum256(b)
}

// CacheStats are counts since the start.
type CacheStats struct {
	Hits, NegativeHits, Misses uint64
	// Stale counts the proofs that stood in for an answer that could not be had.
	Stale uint64
	// Size and NegativeSize are estimates of the entries held now.
	Size, NegativeSize int
}

// Stats returns the counts, for metrics.
func (c *Cached) Stats() CacheStats {
	return CacheStats{
		Hits: c.hits.Load(), NegativeHits: c.negativeHits.Load(), Misses: c.misses.Load(), Stale: c.stale.Load(),
		Size: c.good.EstimatedSize(), NegativeSize: c.bad.EstimatedSize(),
	}
}

var _ Authenticator = (*Cached)(nil)
