package admin

import (
	"cmp"
	"context"
	"fmt"

	adminv1 "github.com/postern-auth/postern/gen/postern/admin/v1"
	"github.com/postern-auth/postern/server/registry"
	"github.com/postern-auth/postern/server/store"
)

// ask is one question to the policy.
type ask struct {
	action string
	target target
	// found says that the caller named the record by its id alone, and it was looked
	// up: who may not see it is told that it is not there.
	found bool
}

// method says what a call is about: the actions that it can come to, and which of
// them on which records a request does.
type method struct {
	actions []string
	asks    func(s *scope, req any) ([]ask, error)
}

// methods is the whole surface: each method, its action, and the records that it is
// about. What is not here cannot be called.
var methods = map[string]method{
	adminv1.CredentialService_IssueCredential_FullMethodName: about("credentials.issue", func(_ *scope, r *adminv1.IssueCredentialRequest) ([]target, error) {
		return one(credentialToBe(r.GetCredential()))
	}),
	adminv1.CredentialService_ImportCredentials_FullMethodName: about("credentials.import", func(_ *scope, r *adminv1.ImportCredentialsRequest) ([]target, error) {
		return distinct("credentials", r.GetCredentials(), func(c *adminv1.ImportedCredential) (target, error) {
			return credentialToBe(c.GetCredential()), nil
		})
	}),
	adminv1.CredentialService_GetCredential_FullMethodName:     aboutCredential("credentials.get"),
	adminv1.CredentialService_RotateCredential_FullMethodName:  aboutCredential("credentials.rotate"),
	adminv1.CredentialService_RenewCredential_FullMethodName:   aboutCredential("credentials.renew"),
	adminv1.CredentialService_DisableCredential_FullMethodName: aboutCredential("credentials.disable"),
	adminv1.CredentialService_EnableCredential_FullMethodName:  aboutCredential("credentials.enable"),
	adminv1.CredentialService_RevokeCredential_FullMethodName:  aboutCredential("credentials.revoke"),
	adminv1.CredentialService_UpdateCredential_FullMethodName: found("credentials.update", func(s *scope, r *adminv1.UpdateCredentialRequest) (target, error) {
		return s.credential(r.GetCredential().GetId())
	}),
	adminv1.CredentialService_ListCredentials_FullMethodName: about("credentials.list", func(s *scope, r *adminv1.ListCredentialsRequest) ([]target, error) {
		return one(s.listing("credential", r))
	}),
	adminv1.CredentialService_BatchRevokeCredentials_FullMethodName: asking([]string{"credentials.revoke"}, batchRevoke),
	adminv1.CredentialService_GetUsage_FullMethodName:               asking([]string{"credentials.usage"}, usage),

	adminv1.PrincipalService_CreatePrincipal_FullMethodName: about("principals.create", func(_ *scope, r *adminv1.CreatePrincipalRequest) ([]target, error) {
		return one(principalNamed(r.GetPrincipal()))
	}),
	adminv1.PrincipalService_GetPrincipal_FullMethodName: about("principals.get", func(_ *scope, r *adminv1.GetPrincipalRequest) ([]target, error) {
		return one(principalNamed(r))
	}),
	adminv1.PrincipalService_ListPrincipals_FullMethodName: about("principals.list", func(s *scope, r *adminv1.ListPrincipalsRequest) ([]target, error) {
		return one(s.every("principal", r.GetTenant()))
	}),
	adminv1.PrincipalService_UpdatePrincipal_FullMethodName: about("principals.update", func(_ *scope, r *adminv1.UpdatePrincipalRequest) ([]target, error) {
		return one(principalNamed(r.GetPrincipal()))
	}),
	adminv1.PrincipalService_DeletePrincipal_FullMethodName: about("principals.delete", func(_ *scope, r *adminv1.DeletePrincipalRequest) ([]target, error) {
		return one(principalNamed(r))
	}),
	adminv1.UserService_SetPassword_FullMethodName: about("users.set_password", func(_ *scope, r *adminv1.SetPasswordRequest) ([]target, error) {
		return one(principalNamed(r))
	}),
	adminv1.UserService_ImportUsers_FullMethodName: about("users.import", func(_ *scope, r *adminv1.ImportUsersRequest) ([]target, error) {
		return distinct("users", r.GetUsers(), func(u *adminv1.ImportedUser) (target, error) {
			return target{kind: "principal", tenant: u.GetUser().GetTenant()}, nil
		})
	}),

	adminv1.AgentService_CreateAgent_FullMethodName: asking([]string{"agents.create", "agents.bind"}, func(_ *scope, r *adminv1.CreateAgentRequest) ([]ask, error) {
		a := r.GetAgent()
		return agentAsks("agents.create", a, len(a.GetSpiffeIds())+len(a.GetCertificates()) > 0), nil
	}),
	adminv1.AgentService_GetAgent_FullMethodName: about("agents.get", func(_ *scope, r *adminv1.GetAgentRequest) ([]target, error) {
		return one(principalNamed(r))
	}),
	adminv1.AgentService_ListAgents_FullMethodName: about("agents.list", func(s *scope, r *adminv1.ListAgentsRequest) ([]target, error) {
		return one(s.every("principal", r.GetTenant()))
	}),
	adminv1.AgentService_UpdateAgent_FullMethodName: asking([]string{"agents.update", "agents.bind"}, func(_ *scope, r *adminv1.UpdateAgentRequest) ([]ask, error) {
		return agentAsks("agents.update", r.GetAgent(), bindsAgent(r)), nil
	}),
	adminv1.AgentService_DisableAgent_FullMethodName: about("agents.disable", func(_ *scope, r *adminv1.DisableAgentRequest) ([]target, error) {
		return one(principalNamed(r))
	}),
	adminv1.AgentService_EnableAgent_FullMethodName: about("agents.enable", func(_ *scope, r *adminv1.EnableAgentRequest) ([]target, error) {
		return one(principalNamed(r))
	}),
	adminv1.AgentService_DecommissionAgent_FullMethodName: about("agents.decommission", func(_ *scope, r *adminv1.DecommissionAgentRequest) ([]target, error) {
		return one(principalNamed(r))
	}),

	adminv1.SessionService_CreateSession_FullMethodName: asking([]string{"sessions.create", "sessions.vouch"}, createSession),
	adminv1.SessionService_GetSession_FullMethodName: found("sessions.get", func(s *scope, r *adminv1.GetSessionRequest) (target, error) {
		return s.session(r.GetId())
	}),
	adminv1.SessionService_ListSessions_FullMethodName: about("sessions.list", func(s *scope, r *adminv1.ListSessionsRequest) ([]target, error) {
		return one(s.listing("session", r))
	}),
	adminv1.SessionService_RotateSession_FullMethodName: asking([]string{"sessions.rotate", "sessions.vouch"}, rotateSession),
	adminv1.SessionService_DeleteSession_FullMethodName: asking([]string{"sessions.delete"}, deleteSession),

	adminv1.TenantService_CreateTenant_FullMethodName: about("tenants.create", func(_ *scope, r *adminv1.CreateTenantRequest) ([]target, error) {
		return one(tenantNamed(r.GetTenant()))
	}),
	adminv1.TenantService_GetTenant_FullMethodName: about("tenants.get", func(_ *scope, r *adminv1.GetTenantRequest) ([]target, error) {
		return one(tenantNamed(r))
	}),
	adminv1.TenantService_ListTenants_FullMethodName: about("tenants.list", func(s *scope, _ *adminv1.ListTenantsRequest) ([]target, error) {
		return one(s.every("tenant", ""))
	}),
	adminv1.TenantService_UpdateTenant_FullMethodName: about("tenants.update", func(_ *scope, r *adminv1.UpdateTenantRequest) ([]target, error) {
		return one(tenantNamed(r.GetTenant()))
	}),
	adminv1.TenantService_DeleteTenant_FullMethodName: about("tenants.delete", func(_ *scope, r *adminv1.DeleteTenantRequest) ([]target, error) {
		return one(tenantNamed(r))
	}),

	adminv1.DenylistService_AddDenial_FullMethodName: about("denials.add", addDenial),
	adminv1.DenylistService_ListDenials_FullMethodName: about("denials.list", func(s *scope, r *adminv1.ListDenialsRequest) ([]target, error) {
		return one(s.every("denial", r.GetTenant()))
	}),
	// Whose a line is, only the registry knows, and it keeps tenants apart. So who is
	// of no tenant must be one who may remove any.
	adminv1.DenylistService_RemoveDenial_FullMethodName: about("denials.remove", func(s *scope, r *adminv1.RemoveDenialRequest) ([]target, error) {
		t := s.every("denial", "")
		t.id = r.GetId()
		return one(t)
	}),

	adminv1.TokenService_IssueAgentToken_FullMethodName: about("tokens.issue", tokenToBe),
	adminv1.TokenService_ExchangeToken_FullMethodName: about("tokens.exchange", func(s *scope, _ *adminv1.ExchangeTokenRequest) ([]target, error) {
		return tokenExchanged(s)
	}),
	adminv1.TokenService_RevokeAgentToken_FullMethodName: about("tokens.revoke", func(_ *scope, r *adminv1.RevokeAgentTokenRequest) ([]target, error) {
		return one(target{kind: "token", id: r.GetJti(), tenant: r.GetTenantId()})
	}),

	adminv1.BudgetService_ListBudgets_FullMethodName: about("budgets.list", func(s *scope, r *adminv1.ListBudgetsRequest) ([]target, error) {
		return one(s.every("budget", r.GetTenant()))
	}),
	adminv1.BudgetService_GetBudget_FullMethodName: found("budgets.get", func(s *scope, r *adminv1.GetBudgetRequest) (target, error) {
		return s.account(r.GetId())
	}),
	adminv1.BudgetService_SetLimit_FullMethodName: found("budgets.limit", func(s *scope, r *adminv1.SetLimitRequest) (target, error) {
		return s.account(r.GetId())
	}),

	adminv1.ApprovalService_RequestApproval_FullMethodName: about("approvals.request", func(s *scope, r *adminv1.RequestApprovalRequest) ([]target, error) {
		return one(s.approvalToBe(r))
	}),
	adminv1.ApprovalService_GetApproval_FullMethodName:      aboutApproval("approvals.get"),
	adminv1.ApprovalService_ApproveApproval_FullMethodName:  aboutApproval("approvals.approve"),
	adminv1.ApprovalService_DenyApproval_FullMethodName:     aboutApproval("approvals.deny"),
	adminv1.ApprovalService_WithdrawApproval_FullMethodName: aboutApproval("approvals.withdraw"),
	adminv1.ApprovalService_ListApprovals_FullMethodName: about("approvals.list", func(s *scope, r *adminv1.ListApprovalsRequest) ([]target, error) {
		return one(s.listing("approval", r))
	}),
	adminv1.ConsentService_GrantConsent_FullMethodName: about("consents.grant", func(s *scope, r *adminv1.GrantConsentRequest) ([]target, error) {
		tenant, issuer, user := s.caller.user(r.GetConsent())
		return one(target{kind: "consent", tenant: tenant, principal: ownerOf(issuer, user)})
	}),
	adminv1.ConsentService_GetConsent_FullMethodName:      aboutConsent("consents.get"),
	adminv1.ConsentService_WithdrawConsent_FullMethodName: aboutConsent("consents.withdraw"),
	adminv1.ConsentService_ListConsents_FullMethodName: about("consents.list", func(s *scope, r *adminv1.ListConsentsRequest) ([]target, error) {
		t := s.listing("consent", r)
		if t.principal != "" && r.GetIssuer() != "" {
			t.principal = ownerOf(r.GetIssuer(), t.principal)
		}
		return one(t)
	}),

	adminv1.AuditService_ListAuditEntries_FullMethodName: about("audit.list", func(s *scope, r *adminv1.ListAuditEntriesRequest) ([]target, error) {
		return one(s.every("audit", r.GetTenant()))
	}),
	adminv1.DecisionService_ListDecisions_FullMethodName: about("decisions.list", func(s *scope, r *adminv1.ListDecisionsRequest) ([]target, error) {
		return one(s.every("decision", r.GetFilter().GetTenant()))
	}),
	adminv1.DecisionService_WatchDecisions_FullMethodName: about("decisions.list", func(s *scope, r *adminv1.WatchDecisionsRequest) ([]target, error) {
		return one(s.every("decision", r.GetFilter().GetTenant()))
	}),
	adminv1.DecisionService_ListShadowDifferences_FullMethodName: about("decisions.list", func(s *scope, _ *adminv1.ListShadowDifferencesRequest) ([]target, error) {
		return one(s.every("decision", ""))
	}),
	// Whose a decision is, the service looks up, and shows nobody another tenant's.
	adminv1.DecisionService_GetDecision_FullMethodName: about("decisions.get", func(s *scope, r *adminv1.GetDecisionRequest) ([]target, error) {
		t := s.every("decision", "")
		t.id = r.GetDecisionId()
		return one(t)
	}),

	// Which policy is in force is everybody's to know who operates something here. Drafts
	// are for the installation's own principals: they take its processors.
	adminv1.PolicyService_GetPolicy_FullMethodName: about("policy.get", func(s *scope, _ *adminv1.GetPolicyRequest) ([]target, error) {
		return one(target{kind: "policy", tenant: s.caller.principal.Tenant})
	}),
	adminv1.PolicyService_TryPolicy_FullMethodName: about("policy.try", func(*scope, *adminv1.TryPolicyRequest) ([]target, error) {
		return one(target{kind: "policy"})
	}),
}

// asking makes a method of a function that says what a request comes to.
func asking[R any](actions []string, asks func(*scope, R) ([]ask, error)) method {
	return method{actions, func(s *scope, req any) ([]ask, error) {
		r, ok := req.(R)
		if !ok {
			return nil, fmt.Errorf("%T is not what the method takes", req)
		}
		return asks(s, r)
	}}
}

// about makes a method of one action and a function that says on what it is done.
func about[R any](action string, targets func(*scope, R) ([]target, error)) method {
	return asking([]string{action}, func(s *scope, r R) ([]ask, error) {
		list, err := targets(s, r)
		asks := make([]ask, len(list))
		for i, t := range list {
			asks[i] = ask{action: action, target: t}
		}
		return asks, err
	})
}

// found makes a method of one action on one record, which a function looks up.
func found[R any](action string, look func(*scope, R) (target, error)) method {
	return asking([]string{action}, func(s *scope, r R) ([]ask, error) {
		t, err := look(s, r)
		return []ask{{action: action, target: t, found: true}}, err
	})
}

func aboutCredential(action string) method {
	return found(action, func(s *scope, r interface{ GetId() string }) (target, error) { return s.credential(r.GetId()) })
}

func aboutApproval(action string) method {
	return found(action, func(s *scope, r interface{ GetId() string }) (target, error) { return s.approval(r.GetId()) })
}

func aboutConsent(action string) method {
	return found(action, func(s *scope, r interface{ GetId() string }) (target, error) { return s.consent(r.GetId()) })
}

func one(t target) ([]target, error) { return []target{t}, nil }

// scope is the call whose records are looked for.
type scope struct {
	ctx      context.Context
	registry *registry.Registry
	budgets  Budgets
	caller   *call
}

// String is the target as the audit log has it: "credential/4fQzR8xW0bLm".
func (t target) String() string {
	switch {
	case t.kind == "":
		return ""
	case t.id == "":
		return t.kind
	case t.kind == "principal":
		return t.kind + "/" + store.PrincipalKey(t.tenant, t.id)
	}
	return t.kind + "/" + t.id
}

// credential looks a credential up. Another tenant's is not found.
func (s *scope) credential(id string) (target, error) {
	if id == "" {
		return target{}, required("id")
	}
	c, err := s.registry.GetCredential(s.ctx, s.caller.Actor, id)
	if err != nil {
		return target{}, err
	}
	return target{kind: "credential", id: id, tenant: c.Tenant, principal: c.Principal, sort: string(c.Type)}, nil
}

// session looks a session up.
func (s *scope) session(id string) (target, error) {
	if id == "" {
		return target{}, required("id")
	}
	found, err := s.registry.GetSession(s.ctx, s.caller.Actor, id)
	if err != nil {
		return target{}, err
	}
	return target{kind: "session", id: id, tenant: found.Tenant, principal: found.Principal}, nil
}

func required(field string) error {
	var v invalid
	v.add(field, "is required")
	return v.err()
}

// every is all of a kind in a tenant. Without one it is those of all tenants, or of
// the caller's own, to which the registry holds who has one.
func (s *scope) every(kind, tenant string) target {
	return target{kind: kind, tenant: cmp.Or(s.caller.tenant(tenant), everyTenant)}
}

// listing is what a list of what belongs to principals is about: a principal's own,
// where the request names one.
func (s *scope) listing(kind string, r interface {
	GetTenant() string
	GetPrincipalId() string
}) target {
	if id := r.GetPrincipalId(); id != "" {
		return target{kind: kind, tenant: s.caller.tenant(r.GetTenant()), principal: id}
	}
	return s.every(kind, r.GetTenant())
}

// credentialToBe is a credential that is to be made.
func credentialToBe(c *adminv1.Credential) target {
	return target{
		kind: "credential", tenant: c.GetTenant(), principal: c.GetPrincipalId(),
		sort: string(credentialTypes[c.GetType()]),
	}
}

func principalNamed(p interface {
	GetTenant() string
	GetId() string
}) target {
	return target{kind: "principal", id: p.GetId(), tenant: p.GetTenant(), principal: p.GetId()}
}

// tenantNamed is a tenant, which is its own.
func tenantNamed(t interface{ GetId() string }) target {
	return target{kind: "tenant", id: t.GetId(), tenant: t.GetId()}
}

// distinct are the targets of a batch, each once: most batches are about few
// principals, and the policy does not ask which of their records it is.
func distinct[T any](field string, list []T, of func(T) (target, error)) ([]target, error) {
	if len(list) == 0 || len(list) > registry.MaxBatch {
		var v invalid
		v.add(field, fmt.Sprintf("must be 1 to %d", registry.MaxBatch))
		return nil, v.err()
	}
	seen := map[target]bool{}
	var all []target
	for _, item := range list {
		t, err := of(item)
		if err != nil {
			return nil, err
		}
		t.id = ""
		if !seen[t] {
			seen[t] = true
			all = append(all, t)
		}
	}
	return all, nil
}

// batchRevoke is about the credentials that are listed, or all of somebody.
func batchRevoke(s *scope, r *adminv1.BatchRevokeCredentialsRequest) ([]ask, error) {
	const action = "credentials.revoke"
	if len(r.GetIds()) > 0 {
		list, err := distinct("ids", r.GetIds(), s.credential)
		asks := make([]ask, len(list))
		for i, t := range list {
			asks[i] = ask{action: action, target: t, found: true}
		}
		return asks, err
	}
	if r.GetTenant() == "" && r.GetPrincipalId() == "" {
		return nil, required("ids")
	}
	return []ask{{action: action, target: target{kind: "credential", tenant: r.GetTenant(), principal: r.GetPrincipalId()}}}, nil
}

// usage is about one credential, those of a principal, or all. Counters cannot be
// asked for by "no tenant": that is those of all.
func usage(s *scope, r *adminv1.GetUsageRequest) ([]ask, error) {
	const action = "credentials.usage"
	if id := r.GetCredentialId(); id != "" {
		t, err := s.credential(id)
		return []ask{{action: action, target: t, found: true}}, err
	}
	t := s.listing("credential", r)
	if t.tenant == "" {
		t = s.every("credential", "")
	}
	return []ask{{action: action, target: t}}, nil
}

// createSession takes more where the caller vouches: without the user's password, or
// for how the user authenticated.
func createSession(_ *scope, r *adminv1.CreateSessionRequest) ([]ask, error) {
	n, action := r.GetSession(), "sessions.create"
	if r.GetPassword() == "" || len(n.GetAmr()) > 0 || n.GetAcr() != "" || n.GetAuthTime() != nil {
		action = "sessions.vouch"
	}
	return []ask{{action: action, target: target{kind: "session", tenant: n.GetTenant(), principal: n.GetPrincipalId()}}}, nil
}

// rotateSession takes more where the caller vouches for how the user authenticated
// meanwhile.
func rotateSession(s *scope, r *adminv1.RotateSessionRequest) ([]ask, error) {
	t, err := s.session(r.GetId())
	if err != nil {
		return nil, err
	}
	asks := []ask{{action: "sessions.rotate", target: t, found: true}}
	if len(r.GetAmr()) > 0 || r.GetAcr() != "" {
		asks = append(asks, ask{action: "sessions.vouch", target: t, found: true})
	}
	return asks, nil
}

// deleteSession is about one session, or all of a user.
func deleteSession(s *scope, r *adminv1.DeleteSessionRequest) ([]ask, error) {
	const action = "sessions.delete"
	switch {
	case r.GetId() != "" && r.GetPrincipalId() != "":
		var v invalid
		v.add("principal_id", "must be left out if id is set")
		return nil, v.err()
	case r.GetId() != "":
		t, err := s.session(r.GetId())
		return []ask{{action: action, target: t, found: true}}, err
	case r.GetPrincipalId() != "":
		return []ask{{action: action, target: target{kind: "session", tenant: r.GetTenant(), principal: r.GetPrincipalId()}}}, nil
	}
	return nil, required("id")
}

// agentAsks takes more where an agent is bound to a workload or a certificate: their names
// are everybody's to know, and who binds one of another tenant's takes its calls for its
// own agent's.
func agentAsks(action string, a *adminv1.Agent, binds bool) []ask {
	asks := []ask{{action: action, target: principalNamed(a)}}
	if binds {
		asks = append(asks, ask{action: "agents.bind", target: principalNamed(a)})
	}
	return asks
}

// bindsAgent reports whether an update names workloads or certificates. To take them away
// binds nothing.
func bindsAgent(r *adminv1.UpdateAgentRequest) bool {
	for _, path := range r.GetUpdateMask().GetPaths() {
		if a := r.GetAgent(); (path == "*" || path == "spiffe_ids") && len(a.GetSpiffeIds()) > 0 || (path == "*" || path == "certificates") && len(a.GetCertificates()) > 0 {
			return true
		}
	}
	return false
}

// addDenial is about the tenant that owns the line, which is the caller's own unless
// the request names one, and about the one whose tokens it revokes.
func addDenial(s *scope, r *adminv1.AddDenialRequest) ([]target, error) {
	d := r.GetDenial()
	owner := s.caller.tenant(d.GetTenant())
	all := []target{{kind: "denial", tenant: owner}}
	if of := d.GetOfTenant(); of != "" && of != owner {
		all = append(all, target{kind: "denial", tenant: of})
	}
	return all, nil
}
