package admin

import (
	"context"

	adminv1 "github.com/postern-auth/postern/gen/postern/admin/v1"
	"github.com/postern-auth/postern/server/registry"
	"github.com/postern-auth/postern/server/store"
)

// agents serves postern.admin.v1.AgentService.
type agents struct {
	adminv1.UnimplementedAgentServiceServer
	registry *registry.Registry
}

// agentStates are the states that can be asked for.
var agentStates = map[adminv1.AgentState]registry.AgentState{
	adminv1.AgentState_AGENT_STATE_ACTIVE:         registry.AgentActive,
	adminv1.AgentState_AGENT_STATE_DISABLED:       registry.AgentDisabled,
	adminv1.AgentState_AGENT_STATE_DECOMMISSIONED: registry.AgentDecommissioned,
}

var agentStateProtos = inverse(agentStates)

func agentProto(p *store.Principal) *adminv1.Agent {
	if p == nil {
		return nil
	}
	m := &adminv1.Agent{
		Tenant: p.Tenant, Id: p.ID, DisplayName: p.Name, OwnerId: p.Owner,
		Roles: p.Roles, Scopes: p.Scopes, Permissions: p.Permissions, Metadata: structProto(p.Metadata),
		State:      agentStateProtos[registry.AgentStateOf(p)],
		CreateTime: timeProto(p.CreatedAt), UpdateTime: timeProto(p.UpdatedAt), Etag: registry.Etag(p.Version),
	}
	if p.Disabled != nil {
		m.EndedReason = p.Disabled.Reason
	}
	if a := p.Agent; a != nil {
		m.Model, m.Version, m.Purpose = a.Model, a.Version, a.Purpose
		m.TokenRoles, m.Tools, m.Jwks = a.Roles, a.Tools, string(a.Keys)
		m.SpiffeIds, m.Certificates = a.SPIFFEIDs, a.Certificates
	}
	if p.Decommissioned() {
		m.EndedReason, m.DecommissionTime = p.Agent.Decommissioned.Reason, timeProto(p.Agent.Decommissioned.At)
	}
	return m
}

// agent reads what is said of an agent.
func (v *invalid) agent(m *adminv1.Agent) registry.AgentSpec {
	return registry.AgentSpec{
		PrincipalSpec: registry.PrincipalSpec{
			Tenant: m.GetTenant(), ID: m.GetId(), Name: m.GetDisplayName(), Owner: m.GetOwnerId(),
			Rights:   registry.Rights{Roles: m.GetRoles(), Scopes: m.GetScopes(), Permissions: m.GetPermissions()},
			Metadata: v.metadata("metadata", m.GetMetadata()),
		},
		Model: m.GetModel(), Version: m.GetVersion(), Purpose: m.GetPurpose(),
		TokenRoles: m.GetTokenRoles(), Tools: m.GetTools(), JWKS: m.GetJwks(),
		SPIFFEIDs: m.GetSpiffeIds(), Certificates: m.GetCertificates(),
	}
}

// CreateAgent implements the service.
func (s *agents) CreateAgent(ctx context.Context, req *adminv1.CreateAgentRequest) (*adminv1.CreateAgentResponse, error) {
	var v invalid
	spec := v.agent(req.GetAgent())
	if err := v.err(); err != nil {
		return nil, err
	}
	p, change, err := s.registry.CreateAgent(ctx, callOf(ctx).Call, registry.CreateAgentRequest{AgentSpec: spec, AllowWildcard: req.GetAllowWildcard()})
	if err != nil {
		return nil, err
	}
	return &adminv1.CreateAgentResponse{Agent: agentProto(p), Change: changeProto(change)}, nil
}

// GetAgent implements the service.
func (s *agents) GetAgent(ctx context.Context, req *adminv1.GetAgentRequest) (*adminv1.GetAgentResponse, error) {
	p, err := s.registry.GetAgent(ctx, callOf(ctx).Actor, req.GetTenant(), req.GetId())
	if err != nil {
		return nil, err
	}
	return &adminv1.GetAgentResponse{Agent: agentProto(p)}, nil
}

// ListAgents implements the service.
func (s *agents) ListAgents(ctx context.Context, req *adminv1.ListAgentsRequest) (*adminv1.ListAgentsResponse, error) {
	var v invalid
	call := callOf(ctx)
	q := registry.AgentQuery{Page: v.page(req), Tenant: call.tenant(req.GetTenant()), Owner: req.GetOwnerId()}
	for i, state := range req.GetStates() {
		known, ok := agentStates[state]
		if !ok {
			v.allow("states"+index(i), "is no state of an agent", "ACTIVE, DISABLED, DECOMMISSIONED")
		}
		q.States = append(q.States, known)
	}
	if err := v.err(); err != nil {
		return nil, err
	}
	list, next, err := s.registry.ListAgents(ctx, call.Actor, q)
	if err != nil {
		return nil, err
	}
	return &adminv1.ListAgentsResponse{Agents: each(list, agentProto), NextPageToken: next}, nil
}

// UpdateAgent implements the service.
func (s *agents) UpdateAgent(ctx context.Context, req *adminv1.UpdateAgentRequest) (*adminv1.UpdateAgentResponse, error) {
	var v invalid
	in := registry.UpdateAgentRequest{
		Etag: req.GetAgent().GetEtag(), Fields: v.mask(req.GetUpdateMask(), registry.AgentFields),
		Spec: v.agent(req.GetAgent()), AllowWildcard: req.GetAllowWildcard(),
	}
	if err := v.err(); err != nil {
		return nil, err
	}
	p, change, err := s.registry.UpdateAgent(ctx, callOf(ctx).Call, in)
	if err != nil {
		return nil, err
	}
	return &adminv1.UpdateAgentResponse{Agent: agentProto(p), Change: changeProto(change)}, nil
}

// ending is a request to end an agent, for a while or for good.
type ending interface {
	GetTenant() string
	GetId() string
	GetEtag() string
	GetReason() string
}

func agentRequest(r ending) registry.AgentRequest {
	return registry.AgentRequest{Tenant: r.GetTenant(), ID: r.GetId(), Etag: r.GetEtag(), Reason: r.GetReason()}
}

// DisableAgent implements the service.
func (s *agents) DisableAgent(ctx context.Context, req *adminv1.DisableAgentRequest) (*adminv1.DisableAgentResponse, error) {
	p, change, err := s.registry.DisableAgent(ctx, callOf(ctx).Call, agentRequest(req))
	if err != nil {
		return nil, err
	}
	return &adminv1.DisableAgentResponse{Agent: agentProto(p), Change: changeProto(change)}, nil
}

// EnableAgent implements the service.
func (s *agents) EnableAgent(ctx context.Context, req *adminv1.EnableAgentRequest) (*adminv1.EnableAgentResponse, error) {
	p, change, err := s.registry.EnableAgent(ctx, callOf(ctx).Call, agentRequest(req))
	if err != nil {
		return nil, err
	}
	return &adminv1.EnableAgentResponse{Agent: agentProto(p), Change: changeProto(change)}, nil
}

// DecommissionAgent implements the service.
func (s *agents) DecommissionAgent(ctx context.Context, req *adminv1.DecommissionAgentRequest) (*adminv1.DecommissionAgentResponse, error) {
	done, change, err := s.registry.DecommissionAgent(ctx, callOf(ctx).Call, agentRequest(req))
	if err != nil {
		return nil, err
	}
	return &adminv1.DecommissionAgentResponse{
		Agent: agentProto(done.Agent), Agents: int32(done.Agents), Principals: int32(done.Principals),
		Credentials: int32(done.Credentials), Sessions: int32(done.Sessions), Approvals: int32(done.Approvals),
		Change: changeProto(change),
	}, nil
}
