package canonical

import "math/bits"

// equalFoldASCII compares without regard to the case of ASCII letters only;
// strings.EqualFold would take the Kelvin sign for a k.
func equalFoldASCII(s, t string) bool {
	if len(s) != len(t) {
		return false
	}
	for i := range len(s) {
		if lower(s[i]) != lower(t[i]) {
			return false
		}
	}
	return true
}

func lower(b byte) byte {
	if 'A' <= b && b <= 'Z' {
		return b | 0x20
	}
	return b
}

func isDigit(b byte) bool { return '0' <= b && b <= '9' }

// Classes of the token characters of RFC 9110 section 5.6.2.
const (
	tokenPlain = 1 << iota // lower-case letters, digits, "-"
	tokenMark              // the other punctuation, which some servers turn into "-" or "_"
	tokenUpper             // upper-case letters
)

var tokenClass = func() (t [256]uint8) {
	for b := range 256 {
		switch c := byte(b); {
		case 'a' <= c && c <= 'z', isDigit(c), c == '-':
			t[b] = tokenPlain
		case 'A' <= c && c <= 'Z':
			t[b] = tokenUpper
		}
	}
	for _, c := range []byte("!#$%&'*+.^_`|~") {
		t[c] = tokenMark
	}
	return t
}()

// tokenClasses returns the classes of the characters in s, and whether s is a
// token at all.
func tokenClasses(s string) (classes uint8, ok bool) {
	for i := range len(s) {
		c := tokenClass[s[i]]
		if c == 0 {
			return 0, false
		}
		classes |= c
	}
	return classes, s != ""
}

func isToken(s string) bool {
	_, ok := tokenClasses(s)
	return ok
}

// Patterns for looking at eight bytes at once.
const (
	eachLow  = 0x0101010101010101
	eachHigh = 0x8080808080808080
)

func load8(s string, i int) uint64 {
	s = s[i : i+8]
	return uint64(s[0]) | uint64(s[1])<<8 | uint64(s[2])<<16 | uint64(s[3])<<24 |
		uint64(s[4])<<32 | uint64(s[5])<<40 | uint64(s[6])<<48 | uint64(s[7])<<56
}

// firstControl returns the index of the first control character (RFC 5234: 0 to
// 31 and 127) from i on, or len(s).
func firstControl(s string, i int) int {
	for ; i+8 <= len(s); i += 8 {
		x := load8(s, i)
		below := (x - eachLow*0x20) &^ x & eachHigh
		y := x ^ eachLow*0x7f
		del := (y - eachLow) &^ y & eachHigh
		if m := below | del; m != 0 {
			// Borrows only run upwards, so the lowest hit is a true one.
			return i + bits.TrailingZeros64(m)/8
		}
	}
	for ; i < len(s); i++ {
		if s[i] < 0x20 || s[i] == 0x7f {
			return i
		}
	}
	return len(s)
}

// isVisibleASCII reports whether s is made of spaces and visible ASCII only.
func isVisibleASCII(s string) bool {
	var bad uint64
	i := 0
	for ; i+8 <= len(s); i += 8 {
		x := load8(s, i)
		y := x ^ eachLow*0x7f
		bad |= x | (x-eachLow*0x20)&^x | (y-eachLow)&^y
	}
	for ; i < len(s); i++ {
		if s[i] < 0x20 || s[i] >= 0x7f {
			return false
		}
	}
	return bad&eachHigh == 0
}

func isASCII(s string) bool {
	var all uint64
	i := 0
	for ; i+8 <= len(s); i += 8 {
		all |= load8(s, i)
	}
	for ; i < len(s); i++ {
		all |= uint64(s[i])
	}
	return all&eachHigh == 0
}
