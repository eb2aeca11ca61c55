package main

import (
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/postern-auth/postern/deploy"
)

// initIn runs postern init in a process of its own.
func initIn(t testing.TB, dir string, args ...string) (said string, err error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "postern", append([]string{"init"}, args...)...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), hurry)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// Every sample is written, and each configuration among what is written is good as it
// stands there: with real secrets, and a key that it knows.
func TestInitEverySample(t *testing.T) {
	t.Parallel()
	for _, s := range append(slices.Clone(samples), starter) {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(t.TempDir(), "made by init")
			args := []string{"--dir", dir}
			if len(s.files) > 0 {
				args = append(args, s.name)
			}
			said, err := initIn(t, ".", args...)
			if err != nil {
				t.Fatal(said)
			}
			n := 0
			err = filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
				if err == nil && !d.IsDir() {
					n++
				}
				return err
			})
			if err != nil || n == 0 || n != strings.Count(said, "wrote ") {
				t.Errorf("%d files, %v:\n%s", n, err, said)
			}
			key := demoKey.FindString(said)
			if secret := s.secrets || s.start != ""; secret != (key != "") {
				t.Fatalf("a key: %v\n%s", !secret, said)
			}
			if s.start != "" {
				if out := output(t, "postern", "config", "check", "-c", filepath.Join(dir, "postern.yaml")); !strings.Contains(out, "is good") {
					t.Error(out)
				}
				eventually(t, "the key is let in", func() bool { // in the time of a policy, on a machine that has none to spare
					args := []string{"check", "-c", filepath.Join(dir, "postern.yaml"), "https://app.test/", "-H", "x-api-key: " + key}
					out, err := exec.CommandContext(t.Context(), "postern", args...).Output()
					return err == nil && strings.Contains(string(out), "allow")
				})
			}
			for _, secret := range []string{"pepper", "keys.yaml"} {
				if info, err := os.Stat(filepath.Join(dir, secret)); err == nil && info.Mode().Perm() != 0o600 {
					t.Errorf("%s has the mode %v", secret, info.Mode())
				}
			}
			// Once more is no harm, and shows no key.
			again, err := initIn(t, ".", args...)
			if err != nil || strings.Contains(again, "wrote ") || demoKey.MatchString(again) {
				t.Errorf("%v: %s", err, again)
			}
		})
	}
}

// Where a parameter stands in a sample, it stands in those of its neighbours that have
// to agree; what is left of the standard values is none of theirs.
func TestInitParameters(t *testing.T) {
	t.Parallel()
	standIns := map[string]string{"app": "app-7.internal:3007", "postern": "gate-7.internal:4007", "listen": "192.0.2.7:5007", "host": "api-7.example.org", "image": "ghcr.io/acme-7/postern"}
	for _, s := range samples {
		if _, err := (&initiation{}).files(&s); err != nil {
			t.Errorf("%s: %v", s.name, err)
		}
		for name, standard := range s.standard {
			given := standIns
			if name == inside {
				continue
			}
			plain, err := (&initiation{}).files(&deployed{name: s.name, files: s.files, standard: s.standard, places: s.places, set: s.set})
			if err != nil {
				t.Fatal(err)
			}
			if s.service == name {
				given = map[string]string{name: "app-7:3007"}
			}
			changed, err := (&initiation{flags: map[string]string{name: given[name]}}).files(&deployed{name: s.name, files: s.files, standard: s.standard, places: s.places, set: s.set})
			if err != nil {
				t.Fatal(err)
			}
			var before, after string
			for file := range plain {
				before, after = before+plain[file], after+changed[file]
			}
			if before == after || !strings.Contains(after, strings.Split(given[name], ":")[0]) {
				t.Errorf("%s --%s changes nothing", s.name, name)
			}
			host, port, err := net.SplitHostPort(standard)
			if err != nil || host != "127.0.0.1" {
				continue
			}
			// The port of the standard value is gone, also from comments.
			if left := regexp.MustCompile(`[^0-9.]127\.0\.0\.1(:|, port_value: )` + port + `\b`).FindString(after); left != "" {
				t.Errorf("%s --%s leaves %s", s.name, name, left)
			}
		}
	}
	// A value that reads like another's standard stays what it is.
	swapped, err := (&initiation{flags: map[string]string{"app": "127.0.0.1:9191", "postern": "127.0.0.1:8080"}}).files(&samples[0])
	if err != nil || strings.Count(swapped["envoy.yaml"], "port_value: 9191") != 1 || strings.Count(swapped["envoy.yaml"], "port_value: 8080") != 1 {
		t.Error(err, swapped["envoy.yaml"])
	}
}

// What could mean something else in any of the files is refused.
func TestInitRefusesWords(t *testing.T) {
	t.Parallel()
	for flag, values := range map[string][]string{
		"app":     {"", "app", "app:", ":80", "app:0", "app:65536", "app:080", "app:80;", "a b:80", "app:80\n", "${x}:80", "{{x}}:80", "a:80, b: c", "-a:80", "a_b:80", "a..b:80", "1.2.3:80", "256.1.1.1:80", "[::1%eth0]:80", "[::1]", "::1:80", "a\":80", "a}:80", "ä:80"},
		"listen":  {"localhost:80", ":80", "*:80", "0.0.0.0", "unix:///x", "0.0.0.0:http"},
		"postern": {"http://postern:9191", "postern/9191", "postern:9191/x"},
		"host":    {"", "*", "*.example.com", "a b", "example.com.", "a/b", "example.com:443", "10.0.0.1", "a`b", strings.Repeat("a", 64), strings.Repeat("a.", 127) + "aa"},
		"image":   {"", "Postern", "a//b", "/a", "a/", "a:latest@", "a b", "a;b", "a\nb", "-a", "a@sha256:00", "{{a}}"},
	} {
		for _, v := range values {
			if err := (&parameterFlag{flag, map[string]string{}}).Set(v); err == nil {
				t.Errorf("--%s %q is taken", flag, v)
			}
		}
	}
	for flag, values := range map[string][]string{
		"app": {"127.0.0.1:1", "[::1]:65535", "app:80", "a-b.c-d.internal:8080", "10.0.0.1:80"}, "listen": {"0.0.0.0:443", "[::]:443"}, "host": {"example.com", "localhost", "xn--bcher-kva.example"},
		"image": {"postern", "ghcr.io/acme/postern", "localhost:5000/postern"},
	} {
		for _, v := range values {
			if err := (&parameterFlag{flag, map[string]string{}}).Set(v); err != nil {
				t.Errorf("--%s %q: %v", flag, v, err)
			}
		}
	}
}

// A link in the directory is not followed, and neither a pepper nor a keys file is ever
// replaced.
func TestInitReplaces(t *testing.T) {
	t.Parallel()
	dir, other := t.TempDir(), filepath.Join(t.TempDir(), "other")
	if err := os.WriteFile(other, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	at := func(name string) string { return filepath.Join(dir, name) }
	read := func(name string) string {
		t.Helper()
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	for _, link := range []string{other, filepath.Join(dir, "nowhere")} {
		if err := os.Symlink(link, at("envoy.yaml")); err != nil {
			t.Fatal(err)
		}
		if said, err := initIn(t, ".", "envoy", "--dir", dir); err == nil || !strings.Contains(said, "nothing was written") {
			t.Errorf("a link: %v %s", err, said)
		}
		if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
			t.Errorf("something was written: %v %v", entries, err)
		}
		if err := os.Remove(at("envoy.yaml")); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(other, at("envoy.yaml")); err != nil {
		t.Fatal(err)
	}
	first, err := initIn(t, ".", "envoy", "--dir", dir, "--force")
	if err != nil || read(other) != "mine" || !strings.Contains(read(at("envoy.yaml")), "ext_authz") {
		t.Error(err, first)
	}
	pepper, keys := read(at("pepper")), read(at("keys.yaml"))
	if err := os.WriteFile(at("envoy.yaml"), []byte("changed"), 0o600); err != nil {
		t.Fatal(err)
	}
	if said, err := initIn(t, ".", "envoy", "--dir", dir); err == nil || read(at("envoy.yaml")) != "changed" {
		t.Error(err, said)
	}
	if said, err := initIn(t, ".", "--dir", dir, "--force"); err != nil || read(at("pepper")) != pepper || read(at("keys.yaml")) != keys {
		t.Error(err, said)
	}
	if err := os.Remove(at("pepper")); err != nil {
		t.Fatal(err)
	}
	if said, err := initIn(t, ".", "--dir", dir); err == nil || !strings.Contains(said, "without the pepper") {
		t.Error(err, said)
	}
}

// Each gateway that asks over HTTP works as init writes it, with addresses of one's own.
func TestGatewaysInit(t *testing.T) {
	t.Parallel()
	for _, g := range gateways {
		t.Run(g.name, func(t *testing.T) {
			t.Parallel()
			g.program(t)
			dir := t.TempDir()
			app := newApplication(t)
			door, err := freePort()
			if err != nil {
				t.Fatal(err)
			}
			edge, err := freePort()
			if err != nil {
				t.Fatal(err)
			}
			said, err := initIn(t, ".", g.name, "--dir", dir, "--postern", door, "--listen", edge, "--app", strings.TrimPrefix(app.URL, "http://"))
			if err != nil {
				t.Fatal(said)
			}
			serveWritten(t, dir)
			at := g.runIn(t, dir, edge)
			key := demoKey.FindString(said)
			v := visitor{t, at}
			eventually(t, "the key is let in", func() bool {
				res, _ := v.ask("GET", "/items/7", "", "X-API-Key", key)
				return res.StatusCode == http.StatusOK
			})
			_, _, before := app.seen()
			for name, c := range map[string]struct {
				method string
				fields []string
				status int
			}{
				"with the demo key": {"GET", []string{"X-API-Key", key}, 200}, "nobody": {"GET", nil, 401}, "what the key may not do": {"DELETE", []string{"X-API-Key", key}, 403},
			} {
				if res, body := v.ask(c.method, "/items/7", "", c.fields...); res.StatusCode != c.status {
					t.Errorf("%s: %s %s", name, res.Status, body)
				}
			}
			if _, _, n := app.seen(); n != before+1 {
				t.Errorf("%d requests got through", n-before)
			}
		})
	}
}

// serveWritten runs postern with what init wrote, until the test ends.
func serveWritten(t *testing.T, dir string) {
	t.Helper()
	admin, err := freePort()
	if err != nil {
		t.Fatal(err)
	}
	grpc, err := freePort()
	if err != nil {
		t.Fatal(err)
	}
	args := []string{"serve", "-c", "postern.yaml", "--admin", admin}
	if text, err := os.ReadFile(filepath.Join(dir, "postern.yaml")); err == nil && strings.Contains(string(text), "grpc: 127.0.0.1:9191") {
		args = append(args, "--grpc", grpc)
	}
	cmd := programOf(t, dir, args...)
	var log journal
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Log("Postern said: ", log.String())
		}
	})
	eventually(t, "Postern is ready", func() bool {
		status, _, err := fetchText("http://" + admin + "/readyz")
		return err == nil && status == http.StatusOK
	})
}

// C-07: the script for users does what it says, with the real Envoy: keys over HTTP/1.1
// and HTTP/2, and certificates.
func TestEnvoyScript(t *testing.T) {
	t.Parallel()
	envoy := envoyProgram(t)
	for _, needed := range []string{"curl", "python3"} {
		if _, err := exec.LookPath(needed); err != nil {
			t.Skip("there is no ", needed)
		}
	}
	postern, err := exec.LookPath("postern")
	if err != nil {
		t.Fatal(err)
	}
	for _, what := range []string{"keys", "certificates"} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			cmd := exec.CommandContext(t.Context(), "sh", filepath.Join(repository, "deploy", "envoy", "try.sh"), what)
			cmd.Env = append(os.Environ(), "ENVOY="+envoy, "POSTERN="+postern, hurry)
			out, err := cmd.CombinedOutput()
			if err != nil || strings.Count(string(out), "\nok ")+1 < 5 || strings.Contains(string(out), "WRONG") {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}

// What init writes for Compose, Envoy itself takes.
func TestEnvoyTakesCompose(t *testing.T) {
	t.Parallel()
	envoy := envoyProgram(t)
	dir := t.TempDir()
	if said, err := initIn(t, ".", "compose", "--dir", dir); err != nil {
		t.Fatal(said)
	}
	text := output(t, "cat", filepath.Join(dir, "envoy.yaml"))
	if !strings.Contains(text, "address: postern, port_value: 9191") || !strings.Contains(text, "address: app, port_value: 8080") || strings.Count(text, "STRICT_DNS") != 2 || !strings.Contains(text, "address: 0.0.0.0, port_value: 10000") {
		t.Error(text)
	}
	output(t, envoy, "--mode", "validate", "-c", filepath.Join(dir, "envoy.yaml"), "--log-level", "warn")
}

// G-05: Model Context Protocol, JSON-RPC over HTTP, through Envoy: who calls a tool is
// the same principal as over REST, and a policy sees which tool.
func TestEnvoyMCP(t *testing.T) {
	t.Parallel()
	lab := startLab(t, "", uncommented(t, "with_request_body:", 1)...)
	lab.postern.write(t, "policy/authz.rego", envoyPolicy+`
decision if {
	"reader" in input.principal.roles
	input.request.path == "/mcp"
	input.parsed_body.method == "tools/call"
	input.parsed_body.params.name in ["search", "fetch"]
}
`)
	call := func(tool string, fields ...string) reply {
		body := `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"` + tool + `","arguments":{}}}`
		return lab.send(t, "POST /mcp HTTP/1.1\nhost: api.test\ncontent-type: application/json\naccept: application/json, text/event-stream\nmcp-protocol-version: 2025-06-18\n"+strings.Join(fields, "\n")+"\n\n"+body)
	}
	if !until(func() bool { return call("search", keyField(lab.key)).status == http.StatusOK }) {
		t.Fatal("the tool cannot be called")
	}
	who := map[string]string{"X-Auth-Principal": "ann", "X-Auth-Tenant": "acme", "X-Auth-Roles": "reader,clerk", "X-Api-Key": ""}
	told(t, call("search", keyField(lab.key)).reaches(t), who)
	told(t, call("fetch", keyField(lab.key)).reaches(t), who)
	told(t, lab.ask(t, "GET /orders/7", keyField(lab.key)).reaches(t), who)
	told(t, call("search", "authorization: Bearer "+lab.token).reaches(t), map[string]string{"X-Auth-Principal": "bob", "Authorization": ""})
	call("delete", keyField(lab.key)).stops(t, http.StatusForbidden)
	call("search", keyField(lab.guest)).stops(t, http.StatusForbidden)
	denied := call("search")
	denied.stops(t, http.StatusUnauthorized)
	if len(denied.header.Values("Www-Authenticate")) == 0 {
		t.Error("a client of MCP is not told how to get in")
	}
	// Two calls in one word: the policy and the server could take another name.
	twice := `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"search","name":"delete"}}`
	lab.send(t, "POST /mcp HTTP/1.1\nhost: api.test\ncontent-type: application/json\n"+keyField(lab.key)+"\n\n"+twice).stops(t, http.StatusBadRequest)
}

// Everything that init can write is in the binary, and nothing that is no sample.
func TestInitKnowsEverySample(t *testing.T) {
	t.Parallel()
	written := map[string]bool{}
	for _, s := range samples {
		for _, f := range s.files {
			from, _, _ := strings.Cut(f, " => ")
			written[from] = true
		}
	}
	err := fs.WalkDir(deploy.Files, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		if strings.HasSuffix(name, ".go") {
			t.Errorf("%s is embedded", name)
		}
		for from := range written {
			if name == from || strings.HasPrefix(name, from+"/") {
				return nil
			}
		}
		if name != "start/postern.yaml" {
			t.Errorf("nobody writes %s", name)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	names := sampleNames()
	for _, wanted := range strings.Fields("envoy envoy-gateway istio nginx traefik caddy haproxy compose kubernetes helm systemd prometheus grafana") {
		if !slices.Contains(names, wanted) {
			t.Errorf("there is no sample %s", wanted)
		}
	}
}
