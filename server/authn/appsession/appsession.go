// Package appsession proves the sessions that another application keeps in Redis or
// Valkey: it made the session when its user logged in, and Postern believes what it says.
//
//	cookie ─→ signature (if the application signs) ─→ id ─→ key ─→ Redis
//	                                                              │ string of JSON, or hash
//	proof ←── principal by the configured fields ←── strict reading
//
// Postern only reads. A session lives as long as its key does, and no longer than it
// says itself; every proof ends with the first of these, and after max_ttl in any case,
// so that a logout in the application counts within that time.
//
// # No and could not find out
//
//	no such key                   refused: unknown
//	a session of nobody           refused: unknown; applications make some before a login
//	over, by its own account      refused: expired
//	Redis down, slow, loading     an error, which wraps authn.ErrUnreachable
//	not JSON, too large, odd      an error: the application has to look at it
//
// # What is not trusted
//
// The cookie is a stranger's text that goes into a key: see isID. The record is the
// application's, but is read strictly, in one way. Nothing larger than max_size is read:
// its length is asked for first, or no more asked for, and a guard ends the connection
// to a server that sends more all the same. No error holds the cookie, the key, the URL
// or anything of a record; a session is named by a digest.
package appsession

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/postern-auth/postern/server/authn"
	"github.com/postern-auth/postern/server/strictyaml"
)

// Deps are what an Authenticator works with.
type Deps struct {
	// Now is the clock; time.Now by default.
	Now func() time.Time
}

// Authenticator proves the sessions of one application. It remembers nothing: put
// authn.Cached around it as Config.CacheConfig says.
type Authenticator struct {
	cfg           Config
	now           func() time.Time
	client        *redis.Client
	before, after string   // of the id in a key
	names         []string // of the fields of a hash

	asked, failed atomic.Uint64
	last          atomic.Pointer[lookup]
}

// lookup is what became of one.
type lookup struct {
	err error
	at  time.Time
}

var _ authn.Authenticator = (*Authenticator)(nil)

// New returns an Authenticator, which has to be closed. It does not wait for Redis.
func New(cfg Config, deps Deps) (*Authenticator, error) {
	if err := strictyaml.Check("app_sessions "+cfg.Name+": ", cfg.Check); err != nil {
		return nil, err
	}
	a := &Authenticator{cfg: cfg.withDefaults(), now: deps.Now}
	if a.now == nil {
		a.now = time.Now
	}
	a.before, a.after, _ = strings.Cut(a.cfg.Key, placeholder)
	a.names = a.cfg.Fields.names()
	var err error
	if a.client, err = connect(&a.cfg); err != nil {
		return nil, fmt.Errorf("app_sessions %s: %w", a.cfg.Name, err)
	}
	return a, nil
}

// Close ends the connections.
func (a *Authenticator) Close() error { return a.client.Close() }

// Authenticate implements authn.Authenticator.
func (a *Authenticator) Authenticate(ctx context.Context, c *authn.Credential) (*authn.Proof, error) {
	id, err := a.idOf(c)
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("app_sessions %s: no time to ask: %w", a.cfg.Name, err)
	}
	asking, cancel := a.leave(ctx)
	defer cancel()
	r, err := a.fetch(asking, a.key(id))
	switch {
	case errors.Is(err, errUnknown):
		a.note(nil)
		return nil, errUnknown
	case err != nil:
		err = a.fault(err)
		a.note(err)
		return nil, err
	}
	proof, err := a.proof(r, a.publicID(id), a.now())
	var refusal *authn.Refusal
	if errors.As(err, &refusal) {
		a.note(nil)
		return nil, err
	}
	a.note(err)
	return proof, err
}

// note keeps what became of a look-up.
func (a *Authenticator) note(err error) {
	a.asked.Add(1)
	if err != nil {
		a.failed.Add(1)
	}
	a.last.Store(&lookup{err: err, at: a.now()})
}

// Status is how the application's Redis is doing, for readiness and metrics.
type Status struct {
	Name string
	// Asked and Failed count look-ups since the start; Failed those that did not find
	// out.
	Asked, Failed uint64
	// At is when it was asked last, zero for never, and Err what became of that.
	At  time.Time
	Err error
}

// Status returns how the application's Redis is doing.
func (a *Authenticator) Status() Status {
	s := Status{Name: a.cfg.Name, Asked: a.asked.Load(), Failed: a.failed.Load()}
	if l := a.last.Load(); l != nil {
		s.At, s.Err = l.at, l.err
	}
	return s
}
