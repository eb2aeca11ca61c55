package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// A gateway of deploy/ that asks by forward-auth, as it stands there, but with other
// addresses.
type gateway struct {
	name, binary string
	files        []string
	args         []string // of the program; @ is the directory
}

var gateways = []gateway{
	{"nginx", "nginx", []string{"nginx.conf"}, []string{"-e", "stderr", "-p", "@", "-c", "@/nginx.conf", "-g", "daemon off;"}},
	{"haproxy", "haproxy", []string{"haproxy.cfg", "postern.lua"}, []string{"-C", "@", "-f", "haproxy.cfg"}},
	{"caddy", "caddy", []string{"Caddyfile"}, []string{"run", "--config", "@/Caddyfile", "--adapter", "caddyfile"}},
	{"traefik", "traefik", []string{"dynamic.yaml"}, []string{"--entrypoints.web.address=127.0.0.1:8080", "--providers.file.filename=dynamic.yaml", "--global.checkNewVersion=false", "--global.sendAnonymousUsage=false"}},
}

// application is behind a gateway, and notes what it gets.
type application struct {
	*httptest.Server
	mu   sync.Mutex
	last *http.Request
	body string
	n    int
}

func newApplication(t testing.TB) *application {
	app := &application{}
	app.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		app.mu.Lock()
		app.last, app.body = r, string(body)
		app.n++
		app.mu.Unlock()
		fmt.Fprint(w, "the application")
	}))
	t.Cleanup(app.Close)
	return app
}

func (a *application) seen() (r *http.Request, body string, n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.last, a.body, a.n
}

// program finds the gateway's program, or skips the test.
func (g *gateway) program(t testing.TB) string {
	t.Helper()
	for _, name := range []string{os.Getenv("POSTERN_" + strings.ToUpper(g.name)), g.binary, "/usr/sbin/" + g.binary} {
		if path, err := exec.LookPath(name); name != "" && err == nil {
			return path
		}
	}
	t.Skipf("there is no %s (Debian: apt-get install %s; Caddy: go install, and POSTERN_CADDY)", g.binary, g.binary)
	return ""
}

// run starts the gateway before an application, and returns where it listens.
func (g *gateway) run(t testing.TB, postern, app string) string {
	t.Helper()
	g.program(t)
	dir := t.TempDir()
	at := freeAddress(t)
	swap := strings.NewReplacer("127.0.0.1:9193", postern, "127.0.0.1:8081", app, "127.0.0.1:8080", at, ":8080", at[strings.LastIndexByte(at, ':'):], "/tmp/postern-nginx", dir+"/nginx")
	for _, name := range g.files {
		text, err := os.ReadFile(filepath.Join("..", "..", "deploy", g.name, name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(swap.Replace(string(text))), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return g.runIn(t, dir, at)
}

// runIn starts the gateway with the files in a directory, which let it listen there.
func (g *gateway) runIn(t testing.TB, dir, at string) string {
	t.Helper()
	program := g.program(t)
	var args []string
	for _, a := range g.args {
		args = append(args, strings.NewReplacer("@", dir, "127.0.0.1:8080", at).Replace(a))
	}
	var said journal
	cmd := exec.Command(program, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, &said, &said
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // nginx has workers
	cmd.WaitDelay = 5 * time.Second
	cmd.Env = append(os.Environ(), "HOME="+dir, "XDG_DATA_HOME="+dir, "XDG_CONFIG_HOME="+dir)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("%s said: %s", g.name, said.String())
		}
	})
	eventually(t, g.name+" has read its configuration", func() bool {
		res, err := http.Get("http://" + at + "/")
		if err != nil {
			return false
		}
		_ = res.Body.Close()
		return res.StatusCode != http.StatusNotFound // Traefik's, before that
	})
	return at
}

func freeAddress(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// visitor is a client of a gateway's.
type visitor struct {
	t  testing.TB
	at string
}

// ask sends a request byte for byte, as no client library would.
func (v visitor) ask(method, path, body string, fields ...string) (*http.Response, string) {
	v.t.Helper()
	conn, err := net.Dial("tcp", v.at)
	if err != nil {
		v.t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	var raw strings.Builder
	fmt.Fprintf(&raw, "%s %s HTTP/1.1\r\nHost: shop.test\r\n", method, path)
	for i := 0; i < len(fields); i += 2 {
		fmt.Fprintf(&raw, "%s: %s\r\n", fields[i], fields[i+1])
	}
	if body != "" {
		fmt.Fprintf(&raw, "Content-Length: %d\r\n", len(body))
	}
	if _, err := io.WriteString(conn, raw.String()+"\r\n"+body); err != nil {
		v.t.Fatal(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
	if err != nil {
		v.t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		v.t.Fatal(err)
	}
	return res, string(text)
}

// G-01, FORWARD-01, FORWARD-03 to -05, FAILOPEN-09: each sample of a gateway that asks by
// forward-auth, run for real, in front of an application.
func TestGateways(t *testing.T) {
	t.Parallel()
	for _, g := range gateways {
		t.Run(g.name, func(t *testing.T) {
			t.Parallel()
			g.program(t)
			w := prepare(t, "forwardauth")
			key := w.mint(t, order{id: "alice", tenant: "acme"})
			b := start(t, w)
			b.hide(key)
			app := newApplication(t)
			v := visitor{t, g.run(t, b.gateway, strings.TrimPrefix(app.URL, "http://"))}

			forged := []string{"X-API-Key", key, "X-Auth-Principal", "root", "X-Auth-Roles", "admin", "X-Auth-Email", "root@shop.test", "X-Forwarded-For", "10.0.0.1",
				"X-Original-URL", "/secret/1", "X-Rewrite-URL", "/secret/1", "X-Forwarded-Client-Cert", "URI=spiffe://root", "Client-Cert", ":cm9vdA==:", "X-Postern-Reservation", "r", "X-Kept", "yes"}
			res, body := v.ask("POST", "/orders/7?x=%31", "a body", forged...)
			seen, sent, _ := app.seen()
			if res.StatusCode != 200 || body != "the application" || seen == nil {
				t.Fatal("a good key: ", res.Status, body)
			}
			for name, want := range map[string]string{
				"X-Auth-Principal": "alice", "X-Auth-Tenant": "acme", "X-Auth-Roles": "", "X-Api-Key": "", "Authorization": "", "X-Kept": "yes",
				"X-Auth-Email": "", "X-Original-Url": "", "X-Rewrite-Url": "", "X-Forwarded-Client-Cert": "", "Client-Cert": "", "X-Postern-Reservation": "", "X-Forwarded-For": "127.0.0.1",
			} {
				if got := strings.Join(seen.Header.Values(name), "|"); got != want {
					t.Errorf("the application gets %s: %q, not %q", name, got, want)
				}
			}
			if seen.Method != "POST" || seen.RequestURI != "/orders/7?x=%31" || seen.Host != "shop.test" || sent != "a body" {
				t.Errorf("the application gets %s %s of %s: %q", seen.Method, seen.RequestURI, seen.Host, sent)
			}
			if client := b.lastClient(t); client != "127.0.0.1" {
				t.Errorf("a client chose its own address: %s", client)
			}

			_, _, before := app.seen()
			for name, c := range map[string]struct {
				method, path string
				fields       []string
				status       []int
			}{
				"nobody":             {"GET", "/", nil, []int{401}},
				"a bad key":          {"GET", "/", []string{"X-API-Key", "x"}, []int{401}},
				"not permitted":      {"GET", "/secret/1", []string{"X-API-Key", key}, []int{403}},
				"HEAD":               {"HEAD", "/secret/1", []string{"X-API-Key", key}, []int{403}},
				"up and away":        {"GET", "/public/..%2fsecret/1", []string{"X-API-Key", key}, []int{400, 403}},
				"two slashes":        {"GET", "//secret/1", []string{"X-API-Key", key}, []int{400, 403}},
				"an absolute target": {"GET", "http://shop.test/secret/1", []string{"X-API-Key", key}, []int{400, 403}},
				"too often":          {"GET", "/busy", []string{"X-API-Key", key}, []int{429}},
				"another target":     {"GET", "/secret/1", []string{"X-API-Key", key, "X-Forwarded-Uri", "/", "X-Original-URL", "http://shop.test/"}, []int{403}},
				"another method":     {"GET", "/post-only", []string{"X-API-Key", key, "X-Forwarded-Method", "POST", "X-Original-Method", "POST"}, []int{403}},
			} {
				res, _ := v.ask(c.method, c.path, "", c.fields...)
				if !slices.Contains(c.status, res.StatusCode) {
					t.Errorf("%s: %s, not %v", name, res.Status, c.status)
				}
				if challenge := res.Header.Get("WWW-Authenticate"); res.StatusCode == 401 && challenge == "" {
					t.Errorf("%s: 401 without a challenge", name)
				}
				if name == "too often" && res.Header.Get("Retry-After") == "" {
					t.Errorf("%s: nobody says when to try again", name)
				}
			}
			if _, _, after := app.seen(); after != before {
				t.Errorf("%d requests got through", after-before)
			}
			// FORWARD-05: a client cannot have taken away what Postern sets, nor leave HTTP/1
			// for a connection of which nobody is asked.
			for _, named := range []string{"x-auth-principal", "close, X-Auth-Principal", "Upgrade, x-auth-principal", "x-auth-principal, x-api-key"} {
				res, _ = v.ask("GET", "/", "", "X-API-Key", key, "Connection", named, "Upgrade", "h2c")
				seen, _, _ = app.seen()
				if res.StatusCode == 200 && (seen.Header.Get("X-Auth-Principal") != "alice" || strings.Contains(strings.ToLower(seen.Header.Get("Connection")), "x-auth") || seen.Header.Get("Upgrade") != "") {
					t.Errorf("Connection: %s: the application gets %v", named, seen.Header)
				}
			}
			// Two hosts in one field are none.
			_, _, before = app.seen()
			conn, err := net.Dial("tcp", v.at)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
			fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: secret.test,shop.test\r\nX-API-Key: %s\r\n\r\n", key)
			two, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatal(err)
			}
			_ = two.Body.Close()
			if _, _, after := app.seen(); two.StatusCode != 400 || after != before {
				t.Error("two hosts:", two.Status)
			}
		})
	}
}

// FAILOPEN-09: where Postern is not there, no gateway lets anything through.
func TestGatewaysWithoutPostern(t *testing.T) {
	t.Parallel()
	for _, g := range gateways {
		t.Run(g.name, func(t *testing.T) {
			t.Parallel()
			app := newApplication(t)
			v := visitor{t, g.run(t, freeAddress(t), strings.TrimPrefix(app.URL, "http://"))}
			res, _ := v.ask("GET", "/", "", "X-API-Key", "x")
			if _, _, n := app.seen(); res.StatusCode < 500 || n > 0 {
				t.Errorf("%s, and %d requests got through", res.Status, n)
			}
		})
	}
}

// lastClient is the client's address in the last decision of the log.
func (b *box) lastClient(t testing.TB) string {
	t.Helper()
	var client string
	eventually(t, "the decision is in the log", func() bool {
		all := b.log.entries(t, "decision")
		if len(all) == 0 {
			return false
		}
		client, _ = all[len(all)-1]["client"].(string)
		return true
	})
	return client
}

// Every sample takes over, or takes away, every field that is in an allow: in which Postern
// says who called, and which a client must not keep. HAProxy's goes by the answer itself.
func TestGatewaySamplesAreWhole(t *testing.T) {
	t.Parallel()
	w := prepare(t, "forwardauth")
	key := w.mint(t, order{id: "alice"})
	b := start(t, w)
	b.hide(key)
	res, _ := b.speak(t, "GET /forward-auth/caddy", get("/", "x-api-key", key).forGateway("caddy"))
	for _, own := range []string{"Cache-Control", "Content-Length", "Date"} {
		res.Header.Del(own)
	}
	if len(res.Header) < 9 {
		t.Fatal(res.Status, res.Header)
	}
	for _, name := range []string{"nginx/nginx.conf", "caddy/Caddyfile", "traefik/dynamic.yaml"} {
		text, err := os.ReadFile(filepath.Join("..", "..", "deploy", filepath.FromSlash(name)))
		if err != nil {
			t.Fatal(err)
		}
		for field := range res.Header {
			if !regexp.MustCompile(`(?i)\s` + field + `\s`).MatchString(string(text) + "\n") {
				t.Errorf("%s does not name %s", name, field)
			}
		}
	}
}
