// Package vault proves callers by tokens of HashiCorp Vault and OpenBao.
//
// Such a token says nothing about itself: Vault has to be asked. There are two ways:
//
//	lookup        POST auth/token/lookup     by Postern's own login, about the caller's token
//	lookup_self   GET  auth/token/lookup-self  by the caller's token, about itself
//
// The first leaves the caller's token as it is, and so is the default. The second needs
// no login of its own, but counts as a use of the token: tokens of limited uses are
// refused there.
//
// A credential passes through four steps, each of which can only refuse:
//
//  1. shape: has it a prefix of Vault's tokens? If not, it is not mine
//  2. answer: Vault says what it knows of the token; one reading of it or none
//  3. rules: root, used up, of another namespace, expired: refused
//  4. principal: policies become roles and scopes, metadata is kept
//
// # No, and could not find out
//
// Vault answers 403 both to "this token is bad" and to "you may not ask". Taking one for
// the other would either lock out all callers without a word, or remember good tokens as
// bad ones. Only the error "bad token" is the first. After any other 403 Postern looks
// itself up: if its own token has died it logs in again and asks once more, and if it
// lives, the caller's token lies where Postern may not look. Sealed, standby, overloaded
// or out of reach is authn.ErrUnreachable, and never an answer about a token.
//
// The answer repeats the token that it is about. It is compared, and an answer about
// another token is no answer: a Vault Agent may put its own token in the place of the
// caller's, and then everybody would be the agent.
//
// Vault looks up what it is about to delete, too: tokens that are used up
// (num_uses below 0) and tokens that have expired. Both are refused here. An entity that
// was disabled is not visible in a lookup; `check_entity` asks about that.
//
// # Time
//
// The proof ends when the token does: `ttl` seconds after the request for it began, by
// the clock here, so that the two clocks need not agree. Vault rounds ttl to the nearest
// second, so the end may be half a second late.
//
// # Networks
//
// Vault holds a token's bound_cidrs against whoever connects to Vault. Behind Postern
// that is Postern. So they become constraints of the proof, and are held against the
// true client of each request.
package vault

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn"
	"github.com/postern-auth/postern/server/breaker"
)

// Deps are what an Authenticator works with besides its configuration.
type Deps struct {
	// Now is the clock; time.Now if nil.
	Now func() time.Time
	// Inherit is the Authenticator that this one replaces, or nil. If both log in to the
	// same place in the same way, the login is taken over: a reload then costs none of
	// the uses of a secret id, and nobody waits for it.
	Inherit *Authenticator
	// OnLogin is called after each attempt to log in or to renew, from the goroutine
	// that does so; nil for nobody. It must not call Close.
	OnLogin func(Status)
	// Transport replaces the network, and with it all checks of addresses and
	// certificates: for tests.
	Transport http.RoundTripper
}

// Authenticator proves tokens of one Vault. Close ends it.
type Authenticator struct {
	cfg         Config
	prefixes    []prefix
	metadata    map[string]bool // what is kept; nil for all
	constraints *policy.Constraints
	client      *client
	login       *login // nil in mode lookup_self
	breaker     *breaker.Breaker
	limited     *limited
	questions   chan struct{} // one for each that is under way
	now         func() time.Time
}

var _ authn.Authenticator = (*Authenticator)(nil)

// New makes an Authenticator, and begins to log in. It does not wait for that: a Vault
// that is down does not keep Postern from starting. The error joins all that is wrong
// with the configuration; it holds no secret.
func New(cfg Config, deps Deps) (*Authenticator, error) {
	cfg = cfg.withDefaults()
	if err := cfg.check(); err != nil {
		return nil, err
	}
	if deps.Now == nil {
		deps.Now = time.Now
	}
	client, err := newClient(&cfg, deps.Transport)
	if err != nil {
		return nil, fmt.Errorf("vault %s: %w", cfg.Name, err)
	}
	a := &Authenticator{
		cfg:         cfg,
		prefixes:    cfg.routes(),
		constraints: cfg.Constraints,
		client:      client,
		breaker:     breaker.New(breaker.Config{Failures: breakerFailures, Pause: breakerPause, MaxPause: breakerMaxPause, Now: deps.Now}),
		questions:   make(chan struct{}, maxQuestions),
		now:         deps.Now,
	}
	if cfg.Metadata != nil {
		a.metadata = map[string]bool{}
		for _, key := range cfg.Metadata {
			a.metadata[key] = true
		}
	}
	if cfg.Mode == LookupSelf {
		a.limited = newLimited()
		return a, nil
	}
	a.login = newLogin(&a.cfg, client, deps)
	return a, nil
}

// Close ends the renewal of Postern's own login, and waits for it. The login is not
// revoked: another Authenticator may have inherited it.
func (a *Authenticator) Close() error {
	if a.login != nil {
		a.login.close()
	}
	a.client.http.CloseIdleConnections()
	return nil
}

// Authenticate implements authn.Authenticator. It asks Vault each time; wrap it in
// authn.Cached with the configuration's Cache.
func (a *Authenticator) Authenticate(ctx context.Context, c *authn.Credential) (*authn.Proof, error) {
	token := c.Secret.Reveal()
	kind, err := a.shape(token)
	if err != nil {
		return nil, err
	}
	if a.limited.has(token) {
		return nil, errLimitedSelf
	}
	if err := ctx.Err(); err != nil {
		return nil, err // only Vault knows
	}
	answer, asked, err := a.ask(ctx, token)
	if err != nil {
		return nil, err
	}
	if answer.limited() {
		a.limited.add(token)
	}
	if err := a.permits(answer, kind); err != nil {
		return nil, err
	}
	if err := a.checkEntity(ctx, answer); err != nil {
		return nil, err
	}
	return a.proof(answer, token, asked)
}

// checkEntity refuses a token whose entity was disabled or is gone, if the
// configuration asks for that.
func (a *Authenticator) checkEntity(ctx context.Context, found *answer) error {
	if !a.cfg.CheckEntity || found.entityID == "" || a.login == nil {
		return nil // lookup_self: Vault serves no such token
	}
	own, err := a.login.current(ctx)
	if err != nil {
		return fmt.Errorf("vault %s: %w", a.cfg.Name, err)
	}
	disabled, err := a.client.entityDisabled(ctx, own.token, found)
	switch {
	case err != nil:
		return fmt.Errorf("vault %s: reading the token's entity: %w", a.cfg.Name, err)
	case disabled:
		return errEntity
	}
	return nil
}

// Status is what an Authenticator has, for readiness and metrics.
type Status struct {
	// Name and Address are those of the configuration.
	Name, Address string
	// Usable says that tokens can be looked up as far as Postern's own login goes.
	Usable bool
	// Degraded says that the last attempt to log in or to renew failed, though the login
	// may still be usable.
	Degraded bool
	// LoggedIn is when the login was last made or renewed, Ends when it ends if it is not
	// renewed again; zero for never. Accessor names it in Vault's audit log.
	LoggedIn, Ends time.Time
	Accessor       string
	// Err is why the last attempt failed; nil if it did not.
	Err error
	// Breaker is the state of the breaker for lookups.
	Breaker breaker.Status
}

// Status returns what there is.
func (a *Authenticator) Status() Status {
	s := Status{Usable: true}
	if a.login != nil {
		s = a.login.status()
	}
	s.Name, s.Address, s.Breaker = a.cfg.Name, a.cfg.Address, a.breaker.Status()
	return s
}
