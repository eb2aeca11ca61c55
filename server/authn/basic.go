package authn

import (
	"bytes"
	"encoding/base64"
	"unicode"
	"unicode/utf8"
)

// schemeBasic is the scheme of a user-id and a password (RFC 7617). Programs that
// know no other, such as git, send a token as the password; the user-id says nothing
// then, and may be empty, as with other services that take tokens so.
const schemeBasic = "basic"

// MaxUser and MaxPassword are the longest user-id and password that are read, in
// bytes. It is what the registry lets people choose.
const (
	MaxUser     = 256
	MaxPassword = 256
)

// maxBasic is the longest pair, colon included.
const maxBasic = MaxUser + 1 + MaxPassword

// passwordOf reads `base64(user-id ":" password)` (RFC 7617 section 2). It is strict,
// so that no two readers find another user in it: one spelling of the Base64, UTF-8
// (section 2.1), no control characters, the first colon splits. There is a password,
// and neither part is longer than its bound.
func passwordOf(token string) (user, password string, ok bool) {
	var encoded [(maxBasic + 2) / 3 * 4]byte
	if len(token) > len(encoded) {
		return "", "", false
	}
	var decoded [(maxBasic + 2) / 3 * 3]byte
	n, err := base64.StdEncoding.Strict().Decode(decoded[:], encoded[:copy(encoded[:], token)])
	if err != nil {
		return "", "", false
	}
	pair := decoded[:n]
	colon := bytes.IndexByte(pair, ':')
	rest := n - colon - 1
	if colon < 0 || colon > MaxUser || rest == 0 || rest > MaxPassword {
		return "", "", false
	}
	if !utf8.Valid(pair) || bytes.IndexFunc(pair, unicode.IsControl) >= 0 {
		return "", "", false
	}
	text := string(pair)
	return text[:colon], text[colon+1:], true
}
