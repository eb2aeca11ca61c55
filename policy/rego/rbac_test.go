package rego_test

import (
	"cmp"
	"context"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	opa "github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/storage/inmem"
	"github.com/open-policy-agent/opa/v1/tester"
	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/policy/lib"
	"github.com/postern-auth/postern/policy/rego"
	"pgregory.net/rapid"
)

// The Rego tests of policy/lib, in OPA's own runner.
func TestLibrary(t *testing.T) {
	modules := map[string]*ast.Module{}
	err := fs.WalkDir(lib.Modules, ".", func(name string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		text, err := fs.ReadFile(lib.Modules, name)
		modules[name] = ast.MustParseModule(string(text))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	data := map[string]any{}
	for _, table := range lib.Tables {
		data[table] = map[string]any{}
	}
	store := inmem.NewFromObject(data)
	decl, call := rego.PermitsBuiltin()
	function := opa.Function2(&opa.Function{Name: decl.Name, Decl: decl.Decl},
		func(_ opa.BuiltinContext, a, b *ast.Term) (*ast.Term, error) { return call([]*ast.Term{a, b}) })
	runner := tester.NewRunner().SetStore(store).SetModules(modules).RaiseBuiltinErrors(true).
		AddCustomBuiltins([]*tester.Builtin{{Decl: decl, Func: function}})
	txn := storage.NewTransactionOrDie(t.Context(), store)
	defer store.Abort(context.WithoutCancel(t.Context()), txn)
	results, err := runner.RunTests(t.Context(), txn)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for r := range results {
		if n++; !r.Pass() {
			t.Errorf("%s: %s %v", r.Location, r.Name, r.Error)
		}
	}
	if n < 10 {
		t.Errorf("only %d Rego tests ran", n)
	}
}

// shop answers with the sample policy.
func shop(t *testing.T, method, path string, change func(*policy.Principal)) *policy.Verdict {
	t.Helper()
	b, err := rego.LoadFS(lib.Sample, rego.Config{Strict: true})
	if err != nil {
		t.Fatal(err)
	}
	s, err := rego.Compile(t.Context(), b, rego.Config{Strict: true, Timeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	return decide(t, s, input(func(in *policy.Input) {
		in.Principal.Roles = nil
		change(in.Principal)
		in.Request.Method, in.Request.Path = method, path
	}))
}

// The shop of the documentation: three permissions, one by one or by role.
// Z-01 Z-02
func TestShop(t *testing.T) {
	t.Parallel()
	calls := map[string][2]string{
		"products.list":   {"GET", "/products/7"},
		"products.add":    {"POST", "/products"},
		"products.delete": {"DELETE", "/products/7"},
	}
	may := map[string][]string{
		"user":  {"products.list"},
		"admin": {"products.list", "products.add", "products.delete"},
		"ghost": nil,
	}
	for permission, call := range calls {
		for direct := range calls {
			v := shop(t, call[0], call[1], func(p *policy.Principal) { p.Permissions = []string{direct} })
			if v.Allow != (direct == permission) {
				t.Errorf("%s with permission %s: allow %v", call, direct, v.Allow)
			}
		}
		for role, holds := range may {
			v := shop(t, call[0], call[1], func(p *policy.Principal) { p.Roles = []string{role} })
			if v.Allow != slices.Contains(holds, permission) {
				t.Errorf("%s as %s: allow %v", call, role, v.Allow)
			}
		}
	}
}

// Z-04: the answer names the permission that was missing, and where it was asked.
func TestMissingPermissionIsNamed(t *testing.T) {
	t.Parallel()
	v := shop(t, "DELETE", "/products/7", func(p *policy.Principal) { p.Roles = []string{"user"} })
	if v.Allow || v.Reason != policy.ReasonPermission || !slices.Equal(v.MissingPermissions, []string{"products.delete"}) {
		t.Errorf("%+v", v)
	}
	if v.Rule != lib.RBAC || v.Line == 0 {
		t.Errorf("not explained: %s %s:%d", v.Rule, v.File, v.Line)
	}
}

// The cases of the sample policy; the tables need no Rego.
func TestSample(t *testing.T) {
	t.Parallel()
	viewer := func(p *policy.Principal) { p.Roles = []string{"viewer"} }
	agent := func(p *policy.Principal) { p.Kind = policy.KindAgent }
	for _, c := range []struct {
		method, path string
		as           func(*policy.Principal)
		allow        bool
	}{
		{"GET", "/orders/7", viewer, true},
		{"DELETE", "/orders/7", viewer, false},
		{"GET", "/orders/7/items", viewer, false},
		{"GET", "/orders/7", agent, false},
		{"GET", "/healthz", agent, true},
		{"GET", "/elsewhere", viewer, false},
		{"GET", "/Internal/x", viewer, false},
	} {
		if v := shop(t, c.method, c.path, c.as); v.Allow != c.allow {
			t.Errorf("%s %s: %+v", c.method, c.path, v)
		}
	}
}

// O-02: everything that is missing, in one answer; implied scopes count.
func TestMissingScopes(t *testing.T) {
	t.Parallel()
	s := compile(t, fstest.MapFS{"t.yaml": {Data: []byte(`
scopes: { admin: [write], write: [read] }
routes: [ { path: /orders/*, scopes: [read, write, export] } ]`)}}, rego.Config{})
	for granted, missing := range map[string][]string{
		"":             {"read", "write", "export", "audit"},
		"read":         {"write", "export", "audit"},
		"admin":        {"export", "audit"},
		"admin export": {"audit"},
	} {
		v := decide(t, s, input(func(in *policy.Input) {
			in.Principal.Scopes = strings.Fields(granted)
			in.Route.Scopes = []string{"read", "audit"}
		}))
		slices.Sort(v.MissingScopes)
		slices.Sort(missing)
		if v.Allow || v.Reason != policy.ReasonScope || !slices.Equal(v.MissingScopes, missing) {
			t.Errorf("granted %q: %+v", granted, v)
		}
	}
}

// Z-06
func TestAttributeRule(t *testing.T) {
	t.Parallel()
	s := compile(t, module(`default decision := false
decision if input.principal.metadata.team == "billing"`), rego.Config{})
	for team, allow := range map[any]bool{"billing": true, "Billing": false, "": false, nil: false, 1: false} {
		v := decide(t, s, input(func(in *policy.Input) { in.Principal.Metadata = map[string]any{"team": team} }))
		if v.Allow != allow {
			t.Errorf("team %v: %+v", team, v)
		}
	}
	if decide(t, s, input()).Allow {
		t.Error("allowed without metadata")
	}
}

// Z-03: for any tables, the answer is what the definition says: the union of
// direct and role permissions, inheritance followed, minus everything denied.
func TestUnionAndDeny(t *testing.T) {
	t.Parallel()
	names := []string{"a", "b", "c", "d"}
	permissions := []string{"x.read", "x.write", "y.read", "y.write"}
	patterns := append([]string{"x.*", "y.*", "*"}, permissions...)
	rapid.Check(t, func(t *rapid.T) {
		subset := func(of []string, label string) []string {
			return rapid.SliceOfNDistinct(rapid.SampledFrom(of), 0, 2, rapid.ID[string]).Draw(t, label)
		}
		roles, all := map[string]any{}, map[string][3][]string{}
		for _, name := range names {
			r := [3][]string{subset(patterns, name+" grants"), subset(names, name+" inherits"), subset(patterns, name+" denies")}
			all[name] = r
			roles[name] = map[string]any{"permissions": anys(r[0]), "inherits": anys(r[1]), "deny": anys(r[2])}
		}
		caller, direct := subset(names, "roles"), subset(patterns, "direct")
		wanted := rapid.SampledFrom(permissions).Draw(t, "wanted")

		reached := map[string]bool{}
		for todo := slices.Clone(caller); len(todo) > 0; todo = todo[1:] {
			if !reached[todo[0]] {
				reached[todo[0]] = true
				todo = append(todo, all[todo[0]][1]...)
			}
		}
		granted, denied := matches(direct, wanted), false
		for name := range reached {
			granted = granted || matches(all[name][0], wanted)
			denied = denied || matches(all[name][2], wanted)
		}
		decl, call := rego.PermitsBuiltin()
		_ = decl
		out, err := call([]*ast.Term{
			ast.NewTerm(ast.MustInterfaceToValue(map[string]any{"roles": roles})),
			ast.NewTerm(ast.MustInterfaceToValue(map[string]any{
				"roles": anys(caller), "permissions": anys(direct), "required_permission": wanted,
			})),
		})
		if err != nil {
			t.Fatal(err)
		}
		allow := out.Value.(ast.Object).Get(ast.StringTerm("allow")).Equal(ast.BooleanTerm(true))
		if allow != (granted && !denied) {
			t.Fatalf("granted %v, denied %v: %s", granted, denied, out)
		}
	})
}

func anys(list []string) []any {
	all := make([]any, len(list))
	for i, s := range list {
		all[i] = s
	}
	return all
}

func matches(patterns []string, name string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool {
		prefix, star := strings.CutSuffix(p, "*")
		return p == name || star && strings.HasPrefix(name, prefix)
	})
}

// The index finds exactly what the patterns match one by one, first in order.
func TestPathIndex(t *testing.T) {
	t.Parallel()
	step := rapid.SampledFrom([]string{"a", "b", "*", ""})
	rapid.Check(t, func(t *rapid.T) {
		var patterns []policy.PathPattern
		for range rapid.IntRange(0, 6).Draw(t, "n") {
			text := "/" + strings.Join(rapid.SliceOfN(step, 1, 3).Draw(t, "pattern"), "/") + rapid.SampledFrom([]string{"", "/**"}).Draw(t, "tail")
			if p, err := policy.ParsePathPattern(text); err == nil {
				patterns = append(patterns, p)
			}
		}
		path := "/" + strings.Join(rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "c", ""}), 1, 4).Draw(t, "path"), "/")
		want := slices.IndexFunc(patterns, func(p policy.PathPattern) bool { return p.Match(path) })
		if got := rego.PathIndexFirst(patterns, path); got != want {
			t.Fatalf("%s in %v: %d, want %d", path, patterns, got, want)
		}
	})
}

// What protects /admin protects /ADMIN: a path that a forgiving server reads as
// another must satisfy the demands of both, whatever else would allow it. A fold
// never makes an allow.
func TestDemandsOfTheFoldedPath(t *testing.T) {
	t.Parallel()
	s := compile(t, fstest.MapFS{"t.yaml": {Data: []byte(`
roles:
  auditor: [ { path: /ADMIN/*, methods: [GET] }, { path: /billing/, methods: [GET] } ]
routes:
  - { path: /admin/**, scopes: [admin] }
  - { path: /Reports/**, scopes: [reports] }
  - { path: /open, public: true }
  - { path: /billing, scopes: [billing] }
  - { path: /invoices/, scopes: [billing] }
  - { path: /vault/*, scopes: [vault] }
  - { path: /both, scopes: [a] }
  - { path: /both/, scopes: [b] }
  - { path: /files/*, methods: [GET], scopes: [files] }
  - { path: /**, methods: [TRACE, get], public: true }
  - { path: /things/**, public: true }
  - { path: /VAULT/*, public: true }
  - { path: /billing/, public: true }
  - { path: /invoices, public: true }
`)}}, rego.Config{})
	for _, c := range []struct {
		path, folded, scopes string
		configured           string // scope that Postern's own route demands
		role                 string
		allow                bool
	}{
		{path: "/admin/x", scopes: "admin", allow: true},
		{path: "/ADMIN/x"},
		{path: "/ADMIN/x", scopes: "admin"}, // no route for the path itself
		{path: "/things/ADMIN", allow: true},
		{path: "/things/../x", folded: "/admin/x"},
		{path: "/things/../x", folded: "/admin/x", scopes: "admin", allow: true},
		{path: "/Reports/1", scopes: "reports", allow: true},
		{path: "/reports/1", scopes: "reports"},
		{path: "/OPEN"},
		// What else allows does not take the demands away.
		{path: "/ADMIN/x", scopes: "read", configured: "read"},
		{path: "/ADMIN/x", scopes: "read admin", configured: "read", allow: true},
		{path: "/ADMIN/x", role: "auditor"},
		{path: "/ADMIN/x", role: "auditor", scopes: "admin", allow: true},
		// A folded slash makes two segments of one for some servers, not for all.
		{path: "/VAULT/a%2Fb", folded: "/vault/a/b"},
		{path: "/VAULT/a%2Fb", folded: "/vault/a/b", scopes: "vault", allow: true},
		// A slash at the end, there and missing.
		{path: "/billing/"},
		{path: "/billing/", role: "auditor"},
		{path: "/billing/", scopes: "billing", allow: true},
		{path: "/Billing/", scopes: "read", configured: "read"},
		{path: "/billing", scopes: "billing", allow: true},
		{path: "/invoices"},
		{path: "/INVOICES", scopes: "read", configured: "read"},
		{path: "/invoices", scopes: "billing", allow: true},
		{path: "/both", scopes: "a"},
		{path: "/both/", scopes: "b"},
		{path: "/both", scopes: "a b", allow: true},
		{path: "/both/", scopes: "a b", allow: true},
	} {
		v := decide(t, s, input(func(in *policy.Input) {
			in.Principal.Scopes, in.Principal.Roles = strings.Fields(c.scopes), strings.Fields(c.role)
			in.Route.Scopes = strings.Fields(c.configured)
			in.Request.Path, in.Request.Folded = c.path, cmp.Or(c.folded, strings.ToLower(c.path))
		}))
		if v.Allow != c.allow {
			t.Errorf("%+v: allow %v", c, v.Allow)
		}
	}
}

// HEAD asks for what GET asks for, and a method in other letters may be taken for
// the one it looks like.
func TestDemandsOfOtherMethods(t *testing.T) {
	t.Parallel()
	s := compile(t, fstest.MapFS{"t.yaml": {Data: []byte(`
routes:
  - { path: /reports/*, methods: [GET, POST], scopes: [reports] }
  - { path: /status, methods: [GET], scopes: [status] }
  - { path: /status, methods: [HEAD], public: true }
  - { path: /probe, methods: [HEAD], public: true }
  - { path: /probe, methods: [GET], scopes: [probe] }
  - { path: /pages/*, methods: [GET], public: true }
  - { path: /only, methods: [GET], scopes: [only] }
  - { path: /files/*, methods: [GET], scopes: [files] }
  - { path: /files/7, methods: [HEAD], scopes: [seven] }
  - { path: /reports/**, methods: [GET, HEAD, OPTIONS, get, post], public: true }
deny:
  - { path: /secret/**, methods: [get] }
`)}}, rego.Config{})
	for _, c := range []struct {
		method, path, scopes string
		allow                bool
	}{
		{"HEAD", "/reports/7", "", false},
		{"HEAD", "/REPORTS/7", "", false},
		{"HEAD", "/reports/7", "reports", true},
		{"OPTIONS", "/reports/7", "", true},
		{"get", "/reports/7", "", false},
		{"post", "/reports/7", "", false},
		{"post", "/reports/7", "reports", true},
		{"GET", "/status", "", false},
		{"HEAD", "/status", "", true},
		{"HEAD", "/probe", "", true},
		{"HEAD", "/pages/7", "", true},
		{"HEAD", "/only", "", false},
		{"HEAD", "/only", "only", true},
		{"head", "/only", "only", false},
		{"get", "/only", "only", false}, // only demands are read in other letters
		{"HEAD", "/files/7", "seven", false},
		{"HEAD", "/files/7", "files", false},
		{"HEAD", "/files/7", "files seven", true},
	} {
		v := decide(t, s, input(func(in *policy.Input) {
			in.Principal.Scopes, in.Principal.Roles = strings.Fields(c.scopes), nil
			in.Request.Method, in.Request.Path = c.method, c.path
		}))
		if v.Allow != c.allow {
			t.Errorf("%+v: allow %v", c, v.Allow)
		}
	}
	for method, denied := range map[string]bool{"GET": true, "HEAD": true, "head": true, "PUT": false} {
		v := decide(t, s, input(func(in *policy.Input) {
			in.Request.Method, in.Request.Path = method, "/Secret/"
			in.Principal.Scopes, in.Route.Scopes = []string{"read"}, []string{"read"}
		}))
		if v.Allow == denied {
			t.Errorf("%s /Secret/: allow %v", method, v.Allow)
		}
	}
}

// For any tables: no other spelling of a request is allowed where the plain one is
// not, and no HEAD where GET is not, unless a route is for HEAD.
func TestSpellingNeverHelps(t *testing.T) {
	t.Parallel()
	_, call := rego.PermitsBuiltin()
	patterns := []string{"/a", "/a/", "/a/b", "/a/b/", "/**", "/a/*", "/a/**"}
	methods := []string{"GET", "HEAD", "PUT"}
	rapid.Check(t, func(t *rapid.T) {
		var routes []any
		ownHead := false
		for i := range rapid.IntRange(1, 4).Draw(t, "routes") {
			listed := rapid.SliceOfNDistinct(rapid.SampledFrom(methods), 0, 2, rapid.ID[string]).Draw(t, "listed")
			ownHead = ownHead || slices.Contains(listed, "HEAD")
			route := map[string]any{"path": rapid.SampledFrom(patterns).Draw(t, "pattern"), "methods": anys(listed)}
			if rapid.Bool().Draw(t, "public") {
				route["public"] = true
			} else {
				route["scopes"] = []any{fmt.Sprint("s", i)}
			}
			routes = append(routes, route)
		}
		scopes := rapid.SliceOfDistinct(rapid.SampledFrom([]string{"s0", "s1", "s2", "s3"}), rapid.ID[string]).Draw(t, "held")
		allows := func(method, path string) bool {
			out, err := call([]*ast.Term{
				ast.NewTerm(ast.MustInterfaceToValue(map[string]any{"routes": routes})),
				ast.NewTerm(ast.MustInterfaceToValue(map[string]any{
					"method": method, "path": path, "folded": strings.ToLower(path),
					"scopes": anys(append(scopes, "own")), "required_scopes": []any{"own"},
				})),
			})
			if err != nil {
				t.Fatal(err)
			}
			return out.Value.(ast.Object).Get(ast.StringTerm("allow")).Equal(ast.BooleanTerm(true))
		}
		for _, path := range []string{"/a", "/a/b"} {
			for _, method := range methods {
				plain := allows(method, path)
				for _, other := range [][2]string{{method, strings.ToUpper(path)}, {method, path + "/"}, {strings.ToLower(method), path}} {
					if allows(other[0], other[1]) && !plain {
						t.Fatalf("%s is allowed, %s %s is not", other, method, path)
					}
				}
			}
			if allows("HEAD", path) && !allows("GET", path) && !ownHead {
				t.Fatalf("HEAD %s is allowed, GET is not", path)
			}
		}
	})
}

// Mistakes in the tables are found at load, all of them, by their place.
func TestTablesAreChecked(t *testing.T) {
	t.Parallel()
	b, err := rego.LoadFS(fstest.MapFS{"t.yaml": {Data: []byte(`
permissions: [a.read]
roles:
  r: { permissions: [a.raed], inherit: [s] }
  s: [ "a*" ]
  u: { inherits: [nobody] }
routes:
  - { path: /x }
  - { path: no-slash, permission: a.read }
  - { permission: a.read, public: true, path: /y }
deny: [ { path: /a/**/b } ]
scopes: { admin: read }`)}}, rego.Config{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = rego.Compile(t.Context(), b, rego.Config{})
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{
		`data.roles.r.permissions[0]: "a.raed" is not listed`,
		`data.roles.r: has no "inherit"`,
		`data.roles.s[0]: "*" in a permission`,
		`a role inherits from "nobody", which is no role`,
		`data.routes[0]: needs a permission or scopes`,
		`data.routes[1]: "no-slash": a path pattern starts with "/"`,
		`data.routes[2]: needs a permission or scopes, or public: true, and not both`,
		`data.deny[0]: "/a/**/b"`,
		`data.scopes.admin: is a list`,
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("no %q in:\n%v", want, err)
		}
	}
}

// Users' own Rego may keep data of the same names in another shape.
func TestTablesOfOtherShape(t *testing.T) {
	t.Parallel()
	fsys := module(`decision if "GET" in data.roles[input.principal.roles[0]].methods`)
	fsys["roles.json"] = &fstest.MapFile{Data: []byte(`{"roles": {"viewer": {"methods": ["GET"]}}, "deny": 7}`)}
	if v := decide(t, compile(t, fsys, rego.Config{}), input()); !v.Allow {
		t.Errorf("%+v", v)
	}
}
