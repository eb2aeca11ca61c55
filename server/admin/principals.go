package admin

import (
	"context"

	adminv1 "github.com/postern-auth/postern/gen/postern/admin/v1"
	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/registry"
)

// principals serves postern.admin.v1.PrincipalService.
type principals struct {
	adminv1.UnimplementedPrincipalServiceServer
	registry *registry.Registry
}

// allowedKinds are the kinds that can be kept.
const allowedKinds = "USER, SERVICE, AGENT, DEVICE"

// principal reads what is said of a principal.
func (v *invalid) principal(m *adminv1.Principal) registry.PrincipalSpec {
	kind, known := principalKinds[m.GetKind()]
	if !known && m.GetKind() != 0 {
		v.allow("kind", "is not one that can be kept", allowedKinds)
	}
	return registry.PrincipalSpec{
		Tenant: m.GetTenant(), ID: m.GetId(), Kind: kind, Name: m.GetDisplayName(), Owner: m.GetOwnerId(),
		Rights:   registry.Rights{Roles: m.GetRoles(), Scopes: m.GetScopes(), Permissions: m.GetPermissions()},
		Metadata: v.metadata("metadata", m.GetMetadata()), Disabled: m.GetDisabled(), DisabledReason: m.GetDisabledReason(),
	}
}

// CreatePrincipal implements the service.
func (s *principals) CreatePrincipal(ctx context.Context, req *adminv1.CreatePrincipalRequest) (*adminv1.CreatePrincipalResponse, error) {
	var v invalid
	spec := v.principal(req.GetPrincipal())
	if err := v.err(); err != nil {
		return nil, err
	}
	p, change, err := s.registry.CreatePrincipal(ctx, callOf(ctx).Call, registry.CreatePrincipalRequest{PrincipalSpec: spec, AllowWildcard: req.GetAllowWildcard()})
	if err != nil {
		return nil, err
	}
	return &adminv1.CreatePrincipalResponse{Principal: principalProto(p), Change: changeProto(change)}, nil
}

// GetPrincipal implements the service.
func (s *principals) GetPrincipal(ctx context.Context, req *adminv1.GetPrincipalRequest) (*adminv1.GetPrincipalResponse, error) {
	p, err := s.registry.GetPrincipal(ctx, callOf(ctx).Actor, req.GetTenant(), req.GetId())
	if err != nil {
		return nil, err
	}
	return &adminv1.GetPrincipalResponse{Principal: principalProto(p)}, nil
}

// ListPrincipals implements the service.
func (s *principals) ListPrincipals(ctx context.Context, req *adminv1.ListPrincipalsRequest) (*adminv1.ListPrincipalsResponse, error) {
	var v invalid
	call := callOf(ctx)
	q := registry.PrincipalQuery{Page: v.page(req), Tenant: call.tenant(req.GetTenant()), Owner: req.GetOwnerId()}
	for i, k := range req.GetKinds() {
		kind, known := principalKinds[k]
		if !known {
			v.allow("kinds"+index(i), "is not one that can be kept", allowedKinds)
		}
		q.Kinds = append(q.Kinds, kind)
	}
	if err := v.err(); err != nil {
		return nil, err
	}
	list, next, err := s.registry.ListPrincipals(ctx, call.Actor, q)
	if err != nil {
		return nil, err
	}
	return &adminv1.ListPrincipalsResponse{Principals: each(list, principalProto), NextPageToken: next}, nil
}

// UpdatePrincipal implements the service.
func (s *principals) UpdatePrincipal(ctx context.Context, req *adminv1.UpdatePrincipalRequest) (*adminv1.UpdatePrincipalResponse, error) {
	var v invalid
	in := registry.UpdatePrincipalRequest{
		Etag: req.GetPrincipal().GetEtag(), Fields: v.mask(req.GetUpdateMask(), registry.PrincipalFields),
		Spec: v.principal(req.GetPrincipal()), AllowWildcard: req.GetAllowWildcard(),
	}
	if err := v.err(); err != nil {
		return nil, err
	}
	p, change, err := s.registry.UpdatePrincipal(ctx, callOf(ctx).Call, in)
	if err != nil {
		return nil, err
	}
	return &adminv1.UpdatePrincipalResponse{Principal: principalProto(p), Change: changeProto(change)}, nil
}

// DeletePrincipal implements the service.
func (s *principals) DeletePrincipal(ctx context.Context, req *adminv1.DeletePrincipalRequest) (*adminv1.DeletePrincipalResponse, error) {
	n, change, err := s.registry.DeletePrincipal(ctx, callOf(ctx).Call, registry.DeletePrincipalRequest{Tenant: req.GetTenant(), ID: req.GetId(), Etag: req.GetEtag()})
	if err != nil {
		return nil, err
	}
	return &adminv1.DeletePrincipalResponse{Records: int32(n), Change: changeProto(change)}, nil
}

// users serves postern.admin.v1.UserService.
type users struct {
	adminv1.UnimplementedUserServiceServer
	registry *registry.Registry
}

// SetPassword implements the service.
func (s *users) SetPassword(ctx context.Context, req *adminv1.SetPasswordRequest) (*adminv1.SetPasswordResponse, error) {
	in := registry.SetPasswordRequest{Tenant: req.GetTenant(), ID: req.GetId(), KeepSessions: req.GetKeepSessions()}
	if req.GetPassword() != "" {
		in.Password = policy.NewSecret(req.GetPassword())
	}
	p, change, err := s.registry.SetPassword(ctx, callOf(ctx).Call, in)
	if err != nil {
		return nil, err
	}
	return &adminv1.SetPasswordResponse{User: principalProto(p), Change: changeProto(change)}, nil
}

// ImportUsers implements the service.
func (s *users) ImportUsers(ctx context.Context, req *adminv1.ImportUsersRequest) (*adminv1.ImportUsersResponse, error) {
	in := registry.ImportUsersRequest{SkipBad: req.GetSkipBad()}
	out := &adminv1.ImportUsersResponse{Errors: make([]string, len(req.GetUsers()))}
	at := make([]int, 0, len(out.Errors)) // the place of each user that could be read
	var bad invalid
	for i, u := range req.GetUsers() {
		var v invalid
		row := registry.UserRow{PrincipalSpec: v.principal(u.GetUser())}
		if u.GetPasswordHash() != "" {
			row.PasswordHash = policy.NewSecret(u.GetPasswordHash())
		}
		if len(v.fields) == 0 {
			in.Rows, at = append(in.Rows, row), append(at, i)
			continue
		}
		out.Errors[i] = v.err().Error()
		bad.add("users"+index(i)+"."+v.fields[0].GetField(), v.fields[0].GetDescription())
	}
	if err := bad.err(); err != nil && !in.SkipBad {
		return nil, err
	}
	if len(in.Rows) == 0 {
		return out, nil
	}
	done, change, err := s.registry.ImportUsers(ctx, callOf(ctx).Call, in)
	if err != nil {
		return nil, err
	}
	for i, r := range done.Results {
		out.Errors[at[i]] = sentence(r.Faults)
	}
	out.Imported, out.Change = int32(done.Taken), changeProto(change)
	return out, nil
}

// sentence says what is wrong with a row; "" if nothing is.
func sentence(faults []registry.Fault) (text string) {
	for i, f := range faults {
		if i > 0 {
			text += "; "
		}
		if f.Field != "" {
			text += f.Field + " "
		}
		text += f.Message
	}
	return text
}
