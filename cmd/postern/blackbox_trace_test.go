package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"

	"google.golang.org/grpc/metadata"

	posternv1 "github.com/postern-auth/postern/gen/postern/v1"
	"github.com/postern-auth/postern/server/trace/tracetest"
)

// withTracing adds a section to a world's configuration.
func withTracing(t testing.TB, w world, section string) {
	t.Helper()
	w.write(t, "postern.yaml", w.read(t, "postern.yaml")+"tracing: "+section+"\n")
}

const (
	gatewayTrace = "4bf92f3577b34da6a3ce929d0e0e4736"
	clientTrace  = "11111111111111111111111111111111"
	parentSpan   = "00f067aa0ba902b7"
)

// traceparent is that of a span which its trace keeps.
func traceparent(trace string) string { return "00-" + trace + "-" + parentSpan + "-01" }

// G-11, T-08: a check through each door is a span of the gateway's trace, or names that
// of its client; logs, traces and metrics name each other; and no part of a credential is
// exported, wherever it was put.
func TestTraces(t *testing.T) {
	t.Parallel()
	for _, protocol := range []string{"grpc", "http"} {
		t.Run(protocol, func(t *testing.T) {
			t.Parallel()
			to := tracetest.Start(t, &tracetest.Receiver{})
			endpoint := map[string]string{"grpc": to.GRPC, "http": to.HTTP}[protocol]
			var b *box
			var key string
			ids := map[string]string{} // decisions by what they are
			t.Run("checks", func(t *testing.T) {
				w := prepare(t, "forwardauth")
				w.write(t, "receiver", "kR7xQ2mVw9ZtB4nL8sYd")
				withTracing(t, w, fmt.Sprintf(`{endpoint: %q, protocol: %s, headers: {x-receiver: "${file:receiver}"}, include: [tenant, principal, host, path, client], baggage: [tier]}`, endpoint, protocol))
				key = w.mint(t, order{id: "alice", tenant: "acme"})
				b = start(t, w)
				b.hide(key, "kR7xQ2mVw9ZtB4nL8sYd")

				ids["own"] = b.askEnvoy(t, get("/orders/7", "x-api-key", key)).id
				ctx := metadata.AppendToOutgoingContext(context.Background(), "traceparent", traceparent(gatewayTrace), "tracestate", "vendor=x", "baggage", "tier=gold,key="+key)
				res, err := b.envoy.Check(ctx, get("/orders/7?a=b", "x-api-key", key, "traceparent", traceparent(clientTrace)).forEnvoy())
				if err != nil {
					t.Fatal(err)
				}
				a, _ := readEnvoy(res)
				ids["gateway"] = a.id
				ids["client"] = b.askEnvoy(t, get("/secret", "x-api-key", key, "traceparent", traceparent(clientTrace), "tracestate", "k="+key, "baggage", "tier="+key)).id
				if res, err := b.postern.Check(ctx, &posternv1.CheckRequest{Target: get("/orders/8", "x-api-key", key).forPostern()}); err != nil {
					t.Fatal(err)
				} else {
					ids["grpc"] = res.GetDecision().GetDecisionId()
				}
				if r, _ := b.speak(t, "GET /forward-auth/traefik", get("/orders/9", "x-api-key", key, "traceparent", traceparent(clientTrace)).forGateway("traefik")); r.StatusCode != 200 {
					t.Fatal(r.Status)
				} else {
					ids["forwardauth"] = r.Header.Get("X-Auth-Decision")
				}
				// a key where none belongs
				for _, q := range []request{
					get("/keys/"+key, "x-api-key", key), get("/?key="+key, "x-api-key", key), get("/", "x-api-key", key+"x"), get("/", "x-other", key, "traceparent", key),
					get("/", "x-api-key", key).with(key), get("/", "authorization", "Bearer "+key, "x-api-key", key),
				} {
					b.askEnvoy(t, q)
				}
				for _, what := range []string{"gateway", "client"} {
					line := b.decisionLine(t, ids[what])
					if want := map[string]string{"gateway": gatewayTrace}[what]; want != "" && line["trace_id"] != want || line["trace_id"] == nil || line["span_id"] == nil {
						t.Errorf("%s: the log says %v", what, line)
					}
				}
				eventually(t, "the spans arrive", func() bool { return len(to.Spans()) >= 10 })
				req, _ := http.NewRequest("GET", "http://"+b.admin+"/metrics", nil)
				req.Header.Set("Accept", "application/openmetrics-text; version=1.0.0")
				open, err := http.DefaultClient.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				text := bodyOf(t, open)
				if !strings.Contains(open.Header.Get("Content-Type"), "openmetrics") || !strings.HasSuffix(text, "# EOF\n") || !strings.Contains(text, `# {decision_id="`) || !strings.Contains(text, `trace_id="`) {
					t.Errorf("%s without examples:\n%.2000s", open.Header.Get("Content-Type"), text)
				}
				b.leaks(t, "OpenMetrics", text)
				plain := b.scrape(t)
				if strings.Contains(plain, "trace_id") || metric(t, plain, `postern_trace_checks_total{result="sent"}`) == 0 || metric(t, plain, "postern_trace_failed") != 0 {
					t.Errorf("%s", plain)
				}
			}) // the server has stopped: what waited was sent

			spans := map[any]tracetest.Span{}
			for _, s := range to.Spans() {
				if s.GetName() == "postern.check" {
					spans[s.Attributes["postern.decision_id"]] = s
				}
			}
			for what, want := range map[string]struct{ trace, linked, door, decision string }{
				"own": {"", "", "extauthz", "allow"}, "gateway": {gatewayTrace, "", "extauthz", "allow"}, "client": {"", clientTrace, "extauthz", "deny"},
				"grpc": {gatewayTrace, "", "grpc", "allow"}, "forwardauth": {"", clientTrace, "forwardauth", "allow"},
			} {
				s, ok := spans[ids[what]]
				if !ok {
					t.Errorf("%s: no span of decision %q", what, ids[what])
					continue
				}
				linked := ""
				if len(s.GetLinks()) > 0 {
					linked = fmt.Sprintf("%x", s.GetLinks()[0].GetTraceId())
				}
				if got := fmt.Sprintf("%x", s.GetTraceId()); want.trace != "" && (got != want.trace || fmt.Sprintf("%x", s.GetParentSpanId()) != parentSpan || s.GetTraceState() != "vendor=x" || s.Attributes["baggage.tier"] != "gold") ||
					want.trace == "" && len(s.GetParentSpanId()) > 0 || linked != want.linked {
					t.Errorf("%s: %v", what, s)
				}
				if s.Attributes["postern.door"] != want.door || s.Attributes["postern.decision"] != want.decision || s.Attributes["postern.principal"] != "alice" || s.Attributes["postern.tenant"] != "acme" || s.Resource["service.name"] != "postern" {
					t.Errorf("%s: %v", what, s.Attributes)
				}
			}
			b.leaks(t, "spans", to.Raw())
			for _, h := range to.Headers() {
				if fmt.Sprint(h["x-receiver"]) != "[kR7xQ2mVw9ZtB4nL8sYd]" {
					t.Errorf("an export without the configured header: %v", h)
				}
			}
		})
	}
}

// decisionLine is the line of the log about a decision.
func (b *box) decisionLine(t testing.TB, id string) (line map[string]any) {
	t.Helper()
	eventually(t, "the decision is logged", func() bool {
		for _, e := range b.log.entries(t, "decision") {
			if e["decision_id"] == id {
				line = e
			}
		}
		return line != nil
	})
	return line
}

// Without a receiver that answers, decisions are as they were, and whoever operates the
// server is told; a reload turns tracing off and on.
func TestTracesToNobody(t *testing.T) {
	t.Parallel()
	w := prepare(t, "forwardauth")
	before := w.read(t, "postern.yaml")
	withTracing(t, w, `{endpoint: "http://127.0.0.1:1", timeout: 100ms}`)
	key := w.mint(t, order{id: "alice", tenant: "acme"})
	b := start(t, w)
	b.hide(key)
	for range 20 {
		b.expect(t, get("/orders/7", "x-api-key", key), 200, "allowed")
	}
	eventually(t, "it is told", func() bool {
		_, ready := b.fetch(t, "/readyz")
		return metric(t, b.scrape(t), "postern_trace_failed") == 1 && strings.Contains(ready, "the receiver answers Unavailable: connection refused") &&
			len(b.log.entries(t, "traces cannot be sent; decisions do not depend on them")) == 1
	})
	if status, _ := b.fetch(t, "/readyz"); status != 200 {
		t.Error("it is not ready: ", status)
	}
	w.write(t, "postern.yaml", before)
	eventually(t, "tracing is off", func() bool { return !strings.Contains(b.scrape(t), "postern_trace_failed") })
	to := tracetest.Start(t, &tracetest.Receiver{})
	withTracing(t, w, fmt.Sprintf("{endpoint: %q}", to.GRPC))
	eventually(t, "tracing is on", func() bool {
		b.expect(t, get("/orders/7", "x-api-key", key), 200, "allowed")
		return len(to.Spans()) > 0
	})
}

// The environment moves no span.
func TestTracesIgnoreTheEnvironment(t *testing.T) {
	to, elsewhere := tracetest.Start(t, &tracetest.Receiver{}), tracetest.Start(t, &tracetest.Receiver{})
	for name, value := range map[string]string{
		"OTEL_EXPORTER_OTLP_ENDPOINT": elsewhere.GRPC, "OTEL_EXPORTER_OTLP_HEADERS": "x-planted=yes", "OTEL_TRACES_SAMPLER": "always_off",
		"OTEL_SERVICE_NAME": "planted", "OTEL_RESOURCE_ATTRIBUTES": "planted=yes", "HTTPS_PROXY": elsewhere.HTTP, "HTTP_PROXY": elsewhere.HTTP, "OTEL_SDK_DISABLED": "true",
	} {
		t.Setenv(name, value)
	}
	w := prepare(t, "forwardauth")
	withTracing(t, w, fmt.Sprintf("{endpoint: %q}", to.GRPC))
	w.mint(t, order{id: "alice"})
	b := start(t, w)
	b.askEnvoy(t, get("/orders/7"))
	eventually(t, "the span arrives", func() bool { return len(to.Spans()) > 0 })
	if s := to.Spans()[0]; s.Resource["service.name"] != "postern" || s.Resource["planted"] != nil || to.Headers()[0]["x-planted"] != nil || len(elsewhere.Spans()) > 0 {
		t.Errorf("%v", s)
	}
	if warned := b.log.entries(t, "the environment's settings of OpenTelemetry are not read: the section `tracing` says it all"); len(warned) != 1 || !strings.Contains(fmt.Sprint(warned[0]["variables"]), "OTEL_EXPORTER_OTLP_ENDPOINT") || strings.Contains(b.log.String(), os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT")) {
		t.Errorf("%v", warned)
	}
}

// bodyOf reads an answer to its end.
func bodyOf(t testing.TB, res *http.Response) string {
	t.Helper()
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
