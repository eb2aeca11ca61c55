package admin_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"google.golang.org/protobuf/types/known/structpb"

	adminv1 "github.com/postern-auth/postern/gen/postern/admin/v1"
)

func (d *desk) agents(caller string) adminv1.AgentServiceClient {
	return adminv1.NewAgentServiceClient(d.as(caller))
}

const aKeySet = `{"keys":[{"crv":"Ed25519","kid":"k1","kty":"OKP","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}`

func researcher() *adminv1.Agent {
	return &adminv1.Agent{
		Tenant: "acme", Id: "researcher", DisplayName: "Researcher", OwnerId: "ann", Model: "gpt-4o-mini", Version: "1", Purpose: "reads",
		Roles: []string{"user"}, Scopes: []string{"data:read"}, Permissions: []string{"orders.read"},
		TokenRoles: []string{"reader"}, Tools: []string{"search", "github.*"}, Jwks: aKeySet,
		SpiffeIds: []string{"spiffe://example.org/agents/researcher"}, Certificates: []string{strings.Repeat("ab", 32)},
		Metadata: &structpb.Struct{Fields: map[string]*structpb.Value{"team": structpb.NewStringValue("a")}},
	}
}

// what is said of an agent is what is kept, and what is kept is what is shown.
func TestAgents(t *testing.T) {
	t.Parallel()
	d := open(t)
	d.furnish()
	root, ctx := d.agents("root"), t.Context()
	made := must[*adminv1.CreateAgentResponse](t)(root.CreateAgent(ctx, &adminv1.CreateAgentRequest{Agent: researcher()}))
	got := must[*adminv1.GetAgentResponse](t)(root.GetAgent(ctx, &adminv1.GetAgentRequest{Tenant: "acme", Id: "researcher"})).GetAgent()
	if diff := cmp.Diff(made.GetAgent(), got, protocmp.Transform()); diff != "" || made.GetChange().GetNumber() == 0 || made.GetChange().GetEffectiveTime() == nil {
		t.Errorf("%s %v", diff, made.GetChange())
	}
	want := researcher()
	want.State, want.CreateTime, want.UpdateTime, want.Etag = adminv1.AgentState_AGENT_STATE_ACTIVE, got.GetCreateTime(), got.GetUpdateTime(), got.GetEtag()
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" || got.GetEtag() == "" || got.GetCreateTime() == nil {
		t.Error(diff)
	}

	// Every field that a mask can name is changed by it, and no other.
	other := proto.CloneOf(got)
	other.DisplayName, other.OwnerId, other.Model, other.Version, other.Purpose = "R2", "app", "m2", "2", "writes"
	other.Roles, other.Scopes, other.Permissions = []string{"r2"}, []string{"s2"}, []string{"p2"}
	other.TokenRoles, other.Tools, other.Jwks, other.SpiffeIds, other.Certificates = []string{"writer"}, nil, "", []string{"spiffe://example.org/2"}, nil
	other.Metadata = nil
	fields := other.ProtoReflect().Descriptor().Fields()
	for i := range fields.Len() {
		name := string(fields.Get(i).Name())
		changes := &adminv1.UpdateAgentRequest{Agent: proto.CloneOf(other), UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{name}}}
		changes.Agent.Etag = ""
		res, err := root.UpdateAgent(ctx, changes)
		switch name {
		case "tenant", "id", "state", "ended_reason", "create_time", "update_time", "decommission_time", "etag":
			fails(t, name, err, codes.InvalidArgument, "INVALID_FIELD")
			continue
		}
		before := proto.CloneOf(got)
		got = must[*adminv1.UpdateAgentResponse](t)(res, err).GetAgent()
		fd := fields.Get(i)
		if other.ProtoReflect().Has(fd) {
			before.ProtoReflect().Set(fd, other.ProtoReflect().Get(fd))
		} else {
			before.ProtoReflect().Clear(fd)
		}
		before.Etag, before.UpdateTime = got.GetEtag(), got.GetUpdateTime()
		if diff := cmp.Diff(before, got, protocmp.Transform()); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}

	// "*" is all of them.
	whole := researcher()
	whole.Etag = got.GetEtag()
	all := must[*adminv1.UpdateAgentResponse](t)(root.UpdateAgent(ctx, &adminv1.UpdateAgentRequest{Agent: whole, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"*"}}})).GetAgent()
	want.Etag, want.UpdateTime = all.GetEtag(), all.GetUpdateTime()
	if diff := cmp.Diff(want, all, protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
	_, err := root.UpdateAgent(ctx, &adminv1.UpdateAgentRequest{Agent: whole, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"model"}}})
	fails(t, "an old etag", err, codes.Aborted, "ETAG_MISMATCH")
	_, err = root.UpdateAgent(ctx, &adminv1.UpdateAgentRequest{Agent: researcher()})
	fails(t, "no mask", err, codes.InvalidArgument, "INVALID_FIELD")
}

// an agent's life over the wire, each step safe to repeat and to try.
func TestLifeOfAnAgent(t *testing.T) {
	t.Parallel()
	d := open(t)
	rootAPI := d.furnish()
	root, ctx := d.agents("root"), t.Context()
	create := &adminv1.CreateAgentRequest{Agent: researcher(), ValidateOnly: true}
	if dry := must[*adminv1.CreateAgentResponse](t)(root.CreateAgent(ctx, create)); dry.GetChange() != nil {
		t.Errorf("%v", dry)
	}
	_, err := root.GetAgent(ctx, &adminv1.GetAgentRequest{Tenant: "acme", Id: "researcher"})
	fails(t, "not made", err, codes.NotFound, "NOT_FOUND")
	create.ValidateOnly, create.RequestId = false, "one"
	first := must[*adminv1.CreateAgentResponse](t)(root.CreateAgent(ctx, create))
	if again := must[*adminv1.CreateAgentResponse](t)(root.CreateAgent(ctx, create)); !proto.Equal(first, again) {
		t.Errorf("%v, then %v", first, again)
	}
	create.Agent.Model = "another"
	_, err = root.CreateAgent(ctx, create)
	fails(t, "another call", err, codes.InvalidArgument, "REQUEST_ID_REUSED")
	create.RequestId = ""
	_, err = root.CreateAgent(ctx, create)
	fails(t, "twice", err, codes.AlreadyExists, "ALREADY_EXISTS")
	must[*adminv1.CreateAgentResponse](t)(root.CreateAgent(ctx, &adminv1.CreateAgentRequest{Agent: &adminv1.Agent{Tenant: "acme", Id: "child", OwnerId: "researcher"}}))
	must[*adminv1.IssueCredentialResponse](t)(rootAPI.IssueCredential(ctx, &adminv1.IssueCredentialRequest{Credential: &adminv1.Credential{Type: key, Tenant: "acme", PrincipalId: "child"}}))

	off := must[*adminv1.DisableAgentResponse](t)(root.DisableAgent(ctx, &adminv1.DisableAgentRequest{Tenant: "acme", Id: "researcher", Reason: "odd"}))
	if a := off.GetAgent(); a.GetState() != adminv1.AgentState_AGENT_STATE_DISABLED || a.GetEndedReason() != "odd" {
		t.Errorf("%v", a)
	}
	_, err = root.EnableAgent(ctx, &adminv1.EnableAgentRequest{Tenant: "acme", Id: "researcher", Etag: first.GetAgent().GetEtag()})
	fails(t, "an old etag", err, codes.Aborted, "ETAG_MISMATCH")
	on := must[*adminv1.EnableAgentResponse](t)(root.EnableAgent(ctx, &adminv1.EnableAgentRequest{Tenant: "acme", Id: "researcher", Etag: off.GetAgent().GetEtag()}))
	if on.GetAgent().GetState() != adminv1.AgentState_AGENT_STATE_ACTIVE || on.GetAgent().GetEndedReason() != "" {
		t.Errorf("%v", on)
	}

	end := &adminv1.DecommissionAgentRequest{Tenant: "acme", Id: "researcher", Reason: "replaced", ValidateOnly: true}
	dry := must[*adminv1.DecommissionAgentResponse](t)(root.DecommissionAgent(ctx, end))
	end.ValidateOnly, end.RequestId = false, "end"
	done := must[*adminv1.DecommissionAgentResponse](t)(root.DecommissionAgent(ctx, end))
	if done.GetAgents() != 2 || done.GetCredentials() != 1 || dry.GetAgents() != 2 || dry.GetChange() != nil || done.GetChange().GetEffectiveTime() == nil {
		t.Errorf("%v, after %v", done, dry)
	}
	if a := done.GetAgent(); a.GetState() != adminv1.AgentState_AGENT_STATE_DECOMMISSIONED || a.GetEndedReason() != "replaced" || a.GetDecommissionTime() == nil {
		t.Errorf("%v", a)
	}
	if again := must[*adminv1.DecommissionAgentResponse](t)(root.DecommissionAgent(ctx, end)); !proto.Equal(done, again) {
		t.Errorf("%v, then %v", done, again)
	}
	_, err = root.EnableAgent(ctx, &adminv1.EnableAgentRequest{Tenant: "acme", Id: "researcher"})
	fails(t, "back", err, codes.FailedPrecondition, "WRONG_STATE")

	for state, n := range map[adminv1.AgentState]int{
		adminv1.AgentState_AGENT_STATE_ACTIVE: 0, adminv1.AgentState_AGENT_STATE_DISABLED: 0, adminv1.AgentState_AGENT_STATE_DECOMMISSIONED: 2,
	} {
		list := must[*adminv1.ListAgentsResponse](t)(root.ListAgents(ctx, &adminv1.ListAgentsRequest{Tenant: "acme", States: []adminv1.AgentState{state}})).GetAgents()
		if len(list) != n {
			t.Errorf("%v: %v", state, list)
		}
	}
	page := must[*adminv1.ListAgentsResponse](t)(root.ListAgents(ctx, &adminv1.ListAgentsRequest{Tenant: "acme", PageSize: 1}))
	rest := must[*adminv1.ListAgentsResponse](t)(root.ListAgents(ctx, &adminv1.ListAgentsRequest{Tenant: "acme", PageSize: 1, PageToken: page.GetNextPageToken()}))
	if len(page.GetAgents()) != 1 || len(rest.GetAgents()) != 1 || page.GetAgents()[0].GetId() != "child" || rest.GetAgents()[0].GetId() != "researcher" {
		t.Errorf("%v, %v", page, rest)
	}
	_, err = root.ListAgents(ctx, &adminv1.ListAgentsRequest{States: []adminv1.AgentState{0}})
	fails(t, "no state", err, codes.InvalidArgument, "INVALID_FIELD")
	_, err = root.ListAgents(ctx, &adminv1.ListAgentsRequest{PageToken: page.GetNextPageToken()})
	fails(t, "another question's page", err, codes.InvalidArgument, "INVALID_FIELD")
}

// Tenants keep their agents to themselves, and say of none which workload it is.
func TestAgentsOfTenants(t *testing.T) {
	t.Parallel()
	d := open(t)
	d.furnish()
	root, rival, ctx := d.agents("root"), d.agents("rival"), t.Context()
	must[*adminv1.CreateAgentResponse](t)(root.CreateAgent(ctx, &adminv1.CreateAgentRequest{Agent: researcher()}))
	mask := func(fields ...string) *fieldmaskpb.FieldMask { return &fieldmaskpb.FieldMask{Paths: fields} }
	for tenant, foreign := range map[string]string{"acme": "acme's", "": "the installation's"} {
		name := func(what string) string { return what + " of " + foreign }
		_, err := rival.GetAgent(ctx, &adminv1.GetAgentRequest{Tenant: tenant, Id: "researcher"})
		fails(t, name("get"), err, codes.PermissionDenied, "PERMISSION_DENIED")
		_, err = rival.CreateAgent(ctx, &adminv1.CreateAgentRequest{Agent: &adminv1.Agent{Tenant: tenant, Id: "new"}})
		fails(t, name("create"), err, codes.PermissionDenied, "PERMISSION_DENIED")
		_, err = rival.UpdateAgent(ctx, &adminv1.UpdateAgentRequest{Agent: &adminv1.Agent{Tenant: tenant, Id: "researcher"}, UpdateMask: mask("model")})
		fails(t, name("update"), err, codes.PermissionDenied, "PERMISSION_DENIED")
		_, err = rival.DisableAgent(ctx, &adminv1.DisableAgentRequest{Tenant: tenant, Id: "researcher"})
		fails(t, name("disable"), err, codes.PermissionDenied, "PERMISSION_DENIED")
		_, err = rival.EnableAgent(ctx, &adminv1.EnableAgentRequest{Tenant: tenant, Id: "researcher"})
		fails(t, name("enable"), err, codes.PermissionDenied, "PERMISSION_DENIED")
		_, err = rival.DecommissionAgent(ctx, &adminv1.DecommissionAgentRequest{Tenant: tenant, Id: "researcher"})
		fails(t, name("decommission"), err, codes.PermissionDenied, "PERMISSION_DENIED")
	}
	_, err := rival.ListAgents(ctx, &adminv1.ListAgentsRequest{Tenant: "acme"})
	fails(t, "list", err, codes.PermissionDenied, "PERMISSION_DENIED")

	own := &adminv1.Agent{Tenant: "other", Id: "researcher", Model: "m"}
	must[*adminv1.CreateAgentResponse](t)(rival.CreateAgent(ctx, &adminv1.CreateAgentRequest{Agent: own}))
	if list := must[*adminv1.ListAgentsResponse](t)(rival.ListAgents(ctx, &adminv1.ListAgentsRequest{})).GetAgents(); len(list) != 1 || list[0].GetTenant() != "other" {
		t.Errorf("sees %v", list)
	}
	for what, bind := range map[string]func(*adminv1.Agent){
		"a SPIFFE id":   func(a *adminv1.Agent) { a.SpiffeIds = []string{"spiffe://example.org/x"} },
		"a certificate": func(a *adminv1.Agent) { a.Certificates = []string{strings.Repeat("cd", 32)} },
	} {
		bound := proto.CloneOf(own)
		bind(bound)
		for _, path := range []string{"*", "spiffe_ids", "certificates"} {
			if path != "*" && strings.Contains(what, "SPIFFE") != (path == "spiffe_ids") {
				continue
			}
			_, err = rival.UpdateAgent(ctx, &adminv1.UpdateAgentRequest{Agent: bound, UpdateMask: mask("model", path)})
			fails(t, what+" by "+path, err, codes.PermissionDenied, "PERMISSION_DENIED")
		}
		bound.Id = "new"
		_, err = rival.CreateAgent(ctx, &adminv1.CreateAgentRequest{Agent: bound})
		fails(t, what, err, codes.PermissionDenied, "PERMISSION_DENIED")
	}
	// To take them away binds nothing.
	must[*adminv1.UpdateAgentResponse](t)(rival.UpdateAgent(ctx, &adminv1.UpdateAgentRequest{Agent: own, UpdateMask: mask("spiffe_ids", "certificates")}))
	must[*adminv1.DecommissionAgentResponse](t)(rival.DecommissionAgent(ctx, &adminv1.DecommissionAgentRequest{Tenant: "other", Id: "researcher"}))
	if a := must[*adminv1.GetAgentResponse](t)(root.GetAgent(ctx, &adminv1.GetAgentRequest{Tenant: "acme", Id: "researcher"})).GetAgent(); a.GetState() != adminv1.AgentState_AGENT_STATE_ACTIVE {
		t.Errorf("the other tenant's fell: %v", a)
	}
}
