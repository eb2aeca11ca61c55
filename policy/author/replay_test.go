package author_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/postern-auth/postern/policy/author"
	"github.com/postern-auth/postern/policy/rego"
)

// event is a line of OPA's decision log about a request to Postern.
func event(id, who, role, method, path, result string) string {
	return fmt.Sprintf(`{"decision_id":%q,"timestamp":"2026-03-01T10:00:00Z","input":{"request":{"host":"shop.test","method":%q,"path":%q},`+
		`"principal":{"id":%q,"roles":[%q]},"target":{"http":{"method":%q,"path":%q,"folded":%q}}},"result":%s}`+"\n",
		id, method, path, who, role, method, path, path, result)
}

// changed is the shop where readers may refund and nobody reads.
func changed() fstest.MapFS {
	fsys := shop()
	fsys["tables.yaml"] = &fstest.MapFile{Data: []byte(strings.ReplaceAll(string(fsys["tables.yaml"].Data), "reader: [orders.read]", "reader: [orders.refund]"))}
	return fsys
}

func replay(t *testing.T, r *author.Replay, log string) {
	t.Helper()
	err := author.ReadRecords(strings.NewReader(log), func(rec *author.Record) error { return r.Add(t.Context(), rec) })
	if err != nil {
		t.Fatal(err)
	}
}

// A change is found, counted by rule and by route, and nothing else is.
func TestReplay(t *testing.T) {
	t.Parallel()
	log := event("1", "ann", "reader", "GET", "/orders/7", `{"allow":true}`) +
		event("2", "ann", "reader", "POST", "/orders/7/refund", `{"allow":false,"missing_permissions":["orders.refund"]}`) +
		event("3", "bob", "clerk", "POST", "/orders/7/refund", "true") +
		event("4", "eve", "nobody", "GET", "/orders/7", "false")
	for name, old := range map[string]*author.Policy{"against a policy": compile(t, shop(), rego.Config{}), "against what was recorded": nil} {
		r := &author.Replay{Old: old, New: compile(t, changed(), rego.Config{})}
		replay(t, r, log)
		if r.Decisions != 4 || r.Changed != 2 || r.Untold+r.Skipped+r.Drifted != 0 {
			t.Fatalf("%s: %+v", name, r)
		}
		first, second := r.Changes[0], r.Changes[1]
		if first.What != "allow to deny" || first.Line != 1 || first.Principal != "ann" || first.New.Reason != "permission_missing" || !strings.Contains(first.New.Rule, "rbac.rego:") {
			t.Errorf("%s: %+v", name, first)
		}
		if second.What != "deny to allow" || second.ID != "2" || second.Path != "/orders/7/refund" {
			t.Errorf("%s: %+v", name, second)
		}
		if rules, routes := r.ByRule(), r.ByRoute(); len(rules) != 2 || len(routes) != 2 || routes[0].Where != "GET /orders/**" {
			t.Errorf("%s: %v %v", name, rules, routes)
		}
	}
	same := &author.Replay{Old: compile(t, shop(), rego.Config{}), New: compile(t, shop(), rego.Config{})}
	replay(t, same, log)
	if same.Changed != 0 || same.Decisions != 4 {
		t.Errorf("%+v", same)
	}
	drifted := &author.Replay{Old: compile(t, changed(), rego.Config{}), New: compile(t, changed(), rego.Config{})}
	replay(t, drifted, log)
	if drifted.Drifted != 2 || drifted.Changed != 0 {
		t.Errorf("%+v", drifted)
	}
}

// What a record does not hold and the policy reads cannot be told, whichever way it is
// missing. Guessing would hide the one change that matters.
func TestReplayUntold(t *testing.T) {
	t.Parallel()
	own := `{"time":"2026-03-01T10:00:00Z","level":"INFO","msg":"decision","decision_id":"3","allowed":true,"reason":"allowed","phase":"record","method":"GET","host":"shop.test","path":"/orders/9","principal":"ann","tenant":"acme","principal_method":"api_key"}` + "\n"
	for name, c := range map[string]struct{ log, why string }{
		"Postern's log only names who called": {own, "input.principal.roles"},
		"a route that is only named":          {strings.Replace(own, `"principal":`, `"route":"orders","principal":`, 1), "input.route.permission"},
		"masked":                              {strings.Replace(event("1", "ann", "reader", "GET", "/orders/7", "true"), `"result"`, `"erased":["/input/principal/roles"],"result"`, 1), "input.principal.roles"},
		"masked above":                        {strings.Replace(event("1", "ann", "reader", "GET", "/orders/7", "true"), `"result"`, `"masked":["/input/principal"],"result"`, 1), "input.principal.roles"},
		"without its input":                   {`{"decision_id":"1","result":true}`, "input.principal.roles"},
		"recorded by OPA's plugin":            {`{"decision_id":"1","input":{"attributes":{"request":{"http":{"method":"GET","path":"/orders/7"}}}},"result":true}`, "input.principal.roles"},
	} {
		r := &author.Replay{New: compile(t, changed(), rego.Config{})}
		replay(t, r, c.log)
		if r.Untold != 1 || r.Decisions != 0 || !strings.Contains(fmt.Sprint(r.WhyUntold), c.why) {
			t.Errorf("%s: %+v", name, r)
		}
	}
	r := &author.Replay{New: compile(t, changed(), rego.Config{}), Principals: []author.Principal{{ID: "ann", Tenant: "acme", Roles: []string{"reader"}}, {ID: "ann", Roles: []string{"clerk"}}}}
	replay(t, r, own)
	if r.Changed != 1 || r.Untold != 0 || r.Changes[0].What != "allow to deny" {
		t.Errorf("%+v", r)
	}
	routed := strings.Replace(own, `"principal":`, `"route":"orders","principal":`, 1)
	r.Routes = []author.Route{{Name: "orders", Permission: "orders.read"}}
	replay(t, r, routed)
	if r.Changed != 2 || r.ByRoute()[0].Where != "GET /orders/**" || r.ByRoute()[1].Where != "orders" {
		t.Errorf("%+v", r.ByRoute())
	}
	for name, path := range map[string]string{"cut": "/" + strings.Repeat("x", 255), "escaped": `/a\\u009b`} {
		r := &author.Replay{New: compile(t, authz(`decision if input.request.path == "/"`), rego.Config{})}
		replay(t, r, strings.Replace(own, "/orders/9", path, 1))
		if r.Untold != 1 || r.Decisions != 0 {
			t.Errorf("%s: %+v", name, r)
		}
	}
	impure := rego.Config{AllowBuiltins: []string{"rand.intn"}}
	r = &author.Replay{New: compile(t, authz(`decision if rand.intn("x", 2) == 1`), impure)}
	replay(t, r, event("1", "ann", "reader", "GET", "/", "true"))
	if r.Untold != 1 || !strings.Contains(fmt.Sprint(r.WhyUntold), "rand.intn") {
		t.Errorf("%+v", r)
	}
}

// What never got to the policy is no decision of it; a budget that ran out was an allow.
func TestReplaySkips(t *testing.T) {
	t.Parallel()
	line := func(phase, reason string) string {
		return fmt.Sprintf(`{"time":"2026-03-01T10:00:00Z","level":"INFO","msg":"decision","decision_id":"3","allowed":false,"reason":%q,"phase":%q,"method":"GET","host":"shop.test","path":"/x"}`+"\n", reason, phase)
	}
	r := &author.Replay{New: compile(t, authz("decision := true"), rego.Config{})}
	replay(t, r, line("prove", "expired")+line("decide", "policy_timeout")+`{"time":"x","level":"INFO","msg":"listening"}`+"\n\n"+
		line("decide", "policy_denied")+line("spend", "rate_limited")+
		`{"decision_id":"9","input":{},"error":{"code":"x"}}`)
	replay(t, r, `{"decision_id":"8","input":{"request":{}},"postern":{"allowed":false,"phase":"prove","reason":"expired"}}`)
	if r.Skipped != 4 || r.Decisions != 2 || r.Changed != 1 || r.Changes[0].Line != 5 {
		t.Errorf("%+v", r)
	}
}

// The time of a decision is that of its record.
func TestReplayTime(t *testing.T) {
	t.Parallel()
	p := compile(t, authz(`decision if time.now_ns() < time.parse_rfc3339_ns("2026-03-01T10:00:01Z")`), rego.Config{})
	r := &author.Replay{New: p}
	early := event("1", "ann", "r", "GET", "/", "false")
	replay(t, r, early+strings.Replace(early, "10:00:00Z", "10:00:01Z", 1))
	if r.Decisions != 2 || r.Changed != 1 || !r.Changes[0].Time.Equal(time.Date(2026, 3, 1, 10, 0, 0, 0, time.UTC)) {
		t.Errorf("%+v", r)
	}
}

// A credential in a record is shown neither to the policy nor to anybody.
func TestReplayHidesCredentials(t *testing.T) {
	t.Parallel()
	log := strings.Replace(event("1", "ann", "r", "GET", "/x?key=hunter2", "true"), `"input":{`,
		`"input":{"attributes":{"request":{"http":{"headers":{"Authorization":"Bearer hunter2","x-api-key":"hunter2","x-region":"eu"}}}},`, 1)
	p := compile(t, authz("decision := {\"allow\": false, \"message\": sprintf(\"%v\", [object.keys(input.attributes.request.http.headers)])}"), rego.Config{})
	r := &author.Replay{New: p}
	replay(t, r, log)
	if r.Changed != 1 || r.Changes[0].New.Message != `{"x-region"}` || strings.Contains(fmt.Sprintf("%+v", r.Changes), "hunter2") {
		t.Errorf("%+v", r.Changes)
	}
	// A mask that took out only what no policy sees took out nothing.
	masked := strings.Replace(log, `"result"`, `"erased":["/input/attributes/request/http/headers/authorization"],"result"`, 1)
	replay(t, r, masked)
	if r.Changed != 2 {
		t.Errorf("%+v", r)
	}
}

// The answer of the admin API, as `postern explain -o json` prints it, over lines.
func TestReplayAdminRecords(t *testing.T) {
	t.Parallel()
	log := `{
  "record": {
    "time": "2026-03-01T10:00:00Z",
    "decision": {"allowed": true, "reason": "REASON_ALLOWED", "decision_id": "d1"},
    "principal": {"id": "ann", "kind": "PRINCIPAL_KIND_USER", "roles": ["reader"]},
    "method": "GET", "host": "shop.test", "path": "/orders/7", "phase": "record", "client_ip": "192.0.2.1"
  },
  "steps": []
}
`
	p := compile(t, authz(`decision if { "reader" in input.principal.roles; input.request.path == "/orders/7"; input.request.client_ip == "192.0.2.1" }`), rego.Config{})
	r := &author.Replay{New: p}
	replay(t, r, log+log)
	if r.Decisions != 2 || r.Changed != 0 {
		t.Errorf("%+v", r)
	}
	r = &author.Replay{New: compile(t, authz("decision := false"), rego.Config{}), Keep: 1}
	replay(t, r, "["+log+","+log+"]")
	if r.Changed != 2 || len(r.Changes) != 1 || r.Changes[0].ID != "d1" {
		t.Errorf("%+v", r)
	}
}

func TestReadRecordsRefuses(t *testing.T) {
	t.Parallel()
	for log, want := range map[string]string{
		"hello":              "line 1: this is not JSON",
		"{\"msg\":\"x\"\n{}": "line 2: this is not JSON",
		event("1", "a", "r", "GET", "/", "true") + "\n{\"secret\":\"hunter2\"}": "line 3: neither a line of OPA's",
		`{"decision_id":"1","decision_id":"2","input":{}}`:                      "one reading",
		"7":                                  "line 1: neither",
		"{\"decision_id\":\"1\"}\n{}\nx":     "line 2: neither",
		"{\"decision_id\":\"1\"}\n\nhello\n": "line 3: this is not JSON",
	} {
		err := author.ReadRecords(strings.NewReader(log), func(*author.Record) error { return nil })
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", log, err)
		}
	}
}

// Whatever a log holds, reading and replaying it ends in an answer or an error.
func FuzzReplay(f *testing.F) {
	f.Add(event("1", "ann", "reader", "GET", "/orders/7", "true"))
	f.Add(`{"msg":"decision","decision_id":"1","allowed":true,"phase":"record","method":"GET","path":"/a"}`)
	f.Add(`{"record":{"decision":{"allowed":true},"principal":{"id":"x","roles":[1]},"path":"//"}}`)
	f.Add(`[{"decision_id":"1","input":{"request":[]},"erased":["/input/~1~0"],"result":{"allow":7}}]`)
	p := compile(f, shop(), rego.Config{})
	f.Fuzz(func(t *testing.T, log string) {
		r := &author.Replay{New: p}
		_ = author.ReadRecords(strings.NewReader(log), func(rec *author.Record) error { return r.Add(t.Context(), rec) })
	})
}

func FuzzTable(f *testing.F) {
	f.Add(orders)
	f.Fuzz(func(t *testing.T, text string) {
		table, err := author.ReadTable("x.yaml", []byte(text))
		if err != nil {
			return
		}
		for i := range table.Tests {
			_, _ = table.Tests[i].Input()
		}
	})
}
