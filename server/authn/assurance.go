package authn

// AssuranceMultiFactor is the level of a proof with a second factor, or with a
// certificate: the highest there is.
const AssuranceMultiFactor = 4

// factor is what an authentication rests on (NIST SP 800-63B section 4.3.1): something
// that the user knows, has or is. Each is one bit.
type factor uint8

const (
	knows factor = 1 << iota
	has
	is
)

// factors are the methods of RFC 8176 section 2 that show a factor. The others tell of
// the circumstances: geo, mca, rba, user, wia. What is on no list shows nothing.
var factors = map[string]factor{
	"pwd": knows, "pin": knows, "kba": knows,
	"hwk": has, "swk": has, "otp": has, "sms": has, "tel": has, "sc": has,
	"face": is, "fpt": is, "iris": is, "retina": is, "vbm": is,
	"mfa": knows | has, // the issuer says itself that there were several
}

// Assurance returns the level of a proof by a token: base, the configured one of its
// kind, or AssuranceMultiFactor if amr (RFC 8176) shows that the user was authenticated
// with several factors. That is "mfa", or methods of two of the three sorts: a password
// and a PIN are one factor, and so is a one-time code alone. Names are compared exactly,
// case included.
func Assurance(base int, amr []string) int {
	var shown factor
	for _, method := range amr {
		shown |= factors[method]
	}
	if shown&(shown-1) != 0 { // more than one bit
		return max(base, AssuranceMultiFactor)
	}
	return base
}
