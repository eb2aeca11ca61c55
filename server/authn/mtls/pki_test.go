package mtls_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn"
	"github.com/postern-auth/postern/server/authn/mtls"
)

// The tests make their certificates themselves, at a time that stands still.
var noon = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

const (
	domain = "prod.test"
	shopID = "spiffe://prod.test/ns/shop/sa/web"
)

var serials atomic.Int64

// ca is a CA, or whoever else signs.
type ca struct {
	cert *x509.Certificate
	key  crypto.Signer
	by   *ca // nil: itself
}

func newKey() crypto.Signer {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	return key
}

// newCA makes a CA; change may change its certificate. Without a parent it signs
// itself.
func newCA(name string, parent *ca, change func(*x509.Certificate)) *ca {
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, NotBefore: noon.AddDate(-1, 0, 0), NotAfter: noon.AddDate(1, 0, 0),
		BasicConstraintsValid: true, IsCA: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	if change != nil {
		change(template)
	}
	return signCA(template, newKey(), parent)
}

func signCA(template *x509.Certificate, key crypto.Signer, parent *ca) *ca {
	c := &ca{key: key, by: parent}
	if parent == nil {
		c.cert = template
		parent = c
	}
	c.cert = sign(template, key.Public(), parent)
	return c
}

func sign(template *x509.Certificate, public crypto.PublicKey, by *ca) *x509.Certificate {
	template.SerialNumber = big.NewInt(serials.Add(1) + 1000)
	der, err := x509.CreateCertificate(rand.Reader, template, by.cert, public, by.key)
	if err != nil {
		panic(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		panic(err)
	}
	return c
}

// leaf is the template of a caller's certificate.
func leaf(extensions ...pkix.Extension) *x509.Certificate {
	return &x509.Certificate{
		NotBefore: noon.Add(-time.Hour), NotAfter: noon.Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		ExtraExtensions: extensions,
	}
}

// issue signs a leaf with a new key.
func (c *ca) issue(template *x509.Certificate) *x509.Certificate {
	return sign(template, newKey().Public(), c)
}

// uris and hosts are names as they are to stand in a certificate, good or bad.
func uris(all ...string) pkix.Extension  { return alternatives(6, all) }
func hosts(all ...string) pkix.Extension { return alternatives(2, all) }

func alternatives(tag int, all []string) pkix.Extension {
	var list []asn1.RawValue
	for _, name := range all {
		list = append(list, asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: tag, Bytes: []byte(name)})
	}
	der, err := asn1.Marshal(list)
	if err != nil {
		panic(err)
	}
	return pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Value: der}
}

// both joins the names of two extensions into one.
func both(a, b pkix.Extension) pkix.Extension {
	var x, y []asn1.RawValue
	_, err := asn1.Unmarshal(a.Value, &x)
	_, err2 := asn1.Unmarshal(b.Value, &y)
	der, err3 := asn1.Marshal(slices.Concat(x, y))
	if err := errors.Join(err, err2, err3); err != nil {
		panic(err)
	}
	return pkix.Extension{Id: a.Id, Value: der}
}

// revoke makes a list of the CA.
func (c *ca) revoke(number int64, nextUpdate time.Time, revoked ...*x509.Certificate) *x509.RevocationList {
	return &x509.RevocationList{
		Number: big.NewInt(number), ThisUpdate: noon.AddDate(0, 0, -1), NextUpdate: nextUpdate,
		RevokedCertificateEntries: entries(revoked...),
	}
}

func entries(revoked ...*x509.Certificate) (all []x509.RevocationListEntry) {
	for _, r := range revoked {
		all = append(all, x509.RevocationListEntry{SerialNumber: r.SerialNumber, RevocationTime: noon.Add(-time.Minute)})
	}
	return all
}

func (c *ca) crl(list *x509.RevocationList) []byte {
	der, err := x509.CreateRevocationList(rand.Reader, list, c.cert, c.key)
	if err != nil {
		panic(err)
	}
	return der
}

func crlPEM(der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der}))
}

func certPEM(all ...*x509.Certificate) string {
	var b strings.Builder
	for _, c := range all {
		b.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
	}
	return b.String()
}

// encoded is PEM as Envoy puts it into fields.
func encoded(all ...*x509.Certificate) string {
	return strings.ReplaceAll(url.QueryEscape(certPEM(all...)), "+", "%20")
}

// The four places in which a certificate comes.
func viaXFCC(chain ...*x509.Certificate) *policy.Attributes {
	value := fmt.Sprintf(`Hash=%s;Cert="%s";Chain="%s"`, mtls.Fingerprint(chain[0]), encoded(chain[0]), encoded(chain...))
	return withHeaders("x-forwarded-client-cert", value)
}

func viaClientCert(chain ...*x509.Certificate) *policy.Attributes {
	var members []string
	for _, c := range chain {
		members = append(members, ":"+base64.StdEncoding.EncodeToString(c.Raw)+":")
	}
	if len(chain) == 1 {
		return withHeaders("client-cert", members[0])
	}
	return withHeaders("client-cert", members[0], "client-cert-chain", strings.Join(members[1:], ", "))
}

func viaSource(chain ...*x509.Certificate) *policy.Attributes {
	return &policy.Attributes{Source: policy.Endpoint{Certificate: encoded(chain[0])}}
}

func viaConnection(chain ...*x509.Certificate) *policy.Attributes {
	return &policy.Attributes{Connection: chain}
}

func withHeaders(pairs ...string) *policy.Attributes {
	a := &policy.Attributes{Headers: policy.Headers{{Name: "accept", Value: "*/*"}}}
	for i := 0; i < len(pairs); i += 2 {
		a.Headers = append(a.Headers, policy.Header{Name: pairs[i], Value: pairs[i+1]})
	}
	return a
}

// everything is all trust that there is.
var everything = mtls.Trust{Forwarded: true, ClientCert: true, Source: true, Own: true}

// world is an authenticator with files and a clock of its own.
type world struct {
	*mtls.Authenticator
	mu    sync.Mutex
	now   time.Time
	files map[string]string
}

func (w *world) write(name, text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.files[name] = text
}

func (w *world) setTime(t time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = t
}

func (w *world) deps() mtls.Deps {
	return mtls.Deps{
		Now: func() time.Time {
			w.mu.Lock()
			defer w.mu.Unlock()
			return w.now
		},
		ReadFile: func(name string, _ int64) ([]byte, error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			text, ok := w.files[name]
			if !ok {
				return nil, os.ErrNotExist
			}
			return []byte(text), nil
		},
	}
}

// open makes an authenticator whose files are those.
func open(t testing.TB, cfg mtls.Config, files map[string]string) *world {
	t.Helper()
	w := &world{now: noon, files: maps.Clone(files)}
	a, err := mtls.New(cfg, w.deps())
	if err != nil {
		t.Fatal(err)
	}
	w.Authenticator = a
	return w
}

// config has one bundle of the trust domain.
func config() mtls.Config {
	return mtls.Config{Bundles: []mtls.Bundle{{Name: "prod", TrustDomain: domain, File: "prod.pem"}}}
}

// plainConfig has one bundle of no trust domain, for DNS names.
func plainConfig(kinds ...mtls.Identity) mtls.Config {
	return mtls.Config{Bundles: []mtls.Bundle{{Name: "corp", File: "corp.pem"}}, Identities: kinds}
}

// good asks and wants a proof.
func (w *world) good(t testing.TB, a *policy.Attributes) *authn.Proof {
	t.Helper()
	proof, err := w.Peer(a, everything)
	if err != nil {
		t.Fatal(err)
	}
	return proof
}

// refused asks and wants a refusal.
func (w *world) refused(t testing.TB, a *policy.Attributes, want policy.Reason) {
	t.Helper()
	proof, err := w.Peer(a, everything)
	var refusal *authn.Refusal
	switch {
	case proof != nil || !errors.As(err, &refusal):
		t.Errorf("want %v, got %v and %v", want, proof, err)
	case refusal.Reason != want:
		t.Errorf("reason %v (%v), want %v", refusal.Reason, err, want)
	case want.Status() != 401:
		t.Errorf("%v is not a 401", want)
	}
}

// unknown asks and wants neither: it could not be found out.
func (w *world) unknown(t testing.TB, a *policy.Attributes) {
	t.Helper()
	proof, err := w.Peer(a, everything)
	var refusal *authn.Refusal
	if proof != nil || err == nil || errors.As(err, &refusal) || errors.Is(err, authn.ErrNotMine) {
		t.Errorf("want an error that is neither a refusal nor ErrNotMine, got %v and %v", proof, err)
	}
}
