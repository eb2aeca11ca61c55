package admin

import (
	"context"

	adminv1 "github.com/postern-auth/postern/gen/postern/admin/v1"
	"github.com/postern-auth/postern/server/registry"
	"github.com/postern-auth/postern/server/store"
)

// tenants serves postern.admin.v1.TenantService.
type tenants struct {
	adminv1.UnimplementedTenantServiceServer
	registry *registry.Registry
}

// tenant reads what is said of a tenant.
func (v *invalid) tenant(m *adminv1.Tenant) registry.TenantSpec {
	if m.GetMaxPats() < 0 {
		v.add("max_pats", "must not be negative")
	}
	return registry.TenantSpec{
		ID: m.GetId(), Name: m.GetDisplayName(), Disabled: m.GetDisabled(), DisabledReason: m.GetDisabledReason(),
		Rules: store.Rules{
			MaxTTL: store.Duration(v.duration("max_ttl", m.GetMaxTtl())), MaxPATs: int(m.GetMaxPats()),
			UnusedFor:   store.Duration(v.duration("unused_for", m.GetUnusedFor())),
			SessionIdle: store.Duration(v.duration("session_idle", m.GetSessionIdle())),
			SessionMax:  store.Duration(v.duration("session_max", m.GetSessionMax())),
		},
		Labels: m.GetLabels(),
	}
}

// CreateTenant implements the service.
func (s *tenants) CreateTenant(ctx context.Context, req *adminv1.CreateTenantRequest) (*adminv1.CreateTenantResponse, error) {
	var v invalid
	spec := v.tenant(req.GetTenant())
	if err := v.err(); err != nil {
		return nil, err
	}
	t, change, err := s.registry.CreateTenant(ctx, callOf(ctx).Call, spec)
	if err != nil {
		return nil, err
	}
	return &adminv1.CreateTenantResponse{Tenant: tenantProto(t), Change: changeProto(change)}, nil
}

// GetTenant implements the service.
func (s *tenants) GetTenant(ctx context.Context, req *adminv1.GetTenantRequest) (*adminv1.GetTenantResponse, error) {
	t, err := s.registry.GetTenant(ctx, callOf(ctx).Actor, req.GetId())
	if err != nil {
		return nil, err
	}
	return &adminv1.GetTenantResponse{Tenant: tenantProto(t)}, nil
}

// ListTenants implements the service.
func (s *tenants) ListTenants(ctx context.Context, req *adminv1.ListTenantsRequest) (*adminv1.ListTenantsResponse, error) {
	var v invalid
	page := v.page(req)
	if err := v.err(); err != nil {
		return nil, err
	}
	list, next, err := s.registry.ListTenants(ctx, callOf(ctx).Actor, page)
	if err != nil {
		return nil, err
	}
	return &adminv1.ListTenantsResponse{Tenants: each(list, tenantProto), NextPageToken: next}, nil
}

// UpdateTenant implements the service.
func (s *tenants) UpdateTenant(ctx context.Context, req *adminv1.UpdateTenantRequest) (*adminv1.UpdateTenantResponse, error) {
	var v invalid
	in := registry.UpdateTenantRequest{
		Etag: req.GetTenant().GetEtag(), Fields: v.mask(req.GetUpdateMask(), registry.TenantFields), Spec: v.tenant(req.GetTenant()),
	}
	if err := v.err(); err != nil {
		return nil, err
	}
	t, change, err := s.registry.UpdateTenant(ctx, callOf(ctx).Call, in)
	if err != nil {
		return nil, err
	}
	return &adminv1.UpdateTenantResponse{Tenant: tenantProto(t), Change: changeProto(change)}, nil
}

// DeleteTenant implements the service.
func (s *tenants) DeleteTenant(ctx context.Context, req *adminv1.DeleteTenantRequest) (*adminv1.DeleteTenantResponse, error) {
	n, change, err := s.registry.DeleteTenant(ctx, callOf(ctx).Call, req.GetId(), req.GetEtag())
	if err != nil {
		return nil, err
	}
	return &adminv1.DeleteTenantResponse{Records: int32(n), Change: changeProto(change)}, nil
}
