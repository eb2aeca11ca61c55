package check

import (
	"cmp"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn"
	"github.com/postern-auth/postern/server/signer"
)

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
	headers     []IdentityHeader
	remove      []string // everything a client may not set, and its credentials
	decision    string   // the field that holds the decision's id, or ""
	reservation string   // the field that holds the receipt of what was charged, or ""
	token       *IdentityToken
}

func newIdentity(cfg *Config) identity {
	id := identity{headers: cfg.Identity, remove: slices.Clone(cfg.Reserved)}
	for _, h := range cfg.Identity {
		id.remove = append(id.remove, h.Name)
	}
	for _, name := range forwarded {
		if !cfg.anybodyForwards(name) {
			id.remove = append(id.remove, name)
		}
	}
	if cfg.IdentityToken != nil {
		id.remove = append(id.remove, cfg.IdentityToken.Header) // a client may have got hold of somebody else's
	}
	for _, h := range cfg.Cost {
		id.remove = append(id.remove, h.Name) // it is for Postern alone, whoever said it
	}
	if !cfg.KeepCredential {
		for _, r := range cfg.Rules {
			if h := r.From.Header(); h != "" {
				id.remove = append(id.remove, h)
			}
			if r.From.Scheme() == schemeDPoP {
				id.remove = append(id.remove, "dpop")
			}
		}
	}
	slices.Sort(id.remove)
	id.remove = slices.Compact(id.remove)
	id.decision, id.token = cfg.DecisionHeader, cfg.IdentityToken
	if id.decision != "" {
		id.remove = slices.DeleteFunc(id.remove, func(name string) bool { return name == id.decision })
	}
	if id.reservation = cfg.ReservationHeader; id.reservation != "" {
		id.remove = slices.DeleteFunc(id.remove, func(name string) bool { return name == id.reservation })
	}
	return id
}

// rendered is an identity in the form that goes upstream. It is worked out once
// for each proof and Checker and kept in the proof's slot.
type rendered struct {
	by      *Checker
	headers []policy.Header
	// remove are the fields to remove. The one with the receipt is the last, so that it
	// is left out without a copy where there is a receipt.
	remove []string
	// removeCookies are remove and "cookie".
	removeCookies []string
	// tokens are the identity tokens that were made for it, one for each audience.
	tokens atomic.Pointer[[]minted]
}

func (id *identity) apply(c *Checker, x *exchange) {
	d := &x.decision
	r := id.of(c, x.proofs[0])
	d.Upstream, d.Remove = r.headers, r.remove
	id.stripCookies(c, x, r)
	if x.token != "" {
		d.Upstream = append(slices.Clip(d.Upstream), policy.Header{Name: id.token.Header, Value: x.token})
	}
	if id.decision != "" {
		d.Upstream = append(slices.Clip(d.Upstream), policy.Header{Name: id.decision, Value: d.ID})
	}
	if id.reservation != "" && d.Reservation != "" {
		if id.decision == "" {
			d.Upstream = slices.Clip(d.Upstream) // or else the last append has made it ours
		}
		d.Upstream = append(d.Upstream, policy.Header{Name: id.reservation, Value: d.Reservation})
		d.Remove = slices.Clip(d.Remove[:len(d.Remove)-1])
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
	if x.forwarded {
		d.Remove = slices.Concat(d.Remove, slices.DeleteFunc(slices.Clone(forwarded), func(name string) bool {
			return x.trust.believes(name)
		}))
	}
	if names := c.unsaid(x); len(names) > 0 {
		d.Remove = slices.Concat(d.Remove, without(names, d.Upstream))
	}
	if odd := c.cfg.Reader.Smuggled(x.attributes.Headers, nil); len(odd) > 0 {
		odd = slices.DeleteFunc(odd, func(name string) bool { return slices.Contains(d.Remove, name) })
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
	set := r.headers
	if id.token != nil && p.Kind != policy.KindAnonymous {
		set = append(slices.Clip(set), policy.Header{Name: id.token.Header})
	}
	r.remove = without(id.remove, set)
	r.removeCookies = append(slices.Clip(r.remove), "cookie")
	if id.reservation != "" {
		r.remove, r.removeCookies = append(r.remove, id.reservation), append(r.removeCookies, id.reservation)
	}
	return r
}

// permitted are the policy's fields that are not an identity field of the
// configuration: those are Postern's alone.
func (id *identity) permitted(headers []policy.Header) []policy.Header {
	return slices.DeleteFunc(slices.Clone(headers), func(h policy.Header) bool {
		return h.Name == id.decision || h.Name == id.reservation || id.token != nil && h.Name == id.token.Header ||
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

// feasible denies where the door cannot do what the policy's allow is made of: a policy
// that takes a parameter out of the query may let the request go on for no other reason.
func (x *exchange) feasible() bool {
	v := x.decision.Verdict
	if x.attributes.ChangesQuery || len(v.SetQuery) == 0 && len(v.RemoveQuery) == 0 {
		return true
	}
	return x.deny(policy.ReasonPolicyResult, "the policy allows with another query, and "+x.attributes.Door+" cannot change it")
}

// Minter signs identity tokens (server/signer).
type Minter interface {
	// Identity returns a token that says who the principal is to one audience, and when
	// it ends: at notAfter at the latest, unless that is zero.
	Identity(p *policy.Principal, audience string, now, notAfter time.Time) (token string, expires time.Time, err error)
}

// IdentityToken has the upstream told who called by a signed token of Postern's own,
// which it can verify and pass on, in the place of the caller's credential.
type IdentityToken struct {
	Minter Minter
	// Header is the field, in lower case, and Scheme stands before the token in it,
	// with its space; empty for none.
	Header, Scheme string
}

// minted is a token for one audience, as it stands in the field.
type minted struct {
	audience, value string
	// expires is when it ends, and renew the instant from which a new one is made.
	expires, renew time.Time
}

// maxAudiences is for how many audiences the tokens of a proof are kept. Where the
// host names the audience, a client can name many.
const maxAudiences = 16

// introduce makes the identity token for the upstream. A request goes on without one
// only where nobody is to be introduced.
func (c *Checker) introduce(x *exchange) bool {
	p := x.decision.Principal
	if c.identity.token == nil || p.Kind == policy.KindAnonymous || x.attributes.Action != nil {
		return true
	}
	r := c.identity.of(c, x.proofs[0])
	audience := cmp.Or(x.route.Audience, c.cfg.Audience, x.request.Host)
	ends := earliestEnd(x.proofs)
	if x.token = r.token(audience, x.now, ends); x.token != "" {
		return true
	}
	t := c.identity.token
	token, expires, err := t.Minter.Identity(p, audience, x.now, ends)
	switch {
	case errors.Is(err, signer.ErrEnded):
		return x.deny(policy.ReasonExpired, "expired since it was proven")
	case err != nil:
		return x.deny(policy.ReasonInternal, "identity token: "+err.Error())
	}
	x.token = t.Scheme + token
	r.keep(minted{strings.Clone(audience), x.token, expires, expires.Add(-expires.Sub(x.now) / 5)})
	return true
}

// earliestEnd is when the first of the proofs ends; zero if none does.
func earliestEnd(proofs []*authn.Proof) time.Time {
	var end time.Time
	for _, p := range proofs {
		if !p.NotAfter.IsZero() && (end.IsZero() || p.NotAfter.Before(end)) {
			end = p.NotAfter
		}
	}
	return end
}

// token returns the token that was made for the audience, or "". It is made again when
// a fifth of its time is left, so that an upstream that takes long does not find it
// over. One that was made beside other credentials may live longer than these let it:
// none that does not end with them, unless ends is zero, is returned.
func (r *rendered) token(audience string, now, ends time.Time) string {
	if kept := r.tokens.Load(); kept != nil {
		for i := range *kept {
			if m := &(*kept)[i]; m.audience == audience && now.Before(m.renew) && (ends.IsZero() || !m.expires.After(ends)) {
				return m.value
			}
		}
	}
	return ""
}

// keep puts a token first, and forgets the oldest of too many.
func (r *rendered) keep(m minted) {
	next := []minted{m}
	if kept := r.tokens.Load(); kept != nil {
		for _, old := range *kept {
			if old.audience != m.audience && len(next) < maxAudiences {
				next = append(next, old)
			}
		}
	}
	r.tokens.Store(&next)
}
