package appsession

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"net/url"
	"strings"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn"
	"github.com/postern-auth/postern/server/seal"
)

// A session's id is put into a key of somebody's database, so only characters stand in
// it that mean nothing there: it cannot reach a key of another pattern, and there is no
// way to a pattern's wildcard. It has at least 16 of them: shorter ones can be guessed.
const (
	minID = 16
	maxID = 256
)

var (
	errMalformed = authn.Refuse(policy.ReasonCredentialMalformed, "the cookie is not the id of a session: 16 to 256 letters, digits, - and _")
	errSignature = authn.Refuse(policy.ReasonSignatureInvalid, "the cookie is not signed by the application")
)

// idOf returns the session's id from the value of a cookie.
func (a *Authenticator) idOf(c *authn.Credential) (string, error) {
	text := c.Secret.Reveal()
	alone := len(c.Uses) == 1 // nobody else could own it
	if isOurs(text) && !alone {
		return "", authn.ErrNotMine
	}
	if len(a.cfg.SigningSecrets) > 0 {
		id, signature, ok := unsign(text)
		switch {
		case !ok && !alone:
			return "", authn.ErrNotMine
		case !ok || !a.signed(id, signature):
			return "", errSignature
		}
		text = id
	}
	switch {
	case isID(text):
		return text, nil
	case !alone:
		return "", authn.ErrNotMine
	}
	return "", errMalformed
}

// isOurs reports whether a text has the form of a secret that Postern made.
func isOurs(text string) bool {
	_, err := seal.Parse(text)
	return err == nil
}

func isID(s string) bool {
	for i := range len(s) {
		if c := s[i]; c != '-' && c != '_' && (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') {
			return false
		}
	}
	return len(s) >= minID && len(s) <= maxID
}

// unsign takes apart "s:" ID "." SIGNATURE, which browsers send with its colon, plus
// signs and slashes escaped.
func unsign(text string) (id, signature string, ok bool) {
	text, err := url.PathUnescape(text)
	text, found := strings.CutPrefix(text, "s:")
	dot := strings.LastIndexByte(text, '.')
	if err != nil || !found || dot < 0 {
		return "", "", false
	}
	return text[:dot], text[dot+1:], true
}

// signed compares texts, not bytes: a signature has one spelling.
func (a *Authenticator) signed(id, signature string) bool {
	good := false
	for _, secret := range a.cfg.SigningSecrets {
		mac := hmac.New(sha256.New, []byte(secret.Reveal()))
		mac.Write([]byte(id))
		want := base64.RawStdEncoding.EncodeToString(mac.Sum(nil))
		good = hmac.Equal([]byte(want), []byte(signature)) || good
	}
	return good
}

// key is where the session is in Redis.
func (a *Authenticator) key(id string) string {
	if a.cfg.HashID {
		sum := sha256.Sum256([]byte(id))
		id = hex.EncodeToString(sum[:])
	}
	return a.before + id + a.after
}

// publicID names a session in logs and on the denylist. From 64 bits of a digest nobody
// finds an id of 16 random characters.
func (a *Authenticator) publicID(id string) string {
	sum := sha256.Sum256([]byte("postern app session\x00" + a.cfg.Name + "\x00" + id))
	return hex.EncodeToString(sum[:8])
}
