package admin

import (
	"context"

	adminv1 "github.com/postern-auth/postern/gen/postern/admin/v1"
	"github.com/postern-auth/postern/server/registry"
	"github.com/postern-auth/postern/server/store"
)

// denials serves postern.admin.v1.DenylistService.
type denials struct {
	adminv1.UnimplementedDenylistServiceServer
	registry *registry.Registry
}

// AddDenial implements the service.
func (s *denials) AddDenial(ctx context.Context, req *adminv1.AddDenialRequest) (*adminv1.AddDenialResponse, error) {
	var v invalid
	m := req.GetDenial()
	line := store.Denial{
		JTI: m.GetJti(), SID: m.GetSid(), KID: m.GetKid(), Subject: m.GetSubject(), Client: m.GetClient(), Agent: m.GetAgent(),
		OfTenant: m.GetOfTenant(), Fingerprint: m.GetFingerprint(), Issuer: m.GetIssuer(),
		IssuedBefore: v.time("issued_before", m.GetIssuedBefore()), Tenant: m.GetTenant(), Note: m.GetNote(),
		ExpiresAt: v.time("expire_time", m.GetExpireTime()),
	}
	if err := v.err(); err != nil {
		return nil, err
	}
	d, change, err := s.registry.AddDenial(ctx, callOf(ctx).Call, line)
	if err != nil {
		return nil, err
	}
	return &adminv1.AddDenialResponse{Denial: denialProto(d), Change: changeProto(change)}, nil
}

// ListDenials implements the service.
func (s *denials) ListDenials(ctx context.Context, req *adminv1.ListDenialsRequest) (*adminv1.ListDenialsResponse, error) {
	var v invalid
	call := callOf(ctx)
	q := registry.DenialQuery{Page: v.page(req), Tenant: call.tenant(req.GetTenant())}
	if err := v.err(); err != nil {
		return nil, err
	}
	list, next, err := s.registry.ListDenials(ctx, call.Actor, q)
	if err != nil {
		return nil, err
	}
	return &adminv1.ListDenialsResponse{Denials: each(list, denialProto), NextPageToken: next}, nil
}

// RemoveDenial implements the service.
func (s *denials) RemoveDenial(ctx context.Context, req *adminv1.RemoveDenialRequest) (*adminv1.RemoveDenialResponse, error) {
	change, err := s.registry.RemoveDenial(ctx, callOf(ctx).Call, req.GetId())
	if err != nil {
		return nil, err
	}
	return &adminv1.RemoveDenialResponse{Change: changeProto(change)}, nil
}

// auditLog serves postern.admin.v1.AuditService.
type auditLog struct {
	adminv1.UnimplementedAuditServiceServer
	registry *registry.Registry
}

// ListAuditEntries implements the service.
func (s *auditLog) ListAuditEntries(ctx context.Context, req *adminv1.ListAuditEntriesRequest) (*adminv1.ListAuditEntriesResponse, error) {
	var v invalid
	call := callOf(ctx)
	q := registry.AuditQuery{
		Page: v.page(req), Tenant: call.tenant(req.GetTenant()), Actor: req.GetActor(), Action: req.GetAction(), Target: req.GetTarget(),
		From: v.time("from_time", req.GetFromTime()), To: v.time("to_time", req.GetToTime()),
	}
	if err := v.err(); err != nil {
		return nil, err
	}
	list, next, err := s.registry.ListAudit(ctx, call.Actor, q)
	if err != nil {
		return nil, err
	}
	return &adminv1.ListAuditEntriesResponse{
		Entries:       each(list, func(e store.AuditEntry) *adminv1.AuditEntry { return auditProto(&e) }),
		NextPageToken: next,
	}, nil
}
