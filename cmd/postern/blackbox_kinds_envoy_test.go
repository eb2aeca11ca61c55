package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/net/http2"
)

// mutualConfig is what the comments of deploy/envoy/mtls.yaml say, and a key and an
// issuer beside it.
const mutualConfig = `version: 1
listen: { grpc: "@AT@", admin: off }
tls: { cert: tls/server.pem, key: tls/server.key, client_ca: tls/ca.pem }
callers:
  - { name: edge, spiffe: "spiffe://prod.example.com/edge/envoy", trust: [x_forwarded_client_cert, source_principal] }
mtls:
  bundles: [{ name: prod, trust_domain: prod.example.com, file: tls/ca.pem }]
  crl_files: [tls/ca.crl]
  max_elements: 1
api_keys: { pepper: "${file:pepper}", file: keys.yaml }
issuers:
  - { url: "https://login.test", audiences: [api], algorithms: [EdDSA], jwks_file: jwks.json }
routes:
  - { name: both, paths: [/both/**], all_of: [api_key, mtls] }
  - { name: mesh, profile: microservice, paths: [/mesh/**] }
policy: { path: policy, timeout: 500ms }
decisions: { log: all }
`

// mutualLab is deploy/envoy/mtls.yaml between clients with certificates and a service.
type mutualLab struct {
	*envoy
	service *service
	postern *checkpoint
	pki     pki
	key     string
}

func startMutual(t *testing.T) *mutualLab {
	t.Helper()
	envoyProgram(t)
	lab := &mutualLab{service: startService(t), postern: newCheckpoint(t, "")}
	w := lab.postern.world
	w.write(t, "postern.yaml", strings.ReplaceAll(mutualConfig, "@AT@", lab.postern.at))
	w.write(t, "policy/authz.rego", "package postern.authz\n\ndecision := true\n")
	lab.key = w.mint(t, order{id: "ann"})
	// C-08: with the commands of the sample's comments.
	lab.pki = newPKI(t, w.path("tls"))
	lab.pki.issue(t, "--dns", "localhost", "--server", "--name", "server")
	lab.pki.issue(t, "--spiffe", "spiffe://prod.example.com/edge/envoy", "--dns", "localhost", "--server", "--client", "--name", "envoy")
	lab.postern.run(t)
	lab.envoy = runEnvoy(t, string(w), "mtls.yaml", "port_value: 10443", "port_value: 0", "port_value: 9901", "port_value: 0",
		"port_value: 9191", "port_value: "+portOf(t, lab.postern.at), "port_value: 8080", "port_value: "+portOf(t, lab.service.at))
	return lab
}

// as sends a request as a client with a certificate; nil for none. An error is one of
// the handshake.
func (lab *mutualLab) as(t *testing.T, client *certificate, path string, fields ...string) (r reply, err error) {
	t.Helper()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(lab.pki.cert(t)))
	config := &tls.Config{RootCAs: roots, ServerName: "localhost"}
	if client != nil {
		config.Certificates = []tls.Certificate{client.pair(t)}
	}
	before := len(lab.service.since(0))
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+lab.at+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(fields); i += 2 {
		req.Header.Add(fields[i], fields[i+1])
	}
	transport := &http2.Transport{TLSClientConfig: config}
	defer transport.CloseIdleConnections()
	res, err := transport.RoundTrip(req)
	if err != nil {
		return r, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	return reply{res.StatusCode, res.Header, string(body), lab.service.since(before)}, err
}

// C-07, C-01, C-03, C-06: clients with certificates of `postern dev ca`, through real
// Envoy, which forwards what it verified; Postern verifies it again.
func TestKindsEnvoyCertificates(t *testing.T) {
	t.Parallel()
	lab := startMutual(t)
	const id = "spiffe://prod.example.com/ns/shop/sa/web"
	issue := func(name string, flags ...string) *certificate {
		c := lab.pki.issue(t, append(flags, "--name", name)...)
		return &c
	}
	web := issue("web", "--spiffe", id)
	gets := func(c *certificate, path string, fields ...string) reply {
		t.Helper()
		r, err := lab.as(t, c, path, fields...)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	a := gets(web, "/orders/7").reaches(t)
	told(t, a, map[string]string{"X-Auth-Principal": id, "X-Auth-Method": "mtls", "X-Auth-Issuer": "spiffe://prod.example.com"})
	gets(web, "/mesh/x").reaches(t)

	// What a client writes itself is not believed, by neither.
	admin := issue("admin", "--spiffe", "spiffe://prod.example.com/admin")
	for _, forged := range [][]string{admin.xfcc(), admin.clientCert(), {"x-forwarded-client-cert", "Hash=00;URI=spiffe://prod.example.com/admin"}, {"x-auth-principal", "admin"}} {
		a := gets(web, "/orders/7", forged...).reaches(t)
		told(t, a, map[string]string{"X-Auth-Principal": id, "Client-Cert": ""})
		if got := a.Header.Values("X-Forwarded-Client-Cert"); len(got) > 1 || strings.Contains(strings.Join(got, ""), "/admin") {
			t.Errorf("the service gets %q", got)
		}
	}

	// Envoy refuses in the handshake what its CA did not sign, or not for now.
	other := newPKI(t, lab.postern.path("other"))
	foreign := other.issue(t, "--spiffe", id)
	for name, c := range map[string]*certificate{"none": nil, "another CA's": &foreign, "an expired one": issue("late", "--spiffe", id, "--ttl", "-1h")} {
		if r, err := lab.as(t, c, "/orders/7"); err == nil {
			t.Errorf("with %s: %d", name, r.status)
		}
	}
	// And Postern what Envoy does not look at.
	gone := issue("gone", "--spiffe", "spiffe://prod.example.com/gone")
	gets(gone, "/orders/7").reaches(t)
	lab.pki.revoke(t, *gone)
	if !until(func() bool { return gets(gone, "/orders/7").status == http.StatusUnauthorized }) {
		t.Error("a revoked certificate gets in")
	}
	for name, c := range map[string]*certificate{
		"two ids":              issue("two", "--spiffe", id, "--spiffe", "spiffe://prod.example.com/b"),
		"another trust domain": issue("stray", "--spiffe", "spiffe://dev.example.com/x"),
		"no id":                issue("nameless"),
		"revoked":              gone,
	} {
		r := gets(c, "/orders/7")
		if r.stops(t, http.StatusUnauthorized); t.Failed() {
			t.Fatal(name)
		}
	}

	// Keys and tokens beside the certificate.
	gets(web, "/both/x").stops(t, http.StatusUnauthorized)
	told(t, gets(web, "/both/x", "x-api-key", lab.key).reaches(t), map[string]string{"X-Auth-Principal": "ann", "X-Api-Key": ""})
	bound := "Bearer " + envoyIssuer.token(claims{"sub": "bob", "cnf": claims{"x5t#S256": web.Thumbprint}})
	told(t, gets(web, "/orders/7", "authorization", bound).reaches(t), map[string]string{"X-Auth-Principal": "bob", "Authorization": ""})
	gets(admin, "/orders/7", "authorization", bound).stops(t, http.StatusUnauthorized)

	curlWithACertificate(t, lab, web)
}

// The line of the documentation: curl --cert client.crt --key client.key --cacert ca.crt
func curlWithACertificate(t *testing.T, lab *mutualLab, c *certificate) {
	curl, err := exec.LookPath("curl")
	if err != nil {
		t.Log("there is no curl on the PATH")
		return
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	run := func(args ...string) (string, error) {
		args = append([]string{"-sS", "--connect-to", "localhost:443:" + lab.at, "--cacert", filepath.Join(lab.pki.dir, "ca.pem"), "https://localhost/orders/7"}, args...)
		out, err := exec.CommandContext(ctx, curl, args...).Output()
		return string(out), err
	}
	out, err := run("--cert", c.Certificate, "--key", c.Key)
	var a arrival
	if err != nil || json.Unmarshal([]byte(out), &a) != nil || a.Header.Get("X-Auth-Principal") != c.spiffe {
		t.Errorf("curl --cert: %v %s", err, out)
	}
	if out, err := run(); err == nil {
		t.Errorf("curl without --cert: %s", out)
	}
}
