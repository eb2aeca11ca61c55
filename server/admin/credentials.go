package admin

import (
	"context"
	"fmt"
	"slices"
	"time"

	adminv1 "github.com/postern-auth/postern/gen/postern/admin/v1"
	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/registry"
	"github.com/postern-auth/postern/server/store"
)

// credentials serves postern.admin.v1.CredentialService.
type credentials struct {
	adminv1.UnimplementedCredentialServiceServer
	registry *registry.Registry
}

// credential reads what is said of a credential.
func (v *invalid) credential(m *adminv1.Credential) registry.CredentialSpec {
	kind, known := credentialTypes[m.GetType()]
	if !known && m.GetType() != adminv1.CredentialType_CREDENTIAL_TYPE_UNSPECIFIED {
		v.allow("type", "is not known", "API_KEY, PERSONAL_ACCESS_TOKEN, TOKEN")
	}
	format, known := credentialFormats[m.GetFormat()]
	if !known {
		v.allow("format", "is not known", "OPAQUE, JWT")
	}
	spec := registry.CredentialSpec{
		Type: kind, Tenant: m.GetTenant(), Principal: m.GetPrincipalId(), Name: m.GetDisplayName(),
		Environment: m.GetEnvironment(), Format: format, Parent: m.GetParentId(),
		Rights:      registry.Rights{Roles: m.GetRoles(), Scopes: m.GetScopes(), Permissions: m.GetPermissions()},
		Constraints: v.constraints("constraints", m.GetConstraints()), Metadata: v.metadata("metadata", m.GetMetadata()),
		NotBefore: v.time("not_before", m.GetNotBefore()), Period: v.duration("renew_period", m.GetRenewPeriod()),
		MaxExpiresAt: v.time("max_expire_time", m.GetMaxExpireTime()),
	}
	switch e := m.GetExpiration().(type) {
	case *adminv1.Credential_ExpireTime:
		spec.ExpiresAt = v.time("expire_time", e.ExpireTime)
	case *adminv1.Credential_Ttl:
		if spec.TTL = v.duration("ttl", e.Ttl); spec.TTL == 0 {
			v.add("ttl", "must be more than 0, or be left out") // which would mean the longest life
		}
	}
	return spec
}

// IssueCredential implements the service.
func (s *credentials) IssueCredential(ctx context.Context, req *adminv1.IssueCredentialRequest) (*adminv1.IssueCredentialResponse, error) {
	var v invalid
	spec := v.credential(req.GetCredential())
	if err := v.err(); err != nil {
		return nil, err
	}
	issued, change, err := s.registry.IssueCredential(ctx, callOf(ctx).Call, registry.IssueRequest{CredentialSpec: spec, AllowWildcard: req.GetAllowWildcard()})
	if err != nil {
		return nil, err
	}
	return &adminv1.IssueCredentialResponse{
		Credential: credentialProto(&issued.Credential), Secret: issued.Secret.Reveal(), Change: changeProto(change),
	}, nil
}

// ImportCredentials implements the service.
func (s *credentials) ImportCredentials(ctx context.Context, req *adminv1.ImportCredentialsRequest) (*adminv1.ImportCredentialsResponse, error) {
	in := registry.ImportRequest{SkipBad: req.GetSkipBad(), AllowWildcard: req.GetAllowWildcard()}
	unread := make([][]*adminv1.FieldError, len(req.GetCredentials()))
	at := make([]int, 0, len(unread)) // the place of each row that could be read
	var bad invalid
	for i, c := range req.GetCredentials() {
		var v invalid
		row := registry.ImportRow{CredentialSpec: v.credential(c.GetCredential()), SHA256: c.GetSha256()}
		if c.GetSecret() != "" {
			row.Secret = policy.NewSecret(c.GetSecret())
		}
		if len(v.fields) == 0 {
			in.Rows, at = append(in.Rows, row), append(at, i)
			continue
		}
		for _, f := range v.fields {
			unread[i] = append(unread[i], &adminv1.FieldError{Field: f.GetField(), Message: f.GetDescription()})
			bad.add(fmt.Sprintf("credentials[%d].%s", i, f.GetField()), f.GetDescription())
		}
	}
	if err := bad.err(); err != nil && !in.SkipBad {
		return nil, err
	}
	out := &adminv1.ImportCredentialsResponse{Results: make([]*adminv1.ImportResult, len(unread))}
	for i, errs := range unread {
		out.Results[i] = &adminv1.ImportResult{Errors: errs}
	}
	if len(in.Rows) == 0 {
		return out, nil
	}
	done, change, err := s.registry.ImportCredentials(ctx, callOf(ctx).Call, in)
	if err != nil {
		return nil, err
	}
	for i, r := range done.Results {
		result := &adminv1.ImportResult{Id: r.ID, LowEntropy: r.Low}
		for _, f := range r.Faults {
			result.Errors = append(result.Errors, &adminv1.FieldError{Field: f.Field, Message: f.Message})
		}
		out.Results[at[i]] = result
	}
	out.Imported, out.Change = int32(done.Taken), changeProto(change)
	return out, nil
}

// GetCredential implements the service.
func (s *credentials) GetCredential(ctx context.Context, req *adminv1.GetCredentialRequest) (*adminv1.GetCredentialResponse, error) {
	c, err := s.registry.GetCredential(ctx, callOf(ctx).Actor, req.GetId())
	if err != nil {
		return nil, err
	}
	return &adminv1.GetCredentialResponse{Credential: credentialProto(c)}, nil
}

// ListCredentials implements the service.
func (s *credentials) ListCredentials(ctx context.Context, req *adminv1.ListCredentialsRequest) (*adminv1.ListCredentialsResponse, error) {
	var v invalid
	call := callOf(ctx)
	q := registry.CredentialQuery{
		Page: v.page(req), Tenant: call.tenant(req.GetTenant()), Principal: req.GetPrincipalId(),
		UnusedFor: v.duration("unused_for", req.GetUnusedFor()), ExpiresBefore: v.time("expires_before", req.GetExpiresBefore()),
	}
	for i, t := range req.GetTypes() {
		kind, known := credentialTypes[t]
		if !known {
			v.allow("types"+index(i), "is not known", "API_KEY, PERSONAL_ACCESS_TOKEN, TOKEN")
		}
		q.Types = append(q.Types, kind)
	}
	for i, t := range req.GetStates() {
		state, known := stateOf(t)
		if !known {
			v.allow("states"+index(i), "is not known", "ACTIVE, PENDING, DISABLED, ROTATING, ROTATED, EXPIRED, REVOKED")
		}
		q.States = append(q.States, state)
	}
	if err := v.err(); err != nil {
		return nil, err
	}
	list, next, err := s.registry.ListCredentials(ctx, call.Actor, q)
	if err != nil {
		return nil, err
	}
	return &adminv1.ListCredentialsResponse{
		Credentials:   each(list, func(c registry.Credential) *adminv1.Credential { return credentialProto(&c) }),
		NextPageToken: next,
	}, nil
}

// UpdateCredential implements the service.
func (s *credentials) UpdateCredential(ctx context.Context, req *adminv1.UpdateCredentialRequest) (*adminv1.UpdateCredentialResponse, error) {
	var v invalid
	m := req.GetCredential()
	in := registry.UpdateCredentialRequest{
		ID: m.GetId(), Etag: m.GetEtag(), AllowWildcard: req.GetAllowWildcard(),
		Fields: v.mask(req.GetUpdateMask(), registry.CredentialFields), Spec: v.credential(m),
	}
	in.Fields = withoutOther(in.Fields, m)
	if err := v.err(); err != nil {
		return nil, err
	}
	c, change, err := s.registry.UpdateCredential(ctx, callOf(ctx).Call, in)
	if err != nil {
		return nil, err
	}
	return &adminv1.UpdateCredentialResponse{Credential: credentialProto(c), Change: changeProto(change)}, nil
}

// RotateCredential implements the service.
func (s *credentials) RotateCredential(ctx context.Context, req *adminv1.RotateCredentialRequest) (*adminv1.RotateCredentialResponse, error) {
	var v invalid
	in := registry.RotateRequest{
		ID: req.GetId(), Etag: req.GetEtag(),
		Grace: v.duration("grace_period", req.GetGracePeriod()), TTL: v.duration("ttl", req.GetTtl()),
	}
	if err := v.err(); err != nil {
		return nil, err
	}
	r, change, err := s.registry.RotateCredential(ctx, callOf(ctx).Call, in)
	if err != nil {
		return nil, err
	}
	return &adminv1.RotateCredentialResponse{
		Credential: credentialProto(&r.Credential), Secret: r.Secret.Reveal(),
		Predecessor: credentialProto(&r.Predecessor), Change: changeProto(change),
	}, nil
}

// RenewCredential implements the service.
func (s *credentials) RenewCredential(ctx context.Context, req *adminv1.RenewCredentialRequest) (*adminv1.RenewCredentialResponse, error) {
	c, change, err := s.registry.RenewCredential(ctx, callOf(ctx).Call, req.GetId())
	if err != nil {
		return nil, err
	}
	return &adminv1.RenewCredentialResponse{Credential: credentialProto(c), Change: changeProto(change)}, nil
}

// DisableCredential implements the service.
func (s *credentials) DisableCredential(ctx context.Context, req *adminv1.DisableCredentialRequest) (*adminv1.DisableCredentialResponse, error) {
	c, change, err := s.registry.DisableCredential(ctx, callOf(ctx).Call, registry.EndRequest{ID: req.GetId(), Etag: req.GetEtag(), Reason: req.GetReason()})
	if err != nil {
		return nil, err
	}
	return &adminv1.DisableCredentialResponse{Credential: credentialProto(c), Change: changeProto(change)}, nil
}

// EnableCredential implements the service.
func (s *credentials) EnableCredential(ctx context.Context, req *adminv1.EnableCredentialRequest) (*adminv1.EnableCredentialResponse, error) {
	c, change, err := s.registry.EnableCredential(ctx, callOf(ctx).Call, registry.EndRequest{ID: req.GetId(), Etag: req.GetEtag()})
	if err != nil {
		return nil, err
	}
	return &adminv1.EnableCredentialResponse{Credential: credentialProto(c), Change: changeProto(change)}, nil
}

// RevokeCredential implements the service.
func (s *credentials) RevokeCredential(ctx context.Context, req *adminv1.RevokeCredentialRequest) (*adminv1.RevokeCredentialResponse, error) {
	c, cascaded, change, err := s.registry.RevokeCredential(ctx, callOf(ctx).Call, registry.EndRequest{
		ID: req.GetId(), Etag: req.GetEtag(), Reason: req.GetReason(), Successors: req.GetSuccessors(),
	})
	if err != nil {
		return nil, err
	}
	return &adminv1.RevokeCredentialResponse{
		Credential: credentialProto(c), Cascaded: int32(cascaded), Change: changeProto(change), LivingSuccessorId: c.LivingSuccessor,
	}, nil
}

// BatchRevokeCredentials implements the service.
func (s *credentials) BatchRevokeCredentials(ctx context.Context, req *adminv1.BatchRevokeCredentialsRequest) (*adminv1.BatchRevokeCredentialsResponse, error) {
	if len(req.GetIds()) > 0 && (req.GetTenant() != "" || req.GetPrincipalId() != "") {
		var v invalid
		v.add("ids", "must be left out if tenant or principal_id is set")
		return nil, v.err() // what was asked about are the ids alone
	}
	ids, change, err := s.registry.BatchRevokeCredentials(ctx, callOf(ctx).Call, registry.BatchRevokeRequest{
		IDs: req.GetIds(), Tenant: req.GetTenant(), Principal: req.GetPrincipalId(), Reason: req.GetReason(),
	})
	if err != nil {
		return nil, err
	}
	return &adminv1.BatchRevokeCredentialsResponse{Ids: ids, Change: changeProto(change)}, nil
}

// GetUsage implements the service.
func (s *credentials) GetUsage(ctx context.Context, req *adminv1.GetUsageRequest) (*adminv1.GetUsageResponse, error) {
	var v invalid
	call := callOf(ctx)
	q := store.UsageQuery{
		Credential: req.GetCredentialId(), Tenant: call.tenant(req.GetTenant()), Principal: req.GetPrincipalId(),
		From: v.day("from_day", req.GetFromDay()), To: v.day("to_day", req.GetToDay()), Limit: v.pageSize(req.GetPageSize()),
	}
	if err := v.err(); err != nil {
		return nil, err
	}
	list, err := s.registry.Usage(ctx, call.Actor, q)
	if err != nil {
		return nil, err
	}
	return &adminv1.GetUsageResponse{Usage: each(list, func(u store.Usage) *adminv1.Usage { return usageProto(&u) })}, nil
}

// day reads a day such as 2006-01-02.
func (v *invalid) day(field, text string) string {
	if text != "" {
		if _, err := time.Parse(time.DateOnly, text); err != nil {
			v.add(field, "must be a day such as 2006-01-02")
		}
	}
	return text
}

// withoutOther leaves that one of expire_time and ttl out of "*" that the message does
// not hold. Where a mask names one itself, it counts.
func withoutOther(fields []string, m *adminv1.Credential) []string {
	if len(fields) < len(registry.CredentialFields) {
		return fields
	}
	other := "expire_time"
	if _, ok := m.GetExpiration().(*adminv1.Credential_ExpireTime); ok {
		other = "ttl"
	}
	return slices.DeleteFunc(slices.Clone(fields), func(f string) bool { return f == other })
}
