package jose

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/postern-auth/postern/policy"
)

// ClaimError says what is wrong with what an issuer says of a token, and which reason
// a caller is refused for it. It quotes nothing but names and times.
type ClaimError struct {
	Reason policy.Reason
	Detail string
}

// Error returns the detail.
func (e *ClaimError) Error() string { return e.Detail }

func invalidClaim(format string, args ...any) error {
	return &ClaimError{policy.ReasonInvalidClaim, fmt.Sprintf(format, args...)}
}

// ClaimRules are what is demanded of the claims that say for whom and for how long a
// token is.
type ClaimRules struct {
	// Audiences are our names, one of which must be in aud; nil: any audience will do.
	Audiences []string
	// Skew is how far the issuer's clock and ours may differ.
	Skew time.Duration
	// MaxLifetime is the longest time from iat to exp, and makes iat required; 0: any.
	MaxLifetime time.Duration
	// ExpiryOptional accepts claims without exp, as RFC 7662 section 2.2 lets an
	// introspection answer be.
	ExpiryOptional bool
}

// Lifetime is when a token was issued, when it ends, and when its user logged in; each
// is zero if it does not say.
type Lifetime struct {
	Issued, Expires, Authenticated time.Time
	// NotAfter is Expires and the clock skew.
	NotAfter time.Time
}

// Lifetime checks exp, nbf and iat (RFC 7519 section 4.1) and auth_time (RFC 9068
// section 2.2.1) against the clock. A login in the future would look recent for as
// long as the token lives, and so get past every max_age. The error is a *ClaimError.
func (r *ClaimRules) Lifetime(claims Value, now time.Time) (l Lifetime, err error) {
	var notBefore time.Time
	for _, claim := range [...]struct {
		name string
		to   *time.Time
	}{{"exp", &l.Expires}, {"nbf", &notBefore}, {"iat", &l.Issued}, {"auth_time", &l.Authenticated}} {
		if *claim.to, err = date(claims, claim.name); err != nil {
			return l, err
		}
	}
	if l.Authenticated.Unix() <= 0 {
		l.Authenticated = time.Time{} // some issuers write 0 for "unknown"
	}
	ends := !l.Expires.IsZero()
	if ends {
		l.NotAfter = l.Expires.Add(r.Skew)
	}
	horizon := now.Add(r.Skew)
	switch {
	case !ends && !r.ExpiryOptional:
		return l, invalidClaim("exp is missing")
	case ends && l.Expires.Unix() <= 0 || !l.Issued.IsZero() && l.Issued.Unix() <= 0:
		return l, invalidClaim("exp and iat must be later than 1970")
	case ends && !now.Before(l.NotAfter):
		return l, &ClaimError{policy.ReasonExpired, "exp is " + l.Expires.Format(time.RFC3339)}
	case ends && (notBefore.After(l.Expires) || l.Issued.After(l.Expires)):
		return l, invalidClaim("the token ends before it begins")
	case notBefore.After(horizon):
		return l, &ClaimError{policy.ReasonNotYetValid, "nbf is " + notBefore.Format(time.RFC3339)}
	case l.Issued.After(horizon):
		return l, &ClaimError{policy.ReasonNotYetValid, "iat is " + l.Issued.Format(time.RFC3339)}
	case l.Authenticated.After(horizon):
		return l, invalidClaim("auth_time is %s, in the future", l.Authenticated.Format(time.RFC3339))
	case r.MaxLifetime > 0 && l.Issued.IsZero():
		return l, invalidClaim("iat is missing, which max_lifetime needs")
	case r.MaxLifetime > 0 && !ends:
		return l, invalidClaim("exp is missing, which max_lifetime needs")
	case r.MaxLifetime > 0 && l.Expires.Sub(l.Issued) > r.MaxLifetime:
		return l, &ClaimError{policy.ReasonLifetimeExceeded, fmt.Sprintf("the token lives %s, at most %s is accepted", l.Expires.Sub(l.Issued), r.MaxLifetime)}
	}
	return l, nil
}

// date returns a NumericDate, or the zero time if the claim is not there. An
// nbf of 0, which some issuers write for "none", is the beginning of 1970.
func date(claims Value, name string) (time.Time, error) {
	v := claims.Get(name)
	if !v.Exists() {
		return time.Time{}, nil
	}
	t, ok := v.NumericDate()
	if !ok {
		return time.Time{}, invalidClaim("%s is no date (RFC 7519 section 2)", name)
	}
	return t, nil
}

// CheckAudience demands that the token is meant for one of our names (RFC 7519
// section 4.1.3). The error is a *ClaimError.
func (r *ClaimRules) CheckAudience(aud Value) error {
	found := r.Audiences == nil
	switch aud.Kind() {
	case String:
		found = found || slices.ContainsFunc(r.Audiences, aud.Is)
	case Array:
		for e := range aud.Elements() {
			if e.Kind() != String {
				return &ClaimError{policy.ReasonInvalidAudience, "aud holds " + e.Kind().String()}
			}
			found = found || slices.ContainsFunc(r.Audiences, e.Is)
		}
	case Absent:
	default:
		return &ClaimError{policy.ReasonInvalidAudience, "aud is " + aud.Kind().String()}
	}
	if !found {
		return &ClaimError{policy.ReasonInvalidAudience, "the token is not meant for this service"}
	}
	return nil
}

// Named are those of our names for which the token is meant; nil where any audience will do.
func (r *ClaimRules) Named(aud Value) (names []string) {
	for _, name := range r.Audiences {
		found := aud.Is(name)
		for e := range aud.Elements() {
			found = found || e.Is(name)
		}
		if found {
			names = append(names, name)
		}
	}
	return names
}

// IsType reports whether the typ or cty of a header is a media type below application/.
// Case makes no difference, and "application/" may be left out (RFC 7515 sections 4.1.9
// and 4.1.10).
func IsType(value, name string) bool {
	const application = "application/"
	if len(value) > len(application) && strings.EqualFold(value[:len(application)], application) {
		value = value[len(application):]
	}
	return strings.EqualFold(value, name)
}

// accessTypes are the values of typ that access tokens have. The first is not accepted
// where RFC 9068 is demanded.
var accessTypes = [...]string{"JWT", "at+jwt"}

// CheckAccessToken refuses tokens that were not issued to be shown to an API: ID
// tokens, refresh tokens, logout tokens and the like, which are signed with the same
// keys, often for the same audience. They are told by the header's typ, and where that
// is missing by what only they contain (RFC 8725 section 3.11). Strict demands the typ
// of RFC 9068. The error is a *ClaimError.
func CheckAccessToken(token *Token, strict bool) error {
	if cty, ok := token.Header().Get("cty").Text(); ok && IsType(cty, "JWT") {
		return wrongType("a nested token (cty)")
	}
	accepted := accessTypes[:]
	if strict {
		accepted = accepted[1:]
	}
	typ, ok := token.Header().Get("typ").Text()
	if (ok || strict) && !slices.ContainsFunc(accepted, func(t string) bool { return IsType(typ, t) }) {
		return wrongType(fmt.Sprintf("typ %.64q is not that of an access token", typ))
	}
	return CheckAccessClaims(token.Claims())
}

// CheckPlain refuses a token that says in its header that it is something else than a JWT,
// or that there is a token in it: who has a key signs other things with it, such as DPoP
// proofs (RFC 8725 section 3.11). The error is a *ClaimError.
func CheckPlain(token *Token) error {
	typ := token.Header().Get("typ")
	if text, _ := typ.Text(); typ.Exists() && !IsType(text, "JWT") || token.Header().Get("cty").Exists() {
		return wrongType("typ is not JWT, or a token is in the token")
	}
	return nil
}

// CheckAccessClaims refuses claims that only other tokens than access tokens have. The
// error is a *ClaimError.
func CheckAccessClaims(claims Value) error {
	if claims.Get("events").Exists() {
		return wrongType("a security event or logout token: it has the claim events (RFC 8417 section 2.2)")
	}
	for _, name := range [...]string{"at_hash", "c_hash", "s_hash"} {
		if claims.Get(name).Exists() {
			return wrongType("an ID token: it has the claim " + name)
		}
	}
	if claims.Get("nonce").Exists() && !claims.Get("scope").Exists() && !claims.Get("scp").Exists() {
		return wrongType("an ID token: it has a nonce and no scope")
	}
	for _, name := range [...]string{"type", "typ", "token_type", "token_use"} {
		if use, ok := claims.Get(name).Text(); ok && isOtherUse(use) {
			return wrongType("its claim " + name + " says that it is no access token")
		}
	}
	return nil
}

func wrongType(detail string) error { return &ClaimError{policy.ReasonWrongTokenType, detail} }

// otherUses are what issuers write into type, typ, token_type or token_use of
// tokens that are not for APIs, without punctuation and in lower case.
var otherUses = [...]string{"refresh", "refreshtoken", "offline", "id", "idtoken", "logout", "logouttoken"}

func isOtherUse(use string) bool {
	use = strings.NewReplacer("_", "", "-", "", " ", "", "+jwt", "").Replace(strings.ToLower(use))
	return slices.Contains(otherUses[:], use) || strings.Contains(use, "refresh")
}

// ReadConfirmation returns what the claim cnf (RFC 7800) binds a token to: the SHA-256
// of a client certificate in lower-case hex (x5t#S256, RFC 8705 section 3.1), the
// thumbprint of the key of DPoP proofs (jkt, RFC 9449 section 6.1), or both. A claim
// that says anything else is an error, a *ClaimError: what is not understood cannot be
// demanded.
func ReadConfirmation(cnf Value) (certificate, key string, err error) {
	if cnf.Kind() == Absent {
		return "", "", nil
	}
	refused := func(what string) (string, string, error) {
		return "", "", &ClaimError{policy.ReasonBinding, "cnf " + what}
	}
	if cnf.Kind() != Object || cnf.Len() == 0 {
		return refused("is no object that says what the token is bound to")
	}
	for name, v := range cnf.Members() {
		text, _ := v.Text()
		sum, err := base64.RawURLEncoding.Strict().DecodeString(text)
		if err != nil || len(sum) != sha256.Size || len(text) != thumbprintChars {
			return refused("is not a thumbprint of SHA-256, or of a kind that is not known here")
		}
		switch name {
		case "x5t#S256":
			certificate = hex.EncodeToString(sum)
		case "jkt":
			key = text
		default:
			return refused("binds the token in a way that is not known here")
		}
	}
	return certificate, key, nil
}

// thumbprintChars is the length of a SHA-256 in base64url: a decoder that skips line
// ends would take more.
const thumbprintChars = 43

// IsIdentifier reports whether a text can name somebody without being mistaken
// for another name: not empty, nothing that cannot be seen (control and format
// characters, text direction, line ends, blank letters), spaces only inside.
// Names are compared byte by byte; nothing is folded or normalized.
func IsIdentifier(s string) bool {
	if s == "" || s[0] == ' ' || s[len(s)-1] == ' ' {
		return false
	}
	for _, c := range s {
		if c < ' ' || c >= 0x7f && !isVisible(c) {
			return false
		}
	}
	return true
}

func isVisible(c rune) bool {
	return unicode.IsPrint(c) && c != unicode.ReplacementChar &&
		!unicode.In(c, unicode.Other_Default_Ignorable_Code_Point, unicode.Variation_Selector)
}

// PassClaims copies the top-level claims of those names, as JSON values and without
// members whose names look like those of secrets; nil if there is none.
func PassClaims(claims Value, names []string) map[string]any {
	var all map[string]any
	for _, name := range names {
		v := claims.Get(name)
		if !v.Exists() {
			continue
		}
		if all == nil {
			all = make(map[string]any, len(names))
		}
		all[name] = withoutSecrets(v)
	}
	return all
}

// withoutSecrets returns the value as Value.Any does, without the members whose
// names look like those of secrets.
func withoutSecrets(v Value) any {
	switch v.Kind() {
	case Array:
		all := make([]any, 0, v.Len())
		for e := range v.Elements() {
			all = append(all, withoutSecrets(e))
		}
		return all
	case Object:
		all := make(map[string]any, v.Len())
		for name, m := range v.Members() {
			if !LooksSecret(name) {
				all[name] = withoutSecrets(m)
			}
		}
		return all
	}
	return v.Any()
}

// secretWords are words that make a claim's name look like that of a secret;
// secretParts do so even inside a word.
var (
	secretWords = map[string]bool{"key": true, "keys": true, "token": true, "tokens": true, "pwd": true, "pass": true, "otp": true, "pin": true, "cookie": true, "jwt": true, "assertion": true}
	secretParts = [...]string{"password", "passwd", "passphrase", "secret", "token", "credential", "apikey", "privatekey", "accesskey"}
)

// LooksSecret reports whether a claim of that name may hold a secret. Issuers
// should not put any into a token; some do.
func LooksSecret(name string) bool {
	lower := strings.ToLower(name)
	for _, part := range secretParts {
		if strings.Contains(lower, part) {
			return true
		}
	}
	for _, word := range words(name) {
		if secretWords[word] {
			return true
		}
	}
	return false
}

// words splits api_key, api-key, apiKey and https://x/key into words in lower
// case.
func words(name string) []string {
	var b strings.Builder
	lower := false
	for _, r := range name {
		if unicode.IsUpper(r) && lower {
			b.WriteByte(' ')
		}
		lower = unicode.IsLower(r)
		if !unicode.IsLetter(r) {
			r = ' '
		}
		b.WriteRune(unicode.ToLower(r))
	}
	return strings.Fields(b.String())
}
