package seal

import (
	"encoding/hex"
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
// the middle of the signature: two JSON objects in base64url and what follows. The names
// of header fields are in lower case, and so is a token that somebody sent as one.
var signedPattern = regexp.MustCompile(fmt.Sprintf(`ey[Jj][0-9A-Za-z_-]+\.ey[Jj][0-9A-Za-z_-]+\.[0-9A-Za-z_-]{%d,}`, minTold))

// vaultPattern finds the tokens of Vault and OpenBao that say what they are: hvs., hvb.
// and hvr. What they were before, one letter and a dot, is too much like other texts.
var vaultPattern = regexp.MustCompile(fmt.Sprintf(`hv[sbr]\.[0-9A-Za-z_-]{%d,}`, minTold))

// patterns are all of them, each with what is in every match, which is quicker to look for.
var patterns = [...]struct {
	part string
	*regexp.Regexp
}{{"ey", signedPattern}, {"hv", vaultPattern}, {"_", secretPattern}}

// HoldsKey reports whether a secret of our own form stands in a text, whatever its prefix.
func HoldsKey(text string) bool { return secretPattern.MatchString(text) }

// HoldsSigned reports whether a signed token stands in a text.
func HoldsSigned(text string) bool {
	return strings.Contains(text, "ey") && signedPattern.MatchString(text)
}

// Scrub takes secrets out of a text that others will read and that cannot be refused
// any more, such as the path of a request that holds somebody's key. It finds them also
// where some or all of their bytes are percent-encoded.
func Scrub(text string) string {
	if len(text) < IDLen+1+minTold {
		return text
	}
	if strings.Contains(text, "%") {
		text = scrubEscaped(text)
	}
	for _, p := range patterns {
		if strings.Contains(text, p.part) {
			text = p.ReplaceAllLiteralString(text, redacted)
		}
	}
	return text
}

const redacted = "[secret]"

// maxEscapes is how often over a secret may be percent-encoded to be found: once by its
// client, and once more by each that puts a URL into another.
const maxEscapes = 4

// scrubEscaped is Scrub for what is percent-encoded. What is no secret stays as it was
// written. It looks once, when all is decoded: no secret holds a percent sign, so what
// could be seen before can be seen then, but for what stands right behind one by chance,
// and Scrub finds that in the text as it is.
func scrubEscaped(text string) string {
	plain, at := text, make([]int, len(text)+1) // where each byte of plain begins in text
	for i := range at {
		at[i] = i
	}
	for range maxEscapes {
		before := len(plain)
		if plain, at = unescape(plain, at); len(plain) == before {
			break
		}
	}
	var hidden []bool // bytes of text
	for _, p := range patterns {
		if !strings.Contains(plain, p.part) {
			continue
		}
		for _, found := range p.FindAllStringIndex(plain, -1) {
			if hidden == nil {
				hidden = make([]bool, len(text))
			}
			for i := at[found[0]]; i < at[found[1]]; i++ {
				hidden[i] = true
			}
		}
	}
	if hidden == nil {
		return text
	}
	var b strings.Builder
	for i := range len(text) {
		switch {
		case !hidden[i]:
			b.WriteByte(text[i])
		case i == 0 || !hidden[i-1]:
			b.WriteString(redacted)
		}
	}
	return b.String()
}

// unescape decodes the percent escapes of a text once, and says where the bytes of the
// result, and its end, were before: at says so for those of the text, and is used up.
func unescape(text string, at []int) (string, []int) {
	b := make([]byte, 0, len(text))
	for i := 0; i < len(text); i++ {
		c, from := text[i], at[i]
		if c == '%' && i+2 < len(text) {
			var decoded [1]byte
			if _, err := hex.Decode(decoded[:], []byte(text[i+1:i+3])); err == nil {
				c = decoded[0]
				i += 2
			}
		}
		at[len(b)] = from
		b = append(b, c)
	}
	at[len(b)] = at[len(text)]
	return string(b), at[:len(b)+1]
}
