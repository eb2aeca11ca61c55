package check

import (
	"slices"
	"strconv"
	"strings"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn"
)

// CSRF says which requests may use a credential that came in a cookie. A browser
// sends cookies with every request, also with one that another site's page makes it
// send, so the cookie alone does not show that the user meant it (OWASP Cross-Site
// Request Forgery Prevention). What changes nothing is let on: GET, HEAD, OPTIONS and
// TRACE (RFC 9110 section 9.2.1), but not an upgrade to WebSocket, which starts as a
// GET and which no same-origin policy guards. Everything else needs one of these, in
// this order; the first that is there decides:
//
//	Sec-Fetch-Site   the browser says where the request comes from
//	Origin           must be the scheme, host and port of the request itself
//	x-csrf-token     made by Postern for this session
//
// The zero CSRF lets the fewest on.
type CSRF struct {
	// SameSite also takes Sec-Fetch-Site: same-site, from the other hosts under the
	// same registered domain. Danger: whoever controls one of them, or finds a hole
	// in it, then acts for the users of all.
	SameSite bool
	// Tokens verifies x-csrf-token; nil takes none.
	Tokens CSRFTokens
}

// CSRFTokens verifies the tokens that applications send as x-csrf-token.
type CSRFTokens interface {
	// VerifyCSRF reports in constant time whether the token was made for the session
	// that the proof is of.
	VerifyCSRF(proof *authn.Proof, token string) bool
}

// CSRFHeader is the field in which the application sends the token back. Another
// site's page can neither read the token nor send the field without being asked
// first (Fetch, CORS-preflight).
const CSRFHeader = "x-csrf-token"

// crossSite refuses what another site may have made a browser send.
func (c *Checker) crossSite(x *exchange) bool {
	if !x.fromCookie() || !mayChange(x) {
		return true
	}
	if detail := c.cfg.CSRF.refuse(x); detail != "" {
		return x.deny(policy.ReasonCSRF, detail)
	}
	return true
}

// fromCookie reports whether a credential came in a cookie.
func (x *exchange) fromCookie() bool {
	return slices.ContainsFunc(x.creds, func(c authn.Credential) bool { return c.Cookie != "" })
}

// mayChange reports whether the request may change something, or open a channel that
// may. A question that is not about an HTTP request comes from no browser.
func mayChange(x *exchange) bool {
	switch x.request.Method {
	case "":
		return x.attributes.Action == nil
	case "GET", "HEAD", "OPTIONS", "TRACE":
		return upgrades(x.attributes.Headers)
	}
	return true
}

// upgrades reports whether the connection is to speak another protocol afterwards
// (RFC 9110 section 7.8). A gateway may have taken Upgrade out, which is hop by hop,
// but not the fields of RFC 6455 section 4.1.
func upgrades(h policy.Headers) bool {
	for i := range h {
		if h[i].Name == "upgrade" || strings.HasPrefix(h[i].Name, "sec-websocket-") {
			return true
		}
	}
	return false
}

// refuse says why the request may come from another site, or "".
func (r *CSRF) refuse(x *exchange) string {
	sender, detail := r.Sender(x.attributes.Headers, &x.request)
	switch sender {
	case SenderSelf:
		return ""
	case SenderUnknown:
		return r.byToken(x.attributes.Headers, x.proofs)
	}
	return detail
}

// Sender is whose page made a browser send a request, as the browser says.
type Sender uint8

// The senders. The zero Sender is unknown.
const (
	SenderUnknown Sender = iota // the browser does not say, or there is none
	SenderSelf                  // the application itself, or the user without any page
	SenderOther                 // another site
)

// Sender reads Sec-Fetch-Site, or else Origin. The detail says what makes it another
// site; it holds nothing from the request.
func (r *CSRF) Sender(h policy.Headers, q *policy.Request) (_ Sender, detail string) {
	site, sites := h.Get("sec-fetch-site")
	origin, origins := h.Get("origin")
	switch {
	case sites > 1 || origins > 1:
		detail = "Sec-Fetch-Site or Origin occurs twice"
	case sites == 1:
		detail = r.bySite(site, origin, q)
	case origins == 0 || origin == "null":
		return SenderUnknown, ""
	default:
		if o, ok := parseOrigin(origin); !ok || !o.is(q) {
			detail = "Origin is not that of the request"
		}
	}
	if detail != "" {
		return SenderOther, detail
	}
	return SenderSelf, ""
}

// bySite goes by Sec-Fetch-Site (Fetch Metadata, section 2.3). "none" is a user who
// typed or reloaded. An Origin of another host contradicts both: then something on
// the way has changed one of them. Its scheme and port may differ, because a proxy
// that ends TLS may hide them.
func (r *CSRF) bySite(site, origin string, q *policy.Request) string {
	switch {
	case site == "same-site" && r.SameSite:
		return ""
	case site != "same-origin" && site != "none":
		return "Sec-Fetch-Site is not same-origin"
	case origin == "" || origin == "null":
		return ""
	}
	if o, ok := parseOrigin(origin); !ok || o.host != q.Host {
		return "Sec-Fetch-Site and Origin contradict each other"
	}
	return ""
}

// byToken is for clients that send neither field: old browsers, and programs with a
// cookie jar.
func (r *CSRF) byToken(h policy.Headers, proofs []*authn.Proof) string {
	token, n := h.Get(CSRFHeader)
	switch {
	case n == 0:
		return "neither Sec-Fetch-Site nor Origin nor " + CSRFHeader
	case n > 1:
		return CSRFHeader + " occurs twice"
	case r.Tokens == nil:
		return "no " + CSRFHeader + " is taken"
	}
	for _, p := range proofs {
		if r.Tokens.VerifyCSRF(p, token) {
			return ""
		}
	}
	return CSRFHeader + " is not of this session"
}

// origin is an Origin field in parts (RFC 6454 section 7.1), with port 0 for the
// scheme's own.
type origin struct {
	scheme, host string
	port         uint16
}

// parseOrigin reads the one form that browsers send: scheme, host in lower case, and
// a port unless it is the scheme's own. Whether the host is one shows when it is
// compared.
func parseOrigin(s string) (o origin, ok bool) {
	o.scheme, o.host, ok = strings.Cut(s, "://")
	at := strings.LastIndexByte(o.host, ':')
	if at < 0 || strings.HasSuffix(o.host, "]") { // the colons of an IPv6 address
		return o, ok
	}
	text := o.host[at+1:]
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil || port == 0 || strconv.FormatUint(port, 10) != text {
		return o, false
	}
	o.host, o.port = o.host[:at], uint16(port)
	if o.scheme == "https" && port == 443 || o.scheme == "http" && port == 80 {
		o.port = 0
	}
	return o, ok
}

// is reports whether the request went to the origin itself. A request whose scheme
// is not known has none.
func (o origin) is(q *policy.Request) bool {
	return o.scheme != "" && o.host != "" && o.scheme == q.Scheme && o.host == q.Host && o.port == q.Port
}
