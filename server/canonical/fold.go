package canonical

import (
	"strings"
	"unicode"

	"golang.org/x/text/unicode/norm"
)

// Fold returns a canonical path as the most forgiving server reads it, for rules
// that deny: without regard to case, compatibility forms (the fullwidth letters of
// U+FF21) and invisible characters, without parameters even if they were encoded,
// and with an encoded slash that was kept as a separator.
//
// A rule that allows must match the path itself, a rule that denies the path or
// its fold, or else /Admin passes by a deny of /admin where the upstream does not
// mind case. Patterns of deny rules are written in lower case for that, or folded
// too. Fold(Fold(p)) is Fold(p). Nothing is allocated if the path is its own fold.
func Fold(path string) string {
	if isFolded(path) {
		return path
	}
	path = strings.ReplaceAll(path, "%2F", "/")
	segments := strings.Split(path, "/")
	for i, s := range segments {
		segments[i] = base(skeleton(s))
	}
	return strings.Join(segments, "/")
}

func isFolded(path string) bool {
	for i := range len(path) {
		switch c := path[i]; {
		case 'A' <= c && c <= 'Z', c >= 0x80, c == ';', c == '?', c == '#':
			return false
		}
	}
	return true
}

// skeleton returns the text without regard to case, compatibility forms and
// invisible characters, much as NFKC_Casefold of Unicode section 5.18 does.
func skeleton(s string) string {
	if isASCII(s) {
		return strings.ToLower(s)
	}
	return norm.NFKC.String(strings.Map(foldRune, norm.NFKC.String(s)))
}

// foldRune goes over the upper case, so that letters with one upper case and two
// lower ones (the long s, the dotless i) become one.
func foldRune(c rune) rune {
	if unicode.In(c, unicode.Cf, unicode.Variation_Selector, unicode.Other_Default_Ignorable_Code_Point) {
		return -1
	}
	return unicode.ToLower(unicode.ToUpper(c))
}
