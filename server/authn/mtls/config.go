package mtls

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/strictyaml"
)

// Config is the block `mtls`: whose certificates are believed, and who their holders
// are. Which caller of Postern is believed to say what certificate its client showed is
// said in `callers`.
type Config struct {
	// Bundles are the CAs. Certificates are verified against them although a gateway
	// has done so before. Required.
	Bundles []Bundle `yaml:"bundles,required"`
	// CRLFiles are lists of revoked certificates, PEM or DER, each signed by a CA of
	// the bundles. The certificate of an intermediate CA may stand in the same file, if
	// it is PEM. They are read again when they change, and never replaced by older
	// ones. A list that is out of date says nothing: requests with certificates of its
	// CA get 503.
	CRLFiles []strictyaml.Path `yaml:"crl_files"`
	// RequireCRL has every CA that signed a certificate of a chain need such a list: the
	// others are answered with 503. Without it, a CA that has none revokes nothing.
	// Default: false.
	RequireCRL bool `yaml:"require_crl"`
	// InsecureStaleCRL goes on using a list that is out of date. Danger: whoever can
	// keep the file from being replaced keeps a revoked certificate alive. Default:
	// false.
	InsecureStaleCRL bool `yaml:"insecure_stale_crl"`
	// Identities are the kinds of names that count, in this order: "spiffe", the one
	// SPIFFE id; "uri", one URI of another scheme; "dns", the one DNS name, or of several
	// the one that `principals` lists; "fingerprint", the certificate itself, if
	// `principals` lists it. The common name never counts. Default: spiffe.
	Identities []Identity `yaml:"identities"`
	// Kind is what the holders are: user, service, agent or device. Where there is a
	// store, an agent must be registered there. Default: service.
	Kind policy.Kind `yaml:"kind"`
	// Principals say more about some of them. The first that matches counts; who
	// matches none is a principal too, with nothing but its name.
	Principals []Principal `yaml:"principals"`
	// MaxLifetime is the longest life of a certificate that is accepted; short lives
	// need no revocation. Default: any.
	MaxLifetime time.Duration `yaml:"max_lifetime"`
	// MaxChain is how many certificates may come with the caller's own. Default: 4, at
	// most 10.
	MaxChain int `yaml:"max_chain"`
	// MaxElements is how many hops x-forwarded-client-cert may list; the last one
	// counts. Set it to 1 where the gateway replaces the header (Envoy: SANITIZE_SET):
	// a certificate with a comma among its names then cannot add a hop. Default: 10, at
	// most 100.
	MaxElements int `yaml:"max_elements"`
	// InsecureAcceptNames believes a gateway that names a certificate, by its hash and
	// names, and does not show it. Danger: nothing is verified here, neither bundles nor
	// revocation lists count, older Envoys show one URI of several, and a certificate
	// with a comma among its names can add others. The assurance is 3. Default: false.
	InsecureAcceptNames bool `yaml:"insecure_accept_names"`
}

// Bundle is a file of CAs.
type Bundle struct {
	// Name names it in logs, and is the issuer of what it proves unless it has a trust
	// domain. Required, unique.
	Name string `yaml:"name,required"`
	// TrustDomain is the SPIFFE trust domain of the CAs, as in spiffe://TRUST-DOMAIN/….
	// SPIFFE ids of that domain are verified against its bundles only, and these vouch
	// for nothing else. Without it, a bundle vouches for everything but SPIFFE ids.
	TrustDomain string `yaml:"trust_domain"`
	// File is a PEM file of CA certificates, without private keys. It is read again when
	// it changes; one that is broken or holds no certificate leaves the last good one in
	// force. To rotate a CA, keep the old one beside the new one until its last
	// certificate has ended. Required.
	File strictyaml.Path `yaml:"file,required"`
}

// Principal says who the holder of a certificate is.
type Principal struct {
	// Match is a SPIFFE id, in which * stands for one segment and ** at the end for all
	// that follow; a URI; a DNS name, or one with *. before it; or sha256: and the
	// fingerprint of a certificate in lower-case hex. Required.
	Match string `yaml:"match,required"`
	// ID is the principal's id. It needs a match that fits one identity only. Default:
	// the identity itself. Denylists go by the identity.
	ID string `yaml:"id"`
	// Kind is what the holder is. Default: mtls.kind.
	Kind policy.Kind `yaml:"kind"`
	// Tenant is the tenant that it belongs to. Default: none.
	Tenant string `yaml:"tenant"`
	// Roles, Scopes and Permissions are what it has.
	Roles       []string `yaml:"roles"`
	Scopes      []string `yaml:"scopes"`
	Permissions []string `yaml:"permissions"`
	// Constraints limit where and when it may call.
	Constraints *policy.Constraints `yaml:"constraints"`
}

// Identity is a kind of name in a certificate.
type Identity string

// The kinds of names.
const (
	IdentitySPIFFE      Identity = "spiffe"
	IdentityURI         Identity = "uri"
	IdentityDNS         Identity = "dns"
	IdentityFingerprint Identity = "fingerprint"
)

// Values returns what the configuration may say.
func (Identity) Values() []string {
	return []string{string(IdentitySPIFFE), string(IdentityURI), string(IdentityDNS), string(IdentityFingerprint)}
}

const (
	defaultChain    = 4
	mostChain       = 10
	defaultElements = 10
	mostElements    = 100
)

// SetDefaults sets what each field states as its default.
func (c *Config) SetDefaults() { *c = c.withDefaults() }

// withDefaults sets the fields whose zero value means nothing to their defaults.
func (c Config) withDefaults() Config {
	if c.Identities == nil {
		c.Identities = []Identity{IdentitySPIFFE}
	}
	if c.Kind == "" {
		c.Kind = policy.KindService
	}
	if c.MaxChain == 0 {
		c.MaxChain = defaultChain
	}
	if c.MaxElements == 0 {
		c.MaxElements = defaultElements
	}
	return c
}

// Check reports all that is wrong with the block, each with its field.
func (c *Config) Check(report func(path, message, suggestion string)) {
	d := c.withDefaults()
	d.checkBundles(report)
	d.checkIdentities(report)
	if !isKind(d.Kind) {
		report("kind", "must be user, service, agent or device", "")
	}
	for i := range d.Principals {
		d.checkPrincipal(i, report)
	}
	for i, path := range d.CRLFiles {
		if path == "" {
			report(fmt.Sprintf("crl_files[%d]", i), "is empty", "name a file")
		}
	}
	if d.RequireCRL && len(d.CRLFiles) == 0 {
		report("require_crl", "nobody could be verified: there are no lists", "set crl_files")
	}
	if d.MaxLifetime < 0 {
		report("max_lifetime", "must not be negative", "")
	}
	if d.MaxChain < 1 || d.MaxChain > mostChain {
		report("max_chain", fmt.Sprintf("must be between 1 and %d", mostChain), "")
	}
	if d.MaxElements < 1 || d.MaxElements > mostElements {
		report("max_elements", fmt.Sprintf("must be between 1 and %d", mostElements), "")
	}
}

func (c *Config) checkBundles(report func(path, message, suggestion string)) {
	if len(c.Bundles) == 0 {
		report("bundles", "at least one is required: nobody could be verified", "name a PEM file of CA certificates")
	}
	names := map[string]bool{}
	for i := range c.Bundles {
		b := &c.Bundles[i]
		at := func(field string) string { return fmt.Sprintf("bundles[%d].%s", i, field) }
		switch {
		case !isWord(b.Name):
			report(at("name"), "must be printable text without white space", "")
		case names[b.Name]:
			report(at("name"), fmt.Sprintf("%q is there twice", b.Name), "give each a name of its own")
		case strings.HasPrefix(b.Name, spiffeScheme) || b.Name == issuerForwarded:
			report(at("name"), fmt.Sprintf("%q could be taken for another issuer", b.Name), "use a plain word")
		}
		names[b.Name] = true
		if b.TrustDomain != "" && !isTrustDomain(b.TrustDomain) {
			report(at("trust_domain"), fmt.Sprintf("%q is not a trust domain", b.TrustDomain), "write it as in spiffe://TRUST-DOMAIN/…, for example prod.example.com")
		}
		if b.File == "" {
			report(at("file"), "is empty", "name a PEM file of CA certificates")
		}
	}
}

func (c *Config) checkIdentities(report func(path, message, suggestion string)) {
	if len(c.Identities) == 0 {
		report("identities", "is empty: nobody would have a name", "leave it out for [spiffe]")
	}
	for i, kind := range c.Identities {
		path := fmt.Sprintf("identities[%d]", i)
		switch {
		case !slices.Contains(kind.Values(), string(kind)):
			report(path, fmt.Sprintf("%q is not one of %s", kind, strings.Join(kind.Values(), ", ")), "")
		case slices.Contains(c.Identities[:i], kind):
			report(path, "is there twice", "remove it")
		}
	}
	spiffe := slices.Contains(c.Identities, IdentitySPIFFE)
	domain := slices.ContainsFunc(c.Bundles, func(b Bundle) bool { return b.TrustDomain != "" })
	if spiffe && !domain && len(c.Bundles) > 0 {
		report("identities", "has spiffe, and no bundle is of a trust domain", "set trust_domain of the bundle, or list other kinds, for example [dns]")
	}
}

func (c *Config) checkPrincipal(i int, report func(path, message, suggestion string)) {
	p := &c.Principals[i]
	at := func(field string) string { return fmt.Sprintf("principals[%d].%s", i, field) }
	m, err := parseMatch(p.Match)
	switch {
	case err != nil:
		report(at("match"), fmt.Sprintf("%q is no pattern of identities", p.Match),
			"write spiffe://prod.example.com/ns/shop/**, billing.example.com, *.example.com, or sha256: and 64 hex digits in lower case")
	case m.domain != "" && !slices.ContainsFunc(c.Bundles, func(b Bundle) bool { return b.TrustDomain == m.domain }):
		report(at("match"), fmt.Sprintf("no bundle is of trust domain %q", m.domain), "")
	case !m.single() && p.ID != "":
		report(at("id"), "would give several workloads one id, and "+fmt.Sprintf("%q", p.Match)+" fits several", "leave it out, or match one")
	case slices.ContainsFunc(c.Principals[:i], func(q Principal) bool { return q.Match == p.Match }):
		report(at("match"), fmt.Sprintf("%q is there twice", p.Match), "only the first counts: remove it")
	}
	if p.ID != strings.TrimSpace(p.ID) {
		report(at("id"), "has white space around it", "")
	}
	if p.Kind != "" && !isKind(p.Kind) {
		report(at("kind"), "must be user, service, agent or device", "")
	}
	for _, list := range []struct {
		field string
		items []string
	}{{"roles", p.Roles}, {"scopes", p.Scopes}, {"permissions", p.Permissions}} {
		for j, item := range list.items {
			if !isWord(item) {
				report(fmt.Sprintf("%s[%d]", at(list.field), j), "is empty or holds white space, quotes or backslashes", "write each as an item of its own")
			}
		}
	}
	p.Constraints.Faults(func(path, message, suggestion string) { report(at("constraints."+path), message, suggestion) })
}

func isKind(k policy.Kind) bool {
	return k == policy.KindUser || k == policy.KindService || k == policy.KindAgent || k == policy.KindDevice
}

// isWord reports whether a text is visible, and needs no quotes anywhere.
func isWord(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r == 0x7f || r == '"' || r == '\\' })
}
