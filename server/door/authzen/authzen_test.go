package authzen_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/door"
	"github.com/postern-auth/postern/server/door/authzen"
)

// answers is a Checker that answers by a function.
type answers func(a *policy.Attributes) policy.Decision

func (f answers) Check(_ context.Context, a *policy.Attributes) policy.Decision { return f(a) }

// world knows ann, by the key "k" or by a caller that says so, who may only read.
func world(a *policy.Attributes) policy.Decision {
	d := policy.Decision{ID: "d1", Principal: &policy.Principal{ID: "ann", Kind: policy.KindUser}}
	switch {
	case a.Presented != nil && a.Presented.Secret.Reveal() == "k" && a.Presented.Of != policy.Owner{ID: "ann", Kind: policy.KindUser}:
		return policy.Decision{Reason: policy.ReasonBinding, Status: 401}
	case a.Presented != nil && a.Presented.Secret.Reveal() != "k":
		return policy.Decision{Reason: policy.ReasonCredentialUnknown, Status: 401, Message: policy.ReasonCredentialUnknown.Message()}
	case a.Presented == nil && a.Asserted == nil:
		return policy.Decision{Reason: policy.ReasonCredentialMissing, Status: 401}
	case a.Presented == nil:
		d.Principal = &policy.Principal{ID: a.Asserted.ID, Kind: a.Asserted.Kind}
	}
	if a.Action.Name == "panic" {
		panic("hunter2")
	}
	if d.Allowed = a.Action.Name == "read"; d.Allowed {
		d.Reason, d.Status = policy.ReasonAllowed, 200
		d.Verdict = &policy.Verdict{Allow: true, Obligations: []policy.Obligation{{Type: "notice"}}}
		return d
	}
	d.Reason, d.Status, d.MissingPermissions = policy.ReasonPermission, 403, []string{"orders.refund"}
	return d
}

func serve(c answers) http.Handler {
	mux := http.NewServeMux()
	authzen.New(c, 1<<12, slog.New(slog.DiscardHandler)).Register(mux)
	return mux
}

func post(h http.Handler, path, body string, fields ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodPost, path, strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	for i := 0; i < len(fields); i += 2 {
		r.Header.Set(fields[i], fields[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func evaluation(subject, action string) string {
	return `{"subject":{"type":"user","id":"ann","properties":` + subject + `},"action":{"name":"` + action + `"},"resource":{"type":"order","id":"7"}}`
}

func decision(t *testing.T, w *httptest.ResponseRecorder) (allowed bool, reason string) {
	t.Helper()
	var a struct {
		Decision *bool
		Context  struct{ Reason string }
	}
	if err := json.Unmarshal(w.Body.Bytes(), &a); err != nil || w.Code != 200 || a.Decision == nil {
		t.Fatalf("%d %s %v", w.Code, w.Body, err)
	}
	return *a.Decision, a.Context.Reason
}

// G-01: a question in AuthZEN's words arrives in Postern's, and the answer is a decision
// with its reason.
func TestEvaluation(t *testing.T) {
	t.Parallel()
	var got policy.Attributes
	h := serve(func(a *policy.Attributes) policy.Decision { got = *a; return world(a) })
	w := post(h, authzen.EvaluationPath, `{"subject":{"type":"user","id":"ann","properties":{"api_key":"k"}},"action":{"name":"read","properties":{"soft":true}},
		"resource":{"type":"order","id":"7","properties":{"tenant":"acme","open":true}},"context":{"ip":"192.0.2.7"}}`, "X-Request-ID", "r1")
	if allowed, _ := decision(t, w); !allowed || w.Header().Get("X-Request-ID") != "r1" || !strings.Contains(w.Body.String(), "notice") {
		t.Errorf("%v %s", w.Header(), w.Body)
	}
	want := policy.Attributes{
		Door: "authzen", RequestID: "r1", Size: -1, Tenant: "acme",
		Action:  &policy.Action{Name: "read", ResourceType: "order", ResourceID: "7", Properties: map[string]any{"tenant": "acme", "open": true}},
		Context: map[string]any{"ip": "192.0.2.7", "action_properties": map[string]any{"soft": true}},
	}
	if got.Presented == nil || got.Presented.Use != "api_key" || got.Presented.Secret.Reveal() != "k" {
		t.Errorf("%+v", got.Presented)
	}
	got.Presented = nil
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.AddrPort{})); diff != "" {
		t.Error(diff)
	}
	if allowed, reason := decision(t, post(h, authzen.EvaluationPath, evaluation(`{"api_key":"k"}`, "refund"))); allowed || reason != "permission_missing" {
		t.Error(allowed, reason)
	}
}

// A credential is the subject's own, or nothing; and a fault is never a yes.
func TestSubject(t *testing.T) {
	t.Parallel()
	h := serve(world)
	for _, c := range []struct{ body, reason string }{
		{strings.Replace(evaluation(`{"api_key":"k"}`, "read"), `"ann"`, `"bob"`, 1), "binding"},
		{strings.Replace(evaluation(`{"api_key":"k"}`, "read"), `"user"`, `"service"`, 1), "binding"},
		{evaluation(`{"bearer_token":"other"}`, "read"), "credential_invalid"},
		{evaluation(`{"api_key":"k"}`, "panic"), "unavailable"},
	} {
		w := post(h, authzen.EvaluationPath, c.body)
		if allowed, reason := decision(t, w); allowed || reason != c.reason || strings.Contains(w.Body.String(), "hunter2") {
			t.Errorf("%s: %s", c.body, w.Body)
		}
	}
	if allowed, _ := decision(t, post(h, authzen.EvaluationPath, evaluation(`{}`, "read"))); !allowed {
		t.Error("a Checker that believes its caller is not believed")
	}
}

// Many questions are answered in order, as far as the semantic wants; what an item leaves
// out is that of the whole.
func TestEvaluations(t *testing.T) {
	t.Parallel()
	h := serve(world)
	const whole = `{"subject":{"type":"user","id":"ann","properties":{"api_key":"k"}},"resource":{"type":"order","id":"7"},"options":{"evaluations_semantic":"SEMANTIC"},
		"evaluations":[{"action":{"name":"read"}},{"action":{"name":"refund"}},{"action":{"name":"read"},"resource":{"type":"order","id":"8"}}]}`
	for semantic, want := range map[string][]bool{
		"execute_all": {true, false, true}, "deny_on_first_deny": {true, false}, "permit_on_first_permit": {true},
	} {
		w := post(h, authzen.EvaluationsPath, strings.Replace(whole, "SEMANTIC", semantic, 1))
		var a struct{ Evaluations []struct{ Decision bool } }
		if err := json.Unmarshal(w.Body.Bytes(), &a); err != nil {
			t.Fatal(w.Code, w.Body, err)
		}
		var got []bool
		for _, e := range a.Evaluations {
			got = append(got, e.Decision)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", semantic, diff)
		}
	}
	for _, options := range []string{`{"evaluations_semantic":"any"}`, `{"evaluations_semantic":""}`, `{"evaluations_semantic":7}`, `{"evaluations_semantic":null}`, `{"evaluations_semantic":["execute_all"]}`, `"deny_on_first_deny"`, `[]`, `7`} {
		if w := post(h, authzen.EvaluationsPath, strings.Replace(whole, `{"evaluations_semantic":"SEMANTIC"}`, options, 1)); w.Code != 400 || !strings.HasPrefix(w.Body.String(), "options") {
			t.Errorf("%s: %d %s", options, w.Code, w.Body)
		}
	}
	if w := post(h, authzen.EvaluationsPath, strings.Replace(strings.Replace(whole, "SEMANTIC", "execute_all", 1), `{"action":{"name":"refund"}}`, `7`, 1)); w.Code != 400 || strings.TrimSpace(w.Body.String()) != "evaluations[1] is no object" {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	for _, options := range []string{`{}`, `null`} {
		if w := post(h, authzen.EvaluationsPath, strings.Replace(whole, `{"evaluations_semantic":"SEMANTIC"}`, options, 1)); w.Code != 200 {
			t.Errorf("%s: %d %s", options, w.Code, w.Body)
		}
	}
	if allowed, _ := decision(t, post(h, authzen.EvaluationsPath, evaluation(`{"api_key":"k"}`, "read"))); !allowed {
		t.Error("without items the whole is the question")
	}
}

// What cannot be read is 400, and quotes nothing of it; who is not listed is not asked.
func TestMalformed(t *testing.T) {
	t.Parallel()
	h := serve(world)
	for _, body := range []string{
		``, `[]`, `{`, `{"subject":{}}`, `{"subject":{"type":"user","id":"ann"},"subject":{"type":"user","id":"bob"},"action":{"name":"read"},"resource":{"type":"a","id":"b"}}`,
		evaluation(`{"api_key":"hunter2","bearer_token":"hunter2"}`, "read"), evaluation(`{"api_key":["hunter2"]}`, "read"), evaluation(`"hunter2"`, "read"),
		`{"subject":{"type":"user","id":7},"action":{"name":"read"},"resource":{"type":"a","id":"b"}}`,
		`{"subject":{"type":"user","id":"ann"},"action":{"name":"read"},"resource":{"type":"a","id":"b","properties":{"tenant":["acme"]}}}`,
		evaluation(`{"tenant":["acme"]}`, "read"), evaluation(`{"tenant":7}`, "read"), evaluation(`{"tenant":null}`, "read"),
	} {
		if w := post(h, authzen.EvaluationPath, body); w.Code != 400 || strings.Contains(w.Body.String(), "hunter2") {
			t.Errorf("%s: %d %s", body, w.Code, w.Body)
		}
	}
	if w := post(h, authzen.EvaluationPath, evaluation(`{"api_key":"`+strings.Repeat("k", 1<<12)+`"}`, "read")); w.Code != http.StatusRequestEntityTooLarge {
		t.Error(w.Code)
	}
	if w := post(h, authzen.EvaluationPath, evaluation(`{}`, "read"), "Content-Type", "text/plain"); w.Code != http.StatusUnsupportedMediaType {
		t.Error(w.Code)
	}
	r := httptest.NewRequest(http.MethodPost, authzen.EvaluationPath, strings.NewReader(evaluation(`{}`, "read")))
	r.Header.Set("Content-Type", "application/json")
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r.WithContext(door.WithUnlisted(r.Context())))
	if w.Code != http.StatusForbidden {
		t.Error(w.Code)
	}
	w = httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, authzen.MetadataPath, nil))
	if !strings.Contains(w.Body.String(), `"access_evaluation_endpoint":"http://example.com/access/v1/evaluation"`) {
		t.Error(w.Body)
	}
}

// The API is where it was asked for, if that is a place; nobody else is told so from a
// cache.
func TestMetadata(t *testing.T) {
	t.Parallel()
	h := serve(world)
	for host, want := range map[string]string{
		"pdp.test": "http://pdp.test", "pdp.test:9193": "http://pdp.test:9193", "127.0.0.1:9193": "http://127.0.0.1:9193", "[::1]:9193": "http://[::1]:9193", "pdp_1.test.": "http://pdp_1.test.",
		"": "", "a b": "", "a/b": "", "ann@pdp.test": "", "pdp.test:x": "", "pdp.test:": "", "a..b": "", "a?b": "", "a#b": "", "[::1": "", "a&b": "", "é.test": "", "%41.test": "", "a\"b": "",
	} {
		r := httptest.NewRequest(http.MethodGet, authzen.MetadataPath, nil)
		r.Host = host
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		var said map[string]string
		switch {
		case w.Header().Get("Cache-Control") != "no-store":
			t.Errorf("%q: %v", host, w.Header())
		case want == "" && w.Code != http.StatusBadRequest:
			t.Errorf("%q: %d %s", host, w.Code, w.Body)
		case want != "" && (json.Unmarshal(w.Body.Bytes(), &said) != nil || said["policy_decision_point"] != want || said["access_evaluation_endpoint"] != want+authzen.EvaluationPath):
			t.Errorf("%q: %d %s", host, w.Code, w.Body)
		}
	}
	r := httptest.NewRequest(http.MethodGet, "https://pdp.test"+authzen.MetadataPath, nil)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	if !strings.Contains(w.Body.String(), `"https://pdp.test"`) {
		t.Error(w.Body)
	}
}

// FuzzAuthZEN: no text makes a yes but a question about ann's reading.
func FuzzAuthZEN(f *testing.F) {
	f.Add(evaluation(`{"api_key":"k"}`, "read"))
	f.Add(`{"evaluations":[{}]}`)
	h := serve(world)
	f.Fuzz(func(t *testing.T, body string) {
		w := post(h, authzen.EvaluationsPath, body)
		if strings.Contains(w.Body.String(), `"decision":true`) && !strings.Contains(body, "subject") {
			t.Fatalf("%q: %s", body, w.Body)
		}
	})
}
