package admin_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/admin"
)

var update = flag.Bool("update", false, "write testdata/matrix.txt anew")

func authorizer(t testing.TB) *admin.Authorizer {
	t.Helper()
	s, err := admin.LoadPolicy(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return admin.NewAuthorizer(s)
}

func holder(kind policy.Kind, tenant, id string, method policy.Method, roles ...string) *policy.Principal {
	return &policy.Principal{ID: id, Kind: kind, Tenant: tenant, Roles: roles, Method: method, Issuer: "postern", CredentialID: "k1"}
}

// Who may do what, as a table that people can read: G-09.
func TestMatrix(t *testing.T) {
	t.Parallel()
	may := authorizer(t)
	callers := []struct {
		name string
		who  *policy.Principal
	}{
		{"platform", holder(policy.KindUser, "", "root", policy.MethodSession, "platform-admin")},
		{"admin@acme", holder(policy.KindUser, "acme", "boss", policy.MethodSession, "tenant-admin")},
		{"issuer@acme", holder(policy.KindService, "acme", "ci", policy.MethodAPIKey, "issuer")},
		{"auditor@acme", holder(policy.KindService, "acme", "eye", policy.MethodAPIKey, "auditor")},
		{"auditor", holder(policy.KindService, "", "eye", policy.MethodAPIKey, "auditor")},
		{"ann", holder(policy.KindUser, "acme", "ann", policy.MethodSession)},
		{"ann's-pat", holder(policy.KindUser, "acme", "ann", policy.MethodPAT)},
		{"nobody", holder(policy.KindService, "acme", "app", policy.MethodAPIKey, "admin")},
		{"false-platform", holder(policy.KindUser, "acme", "mallory", policy.MethodSession, "platform-admin")},
	}
	records := []struct{ name, tenant, principal, sort string }{
		{"acme's", "acme", "app", "api_key"},
		{"ann's", "acme", "ann", "pat"},
		{"other's", "other", "ann", "pat"},
		{"installation's", "", "app", "api_key"},
		{"everybody's", "*", "", ""},
	}
	var b strings.Builder
	for _, r := range records {
		fmt.Fprintf(&b, "%-22s", r.name)
		for _, c := range callers {
			fmt.Fprintf(&b, " %-14s", c.name)
		}
		b.WriteString("\n")
		for _, action := range admin.Actions() {
			fmt.Fprintf(&b, "  %-20s", action)
			for _, c := range callers {
				fmt.Fprintf(&b, " %-14s", may.May(t.Context(), c.who, action, r.tenant, r.principal, r.sort))
			}
			b.WriteString("\n")
		}
		b.WriteString("\n")
	}
	got := strings.ReplaceAll(b.String(), " \n", "\n")
	for strings.Contains(got, " \n") {
		got = strings.ReplaceAll(got, " \n", "\n")
	}
	const file = "testdata/matrix.txt"
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("who may do what has changed; look at the difference, then run with -update:\n%s", got)
	}
}

// Tables add roles and replace them, but get nobody out of their tenant.
func TestTables(t *testing.T) {
	t.Parallel()
	s, err := admin.LoadPolicy(t.Context(), fstest.MapFS{"roles.yaml": {Data: []byte(`
admin:
  roles:
    issuer: {}
    wide: {actions: ["*"], reach: below, holders: anybody, unlimited: true, wildcard: true}
`)}})
	if err != nil {
		t.Fatal(err)
	}
	may := admin.NewAuthorizer(s)
	ask := func(tenant, role, of string) string {
		return may.May(t.Context(), holder(policy.KindService, tenant, "me", policy.MethodAPIKey, role), "credentials.issue", of, "app", "api_key")
	}
	for _, tt := range []struct{ tenant, role, of, want string }{
		{"acme", "issuer", "acme", "-"},
		{"acme", "wide", "acme", "all"},
		{"acme", "wide", "other", "-"},
		{"acme", "wide", "", "-"},
		{"", "wide", "other", "all"},
		{"acme", "tenant-admin", "acme", "unlimited"},
	} {
		if got := ask(tt.tenant, tt.role, tt.of); got != tt.want {
			t.Errorf("%s of %q on what is %q's: %s, want %s", tt.role, tt.tenant, tt.of, got, tt.want)
		}
	}
}

// A policy that lets everybody do everything keeps tenants apart, because no policy
// is asked.
func TestNoPolicyCrossesTenants(t *testing.T) {
	t.Parallel()
	may := admin.NewAuthorizer(decider{verdict: &policy.Verdict{Allow: true}})
	for tenant, want := range map[string]string{"acme": "yes", "other": "-", "": "-", "*": "-"} {
		if got := may.May(t.Context(), holder(policy.KindUser, "acme", "ann", policy.MethodSession), "credentials.get", tenant, "ann", "pat"); got != want {
			t.Errorf("%q: %s, want %s", tenant, got, want)
		}
	}
}

// Whatever a policy says that is no plain yes, is a no, and gives nothing away.
func TestOnlyYesIsYes(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		decider decider
		want    string
	}{
		"no verdict":   {decider{}, "-"},
		"zero verdict": {decider{verdict: &policy.Verdict{}}, "-"},
		"error":        {decider{verdict: &policy.Verdict{Allow: true}, err: errors.New("fault")}, "-"},
		"no grants":    {decider{verdict: &policy.Verdict{Allow: true}}, "yes"},
		"odd grants": {decider{verdict: &policy.Verdict{Allow: true, Metadata: map[string]any{
			"grants": map[string]any{"unlimited": "true", "wildcard": 1}}}}, "yes"},
		"list of grants": {decider{verdict: &policy.Verdict{Allow: true, Metadata: map[string]any{"grants": []any{"unlimited"}}}}, "yes"},
	} {
		got := admin.NewAuthorizer(tt.decider).May(t.Context(), holder(policy.KindUser, "", "root", policy.MethodSession), "credentials.get", "", "", "")
		if got != tt.want {
			t.Errorf("%s: %s, want %s", name, got, tt.want)
		}
	}
}

type decider struct {
	verdict *policy.Verdict
	err     error
}

func (d decider) Decide(context.Context, *policy.Input) (*policy.Verdict, bool, error) {
	return d.verdict, false, d.err
}
