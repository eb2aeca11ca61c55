package mtls

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn"
)

// identity is who a certificate says its holder is.
type identity struct {
	// name is the SPIFFE id, the URI, the DNS name in lower case, or "sha256:" and the
	// fingerprint.
	name string
	// domain is the SPIFFE trust domain; empty for the other kinds.
	domain string
}

const (
	spiffeScheme      = "spiffe://"
	fingerprintPrefix = "sha256:"
)

// identify chooses the identity among the names of a certificate, before anybody has
// vouched for it. A name of a kind that counts and that is wrong is a refusal: nobody
// becomes somebody else by one.
func (a *Authenticator) identify(n names, fingerprint string) (identity, error) {
	for _, kind := range a.cfg.Identities {
		var id identity
		var err error
		switch kind {
		case IdentitySPIFFE:
			id, err = a.spiffe(n.uris)
		case IdentityURI:
			id, err = otherURI(n.uris)
		case IdentityDNS:
			id, err = a.dns(n.dns)
		case IdentityFingerprint:
			if fingerprint != "" && a.listed(fingerprintPrefix+fingerprint) {
				id.name = fingerprintPrefix + fingerprint
			}
		}
		if err != nil {
			return identity{}, err
		}
		if id.name != "" {
			return id, nil
		}
	}
	return identity{}, authn.Refuse(policy.ReasonCredentialUnknown,
		fmt.Sprintf("certificate %s has no name of the kinds in mtls.identities: %v", fingerprint, a.cfg.Identities))
}

var errManyURIs = authn.Refuse(policy.ReasonCredentialMalformed, "the certificate has more than one URI: it must have exactly one (X509-SVID section 2)")

// spiffe takes the one URI of a certificate if it is a SPIFFE id. X509-SVID section 2
// permits no other URI beside it.
func (a *Authenticator) spiffe(uris []string) (id identity, err error) {
	if !slices.ContainsFunc(uris, looksSPIFFE) {
		return id, nil
	}
	if len(uris) > 1 {
		return id, errManyURIs
	}
	domain, ok := spiffeDomain(uris[0])
	switch {
	case !ok:
		return id, authn.Refuse(policy.ReasonCredentialMalformed, "the SPIFFE id of the certificate is not well-formed")
	case !a.domains[domain]:
		return id, authn.Refuse(policy.ReasonIssuerUntrusted, fmt.Sprintf("no bundle is of trust domain %q", domain))
	}
	return identity{name: uris[0], domain: domain}, nil
}

// otherURI takes the one URI of a certificate if it is not a SPIFFE id.
func otherURI(uris []string) (id identity, err error) {
	switch {
	case len(uris) > 1:
		return id, errManyURIs
	case len(uris) == 0 || looksSPIFFE(uris[0]):
		return id, nil
	case !isURI(uris[0]):
		return id, authn.Refuse(policy.ReasonCredentialMalformed, "the URI of the certificate is not well-formed")
	}
	return identity{name: uris[0]}, nil
}

// dns takes the one DNS name of a certificate, or of several the one that principals
// list.
func (a *Authenticator) dns(all []string) (id identity, err error) {
	var hosts []string
	for _, name := range all {
		host := strings.ToLower(name)
		if !isDNS(host) {
			return id, authn.Refuse(policy.ReasonCredentialMalformed, "a DNS name of the certificate is not that of one host")
		}
		if !slices.Contains(hosts, host) {
			hosts = append(hosts, host)
		}
	}
	if len(hosts) > 1 {
		hosts = slices.DeleteFunc(hosts, func(host string) bool { return !a.listed(host) })
		if len(hosts) != 1 {
			return id, authn.Refuse(policy.ReasonCredentialAmbiguous, "the certificate has several DNS names, and mtls.principals does not list exactly one of them")
		}
	}
	if len(hosts) == 1 {
		id.name = hosts[0]
	}
	return id, nil
}

// looksSPIFFE reports whether somebody could take the URI for a SPIFFE id.
func looksSPIFFE(uri string) bool {
	return len(uri) >= len(spiffeScheme) && strings.EqualFold(uri[:len("spiffe:")], "spiffe:")
}

// maxURI is how long a SPIFFE id may be (SPIFFE-ID section 2.3).
const maxURI = 2048

// spiffeDomain returns the trust domain of a SPIFFE id of a workload: one with a path,
// written in the one way that the standard has (SPIFFE-ID section 2).
func spiffeDomain(id string) (domain string, ok bool) {
	rest, ok := strings.CutPrefix(id, spiffeScheme)
	if !ok || len(id) > maxURI {
		return "", false
	}
	domain, path, found := strings.Cut(rest, "/")
	if !found || !isTrustDomain(domain) {
		return "", false
	}
	for segment := range strings.SplitSeq(path, "/") {
		if segment == "" || segment == "." || segment == ".." || strings.Trim(segment, pathCharacters) != "" {
			return "", false
		}
	}
	return domain, true
}

const (
	domainCharacters = "abcdefghijklmnopqrstuvwxyz0123456789.-_"
	pathCharacters   = domainCharacters + "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
)

func isTrustDomain(s string) bool {
	return s != "" && len(s) <= 255 && strings.Trim(s, domainCharacters) == ""
}

// isURI reports whether a text is visible ASCII with a scheme and an authority.
func isURI(s string) bool {
	scheme, rest, found := strings.Cut(s, "://")
	return found && scheme != "" && strings.Trim(scheme, "abcdefghijklmnopqrstuvwxyz0123456789+-.") == "" &&
		rest != "" && len(s) <= maxURI && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r >= 0x7f })
}

// isDNS reports whether a text is the name of one host, in lower case.
func isDNS(s string) bool {
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
			return false
		}
	}
	return len(s) <= 253 && strings.Trim(s, "0123456789.") != "" // which would be an address
}

// entry is a Principal whose match was read.
type entry struct {
	*Principal
	match match
}

func newEntries(cfg *Config) []entry {
	all := make([]entry, len(cfg.Principals))
	for i := range cfg.Principals {
		m, _ := parseMatch(cfg.Principals[i].Match) // Check has read it
		all[i] = entry{&cfg.Principals[i], m}
	}
	return all
}

// entryOf returns the first entry that fits the identity or the certificate; nil for
// none.
func (a *Authenticator) entryOf(id identity, fingerprint string) *entry {
	for i := range a.entries {
		if m := &a.entries[i].match; m.fits(id.name) || fingerprint != "" && m.exact == fingerprintPrefix+fingerprint {
			return &a.entries[i]
		}
	}
	return nil
}

// listed reports whether an entry fits a name.
func (a *Authenticator) listed(name string) bool {
	return slices.ContainsFunc(a.entries, func(e entry) bool { return e.match.fits(name) })
}

// apply puts into a principal what the entry says of it.
func (e *entry) apply(p *policy.Principal) {
	if e.ID != "" {
		p.ID = e.ID
	}
	if e.Kind != "" {
		p.Kind = e.Kind
	}
	p.Tenant, p.Roles, p.Scopes, p.Permissions = e.Tenant, e.Roles, e.Scopes, e.Permissions
}

// match is a pattern of identities. The zero match fits none.
type match struct {
	exact string // a fingerprint, or a URI that is no SPIFFE id
	// domain and path are the parts of a SPIFFE pattern.
	domain string
	path   policy.PathPattern
	host   policy.HostPattern
}

// parseMatch reads a pattern: spiffe:// with "*" for a segment and "**" for all that
// follow, another URI, sha256: and 64 hexadecimal digits, or a host pattern.
func parseMatch(text string) (m match, err error) {
	if text == "" {
		return m, errMatch
	}
	if hex, ok := strings.CutPrefix(text, fingerprintPrefix); ok {
		if !isFingerprint(hex) {
			return m, errMatch
		}
		return match{exact: text}, nil
	}
	if rest, ok := strings.CutPrefix(text, spiffeScheme); ok {
		domain, path, found := strings.Cut(rest, "/")
		if !found || !isTrustDomain(domain) || strings.Trim(path, pathCharacters+"/*") != "" || strings.HasSuffix(path, "/") || path == "" {
			return m, errMatch
		}
		m.domain = domain
		m.path, err = policy.ParsePathPattern("/" + path)
		return m, err
	}
	if strings.Contains(text, "://") {
		if !isURI(text) || looksSPIFFE(text) || strings.Contains(text, "*") {
			return m, errMatch
		}
		return match{exact: text}, nil
	}
	if !isDNS(strings.TrimPrefix(text, "*.")) {
		return m, errMatch
	}
	m.host, err = policy.ParseHostPattern(text)
	return m, err
}

var errMatch = errors.New("is no pattern of identities")

// fits reports whether the pattern fits an identity's name.
func (m *match) fits(name string) bool {
	switch {
	case m.exact != "":
		return m.exact == name
	case m.domain != "":
		rest, ok := strings.CutPrefix(name, spiffeScheme)
		domain, path, found := strings.Cut(rest, "/")
		return ok && found && domain == m.domain && m.path.Match(name[len(name)-len(path)-1:])
	}
	return !strings.Contains(name, ":") && m.host.Match(name)
}

// single reports whether the pattern fits one identity only.
func (m *match) single() bool {
	return m.exact != "" || !strings.Contains(m.path.String()+m.host.String(), "*")
}
