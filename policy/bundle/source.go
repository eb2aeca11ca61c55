package bundle

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/postern-auth/postern/policy/rego"
)

// Deps is what a Source works with.
type Deps struct {
	// Engine is where policies are put in force. Required.
	Engine *rego.Engine
	// Rego is how they are compiled; its Path is not used.
	Rego rego.Config
	// Options are handed to rego.Compile.
	Options []rego.Option
	// Previous is the Source that this one replaces, at a reload. What it had of
	// bundles whose configuration did not change is taken over.
	Previous *Source
	// Logger; the default discards.
	Logger *slog.Logger
	// Now is the clock; the default is time.Now.
	Now func() time.Time
}

// Source keeps an engine's policy in step with bundle servers.
type Source struct {
	config Config
	deps   Deps
	feeds  []*feed

	mu     sync.Mutex // held while bundles are read, compiled and put in force
	closed bool

	view     sync.RWMutex // guards what follows; never held for long
	revision string
}

// feed is one bundle: where it comes from, what is in force of it, and what is not.
type feed struct {
	bundle  Bundle
	fetcher fetcher
	reading reading
	shelf   *shelf
	kick    chan struct{}

	// Guarded by Source.mu.
	active  *content // nil: none yet
	pending *content // newer than active and not in force: it failed, or waits for other bundles
	floor   *content // what was in force before the start; nil if that is not known

	status Status // guarded by Source.view
}

// New makes a Source and puts in force what an earlier one kept on disk, if all
// bundles are there. It does not use the network; Run does. An error says that the
// configuration cannot work; what is wrong with bundles on disk is in Status.
func New(ctx context.Context, config Config, deps Deps) (*Source, error) {
	if deps.Engine == nil {
		return nil, errors.New("a source of bundles needs an engine")
	}
	if err := config.validate(); err != nil {
		return nil, err
	}
	s := &Source{config: config.withDefaults(), deps: deps.withDefaults()}
	for i := range s.config.Bundles {
		f, err := s.newFeed(s.config.Bundles[i])
		if err != nil {
			s.Close()
			return nil, err
		}
		s.feeds = append(s.feeds, f)
	}
	s.recall(ctx)
	return s, nil
}

func (c *Config) validate() error {
	var all []error
	if len(c.Bundles) == 0 {
		all = append(all, errors.New("there is no bundle"))
	}
	c.Check(func(path, message, suggestion string) {
		if suggestion != "" {
			message += ": " + suggestion
		}
		all = append(all, fmt.Errorf("%s %s", path, message))
	})
	return errors.Join(all...)
}

func (s *Source) newFeed(b Bundle) (*feed, error) {
	v, err := newVerifier(&b.Verify)
	if err != nil {
		return nil, fmt.Errorf("bundle %s: %w", b.Name, err)
	}
	limit := int64(s.config.Limits.Download)
	f := &feed{
		bundle: b, shelf: newShelf(string(s.config.Persist), b.Name, limit), kick: make(chan struct{}, 1),
		reading: reading{name: b.Name, limits: s.config.Limits, verifier: v, version: ast.RegoV1},
		status:  Status{Name: b.Name, Verified: v.on(), Waiting: true},
	}
	if version := s.deps.Rego.RegoVersion; version != nil && *version == 0 {
		f.reading.version = ast.RegoV0
	}
	if f.fetcher, err = newFetcher(&f.bundle, limit); err != nil {
		return nil, fmt.Errorf("bundle %s: %w", b.Name, err)
	}
	return f, nil
}

// recall puts in force what the Source before had, or what is on disk.
func (s *Source) recall(ctx context.Context) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.feeds {
		if s.inherit(f) {
			continue
		}
		c, err := s.recalled(f)
		if err != nil {
			s.refuse(f, err)
			continue
		}
		if c == nil {
			continue
		}
		f.pending, f.floor = c, c
		s.note(f, func(st *Status) { st.FromDisk = true })
	}
	if s.someMissing() {
		return
	}
	if err := s.activate(ctx, s.latest()); err != nil {
		for _, f := range s.feeds {
			if f.pending != nil {
				s.refuse(f, err)
			}
		}
	}
}

// recalled reads what was kept of a bundle; nil if nothing was.
func (s *Source) recalled(f *feed) (*content, error) {
	raw, k, confirmed, err := f.shelf.take()
	if err == nil && raw == nil {
		return nil, nil
	}
	var c *content
	if err == nil {
		c, err = f.reading.read(raw, s.deps.Now())
	}
	if err != nil {
		return nil, failed(FailedPersist, fmt.Errorf("what was kept on disk: %w", err))
	}
	if confirmed.After(s.deps.Now().Add(time.Minute)) {
		confirmed = time.Time{} // no clock says that; then nobody has confirmed it
	}
	c.etag, c.confirmed, c.recalled, c.kept = k.ETag, confirmed, true, true
	return c, nil
}

// inherit takes a bundle over from the Source before.
func (s *Source) inherit(f *feed) bool {
	if s.deps.Previous == nil {
		return false
	}
	for _, old := range s.deps.Previous.feeds {
		if !reflect.DeepEqual(old.bundle, f.bundle) || old.reading.limits != f.reading.limits {
			continue
		}
		s.deps.Previous.mu.Lock()
		active := old.active
		s.deps.Previous.mu.Unlock()
		if active == nil {
			return false
		}
		had, c := s.deps.Previous.statusOf(old), *active
		c.etag, c.confirmed, c.recalled = had.ETag, had.Checked, true
		c.kept = c.kept && s.deps.Previous.config.Persist == s.config.Persist
		f.pending, f.floor = &c, &c
		s.note(f, func(st *Status) { *st = had; st.Waiting = true })
		return true
	}
	return false
}

func (s *Source) someMissing() bool {
	return slices.ContainsFunc(s.feeds, func(f *feed) bool { return f.active == nil && f.pending == nil })
}

// latest is the newest of every bundle, in force or not.
func (s *Source) latest() []*content {
	set := make([]*content, len(s.feeds))
	for i, f := range s.feeds {
		if set[i] = f.pending; set[i] == nil {
			set[i] = f.active
		}
	}
	return set
}

// Run keeps asking until ctx ends.
func (s *Source) Run(ctx context.Context) {
	var all sync.WaitGroup
	for _, f := range s.feeds {
		all.Go(func() { s.follow(ctx, f) })
	}
	all.Wait()
}

// Refresh has Run ask for all bundles now.
func (s *Source) Refresh() {
	for _, f := range s.feeds {
		select {
		case f.kick <- struct{}{}:
		default: // it was told already
		}
	}
}

// Poll asks for all bundles once, now. The error joins what is wrong with each.
func (s *Source) Poll(ctx context.Context) error {
	var all []error
	for _, f := range s.feeds {
		if _, err := s.ask(ctx, f, 0); err != nil {
			all = append(all, fmt.Errorf("bundle %s: %w", f.bundle.Name, err))
		}
	}
	return errors.Join(all...)
}

// Close gives connections back. The policy stays in force, and this Source changes it
// no more.
func (s *Source) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for _, f := range s.feeds {
		f.fetcher.close()
	}
}

// instant is how soon a server that was asked to wait answers when it does not.
const instant = time.Second

func (s *Source) follow(ctx context.Context, f *feed) {
	failures := 0
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-f.kick:
		case <-timer.C:
		}
		began := time.Now()
		got, err := s.ask(ctx, f, f.bundle.Poll.Wait)
		if ctx.Err() != nil {
			return
		}
		delay := between(f.bundle.Poll.Min, f.bundle.Poll.Max)
		switch {
		case stageOf(err) == FailedDownload:
			delay = min(delay, backOff(failures))
			failures++
		default:
			failures = 0
			if err == nil && got.held && (got.changed || time.Since(began) >= instant) {
				delay = 0 // the server waits in our place
			}
		}
		timer.Reset(delay)
	}
}

func between(low, high time.Duration) time.Duration {
	return low + time.Duration(rand.Int64N(int64(high-low)+1))
}

// backOff grows from half a second, so that a server that restarts is found soon and
// one that is down is left alone.
func backOff(failures int) time.Duration {
	longest := 500 * time.Millisecond << min(failures, 20)
	return between(longest/2, longest)
}

// outcome is what became of asking for a bundle.
type outcome struct {
	held    bool // the server knows how to wait
	changed bool
}

// ask gets what is new of one bundle and puts it in force.
func (s *Source) ask(ctx context.Context, f *feed, wait time.Duration) (o outcome, err error) {
	bounded, cancel := context.WithTimeout(ctx, f.bundle.Timeout+wait)
	defer cancel()
	got, err := f.fetcher.fetch(bounded, s.statusOf(f).ETag, wait)
	if ctx.Err() != nil {
		return o, ctx.Err()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	before := f.active
	switch {
	case s.closed:
		return o, errClosed
	case err != nil:
		err = failed(FailedDownload, err)
	default:
		o.held = got.held
		err = s.take(ctx, f, got)
	}
	if err != nil {
		s.refuse(f, err)
	}
	o.changed = f.active != before
	return o, err
}

var errClosed = errors.New("this source of bundles is closed")

// take puts an answer in force, or says why not.
func (s *Source) take(ctx context.Context, f *feed, got *answer) error {
	now := s.deps.Now()
	if got.body == nil {
		f.pending = nil
		return s.confirm(f, now)
	}
	c, err := f.reading.read(got.body, now)
	if err != nil {
		return err
	}
	if f.active != nil && c.digest == f.active.digest {
		f.pending, f.active.etag = nil, got.etag
		s.note(f, func(st *Status) { st.ETag = got.etag })
		return s.confirm(f, now)
	}
	if !f.bundle.AllowRollback {
		if err := c.follows(f.newest()); err != nil {
			return failed(FailedRollback, err)
		}
	}
	c.etag, c.confirmed = got.etag, now
	f.pending = c
	s.note(f, func(st *Status) {
		st.Downloaded = now
		if f.active == nil {
			st.clear()
		}
	})
	if s.someMissing() {
		return nil
	}
	return s.tryAll(ctx, f)
}

// newest is what a bundle must not be older than.
func (f *feed) newest() *content {
	if f.active != nil {
		return f.active
	}
	return f.floor
}

// tryAll tries the newest of all bundles and, if that fails, this one with the
// others as they are.
func (s *Source) tryAll(ctx context.Context, f *feed) error {
	all := s.latest()
	err := s.activate(ctx, all)
	if err == nil {
		return nil
	}
	alone := make([]*content, len(s.feeds))
	for i, g := range s.feeds {
		if alone[i] = g.active; g == f {
			alone[i] = f.pending
		}
	}
	if slices.Contains(alone, nil) || slices.Equal(alone, all) {
		return err
	}
	return s.activate(ctx, alone)
}

// confirm notes that what is in force is the newest that there is.
func (s *Source) confirm(f *feed, now time.Time) error {
	if f.active == nil {
		return nil
	}
	err := s.keep(f)
	s.note(f, func(st *Status) {
		st.Checked = now
		if err == nil {
			st.clear()
		}
	})
	f.shelf.confirm(now)
	return err
}

// activate compiles a set of contents and puts it in force, whole or not at all.
func (s *Source) activate(ctx context.Context, set []*content) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = panicked(p)
		}
	}()
	next, err := s.compile(ctx, set)
	if err != nil {
		return err
	}
	for _, w := range next.Warnings {
		s.deps.Logger.Warn("policy", "warning", w.String())
	}
	s.deps.Engine.Activate(next)
	s.view.Lock()
	s.revision = next.Revision
	s.view.Unlock()
	now := s.deps.Now()
	var all []error
	for i, f := range s.feeds {
		if set[i] != f.pending || f.pending == nil {
			continue
		}
		f.active, f.pending = f.pending, nil
		s.note(f, func(st *Status) { st.activated(f.active, now) })
		s.deps.Logger.Info("bundle in force", "bundle", f.bundle.Name, "revision", f.active.revision, "policy", next.Revision, "bytes", len(f.active.raw))
		for _, what := range f.active.unused {
			s.deps.Logger.Warn("bundle", "bundle", f.bundle.Name, "warning", what)
		}
		all = append(all, s.keep(f))
	}
	return errors.Join(all...)
}

func (s *Source) compile(ctx context.Context, set []*content) (*rego.Snapshot, error) {
	parts, labels := make([]rego.Part, len(set)), make([]string, len(set))
	for i, f := range s.feeds {
		for j := range i {
			if roots, both := overlap(set[j], set[i]); both {
				return nil, failed(FailedRoots, fmt.Errorf("the roots of bundle %s overlap those of %s: %s; give each bundle roots of its own in its manifest",
					f.bundle.Name, s.feeds[j].bundle.Name, roots))
			}
		}
	}
	for i, f := range s.feeds {
		c, err := f.reading.again(set[i])
		if err != nil {
			return nil, err
		}
		parts[i] = c.part(f.bundle.Name)
		labels[i] = c.revision
		if len(set) > 1 {
			labels[i] = f.bundle.Name + "=" + c.revision
		}
	}
	b, err := rego.NewBundle(label(labels), parts, s.deps.Rego)
	if err != nil {
		return nil, failed(FailedPolicy, err)
	}
	next, err := rego.Compile(ctx, b, s.deps.Rego, s.deps.Options...)
	return next, failed(FailedPolicy, err)
}

// label is what people call a set of bundles.
func label(parts []string) string {
	all := strings.Join(parts, ",")
	if len(all) > 2*maxRevision {
		return ""
	}
	return all
}

// again reads a content whose parsed form was given away. What is in force was
// verified when it came; that its signature has expired since does not matter.
func (r *reading) again(c *content) (*content, error) {
	if c.data != nil || c.modules != nil {
		return c, nil
	}
	return r.read(c.raw, c.read)
}

// keep writes what is in force to disk. Where that fails the policy is in force all
// the same; it is tried again with the next answer.
func (s *Source) keep(f *feed) error {
	c := f.active
	if c.kept {
		return nil
	}
	err := f.shelf.put(c.raw, kept{
		Digest: hex.EncodeToString(c.digest[:]), ETag: c.etag, Revision: c.revision, Activated: s.statusOf(f).Activated,
	})
	if err != nil {
		return failed(FailedPersist, fmt.Errorf("the bundle is in force and could not be kept on disk: %w", err))
	}
	c.kept = true
	return nil
}

// Revision is the revision in force by this Source, or "".
func (s *Source) Revision() string {
	s.view.RLock()
	defer s.view.RUnlock()
	return s.revision
}

// Age is how long ago the server of the bundle that is worst off last said that what
// is in force is the newest. Where none ever did, it is the longest time there is.
func (s *Source) Age(now time.Time) time.Duration {
	s.view.RLock()
	defer s.view.RUnlock()
	age := time.Duration(0)
	for _, f := range s.feeds {
		if f.status.Checked.IsZero() {
			return math.MaxInt64
		}
		age = max(age, now.Sub(f.status.Checked))
	}
	return age
}

// Stale reports whether the policy in force is older than max_age allows: then
// nothing may be decided by it.
func (s *Source) Stale(now time.Time) bool {
	return s.config.MaxAge > 0 && s.Age(now) > s.config.MaxAge
}
