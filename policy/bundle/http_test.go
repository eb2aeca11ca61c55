package bundle_test

import (
	"bufio"
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
	"sync/atomic"
	"testing"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/policy/bundle"
	"github.com/postern-auth/postern/server/strictyaml"
)

// served is a source of one bundle from a server.
func served(t testing.TB, url string, change ...func(*bundle.Bundle)) *world {
	t.Helper()
	b := bundle.Bundle{Name: "shop", URL: url, Verify: bundle.Verify{Keys: []bundle.Key{rsaSigner().key()}}}
	for _, c := range change {
		c(&b)
	}
	return open(t, bundle.Config{Bundles: []bundle.Bundle{b}, Limits: bundle.Limits{Download: strictyaml.MiB}}, nil)
}

// Whatever a server does, the last good bundle stays, and the status says why
// nothing newer came. BND-26 BND-30 BND-42 BND-43 BND-44
func TestBadServers(t *testing.T) {
	t.Parallel()
	good, next := allowing("1").signedBy(t, rsaSigner()), allowing("2").signedBy(t, rsaSigner())
	trap := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("a redirect was followed") }))
	t.Cleanup(trap.Close)
	for name, c := range map[string]struct {
		answer http.HandlerFunc
		fails  bundle.Failure
		says   string
	}{
		"refuses":      {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) }, bundle.FailedDownload, "500 Internal"},
		"forbids":      {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(403) }, bundle.FailedDownload, "403 Forbidden"},
		"says nothing": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) }, bundle.FailedDownload, "204"},
		"resets":       {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, bundle.FailedDownload, "EOF"},
		"is empty":     {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(200) }, bundle.FailedRead, "empty"},
		"cuts off": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", fmt.Sprint(len(next)))
			_, _ = w.Write(next[:len(next)/2])
		}, bundle.FailedDownload, "cut off"},
		"truncates":       {func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(next[:len(next)/2]) }, bundle.FailedRead, "no whole"},
		"lies about more": {raw("HTTP/1.1 200 OK\r\nContent-Length: 999999\r\n\r\n" + string(next)), bundle.FailedDownload, "cut off"},
		"lies about less": {raw("HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n" + string(next)), bundle.FailedRead, "no whole"},
		"says 100 MB":     {raw("HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n"), bundle.FailedDownload, "over a limit"},
		"sends 100 MB":    {func(w http.ResponseWriter, _ *http.Request) { endless(w) }, bundle.FailedDownload, "over a limit"},
		"drips":           {drip, bundle.FailedDownload, "deadline"},
		"hangs":           {func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, bundle.FailedDownload, "deadline"},
		"304 of another":  {func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("ETag", `"x"`); w.WriteHeader(304) }, bundle.FailedDownload, "another bundle"},
		"redirects inside": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://169.254.169.254/latest/", 302)
		}, bundle.FailedDownload, "redirects"},
		"redirects to a trap":  {func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, trap.URL, 307) }, bundle.FailedDownload, "allowed_hosts"},
		"redirects to a file":  {func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "file:///etc/passwd", 302) }, bundle.FailedDownload, "redirects"},
		"redirects in circles": {func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, r.URL.Path+"x", 302) }, bundle.FailedDownload, "more than 5"},
		"sends a page":         {func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>log in") }, bundle.FailedRead, "no gzip"},
		"sends huge headers":   {func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("X", strings.Repeat("x", 100<<10)) }, bundle.FailedDownload, "header"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var bad atomic.Bool
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if bad.Load() {
					c.answer(w, r)
					return
				}
				w.Header().Set("ETag", `"1"`)
				_, _ = w.Write(good)
			}))
			t.Cleanup(server.Close)
			w := served(t, server.URL+"/b?token=hunter2")
			must(t, w.Poll(context.Background()))
			checked := w.Status()[0].Checked
			bad.Store(true)
			if c.says == "deadline" { // the others answer, sooner or later
				bundle.SetTimeout(w.Source, 200*time.Millisecond)
			}
			err := w.Poll(context.Background())
			w.expect(err, "1", c.fails, c.says)
			if st := w.Status()[0]; st.Refusals[c.fails] != 1 || !st.Checked.Equal(checked) || st.Since.IsZero() {
				t.Errorf("%+v", st)
			}
			if strings.Contains(err.Error()+w.log.String(), "hunter2") {
				t.Errorf("the URL's query is told: %v, %s", err, w.log)
			}
			bad.Store(false)
			w.expect(w.Poll(context.Background()), "1", "", "")
		})
	}
}

// raw answers with exactly these bytes.
func raw(text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		_, _ = io.WriteString(conn, text)
		_ = conn.Close()
	}
}

func endless(w io.Writer) {
	block := make([]byte, 64<<10)
	for range 100 << 20 / len(block) {
		if _, err := w.Write(block); err != nil {
			return
		}
	}
}

// drip sends a byte now and then.
func drip(w http.ResponseWriter, r *http.Request) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-r.Context().Done():
			return
		case <-tick.C:
			_, _ = w.Write([]byte{0x1f})
			w.(http.Flusher).Flush()
		}
	}
}

// A 304 to what nobody asked about is no answer: nothing is in force, and it is not
// fresh. BND-43
func TestUnaskedNotModified(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("If-None-Match") != "" {
			t.Error("asked with an ETag that nobody gave")
		}
		w.WriteHeader(304)
	}))
	t.Cleanup(server.Close)
	w := served(t, server.URL)
	for range 3 {
		w.expect(w.Poll(context.Background()), "", bundle.FailedDownload, "304")
	}
	if !w.Status()[0].Checked.IsZero() {
		t.Error("that counts as fresh")
	}
}

// What a server is asked, and with which credentials. The ETag is that of the bundle
// in force: one that is refused is offered again.
func TestRequests(t *testing.T) {
	t.Parallel()
	type asked struct{ etag, prefer, authorization string }
	var got asked
	offered := allowing("1")
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got = asked{r.Header.Get("If-None-Match"), r.Header.Get("Prefer"), r.Header.Get("Authorization")}
		raw := offered.signedBy(t, rsaSigner())
		etag := `"` + digestOf([]byte(offered.files["policy.rego"]))[:8] + `"`
		w.Header().Set("ETag", etag)
		if got.etag == etag {
			w.WriteHeader(304)
			return
		}
		_, _ = w.Write(raw)
	}))
	t.Cleanup(server.Close)
	token := filepath.Join(t.TempDir(), "token")
	must(t, os.WriteFile(token, []byte("filed\n"), 0o600))
	for want, credentials := range map[string]bundle.Credentials{
		"":                       {},
		"Bearer hush":            {Bearer: policy.NewSecret("hush")},
		"Bearer filed":           {BearerFile: strictyaml.Path(token)},
		"Basic YW5uOmh1c2g6OjE=": {Basic: &bundle.Basic{Username: "ann", Password: policy.NewSecret("hush::1")}},
	} {
		offered = allowing("1")
		w := served(t, server.URL, func(b *bundle.Bundle) { b.Credentials = credentials })
		must(t, w.Poll(context.Background()))
		first := w.Status()[0].ETag
		if got != (asked{"", "modes=snapshot", want}) {
			t.Errorf("asked %+v, want %q", got, want)
		}
		must(t, w.Poll(context.Background()))
		if got.etag != first || first == "" {
			t.Errorf("asked %+v, want ETag %s", got, first)
		}
		offered = allowing("2").with("policy.rego", "package postern.authz\ndecision if {")
		for range 2 {
			w.expect(w.Poll(context.Background()), "1", bundle.FailedPolicy, "parse")
			if got.etag != first {
				t.Errorf("a bundle that was refused is asked for with %q", got.etag)
			}
		}
		offered = allowing("3")
		w.expect(w.Poll(context.Background()), "3", "", "")
	}
}

// Credentials do not go elsewhere, and a redirect on the server itself is followed.
func TestRedirectOnTheServer(t *testing.T) {
	t.Parallel()
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/old" {
			http.Redirect(w, r, "/new", http.StatusMovedPermanently)
			return
		}
		_, _ = w.Write(allowing("1").signedBy(t, rsaSigner()))
	}))
	t.Cleanup(server.Close)
	authority := filepath.Join(t.TempDir(), "ca.pem")
	must(t, os.WriteFile(authority, certPEM(server.Certificate().Raw), 0o600))
	w := served(t, server.URL+"/old", func(b *bundle.Bundle) { b.CAFile = strictyaml.Path(authority) })
	w.expect(w.Poll(context.Background()), "1", "", "")
	// Without the authority, the server is not who it says.
	w = served(t, server.URL+"/old")
	w.expect(w.Poll(context.Background()), "", bundle.FailedDownload, "certificate")
}

// The real thing: nginx serves the bundle with its own ETags. Z-02
func TestNginx(t *testing.T) {
	t.Parallel()
	binary, err := exec.LookPath("nginx")
	if err != nil {
		t.Skip("nginx is not installed; apt-get install nginx-light to run this test")
	}
	dir := t.TempDir()
	port := freePort(t)
	config, user := filepath.Join(dir, "nginx.conf"), ""
	if os.Getuid() == 0 {
		user = "user root; " // the test's directory is its own
	}
	must(t, os.WriteFile(config, fmt.Appendf(nil, user+`daemon off; pid %[1]s/pid; error_log stderr; worker_processes 1;
events { worker_connections 64; }
http { access_log %[1]s/access.log; client_body_temp_path %[1]s/1; proxy_temp_path %[1]s/2; fastcgi_temp_path %[1]s/3; uwsgi_temp_path %[1]s/4; scgi_temp_path %[1]s/5;
server { listen 127.0.0.1:%[2]d; root %[1]s/www; } }
`, dir, port), 0o600))
	www := filepath.Join(dir, "www")
	must(t, os.Mkdir(www, 0o755))
	must(t, os.Chmod(dir, 0o755))
	ctx, cancel := context.WithCancel(context.Background())
	server := exec.CommandContext(ctx, binary, "-c", config, "-p", dir)
	errors, err := server.StderrPipe()
	must(t, err)
	server.Cancel = func() error { return server.Process.Signal(os.Interrupt) }
	must(t, server.Start())
	t.Cleanup(func() { cancel(); _ = server.Wait() })
	go func() {
		for lines := bufio.NewScanner(errors); lines.Scan(); {
			_ = lines.Text()
		}
	}()
	written := time.Now().Add(-time.Hour)
	put := func(revision string) {
		replace(t, filepath.Join(www, "b.tar.gz"), allowing(revision).signedBy(t, rsaSigner()))
		must(t, os.Chmod(filepath.Join(www, "b.tar.gz"), 0o644))
		// nginx makes ETag of the size and the second.
		written = written.Add(time.Minute)
		must(t, os.Chtimes(filepath.Join(www, "b.tar.gz"), written, written))
	}
	must(t, os.Chmod(www, 0o755))
	put("1")
	waitFor(t, fmt.Sprintf("127.0.0.1:%d", port))
	w := served(t, fmt.Sprintf("http://127.0.0.1:%d/b.tar.gz", port))
	w.expect(w.Poll(ctx), "1", "", "")
	if st := w.Status()[0]; st.ETag == "" {
		t.Errorf("%+v", st)
	}
	w.expect(w.Poll(ctx), "1", "", "") // 304
	put("20")
	w.expect(w.Poll(ctx), "20", "", "")
	must(t, os.Remove(filepath.Join(www, "b.tar.gz")))
	w.expect(w.Poll(ctx), "20", bundle.FailedDownload, "404")
	log := string(mustRead(t, filepath.Join(dir, "access.log")))
	if !strings.Contains(log, " 304 ") {
		t.Errorf("nginx never answered 304:\n%s", log)
	}
}

func freePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// waitFor returns when something listens.
func waitFor(t testing.TB, address string) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for time.Now().Before(deadline) {
		if conn, err := net.DialTimeout("tcp", address, time.Second); err == nil {
			_ = conn.Close()
			return
		}
		time.Sleep(10 * time.Millisecond) // another process: nothing tells when it is ready
	}
	t.Fatalf("nothing listens on %s", address)
}
