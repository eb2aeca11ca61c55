// Package workload proves workloads by tokens that were signed for them, or by them,
// without any issuer of tokens between: two kinds of JWTs, told by what they say of
// themselves.
//
//	jwt_svid   sub is spiffe://TRUST-DOMAIN/path; the authority of the trust domain signs
//	           (SPIFFE JWT-SVID)
//	workload   iss and sub are the id of a registered client, which signs with its own
//	           key (the assertions of RFC 7523, as in private_key_jwt)
//
// What names neither a trust domain nor a client of ours is somebody else's, and a look at
// the payload is enough to say so. A token that names both, or that an issuer of package
// jwt owns as well, is refused: nobody can say whom it names. The rest is as there:
// jose.ParseCompact, keys of that trust domain or client and of no other, the signature,
// the claims. Only a failure to get the keys is "could not find out".
//
// # Once
//
// Who sees a token can use it until it expires, and a workload that signs by itself can
// sign for each request. So a client's token is accepted once, unless the client is
// `reusable`; JWT-SVIDs are reused, as their makers intend (JWT-SVID section 7.1). What
// was used is remembered until it has expired (authn.Once), by each process for itself.
//
// That must be asked for each request, behind every cache and every flight that callers
// share. So the cache is in here, and holds what may be used again alone:
//
//	Authenticate → whose is it? ─ none       → ErrNotMine
//	                            ├ reusable   → authn.Cached → prove
//	                            └ once       → prove → authn.Once
//
// An Authenticator must not be put behind another authn.Cached: this would answer for a
// used token.
package workload

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn"
	"github.com/postern-auth/postern/server/jose"
)

// Deps are what an Authenticator needs besides its configuration.
type Deps struct {
	// Keys holds where the keys of each trust domain and client come from, by the names
	// of Config.Sources.
	Keys map[string]jose.Keys
	// AlsoOwned reports whether another authenticator owns tokens of that issuer and
	// subject as well (jwt.Authenticator.OwnsClaims); nil if there is none.
	AlsoOwned func(issuer, subject string) bool
	// Cache bounds the memory of tokens that may be used again.
	Cache authn.CacheConfig
	// Now is the clock; nil for time.Now.
	Now func() time.Time
	// Previous is the Authenticator that this one replaces; nil for none. What it
	// remembers stays used.
	Previous *Authenticator
}

// Authenticator proves workloads. It is safe for concurrent use.
type Authenticator struct {
	domains   map[string]*domain
	clients   map[string]*client
	keys      map[string]jose.Keys
	alsoOwned func(issuer, subject string) bool
	cached    *authn.Cached
	once      *authn.Once
	now       func() time.Time
}

var _ authn.Authenticator = (*Authenticator)(nil)

// New makes an Authenticator. The error joins all that is wrong.
func New(cfg Config, deps Deps) (*Authenticator, error) {
	cfg = cfg.withDefaults()
	var faults []error
	cfg.Check(func(path, message, suggestion string) {
		if suggestion != "" {
			message += ": " + suggestion
		}
		faults = append(faults, fmt.Errorf("workloads: %s %s", path, message))
	})
	for name := range cfg.Sources() {
		if deps.Keys[name] == nil {
			faults = append(faults, fmt.Errorf("workloads: %s has no keys", name))
		}
	}
	if len(faults) > 0 {
		return nil, errors.Join(faults...)
	}
	a := &Authenticator{
		domains: make(map[string]*domain, len(cfg.TrustDomains)), clients: make(map[string]*client, len(cfg.Clients)),
		keys: deps.Keys, alsoOwned: deps.AlsoOwned, now: deps.Now,
	}
	if a.now == nil {
		a.now = time.Now
	}
	if deps.Cache.Now == nil {
		deps.Cache.Now = a.now
	}
	window := time.Duration(0)
	for i := range cfg.TrustDomains {
		a.domains[cfg.TrustDomains[i].Name] = newDomain(&cfg, &cfg.TrustDomains[i], deps.Keys)
	}
	for i := range cfg.Clients {
		a.clients[cfg.Clients[i].ID] = newClient(&cfg, &cfg.Clients[i], deps.Keys)
		window = max(window, cfg.Clients[i].MaxLifetime+2*cfg.ClockSkew)
	}
	a.cached = authn.NewCached(reusable{a}, deps.Cache)
	if deps.Previous == nil {
		a.once = authn.NewOnce(cfg.ReplaySize, window, a.now)
		return a, nil
	}
	a.once = deps.Previous.once
	a.once.Resize(cfg.ReplaySize, window)
	return a, nil
}

// Authenticate proves a token of either kind. See the package comment.
func (a *Authenticator) Authenticate(ctx context.Context, c *authn.Credential) (*authn.Proof, error) {
	return a.authenticate(ctx, c, "")
}

// Links returns the links of a chain, one for each method. Each disowns the tokens of the
// other without having used them.
func (a *Authenticator) Links() []authn.Link {
	return []authn.Link{
		{Method: policy.MethodSVID, Authenticator: one{a, policy.MethodSVID}, Shapes: authn.ShapeSigned},
		{Method: policy.MethodWorkload, Authenticator: one{a, policy.MethodWorkload}, Shapes: authn.ShapeSigned},
	}
}

// one is an Authenticator for one method.
type one struct {
	a      *Authenticator
	method policy.Method
}

func (o one) Authenticate(ctx context.Context, c *authn.Credential) (*authn.Proof, error) {
	return o.a.authenticate(ctx, c, o.method)
}

// authenticate proves a token of the method, or of either if it is empty.
func (a *Authenticator) authenticate(ctx context.Context, c *authn.Credential, method policy.Method) (*authn.Proof, error) {
	text := c.Secret.Reveal()
	switch look := a.look(text); {
	case look == notOurs, look == ofDomain && method == policy.MethodWorkload, look == ofClient && method == policy.MethodSVID:
		return nil, authn.ErrNotMine
	case look != unclear:
		return a.cached.Authenticate(ctx, c)
	}
	t, err := a.read(text)
	switch {
	case err != nil:
		return nil, err
	case method != "" && t.method() != method:
		return nil, authn.ErrNotMine
	}
	ctx, cancel := policy.LeaveRoom(ctx)
	defer cancel()
	proof, err := t.prove(ctx, a.now())
	if err == nil && t.client != nil && !t.client.reusable {
		err = a.use(proof)
	}
	if err != nil {
		return nil, err
	}
	return proof, nil
}

// use uses up a token.
func (a *Authenticator) use(p *authn.Proof) error {
	err := a.once.Use(p.NotAfter, p.Principal.ID, p.Principal.CredentialID)
	switch {
	case errors.Is(err, authn.ErrUsed):
		return errUsed
	case errors.Is(err, authn.ErrOver):
		return authn.Refuse(policy.ReasonExpired, "it expired while it was being proven")
	case err != nil:
		return fmt.Errorf("tokens of workloads: %w", err)
	}
	return nil
}

var (
	errUsed      = authn.Refuse(policy.ReasonReplayed, "the jti was used before")
	errTwoOwners = authn.Refuse(policy.ReasonCredentialAmbiguous, "the token names more than one workload or issuer of ours")
	errSingleUse = errors.New("a token for one use is not for a cache")
)

// reusable proves what a cache may keep.
type reusable struct{ a *Authenticator }

// Authenticate implements authn.Authenticator. That no token for one use comes here, look
// has made sure; if one did, it would be no answer.
func (r reusable) Authenticate(ctx context.Context, c *authn.Credential) (*authn.Proof, error) {
	t, err := r.a.read(c.Secret.Reveal())
	switch {
	case err != nil:
		return nil, err
	case t.client != nil && !t.client.reusable:
		return nil, errSingleUse
	}
	return t.prove(ctx, r.a.now())
}

// Epoch implements authn.Epoch: when keys change, proofs by the old ones do not count any
// more. Every source's own number only grows, so their sum changes with each of them.
func (r reusable) Epoch() uint64 {
	var sum uint64
	for _, k := range r.a.keys {
		if e, ok := k.(authn.Epoch); ok {
			sum += e.Epoch()
		}
	}
	return sum
}

// owned is a token that names a trust domain or a client of ours. Nothing of it is proven.
type owned struct {
	*jose.Token
	subject string
	domain  *domain // nil: it names a client
	client  *client // nil: it names a trust domain
}

func (t *owned) method() policy.Method {
	if t.client != nil {
		return policy.MethodWorkload
	}
	return policy.MethodSVID
}

// read reads a token and finds out whose it is. What cannot be read names nobody.
func (a *Authenticator) read(text string) (*owned, error) {
	token, err := jose.ParseCompact(text, jose.Limits{})
	if err != nil {
		return nil, authn.ErrNotMine
	}
	issuer, _ := token.Claims().Get("iss").Text()
	subject, _ := token.Claims().Get("sub").Text()
	t := &owned{Token: token, subject: subject}
	t.domain, t.client = a.owners(issuer, subject)
	switch {
	case t.domain == nil && t.client == nil:
		return nil, authn.ErrNotMine
	case t.domain != nil && t.client != nil, a.alsoOwned != nil && a.alsoOwned(issuer, subject):
		return nil, errTwoOwners
	}
	return t, nil
}

// owners returns the trust domain and the client that a token names.
func (a *Authenticator) owners(issuer, subject string) (*domain, *client) {
	var d *domain
	if name, ok := trustDomainOf(subject); ok {
		d = a.domains[name]
	}
	return d, a.clients[issuer]
}

// OwnsClaims reports whether tokens of that issuer and subject are proven here.
func (a *Authenticator) OwnsClaims(issuer, subject string) bool {
	d, c := a.owners(issuer, subject)
	return d != nil || c != nil
}

// Owns reports whether the text is a token that names a trust domain or client of ours,
// which proves nothing.
func (a *Authenticator) Owns(text string) bool {
	if a.look(text) == notOurs {
		return false
	}
	_, err := a.read(text)
	return !errors.Is(err, authn.ErrNotMine)
}

// sight is what a look at a token finds.
type sight uint8

const (
	notOurs  sight = iota // it names nobody here
	ofDomain              // at most a trust domain
	ofClient              // at most a client whose tokens may be used again
	unclear               // it has to be read
)

// lookBytes is the length of the longest payload, encoded, that is looked at.
const lookBytes = 2048

// look finds out quickly whether a token names somebody here, since tokens of issuers come
// by here as well: it decodes the payload, searches its text, and does not allocate. It
// never takes one of ours for somebody else's: in JSON without escapes a member is written
// as it is, and whatever is not plain is unclear. What it finds may stand elsewhere in the
// payload, so it decides no more than who reads the token.
func (a *Authenticator) look(text string) sight {
	_, rest, ok1 := strings.Cut(text, ".")
	payload, signature, ok2 := strings.Cut(rest, ".")
	if !ok1 || !ok2 || strings.IndexByte(signature, '.') >= 0 {
		return notOurs
	}
	if len(payload) > lookBytes {
		return unclear
	}
	var encoded [lookBytes]byte
	var room [lookBytes * 3 / 4]byte
	n, err := base64.RawURLEncoding.Decode(room[:], encoded[:copy(encoded[:], payload)])
	if err != nil {
		return notOurs
	}
	return a.lookAt(room[:n])
}

// lookAt looks at a payload.
func (a *Authenticator) lookAt(payload []byte) sight {
	if bytes.IndexByte(payload, '\\') >= 0 {
		return unclear
	}
	found := notOurs
	if len(a.domains) > 0 && bytes.Contains(payload, []byte(spiffeScheme)) {
		found = ofDomain
	}
	for {
		_, rest, ok := bytes.Cut(payload, []byte(`"iss"`))
		if !ok {
			return found
		}
		payload = rest
		value, isMember := bytes.CutPrefix(skipSpace(rest), []byte(":"))
		value, isText := bytes.CutPrefix(skipSpace(value), []byte(`"`))
		end := bytes.IndexByte(value, '"')
		if !isMember || !isText || end < 0 {
			continue
		}
		switch c := a.clients[string(value[:end])]; {
		case c == nil:
		case !c.reusable || found == ofDomain:
			return unclear
		default:
			found = ofClient
		}
	}
}

// skipSpace skips the white space of JSON (RFC 8259 section 2).
func skipSpace(b []byte) []byte { return bytes.TrimLeft(b, " \t\r\n") }
