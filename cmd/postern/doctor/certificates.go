package doctor

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"time"

	"github.com/postern-auth/postern/server/regular"
)

// soon is when a certificate that ends is a warning.
const soon = 14 * 24 * time.Hour

// lookAtCertificates looks at those on disk.
func (x *examination) lookAtCertificates() {
	if x.Config == nil || x.Config.TLS == nil {
		return
	}
	chain, err := readCertificates(string(x.Config.TLS.Cert))
	if err != nil {
		return // config check has said it
	}
	x.lookAtChain("tls.cert", chain)
	if x.Config.TLS.ClientCA == "" {
		return
	}
	authorities, err := readCertificates(string(x.Config.TLS.ClientCA))
	if err != nil {
		return
	}
	for _, ca := range authorities {
		x.lookAtEnd("tls.client_ca: "+ca.Subject.String(), ca)
		if !ca.IsCA {
			x.problem("tls", "tls.client_ca: "+ca.Subject.String()+" is no authority, so that no client is taken", "put the CA's own certificate there")
		}
	}
}

// lookAtChain looks at a server's certificate and those after it.
func (x *examination) lookAtChain(what string, chain []*x509.Certificate) {
	if len(chain) == 0 {
		return
	}
	before := len(x.found)
	var signed *x509.Certificate
	for i, c := range chain {
		x.lookAtEnd(what+": "+c.Subject.String(), c)
		if signed != nil && signed.CheckSignatureFrom(c) != nil {
			x.problem("tls", fmt.Sprintf("%s: certificate %d did not sign the one before it; clients cannot follow the chain", what, i+1), "the leaf first, then who signed it, and so on")
		}
		signed = c
	}
	if leaf := chain[0]; len(leaf.DNSNames)+len(leaf.IPAddresses)+len(leaf.URIs) == 0 {
		x.problem("tls", what+" names no host (subjectAltName); no client takes it", "have it issued for the name by which gateways connect")
	}
	if len(x.found) == before {
		x.ok("tls", "%s is good until %s", what, chain[0].NotAfter.UTC().Format(time.RFC3339))
	}
}

// lookAtEnd looks when a certificate ends.
func (x *examination) lookAtEnd(what string, c *x509.Certificate) {
	switch now := x.Now(); {
	case now.Before(c.NotBefore):
		x.problem("tls", fmt.Sprintf("%s is not good before %s", what, c.NotBefore.UTC().Format(time.RFC3339)), "is the clock right?")
	case now.After(c.NotAfter):
		x.problem("tls", fmt.Sprintf("%s has ended at %s", what, c.NotAfter.UTC().Format(time.RFC3339)), "renew it: a new file is taken over without a restart")
	case now.Add(soon).After(c.NotAfter):
		x.warn("tls", fmt.Sprintf("%s ends at %s", what, c.NotAfter.UTC().Format(time.RFC3339)), "renew it: a new file is taken over without a restart")
	}
}

// maxPEM is the size of the largest file of certificates in bytes.
const maxPEM = 1 << 20

// readCertificates reads the certificates of a PEM file.
func readCertificates(name string) (all []*x509.Certificate, err error) {
	text, err := regular.ReadFile(name, maxPEM)
	if err != nil {
		return nil, err
	}
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		all = append(all, c)
	}
	return all, nil
}
