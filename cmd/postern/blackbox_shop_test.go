package main

import (
	"bytes"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/postern-auth/postern/policy/lib"
)

// shop is a world with the policy that ships as a sample.
func shop(t testing.TB) world {
	t.Helper()
	w := prepare(t, "shop")
	if err := os.CopyFS(w.path("policy"), lib.Sample); err != nil {
		t.Fatal(err)
	}
	return w
}

// Z-01 and Z-02: the three permissions of the shop, given to keys one by one, and
// the same by roles.
func TestShop(t *testing.T) {
	t.Parallel()
	w := shop(t)
	routes := map[string]request{
		"products.list":   get("/products"),
		"products.add":    get("/products").with("POST"),
		"products.delete": get("/products/7").with("DELETE"),
	}
	holders := map[string][]string{ // key → permissions
		w.mint(t, order{id: "list", permissions: []string{"products.list"}}):      {"products.list"},
		w.mint(t, order{id: "add", permissions: []string{"products.add"}}):        {"products.add"},
		w.mint(t, order{id: "delete", permissions: []string{"products.delete"}}):  {"products.delete"},
		w.mint(t, order{id: "user", roles: []string{"user"}}):                     {"products.list"},
		w.mint(t, order{id: "admin", roles: []string{"admin"}}):                   {"products.list", "products.add", "products.delete"},
		w.mint(t, order{id: "nobody"}):                                            nil,
		w.mint(t, order{id: "unknown", roles: []string{"Admin", "no-such-role"}}): nil,
	}
	b := start(t, w)
	for key, held := range holders {
		b.hide(key)
		for permission, q := range routes {
			q.headers = get("", "x-api-key", key).headers
			if slices.Contains(held, permission) {
				b.expect(t, q, 200, "allowed")
				continue
			}
			if a := b.expect(t, q, 403, "permission_missing"); !slices.Equal(a.missingPermissions, []string{permission}) {
				t.Errorf("missing %v, want %s", a.missingPermissions, permission)
			}
		}
	}
}

// Z-02 and Z-03: a role that changes counts for the keys that are out, without a
// new one; what a role denies, nothing gives back.
func TestRoleChanges(t *testing.T) {
	t.Parallel()
	w := shop(t)
	user, intern := w.mint(t, order{id: "user", roles: []string{"user"}}), w.mint(t, order{id: "intern", roles: []string{"admin", "intern"}, permissions: []string{"products.delete"}})
	b := start(t, w)
	b.hide(user, intern)
	add, remove := get("/products", "x-api-key", user).with("POST"), get("/products/7", "x-api-key", intern).with("DELETE")
	before := b.expect(t, add, 403, "permission_missing")
	b.expect(t, remove, 200, "allowed")
	b.write(t, "policy/shop.yaml", strings.NewReplacer(
		"permissions: [products.list]", "permissions: [products.list, products.add]",
		"  viewer:", "  intern:\n    deny: [products.delete]\n  viewer:",
	).Replace(b.read(t, "policy/shop.yaml")))
	eventually(t, "the new role counts", func() bool { return b.askEnvoy(t, add).allowed() })
	if a := b.expect(t, remove, 403, "permission_missing"); a.revision == before.revision {
		t.Error("the revision stayed the same")
	}
}

// Z-04: the explanation of a deny says which permission was missing, and where
// the rule stands.
func TestExplain(t *testing.T) {
	t.Parallel()
	w := shop(t)
	user := w.mint(t, order{id: "ann", roles: []string{"user"}})
	b := start(t, w)
	b.hide(user)
	a := b.expect(t, get("/products/7", "x-api-key", user).with("DELETE"), 403, "permission_missing")
	if !regexp.MustCompile(`\.rego:\d+$`).MatchString(a.rule) {
		t.Errorf("rule at %q", a.rule)
	}
	var out bytes.Buffer
	root := newRoot()
	root.SetArgs([]string{"explain", a.id, "--admin", b.admin})
	root.SetOut(&out)
	if err := root.ExecuteContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.leaks(t, "explanation", out.String())
	for _, want := range []string{
		"DELETE api.test/products/7", "permission_missing", "products.delete", "ann",
		"2 find", "header:x-api-key", "5 decide", "failed", "6 spend", "skipped",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in the explanation:\n%s", want, out.String())
		}
	}
}

// Z-06: facts about a key, in Rego.
func TestFactsDecide(t *testing.T) {
	t.Parallel()
	w := prepare(t, "billing")
	billing, sales := w.mint(t, order{id: "ann", metadata: map[string]string{"team": "billing"}}), w.mint(t, order{id: "bob", metadata: map[string]string{"team": "sales"}})
	none := w.mint(t, order{id: "eve"})
	b := start(t, w)
	b.hide(billing, sales, none)
	b.expect(t, get("/invoices", "x-api-key", billing), 200, "allowed")
	for _, key := range []string{sales, none} {
		if a := b.expect(t, get("/invoices", "x-api-key", key), 403, "policy_denied"); !strings.Contains(a.body, "This is for the billing team.") {
			t.Errorf("the client is told %s", a.body)
		}
	}
}
