package check

import (
	"slices"
	"strconv"
	"strings"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn"
)

// A 401 must say how to authenticate (RFC 9110 section 15.5.2): one challenge for each
// scheme that the route takes. Bearer and DPoP also say what is wrong with the token
// (RFC 6750 section 3, RFC 9449 section 7.1), which scopes and what authentication it
// takes (RFC 9470 section 3), and where to read who issues tokens (RFC 9728 section
// 5.1).

// challenges are the WWW-Authenticate values of a route, those without parameters of
// the request worked out once.
type challenges struct {
	prefix       string   // realm and resource_metadata of Bearer and DPoP
	bearer, dpop bool     // schemes with parameters for errors
	others       []string // whole challenges of schemes without
	fixed        [][]string
}

// newChallenges makes those of all routes, and last those of requests that match none.
func (c *Checker) newChallenges() []challenges {
	all := make([]challenges, 0, len(c.routes)+1)
	for i := range c.routes {
		all = append(all, c.challengesOf(&c.routes[i]))
	}
	return append(all, c.challengesOf(&c.noRoute))
}

// challengesOf makes one challenge for each scheme that the rules read for the methods
// of the route.
func (c *Checker) challengesOf(r *policy.Route) challenges {
	realm := c.cfg.Realm
	if realm == "" {
		realm = "postern"
	}
	ch := challenges{prefix: " realm=" + quote(realm)}
	plain := ch.prefix
	if r.ResourceMetadata != "" {
		ch.prefix += ", resource_metadata=" + quote(r.ResourceMetadata)
	}
	for _, rule := range c.cfg.Rules {
		if !takes(r, rule.Uses) {
			continue
		}
		ch.add(rule.From, plain)
	}
	if !ch.bearer && !ch.dpop && len(ch.others) == 0 {
		ch.bearer = true
	}
	for _, reason := range policy.Reasons() {
		ch.fixed = append(ch.fixed, ch.build(reason, "", ""))
	}
	return ch
}

// takes reports whether the route takes one of the methods.
func takes(r *policy.Route, uses []policy.Method) bool {
	wanted := r.AnyOf
	if len(r.AllOf) > 0 {
		wanted = r.AllOf
	}
	return len(wanted) == 0 || slices.ContainsFunc(uses, func(m policy.Method) bool { return slices.Contains(wanted, m) })
}

func (ch *challenges) add(from authn.Location, realm string) {
	scheme := from.Scheme()
	switch {
	case scheme == "bearer":
		ch.bearer = true
		return
	case scheme == schemeDPoP:
		ch.dpop = true
		return
	case scheme == "" && from.Header() == "":
		return // a cookie or a parameter of the query is no scheme
	case scheme == "" || scheme == "apikey":
		scheme = "apiKey"
	}
	other := strings.ToUpper(scheme[:1]) + scheme[1:] + realm
	if scheme == "basic" {
		other += `, charset="UTF-8"` // RFC 7617 section 2.1
	}
	if !slices.Contains(ch.others, other) {
		ch.others = append(ch.others, other)
	}
}

// challenge adds the challenges to a deny: to every 401, and to the 403 of missing
// scopes (RFC 6750 section 3.1).
func (c *Checker) challenge(x *exchange) {
	d := &x.decision
	if d.Status != 401 && d.Reason != policy.ReasonScope {
		return
	}
	ch, more, dpop := &c.challenges[x.routeAt], demanded(d, x.route), ""
	if ch.dpop && c.cfg.Possessions != nil {
		var nonce string
		if dpop, nonce = c.cfg.Possessions.Challenge(x.possession); nonce != "" {
			d.Client = append(slices.Clip(d.Client), policy.Header{Name: "dpop-nonce", Value: nonce})
		}
	}
	if more == "" && dpop == "" {
		d.Challenges = ch.fixed[d.Reason]
		return
	}
	d.Challenges = ch.build(d.Reason, more, dpop)
}

// demanded are the parameters that say what the route would take.
func demanded(d *policy.Decision, route *policy.Route) string {
	scope := func(scopes []string) string {
		if len(scopes) == 0 {
			return ""
		}
		return ", scope=" + quote(strings.Join(scopes, " "))
	}
	switch {
	case d.Reason == policy.ReasonScope:
		return scope(d.MissingScopes)
	case route == nil:
		return ""
	case d.Reason == policy.ReasonCredentialMissing:
		return scope(route.Scopes)
	case d.Reason != policy.ReasonStepUp:
		return ""
	}
	more := ""
	if contexts := route.ACR; len(contexts) > 0 || len(route.AMR) > 0 {
		if len(contexts) == 0 {
			contexts = route.AMR // the only names that there are for what is missing
		}
		more = ", acr_values=" + quote(strings.Join(contexts, " "))
	}
	if route.MaxAge > 0 {
		more += ", max_age=" + quote(strconv.FormatInt(int64(route.MaxAge.Seconds()), 10))
	}
	return more
}

// build writes the challenges of a reason: a request without credential gets no
// error code (RFC 6750 section 3.1), every other the code and a safe sentence.
func (ch *challenges) build(r policy.Reason, more, dpop string) []string {
	problem := ""
	if code := r.OAuth(); code != policy.OAuthNone {
		problem = `, error="` + string(code) + `", error_description=` + quote(r.Message())
	}
	var all []string
	if ch.bearer {
		all = append(all, "Bearer"+ch.prefix+problem+more)
	}
	if ch.dpop {
		if strings.Contains(dpop, "error=") {
			problem = ""
		}
		all = append(all, "DPoP"+ch.prefix+dpop+problem+more)
	}
	return append(all, ch.others...)
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
