package admin

import (
	"context"
	"math"
	"strings"
	"time"

	adminv1 "github.com/postern-auth/postern/gen/postern/admin/v1"
	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/check"
	"github.com/postern-auth/postern/server/registry"
	"github.com/postern-auth/postern/server/signer"
	"github.com/postern-auth/postern/server/store"
)

// tokens serves postern.admin.v1.TokenService.
type tokens struct {
	adminv1.UnimplementedTokenServiceServer
	registry *registry.Registry
	// prove says whose a credential is, and what it brings along; rules are the section agents.
	prove func(context.Context, *policy.Attributes) (policy.Decision, check.Identity)
	rules func() *registry.TokenRules
	now   func() time.Time
}

// The names of RFC 8693.
const (
	grantExchange   = "urn:ietf:params:oauth:grant-type:token-exchange"
	typeAccessToken = "urn:ietf:params:oauth:token-type:access_token" //nolint:gosec // a name
	typeJWT         = "urn:ietf:params:oauth:token-type:jwt"
	typeSession     = "urn:postern:params:oauth:token-type:session"
	typeAPIKey      = "urn:postern:params:oauth:token-type:api_key" //nolint:gosec // a name
)

// tokenUses say under which rule of `credentials` a token of each type is looked at.
var tokenUses = map[string]string{
	"": "bearer", typeAccessToken: "bearer", typeJWT: "bearer",
	typeSession: string(policy.MethodSession), typeAPIKey: string(policy.MethodAPIKey),
}

// minutes reads a life.
func (v *invalid) minutes(field string, n int32) time.Duration {
	if n < 0 || n > math.MaxInt16 {
		v.add(field, "is 1 to 60, or 0 for the default")
	}
	return time.Duration(n) * time.Minute
}

// options reads what can be said of every token.
func (v *invalid) options(m interface {
	GetTokenBudget() int64
	GetTtlMinutes() int32
	GetCnf() *adminv1.Confirmation
}) registry.TokenOptions {
	return registry.TokenOptions{
		TokenBudget: m.GetTokenBudget(), TTL: v.minutes("ttl_minutes", m.GetTtlMinutes()),
		Certificate: strings.ReplaceAll(m.GetCnf().GetCertificateSha256(), ":", ""), Key: m.GetCnf().GetJkt(),
	}
}

// IssueAgentToken implements the service.
func (s *tokens) IssueAgentToken(ctx context.Context, req *adminv1.IssueAgentTokenRequest) (*adminv1.IssueAgentTokenResponse, error) {
	var v invalid
	in := registry.IssueTokenRequest{TokenOptions: v.options(req), Tenant: req.GetTenantId(), Agent: req.GetAgentId(), Role: req.GetRole()}
	in.Scopes, in.Audiences = req.GetScopes(), req.GetAudiences()
	if err := v.err(); err != nil {
		return nil, err
	}
	made, change, err := s.registry.IssueAgentToken(ctx, callOf(ctx).Call, s.rules(), in)
	if err != nil {
		return nil, err
	}
	return &adminv1.IssueAgentTokenResponse{Secret: made.Token.Reveal(), Token: tokenProto(&made.Said), Change: changeProto(change)}, nil
}

// ExchangeToken implements the service.
func (s *tokens) ExchangeToken(ctx context.Context, req *adminv1.ExchangeTokenRequest) (*adminv1.ExchangeTokenResponse, error) {
	var v invalid
	in := registry.ExchangeRequest{TokenOptions: v.options(req)}
	in.Scopes, in.Audiences = strings.Fields(req.GetScope()), req.GetAudience()
	v.exchange(req)
	if err := v.err(); err != nil {
		return nil, err
	}
	caller := callOf(ctx)
	in.Actor = registry.Party{Principal: caller.principal, Limits: caller.Actor.Constraints, Origins: caller.Actor.Origins}
	var err error
	// The actor's token first: if it is bad, the subject's is not used up.
	if req.GetActorToken() != "" {
		if in.Actor, err = s.proven(ctx, "actor_token", req.GetActorToken(), req.GetActorTokenType(), true); err != nil {
			return nil, err
		}
	}
	if in.Subject, err = s.proven(ctx, "subject_token", req.GetSubjectToken(), req.GetSubjectTokenType(), false); err != nil {
		return nil, err
	}
	made, change, err := s.registry.ExchangeToken(ctx, caller.Call, s.rules(), in)
	if err != nil {
		return nil, err
	}
	kind := "Bearer"
	if made.Said.Key != "" {
		kind = "DPoP"
	}
	return &adminv1.ExchangeTokenResponse{
		AccessToken: made.Token.Reveal(), IssuedTokenType: typeAccessToken, TokenType: kind,
		ExpiresIn: max(0, int64(made.Said.ExpiresAt.Sub(s.now())/time.Second)), Scope: strings.Join(made.Said.Scopes, " "),
		Token: tokenProto(&made.Said), Change: changeProto(change),
	}, nil
}

// exchange checks the names of RFC 8693 section 2.1.
func (v *invalid) exchange(req *adminv1.ExchangeTokenRequest) {
	if g := req.GetGrantType(); g != "" && g != grantExchange {
		v.allow("grant_type", "is another one", grantExchange)
	}
	switch req.GetRequestedTokenType() {
	case "", typeAccessToken, typeJWT:
	default:
		v.allow("requested_token_type", "cannot be had here", typeAccessToken+", "+typeJWT)
	}
	if req.GetSubjectToken() == "" {
		v.add("subject_token", "is required")
	}
	if req.GetActorToken() == "" && req.GetActorTokenType() != "" {
		v.add("actor_token_type", "goes with an actor_token only") // RFC 8693 section 2.1
	}
	for _, t := range []struct{ field, name string }{{"subject_token_type", req.GetSubjectTokenType()}, {"actor_token_type", req.GetActorTokenType()}} {
		if tokenUses[t.name] == "" {
			v.allow(t.field, "is not known", strings.Join([]string{typeAccessToken, typeJWT, typeSession, typeAPIKey}, ", "))
		}
	}
}

// proven asks Postern's own authenticators whose a token is. The certificate of the
// connection is the actor's, who is here; the subject is not.
func (s *tokens) proven(ctx context.Context, field, token, kind string, here bool) (registry.Party, error) {
	conn := connectionOf(ctx)
	a := conn.attributes(ctx, "/"+adminv1.TokenService_ServiceDesc.ServiceName+"/ExchangeToken")
	a.Headers, a.Presented = nil, &policy.Presented{Use: tokenUses[kind], Secret: policy.NewSecret(token)}
	if !here {
		a.Connection = nil
	}
	d, who := s.prove(ctx, a)
	p := d.Principal
	switch {
	case d.Reason.Fault():
		return registry.Party{}, refused(&d)
	case !d.Allowed || d.Reason != policy.ReasonAllowed || p == nil || p.ID == "" || p.Kind == "" || p.Kind == policy.KindAnonymous:
		return registry.Party{}, unaccepted(field, d.Reason)
	}
	proven := registry.Party{Principal: p, Limits: who.Limits, Origins: who.Origins}
	if !here || who.Limits == nil {
		return proven, nil
	}
	// The actor uses its credential here and now; whom else it is for does not matter.
	without := *who.Limits
	without.Audiences = nil
	use := policy.Use{Request: conn.request(a), Now: s.now(), Audience: audience, Peer: d.Peer}
	if reason := without.Check(use); reason != policy.ReasonAllowed {
		return registry.Party{}, unaccepted(field, reason)
	}
	return proven, nil
}

// unaccepted is the answer to a token that is not good: the caller's own credential is.
func unaccepted(field string, reason policy.Reason) error {
	var v invalid
	v.add(field, "is not accepted: "+reason.Message())
	f := wireError(v.err())
	f.meta["cause"] = reason.Public()
	return f
}

// RevokeAgentToken implements the service.
func (s *tokens) RevokeAgentToken(ctx context.Context, req *adminv1.RevokeAgentTokenRequest) (*adminv1.RevokeAgentTokenResponse, error) {
	d, change, err := s.registry.RevokeAgentToken(ctx, callOf(ctx).Call, req.GetTenantId(), req.GetJti(), req.GetReason())
	if err != nil {
		return nil, err
	}
	return &adminv1.RevokeAgentTokenResponse{DenialId: d.ID, Change: changeProto(change)}, nil
}

func tokenProto(t *signer.Agent) *adminv1.AgentToken {
	m := &adminv1.AgentToken{
		Jti: t.ID, Subject: t.Subject, Tenant: t.Tenant, Audiences: t.Audience, Roles: t.Roles, Scopes: t.Scopes,
		TokenBudget: t.TokenBudget, IssueTime: timeProto(t.IssuedAt), ExpireTime: timeProto(t.ExpiresAt),
	}
	for _, a := range t.Actors {
		m.Actors = append(m.Actors, a.ID)
	}
	return m
}

// tokenToBe is the token of an agent that is to be issued: its owner's to ask for, where
// that is who calls, or else its own.
func tokenToBe(s *scope, r *adminv1.IssueAgentTokenRequest) ([]target, error) {
	if r.GetAgentId() == "" {
		return nil, required("agent_id")
	}
	t := target{kind: "token", tenant: r.GetTenantId(), principal: r.GetAgentId()}
	p, err := s.registry.GetAgent(s.ctx, s.caller.Actor, r.GetTenantId(), r.GetAgentId())
	switch {
	case registry.ReasonOf(err) == registry.NotFound:
		// Only who may issue tokens in the tenant is told so.
	case err != nil:
		return nil, err
	case p.Owner != "" && s.caller.Actor.Name() == store.PrincipalKey(p.Tenant, p.Owner):
		t.principal = p.Owner
	}
	return []target{t}, nil
}

// tokenExchanged is a token that the caller is to get, for whomever it acts.
func tokenExchanged(s *scope) ([]target, error) {
	return []target{{kind: "token", tenant: s.caller.principal.Tenant, principal: s.caller.principal.ID}}, nil
}
