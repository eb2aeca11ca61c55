package jose

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/postern-auth/postern/server/outbound"
	"github.com/postern-auth/postern/server/regular"
)

// Event tells of one fetch that ended, and of the Source after it.
type Event struct {
	Status
	// Took is how long the fetch took.
	Took time.Duration
	// Changed says that other keys are in use than before.
	Changed bool
}

// Status is what a Source has, for readiness and metrics.
type Status struct {
	// Source names the issuer, URL or file.
	Source string
	// Usable says that Find can answer for known keys.
	Usable bool
	// Keys is the number of keys in use.
	Keys int
	// Fetched is when the fetch that brought them began; zero for never. Tried is
	// when the last fetch began.
	Fetched, Tried time.Time
	// Err is why the last fetch brought no keys; nil if it did.
	Err error
	// Warnings are about keys of the last fetch that are not used. They hold no
	// key material, and stay the same until the issuer changes its keys.
	Warnings []string
	// PrivateKeySeen says that the keys in use were published with a private one.
	PrivateKeySeen bool
	// Next is when the next fetch is due, and Expires when the keys stop being
	// used if none succeeds; zero for never.
	Next, Expires time.Time
}

// SourceOption changes how a Source works, for its owner and for tests.
type SourceOption func(*Source)

// WithClock replaces time.Now unless it is nil. Ages are taken by that clock,
// timers keep to the real one.
func WithClock(now func() time.Time) SourceOption {
	return func(s *Source) {
		if now != nil {
			s.now = now
		}
	}
}

// WithTransport replaces the transport, and with it the check of addresses.
func WithTransport(t http.RoundTripper) SourceOption { return func(s *Source) { s.transport = t } }

// OnFetch calls f after each fetch, from the goroutine that fetches, so that the
// next one begins when f has returned. f must not call Reload or Close.
func OnFetch(f func(Event)) SourceOption { return func(s *Source) { s.onFetch = f } }

// Inherit starts with the keys of a Source that is being replaced, as old as
// they are, if both get their keys from the same place by the same rules. A new
// configuration would otherwise begin without keys, and deny for as long as the
// issuer is down. It does not close the old Source, which may be nil.
func Inherit(old *Source) SourceOption { return func(s *Source) { s.old = old } }

// Source keeps the keys of one issuer fresh. Its methods are safe for concurrent
// use. See the package comment for when it fetches.
type Source struct {
	cfg       SourceConfig
	name      string
	now       func() time.Time
	transport http.RoundTripper
	onFetch   func(Event)
	old       *Source
	jitter    func() float64 // in [0, 1)
	load      func(context.Context) (fetched, error)

	state   atomic.Pointer[state]
	waiting atomic.Int32

	ctx   context.Context // of all fetches; ends with Close
	close context.CancelFunc
	ended chan struct{} // closed when the goroutine has ended
	wake  chan struct{} // tells it that there is a flight

	mu     sync.Mutex
	flight *flight   // the fetch that runs or is about to; nil for none
	tried  time.Time // when the last one was begun
	asked  time.Time // when the last one that an unknown kid caused was begun
}

var _ Keys = (*Source)(nil)

// state is all that a Source knows. It never changes; each fetch makes a new one.
type state struct {
	set      *KeySet // nil: never fetched
	epoch    uint64
	fetched  time.Time // when the fetch that brought set began
	expires  time.Time // from when on set does not count; zero: never
	tried    time.Time
	next     time.Time
	err      error // of the last fetch
	failures int   // since the last success
	warnings []string
}

// usable reports whether the keys still count.
func (st *state) usable(now time.Time) bool {
	return st.set != nil && (st.expires.IsZero() || now.Before(st.expires))
}

// flight is one fetch, for those who wait for it. err is set before done closes.
type flight struct {
	done chan struct{}
	err  error
}

// maxWaiters bounds how many callers wait for one fetch. Tokens with unknown
// keys cost nothing to send, and while an issuer hangs each of them would hold a
// request for as long as the fetch may take.
const maxWaiters = 4096

// firstRetry is the pause after the first failure of a Source without keys.
const firstRetry = time.Second

// epochs hands out numbers by twos: one for the time in which a key set counts,
// the next for when it has become too old. No two sets of the process share any,
// whichever Source they are from.
var epochs atomic.Uint64

func nextEpoch() uint64 { return epochs.Add(2) }

var (
	errClosed = errors.New("the source of keys is closed")
	errBusy   = errors.New("too many callers wait for a fetch")
	errNoKeys = errors.New("the key set holds no key that can be used")
)

// NewSource starts to keep the keys. A file is read before it returns, and must
// be good; a URL is fetched in the background, and Find waits for it. The error
// is about the configuration. Close ends the Source.
func NewSource(cfg SourceConfig, opts ...SourceOption) (*Source, error) {
	s := &Source{
		cfg:    cfg.withDefaults(),
		now:    time.Now,
		jitter: rand.Float64,
		ended:  make(chan struct{}),
		wake:   make(chan struct{}, 1),
	}
	for _, o := range opts {
		o(s)
	}
	if err := s.cfg.check(); err != nil {
		return nil, err
	}
	if err := s.findOrigin(); err != nil {
		return nil, err
	}
	s.state.Store(s.firstState())
	s.ctx, s.close = context.WithCancel(context.Background())
	s.join(true)
	if s.cfg.File != "" {
		s.attempt()
		if err := s.state.Load().err; err != nil {
			s.close()
			return nil, err
		}
	}
	go s.run()
	return s, nil
}

// findOrigin decides where the keys are loaded from, and checks that place.
func (s *Source) findOrigin() error {
	if s.cfg.File != "" {
		s.name = cmp.Or(s.cfg.Issuer, s.cfg.File)
		s.load = func(context.Context) (fetched, error) { return readFile(s.cfg.File) }
		return nil
	}
	client, err := s.client()
	if err != nil {
		return err
	}
	if s.cfg.URL == "" {
		issuer := s.cfg.discovery()
		if err := issuer.Check(); err != nil {
			return err
		}
		s.name = s.cfg.Issuer
		s.load = func(ctx context.Context) (fetched, error) {
			at, err := issuer.Find(ctx, client, memberKeys)
			if err != nil {
				return fetched{}, err
			}
			return get(ctx, client, at)
		}
		return nil
	}
	at, err := outbound.ParseURL(s.cfg.URL, s.cfg.outbound())
	if err != nil {
		return fmt.Errorf("the url of the key set is refused: %w", err)
	}
	s.name = cmp.Or(s.cfg.Issuer, (&url.URL{Scheme: at.Scheme, Host: at.Host, Path: at.Path}).String())
	s.load = func(ctx context.Context) (fetched, error) { return get(ctx, client, at) }
	return nil
}

func (s *Source) client() (*http.Client, error) {
	cfg := s.cfg.outbound()
	cfg.Transport = s.transport
	return outbound.NewClient(*cfg)
}

// readFile reads a file of at most MaxDocumentBytes.
func readFile(path string) (fetched, error) {
	body, err := regular.ReadFile(path, MaxDocumentBytes)
	return fetched{body: body, maxAge: -1}, tooLarge(err)
}

// firstState is empty, or what the replaced Source knows.
func (s *Source) firstState() *state {
	old := s.old
	s.old = nil
	if old == nil || !s.cfg.samePlace(old.cfg) {
		return new(state)
	}
	st := *old.state.Load()
	if st.set != nil && !st.usable(s.now()) {
		st.epoch = nextEpoch() // the new rules may let them count again
	}
	if s.cfg.File == "" && st.set != nil {
		st.expires = st.fetched.Add(s.cfg.KeepStale)
	}
	return &st
}

// Find returns the keys for a kid and an alg. For a kid that it knows it does no
// I/O and takes no lock. For an unknown one it may start a fetch, or wait for one
// that runs, until ctx ends. The error means that it could not be found out
// whether there is such a key.
func (s *Source) Find(ctx context.Context, kid, alg string) ([]*Key, error) {
	if st := s.state.Load(); st.usable(s.now()) {
		if keys, known := st.set.find(kid, alg); known {
			return keys, nil
		}
	}
	if f, _ := s.join(false); f != nil {
		if err := s.wait(ctx, f); err != nil {
			return nil, fmt.Errorf("keys of %s: %w", s.name, err)
		}
	}
	st := s.state.Load()
	if !st.usable(s.now()) {
		return nil, s.unavailable(st)
	}
	keys, known := st.set.find(kid, alg)
	if !known && st.err != nil {
		// The issuer may have published the key since.
		return nil, fmt.Errorf("a key that is not known, and newer ones cannot be had: %w", st.err)
	}
	return keys, nil
}

// unavailable says why no keys count.
func (s *Source) unavailable(st *state) error {
	switch {
	case st.set == nil && st.err == nil:
		return fmt.Errorf("keys of %s: they were not fetched yet", s.name)
	case st.err == nil:
		return fmt.Errorf("keys of %s: those of %s are too old", s.name, st.fetched.UTC().Format(time.RFC3339))
	}
	return fmt.Errorf("no keys that can be used: %w", st.err)
}

// Epoch returns a number that grows whenever other keys count than before: when
// they changed, when they became too old, and when they count again. It is 0
// before the first keys. Only a Source that inherits keys shares it. What was
// proven with a key holds as long as the epoch is the one that was read before
// Find.
func (s *Source) Epoch() uint64 {
	st := s.state.Load()
	if st.set != nil && !st.usable(s.now()) {
		return st.epoch + 1
	}
	return st.epoch
}

// Status returns what the Source has.
func (s *Source) Status() Status { return s.status(s.state.Load()) }

func (s *Source) status(st *state) Status {
	return Status{
		Source:         s.name,
		Usable:         st.usable(s.now()),
		Keys:           st.set.Len(),
		Fetched:        st.fetched,
		Tried:          st.tried,
		Err:            st.err,
		Warnings:       st.warnings,
		PrivateKeySeen: st.set != nil && st.set.privateSeen,
		Next:           st.next,
		Expires:        st.expires,
	}
}

// Reload fetches or reads the keys now, whatever the cooldown, and returns the
// error of that. The fetch begins after Reload was called and goes on if ctx
// ends first.
func (s *Source) Reload(ctx context.Context) error {
	for {
		f, started := s.join(true)
		if f == nil {
			return errClosed
		}
		if err := s.wait(ctx, f); err != nil {
			return fmt.Errorf("keys of %s: %w", s.name, err)
		}
		if started {
			return f.err
		}
	}
}

// Close ends a running fetch and the Source's goroutine, and waits for it. Keys
// that are known go on being found until they are too old.
func (s *Source) Close() error {
	s.close()
	<-s.ended
	return nil
}

// join returns the fetch that runs, or begins one if the cooldown is over or
// force says so; nil if neither. started reports that it began it.
func (s *Source) join(force bool) (f *flight, started bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.flight != nil:
		return s.flight, false
	case s.ctx.Err() != nil:
		return nil, false
	case !force && (s.cfg.File != "" || s.cooling()):
		return nil, false
	}
	s.flight = &flight{done: make(chan struct{})}
	s.tried = s.now()
	if !force {
		s.asked = s.tried
	}
	select {
	case s.wake <- struct{}{}:
	default: // it is awake already
	}
	return s.flight, true
}

// cooling reports whether an unknown kid must wait for the cooldown: since the
// last one that caused a fetch, or since any fetch if the issuer is down. A fetch
// by age only counts for a second, so that a key which is published after it is
// found without delay.
func (s *Source) cooling() bool {
	now := s.now()
	if s.state.Load().err != nil || now.Sub(s.tried) < time.Second {
		return now.Sub(s.tried) < s.cfg.Cooldown
	}
	return now.Sub(s.asked) < s.cfg.Cooldown
}

// land ends the flight and lets those who wait for it go on.
func (s *Source) land(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f := s.flight; f != nil {
		f.err = err
		close(f.done)
	}
	s.flight = nil
}

func (s *Source) isFlying() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.flight != nil
}

// wait waits until the flight has landed, ctx ends, or there are too many who
// wait.
func (s *Source) wait(ctx context.Context, f *flight) error {
	defer s.waiting.Add(-1)
	if s.waiting.Add(1) > maxWaiters {
		return errBusy
	}
	select {
	case <-f.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("waiting for a fetch: %w", context.Cause(ctx))
	}
}

// run is the Source's one goroutine: whatever is fetched, it fetches.
func (s *Source) run() {
	defer close(s.ended)
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	s.schedule(timer)
	for {
		select {
		case <-s.ctx.Done():
			s.land(errClosed)
			return
		case <-timer.C:
			s.join(true)
		case <-s.wake:
		}
		if s.isFlying() {
			s.attempt()
			s.schedule(timer)
		}
	}
}

// schedule sets the timer to when the next fetch is due. A file has no such
// time, and before the first fetch there is one under way.
func (s *Source) schedule(timer *time.Timer) {
	timer.Stop()
	if next := s.state.Load().next; !next.IsZero() {
		timer.Reset(next.Sub(s.now()))
	}
}

// attempt makes one fetch, puts what came of it in place, and tells of it.
func (s *Source) attempt() {
	began := s.now()
	old := s.state.Load()
	ctx, cancel := context.WithTimeout(s.ctx, s.cfg.Timeout)
	defer cancel()
	set, warnings, maxAge, err := s.read(ctx)
	if s.ctx.Err() != nil {
		return // closed meanwhile, which says nothing about the issuer
	}
	if err != nil {
		err = fmt.Errorf("keys of %s: %w", s.name, err)
	}
	st := *old
	st.tried, st.err, st.warnings = began, err, warnings
	if err == nil {
		s.replace(&st, set, began)
		st.failures = 0
	} else {
		st.failures++
	}
	st.next = s.nextFetch(&st, maxAge)
	s.state.Store(&st)
	s.land(err)
	if s.onFetch != nil {
		s.onFetch(Event{s.status(&st), s.now().Sub(began), st.epoch != old.epoch})
	}
}

// replace puts a new set in the state. An equal set keeps its epoch, so that
// what was proven with it holds on, unless it had become too old meanwhile: an
// epoch never goes back.
func (s *Source) replace(st *state, set *KeySet, began time.Time) {
	if !st.usable(s.now()) || st.set.digest != set.digest {
		st.epoch = nextEpoch()
	}
	st.set, st.fetched = set, began
	if s.cfg.File == "" {
		st.expires = began.Add(s.cfg.KeepStale)
	}
}

// read loads and parses a key set. Bytes from outside are parsed on a goroutine
// of ours here, so a panic would end the process for all issuers.
func (s *Source) read(ctx context.Context) (set *KeySet, warnings []string, maxAge time.Duration, err error) {
	defer func() {
		if recover() != nil {
			set, err = nil, errors.New("panic while reading the key set")
		}
	}()
	got, err := s.load(ctx)
	if err != nil {
		return nil, nil, -1, err
	}
	if s.cfg.Bundle {
		return s.readBundle(got)
	}
	set, warnings, err = ParseKeySet(got.body)
	if err == nil && set.Len() == 0 {
		err = noKeys(warnings)
	}
	return set, warnings, got.maxAge, err
}

// noKeys says of a set without keys what is wrong with the first of those that it has:
// often it is the only one, or wrong in the same way as all.
func noKeys(warnings []string) error {
	switch len(warnings) {
	case 0:
		return errNoKeys
	case 1:
		return fmt.Errorf("%w: %s", errNoKeys, warnings[0])
	}
	return fmt.Errorf("%w: %s, and others", errNoKeys, warnings[0])
}

// readBundle parses a SPIFFE bundle. One without keys counts: from then on nothing of
// that trust domain is believed. One from a server that lags behind does not; a file is
// its owner's word.
func (s *Source) readBundle(got fetched) (set *KeySet, warnings []string, maxAge time.Duration, err error) {
	set, warnings, err = ParseBundle(got.body)
	if err != nil {
		return nil, warnings, got.maxAge, err
	}
	if st := s.state.Load(); s.cfg.File == "" && st.usable(s.now()) {
		err = set.follows(st.set)
	}
	return set, warnings, set.refreshHint(got.maxAge), err
}

// nextFetch returns when the next fetch is due; zero for a file. Up to a tenth
// is taken off by chance, so that replicas which started together do not keep
// asking together.
func (s *Source) nextFetch(st *state, maxAge time.Duration) time.Time {
	if s.cfg.File != "" {
		return time.Time{}
	}
	now := s.now()
	switch {
	case st.failures > 0 && st.usable(now):
		return now.Add(s.cfg.Cooldown)
	case st.failures > 0:
		pause := firstRetry << min(st.failures-1, 16)
		return now.Add(min(pause, s.cfg.Cooldown))
	}
	age := s.cfg.Refresh
	if maxAge >= 0 {
		age = min(maxAge, age)
	}
	age -= time.Duration(s.jitter() * float64(age) / 10)
	return now.Add(max(age, s.cfg.MinRefresh))
}
