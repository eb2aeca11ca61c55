package mtls

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn"
)

// anchors are the CAs and revocation lists in force. They never change: a reload makes
// others.
type anchors struct {
	bundles []bundle
	lists   revocations
	// The rest is the configuration's.
	requireLists, staleLists bool
}

// bundle is a file of CAs.
type bundle struct {
	name, domain string
	pool         *x509.CertPool
	certs        []*x509.Certificate
}

// issuer is who vouches for what the bundle proves.
func (b *bundle) issuer() string {
	if b.domain != "" {
		return spiffeScheme + b.domain
	}
	return b.name
}

// authority names a CA by its name and its key: a CA may have several certificates, and
// what one of them revoked is revoked.
type authority [sha256.Size]byte

func authorityOf(c *x509.Certificate) authority {
	b := binary.BigEndian.AppendUint32(nil, uint32(len(c.RawSubject)))
	return sha256.Sum256(slices.Concat(b, c.RawSubject, c.RawSubjectPublicKeyInfo))
}

// verified is what the verification of a leaf found.
type verified struct {
	issuer string
	// until is when one of what it rests on ends, exclusive.
	until time.Time
}

// The usages that a certificate of a caller must not have, and the one that it needs if
// it lists any (RFC 5280 section 4.2.1.3, X509-SVID section 4.3).
const (
	usageCA   = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	usageLeaf = x509.KeyUsageDigitalSignature
)

// verify finds a chain from the leaf to a bundle of the trust domain, or to one without
// if the domain is empty.
func (a *anchors) verify(leaf *x509.Certificate, presented []*x509.Certificate, domain string, now time.Time) (v verified, err error) {
	if err := checkLeaf(leaf, now); err != nil {
		return v, err
	}
	between := x509.NewCertPool()
	for _, c := range presented {
		if checkKey(c) == nil { // before any signature is verified with it
			between.AddCert(c)
		}
	}
	err = refuseLeaf(leaf, policy.ReasonIssuerUntrusted, "no bundle vouches for names of its kind")
	for i := range a.bundles {
		b := &a.bundles[i]
		if b.domain != domain {
			continue
		}
		chains, failure := leaf.Verify(x509.VerifyOptions{
			Roots: b.pool, Intermediates: between, CurrentTime: now,
			KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		})
		if failure != nil {
			err = explain(leaf, failure)
			continue
		}
		if v.until, err = a.firstUnrevoked(chains, now); err == nil {
			v.issuer = b.issuer()
			return v, nil
		}
		return v, err
	}
	return v, err
}

// firstUnrevoked looks for a chain that no revocation list is against. Without one, the
// error is that of the last.
func (a *anchors) firstUnrevoked(chains [][]*x509.Certificate, now time.Time) (until time.Time, err error) {
	for _, chain := range chains {
		if until, err = a.unrevoked(chain, now); err == nil {
			break
		}
	}
	return until, err
}

// unrevoked asks the CA of each certificate of a chain whether it was revoked, and
// returns when the answer ends. A root is not revoked, but taken out of its bundle.
func (a *anchors) unrevoked(chain []*x509.Certificate, now time.Time) (until time.Time, err error) {
	until = chain[len(chain)-1].NotAfter
	for i, c := range chain[:len(chain)-1] {
		end, err := a.ask(c, chain[i+1], now)
		if err != nil {
			return until, err
		}
		for _, t := range []time.Time{c.NotAfter, end} {
			if !t.IsZero() && t.Before(until) {
				until = t
			}
		}
	}
	return until, nil
}

// ask looks for a certificate on the lists of its CA. They are good until the first of
// them is out of date; a zero time is for ever.
func (a *anchors) ask(c, ca *x509.Certificate, now time.Time) (until time.Time, err error) {
	lists := a.lists[authorityOf(ca)]
	if len(lists) == 0 && a.requireLists {
		return until, fmt.Errorf("there is no revocation list of %s", nameOf(ca))
	}
	for _, l := range lists {
		if l.revokes(c) {
			return until, refuseLeaf(c, policy.ReasonRevoked, "it is on the revocation list of "+nameOf(ca))
		}
	}
	if a.staleLists {
		return until, nil
	}
	for _, l := range lists {
		if !now.Before(l.nextUpdate) {
			return until, fmt.Errorf("the revocation list of %s is out of date since %s", nameOf(ca), l.nextUpdate.UTC().Format(time.RFC3339))
		}
		if until.IsZero() || l.nextUpdate.Before(until) {
			until = l.nextUpdate
		}
	}
	return until, nil
}

// checkLeaf refuses what is not the certificate of a caller at all.
func checkLeaf(leaf *x509.Certificate, now time.Time) error {
	switch {
	case leaf.IsCA || leaf.KeyUsage&usageCA != 0:
		return refuseLeaf(leaf, policy.ReasonCredentialMalformed, "it is one of a CA, which vouches for others and does not call")
	case leaf.KeyUsage != 0 && leaf.KeyUsage&usageLeaf == 0:
		return refuseLeaf(leaf, policy.ReasonCredentialMalformed, "its key usage lacks digitalSignature")
	case now.Before(leaf.NotBefore):
		return refuseLeaf(leaf, policy.ReasonNotYetValid, "it is valid from "+leaf.NotBefore.UTC().Format(time.RFC3339))
	case !now.Before(leaf.NotAfter):
		return refuseLeaf(leaf, policy.ReasonExpired, "it was valid until "+leaf.NotAfter.UTC().Format(time.RFC3339))
	}
	if slices.Contains(brokenSignatures, leaf.SignatureAlgorithm) {
		return refuseLeaf(leaf, policy.ReasonSignatureInvalid, "it is signed with an algorithm that is broken")
	}
	if err := checkKey(leaf); err != nil {
		return refuseLeaf(leaf, policy.ReasonCredentialMalformed, err.Error())
	}
	return nil
}

// brokenSignatures are refused by crypto/x509 as well, wherever they stand in a chain;
// here they get a reason of their own.
var brokenSignatures = []x509.SignatureAlgorithm{x509.MD2WithRSA, x509.MD5WithRSA, x509.SHA1WithRSA, x509.DSAWithSHA1, x509.ECDSAWithSHA1}

// The sizes of RSA keys. More than the largest would cost whoever verifies too much.
const (
	minRSA = 2048
	maxRSA = 8192
)

var errWeakKey = errors.New("its key is neither RSA with 2048 to 8192 bits, nor ECDSA with P-256, P-384 or P-521, nor Ed25519")

// checkKey refuses keys that are weak, or too large to work with.
func checkKey(c *x509.Certificate) error {
	switch key := c.PublicKey.(type) {
	case *rsa.PublicKey:
		if n := key.N.BitLen(); n >= minRSA && n <= maxRSA {
			return nil
		}
	case *ecdsa.PublicKey:
		if key.Curve == elliptic.P256() || key.Curve == elliptic.P384() || key.Curve == elliptic.P521() {
			return nil
		}
	case ed25519.PublicKey:
		return nil
	}
	return errWeakKey
}

// explain says why a chain was not found, in words that hold nothing of what the
// certificates say.
func explain(leaf *x509.Certificate, err error) *authn.Refusal {
	var invalid x509.CertificateInvalidError
	var critical x509.UnhandledCriticalExtension
	switch {
	case errors.As(err, &critical):
		return refuseLeaf(leaf, policy.ReasonCredentialMalformed, "it has a critical extension that is not known")
	case !errors.As(err, &invalid):
		return refuseLeaf(leaf, policy.ReasonIssuerUntrusted, "no chain leads from it to a CA of the bundles: it is of another CA, or an intermediate certificate is missing")
	}
	switch invalid.Reason {
	case x509.Expired:
		return refuseLeaf(leaf, policy.ReasonExpired, "a certificate of its chain is not valid now")
	case x509.IncompatibleUsage:
		return refuseLeaf(leaf, policy.ReasonCredentialMalformed, "its chain does not permit client authentication")
	case x509.CANotAuthorizedForThisName, x509.UnconstrainedName, x509.TooManyConstraints:
		return refuseLeaf(leaf, policy.ReasonIssuerUntrusted, "its CA is constrained to other names")
	}
	return refuseLeaf(leaf, policy.ReasonIssuerUntrusted, "its chain breaks a rule of RFC 5280")
}

func refuseLeaf(leaf *x509.Certificate, reason policy.Reason, why string) *authn.Refusal {
	return authn.Refuse(reason, "certificate "+Fingerprint(leaf)+": "+why)
}

// nameOf names a CA of ours, for people.
func nameOf(ca *x509.Certificate) string { return fmt.Sprintf("%q", ca.Subject.String()) }
