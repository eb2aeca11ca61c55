package server

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	posternv1 "github.com/postern-auth/postern/gen/postern/v1"
	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/admin"
	"github.com/postern-auth/postern/server/strictyaml"
)

// authority is a CA of a test.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{cert, key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}
}

// issue returns a certificate and its key in PEM.
func (a *authority) issue(t *testing.T, serial int64, dns []string, uris ...string) (cert, key []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), DNSNames: dns, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	for _, u := range uris {
		parsed, err := url.Parse(u)
		if err != nil {
			t.Fatal(err)
		}
		template.URIs = append(template.URIs, parsed)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &private.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
}

func (a *authority) client(t *testing.T, serial int64, dns []string, uris ...string) *tls.Config {
	t.Helper()
	config := &tls.Config{RootCAs: x509.NewCertPool(), ServerName: "postern.test"}
	config.RootCAs.AddCert(a.cert)
	if serial != 0 {
		pair, err := tls.X509KeyPair(a.issue(t, serial, dns, uris...))
		if err != nil {
			t.Fatal(err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config
}

func write(t *testing.T, path string, content []byte) strictyaml.Path {
	t.Helper()
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return strictyaml.Path(path)
}

// run starts a server with the configuration on free ports.
func run(t *testing.T, change func(*Config)) (*Server, Addresses) {
	t.Helper()
	return runWith(t, nil, change)
}

// runWith is run with a log.
func runWith(t *testing.T, log *slog.Logger, change func(*Config)) (*Server, Addresses) {
	t.Helper()
	ready := make(chan Addresses, 1)
	s, err := New(t.Context(), Options{
		Load: func() (*Config, error) {
			cfg := Default()
			cfg.Listen = Listen{GRPC: loopback(0), Admin: loopback(0)}
			cfg.Store.Driver = DriverMemory // the default is a file beside the test
			if change != nil {
				change(cfg)
			}
			return cfg, nil
		},
		Logger:  log,
		OnReady: func(a Addresses) { ready <- a },
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s, <-ready
}

// ask returns the gRPC code of a Check over a new connection.
func ask(t *testing.T, at Addresses, creds credentials.TransportCredentials, token string) codes.Code {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+at.GRPC.String(), grpc.WithTransportCredentials(creds))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if token != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
	}
	_, err = posternv1.NewCheckServiceClient(conn).Check(ctx, &posternv1.CheckRequest{Target: &posternv1.Target{
		Kind: &posternv1.Target_Http{Http: &posternv1.HttpTarget{Method: "GET", Host: "a.test", Path: "/", Scheme: "https"}},
	}})
	return status.Code(err)
}

// Who may ask: by certificate, by network, by token, and nobody else. A caller
// that is taken out of the list is refused at its next request.
func TestCallers(t *testing.T) {
	t.Parallel()
	ca, other := newAuthority(t), newAuthority(t)
	dir := t.TempDir()
	cert, key := ca.issue(t, 10, []string{"postern.test"})
	conf := TLS{
		Cert: write(t, filepath.Join(dir, "tls.crt"), cert), Key: write(t, filepath.Join(dir, "tls.key"), key),
		ClientCA: write(t, filepath.Join(dir, "ca.pem"), ca.pem), MinVersion: TLS13,
	}
	const token = "a-token-of-thirty-two-characters"
	s, at := run(t, func(c *Config) {
		c.TLS = &conf
		c.Callers = []Caller{
			{Name: "envoy", SPIFFE: "spiffe://prod.test/envoy"},
			{Name: "nginx", DNS: "nginx.test", Token: policy.NewSecret(token)},
			{Name: "elsewhere", DNS: "far.test", CIDRs: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}},
		}
	})
	tests := []struct {
		name  string
		tls   *tls.Config
		token string
		want  codes.Code
	}{
		{"by SPIFFE id", ca.client(t, 1, nil, "spiffe://prod.test/envoy"), "", codes.OK},
		{"two URIs are no SPIFFE id", ca.client(t, 2, nil, "spiffe://prod.test/envoy", "spiffe://prod.test/x"), "", codes.PermissionDenied},
		{"another SPIFFE id", ca.client(t, 3, nil, "spiffe://prod.test/other"), "", codes.PermissionDenied},
		{"by name and token", ca.client(t, 4, []string{"nginx.test"}), token, codes.OK},
		{"name without token", ca.client(t, 5, []string{"nginx.test"}), "", codes.PermissionDenied},
		{"name with a wrong token", ca.client(t, 6, []string{"nginx.test"}), token + "x", codes.PermissionDenied},
		{"token without name", ca.client(t, 7, []string{"other.test"}), token, codes.PermissionDenied},
		{"from another network", ca.client(t, 8, []string{"far.test"}), "", codes.PermissionDenied},
		{"no certificate", ca.client(t, 0, nil), token, codes.Unavailable},
		{"certificate of another CA", func() *tls.Config {
			c := other.client(t, 9, nil, "spiffe://prod.test/envoy")
			c.RootCAs = ca.client(t, 0, nil).RootCAs
			return c
		}(), "", codes.Unavailable},
	}
	for _, tt := range tests {
		if got := ask(t, at, credentials.NewTLS(tt.tls), tt.token); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
	if got := ask(t, at, insecure.NewCredentials(), token); got != codes.Unavailable {
		t.Errorf("plaintext: %v", got)
	}

	conn, err := grpc.NewClient("passthrough:///"+at.GRPC.String(), grpc.WithTransportCredentials(credentials.NewTLS(ca.client(t, 11, nil, "spiffe://prod.test/envoy"))))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	check := func() codes.Code {
		_, err := posternv1.NewCheckServiceClient(conn).Authenticate(t.Context(), &posternv1.AuthenticateRequest{})
		return status.Code(err)
	}
	before := check()
	s.callers.set([]Caller{{Name: "nobody", DNS: "nobody.test"}})
	if after := check(); before == codes.PermissionDenied || after != codes.PermissionDenied {
		t.Errorf("an open connection: %v before, %v after its caller was taken out", before, after)
	}
	if _, err := healthpb.NewHealthClient(conn).Check(t.Context(), &healthpb.HealthCheckRequest{}); err != nil {
		t.Errorf("health is closed to who can connect: %v", err)
	}
}

// Without a list and on loopback, who reaches the listener may ask.
func TestNoCallers(t *testing.T) {
	t.Parallel()
	_, at := run(t, nil)
	if got := ask(t, at, insecure.NewCredentials(), ""); got != codes.OK {
		t.Error(got)
	}
}

// An entry that asks for nothing lets nobody in, even if a configuration gets
// past its checks.
func TestEmptyCallerMatchesNobody(t *testing.T) {
	t.Parallel()
	_, at := run(t, func(c *Config) { c.Callers = []Caller{{Name: "x"}} })
	if got := ask(t, at, insecure.NewCredentials(), ""); got != codes.PermissionDenied {
		t.Error(got)
	}
}

// New connections get a new certificate when the files change; broken files
// change nothing.
func TestCertificateReload(t *testing.T) {
	t.Parallel()
	ca, dir := newAuthority(t), t.TempDir()
	put := func(serial int64) {
		cert, key := ca.issue(t, serial, []string{"postern.test"})
		write(t, filepath.Join(dir, "tls.crt"), cert)
		write(t, filepath.Join(dir, "tls.key"), key)
	}
	put(100)
	conf := &TLS{Cert: strictyaml.Path(filepath.Join(dir, "tls.crt")), Key: strictyaml.Path(filepath.Join(dir, "tls.key")), MinVersion: TLS13}
	s, at := run(t, func(c *Config) { c.TLS = conf })
	serial := func() int64 {
		conn, err := tls.Dial("tcp", at.GRPC.String(), ca.client(t, 0, nil))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		return conn.ConnectionState().PeerCertificates[0].SerialNumber.Int64()
	}
	if got := serial(); got != 100 {
		t.Errorf("serial %d", got)
	}
	put(101)
	if err := s.Reload(t.Context()); err != nil || serial() != 101 {
		t.Errorf("serial %d, %v", serial(), err)
	}
	write(t, filepath.Join(dir, "tls.crt"), []byte("broken"))
	if err := s.Reload(t.Context()); err == nil || serial() != 101 {
		t.Errorf("serial %d, %v", serial(), err)
	}
}

// Liveness, readiness and metrics are three things.
func TestAdminEndpoints(t *testing.T) {
	t.Parallel()
	_, at := run(t, nil) // without a policy: alive, but not ready
	get := func(path string) (int, string) {
		res, err := http.Get("http://" + at.Admin.String() + path)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return res.StatusCode, string(body)
	}
	for path, want := range map[string]int{"/healthz": 200, "/readyz": 503, "/metrics": 200, "/debug/pprof/": 404, "/": 404} {
		if code, body := get(path); code != want {
			t.Errorf("%s: %d, want %d: %.200s", path, code, want, body)
		}
	}
}

// A gateway that is not in the list gets a deny from ext_authz, not an error that
// it may be told to take for a yes.
func TestUnlistedGatewayIsDenied(t *testing.T) {
	t.Parallel()
	_, at := run(t, func(c *Config) {
		c.Callers = []Caller{{Name: "elsewhere", CIDRs: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}}}
	})
	conn, err := grpc.NewClient("passthrough:///"+at.GRPC.String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	res, err := authv3.NewAuthorizationClient(conn).Check(t.Context(), &authv3.CheckRequest{})
	if err != nil || res.GetDeniedResponse().GetStatus().GetCode() != 503 || res.GetStatus().GetCode() == 0 {
		t.Errorf("%v %v", res, err)
	}
	if got := ask(t, at, insecure.NewCredentials(), ""); got != codes.PermissionDenied {
		t.Errorf("CheckService: %v", got)
	}
}

// Strangers hear whether a replica is ready, and not what is wrong with it.
func TestStrangersHearNoDetail(t *testing.T) {
	t.Parallel()
	var c callers
	c.set([]Caller{{Name: "ops", CIDRs: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}}})
	h := c.http(admin.Handler(admin.Config{
		Metrics: http.NotFoundHandler(), Decisions: &admin.Decisions{},
		Conditions: func() []admin.Condition { return []admin.Condition{{Name: "store", Detail: "user=postern"}} },
	}))
	for from, want := range map[string]bool{"192.0.2.7:1": true, "198.51.100.7:1": false} {
		r := httptest.NewRequest(http.MethodGet, "/readyz", nil)
		r.RemoteAddr = from
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if body := w.Body.String(); w.Code != 503 || !strings.Contains(body, `"store"`) || strings.Contains(body, "user=postern") != want {
			t.Errorf("%s: %d %s", from, w.Code, body)
		}
	}
}

// A reload cannot take the guard off a listener that stays where it is.
func TestReloadKeepsListenersGuarded(t *testing.T) {
	t.Parallel()
	guarded := atomic.Bool{}
	guarded.Store(true)
	s, at := run(t, func(c *Config) {
		if guarded.Load() {
			c.Listen.GRPC = Address{tcp: netip.MustParseAddrPort("0.0.0.0:0")}
			c.Callers = []Caller{{Name: "elsewhere", CIDRs: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}}}
		}
	})
	guarded.Store(false) // now a file for loopback, without callers
	if err := s.Reload(t.Context()); err == nil {
		t.Error("the listener is open to everybody and the reload says nothing")
	}
	at.GRPC = &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: at.GRPC.(*net.TCPAddr).Port}
	if got := ask(t, at, insecure.NewCredentials(), ""); got != codes.PermissionDenied {
		t.Error(got)
	}
}

// The admin listener of this machine answers under no foreign name, whatever a
// browser's page has resolved it to.
func TestAdminRefusesForeignNames(t *testing.T) {
	t.Parallel()
	_, at := run(t, nil)
	for host, want := range map[string]int{at.Admin.String(): 200, "localhost": 200, "[::1]:9192": 200, "LOCALHOST.:9192": 200, "192.0.2.1": 200, ":9192": 200, "evil.test": 421, "localhost.evil.test": 421, "evil.test:9192": 421} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+at.Admin.String()+"/healthz", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = host
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		if res.StatusCode != want {
			t.Errorf("%s: %d, want %d", host, res.StatusCode, want)
		}
	}
}
