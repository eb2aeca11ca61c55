package main

import (
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
)

// collector is a service that takes OPA's decision logs.
type collector struct {
	*httptest.Server

	mu     sync.Mutex
	down   int // how it answers while it is not 0
	events []map[string]any
	raw    strings.Builder
	wrong  []string
}

func newCollector(t testing.TB) *collector {
	t.Helper()
	c := &collector{}
	c.Server = httptest.NewServer(c)
	t.Cleanup(c.Close)
	return c
}

// ServeHTTP implements http.Handler.
func (c *collector) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.down != 0 {
		w.WriteHeader(c.down)
		return
	}
	if r.Method != http.MethodPost || r.URL.Path != "/logs" || r.Header.Get("Content-Encoding") != "gzip" || r.Header.Get("Content-Type") != "application/json" || r.Header.Get("Authorization") != "Bearer "+bundleToken {
		c.wrong = append(c.wrong, fmt.Sprint(r.Method, r.URL, r.Header))
	}
	body, err := gzip.NewReader(r.Body)
	if err != nil {
		c.wrong = append(c.wrong, err.Error())
		return
	}
	text, _ := io.ReadAll(body)
	var some []map[string]any
	if err := json.Unmarshal(text, &some); err != nil {
		c.wrong = append(c.wrong, err.Error())
	}
	c.raw.Write(text)
	c.events = append(c.events, some...)
}

func (c *collector) answer(status int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.down = status
}

func (c *collector) all() []map[string]any {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.events)
}

func (c *collector) text() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.raw.String()
}

// logging is a world whose decisions go to a collector and a file.
func logging(t testing.TB, c *collector, query string) (w world, key string) {
	t.Helper()
	w = prepare(t, "decisions", "@URL@", c.URL, "@QUERY@", query)
	w.write(t, "token", bundleToken)
	return w, w.mint(t, order{id: "ann", tenant: "acme", metadata: map[string]string{"team": "billing"}})
}

// at finds what stands at a path of JSON.
func at(v any, path ...string) any {
	for _, step := range path {
		object, _ := v.(map[string]any)
		v = object[step]
	}
	return v
}

// decisions are the whole lines of the file so far; one may be half written.
func (w world) decisions(t testing.TB) (all []map[string]any) {
	t.Helper()
	for line := range strings.Lines(w.read(t, "decisions.jsonl")) {
		if !strings.HasSuffix(line, "\n") {
			break
		}
		var e map[string]any
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatal(line, err)
		}
		all = append(all, e)
	}
	return all
}

// G-11: each decision is in the file and at the service in OPA's format, masked and
// dropped as the policy says, without anybody's secrets: not the key, not one in the
// path or the query, not what the policy hands on to the upstream.
func TestDecisionEvents(t *testing.T) {
	t.Parallel()
	for _, query := range []string{"false", "true"} {
		c := newCollector(t)
		w, key := logging(t, c, query)
		b := start(t, w)
		b.hide(key, bundleToken)
		with := []string{"x-api-key", key, "x-auth-token", "hunter2hunter2", "referer", "https://a.test/?token=hunter2hunter2"}
		for _, q := range []struct {
			path string
			with []string
		}{
			{"/a?token=hunter2hunter2&page=7", with}, {"/denied", with}, {"/a", nil}, {"/health", nil}, {"/" + key, with}, {"/a%2fb", with},
		} {
			_ = b.askEnvoy(t, get(q.path, q.with...)) // what it answers is in the events
		}
		eventually(t, "the events have arrived", func() bool { return len(c.all()) == 5 && len(w.decisions(t)) == 5 })
		for i, e := range c.all() {
			if other := w.decisions(t)[i]; fmt.Sprint(e) != fmt.Sprint(other) {
				t.Errorf("file and service differ: %v %v", e, other)
			}
			if at(e, "labels", "region") != "eu" || at(e, "labels", "id") == nil || e["decision_id"] == "" || e["timestamp"] == nil || at(e, "metrics", "timer_server_handler_ns") == nil || e["revision"] == nil {
				t.Errorf("%v", e)
			}
		}
		all := c.all()
		allow := all[0]
		if allow["path"] != "postern/authz/decision" || at(allow, "result", "allow") != true || at(allow, "input", "principal", "id") != "ann" || at(allow, "input", "request", "path") != "/a" {
			t.Errorf("%v", allow)
		}
		if has := strings.Contains(fmt.Sprint(allow), "page"); fmt.Sprint(has) != query {
			t.Errorf("the query is there: %v: %v", has, allow)
		}
		if at(allow, "input", "attributes", "source", "address", "socketAddress", "address") != "0.0.0.0" || at(allow, "input", "request", "client_ip") != nil || !strings.Contains(fmt.Sprint(allow["masked"]), "/input/attributes/source/address/socketAddress/address") {
			t.Errorf("not masked: %v", allow)
		}
		if at(all[1], "result", "allow") != false || at(all[1], "postern", "reason") != "policy_denied" || at(all[1], "postern", "file") != "authz.rego" {
			t.Errorf("%v", all[1])
		}
		if all[2]["result"] != nil || at(all[2], "postern", "reason") != "credential_missing" || at(all[2], "input", "request", "path") != "/a" {
			t.Errorf("%v", all[2])
		}
		if at(all[4], "postern", "phase") != "read" || at(all[4], "postern", "http_status") != float64(400) {
			t.Errorf("%v", all[4])
		}
		for _, text := range []string{c.text(), w.read(t, "decisions.jsonl")} {
			b.leaks(t, "decisions", text)
			if strings.Contains(text, "hunter2") {
				t.Errorf("a secret in %s", text)
			}
		}
		for name, want := range map[string]int{
			`events_total{result="made"}`: 5, `events_total{result="dropped"}`: 1, `events_total{result="lost"}`: 0, `events_total{result="withheld"}`: 0,
			`events_sink_total{result="written",sink="file"}`: 5, `events_sink_total{result="written",sink="service"}`: 5, `events_sink_failed{sink="service"}`: 0,
		} {
			// A sink counts what it wrote when the other side has said so.
			eventually(t, fmt.Sprintf("%s is %d", name, want), func() bool { return metric(t, b.scrape(t), "postern_decision_"+name) == want })
		}
		if len(c.wrong) > 0 {
			t.Error(c.wrong)
		}
	}
}

// A mask that fails hides all that it could have hidden; the decision is logged and
// counted all the same. The mask in force is that of the newest policy.
func TestDecisionEventsThatCannotBeMasked(t *testing.T) {
	t.Parallel()
	c := newCollector(t)
	w, key := logging(t, c, "false")
	b := start(t, w)
	b.hide(key, bundleToken)
	b.expect(t, get("/a", "x-api-key", key), 200, "allowed")
	w.write(t, "policy/log.rego", "package system.log\nmask := [to_number(input.input.request.path)]\n")
	before := b.askEnvoy(t, get("/a", "x-api-key", key)).revision
	eventually(t, "the policy is loaded", func() bool { return b.askEnvoy(t, get("/a", "x-api-key", key)).revision != before })
	a := b.askEnvoy(t, get("/private", "x-api-key", key))
	find := func() map[string]any {
		for _, e := range c.all() {
			if e["decision_id"] == a.id {
				return e
			}
		}
		return nil
	}
	eventually(t, "the event has arrived", func() bool { return find() != nil })
	e := find()
	if e["input"] != nil || e["result"] != nil || fmt.Sprint(e["erased"]) != "[/input /result]" || at(e, "postern", "allowed") != true || strings.Contains(fmt.Sprint(e), "private") {
		t.Errorf("%v", e)
	}
	if metric(t, b.scrape(t), `postern_decision_events_total{result="withheld"}`) == 0 || len(b.log.entries(t, "decisions are logged without their input, because it cannot be masked")) != 1 {
		t.Error("nobody is told")
	}
}

// A service that is down holds up nobody and loses nothing; /readyz and a metric say so
// until it is back.
func TestDecisionServiceDown(t *testing.T) {
	t.Parallel()
	c := newCollector(t)
	c.answer(http.StatusBadGateway)
	w, key := logging(t, c, "false")
	b := start(t, w)
	b.hide(key, bundleToken)
	const many = 300
	for range many {
		b.askEnvoy(t, get("/a", "x-api-key", key))
	}
	const failed = `postern_decision_events_sink_failed{sink="service"}`
	eventually(t, "the metric says that the service is down", func() bool { return metric(t, b.scrape(t), failed) == 1 })
	if status, body := b.fetch(t, "/readyz"); status != http.StatusOK || !strings.Contains(body, "502") {
		t.Errorf("/readyz: %d %s", status, body)
	}
	eventually(t, "the file has all", func() bool { return len(w.decisions(t)) == many })
	c.answer(0)
	eventually(t, "the service has all", func() bool { return len(c.all()) == many })
	eventually(t, "the metric says that it is back", func() bool { return metric(t, b.scrape(t), failed) == 0 })
}
