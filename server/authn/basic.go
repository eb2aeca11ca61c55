package authn

import (
	"encoding/base64"
	"strings"
	"unicode/utf8"
)

// schemeBasic is the scheme of a user-id and a password (RFC 7617). Programs that
// know no other, such as git, send a token as the password; the user-id says nothing
// then, as with other services that take tokens so.
const schemeBasic = "basic"

// maxBasic is the longest pair that is decoded, in bytes.
const maxBasic = 1024

// passwordOf reads `base64(user-id ":" password)`. It is strict: one padding, UTF-8, no
// control characters (RFC 7617 section 2), a password at all.
func passwordOf(token string) (user, password string, ok bool) {
	if len(token) > base64.StdEncoding.EncodedLen(maxBasic) {
		return "", "", false
	}
	pair, err := base64.StdEncoding.Strict().DecodeString(token)
	if err != nil || !utf8.Valid(pair) {
		return "", "", false
	}
	user, password, found := strings.Cut(string(pair), ":")
	isControl := func(r rune) bool { return r < ' ' || r == 0x7f }
	return user, password, found && password != "" && strings.IndexFunc(string(pair), isControl) < 0
}
