package apikey

import (
	"errors"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn"
)

// Revocation is one line of the denylist: it names what is no longer believed,
// although its signature is good and its time has not run out. Exactly one of
// JTI, SID, KID, Subject, Client and Tenant is set.
type Revocation struct {
	// JTI revokes one token by its jti claim, or one key by its id.
	JTI string `yaml:"jti"`
	// SID revokes all tokens of one session by their sid claim.
	SID string `yaml:"sid"`
	// KID revokes all tokens that the issuer signed with this key.
	KID string `yaml:"kid"`
	// Subject, Client and Tenant revoke all their tokens that were issued before
	// IssuedBefore. A token that does not say when it was issued is among them.
	Subject string `yaml:"subject"`
	Client  string `yaml:"client"`
	Tenant  string `yaml:"tenant"`
	// Issuer is whose token is meant, as its iss claim has it; "postern" for own
	// keys. Required with KID, Subject and Client, whose names mean nothing
	// without it; with the others, leaving it out means every issuer.
	Issuer string `yaml:"issuer"`
	// IssuedBefore is an instant in RFC 3339. Required with Subject, Client and
	// Tenant, and only there. A token issued at the very instant stays good.
	IssuedBefore time.Time `yaml:"issued_before"`
	// Note says why, for people.
	Note string `yaml:"note"`
}

// named is a name as its issuer uses it; an empty issuer is every issuer.
type named struct{ issuer, name string }

// Denylist answers whether a credential was revoked. It is immutable, and nil
// revokes nothing. A look-up costs at most ten map reads and no allocation,
// however long the list is.
type Denylist struct {
	tokens, sessions, keys     map[named]struct{}
	subjects, clients, tenants map[named]time.Time
	size                       int
}

// The mistakes that a revocation can hold.
var (
	errRevokeOne    = errors.New("a revocation names exactly one of jti, sid, kid, subject, client, tenant")
	errRevokeIssuer = errors.New("kid, subject and client need an issuer: names mean nothing without it")
	errRevokeBefore = errors.New("subject, client and tenant need issued_before, jti, sid and kid must not have it")
)

// NewDenylist builds a denylist, or returns what is wrong with the first bad
// line. Of two lines for the same subject the later instant counts.
func NewDenylist(revocations []Revocation) (*Denylist, error) {
	if len(revocations) == 0 {
		return nil, nil
	}
	d := &Denylist{
		tokens: map[named]struct{}{}, sessions: map[named]struct{}{}, keys: map[named]struct{}{},
		subjects: map[named]time.Time{}, clients: map[named]time.Time{}, tenants: map[named]time.Time{},
	}
	for i := range revocations {
		if err := revocations[i].validate(); err != nil {
			return nil, err
		}
		d.add(&revocations[i])
	}
	return d, nil
}

func (r *Revocation) validate() error {
	n := 0
	for _, name := range []string{r.JTI, r.SID, r.KID, r.Subject, r.Client, r.Tenant} {
		if name != "" {
			n++
		}
	}
	before := r.Subject+r.Client+r.Tenant != ""
	switch {
	case n != 1:
		return errRevokeOne
	case r.KID+r.Subject+r.Client != "" && r.Issuer == "":
		return errRevokeIssuer
	case before == r.IssuedBefore.IsZero():
		return errRevokeBefore
	}
	return nil
}

func (d *Denylist) add(r *Revocation) {
	d.size++
	for _, one := range []struct {
		name string
		in   map[named]struct{}
	}{{r.JTI, d.tokens}, {r.SID, d.sessions}, {r.KID, d.keys}} {
		if one.name != "" {
			one.in[named{r.Issuer, one.name}] = struct{}{}
		}
	}
	for _, all := range []struct {
		name string
		in   map[named]time.Time
	}{{r.Subject, d.subjects}, {r.Client, d.clients}, {r.Tenant, d.tenants}} {
		if n := (named{r.Issuer, all.name}); all.name != "" && r.IssuedBefore.After(all.in[n]) {
			all.in[n] = r.IssuedBefore
		}
	}
}

// Len returns the number of revocations.
func (d *Denylist) Len() int {
	if d == nil {
		return 0
	}
	return d.size
}

// Revoked reports whether the credential was revoked, with the reason to give.
func (d *Denylist) Revoked(s *authn.Subject) (policy.Reason, bool) {
	if d == nil {
		return policy.ReasonUnspecified, false
	}
	revoked := listed(d.tokens, s.Issuer, s.TokenID) ||
		listed(d.sessions, s.Issuer, s.SessionID) ||
		listed(d.keys, s.Issuer, s.KeyID) ||
		issuedBefore(d.subjects, s.Issuer, s.ID, s.IssuedAt) ||
		issuedBefore(d.clients, s.Issuer, s.Client, s.IssuedAt) ||
		issuedBefore(d.tenants, s.Issuer, s.Tenant, s.IssuedAt)
	if !revoked {
		return policy.ReasonUnspecified, false
	}
	return policy.ReasonRevoked, true
}

// listed reports whether the name is revoked for its issuer or for every issuer.
func listed(m map[named]struct{}, issuer, name string) bool {
	if len(m) == 0 || name == "" {
		return false
	}
	_, theirs := m[named{issuer, name}]
	_, everyones := m[named{"", name}]
	return theirs || everyones
}

// issuedBefore reports whether all that the name got before some later instant
// is revoked. The zero time is before every instant, so no iat means revoked.
func issuedBefore(m map[named]time.Time, issuer, name string, issued time.Time) bool {
	if len(m) == 0 || name == "" {
		return false
	}
	return issued.Before(m[named{issuer, name}]) || issued.Before(m[named{"", name}])
}
