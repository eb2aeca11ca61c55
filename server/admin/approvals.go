package admin

import (
	"context"
	"slices"
	"time"

	adminv1 "github.com/postern-auth/postern/gen/postern/admin/v1"
	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/registry"
	"github.com/postern-auth/postern/server/seal"
	"github.com/postern-auth/postern/server/store"
)

// approvals serves postern.admin.v1.ApprovalService.
type approvals struct {
	adminv1.UnimplementedApprovalServiceServer
	registry *registry.Registry
	now      func() time.Time
}

// RequestApproval implements the service.
func (s *approvals) RequestApproval(ctx context.Context, req *adminv1.RequestApprovalRequest) (*adminv1.RequestApprovalResponse, error) {
	var v invalid
	ask := registry.ApprovalRequest{
		Proposal: req.GetProposal(), Body: req.GetBody(), Reason: req.GetReason(), ExpiresAt: v.time("expire_time", req.GetExpireTime()),
	}
	if err := v.err(); err != nil {
		return nil, err
	}
	a, change, err := s.registry.RequestApproval(ctx, callOf(ctx).Call, ask)
	if err != nil {
		return nil, err
	}
	return &adminv1.RequestApprovalResponse{Approval: s.proto(a), Change: changeProto(change)}, nil
}

// GetApproval implements the service.
func (s *approvals) GetApproval(ctx context.Context, req *adminv1.GetApprovalRequest) (*adminv1.GetApprovalResponse, error) {
	a, err := s.registry.GetApproval(ctx, callOf(ctx).Actor, req.GetId())
	if err != nil {
		return nil, err
	}
	return &adminv1.GetApprovalResponse{Approval: s.proto(a)}, nil
}

// ListApprovals implements the service.
func (s *approvals) ListApprovals(ctx context.Context, req *adminv1.ListApprovalsRequest) (*adminv1.ListApprovalsResponse, error) {
	var v invalid
	call := callOf(ctx)
	q := registry.ApprovalQuery{Page: v.page(req), Tenant: call.tenant(req.GetTenant()), Principal: req.GetPrincipalId()}
	for i, state := range req.GetStates() {
		name, known := approvalStates[state]
		if !known {
			v.add("states"+index(i), "is not a state of an approval")
		}
		q.States = append(q.States, name)
	}
	if err := v.err(); err != nil {
		return nil, err
	}
	list, next, err := s.registry.ListApprovals(ctx, call.Actor, q)
	if err != nil {
		return nil, err
	}
	return &adminv1.ListApprovalsResponse{Approvals: each(list, s.proto), NextPageToken: next}, nil
}

// ApproveApproval implements the service.
func (s *approvals) ApproveApproval(ctx context.Context, req *adminv1.ApproveApprovalRequest) (*adminv1.ApproveApprovalResponse, error) {
	a, change, err := s.registry.ApproveApproval(ctx, callOf(ctx).Call, decision(req))
	if err != nil {
		return nil, err
	}
	return &adminv1.ApproveApprovalResponse{Approval: s.proto(a), Change: changeProto(change)}, nil
}

// DenyApproval implements the service.
func (s *approvals) DenyApproval(ctx context.Context, req *adminv1.DenyApprovalRequest) (*adminv1.DenyApprovalResponse, error) {
	a, change, err := s.registry.DenyApproval(ctx, callOf(ctx).Call, decision(req))
	if err != nil {
		return nil, err
	}
	return &adminv1.DenyApprovalResponse{Approval: s.proto(a), Change: changeProto(change)}, nil
}

// WithdrawApproval implements the service.
func (s *approvals) WithdrawApproval(ctx context.Context, req *adminv1.WithdrawApprovalRequest) (*adminv1.WithdrawApprovalResponse, error) {
	a, change, err := s.registry.WithdrawApproval(ctx, callOf(ctx).Call, decision(req))
	if err != nil {
		return nil, err
	}
	return &adminv1.WithdrawApprovalResponse{Approval: s.proto(a), Change: changeProto(change)}, nil
}

// decision reads what is decided, and why.
func decision(req interface {
	GetId() string
	GetReason() string
}) registry.DecideApprovalRequest {
	return registry.DecideApprovalRequest{ID: req.GetId(), Reason: req.GetReason()}
}

var approvalStates = map[adminv1.ApprovalState]registry.ApprovalState{
	adminv1.ApprovalState_APPROVAL_STATE_PENDING:   registry.ApprovalPending,
	adminv1.ApprovalState_APPROVAL_STATE_APPROVED:  registry.ApprovalApproved,
	adminv1.ApprovalState_APPROVAL_STATE_DENIED:    registry.ApprovalDenied,
	adminv1.ApprovalState_APPROVAL_STATE_USED:      registry.ApprovalUsed,
	adminv1.ApprovalState_APPROVAL_STATE_WITHDRAWN: registry.ApprovalWithdrawn,
	adminv1.ApprovalState_APPROVAL_STATE_EXPIRED:   registry.ApprovalExpired,
}

var approvalStateProtos = inverse(approvalStates)

var approvers = map[policy.Approver]adminv1.Approver{
	policy.ApproverHuman: adminv1.Approver_APPROVER_HUMAN,
	policy.ApproverAdmin: adminv1.Approver_APPROVER_ADMIN,
}

// proto writes an approval. Its description is made of what is approved.
func (s *approvals) proto(a *store.Approval) *adminv1.Approval {
	m := &adminv1.Approval{
		Id: a.ID, Tenant: a.Tenant, State: approvalStateProtos[registry.ApprovalStateOf(a, s.now())],
		Proposal: a.Proposal, Action: a.Action, Body: a.Body, Requester: a.Requester, Agent: a.Agent, RequestedBy: a.RequestedBy,
		Approver: approvers[a.Needs], Reason: a.Reason, CreateTime: timeProto(a.CreatedAt), ExpireTime: timeProto(a.ExpiresAt),
		UseTime: timeProto(a.UsedAt), DecisionId: a.UsedBy,
	}
	if p, err := policy.ParseProposal(a.Proposal); err == nil {
		m.Description = p.String()
	}
	if d := a.Decided; d != nil {
		m.DecidedBy, m.DecisionReason, m.DecideTime = d.By, d.Reason, timeProto(d.At)
	}
	return m
}

// consents serves postern.admin.v1.ConsentService.
type consents struct {
	adminv1.UnimplementedConsentServiceServer
	registry *registry.Registry
}

// GrantConsent implements the service.
func (s *consents) GrantConsent(ctx context.Context, req *adminv1.GrantConsentRequest) (*adminv1.GrantConsentResponse, error) {
	var v invalid
	call, m := callOf(ctx), req.GetConsent()
	tenant, issuer, user := call.user(m)
	spec := registry.ConsentSpec{
		Tenant: tenant, Issuer: issuer, User: user, Actor: m.GetActorId(), Scopes: m.GetScopes(),
		ExpiresAt: v.time("expire_time", m.GetExpireTime()), Evidence: m.GetEvidence(),
	}
	if err := v.err(); err != nil {
		return nil, err
	}
	c, change, err := s.registry.GrantConsent(ctx, call.Call, spec)
	if err != nil {
		return nil, err
	}
	return &adminv1.GrantConsentResponse{Consent: consentProto(c), Change: changeProto(change)}, nil
}

// user is the user of whom a consent is: the one that it names, or the caller.
func (c *call) user(m *adminv1.Consent) (tenant, issuer, id string) {
	if m.GetPrincipalId() == "" && m.GetIssuer() == "" && m.GetTenant() == "" {
		return c.principal.Tenant, c.principal.Issuer, c.principal.ID
	}
	if issuer = m.GetIssuer(); issuer == "" {
		issuer = seal.Issuer
	}
	return m.GetTenant(), issuer, m.GetPrincipalId()
}

// WithdrawConsent implements the service.
func (s *consents) WithdrawConsent(ctx context.Context, req *adminv1.WithdrawConsentRequest) (*adminv1.WithdrawConsentResponse, error) {
	c, change, err := s.registry.WithdrawConsent(ctx, callOf(ctx).Call, decision(req))
	if err != nil {
		return nil, err
	}
	return &adminv1.WithdrawConsentResponse{Consent: consentProto(c), Change: changeProto(change)}, nil
}

// GetConsent implements the service.
func (s *consents) GetConsent(ctx context.Context, req *adminv1.GetConsentRequest) (*adminv1.GetConsentResponse, error) {
	c, err := s.registry.GetConsent(ctx, callOf(ctx).Actor, req.GetId())
	if err != nil {
		return nil, err
	}
	return &adminv1.GetConsentResponse{Consent: consentProto(c)}, nil
}

// ListConsents implements the service.
func (s *consents) ListConsents(ctx context.Context, req *adminv1.ListConsentsRequest) (*adminv1.ListConsentsResponse, error) {
	var v invalid
	call := callOf(ctx)
	q := registry.ConsentQuery{
		Page: v.page(req), Tenant: call.tenant(req.GetTenant()), Issuer: req.GetIssuer(), User: req.GetPrincipalId(), Actor: req.GetActorId(),
	}
	if err := v.err(); err != nil {
		return nil, err
	}
	if q.User != "" && q.Issuer == "" {
		q.Issuer = seal.Issuer // as in everything else that names a user by an id alone
	}
	list, next, err := s.registry.ListConsents(ctx, call.Actor, q)
	if err != nil {
		return nil, err
	}
	return &adminv1.ListConsentsResponse{Consents: each(list, consentProto), NextPageToken: next}, nil
}

func consentProto(c *store.Consent) *adminv1.Consent {
	m := &adminv1.Consent{
		Id: c.ID, Tenant: c.Tenant, PrincipalId: c.User, Issuer: c.Issuer, ActorId: c.Actor, Scopes: c.Scopes,
		ExpireTime: timeProto(c.ExpiresAt), Evidence: c.Evidence, GrantTime: timeProto(c.GivenAt), GrantedBy: c.By,
	}
	if w := c.Withdrawn; w != nil {
		m.WithdrawTime, m.WithdrawnBy = timeProto(w.At), w.By
	}
	return m
}

// approvalToBe is the approval of what a proposal says. It is the caller's own if exactly
// the caller would do it, through those who act for it now: who could name others could
// ask in their names without end. One that cannot be read is nobody's, and the registry
// says what is wrong with it.
func (s *scope) approvalToBe(r *adminv1.RequestApprovalRequest) target {
	t := target{kind: "approval", tenant: s.caller.principal.Tenant}
	p, err := policy.ParseProposal(r.GetProposal())
	if err != nil {
		return t
	}
	t.tenant = p.Requester.Tenant
	if isSame(&p.Requester, s.caller.principal) {
		t.principal = p.Requester.ID
	}
	return t
}

// isSame reports whether a principal is the requester, through the same actors.
func isSame(r *policy.Requester, p *policy.Principal) bool {
	return r.Tenant == p.Tenant && r.Issuer == p.Issuer && r.ID == p.ID && r.Kind == p.Kind &&
		slices.EqualFunc(r.Actors, p.Actors, func(a policy.ProposedActor, b policy.Actor) bool { return policy.Actor(a) == b })
}

// ownerOf is the id of one of our principals; of another issuer's it is one that none of
// ours has.
func ownerOf(issuer, id string) string {
	if issuer == seal.Issuer {
		return id
	}
	return issuer + "#" + id
}

// approval looks an approval up.
func (s *scope) approval(id string) (target, error) {
	if id == "" {
		return target{}, required("id")
	}
	a, err := s.registry.GetApproval(s.ctx, s.caller.Actor, id)
	if err != nil {
		return target{}, err
	}
	return target{kind: "approval", id: id, tenant: a.Tenant, principal: a.Requester}, nil
}

// consent looks a consent up.
func (s *scope) consent(id string) (target, error) {
	if id == "" {
		return target{}, required("id")
	}
	c, err := s.registry.GetConsent(s.ctx, s.caller.Actor, id)
	if err != nil {
		return target{}, err
	}
	return target{kind: "consent", id: id, tenant: c.Tenant, principal: ownerOf(c.Issuer, c.User)}, nil
}
