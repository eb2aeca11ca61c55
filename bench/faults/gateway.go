package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/postern-auth/postern/bench/rig"
)

// gateway lets requests through that Postern allows, and those about which it gets no
// answer: it fails open.
type gateway struct {
	what string // for the table
	// through asks it to let a request through.
	through func(ctx context.Context, q *question) (bool, error)
	// tell says what it counted of servers that did not answer.
	tell  func() string
	close func()
}

// gatewayConfig is an Envoy that fails open and has what it can have to get an answer all
// the same: it asks another server when one breaks off, and finds out by pings that one
// hangs, sooner than its own timeout is over.
const gatewayConfig = `static_resources:
  listeners:
    - name: ingress
      address: { socket_address: { address: 127.0.0.1, port_value: %[1]s } }
      filter_chains:
        - filters:
            - name: envoy.filters.network.http_connection_manager
              typed_config:
                "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
                stat_prefix: ingress
                scheme_header_transformation: { scheme_to_overwrite: https }
                route_config:
                  virtual_hosts: [{ name: service, domains: ["*"], routes: [{ match: { prefix: / }, route: { cluster: service } }] }]
                http_filters:
                  - name: envoy.filters.http.ext_authz
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz
                      transport_api_version: V3
                      grpc_service:
                        envoy_grpc: { cluster_name: postern }
                        timeout: 10s
                        retry_policy:
                          num_retries: 5
                          retry_back_off: { base_interval: 0.025s, max_interval: 0.25s }
                          retry_on: connect-failure,refused-stream,reset,unavailable,cancelled
                          retry_host_predicate:
                            - name: envoy.retry_host_predicates.previous_hosts
                              typed_config: { "@type": type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate }
                          host_selection_retry_max_attempts: 5
                      failure_mode_allow: true
                      encode_raw_headers: true
                  - name: envoy.filters.http.router
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
  clusters:
    - name: postern
      type: STATIC
      connect_timeout: 0.25s
      lb_policy: ROUND_ROBIN
      circuit_breakers: { thresholds: [{ max_retries: 1024 }] }
      common_lb_config: { healthy_panic_threshold: { value: 0 } }
      outlier_detection: { consecutive_gateway_failure: 2, consecutive_5xx: 2, interval: 0.2s, base_ejection_time: 1s, max_ejection_time: 1s, max_ejection_percent: 34 }
      typed_extension_protocol_options:
        envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
          "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
          explicit_http_config: { http2_protocol_options: { connection_keepalive: { interval: 1s, timeout: 2s } } }
      load_assignment:
        cluster_name: postern
        endpoints: [{ lb_endpoints: [%[2]s] }]
    - name: service
      type: STATIC
      connect_timeout: 1s
      load_assignment:
        cluster_name: service
        endpoints: [{ lb_endpoints: [%[3]s] }]
admin:
  address: { socket_address: { address: 127.0.0.1, port_value: 0 } }
`

// startGateway puts a gateway before some servers: a real Envoy if there is one.
func (l *lab) startGateway(ctx context.Context, servers ...string) (*gateway, error) {
	if l.envoy == "" {
		return failOpen(servers)
	}
	return l.startEnvoy(ctx, servers)
}

// failOpen stands in for an Envoy: whatever is not an answer lets the request through.
func failOpen(servers []string) (*gateway, error) {
	c, err := newClient(time.Second, servers...)
	if err != nil {
		return nil, err
	}
	return &gateway{what: "a client that fails open", close: c.close, tell: func() string { return "" }, through: func(ctx context.Context, q *question) (bool, error) {
		answer, err := c.ask(ctx, q.raw)
		if err != nil {
			return true, nil //nolint:nilerr // that is what failing open means
		}
		return rig.IsAllow(answer), nil
	}}, nil
}

// served is what the service behind the gateway answers.
const served = "served"

func (l *lab) startEnvoy(ctx context.Context, servers []string) (*gateway, error) {
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, served) }))
	at := rig.FreeAddr()
	_, port, _ := net.SplitHostPort(at)
	var all []string
	for _, s := range servers {
		all = append(all, endpoint(s))
	}
	l.gateways++
	name := l.path(fmt.Sprintf("envoy-%d.yaml", l.gateways))
	if err := os.WriteFile(name, fmt.Appendf(nil, gatewayConfig, port, strings.Join(all, ", "), endpoint(service.Listener.Addr().String())), 0o600); err != nil {
		return nil, err
	}
	said, err := os.Create(name + ".log")
	if err != nil {
		return nil, err
	}
	defer said.Close()
	cmd := exec.CommandContext(ctx, l.envoy, "-c", name, "--concurrency", "1", "--disable-hot-restart", "--log-level", "error", "--admin-address-path", name+".admin")
	cmd.Stdout, cmd.Stderr = said, said
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	pool := &http.Transport{MaxIdleConnsPerHost: 64}
	web := &http.Client{Transport: pool, Timeout: 15 * time.Second}
	g := &gateway{what: l.envoyIs}
	g.tell = func() string { return envoyCounts(web, name+".admin") }
	g.close = func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		pool.CloseIdleConnections()
		service.Close()
	}
	g.through = func(ctx context.Context, q *question) (bool, error) {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+at+q.path, nil)
		if err != nil {
			return false, err
		}
		r.Host = rig.Host
		for k, v := range q.fields {
			r.Header.Set(k, v)
		}
		res, err := web.Do(r)
		if err != nil {
			return false, err
		}
		defer res.Body.Close()
		text, err := io.ReadAll(res.Body)
		return res.StatusCode == http.StatusOK && string(text) == served, err
	}
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline) && ctx.Err() == nil; time.Sleep(20 * time.Millisecond) {
		if conn, err := net.Dial("tcp", at); err == nil {
			_ = conn.Close()
			return g, nil
		}
	}
	g.close()
	text, _ := os.ReadFile(name + ".log")
	return nil, fmt.Errorf("%s does not start:\n%s", g.what, text[max(0, len(text)-2000):])
}

// envoyCounts are those of an Envoy's counters that say why it had no answer.
func envoyCounts(web *http.Client, admin string) string {
	at, err := os.ReadFile(admin)
	if err != nil {
		return err.Error()
	}
	res, err := web.Get("http://" + string(at) + "/stats?usedonly&filter=cluster.postern.upstream_(rq_(retry|tx_reset|rx_reset|timeout|pending)|cx_(connect_fail|destroy))|failure_mode_allowed|outlier_detection.ejections_active|cluster.postern.http2.keepalive_timeout")
	if err != nil {
		return err.Error()
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		return err.Error()
	}
	return strings.ReplaceAll(strings.TrimSpace(string(text)), "\n", ", ")
}

func endpoint(address string) string {
	host, port, _ := net.SplitHostPort(address)
	return fmt.Sprintf("{ endpoint: { address: { socket_address: { address: %s, port_value: %s } } } }", host, port)
}

// findEnvoy is the program to test with, and how the table calls it; empty for none.
func findEnvoy(ctx context.Context) (program, what string) {
	program = os.Getenv("POSTERN_ENVOY")
	if program == "" {
		if program, _ = exec.LookPath("envoy"); program == "" {
			return "", ""
		}
	}
	out, err := exec.CommandContext(ctx, program, "--version").Output()
	if err != nil {
		return "", ""
	}
	for _, part := range strings.Split(string(out), "/") { // "envoy  version: COMMIT/1.40.0/Clean/RELEASE/…"
		if strings.Count(part, ".") == 2 && !strings.ContainsAny(part, " \n") {
			return program, "Envoy " + part
		}
	}
	return program, "Envoy " + filepath.Base(program)
}
