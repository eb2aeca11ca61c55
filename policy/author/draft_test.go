package author_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/policy/author"
	"github.com/postern-auth/postern/policy/rego"
)

func draft(text string) *author.Draft {
	o := &author.Outline{
		Method: "GET", Host: "shop.test", Path: "/orders/7", Client: netip.MustParseAddr("192.0.2.1"),
		Principal: &policy.Principal{ID: "ann", Kind: policy.KindUser, Roles: []string{"reader"}, Claims: map[string]any{"team": "billing"}},
		Route:     &policy.Route{Name: "orders"},
	}
	in, err := o.Input()
	if err != nil {
		panic(err)
	}
	return &author.Draft{Files: map[string]string{"authz.rego": "package postern.authz\n\n" + text}, Input: in, Outline: o}
}

func try(t *testing.T, d *author.Draft) *author.Trial {
	t.Helper()
	trial, err := author.NewDesk(1).Try(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	return trial
}

// A draft sees of a recorded decision what was recorded, and the trial says what it could
// not see.
func TestDraft(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		`decision := {"allow": "reader" in input.principal.roles}`:                                                  "allow []",
		`decision := {"allow": input.request.path == "/orders/7"}`:                                                  "allow []",
		`decision := {"allow": input.request.segments[0] == "orders"}`:                                              "allow []",
		`decision := {"allow": input.request.client_ip == "192.0.2.1"}`:                                             "allow []",
		`decision := {"allow": input.route.name == "orders"}`:                                                       "allow []",
		`decision := {"allow": input.principal.claims.team == "billing"}`:                                           "allow []",
		`decision := {"allow": input.parsed_path[1] == "7"}`:                                                        "allow []",
		`decision := {"allow": input.request.query == "x"}`:                                                         "deny [input.request.query]",
		`decision := {"allow": input.attributes.request.http.headers["x-team"] == "billing"}`:                       `deny [input.attributes.request.http.headers["x-team"]]`,
		"decision := {\"allow\": true} if input.request.method == \"POST\"\ndefault decision := {\"allow\": false}": "deny []",
	} {
		trial := try(t, draft(text))
		if trial.Verdict == nil {
			t.Errorf("%s: %v %v", text, trial.Problems, trial.Fault)
			continue
		}
		word := map[bool]string{true: "allow", false: "deny"}[trial.Verdict.Allow]
		if got := fmt.Sprint(word, " ", trial.NotRecorded); got != want {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
	}
	trial := try(t, draft("default decision := {\"allow\": false}\n\ndecision := {\"allow\": true} if {\n\t\"writer\" in input.principal.roles\n}"))
	if v := trial.Verdict; v.Allow || v.File != "authz.rego" || v.Line != 6 || v.Grounds == nil {
		t.Errorf("%+v", v)
	}
}

// What reaches out of the decision is refused, also where the server's own policy may.
func TestDraftIsConfined(t *testing.T) {
	t.Parallel()
	for _, call := range []string{
		`http.send({"method": "get", "url": "http://127.0.0.1:1"}).status_code == 200`, `opa.runtime().env.HOME != ""`, `rand.intn("x", 2) == 1`,
		`net.lookup_ip_addr("localhost") != set()`, `io.jwt.encode_sign({}, {}, {}) != ""`, `rego.parse_module("x", "package x") != {}`,
	} {
		d := draft(`decision := {"allow": ` + call + `}`)
		name, _, _ := strings.Cut(call, "(")
		d.Config = rego.Config{AllowBuiltins: []string{name}, AllowHosts: []string{"127.0.0.1", "localhost"}, InsecureExposeCredentials: true}
		if trial := try(t, d); len(trial.Problems) == 0 || !strings.Contains(trial.Problems.Error(), name) {
			t.Errorf("%s: %v", name, trial.Problems)
		}
	}
}

// Mistakes have a place; what is too much is refused before it is compiled.
func TestDraftProblems(t *testing.T) {
	t.Parallel()
	trial := try(t, draft("decision := {\"allow\": nope}"))
	if len(trial.Problems) != 1 || trial.Problems[0].File != "authz.rego" || trial.Problems[0].Line != 3 {
		t.Errorf("%+v", trial.Problems)
	}
	many := draft("decision := true")
	for i := range 20 {
		many.Files[fmt.Sprintf("f%d.rego", i)] = "package x"
	}
	outside, deep, long, none := draft("decision := true"), draft("x := "+strings.Repeat("[", 100_000)), draft("# "+strings.Repeat("x", 300<<10)), draft("")
	outside.Files = map[string]string{"../../etc/x.rego": "package x"}
	none.Files = nil
	for name, d := range map[string]*author.Draft{"16 files": many, "no name": outside, "in more than 128 others": deep, "256 KiB": long, "1 to 16 files": none} {
		if trial := try(t, d); len(trial.Problems) == 0 || !strings.Contains(trial.Problems.Error(), name) {
			t.Errorf("%s: %v", name, trial.Problems)
		}
	}
	data := draft("decision := {\"allow\": data.allowed}")
	data.Files["data.json"] = `{"allowed": true, "allowed": false}`
	if trial := try(t, data); len(trial.Problems) == 0 {
		t.Error("data that says something twice")
	}
}

// A draft that runs on is stopped, and one that fails says where.
func TestDraftFaults(t *testing.T) {
	t.Parallel()
	endless := draft(`decision := {"allow": count([1 | some a in numbers.range(1, 5000); some b in numbers.range(1, 5000); some c in numbers.range(1, 5000); a + b == c]) > 0}`)
	if trial := try(t, endless); !errors.Is(trial.Fault, rego.ErrTimeout) {
		t.Error(trial.Verdict, trial.Fault, trial.Problems)
	}
	var fault *rego.Fault
	if trial := try(t, draft(`decision := {"allow": to_number(input.principal.id) == 1}`)); !errors.As(trial.Fault, &fault) || fault.Line != 3 || strings.Contains(fault.Error(), "ann") {
		t.Error(trial.Fault)
	}
}

// As many as there are places are tried at a time; one that is given up keeps its place
// until it is done.
func TestDraftsAreFew(t *testing.T) {
	t.Parallel()
	desk := author.NewDesk(1)
	slow := draft(`decision := {"allow": count([1 | some a in numbers.range(1, 5000); some b in numbers.range(1, 5000); some c in numbers.range(1, 5000); a + b == c]) > 0}`)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := desk.Try(ctx, slow); err != nil && !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	quick := draft("decision := true")
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		trial, err := desk.Try(t.Context(), quick)
		if err == nil && trial.Verdict.Allow {
			return
		}
		if !errors.Is(err, author.ErrBusy) || time.Now().After(deadline) {
			t.Fatal(trial, err)
		}
	}
}

// A question in a text of its own is read as strictly as a table of tests.
func TestReadQuestion(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		`{"request": {"method": "GET", "path": "/orders/7?x=1", "headers": {"X-Team": "billing"}}, "principal": {"id": "ann", "roles": ["reader"]}}`,
		"request: { path: /orders }\nprincipal: { id: ann }\n",
		`{"action": {"action": "refund", "resource_type": "order", "resource_id": "7"}}`,
	} {
		q, err := author.ReadQuestion("request", []byte(text))
		if err != nil {
			t.Error(err)
			continue
		}
		if _, err := q.Input(); err != nil {
			t.Error(err)
		}
	}
	for _, text := range []string{
		``, `[]`, `{}`, `{"request": {}, "action": {"action": "x"}}`, `{"request": {"pth": "/"}}`, `{"request": {"path": "/", "path": "/"}}`,
		`{"request": {"source": "nowhere"}}`, `{"request": {}, "principal": {"id": "ann", "kind": "king"}}`, `{"request": {"path": "${env:HOME}"}}`, "x: &a [*a]",
	} {
		if q, err := author.ReadQuestion("request", []byte(text)); err == nil {
			t.Errorf("%q is read as %+v", text, q)
		}
	}
}
