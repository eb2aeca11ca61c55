package seal

import "math"

// lowBits is how many bits an imported secret should have at the least: whoever
// steals its SHA-256 can try 2^40 a second, and 2^96 in no lifetime.
const lowBits = 96

// LowEntropy reports whether a secret that was made elsewhere looks too short or
// too regular for a plain SHA-256 to protect it. It is an estimate from above: a
// long text of random words passes, and so does a poor generator. Nobody should
// rely on what passes; what does not pass is certainly weak.
func LowEntropy(secret string) bool {
	if distinct(secret) < 10 {
		return true
	}
	return float64(surprises(secret))*math.Log2(float64(symbols(secret))) < lowBits
}

// surprises counts the bytes that do not just go on repeating or counting.
func surprises(s string) (n int) {
	before := 2
	for i := range len(s) {
		step := 2
		if i > 0 {
			step = int(s[i]) - int(s[i-1])
		}
		if step != before || step < -1 || step > 1 {
			n++
		}
		before = step
	}
	return n
}

// symbols is the size of the smallest usual alphabet that the text fits into.
func symbols(s string) int {
	var digit, hex, lower, upper, other bool
	for i := range len(s) {
		switch c := s[i]; {
		case c >= '0' && c <= '9':
			digit = true
		case c >= 'a' && c <= 'f':
			hex = true
		case c >= 'g' && c <= 'z':
			lower = true
		case c >= 'A' && c <= 'Z':
			upper = true
		default:
			other = true
		}
	}
	n := 0
	if digit {
		n += 10
	}
	switch {
	case lower:
		n += 26
	case hex:
		n += 6
	}
	if upper {
		n += 26
	}
	if other {
		n += 2 // separators and the marks of Base64 hold little
	}
	return n
}
