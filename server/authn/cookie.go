package authn

import (
	"strings"
	"unicode/utf8"

	"github.com/postern-auth/postern/policy"
)

// A cookie field is a list of name=value pairs (RFC 6265 section 4.2.1), and HTTP/2
// may send it in pieces (RFC 9113 section 8.2.3), so all fields of a request are one
// list. It is cut at every semicolon and at the first equals sign; names are compared
// with their case, and nothing is decoded.
//
// What servers disagree on is refused where it could put another value into one of
// our cookies: two different values, quotes and backslashes inside a quoted value,
// which older servers let run over semicolons (RFC 2965), "$Version", which makes
// some of them do so, and space before the equals sign. Other cookies are the
// application's and may be what they like.
const (
	// maxCookies is how many pairs are looked at. Browsers keep 180 for a site at
	// most, and RFC 6265 section 6.1 asks for 50.
	maxCookies = 256
	// maxCookieValue is the longest value, in bytes: browsers keep 4,096 for name,
	// value and attributes.
	maxCookieValue = 4096
)

var (
	errManyCookies    = Refuse(policy.ReasonCredentialMalformed, "more cookies than any browser keeps")
	errCookieTooLarge = Refuse(policy.ReasonTokenTooLarge, "the cookie is larger than any browser keeps")
	errTwoCookies     = Refuse(policy.ReasonCredentialAmbiguous, "the cookie occurs twice with different values")
	errOddCookies     = Refuse(policy.ReasonCredentialAmbiguous, "some servers would find another value in the cookie: quotes or $Version beside it")
)

// fromCookies finds the configured cookies. The same value twice is one credential.
func (e *Extractor) fromCookies(dst []Credential, headers policy.Headers) ([]Credential, error) {
	if !e.cookies {
		return dst, nil
	}
	before, pairs, odd := len(dst), 0, false
	for i := range headers {
		if headers[i].Name != "cookie" {
			continue
		}
		for rest, more := headers[i].Value, true; more; {
			var pair string
			if pairs++; pairs > maxCookies {
				return dst, errManyCookies
			}
			pair, rest, more = strings.Cut(rest, ";")
			name, value, isPair := strings.Cut(trimOWS(pair), "=")
			odd = odd || isOdd(name, value)
			rule := e.cookieRule(trimOWS(name))
			if rule == nil || !isPair {
				continue
			}
			var err error
			if dst, err = addCookie(dst, before, rule, name, value); err != nil {
				return dst, err
			}
		}
	}
	if odd && len(dst) > before {
		return dst, errOddCookies
	}
	return dst, nil
}

// addCookie appends a cookie of ours, unless it is there already from index before
// on.
func addCookie(dst []Credential, before int, rule *Rule, name, value string) ([]Credential, error) {
	if n := len(value); n > 1 && value[0] == '"' && value[n-1] == '"' {
		value = value[1 : n-1]
	}
	switch {
	case len(value) > maxCookieValue:
		return dst, errCookieTooLarge
	case name != rule.From.cookie || !isCookieValue(value):
		return dst, errMalformed
	}
	for i := before; i < len(dst); i++ {
		if dst[i].Cookie != name {
			continue
		}
		if dst[i].Secret.Reveal() != value {
			return dst, errTwoCookies
		}
		return dst, nil
	}
	return add(dst, Credential{Uses: rule.Uses, Secret: policy.NewSecret(value), From: rule.From.text, Cookie: name})
}

// isOdd reports whether the pair makes some servers read the pairs behind it in
// another way.
func isOdd(name, value string) bool {
	if strings.HasPrefix(name, `"`) || len(name) == len("$version") && strings.EqualFold(name, "$version") {
		return true
	}
	value = trimOWS(value)
	if !strings.HasPrefix(value, `"`) {
		return false
	}
	n := len(value)
	return n < 2 || value[n-1] != '"' || strings.ContainsAny(value[1:n-1], `"\`)
}

func (e *Extractor) cookieRule(name string) *Rule {
	if name == "" {
		return nil
	}
	for i := range e.rules {
		if e.rules[i].From.cookie == name {
			return &e.rules[i]
		}
	}
	return nil
}

// OtherCookies returns the cookie field without the configured cookies: what the
// upstream may see. It is empty if none is left, and leaves out what cannot be sent
// on as it came, a pair that is not UTF-8.
func (e *Extractor) OtherCookies(headers policy.Headers) string {
	var b strings.Builder
	for i := range headers {
		if headers[i].Name != "cookie" {
			continue
		}
		for pair := range strings.SplitSeq(headers[i].Value, ";") {
			pair = trimOWS(pair)
			name, _, _ := strings.Cut(pair, "=")
			if pair == "" || e.cookieRule(trimOWS(name)) != nil || !utf8.ValidString(pair) {
				continue
			}
			if b.Len() > 0 {
				b.WriteString("; ")
			}
			b.WriteString(pair)
		}
	}
	return b.String()
}

// isCookieValue accepts what RFC 6265 section 4.1.1 calls cookie-octets, one at least.
func isCookieValue(s string) bool { return isPlain(s) && !strings.Contains(s, `\`) }

// trimOWS takes spaces and tabs off both ends (RFC 9110 section 5.6.3), and nothing
// else that Unicode calls white space: a no-break space belongs to a name.
func trimOWS(s string) string { return strings.Trim(s, " \t") }
