package mtls_test

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"net/url"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn"
	"github.com/postern-auth/postern/server/authn/mtls"
)

var ways = []struct {
	name string
	show func(chain ...*x509.Certificate) *policy.Attributes
}{
	{"XFCC", viaXFCC}, {"Client-Cert", viaClientCert}, {"source", viaSource}, {"connection", viaConnection},
}

// TLS-01 to TLS-12, C-01: whichever way a certificate comes, it is verified again.
func TestCertificates(t *testing.T) {
	t.Parallel()
	root, other := newCA("root", nil, nil), newCA("other", nil, nil)
	between := newCA("between", root, nil)
	narrow := newCA("narrow", root, func(c *x509.Certificate) {
		c.PermittedURIDomains, c.PermittedDNSDomainsCritical = []string{"stage.test"}, true
	})
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	strong, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	rsaRoot := signCA(&x509.Certificate{
		Subject: pkix.Name{CommonName: "rsa"}, NotBefore: noon.AddDate(-1, 0, 0), NotAfter: noon.AddDate(1, 0, 0),
		BasicConstraintsValid: true, IsCA: true, KeyUsage: x509.KeyUsageCertSign,
	}, strong, nil)
	shop := uris(shopID)
	with := func(change func(*x509.Certificate)) *x509.Certificate {
		l := leaf(shop)
		change(l)
		return l
	}
	late := newCA("late", root, func(c *x509.Certificate) { c.NotAfter = noon.Add(-time.Second) })
	odd := newCA("odd", root, func(c *x509.Certificate) {
		c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3}, Critical: true, Value: []byte{5, 0}}}
	})
	end := newCA("end", newCA("short", root, func(c *x509.Certificate) { c.MaxPathLenZero = true }), nil)
	self := signCA(with(func(c *x509.Certificate) { c.Subject.CommonName = "self" }), newKey(), nil)

	w := open(t, config(), map[string]string{"prod.pem": certPEM(root.cert, rsaRoot.cert)})
	for _, c := range []struct {
		name  string
		chain []*x509.Certificate
		want  policy.Reason
	}{
		{"good", []*x509.Certificate{root.issue(leaf(shop))}, policy.ReasonAllowed},
		{"RSA 2048 is good", []*x509.Certificate{sign(leaf(shop), strong.Public(), root)}, policy.ReasonAllowed},
		{"no extended usage at all is good", []*x509.Certificate{root.issue(with(func(c *x509.Certificate) { c.ExtKeyUsage = nil }))}, policy.ReasonAllowed},
		{"TLS-01 expired", []*x509.Certificate{root.issue(with(func(c *x509.Certificate) { c.NotAfter = noon.Add(-time.Second) }))}, policy.ReasonExpired},
		{"expires now", []*x509.Certificate{root.issue(with(func(c *x509.Certificate) { c.NotAfter = noon }))}, policy.ReasonExpired},
		{"TLS-02 not yet valid", []*x509.Certificate{root.issue(with(func(c *x509.Certificate) { c.NotBefore = noon.Add(time.Second) }))}, policy.ReasonNotYetValid},
		{"TLS-03 self-signed", []*x509.Certificate{self.cert}, policy.ReasonIssuerUntrusted},
		{"TLS-04 other CA", []*x509.Certificate{other.issue(leaf(shop))}, policy.ReasonIssuerUntrusted},
		{"other CA of the same name", []*x509.Certificate{newCA("root", nil, nil).issue(leaf(shop))}, policy.ReasonIssuerUntrusted},
		{"TLS-05 server usage only", []*x509.Certificate{root.issue(with(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }))}, policy.ReasonCredentialMalformed},
		{"TLS-06 a CA", []*x509.Certificate{newCA("ca", root, func(c *x509.Certificate) { c.ExtraExtensions = append(c.ExtraExtensions, shop) }).cert}, policy.ReasonCredentialMalformed},
		{"a CA by its basic constraints alone", []*x509.Certificate{root.issue(with(func(c *x509.Certificate) { c.BasicConstraintsValid, c.IsCA = true, true }))}, policy.ReasonCredentialMalformed},
		{"usage of a CA", []*x509.Certificate{root.issue(with(func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCertSign }))}, policy.ReasonCredentialMalformed},
		{"usage without signatures", []*x509.Certificate{root.issue(with(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyEncipherment }))}, policy.ReasonCredentialMalformed},
		{"TLS-07 SHA-1", []*x509.Certificate{rsaRoot.issue(with(func(c *x509.Certificate) { c.SignatureAlgorithm = x509.SHA1WithRSA }))}, policy.ReasonSignatureInvalid},
		{"TLS-08 RSA 1024", []*x509.Certificate{sign(leaf(shop), weak.Public(), root)}, policy.ReasonCredentialMalformed},
		{"TLS-09 name constraint", []*x509.Certificate{narrow.issue(leaf(shop)), narrow.cert}, policy.ReasonIssuerUntrusted},
		{"an intermediate expired", []*x509.Certificate{late.issue(leaf(shop)), late.cert}, policy.ReasonExpired},
		{"an intermediate has an unknown critical extension", []*x509.Certificate{odd.issue(leaf(shop)), odd.cert}, policy.ReasonCredentialMalformed},
		{"a chain too long for its CA", []*x509.Certificate{end.issue(leaf(shop)), end.cert, end.by.cert}, policy.ReasonIssuerUntrusted},
		{"TLS-11 missing intermediate", []*x509.Certificate{between.issue(leaf(shop))}, policy.ReasonIssuerUntrusted},
		{"TLS-12 common name only", []*x509.Certificate{root.issue(with(func(c *x509.Certificate) {
			c.ExtraExtensions, c.Subject.CommonName = nil, shopID
		}))}, policy.ReasonCredentialUnknown},
		{"unknown critical extension", []*x509.Certificate{root.issue(with(func(c *x509.Certificate) {
			c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: asn1.ObjectIdentifier{1, 2, 3}, Critical: true, Value: []byte{5, 0}})
		}))}, policy.ReasonCredentialMalformed},
	} {
		for _, way := range ways {
			t.Run(c.name+" by "+way.name, func(t *testing.T) {
				if c.want != policy.ReasonAllowed {
					if way.name == "source" && len(c.chain) > 1 {
						return // has no place for a chain
					}
					w.refused(t, way.show(c.chain...), c.want)
					w.refused(t, way.show(c.chain...), c.want) // from memory
					return
				}
				if proof := w.good(t, way.show(c.chain...)); proof.Principal.ID != shopID {
					t.Error(proof.Principal)
				}
			})
		}
	}
	// TLS-11, the other half: with the intermediate it is good.
	chained := []*x509.Certificate{between.issue(leaf(shop)), between.cert}
	for _, way := range []int{0, 1, 3} {
		w.good(t, ways[way].show(chained...))
	}
	weakBetween := signCA(&x509.Certificate{
		Subject: pkix.Name{CommonName: "weak"}, NotBefore: noon.Add(-time.Hour), NotAfter: noon.Add(time.Hour),
		BasicConstraintsValid: true, IsCA: true, KeyUsage: x509.KeyUsageCertSign,
	}, weak, root)
	w.refused(t, viaXFCC(weakBetween.issue(leaf(shop)), weakBetween.cert), policy.ReasonIssuerUntrusted)
	long := []*x509.Certificate{chained[0], between.cert, between.cert, between.cert, between.cert, between.cert}
	for _, way := range []int{0, 1, 3} {
		w.refused(t, ways[way].show(long...), policy.ReasonCredentialMalformed)
	}
}

// C-01: what nobody trusted says is no evidence, wherever it stands, and each sort of
// trust opens its own place only.
func TestTrust(t *testing.T) {
	t.Parallel()
	root := newCA("root", nil, nil)
	w := open(t, config(), map[string]string{"prod.pem": certPEM(root.cert)})
	shop := root.issue(leaf(uris(shopID)))
	trusts := []mtls.Trust{{Forwarded: true}, {ClientCert: true}, {Source: true}, {Own: true}}
	for i, way := range ways {
		for j, trust := range append(trusts, mtls.Trust{}) {
			proof, err := w.Peer(way.show(shop), trust)
			switch {
			case i == j && (err != nil || proof.Principal.ID != shopID):
				t.Errorf("%s with its own trust: %v", way.name, err)
			case i != j && (proof != nil || !errors.Is(err, authn.ErrNotMine)):
				t.Errorf("%s with trust %+v: %v, %v", way.name, trust, proof, err)
			}
		}
	}
	if proof, err := w.Peer(&policy.Attributes{}, everything); proof != nil || !errors.Is(err, authn.ErrNotMine) {
		t.Error("no evidence: ", proof, err)
	}
	// A principal that a gateway did not find is none.
	if _, err := w.Peer(&policy.Attributes{Source: policy.Endpoint{Principal: ""}}, everything); !errors.Is(err, authn.ErrNotMine) {
		t.Error(err)
	}
}

// All that is trusted and there must speak of one leaf.
func TestAgreement(t *testing.T) {
	t.Parallel()
	root := newCA("root", nil, nil)
	w := open(t, config(), map[string]string{"prod.pem": certPEM(root.cert)})
	one, two := root.issue(leaf(uris(shopID))), root.issue(leaf(uris(shopID)))
	join := func(all ...*policy.Attributes) *policy.Attributes {
		a := &policy.Attributes{}
		for _, x := range all {
			a.Headers = append(a.Headers, x.Headers...)
			if x.Source.Certificate != "" {
				a.Source.Certificate = x.Source.Certificate
			}
			if x.Source.Principal != "" {
				a.Source.Principal = x.Source.Principal
			}
			if x.Connection != nil {
				a.Connection = x.Connection
			}
		}
		return a
	}
	named := func(principal string) *policy.Attributes {
		return &policy.Attributes{Source: policy.Endpoint{Principal: principal}}
	}
	w.good(t, join(viaXFCC(one), viaClientCert(one), viaSource(one), viaConnection(one), named(shopID)))
	for i, a := range ways {
		for j, b := range ways {
			if i != j {
				w.good(t, join(a.show(one), b.show(one)))
				w.refused(t, join(a.show(one), b.show(two)), policy.ReasonCredentialAmbiguous)
			}
		}
		w.good(t, join(a.show(one), named(shopID)))
		w.refused(t, join(a.show(one), named("spiffe://prod.test/ns/shop/sa/admin")), policy.ReasonCredentialAmbiguous)
		w.refused(t, join(a.show(one), named("CN=somebody")), policy.ReasonCredentialAmbiguous)
	}
	// A hash without a certificate is a claim, and holds against the one that is there.
	hash := func(c *x509.Certificate, rest string) *policy.Attributes {
		return withHeaders("x-forwarded-client-cert", "Hash="+mtls.Fingerprint(c)+rest)
	}
	w.good(t, join(hash(one, ""), viaSource(one)))
	w.good(t, join(hash(one, ";URI="+shopID), viaSource(one)))
	w.refused(t, join(hash(two, ""), viaSource(one)), policy.ReasonCredentialAmbiguous)
	// The certificate's own hash must be the one beside it, and its chain its own.
	w.refused(t, withHeaders("x-forwarded-client-cert", "Hash="+mtls.Fingerprint(two)+`;Cert="`+encoded(one)+`"`), policy.ReasonCredentialAmbiguous)
	w.refused(t, hash(one, `;Cert="`+encoded(one)+`";Chain="`+encoded(two)+`"`), policy.ReasonCredentialMalformed)
	w.good(t, hash(one, `;Chain="`+encoded(one)+`"`))
	// So are the names beside it: not all need to be there, but none that it has not.
	many := root.issue(leaf(both(uris(shopID), hosts("web.test", "www.test"))))
	for rest, ok := range map[string]bool{
		";URI=" + shopID + ";DNS=web.test;DNS=www.test": true,
		`;Subject="CN=else";URI=` + shopID:              true,
		";URI=;DNS=":                                    true,
		";DNS=WWW.test":                                 true,
		";URI=" + shopID + "x":                          false,
		";URI=spiffe://prod.test/ns/shop/sa/admin":      false,
		";DNS=web.test;DNS=other.test":                  false,
		";URI=web.test":                                 false,
		";DNS=" + shopID:                                false,
	} {
		for _, a := range []*policy.Attributes{hash(many, `;Cert="`+encoded(many)+`"`+rest), join(hash(many, rest), viaSource(many)), join(hash(many, rest), viaClientCert(many))} {
			if ok {
				w.good(t, a)
			} else {
				w.refused(t, a, policy.ReasonCredentialAmbiguous)
			}
		}
	}
	// Envoy names a certificate by its first DNS name if it has no URI, and by its
	// subject, which means nothing here, if it has neither.
	plain := open(t, plainConfig(mtls.IdentityDNS, mtls.IdentityFingerprint), map[string]string{"corp.pem": certPEM(root.cert)})
	host := root.issue(leaf(hosts("web.test")))
	plain.good(t, join(viaSource(host), named("WEB.test")))
	plain.refused(t, join(viaSource(host), named("www.test")), policy.ReasonCredentialAmbiguous)
	bare := root.issue(leaf())
	plain.refused(t, join(viaSource(bare), named("CN=web")), policy.ReasonCredentialUnknown)
	// Fields that decide something stand there once.
	for _, a := range []*policy.Attributes{viaXFCC(one), viaClientCert(one)} {
		w.refused(t, join(a, a), policy.ReasonCredentialAmbiguous)
	}
}

// C-02: exactly one name, of the kinds that count.
func TestIdentities(t *testing.T) {
	t.Parallel()
	root := newCA("root", nil, nil)
	all := []mtls.Identity{mtls.IdentitySPIFFE, mtls.IdentityURI, mtls.IdentityDNS, mtls.IdentityFingerprint}
	cfg := mtls.Config{
		Bundles:    []mtls.Bundle{{Name: "prod", TrustDomain: domain, File: "prod.pem"}, {Name: "corp", File: "corp.pem"}},
		Identities: all,
		Principals: []mtls.Principal{{Match: "*.api.test"}, {Match: "listed.test"}},
	}
	w := open(t, cfg, map[string]string{"prod.pem": certPEM(root.cert), "corp.pem": certPEM(root.cert)})
	plain := open(t, plainConfig(mtls.IdentityDNS), map[string]string{"corp.pem": certPEM(root.cert)})
	for _, c := range []struct {
		name   string
		names  pkix.Extension
		id     string // empty: refused
		reason policy.Reason
	}{
		{"a SPIFFE id", uris(shopID), shopID, 0},
		{"a SPIFFE id beside a DNS name", both(uris(shopID), hosts("web.test")), shopID, 0},
		{"two SPIFFE ids", uris(shopID, "spiffe://prod.test/other"), "", policy.ReasonCredentialMalformed},
		{"the same one twice", uris(shopID, shopID), "", policy.ReasonCredentialMalformed},
		{"a SPIFFE id and another URI", uris(shopID, "https://web.test/"), "", policy.ReasonCredentialMalformed},
		{"two other URIs", uris("https://web.test/", "https://web.test/2"), "", policy.ReasonCredentialMalformed},
		{"another URI", uris("https://web.test/a?b=c"), "https://web.test/a?b=c", 0},
		{"of another domain", uris("spiffe://stage.test/web"), "", policy.ReasonIssuerUntrusted},
		{"without a path", uris("spiffe://prod.test"), "", policy.ReasonCredentialMalformed},
		{"with an empty path", uris("spiffe://prod.test/"), "", policy.ReasonCredentialMalformed},
		{"with an empty segment", uris("spiffe://prod.test/ns//web"), "", policy.ReasonCredentialMalformed},
		{"with a slash at the end", uris("spiffe://prod.test/web/"), "", policy.ReasonCredentialMalformed},
		{"with a dot segment", uris("spiffe://prod.test/ns/../web"), "", policy.ReasonCredentialMalformed},
		{"with an escape", uris("spiffe://prod.test/%77eb"), "", policy.ReasonCredentialMalformed},
		{"with a query", uris("spiffe://prod.test/web?x"), "", policy.ReasonCredentialMalformed},
		{"with a fragment", uris("spiffe://prod.test/web#x"), "", policy.ReasonCredentialMalformed},
		{"with a port", uris("spiffe://prod.test:443/web"), "", policy.ReasonCredentialMalformed},
		{"with a user", uris("spiffe://a@prod.test/web"), "", policy.ReasonCredentialMalformed},
		{"with an upper-case scheme", uris("SPIFFE://prod.test/web"), "", policy.ReasonCredentialMalformed},
		{"with an upper-case domain", uris("spiffe://PROD.test/web"), "", policy.ReasonCredentialMalformed},
		{"a SPIFFE id does not fall back to DNS", both(uris("spiffe:/prod.test/web"), hosts("web.test")), "", policy.ReasonCredentialMalformed},
		{"too long", uris("spiffe://prod.test/" + strings.Repeat("a", 2048)), "", policy.ReasonCredentialMalformed},
		{"a DNS name", hosts("Web.Test"), "web.test", 0},
		{"several DNS names, one listed", hosts("web.test", "v1.api.test"), "v1.api.test", 0},
		{"several DNS names, two listed", hosts("listed.test", "v1.api.test"), "", policy.ReasonCredentialAmbiguous},
		{"several DNS names, none listed", hosts("web.test", "www.test"), "", policy.ReasonCredentialAmbiguous},
		{"one DNS name in two spellings", hosts("web.test", "WEB.test"), "web.test", 0},
		{"a DNS wildcard", hosts("*.web.test"), "", policy.ReasonCredentialMalformed},
		{"an address as a DNS name", hosts("10.0.0.1"), "", policy.ReasonCredentialMalformed},
	} {
		t.Run(c.name, func(t *testing.T) {
			cert := root.issue(leaf(c.names))
			if c.id == "" {
				w.refused(t, viaXFCC(cert), c.reason)
				return
			}
			proof := w.good(t, viaXFCC(cert))
			(&policy.Constraints{Peers: []string{c.id}}).Faults(func(_, message, _ string) { t.Errorf("a key cannot demand it: %s", message) })
			if proof.Principal.ID != c.id || proof.Peer.ID != c.id || proof.Subject.ID != c.id {
				t.Errorf("%q, %q, %q", proof.Principal.ID, proof.Peer.ID, proof.Subject.ID)
			}
		})
	}
	// What is not listed does not count.
	plain.refused(t, viaXFCC(root.issue(leaf(uris("https://web.test/")))), policy.ReasonCredentialUnknown)
	// A bundle without a trust domain vouches for no SPIFFE id, and one with it for no
	// DNS name.
	corp := newCA("corp", nil, nil)
	w.write("corp.pem", certPEM(corp.cert))
	if err := w.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.refused(t, viaXFCC(corp.issue(leaf(uris(shopID)))), policy.ReasonIssuerUntrusted)
	w.refused(t, viaXFCC(root.issue(leaf(hosts("web.test")))), policy.ReasonIssuerUntrusted)
	w.good(t, viaXFCC(corp.issue(leaf(hosts("web.test")))))
}

// C-03: a certificate is a credential of its own, and says all that one says.
func TestProof(t *testing.T) {
	t.Parallel()
	root := newCA("root", nil, nil)
	pinned := root.issue(leaf())
	cfg := mtls.Config{
		Bundles:    []mtls.Bundle{{Name: "prod", TrustDomain: domain, File: "prod.pem"}, {Name: "corp", File: "prod.pem"}},
		Identities: []mtls.Identity{mtls.IdentitySPIFFE, mtls.IdentityDNS, mtls.IdentityFingerprint},
		Principals: []mtls.Principal{
			{Match: shopID, ID: "shop-web", Tenant: "acme", Roles: []string{"reader"}, Scopes: []string{"orders.read"}, Permissions: []string{"see"}, Constraints: &policy.Constraints{RequireTLS: true}},
			{Match: "spiffe://prod.test/agents/**", Kind: policy.KindAgent},
			{Match: "spiffe://prod.test/*/cron", Roles: []string{"cron"}},
			{Match: "sha256:" + mtls.Fingerprint(pinned), ID: "scanner", Kind: policy.KindDevice},
		},
	}
	w := open(t, cfg, map[string]string{"prod.pem": certPEM(root.cert)})

	shop := root.issue(leaf(uris(shopID)))
	proof := w.good(t, viaSource(shop))
	fingerprint, serial := mtls.Fingerprint(shop), shop.SerialNumber.Text(16)
	want := &authn.Proof{
		Principal: &policy.Principal{
			ID: "shop-web", Kind: policy.KindService, Tenant: "acme", Roles: []string{"reader"}, Scopes: []string{"orders.read"},
			Permissions: []string{"see"}, Method: policy.MethodMTLS, Assurance: 4, CredentialID: fingerprint,
			Issuer: "spiffe://prod.test", IssuedAt: shop.NotBefore, ExpiresAt: shop.NotAfter,
		},
		Constraints: &policy.Constraints{RequireTLS: true},
		NotAfter:    shop.NotAfter,
		Subject: authn.Subject{
			TokenID: serial, Fingerprint: fingerprint, Issuer: "spiffe://prod.test", ID: shopID, Tenant: "acme", IssuedAt: shop.NotBefore,
		},
		Peer:  &policy.Peer{ID: shopID, TrustDomain: domain, Fingerprint: fingerprint},
		State: policy.StateNone,
	}
	if !reflect.DeepEqual(proof, want) {
		t.Errorf("%+v\n%+v\n%+v", proof.Principal, proof.Subject, proof.Peer)
	}
	if again := w.good(t, viaSource(shop)); again != proof {
		t.Error("a certificate that was seen before is proven again")
	}

	agent := w.good(t, viaSource(root.issue(leaf(uris("spiffe://prod.test/agents/a/7")))))
	if agent.Principal.Kind != policy.KindAgent || agent.Principal.ID != "spiffe://prod.test/agents/a/7" {
		t.Error(agent.Principal)
	}
	cron := w.good(t, viaSource(root.issue(leaf(uris("spiffe://prod.test/shop/cron")))))
	if len(cron.Principal.Roles) != 1 {
		t.Error(cron.Principal)
	}
	other := w.good(t, viaSource(root.issue(leaf(uris("spiffe://prod.test/a/b/cron")))))
	if other.Principal.Roles != nil || other.Principal.Kind != policy.KindService {
		t.Error(other.Principal)
	}
	scanner := w.good(t, viaSource(pinned))
	if p := scanner.Principal; p.ID != "scanner" || p.Kind != policy.KindDevice || p.Issuer != "corp" || scanner.Peer.ID != "sha256:"+mtls.Fingerprint(pinned) {
		t.Error(p, scanner.Peer)
	}
	w.refused(t, viaSource(root.issue(leaf())), policy.ReasonCredentialUnknown)
}

// A gateway that names a certificate and does not show it is believed only where the
// configuration says so.
func TestNamesOnly(t *testing.T) {
	t.Parallel()
	root := newCA("root", nil, nil)
	files := map[string]string{"prod.pem": certPEM(root.cert)}
	hash := strings.Repeat("ab", 32)
	xfcc := func(rest string) *policy.Attributes {
		return withHeaders("x-forwarded-client-cert", "By=spiffe://prod.test/gateway;Hash="+hash+rest)
	}
	strict := open(t, config(), files)
	strict.refused(t, xfcc(";URI="+shopID), policy.ReasonCredentialUnknown)
	strict.refused(t, &policy.Attributes{Source: policy.Endpoint{Principal: shopID}}, policy.ReasonCredentialUnknown)

	cfg := config()
	cfg.InsecureAcceptNames = true
	cfg.Identities = []mtls.Identity{mtls.IdentitySPIFFE, mtls.IdentityDNS, mtls.IdentityFingerprint}
	cfg.Principals = []mtls.Principal{{Match: "sha256:" + strings.Repeat("cd", 32), ID: "pinned"}}
	w := open(t, cfg, files)
	proof := w.good(t, xfcc(`;Subject="CN=x";URI=`+shopID+";DNS=web.test"))
	if p := proof.Principal; p.ID != shopID || p.Assurance != 3 || p.Issuer != "spiffe://prod.test" || proof.Peer.Fingerprint != hash {
		t.Error(p, proof.Peer)
	}
	if p := w.good(t, xfcc(";URI=;DNS=web.test")).Principal; p.ID != "web.test" || p.Issuer != "forwarded" {
		t.Error(p)
	}
	if p := w.good(t, &policy.Attributes{Source: policy.Endpoint{Principal: "web.test"}}).Principal; p.ID != "web.test" {
		t.Error(p)
	}
	pinned := withHeaders("x-forwarded-client-cert", "Hash="+strings.Repeat("CD", 32))
	if p := w.good(t, pinned).Principal; p.ID != "pinned" {
		t.Error(p)
	}
	// The two must agree.
	a := xfcc(";URI=" + shopID)
	a.Source.Principal = shopID
	w.good(t, a)
	a = xfcc(";URI=" + shopID)
	a.Source.Principal = "spiffe://prod.test/admin"
	w.refused(t, a, policy.ReasonCredentialAmbiguous)
	a = xfcc("")
	a.Source.Principal = shopID
	if p := w.good(t, a); p.Principal.ID != shopID || p.Peer.Fingerprint != hash {
		t.Error(p.Principal, p.Peer)
	}

	for _, bad := range []struct {
		rest string
		want policy.Reason
	}{
		{"", policy.ReasonCredentialUnknown},
		{`;Subject="CN=web.test"`, policy.ReasonCredentialUnknown},
		{";URI=spiffe://other.test/web", policy.ReasonIssuerUntrusted},
		{";URI=" + shopID + ";URI=" + shopID, policy.ReasonCredentialMalformed},
		{";Hash=" + hash, policy.ReasonCredentialMalformed},
		{";URI=" + shopID + ";URI2=x", policy.ReasonCredentialMalformed},
		{`;Cert=""`, policy.ReasonCredentialMalformed},
		{`;Chain=""`, policy.ReasonCredentialMalformed},
		{`;Cert="x"`, policy.ReasonCredentialMalformed},
	} {
		w.refused(t, xfcc(bad.rest), bad.want)
	}
	w.refused(t, &policy.Attributes{Source: policy.Endpoint{Principal: "CN=web.test"}}, policy.ReasonCredentialUnknown)
	cfg.Identities = []mtls.Identity{mtls.IdentityDNS} // two URIs are wrong also where none counts
	open(t, cfg, files).refused(t, xfcc(";URI=http://a/;URI=http://b/;DNS=web.test"), policy.ReasonCredentialMalformed)
	w.refused(t, &policy.Attributes{Source: policy.Endpoint{Principal: "web.test", Certificate: "%zz"}}, policy.ReasonCredentialMalformed)
}

// C-04: a short life needs no list, and a long one can be refused.
func TestLifetime(t *testing.T) {
	t.Parallel()
	root := newCA("root", nil, nil)
	cfg := config()
	cfg.MaxLifetime = 2 * time.Hour
	w := open(t, cfg, map[string]string{"prod.pem": certPEM(root.cert)})
	short := root.issue(leaf(uris(shopID)))
	long := leaf(uris(shopID))
	long.NotAfter = long.NotAfter.Add(time.Second)
	w.good(t, viaXFCC(short))
	w.refused(t, viaXFCC(root.issue(long)), policy.ReasonLifetimeExceeded)
	// What is remembered ends with the certificate.
	w.setTime(short.NotAfter.Add(-time.Nanosecond))
	w.good(t, viaXFCC(short))
	w.setTime(short.NotAfter)
	w.refused(t, viaXFCC(short), policy.ReasonExpired)
}

// C-06: the fingerprint and what a bound token says of it are one value.
func TestThumbprint(t *testing.T) {
	t.Parallel()
	cert := newCA("root", nil, nil).issue(leaf(uris(shopID)))
	fingerprint := mtls.Fingerprint(cert)
	x5t := mtls.Thumbprint(fingerprint)
	if len(x5t) != 43 || mtls.FromThumbprint(x5t) != fingerprint {
		t.Error(x5t, mtls.FromThumbprint(x5t))
	}
	for _, bad := range []string{"", x5t + "=", x5t[:42], x5t[:42] + "\n", strings.ToUpper(x5t) + "A", fingerprint} {
		if got := mtls.FromThumbprint(bad); got != "" {
			t.Errorf("%q is taken for %q", bad, got)
		}
	}
	for _, bad := range []string{"", strings.ToUpper(fingerprint), fingerprint[:62], fingerprint + "00", "zz" + fingerprint[2:]} {
		if got := mtls.Thumbprint(bad); got != "" {
			t.Errorf("%q is taken for %q", bad, got)
		}
	}
}

// What is too long is not read, and what is no certificate not taken for one.
func TestBounds(t *testing.T) {
	t.Parallel()
	root := newCA("root", nil, nil)
	w := open(t, config(), map[string]string{"prod.pem": certPEM(root.cert)})
	shop := root.issue(leaf(uris(shopID)))
	binary := viaClientCert(shop).Headers[1].Value
	w.refused(t, withHeaders("x-forwarded-client-cert", strings.Repeat("a", 64<<10+1)), policy.ReasonTokenTooLarge)
	w.refused(t, &policy.Attributes{Source: policy.Endpoint{Certificate: strings.Repeat("a", 64<<10+1)}}, policy.ReasonTokenTooLarge)
	for _, bad := range []string{
		"", ":", "::", ":AAAA:", binary[1:], binary[:len(binary)-1], binary + ";a=1", " " + binary, binary + ", " + binary,
		":" + url.QueryEscape(certPEM(shop)) + ":", strings.TrimRight(binary, "=:") + "=:", strings.Replace(binary, "M", "\nM", 1),
	} {
		if bad != binary {
			w.refused(t, withHeaders("client-cert", bad), policy.ReasonCredentialMalformed)
		}
	}
	w.good(t, withHeaders("client-cert", binary))
	for _, bad := range []string{"", ",", binary + ",", ", " + binary, "x"} {
		w.refused(t, withHeaders("client-cert", binary, "client-cert-chain", bad), policy.ReasonCredentialMalformed)
	}
	w.refused(t, withHeaders("client-cert-chain", binary), policy.ReasonCredentialMalformed)
	text := encoded(shop)
	for _, bad := range []string{
		"x" + text, "x%0A" + text, text + "x", text + text, text[:len(text)-9], "%", "%0", "%zz", "%0A", strings.Replace(text, "CERTIFICATE", "CERTIFICATF", 1),
		strings.Replace(text, "%0A", "%0AProc-Type: 4%0A%0A", 1), url.QueryEscape(crlPEM(root.crl(root.revoke(1, noon)))),
		strings.Replace(encoded(root.cert), "CERTIFICATE", "PRIVATE%20KEY", 2),
	} {
		w.refused(t, &policy.Attributes{Source: policy.Endpoint{Certificate: bad}}, policy.ReasonCredentialMalformed)
	}
	w.good(t, &policy.Attributes{Source: policy.Endpoint{Certificate: "%0A" + text + "%0A%20"}})
	w.good(t, &policy.Attributes{Source: policy.Endpoint{Certificate: certPEM(shop)}}) // nothing in it needs escapes
}

// C-05: a CA is rotated with an overlap while requests go on, and none of them fails.
func TestRotation(t *testing.T) {
	t.Parallel()
	before, after := newCA("before", nil, nil), newCA("after", nil, nil)
	w := open(t, config(), map[string]string{"prod.pem": certPEM(before.cert)})
	oldShop, newShop := viaXFCC(before.issue(leaf(uris(shopID)))), viaXFCC(after.issue(leaf(uris(shopID))))
	w.refused(t, newShop, policy.ReasonIssuerUntrusted)
	var mu sync.RWMutex // of shown, which is what the workload shows now
	shown, stop := oldShop, make(chan struct{})
	var callers sync.WaitGroup
	for range 4 {
		callers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				mu.RLock()
				if _, err := w.Peer(shown, everything); err != nil {
					t.Error(err)
				}
				mu.RUnlock()
			}
		})
	}
	step := func(cas string, next *policy.Attributes) {
		w.write("prod.pem", cas)
		if err := w.Reload(t.Context()); err != nil {
			t.Error(err)
		}
		if next != nil {
			mu.Lock()
			shown = next
			mu.Unlock()
		}
	}
	both := certPEM(before.cert, after.cert)
	for range 20 {
		step(both, newShop)
		step(certPEM(after.cert), nil)
		step(both, oldShop)
		step(certPEM(before.cert), nil)
	}
	close(stop)
	callers.Wait()
	w.refused(t, newShop, policy.ReasonIssuerUntrusted)
	w.good(t, oldShop)
}
