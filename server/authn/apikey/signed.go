package apikey

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"strings"
	"sync/atomic"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn"
	"github.com/postern-auth/postern/server/jose"
	"github.com/postern-auth/postern/server/seal"
	"github.com/postern-auth/postern/server/signer"
)

// signed knows the personal access tokens that are JWTs (P-13). Nil knows none.
//
// Such a token is the secret of a record like any other: its jti is the record's id, and
// the record holds the digest of its whole text. So of two texts with one jti one proves
// something at most, a token without a record nothing, and rights, limits and revocation
// are the record's. The signature is verified besides, so that a token ends with the key
// that signed it.
//
//	begins as ours → jti → record by id → HMAC → constant-time compare → signature
//
// A text that is not the secret of a record costs no verification. What a text that was
// verified says is remembered, so that the next time costs one HMAC.
type signed struct {
	issuer string
	keys   *jose.KeySet
	heads  []string

	seed  maphash.Seed
	known [knownTokens]atomic.Pointer[knownToken]
}

// knownTokens is how many tokens are remembered: one word each, and less than 100 bytes
// for those that are in use.
const knownTokens = 4096

// knownToken is what a token says that was verified once. Another text with the same
// hash finds it as well, which does no harm: the digest of its record is another.
type knownToken struct {
	hash uint64
	id   string
	ends int64 // Unix seconds, exclusive
}

func newSigned(s *signer.Signer) (*signed, error) {
	if s == nil {
		return nil, nil
	}
	keys, warnings, err := jose.ParseKeySet(s.KeySet())
	if err == nil && len(warnings) > 0 {
		err = errors.New(warnings[0])
	}
	if err != nil {
		return nil, fmt.Errorf("signing keys: %w", err)
	}
	return &signed{issuer: s.Issuer(), keys: keys, heads: s.Heads(signer.TypePAT), seed: maphash.MakeSeed()}, nil
}

// owns reports whether a text begins as the tokens of one of our keys do. All other
// tokens are somebody else's.
func (s *signed) owns(text string) bool {
	if s != nil {
		for _, head := range s.heads {
			if strings.HasPrefix(text, head) {
				return true
			}
		}
	}
	return false
}

// The refusals of what begins as a token of ours does.
var (
	errSignedMalformed = authn.Refuse(policy.ReasonCredentialMalformed, "begins as a personal access token does, and cannot be read as one")
	errSignedTooLong   = authn.Refuse(policy.ReasonTokenTooLarge, fmt.Sprintf("longer than the %d bytes of the longest personal access token", seal.MaxSignedLen))
	errSignedElsewhere = authn.Refuse(policy.ReasonCredentialUnknown, "a personal access token of another issuer or for another audience")
)

// signed proves a token that s owns.
func (a *Authenticator) signed(ix *index, text string) (*authn.Proof, error) {
	if len(text) > seal.MaxSignedLen {
		return nil, errSignedTooLong
	}
	s, hash := a.tokens, maphash.String(a.tokens.seed, text)
	slot := &s.known[hash%knownTokens]
	known := slot.Load()
	if known != nil && known.hash == hash {
		return a.open(a.own(ix, text, known.id), known)
	}
	token, known, err := s.read(text)
	if err != nil {
		return nil, err
	}
	record := a.own(ix, text, known.id)
	if record == nil {
		return nil, errUnknown
	}
	if err := s.verify(token); err != nil {
		return nil, err
	}
	known.hash = hash
	slot.Store(known)
	return a.open(record, known)
}

// open is answer for a token, whose own end counts as well.
func (a *Authenticator) open(record authn.Sealed, known *knownToken) (*authn.Proof, error) {
	proof, err := a.answer(record)
	if err == nil && a.now().Unix() >= known.ends {
		return nil, authn.Refuse(policy.ReasonExpired, "token "+known.id+" is proven, but its exp has passed")
	}
	return proof, err
}

// read returns what a token claims to be. Nothing is proven yet.
func (s *signed) read(text string) (*jose.Token, *knownToken, error) {
	token, err := jose.ParseCompact(text, jose.Limits{Bytes: seal.MaxSignedLen, Depth: 2})
	if err != nil {
		return nil, nil, errSignedMalformed
	}
	claims := token.Claims()
	id, _ := claims.Get("jti").Text()
	ends, dated := claims.Get("exp").NumericDate()
	switch {
	case !seal.IsID(id) || !dated:
		return nil, nil, errSignedMalformed
	case !claims.Get("iss").Is(s.issuer) || !claims.Get("aud").Is(s.issuer):
		return nil, nil, errSignedElsewhere
	}
	return token, &knownToken{id: id, ends: ends.Unix()}, nil
}

func (s *signed) verify(token *jose.Token) error {
	keys, err := s.keys.Find(context.Background(), token.KeyID(), token.Algorithm())
	if err == nil {
		_, err = jose.Verify(token, keys, []string{token.Algorithm()})
	}
	if err != nil {
		return authn.Refuse(policy.ReasonSignatureInvalid, "the personal access token: "+err.Error())
	}
	return nil
}
