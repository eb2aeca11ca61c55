package doctor

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"strings"
	"testing"
	"time"
)

// Certificates that have ended, will soon, or are no chain.
func TestLooksAtCertificates(t *testing.T) {
	t.Parallel()
	ca, key := newCA(t)
	leaf := newLeaf(t, ca, key)
	for name, c := range map[string]struct {
		at   time.Time
		want string
	}{
		"good":    {leaf.NotBefore.Add(time.Minute), "is good until"},
		"soon":    {leaf.NotAfter.Add(-time.Hour), "ends at"},
		"over":    {leaf.NotAfter.Add(time.Hour), "has ended at"},
		"not yet": {leaf.NotBefore.Add(-time.Hour), "is not good before"},
	} {
		x := at(c.at)
		x.lookAtChain("tls.cert", []*x509.Certificate{leaf, ca})
		if !strings.Contains(lines(x.found), c.want) {
			t.Errorf("%s: %s", name, lines(x.found))
		}
	}
	x := at(leaf.NotBefore.Add(time.Minute))
	other, _ := newCA(t)
	x.lookAtChain("tls.cert", []*x509.Certificate{leaf, other})
	if len(x.found) != 1 || !strings.Contains(x.found[0].Text, "did not sign the one before it") {
		t.Error(x.found)
	}
}

// newCA is an authority of a year, and newLeaf a certificate of it, of a month.
func newCA(t testing.TB) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key := newKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, NotBefore: time.Now(), NotAfter: time.Now().Add(365 * 24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	return signedCertificate(t, template, template, key, key), key
}

func newLeaf(t testing.TB, ca *x509.Certificate, by *ecdsa.PrivateKey) *x509.Certificate {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "postern.test"}, DNSNames: []string{"postern.test"},
		NotBefore: time.Now(), NotAfter: time.Now().Add(30 * 24 * time.Hour),
	}
	return signedCertificate(t, template, ca, newKey(t), by)
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func signedCertificate(t testing.TB, template, parent *x509.Certificate, key, by *ecdsa.PrivateKey) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), by)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}
