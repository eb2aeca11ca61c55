// Package agent proves agents by tokens. There are three sorts:
//
//	Postern's own   typ agent+jwt, signed with the keys of `signing` (server/signer)
//	an agent's own  iss and sub are the id of a registered agent, which signs with a key
//	                of its record, as clients do in private_key_jwt (RFC 7523)
//	compat_hs256    signed with a secret that an older issuer shares with Postern
//
// # The record counts
//
// A token says who the agent is, and what it is meant to be allowed. What it is allowed
// stands in the agent's record (authn.Agents), which is looked at on each use: an agent
// that is not registered, or that was ended, is refused whatever it holds. An agent may
// have
//
//	roles   those of its principal, and those of which it may get tokens
//	scopes  those of its principal, and those for which the latter roles stand
//
// Of what Postern signed, the rest is taken away. What an agent signed itself, and asks
// for more, is refused.
//
// # Who acts for whom
//
// A token with the claim act (RFC 8693 section 4.1) is used by the outermost actor for the
// subject. Every agent in the chain must be registered, in force and of the subject's
// tenant, and may have all the scopes that the token has: a chain narrows what its parts
// have in common, and never widens it. A chain that does, or that is too long, is refused
// as delegation_denied. Roles and permissions that one of its agents does not have are
// taken away. The subject of a token of Postern's may be a user; one of
// Postern's own must still be in force, and has no scope that it has lost.
//
// # Work
//
// The signature of a token that may be used again is verified once, and the result kept in
// an authn.Cached. Of what is proven by that, the principal is made anew when any record
// that it rests on has changed, and not before:
//
//	Authenticate → whose is it? ─ nobody's here → ErrNotMine
//	                            ├ reusable      → authn.Cached → verify ┐
//	                            └ an agent's    → verify                ┴→ records → Proof
//
// A token that an agent signed is accepted once (authn.Once), which is asked last. So an
// Authenticator must not be put behind another authn.Cached.
package agent

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"hash/maphash"
	"strings"
	"sync/atomic"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn"
	"github.com/postern-auth/postern/server/jose"
	"github.com/postern-auth/postern/server/signer"
)

// Deps are what an Authenticator needs besides its configuration.
type Deps struct {
	// Agents is the index of registered agents. Required.
	Agents authn.Agents
	// People finds the users of Postern's own for whom agents act. Nil: there are none, and
	// tokens that name one are refused.
	People authn.People
	// Parents knows what became of the credentials that tokens came from; nil: nobody does,
	// and tokens that name one are refused.
	Parents authn.Parents
	// Signer has the keys of Postern's own tokens; nil for none.
	Signer *signer.Signer
	// AlsoOwned reports whether another authenticator owns tokens of that issuer and
	// subject as well; nil if there is none. Such a token is refused: nobody can say whom
	// it names.
	AlsoOwned func(issuer, subject string) bool
	// Cache bounds the memory of tokens that may be used again.
	Cache authn.CacheConfig
	// Now is the clock; nil for time.Now.
	Now func() time.Time
	// Previous is the Authenticator that this one replaces; nil for none. What it
	// remembers stays used.
	Previous *Authenticator
}

// Authenticator proves agents. It is safe for concurrent use.
type Authenticator struct {
	cfg       Config
	issuer    string
	heads     []string     // with which Postern's own tokens begin
	keys      *jose.KeySet // of Postern's own tokens
	shared    *jose.KeySet // of compat_hs256; nil: not accepted
	agents    authn.Agents
	people    authn.People
	parents   authn.Parents
	alsoOwned func(issuer, subject string) bool
	cached    *authn.Cached
	once      *authn.Once
	now       func() time.Time

	seed maphash.Seed
	sets [keySets]atomic.Pointer[agentKeys]
}

// keySets is how many key sets of agents are kept read, a word each where nobody needs
// them.
const keySets = 1024

// agentKeys are the keys of a record, as they were read.
type agentKeys struct {
	of  *authn.Agent
	set *jose.KeySet
}

var _ authn.Authenticator = (*Authenticator)(nil)

// New makes an Authenticator. The error joins all that is wrong.
func New(cfg Config, deps Deps) (*Authenticator, error) {
	var faults []error
	cfg.Check(deps.Signer.Issuer(), func(path, message, suggestion string) {
		faults = append(faults, fmt.Errorf("agents: %s %s: %s", path, message, suggestion))
	})
	if deps.Agents == nil {
		faults = append(faults, errors.New("agents: there is no registry of agents"))
	}
	if len(faults) > 0 {
		return nil, errors.Join(faults...)
	}
	cfg = cfg.WithDefaults(deps.Signer.Issuer())
	a := &Authenticator{
		cfg: cfg, issuer: deps.Signer.Issuer(), heads: deps.Signer.Heads(signer.TypeAgent),
		agents: deps.Agents, people: deps.People, parents: deps.Parents, alsoOwned: deps.AlsoOwned, now: deps.Now, seed: maphash.MakeSeed(),
	}
	if a.now == nil {
		a.now = time.Now
	}
	if deps.Cache.Now == nil {
		deps.Cache.Now = a.now
	}
	if err := a.readKeys(deps.Signer); err != nil {
		return nil, err
	}
	a.cached = authn.NewCached(reusable{a}, deps.Cache)
	window := cfg.MaxLifetime + 2*cfg.ClockSkew
	if deps.Previous == nil {
		a.once = authn.NewOnce(cfg.ReplaySize, window, a.now)
		return a, nil
	}
	a.once = deps.Previous.once
	a.once.Resize(cfg.ReplaySize, window)
	return a, nil
}

func (a *Authenticator) readKeys(s *signer.Signer) error {
	keys, warnings, err := jose.ParseKeySet(s.KeySet())
	if err == nil && len(warnings) > 0 {
		err = errors.New(warnings[0])
	}
	if err != nil {
		return fmt.Errorf("signing keys: %w", err)
	}
	a.keys = keys
	if a.cfg.CompatHS256 == nil {
		return nil
	}
	secret, _ := a.cfg.CompatHS256.secret() // Check has looked at it
	a.shared, err = jose.NewKeySet(&jose.Key{Public: jose.NewSymmetricKey(secret)})
	return err
}

// Link is the Authenticator in a chain.
func (a *Authenticator) Link() authn.Link {
	return authn.Link{Method: policy.MethodAgent, Authenticator: a, Shapes: authn.ShapeSigned}
}

// Cache is the memory of proven tokens, for metrics.
func (a *Authenticator) Cache() *authn.Cached { return a.cached }

// Authenticate proves a token. See the package comment.
func (a *Authenticator) Authenticate(ctx context.Context, c *authn.Credential) (*authn.Proof, error) {
	sight, token := a.look(c.Secret.Reveal())
	switch sight {
	case ofPostern, ofElder:
		proven, err := a.cached.Authenticate(ctx, c)
		if err != nil {
			return nil, err
		}
		return a.standing(proven)
	case ofAgent:
		return a.selfSigned(token)
	}
	return nil, authn.ErrNotMine
}

// sight is what a look at a token finds.
type sight uint8

const (
	nobodys   sight = iota // it names nobody here
	ofPostern              // it begins as Postern's own do
	ofAgent                // it may be one that an agent signed
	ofElder                // it may be one of compat_hs256
)

// lookBytes is the length of the longest payload, encoded, that is looked at.
const lookBytes = 2048

// look finds out quickly whether a token may be one of ours, since tokens of issuers come
// by here as well: it decodes the payload, searches its text, and does not allocate. It
// never takes one of ours for somebody else's: in JSON without escapes a member is written
// as it is, and what is not plain is read. What it finds may stand elsewhere in the
// payload, so it decides no more than who reads the token. A token that was read is
// returned as well.
func (a *Authenticator) look(text string) (sight, *jose.Token) {
	if a.begins(text) {
		return ofPostern, nil
	}
	_, rest, ok1 := strings.Cut(text, ".")
	payload, signature, ok2 := strings.Cut(rest, ".")
	if !ok1 || !ok2 || strings.IndexByte(signature, '.') >= 0 {
		return nobodys, nil
	}
	if len(payload) > lookBytes {
		return a.read(text)
	}
	var encoded [lookBytes]byte
	var room [lookBytes * 3 / 4]byte
	n, err := base64.RawURLEncoding.Decode(room[:], encoded[:copy(encoded[:], payload)])
	if err != nil {
		return nobodys, nil
	}
	claims := room[:n]
	if bytes.IndexByte(claims, '\\') >= 0 || a.plausible(claims) {
		return a.read(text)
	}
	return nobodys, nil
}

// begins reports whether a text begins as Postern's own tokens do.
func (a *Authenticator) begins(text string) bool {
	for _, head := range a.heads {
		if strings.HasPrefix(text, head) {
			return true
		}
	}
	return false
}

// plausible reports whether a payload has a text that is iss as well as sub, or, where
// compat_hs256 is on, no iss.
func (a *Authenticator) plausible(claims []byte) bool {
	found := false
	for rest := claims; ; {
		var issuer []byte
		var ok bool
		if issuer, rest, ok = member(rest, `"iss"`); !ok {
			break
		}
		found = true
		for more := claims; ; {
			var subject []byte
			if subject, more, ok = member(more, `"sub"`); !ok {
				break
			}
			if bytes.Equal(issuer, subject) {
				return true
			}
		}
	}
	return !found && a.shared != nil
}

// member returns the text of the next member of that name, and what follows. A value that
// is no text is an empty one.
func member(b []byte, name string) (value, rest []byte, ok bool) {
	_, rest, ok = bytes.Cut(b, []byte(name))
	if !ok {
		return nil, nil, false
	}
	text, isMember := bytes.CutPrefix(skipSpace(rest), []byte(":"))
	text, isText := bytes.CutPrefix(skipSpace(text), []byte(`"`))
	end := bytes.IndexByte(text, '"')
	if !isMember || !isText || end < 0 {
		return nil, rest, true
	}
	return text[:end], rest, true
}

// skipSpace skips the white space of JSON (RFC 8259 section 2).
func skipSpace(b []byte) []byte { return bytes.TrimLeft(b, " \t\r\n") }

// read is look for a token that has to be read.
func (a *Authenticator) read(text string) (sight, *jose.Token) {
	token, err := jose.ParseCompact(text, limits)
	if err != nil {
		return nobodys, nil
	}
	return a.sightOf(token), token
}

func (a *Authenticator) sightOf(token *jose.Token) sight {
	claims := token.Claims()
	issuer, has := claims.Get("iss").Text()
	subject, _ := claims.Get("sub").Text()
	switch {
	case has && issuer != "" && issuer == subject:
		return ofAgent
	case a.shared != nil && !claims.Get("iss").Exists() && token.Algorithm() == algHS256 && claims.Get("type").Is(signer.TypeClaim):
		return ofElder
	}
	return nobodys
}

// limits bound a token. The claim act nests.
var limits = jose.Limits{Bytes: signer.MaxTokenBytes}

const algHS256 = "HS256"

// reusable verifies what a cache may keep. Its proofs are of what tokens say, and hold no
// longer than until standing has looked at the records.
type reusable struct{ a *Authenticator }

// Authenticate implements authn.Authenticator.
func (r reusable) Authenticate(_ context.Context, c *authn.Credential) (*authn.Proof, error) {
	text := c.Secret.Reveal()
	token, err := jose.ParseCompact(text, limits)
	switch {
	case errors.Is(err, jose.ErrTooLarge):
		return nil, authn.Refuse(policy.ReasonTokenTooLarge, err.Error())
	case err != nil:
		return nil, authn.Refuse(policy.ReasonCredentialMalformed, "begins as an agent token does, and cannot be read as one")
	}
	if r.a.begins(text) {
		return r.a.own(token)
	}
	return r.a.elder(token, text)
}
