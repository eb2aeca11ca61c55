// Package mtls proves the workload at the other end of a TLS connection by its
// certificate.
//
// # Evidence
//
// Postern rarely ends the client's TLS itself. Who does says what it saw, and four
// places can say it. Each counts only where the caller of Postern is trusted to say so
// (Trust), because a certificate is public: whoever can write one into a header has
// not shown that he holds its key.
//
//	x-forwarded-client-cert   Envoy's header, one element for each hop; the last one
//	                          is the nearest hop's, and the only one that is used
//	Client-Cert               the same by RFC 9440, with Client-Cert-Chain
//	source.certificate        Envoy's ext_authz, with source.principal
//	Connection                the caller's own certificate, when it asks for itself
//
// All that is there must speak of one leaf, or the answer is a refusal: two proxies
// that disagree leave no way to know who called.
//
// # Verification
//
// A proxy's word is not enough if the certificate itself is there. It is verified again:
// the leaf is no CA, may be used for client authentication, is valid now, leads to a
// bundle over chains whose keys and signatures are strong enough, and no revocation list
// names it. Lists of certificates (CRLs) count for the CA that signed them; one that is
// out of date says nothing, so what it should have said could not be found out.
//
// A leaf has one identity, read from its subject alternative names before anything else:
//
//	one URI, spiffe://…   verified against the bundles of its trust domain only
//	a URI, a DNS name     if the configuration lists them
//	neither               its fingerprint, if the configuration knows it
//
// The common name is never one. A bundle with a trust domain vouches for the SPIFFE ids
// of that domain and for nothing else; one without vouches for everything but SPIFFE ids.
//
// # Memory
//
// A proof is found again by a keyed hash over all the evidence, each part with its
// length before it. It is good until the certificate, its chain or a revocation list
// ends, and as long as bundles and lists are those that it was verified with: a reload
// swaps them for others, and no proof survives that. So a caller that was seen before
// costs one hash and no allocation.
package mtls

import (
	"context"
	"crypto/rand"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/maypok86/otter/v2"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn"
	"github.com/postern-auth/postern/server/regular"
	"github.com/postern-auth/postern/server/strictyaml"
)

// Trust is what the caller of Postern is believed to say about its own client. The
// zero Trust is nothing.
type Trust struct {
	// Forwarded believes the header x-forwarded-client-cert. The caller must be the
	// one that sets it, on every request: a proxy that passes on what a client sent
	// lets everybody be anybody.
	Forwarded bool
	// ClientCert believes Client-Cert and Client-Cert-Chain (RFC 9440), which is a
	// matter of its own: Envoy takes away the header above from clients, and not these.
	ClientCert bool
	// Source believes source.certificate and source.principal of ext_authz.
	Source bool
	// Own takes the certificate of the caller's own connection for the client's.
	Own bool
}

// Deps are what the authenticator takes from outside. Zero fields are the real
// things.
type Deps struct {
	// Now is the clock; time.Now by default.
	Now func() time.Time
	// ReadFile reads a file of the configuration, and no more of it than a limit; by
	// default regular files from disk.
	ReadFile func(name string, limit int64) ([]byte, error)
}

// Authenticator proves peers. It answers from RAM and waits for nothing.
type Authenticator struct {
	cfg      Config
	domains  map[string]bool // the trust domains of all bundles
	entries  []entry
	now      func() time.Time
	readFile func(string, int64) ([]byte, error)

	anchors atomic.Pointer[anchors]
	key     [32]byte // of the hashes by which proofs are found
	good    *otter.Cache[[32]byte, *remembered]
	bad     *otter.Cache[[32]byte, *remembered]

	reloading sync.Mutex // one reload at a time; also guards what follows
	files     []file
	faulty    bool // lists of before are in force in the place of files'

	mu     sync.Mutex // guards status
	status Status
}

// New reads the files of the configuration and returns an authenticator. An error
// lists all that is wrong: without CAs, or without the revocation lists that somebody
// configured, nobody is let in.
func New(cfg Config, deps Deps) (*Authenticator, error) {
	cfg = cfg.withDefaults()
	if err := strictyaml.Check("mtls.", cfg.Check); err != nil {
		return nil, err
	}
	a := &Authenticator{
		cfg:      cfg,
		domains:  map[string]bool{},
		entries:  newEntries(&cfg),
		now:      deps.Now,
		readFile: deps.ReadFile,
		files:    cfg.files(),
		good:     otter.Must(&otter.Options[[32]byte, *remembered]{MaximumSize: goodSize}),
		bad:      otter.Must(&otter.Options[[32]byte, *remembered]{MaximumSize: badSize}),
	}
	if a.now == nil {
		a.now = time.Now
	}
	if a.readFile == nil {
		a.readFile = regular.ReadFile
	}
	for _, b := range cfg.Bundles {
		a.domains[b.TrustDomain] = b.TrustDomain != ""
	}
	_, _ = rand.Read(a.key[:]) // never fails: it ends the process instead
	if err := a.Reload(context.Background()); err != nil {
		return nil, err
	}
	return a, nil
}

// Peer proves the workload at the other end of the client's connection. It returns
// authn.ErrNotMine if nothing that the caller is trusted to say speaks of a certificate,
// a *authn.Refusal if something does and it is bad, and any other error if a revocation
// list is out of date. The proof is shared and must not be changed. Peer needs no
// network, and does not allocate for a certificate that it has seen before.
func (a *Authenticator) Peer(attrs *policy.Attributes, t Trust) (*authn.Proof, error) {
	var e evidence
	switch err := e.collect(attrs, t); {
	case err != nil:
		return nil, err
	case e.none():
		return nil, authn.ErrNotMine
	}
	current, now, key := a.anchors.Load(), a.now(), e.hash(&a.key)
	if r, ok := a.good.GetIfPresent(key); ok && r.usable(current, now) {
		return r.proof, nil
	}
	if r, ok := a.bad.GetIfPresent(key); ok && r.usable(current, now) {
		return nil, r.refusal
	}
	proof, until, err := a.prove(current, &e, now)
	a.remember(key, current, now, proof, until, err)
	return proof, err
}

// prove reads the evidence and verifies what it speaks of. The proof may be used again
// until some time.
func (a *Authenticator) prove(current *anchors, e *evidence, now time.Time) (*authn.Proof, time.Time, error) {
	seen, err := e.read(&a.cfg)
	if err != nil {
		return nil, time.Time{}, err
	}
	if seen.leaf == nil {
		proof, err := a.believe(seen)
		return proof, now.Add(maxAge), err
	}
	id, err := a.identify(seen.names, seen.fingerprint)
	if err != nil {
		return nil, time.Time{}, err
	}
	v, err := current.verify(seen.leaf, seen.chain, id.domain, now)
	if err != nil {
		return nil, time.Time{}, err
	}
	if most := a.cfg.MaxLifetime; most > 0 && seen.leaf.NotAfter.Sub(seen.leaf.NotBefore) > most {
		return nil, time.Time{}, authn.Refuse(policy.ReasonLifetimeExceeded, "certificate "+seen.fingerprint+" lives longer than mtls.max_lifetime")
	}
	return a.proof(seen, id, v.issuer), v.until, nil
}

// believe makes a proof of what a proxy says of a certificate that it keeps to itself.
func (a *Authenticator) believe(seen *sighting) (*authn.Proof, error) {
	if !a.cfg.InsecureAcceptNames {
		return nil, authn.Refuse(policy.ReasonCredentialUnknown,
			"the caller names a client certificate and does not show it: have it send the certificate itself")
	}
	id, err := a.identify(seen.names, seen.fingerprint)
	if err != nil {
		return nil, err
	}
	issuer := issuerForwarded
	if id.domain != "" {
		issuer = spiffeScheme + id.domain
	}
	// What outlives the request must not hold on to its text.
	id.name, id.domain, seen.fingerprint = strings.Clone(id.name), strings.Clone(id.domain), strings.Clone(seen.fingerprint)
	return a.proof(seen, id, issuer), nil
}

// issuerForwarded vouches for names of which nobody showed the certificate.
const issuerForwarded = "forwarded"

// proof makes the proof of a leaf that was verified or is believed.
func (a *Authenticator) proof(seen *sighting, id identity, issuer string) *authn.Proof {
	entry := a.entryOf(id, seen.fingerprint)
	p := &policy.Principal{
		ID: id.name, Kind: a.cfg.Kind, Method: policy.MethodMTLS, Assurance: assuranceNamed,
		CredentialID: seen.fingerprint, Issuer: issuer,
	}
	proof := &authn.Proof{
		Principal: p,
		Peer:      &policy.Peer{ID: id.name, TrustDomain: id.domain, Fingerprint: seen.fingerprint},
		Subject:   authn.Subject{Fingerprint: seen.fingerprint, ID: id.name, Issuer: issuer},
		State:     policy.StateNone,
	}
	if leaf := seen.leaf; leaf != nil {
		p.Assurance, p.IssuedAt, p.ExpiresAt = assuranceProven, leaf.NotBefore, leaf.NotAfter
		proof.NotAfter = leaf.NotAfter
		proof.Subject.TokenID, proof.Subject.IssuedAt = leaf.SerialNumber.Text(16), leaf.NotBefore
	}
	if entry != nil {
		entry.apply(p)
		proof.Constraints, proof.Subject.Tenant = entry.Constraints, entry.Tenant
	}
	return proof
}

// The assurance of a certificate that was verified here, and of one that a proxy only
// speaks of.
const (
	assuranceProven = 4
	assuranceNamed  = 3
)

// The bounds of the memory of proofs. Refusals have their own, so that bad certificates
// cannot drive out good ones, and are forgotten soon.
const (
	goodSize = 10_000
	badSize  = 1_000
	maxAge   = 5 * time.Minute
	badAge   = 2 * time.Second
)

// remembered is what became of some evidence.
type remembered struct {
	proof   *authn.Proof
	refusal *authn.Refusal
	anchors *anchors
	until   time.Time // exclusive
}

func (r *remembered) usable(current *anchors, now time.Time) bool {
	return r.anchors == current && now.Before(r.until)
}

// remember keeps an answer; that something could not be found out is none.
func (a *Authenticator) remember(key [32]byte, current *anchors, now time.Time, proof *authn.Proof, until time.Time, err error) {
	if err == nil {
		if latest := now.Add(maxAge); until.After(latest) {
			until = latest
		}
		a.good.Set(key, &remembered{proof: proof, anchors: current, until: until})
		return
	}
	var refusal *authn.Refusal
	if errors.As(err, &refusal) {
		a.bad.Set(key, &remembered{refusal: refusal, anchors: current, until: now.Add(badAge)})
	}
}
