package main

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
)

// mutualBox is world "mutual", running.
type mutualBox struct {
	*box
	pki pki
	key string
}

func startMutualBox(t testing.TB, version string) *mutualBox {
	t.Helper()
	w := prepare(t, "mutual", "@VERSION@", version)
	b := &mutualBox{pki: newPKI(t, w.path("tls"))}
	b.pki.issue(t, "--dns", "localhost", "--server", "--name", "server")
	b.key = w.mint(t, order{id: "alice"})
	gateway := b.pki.issue(t, "--spiffe", "spiffe://prod.test/gateway")
	b.box = start(t, w, b.pki.dials(t, gateway.pair(t)))
	return b
}

// dials has a connection show a certificate, and know the server by its own.
func (p pki) dials(t testing.TB, client ...tls.Certificate) grpc.DialOption {
	t.Helper()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(p.cert(t)))
	return grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: roots, ServerName: "localhost", Certificates: client}))
}

// C-01, C-03: a workload that asks for itself is who its own certificate says, at
// whichever door. A gateway asks for others, and is nobody itself.
func TestKindsOwnCertificate(t *testing.T) {
	t.Parallel()
	lab := startMutualBox(t, "min_version: \"1.3\"")
	web := lab.pki.workload(t, "ns/shop/sa/web")
	own := lab.as(t, lab.pki.dials(t, web.pair(t)))
	if a := own.expect(t, get("/"), 200, "allowed"); a.principal != web.spiffe || a.seen(t).Assurance != 4 {
		t.Errorf("%v %+v", a, a.seen(t))
	}
	own.expect(t, get("/", lab.pki.workload(t, "admin").xfcc()...), 200, "allowed") // which it may not say, and is not heard
	if a := own.ask(t, get("/", lab.pki.workload(t, "admin").xfcc()...)); a.principal != web.spiffe {
		t.Error(a)
	}
	lab.expect(t, get("/"), 401, "credential_missing")
	if a := lab.expect(t, get("/", web.xfcc()...), 200, "allowed"); a.principal != web.spiffe {
		t.Error(a)
	}
	stray := lab.pki.issue(t, "--spiffe", "spiffe://dev.test/x")
	lab.as(t, lab.pki.dials(t, stray.pair(t))).expect(t, get("/"), 401, "issuer_untrusted")
	// C-04, TLS-10: on the CA's list, with the connection still open.
	lab.pki.revoke(t, web)
	eventually(t, "the list counts", func() bool { return own.askEnvoy(t, get("/")).reason == "revoked" })
	own.expect(t, get("/"), 401, "revoked")
}

// forge makes a certificate that `postern dev ca` does not make.
func (p pki) forge(t testing.TB, key crypto.Signer, change func(c *x509.Certificate), chain ...*x509.Certificate) tls.Certificate {
	t.Helper()
	root, err := openTestCA(p.dir)
	if err != nil {
		t.Fatal(err)
	}
	id, err := url.Parse("spiffe://prod.test/forged")
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()), Subject: pkix.Name{CommonName: "forged"}, NotBefore: now.Add(-time.Minute), NotAfter: now.Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, URIs: []*url.URL{id},
	}
	change(template)
	parent := root.cert
	if template.Issuer.CommonName == "self" {
		parent = template
	}
	signer := crypto.Signer(root.key)
	if parent == template {
		signer = key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: append([][]byte{der}, raws(chain)...), PrivateKey: key}
}

func raws(chain []*x509.Certificate) (all [][]byte) {
	for _, c := range chain {
		all = append(all, c.Raw)
	}
	return all
}

func newECKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// TLS-01 to TLS-06, TLS-08, TLS-12, TLS-13: who shows no good certificate, or speaks an old
// protocol, does not get through the handshake.
func TestKindsHandshake(t *testing.T) {
	t.Parallel()
	lab := startMutualBox(t, "min_version: \"1.2\"")
	key := newECKey(t)
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	other := newPKI(t, lab.path("other"))
	none := func(*x509.Certificate) {}
	good := lab.pki.forge(t, key, none)
	for name, client := range map[string][]tls.Certificate{
		"no certificate":       nil,
		"TLS-01 expired":       {lab.pki.forge(t, key, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Second) })},
		"TLS-02 not yet":       {lab.pki.forge(t, key, func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) })},
		"TLS-03 self-signed":   {lab.pki.forge(t, key, func(c *x509.Certificate) { c.Issuer.CommonName = "self" })},
		"TLS-04 other CA":      {other.forge(t, key, none)},
		"TLS-05 of a server":   {lab.pki.forge(t, key, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} })},
		"TLS-06 a CA":          {lab.pki.forge(t, key, func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = true, true })},
		"TLS-08 RSA 1024":      {lab.pki.forge(t, weak, none)},
		"TLS-12 a common name": {lab.pki.forge(t, key, func(c *x509.Certificate) { c.URIs = nil })},
	} {
		if err := lab.knock(t, &tls.Config{Certificates: client}); status.Code(err) != codes.Unavailable {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := lab.knock(t, &tls.Config{Certificates: []tls.Certificate{good}}); err != nil {
		t.Errorf("a good one: %v", err)
	}
	for name, c := range map[string]*tls.Config{
		"TLS 1.0":          {MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS10},
		"TLS 1.1":          {MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11},
		"CBC":              {MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA}},
		"3DES":             {MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA}},
		"RC4":              {MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_RC4_128_SHA}},
		"RSA key exchange": {MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_RSA_WITH_AES_128_GCM_SHA256}},
	} {
		c.Certificates = []tls.Certificate{good}
		if err := lab.knock(t, c); status.Code(err) != codes.Unavailable {
			t.Errorf("TLS-13 %s: %v", name, err)
		}
	}
	if err := lab.knock(t, &tls.Config{MaxVersion: tls.VersionTLS12, Certificates: []tls.Certificate{good}}); err != nil {
		t.Errorf("TLS 1.2 with AEAD, where it is permitted: %v", err)
	}
}

// knock makes a connection of its own and asks once.
func (b *mutualBox) knock(t testing.TB, c *tls.Config) error {
	t.Helper()
	c.ServerName, c.RootCAs = "localhost", x509.NewCertPool()
	c.RootCAs.AppendCertsFromPEM([]byte(b.pki.cert(t)))
	conn := dial(t, b.rpc, grpc.WithTransportCredentials(credentials.NewTLS(c)))
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	_, err := authv3.NewAuthorizationClient(conn).Check(ctx, withKey("/", b.key).forEnvoy())
	return err
}

// TLS-14: without CAs for its callers or its clients a server does not start; a file that
// breaks later leaves what it said in force.
func TestKindsCAFiles(t *testing.T) {
	t.Parallel()
	private := func(w world) string { return w.read(t, "tls/ca.key") }
	for name, spoil := range map[string]func(w world, file string){
		"missing":        func(w world, file string) { _ = os.Remove(w.path(file)) },
		"empty":          func(w world, file string) { w.write(t, file, "") },
		"no certificate": func(w world, file string) { w.write(t, file, private(w)) },
		"nonsense": func(w world, file string) {
			w.write(t, file, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
		},
		"a private key, too": func(w world, file string) { w.write(t, file, w.read(t, file)+private(w)) },
	} {
		w := prepare(t, "mutual", "@VERSION@", "")
		p := newPKI(t, w.path("tls"))
		p.issue(t, "--dns", "localhost", "--server", "--name", "server")
		w.mint(t, order{id: "alice"})
		good := p.cert(t)
		w.write(t, "clients.pem", good)
		text := w.read(t, "postern.yaml")
		w.write(t, "postern.yaml", strings.Replace(text, "client_ca: tls/ca.pem", "client_ca: clients.pem", 1))
		if err := loads(w); err != nil {
			t.Fatal(err)
		}
		if name != "a private key, too" { // which the listener does not read; the kind does (C-06)
			spoil(w, "clients.pem")
			if err := loads(w); err == nil {
				t.Errorf("tls.client_ca is %s, and it starts", name)
			}
			w.write(t, "clients.pem", good)
		}
		w.write(t, "bundle.pem", good)
		w.write(t, "postern.yaml", strings.Replace(text, "file: tls/ca.pem", "file: bundle.pem", 1))
		spoil(w, "bundle.pem")
		if err := loads(w); err == nil {
			t.Errorf("mtls.bundles is %s, and it starts", name)
		}
	}
	// While it runs.
	lab := startMutualBox(t, "min_version: \"1.3\"")
	web := lab.pki.workload(t, "web")
	lab.expect(t, get("/", web.xfcc()...), 200, "allowed")
	good := lab.pki.cert(t)
	lab.write(t, "tls/ca.pem", "")
	eventually(t, "/readyz tells of the file", func() bool {
		_, body := lab.fetch(t, "/readyz")
		return strings.Contains(body, "ca.pem")
	})
	lab.expect(t, get("/", web.xfcc()...), 200, "allowed")
	lab.write(t, "tls/ca.pem", good)
	if err := lab.knock(t, &tls.Config{}); err == nil {
		t.Error("a caller without a certificate gets in")
	}
}

// TLS-15: the server's certificate and key are replaced again and again, half written and
// mismatched as well; no call fails.
func TestKindsRotatedCertificates(t *testing.T) {
	t.Parallel()
	lab := startMutualBox(t, "min_version: \"1.3\"")
	gateway := lab.pki.issue(t, "--spiffe", "spiffe://prod.test/gateway", "--name", "again").pair(t)
	var pairs [2][2]string // of PEM files
	for i, name := range []string{"one", "two"} {
		lab.pki.issue(t, "--dns", "localhost", "--server", "--name", name)
		pairs[i] = [2]string{lab.read(t, "tls/"+name+".pem"), lab.read(t, "tls/"+name+".key")}
	}
	var all sync.WaitGroup
	var calls atomic.Int64
	ctx, stop := context.WithCancel(t.Context())
	for range 2 {
		all.Go(func() {
			for ctx.Err() == nil {
				if err := lab.knock(t, &tls.Config{Certificates: []tls.Certificate{gateway}}); err != nil {
					t.Errorf("a call failed: %v", err)
					return
				}
				calls.Add(1)
			}
		})
	}
	for i := range 6 {
		next, last := pairs[i%2], pairs[(i+1)%2]
		lab.write(t, "tls/server.pem", next[0][:len(next[0])/2])
		lab.write(t, "tls/server.key", last[1])
		lab.write(t, "tls/server.pem", next[0])
		lab.write(t, "tls/server.key", next[1])
		block, _ := pem.Decode([]byte(next[0]))
		eventually(t, "the next certificate is shown", func() bool { return t.Failed() || bytes.Equal(lab.shown(t, gateway), block.Bytes) })
	}
	stop()
	all.Wait()
	t.Logf("%d calls, each with a handshake", calls.Load())
}

// shown is the certificate that the server shows now.
func (b *mutualBox) shown(t testing.TB, client tls.Certificate) []byte {
	t.Helper()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(b.pki.cert(t)))
	conn, err := tls.Dial("tcp", b.rpc, &tls.Config{RootCAs: roots, ServerName: "localhost", NextProtos: []string{"h2"}, Certificates: []tls.Certificate{client}})
	if err != nil {
		t.Errorf("a handshake failed: %v", err)
		return nil
	}
	defer conn.Close()
	return conn.ConnectionState().PeerCertificates[0].Raw
}
