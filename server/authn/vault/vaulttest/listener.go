package vaulttest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// Server is a Vault with a listener on loopback.
type Server struct {
	*Vault
	// URL is its address. CAFile is the PEM file of the authority of its certificate;
	// empty without TLS.
	URL, CAFile string

	authority *authority
}

// Start starts a listener without TLS, which ends with the test.
func Start(t testing.TB, v *Vault) *Server {
	t.Helper()
	server := httptest.NewServer(v)
	t.Cleanup(server.Close)
	return &Server{Vault: v, URL: server.URL}
}

// StartTLS starts a listener with TLS that asks for client certificates.
func StartTLS(t testing.TB, v *Vault) *Server {
	t.Helper()
	authority := newAuthority(t)
	server := httptest.NewUnstartedServer(v)
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.TLS = &tls.Config{
		Certificates: []tls.Certificate{authority.issue(t, "vault.test", x509.ExtKeyUsageServerAuth)},
		ClientAuth:   tls.RequestClientCert,
	}
	server.StartTLS()
	t.Cleanup(server.Close)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	writePEM(t, ca, "CERTIFICATE", authority.cert.Raw)
	return &Server{Vault: v, URL: server.URL, CAFile: ca, authority: authority}
}

// ClientCert issues a client certificate, and returns the PEM files of it and its key.
func (s *Server) ClientCert(t testing.TB, name string) (certFile, keyFile string) {
	t.Helper()
	pair := s.authority.issue(t, name, x509.ExtKeyUsageClientAuth)
	der, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	writePEM(t, certFile, "CERTIFICATE", pair.Certificate[0])
	writePEM(t, keyFile, "PRIVATE KEY", der)
	return certFile, keyFile
}

// EnableCert adds a role for the certificates of this server's authority that have a name.
func (s *Server) EnableCert(mount, role, commonName string, t Token) {
	s.mu.Lock()
	defer s.mu.Unlock()
	roots := x509.NewCertPool()
	roots.AddCert(s.authority.cert)
	t.Path = "auth/" + mount + "/login"
	s.certs[mount+" "+role] = certRole{roots, commonName, t}
}

type certRole struct {
	roots      *x509.CertPool
	commonName string
	token      Token
}

// certLogin returns what the client certificate of a connection may log in as.
func (v *Vault) certLogin(mount, role string, conn *tls.ConnectionState) (Token, bool) {
	if conn == nil || len(conn.PeerCertificates) == 0 {
		return Token{}, false
	}
	cert := conn.PeerCertificates[0]
	for name, r := range v.certs {
		if name != mount+" "+role && (role != "" || len(name) <= len(mount) || name[:len(mount)+1] != mount+" ") {
			continue
		}
		_, err := cert.Verify(x509.VerifyOptions{Roots: r.roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
		if err == nil && cert.Subject.CommonName == r.commonName {
			return r.token, true
		}
	}
	return Token{}, false
}

// Transport answers requests without a network, as if they came from an address: for
// tests that wait for timers in a testing/synctest bubble.
func (v *Vault) Transport(remote string) http.RoundTripper { return direct{v, remote} }

type direct struct {
	vault  *Vault
	remote string
}

// RoundTrip hands the request to the handler.
func (d direct) RoundTrip(r *http.Request) (*http.Response, error) {
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	if r.Body == nil {
		r.Body = http.NoBody
	}
	served := r.Clone(r.Context())
	served.RemoteAddr = d.remote
	w := httptest.NewRecorder()
	d.vault.ServeHTTP(w, served)
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	return w.Result(), nil
}

// authority is a certificate authority of one test.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	key := newKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "vaulttest"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{cert, key}
}

func (a *authority) issue(t testing.TB, name string, usage x509.ExtKeyUsage) tls.Certificate {
	t.Helper()
	key := newKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{usage},
		DNSNames: []string{name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func writePEM(t testing.TB, path, kind string, der []byte) {
	t.Helper()
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}
