// Package introspect proves callers by tokens that only their issuer can read: it asks
// the issuer whether a token is active, and what it stands for (OAuth 2.0 Token
// Introspection, RFC 7662).
//
// One Authenticator serves one issuer. A credential passes through five steps:
//
//  1. shape: may it be a token of this issuer at all? If not, it is not mine, and it is
//     not shown to the issuer
//  2. limits: is the issuer well, and are there not too many questions under way?
//  3. question: a POST by a guarded client (package outbound), as whom the
//     configuration says
//  4. answer: JSON of one reading, whose member active is the boolean true
//  5. claims: the type of the token, its times, its audience, and the principal
//
// What the answer says of the token is believed no further than a signed token would
// be: it may have ended, be meant for somebody else, or be a refresh token. In all of
// this, only a good answer is a refusal. Whatever else comes back (a redirect, a web
// page, no answer in time, our own credentials refused) means that it could not be
// found out. Network faults and 5xx are marked as authn.ErrUnreachable, so that a cache
// may bridge them with what it knew before; others are not, because they need a person.
//
// A Breaker (package breaker) leaves an issuer alone that fails again and again, so
// that callers hear at once what they would hear anyway. What a token can bring about
// by its text alone does not count as a failure, or strangers could open it.
//
// An Authenticator remembers no answers. It is made to be wrapped into authn.Cached
// with CacheConfig, which also sees to it that many callers with one token cause one
// question. So a token that was revoked is refused within cache.max_ttl.
package introspect

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn"
	"github.com/postern-auth/postern/server/breaker"
	"github.com/postern-auth/postern/server/jose"
	"github.com/postern-auth/postern/server/seal"
)

// Deps are what an Authenticator needs besides its configuration.
type Deps struct {
	// Now is the clock; nil for time.Now.
	Now func() time.Time
	// Transport replaces the network, and with it all checks of addresses and
	// certificates: for tests.
	Transport http.RoundTripper
	// KeyPrefix is that of Postern's own keys and tokens, besides seal.DefaultPrefix.
	KeyPrefix string
}

// Authenticator proves the tokens of one issuer.
type Authenticator struct {
	prefixes   []string
	keyPrefix  string
	acceptJWTs bool
	maxBytes   int
	timeout    time.Duration

	reader  reader
	asker   asker
	breaker *breaker.Breaker
	slots   chan struct{} // one for each question under way
}

var _ authn.Authenticator = (*Authenticator)(nil)

// The breaker opens after five failures in a row. It then lets one question through
// after a quarter of a second, and at least one every two seconds: an issuer that is
// well again is noticed within two, and one that is not hears at most four a second.
const (
	breakerFailures = 5
	breakerPause    = 250 * time.Millisecond
	breakerMaxPause = 2 * time.Second
)

// New makes an Authenticator. It reads the files that the configuration names, and asks
// nobody. The error joins all that is wrong; it holds no secret.
func New(cfg Config, deps Deps) (*Authenticator, error) {
	cfg = cfg.withDefaults()
	var faults []error
	cfg.Check(func(path, message, suggestion string) {
		if suggestion != "" {
			message += ": " + suggestion
		}
		faults = append(faults, fmt.Errorf("introspection at %s: %s %s", cfg.place(), path, message))
	})
	if len(faults) > 0 {
		return nil, errors.Join(faults...)
	}
	if deps.Now == nil {
		deps.Now = time.Now
	}
	asker, err := newAsker(&cfg, deps)
	if err != nil {
		return nil, fmt.Errorf("introspection at %s: %w", cfg.place(), err)
	}
	return &Authenticator{
		prefixes:   cfg.Prefixes,
		keyPrefix:  deps.KeyPrefix,
		acceptJWTs: cfg.AcceptJWTs,
		maxBytes:   cfg.MaxTokenBytes,
		timeout:    cfg.HTTP.Timeout,
		reader:     newReader(&cfg, deps.Now),
		asker:      asker,
		breaker:    breaker.New(breaker.Config{Failures: breakerFailures, Pause: breakerPause, MaxPause: breakerMaxPause, Now: deps.Now}),
		slots:      make(chan struct{}, cfg.MaxConcurrent),
	}, nil
}

// Authenticate proves a token. See the package comment for its steps. With a context
// that is over it asks nobody.
func (a *Authenticator) Authenticate(ctx context.Context, c *authn.Credential) (*authn.Proof, error) {
	// 1. Shape.
	token := c.Secret.Reveal()
	own, err := a.checkShape(token)
	if err != nil {
		return nil, err
	}

	// 2. Limits, 3. question.
	if ctx.Err() != nil {
		return nil, fmt.Errorf("introspection at %s: there is no time to ask: %w", a.asker.name, context.Cause(ctx))
	}
	body, err := a.ask(ctx, token)
	if err != nil {
		return nil, fmt.Errorf("introspection at %s: %w", a.asker.name, err)
	}

	// 4. Answer, 5. claims.
	proof, err := a.reader.read(body)
	if err == nil {
		err = bind(proof, own)
	}
	switch refusal := (*authn.Refusal)(nil); {
	case err == nil:
		return proof, nil
	case errors.As(err, &refusal):
		return nil, err
	}
	return nil, fmt.Errorf("introspection at %s: %w", a.asker.name, err)
}

// bind adds to a proof what a JWT itself says that it is bound to: an answer may leave
// that out, but the issuer has found the text to be its own.
func bind(proof *authn.Proof, own authn.Confirmation) error {
	of := &proof.Confirm
	for _, c := range [...]struct {
		said *string
		own  string
	}{{&of.Certificate, own.Certificate}, {&of.Key, own.Key}} {
		if *c.said != "" && c.own != "" && *c.said != c.own {
			return authn.Refuse(policy.ReasonBinding, "the token and the answer about it bind it to different keys")
		}
		*c.said = cmp.Or(*c.said, c.own)
	}
	return nil
}

// checkShape tells which tokens are nobody's of this issuer, and refuses those that are
// none. It returns what a JWT says that it is bound to.
func (a *Authenticator) checkShape(token string) (bound authn.Confirmation, err error) {
	switch {
	case token == "" || a.isOthers(token) || !a.hasPrefix(token):
		return bound, authn.ErrNotMine
	case looksSigned(token) && !a.acceptJWTs:
		return bound, authn.ErrNotMine
	case len(token) > a.maxBytes:
		return bound, authn.Refuse(policy.ReasonTokenTooLarge, fmt.Sprintf("token of %d bytes, the issuer's may have %d", len(token), a.maxBytes))
	}
	for i := range len(token) {
		// RFC 6749 appendix A.12, without the space that no place can carry.
		if c := token[i]; c <= ' ' || c > '~' {
			return bound, authn.Refuse(policy.ReasonCredentialMalformed, "the token holds what no access token may (RFC 6749 appendix A.12)")
		}
	}
	if looksSigned(token) {
		return a.reader.checkSigned(token)
	}
	return bound, nil
}

// isOthers reports whether a text is a key of Postern's, of whatever installation and if
// it is of this one also misspelt, or a token of Vault's: secrets that no issuer needs to
// see. Whether the rule lets anybody else have the text makes no difference.
func (a *Authenticator) isOthers(token string) bool {
	if strings.HasPrefix(token, seal.DefaultPrefix+"_") || a.keyPrefix != "" && seal.Begins(token, a.keyPrefix) {
		return true
	}
	if _, err := seal.Parse(token); err == nil {
		return true
	}
	return authn.LooksVault(token) && !a.named(token)
}

// named reports whether the configuration says, by a prefix with a dot, that tokens of
// the issuer's look like Vault's.
func (a *Authenticator) named(token string) bool {
	return slices.ContainsFunc(a.prefixes, func(p string) bool { return strings.Contains(p, ".") && strings.HasPrefix(token, p) })
}

func (a *Authenticator) hasPrefix(token string) bool {
	for _, p := range a.prefixes {
		if strings.HasPrefix(token, p) {
			return true
		}
	}
	return len(a.prefixes) == 0
}

// looksSigned reports whether a text is a JWS (RFC 7515 section 7.1), or begins as
// tokens do that carry a JSON object.
func looksSigned(token string) bool {
	return strings.HasPrefix(token, "eyJ") || strings.Count(token, ".") == 2
}

// errBusy is not authn.ErrUnreachable: the issuer may be well, and it is we who do not
// ask.
var errBusy = errors.New("too many questions are under way")

// ask asks the issuer, if it is well and a slot is free in time. A question has its whole
// time when it has its slot: if the wait was part of it, strangers who keep the slots
// taken would have the questions of all others fail, and that open the breaker.
func (a *Authenticator) ask(parent context.Context, token string) ([]byte, error) {
	if err := a.turn(parent); err != nil {
		return nil, err
	}
	defer func() { <-a.slots }()
	if err := a.breaker.Allow(); err != nil {
		return nil, fmt.Errorf("%w: %w", authn.ErrUnreachable, err)
	}
	ctx, cancel := context.WithTimeout(parent, a.timeout)
	defer cancel()
	body, err := a.asker.ask(ctx, token)
	switch {
	case err != nil && parent.Err() != nil:
		a.breaker.Done(context.Canceled) // the caller gave up first, which says nothing
	case errors.As(err, new(failure)):
		a.breaker.Done(err)
	default:
		a.breaker.Done(nil)
	}
	return body, err
}

// turn waits for a slot, no longer than a question may take.
func (a *Authenticator) turn(parent context.Context) error {
	select {
	case a.slots <- struct{}{}:
		return nil
	default:
	}
	patience := time.NewTimer(a.timeout)
	defer patience.Stop()
	select {
	case a.slots <- struct{}{}:
		return nil
	case <-parent.Done():
	case <-patience.C:
	}
	return errBusy
}

// Close ends what is done apart from questions: a search for the endpoint, and the
// connections that wait for the next question.
func (a *Authenticator) Close() error {
	a.asker.close()
	return nil
}

// Status is how it goes with the issuer, for readiness and metrics.
type Status struct {
	// Endpoint is the URL that is asked, without query, or the issuer whose endpoint is
	// found by discovery.
	Endpoint string
	// Issuer is the issuer's name.
	Issuer string
	// Usable says that questions are asked. If it is false the issuer failed again and
	// again and is left alone but for a question now and then.
	Usable bool
	// Failures is how many questions failed in a row, and Err the last failure.
	Failures int
	Err      error
	// Asking is how many questions are under way.
	Asking int
}

// Status returns how it goes.
func (a *Authenticator) Status() Status {
	b := a.breaker.Status()
	return Status{
		Endpoint: a.asker.name,
		Issuer:   a.reader.issuer,
		Usable:   !b.Open,
		Failures: b.Failures,
		Err:      b.Err,
		Asking:   len(a.slots),
	}
}

// checkSigned looks at a JWS that the issuer is going to be asked about. Nothing of it
// is proven. It says whose it claims to be, so that nobody else's is shown to this
// issuer, and which type it has and what it is bound to, which an answer need not repeat.
func (r *reader) checkSigned(token string) (bound authn.Confirmation, err error) {
	parsed, err := jose.ParseCompact(token, jose.Limits{Bytes: r.maxTokenBytes})
	if err != nil || !parsed.Claims().Get("iss").Is(r.issuer) {
		return bound, authn.ErrNotMine
	}
	if err := jose.CheckAccessToken(parsed, false); err != nil {
		return bound, refuse(err)
	}
	bound.Certificate, bound.Key, err = jose.ReadConfirmation(parsed.Claims().Get("cnf"))
	return bound, refuse(err)
}
