package seal

import (
	"fmt"
	"regexp"
)

// secretPattern finds secrets of our own form, whatever their prefix, in other texts,
// also where a text was cut off in the middle of one: an id and much of what follows.
var secretPattern = regexp.MustCompile(fmt.Sprintf(`[0-9A-Za-z]{%d}_[0-9A-Za-z]{%d,%d}`, IDLen, minTold, SecretLen+ChecksumLen))

// minTold is how much of a secret is taken for one. What a shorter piece leaves
// unknown is more than anybody can guess.
const minTold = 20

// Scrub takes secrets out of a text that others will read and that cannot be refused
// any more, such as the path of a request that holds somebody's key.
func Scrub(text string) string {
	if len(text) < IDLen+1+minTold {
		return text
	}
	return secretPattern.ReplaceAllLiteralString(text, "[secret]")
}
