package mtls

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"slices"
	"strings"
	"sync"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn"
)

// The header fields that are looked at.
const (
	fieldXFCC            = "x-forwarded-client-cert"
	fieldClientCert      = "client-cert"
	fieldClientCertChain = "client-cert-chain"
)

// maxEvidence is how long all the evidence of a request may be, in bytes. A chain of
// four certificates with RSA-4096 keys, URL-encoded and said twice, needs 25 KiB.
const maxEvidence = 64 << 10

// evidence is what a caller that is trusted to say it says of the client's certificate,
// unread. Fields that are there and empty are evidence too, and bad.
type evidence struct {
	xfcc, clientCert, clientCertChain          string
	hasXFCC, hasClientCert, hasClientCertChain bool
	certificate, principal                     string
	connection                                 []*x509.Certificate
}

var (
	errRepeated = authn.Refuse(policy.ReasonCredentialAmbiguous, "a header field about the client's certificate occurs twice")
	errTooLong  = authn.Refuse(policy.ReasonTokenTooLarge, "what is said of the client's certificate is longer than 64 KiB")
)

// collect takes what is trusted from the attributes.
func (e *evidence) collect(attrs *policy.Attributes, t Trust) error {
	size := 0
	if t.Forwarded || t.ClientCert {
		for i := range attrs.Headers {
			h := &attrs.Headers[i]
			repeated := false
			switch {
			case t.Forwarded && h.Name == fieldXFCC:
				repeated, e.hasXFCC, e.xfcc = e.hasXFCC, true, h.Value
			case t.ClientCert && h.Name == fieldClientCert:
				repeated, e.hasClientCert, e.clientCert = e.hasClientCert, true, h.Value
			case t.ClientCert && h.Name == fieldClientCertChain:
				repeated, e.hasClientCertChain, e.clientCertChain = e.hasClientCertChain, true, h.Value
			}
			if repeated {
				return errRepeated
			}
		}
		size = len(e.xfcc) + len(e.clientCert) + len(e.clientCertChain)
	}
	if t.Source {
		e.certificate, e.principal = attrs.Source.Certificate, attrs.Source.Principal
		size += len(e.certificate) + len(e.principal)
	}
	if t.Own {
		e.connection = attrs.Connection
		for _, c := range e.connection {
			size += len(c.Raw)
		}
	}
	if size > maxEvidence {
		return errTooLong
	}
	return nil
}

func (e *evidence) none() bool {
	return !e.hasXFCC && !e.hasClientCert && !e.hasClientCertChain && e.certificate == "" && e.principal == "" && len(e.connection) == 0
}

// buffers hold the input of hashes.
var buffers = sync.Pool{New: func() any {
	b := make([]byte, 0, 4<<10)
	return &b
}}

// hash is SHA-256 over a key of this process and the parts, each with its length before
// it. It never leaves the process, so one pass is enough.
func (e *evidence) hash(key *[32]byte) [32]byte {
	pooled, _ := buffers.Get().(*[]byte)
	b := append((*pooled)[:0], key[:]...)
	b = appendField(b, e.xfcc, e.hasXFCC)
	b = appendField(b, e.clientCert, e.hasClientCert)
	b = appendField(b, e.clientCertChain, e.hasClientCertChain)
	b = appendField(b, e.certificate, true)
	b = appendField(b, e.principal, true)
	for _, c := range e.connection {
		b = binary.BigEndian.AppendUint32(b, uint32(len(c.Raw)))
		b = append(b, c.Raw...)
	}
	sum := sha256.Sum256(b)
	*pooled = b
	buffers.Put(pooled)
	return sum
}

// appendField appends a part that may be absent, which is not the same as empty.
func appendField(b []byte, text string, there bool) []byte {
	if !there {
		return binary.BigEndian.AppendUint32(b, 1<<31) // longer than any text can be
	}
	b = binary.BigEndian.AppendUint32(b, uint32(len(text)))
	return append(b, text...)
}

// sighting is what the evidence says, read: of one leaf, whoever speaks of it.
type sighting struct {
	// leaf is nil if nobody shows it, and chain are the certificates that came with it.
	leaf  *x509.Certificate
	chain []*x509.Certificate
	// fingerprint is the leaf's SHA-256 in lower-case hex; empty if unknown.
	fingerprint string
	// names are the leaf's, or, without it, what a proxy says they are.
	names names
	// claims are what was said without showing the certificate.
	claims []claim
}

// claim is what somebody says of a certificate without showing it. Empty fields say
// nothing.
type claim struct {
	fingerprint string
	names       names
	// principal is a name in Envoy's choice: the first URI, else the first DNS name,
	// else the subject.
	principal string
}

var errDisagree = authn.Refuse(policy.ReasonCredentialAmbiguous, "what is said of the client's certificate does not speak of one certificate")

// read parses everything and holds it against each other.
func (e *evidence) read(cfg *Config) (*sighting, error) {
	s := &sighting{}
	for _, part := range []func(*sighting, *Config) error{e.readXFCC, e.readClientCert, e.readSource, e.readConnection} {
		if err := part(s, cfg); err != nil {
			return nil, err
		}
	}
	if s.leaf != nil {
		names, err := namesOf(s.leaf)
		if err != nil {
			return nil, malformed("the certificate", err)
		}
		s.names = names
	}
	return s, s.reconcile()
}

// show adds a certificate that somebody shows, with its chain.
func (s *sighting) show(leaf *x509.Certificate, chain []*x509.Certificate) error {
	if s.leaf != nil && !s.leaf.Equal(leaf) {
		return errDisagree
	}
	s.leaf, s.chain, s.fingerprint = leaf, append(s.chain, chain...), Fingerprint(leaf)
	return nil
}

// reconcile holds the claims against the leaf or, if there is none, makes one of them.
func (s *sighting) reconcile() error {
	for _, c := range s.claims {
		if s.leaf == nil && c.fingerprint != "" {
			s.fingerprint, s.names = c.fingerprint, c.names
		}
	}
	for _, c := range s.claims {
		switch {
		case c.fingerprint != "" && c.fingerprint != s.fingerprint, !s.names.hold(&c.names):
			return errDisagree
		case c.principal == "":
		case s.names.any():
			if !s.names.fits(c.principal) {
				return errDisagree
			}
		case s.leaf == nil:
			s.names = namesIn(c.principal)
		}
	}
	return nil
}

// readXFCC reads the nearest hop's element of x-forwarded-client-cert.
func (e *evidence) readXFCC(s *sighting, cfg *Config) error {
	if !e.hasXFCC {
		return nil
	}
	elements, err := parseXFCC(e.xfcc, cfg.MaxElements)
	if err != nil {
		return malformed(fieldXFCC, err)
	}
	hop, err := readHop(elements[len(elements)-1])
	if err != nil {
		return malformed(fieldXFCC, err)
	}
	s.claims = append(s.claims, claim{fingerprint: hop.hash, names: hop.names})
	chain, err := hop.certificates(cfg.MaxChain)
	if err != nil {
		return malformed(fieldXFCC, err)
	}
	if len(chain) == 0 {
		return nil
	}
	return s.show(chain[0], chain[1:])
}

// readClientCert reads the fields of RFC 9440.
func (e *evidence) readClientCert(s *sighting, cfg *Config) error {
	if !e.hasClientCert && !e.hasClientCertChain {
		return nil
	}
	leaf, chain, err := parseClientCert(e.clientCert, e.clientCertChain, e.hasClientCertChain, cfg.MaxChain)
	if err != nil {
		return malformed(fieldClientCert, err)
	}
	return s.show(leaf, chain)
}

// readSource reads the peer of ext_authz.
func (e *evidence) readSource(s *sighting, _ *Config) error {
	if e.principal != "" {
		s.claims = append(s.claims, claim{principal: e.principal})
	}
	if e.certificate == "" {
		return nil
	}
	list, err := parseEncodedPEM(e.certificate, 1)
	if err != nil {
		return malformed("source.certificate", err)
	}
	return s.show(list[0], nil)
}

// readConnection takes the chain of the caller's own handshake.
func (e *evidence) readConnection(s *sighting, cfg *Config) error {
	switch n := len(e.connection); {
	case n == 0:
		return nil
	case n > cfg.MaxChain+1:
		return malformed("the connection", errLongChain)
	}
	return s.show(e.connection[0], e.connection[1:])
}

// malformed refuses what cannot be read. The errors of this package's parsers quote
// nothing.
func malformed(what string, err error) *authn.Refusal {
	return authn.Refuse(policy.ReasonCredentialMalformed, what+": "+err.Error())
}

// hold reports whether all of other names are among these. A proxy need not repeat each
// name of a certificate, but whichever it gives is there.
func (n *names) hold(others *names) bool {
	for _, uri := range others.uris {
		if !slices.Contains(n.uris, uri) {
			return false
		}
	}
	for _, name := range others.dns {
		if !slices.ContainsFunc(n.dns, func(own string) bool { return strings.EqualFold(own, name) }) {
			return false
		}
	}
	return true
}

// fits reports whether a principal in Envoy's choice can be of a certificate with these
// names.
func (n *names) fits(principal string) bool {
	if len(n.uris) > 0 {
		return principal == n.uris[0]
	}
	return len(n.dns) == 0 || strings.EqualFold(principal, n.dns[0])
}
