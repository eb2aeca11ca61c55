package admin

import (
	"cmp"
	"slices"
	"strings"
	"time"

	adminv1 "github.com/postern-auth/postern/gen/postern/admin/v1"
	posternv1 "github.com/postern-auth/postern/gen/postern/v1"
	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/registry"
	"github.com/postern-auth/postern/server/seal"
	"github.com/postern-auth/postern/server/store"
)

// This file turns what is kept into messages. No message has a field for a digest
// or a hash, so none can get out.

var credentialTypes = map[adminv1.CredentialType]store.CredentialType{
	adminv1.CredentialType_CREDENTIAL_TYPE_API_KEY:               store.APIKey,
	adminv1.CredentialType_CREDENTIAL_TYPE_PERSONAL_ACCESS_TOKEN: store.PAT,
	adminv1.CredentialType_CREDENTIAL_TYPE_TOKEN:                 store.Token,
}

var credentialTypeProtos = inverse(credentialTypes)

// credentialFormats are the forms of secrets. What is imported has one of its own.
var credentialFormats = map[adminv1.CredentialFormat]store.CredentialFormat{
	adminv1.CredentialFormat_CREDENTIAL_FORMAT_UNSPECIFIED: "",
	adminv1.CredentialFormat_CREDENTIAL_FORMAT_OPAQUE:      "",
	adminv1.CredentialFormat_CREDENTIAL_FORMAT_JWT:         store.JWT,
}

var principalKinds = map[posternv1.PrincipalKind]policy.Kind{
	posternv1.PrincipalKind_PRINCIPAL_KIND_USER:    policy.KindUser,
	posternv1.PrincipalKind_PRINCIPAL_KIND_SERVICE: policy.KindService,
	posternv1.PrincipalKind_PRINCIPAL_KIND_AGENT:   policy.KindAgent,
	posternv1.PrincipalKind_PRINCIPAL_KIND_DEVICE:  policy.KindDevice,
}

var principalKindProtos = inverse(principalKinds)

func inverse[K, V comparable](m map[K]V) map[V]K {
	out := make(map[V]K, len(m))
	for k, v := range m {
		out[v] = k
	}
	return out
}

func tenantProto(t *store.Tenant) *adminv1.Tenant {
	if t == nil {
		return nil
	}
	m := &adminv1.Tenant{
		Id: t.ID, DisplayName: t.Name, Labels: t.Labels,
		MaxTtl: durationProto(time.Duration(t.Rules.MaxTTL)), MaxPats: int32(t.Rules.MaxPATs),
		UnusedFor:   durationProto(time.Duration(t.Rules.UnusedFor)),
		SessionIdle: durationProto(time.Duration(t.Rules.SessionIdle)), SessionMax: durationProto(time.Duration(t.Rules.SessionMax)),
		CreateTime: timeProto(t.CreatedAt), UpdateTime: timeProto(t.UpdatedAt), Etag: registry.Etag(t.Version),
	}
	if t.Disabled != nil {
		m.Disabled, m.DisabledReason = true, t.Disabled.Reason
	}
	return m
}

func principalProto(p *store.Principal) *adminv1.Principal {
	if p == nil {
		return nil
	}
	m := &adminv1.Principal{
		Tenant: p.Tenant, Id: p.ID, Kind: principalKindProtos[p.Kind], DisplayName: p.Name, OwnerId: p.Owner,
		Roles: p.Roles, Scopes: p.Scopes, Permissions: p.Permissions, Metadata: structProto(p.Metadata),
		HasPassword: p.Password != "",
		CreateTime:  timeProto(p.CreatedAt), UpdateTime: timeProto(p.UpdatedAt), Etag: registry.Etag(p.Version),
	}
	if p.Disabled != nil {
		m.Disabled, m.DisabledReason = true, p.Disabled.Reason
	}
	return m
}

func credentialProto(c *registry.Credential) *adminv1.Credential {
	if c == nil || c.Credential == nil {
		return nil
	}
	m := &adminv1.Credential{
		Id: c.ID, Type: credentialTypeProtos[c.Type], Tenant: c.Tenant, PrincipalId: c.Principal,
		DisplayName: c.Name, Environment: c.Environment,
		Roles: c.Roles, Scopes: c.Scopes, Permissions: c.Permissions,
		Constraints: constraintsProto(c.Constraints), Metadata: structProto(c.Metadata),
		State: stateProto(c.State), NotBefore: timeProto(c.NotBefore),
		RenewPeriod: durationProto(time.Duration(c.Period)), MaxExpireTime: timeProto(c.MaxExpiresAt),
		ParentId: c.Parent, IssuedBy: c.IssuedBy, SuccessorId: c.Successor, EndedReason: endedReason(c.Credential),
		Imported: c.Imported(), LowEntropy: c.Low,
		CreateTime: timeProto(c.CreatedAt), UpdateTime: timeProto(c.UpdatedAt), LastUseTime: timeProto(c.LastUsedAt),
		Etag: c.Etag(),
	}
	if !c.ExpiresAt.IsZero() {
		m.Expiration = &adminv1.Credential_ExpireTime{ExpireTime: timeProto(c.ExpiresAt)}
	}
	if c.Rotated != nil {
		// expire_time stays what it was made with, so that the successor's can be compared
		// with it; this is when the old one ends in fact, unless that comes first.
		m.GraceEndTime = timeProto(c.Rotated.At)
	}
	if c.Format == store.JWT {
		m.Format = adminv1.CredentialFormat_CREDENTIAL_FORMAT_JWT
	}
	return m
}

// stateProto relies on the names of both enumerations being the same, which a test
// holds fast.
func stateProto(s registry.State) adminv1.CredentialState {
	return adminv1.CredentialState(adminv1.CredentialState_value["CREDENTIAL_STATE_"+string(s)])
}

func endedReason(c *store.Credential) string {
	switch e := cmp.Or(c.Revoked, c.Rotated, c.Disabled); e {
	case nil:
		return ""
	default:
		return e.Reason
	}
}

func constraintsProto(c *policy.Constraints) *adminv1.Constraints {
	if c == nil {
		return nil
	}
	m := &adminv1.Constraints{
		Methods: c.Methods, Audiences: c.Audiences, Resources: c.Resources, Peers: c.Peers, RequireTls: c.RequireTLS,
		Networks: texts(c.Networks), Hosts: texts(c.Hosts), Paths: texts(c.Paths),
	}
	for _, w := range c.Windows {
		m.Windows = append(m.Windows, &adminv1.TimeWindow{Days: w.Days, From: w.From, To: w.To})
	}
	return m
}

// texts writes a list of values that write themselves.
func texts[T interface{ String() string }](list []T) []string {
	var all []string
	for _, v := range list {
		all = append(all, v.String())
	}
	return all
}

// stateOf is the way back.
func stateOf(s adminv1.CredentialState) (registry.State, bool) {
	name, known := strings.CutPrefix(s.String(), "CREDENTIAL_STATE_")
	return registry.State(name), known && s != adminv1.CredentialState_CREDENTIAL_STATE_UNSPECIFIED
}

// constraints reads the limits of a credential; nil if there are none.
func (v *invalid) constraints(field string, m *adminv1.Constraints) *policy.Constraints {
	if m == nil {
		return nil
	}
	c := &policy.Constraints{
		Networks: parsed(v, field+".networks", m.GetNetworks(), "a CIDR block such as 192.0.2.0/24, without bits behind its length", policy.ParsePrefix),
		Hosts:    parsed(v, field+".hosts", m.GetHosts(), "a host such as api.example.com or *.example.com", policy.ParseHostPattern),
		Paths:    parsed(v, field+".paths", m.GetPaths(), "a path such as /orders/* or /public/**", policy.ParsePathPattern),
		Methods:  m.GetMethods(), Audiences: m.GetAudiences(), Resources: m.GetResources(), Peers: m.GetPeers(), RequireTLS: m.GetRequireTls(),
	}
	for _, w := range m.GetWindows() {
		c.Windows = append(c.Windows, policy.TimeWindow{Days: w.GetDays(), From: w.GetFrom(), To: w.GetTo()})
	}
	c.Faults(func(path, message, suggestion string) { v.add(field+"."+path, seal.Scrub(message+"; "+suggestion)) })
	return c
}

// parsed reads a list of values, each with its own place in the errors.
func parsed[T any](v *invalid, field string, list []string, what string, parse func(string) (T, error)) []T {
	var all []T
	for i, text := range list {
		one, err := parse(text)
		if err != nil {
			v.add(field+index(i), "must be "+what)
		}
		all = append(all, one)
	}
	return all
}

func sessionProto(s *store.Session) *adminv1.Session {
	if s == nil {
		return nil
	}
	return &adminv1.Session{
		Id: s.ID, Tenant: s.Tenant, PrincipalId: s.Principal, Amr: s.AMR, Acr: s.ACR, AuthTime: timeProto(s.AuthTime),
		IdleTimeout: durationProto(time.Duration(s.Idle)), ExpireTime: timeProto(s.ExpiresAt),
		LastUseTime: timeProto(s.TouchedAt), CreateTime: timeProto(s.CreatedAt), Metadata: s.Metadata,
	}
}

func denialProto(d *store.Denial) *adminv1.Denial {
	if d == nil {
		return nil
	}
	m := &adminv1.Denial{
		Id: d.ID, Issuer: d.Issuer, IssuedBefore: timeProto(d.IssuedBefore), Tenant: d.Tenant, Note: d.Note,
		ExpireTime: timeProto(d.ExpiresAt), CreateTime: timeProto(d.CreatedAt), CreatedBy: d.By,
	}
	switch {
	case d.JTI != "":
		m.What = &adminv1.Denial_Jti{Jti: d.JTI}
	case d.SID != "":
		m.What = &adminv1.Denial_Sid{Sid: d.SID}
	case d.KID != "":
		m.What = &adminv1.Denial_Kid{Kid: d.KID}
	case d.Subject != "":
		m.What = &adminv1.Denial_Subject{Subject: d.Subject}
	case d.Client != "":
		m.What = &adminv1.Denial_Client{Client: d.Client}
	case d.Agent != "":
		m.What = &adminv1.Denial_Agent{Agent: d.Agent}
	case d.OfTenant != "":
		m.What = &adminv1.Denial_OfTenant{OfTenant: d.OfTenant}
	case d.Fingerprint != "":
		m.What = &adminv1.Denial_Fingerprint{Fingerprint: d.Fingerprint}
	}
	return m
}

func auditProto(e *store.AuditEntry) *adminv1.AuditEntry {
	return &adminv1.AuditEntry{
		Sequence: e.Seq, ChangeNumber: e.Change, Time: timeProto(e.At), Actor: e.Actor, CredentialId: e.Credential,
		Action: e.Action, Target: e.Target, Tenant: e.Tenant, Denied: e.Denied, Reason: e.Reason,
		RequestId: e.RequestID, Detail: e.Detail,
	}
}

func usageProto(u *store.Usage) *adminv1.Usage {
	return &adminv1.Usage{
		CredentialId: u.Credential, Tenant: u.Tenant, PrincipalId: u.Principal, Day: u.Day, Route: u.Route,
		Allowed: u.Allowed, Denied: u.Denied, LastUseTime: timeProto(u.LastUsedAt),
	}
}

// each turns every element of a list into a message.
func each[T, M any](list []T, one func(T) M) []M {
	out := make([]M, 0, len(list))
	for _, v := range list {
		out = append(out, one(v))
	}
	return slices.Clip(out)
}
