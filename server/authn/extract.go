package authn

import (
	"fmt"
	"slices"
	"strings"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/seal"
)

// MaxCredentials is how many credentials of one request are looked at. A
// request with more is refused; no route asks for so many.
const MaxCredentials = 4

// Rule says where one kind of credential is carried, and which methods may own
// what is found there, in the order to ask them.
type Rule struct {
	From Location
	Uses []policy.Method
}

// Location is a place in a request:
//
//	header:NAME                   the whole value of a header field
//	header:authorization/SCHEME   the token after that scheme (RFC 9110 section 11.4);
//	                              of the scheme basic, the password
//	cookie:NAME                   a cookie; the name's case counts
//	query:NAME                    a query parameter, only for routes that name it
//
// Every other place is never looked at.
type Location struct {
	text   string
	header string // lower case; empty for a cookie or query parameter
	scheme string // lower case; empty for a whole value
	cookie string
	query  string
}

// ParseLocation reads a location. Errors say what is allowed.
func ParseLocation(text string) (Location, error) {
	where, name, _ := strings.Cut(text, ":")
	name, scheme, hasScheme := strings.Cut(name, "/")
	header := strings.ToLower(name)
	switch {
	case where == "query" && name != "" && !hasScheme:
		return Location{text: text, query: name}, nil
	case where == "cookie" && isToken(name) && name[0] != '$' && !hasScheme:
		return Location{text: text, cookie: name}, nil
	case where != "header" || !isToken(header):
		return Location{}, fmt.Errorf("a place is header:NAME, header:authorization/SCHEME, cookie:NAME or query:NAME")
	case header == "cookie":
		return Location{}, fmt.Errorf("say which cookie, as in cookie:__Host-session")
	case hasScheme && (header != "authorization" || !isToken(scheme)):
		return Location{}, fmt.Errorf("only the authorization header has a scheme, as in header:authorization/bearer")
	case header == "authorization" && !hasScheme:
		return Location{}, fmt.Errorf("say which scheme, as in header:authorization/bearer")
	}
	return Location{text: text, header: header, scheme: strings.ToLower(scheme)}, nil
}

// String returns the location as it was written.
func (l Location) String() string { return l.text }

// Header returns the lower-case header field, or "".
func (l Location) Header() string { return l.header }

// Scheme returns the lower-case authorization scheme, or "".
func (l Location) Scheme() string { return l.scheme }

// Cookie returns the name of the cookie, or "".
func (l Location) Cookie() string { return l.cookie }

// MarshalText and UnmarshalText let configuration read and show locations.
func (l Location) MarshalText() ([]byte, error) { return []byte(l.text), nil }

// UnmarshalText reads a location as ParseLocation does.
func (l *Location) UnmarshalText(text []byte) error {
	m, err := ParseLocation(string(text))
	*l = m
	return err
}

// Extractor finds the credentials of a request. It is immutable.
type Extractor struct {
	rules []Rule
	// authorization says that some rule reads the authorization header: then
	// whatever stands in it must be understood.
	authorization bool
	// cookies says that some rule reads a cookie.
	cookies bool
}

// NewExtractor returns an extractor for the rules, which are looked at in order.
func NewExtractor(rules []Rule) *Extractor {
	e := &Extractor{rules: rules}
	for _, r := range rules {
		e.authorization = e.authorization || r.From.scheme != ""
		e.cookies = e.cookies || r.From.cookie != ""
	}
	return e
}

// Find appends the credentials of the request to dst. What stands in a
// configured place and cannot be read as a credential is a *Refusal: a caller
// who tries to authenticate and fails is never taken for an anonymous one. A
// credential in the query is refused unless the route names its parameter.
func (e *Extractor) Find(dst []Credential, a *policy.Attributes, q *policy.Request, route *policy.Route) ([]Credential, error) {
	dst, err := e.fromHeaders(dst, a.Headers)
	if err != nil {
		return dst, err
	}
	dst, err = e.fromCookies(dst, a.Headers)
	if err != nil {
		return dst, err
	}
	dst, err = e.fromQuery(dst, q.Query, route)
	if err != nil {
		return dst, err
	}
	if a.Presented != nil {
		dst, err = e.presented(dst, a.Presented)
	}
	return dst, err
}

func (e *Extractor) fromHeaders(dst []Credential, headers policy.Headers) ([]Credential, error) {
	for i := range headers {
		h := &headers[i]
		if h.Name == "authorization" {
			if !e.authorization {
				continue
			}
			c, err := e.authorizationOf(h.Value)
			if err != nil {
				return dst, err
			}
			if dst, err = add(dst, c); err != nil {
				return dst, err
			}
			continue
		}
		for r := range e.rules {
			rule := &e.rules[r]
			if rule.From.header != h.Name {
				continue
			}
			if !isPlain(h.Value) {
				return dst, errMalformed
			}
			var err error
			if dst, err = add(dst, Credential{Uses: rule.Uses, Secret: policy.NewSecret(h.Value), From: rule.From.text, Header: h.Name}); err != nil {
				return dst, err
			}
		}
	}
	return dst, nil
}

// authorizationOf reads `SCHEME SP token68` (RFC 9110 section 11.4, RFC 6750
// section 2.1). Lists, parameters, tabs and second words have more than one
// reading and are refused.
func (e *Extractor) authorizationOf(value string) (Credential, error) {
	scheme, token, _ := strings.Cut(value, " ")
	if !isToken(scheme) {
		return Credential{}, errMalformed
	}
	for i := range e.rules {
		r := &e.rules[i]
		if r.From.scheme == "" || !strings.EqualFold(r.From.scheme, scheme) {
			continue
		}
		if !isToken68(token) {
			return Credential{}, errMalformed
		}
		user := ""
		if r.From.scheme == schemeBasic {
			var ok bool
			if user, token, ok = passwordOf(token); !ok {
				return Credential{}, errMalformed
			}
		}
		return Credential{Uses: r.Uses, User: user, Secret: policy.NewSecret(token), Scheme: r.From.scheme, From: r.From.text, Header: "authorization"}, nil
	}
	return Credential{}, errScheme
}

// fromQuery finds the one parameter that the route allows, and refuses what
// looks like a credential anywhere else in the query.
func (e *Extractor) fromQuery(dst []Credential, query string, route *policy.Route) ([]Credential, error) {
	for query != "" {
		var pair string
		pair, query, _ = strings.Cut(query, "&")
		name, value, _ := strings.Cut(pair, "=")
		// Spelled as the route spells it, or the gateway could not strip it.
		if route != nil && route.InsecureQueryCredential != "" && name == route.InsecureQueryCredential {
			rule := e.queryRule(name)
			value = unescape(value)
			if rule == nil || !isPlain(value) {
				return dst, errMalformed
			}
			var err error
			if dst, err = add(dst, Credential{Uses: rule.Uses, Secret: policy.NewSecret(value), From: rule.From.text, Query: route.InsecureQueryCredential}); err != nil {
				return dst, err
			}
			continue
		}
		if looksCredential(pair, route) {
			return dst, errInQuery
		}
	}
	return dst, nil
}

// looksCredential reports whether a part of a query between two ampersands holds what is
// named or shaped like a credential. Some servers end a parameter at a semicolon as well
// (HTML 4.01 appendix B.2.2), and what has no value may be a credential itself.
func looksCredential(pair string, route *policy.Route) bool {
	for pair != "" {
		var part string
		part, pair, _ = strings.Cut(pair, ";")
		name, value, _ := strings.Cut(part, "=")
		name, value = unescape(name), unescape(value)
		if credentialName(name) || credentialShape(name) || credentialShape(value) || route != nil && name == route.InsecureQueryCredential && name != "" {
			return true
		}
	}
	return false
}

func (e *Extractor) queryRule(name string) *Rule {
	for i := range e.rules {
		if e.rules[i].From.query == name {
			return &e.rules[i]
		}
	}
	return nil
}

// presented takes a credential that the caller handed over apart from the
// request, under the rule for its kind.
func (e *Extractor) presented(dst []Credential, p *policy.Presented) ([]Credential, error) {
	if !isPlain(p.Secret.Reveal()) {
		return dst, errMalformed
	}
	r := e.ruleFor(p.Use)
	switch {
	case r == nil:
		return dst, errScheme
	case r.From.scheme == schemeBasic:
		user, password, ok := passwordOf(p.Secret.Reveal())
		if !ok {
			return dst, errMalformed
		}
		return add(dst, Credential{Uses: r.Uses, User: user, Secret: policy.NewSecret(password), Scheme: r.From.scheme, From: "request:" + p.Use})
	}
	return add(dst, Credential{Uses: r.Uses, Secret: p.Secret, Scheme: r.From.scheme, From: "request:" + p.Use, Cookie: r.From.cookie})
}

// ruleFor returns the rule for what is handed over as of a kind: that of the scheme with
// this name, or else one for whole values that has the method, if there is one that asks
// it first; nil for none.
func (e *Extractor) ruleFor(use string) (found *Rule) {
	for i := range e.rules {
		r := &e.rules[i]
		whole := r.From.scheme == "" && r.From.query == ""
		switch at := slices.Index(r.Uses, policy.Method(use)); {
		case r.From.scheme == use && use != "", whole && at == 0:
			return r
		case whole && at > 0 && found == nil:
			found = r
		}
	}
	return found
}

func add(dst []Credential, c Credential) ([]Credential, error) {
	if len(dst) == MaxCredentials {
		return dst, errTooMany
	}
	return append(dst, c), nil
}

var (
	errMalformed = Refuse(policy.ReasonCredentialMalformed, "what stands in the place of a credential cannot be read as one")
	errScheme    = Refuse(policy.ReasonUnsupportedScheme, "no rule reads this authorization scheme")
	errInQuery   = Refuse(policy.ReasonCredentialInQuery, "a query parameter is named or shaped like a credential")
	errTooMany   = Refuse(policy.ReasonCredentialAmbiguous, "more credentials than any route asks for")
)

// credentialName reports whether a query parameter is by its name a credential
// (RFC 6750 section 2.3 and common API key parameters), in any case, with any of the
// usual separators, as a header field or not (X-), and as an element of a list (name[]).
func credentialName(name string) bool {
	name, _, _ = strings.Cut(name, "[")
	if len(name) < 3 || len(name) > 20 {
		return false
	}
	var folded [20]byte
	n := 0
	for i := range len(name) {
		switch b := name[i]; {
		case b == '-' || b == '_' || b == '.' || b == ' ':
		case 'A' <= b && b <= 'Z':
			folded[n] = b + 'a' - 'A'
			n++
		default:
			folded[n] = b
			n++
		}
	}
	plain := folded[:n]
	if n > 0 && plain[0] == 'x' {
		plain = plain[1:]
	}
	switch string(plain) {
	case "accesstoken", "apikey", "authorization", "authtoken", "bearer", "bearertoken", "jwt", "idtoken", "vaulttoken":
		return true
	}
	return false
}

// minKey is the length from which a text that begins as a key of ours is taken for one:
// whole ones are longer, but for one or two characters that went missing.
const minKey = 60

// credentialShape reports whether a text in a query is by its shape a credential that
// Postern, its issuers or Vault mint: a key of ours or of another installation, a compact
// JWS, hvs. and hvb.
func credentialShape(value string) bool {
	if len(value) > 7 && strings.EqualFold(value[:7], "bearer ") {
		value = value[7:]
	}
	return len(value) > minKey && (strings.HasPrefix(value, seal.DefaultPrefix+"_") || seal.Begins(value, "") && seal.HoldsKey(value)) ||
		strings.HasPrefix(value, "hv") && LooksVault(value) && len(value) > minLegacyVault ||
		strings.HasPrefix(value, "eyJ") && strings.Count(value, ".") == 2
}

// unescape decodes percent escapes and "+"; a bad escape stays as it is, since
// the result is only compared, never forwarded.
func unescape(s string) string {
	if !strings.ContainsAny(s, "%+") {
		return s
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '+':
			b = append(b, ' ')
		case s[i] == '%' && i+2 < len(s) && unhex(s[i+1]) >= 0 && unhex(s[i+2]) >= 0:
			b = append(b, byte(unhex(s[i+1])<<4|unhex(s[i+2])))
			i += 2
		default:
			b = append(b, s[i])
		}
	}
	return string(b)
}

func unhex(c byte) int {
	switch {
	case '0' <= c && c <= '9':
		return int(c - '0')
	case 'a' <= c && c <= 'f':
		return int(c-'a') + 10
	case 'A' <= c && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}

// tokenChars are tchar of RFC 9110 section 5.6.2; token68Chars are the
// characters of token68, section 11.2.
var tokenChars, token68Chars = charset("!#$%&'*+-.^_`|~"), charset("-._~+/")

func charset(extra string) (set [256]bool) {
	for c := range set {
		set[c] = '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
	}
	for i := range len(extra) {
		set[extra[i]] = true
	}
	return set
}

func isToken(s string) bool {
	for i := range len(s) {
		if !tokenChars[s[i]] {
			return false
		}
	}
	return s != ""
}

func isToken68(s string) bool {
	s = strings.TrimRight(s, "=")
	for i := range len(s) {
		if !token68Chars[s[i]] {
			return false
		}
	}
	return s != ""
}

// isPlain reports whether a whole header value can be a credential: visible
// ASCII without the separators of lists.
func isPlain(s string) bool {
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c >= 0x7f || c == ',' || c == ';' || c == '"' {
			return false
		}
	}
	return s != ""
}
