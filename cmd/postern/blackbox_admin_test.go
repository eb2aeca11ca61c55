package main

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/hex"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	adminv1 "github.com/postern-auth/postern/gen/postern/admin/v1"
)

// The scenarios of the admin API that go over all of it: each method that changes
// something has a row in mutations, and a test fails as long as one of the descriptors
// has none.

// control is world "control" in a process of its own: two tenants, "acme" with somebody
// of each kind, and "rival" with an administrator.
type control struct {
	*replica
	conn  *grpc.ClientConn
	root  string // the key of the first administrator
	hana  string // a token of a user of acme who may approve
	rival string // the key of rival's administrator
	n     int
}

func launchControl(t testing.TB) *control {
	t.Helper()
	w := prepare(t, "control", "@STORE@", sqliteStore, "@MORE@", "")
	w.write(t, "one.key", hex.EncodeToString([]byte("thirty-two bytes for a signature")))
	w.bootstrap(t)
	c := &control{replica: launch(t, w), root: strings.TrimSpace(w.read(t, "admin.key"))}
	c.conn = dial(t, c.replica.admin)
	for _, tenant := range []string{"acme", "rival"} {
		does(t, c.tenants.CreateTenant, &adminv1.CreateTenantRequest{Tenant: &adminv1.Tenant{Id: tenant}})
		c.principal(t, &adminv1.Principal{Tenant: tenant, Id: "app", Kind: aService})
		c.principal(t, &adminv1.Principal{Tenant: tenant, Id: "boss", Kind: aService, Roles: []string{"tenant-admin"}})
	}
	c.principal(t, &adminv1.Principal{Tenant: "acme", Id: "ann", Kind: aUser})
	c.principal(t, &adminv1.Principal{Tenant: "acme", Id: "hana", Kind: aUser, Roles: []string{"approver"}})
	for _, id := range []string{"researcher", "coder"} {
		c.make(t, "AgentService/CreateAgent", &adminv1.CreateAgentRequest{Agent: &adminv1.Agent{Tenant: "acme", Id: id, TokenRoles: []string{"reader"}}})
	}
	_, c.rival = c.issue(t, &adminv1.Credential{Type: apiKey, Tenant: "rival", PrincipalId: "boss"})
	_, c.hana = c.issue(t, &adminv1.Credential{Type: pat, Tenant: "acme", PrincipalId: "hana", DisplayName: "desk"})
	return c
}

// invoke calls a method of the admin API by its name, as somebody.
func (c *control) invoke(t testing.TB, as, method string, req proto.Message) (res proto.Message, err error) {
	t.Helper()
	m := methodNamed(t, method)
	eventually(t, "an answer to "+method, func() bool {
		res = newMessage(t, m.Output())
		ctx := context.Background()
		if as != "" {
			ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+as)
		}
		err = c.conn.Invoke(ctx, "/postern.admin.v1."+method, req, res)
		c.said(c.withhold(proto.Clone(res)))
		return status.Code(err) != codes.Unavailable || reasonOf(err) != "UNAUTHENTICATED" && !strings.Contains(err.Error(), "could not be checked")
	})
	return res, err
}

// make calls it as root, who must succeed.
func (c *control) make(t testing.TB, method string, req proto.Message) proto.Message {
	t.Helper()
	res, err := c.invoke(t, c.root, method, req)
	if err != nil {
		t.Fatalf("%s: %v", method, err)
	}
	return res
}

// fresh is a name that nobody had before.
func (c *control) fresh() string { c.n++; return fmt.Sprintf("new-%d", c.n) }

// methodNamed is a method by "CredentialService/IssueCredential".
func methodNamed(t testing.TB, name string) protoreflect.MethodDescriptor {
	t.Helper()
	d, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName("postern.admin.v1." + strings.Replace(name, "/", ".", 1)))
	if err != nil {
		t.Fatal(name, err)
	}
	return d.(protoreflect.MethodDescriptor)
}

func newMessage(t testing.TB, d protoreflect.MessageDescriptor) proto.Message {
	t.Helper()
	m, err := protoregistry.GlobalTypes.FindMessageByName(d.FullName())
	if err != nil {
		t.Fatal(err)
	}
	return m.New().Interface()
}

// looking are the methods that change nothing, besides those that begin with Get, List
// or Watch. What is in neither has to be in mutations.
var looking = []string{"PolicyService/TryPolicy"}

// changing are the methods of the admin API that change something.
func changing() (names []string) {
	protoregistry.GlobalFiles.RangeFilesByPackage("postern.admin.v1", func(f protoreflect.FileDescriptor) bool {
		for i := range f.Services().Len() {
			s := f.Services().Get(i)
			for j := range s.Methods().Len() {
				name := string(s.Methods().Get(j).Name())
				full := string(s.Name()) + "/" + name
				if looks := regexp.MustCompile(`^(Get|List|Watch)[A-Z]`).MatchString(name); !looks && !slices.Contains(looking, full) {
					names = append(names, full)
				}
			}
		}
		return true
	})
	slices.Sort(names)
	return names
}

// mutation makes a request that root, or the caller, may make, with all that it needs
// already there.
type mutation struct {
	as      func(c *control) string // nil: root
	request func(t testing.TB, c *control) proto.Message
	// records is how many records a call about several of them changes; each has an entry
	// of its own then, besides that of the call.
	records int
}

func (m mutation) by(c *control) string {
	if m.as == nil {
		return c.root
	}
	return m.as(c)
}

// mutations has a row for each of them, all on records of acme.
var mutations = map[string]mutation{
	"CredentialService/IssueCredential": {request: func(testing.TB, *control) proto.Message {
		return &adminv1.IssueCredentialRequest{Credential: &adminv1.Credential{Type: apiKey, Tenant: "acme", PrincipalId: "app"}}
	}},
	"CredentialService/ImportCredentials": {records: 1, request: func(testing.TB, *control) proto.Message {
		return &adminv1.ImportCredentialsRequest{Credentials: []*adminv1.ImportedCredential{{
			Credential: &adminv1.Credential{Type: opaque, Tenant: "acme", PrincipalId: "app"}, Known: &adminv1.ImportedCredential_Secret{Secret: foreign()},
		}}}
	}},
	"CredentialService/UpdateCredential": {request: func(t testing.TB, c *control) proto.Message {
		return &adminv1.UpdateCredentialRequest{Credential: &adminv1.Credential{Id: c.newKey(t), DisplayName: "x"}, UpdateMask: mask("display_name")}
	}},
	"CredentialService/RotateCredential": {request: func(t testing.TB, c *control) proto.Message {
		return &adminv1.RotateCredentialRequest{Id: c.newKey(t)}
	}},
	"CredentialService/RenewCredential": {request: func(t testing.TB, c *control) proto.Message {
		return &adminv1.RenewCredentialRequest{Id: c.newKey(t)}
	}},
	"CredentialService/DisableCredential": {request: func(t testing.TB, c *control) proto.Message {
		return &adminv1.DisableCredentialRequest{Id: c.newKey(t)}
	}},
	"CredentialService/EnableCredential": {request: func(t testing.TB, c *control) proto.Message {
		id := c.newKey(t)
		c.make(t, "CredentialService/DisableCredential", &adminv1.DisableCredentialRequest{Id: id})
		return &adminv1.EnableCredentialRequest{Id: id}
	}},
	"CredentialService/RevokeCredential": {request: func(t testing.TB, c *control) proto.Message {
		return &adminv1.RevokeCredentialRequest{Id: c.newKey(t)}
	}},
	"CredentialService/BatchRevokeCredentials": {records: 2, request: func(t testing.TB, c *control) proto.Message {
		return &adminv1.BatchRevokeCredentialsRequest{Ids: []string{c.newKey(t), c.newKey(t)}}
	}},
	"PrincipalService/CreatePrincipal": {request: func(_ testing.TB, c *control) proto.Message {
		return &adminv1.CreatePrincipalRequest{Principal: &adminv1.Principal{Tenant: "acme", Id: c.fresh(), Kind: aService}}
	}},
	"PrincipalService/UpdatePrincipal": {request: func(testing.TB, *control) proto.Message {
		return &adminv1.UpdatePrincipalRequest{Principal: &adminv1.Principal{Tenant: "acme", Id: "app", DisplayName: "x"}, UpdateMask: mask("display_name")}
	}},
	"PrincipalService/DeletePrincipal": {request: func(t testing.TB, c *control) proto.Message {
		id := c.fresh()
		c.principal(t, &adminv1.Principal{Tenant: "acme", Id: id, Kind: aService})
		return &adminv1.DeletePrincipalRequest{Tenant: "acme", Id: id}
	}},
	"UserService/SetPassword": {request: func(testing.TB, *control) proto.Message {
		return &adminv1.SetPasswordRequest{Tenant: "acme", Id: "ann", Password: annsPassword}
	}},
	"UserService/ImportUsers": {records: 1, request: func(_ testing.TB, c *control) proto.Message {
		return &adminv1.ImportUsersRequest{Users: []*adminv1.ImportedUser{{User: &adminv1.Principal{Tenant: "acme", Id: c.fresh(), Kind: aUser}}}}
	}},
	"AgentService/CreateAgent": {request: func(_ testing.TB, c *control) proto.Message {
		return &adminv1.CreateAgentRequest{Agent: &adminv1.Agent{Tenant: "acme", Id: c.fresh()}}
	}},
	"AgentService/UpdateAgent": {request: func(t testing.TB, c *control) proto.Message {
		return &adminv1.UpdateAgentRequest{Agent: &adminv1.Agent{Tenant: "acme", Id: c.newAgent(t), Purpose: "x"}, UpdateMask: mask("purpose")}
	}},
	"AgentService/DisableAgent": {request: func(t testing.TB, c *control) proto.Message {
		return &adminv1.DisableAgentRequest{Tenant: "acme", Id: c.newAgent(t)}
	}},
	"AgentService/EnableAgent": {request: func(t testing.TB, c *control) proto.Message {
		id := c.newAgent(t)
		c.make(t, "AgentService/DisableAgent", &adminv1.DisableAgentRequest{Tenant: "acme", Id: id})
		return &adminv1.EnableAgentRequest{Tenant: "acme", Id: id}
	}},
	"AgentService/DecommissionAgent": {request: func(t testing.TB, c *control) proto.Message {
		return &adminv1.DecommissionAgentRequest{Tenant: "acme", Id: c.newAgent(t)}
	}},
	"SessionService/CreateSession": {request: func(testing.TB, *control) proto.Message {
		return &adminv1.CreateSessionRequest{Session: &adminv1.Session{Tenant: "acme", PrincipalId: "ann", Amr: []string{"pwd"}}}
	}},
	"SessionService/RotateSession": {request: func(t testing.TB, c *control) proto.Message {
		return &adminv1.RotateSessionRequest{Id: c.newSession(t), Amr: []string{"otp"}}
	}},
	"SessionService/DeleteSession": {request: func(t testing.TB, c *control) proto.Message {
		return &adminv1.DeleteSessionRequest{Id: c.newSession(t)}
	}},
	"TenantService/CreateTenant": {request: func(_ testing.TB, c *control) proto.Message {
		return &adminv1.CreateTenantRequest{Tenant: &adminv1.Tenant{Id: c.fresh()}}
	}},
	"TenantService/UpdateTenant": {request: func(testing.TB, *control) proto.Message {
		return &adminv1.UpdateTenantRequest{Tenant: &adminv1.Tenant{Id: "acme", DisplayName: "x"}, UpdateMask: mask("display_name")}
	}},
	"TenantService/DeleteTenant": {request: func(t testing.TB, c *control) proto.Message {
		id := c.fresh()
		does(t, c.tenants.CreateTenant, &adminv1.CreateTenantRequest{Tenant: &adminv1.Tenant{Id: id}})
		c.make(t, "TenantService/UpdateTenant", &adminv1.UpdateTenantRequest{Tenant: &adminv1.Tenant{Id: id, Disabled: true}, UpdateMask: mask("disabled")})
		return &adminv1.DeleteTenantRequest{Id: id}
	}},
	"DenylistService/AddDenial": {request: func(_ testing.TB, c *control) proto.Message {
		return &adminv1.AddDenialRequest{Denial: &adminv1.Denial{Tenant: "acme", What: &adminv1.Denial_Jti{Jti: c.fresh()}}}
	}},
	"DenylistService/RemoveDenial": {request: func(t testing.TB, c *control) proto.Message {
		return &adminv1.RemoveDenialRequest{Id: does(t, c.denylist.AddDenial, &adminv1.AddDenialRequest{
			Denial: &adminv1.Denial{Tenant: "acme", What: &adminv1.Denial_Jti{Jti: c.fresh()}},
		}).GetDenial().GetId()}
	}},
	"TokenService/IssueAgentToken": {request: func(testing.TB, *control) proto.Message {
		return &adminv1.IssueAgentTokenRequest{TenantId: "acme", AgentId: "researcher", Role: "reader"}
	}},
	"TokenService/ExchangeToken": {request: func(t testing.TB, c *control) proto.Message {
		return &adminv1.ExchangeTokenRequest{SubjectToken: c.agentToken(t, "researcher").GetSecret(), ActorToken: c.agentToken(t, "coder").GetSecret()}
	}},
	"TokenService/RevokeAgentToken": {request: func(t testing.TB, c *control) proto.Message {
		return &adminv1.RevokeAgentTokenRequest{TenantId: "acme", Jti: c.agentToken(t, "researcher").GetToken().GetJti()}
	}},
	"BudgetService/SetLimit": {request: func(t testing.TB, c *control) proto.Message {
		c.expect(t, withKey("/counted", c.keySecret(t)), 200, "allowed")
		all := c.make(t, "BudgetService/ListBudgets", &adminv1.ListBudgetsRequest{Tenant: "acme"}).(*adminv1.ListBudgetsResponse).GetBudgets()
		if len(all) == 0 {
			t.Fatal("there is no account")
		}
		return &adminv1.SetLimitRequest{Id: all[0].GetId(), Limit: 500}
	}},
	"ApprovalService/RequestApproval": {request: func(t testing.TB, c *control) proto.Message { return c.wish(t) }},
	"ApprovalService/ApproveApproval": {as: (*control).approver, request: func(t testing.TB, c *control) proto.Message {
		return &adminv1.ApproveApprovalRequest{Id: c.wished(t)}
	}},
	"ApprovalService/DenyApproval": {as: (*control).approver, request: func(t testing.TB, c *control) proto.Message {
		return &adminv1.DenyApprovalRequest{Id: c.wished(t)}
	}},
	"ApprovalService/WithdrawApproval": {request: func(t testing.TB, c *control) proto.Message {
		return &adminv1.WithdrawApprovalRequest{Id: c.wished(t)}
	}},
	"ConsentService/GrantConsent": {request: func(_ testing.TB, c *control) proto.Message { return c.consent() }},
	"ConsentService/WithdrawConsent": {request: func(t testing.TB, c *control) proto.Message {
		given := c.make(t, "ConsentService/GrantConsent", c.consent()).(*adminv1.GrantConsentResponse)
		return &adminv1.WithdrawConsentRequest{Id: given.GetConsent().GetId()}
	}},
}

func (c *control) approver() string { return c.hana }

func mask(paths ...string) *fieldmaskpb.FieldMask { return &fieldmaskpb.FieldMask{Paths: paths} }

// newKey issues a key that can be renewed.
func (c *control) newKey(t testing.TB) string {
	t.Helper()
	id, _ := c.issue(t, &adminv1.Credential{
		Type: apiKey, Tenant: "acme", PrincipalId: "app", Expiration: &adminv1.Credential_Ttl{Ttl: days(10)}, RenewPeriod: days(10), MaxExpireTime: inDays(80),
	})
	return id
}

func (c *control) keySecret(t testing.TB) string {
	t.Helper()
	_, secret := c.issue(t, &adminv1.Credential{Type: apiKey, Tenant: "acme", PrincipalId: "app"})
	return secret
}

func (c *control) newAgent(t testing.TB) string {
	t.Helper()
	id := c.fresh()
	c.make(t, "AgentService/CreateAgent", &adminv1.CreateAgentRequest{Agent: &adminv1.Agent{Tenant: "acme", Id: id}})
	return id
}

func (c *control) newSession(t testing.TB) string {
	t.Helper()
	return does(t, c.sessions.CreateSession, &adminv1.CreateSessionRequest{Session: &adminv1.Session{Tenant: "acme", PrincipalId: "ann"}}).GetCreated().GetSession().GetId()
}

func (c *control) agentToken(t testing.TB, agent string) *adminv1.IssueAgentTokenResponse {
	t.Helper()
	res := c.make(t, "TokenService/IssueAgentToken", &adminv1.IssueAgentTokenRequest{TenantId: "acme", AgentId: agent, Role: "reader"}).(*adminv1.IssueAgentTokenResponse)
	c.hide(res.GetSecret())
	return res
}

// wish asks for the approval of a request that a key of acme's was denied.
func (c *control) wish(t testing.TB) *adminv1.RequestApprovalRequest {
	t.Helper()
	q := get("/external/"+c.fresh(), "content-type", "application/json").bearing(c.keySecret(t)).posting(`{"amount":1}`)
	var a answer
	eventually(t, "a proposal", func() bool { a = c.askEnvoy(t, q); return a.reason == "approval_required" })
	return &adminv1.RequestApprovalRequest{Proposal: proposed(t, a)}
}

func (c *control) wished(t testing.TB) string {
	t.Helper()
	return c.make(t, "ApprovalService/RequestApproval", c.wish(t)).(*adminv1.RequestApprovalResponse).GetApproval().GetId()
}

func (c *control) consent() *adminv1.GrantConsentRequest {
	return &adminv1.GrantConsentRequest{Consent: &adminv1.Consent{Tenant: "acme", PrincipalId: "ann", ActorId: c.fresh(), Scopes: []string{"read"}, Evidence: "a form"}}
}

// mark makes a change and returns its number: numbers have no gaps, so what happened
// between two marks is known.
func (c *control) mark(t testing.TB) int64 {
	t.Helper()
	return does(t, c.denylist.AddDenial, &adminv1.AddDenialRequest{Denial: &adminv1.Denial{What: &adminv1.Denial_Jti{Jti: c.fresh()}}}).GetChange().GetNumber()
}

// unchanged fails if anything has been changed since a mark.
func (c *control) unchanged(t testing.TB, since int64) {
	t.Helper()
	if now := c.mark(t); now != since+1 {
		t.Errorf("%d changes were made", now-since-1)
	}
}

// trailFrom are the entries of the audit log behind one.
func (c *control) trailFrom(t testing.TB, sequence int64) (entries []*adminv1.AuditEntry) {
	t.Helper()
	for _, e := range does(t, c.trail.ListAuditEntries, &adminv1.ListAuditEntriesRequest{PageSize: 20}).GetEntries() {
		if e.GetSequence() > sequence {
			entries = append(entries, e)
		}
	}
	return entries
}

func (c *control) trailEnd(t testing.TB) int64 {
	t.Helper()
	return does(t, c.trail.ListAuditEntries, &adminv1.ListAuditEntriesRequest{PageSize: 1}).GetEntries()[0].GetSequence()
}

// ADMIN-10: each change has exactly one entry in the audit log, of the same transaction,
// that says who, what and when.
func TestEveryChangeIsNoted(t *testing.T) {
	t.Parallel()
	if want, got := changing(), slices.Sorted(maps.Keys(mutations)); !slices.Equal(want, got) {
		t.Fatalf("methods that change something:\n%s\nthose with a row in mutations:\n%s", want, got)
	}
	c := launchControl(t)
	for _, method := range changing() {
		m := mutations[method]
		req := m.request(t, c)
		end := c.trailEnd(t)
		res, err := c.invoke(t, m.by(c), method, req)
		if err != nil {
			t.Errorf("%s: %v", method, err)
			continue
		}
		change := res.(interface{ GetChange() *adminv1.Change }).GetChange()
		c.noted(t, method, m, c.trailFrom(t, end), change)

		// What is only looked at is neither done nor noted.
		if f := req.ProtoReflect().Descriptor().Fields().ByName("validate_only"); f != nil {
			again := m.request(t, c)
			again.ProtoReflect().Set(f, protoreflect.ValueOfBool(true))
			end, before := c.trailEnd(t), c.mark(t)
			if _, err := c.invoke(t, m.by(c), method, again); err != nil {
				t.Errorf("%s, validate_only: %v", method, err)
			}
			c.unchanged(t, before)
			if n := len(c.trailFrom(t, end)); n != 2 { // those of the marks
				t.Errorf("%s, validate_only: %d entries", method, n-2)
			}
		}
	}
}

// noted expects the entries of one call. A token is signed, and nothing of it is kept but
// its entry: such a call changes no record.
func (c *control) noted(t testing.TB, method string, m mutation, entries []*adminv1.AuditEntry, change *adminv1.Change) {
	t.Helper()
	number := change.GetNumber()
	if method == "TokenService/IssueAgentToken" || method == "TokenService/ExchangeToken" {
		number = 0
	} else if number == 0 {
		t.Errorf("%s: it has no number", method)
	}
	if len(entries) != 1+m.records {
		t.Errorf("%s: %d entries: %v", method, len(entries), entries)
	}
	actor, targets := cmp.Or(map[string]string{c.hana: "acme/hana"}[m.by(c)], "/bootstrap"), map[string]bool{}
	for _, e := range entries {
		if e.GetChangeNumber() != number || e.GetDenied() || e.GetTime() == nil {
			t.Errorf("%s: change %v, noted as %v", method, change, e)
		}
		if e.GetActor() != actor || e.GetCredentialId() == "" || e.GetAction() == "" {
			t.Errorf("%s: it does not say who or what: %v", method, e)
		}
		if e.GetTarget() != "" {
			targets[e.GetTarget()] = true
		}
	}
	if len(targets) != max(1, m.records) {
		t.Errorf("%s: it does not say what was changed: %v", method, entries)
	}
}

// ADMIN-10: what cannot be noted is not done.
func TestWithoutTrailNothingChanges(t *testing.T) {
	t.Parallel()
	c := launchControl(t)
	ready := map[string]proto.Message{}
	for _, method := range changing() {
		ready[method] = mutations[method].request(t, c)
	}
	before := c.mark(t)
	c.statement(t, `CREATE TRIGGER audit_is_down BEFORE INSERT ON audit BEGIN SELECT RAISE(ABORT, 'the audit log is down'); END`)
	for _, method := range changing() {
		_, err := c.invoke(t, mutations[method].by(c), method, ready[method])
		if code := status.Code(err); code != codes.Internal && code != codes.Unavailable || strings.Contains(err.Error(), "audit") {
			t.Errorf("%s without an audit log: %v", method, err)
		}
	}
	c.statement(t, `DROP TRIGGER audit_is_down`)
	c.unchanged(t, before)
	for _, method := range []string{"PrincipalService/CreatePrincipal", "CredentialService/RevokeCredential"} {
		if _, err := c.invoke(t, mutations[method].by(c), method, ready[method]); err != nil {
			t.Errorf("%s afterwards: %v", method, err)
		}
	}
}

// statement changes the database under the server.
func (c *control) statement(t testing.TB, text string) {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+c.path("postern.db")+"?_pragma=busy_timeout(5000)")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	eventually(t, text, func() bool { _, err = db.Exec(text); return err == nil })
}

func days(n int) *durationpb.Duration { return durationpb.New(time.Duration(n) * 24 * time.Hour) }

func inDays(n int) *timestamppb.Timestamp {
	return timestamppb.New(time.Now().Add(time.Duration(n) * 24 * time.Hour))
}

// ADMIN-01: whoever administers a tenant changes nothing of another one, by no method,
// and is not told what is there.
func TestNoTenantReachesAnother(t *testing.T) {
	t.Parallel()
	c := launchControl(t)
	ready := map[string]proto.Message{}
	for _, method := range changing() {
		ready[method] = mutations[method].request(t, c)
	}
	before := c.mark(t)
	for _, method := range changing() {
		_, err := c.invoke(t, c.rival, method, ready[method])
		if code := status.Code(err); code != codes.PermissionDenied && code != codes.NotFound && !(code == codes.InvalidArgument && method == "TokenService/ExchangeToken") {
			t.Errorf("%s by another tenant: %v", method, err)
		}
	}
	// What is there, and what is not, has one answer.
	for _, method := range slices.Sorted(maps.Keys(ready)) {
		req := ready[method]
		if f := req.ProtoReflect().Descriptor().Fields().ByName("id"); f != nil && f.Kind() == protoreflect.StringKind {
			absent := proto.Clone(req)
			absent.ProtoReflect().Set(f, protoreflect.ValueOfString("AbsentAbsent"))
			_, there := c.invoke(t, c.rival, method, req)
			_, none := c.invoke(t, c.rival, method, absent)
			if !proto.Equal(status.Convert(there).Proto(), status.Convert(none).Proto()) {
				t.Errorf("%s of what is there: %v; of what is not: %v", method, status.Convert(there).Proto(), status.Convert(none).Proto())
			}
		}
	}
	c.unchanged(t, before)
	c.listsNothing(t)
	c.unchanged(t, before+1)
}

// listsNothing has rival's administrator look for what is acme's, by filters and by the
// tokens of pages that others got.
func (c *control) listsNothing(t testing.TB) {
	t.Helper()
	rival := c.as(t, c.rival)
	refuses(t, rival.credentials.ListCredentials, &adminv1.ListCredentialsRequest{Tenant: "acme"}, codes.PermissionDenied, "PERMISSION_DENIED")
	refuses(t, rival.principals.ListPrincipals, &adminv1.ListPrincipalsRequest{Tenant: "acme"}, codes.PermissionDenied, "PERMISSION_DENIED")
	refuses(t, rival.sessions.ListSessions, &adminv1.ListSessionsRequest{Tenant: "acme"}, codes.PermissionDenied, "PERMISSION_DENIED")
	refuses(t, rival.denylist.ListDenials, &adminv1.ListDenialsRequest{Tenant: "acme"}, codes.PermissionDenied, "PERMISSION_DENIED")
	refuses(t, rival.trail.ListAuditEntries, &adminv1.ListAuditEntriesRequest{Tenant: "acme"}, codes.PermissionDenied, "PERMISSION_DENIED")
	refuses(t, rival.principals.GetPrincipal, &adminv1.GetPrincipalRequest{Tenant: "acme", Id: "app"}, codes.PermissionDenied, "PERMISSION_DENIED")
	refuses(t, rival.principals.GetPrincipal, &adminv1.GetPrincipalRequest{Tenant: "acme", Id: "nobody"}, codes.PermissionDenied, "PERMISSION_DENIED")
	for _, r := range does(t, rival.credentials.ListCredentials, &adminv1.ListCredentialsRequest{}).GetCredentials() {
		if r.GetTenant() != "rival" {
			t.Errorf("rival sees %v", r)
		}
	}
	for _, e := range does(t, rival.trail.ListAuditEntries, &adminv1.ListAuditEntriesRequest{PageSize: 1000}).GetEntries() {
		if e.GetTenant() != "rival" {
			t.Errorf("rival sees the entry %v", e)
		}
	}
	token := does(t, c.credentials.ListCredentials, &adminv1.ListCredentialsRequest{Tenant: "acme", PageSize: 1}).GetNextPageToken()
	for _, q := range []*adminv1.ListCredentialsRequest{{PageToken: token}, {PageToken: token, Tenant: "rival"}, {PageToken: token, Tenant: "rival", PageSize: 1}} {
		refuses(t, rival.credentials.ListCredentials, q, codes.InvalidArgument, "INVALID_FIELD")
	}
	refuses(t, rival.credentials.ListCredentials, &adminv1.ListCredentialsRequest{PageToken: token, Tenant: "acme"}, codes.PermissionDenied, "PERMISSION_DENIED")
}

// ADMIN-01: a key that may issue keys gives away no scope that it does not have itself.
func TestScopesAreNotMultiplied(t *testing.T) {
	t.Parallel()
	c := launchControl(t)
	c.principal(t, &adminv1.Principal{
		Tenant: "acme", Id: "clerk", Kind: aService, Scopes: []string{"a"},
		Permissions: []string{"postern.credentials.issue", "postern.credentials.update", "postern.credentials.import", "postern.principals.update", "postern.principals.create"},
	})
	_, key := c.issue(t, &adminv1.Credential{Type: apiKey, Tenant: "acme", PrincipalId: "clerk"})
	clerk := c.as(t, key)
	given, _ := clerk.issue(t, &adminv1.Credential{Type: apiKey, Tenant: "acme", PrincipalId: "app", Scopes: []string{"a"}})
	before := c.mark(t)
	for _, scopes := range [][]string{{"a", "b"}, {"b"}, {"*"}, {"a*"}, {"a", "a:b"}} {
		bad := &adminv1.Credential{Type: apiKey, Tenant: "acme", PrincipalId: "app", Scopes: scopes}
		_, err := sighted(t, clerk.credentials.IssueCredential, &adminv1.IssueCredentialRequest{Credential: bad, AllowWildcard: true})
		c.denies(t, fmt.Sprintf("issues %s", scopes), err)
		_, err = sighted(t, clerk.credentials.UpdateCredential, &adminv1.UpdateCredentialRequest{
			Credential: &adminv1.Credential{Id: given, Scopes: scopes}, UpdateMask: mask("scopes"), AllowWildcard: true,
		})
		c.denies(t, fmt.Sprintf("updates to %s", scopes), err)
		_, err = sighted(t, clerk.credentials.ImportCredentials, &adminv1.ImportCredentialsRequest{AllowWildcard: true, Credentials: []*adminv1.ImportedCredential{
			{Credential: bad, Known: &adminv1.ImportedCredential_Secret{Secret: foreign()}},
		}})
		c.denies(t, fmt.Sprintf("imports %s", scopes), err)
		_, err = sighted(t, clerk.principals.UpdatePrincipal, &adminv1.UpdatePrincipalRequest{
			Principal: &adminv1.Principal{Tenant: "acme", Id: "clerk", Scopes: scopes}, UpdateMask: mask("scopes"), AllowWildcard: true,
		})
		c.denies(t, fmt.Sprintf("gives itself %s", scopes), err)
		_, err = sighted(t, clerk.principals.CreatePrincipal, &adminv1.CreatePrincipalRequest{
			Principal: &adminv1.Principal{Tenant: "acme", Id: c.fresh(), Kind: aService, Scopes: scopes}, AllowWildcard: true,
		})
		c.denies(t, fmt.Sprintf("makes somebody with %s", scopes), err)
	}
	for _, role := range []string{"tenant-admin", "platform-admin", "issuer"} {
		_, err := sighted(t, clerk.credentials.IssueCredential, &adminv1.IssueCredentialRequest{
			Credential: &adminv1.Credential{Type: apiKey, Tenant: "acme", PrincipalId: "app", Roles: []string{role}},
		})
		c.denies(t, "issues the role "+role, err)
	}
	c.unchanged(t, before)
}

// denies expects a refusal, and not a fault. A right that is written in a way that no
// right can be is an invalid argument.
func (c *control) denies(t testing.TB, what string, err error) {
	t.Helper()
	if code := status.Code(err); code != codes.PermissionDenied && code != codes.InvalidArgument {
		t.Errorf("%s: %v", what, err)
	}
}
