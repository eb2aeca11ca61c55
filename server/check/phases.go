package check

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/policy/rego"
	"github.com/postern-auth/postern/server/authn"
	"github.com/postern-auth/postern/server/canonical"
	"github.com/postern-auth/postern/server/password"
)

// read takes the one reading of the request and finds its route.
func (c *Checker) read(x *exchange) bool {
	x.decision.Phase = policy.PhaseRead
	x.forwarded = x.trust.strip(x.attributes)
	c.disbelieve(x)
	if err := c.cfg.Reader.Read(x.attributes, &x.request); err != nil {
		return x.refuse(err)
	}
	if !c.readCost(x) {
		return false
	}
	at, certain := c.match(&x.request, x.attributes.Extensions)
	if !certain {
		return x.deny(policy.ReasonRequestInvalid, "a forgiving server would read the method or the path as one of another route")
	}
	x.route, x.routeAt = &c.noRoute, len(c.routes)
	if at >= 0 {
		x.route, x.routeAt = &c.routes[at], at
	}
	x.decision.Route = x.route
	return true
}

// match finds the first route that matches, -1 for none. That is not certain if the
// method or the path, read as the most forgiving server would, is one of another route:
// neither /ADMIN nor delete must get past what is demanded of DELETE /admin.
func (c *Checker) match(q *policy.Request, extensions map[string]string) (at int, certain bool) {
	at = first(c.routes, q, extensions)
	method := strings.ToUpper(q.Method)
	if q.Folded != q.Path || method != q.Method || c.foldedDiffer || endsWithSlash(q.Path) {
		folded := policy.Request{Host: q.Host, Method: method, Path: q.Folded}
		if strings.Contains(q.Path, "%2F") {
			folded.Path = strings.ToLower(q.Path) // kept, so the upstream does not split there either
		}
		folded.Path = trimSlash(folded.Path)
		if first(c.folded, &folded, extensions) != at {
			return -1, false
		}
	}
	return at, true
}

func first(routes []policy.Route, q *policy.Request, extensions map[string]string) int {
	for i := range routes {
		if routes[i].Match(q, extensions) {
			return i
		}
	}
	return -1
}

func endsWithSlash(path string) bool { return len(path) > 1 && path[len(path)-1] == '/' }

// trimSlash takes the last slash off, but not the only one: most servers take
// /orders/ for /orders.
func trimSlash(path string) string {
	if endsWithSlash(path) {
		return path[:len(path)-1]
	}
	return path
}

// foldRoutes returns the routes with their methods and paths as a forgiving server reads
// them, and whether any is another then.
func foldRoutes(routes []policy.Route) (folded []policy.Route, differ bool) {
	folded = slices.Clone(routes)
	for i := range folded {
		folded[i].Methods = slices.Clone(folded[i].Methods)
		for j, m := range folded[i].Methods {
			folded[i].Methods[j] = strings.ToUpper(m)
			differ = differ || folded[i].Methods[j] != m
		}
		folded[i].Paths = slices.Clone(folded[i].Paths)
		for j, p := range folded[i].Paths {
			f, err := policy.ParsePathPattern(trimSlash(canonical.Fold(p.String())))
			if err != nil {
				continue // then the pattern itself must do
			}
			folded[i].Paths[j] = f
			differ = differ || f.String() != p.String()
		}
	}
	return folded, differ
}

// find looks for credentials. More than one is refused unless the route asks
// for several: trying one after the other would let the caller choose.
func (c *Checker) find(x *exchange) bool {
	x.decision.Phase = policy.PhaseFind
	var err error
	x.creds, err = c.cfg.Extractor.Find(x.creds, x.attributes, &x.request, x.route)
	switch {
	case err != nil:
		return x.refuse(err)
	case len(x.creds) > asked(x.route):
		return x.deny(policy.ReasonCredentialAmbiguous, "more credentials than the route asks for")
	}
	return true
}

// asked is how many credentials a route asks for. The certificate of the connection does
// not count: it is not found in the request, and nothing may come in its place.
func asked(r *policy.Route) int {
	if len(r.AllOf) == 0 {
		return 1
	}
	n := 0
	for _, m := range r.AllOf {
		if m != policy.MethodMTLS {
			n++
		}
	}
	return n
}

// anonymous is the principal of a route that lets requests without credential on.
var anonymous = &authn.Proof{
	Principal: &policy.Principal{Kind: policy.KindAnonymous, Method: policy.MethodAnonymous},
	State:     policy.StateNone,
}

// prove asks the authenticators whose the credentials are, and holds the
// methods against what the route takes. Without a credential, the peer is the
// principal.
func (c *Checker) prove(ctx context.Context, x *exchange) bool {
	x.decision.Phase = policy.PhaseProve
	switch {
	case !c.meet(x):
		return false
	case len(x.creds) == 0 && x.peer == nil && x.attributes.Asserted == nil:
		return c.nobody(x)
	}
	if c.cfg.Sight != nil {
		x.sight = c.cfg.Sight()
	}
	for i := range x.creds {
		cred := &x.creds[i]
		cred.Uses, cred.Client = c.usesHere(x, cred.Uses), x.request.ClientIP
		proof, err := c.cfg.Authenticator.Authenticate(ctx, cred)
		if err != nil {
			return c.unproven(x, err)
		}
		x.proofs = append(x.proofs, proof)
		x.decision.State = x.decision.State.Max(proof.State)
		if !c.bound(x, cred, proof) {
			return false
		}
	}
	if len(x.creds) == 0 && x.attributes.Asserted != nil {
		return x.assert() && c.combine(x)
	}
	if x.peer != nil && (len(x.creds) == 0 || slices.Contains(x.route.AllOf, x.peer.Principal.Method)) {
		x.proofs = append(x.proofs, x.peer)
	}
	return c.combine(x) && x.owned()
}

// owned holds the principal against whose credential the caller says that it shows.
func (x *exchange) owned() bool {
	shown, p := x.attributes.Presented, x.decision.Principal
	if shown == nil || shown.Of == (policy.Owner{}) || shown.Of == (policy.Owner{ID: p.ID, Kind: p.Kind}) {
		return true
	}
	return x.deny(policy.ReasonBinding, "the credential is not the subject's, but another's")
}

// nobody goes on without a principal where the route lets it.
func (c *Checker) nobody(x *exchange) bool {
	if !x.route.Anonymous {
		x.decision.Phase = policy.PhaseFind
		return x.deny(policy.ReasonCredentialMissing, "no credential in any configured place")
	}
	x.proofs = append(x.proofs, anonymous)
	x.decision.Principal = anonymous.Principal
	return true
}

// unproven ends a check whose credential was not proven. A replica that is blind
// cannot know that a key does not exist: it may have been issued meanwhile.
func (c *Checker) unproven(x *exchange, err error) bool {
	x.refuse(err)
	if x.decision.Reason == policy.ReasonCredentialUnknown && c.freshness(x) == Blind {
		return x.deny(policy.ReasonUnavailable, behind)
	}
	return false
}

const behind = "this replica has not heard of changes in the store for too long"

func (c *Checker) freshness(x *exchange) Freshness {
	if x.sight == nil {
		return Fresh
	}
	return x.sight.Freshness(c.cfg.Now())
}

// combine holds the proven methods against the route's any_of or all_of and
// chooses the principal: with all_of, that of the first method listed.
func (c *Checker) combine(x *exchange) bool {
	r := x.route
	if len(r.AllOf) == 0 {
		p := x.proofs[0].Principal
		switch taken := len(r.AnyOf) == 0 || slices.Contains(r.AnyOf, p.Method); {
		case taken:
		case len(x.creds) == 0 && r.Anonymous:
			p = anonymous.Principal // the connection alone says nothing here
			x.proofs[0] = anonymous
		case len(x.creds) == 0:
			return x.deny(policy.ReasonCredentialMissing, "the route does not take the client's certificate, and there is no other credential")
		default:
			return x.deny(policy.ReasonMethodNotAccepted, "the route does not take "+string(p.Method))
		}
		x.decision.Principal = p
		return true
	}
	for i, want := range r.AllOf {
		at := slices.IndexFunc(x.proofs, func(p *authn.Proof) bool { return p.Principal.Method == want })
		switch {
		case at < 0 && len(x.proofs) < len(r.AllOf):
			return x.deny(policy.ReasonCredentialMissing, "the route also asks for "+string(want))
		case at < 0:
			return x.deny(policy.ReasonMethodNotAccepted, "the route asks for "+string(want))
		}
		x.proofs[i], x.proofs[at] = x.proofs[at], x.proofs[i]
	}
	tenant := ""
	for _, p := range x.proofs {
		if tenant != "" && p.Principal.Tenant != "" && p.Principal.Tenant != tenant {
			return x.deny(policy.ReasonTenant, "the credentials belong to different tenants")
		}
		tenant = cmp.Or(tenant, p.Principal.Tenant)
	}
	x.decision.Principal = x.proofs[0].Principal
	return true
}

// refuse maps what extraction and authenticators return: a refusal is a no,
// every other error is "could not find out".
func (x *exchange) refuse(err error) bool {
	var refusal *policy.Refusal
	if errors.As(err, &refusal) {
		return x.deny(refusal.Reason, refusal.Detail)
	}
	if errors.Is(err, authn.ErrOverloaded) || errors.Is(err, password.ErrBusy) {
		return x.deny(policy.ReasonOverloaded, err.Error())
	}
	x.decision.State = policy.StateStore
	return x.deny(policy.ReasonUnavailable, err.Error())
}

// decide asks the policy.
func (c *Checker) decide(ctx context.Context, x *exchange) bool {
	x.decision.Phase = policy.PhaseDecide
	x.input = policy.Input{
		Attributes: x.attributes, Request: &x.request, Principal: x.decision.Principal,
		Peer: x.decision.Peer, Route: x.route, Target: x.target, Agreement: x.agreement,
	}
	verdict, cached, err := c.cfg.Decider.Decide(ctx, &x.input)
	x.decision.Cached = cached
	switch {
	case err != nil:
		return x.deny(faultOf(err), err.Error())
	case verdict == nil:
		return x.deny(policy.ReasonPolicyUndefined, "the policy gave no verdict")
	}
	x.decision.Verdict = verdict
	if verdict.Revision != "" {
		x.decision.Revision = verdict.Revision // of the snapshot that decided, which may be newer than at the start
	}
	if verdict.Allow {
		return true
	}
	x.decision.MissingScopes, x.decision.MissingPermissions = verdict.MissingScopes, verdict.MissingPermissions
	reason := verdict.Reason
	if reason == policy.ReasonUnspecified || reason == policy.ReasonAllowed {
		reason = policy.ReasonPolicyDenied
	}
	return x.deny(reason, "")
}

// ErrPolicyStale is the answer of a Decider whose policy is too old to decide by.
var ErrPolicyStale = errors.New("the policy is too old")

// faultOf names what kept the policy from answering.
func faultOf(err error) policy.Reason {
	switch {
	case errors.Is(err, ErrPolicyStale):
		return policy.ReasonPolicyStale
	case errors.Is(err, rego.ErrNoPolicy):
		return policy.ReasonNoPolicy
	case errors.Is(err, rego.ErrTimeout):
		return policy.ReasonPolicyTimeout
	case errors.Is(err, rego.ErrOverloaded):
		return policy.ReasonOverloaded
	}
	return policy.ReasonPolicyFault
}

// allow is the only place that sets Allowed for a Check. A policy can take long to
// answer, and a process can be stopped: what was known at the start counts only if it
// is not too old by now.
func (c *Checker) allow(x *exchange) bool {
	if !c.sees(x) {
		x.decision.Phase, x.decision.Verdict = policy.PhaseHold, nil
		return false
	}
	x.decision.Phase = policy.PhaseRecord
	x.decision.Allowed, x.decision.Reason = true, policy.ReasonAllowed
	x.decision.CacheTTL = x.reusable()
	return true
}

// authenticated ends Authenticate: the credential is good, nothing more.
func (c *Checker) authenticated(x *exchange) bool { return c.allow(x) }
