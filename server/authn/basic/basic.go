// Package basic proves users by the name and password that come with each request
// (RFC 7617).
//
// A password costs 20 to 80 ms of CPU to check, by design, and anybody may ask for it.
// So everything here is about doing that seldom, and not too often at once:
//
//	user-id ─→ tenant, name
//	   1. guessed too often?     refused, nothing is looked at
//	   2. seen lately?           answered from RAM: HMAC and a look-up, no lock
//	   3. one flight             all who bring the same pair from the same address wait
//	                             for one check
//	   4. a try is counted       five wrong ones in 15 minutes
//	   5. a turn in the pool     some at once, some wait, the rest is turned away
//	   6. the check              the file's users here, the store's by the registry
//
// # What is remembered
//
// That a password was right is remembered for a minute at most, under
//
//	HMAC-SHA-256( key of this process, tenant | name | password | version of the record )
//
// each part with its length before it. The version comes from what the mirror knows in
// RAM at that moment. So when anything about the user changes, the password above all,
// what was remembered is not found again; no entry needs to be looked for and removed.
// Tenants and owners are looked at on every request besides. Wrong passwords are not
// remembered, and what could not be found out neither.
//
// A remembered password is found in a microsecond, and a lockout that only stood before
// the slow check would let somebody guess at that speed. Therefore step 1 comes first.
//
// # Who waits
//
// The check does not end with the request that asked for it. A client that was told
// "could not find out" because its second was over finds the answer when it asks again.
// With a context that is over, Authenticate answers from RAM or not at all.
//
// # What an attacker learns
//
// Unknown users, wrong passwords, users who are disabled, without a password or locked
// get one answer. A name that is unknown costs what a wrong password does (see
// server/password and, for the file, decoy); one that is locked costs nothing, whether
// it exists or not. Users of the file and of the store cost the same only if their
// hashes are of the same kind.
package basic

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/maypok86/otter/v2"
	"golang.org/x/sync/singleflight"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn"
	"github.com/postern-auth/postern/server/password"
	"github.com/postern-auth/postern/server/regular"
	"github.com/postern-auth/postern/server/seal"
	"github.com/postern-auth/postern/server/strictyaml"
)

// Try is a password that somebody brings.
type Try struct {
	Tenant, Name string
	Password     policy.Secret
	// Client is where it comes from; invalid if that is not known. Those who are not
	// known count as one, so that any of them can lock out a user for all of them.
	Client netip.Addr
}

// Hasher verifies passwords against hashes (password.Hasher).
type Hasher interface {
	Verify(ctx context.Context, hash string, password policy.Secret) (bool, error)
	VerifyNobody(ctx context.Context, password policy.Secret) error
}

// Deps are what an Authenticator works with. All may be left out.
type Deps struct {
	// People are the users of the store, and Verify says whether a password is that of
	// one of them, at the same cost whether or not there is one (the registry's
	// VerifyPassword). An error means that it could not be found out. Without the two,
	// there are the users of the file alone.
	People authn.People
	Verify func(ctx context.Context, t Try) (bool, error)
	// Hasher verifies the passwords of the file; default: one of its own.
	Hasher Hasher
	// Patience bounds one check, the time in the queue included; 1 s by default. What
	// cannot be checked by then would be answered too late anyway.
	Patience time.Duration
	// Now is the clock; time.Now by default.
	Now func() time.Time
}

// Authenticator proves users by their passwords. It is a cache itself: authn.Cached
// around it is of no use.
type Authenticator struct {
	cfg    Config
	deps   Deps
	file   atomic.Pointer[file]
	limits *limiter
	pool   *password.Pool
	key    key
	good   *otter.Cache[[32]byte, *remembered]
	flight singleflight.Group
	counts counts
}

var _ authn.Authenticator = (*Authenticator)(nil)

const (
	// cached is how many right passwords are remembered.
	cached = 100_000
	// defaultPatience is Deps.Patience where it is not set.
	defaultPatience = time.Second
	// assurance is the level of a password.
	assurance = 1
)

// remembered is a proof by a password.
type remembered struct {
	proof *authn.Proof
	until time.Time
}

// New returns an Authenticator, or what is wrong with the configuration or the file.
func New(cfg Config, deps Deps) (*Authenticator, error) {
	if err := strictyaml.Check("basic.", cfg.Check); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	if (deps.People == nil) != (deps.Verify == nil) {
		return nil, errors.New("basic: people and the check of their passwords go together")
	}
	if deps.Now == nil {
		deps.Now = time.Now
	}
	if deps.Patience <= 0 {
		deps.Patience = defaultPatience
	}
	if deps.Hasher == nil {
		h, err := password.New(password.Config{Workers: cfg.Workers, Queue: cfg.Queue}, password.Deps{})
		if err != nil {
			return nil, fmt.Errorf("basic: %w", err)
		}
		deps.Hasher = h
	}
	a := &Authenticator{
		cfg: cfg, deps: deps,
		limits: newLimiter(cfg.Tries, cfg.Window, deps.Now),
		pool:   password.NewPool(cfg.Workers, cfg.Queue),
		good:   otter.Must(&otter.Options[[32]byte, *remembered]{MaximumSize: cached}),
	}
	_, _ = rand.Read(a.key[:]) // never fails: it ends the process instead
	if err := a.Reload(context.Background()); err != nil {
		return nil, err
	}
	return a, nil
}

// Reload reads the file again. What is wrong with it leaves the one in force.
func (a *Authenticator) Reload(context.Context) error {
	if a.cfg.HtpasswdFile == "" {
		a.file.CompareAndSwap(nil, &file{})
		return nil
	}
	text, err := regular.ReadFile(a.cfg.HtpasswdFile.String(), maxFile)
	if err != nil {
		return fmt.Errorf("basic.htpasswd_file: %w", err)
	}
	if before := a.file.Load(); before != nil && string(before.text) == string(text) {
		return nil
	}
	next, err := parseFile(a.cfg.HtpasswdFile.String(), text)
	if err != nil {
		return fmt.Errorf("basic.htpasswd_file: %w", err)
	}
	a.file.Store(next)
	return nil
}

var (
	errWrong   = authn.Refuse(policy.ReasonCredentialUnknown, "no such user, the wrong password, or a user who may not log in")
	errLocked  = authn.Refuse(policy.ReasonCredentialUnknown, "too many wrong passwords came for the user or from the address; this one was not looked at")
	errNobody  = authn.Refuse(policy.ReasonCredentialUnknown, "the user-id is empty")
	errWaiting = errors.New("basic: the password must be checked, which takes longer than there is time")
	errUnseen  = errors.New("basic: the password is right, but this replica does not know the user yet")
)

// Authenticate implements authn.Authenticator. The error wraps password.ErrBusy if too
// many passwords are being checked.
func (a *Authenticator) Authenticate(ctx context.Context, c *authn.Credential) (*authn.Proof, error) {
	if c.Scheme != "basic" || len(c.Uses) > 1 && isToken(c.Secret) {
		return nil, authn.ErrNotMine
	}
	if c.User == "" {
		return nil, errNobody
	}
	t := Try{Password: c.Secret, Client: c.Client}
	t.Tenant, t.Name = a.cfg.who(c.User)
	now := a.deps.Now()

	// 1. Guessed too often?
	if a.limits.locked(t.Client, t.Tenant, t.Name, now) {
		a.counts.locked.Add(1)
		return nil, errLocked
	}

	// 2. Seen lately?
	is := a.look(&t)
	key := a.key.of(&t, is)
	if r, ok := a.good.GetIfPresent(key); ok && now.Before(r.until) {
		a.counts.cached.Add(1)
		if err := is.alive(); err != nil {
			return nil, err
		}
		return r.proof, nil
	}
	if ctx.Err() != nil {
		return nil, errWaiting
	}
	return a.fly(ctx, key, t)
}

// isToken reports whether a password is a token of ours: another authenticator of the
// rule owns it, and guessing it is not what is to be counted.
func isToken(secret policy.Secret) bool {
	p, err := seal.Parse(secret.Reveal())
	return err == nil && p.Kind != ""
}

// subject is who a try is for: a user of the file, one of the store, or neither.
type subject struct {
	user    *fileUser
	person  authn.Person
	version authn.Version
}

func (a *Authenticator) look(t *Try) (s subject) {
	if t.Tenant == a.cfg.Tenant {
		s.user = a.file.Load().users[t.Name]
	}
	if s.user == nil && a.deps.People != nil && t.Tenant != noSuchTenant {
		if s.person = a.deps.People.Person(t.Tenant, t.Name); s.person != nil {
			s.version = s.person.Version()
		}
	}
	return s
}

func (s *subject) alive() error {
	if s.person == nil {
		return nil
	}
	return s.person.Alive()
}

// fly checks a password, once for all who bring the same from the same address: what
// is counted against one address must not decide about another.
func (a *Authenticator) fly(ctx context.Context, key [32]byte, t Try) (*authn.Proof, error) {
	name := string(key[:]) + string(t.Client.AsSlice())
	flight := a.flight.DoChan(name, func() (_ any, err error) {
		defer func() {
			if recover() != nil { // on a goroutine where nobody else could
				err = errors.New("basic: a check panicked")
			}
		}()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), a.deps.Patience)
		defer cancel()
		return a.prove(ctx, t)
	})
	waiting, cancel := policy.LeaveRoom(ctx)
	defer cancel()
	select {
	case r := <-flight:
		proof, _ := r.Val.(*authn.Proof)
		return proof, r.Err
	case <-waiting.Done():
		return nil, fmt.Errorf("basic: checking a password: %w", context.Cause(waiting))
	}
}

// prove checks a password and says whose it is.
func (a *Authenticator) prove(ctx context.Context, t Try) (*authn.Proof, error) {
	done, ok := a.limits.try(a.limits.attempt(t.Client, t.Tenant, t.Name))
	if !ok {
		a.counts.locked.Add(1)
		return nil, errLocked
	}
	is := a.look(&t) // before the check: what changes meanwhile is not remembered
	good, err := a.check(ctx, &t, &is)
	switch {
	case err != nil:
		done(unknown)
		a.counts.failed.Add(1)
		return nil, err
	case !good:
		done(wrong)
		a.counts.wrong.Add(1)
		return nil, errWrong
	}
	done(right)
	a.counts.right.Add(1)
	return a.accept(&t, &is)
}

// check hashes a password, in its turn.
func (a *Authenticator) check(ctx context.Context, t *Try, is *subject) (bool, error) {
	leave, err := a.pool.Enter(ctx)
	if err != nil {
		return false, fmt.Errorf("basic: %w", err)
	}
	defer leave()
	switch {
	case is.user != nil:
		return a.deps.Hasher.Verify(ctx, is.user.hash, t.Password)
	case a.deps.Verify != nil:
		return a.deps.Verify(ctx, *t)
	}
	if decoy := a.file.Load().decoy(t.Name); decoy != nil {
		_, err = a.deps.Hasher.Verify(ctx, decoy.hash, t.Password)
		return false, err
	}
	return false, a.deps.Hasher.VerifyNobody(ctx, t.Password)
}

// accept makes the proof of a user whose password was right, and remembers it unless
// the user has changed since the check began.
func (a *Authenticator) accept(t *Try, was *subject) (*authn.Proof, error) {
	var p *policy.Principal
	state, same := policy.StateNone, true
	if was.user != nil {
		p = &policy.Principal{ID: t.Name, Kind: policy.KindUser, Tenant: t.Tenant, Roles: was.user.roles, Issuer: Issuer}
	} else {
		now := a.look(t)
		if now.person == nil {
			return nil, errUnseen
		}
		var version authn.Version
		var err error
		if p, version, err = now.person.Open(); err != nil {
			return nil, err
		}
		state, same = policy.StateMirror, version == was.version
	}
	now := a.deps.Now()
	p.Method, p.Assurance = policy.MethodBasic, assurance
	p.AMR, p.AuthTime = []string{"pwd"}, now // RFC 8176
	if same && a.cfg.CacheTTL > 0 {
		until := now.Add(a.cfg.CacheTTL)
		a.good.Set(a.key.of(t, *was), &remembered{proof: proofOf(p, state, until), until: until})
	}
	if was.user == nil {
		state = policy.StateStore // this once
	}
	return proofOf(p, state, now.Add(max(a.cfg.CacheTTL, time.Second))), nil
}

// proofOf makes a proof that nobody believes after a time, wherever it is kept. Lines of
// the denylist that name the user reach passwords that were checked before them.
func proofOf(p *policy.Principal, state policy.State, until time.Time) *authn.Proof {
	return &authn.Proof{
		Principal: p, NotAfter: until, State: state,
		Subject: authn.Subject{Issuer: p.Issuer, ID: p.ID, Tenant: p.Tenant, IssuedAt: p.AuthTime},
	}
}

// counts are those of Status.
type counts struct{ cached, right, wrong, locked, failed atomic.Uint64 }

// Status is how the authenticator is doing, for metrics. Counts are since the start.
type Status struct {
	// Cached is how many passwords were answered from RAM, Right and Wrong how many were
	// checked, Locked how many were refused because of earlier ones, and Failed how many
	// could not be checked.
	Cached, Right, Wrong, Locked, Failed uint64
	// Running and Waiting are checks now, and FileUsers the users of the file.
	Running, Waiting, FileUsers int
}

// Status returns how the authenticator is doing.
func (a *Authenticator) Status() Status {
	running, waiting := a.pool.Load()
	return Status{
		Cached: a.counts.cached.Load(), Right: a.counts.right.Load(), Wrong: a.counts.wrong.Load(),
		Locked: a.counts.locked.Load(), Failed: a.counts.failed.Load(),
		Running: running, Waiting: waiting, FileUsers: len(a.file.Load().users),
	}
}
