package admin_test

import (
	"crypto/x509"
	"net/url"
	"strings"
	"testing"
	"testing/fstest"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	adminv1 "github.com/postern-auth/postern/gen/postern/admin/v1"
	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/admin"
	"github.com/postern-auth/postern/server/registry"
	"github.com/postern-auth/postern/server/signer"
)

// certified is a leaf as a handshake leaves it.
func certified(t *testing.T, id string) []*x509.Certificate {
	t.Helper()
	uri, err := url.Parse(id)
	if err != nil {
		t.Fatal(err)
	}
	return []*x509.Certificate{{Raw: []byte("leaf"), URIs: []*url.URL{uri}}, {Raw: []byte("authority")}}
}

// A caller can be the workload of its certificate: what the handshake has verified goes
// to the checker, nothing that was only shown does, and the audit log names the workload
// apart from a principal of that name.
func TestCallerByCertificate(t *testing.T) {
	t.Parallel()
	d := open(t)
	ops := &policy.Principal{
		ID: "spiffe://acme.example/ops", Kind: policy.KindService, Roles: []string{"platform-admin"},
		Method: policy.MethodMTLS, Issuer: "spiffe://acme.example", CredentialID: strings.Repeat("0a", 32),
	}
	d.mu.Lock()
	d.overTLS = true
	d.answer = func(a *policy.Attributes) policy.Decision {
		if len(a.Connection) == 0 {
			return policy.Decision{Reason: policy.ReasonCredentialMissing}
		}
		return policy.Decision{
			Allowed: true, Reason: policy.ReasonAllowed, Principal: ops,
			Peer: &policy.Peer{ID: ops.ID, TrustDomain: "acme.example", Fingerprint: ops.CredentialID},
		}
	}
	d.mu.Unlock()
	tenants := adminv1.NewTenantServiceClient(d.as(""))
	_, err := tenants.CreateTenant(t.Context(), &adminv1.CreateTenantRequest{Tenant: &adminv1.Tenant{Id: "acme"}})
	fails(t, "a certificate that nobody has verified", err, codes.Unauthenticated, "UNAUTHENTICATED")

	d.mu.Lock()
	d.chain = certified(t, ops.ID)
	d.mu.Unlock()
	must[*adminv1.CreateTenantResponse](t)(tenants.CreateTenant(t.Context(), &adminv1.CreateTenantRequest{Tenant: &adminv1.Tenant{Id: "acme"}}))
	d.mu.Lock()
	seen := d.asked[len(d.asked)-1]
	d.mu.Unlock()
	if len(seen.Connection) != 2 || string(seen.Connection[0].Raw) != "leaf" || seen.Source.Principal != "" || seen.Source.Certificate != "" {
		t.Errorf("%+v", seen.Source)
	}
	log := must[*adminv1.ListAuditEntriesResponse](t)(adminv1.NewAuditServiceClient(d.as("")).ListAuditEntries(t.Context(), &adminv1.ListAuditEntriesRequest{Action: "tenant.create"}))
	if e := log.GetEntries()[0]; e.GetActor() != "/spiffe://acme.example#spiffe://acme.example/ops" || e.GetCredentialId() != ops.CredentialID {
		t.Errorf("%v", e)
	}

	// a key that is bound to a workload is good over its connection.
	for name, tt := range map[string]struct {
		peers []string
		code  codes.Code
	}{
		"id":          {[]string{ops.ID}, codes.OK},
		"fingerprint": {[]string{"sha256:" + ops.CredentialID}, codes.OK},
		"another":     {[]string{"spiffe://acme.example/app"}, codes.Unauthenticated},
	} {
		d.mu.Lock()
		d.limits["answer"] = &policy.Constraints{Peers: tt.peers}
		d.mu.Unlock()
		if _, err := tenants.ListTenants(t.Context(), &adminv1.ListTenantsRequest{}); status.Code(err) != tt.code {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// P-13: a token that is a JWT is asked for by its form, and comes as one.
func TestIssueJWT(t *testing.T) {
	t.Parallel()
	d := open(t)
	root := d.furnish()
	jwt := adminv1.CredentialFormat_CREDENTIAL_FORMAT_JWT
	ask := func(kind adminv1.CredentialType, principal string, format adminv1.CredentialFormat) (*adminv1.IssueCredentialResponse, error) {
		return root.IssueCredential(t.Context(), &adminv1.IssueCredentialRequest{Credential: &adminv1.Credential{
			Type: kind, Tenant: "acme", PrincipalId: principal, DisplayName: "x", Format: format,
		}})
	}
	_, err := ask(pat, "ann", jwt)
	if meta := fails(t, "without keys", err, codes.FailedPrecondition, "NOT_CONFIGURED"); meta["field"] != "format" {
		t.Errorf("%v", meta)
	}
	s, err := signer.New(signer.Config{
		Issuer: "https://auth.example.com", Keys: []signer.KeyConfig{{ID: "k1", Key: policy.NewSecret(strings.Repeat("ab", 21) + "A")}},
	}, signer.Deps{})
	if err != nil {
		t.Fatal(err)
	}
	d.signer = s
	issued := must[*adminv1.IssueCredentialResponse](t)(ask(pat, "ann", jwt))
	if !strings.HasPrefix(issued.GetSecret(), s.Heads(signer.TypePAT)[0]) || issued.GetCredential().GetFormat() != jwt {
		t.Errorf("%v", issued.GetCredential())
	}
	opaque := must[*adminv1.IssueCredentialResponse](t)(ask(pat, "ann", adminv1.CredentialFormat_CREDENTIAL_FORMAT_OPAQUE))
	if !strings.HasPrefix(opaque.GetSecret(), "pst_pat_") {
		t.Errorf("%v", opaque.GetCredential())
	}
	_, err = ask(key, "app", jwt)
	fails(t, "a key", err, codes.InvalidArgument, "INVALID_FIELD")
	_, err = ask(pat, "ann", 99)
	if meta := fails(t, "another form", err, codes.InvalidArgument, "INVALID_FIELD"); meta["allowed"] != "OPAQUE, JWT" {
		t.Errorf("%v", meta)
	}
}

// K-07: who revokes what was rotated hears of the successor, and can end it as well.
func TestRevokeNamesTheSuccessor(t *testing.T) {
	t.Parallel()
	d := open(t)
	root := d.furnish()
	old := d.issue(root, nil).GetCredential().GetId()
	next := must[*adminv1.RotateCredentialResponse](t)(root.RotateCredential(t.Context(), &adminv1.RotateCredentialRequest{Id: old})).GetCredential().GetId()
	res := must[*adminv1.RevokeCredentialResponse](t)(root.RevokeCredential(t.Context(), &adminv1.RevokeCredentialRequest{Id: old}))
	if res.GetLivingSuccessorId() != next || res.GetCascaded() != 0 {
		t.Errorf("%v", res)
	}
	res = must[*adminv1.RevokeCredentialResponse](t)(root.RevokeCredential(t.Context(), &adminv1.RevokeCredentialRequest{Id: old, Successors: true}))
	if res.GetLivingSuccessorId() != "" || res.GetCascaded() != 1 {
		t.Errorf("%v", res)
	}
}

// G-09: the roles that an installation adds are read strictly, and ranked: nobody grants
// one who does not have it, be they ever so unlimited elsewhere.
func TestRolesOfTheInstallation(t *testing.T) {
	t.Parallel()
	load := func(text string) (*admin.Policy, error) {
		return admin.LoadPolicy(t.Context(), fstest.MapFS{"roles.yaml": {Data: []byte("admin:\n  roles:\n" + text)}})
	}
	for text, part := range map[string]string{
		`    a: []`:              "admin.roles.a is no mapping",
		`    a: {action: ["*"]}`: "admin.roles.a.action is not a field",
		`    a: {actions: "*", reach: own, holders: users}`:                                "admin.roles.a.actions is no list",
		`    a: {actions: [credentials.isue], reach: own, holders: users}`:                 "admin.roles.a.actions[0] is no action",
		`    a: {actions: [cred*], reach: own, holders: users}`:                            "admin.roles.a.actions[0] is no action",
		`    a: {actions: [nothing.*], reach: own, holders: users}`:                        "admin.roles.a.actions[0] is no action",
		`    a: {actions: [7], reach: own, holders: users}`:                                "admin.roles.a.actions[0] is no action",
		`    a: {actions: ["*"], reach: everywhere, holders: users}`:                       "admin.roles.a.reach is one of all, tenant",
		`    a: {actions: ["*"], reach: own, holders: nobody}`:                             "admin.roles.a.holders is one of installation",
		`    a: {actions: ["*"], holders: users}`:                                          "admin.roles.a.reach is missing",
		`    a: {actions: ["*"], reach: own}`:                                              "admin.roles.a.holders is missing",
		`    a: {actions: ["*"], reach: own, holders: users, unlimited: "yes"}`:            "admin.roles.a.unlimited is true or false",
		`    a: {actions: ["*"], reach: own, holders: users, standing: ["credentials.*"]}`: "admin.roles.a.standing[0] is no action",
		"    a: {actions: [x], reach: own, holders: users}\n    b: {reach: x}":             "admin.roles.b.reach",
	} {
		if _, err := load(text); err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("%s: %v", text, err)
		}
	}
	if _, err := admin.LoadPolicy(t.Context(), fstest.MapFS{"x.yaml": {Data: []byte("admin: {roles: 7}")}}); err == nil {
		t.Error("a number of roles")
	}
	const roles = `    lead: {actions: ["credentials.*", "principals.*"], reach: tenant, holders: tenants, unlimited: true}
    owner: {actions: ["*"], reach: tenant, holders: tenants, unlimited: true, wildcard: true}
    operator: {actions: ["*"], reach: all, holders: installation}
    issuer: {}
`
	for _, tt := range []struct{ tables, by, role string }{
		{roles, "lead", "owner"},
		{roles, "boss", "operator"},
		{roles + "    tenant-admin: {actions: [\"credentials.*\", \"principals.*\"], reach: tenant, holders: tenants, unlimited: true}\n", "boss", "owner"},
		{roles, "lead", "lead ok"}, {roles, "boss", "owner ok"}, {roles, "root", "operator ok"}, {roles, "lead", "clerk ok"},
	} {
		p, err := load(tt.tables)
		if err != nil {
			t.Fatal(err)
		}
		d := open(t, func(c *admin.Config) { c.Authorizer = admin.NewAuthorizer(p) })
		d.callers["lead"] = holder(policy.KindUser, "acme", "lead", policy.MethodSession, "lead")
		d.furnish()
		role, good := strings.CutSuffix(tt.role, " ok")
		_, err = d.api(tt.by).UpdatePrincipal(t.Context(), &adminv1.UpdatePrincipalRequest{
			Principal: &adminv1.Principal{Tenant: "acme", Id: "ann", Roles: []string{role}}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"roles"}},
		})
		if good != (err == nil) {
			t.Errorf("%s grants %s: %v", tt.by, tt.role, err)
		}
		if !good {
			fails(t, tt.by+" grants "+role, err, codes.PermissionDenied, string(registry.GrantExceedsIssuer))
		}
	}
}
