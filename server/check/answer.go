package check

import (
	"crypto/rand"
	"encoding/binary"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn"
)

// answer completes the decision: status, message, headers and challenges.
func (c *Checker) answer(x *exchange) {
	d := &x.decision
	d.Status, d.Message = d.Reason.Status(), d.Reason.Message()
	if v := d.Verdict; v != nil {
		d.Client = v.ClientHeaders
		if !d.Allowed && d.Phase == policy.PhaseDecide {
			if v.Status != 0 {
				d.Status = v.Status
			}
			if v.Message != "" {
				d.Message = v.Message
			}
		}
	}
	if d.Allowed {
		c.identity.apply(c, x)
		return
	}
	d.Challenges = c.challenges.of(d, x.route)
}

// IdentityHeader is a header field that tells the upstream who called.
type IdentityHeader struct {
	// Name is the field, in lower case.
	Name string
	// Value reads it from the principal; an empty value leaves the field out.
	Value func(*policy.Principal) string
}

// identity is what goes upstream: fields that Postern sets, and fields that it
// removes whether it saw them or not, because a gateway may have hidden them.
type identity struct {
	headers  []IdentityHeader
	remove   []string // everything a client may not set, and its credentials
	decision string   // the field that holds the decision's id, or ""
}

func newIdentity(cfg *Config) identity {
	id := identity{headers: cfg.Identity, remove: slices.Clone(cfg.Reserved)}
	for _, h := range cfg.Identity {
		id.remove = append(id.remove, h.Name)
	}
	if !cfg.KeepCredential {
		for _, r := range cfg.Rules {
			if h := r.From.Header(); h != "" {
				id.remove = append(id.remove, h)
			}
		}
	}
	slices.Sort(id.remove)
	id.remove = slices.Compact(id.remove)
	id.decision = cfg.DecisionHeader
	if id.decision != "" {
		id.remove = slices.DeleteFunc(id.remove, func(name string) bool { return name == id.decision })
	}
	return id
}

// rendered is an identity in the form that goes upstream. It is worked out once
// for each proof and Checker and kept in the proof's slot.
type rendered struct {
	by      *Checker
	headers []policy.Header
	remove  []string
	// removeCookies are remove and "cookie".
	removeCookies []string
}

func (id *identity) apply(c *Checker, x *exchange) {
	d := &x.decision
	r := id.of(c, x.proofs[0])
	d.Upstream, d.Remove = r.headers, r.remove
	id.stripCookies(c, x, r)
	if id.decision != "" {
		d.Upstream = append(slices.Clip(d.Upstream), policy.Header{Name: id.decision, Value: d.ID})
	}
	if v := d.Verdict; v != nil {
		if len(v.UpstreamHeaders) > 0 {
			d.Upstream = slices.Concat(d.Upstream, id.permitted(v.UpstreamHeaders))
			d.Remove = without(d.Remove, d.Upstream)
		}
		if len(v.RemoveHeaders) > 0 {
			d.Remove = slices.Concat(d.Remove, v.RemoveHeaders)
		}
	}
	for i := range x.creds {
		if q := x.creds[i].Query; q != "" {
			d.RemoveQuery = append(d.RemoveQuery, q)
		}
	}
	if odd := c.cfg.Reader.Smuggled(x.attributes.Headers, nil); len(odd) > 0 {
		for i := range odd {
			odd[i] = strings.Clone(odd[i]) // the decision outlives the request
		}
		d.Remove = slices.Concat(d.Remove, without(odd, d.Upstream))
	}
}

// stripCookies takes the caller's credential out of the cookies and leaves the others
// where they are, unless the policy says itself what becomes of the field.
func (id *identity) stripCookies(c *Checker, x *exchange, r *rendered) {
	d, v := &x.decision, x.decision.Verdict
	switch {
	case c.cfg.KeepCredential || !x.fromCookie():
		return
	case v != nil && slices.Contains(v.RemoveHeaders, "cookie"):
		return
	case v != nil && slices.ContainsFunc(v.UpstreamHeaders, func(h policy.Header) bool { return h.Name == "cookie" }):
		return
	}
	if others := c.cfg.Extractor.OtherCookies(x.attributes.Headers); others != "" {
		d.Upstream = append(slices.Clip(r.headers), policy.Header{Name: "cookie", Value: others})
		return
	}
	d.Remove = r.removeCookies
}

func (id *identity) of(c *Checker, proof *authn.Proof) *rendered {
	if slot := proof.Rendered.Load(); slot != nil {
		if r, ok := (*slot).(*rendered); ok && r.by == c {
			return r
		}
	}
	r := id.render(proof.Principal)
	r.by = c
	var slot any = r
	proof.Rendered.Store(&slot)
	return r
}

func (id *identity) render(p *policy.Principal) *rendered {
	r := &rendered{}
	for _, h := range id.headers {
		if value := h.Value(p); value != "" {
			r.headers = append(r.headers, policy.Header{Name: h.Name, Value: value})
		}
	}
	r.remove = without(id.remove, r.headers)
	r.removeCookies = append(slices.Clip(r.remove), "cookie")
	return r
}

// permitted are the policy's fields that are not an identity field of the
// configuration: those are Postern's alone.
func (id *identity) permitted(headers []policy.Header) []policy.Header {
	return slices.DeleteFunc(slices.Clone(headers), func(h policy.Header) bool {
		return h.Name == id.decision ||
			slices.ContainsFunc(id.headers, func(own IdentityHeader) bool { return own.Name == h.Name })
	})
}

// without returns the names that no header sets. A field that is set must not
// be removed as well: gateways remove last.
func without(names []string, headers []policy.Header) []string {
	return slices.DeleteFunc(slices.Clone(names), func(name string) bool {
		return slices.ContainsFunc(headers, func(h policy.Header) bool { return h.Name == name })
	})
}

// FieldValue makes a text safe for a header field: visible ASCII stays, every
// other byte, "%" and what else is listed is percent-encoded, so that different
// texts stay different and none can end the field.
func FieldValue(s, except string) string {
	if !strings.ContainsFunc(s, func(r rune) bool { return escaped(r, except) }) {
		return s
	}
	var b strings.Builder
	for i := range len(s) {
		if escaped(rune(s[i]), except) {
			b.WriteByte('%')
			b.WriteByte("0123456789ABCDEF"[s[i]>>4])
			b.WriteByte("0123456789ABCDEF"[s[i]&15])
			continue
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

func escaped(r rune, except string) bool {
	return r <= ' ' || r >= 0x7f || r == '%' || strings.ContainsRune(except, r)
}

// challenges are the WWW-Authenticate values of each reason, worked out once.
type challenges struct {
	realm  string
	bearer bool
	others []string // of schemes without parameters for errors
	fixed  [][]string
}

// newChallenges makes one challenge for each scheme that the rules read.
func newChallenges(realm string, rules []authn.Rule) challenges {
	if realm == "" {
		realm = "postern"
	}
	c := challenges{realm: quote(realm)}
	for _, r := range rules {
		switch scheme := r.From.Scheme(); {
		case scheme == "bearer":
			c.bearer = true
		case scheme == "" && r.From.Header() == "":
		default:
			name := "ApiKey"
			if scheme != "" && scheme != "apikey" {
				name = strings.ToUpper(scheme[:1]) + scheme[1:]
			}
			other := name + " realm=" + c.realm
			if scheme == "basic" {
				other += `, charset="UTF-8"` // RFC 7617 section 2.1
			}
			if !slices.Contains(c.others, other) {
				c.others = append(c.others, other)
			}
		}
	}
	if !c.bearer && len(c.others) == 0 {
		c.bearer = true // a 401 must carry a challenge (RFC 9110 section 15.5.2)
	}
	for _, r := range policy.Reasons() {
		c.fixed = append(c.fixed, c.build(r, ""))
	}
	return c
}

// of returns the challenges of a deny: for every 401, and for the 403 of
// missing scopes (RFC 6750 section 3.1).
func (c *challenges) of(d *policy.Decision, route *policy.Route) []string {
	if d.Status != 401 && d.Reason != policy.ReasonScope {
		return nil
	}
	var more string
	switch {
	case d.Reason == policy.ReasonScope:
		more = ", scope=" + quote(strings.Join(d.MissingScopes, " "))
	case d.Reason == policy.ReasonStepUp && route != nil && route.MaxAge > 0:
		more = ", max_age=" + quote(strconv.FormatInt(int64(route.MaxAge.Seconds()), 10))
	case d.Reason == policy.ReasonCredentialMissing && route != nil && len(route.Scopes) > 0:
		more = ", scope=" + quote(strings.Join(route.Scopes, " "))
	default:
		return c.fixed[d.Reason]
	}
	return c.build(d.Reason, more)
}

// build writes the challenges of a reason: a request without credential gets no
// error code (RFC 6750 section 3.1), every other the code and a safe sentence.
func (c *challenges) build(r policy.Reason, more string) []string {
	var all []string
	if c.bearer {
		b := "Bearer realm=" + c.realm
		if code := r.OAuth(); code != policy.OAuthNone {
			b += `, error="` + string(code) + `", error_description=` + quote(r.Message())
		}
		all = append(all, b+more)
	}
	return append(all, c.others...)
}

// quote writes a quoted-string (RFC 9110 section 5.6.4). What cannot stand in
// one, and could not be told apart from an attack, becomes "?".
func quote(s string) string {
	b := []byte{'"'}
	for i := range len(s) {
		switch ch := s[i]; {
		case ch == '"' || ch == '\\':
			b = append(b, '\\', ch)
		case ch < ' ' || ch >= 0x7f:
			b = append(b, '?')
		default:
			b = append(b, ch)
		}
	}
	return string(append(b, '"'))
}

// ids makes decision ids: a random prefix of this process and a counter. They
// name decisions and prove nothing.
type ids struct {
	prefix [12]byte
	next64 atomic.Uint64
}

const idAlphabet = "0123456789abcdefghjkmnpqrstvwxyz"

func newIDs() *ids {
	var seed [8]byte
	_, _ = rand.Read(seed[:])
	g := &ids{}
	n := binary.BigEndian.Uint64(seed[:])
	for i := range g.prefix {
		g.prefix[i] = idAlphabet[n&31]
		n >>= 5
	}
	return g
}

func (g *ids) next() string {
	n := g.next64.Add(1)
	var b [19]byte
	copy(b[:], g.prefix[:])
	for i := len(b) - 1; i >= len(g.prefix); i-- {
		b[i] = idAlphabet[n&31]
		n >>= 5
	}
	return string(b[:])
}
