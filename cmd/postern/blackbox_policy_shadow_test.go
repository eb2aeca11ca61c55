package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/postern-auth/postern/server"
)

// shadowed is a world with a second policy, in the directory next unless it is said to
// be elsewhere.
func shadowed(t testing.TB, where ...string) (w world, key string) {
	t.Helper()
	w = prepare(t, "shadow", "@SHADOW@", strings.Join(append(where, "path: next")[:1], ""))
	return w, w.mint(t, order{id: "ann"})
}

// tool runs a command against the server's admin listener.
func (b *box) tool(t testing.TB, args ...string) (out string, exit int) {
	t.Helper()
	var text bytes.Buffer
	root := newRoot()
	root.SetArgs(append(args, "--admin", b.admin))
	root.SetOut(&text)
	root.SetErr(&text)
	err := root.ExecuteContext(t.Context())
	b.leaks(t, strings.Join(args, " "), text.String())
	if ended, ok := errors.AsType[*exitError](err); ok {
		return text.String(), ended.status
	}
	if err != nil {
		t.Fatal(err)
	}
	return text.String(), 0
}

// shadowCounts waits until so many decisions were compared, and returns the metrics.
func (b *box) shadowCounts(t testing.TB, same, different int) (metrics string) {
	t.Helper()
	eventually(t, fmt.Sprintf("%d same and %d different were compared", same, different), func() bool {
		metrics = b.scrape(t)
		return strings.Contains(metrics, fmt.Sprintf("postern_shadow_decisions_total{result=\"same\"} %d\n", same)) &&
			strings.Contains(metrics, fmt.Sprintf("postern_shadow_decisions_total{result=\"different\"} %d\n", different))
	})
	return metrics
}

const shadowLine = "the shadow policy would decide otherwise; the decision stands"

// FAILOPEN-10 Z-04: there is no mode in which a deny is not enforced. A policy in the
// shadow that allows everything lets nothing pass; each decision that it would change is
// counted, by rule and route, and the log says so.
func TestShadowEnforcesNothing(t *testing.T) {
	t.Parallel()
	w, key := shadowed(t)
	b := start(t, w)
	b.hide(key)
	with := []string{"x-api-key", key}
	const each = 4 // asked at both doors, but by the second only once
	var denied []string
	for range each {
		denied = append(denied, b.askEnvoy(t, get("/orders/bob", with...)).id, b.askEnvoy(t, get("/admin", with...)).id)
		if a := b.askEnvoy(t, get("/orders/ann", with...)); !a.allowed() {
			t.Error(a)
		}
	}
	if a := b.askEnvoy(t, get("/orders/ann")); a.reason != "credential_missing" {
		t.Error(a) // no policy is asked about that
	}
	b.expect(t, get("/orders/bob", with...), 403, "policy_denied")
	metrics := b.shadowCounts(t, each, 2*each+2)
	for name, want := range map[string]int{
		`differences_total{change="deny to allow",route="orders",rule="data.postern.authz.may_read"}`: each + 2,
		`differences_total{change="deny to allow",route="all",rule="data.postern.authz.may_read"}`:    each,
		`dropped_total`: 0, `failed`: 0,
	} {
		if got := metric(t, metrics, "postern_shadow_"+name); got != want {
			t.Errorf("%s is %d, want %d", name, got, want)
		}
	}
	// 1. The log says so.
	eventually(t, "the log says so", func() bool { return len(b.log.entries(t, shadowLine)) == 2*each+2 })
	line := b.log.entries(t, shadowLine)[0]
	for name, want := range map[string]any{"change": "deny to allow", "enforced": "deny policy_denied", "shadow": "allow", "route": "orders", "rule": "data.postern.authz.may_read"} {
		if line[name] != want {
			t.Errorf("%s is %v in %v", name, line[name], line)
		}
	}
	if !slices.Contains(denied, line["decision_id"].(string)) || line["revision"] == line["shadow_revision"] {
		t.Error(line)
	}
	// 2. So do the commands: what differs, where, and the last of them.
	out, exit := b.tool(t, "policy", "shadow")
	for _, want := range []string{"compared   14", "different  10", "COUNT  CHANGE", "6      deny to allow  data.postern.authz.may_read  orders", denied[0], "deny policy_denied by data.postern.authz.may_read at authz.rego:10"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in\n%s", want, out)
		}
	}
	if exit != exitDeny {
		t.Error("exit status ", exit)
	}
	out, _ = b.tool(t, "policy", "shadow", "-o", "json")
	var said struct {
		Differences []struct {
			DecisionID string `json:"decision_id"`
			Enforced   struct{ Outcome, Rule string }
			Shadow     struct{ Outcome string }
		}
	}
	if err := json.Unmarshal([]byte(out), &said); err != nil || len(said.Differences) != 10 || said.Differences[9].DecisionID != denied[0] || said.Differences[0].Shadow.Outcome != "allow" {
		t.Errorf("%v: %s", err, out)
	}
	if out, _ = b.tool(t, "policy", "status"); !strings.Contains(out, "postern_shadow_decisions_total{result=\"different\"} 10") || !strings.Contains(out, "shadow ") {
		t.Error(out)
	}
}

// Without one, nothing is said of a shadow policy, and nothing counted.
func TestNoShadow(t *testing.T) {
	t.Parallel()
	w, key := shadowed(t)
	w.write(t, "postern.yaml", strings.Replace(w.read(t, "postern.yaml"), ", shadow: {path: next, timeout: 1s}", "", 1))
	b := start(t, w)
	b.hide(key)
	b.expect(t, get("/orders/bob", "x-api-key", key), 403, "policy_denied")
	if text := b.scrape(t); strings.Contains(text, "postern_shadow") {
		t.Error("it is counted")
	}
	root := newRoot()
	root.SetArgs([]string{"policy", "shadow", "--admin", b.admin})
	if err := root.ExecuteContext(t.Context()); err == nil || !strings.Contains(err.Error(), "there is no policy in the shadow") {
		t.Error(err)
	}
}

// The policy in the shadow is reloaded as the one in force is, and counted anew. One that
// is broken is said to be, and makes nothing unready; what was there before goes on.
func TestShadowReload(t *testing.T) {
	t.Parallel()
	w, key := shadowed(t)
	w.write(t, "next/authz.rego", "package postern.authz\ndecision := nothing\n")
	if _, err := server.Verify(t.Context(), w.path("postern.yaml")); err == nil || !strings.Contains(err.Error(), "policy.shadow:") || !strings.Contains(err.Error(), "authz.rego:2") {
		t.Errorf("config check says %v", err)
	}
	b := start(t, w)
	b.hide(key)
	says := func(detail string) func() bool {
		return func() bool {
			status, body := b.fetch(t, "/readyz")
			if status != http.StatusOK {
				t.Fatalf("not ready: %s", body)
			}
			return strings.Contains(body, detail)
		}
	}
	// 1. Broken from the start.
	b.expect(t, get("/orders/ann", "x-api-key", key), 200, "allowed")
	eventually(t, "it is said to be broken", says(`{"name":"shadow policy","ready":true,"detail":"nothing is compared: `))
	if metric(t, b.scrape(t), "postern_shadow_failed") != 1 || len(b.log.entries(t, "the shadow policy cannot be used; nothing is compared")) != 1 {
		t.Error("nobody is told")
	}
	// 2. Mended.
	w.write(t, "next/authz.rego", "package postern.authz\ndecision if input.principal.id == \"bob\"\n")
	eventually(t, "it is there", says(`{"name":"shadow policy","ready":true,"detail":"revision `))
	before := b.askEnvoy(t, get("/orders/ann", "x-api-key", key))
	if !before.allowed() {
		t.Error(before)
	}
	metrics := b.shadowCounts(t, 0, 1)
	if metric(t, metrics, `postern_shadow_differences_total{change="allow to deny",route="orders",rule="data.postern.authz.decision"}`) != 1 || metric(t, metrics, "postern_shadow_failed") != 0 {
		t.Error(metrics)
	}
	// 3. Broken again: what was there goes on.
	w.write(t, "next/authz.rego", "package postern.authz\ndecision := nothing\n")
	eventually(t, "it is said to be broken again", says("the last reload failed, what was there stays: "))
	b.askEnvoy(t, get("/orders/ann", "x-api-key", key))
	b.shadowCounts(t, 0, 2)
	// 4. Another one is counted from the beginning. The policy in force never changed.
	w.write(t, "next/authz.rego", b.read(t, "policy/authz.rego"))
	eventually(t, "it is loaded", func() bool {
		return says(`{"name":"shadow policy","ready":true,"detail":"revision `)() && metric(t, b.scrape(t), `postern_shadow_decisions_total{result="different"}`) == 0
	})
	if a := b.askEnvoy(t, get("/orders/ann", "x-api-key", key)); a.revision != before.revision {
		t.Error(a.revision)
	}
	b.shadowCounts(t, 1, 0)
	if out, exit := b.tool(t, "policy", "shadow"); exit != 0 {
		t.Error(exit, out)
	}
}

// What the policy in the shadow cannot do: see a credential that the one in force does
// not see, or fail or hold up an answer.
func TestShadowIsHarmless(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct{ rule, change string }{
		"sees no credentials": {`decision if {
			headers := input.attributes.request.http.headers
			not headers["x-api-key"]
			not headers["x-shop-key"]
			not headers.authorization
			not contains(json.marshal(input), "hunter2")
		}`, ""},
		"never ends":           {"decision if { some a in numbers.range(1, 60000); some b in numbers.range(1, 60000); a * b == -1 }", "allow to error"},
		"fails":                {"decision if to_number(input.principal.id) == 1", "allow to error"},
		"takes too much":       {"decision if count(numbers.range(1, 1000000000)) == 1", "allow to error"},
		"contradicts itself":   {"decision := true\ndecision := false", "allow to deny"},
		"says what is not one": {`decision := "yes"`, "allow to deny"},
		"does more":            {`decision := {"allow": true, "headers": {"x-more": "1"}}`, "headers"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, key := shadowed(t)
			w.write(t, "next/authz.rego", "package postern.authz\n"+tt.rule+"\n")
			b := start(t, w)
			b.hide(key)
			for range 3 {
				a := b.askEnvoy(t, get("/orders/ann", "x-api-key", key, "authorization", "Basic aHVudGVyMjpodW50ZXIy"))
				if !a.allowed() || a.upstream("x-more") != "" {
					t.Error(a)
				}
			}
			if tt.change == "" {
				b.shadowCounts(t, 3, 0)
				return
			}
			metrics := b.shadowCounts(t, 0, 3)
			if !strings.Contains(metrics, fmt.Sprintf("postern_shadow_differences_total{change=%q,route=\"orders\"", tt.change)) {
				t.Error(metrics)
			}
		})
	}
}

// The policy in the shadow may come in signed bundles of its own.
func TestShadowBundles(t *testing.T) {
	t.Parallel()
	p := newPublisher(t)
	p.publish(signedBundle(t, p.key, "8", "/orders/bob"))
	w, key := shadowed(t, fmt.Sprintf(`persist: kept, keys: [{id: shop, file: key.pem}], bundles: [{name: next, url: "%s/next.tar.gz", credentials: {bearer: "${file:token}"}, poll: {min: 1s, max: 1s}}]`, p.URL))
	w.write(t, "key.pem", public(t, p.key))
	w.write(t, "token", bundleToken)
	b := start(t, w)
	b.hide(key, bundleToken)
	eventually(t, "the bundle is there", func() bool { return strings.Contains(b.scrape(t), `postern_shadow_info{revision="8+`) })
	b.expect(t, get("/orders/bob", "x-api-key", key), 403, "policy_denied")
	b.shadowCounts(t, 0, 2)
	// Another key signed this one: it is refused and said to be, and nothing else happens.
	p.publish(signedBundle(t, newPublisher(t).key, "9", "/orders/ann"))
	eventually(t, "it is refused", func() bool {
		status, body := b.fetch(t, "/readyz")
		return status == http.StatusOK && strings.Contains(body, "what was there stays: bundle next: verify")
	})
	b.expect(t, get("/orders/ann", "x-api-key", key), 200, "allowed")
	b.shadowCounts(t, 0, 4)
}

// What is kept on disk of the policy in force must not be the other one's.
func TestShadowConfiguration(t *testing.T) {
	t.Parallel()
	for policy, want := range map[string]string{
		`path: p, shadow: {}`:                                           "policy.shadow: nothing says where the policy is",
		`path: p, shadow: {keys: []}`:                                   "policy.shadow.keys",
		`path: p, shadow: {path: q, strct: true}`:                       "strict",
		`path: p, shadow: {path: q, timeout: 0s}`:                       "policy.shadow.timeout",
		`path: p, shadow: {path: q, insecure_expose_credentials: true}`: "policy.shadow.insecure_expose_credentials",
		`path: p, shadow: {path: q, shadow: {path: r}}`:                 "shadow",
		`path: p, shadow: {path: q, allow_builtins: [http.send]}`:       "policy.shadow.allow_builtins",
		`persist: kept, bundles: [{name: a, file: a.tar.gz}], shadow: {persist: ./kept, bundles: [{name: a, file: b.tar.gz}]}`: "policy.shadow.persist",
	} {
		_, err := server.ParseConfig("postern.yaml", []byte("version: 1\npolicy: {"+policy+"}\n"))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", policy, err, want)
		}
	}
}

// Z-04: the explanation of a deny shows the rule, what the policy read and which
// expressions failed; no credential, query or body; and the caller is told none of it.
func TestExplainPolicyDeny(t *testing.T) {
	t.Parallel()
	w, key := shadowed(t)
	w.write(t, "policy/authz.rego", w.read(t, "policy/authz.rego")+`
decision if {
	input.attributes.request.http.headers["x-team"] == "billing"
	input.parsed_query.token[0] == "7"
	input.attributes.request.http.headers["x-shop-key"]
	input.parsed_body.password == "7"
}
`)
	b := start(t, w)
	b.hide(key, "hunter2hunter2")
	q := get("/orders/"+key+"?token=hunter2hunter2", "x-api-key", key, "x-team", "billing")
	a := b.expect(t, q, 403, "policy_denied")
	if strings.Contains(a.body, "may_read") || strings.Contains(a.body, "authz.rego") {
		t.Errorf("the client is told %s", a.body)
	}
	out, _ := b.tool(t, "explain", a.id)
	for _, want := range []string{
		`input.principal.id = "ann"`, `input.request.path = "/orders/pst_key_[secret]"`, `input.attributes.request.http.headers["x-team"] = "billing"`,
		"input.parsed_query.token[0] is there, and is not shown", `input.attributes.request.http.headers["x-shop-key"] is not there`, "input.parsed_body.password",
		`authz.rego:14: input.parsed_query.token[0] == "7"   (data.postern.authz.decision)`, "authz.rego:6: may_read   (data.postern.authz.decision)", "(data.postern.authz.may_read)",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in\n%s", want, out)
		}
	}
	if strings.Contains(out, "hunter2") {
		t.Error(out)
	}
	out, _ = b.tool(t, "explain", a.id, "-o", "json")
	var said struct {
		Record struct {
			Grounds struct {
				Rule, File string
				Line       int
				Reads      []struct{ Path, Value string }
				Failed     []struct{ Expression string }
			}
		}
	}
	if err := json.Unmarshal([]byte(out), &said); err != nil || said.Record.Grounds.Rule == "" || said.Record.Grounds.Line == 0 || len(said.Record.Grounds.Reads) < 4 || len(said.Record.Grounds.Failed) < 3 {
		t.Errorf("%v: %s", err, out)
	}
	// The same deny from the cache has the same grounds, and an allow has none.
	again := b.askEnvoy(t, q)
	if out, _ = b.tool(t, "explain", again.id); !strings.Contains(out, `input.principal.id = "ann"`) {
		t.Error(out)
	}
	allowed := b.askEnvoy(t, get("/orders/ann", "x-api-key", key))
	if out, _ = b.tool(t, "explain", allowed.id); strings.Contains(out, "input.principal") {
		t.Error(out)
	}
}

// Answers stay what they are while the policy in the shadow changes, breaks, comes and
// goes.
func TestShadowComesAndGoes(t *testing.T) {
	t.Parallel()
	w, key := shadowed(t)
	b := start(t, w)
	b.hide(key)
	with := w.read(t, "postern.yaml")
	without := strings.Replace(with, ", shadow: {path: next, timeout: 1s}", "", 1)
	end := make(chan struct{})
	var all sync.WaitGroup
	for range 3 {
		all.Go(func() {
			for {
				select {
				case <-end:
					return
				default:
				}
				if a := b.askEnvoy(t, get("/orders/ann", "x-api-key", key)); !a.allowed() {
					t.Error(a)
				}
				if a := b.askEnvoy(t, get("/orders/bob", "x-api-key", key)); a.reason != "policy_denied" {
					t.Error(a)
				}
			}
		})
	}
	there := func() bool { return strings.Contains(b.scrape(t), "postern_shadow_decisions_total") }
	for i, rule := range []string{"decision := false", "decision := nothing", "decision := true"} {
		b.write(t, "next/authz.rego", "package postern.authz\n"+rule+"\n")
		b.write(t, "postern.yaml", without)
		eventually(t, fmt.Sprint("it is gone ", i), func() bool { return !there() })
		b.write(t, "postern.yaml", with)
		eventually(t, fmt.Sprint("it is back ", i), there)
	}
	eventually(t, "the last one is compared", func() bool {
		return strings.Contains(b.scrape(t), `postern_shadow_differences_total{change="deny to allow",route="orders"`)
	})
	close(end)
	all.Wait()
}
