package vault

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/postern-auth/postern/server/authn"
)

// maxQuestions bounds how many tokens are looked up at once. Tokens that are made up cost
// their sender nothing, and a lookup each: Vault has others to serve.
const maxQuestions = 64

// The breaker opens after so many outages in a row, and lets one question through after
// each pause. It is short: a Vault that is back should not be waited for.
const (
	breakerFailures = 5
	breakerPause    = 250 * time.Millisecond
	breakerMaxPause = 2 * time.Second
)

var (
	// errNotPermitted says why a lookup is forbidden though another login changes nothing.
	errNotPermitted = errors.New("postern's own login may not look this token up: its policy lacks update on auth/token/lookup, or the token is of a namespace that it does not reach")
	// errBusy says that there were too many questions for too long.
	errBusy = errors.New("too many tokens are being looked up at once")
)

// ask returns what Vault says of the token, and when the question began. The breaker
// counts what was no answer; that Vault says no is one.
func (a *Authenticator) ask(ctx context.Context, token string) (*answer, time.Time, error) {
	if a.login == nil {
		return a.guarded(ctx, func() (jsonAnswer, error) { return a.client.lookupSelf(ctx, token) }, token)
	}
	own, err := a.login.current(ctx)
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("vault %s: %w", a.cfg.Name, err)
	}
	lookup := func() (jsonAnswer, error) { return a.client.lookup(ctx, own.token, token) }
	found, asked, err := a.guarded(ctx, lookup, token)
	if !errors.Is(err, errForbidden) {
		return found, asked, err
	}
	renewed, err := a.login.doubt(ctx, own)
	switch {
	case err != nil:
		return nil, asked, fmt.Errorf("vault %s: %w", a.cfg.Name, err)
	case renewed.is(own):
		return nil, asked, fmt.Errorf("vault %s: %w", a.cfg.Name, errNotPermitted)
	}
	own = renewed
	found, asked, err = a.guarded(ctx, lookup, token)
	if errors.Is(err, errForbidden) {
		return nil, asked, fmt.Errorf("vault %s: %w", a.cfg.Name, errNotPermitted)
	}
	return found, asked, err
}

// turn waits until a question may be asked, for as long as an answer may take.
func (a *Authenticator) turn(ctx context.Context) error {
	select {
	case a.questions <- struct{}{}:
		return nil
	default:
	}
	patience := time.NewTimer(a.cfg.Timeout)
	defer patience.Stop()
	select {
	case a.questions <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-patience.C:
		return errBusy
	}
}

// guarded asks one question through the breaker, and reads the answer.
func (a *Authenticator) guarded(ctx context.Context, question func() (jsonAnswer, error), token string) (*answer, time.Time, error) {
	if err := a.turn(ctx); err != nil {
		return nil, time.Time{}, fmt.Errorf("vault %s: %w", a.cfg.Name, err)
	}
	defer func() { <-a.questions }()
	if err := a.breaker.Allow(); err != nil {
		return nil, time.Time{}, fmt.Errorf("vault %s: %w: %w", a.cfg.Name, authn.ErrUnreachable, err)
	}
	asked := a.now()
	said, err := question()
	a.breaker.Done(failure(ctx, err))
	if err == nil {
		var found *answer
		if found, err = readAnswer(said, token); err == nil {
			return found, asked, nil
		}
	}
	if refusal := (*authn.Refusal)(nil); errors.As(err, &refusal) {
		return nil, asked, err
	}
	return nil, asked, fmt.Errorf("vault %s: %w", a.cfg.Name, err)
}

// failure returns the error if it is one of reaching Vault, for the breaker; nil if
// Vault answered.
func failure(ctx context.Context, err error) error {
	var status statusError
	var refusal *authn.Refusal
	switch {
	case err == nil, errors.As(err, &refusal):
		return nil
	case errors.Is(ctx.Err(), context.Canceled):
		return context.Canceled // the caller gave up
	case errors.Is(err, authn.ErrUnreachable):
		return err
	case errors.As(err, &status), errors.Is(err, errForbidden), errors.Is(err, errAnswer):
		return nil
	}
	return err
}
