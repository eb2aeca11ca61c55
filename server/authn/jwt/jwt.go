// Package jwt proves callers by signed tokens of issuers that are trusted: JWT
// access tokens (RFC 7519, RFC 9068), checked with the issuer's own keys, without
// any state and without asking anybody per request.
//
// One Authenticator serves all issuers. A credential passes through six steps,
// each of which can only refuse:
//
//  1. shape: is it an attempt at a JWS at all? If not, it is not mine
//  2. reading: the size, then jose.ParseCompact: one reading or none
//  3. issuer: the claim iss picks the issuer, by exact match
//  4. signature: a key of that issuer, an algorithm that it may use
//  5. claims: the token's type, its times, its audience
//  6. principal: the claims that the configuration maps; nothing else is kept
//
// In step 3, iss is unproven. All that it does is to choose whose keys may prove
// it: those of one configured issuer and no others. An unknown issuer is refused
// without a look at any network.
//
// Only a failure to get the issuer's keys is "could not find out"; all else is a
// fact about the token. Refusals have distinct reasons, which tell a caller who
// holds a properly signed token what is wrong with it. What is wrong before the
// signature is proven looks the same from outside, but for the size.
//
// The type of a token is where tokens of one issuer are confused with each other:
// ID tokens, refresh tokens, logout tokens and the like are signed with the same
// keys, often for the same audience. They are told by the header's typ, and
// where that is missing by what only they contain (RFC 8725 section 3.11).
//
// Holding a token that is bound to a key or a certificate (cnf) proves nothing: the
// Proof says in Confirm what its sender has to show besides, and the Checker asks for
// it (RFC 9449 section 7, RFC 8705 section 3). A token that is bound in a way that is
// not known here is refused.
package jwt

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn"
	"github.com/postern-auth/postern/server/jose"
)

// Deps are what an Authenticator needs besides its configuration.
type Deps struct {
	// Keys holds for each issuer's URL where its keys come from. Issuers with a
	// shared secret need no entry.
	Keys map[string]jose.Keys
	// AlsoOwned reports whether another authenticator owns tokens of that issuer and
	// subject as well (workload.Authenticator.OwnsClaims); nil if there is none. Such a
	// token is refused: nobody can say whom it names.
	AlsoOwned func(issuer, subject string) bool
	// Now is the clock; nil for time.Now.
	Now func() time.Time
}

// Authenticator proves tokens of the issuers it was made for. It is immutable.
type Authenticator struct {
	issuers map[string]*issuer
	// limits are the widest of all issuers'; each has its own besides.
	limits    jose.Limits
	alsoOwned func(issuer, subject string) bool
	now       func() time.Time
}

var _ authn.Authenticator = (*Authenticator)(nil)

// issuer is a Config made ready.
type issuer struct {
	url         string
	keys        jose.Keys
	algorithms  []string
	rules       jose.ClaimRules
	clients     []string
	maxBytes    int
	required    []ClaimPath
	strict      bool
	claims      Claims
	pass        []string
	kind        policy.Kind
	method      policy.Method
	assurance   int
	constraints *policy.Constraints
}

// New makes an Authenticator for the issuers. The error joins all that is wrong
// with all of them; it holds no secret.
func New(configs []Config, deps Deps) (*Authenticator, error) {
	a := &Authenticator{issuers: make(map[string]*issuer, len(configs)), alsoOwned: deps.AlsoOwned, now: deps.Now}
	if a.now == nil {
		a.now = time.Now
	}
	var faults []error
	for n := range configs {
		c := configs[n].withDefaults()
		fault := func(path, message, suggestion string) {
			if suggestion != "" {
				message += ": " + suggestion
			}
			faults = append(faults, fmt.Errorf("issuer %q: %s %s", c.URL, path, message))
		}
		before := len(faults)
		c.Check(fault)
		if a.issuers[c.URL] != nil {
			fault("url", "is configured twice", "keep one")
		}
		if len(faults) > before {
			continue
		}
		i, err := newIssuer(&c, deps.Keys[c.URL])
		if err != nil {
			fault("", err.Error(), "")
			continue
		}
		a.issuers[c.URL] = i
		a.limits.Bytes = max(a.limits.Bytes, i.maxBytes)
	}
	if len(faults) > 0 {
		return nil, errors.Join(faults...)
	}
	return a, nil
}

// newIssuer makes a Config ready that Check found nothing wrong with.
func newIssuer(c *Config, keys jose.Keys) (*issuer, error) {
	if c.UsesSecret() {
		secret, err := c.secretBytes()
		if err != nil {
			return nil, err
		}
		keys, err = jose.NewKeySet(&jose.Key{ID: c.SecretID, Public: jose.NewSymmetricKey(secret)})
		if err != nil {
			return nil, err
		}
	}
	if keys == nil {
		return nil, errors.New("has no keys")
	}
	i := &issuer{
		url:         c.URL,
		keys:        keys,
		algorithms:  slices.Clone(c.Algorithms),
		rules:       jose.ClaimRules{Audiences: slices.Clone(c.Audiences), Skew: c.ClockSkew, MaxLifetime: c.MaxLifetime},
		clients:     slices.Clone(c.Clients),
		maxBytes:    c.MaxTokenBytes,
		required:    slices.Clone(c.RequiredClaims),
		strict:      c.TokenTypes == Strict,
		claims:      c.Claims,
		pass:        slices.Clone(c.Pass),
		kind:        c.Kind,
		method:      c.Method,
		assurance:   c.Assurance,
		constraints: c.Constraints,
	}
	if i.rules.Audiences[0] == anyAudience {
		i.rules.Audiences = nil
	}
	return i, nil
}

// Authenticate proves a token. See the package comment for its steps.
func (a *Authenticator) Authenticate(ctx context.Context, c *authn.Credential) (*authn.Proof, error) {
	// 1. Shape.
	text := c.Secret.Reveal()
	if !isAttempt(text, a.limits.Bytes) {
		return nil, authn.ErrNotMine
	}

	// 2. Reading.
	token, err := jose.ParseCompact(text, a.limits)
	if err != nil {
		return nil, authn.Refuse(reasonOf(err), err.Error())
	}

	// 3. Issuer.
	iss, _ := token.Claims().Get("iss").Text()
	i := a.issuers[iss]
	if i == nil {
		return nil, authn.Refuse(policy.ReasonIssuerUntrusted, fmt.Sprintf("issuer %.128q is not configured", iss))
	}
	if sub, _ := token.Claims().Get("sub").Text(); a.alsoOwned != nil && a.alsoOwned(iss, sub) {
		return nil, authn.Refuse(policy.ReasonCredentialAmbiguous, "the token is one of an issuer and of a workload")
	}
	if len(text) > i.maxBytes {
		return nil, authn.Refuse(policy.ReasonTokenTooLarge, fmt.Sprintf("token of %d bytes, the issuer's may have %d", len(text), i.maxBytes))
	}

	// 4. Signature.
	key, err := i.verify(ctx, token)
	if err != nil {
		return nil, err
	}

	// 5. Claims.
	if err := i.checkType(token); err != nil {
		return nil, err
	}
	life, err := i.rules.Lifetime(token.Claims(), a.now())
	if err != nil {
		return nil, refuse(err)
	}
	if err := i.rules.CheckAudience(token.Claims().Get("aud")); err != nil {
		return nil, refuse(err)
	}
	if err := i.checkRequired(token.Claims()); err != nil {
		return nil, err
	}

	// 6. Principal.
	return i.proof(token.Claims(), key, life)
}

// OwnsClaims reports whether tokens of that issuer and subject are proven here.
func (a *Authenticator) OwnsClaims(issuer, _ string) bool { return a.issuers[issuer] != nil }

// isAttempt reports whether the text is meant to be a JWS: three parts, or a
// first part that begins as every encoded JSON object does, followed by another,
// or one of the JSON serializations (RFC 7515 section 7.2). Malformed attempts are
// refused here and now, so that no other authenticator gets to make something of them. A JWE has five parts (RFC 7516 section 3.1) and
// is somebody else's, and so is a text without dots. Only the first limit bytes
// are looked at.
func isAttempt(text string, limit int) bool {
	head := text[:min(len(text), limit)]
	cut := len(head) < len(text)
	switch dots := strings.Count(head, "."); {
	case dots == 2, strings.HasPrefix(head, "{"):
		return true
	case dots == 4 && !cut:
		return false
	default:
		return beginsObject(head) && (dots > 0 || cut)
	}
}

// beginsObject reports whether the text is the base64url encoding of a JSON
// object: "{" makes an "e" and one of sixteen characters.
func beginsObject(text string) bool {
	return len(text) > 1 && text[0] == 'e' && strings.IndexByte("wxyz0123456789-_", text[1]) >= 0
}

// reasonOf sorts the errors of jose.
func reasonOf(err error) policy.Reason {
	switch {
	case errors.Is(err, jose.ErrTooLarge):
		return policy.ReasonTokenTooLarge
	case errors.Is(err, jose.ErrAlgorithm), errors.Is(err, jose.ErrSignature):
		return policy.ReasonSignatureInvalid
	}
	return policy.ReasonCredentialMalformed
}

// verify returns the issuer's key that signed the token.
func (i *issuer) verify(ctx context.Context, token *jose.Token) (*jose.Key, error) {
	if !slices.Contains(i.algorithms, token.Algorithm()) {
		return nil, authn.Refuse(policy.ReasonSignatureInvalid, token.Algorithm()+" is not an algorithm of the issuer")
	}
	keys, err := i.keys.Find(ctx, token.KeyID(), token.Algorithm())
	if err != nil {
		return nil, fmt.Errorf("keys of issuer %s: %w", i.url, err)
	}
	if len(keys) == 0 {
		return nil, authn.RefuseNoKey(fmt.Sprintf("the issuer has no key %.128q for %s", token.KeyID(), token.Algorithm()))
	}
	key, err := jose.Verify(token, keys, i.algorithms)
	if err != nil {
		return nil, authn.Refuse(reasonOf(err), err.Error())
	}
	return key, nil
}
