package admin

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"

	adminv1 "github.com/postern-auth/postern/gen/postern/admin/v1"
	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn/agent"
	"github.com/postern-auth/postern/server/check"
	"github.com/postern-auth/postern/server/registry"
	"github.com/postern-auth/postern/server/seal"
)

// gate is what every call goes through, in this order:
//
//  1. the connection: TLS, or this machine
//  2. who calls: the credential, and its own limits. Who shows many wrong ones waits
//     (tries.go)
//  3. what the call is about: the table of methods
//  4. may they: the policy, for each record
//  5. the handler, which only has the registry do it
//
// A method that is not in the table is refused. Streams pass it with their question, and
// again while they last (stream.go). Whatever happens, a caller gets an error with a
// reason of the closed set, and no text that was meant for the log.
type gate struct {
	authenticate func(context.Context, *policy.Attributes) (policy.Decision, check.Identity)
	authorizer   *Authorizer
	registry     *registry.Registry
	budgets      Budgets // nil: there are none
	log          *slog.Logger
	now          func() time.Time
	tries        *tries
	fields       func() []string // that credentials may stand in; nil: authorization alone
}

// unary is the interceptor of all calls.
func (g *gate) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (res any, err error) {
	if g.authenticate == nil && !isDecisions(info.FullMethod) {
		return next(ctx, req) // what Config.Register has added answers for itself
	}
	defer func() {
		if thrown := recover(); thrown != nil {
			res, err = nil, g.panicked(ctx, info.FullMethod, thrown)
		}
	}()
	admitted, err := g.admit(ctx, req, info.FullMethod)
	if err == nil {
		res, err = next(admitted, req)
	}
	if err != nil {
		return nil, g.report(ctx, req, info.FullMethod, err)
	}
	return res, nil
}

// panicked is the answer to a call in which something was thrown.
func (g *gate) panicked(ctx context.Context, method string, thrown any) error {
	// The value may quote a secret of the request; its type does not.
	g.log.ErrorContext(ctx, "panic in the admin API", "method", method, "type", fmt.Sprintf("%T", thrown), "stack", string(debug.Stack()))
	return &failure{reason: internalError, message: "internal error"}
}

// admit lets a call through, or says why not. The handler finds in the context who calls.
func (g *gate) admit(ctx context.Context, req any, method string) (context.Context, error) {
	conn := connectionOf(ctx)
	if g.authenticate == nil || conn.local && isDecisions(method) {
		return ctx, nil
	}
	c, err := g.caller(ctx, conn, method)
	if err != nil {
		return nil, err
	}
	if err := c.read(req); err != nil {
		return nil, err
	}
	m, known := methods[method]
	if !known {
		return nil, g.refuse(ctx, c, ask{action: method})
	}
	asks, err := m.asks(&scope{ctx: ctx, registry: g.registry, budgets: g.budgets, caller: c}, req)
	if err != nil {
		return nil, err
	}
	if err := g.authorize(ctx, c, asks); err != nil {
		return nil, err
	}
	return context.WithValue(ctx, callKey{}, c), nil
}

// isDecisions reports whether the method reads decisions. On the machine itself
// they may be read without a credential: whoever operates Postern there has its
// log.
func isDecisions(method string) bool {
	return strings.HasPrefix(method, "/"+adminv1.DecisionService_ServiceDesc.ServiceName+"/")
}

// call is who calls, and what every operation is told.
type call struct {
	registry.Call
	principal *policy.Principal
}

type callKey struct{}

// callOf returns the call that the gate has let through; nil where no credential is
// asked for.
func callOf(ctx context.Context) *call {
	c, _ := ctx.Value(callKey{}).(*call)
	return c
}

// audience is the name of this API, for credentials that name where they may be used.
const audience = "postern.admin"

// errTries is the answer to who has shown too many wrong credentials.
var errTries = &failure{reason: tooManyTries, message: "too many wrong credentials came from this address; try again in a second"}

// caller finds out who calls.
func (g *gate) caller(ctx context.Context, conn connection, method string) (*call, error) {
	if !conn.private() {
		return nil, refused(&policy.Decision{Reason: policy.ReasonPlaintext})
	}
	a := conn.attributes(ctx, method)
	var fields []string
	if g.fields != nil {
		fields = g.fields()
	}
	from := conn.remote.Addr()
	shown := g.tries.shown(from, a, fields)
	if !g.tries.admits(from, shown) {
		return nil, errTries
	}
	d, who := g.authenticate(ctx, a)
	p := d.Principal
	if !d.Allowed || d.Reason != policy.ReasonAllowed || p == nil || p.ID == "" || p.Kind == policy.KindAnonymous || p.Kind == "" {
		if !d.Reason.Fault() && d.Reason != policy.ReasonCredentialMissing {
			g.tries.failed(from)
		}
		return nil, refused(&d)
	}
	g.tries.passed(shown)
	use := policy.Use{Request: conn.request(a), Now: g.now(), Audience: audience, Peer: d.Peer}
	if reason := who.Limits.Check(use); reason != policy.ReasonAllowed {
		return nil, refused(&policy.Decision{Reason: reason})
	}
	actor := actorOf(p, who)
	actor.Ranks = g.authorizer.ranks
	return &call{registry.Call{Actor: actor}, p}, nil
}

// actorOf says who acts, to the registry. A subject of another issuer is not the
// principal of that name here, and its name says so: "https://idp.example#ann". Nor is
// the workload of a certificate, for which its authority or trust domain vouches:
// "spiffe://acme.example#spiffe://acme.example/ops".
func actorOf(p *policy.Principal, who check.Identity) registry.Actor {
	id := p.ID
	if p.Issuer != seal.Issuer || p.Method == policy.MethodMTLS {
		id = cmp.Or(p.Issuer, string(p.Method)) + "#" + p.ID
	}
	a := registry.Actor{
		Tenant: p.Tenant, ID: id, Kind: p.Kind, Actors: p.Actors, AuthTime: p.AuthTime,
		Credential: p.CredentialID, Origins: who.Origins, Constraints: who.Limits,
		Rights: registry.Rights{Roles: p.Roles, Scopes: p.Scopes, Permissions: p.Permissions},
	}
	if p.Method == policy.MethodAgent && !slices.Contains(p.AMR, agent.AMRKey) {
		a.Ends = p.ExpiresAt
	}
	if p.Narrowed != nil {
		a.Narrowed = append([]string{}, p.Narrowed.Permissions...) // not nil
	}
	return a
}

// tenant is the tenant that a listing names, or the caller's own.
func (c *call) tenant(named string) string {
	if named == "" {
		return c.principal.Tenant
	}
	return named
}

// read takes what all requests that change something have in common.
func (c *call) read(req any) error {
	var v invalid
	if m, ok := req.(interface{ GetRequestId() string }); ok {
		c.RequestID = v.requestID(m.GetRequestId())
	}
	if m, ok := req.(interface{ GetValidateOnly() bool }); ok {
		c.ValidateOnly = m.GetValidateOnly()
	}
	return v.err()
}

// maxNamed is longer than any id or name of a principal of any issuer, in bytes. What is
// longer is nobody's, and no question for a policy.
const maxNamed = 1024

// authorize asks the policy about everything that the call is about. What the caller
// may give away is what it may in all of it.
func (g *gate) authorize(ctx context.Context, c *call, asks []ask) error {
	given := grants{unlimited: true, wildcard: true}
	for _, a := range asks {
		if max(len(a.target.id), len(a.target.tenant), len(a.target.principal)) > maxNamed {
			var v invalid
			v.add(a.target.kind, fmt.Sprintf("is named with more than %d bytes", maxNamed))
			return v.err()
		}
		one, err := g.authorizer.authorize(ctx, c.principal, a.action, a.target)
		switch {
		case errors.Is(err, errDenied):
			return g.refuse(ctx, c, a)
		case err != nil:
			return err
		}
		given.unlimited, given.wildcard = given.unlimited && one.unlimited, given.wildcard && one.wildcard
		given.itself = given.itself || one.itself
	}
	if len(asks) == 0 { // a call about nothing is a mistake of the table
		return g.refuse(ctx, c, ask{})
	}
	c.Actor.Unlimited, c.Actor.Wildcard, c.Actor.Itself = given.unlimited, given.wildcard, given.itself
	return nil
}

// refuse notes in the audit log that somebody tried what they may not, and answers.
// If they may not even see the record, the answer is that there is none.
func (g *gate) refuse(ctx context.Context, c *call, a ask) error {
	err := g.registry.Refused(ctx, c.Call, registry.Refusal{
		Action: auditAction(a.action), Target: a.target.String(), Tenant: auditTenant(a.target.tenant),
		Reason: "the policy of the admin API",
	})
	if err != nil {
		g.log.WarnContext(ctx, "a refused call could not be noted in the audit log", "error", err)
	}
	if a.found {
		if _, err := g.authorizer.authorize(ctx, c.principal, a.target.kind+"s.get", a.target); err != nil {
			return noSuch(a.target.kind)
		}
	}
	f := &failure{reason: permissionDenied, message: "the caller may not do this"}
	if a.action != "" && !strings.HasPrefix(a.action, "/") {
		f.message = "this takes a role that allows " + a.action + ", or the permission postern." + a.action
		f.meta = map[string]string{"permission": "postern." + a.action}
	}
	return f
}

// noSuch says the same as the registry does of what is not there.
func noSuch(kind string) error {
	return &failure{reason: notFound, message: "there is no such " + kind}
}

// auditAction writes an action as the audit log has it: "credential.issue".
func auditAction(action string) string { return strings.Replace(action, "s.", ".", 1) }

func auditTenant(tenant string) string {
	if tenant == everyTenant {
		return ""
	}
	return tenant
}

// report makes what the caller gets of an error, and logs what is nobody's fault but
// ours.
func (g *gate) report(ctx context.Context, req any, method string, err error) error {
	f := wireError(err)
	if f.reason == storeUnavailable || f.reason == internalError {
		g.log.WarnContext(ctx, "the admin API could not do what it was asked to", "method", method, "reason", reasonName(f.reason), "error", causeOf(err))
	}
	if m, ok := req.(interface{ GetAllowWildcard() bool }); ok && f.reason == wildcardNotAllowed && m.GetAllowWildcard() {
		f.forbidden = true
	}
	return f
}

// request is the call as the limits of a credential look at it.
func (c connection) request(a *policy.Attributes) *policy.Request {
	q := &policy.Request{Method: a.Method, Scheme: a.Scheme, Host: hostOf(a.Host), Path: a.Path, Folded: strings.ToLower(a.Path)}
	if c.remote.IsValid() {
		q.ClientIP = c.remote.Addr()
	}
	return q
}

// hostOf is the lower-case host without its port.
func hostOf(authority string) string {
	if at, err := netip.ParseAddrPort(authority); err == nil {
		return at.Addr().String()
	}
	host, _, _ := strings.Cut(authority, ":")
	return strings.ToLower(strings.TrimSuffix(host, "."))
}
