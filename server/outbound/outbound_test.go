package outbound_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/postern-auth/postern/server/outbound"
)

func client(t *testing.T, cfg outbound.Config) *http.Client {
	t.Helper()
	c, err := outbound.NewClient(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.CloseIdleConnections)
	return c
}

// get asks, and returns the error of asking or of reading at most 100 bytes.
func get(t *testing.T, c *http.Client, at string) error {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, at+"?key=hush", nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := outbound.Do(c, request)
	if err == nil {
		defer func() { _ = response.Body.Close() }()
		_, err = outbound.ReadBody(response, 100)
		if err == nil && response.StatusCode != http.StatusOK {
			err = outbound.StatusError(response.StatusCode)
		}
	}
	if err != nil && strings.Contains(err.Error(), "hush") {
		t.Errorf("%v shows the query", err)
	}
	return err
}

var inside = outbound.Config{InsecureAllowHTTP: true, InsecureAllowPrivateAddresses: true}

// What went wrong: could the other side not be talked to, or must it not be?
func TestFaults(t *testing.T) {
	t.Parallel()
	hang := func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	var followed atomic.Bool
	mux := http.NewServeMux()
	mux.HandleFunc("/good", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "good") })
	mux.HandleFunc("/hang", hang)
	mux.HandleFunc("/abort", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	mux.HandleFunc("/long", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, strings.Repeat("x", 101)) })
	mux.HandleFunc("/endless", func(w http.ResponseWriter, _ *http.Request) {
		for {
			if _, err := w.Write(make([]byte, 64<<10)); err != nil {
				return
			}
		}
	})
	mux.HandleFunc("/half", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "50")
		_, _ = io.WriteString(w, "half")
	})
	mux.HandleFunc("/redirect", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/followed", http.StatusFound) })
	mux.HandleFunc("/followed", func(http.ResponseWriter, *http.Request) { followed.Store(true) })
	mux.HandleFunc("/header", func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("X", strings.Repeat("x", 1<<20)) })
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	secured := httptest.NewUnstartedServer(mux)
	secured.Config.ErrorLog = log.New(io.Discard, "", 0)
	secured.StartTLS()
	t.Cleanup(secured.Close)
	port := server.URL[strings.LastIndexByte(server.URL, ':'):]

	outside, hasty := outbound.Config{InsecureAllowHTTP: true}, inside
	hasty.Timeout = 50 * time.Millisecond
	for _, tt := range []struct {
		at      string
		cfg     outbound.Config
		is      error
		network bool
	}{
		{server.URL + "/good", inside, nil, false},
		{server.URL + "/hang", hasty, nil, true},
		{server.URL + "/abort", inside, nil, true},
		{server.URL + "/half", inside, nil, true},
		{server.URL + "/long", inside, outbound.ErrTooLarge, false},
		{server.URL + "/endless", inside, outbound.ErrTooLarge, false},
		{server.URL + "/header", inside, nil, false},
		{server.URL + "/redirect", inside, outbound.StatusError(302), false},
		{server.URL + "/missing", inside, outbound.StatusError(404), false},
		{"http://localhost" + port + "/good", outside, outbound.ErrAddress, false},
		{"http://169.254.169.254/latest", inside, outbound.ErrAddress, false},
		{"http://127.0.0.1:1/", inside, nil, true},
		{"http://name.invalid/", inside, nil, true},
		{secured.URL + "/good", inside, nil, false},
		{"https://127.0.0.1" + port + "/good", inside, nil, false},
	} {
		err := get(t, client(t, tt.cfg), tt.at)
		good := strings.HasSuffix(tt.at, "/good") && strings.HasPrefix(tt.at, server.URL)
		if (err == nil) != good || tt.is != nil && !errors.Is(err, tt.is) || outbound.IsNetwork(err) != tt.network {
			t.Errorf("%s: %v, of the network: %v", tt.at, err, outbound.IsNetwork(err))
		}
	}
	if followed.Load() {
		t.Error("a redirect was followed")
	}
	if outbound.IsNetwork(nil) || outbound.IsNetwork(context.Canceled) || outbound.IsNetwork(errors.New("x")) || !outbound.IsNetwork(context.DeadlineExceeded) {
		t.Error("errors that come from elsewhere")
	}
}

// A proxy of the environment, and cookies, are not for us.
func TestNothingFromOutside(t *testing.T) {
	var proxied atomic.Bool
	proxy := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { proxied.Store(true) }))
	defer proxy.Close()
	t.Setenv("HTTP_PROXY", proxy.URL)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Cookie") != "" || r.UserAgent() != "postern" {
			w.WriteHeader(http.StatusTeapot)
		}
		http.SetCookie(w, &http.Cookie{Name: "a", Value: "b"})
	}))
	defer server.Close()
	c := client(t, inside)
	for range 2 {
		if err := get(t, c, server.URL); err != nil {
			t.Error(err)
		}
	}
	if err := get(t, c, "http://postern.invalid"); err == nil || proxied.Load() {
		t.Error("asked a proxy")
	}
}

func TestParseURL(t *testing.T) {
	t.Parallel()
	for text, cfg := range map[string]outbound.Config{
		"https://a.test": {}, "https://a.test:8443/p?q=1": {}, "https://1.1.1.1/": {}, "https://[2606:4700::1111]/": {},
		"http://a.test": {InsecureAllowHTTP: true}, "https://127.0.0.1/": {InsecureAllowPrivateAddresses: true},
	} {
		if u, err := outbound.ParseURL(text, &cfg); err != nil || u.String() != text {
			t.Errorf("%s: %v", text, err)
		}
	}
	for _, text := range []string{
		"", "a.test", "//a.test", "/p", "http://a.test", "ftp://a.test", "file:///etc/passwd", "https:a.test", "https://", "https://:443",
		"https://user@a.test", "https://user:hush@a.test", "https://a.test/#f", "https://a.test/#", "https://a.test:0", "https://a.test:99999", "https://a.test:x",
		"https://127.0.0.1", "https://[::1]", "https://10.0.0.1", "https://169.254.169.254", "https://[::ffff:169.254.169.254]", "https://a.test/%zz?hush", "https://a b",
	} {
		if u, err := outbound.ParseURL(text, &outbound.Config{}); err == nil {
			t.Errorf("%q is taken for %s", text, u)
		} else if strings.Contains(err.Error(), "hush") {
			t.Errorf("%v shows the text", err)
		}
	}
}

func TestSameOrigin(t *testing.T) {
	t.Parallel()
	parse := func(text string) *url.URL {
		u, err := url.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		return u
	}
	for _, tt := range []struct {
		a, b string
		same bool
	}{
		{"https://a.test/x", "https://A.test:443/y?z", true}, {"http://a.test", "http://a.test:80", true},
		{"https://a.test", "http://a.test:443", false}, {"https://a.test", "https://a.test:8443", false},
		{"https://a.test", "https://a.test.", false}, {"https://a.test", "https://b.a.test", false},
	} {
		if outbound.SameOrigin(parse(tt.a), parse(tt.b)) != tt.same || outbound.SameOrigin(parse(tt.b), parse(tt.a)) != tt.same {
			t.Errorf("%s and %s", tt.a, tt.b)
		}
	}
	if name := outbound.Name(parse("https://u:p@a.test:1/b%2Fc?hush#f")); name != "https://a.test:1/b%2Fc" {
		t.Error(name)
	}
}

func TestConfig(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		cfg  outbound.Config
		path string
	}{
		{outbound.Config{}, ""}, {outbound.Config{Timeout: -1}, "timeout"}, {outbound.Config{Timeout: time.Hour}, "timeout"},
		{outbound.Config{ClientCertFile: "x"}, "client_cert_file"}, {outbound.Config{ClientKeyFile: "x"}, "client_cert_file"},
	} {
		got := ""
		tt.cfg.Check(func(path, _, _ string) { got += path })
		if got != tt.path {
			t.Errorf("%+v: %q", tt.cfg, got)
		}
	}
	junk := filepath.Join(t.TempDir(), "junk")
	if err := os.WriteFile(junk, []byte("hush-hush"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, cfg := range []outbound.Config{
		{CAFile: junk}, {CAFile: "/nonexistent"}, {ClientCertFile: junk, ClientKeyFile: junk}, {ClientCertFile: "/nonexistent", ClientKeyFile: junk},
	} {
		if _, err := outbound.NewClient(cfg); err == nil || strings.Contains(err.Error(), "hush") {
			t.Errorf("%+v: %v", cfg, err)
		}
	}
}

// The client's certificate is read again for each connection, so that one which was
// renewed needs no restart; the old one is refused then.
func TestClientCertificate(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	certificate, key, ca := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"), filepath.Join(dir, "ca.pem")
	renew := func(serial int64) {
		t.Helper()
		private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		template := &x509.Certificate{
			SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "postern"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		}
		der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
		if err != nil {
			t.Fatal(err)
		}
		pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
		if err != nil {
			t.Fatal(err)
		}
		write(t, certificate, "CERTIFICATE", der)
		write(t, key, "PRIVATE KEY", pkcs8)
	}
	renew(1)
	var serial atomic.Int64
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		serial.Store(r.TLS.PeerCertificates[0].SerialNumber.Int64())
	}))
	server.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert}
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	t.Cleanup(server.Close)
	write(t, ca, "CERTIFICATE", server.Certificate().Raw)
	cfg := outbound.Config{CAFile: ca, InsecureAllowPrivateAddresses: true}
	if err := get(t, client(t, cfg), server.URL); err == nil || outbound.IsNetwork(err) {
		t.Errorf("without a certificate: %v", err)
	}
	cfg.ClientCertFile, cfg.ClientKeyFile = certificate, key
	c := client(t, cfg)
	for n := range int64(2) {
		renew(n + 1)
		if err := get(t, c, server.URL); err != nil || serial.Load() != n+1 {
			t.Errorf("%v, certificate %d, want %d", err, serial.Load(), n+1)
		}
	}
}

func write(t *testing.T, path, kind string, der []byte) {
	t.Helper()
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}

// Connections are kept where the configuration says so, and only there.
func TestKeepConnections(t *testing.T) {
	t.Parallel()
	for keep, want := range map[int]int32{0: 3, 4: 1} {
		var connections atomic.Int32
		server := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
		server.Config.ConnState = func(_ net.Conn, s http.ConnState) {
			if s == http.StateNew {
				connections.Add(1)
			}
		}
		server.Start()
		t.Cleanup(server.Close)
		cfg := inside
		cfg.KeepConnections = keep
		c := client(t, cfg)
		for range 3 {
			if err := get(t, c, server.URL); err != nil {
				t.Fatal(err)
			}
		}
		if n := connections.Load(); n != want {
			t.Errorf("keeping %d: %d connections, want %d", keep, n, want)
		}
	}
}
