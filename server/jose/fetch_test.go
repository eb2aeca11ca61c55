package jose

import (
	"bytes"
	"compress/gzip"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// local permits what a server of a test needs.
var local = SourceConfig{InsecureAllowHTTP: true, InsecureAllowPrivateAddresses: true}

func (c SourceConfig) at(url string) SourceConfig {
	c.URL = url
	return c
}

// trap is a listener that must see no connection.
func trap(t *testing.T) (address string, seen *atomic.Int32) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	seen = new(atomic.Int32)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			seen.Add(1)
			_ = c.Close()
		}
	}()
	t.Cleanup(func() { _ = l.Close() })
	return l.Addr().String(), seen
}

// serve answers over a real connection.
func serve(t *testing.T, h http.HandlerFunc) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s
}

func live(t *testing.T, cfg SourceConfig) *Source {
	t.Helper()
	s, err := NewSource(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// O-01, M-03: over TLS, with the issuer's authority, discovery and all; known
// keys go on when the issuer is gone.
func TestOverTLS(t *testing.T) {
	t.Parallel()
	var server *httptest.Server
	server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/keys" {
			_, _ = io.WriteString(w, setOf(edKey("k", 1)))
			return
		}
		_, _ = io.WriteString(w, discoveryDocument(server.URL, server.URL+"/keys"))
	}))
	defer server.Close()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := SourceConfig{Issuer: server.URL, CAFile: ca, InsecureAllowPrivateAddresses: true}
	s := live(t, cfg)
	mustFind(t, s, "k")
	cfg.CAFile = ""
	mustFail(t, live(t, cfg), "k") // an authority that nobody knows
	server.Close()
	if err := s.Reload(t.Context()); err == nil {
		t.Error("fetched from a server that is gone")
	}
	mustFind(t, s, "k")
}

// JWKS-23: a redirect is not followed, wherever it leads, and the keys stay.
func TestRedirects(t *testing.T) {
	t.Parallel()
	address, seen := trap(t)
	var location atomic.Value
	server := serve(t, func(w http.ResponseWriter, r *http.Request) {
		to, _ := location.Load().(string)
		if to == "" || r.URL.Path == "/same" {
			_, _ = io.WriteString(w, setOf(edKey("k", 1)))
			return
		}
		http.Redirect(w, r, to, http.StatusFound)
	})
	s := live(t, local.at(server.URL))
	mustFind(t, s, "k")
	for _, to := range []string{"http://" + address + "/", "https://" + address + "/", "//" + address, "http://169.254.169.254/latest/meta-data/", "file:///etc/passwd", "/same"} {
		t.Run("JWKS-23", func(t *testing.T) {
			location.Store(to)
			if err := s.Reload(t.Context()); err == nil || !strings.Contains(err.Error(), "redirects") {
				t.Errorf("%s: %v", to, err)
			}
			mustFind(t, s, "k")
		})
	}
	if seen.Load() != 0 {
		t.Errorf("%d connections at the trap", seen.Load())
	}
}

// JWKS-23, JWKS-24: a name that resolves to an address inside leads to no
// connection: what counts is the address when the connection is made.
func TestResolvedAddressCounts(t *testing.T) {
	t.Parallel()
	address, seen := trap(t)
	_, port, _ := net.SplitHostPort(address)
	s := live(t, SourceConfig{URL: "http://localhost:" + port + "/keys", InsecureAllowHTTP: true})
	if _, err := s.Find(t.Context(), "k", "EdDSA"); err == nil || !strings.Contains(err.Error(), "insecure_allow_private_addresses") {
		t.Error(err)
	}
	if seen.Load() != 0 {
		t.Error("connected")
	}
}

// JWKS-25: a body without end, of any kind, is read up to the limit and no
// further, in little memory and bounded time; the last good keys stay.
func TestHugeBodies(t *testing.T) {
	var bomb bytes.Buffer
	z := gzip.NewWriter(&bomb)
	zeros := make([]byte, 1<<20)
	for range 64 {
		_, _ = z.Write(zeros)
	}
	_ = z.Close()
	many := make([]object, 10_000)
	for i := range many {
		many[i] = object{"kid": fmt.Sprint(i), "kty": "x"}
	}
	tooMany := setOf(many...)
	bodies := map[string]http.HandlerFunc{
		"100 MiB": func(w http.ResponseWriter, _ *http.Request) {
			for range 100 {
				if _, err := w.Write(zeros); err != nil {
					return
				}
			}
		},
		"100 MiB announced": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", fmt.Sprint(100<<20))
			_, _ = w.Write(zeros)
		},
		"gzip bomb": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			_, _ = w.Write(bomb.Bytes())
		},
		"10,000 keys": func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, tooMany) },
		"huge header": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X", strings.Repeat("x", 1<<20))
			_, _ = io.WriteString(w, setOf(edKey("k", 2)))
		},
		"drip": func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, `{"keys":`)
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		},
		"less than announced": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000")
			_, _ = io.WriteString(w, setOf(edKey("k", 2)))
		},
	}
	for name, body := range bodies {
		t.Run("JWKS-25/"+name, func(t *testing.T) {
			var huge atomic.Bool
			server := serve(t, func(w http.ResponseWriter, r *http.Request) {
				if huge.Load() {
					body(w, r)
					return
				}
				_, _ = io.WriteString(w, setOf(edKey("k", 1)))
			})
			cfg := local.at(server.URL)
			if name == "drip" {
				cfg.Timeout = 50 * time.Millisecond
			}
			s := live(t, cfg)
			good := mustFind(t, s, "k")
			huge.Store(true)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			err := s.Reload(t.Context())
			runtime.ReadMemStats(&after)
			if err == nil {
				t.Error("accepted")
			}
			if grown := after.TotalAlloc - before.TotalAlloc; grown > 16<<20 {
				t.Errorf("%d MiB allocated", grown>>20)
			}
			if mustFind(t, s, "k") != good {
				t.Error("the last good key is gone")
			}
		})
	}
}

// Key sets in compressed bodies and of odd types are read, web pages are not.
func TestBodies(t *testing.T) {
	t.Parallel()
	for contentType, good := range map[string]bool{
		"application/json": true, "application/jwk-set+json": true, "text/plain; charset=utf-8": true, "application/octet-stream": true, "": true,
		"text/html": false, "Text/HTML; charset=utf-8": false, "application/xhtml+xml": false,
	} {
		server := serve(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header()["Content-Type"] = []string{contentType}
			if strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
				w.Header().Set("Content-Encoding", "gzip")
				z := gzip.NewWriter(w)
				defer func() { _ = z.Close() }()
				_, _ = io.WriteString(z, setOf(edKey("k", 1)))
				return
			}
			_, _ = io.WriteString(w, setOf(edKey("k", 1)))
		})
		if err := live(t, local.at(server.URL)).Reload(t.Context()); (err == nil) != good {
			t.Errorf("%q: %v", contentType, err)
		}
	}
}

// Close leaves no goroutine behind, in the middle of a fetch as well.
func TestNothingIsLeft(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	arrived := make(chan struct{}, 1)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/hang" {
			arrived <- struct{}{}
			<-r.Context().Done()
			return
		}
		_, _ = io.WriteString(w, setOf(edKey("k", 1)))
	}))
	defer server.Close()
	for _, path := range []string{"/keys", "/hang"} {
		s, err := NewSource(local.at(server.URL + path))
		if err != nil {
			t.Fatal(err)
		}
		if path == "/hang" {
			<-arrived
		} else {
			mustFind(t, s, "k")
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}
