package seal

import (
	"fmt"
	"regexp"
	"strings"
)

// secretPattern finds secrets of our own form, whatever their prefix, in other texts,
// also where a text was cut off in the middle of one: an id and much of what follows.
var secretPattern = regexp.MustCompile(fmt.Sprintf(`[0-9A-Za-z]{%d}_[0-9A-Za-z]{%d,%d}`, IDLen, minTold, SecretLen+ChecksumLen))

// minTold is how much of a secret is taken for one. What a shorter piece leaves
// unknown is more than anybody can guess.
const minTold = 20

// signedPattern finds signed tokens, ours and others', also where a text was cut off in
// the middle of the signature: two JSON objects in base64url and what follows.
var signedPattern = regexp.MustCompile(fmt.Sprintf(`eyJ[0-9A-Za-z_-]+\.eyJ[0-9A-Za-z_-]+\.[0-9A-Za-z_-]{%d,}`, minTold))

// signedStart is what every object begins with whose first member is written at once.
const signedStart = "eyJ"

// vaultPattern finds the tokens of Vault and OpenBao that say what they are: hvs., hvb.
// and hvr. What they were before, one letter and a dot, is too much like other texts.
var vaultPattern = regexp.MustCompile(fmt.Sprintf(`hv[sbr]\.[0-9A-Za-z_-]{%d,}`, minTold))

// vaultStart is what all of them begin with.
const vaultStart = "hv"

// HoldsSigned reports whether a signed token stands in a text.
func HoldsSigned(text string) bool {
	return strings.Contains(text, signedStart) && signedPattern.MatchString(text)
}

// Scrub takes secrets out of a text that others will read and that cannot be refused
// any more, such as the path of a request that holds somebody's key.
func Scrub(text string) string {
	if len(text) < IDLen+1+minTold {
		return text
	}
	if strings.Contains(text, signedStart) {
		text = signedPattern.ReplaceAllLiteralString(text, redacted)
	}
	if strings.Contains(text, vaultStart) {
		text = vaultPattern.ReplaceAllLiteralString(text, redacted)
	}
	return secretPattern.ReplaceAllLiteralString(text, redacted)
}

const redacted = "[secret]"
