package mtls

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"strings"
)

// Fingerprint returns the SHA-256 of a certificate in lower-case hex, as denylists and
// policy.Peer have it.
func Fingerprint(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	return hex.EncodeToString(sum[:])
}

func isFingerprint(s string) bool {
	return len(s) == hex.EncodedLen(sha256.Size) && strings.Trim(s, "0123456789abcdef") == ""
}

// Thumbprint returns a fingerprint as tokens that are bound to a certificate have it
// (x5t#S256, RFC 8705 section 3.1), or "" if it is none.
func Thumbprint(fingerprint string) string {
	raw, err := hex.DecodeString(fingerprint)
	if err != nil || !isFingerprint(fingerprint) {
		return ""
	}
	return base64.RawURLEncoding.EncodeToString(raw)
}

// FromThumbprint is the inverse of Thumbprint. It takes the one spelling of each value,
// and returns "" for everything else.
func FromThumbprint(x5t string) string {
	raw, err := base64.RawURLEncoding.Strict().DecodeString(x5t)
	if err != nil || len(raw) != sha256.Size {
		return ""
	}
	return hex.EncodeToString(raw)
}

var (
	errEscape      = errors.New("is not URL-encoded")
	errPEM         = errors.New("is not PEM of certificates and nothing else")
	errLongChain   = errors.New("the chain is longer than mtls.max_chain")
	errCertificate = errors.New("a certificate in it cannot be read")
	errBinary      = errors.New("is not base64 between colons (RFC 9440)")
	errChainAlone  = errors.New("there is a chain without a certificate")
)

// parseEncodedPEM reads at least one and at most so many certificates as proxies put
// them into fields: PEM, percent-encoded.
func parseEncodedPEM(text string, most int) ([]*x509.Certificate, error) {
	plain, err := unescape(text)
	if err != nil {
		return nil, err
	}
	var all []*x509.Certificate
	for plain = bytes.TrimSpace(plain); len(plain) > 0; plain = bytes.TrimSpace(plain) {
		if len(all) == most {
			return nil, errLongChain
		}
		if !bytes.HasPrefix(plain, pemBegin) { // pem.Decode would skip what stands before
			return nil, errPEM
		}
		block, rest := pem.Decode(plain)
		if block == nil || block.Type != pemCertificate || len(block.Headers) > 0 {
			return nil, errPEM
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, errCertificate
		}
		all, plain = append(all, c), rest
	}
	if len(all) == 0 {
		return nil, errPEM
	}
	return all, nil
}

const pemCertificate = "CERTIFICATE"

var pemBegin = []byte("-----BEGIN CERTIFICATE-----")

// unescape replaces %XX. A plus is a plus: it is a digit of base64.
func unescape(s string) ([]byte, error) {
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] != '%' {
			b = append(b, s[i])
			continue
		}
		if i+3 > len(s) {
			return nil, errEscape
		}
		c, err := hex.DecodeString(s[i+1 : i+3])
		if err != nil {
			return nil, errEscape
		}
		b = append(b, c[0])
		i += 2
	}
	return b, nil
}

// parseClientCert reads Client-Cert, an Item of RFC 8941, and Client-Cert-Chain, a List
// of such in the order of TLS. Both are byte sequences without parameters.
func parseClientCert(field, chainField string, hasChain bool, most int) (leaf *x509.Certificate, chain []*x509.Certificate, err error) {
	if field == "" && hasChain {
		return nil, nil, errChainAlone
	}
	if leaf, err = parseBinary(field); err != nil || !hasChain {
		return leaf, nil, err
	}
	for member := range strings.SplitSeq(chainField, ",") {
		if len(chain) == most {
			return nil, nil, errLongChain
		}
		c, err := parseBinary(strings.Trim(member, " \t"))
		if err != nil {
			return nil, nil, err
		}
		chain = append(chain, c)
	}
	return leaf, chain, nil
}

// parseBinary reads a byte sequence (RFC 8941 section 3.3.5) that is a certificate.
func parseBinary(s string) (*x509.Certificate, error) {
	if len(s) < 2 || s[0] != ':' || s[len(s)-1] != ':' || strings.ContainsAny(s, "\r\n") { // the decoder skips line ends
		return nil, errBinary
	}
	der, err := base64.StdEncoding.Strict().DecodeString(s[1 : len(s)-1])
	if err != nil {
		return nil, errBinary
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, errCertificate
	}
	return c, nil
}

// names are the subject alternative names that can be an identity, as they stand in a
// certificate.
type names struct{ uris, dns []string }

func (n *names) any() bool { return len(n.uris)+len(n.dns) > 0 }

// namesIn reads the one name that a proxy gives: a URI, or a DNS name. A subject is
// neither.
func namesIn(principal string) names {
	switch {
	case strings.Contains(principal, "://"):
		return names{uris: []string{principal}}
	case isDNS(strings.ToLower(principal)):
		return names{dns: []string{principal}}
	}
	return names{}
}

var (
	oidSubjectAltName = asn1.ObjectIdentifier{2, 5, 29, 17}
	errNames          = errors.New("its subject alternative names cannot be read")
)

// The tags of GeneralName (RFC 5280 section 4.2.1.6) that are used.
const (
	tagDNS = 2
	tagURI = 6
)

// namesOf reads the names of a certificate as they stand there. crypto/x509 has parsed
// the URIs, and so would take SPIFFE:// for spiffe://.
func namesOf(c *x509.Certificate) (n names, err error) {
	for i := range c.Extensions {
		if !c.Extensions[i].Id.Equal(oidSubjectAltName) {
			continue
		}
		var list []asn1.RawValue
		if rest, err := asn1.Unmarshal(c.Extensions[i].Value, &list); err != nil || len(rest) > 0 {
			return n, errNames
		}
		for _, name := range list {
			switch {
			case name.Class != asn1.ClassContextSpecific:
				return n, errNames
			case name.Tag == tagURI:
				n.uris = append(n.uris, string(name.Bytes))
			case name.Tag == tagDNS:
				n.dns = append(n.dns, string(name.Bytes))
			}
		}
	}
	return n, nil
}
