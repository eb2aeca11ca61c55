package mtls_test

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn"
	"github.com/postern-auth/postern/server/authn/mtls"
	"github.com/postern-auth/postern/server/strictyaml"
)

const keyPEM = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"

// broken are bundles that say something else than they seem to, and what is said of
// them.
func broken(t *testing.T) map[string]string {
	good := certPEM(newCA("good", nil, nil).cert)
	return map[string]string{
		"":                                 "holds no certificate",
		"# nothing\n":                      "holds no certificate",
		"\x00\xff":                         "holds no certificate",
		good[:len(good)/2]:                 "cut off or broken",
		good + good[:40]:                   "cut off or broken",
		"-----BEGIN CERTIFICATE" + good:    "cut off or broken",
		good[:len(good)/2] + "\n" + good:   "cut off or broken",
		good + keyPEM:                      "holds a private key", // C-06
		good + crlPEM(nil):                 `a block "X509 CRL"`,
		strings.Replace(good, "M", "A", 1): "certificate 1: ",
		certPEM(newCA("good", nil, nil).issue(leaf(uris(shopID)))): "is not of a CA",
	}
}

// TLS-14, C-05, C-06: without CAs nobody is let in. A bundle that is not there or not
// one keeps the server from starting, and a running one keeps what it had.
func TestBrokenBundles(t *testing.T) {
	t.Parallel()
	root := newCA("root", nil, nil)
	shop := viaXFCC(root.issue(leaf(uris(shopID))))
	w := open(t, config(), map[string]string{"prod.pem": certPEM(root.cert)})
	w.good(t, shop)
	for text, want := range broken(t) {
		bad := &world{now: noon, files: map[string]string{"prod.pem": text}}
		if _, err := mtls.New(config(), bad.deps()); err == nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "mtls.bundles[0].file: prod.pem: ") {
			t.Errorf("%.30q: %v, want %q", text, err, want)
		}
		w.write("prod.pem", text)
		for range 2 { // as long as it is so
			if err := w.Reload(t.Context()); err == nil || w.Status().Err == nil {
				t.Errorf("%.30q is taken", text)
			}
		}
		w.good(t, shop)
	}
	delete(w.files, "prod.pem")
	if err := w.Reload(t.Context()); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	w.good(t, shop)
	if _, err := mtls.New(config(), (&world{now: noon}).deps()); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	// Mended, with text for people around it.
	w.write("prod.pem", "the root of prod:\n"+certPEM(root.cert)+"\n# the end\n")
	if err := w.Reload(t.Context()); err != nil || w.Status().Err != nil {
		t.Error(err)
	}
	w.good(t, shop)
}

// A CA that leaves its bundle is distrusted at once, also by what was proven before.
func TestDistrust(t *testing.T) {
	t.Parallel()
	root, other := newCA("root", nil, nil), newCA("other", nil, nil)
	w := open(t, config(), map[string]string{"prod.pem": certPEM(root.cert, other.cert)})
	shop := viaXFCC(root.issue(leaf(uris(shopID))))
	w.good(t, shop)
	w.setTime(noon.Add(time.Minute))
	w.write("prod.pem", certPEM(other.cert))
	if err := w.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.refused(t, shop, policy.ReasonIssuerUntrusted)
	s := w.Status()
	if len(s.Bundles) != 1 || s.Bundles[0] != (mtls.BundleStatus{Name: "prod", TrustDomain: domain, Certificates: 1, NotAfter: other.cert.NotAfter}) || !s.LoadedAt.Equal(noon.Add(time.Minute)) {
		t.Errorf("%+v", s)
	}
}

func listed() mtls.Config {
	cfg := config()
	cfg.CRLFiles = []strictyaml.Path{"prod.crl"}
	return cfg
}

// TLS-10, C-04: who is on the list of its CA is refused, as soon as the list is there.
func TestRevocation(t *testing.T) {
	t.Parallel()
	root := newCA("root", nil, nil)
	between := newCA("between", root, nil)
	soon := noon.Add(30 * time.Minute)
	one, two := root.issue(leaf(uris(shopID))), root.issue(leaf(uris(shopID)))
	below := between.issue(leaf(uris(shopID)))
	w := open(t, listed(), map[string]string{"prod.pem": certPEM(root.cert), "prod.crl": crlPEM(root.crl(root.revoke(1, soon)))})
	reload := func(text string) {
		t.Helper()
		w.write("prod.crl", text)
		if err := w.Reload(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	w.good(t, viaXFCC(one))
	w.good(t, viaXFCC(below, between.cert))

	reload(string(root.crl(root.revoke(2, soon, one)))) // DER
	w.refused(t, viaXFCC(one), policy.ReasonRevoked)
	w.refused(t, viaConnection(one), policy.ReasonRevoked)
	w.good(t, viaXFCC(two))

	// A CA below it is revoked, and with it all that it signed.
	reload(crlPEM(root.crl(root.revoke(3, soon, one, between.cert))))
	w.refused(t, viaXFCC(below, between.cert), policy.ReasonRevoked)

	// A CA below it has a list of its own, with its certificate beside it.
	reload(certPEM(between.cert) + crlPEM(between.crl(between.revoke(1, soon, below))) + crlPEM(root.crl(root.revoke(4, soon))))
	w.refused(t, viaXFCC(below, between.cert), policy.ReasonRevoked)
	w.good(t, viaXFCC(one))

	// A list holds for every certificate of the CA's key.
	renewed := signCA(&x509.Certificate{
		Subject: pkix.Name{CommonName: "root"}, NotBefore: noon.AddDate(-1, 0, 0), NotAfter: noon.AddDate(9, 0, 0),
		BasicConstraintsValid: true, IsCA: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}, root.key, nil)
	w.write("prod.pem", certPEM(renewed.cert))
	reload(crlPEM(root.crl(root.revoke(5, soon, one))))
	w.refused(t, viaXFCC(one), policy.ReasonRevoked)
	w.good(t, viaXFCC(two))

	// Of two lists by one CA in a file, the later counts, in either order.
	for i, text := range []string{
		crlPEM(root.crl(root.revoke(6, soon))) + crlPEM(root.crl(root.revoke(7, soon, two))),
		crlPEM(root.crl(root.revoke(9, soon, two))) + crlPEM(root.crl(root.revoke(8, soon))),
	} {
		reload(text)
		w.refused(t, viaXFCC(two), policy.ReasonRevoked)
		if s := w.Status(); len(s.Lists) != 1 || s.Lists[0].Revoked != 1 || s.Lists[0].Stale || !s.Lists[0].NextUpdate.Equal(soon) {
			t.Errorf("%d: %+v", i, s.Lists)
		}
	}
}

// A list that is out of date says nothing: what it should have said could not be found
// out, which is neither yes nor no.
func TestStaleList(t *testing.T) {
	t.Parallel()
	root := newCA("root", nil, nil)
	soon := noon.Add(30 * time.Minute)
	good, bad := root.issue(leaf(uris(shopID))), root.issue(leaf(uris(shopID)))
	files := map[string]string{"prod.pem": certPEM(root.cert), "prod.crl": crlPEM(root.crl(root.revoke(1, soon, bad)))}
	strict := open(t, listed(), files)
	cfg := listed()
	cfg.InsecureStaleCRL = true
	lax := open(t, cfg, files)
	strict.good(t, viaXFCC(good))
	for _, w := range []*world{strict, lax} {
		w.setTime(soon)
		w.refused(t, viaXFCC(bad), policy.ReasonRevoked) // that much is certain
		if !w.Status().Lists[0].Stale {
			t.Error("not stale")
		}
	}
	strict.unknown(t, viaXFCC(good))
	lax.good(t, viaXFCC(good))
	strict.write("prod.crl", crlPEM(root.crl(root.revoke(2, soon.Add(time.Hour)))))
	if err := strict.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	strict.good(t, viaXFCC(good))

	// Where every CA must have one, none is as good as one out of date.
	cfg = listed()
	cfg.RequireCRL = true
	cfg.Bundles = append(cfg.Bundles, mtls.Bundle{Name: "stage", TrustDomain: "stage.test", File: "stage.pem"})
	stage := newCA("stage", nil, nil)
	files["stage.pem"] = certPEM(stage.cert)
	w := open(t, cfg, files)
	w.good(t, viaXFCC(good))
	w.unknown(t, viaXFCC(stage.issue(leaf(uris("spiffe://stage.test/web")))))
}

// A list that nobody could rely on is not taken, and what was revoked stays so.
func TestBrokenLists(t *testing.T) {
	t.Parallel()
	root, other := newCA("root", nil, nil), newCA("other", nil, nil)
	soon := noon.Add(30 * time.Minute)
	good, bad := root.issue(leaf(uris(shopID))), root.issue(leaf(uris(shopID)))
	first := crlPEM(root.crl(root.revoke(7, soon, bad)))
	files := map[string]string{"prod.pem": certPEM(root.cert), "prod.crl": first}
	w := open(t, listed(), files)
	with := func(change func(*x509.RevocationList)) string {
		l := root.revoke(8, soon)
		change(l)
		return crlPEM(root.crl(l))
	}
	critical := func(id ...int) []pkix.Extension {
		return []pkix.Extension{{Id: id, Critical: true, Value: []byte{5, 0}}}
	}
	forged := &ca{cert: root.cert, key: other.key}
	for _, c := range []struct{ name, text, want string }{
		{"empty", "", "no revocation list"},
		{"garbage", "garbage", "no revocation list"},
		{"a bundle", certPEM(root.cert), "holds no revocation list"},
		{"cut off", first[:len(first)-40], "cut off or broken"},
		{"a key", first + keyPEM, "holds a private key"},
		{"of another CA", crlPEM(other.crl(other.revoke(8, soon))), `the list of "CN=other" is signed by no CA`},
		{"signed by somebody else", forge(t, forged, soon), `the list of "CN=root" is signed by no CA`},
		{"a delta", with(func(l *x509.RevocationList) { l.ExtraExtensions = critical(2, 5, 29, 27) }), "has a critical extension"},
		{"with an unreadable distribution point", with(func(l *x509.RevocationList) { l.ExtraExtensions = critical(2, 5, 29, 28) }), "is only about some"},
		{"of users only", with(func(l *x509.RevocationList) { l.ExtraExtensions = point("\xa0\x03\xa0\x01\x86", "\x81\x01\xff") }), "is only about some"},
		{"of several CAs", with(func(l *x509.RevocationList) {
			l.RevokedCertificateEntries = entries(bad)
			l.RevokedCertificateEntries[0].ExtraExtensions = critical(2, 5, 29, 29)
		}), "has an entry with a critical extension"},
		{"older", crlPEM(root.crl(root.revoke(6, soon.Add(time.Hour)))), "is older than the one in force"},
		{"with a stranger's CA beside it", certPEM(other.cert) + crlPEM(other.crl(other.revoke(1, soon))), `"CN=other" leads to no bundle`},
	} {
		t.Run(c.name, func(t *testing.T) {
			w.write("prod.crl", c.text)
			for range 2 {
				if err := w.Reload(t.Context()); err == nil || !strings.Contains(err.Error(), c.want) || w.Status().Err == nil {
					t.Errorf("%v, want %q", err, c.want)
				}
			}
			w.refused(t, viaXFCC(bad), policy.ReasonRevoked)
			w.good(t, viaXFCC(good))
			if c.name == "older" {
				return // it is good at a start
			}
			fresh := &world{now: noon, files: map[string]string{"prod.pem": files["prod.pem"], "prod.crl": c.text}}
			if _, err := mtls.New(listed(), fresh.deps()); err == nil {
				t.Error("it is taken at the start")
			}
		})
	}
	// A CA leaves its bundle although its list is left behind.
	w.write("prod.crl", first)
	w.write("prod.pem", certPEM(other.cert))
	if err := w.Reload(t.Context()); err == nil {
		t.Error("the list is taken")
	}
	w.refused(t, viaXFCC(good), policy.ReasonIssuerUntrusted)
	w.good(t, viaXFCC(other.issue(leaf(uris(shopID)))))
	// Entries may say why.
	w.write("prod.pem", certPEM(root.cert))
	w.write("prod.crl", with(func(l *x509.RevocationList) {
		l.RevokedCertificateEntries = entries(bad)
		l.RevokedCertificateEntries[0].ReasonCode = 6 // on hold is not to be used either
	}))
	if err := w.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.refused(t, viaXFCC(bad), policy.ReasonRevoked)
	w.good(t, viaXFCC(good))
}

// A CA may cut its list into several, by distribution point: each counts, and replaces
// its own predecessor only.
func TestListInParts(t *testing.T) {
	t.Parallel()
	root := newCA("root", nil, nil)
	soon := noon.Add(30 * time.Minute)
	var certs []*x509.Certificate
	for range 3 {
		certs = append(certs, root.issue(leaf(uris(shopID))))
	}
	part := func(number int64, name string, next time.Time, revoked ...*x509.Certificate) string {
		l := root.revoke(number, next, revoked...)
		uri := "\x86" + string(rune(len(name))) + name
		full := "\xa0" + string(rune(len(uri))) + uri
		l.ExtraExtensions = point("\xa0" + string(rune(len(full))) + full)
		return crlPEM(root.crl(l))
	}
	files := map[string]string{"prod.pem": certPEM(root.cert), "prod.crl": part(1, "http://a", soon, certs[0]) + part(2, "http://b", soon, certs[1])}
	w := open(t, listed(), files)
	w.refused(t, viaXFCC(certs[0]), policy.ReasonRevoked)
	w.refused(t, viaXFCC(certs[1]), policy.ReasonRevoked)
	w.good(t, viaXFCC(certs[2]))
	w.write("prod.crl", part(3, "http://a", soon, certs[2])+part(2, "http://b", noon, certs[1]))
	if err := w.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.refused(t, viaXFCC(certs[2]), policy.ReasonRevoked)
	w.refused(t, viaXFCC(certs[1]), policy.ReasonRevoked)
	w.unknown(t, viaXFCC(certs[0])) // it may be in the part that is out of date
}

// point is the extension issuingDistributionPoint.
func point(fields ...string) []pkix.Extension {
	all := strings.Join(fields, "")
	return []pkix.Extension{{Id: []int{2, 5, 29, 28}, Critical: true, Value: append([]byte{0x30, byte(len(all))}, all...)}}
}

// forge makes a list in a CA's name with another's key.
func forge(t *testing.T, by *ca, next time.Time) string {
	t.Helper()
	impostor := *by.cert
	impostor.PublicKey = by.key.Public()
	return crlPEM((&ca{cert: &impostor, key: by.key}).crl(by.revoke(8, next)))
}

// From disk, a file is read as far as its limit and no pipe is waited for.
func TestFilesOnDisk(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	root := newCA("root", nil, nil)
	name := filepath.Join(dir, "prod.pem")
	cfg := config()
	cfg.Bundles[0].File = strictyaml.Path(name)
	now := func() time.Time { return noon }
	if err := os.WriteFile(name, []byte(certPEM(root.cert)), 0o600); err != nil {
		t.Fatal(err)
	}
	a, err := mtls.New(cfg, mtls.Deps{Now: now})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Peer(viaXFCC(root.issue(leaf(uris(shopID)))), everything); err != nil {
		t.Error(err)
	}
	for _, wrong := range []string{dir, filepath.Join(dir, "nowhere")} {
		cfg.Bundles[0].File = strictyaml.Path(wrong)
		if _, err := mtls.New(cfg, mtls.Deps{Now: now}); err == nil || strings.Count(err.Error(), wrong) != 1 {
			t.Error(err)
		}
	}
	cfg.Bundles[0].File = strictyaml.Path(name)
	if err := os.WriteFile(name, make([]byte, 4<<20+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := mtls.New(cfg, mtls.Deps{Now: now}); err == nil || !strings.Contains(err.Error(), "too large") {
		t.Error(err)
	}
	if got := listed(); !slices.Equal(got.Files(), []string{"prod.pem", "prod.crl"}) {
		t.Error(got.Files())
	}
}

// A refusal says what is wrong, and nothing of what the certificate says of itself.
func TestDetails(t *testing.T) {
	t.Parallel()
	root := newCA("root", nil, nil)
	w := open(t, config(), map[string]string{"prod.pem": certPEM(root.cert)})
	odd := leaf(uris(shopID))
	odd.Subject.CommonName = "\x1b[31mred"
	cert := newCA("\x1b[31mred", nil, nil).issue(odd)
	_, err := w.Peer(viaXFCC(cert), everything)
	var refusal *authn.Refusal
	if !errors.As(err, &refusal) || strings.Contains(refusal.Detail, "red") || !strings.Contains(refusal.Detail, mtls.Fingerprint(cert)) {
		t.Errorf("%q", err)
	}
}
