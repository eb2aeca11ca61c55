package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/postern-auth/postern/server/authn/mtls"
)

func devCommand() *cobra.Command {
	return group("dev", "Tools for tests and demonstrations", devCACommand())
}

func devCACommand() *cobra.Command {
	cmd := group("ca", "A CA for tests, in a directory",
		devCAInitCommand(), devCAIssueCommand(), devCARevokeCommand())
	cmd.Long = `Makes certificates for tests and demonstrations. It is no CA for anything else: its
key lies in a file beside the certificates, nobody keeps a record of what it signs,
and whoever can read the directory can be anybody to all who trust it.`
	return cmd
}

// The files of a directory, beside NAME.pem and NAME.key of each certificate.
const (
	caCertFile = "ca.pem"
	caKeyFile  = "ca.key"
	caListFile = "ca.crl"
)

// The blocks of PEM that are written.
const (
	blockCert = "CERTIFICATE"
	blockKey  = "PRIVATE KEY"
	blockList = "X509 CRL"
)

// backdate is how far back a certificate begins: clocks differ.
const backdate = time.Minute

// signed tells people and programs of a certificate.
type signed struct {
	Certificate string `json:"certificate" yaml:"certificate"`
	Key         string `json:"key" yaml:"key"`
	List        string `json:"revocation_list,omitempty" yaml:"revocation_list,omitempty"`
	Serial      string `json:"serial" yaml:"serial"`
	Fingerprint string `json:"fingerprint" yaml:"fingerprint"`
	Thumbprint  string `json:"x5t#S256" yaml:"x5t#S256"`
	Expires     string `json:"expires" yaml:"expires"`
}

func describe(c *x509.Certificate, certificate, key, list string) signed {
	fingerprint := mtls.Fingerprint(c)
	return signed{
		Certificate: certificate, Key: key, List: list, Serial: c.SerialNumber.Text(16),
		Fingerprint: fingerprint, Thumbprint: mtls.Thumbprint(fingerprint), Expires: c.NotAfter.UTC().Format(time.RFC3339),
	}
}

func (s *signed) print(cmd *cobra.Command, f format) error {
	if f != "table" {
		return encodeValue(cmd.OutOrStdout(), f, s)
	}
	return printRows(cmd.OutOrStdout(), []row{
		{"certificate", s.Certificate}, {"key", s.Key}, {"revocation list", s.List}, {"serial", s.Serial},
		{"fingerprint", s.Fingerprint}, {"x5t#S256", s.Thumbprint}, {"expires", s.Expires},
	})
}

func devCAInitCommand() *cobra.Command {
	var name string
	var output format
	life := lifetime(90 * day)
	cmd := &cobra.Command{
		Use:   "init DIR",
		Short: "Make a CA for tests: its certificate, its key, an empty revocation list",
		Long: `Makes a CA in a directory, which is made if it is not there: ca.pem, ca.key and the
empty revocation list ca.crl. For tests only: whoever can read ca.key can be anybody
to all who trust ca.pem. A CA that is there is not replaced.`,
		Example: `  postern dev ca init pki
  postern dev ca init pki --name 'Another CA' --ttl 1h -o json`,
		Args: arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ca, err := newTestCA(args[0], name, time.Now(), time.Duration(life))
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "for tests only: whoever can read %s can be anybody to all who trust this CA\n", printable(ca.file(caKeyFile)))
			s := describe(ca.cert, ca.file(caCertFile), ca.file(caKeyFile), ca.file(caListFile))
			return s.print(cmd, output)
		},
	}
	cmd.Flags().StringVar(&name, "name", "Postern test CA", "what the CA is called")
	cmd.Flags().Var(&life, "ttl", "how long it and its revocation list live")
	outputFlag(cmd, &output)
	return cmd
}

func devCAIssueCommand() *cobra.Command {
	var o leafOrder
	var output format
	o.life = lifetime(day)
	cmd := &cobra.Command{
		Use:   "issue DIR",
		Short: "Issue a certificate for tests, with its key",
		Long: `Issues a certificate of a CA that "postern dev ca init" made, and writes NAME.pem and
NAME.key beside it. It is for a client unless --server is given. Nothing keeps you
from making one that Postern refuses: that is what tests need.`,
		Example: `  postern dev ca issue pki --spiffe spiffe://prod.example.com/ns/shop/sa/web
  postern dev ca issue pki --dns postern.example.com --ip 127.0.0.1 --server --client
  postern dev ca issue pki --dns late.example.com --ttl -1h        it expired an hour ago`,
		Args: arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ca, err := openTestCA(args[0])
			if err != nil {
				return err
			}
			s, err := ca.issue(&o, time.Now())
			if err != nil {
				return err
			}
			return s.print(cmd, output)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.name, "name", "", "name of the files (default: the end of the SPIFFE id, or the DNS name)")
	f.StringArrayVar(&o.spiffe, "spiffe", nil, "SPIFFE id; a good certificate has one")
	f.StringArrayVar(&o.dns, "dns", nil, "DNS name; repeatable")
	f.IPSliceVar(&o.ips, "ip", nil, "IP address, for servers; repeatable")
	f.BoolVar(&o.client, "client", false, "it may be used by a client")
	f.BoolVar(&o.server, "server", false, "it may be used by a server")
	f.Var(&o.life, "ttl", "how long it lives; -1h for one that ended an hour ago")
	outputFlag(cmd, &output)
	return cmd
}

func devCARevokeCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "revoke DIR SERIAL|FILE",
		Short: "Put a certificate on the revocation list of a CA for tests",
		Long: `Puts a certificate, by its serial number in hex or its file, on the revocation list
ca.crl. A running Postern with mtls.crl_files reads the list again when it changes.`,
		Example: `  postern dev ca revoke pki pki/web.pem
  postern dev ca revoke pki 5f1d0c8a77b2`,
		Args: arguments(2, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			ca, err := openTestCA(args[0])
			if err != nil {
				return err
			}
			serial, err := serialOf(args[1])
			if err != nil {
				return err
			}
			n, err := ca.revoke(serial, time.Now())
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "revoked %s; %s holds %d\n", serial.Text(16), printable(ca.file(caListFile)), n)
			return err
		},
	}
}

// lifetime is a flag of parseDuration's durations, which may be negative.
type lifetime time.Duration

// String, Set and Type implement pflag.Value.
func (l *lifetime) String() string { return formatDuration(time.Duration(*l)) }
func (*lifetime) Type() string     { return "duration" }
func (l *lifetime) Set(s string) error {
	rest, negative := strings.CutPrefix(s, "-")
	d, err := parseDuration(rest)
	if negative {
		d = -d
	}
	*l = lifetime(d)
	return err
}

// testCA is a CA in a directory.
type testCA struct {
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func (c *testCA) file(name string) string { return filepath.Join(c.dir, name) }

// newTestCA makes a CA. The key is written first and to a file that must not be there,
// so of two that are made at once one fails.
func newTestCA(dir, name string, now time.Time, life time.Duration) (*testCA, error) {
	if life <= 0 {
		return nil, errors.New("--ttl: a CA lives longer than that")
	}
	ca := &testCA{dir: dir}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, NotBefore: now.Add(-backdate), NotAfter: now.Add(life),
		BasicConstraintsValid: true, IsCA: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	key, keyText, err := newKeyPair()
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(ca.file(caKeyFile), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("there is a CA in %s already", dir)
	}
	if err != nil {
		return nil, err
	}
	if _, err = f.WriteString(keyText); errors.Join(err, f.Close()) != nil {
		return nil, err
	}
	ca.key = key
	if ca.cert, err = signCertificate(template, template, key, key); err != nil {
		return nil, err
	}
	if err := replaceFile(ca.file(caCertFile), encodeBlock(blockCert, ca.cert.Raw)); err != nil {
		return nil, err
	}
	return ca, ca.writeList(&x509.RevocationList{Number: big.NewInt(1)}, now)
}

func openTestCA(dir string) (*testCA, error) {
	ca := &testCA{dir: dir}
	der, err := readBlock(ca.file(caCertFile), blockCert)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("there is no CA in %s: make one with `postern dev ca init %s`", dir, dir)
	}
	if err != nil {
		return nil, err
	}
	if ca.cert, err = x509.ParseCertificate(der); err != nil {
		return nil, err
	}
	if der, err = readBlock(ca.file(caKeyFile), blockKey); err != nil {
		return nil, err
	}
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, fmt.Errorf("%s: it is not a key in PKCS #8", ca.file(caKeyFile))
	}
	var ok bool
	if ca.key, ok = key.(*ecdsa.PrivateKey); !ok || !ca.key.PublicKey.Equal(ca.cert.PublicKey) {
		return nil, fmt.Errorf("%s is not the key of %s", ca.file(caKeyFile), ca.file(caCertFile))
	}
	return ca, nil
}

// leafOrder is a certificate as somebody asked for it.
type leafOrder struct {
	name           string
	spiffe, dns    []string
	ips            []net.IP
	client, server bool
	life           lifetime
}

func (c *testCA) issue(o *leafOrder, now time.Time) (*signed, error) {
	template, err := o.template(now)
	if err != nil {
		return nil, err
	}
	key, keyText, err := newKeyPair()
	if err != nil {
		return nil, err
	}
	cert, err := signCertificate(template, c.cert, key, c.key)
	if err != nil {
		return nil, err
	}
	certFile, keyFile := c.file(template.Subject.CommonName+".pem"), c.file(template.Subject.CommonName+".key")
	if err := replaceFile(keyFile, keyText); err != nil {
		return nil, err
	}
	s := describe(cert, certFile, keyFile, "")
	return &s, replaceFile(certFile, encodeBlock(blockCert, cert.Raw))
}

// template makes the certificate that is asked for. Its common name is for people.
func (o *leafOrder) template(now time.Time) (*x509.Certificate, error) {
	name, err := o.fileName()
	if err != nil {
		return nil, err
	}
	c := &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, NotBefore: now.Add(-backdate), NotAfter: now.Add(time.Duration(o.life)),
		KeyUsage: x509.KeyUsageDigitalSignature, DNSNames: o.dns, IPAddresses: o.ips,
	}
	if begin := c.NotAfter.Add(-backdate); begin.Before(c.NotBefore) {
		c.NotBefore = begin
	}
	if o.client || !o.server {
		c.ExtKeyUsage = append(c.ExtKeyUsage, x509.ExtKeyUsageClientAuth)
	}
	if o.server {
		c.ExtKeyUsage = append(c.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	}
	for _, id := range o.spiffe {
		u, err := url.Parse(id)
		if err != nil || u.Scheme != "spiffe" || u.Host == "" {
			return nil, fmt.Errorf("--spiffe %q: write it as spiffe://prod.example.com/ns/shop/sa/web", id)
		}
		c.URIs = append(c.URIs, u)
	}
	return c, nil
}

func (o *leafOrder) fileName() (string, error) {
	name := o.name
	switch {
	case name != "":
	case len(o.spiffe) > 0:
		name = path.Base(o.spiffe[0])
	case len(o.dns) > 0:
		name = strings.ReplaceAll(o.dns[0], "*", "_")
	default:
		return "", errors.New("say who it is: --spiffe, --dns, or --name for a certificate with neither")
	}
	if name == "ca" || strings.HasPrefix(name, ".") || strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r >= 0x7f || strings.ContainsRune(`/\:`, r) }) {
		return "", fmt.Errorf("--name %q: it is to be the name of a file, and not that of the CA's own", name)
	}
	return name, nil
}

// serialOf reads a serial number, or that of the certificate in a file.
func serialOf(text string) (*big.Int, error) {
	if serial, ok := new(big.Int).SetString(text, 16); ok && serial.Sign() > 0 && !strings.ContainsAny(text, "_+") {
		return serial, nil
	}
	der, err := readBlock(text, blockCert)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%q is neither a serial number in hex nor a file", text)
	}
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", printable(text), err)
	}
	return cert.SerialNumber, nil
}

// revoke puts a certificate on the list and returns how many are there.
func (c *testCA) revoke(serial *big.Int, now time.Time) (int, error) {
	unlock, err := lockDirectory(c.dir)
	if err != nil {
		return 0, err
	}
	defer unlock()
	der, err := readBlock(c.file(caListFile), blockList)
	if err != nil {
		return 0, err
	}
	old, err := x509.ParseRevocationList(der)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", c.file(caListFile), err)
	}
	next := &x509.RevocationList{Number: new(big.Int).Add(old.Number, big.NewInt(1)), RevokedCertificateEntries: old.RevokedCertificateEntries}
	if !slices.ContainsFunc(next.RevokedCertificateEntries, func(e x509.RevocationListEntry) bool { return e.SerialNumber.Cmp(serial) == 0 }) {
		next.RevokedCertificateEntries = append(next.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: serial, RevocationTime: now})
	}
	return len(next.RevokedCertificateEntries), c.writeList(next, now)
}

// writeList signs a list that counts as long as the CA.
func (c *testCA) writeList(list *x509.RevocationList, now time.Time) error {
	list.ThisUpdate, list.NextUpdate = now.Add(-backdate), c.cert.NotAfter
	der, err := x509.CreateRevocationList(rand.Reader, list, c.cert, c.key)
	if err != nil {
		return err
	}
	return replaceFile(c.file(caListFile), encodeBlock(blockList, der))
}

// serialBits are random bits of a serial number: more than the 64 that CAs need.
const serialBits = 127

func signCertificate(template, parent *x509.Certificate, key, by *ecdsa.PrivateKey) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), serialBits))
	if err != nil {
		return nil, err
	}
	template.SerialNumber = serial.Add(serial, big.NewInt(1))
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, by)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

func newKeyPair() (*ecdsa.PrivateKey, string, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, "", err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, "", err
	}
	return key, encodeBlock(blockKey, der), nil
}

func encodeBlock(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

// readBlock reads the first block of a file, which must be of the kind. Errors show
// nothing of the file.
func readBlock(name, kind string) ([]byte, error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil || block.Type != kind {
		return nil, fmt.Errorf("%s does not begin with a PEM block %q", printable(name), kind)
	}
	return block.Bytes, nil
}
