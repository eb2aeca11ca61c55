package admin_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	adminv1 "github.com/postern-auth/postern/gen/postern/admin/v1"
	posternv1 "github.com/postern-auth/postern/gen/postern/v1"
	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/audit"
	"github.com/postern-auth/postern/server/store"
)

// api is all services as one caller has them.
type api struct {
	adminv1.CredentialServiceClient
	adminv1.PrincipalServiceClient
	adminv1.UserServiceClient
	adminv1.SessionServiceClient
	adminv1.TenantServiceClient
	adminv1.DenylistServiceClient
	adminv1.AuditServiceClient
	adminv1.DecisionServiceClient
}

func (d *desk) api(caller string) api {
	c := d.as(caller)
	return api{
		adminv1.NewCredentialServiceClient(c), adminv1.NewPrincipalServiceClient(c), adminv1.NewUserServiceClient(c),
		adminv1.NewSessionServiceClient(c), adminv1.NewTenantServiceClient(c), adminv1.NewDenylistServiceClient(c),
		adminv1.NewAuditServiceClient(c), adminv1.NewDecisionServiceClient(c),
	}
}

// must returns what a call that has to succeed has returned.
func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatalf("%v %v", err, status.Convert(err).Details())
		}
		return v
	}
}

const (
	key     = adminv1.CredentialType_CREDENTIAL_TYPE_API_KEY
	pat     = adminv1.CredentialType_CREDENTIAL_TYPE_PERSONAL_ACCESS_TOKEN
	token   = adminv1.CredentialType_CREDENTIAL_TYPE_TOKEN
	user    = posternv1.PrincipalKind_PRINCIPAL_KIND_USER
	service = posternv1.PrincipalKind_PRINCIPAL_KIND_SERVICE
)

// furnish makes the tenants acme and other, with a service "app" and a user "ann"
// each.
func (d *desk) furnish() api {
	root := d.api("root")
	for _, tenant := range []string{"acme", "other"} {
		must[*adminv1.CreateTenantResponse](d.t)(root.CreateTenant(d.t.Context(), &adminv1.CreateTenantRequest{Tenant: &adminv1.Tenant{Id: tenant}}))
		for _, p := range []*adminv1.Principal{
			{Tenant: tenant, Id: "app", Kind: service},
			{Tenant: tenant, Id: "ann", Kind: user, Roles: []string{"user"}},
		} {
			must[*adminv1.CreatePrincipalResponse](d.t)(root.CreatePrincipal(d.t.Context(), &adminv1.CreatePrincipalRequest{Principal: p}))
		}
	}
	return root
}

// issue has a caller issue an API key of acme's app.
func (d *desk) issue(as api, change func(*adminv1.Credential)) *adminv1.IssueCredentialResponse {
	d.t.Helper()
	c := &adminv1.Credential{Type: key, Tenant: "acme", PrincipalId: "app", Scopes: []string{"a"}}
	if change != nil {
		change(c)
	}
	return must[*adminv1.IssueCredentialResponse](d.t)(as.IssueCredential(d.t.Context(), &adminv1.IssueCredentialRequest{Credential: c}))
}

// head is the number of the last change, and of the last audit entry.
func (d *desk) head() (change, audit int64) {
	d.t.Helper()
	report, err := d.store.Check(context.WithoutCancel(d.t.Context()))
	if err != nil {
		d.t.Fatal(err)
	}
	return report.Head, report.Audit
}

// K-01: the secret is in the answer to Issue, and nowhere else.
func TestSecretsAreShownOnce(t *testing.T) {
	t.Parallel()
	d := open(t)
	root := d.furnish()
	issued := d.issue(d.api("issuer"), func(c *adminv1.Credential) { c.DisplayName = "ci" })
	secret, id := issued.GetSecret(), issued.GetCredential().GetId()
	if !strings.HasPrefix(secret, "pst_key_"+id+"_") {
		t.Fatalf("secret of an odd form, id %s", id)
	}
	rotated := must[*adminv1.RotateCredentialResponse](t)(d.api("issuer").RotateCredential(t.Context(), &adminv1.RotateCredentialRequest{Id: id}))
	session := must[*adminv1.CreateSessionResponse](t)(root.CreateSession(t.Context(), &adminv1.CreateSessionRequest{Session: &adminv1.Session{Tenant: "acme", PrincipalId: "ann"}}))
	secrets := []string{secret, rotated.GetSecret(), session.GetCreated().GetSecret(), session.GetCreated().GetCsrfToken()}
	answers := []proto.Message{
		must[*adminv1.GetCredentialResponse](t)(root.GetCredential(t.Context(), &adminv1.GetCredentialRequest{Id: id})),
		must[*adminv1.ListCredentialsResponse](t)(root.ListCredentials(t.Context(), &adminv1.ListCredentialsRequest{})),
		must[*adminv1.GetPrincipalResponse](t)(root.GetPrincipal(t.Context(), &adminv1.GetPrincipalRequest{Tenant: "acme", Id: "app"})),
		must[*adminv1.ListSessionsResponse](t)(root.ListSessions(t.Context(), &adminv1.ListSessionsRequest{})),
		must[*adminv1.ListAuditEntriesResponse](t)(root.ListAuditEntries(t.Context(), &adminv1.ListAuditEntriesRequest{})),
	}
	for i, s := range secrets {
		// The part that is secret; the id is not.
		s = s[strings.LastIndex(s, "_")+1:]
		if i < 3 && len(s) < 40 {
			t.Fatalf("secret %d is short", i)
		}
		for _, a := range answers {
			if text, _ := proto.Marshal(a); strings.Contains(string(text), s) {
				t.Errorf("%T holds secret %d", a, i)
			}
		}
		if strings.Contains(d.log.String(), s) {
			t.Errorf("the log holds secret %d", i)
		}
	}
}

// G-09: nobody grants more than they have, and a wildcard takes two yeses.
func TestGrants(t *testing.T) {
	t.Parallel()
	d := open(t)
	root := d.furnish()
	issue := func(as api, scopes []string, allow bool) error {
		_, err := as.IssueCredential(t.Context(), &adminv1.IssueCredentialRequest{AllowWildcard: allow,
			Credential: &adminv1.Credential{Type: key, Tenant: "acme", PrincipalId: "app", Scopes: scopes}})
		return err
	}
	issuer := d.api("issuer")
	if err := issue(issuer, []string{"a"}, false); err != nil {
		t.Error(err)
	}
	meta := fails(t, "more than it has", issue(issuer, []string{"a", "b"}, false), codes.PermissionDenied, "GRANT_EXCEEDS_ISSUER")
	if meta["missing"] != "b" {
		t.Errorf("missing %q, want b", meta["missing"])
	}
	fails(t, "a wildcard", issue(root, []string{"*"}, false), codes.InvalidArgument, "WILDCARD_NOT_ALLOWED")
	fails(t, "a wildcard of the issuer's", issue(issuer, []string{"*"}, false), codes.InvalidArgument, "WILDCARD_NOT_ALLOWED")
	fails(t, "a wildcard without the permission", issue(d.api("boss"), []string{"*"}, true), codes.PermissionDenied, "WILDCARD_NOT_ALLOWED")
	if err := issue(root, []string{"*"}, true); err != nil {
		t.Error(err)
	}
	d.callers["boss"].Permissions = []string{"postern.credentials.wildcard"}
	if err := issue(d.api("boss"), []string{"orders.*"}, true); err != nil {
		t.Error(err)
	}
}

// An issuer of the installation gets no key of a principal that may do more.
func TestNoKeyOfSomebodyStronger(t *testing.T) {
	t.Parallel()
	d := open(t)
	root := d.furnish()
	d.callers["ops"] = holder(policy.KindService, "", "ops", policy.MethodAPIKey, "issuer")
	must[*adminv1.CreatePrincipalResponse](t)(root.CreatePrincipal(t.Context(), &adminv1.CreatePrincipalRequest{
		Principal: &adminv1.Principal{Id: "robot", Kind: service, Roles: []string{"platform-admin"}}}))
	_, err := d.api("ops").IssueCredential(t.Context(), &adminv1.IssueCredentialRequest{Credential: &adminv1.Credential{Type: key, PrincipalId: "robot"}})
	fails(t, "issue", err, codes.PermissionDenied, "GRANT_EXCEEDS_ISSUER")
	strong := d.issue(root, func(c *adminv1.Credential) { c.Tenant, c.PrincipalId, c.Scopes = "", "robot", nil })
	_, err = d.api("ops").RotateCredential(t.Context(), &adminv1.RotateCredentialRequest{Id: strong.GetCredential().GetId()})
	fails(t, "rotate", err, codes.PermissionDenied, "GRANT_EXCEEDS_ISSUER")
	// And a tenant-admin makes no platform-admin.
	_, err = d.api("boss").CreatePrincipal(t.Context(), &adminv1.CreatePrincipalRequest{
		Principal: &adminv1.Principal{Tenant: "acme", Id: "trojan", Kind: user, Roles: []string{"platform-admin"}}})
	if code, _, _ := problem(t, err); code != codes.PermissionDenied && code != codes.InvalidArgument {
		t.Errorf("a platform-admin in a tenant: %v", err)
	}
	// But those of its own tenant it makes.
	must[*adminv1.CreatePrincipalResponse](t)(d.api("boss").CreatePrincipal(t.Context(), &adminv1.CreatePrincipalRequest{
		Principal: &adminv1.Principal{Tenant: "acme", Id: "second", Kind: user, Roles: []string{"issuer", "tenant-admin"}}}))
}

// K-07, K-12: a successor is the old one but for its id and its times; both are good
// for the grace period. No key outlives what its tenant allows.
func TestRotate(t *testing.T) {
	t.Parallel()
	d := open(t)
	root := d.furnish()
	old := d.issue(root, func(c *adminv1.Credential) {
		c.DisplayName, c.Environment, c.Roles, c.Permissions = "ci", "live", []string{"r"}, []string{"p"}
		c.Constraints = &adminv1.Constraints{Networks: []string{"192.0.2.0/24"}, Methods: []string{"GET"}, Hosts: []string{"api.test"}, Paths: []string{"/x/**"},
			Audiences: []string{"shop"}, Resources: []string{"repo:7"}, RequireTls: true, Peers: []string{"spiffe://acme/ci"},
			Windows: []*adminv1.TimeWindow{{Days: []string{"mon"}, From: "08:00", To: "17:30"}}}
		c.Metadata, _ = structpb.NewStruct(map[string]any{"team": "x", "n": []any{1.5, true, nil}})
		c.Expiration = &adminv1.Credential_Ttl{Ttl: durationpb.New(time.Hour)}
	}).GetCredential()
	res := must[*adminv1.RotateCredentialResponse](t)(root.RotateCredential(t.Context(), &adminv1.RotateCredentialRequest{
		Id: old.GetId(), Etag: old.GetEtag(), GracePeriod: durationpb.New(2 * time.Second)}))
	if diff := cmp.Diff(old, res.GetCredential(), protocmp.Transform(), protocmp.IgnoreFields(old, "id", "etag", "create_time", "update_time", "expire_time")); diff != "" {
		t.Errorf("the successor differs: %s", diff)
	}
	if p := res.GetPredecessor(); !p.GetExpireTime().AsTime().Equal(old.GetExpireTime().AsTime()) || !p.GetGraceEndTime().AsTime().Equal(d.clock().Add(2*time.Second)) {
		t.Errorf("the old one ends %v, in fact %v", p.GetExpireTime().AsTime(), p.GetGraceEndTime().AsTime())
	}
	if p := res.GetPredecessor(); p.GetState() != adminv1.CredentialState_CREDENTIAL_STATE_ROTATING || p.GetSuccessorId() != res.GetCredential().GetId() {
		t.Errorf("predecessor %v", p)
	}
	if c := res.GetChange(); c.GetNumber() == 0 || c.GetEffectiveTime().AsTime().Sub(c.GetCommitTime().AsTime()) != time.Second {
		t.Errorf("change %v", c)
	}
	d.mu.Lock()
	d.now = d.now.Add(2 * time.Second)
	d.mu.Unlock()
	got := must[*adminv1.GetCredentialResponse](t)(root.GetCredential(t.Context(), &adminv1.GetCredentialRequest{Id: old.GetId()}))
	if got.GetCredential().GetState() != adminv1.CredentialState_CREDENTIAL_STATE_ROTATED {
		t.Errorf("after the grace period: %v", got.GetCredential().GetState())
	}
	_, err := root.IssueCredential(t.Context(), &adminv1.IssueCredentialRequest{Credential: &adminv1.Credential{Type: key, Tenant: "acme", PrincipalId: "app",
		Expiration: &adminv1.Credential_Ttl{Ttl: durationpb.New(91 * 24 * time.Hour)}}})
	if meta := fails(t, "91 days", err, codes.InvalidArgument, "TTL_TOO_LONG"); meta["max_ttl"] != "90d" {
		t.Errorf("max_ttl %q", meta["max_ttl"])
	}
}

// Pages hold every record exactly once, whatever their size, and a token fits only
// the listing that gave it.
func TestPages(t *testing.T) {
	t.Parallel()
	d := open(t)
	root := d.furnish()
	for i := range 23 {
		d.issue(root, func(c *adminv1.Credential) { c.DisplayName = fmt.Sprint(i) })
		must[*adminv1.AddDenialResponse](t)(root.AddDenial(t.Context(), &adminv1.AddDenialRequest{Denial: &adminv1.Denial{What: &adminv1.Denial_Jti{Jti: fmt.Sprint("t", i)}, Tenant: "acme"}}))
		must[*adminv1.CreateSessionResponse](t)(root.CreateSession(t.Context(), &adminv1.CreateSessionRequest{Session: &adminv1.Session{Tenant: "acme", PrincipalId: "ann"}}))
	}
	type page func(size int32, token string) (ids []string, next string, err error)
	_, entries := d.head()
	for name, tt := range map[string]struct {
		want int
		page page
	}{
		"credentials": {23, func(size int32, token string) (ids []string, next string, err error) {
			res, err := root.ListCredentials(t.Context(), &adminv1.ListCredentialsRequest{PageSize: size, PageToken: token, Tenant: "acme"})
			for _, c := range res.GetCredentials() {
				ids = append(ids, c.GetId())
			}
			return ids, res.GetNextPageToken(), err
		}},
		"principals": {4, func(size int32, token string) (ids []string, next string, err error) {
			res, err := root.ListPrincipals(t.Context(), &adminv1.ListPrincipalsRequest{PageSize: size, PageToken: token})
			for _, p := range res.GetPrincipals() {
				ids = append(ids, p.GetTenant()+"/"+p.GetId())
			}
			return ids, res.GetNextPageToken(), err
		}},
		"sessions": {23, func(size int32, token string) (ids []string, next string, err error) {
			res, err := root.ListSessions(t.Context(), &adminv1.ListSessionsRequest{PageSize: size, PageToken: token, Tenant: "acme", PrincipalId: "ann"})
			for _, s := range res.GetSessions() {
				ids = append(ids, s.GetId())
			}
			return ids, res.GetNextPageToken(), err
		}},
		"tenants": {2, func(size int32, token string) (ids []string, next string, err error) {
			res, err := root.ListTenants(t.Context(), &adminv1.ListTenantsRequest{PageSize: size, PageToken: token})
			for _, s := range res.GetTenants() {
				ids = append(ids, s.GetId())
			}
			return ids, res.GetNextPageToken(), err
		}},
		"denials": {23, func(size int32, token string) (ids []string, next string, err error) {
			res, err := root.ListDenials(t.Context(), &adminv1.ListDenialsRequest{PageSize: size, PageToken: token})
			for _, s := range res.GetDenials() {
				ids = append(ids, s.GetId())
			}
			return ids, res.GetNextPageToken(), err
		}},
		"audit": {int(entries), func(size int32, token string) (ids []string, next string, err error) {
			res, err := root.ListAuditEntries(t.Context(), &adminv1.ListAuditEntriesRequest{PageSize: size, PageToken: token})
			for _, s := range res.GetEntries() {
				ids = append(ids, fmt.Sprint(s.GetSequence()))
			}
			return ids, res.GetNextPageToken(), err
		}},
	} {
		for _, size := range []int32{1, 7, 23, 0, 5000} {
			seen := map[string]bool{}
			for token, calls := "", 0; ; calls++ {
				ids, next, err := tt.page(size, token)
				if err != nil {
					t.Fatalf("%s by %d: %v", name, size, err)
				}
				for _, id := range ids {
					if seen[id] {
						t.Errorf("%s by %d: %s came twice", name, size, id)
					}
					seen[id] = true
				}
				if size > 0 && len(ids) > int(size) || len(ids) > 50 && size == 0 {
					t.Errorf("%s by %d: a page of %d", name, size, len(ids))
				}
				if token = next; token == "" {
					break
				}
				if calls > 200 {
					t.Fatalf("%s by %d: no end", name, size)
				}
			}
			if len(seen) != tt.want {
				t.Errorf("%s by %d: %d records, want %d", name, size, len(seen), tt.want)
			}
		}
		for _, bad := range []struct {
			size  int32
			token string
		}{{-1, ""}, {0, "!"}, {0, "AAAA"}, {0, strings.Repeat("A", 40)}} {
			_, _, err := tt.page(bad.size, bad.token)
			fails(t, fmt.Sprint(name, bad), err, codes.InvalidArgument, "INVALID_FIELD")
		}
	}
	first := must[*adminv1.ListCredentialsResponse](t)(root.ListCredentials(t.Context(), &adminv1.ListCredentialsRequest{PageSize: 1, Tenant: "acme"}))
	_, err := root.ListCredentials(t.Context(), &adminv1.ListCredentialsRequest{PageSize: 1, Tenant: "other", PageToken: first.GetNextPageToken()})
	fails(t, "a token of another listing", err, codes.InvalidArgument, "INVALID_FIELD")
}

// An etag guards against lost updates; a mask says what is to change, and names only
// what can.
func TestUpdates(t *testing.T) {
	t.Parallel()
	d := open(t)
	root := d.furnish()
	c := d.issue(root, func(c *adminv1.Credential) { c.DisplayName = "one" }).GetCredential()
	update := func(change *adminv1.Credential, paths ...string) (*adminv1.Credential, error) {
		change.Id = c.GetId()
		res, err := root.UpdateCredential(t.Context(), &adminv1.UpdateCredentialRequest{Credential: change, UpdateMask: &fieldmaskpb.FieldMask{Paths: paths}})
		return res.GetCredential(), err
	}
	two, err := update(&adminv1.Credential{DisplayName: "two", Scopes: []string{"ignored"}, Etag: c.GetEtag()}, "display_name")
	if err != nil || two.GetDisplayName() != "two" || !slices.Equal(two.GetScopes(), []string{"a"}) || two.GetEtag() == c.GetEtag() {
		t.Errorf("%v %v", two, err)
	}
	_, err = update(&adminv1.Credential{DisplayName: "three", Etag: c.GetEtag()}, "display_name")
	fails(t, "an old etag", err, codes.Aborted, "ETAG_MISMATCH")
	for _, bad := range [][]string{nil, {"id"}, {"digest"}, {"display_name", "state"}, {"credential.display_name"}, {""}} {
		_, err := update(&adminv1.Credential{}, bad...)
		meta := fails(t, fmt.Sprint("mask ", bad), err, codes.InvalidArgument, "INVALID_FIELD")
		if meta["field"] != "update_mask" || !strings.Contains(meta["allowed"], "renew_period") {
			t.Errorf("mask %q: %v", bad, meta)
		}
	}
	everything, err := update(&adminv1.Credential{DisplayName: "all", Scopes: []string{"b"}, Expiration: &adminv1.Credential_Ttl{Ttl: durationpb.New(time.Hour)}}, "*")
	if err != nil || everything.GetDisplayName() != "all" || everything.GetScopes()[0] != "b" {
		t.Errorf("%v %v", everything, err)
	}
	p := must[*adminv1.UpdatePrincipalResponse](t)(root.UpdatePrincipal(t.Context(), &adminv1.UpdatePrincipalRequest{
		Principal: &adminv1.Principal{Tenant: "acme", Id: "ann", Disabled: true, DisabledReason: "left"}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"disabled", "disabled_reason"}}}))
	if !p.GetPrincipal().GetDisabled() || p.GetPrincipal().GetDisabledReason() != "left" || !slices.Equal(p.GetPrincipal().GetRoles(), []string{"user"}) {
		t.Errorf("%v", p)
	}
	n := must[*adminv1.UpdateTenantResponse](t)(root.UpdateTenant(t.Context(), &adminv1.UpdateTenantRequest{
		Tenant: &adminv1.Tenant{Id: "acme", MaxTtl: durationpb.New(time.Hour), MaxPats: 3, Labels: map[string]string{"a": "b"}}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"*"}}}))
	if n.GetTenant().GetMaxTtl().AsDuration() != time.Hour || n.GetTenant().GetMaxPats() != 3 || n.GetTenant().GetLabels()["a"] != "b" {
		t.Errorf("%v", n)
	}
}

// A call that is repeated with its id is carried out once; its secret is not shown
// again.
func TestRequestIDs(t *testing.T) {
	t.Parallel()
	d := open(t)
	root := d.furnish()
	create := func(id, name string) (*adminv1.CreatePrincipalResponse, error) {
		return root.CreatePrincipal(t.Context(), &adminv1.CreatePrincipalRequest{RequestId: id, Principal: &adminv1.Principal{Tenant: "acme", Id: name, Kind: service}})
	}
	first := must[*adminv1.CreatePrincipalResponse](t)(create("r-1", "new"))
	again := must[*adminv1.CreatePrincipalResponse](t)(create("r-1", "new"))
	if diff := cmp.Diff(first, again, protocmp.Transform()); diff != "" {
		t.Errorf("the second answer differs: %s", diff)
	}
	_, err := create("r-1", "another")
	fails(t, "another call", err, codes.InvalidArgument, "REQUEST_ID_REUSED")
	_, err = create("", "new")
	fails(t, "without the id", err, codes.AlreadyExists, "ALREADY_EXISTS")
	for _, bad := range []string{strings.Repeat("x", 65), "a b", "a\nb", "é"} {
		_, err := create(bad, "newer")
		if meta := fails(t, bad, err, codes.InvalidArgument, "INVALID_FIELD"); meta["field"] != "request_id" {
			t.Errorf("%q: %v", bad, meta)
		}
	}
	issue := func() (*adminv1.IssueCredentialResponse, error) {
		return root.IssueCredential(t.Context(), &adminv1.IssueCredentialRequest{RequestId: "r-2", Credential: &adminv1.Credential{Type: key, Tenant: "acme", PrincipalId: "app"}})
	}
	issued := must[*adminv1.IssueCredentialResponse](t)(issue())
	_, err = issue()
	if meta := fails(t, "the secret again", err, codes.AlreadyExists, "SECRET_NOT_REPEATED"); meta["id"] != issued.GetCredential().GetId() {
		t.Errorf("%v names another credential than %s", meta, issued.GetCredential().GetId())
	}
}

// validate_only checks everything and writes nothing.
func TestValidateOnly(t *testing.T) {
	t.Parallel()
	d := open(t)
	root := d.furnish()
	c := d.issue(root, func(c *adminv1.Credential) { c.RenewPeriod = durationpb.New(time.Hour) }).GetCredential()
	line := must[*adminv1.AddDenialResponse](t)(root.AddDenial(t.Context(), &adminv1.AddDenialRequest{Denial: &adminv1.Denial{What: &adminv1.Denial_Jti{Jti: "x"}}})).GetDenial()
	name := &fieldmaskpb.FieldMask{Paths: []string{"display_name"}}
	spec := &adminv1.Credential{Type: key, Tenant: "acme", PrincipalId: "app"}
	change, entries := d.head()
	for what, call := range map[string]func(context.Context) (proto.Message, error){
		"issue": func(ctx context.Context) (proto.Message, error) {
			return root.IssueCredential(ctx, &adminv1.IssueCredentialRequest{ValidateOnly: true, Credential: spec})
		},
		"import": func(ctx context.Context) (proto.Message, error) {
			return root.ImportCredentials(ctx, &adminv1.ImportCredentialsRequest{ValidateOnly: true, Credentials: []*adminv1.ImportedCredential{
				{Credential: &adminv1.Credential{Type: token, Tenant: "acme", PrincipalId: "app"}, Known: &adminv1.ImportedCredential_Secret{Secret: "token-alice"}}}})
		},
		"update": func(ctx context.Context) (proto.Message, error) {
			return root.UpdateCredential(ctx, &adminv1.UpdateCredentialRequest{ValidateOnly: true, Credential: &adminv1.Credential{Id: c.GetId(), DisplayName: "x"}, UpdateMask: name})
		},
		"rotate": func(ctx context.Context) (proto.Message, error) {
			return root.RotateCredential(ctx, &adminv1.RotateCredentialRequest{ValidateOnly: true, Id: c.GetId()})
		},
		"disable": func(ctx context.Context) (proto.Message, error) {
			return root.DisableCredential(ctx, &adminv1.DisableCredentialRequest{ValidateOnly: true, Id: c.GetId()})
		},
		"enable": func(ctx context.Context) (proto.Message, error) {
			return root.EnableCredential(ctx, &adminv1.EnableCredentialRequest{ValidateOnly: true, Id: c.GetId()})
		},
		"revoke": func(ctx context.Context) (proto.Message, error) {
			return root.RevokeCredential(ctx, &adminv1.RevokeCredentialRequest{ValidateOnly: true, Id: c.GetId()})
		},
		"batch": func(ctx context.Context) (proto.Message, error) {
			return root.BatchRevokeCredentials(ctx, &adminv1.BatchRevokeCredentialsRequest{ValidateOnly: true, Ids: []string{c.GetId()}})
		},
		"tenant": func(ctx context.Context) (proto.Message, error) {
			return root.CreateTenant(ctx, &adminv1.CreateTenantRequest{ValidateOnly: true, Tenant: &adminv1.Tenant{Id: "third"}})
		},
		"principal": func(ctx context.Context) (proto.Message, error) {
			return root.CreatePrincipal(ctx, &adminv1.CreatePrincipalRequest{ValidateOnly: true, Principal: &adminv1.Principal{Tenant: "acme", Id: "third", Kind: service}})
		},
		"delete": func(ctx context.Context) (proto.Message, error) {
			return root.DeletePrincipal(ctx, &adminv1.DeletePrincipalRequest{ValidateOnly: true, Tenant: "acme", Id: "app"})
		},
		"users": func(ctx context.Context) (proto.Message, error) {
			return root.ImportUsers(ctx, &adminv1.ImportUsersRequest{ValidateOnly: true, Users: []*adminv1.ImportedUser{{User: &adminv1.Principal{Tenant: "acme", Id: "u1"}, PasswordHash: "$plain$x"}}})
		},
		"denial": func(ctx context.Context) (proto.Message, error) {
			return root.AddDenial(ctx, &adminv1.AddDenialRequest{ValidateOnly: true, Denial: &adminv1.Denial{What: &adminv1.Denial_Sid{Sid: "y"}}})
		},
		"remove": func(ctx context.Context) (proto.Message, error) {
			return root.RemoveDenial(ctx, &adminv1.RemoveDenialRequest{ValidateOnly: true, Id: line.GetId()})
		},
	} {
		res, err := call(t.Context())
		if err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		if c, ok := res.(interface{ GetChange() *adminv1.Change }); ok && c.GetChange() != nil {
			t.Errorf("%s: says that something was changed", what)
		}
		if s, ok := res.(interface{ GetSecret() string }); ok && s.GetSecret() != "" {
			t.Errorf("%s: hands over a secret", what)
		}
		if nowChange, nowEntries := d.head(); nowChange != change || nowEntries != entries {
			t.Errorf("%s: wrote to the store", what)
		}
	}
}

// Tenants are apart: who asks for what is another's is told that it is not there, or
// that it is not for them, and it is in the audit log.
func TestTenantsAreApart(t *testing.T) {
	t.Parallel()
	d := open(t)
	root := d.furnish()
	c := d.issue(root, nil).GetCredential()
	rival, ctx := d.api("rival"), t.Context()
	acme := func(err error) {
		t.Helper()
		fails(t, "acme's by name", err, codes.PermissionDenied, "PERMISSION_DENIED")
	}
	gone := func(err, missing error) {
		t.Helper()
		fails(t, "acme's by id", err, codes.NotFound, "NOT_FOUND")
		if diff := cmp.Diff(status.Convert(missing).Proto(), status.Convert(err).Proto(), protocmp.Transform()); diff != "" {
			t.Errorf("who asks can tell that it is there: %s", diff)
		}
	}
	const none = "000000000000"
	_, err := rival.GetCredential(ctx, &adminv1.GetCredentialRequest{Id: c.GetId()})
	_, missing := rival.GetCredential(ctx, &adminv1.GetCredentialRequest{Id: none})
	gone(err, missing)
	_, err = rival.RevokeCredential(ctx, &adminv1.RevokeCredentialRequest{Id: c.GetId()})
	_, missing = rival.RevokeCredential(ctx, &adminv1.RevokeCredentialRequest{Id: none})
	gone(err, missing)
	_, err = rival.BatchRevokeCredentials(ctx, &adminv1.BatchRevokeCredentialsRequest{Ids: []string{c.GetId()}})
	_, missing = rival.BatchRevokeCredentials(ctx, &adminv1.BatchRevokeCredentialsRequest{Ids: []string{none}})
	gone(err, missing)
	_, err = rival.BatchRevokeCredentials(ctx, &adminv1.BatchRevokeCredentialsRequest{Tenant: "acme"})
	acme(err)
	_, err = rival.ListCredentials(ctx, &adminv1.ListCredentialsRequest{Tenant: "acme"})
	acme(err)
	_, err = rival.GetPrincipal(ctx, &adminv1.GetPrincipalRequest{Tenant: "acme", Id: "ann"})
	acme(err)
	_, err = rival.GetPrincipal(ctx, &adminv1.GetPrincipalRequest{Id: "root"})
	acme(err)
	_, err = rival.CreatePrincipal(ctx, &adminv1.CreatePrincipalRequest{Principal: &adminv1.Principal{Id: "trojan", Kind: user}})
	acme(err)
	_, err = rival.SetPassword(ctx, &adminv1.SetPasswordRequest{Tenant: "acme", Id: "ann", Password: "swordfish1"})
	acme(err)
	_, err = rival.CreateSession(ctx, &adminv1.CreateSessionRequest{Session: &adminv1.Session{Tenant: "acme", PrincipalId: "ann"}})
	acme(err)
	_, err = rival.GetTenant(ctx, &adminv1.GetTenantRequest{Id: "acme"})
	acme(err)
	_, err = rival.AddDenial(ctx, &adminv1.AddDenialRequest{Denial: &adminv1.Denial{Tenant: "other", What: &adminv1.Denial_OfTenant{OfTenant: "acme"}}})
	acme(err)
	_, err = rival.ListAuditEntries(ctx, &adminv1.ListAuditEntriesRequest{Tenant: "acme"})
	acme(err)
	_, err = rival.ImportCredentials(ctx, &adminv1.ImportCredentialsRequest{Credentials: []*adminv1.ImportedCredential{
		{Credential: &adminv1.Credential{Type: token, Tenant: "other", PrincipalId: "app"}, Known: &adminv1.ImportedCredential_Secret{Secret: "token-1"}},
		{Credential: &adminv1.Credential{Type: token, Tenant: "acme", PrincipalId: "app"}, Known: &adminv1.ImportedCredential_Secret{Secret: "token-2"}},
	}})
	acme(err)
	_, err = rival.CreateTenant(ctx, &adminv1.CreateTenantRequest{Tenant: &adminv1.Tenant{Id: "third"}})
	acme(err)

	// What names no tenant is about the own.
	for _, p := range must[*adminv1.ListPrincipalsResponse](t)(rival.ListPrincipals(ctx, &adminv1.ListPrincipalsRequest{})).GetPrincipals() {
		if p.GetTenant() != "other" {
			t.Errorf("sees %s of %s", p.GetId(), p.GetTenant())
		}
	}
	if list := must[*adminv1.ListTenantsResponse](t)(rival.ListTenants(ctx, &adminv1.ListTenantsRequest{})).GetTenants(); len(list) != 1 || list[0].GetId() != "other" {
		t.Errorf("sees the tenants %v", list)
	}
	if list := must[*adminv1.ListCredentialsResponse](t)(rival.ListCredentials(ctx, &adminv1.ListCredentialsRequest{})).GetCredentials(); len(list) != 0 {
		t.Errorf("sees %v", list)
	}
	for _, e := range must[*adminv1.ListAuditEntriesResponse](t)(rival.ListAuditEntries(ctx, &adminv1.ListAuditEntriesRequest{PageSize: 1000})).GetEntries() {
		if e.GetTenant() != "other" && e.GetActor() != "other/rival" {
			t.Errorf("sees the entry %v", e)
		}
	}
	if got := must[*adminv1.GetCredentialResponse](t)(root.GetCredential(ctx, &adminv1.GetCredentialRequest{Id: c.GetId()})); got.GetCredential().GetEtag() != c.GetEtag() {
		t.Errorf("it was changed: %v", got)
	}
}

// Who may not see a credential cannot find out that it is there.
func TestWhatMayNotBeSeen(t *testing.T) {
	t.Parallel()
	d := open(t)
	root := d.furnish()
	there, none := d.issue(root, nil).GetCredential().GetId(), "000000000000"
	nobody, ctx := d.api("nobody"), t.Context()
	for name, call := range map[string]func(id string) error{
		"get": func(id string) error { return second(nobody.GetCredential(ctx, &adminv1.GetCredentialRequest{Id: id})) },
		"revoke": func(id string) error {
			return second(nobody.RevokeCredential(ctx, &adminv1.RevokeCredentialRequest{Id: id}))
		},
		"update": func(id string) error {
			return second(nobody.UpdateCredential(ctx, &adminv1.UpdateCredentialRequest{Credential: &adminv1.Credential{Id: id}}))
		},
		"usage": func(id string) error { return second(nobody.GetUsage(ctx, &adminv1.GetUsageRequest{CredentialId: id})) },
		"batch": func(id string) error {
			return second(nobody.BatchRevokeCredentials(ctx, &adminv1.BatchRevokeCredentialsRequest{Ids: []string{id}}))
		},
	} {
		err := call(there)
		fails(t, name, err, codes.NotFound, "NOT_FOUND")
		if diff := cmp.Diff(status.Convert(call(none)).Proto(), status.Convert(err).Proto(), protocmp.Transform()); diff != "" {
			t.Errorf("%s: who asks can tell that it is there: %s", name, diff)
		}
	}
}

// G-11: what was refused is in the audit log; so is what was done, once each.
func TestAudit(t *testing.T) {
	t.Parallel()
	d := open(t)
	root := d.furnish()
	c := d.issue(root, nil)
	_, err := d.api("nobody").RevokeCredential(t.Context(), &adminv1.RevokeCredentialRequest{Id: c.GetCredential().GetId(), RequestId: "r-9"})
	fails(t, "nobody's", err, codes.NotFound, "NOT_FOUND") // who cannot see it
	_, err = d.api("auditor").RevokeCredential(t.Context(), &adminv1.RevokeCredentialRequest{Id: c.GetCredential().GetId()})
	meta := fails(t, "the auditor's", err, codes.PermissionDenied, "PERMISSION_DENIED") // who can
	if meta["permission"] != "postern.credentials.revoke" {
		t.Errorf("says that it takes %q", meta["permission"])
	}
	// A secret that somebody sends for an id does not get into the log.
	_, err = d.api("nobody").ListSessions(t.Context(), &adminv1.ListSessionsRequest{Tenant: c.GetSecret()})
	fails(t, "a secret for a tenant", err, codes.PermissionDenied, "PERMISSION_DENIED")
	must[*adminv1.RevokeCredentialResponse](t)(root.RevokeCredential(t.Context(), &adminv1.RevokeCredentialRequest{Id: c.GetCredential().GetId(), Reason: "leaked"}))

	list := must[*adminv1.ListAuditEntriesResponse](t)(d.api("root").ListAuditEntries(t.Context(), &adminv1.ListAuditEntriesRequest{Target: "credential/" + c.GetCredential().GetId()}))
	var got []string
	for _, e := range list.GetEntries() {
		got = append(got, fmt.Sprintf("%s %s by %s denied=%v request=%q reason=%q", e.GetAction(), e.GetTenant(), e.GetActor(), e.GetDenied(), e.GetRequestId(), e.GetReason()))
	}
	want := []string{
		`credential.revoke acme by /root denied=false request="" reason="leaked"`,
		`credential.revoke acme by acme/eye denied=true request="" reason="the policy of the admin API"`,
		`credential.revoke acme by acme/nobody denied=true request="r-9" reason="the policy of the admin API"`,
		`credential.issue acme by /root denied=false request="" reason=""`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	all := must[*adminv1.ListAuditEntriesResponse](t)(root.ListAuditEntries(t.Context(), &adminv1.ListAuditEntriesRequest{PageSize: 1000}))
	text, _ := proto.Marshal(all)
	if secret := c.GetSecret(); strings.Contains(string(text), secret[strings.LastIndex(secret, "_")+1:]) {
		t.Error("the audit log holds a secret")
	}
}

// A store that does not answer is UNAVAILABLE, and nothing of its own words gets out.
func TestStoreDown(t *testing.T) {
	t.Parallel()
	d := open(t)
	root := d.furnish()
	if err := d.store.Close(); err != nil {
		t.Fatal(err)
	}
	_, err := root.ListTenants(t.Context(), &adminv1.ListTenantsRequest{})
	fails(t, "reading", err, codes.Unavailable, "STORE_UNAVAILABLE")
	_, err = root.IssueCredential(t.Context(), &adminv1.IssueCredentialRequest{Credential: &adminv1.Credential{Type: key, Tenant: "acme", PrincipalId: "app"}})
	fails(t, "writing", err, codes.Unavailable, "STORE_UNAVAILABLE")
	if strings.Contains(err.Error(), store.ErrClosed.Error()) || !strings.Contains(d.log.String(), store.ErrClosed.Error()) {
		t.Errorf("%v\n%s", err, &d.log)
	}
	_, err = d.api("nobody").GetTenant(t.Context(), &adminv1.GetTenantRequest{Id: "acme"})
	fails(t, "a refusal that cannot be noted", err, codes.PermissionDenied, "PERMISSION_DENIED")
}

// Networks are read as in files: an address is itself alone, and IPv4 that is written as
// IPv6 is what clients' addresses are compared as.
func TestNetworks(t *testing.T) {
	t.Parallel()
	d := open(t)
	root := d.furnish()
	got := d.issue(root, func(c *adminv1.Credential) {
		c.Constraints = &adminv1.Constraints{Networks: []string{"::ffff:10.0.0.0/104", "::ffff:192.0.2.1", "2001:db8::1", "192.0.2.0/24"}}
	}).GetCredential().GetConstraints().GetNetworks()
	if want := []string{"10.0.0.0/8", "192.0.2.1/32", "2001:db8::1/128", "192.0.2.0/24"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// Wrong fields are all named at once, with what is allowed, and never quoted.
func TestWrongFields(t *testing.T) {
	t.Parallel()
	d := open(t)
	root := d.furnish()
	_, err := root.IssueCredential(t.Context(), &adminv1.IssueCredentialRequest{Credential: &adminv1.Credential{
		Type: 9, Tenant: "acme", PrincipalId: "app",
		Constraints: &adminv1.Constraints{Networks: []string{"192.0.2.0/24", "hunter2", "10.0.0.1/8"}, Hosts: []string{"*.*", "hunter2!", "api.example.com."}, Paths: []string{"hunter2"}, Methods: []string{"get"}, Peers: []string{"Billing.Example.COM", "spiffe://acme/**"},
			Windows: []*adminv1.TimeWindow{{From: "9", To: "8"}}},
		NotBefore:   &timestamppb.Timestamp{Seconds: 1 << 60},
		RenewPeriod: &durationpb.Duration{Seconds: -1},
		Expiration:  &adminv1.Credential_Ttl{Ttl: &durationpb.Duration{}},
	}})
	meta := fails(t, "all wrong", err, codes.InvalidArgument, "INVALID_FIELD")
	if meta["field"] != "type" || meta["allowed"] == "" {
		t.Errorf("%v", meta)
	}
	var fields []string
	for _, detail := range status.Convert(err).Details() {
		if bad, ok := detail.(*errdetails.BadRequest); ok {
			for _, f := range bad.GetFieldViolations() {
				fields = append(fields, f.GetField())
			}
		}
	}
	want := []string{"type", "constraints.networks[1]", "constraints.networks[2]", "constraints.hosts[0]", "constraints.paths[0]", "constraints.windows[0]", "constraints.methods[0]", "constraints.hosts[1]", "constraints.hosts[2]", "constraints.peers[0]", "constraints.peers[1]", "not_before", "renew_period", "ttl"}
	if !slices.Equal(fields, want) {
		t.Errorf("fields %q, want %q", fields, want)
	}
	if strings.Contains(fmt.Sprint(err, status.Convert(err).Details()), "hunter2") {
		t.Errorf("quotes: %v", err)
	}
	for what, err := range map[string]error{
		"P-03: a nameless token": second(root.IssueCredential(t.Context(), &adminv1.IssueCredentialRequest{Credential: &adminv1.Credential{Type: pat, Tenant: "acme", PrincipalId: "ann"}})),
		"no credential":          second(root.IssueCredential(t.Context(), &adminv1.IssueCredentialRequest{})),
		"no id":                  second(root.GetCredential(t.Context(), &adminv1.GetCredentialRequest{})),
		"no tenant":              second(root.CreateTenant(t.Context(), &adminv1.CreateTenantRequest{})),
		"no kind":                second(root.CreatePrincipal(t.Context(), &adminv1.CreatePrincipalRequest{Principal: &adminv1.Principal{Id: "x"}})),
		"an anonymous principal": second(root.CreatePrincipal(t.Context(), &adminv1.CreatePrincipalRequest{Principal: &adminv1.Principal{Id: "x", Kind: posternv1.PrincipalKind_PRINCIPAL_KIND_ANONYMOUS}})),
		"no denial":              second(root.AddDenial(t.Context(), &adminv1.AddDenialRequest{})),
		"no rows":                second(root.ImportCredentials(t.Context(), &adminv1.ImportCredentialsRequest{})),
		"too many rows":          second(root.ImportUsers(t.Context(), &adminv1.ImportUsersRequest{Users: make([]*adminv1.ImportedUser, 1001)})),
		"batch of nothing":       second(root.BatchRevokeCredentials(t.Context(), &adminv1.BatchRevokeCredentialsRequest{})),
		"batch of both":          second(root.BatchRevokeCredentials(t.Context(), &adminv1.BatchRevokeCredentialsRequest{Ids: []string{d.issue(root, nil).GetCredential().GetId()}, Tenant: "other"})),
		"session of nobody":      second(root.DeleteSession(t.Context(), &adminv1.DeleteSessionRequest{})),
		"a day":                  second(root.GetUsage(t.Context(), &adminv1.GetUsageRequest{FromDay: "yesterday"})),
		"a state":                second(root.ListCredentials(t.Context(), &adminv1.ListCredentialsRequest{States: []adminv1.CredentialState{0}})),
		"a decision":             second(root.GetDecision(t.Context(), &adminv1.GetDecisionRequest{})),
	} {
		fails(t, what, err, codes.InvalidArgument, "INVALID_FIELD")
	}
}

func second[T any](_ T, err error) error { return err }

// T-05: an import takes the good rows if it is asked to, and says what is wrong with
// the others, each in its place.
func TestImport(t *testing.T) {
	t.Parallel()
	d := open(t)
	root := d.furnish()
	row := func(principal, secret string, networks ...string) *adminv1.ImportedCredential {
		return &adminv1.ImportedCredential{
			Credential: &adminv1.Credential{Type: token, Tenant: "acme", PrincipalId: principal, Constraints: &adminv1.Constraints{Networks: networks}},
			Known:      &adminv1.ImportedCredential_Secret{Secret: secret},
		}
	}
	req := &adminv1.ImportCredentialsRequest{Credentials: []*adminv1.ImportedCredential{
		row("ann", "token-alice"), row("ann", "hunter2", "no network"), row("nobody", "token-carol"), row("app", "token-bob")}}
	_, err := root.ImportCredentials(t.Context(), req)
	if meta := fails(t, "one is bad", err, codes.InvalidArgument, "INVALID_FIELD"); meta["field"] != "credentials[1].constraints.networks[0]" {
		t.Errorf("%v", meta)
	}
	req.SkipBad = true
	res := must[*adminv1.ImportCredentialsResponse](t)(root.ImportCredentials(t.Context(), req))
	if res.GetImported() != 2 || len(res.GetResults()) != 4 || res.GetChange() == nil {
		t.Fatalf("%v", res)
	}
	for i, r := range res.GetResults() {
		if taken := i == 0 || i == 3; taken != (r.GetId() != "") || taken != (len(r.GetErrors()) == 0) || taken && !r.GetLowEntropy() {
			t.Errorf("row %d: %v", i, r)
		}
	}
	users := must[*adminv1.ImportUsersResponse](t)(root.ImportUsers(t.Context(), &adminv1.ImportUsersRequest{SkipBad: true, Users: []*adminv1.ImportedUser{
		{User: &adminv1.Principal{Tenant: "acme", Id: "bob"}, PasswordHash: "$plain$bobs secret"},
		{User: &adminv1.Principal{Tenant: "acme", Id: "eve", Kind: 77}},
		{User: &adminv1.Principal{Tenant: "acme", Id: "mal lory"}, PasswordHash: "hunter2"},
	}}))
	if e := users.GetErrors(); users.GetImported() != 1 || len(e) != 3 || e[0] != "" || e[1] == "" || e[2] == "" || strings.Contains(fmt.Sprint(users), "hunter2") {
		t.Errorf("%v", users)
	}
}

// S-01, S-03: an application that has the permission starts sessions for its users;
// who has not needs the user's password.
func TestSessions(t *testing.T) {
	t.Parallel()
	d := open(t)
	root := d.furnish()
	must[*adminv1.SetPasswordResponse](t)(root.SetPassword(t.Context(), &adminv1.SetPasswordRequest{Tenant: "acme", Id: "ann", Password: "correct horse"}))
	d.callers["web"] = holder(policy.KindService, "acme", "web", policy.MethodAPIKey)
	d.callers["web"].Permissions = []string{"postern.sessions.create", "postern.sessions.rotate"}
	web, ctx := d.api("web"), t.Context()
	create := func(s *adminv1.Session, password string) (*adminv1.CreateSessionResponse, error) {
		s.Tenant, s.PrincipalId = "acme", "ann"
		return web.CreateSession(ctx, &adminv1.CreateSessionRequest{Session: s, Password: password})
	}
	_, err := create(&adminv1.Session{}, "")
	fails(t, "vouching", err, codes.PermissionDenied, "PERMISSION_DENIED")
	_, err = create(&adminv1.Session{Amr: []string{"otp"}}, "correct horse")
	fails(t, "vouching for a second factor", err, codes.PermissionDenied, "PERMISSION_DENIED")
	_, err = create(&adminv1.Session{}, "wrong horse")
	fails(t, "a wrong password", err, codes.PermissionDenied, "LOGIN_FAILED")
	first := must[*adminv1.CreateSessionResponse](t)(create(&adminv1.Session{Id: "planted", Metadata: map[string]string{"ua": "x"}}, "correct horse")).GetCreated()
	if first.GetSession().GetId() == "planted" || !slices.Equal(first.GetSession().GetAmr(), []string{"pwd"}) ||
		first.GetSetCookie() != "__Host-session="+first.GetSecret() || first.GetCsrfToken() == "" {
		t.Errorf("%v", first.GetSession())
	}
	_, err = web.RotateSession(ctx, &adminv1.RotateSessionRequest{Id: first.GetSession().GetId(), Amr: []string{"otp"}})
	if code, _, _ := problem(t, err); code != codes.PermissionDenied && code != codes.NotFound {
		t.Errorf("vouching while rotating: %v", err)
	}
	d.callers["web"].Permissions = append(d.callers["web"].Permissions, "postern.sessions.vouch", "postern.sessions.get", "postern.sessions.delete")
	d.callers["web"].Roles = []string{"user"} // to hand over what ann may
	vouched := must[*adminv1.CreateSessionResponse](t)(create(&adminv1.Session{Amr: []string{"otp"}}, "")).GetCreated()
	if !slices.Equal(vouched.GetSession().GetAmr(), []string{"otp"}) {
		t.Errorf("%v", vouched.GetSession())
	}
	next := must[*adminv1.RotateSessionResponse](t)(web.RotateSession(ctx, &adminv1.RotateSessionRequest{Id: first.GetSession().GetId(), Amr: []string{"otp"}})).GetCreated()
	if next.GetSession().GetId() == first.GetSession().GetId() || next.GetSecret() == first.GetSecret() {
		t.Error("the session keeps its id or secret")
	}
	ended := must[*adminv1.DeleteSessionResponse](t)(web.DeleteSession(ctx, &adminv1.DeleteSessionRequest{Tenant: "acme", PrincipalId: "ann"}))
	if ended.GetSessions() < 2 || ended.GetChange() == nil {
		t.Errorf("%v", ended)
	}
	_, err = web.GetSession(ctx, &adminv1.GetSessionRequest{Id: vouched.GetSession().GetId()})
	fails(t, "after the end", err, codes.NotFound, "NOT_FOUND")
}

// However much is wrong, an error fits into a header field of 8 KiB, which is all that
// many clients take.
func TestErrorsAreShort(t *testing.T) {
	t.Parallel()
	d := open(t)
	root := d.furnish()
	req := &adminv1.ImportCredentialsRequest{}
	for range 1000 {
		req.Credentials = append(req.Credentials, &adminv1.ImportedCredential{Credential: &adminv1.Credential{
			Type: token, Tenant: "acme", PrincipalId: "ann", Constraints: &adminv1.Constraints{Networks: []string{"a", "b"}}}})
	}
	long := &adminv1.Credential{Type: key, Tenant: "acme", PrincipalId: "app"}
	for i := range 200 {
		long.Scopes = append(long.Scopes, fmt.Sprintf("%0100d", i))
	}
	for what, err := range map[string]error{
		"rows":    second(root.ImportCredentials(t.Context(), req)),
		"missing": second(d.api("issuer").IssueCredential(t.Context(), &adminv1.IssueCredentialRequest{Credential: long})),
	} {
		problem(t, err)
		if n := proto.Size(status.Convert(err).Proto()) * 4 / 3; n > 8<<10 {
			t.Errorf("%s: %d bytes", what, n)
		}
	}
}

// P-01, P-06: users look after their own tokens, with a session; a token makes no
// other tokens.
func TestSelf(t *testing.T) {
	t.Parallel()
	d := open(t)
	root := d.furnish()
	ann, ctx := d.api("ann"), t.Context()
	issue := func(as api, principal string) (*adminv1.IssueCredentialResponse, error) {
		return as.IssueCredential(ctx, &adminv1.IssueCredentialRequest{Credential: &adminv1.Credential{Type: pat, Tenant: "acme", PrincipalId: principal, DisplayName: "laptop"}})
	}
	one := must[*adminv1.IssueCredentialResponse](t)(issue(ann, "ann"))
	two := must[*adminv1.IssueCredentialResponse](t)(issue(ann, "ann"))
	_, err := issue(ann, "app")
	fails(t, "somebody else's", err, codes.PermissionDenied, "PERMISSION_DENIED")
	d.callers["token"] = holder(policy.KindUser, "acme", "ann", policy.MethodPAT, "user")
	d.callers["token"].CredentialID = one.GetCredential().GetId()
	byToken := d.api("token")
	_, err = issue(byToken, "ann")
	fails(t, "a token by a token", err, codes.PermissionDenied, "PERMISSION_DENIED")
	_, err = byToken.SetPassword(ctx, &adminv1.SetPasswordRequest{Tenant: "acme", Id: "ann", Password: "swordfish1"})
	fails(t, "a password by a token", err, codes.PermissionDenied, "PERMISSION_DENIED")
	_, err = byToken.RotateCredential(ctx, &adminv1.RotateCredentialRequest{Id: two.GetCredential().GetId()})
	fails(t, "another token by a token", err, codes.PermissionDenied, "PERMISSION_DENIED")
	for field, req := range map[string]*adminv1.RotateCredentialRequest{
		"a second secret": {GracePeriod: durationpb.New(time.Minute)}, "a longer life": {Ttl: durationpb.New(91 * 24 * time.Hour)},
	} {
		req.Id = one.GetCredential().GetId()
		_, err = byToken.RotateCredential(ctx, req)
		fails(t, field+" for itself", err, codes.PermissionDenied, "PERMISSION_DENIED")
	}
	must[*adminv1.RotateCredentialResponse](t)(byToken.RotateCredential(ctx, &adminv1.RotateCredentialRequest{Id: one.GetCredential().GetId()}))
	list := must[*adminv1.ListCredentialsResponse](t)(ann.ListCredentials(ctx, &adminv1.ListCredentialsRequest{PrincipalId: "ann"}))
	if len(list.GetCredentials()) != 3 {
		t.Errorf("%d tokens, want 3", len(list.GetCredentials()))
	}
	_, err = ann.ListCredentials(ctx, &adminv1.ListCredentialsRequest{})
	fails(t, "everybody's", err, codes.PermissionDenied, "PERMISSION_DENIED")
	must[*adminv1.RevokeCredentialResponse](t)(ann.RevokeCredential(ctx, &adminv1.RevokeCredentialRequest{Id: two.GetCredential().GetId()}))
	foreign := d.issue(root, nil)
	_, err = ann.RevokeCredential(ctx, &adminv1.RevokeCredentialRequest{Id: foreign.GetCredential().GetId()})
	fails(t, "the app's", err, codes.NotFound, "NOT_FOUND")
	must[*adminv1.SetPasswordResponse](t)(ann.SetPassword(ctx, &adminv1.SetPasswordRequest{Tenant: "acme", Id: "ann", Password: "swordfish1"}))
	must[*adminv1.GetUsageResponse](t)(ann.GetUsage(ctx, &adminv1.GetUsageRequest{PrincipalId: "ann"}))
	// The ann of the installation is not the one of acme.
	d.callers["other ann"] = holder(policy.KindUser, "", "ann", policy.MethodSession)
	_, err = d.api("other ann").GetUsage(ctx, &adminv1.GetUsageRequest{PrincipalId: "ann"})
	fails(t, "usage of another ann", err, codes.PermissionDenied, "PERMISSION_DENIED")
}

// Who is of a tenant reads the decisions about its principals.
func TestDecisionsOfATenant(t *testing.T) {
	t.Parallel()
	d := open(t)
	fill(d.ring, 4)
	d.ring.Record(&audit.Record{Time: time.Unix(9, 0), Decision: policy.Decision{ID: "o1", Principal: &policy.Principal{ID: "x", Tenant: "other"}}})
	d.ring.Record(&audit.Record{Time: time.Unix(10, 0), Decision: policy.Decision{ID: "n1"}})
	d.mu.Lock()
	d.remote, d.overTLS = "192.0.2.7:1", true
	d.mu.Unlock()
	list := func(caller string, filter *adminv1.DecisionFilter) (ids []string, err error) {
		res, err := d.api(caller).ListDecisions(t.Context(), &adminv1.ListDecisionsRequest{Filter: filter})
		for _, r := range res.GetDecisions() {
			ids = append(ids, r.GetDecision().GetDecisionId())
		}
		return ids, err
	}
	for caller, want := range map[string][]string{"root": {"n1", "o1", "d3", "d2", "d1", "d0"}, "auditor": {"d3", "d2", "d1", "d0"}, "rival": {"o1"}} {
		if got, err := list(caller, nil); err != nil || !slices.Equal(got, want) {
			t.Errorf("%s sees %q, want %q: %v", caller, got, want, err)
		}
	}
	_, err := list("rival", &adminv1.DecisionFilter{Tenant: "acme"})
	fails(t, "another tenant's", err, codes.PermissionDenied, "PERMISSION_DENIED")
	_, err = list("nobody", nil)
	fails(t, "nobody", err, codes.PermissionDenied, "PERMISSION_DENIED")
	_, err = d.api("rival").GetDecision(t.Context(), &adminv1.GetDecisionRequest{DecisionId: "d0"})
	fails(t, "another tenant's by id", err, codes.NotFound, "NOT_FOUND")
	if _, err := d.api("auditor").GetDecision(t.Context(), &adminv1.GetDecisionRequest{DecisionId: "d0"}); err != nil {
		t.Error(err)
	}
}

// A subject of another issuer acts under a name of its own.
func TestForeignSubjects(t *testing.T) {
	t.Parallel()
	d := open(t)
	d.furnish()
	d.callers["idp"] = &policy.Principal{ID: "ann", Kind: policy.KindUser, Tenant: "acme", Roles: []string{"tenant-admin"}, Method: policy.MethodJWT, Issuer: "https://idp.test"}
	c := d.issue(d.api("idp"), nil)
	if by := c.GetCredential().GetIssuedBy(); by != "acme/https://idp.test#ann" {
		t.Errorf("issued by %q", by)
	}
}
