package main

import (
	"encoding/base64"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	adminv1 "github.com/postern-auth/postern/gen/postern/admin/v1"
	posternv1 "github.com/postern-auth/postern/gen/postern/v1"
	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/registry"
	"github.com/postern-auth/postern/server/seal"
	"github.com/postern-auth/postern/server/store/sqlite"
)

// Short names for what nearly every test here says.
const (
	apiKey = adminv1.CredentialType_CREDENTIAL_TYPE_API_KEY
	pat    = adminv1.CredentialType_CREDENTIAL_TYPE_PERSONAL_ACCESS_TOKEN
	opaque = adminv1.CredentialType_CREDENTIAL_TYPE_TOKEN

	aUser    = posternv1.PrincipalKind_PRINCIPAL_KIND_USER
	aService = posternv1.PrincipalKind_PRINCIPAL_KIND_SERVICE
)

// aged makes the first admin key as it was made some time ago.
func (w world) aged(t testing.TB, age time.Duration) {
	t.Helper()
	then := func() time.Time { return time.Now().Add(-age) }
	st, err := sqlite.Open(t.Context(), w.path("postern.db"), sqlite.Options{Now: then})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	}()
	peppers, err := seal.NewPeppers([]seal.Pepper{{Version: 1, Secret: policy.NewSecret(w.read(t, "pepper"))}})
	if err != nil {
		t.Fatal(err)
	}
	issued, _, err := registry.New(registry.Config{MaxTTL: 90 * 24 * time.Hour}, st, registry.Deps{Now: then, Peppers: peppers}).Bootstrap(t.Context(), false)
	if err != nil {
		t.Fatal(err)
	}
	w.write(t, "admin.key", issued.Secret.Reveal())
}

// The life of an API key, from nobody being allowed to make one to its end. Its
// store is 80 days old.
func TestLifeOfAKey(t *testing.T) {
	t.Parallel()
	w := preparePlane(t, sqliteStore)
	w.aged(t, 80*24*time.Hour)
	p := launch(t, w)
	p.principal(t, &adminv1.Principal{Id: "app", Kind: aService, Roles: []string{"reader", "writer"}, Scopes: []string{"orders:read"}, Permissions: []string{"items.read"}})

	// K-01: who is not known or may not, gets nothing; who may, sees the secret once.
	order := &adminv1.IssueCredentialRequest{Credential: &adminv1.Credential{Type: apiKey, PrincipalId: "app"}}
	refuses(t, p.as(t, "").credentials.IssueCredential, order, codes.Unauthenticated, "UNAUTHENTICATED")
	id, key := p.key(t, "app")
	p.becomes(t, withKey("/items/1", key), 200, "allowed")
	refuses(t, p.as(t, key).credentials.IssueCredential, order, codes.PermissionDenied, "PERMISSION_DENIED")
	if !secretForm.MatchString(key) {
		t.Error("the secret is not of Postern's form")
	}
	for _, m := range []proto.Message{
		does(t, p.credentials.GetCredential, &adminv1.GetCredentialRequest{Id: id}),
		does(t, p.credentials.ListCredentials, &adminv1.ListCredentialsRequest{}),
		does(t, p.trail.ListAuditEntries, &adminv1.ListAuditEntriesRequest{}),
	} {
		if text, _ := proto.Marshal(m); strings.Contains(string(text), key[strings.LastIndexByte(key, '_'):]) {
			t.Errorf("%T tells the secret", m)
		}
	}

	t.Run("expiry", func(t *testing.T) { keyExpires(t, p) })
	t.Run("rotation", func(t *testing.T) { keyRotates(t, p) })

	// K-07: no key lives longer than the tenant allows; what is old and what will end
	// soon is counted, and the latter said.
	refuses(t, p.credentials.IssueCredential, &adminv1.IssueCredentialRequest{Credential: &adminv1.Credential{
		Type: apiKey, PrincipalId: "app", Expiration: &adminv1.Credential_Ttl{Ttl: durationpb.New(91 * 24 * time.Hour)},
	}}, codes.InvalidArgument, "TTL_TOO_LONG")
	metrics := p.scrape(t)
	for name, want := range map[string]int{
		`keys_older_than{days="30"}`: 1, `keys_older_than{days="90"}`: 0,
		`keys_ending_within{days="14"}`: 1, `keys_ending_within{days="7"}`: 0,
	} {
		if got := metric(t, metrics, "postern_"+name); got != want {
			t.Errorf("%s is %d, want %d", name, got, want)
		}
	}
	ending := p.log.entries(t, "a credential will expire soon")
	if len(ending) != 1 || ending[0]["event"] != "credential_expiring" || ending[0]["days"] != 14.0 {
		t.Errorf("events of what ends soon: %v", ending)
	}

	// E-02 and G-12: what was allowed a moment ago, and is in every cache, is revoked.
	p.expect(t, withKey("/items/1", key), 200, "allowed")
	revoked := does(t, p.credentials.RevokeCredential, &adminv1.RevokeCredentialRequest{Id: id, Reason: "compromise"})
	p.becomes(t, withKey("/items/1", key), 401, "revoked")
	if c := revoked.GetChange(); c.GetNumber() == 0 || c.GetEffectiveTime().AsTime().Sub(c.GetCommitTime().AsTime()) != time.Second {
		t.Errorf("the change is %v", c)
	}
	p.expect(t, withKey("/items/1", key), 401, "revoked")
}

// K-06: a key counts from its beginning to its end, with nobody telling.
func keyExpires(t *testing.T, p *replica) {
	t.Parallel()
	id, short := p.issue(t, &adminv1.Credential{Type: apiKey, PrincipalId: "app", Expiration: &adminv1.Credential_Ttl{Ttl: durationpb.New(2 * time.Second)}})
	begins := time.Now().Add(2 * time.Second)
	from := func(begins time.Time) string {
		_, key := p.issue(t, &adminv1.Credential{Type: apiKey, PrincipalId: "app", NotBefore: timestamppb.New(begins)})
		return key
	}
	soon, later := from(begins), from(begins.Add(time.Hour))
	p.becomes(t, withKey("/", short), 200, "allowed")
	p.becomes(t, withKey("/", later), 401, "not_yet_valid")
	ends := does(t, p.credentials.GetCredential, &adminv1.GetCredentialRequest{Id: id}).GetCredential().GetExpireTime().AsTime()
	p.until(t, ends, withKey("/", short), 401, "expired")
	eventually(t, "the key's time has come", func() bool {
		allowed := p.askEnvoy(t, withKey("/", soon)).allowed()
		if allowed && time.Now().Before(begins) {
			t.Fatal("a key is good before its time")
		}
		return allowed
	})
	p.expect(t, withKey("/", later), 401, "not_yet_valid")
	p.expect(t, withKey("/", short), 401, "expired")
}

// K-07 and K-12: for the grace period both keys are good, then the new one; it is
// the old one in all but id, secret and times.
func keyRotates(t *testing.T, p *replica) {
	t.Parallel()
	id, old := p.issue(t, &adminv1.Credential{
		Type: apiKey, PrincipalId: "app", DisplayName: "nightly", Environment: "live", Roles: []string{"writer"}, Scopes: []string{"orders:read"},
		Permissions: []string{"items.read"}, Constraints: &adminv1.Constraints{Networks: []string{"192.0.2.0/24"}, Methods: []string{"GET"}},
		Metadata: object(t, map[string]any{"team": "billing"}), RenewPeriod: durationpb.New(time.Hour),
	})
	before := does(t, p.credentials.GetCredential, &adminv1.GetCredentialRequest{Id: id}).GetCredential()
	rotated := does(t, p.credentials.RotateCredential, &adminv1.RotateCredentialRequest{Id: id, GracePeriod: durationpb.New(2 * time.Second)})
	ends := rotated.GetChange().GetCommitTime().AsTime().Add(2 * time.Second)
	p.becomes(t, withKey("/", rotated.GetSecret()), 200, "allowed")
	if a := p.ask(t, withKey("/", old)); !a.allowed() && time.Now().Before(ends) {
		t.Errorf("in the grace period: %v", a)
	}
	p.until(t, ends.Add(time.Second), withKey("/", old), 401, "rotated")
	p.expect(t, withKey("/", rotated.GetSecret()), 200, "allowed")

	if diff := cmp.Diff(before, rotated.GetCredential(), protocmp.Transform(), protocmp.IgnoreFields(&adminv1.Credential{},
		"id", "create_time", "update_time", "expire_time", "max_expire_time", "etag")); diff != "" {
		t.Error("the successor differs: ", diff)
	}
	if was := rotated.GetPredecessor(); was.GetSuccessorId() != rotated.GetCredential().GetId() || was.GetState() != adminv1.CredentialState_CREDENTIAL_STATE_ROTATING {
		t.Errorf("the predecessor: %v", was)
	}
}

// K-05: an id that nobody has and a secret that is wrong get the same answer, also
// where the key was revoked; only its holder learns that.
func TestUnknownAndWrongKeysAreAlike(t *testing.T) {
	t.Parallel()
	w := preparePlane(t, sqliteStore)
	w.bootstrap(t)
	p := launch(t, w)
	p.service(t, "app")
	_, good := p.key(t, "app")
	id, gone := p.key(t, "app")
	does(t, p.credentials.RevokeCredential, &adminv1.RevokeCredentialRequest{Id: id})
	p.becomes(t, withKey("/", good), 200, "allowed")
	p.becomes(t, withKey("/", gone), 401, "revoked")

	secret := func(key, other string) string { // the id of one with the secret of the other
		return resealed(key[:len("pst_key_")+12] + other[len("pst_key_")+12:len(other)-6])
	}
	tells := map[string]bool{}
	for _, key := range []string{
		secret(good, gone), secret(gone, good), secret("pst_key_AAAAAAAAAAAA", good), "a-foreign-secret-that-nobody-has",
	} {
		a := p.expect(t, withKey("/", key), 401, "credential_unknown")
		tells[strings.ReplaceAll(a.body, a.id, "")+a.header("www-authenticate")] = true
	}
	if len(tells) != 1 {
		t.Errorf("the answers differ: %v", tells)
	}
}

// resealed ends a text with the checksum that fits it.
func resealed(text string) string { return string(seal.AppendChecksum([]byte(text), text)) }

// K-09: uses are noted without a write for each, and not while requests wait: the
// files of the store stay as they are, byte by byte, until the counters are flushed.
// K-13 across replicas is in TestReplicasShareAStore.
func TestUseIsNotedOffThePath(t *testing.T) {
	t.Parallel()
	w := preparePlane(t, sqliteStore)
	w.bootstrap(t)
	p := launch(t, w)
	p.service(t, "app")
	id, key := p.key(t, "app")
	_, idle := p.key(t, "app")
	p.becomes(t, withKey("/", idle), 200, "allowed") // both are known now; the other one only once is used
	files := func() string { return w.read(t, "postern.db") + w.read(t, "postern.db-wal") }
	before, change := files(), p.change(t)
	const asked = 300
	for i := range asked {
		path := "/"
		if i%3 == 0 {
			path = "/nobody"
		}
		p.askEnvoy(t, withKey(path, key))
	}
	if time.Since(p.started) < 25*time.Second { // the first flush is after 30
		if files() != before || p.change(t) != change {
			t.Error("a check writes to the store")
		}
	}
	unused := does(t, p.credentials.ListCredentials, &adminv1.ListCredentialsRequest{PrincipalId: "app", UnusedFor: durationpb.New(time.Hour)})
	if n := len(unused.GetCredentials()); n != 0 {
		t.Errorf("%d keys that were made just now count as unused for an hour", n)
	}
	p.stop(t, syscall.SIGTERM)

	p = launch(t, w)
	c := does(t, p.credentials.GetCredential, &adminv1.GetCredentialRequest{Id: id}).GetCredential()
	if age := time.Since(c.GetLastUseTime().AsTime()); age > time.Hour || age < 0 {
		t.Errorf("last used %v", c.GetLastUseTime())
	}
	allowed, denied := p.usage(t, id)
	if allowed != asked-asked/3 || denied != asked/3 {
		t.Errorf("%d allowed and %d denied, want %d and %d", allowed, denied, asked-asked/3, asked/3)
	}
}

// usage sums up the uses of a credential.
func (o *operator) usage(t testing.TB, id string) (allowed, denied int) {
	t.Helper()
	for _, u := range does(t, o.credentials.GetUsage, &adminv1.GetUsageRequest{CredentialId: id}).GetUsage() {
		allowed, denied = allowed+int(u.GetAllowed()), denied+int(u.GetDenied())
	}
	return allowed, denied
}

// K-10 and K-16: a key speaks for a program, which is not a person; what belongs to
// a program that is disabled ends with it, and comes back with it.
func TestKeysBelongToPrograms(t *testing.T) {
	t.Parallel()
	w := preparePlane(t, sqliteStore)
	w.bootstrap(t)
	p := launch(t, w)
	p.service(t, "app")
	p.user(t, "ann")
	does(t, p.principals.CreatePrincipal, &adminv1.CreatePrincipalRequest{Principal: &adminv1.Principal{Id: "part", Kind: aService, OwnerId: "app"}})
	_, one := p.key(t, "app")
	_, two := p.key(t, "app")
	_, child := p.key(t, "part")
	_, token := p.issue(t, &adminv1.Credential{Type: pat, PrincipalId: "ann", DisplayName: "laptop"})
	p.becomes(t, withKey("/", token), 200, "allowed")

	p.expect(t, withKey("/people/1", token), 200, "allowed")
	a := p.expect(t, withKey("/people/1", one), 403, "principal_kind")
	if a.code != codes.PermissionDenied {
		t.Errorf("the code is %v", a.code)
	}
	refuses(t, p.credentials.IssueCredential, &adminv1.IssueCredentialRequest{Credential: &adminv1.Credential{Type: apiKey, PrincipalId: "ann"}},
		codes.InvalidArgument, "INVALID_FIELD")

	able := func(disabled bool) {
		does(t, p.principals.UpdatePrincipal, &adminv1.UpdatePrincipalRequest{
			Principal:  &adminv1.Principal{Id: "app", Disabled: disabled},
			UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"disabled"}},
		})
	}
	able(true)
	for _, key := range []string{one, two, child} {
		p.becomes(t, withKey("/", key), 401, "disabled")
	}
	p.expect(t, withKey("/", token), 200, "allowed")
	able(false)
	for _, key := range []string{one, two, child} {
		p.becomes(t, withKey("/", key), 200, "allowed")
	}
}

// The table of opaque tokens as applications have it, and what is noted on a
// credential.
func TestTokenTable(t *testing.T) {
	t.Parallel()
	w := preparePlane(t, sqliteStore)
	w.bootstrap(t)
	p := launch(t, w)
	w.write(t, "tokens.txt", "abc1234 | Alice | admin\nxyz7890 | Bob | user\n")
	said := p.run(t, "token", "import", w.path("tokens.txt"), "--create-users")
	remove := func(token string) request { return get("/items/1", bearer(token)...).with(http.MethodDelete) }

	// T-05: Alice may delete, Bob may not, until he is made an admin; with the same token.
	p.becomes(t, remove("abc1234"), 200, "allowed")
	a := p.expect(t, remove("xyz7890"), 403, "permission_missing")
	if a.principal != "Bob" {
		t.Errorf("the token is %s's", a.principal)
	}
	p.expect(t, get("/items/1", bearer("xyz7890")...), 200, "allowed")
	p.expect(t, remove("abc1235"), 401, "credential_unknown")
	p.run(t, "user", "update", "Bob", "--role", "admin")
	p.becomes(t, remove("xyz7890"), 200, "allowed")
	p.run(t, "user", "update", "Bob", "--role", "user")
	p.becomes(t, remove("xyz7890"), 403, "permission_missing")
	list := does(t, p.credentials.ListCredentials, &adminv1.ListCredentialsRequest{PrincipalId: "Alice"}).GetCredentials()
	if len(list) != 1 || !list[0].GetLowEntropy() || !list[0].GetImported() {
		t.Errorf("the import notes %v", list)
	}
	for _, text := range []string{said, p.log.String(), p.answers.String(), p.scrape(t), w.read(t, "postern.db"), w.read(t, "postern.db-wal")} {
		if strings.Contains(text, "abc1234") || strings.Contains(text, "xyz7890") {
			t.Error("a token stands where it should not")
		}
	}

	// Z-06 and T-07: a policy may look at what is noted on a token, up to 8 KiB of it,
	// as it is now.
	billing := get("/billing/1", bearer("abc1234")...)
	p.expect(t, billing, 403, "policy_denied")
	note := func(team string) {
		does(t, p.credentials.UpdateCredential, &adminv1.UpdateCredentialRequest{
			Credential: &adminv1.Credential{Id: list[0].GetId(), Metadata: object(t, map[string]any{
				"team": team, "words": strings.Repeat("eight kibibytes ", 500),
			})},
			UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"metadata"}},
		})
	}
	note("billing")
	p.becomes(t, billing, 200, "allowed")
	note("sales")
	p.becomes(t, billing, 403, "policy_denied")
	refuses(t, p.credentials.UpdateCredential, &adminv1.UpdateCredentialRequest{
		Credential: &adminv1.Credential{Id: list[0].GetId(), Metadata: object(t, map[string]any{"words": strings.Repeat("x", 8<<10)})},
		UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"metadata"}},
	}, codes.InvalidArgument, "INVALID_FIELD")
}

// G-16: each limit that a credential can carry permits and refuses, on every kind
// of credential that the store has.
func TestLimitsOfStoredCredentials(t *testing.T) {
	t.Parallel()
	w := preparePlane(t, sqliteStore)
	w.bootstrap(t)
	p := launch(t, w)
	for id, kind := range map[string]posternv1.PrincipalKind{"app": aService, "ann": aUser} {
		p.principal(t, &adminv1.Principal{Id: id, Kind: kind, Permissions: []string{"records.read"}})
	}
	day := func(n int) []*adminv1.TimeWindow {
		return []*adminv1.TimeWindow{{Days: []string{strings.ToLower(time.Now().UTC().AddDate(0, 0, n).Weekday().String()[:3])}, From: "00:00", To: "24:00"}}
	}
	but := func(change func(*request)) request { q := get("/x"); change(&q); return q }
	limits := []struct {
		good   *adminv1.Constraints
		within request
		bad    *adminv1.Constraints // nil: the same
		beyond request
		status int
		reason string
	}{
		{&adminv1.Constraints{Networks: []string{"192.0.2.0/24"}}, get("/x"), nil, but(func(q *request) { q.source = "198.51.100.1" }), 403, "network_not_allowed"},
		{&adminv1.Constraints{Methods: []string{"GET"}}, get("/x"), nil, get("/x").with("POST"), 403, "method_not_allowed"},
		{&adminv1.Constraints{Paths: []string{"/x", "/x/**"}}, get("/x/y"), nil, get("/y"), 403, "path_not_allowed"},
		{&adminv1.Constraints{Hosts: []string{"api.test"}}, get("/x"), nil, but(func(q *request) { q.host = "other.test" }), 403, "host_not_allowed"},
		{&adminv1.Constraints{Audiences: []string{"api"}}, get("/x"), nil, get("/other/x"), 401, "invalid_audience"},
		{&adminv1.Constraints{RequireTls: true}, get("/plain/x"), nil, but(func(q *request) { q.path, q.scheme = "/plain/x", "http" }), 403, "credential_over_plaintext"},
		{&adminv1.Constraints{Windows: append(day(0), day(1)...)}, get("/x"), &adminv1.Constraints{Windows: day(3)}, get("/x"), 403, "time_not_allowed"},
	}
	for _, kind := range []adminv1.CredentialType{apiKey, pat, opaque} {
		t.Run(kind.String(), func(t *testing.T) {
			t.Parallel()
			for _, l := range limits {
				good := p.limited(t, kind, l.good)
				bad := good
				if l.bad != nil {
					bad = p.limited(t, kind, l.bad)
				}
				p.becomes(t, l.within.bearing(good), 200, "allowed")
				p.becomes(t, l.beyond.bearing(bad), l.status, l.reason)
				p.expect(t, l.beyond.bearing(bad), l.status, l.reason)
			}
			// A resource is what an application asks about; a request is about none.
			key := p.limited(t, kind, &adminv1.Constraints{Resources: []string{"base:a"}}, "records.read")
			p.becomes(t, withKey("/x", key), 403, "resource_not_allowed")
			for id, want := range map[string]string{"a": "allowed", "b": "resource_not_allowed"} {
				if got := p.acts(t, key, "records.read", "base", id); got.reason != want {
					t.Errorf("base:%s: %v, want %s", id, got, want)
				}
			}
		})
	}
}

// limited makes a credential of a kind.
func (o *operator) limited(t testing.TB, kind adminv1.CredentialType, limits *adminv1.Constraints, permissions ...string) string {
	t.Helper()
	c := &adminv1.Credential{Type: kind, PrincipalId: "app", Permissions: permissions, Constraints: limits}
	switch kind {
	case pat:
		c.PrincipalId, c.DisplayName = "ann", "laptop"
	case opaque:
		c.Permissions = nil // those of its principal
		secret := foreign()
		does(t, o.credentials.ImportCredentials, &adminv1.ImportCredentialsRequest{Credentials: []*adminv1.ImportedCredential{
			{Credential: c, Known: &adminv1.ImportedCredential_Secret{Secret: secret}},
		}})
		return secret
	}
	_, secret := o.issue(t, c)
	return secret
}

// Personal access tokens, of a user who has a password as well.
func TestPersonalAccessTokens(t *testing.T) {
	t.Parallel()
	w := preparePlane(t, sqliteStore)
	w.bootstrap(t)
	p := launch(t, w)
	does(t, p.tenants.CreateTenant, &adminv1.CreateTenantRequest{Tenant: &adminv1.Tenant{Id: "acme", MaxTtl: durationpb.New(30 * 24 * time.Hour), MaxPats: 6}})
	ann := &adminv1.Principal{
		Tenant: "acme", Id: "ann", Kind: aUser, Roles: []string{"writer"}, Scopes: []string{"orders:read", "orders:write"}, Permissions: []string{"records.read"},
	}
	p.principal(t, ann)
	wants := func(name string) *adminv1.Credential {
		return &adminv1.Credential{Type: pat, Tenant: "acme", PrincipalId: "ann", DisplayName: name}
	}
	order := func(c *adminv1.Credential) *adminv1.IssueCredentialRequest {
		return &adminv1.IssueCredentialRequest{Credential: c}
	}

	// P-03: a name, and an end that the tenant sets where nobody else does.
	refuses(t, p.credentials.IssueCredential, order(wants("")), codes.InvalidArgument, "INVALID_FIELD")
	long := wants("long")
	long.Expiration = &adminv1.Credential_Ttl{Ttl: durationpb.New(31 * 24 * time.Hour)}
	refuses(t, p.credentials.IssueCredential, order(long), codes.InvalidArgument, "TTL_TOO_LONG")
	made := does(t, p.credentials.IssueCredential, order(wants("everything")))
	if life := time.Until(made.GetCredential().GetExpireTime().AsTime()); life > 30*24*time.Hour || life < 29*24*time.Hour {
		t.Errorf("the token lives for %v", life)
	}

	// P-01: it is the user's, and the log knows both the user and the token.
	whole := made.GetSecret()
	p.becomes(t, withKey("/people/me", whole), 200, "allowed")
	a := p.askPostern(t, withKey("/people/me", whole))
	if a.principal != "ann" || a.method != "pat" || a.credential != made.GetCredential().GetId() {
		t.Errorf("the caller is %s by %s %s", a.principal, a.method, a.credential)
	}
	eventually(t, "the decision is in the log", func() bool {
		for _, e := range p.log.entries(t, "decision") {
			if e["decision_id"] == a.id {
				return e["principal"] == "ann" && e["credential"] == a.credential && e["allowed"] == true
			}
		}
		return false
	})

	// P-04: the ways in which programs send tokens, git's among them, are the same.
	p.hide(base64.StdEncoding.EncodeToString([]byte("ann:" + whole)))
	for _, value := range []string{"Bearer " + whole, "token " + whole, "Basic " + base64.StdEncoding.EncodeToString([]byte("ann:"+whole))} {
		if got := p.askPostern(t, get("/people/me", "authorization", value)); got.principal != "ann" || got.credential != a.credential {
			t.Errorf("%.6s…: %v", value, got)
		}
	}
	p.expect(t, get("/people/me", "authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte("ann:wrong"))), 401, "credential_unknown")

	// P-02, P-08: a classic one has scopes, a fine-grained one permissions on records;
	// a user has both, and the same policy decides about them.
	with := func(c *adminv1.Credential) string {
		_, secret := p.issue(t, c)
		p.becomes(t, withKey("/", secret).with("PATCH"), 200, "allowed")
		return secret
	}
	classic, other := wants("classic"), wants("other")
	classic.Scopes, other.Scopes = []string{"orders:read"}, []string{"orders:write"}
	reads, writes := with(classic), with(other)
	p.expect(t, withKey("/orders", reads), 200, "allowed")
	p.expect(t, withKey("/orders", reads).with("POST"), 403, "insufficient_scope")
	p.expect(t, withKey("/orders", writes).with("POST"), 200, "allowed")
	p.expect(t, withKey("/orders", writes), 403, "insufficient_scope")
	fine := wants("fine")
	fine.Permissions, fine.Constraints = []string{"records.read"}, &adminv1.Constraints{Resources: []string{"base:a"}}
	_, grained := p.issue(t, fine)
	p.becomes(t, withKey("/", grained), 403, "resource_not_allowed")
	for _, c := range []struct{ action, id, reason string }{
		{"records.read", "a", "allowed"},
		{"records.read", "b", "resource_not_allowed"}, // P-09
		{"records.write", "a", "permission_missing"},
	} {
		if got := p.acts(t, grained, c.action, "base", c.id); got.reason != c.reason {
			t.Errorf("%s of base:%s: %v, want %s", c.action, c.id, got, c.reason)
		}
	}
	five, six := with(wants("five")), with(wants("six"))
	refuses(t, p.credentials.IssueCredential, order(wants("seven")), codes.ResourceExhausted, "QUOTA_EXCEEDED")

	// P-06: revoking one leaves the others and the password alone.
	const password = "correct horse battery staple"
	does(t, p.users.SetPassword, &adminv1.SetPasswordRequest{Tenant: "acme", Id: "ann", Password: password})
	p.revoke(t, five)
	p.becomes(t, withKey("/", five), 401, "revoked")
	p.expect(t, withKey("/", six), 200, "allowed")
	does(t, p.sessions.CreateSession, &adminv1.CreateSessionRequest{Session: &adminv1.Session{Tenant: "acme", PrincipalId: "ann"}, Password: password})

	// P-07: a token never has more than its user has at the moment, and is nothing
	// without its user.
	put := withKey("/items/1", six).with("PUT")
	p.expect(t, put, 200, "allowed")
	change := func(field string, to *adminv1.Principal) {
		to.Tenant, to.Id = "acme", "ann"
		does(t, p.principals.UpdatePrincipal, &adminv1.UpdatePrincipalRequest{Principal: to, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{field}}})
	}
	change("roles", &adminv1.Principal{Roles: []string{"reader"}})
	p.becomes(t, put, 403, "permission_missing")
	p.expect(t, withKey("/items/1", six), 200, "allowed")
	change("scopes", &adminv1.Principal{Scopes: []string{"orders:write"}})
	p.becomes(t, withKey("/orders", reads), 403, "insufficient_scope")
	p.expect(t, withKey("/orders", writes).with("POST"), 200, "allowed")
	change("disabled", &adminv1.Principal{Disabled: true})
	for _, secret := range []string{whole, reads, writes, grained, six} {
		p.becomes(t, withKey("/", secret), 401, "disabled")
	}
	change("disabled", &adminv1.Principal{})
	p.becomes(t, withKey("/", six), 200, "allowed")
	does(t, p.principals.DeletePrincipal, &adminv1.DeletePrincipalRequest{Tenant: "acme", Id: "ann"})
	for _, secret := range []string{whole, reads, writes, grained, six} {
		p.becomes(t, withKey("/", secret), 401, "credential_unknown")
	}
}

// revoke revokes a credential of Postern's own form.
func (o *operator) revoke(t testing.TB, secret string) {
	t.Helper()
	parts := strings.Split(secret, "_")
	does(t, o.credentials.RevokeCredential, &adminv1.RevokeCredentialRequest{Id: parts[len(parts)-2]})
}

// P-05: each of four permissions opens one of four routes. P-11: a token with a
// period is renewed until its last day.
func TestTokensOfOnePermission(t *testing.T) {
	t.Parallel()
	w := preparePlane(t, sqliteStore)
	w.bootstrap(t)
	p := launch(t, w)
	p.user(t, "ann", "admin")
	crud := []struct{ permission, method, path string }{
		{"items.create", "POST", "/items"}, {"items.read", "GET", "/items/1"}, {"items.update", "PUT", "/items/1"}, {"items.delete", "DELETE", "/items/1"},
	}
	for _, has := range crud {
		_, secret := p.issue(t, &adminv1.Credential{Type: pat, PrincipalId: "ann", DisplayName: has.permission, Permissions: []string{has.permission}})
		p.becomes(t, withKey("/", secret), 200, "allowed")
		for _, wants := range crud {
			q := withKey(wants.path, secret).with(wants.method)
			if wants == has {
				p.expect(t, q, 200, "allowed")
			} else {
				p.expect(t, q, 403, "permission_missing")
			}
		}
	}

	begin := time.Now()
	id, _ := p.issue(t, &adminv1.Credential{
		Type: pat, PrincipalId: "ann", DisplayName: "renewed", RenewPeriod: durationpb.New(time.Hour), MaxExpireTime: timestamppb.New(begin.Add(150 * time.Minute)),
	})
	for _, want := range []time.Duration{2 * time.Hour, 150 * time.Minute} {
		c := does(t, p.credentials.RenewCredential, &adminv1.RenewCredentialRequest{Id: id}).GetCredential()
		if got := c.GetExpireTime().AsTime().Sub(begin); got < want-time.Second || got > want+time.Minute {
			t.Errorf("renewed, it ends after %v, want %v", got, want)
		}
	}
	refuses(t, p.credentials.RenewCredential, &adminv1.RenewCredentialRequest{Id: id}, codes.FailedPrecondition, "MAX_TTL_EXCEEDED")
}

// J-09 and P-13: what another issuer signed is revoked by its jti, or by whose it is
// and when it was issued; what is issued afterwards is good.
func TestTokensOfOthersAreRevoked(t *testing.T) {
	t.Parallel()
	w := preparePlane(t, sqliteStore)
	w.bootstrap(t)
	p := launch(t, w)
	token := func(subject, jti string, age time.Duration) string {
		now := time.Now().Truncate(time.Second)
		text := testIssuer.token(claims{"sub": subject, "jti": jti, "iat": now.Add(-age).Unix()})
		p.hide(text)
		return text
	}
	with := func(token string) request { return get("/", bearer(token)...) }
	one, two, bob := token("ann", "1", time.Minute), token("ann", "2", time.Minute), token("bob", "3", time.Minute)
	for _, token := range []string{one, two, bob} {
		p.becomes(t, with(token), 200, "allowed")
	}
	p.run(t, "denylist", "add", "--jti", "1", "--issuer", testIssuer.url, "--note", "laptop lost")
	p.becomes(t, with(one), 401, "revoked")
	p.expect(t, with(two), 200, "allowed")
	p.run(t, "denylist", "add", "--subject", "ann", "--issuer", testIssuer.url, "--issued-before", time.Now().Add(-30*time.Second).UTC().Format(time.RFC3339))
	p.becomes(t, with(two), 401, "revoked")
	p.expect(t, with(bob), 200, "allowed")
	p.expect(t, with(token("ann", "4", 0)), 200, "allowed")
	p.expect(t, with(token("ann", "5", time.Minute)), 401, "revoked")

	// Postern's own tokens are revoked by their id as well.
	p.user(t, "ann")
	id, own := p.issue(t, &adminv1.Credential{Type: pat, PrincipalId: "ann", DisplayName: "laptop"})
	p.becomes(t, with(own), 200, "allowed")
	p.run(t, "denylist", "add", "--jti", id)
	p.becomes(t, with(own), 401, "revoked")
}
