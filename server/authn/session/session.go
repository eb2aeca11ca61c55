// Package session proves the sessions of users in browsers.
//
// # The cookie
//
// Its value is a secret of Postern's own form, of kind ses (see server/seal): a
// public id, 256 random bits and a checksum. Nothing about the user stands in it.
// The store keeps its digest, and the mirror a copy in RAM:
//
//	pst_ses_4fQzR8xW0bLm_…   →   record by id   →   HMAC   →   constant-time compare
//
// An id that does not exist goes the same way with a decoy in place of the record, so
// that it costs the same as a wrong secret and gets the same answer. Only who has
// proven the secret learns that a session was revoked, was rotated or is over.
//
// A session is over some time after its last use, and at a fixed time at the latest.
// Both are the record's to say, because the last use may have been at another
// replica.
//
// # The CSRF token
//
// A browser sends the cookie with every request, whoever made it send one. Where it
// does not say who did, the application has to show that it can read what Postern
// told it alone: a token that is bound to the session (signed double submit).
//
//	token  =  base64url( version of the pepper, 2 bytes | nonce, 16 bytes | mac, 32 bytes )
//	mac    =  HMAC-SHA-256( key derived from that pepper, nonce | id of the session )
//
// The nonce makes each token another text, so that nothing can be learned from the
// length of a compressed page that holds one (BREACH). When the session is rotated,
// its tokens end with it.
package session

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"strings"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn"
	"github.com/postern-auth/postern/server/seal"
)

// Config says which sessions are ours.
type Config struct {
	// Prefix starts the value of every cookie; empty means seal.DefaultPrefix.
	Prefix string
}

// Deps are what an Authenticator works with. Index and Peppers are required.
type Deps struct {
	// Index holds the sessions.
	Index authn.Index
	// Peppers make the digests and the keys of CSRF tokens.
	Peppers *seal.Peppers
	// Now is the clock; time.Now if nil.
	Now func() time.Time
}

// Authenticator proves sessions. It answers from RAM and waits for nothing.
type Authenticator struct {
	prefix  string
	index   authn.Index
	peppers *seal.Peppers
	now     func() time.Time
	// decoy is the digest with which sessions that do not exist are compared.
	decoy [sha256.Size]byte
}

// New returns an Authenticator.
func New(cfg Config, deps Deps) (*Authenticator, error) {
	if cfg.Prefix == "" {
		cfg.Prefix = seal.DefaultPrefix
	}
	if deps.Now == nil {
		deps.Now = time.Now
	}
	switch {
	case !seal.IsWord(cfg.Prefix):
		return nil, errors.New("sessions: the prefix is not a word")
	case deps.Index == nil:
		return nil, errors.New("sessions: there is no index")
	case deps.Peppers.None():
		return nil, seal.ErrNoPepper
	}
	a := &Authenticator{prefix: cfg.Prefix, index: deps.Index, peppers: deps.Peppers, now: deps.Now}
	_, _ = rand.Read(a.decoy[:]) // never fails: it ends the process instead
	return a, nil
}

var (
	errMalformed = authn.Refuse(policy.ReasonCredentialMalformed, "begins as a session does, but is cut off or misspelt")
	errUnknown   = authn.Refuse(policy.ReasonCredentialUnknown, "no such session, or its secret is wrong")
)

// Authenticate implements authn.Authenticator.
func (a *Authenticator) Authenticate(_ context.Context, c *authn.Credential) (*authn.Proof, error) {
	text := c.Secret.Reveal()
	p, err := seal.Parse(text)
	if err != nil || p.Prefix != a.prefix || p.Kind != seal.KindSession {
		return nil, a.notOurs(text, c.Uses)
	}
	if s := a.find(text, p.ID); s != nil {
		return s.Open(a.now())
	}
	if !seal.ChecksumFits(text) {
		return nil, errMalformed // the digest covers the checksum: only bad ones need it
	}
	return nil, errUnknown
}

// find compares the secret with the record of its id, or with the decoy.
func (a *Authenticator) find(text, id string) authn.Sealed {
	s := a.index.ByID(id)
	want, pepper := &a.decoy, a.peppers.Current()
	if s != nil {
		want, pepper = s.Seal()
	}
	got, known := a.peppers.Sum(pepper, text)
	if same := seal.Equal(&got, want); !same || !known || pepper == 0 || s == nil {
		return nil
	}
	return s
}

// notOurs says what becomes of a text that is not of the form of a session.
func (a *Authenticator) notOurs(text string, uses []policy.Method) error {
	rest, ok := strings.CutPrefix(text, a.prefix)
	switch {
	case ok && strings.HasPrefix(rest, "_"+string(seal.KindSession)+"_"):
		return errMalformed
	case len(uses) == 1 && uses[0] == policy.MethodSession:
		return errUnknown // nobody else could own it
	}
	return authn.ErrNotMine
}

// The lengths of the parts of a CSRF token, in bytes.
const (
	versionLen = 2
	nonceLen   = 16
	tokenLen   = versionLen + nonceLen + sha256.Size
)

// csrfPurpose separates the key of CSRF tokens from other keys of the same pepper.
const csrfPurpose = "csrf tokens"

// b64 has one spelling for each value, and needs no escaping anywhere.
var b64 = base64.RawURLEncoding.Strict()

// CSRFToken returns a new token for a session, to be sent back as x-csrf-token.
func (a *Authenticator) CSRFToken(session string) policy.Secret {
	version := a.peppers.Current()
	token := binary.BigEndian.AppendUint16(make([]byte, 0, tokenLen), version)
	token = token[:versionLen+nonceLen]
	_, _ = rand.Read(token[versionLen:]) // never fails: it ends the process instead
	key, _ := a.peppers.Derive(version, csrfPurpose)
	return policy.NewSecret(b64.EncodeToString(appendMAC(token, key, token[versionLen:], session)))
}

// VerifyCSRF reports whether the token was made for the session that the proof is of
// (check.CSRFTokens).
func (a *Authenticator) VerifyCSRF(proof *authn.Proof, token string) bool {
	session := proof.Subject.SessionID
	if proof.Principal.Method != policy.MethodSession || session == "" || len(token) != b64.EncodedLen(tokenLen) {
		return false
	}
	var raw [tokenLen]byte
	if n, err := b64.Decode(raw[:], []byte(token)); err != nil || n != tokenLen {
		return false
	}
	key, known := a.peppers.Derive(binary.BigEndian.Uint16(raw[:]), csrfPurpose)
	want := appendMAC(nil, key, raw[versionLen:versionLen+nonceLen], session)
	return hmac.Equal(want, raw[versionLen+nonceLen:]) && known
}

// appendMAC appends the MAC. The nonce has one length, so nonce and session cannot
// run into each other.
func appendMAC(b []byte, key [sha256.Size]byte, nonce []byte, session string) []byte {
	m := hmac.New(sha256.New, key[:])
	m.Write(nonce)
	m.Write([]byte(session))
	return m.Sum(b)
}
