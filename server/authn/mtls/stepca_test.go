package mtls_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn/mtls"
	"github.com/postern-auth/postern/server/strictyaml"
)

// A real CA: its certificates are good, its list of revocations is understood.
//
// POSTERN_STEP_CA names the directory with the programs step and step-ca.
func TestStepCA(t *testing.T) {
	bin := os.Getenv("POSTERN_STEP_CA")
	if bin == "" {
		t.Skip("POSTERN_STEP_CA does not name a directory with step and step-ca")
	}
	s := startStepCA(t, bin)
	s.step(t, "ca", "certificate", "web", "web.pem", "web.key", "--san", shopID, "--provisioner", "dev", "--provisioner-password-file", "password")
	chain := certificatesIn(t, s.file("web.pem"))
	if len(chain) != 2 {
		t.Fatalf("%d certificates", len(chain))
	}

	cfg := config()
	cfg.Bundles[0].File = strictyaml.Path(s.file("certs", "root_ca.crt"))
	a, err := mtls.New(cfg, mtls.Deps{})
	if err != nil {
		t.Fatal(err)
	}
	w := &world{Authenticator: a}
	proof := w.good(t, viaXFCC(chain...))
	if proof.Principal.ID != shopID || proof.Peer.TrustDomain != domain || !proof.NotAfter.Equal(chain[0].NotAfter) {
		t.Error(proof.Principal, proof.Peer)
	}
	w.good(t, viaClientCert(chain...))
	w.refused(t, viaSource(chain[0]), policy.ReasonIssuerUntrusted) // TLS-11
	w.refused(t, viaXFCC(certificatesIn(t, s.file("certs", "intermediate_ca.crt"))...), policy.ReasonCredentialUnknown)

	// With the list of revocations, before and after the certificate is on it.
	s.saveList(t, chain[1])
	cfg.CRLFiles = []strictyaml.Path{strictyaml.Path(s.file("list.pem"))}
	if w.Authenticator, err = mtls.New(cfg, mtls.Deps{}); err != nil {
		t.Fatal(err)
	}
	w.good(t, viaXFCC(chain...))
	s.step(t, "ca", "revoke", "--cert", "web.pem", "--key", "web.key")
	s.saveList(t, chain[1])
	if err := w.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.refused(t, viaXFCC(chain...), policy.ReasonRevoked)
}

// stepCA is a running CA, in a directory of its own.
type stepCA struct {
	bin, dir, url string
	client        *http.Client
}

func (s *stepCA) file(parts ...string) string {
	return filepath.Join(append([]string{s.dir}, parts...)...)
}

func startStepCA(t *testing.T, bin string) *stepCA {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(l.Addr().String())
	_ = l.Close()
	s := &stepCA{bin: bin, dir: t.TempDir(), url: "https://localhost:" + port}
	if err := os.WriteFile(s.file("password"), []byte("only for this test\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.step(t, "ca", "init", "--name", "Test", "--dns", "localhost", "--address", "127.0.0.1:"+port, "--provisioner", "dev",
		"--password-file", "password", "--deployment-type", "standalone")
	s.publishLists(t)
	roots := x509.NewCertPool()
	for _, c := range certificatesIn(t, s.file("certs", "root_ca.crt")) {
		roots.AddCert(c)
	}
	s.client = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}, Timeout: 10 * time.Second}

	ctx, cancel := context.WithCancel(context.Background())
	server := exec.CommandContext(ctx, filepath.Join(bin, "step-ca"), "--password-file", "password", s.file("config", "ca.json"))
	server.Dir, server.Env = s.dir, append(os.Environ(), "STEPPATH="+s.dir)
	var log bytes.Buffer
	server.Stdout, server.Stderr = &log, &log
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		_ = server.Wait()
		if t.Failed() {
			t.Log(log.String())
		}
	})
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if res, err := s.client.Get(s.url + "/health"); err == nil {
			_ = res.Body.Close()
			return s
		}
		if time.Now().After(end) {
			t.Fatal("step-ca does not answer")
		}
	}
}

// publishLists turns revocation lists on.
func (s *stepCA) publishLists(t *testing.T) {
	t.Helper()
	name := s.file("config", "ca.json")
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	var cfg map[string]any
	if err := json.Unmarshal(text, &cfg); err != nil {
		t.Fatal(err)
	}
	cfg["crl"] = map[string]any{"enabled": true, "generateOnRevoke": true}
	if text, err = json.Marshal(cfg); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

// step runs a command of the client.
func (s *stepCA) step(t *testing.T, args ...string) {
	t.Helper()
	if s.client != nil {
		args = append(args, "--ca-url", s.url, "--root", s.file("certs", "root_ca.crt"))
	}
	cmd := exec.CommandContext(t.Context(), filepath.Join(s.bin, "step"), args...)
	cmd.Dir, cmd.Env = s.dir, append(os.Environ(), "STEPPATH="+s.dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("step %v: %v\n%s", args, err, out)
	}
}

// saveList writes the CA's current list, with the certificate of who signed it.
func (s *stepCA) saveList(t *testing.T, signer *x509.Certificate) {
	t.Helper()
	res, err := s.client.Get(s.url + "/1.0/crl")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	der, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.file("list.pem"), []byte(certPEM(signer)+crlPEM(der)), 0o600); err != nil {
		t.Fatal(err)
	}
}

func certificatesIn(t *testing.T, name string) (all []*x509.Certificate) {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, c)
	}
	return all
}
