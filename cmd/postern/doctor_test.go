package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// examined is what the doctor says, a line for each finding, to a command line.
func examined(t testing.TB, args ...string) (out string, status int) {
	t.Helper()
	return examinedWith(t, "", args...)
}

// examinedWith is that with something on standard input.
func examinedWith(t testing.TB, stdin string, args ...string) (out string, status int) {
	t.Helper()
	var text strings.Builder
	cmd := doctorCommand()
	cmd.SilenceUsage, cmd.SilenceErrors = true, true
	cmd.SetOut(&text)
	cmd.SetIn(strings.NewReader(stdin))
	cmd.SetArgs(args)
	switch err := cmd.ExecuteContext(t.Context()).(type) {
	case nil:
		return text.String(), exitOK
	case *exitError:
		return text.String(), err.status
	default:
		return text.String() + err.Error(), exitFault
	}
}

// wired is a server, a key that it knows in a file, and the arguments for its doctor.
type wired struct {
	*box
	args []string
}

func newWired(t *testing.T) *wired {
	t.Helper()
	w := prepare(t, "forwardauth")
	w.write(t, "policy/authz.rego", "package postern.authz\ndefault decision := false\ndecision if { input.principal.id == \"alice\"; not startswith(input.request.path, \"/secret\") }\n")
	key := w.mint(t, order{id: "alice", tenant: "acme"})
	w.write(t, "key.txt", key)
	b := start(t, w)
	b.hide(key)
	return &wired{b, []string{"-c", w.path("postern.yaml"), "--server", b.rpc, "--admin", b.admin, "--gateway", b.gateway, "--credential", "x-api-key: @" + w.path("key.txt"), "--timeout", "20s"}}
}

// examine has the doctor look through a gateway, and says what it said about it.
func (w *wired) examine(t *testing.T, url string, more ...string) string {
	t.Helper()
	out, _ := examined(t, append(append(w.args, "--url", url), more...)...)
	w.leaks(t, "doctor", out)
	if strings.Contains(out, "panic") {
		t.Error(out)
	}
	return out
}

// A gateway that asks and obeys is good; each way of not doing so is found.
func TestDoctorLooksThroughGateways(t *testing.T) {
	t.Parallel()
	w := newWired(t)
	echo := func(rw http.ResponseWriter, r *http.Request) { fmt.Fprintln(rw, r.Header) }
	asks := func(t testing.TB, path string, r *http.Request) int {
		fields := http.Header{"X-Forwarded-Method": {r.Method}, "X-Forwarded-Proto": {"https"}, "X-Forwarded-Host": {r.Host}, "X-Forwarded-Uri": {path}}
		for name, values := range r.Header {
			fields[name] = append(fields[name], values...)
		}
		q, err := http.NewRequestWithContext(r.Context(), "GET", "http://"+w.gateway+"/forward-auth/traefik", nil)
		if err != nil {
			t.Fatal(err)
		}
		q.Header = fields
		res, err := http.DefaultClient.Do(q)
		if err != nil {
			return 503
		}
		_ = res.Body.Close()
		return res.StatusCode
	}
	strip := func(r *http.Request) {
		for name := range r.Header {
			if strings.HasPrefix(strings.ReplaceAll(name, "_", "-"), "X-Auth-") {
				r.Header.Del(name)
			}
		}
	}
	for name, c := range map[string]struct {
		gateway func(t testing.TB) http.HandlerFunc
		want    []string
		never   string
	}{
		"good": {func(t testing.TB) http.HandlerFunc {
			return func(rw http.ResponseWriter, r *http.Request) {
				if status := asks(t, r.RequestURI, r); status != 200 {
					http.Error(rw, "no", status)
					return
				}
				strip(r)
				echo(rw, r)
			}
		}, []string{"ok       gateway   no credential: status 401", "ok       gateway   your credential: status 200", "no form of the path gets past", "are not repeated by the service", "a false credential in authorization: status 401"}, "problem  gateway"},
		"asks nobody": {func(testing.TB) http.HandlerFunc { return echo }, []string{"problem  gateway   no credential: status 200: the gateway lets requests through without asking"}, ""},
		"fails": {func(testing.TB) http.HandlerFunc {
			return func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(502) }
		}, []string{"no credential: status 502, which is no decision"}, ""},
		"lets any credential through": {func(t testing.TB) http.HandlerFunc {
			return func(rw http.ResponseWriter, r *http.Request) {
				if r.Header.Get("Authorization") == "" && asks(t, r.RequestURI, r) != 200 {
					http.Error(rw, "no", 401)
					return
				}
				strip(r)
				echo(rw, r)
			}
		}, []string{"problem  gateway   a false credential in authorization: status 200: it was let through"}, ""},
		"believes x-auth-principal": {func(t testing.TB) http.HandlerFunc {
			return func(rw http.ResponseWriter, r *http.Request) {
				if r.Header.Get("X-Auth-Principal") == "" && asks(t, r.RequestURI, r) != 200 {
					http.Error(rw, "no", 401)
					return
				}
				echo(rw, r)
			}
		}, []string{"header fields of an identity, and no credential: status 200: it was let through", "a header field such as X-Auth-Principal that the client sent reaches the service"}, ""},
		"reads paths in its own way": {func(t testing.TB) http.HandlerFunc {
			return func(rw http.ResponseWriter, r *http.Request) {
				if strings.HasPrefix(r.RequestURI, "/orders") && asks(t, r.RequestURI, r) != 200 {
					http.Error(rw, "no", 401)
					return
				}
				strip(r)
				echo(rw, r)
			}
		}, []string{"problem  gateway   a doubled slash (//orders): status 200", "capitals (/ORDERS): status 200"}, ""},
		"loses credentials": {func(t testing.TB) http.HandlerFunc {
			return func(rw http.ResponseWriter, r *http.Request) {
				r.Header.Del("X-Api-Key")
				if status := asks(t, r.RequestURI, r); status != 200 {
					http.Error(rw, "no", status)
				}
			}
		}, []string{"problem  gateway   your credential: status 401; does the gateway pass the header field on"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := httptest.NewServer(c.gateway(t))
			defer g.Close()
			out := w.examine(t, g.URL+"/orders")
			for _, want := range c.want {
				if !strings.Contains(out, want) {
					t.Errorf("it does not say %q", want)
				}
			}
			if c.never != "" && strings.Contains(out, c.never) || t.Failed() {
				t.Errorf("%s", out)
			}
		})
	}
	denied := w.examine(t, "http://"+w.gateway+"/secret") // nobody listens there as a gateway does
	if !strings.Contains(denied, "problem  gateway   no credential: status 404: the gateway lets requests through") {
		t.Error(denied)
	}
}

// A credential may come by standard input, which is there to be read once.
func TestDoctorReadsStandardInput(t *testing.T) {
	t.Parallel()
	w := newWired(t)
	key := w.read(t, "key.txt")
	g := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Api-Key") != key {
			rw.WriteHeader(http.StatusUnauthorized)
		}
	}))
	defer g.Close()
	out, _ := examinedWith(t, key, "-c", w.path("postern.yaml"), "--server", w.rpc, "--admin", w.admin, "--gateway", w.gateway, "--timeout", "20s",
		"--url", g.URL+"/orders", "--credential", "x-api-key: @-")
	if !strings.Contains(out, "ok       gateway   your credential: status 200") {
		t.Error(out)
	}
	w.leaks(t, "doctor", out)
}

// The samples of deploy/, run for real, have no problem.
func TestDoctorLooksThroughRealGateways(t *testing.T) {
	t.Parallel()
	w := newWired(t)
	for _, g := range gateways {
		t.Run(g.name, func(t *testing.T) {
			t.Parallel()
			g.program(t)
			app := newApplication(t)
			at := g.run(t, w.gateway, strings.TrimPrefix(app.URL, "http://"))
			out := w.examine(t, "http://"+at+"/orders/7")
			if strings.Contains(out, "problem ") || !strings.Contains(out, "no form of the path gets past") || !strings.Contains(out, "your credential: status 200") {
				t.Errorf("%s", out)
			}
		})
	}
	t.Run("envoy", func(t *testing.T) {
		t.Parallel()
		app := newApplication(t)
		service := strings.TrimPrefix(app.URL, "http://")
		dir := t.TempDir()
		e := runEnvoy(t, dir, "envoy.yaml", "port_value: 10000", "port_value: 0", "port_value: 9901", "port_value: 0",
			"port_value: 9191", "port_value: "+portOf(t, w.rpc), "port_value: 8080", "port_value: "+portOf(t, service))
		admin, err := os.ReadFile(filepath.Join(dir, "envoy.admin"))
		if err != nil {
			t.Fatal(err)
		}
		out := w.examine(t, "http://"+e.at+"/orders/7", "--envoy-admin", "http://"+string(admin))
		if strings.Contains(out, "problem ") || !strings.Contains(out, "no form of the path gets past") || !strings.Contains(out, "your credential: status 200") || !strings.Contains(out, "ok       envoy     asks as it should") {
			t.Errorf("%s", out)
		}
		open := runEnvoy(t, t.TempDir(), "envoy.yaml", "port_value: 10000", "port_value: 0", "port_value: 9901", "port_value: 0",
			"port_value: 9191", "port_value: "+portOf(t, "127.0.0.1:1"), "port_value: 8080", "port_value: "+portOf(t, service), "failure_mode_allow: false", "failure_mode_allow: true")
		out = w.examine(t, "http://"+open.at+"/orders/7")
		if !strings.Contains(out, "problem  gateway   no credential: status 200") {
			t.Errorf("an Envoy that fails open: %s", out)
		}
	})
}
