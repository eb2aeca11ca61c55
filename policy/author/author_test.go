package author_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/policy/author"
	"github.com/postern-auth/postern/policy/rego"
)

// files makes a policy directory of names and texts.
func files(pairs ...string) fstest.MapFS {
	fsys := fstest.MapFS{}
	for i := 0; i < len(pairs); i += 2 {
		fsys[pairs[i]] = &fstest.MapFile{Data: []byte(pairs[i+1])}
	}
	return fsys
}

// authz is a directory of one file.
func authz(text string) fstest.MapFS {
	return files("authz.rego", "package postern.authz\n\n"+text)
}

func load(t testing.TB, fsys fstest.MapFS, config rego.Config) *rego.Bundle {
	t.Helper()
	b, err := rego.LoadFS(fsys, config)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func compile(t testing.TB, fsys fstest.MapFS, config rego.Config) *author.Policy {
	t.Helper()
	p, err := author.Compile(t.Context(), load(t, fsys, config), config)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// shop decides by tables, but for a tenant's host and a freeze.
func shop() fstest.MapFS {
	return files(
		"authz.rego", `package postern.authz

import data.postern.lib.rbac

decision := rbac.decision if not frozen

decision := {"allow": false, "reason": "tenant_mismatch", "message": "Frozen."} if frozen

frozen if {
	input.request.host == "frozen.test"
	data.freeze
}
`,
		"tables.yaml", `
roles:
  reader: [orders.read]
  clerk: { inherits: [reader], permissions: [orders.refund] }
routes:
  - { methods: [GET], path: /orders/*, permission: orders.read }
  - { methods: [POST], path: /orders/*/refund, permission: orders.refund }
freeze: true
`)
}

// A misspelt field of the input is an error with its place, and so is all else that
// the server would refuse.
func TestCheck(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		fsys fstest.MapFS
		want []string
	}{
		"good": {shop(), nil},
		"misspelt at the top": {authz(`decision if input.reqest.path == "/"`),
			[]string{`authz.rego:3:13: there is no input.reqest; did you mean "request"?`}},
		"misspelt below": {authz("decision if {\n\tinput.principal.id == \"ann\"\n\t\"x\" in input.principal.role\n}"),
			[]string{"authz.rego:5:", "there is no input.principal.role", `did you mean "roles"`}},
		"through an import": {files("a.rego", "package postern.authz\n\nimport input.attributes.request.http as http\n\ndecision if http.methd == \"GET\""),
			[]string{"a.rego:5:", "methd", `"method"`}},
		"nothing below a text": {authz(`decision if input.request.path.first == "x"`), []string{"authz.rego:3:", "input.request.path"}},
		"of another type":      {authz(`decision if input.request.port == "443"`), []string{"authz.rego:3:", "match"}},
		"open where a request brings names": {authz(`decision if {
	input.principal.claims.team == "billing"
	input.attributes.request.http.headers["x-y"] == "z"
	input.parsed_body.a.b == 1
	input.context.anything.at.all
	input.route.labels.tier == "gold"
}`), nil},
		"forbidden function":     {authz(`decision if http.send({"url": "x", "method": "get"}).status_code == 200`), []string{"authz.rego:3:", "http.send is not allowed"}},
		"no entrypoint":          {files("a.rego", "package a\nok := true"), []string{"no rule data.postern.authz.decision", "data.a.ok"}},
		"mistakes in the tables": {files("t.yaml", "roles: {a: {inherits: [nobody]}}\nroutes: [{path: x}]"), []string{"nobody"}},
		"strict":                 {authz("default decision := true"), []string{"authz.rego:3:1", "deny by default"}},
		"unused variable":        {authz("decision if { x := 1 }"), []string{"authz.rego:3:", "unused"}},
		"all of them": {authz("decision if input.reqest\n\nother if input.principl"),
			[]string{"authz.rego:3:13", "authz.rego:5:10"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			found, err := author.Check(t.Context(), load(t, c.fsys, rego.Config{}), nil, rego.Config{})
			if err != nil {
				t.Fatal(err)
			}
			if (len(found) == 0) != (c.want == nil) {
				t.Fatalf("found %v, want %v", found, c.want)
			}
			for _, want := range c.want {
				if !strings.Contains(found.Error(), want) {
					t.Errorf("no %q in\n%v", want, found)
				}
			}
		})
	}
}

// The schema is made from the table of the document, and everything that a request can
// show is in it: the document of a full request has no field that is misspelt.
func TestSchemaHoldsTheDocument(t *testing.T) {
	t.Parallel()
	var walk func(at string, schema map[string]any, v any)
	walk = func(at string, schema map[string]any, v any) {
		object, isObject := v.(map[string]any)
		properties, closed := schema["properties"].(map[string]any)
		if !isObject || !closed {
			return
		}
		for name, below := range object {
			s, ok := properties[name].(map[string]any)
			if !ok {
				t.Errorf("%s.%s is no part of the schema", at, name)
				continue
			}
			walk(at+"."+name, s, below)
		}
	}
	p := compile(t, authz("decision := input"), rego.Config{})
	q := author.Question{
		Request: &author.Request{Path: "/pkg.Service/Do?x=1", Method: "POST", Headers: map[string]string{"content-type": "application/grpc"}, Body: "{}"},
		Principal: &author.Principal{ID: "ann", Claims: map[string]any{"x": 1}, Actors: []author.Actor{{ID: "a", Kind: "agent"}}, AMR: []string{"pwd"},
			IssuedAt: time.Unix(1, 0), ExpiresAt: time.Unix(1<<40, 0), AuthTime: time.Unix(1, 0)},
		Peer: &author.Peer{ID: "spiffe://x/y"}, Route: &author.Route{Name: "r"}, Context: map[string]any{"k": "v"},
	}
	in, err := q.Input()
	if err != nil {
		t.Fatal(err)
	}
	a, err := p.EvalRequest(t.Context(), "input", in)
	if err != nil || len(a.Results) != 1 {
		t.Fatalf("%+v %v", a, err)
	}
	walk("input", rego.InputSchema(), a.Results[0])
}

const orders = `
tests:
  - name: readers read
    request: {host: shop.test, path: /orders/7}
    principal: {id: ann, roles: [reader]}
    want: {allow: true, reason: allowed}
  - name: readers do not refund
    request: {method: POST, host: shop.test, path: /orders/7/refund}
    principal: {id: ann, roles: [reader]}
    want:
      allow: false
      reason: permission_missing
      status: 403
      message: A permission is missing.
      missing_permissions: [orders.refund]
      rule: data.postern.lib.rbac.decision
  - name: a direct permission does
    request: {method: POST, host: shop.test, path: /orders/7/refund}
    principal: {id: job, kind: service, permissions: [orders.refund]}
    want: {allow: true}
  - name: frozen
    request: {host: frozen.test, path: /orders/7}
    principal: {id: ann, roles: [reader]}
    want: {allow: false, reason: tenant_mismatch, message: Frozen.}
  - name: not frozen with other data
    request: {host: frozen.test, path: /orders/7}
    principal: {id: ann, roles: [reader]}
    data: {freeze: false}
    want: {allow: true}
  - name: another role in the bundle
    request: {method: POST, host: shop.test, path: /orders/7/refund}
    principal: {id: ann, roles: [reader]}
    data: {roles: {reader: [orders.read, orders.refund]}}
    want: {allow: true}
  - name: two readings
    request: {host: shop.test, path: /orders/%252e%252e/7}
    want: {allow: false, reason: request_invalid, status: 400}
`

// Z-01 Z-02 Z-04: tables ask about permissions, roles, and what was missing.
func TestTables(t *testing.T) {
	t.Parallel()
	fsys := shop()
	fsys["orders_test.yaml"] = &fstest.MapFile{Data: []byte(orders)}
	for _, r := range run(t, fsys, nil) {
		if r.Outcome != author.Pass {
			t.Errorf("%+v", r)
		}
	}
}

func run(t *testing.T, fsys fstest.MapFS, seen *author.Coverage) []author.Result {
	t.Helper()
	tests, err := author.LoadTests(fsys, rego.Config{})
	if err != nil {
		t.Fatal(err)
	}
	told := 0
	all, err := tests.Run(t.Context(), compile(t, fsys, rego.Config{}), nil, seen, func(author.Result) { told++ })
	if err != nil {
		t.Fatal(err)
	}
	if told != len(all) || told == 0 {
		t.Errorf("told of %d tests, there are %d", told, len(all))
	}
	return all
}

// Each want that is not met is said, with what the answer was.
func TestTableDiffers(t *testing.T) {
	t.Parallel()
	fsys := shop()
	fsys["bad_test.yaml"] = &fstest.MapFile{Data: []byte(`
tests:
  - name: wrong
    request: {method: POST, host: shop.test, path: /orders/7/refund}
    principal: {id: ann, roles: [reader]}
    want: {allow: true, reason: allowed, status: 200, message: hello, missing_permissions: [x], rule: data.x, headers: {x-y: z}}
  - name: broken data
    request: {path: /}
    data: {roles: [1, 2]}
    want: {allow: false}
`)}
	all := run(t, fsys, nil)
	if len(all) != 2 || all[0].Outcome != author.Fail || all[0].Line != 3 || all[1].Outcome != author.Error {
		t.Fatalf("%+v", all)
	}
	text := strings.Join(all[0].Why, "\n")
	for _, want := range []string{
		"allow is false (permission_missing: orders.refund; data.postern.lib.rbac.decision at postern.lib/rbac.rego:", "want true",
		"reason is permission_missing, want allowed", "status is 403, want 200", `message is "A permission is missing.", want "hello"`,
		"missing_permissions is [orders.refund], want [x]", "rule is data.postern.lib.rbac.decision, want data.x", `header x-y is "", want "z"`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
}

// A table is strict: what is misspelt in it is said by line.
func TestReadTableRefuses(t *testing.T) {
	t.Parallel()
	for want, text := range map[string]string{
		"x.yaml:3:":              "tests:\n  - name: a\n    reqest: {path: /}\n    want: {allow: true}\n",
		"stands twice":           "tests:\n  - {name: a, request: {}, want: {allow: true}}\n  - {name: a, request: {}, want: {allow: true}}\n",
		`no reason "permission"`: "tests:\n  - {name: a, request: {}, want: {allow: false, reason: permission}}\n",
		"asks nothing":           "tests:\n  - {name: a, want: {allow: true}}\n",
		"beside a request":       "tests:\n  - {name: a, request: {}, action: {action: x}, want: {allow: true}}\n",
		"is not an IP address":   "tests:\n  - {name: a, request: {source: here}, want: {allow: true}}\n",
		`no kind "robot"`:        "tests:\n  - {name: a, request: {}, principal: {id: r, kind: robot}, want: {allow: true}}\n",
		"allow":                  "tests:\n  - {name: a, request: {}, want: {reason: allowed}}\n",
		"tests":                  "cases: []\n",
	} {
		if _, err := author.ReadTable("x.yaml", []byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q: %v", want, err)
		}
	}
}

// Rego tests run with Postern's library and function, and what they print is kept.
// Z-06: attributes on the credential decide.
func TestRegoTests(t *testing.T) {
	t.Parallel()
	fsys := authz(`default decision := false

decision if input.principal.metadata.team == "billing"
`)
	fsys["authz_test.rego"] = &fstest.MapFile{Data: []byte(`package postern.authz_test

import data.postern.authz
import data.postern.lib.rbac

test_billing if authz.decision with input.principal.metadata as {"team": "billing"}

test_others_not if not authz.decision with input.principal.metadata as {"team": "sales"}

test_library if {
	rbac.allow with data.roles as {"r": ["x"]}
		with data.routes as [{"path": "/**", "permission": "x"}]
		with input as {"principal": {"roles": ["r"]}, "target": {"http": {"method": "GET", "path": "/a"}}}
}

test_fails if {
	print("so far")
	authz.decision
}

todo_test_later if false
`)}
	got := map[string]author.Outcome{}
	for _, r := range run(t, fsys, nil) {
		got[r.Name[strings.LastIndexByte(r.Name, '.')+1:]] = r.Outcome
		if r.File != "authz_test.rego" || r.Line == 0 {
			t.Errorf("%+v", r)
		}
		if r.Outcome == author.Fail && !strings.Contains(r.Output, "so far") {
			t.Errorf("%+v", r)
		}
	}
	want := map[string]author.Outcome{"test_billing": author.Pass, "test_others_not": author.Pass, "test_library": author.Pass, "test_fails": author.Fail, "todo_test_later": author.Skip}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%v, want %v", got, want)
	}
}

// Coverage counts what both kinds of tests evaluate, and not the tests themselves.
func TestCoverage(t *testing.T) {
	t.Parallel()
	fsys := shop()
	fsys["orders_test.yaml"] = &fstest.MapFile{Data: []byte("tests:\n  - {name: a, request: {host: shop.test, path: /orders/7}, principal: {id: ann, roles: [reader]}, want: {allow: true}}\n")}
	seen := author.NewCoverage()
	run(t, fsys, seen)
	report, percent := seen.Report(compile(t, fsys, rego.Config{}))
	if len(report) != 1 || report[0].File != "authz.rego" || percent <= 20 || percent >= 100 || report[0].Missed == 0 {
		t.Fatalf("%+v %g", report, percent)
	}
	fsys["orders_test.yaml"] = &fstest.MapFile{Data: []byte(orders)}
	run(t, fsys, seen)
	if report, percent = seen.Report(compile(t, fsys, rego.Config{})); percent != 100 {
		t.Errorf("%+v %g", report, percent)
	}
}

func TestEval(t *testing.T) {
	t.Parallel()
	p := compile(t, shop(), rego.Config{})
	in, err := (&author.Question{
		Request:   &author.Request{Method: "POST", Host: "frozen.test", Path: "/orders/7/refund"},
		Principal: &author.Principal{ID: "ann", Roles: []string{"reader"}},
	}).Input()
	if err != nil {
		t.Fatal(err)
	}
	a, err := p.EvalRequest(t.Context(), "", in)
	if err != nil || len(a.Results) != 1 || !a.Cacheable || fmt.Sprint(a.Results[0]) != "map[allow:false message:Frozen. reason:tenant_mismatch]" {
		t.Errorf("%+v %v", a, err)
	}
	said := []string{}
	for _, s := range a.Steps {
		said = append(said, s.String())
	}
	for _, want := range []string{"authz.rego:5 data.postern.authz.decision fails at line 5: not frozen", "authz.rego:7 data.postern.authz.decision has a value", "authz.rego:9 data.postern.authz.frozen has a value"} {
		if !strings.Contains(strings.Join(said, "\n"), want) {
			t.Errorf("no %q in %q", want, said)
		}
	}
	for query, want := range map[string]string{
		"1 + 1 == 2":                    "[true]",
		"x := data.roles.reader[_]":     "[map[x:orders.read]]",
		"data.roles[name][_]":           "[map[name:clerk result:[reader]] map[name:clerk result:[orders.refund]] map[name:reader result:orders.read]]",
		"data.nothing":                  "[]",
		"input.a":                       "[7]",
		"[input.a, count(data.routes)]": "[[7 2]]",
		"postern.permits({}, {}).allow": "[false]",
	} {
		a, err := p.Eval(t.Context(), query, map[string]any{"a": 7})
		if err != nil || fmt.Sprint(a.Results) != want {
			t.Errorf("%s: %v %v, want %s", query, a, err, want)
		}
	}
	for _, query := range []string{"input.", "http.send({})", "x > 1", "x"} {
		if _, err := p.Eval(t.Context(), query, nil); err == nil {
			t.Errorf("%s was evaluated", query)
		}
	}
	d, err := p.Decide(t.Context(), in)
	if err != nil || !d.Cached || d.Verdict.Reason != policy.ReasonTenant {
		t.Errorf("%+v %v", d, err)
	}
}

func TestFormat(t *testing.T) {
	t.Parallel()
	out, err := author.Format("a.rego", []byte("package a\nx   if {input.y==1}"), rego.Config{})
	if err != nil || string(out) != "package a\n\nx if input.y == 1\n" {
		t.Errorf("%q %v", out, err)
	}
	if _, err := author.Format("a.rego", []byte("package a\nx if {"), rego.Config{}); err == nil || !strings.Contains(err.Error(), "a.rego:2:") {
		t.Errorf("%v", err)
	}
}

// Miss and hit are both measured where there is a hit, and nothing else is claimed.
func TestBench(t *testing.T) {
	t.Parallel()
	in, err := (&author.Question{Request: &author.Request{Path: "/orders/7"}}).Input()
	if err != nil {
		t.Fatal(err)
	}
	v, m, err := compile(t, shop(), rego.Config{}).Bench(t.Context(), in, time.Millisecond)
	if err != nil || v.Allow || len(m) != 2 || m[0].What != "miss" || m[1].What != "hit" || m[0].N == 0 || m[0].NsPerOp <= 0 || m[1].NsPerOp <= 0 {
		t.Errorf("%+v %v", m, err)
	}
	random := rego.Config{AllowBuiltins: []string{"rand.intn"}}
	_, m, err = compile(t, authz(`decision if rand.intn("x", 2) == 5`), random).Bench(t.Context(), in, time.Millisecond)
	if err != nil || len(m) != 1 {
		t.Errorf("%+v %v", m, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err = compile(t, shop(), rego.Config{}).Bench(ctx, in, time.Hour); !errors.Is(err, context.Canceled) && err == nil {
		t.Error("it went on after the end")
	}
}
