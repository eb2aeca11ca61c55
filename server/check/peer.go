package check

import (
	"errors"
	"net/netip"
	"slices"
	"strings"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn"
)

// Peers proves the workload at the other end of the client's TLS connection
// (server/authn/mtls).
type Peers interface {
	// Peer returns the proof of the workload whose certificate the attributes show, as
	// far as their caller is believed. The errors are those of authn.Authenticator;
	// ErrNotMine says that there is no certificate.
	Peer(a *policy.Attributes, t Trust) (*authn.Proof, error)
}

// Possessions verifies DPoP proofs (server/authn/dpop). An error is a *authn.Refusal,
// or says that it could not be found out.
type Possessions interface {
	Verify(p *authn.Possession) error
	// Challenge returns the parameters of a DPoP challenge (RFC 9449 section 7.1), each
	// after a comma, and the DPoP-Nonce to send with it, or "". The error is that of
	// Verify, or nil.
	Challenge(err error) (parameters, nonce string)
}

// Zone is where a request comes from: an address of CIDRs, or a peer of one of the
// trust domains.
type Zone struct {
	Name         string
	CIDRs        []netip.Prefix
	TrustDomains []string
}

func (z *Zone) holds(client netip.Addr, peer *policy.Peer) bool {
	if client.IsValid() && slices.ContainsFunc(z.CIDRs, func(p netip.Prefix) bool { return p.Contains(client) }) {
		return true
	}
	return peer != nil && peer.TrustDomain != "" && slices.Contains(z.TrustDomains, peer.TrustDomain)
}

// meet proves the peer and finds out from which zones the request comes. A
// certificate that is bad ends the check, whatever else the request brings.
func (c *Checker) meet(x *exchange) bool {
	if c.cfg.Peers != nil {
		proof, err := c.cfg.Peers.Peer(x.attributes, x.trust)
		switch {
		case err == nil && proof != nil:
			x.peer, x.decision.Peer = proof, proof.Peer
		case err == nil || errors.Is(err, authn.ErrNotMine):
		case x.identifying && len(x.creds) > 0 && isRefusal(err):
			// The listener took the certificate for the connection; it need not be one that
			// names a caller where a credential does.
		default:
			return x.refuse(err)
		}
	}
	for i := range c.cfg.Zones {
		if z := &c.cfg.Zones[i]; z.holds(x.request.ClientIP, x.decision.Peer) {
			x.request.Zones = append(x.request.Zones, z.Name)
		}
	}
	return true
}

func isRefusal(err error) bool {
	refusal := (*authn.Refusal)(nil)
	return errors.As(err, &refusal)
}

// inZones reports whether the request comes from one of the zones.
func (x *exchange) inZones(zones []string) bool {
	return slices.ContainsFunc(zones, func(z string) bool { return slices.Contains(x.request.Zones, z) })
}

// usesHere are the methods by which a credential may be proven where the request comes
// from. A password is not even looked at outside of its zones.
func (c *Checker) usesHere(x *exchange, uses []policy.Method) []policy.Method {
	if len(c.cfg.MethodZones) == 0 {
		return uses
	}
	barred := func(m policy.Method) bool {
		zones, limited := c.cfg.MethodZones[m]
		return limited && !x.inZones(zones)
	}
	if !slices.ContainsFunc(uses, barred) {
		return uses
	}
	return slices.DeleteFunc(slices.Clone(uses), barred)
}

// bound holds a proof against what its credential is bound to: the client's
// certificate (RFC 8705 section 3), the key of a DPoP proof (RFC 9449 section 7.1). A
// token that came as DPoP must be bound to a key, and one that is bound to a key must
// come as DPoP, or a stolen one could be used as a bearer token.
func (c *Checker) bound(x *exchange, cred *authn.Credential, proof *authn.Proof) bool {
	if want := proof.Confirm.Certificate; want != "" && (x.peer == nil || x.peer.Peer == nil || x.peer.Peer.Fingerprint != want) {
		return x.deny(policy.ReasonBinding, "the token is bound to another certificate than the client's, or there is none")
	}
	key := proof.Confirm.Key
	switch dpop := cred.Scheme == schemeDPoP; {
	case !dpop && key == "":
		return true
	case !dpop:
		return x.deny(policy.ReasonBinding, "the token is bound to a key, and was not sent as DPoP")
	case key == "" || c.cfg.Possessions == nil:
		return x.deny(policy.ReasonBinding, "the token was sent as DPoP, and is not bound to a key")
	}
	text, n := x.attributes.Headers.Get("dpop")
	if n != 1 {
		return x.deny(policy.ReasonBinding, "there is not exactly one DPoP field")
	}
	path, _, _ := strings.Cut(x.attributes.Path, "?")
	x.possession = c.cfg.Possessions.Verify(&authn.Possession{
		Proof: text, Method: x.request.Method, Scheme: x.request.Scheme, Host: x.request.Host, Port: x.request.Port,
		Path: path, Token: cred.Secret, Key: key,
	})
	return x.possession == nil || x.refuse(x.possession)
}

const schemeDPoP = "dpop"

// The fields in which a gateway says what certificate its client showed.
const (
	fieldXFCC            = "x-forwarded-client-cert"
	fieldClientCert      = "client-cert"
	fieldClientCertChain = "client-cert-chain"
)

// forwarded are all of them, none of which an upstream may take from a client.
var forwarded = []string{fieldXFCC, fieldClientCert, fieldClientCertChain}

// strip takes away what the caller is not believed to say, so that neither Postern
// nor a policy takes it for the truth, and reports whether a certificate was forwarded
// without that belief.
func (t Trust) strip(a *policy.Attributes) (forwarded bool) {
	if !t.SourcePrincipal {
		a.Source = policy.Endpoint{Address: a.Source.Address}
	}
	if !t.Subject {
		a.Asserted = nil
	}
	if !t.Extensions {
		a.Extensions, a.Metadata = nil, nil
	}
	disbelieved := func(h policy.Header) bool { return !t.believes(h.Name) }
	if slices.ContainsFunc(a.Headers, disbelieved) {
		a.Headers = slices.DeleteFunc(a.Headers, disbelieved)
		return true
	}
	return false
}

// believes reports whether a field of that name may stay as the caller sent it.
func (t Trust) believes(name string) bool {
	switch name {
	case fieldXFCC:
		return t.XFCC
	case fieldClientCert, fieldClientCertChain:
		return t.ClientCert
	}
	return true
}

// anybodyForwards reports whether some caller is believed what it says in the field.
func (cfg *Config) anybodyForwards(name string) bool {
	for _, t := range cfg.Trust {
		if t.believes(name) {
			return true
		}
	}
	return false
}
