package registry

import (
	"context"
	"errors"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/seal"
	"github.com/postern-auth/postern/server/signer"
	"github.com/postern-auth/postern/server/store"
)

// IssueRequest asks for a credential.
type IssueRequest struct {
	CredentialSpec
	// AllowWildcard lets its rights hold a "*".
	AllowWildcard bool
}

// Issued is a credential that was just made.
type Issued struct {
	Credential
	// Secret is shown once. Zero if the call was only to validate.
	Secret policy.Secret
}

// IssueCredential makes a credential (K-01, P-03).
func (r *Registry) IssueCredential(ctx context.Context, call Call, req IssueRequest) (*Issued, Change, error) {
	var issued *Issued
	change, err := r.change(ctx, call, action{"credential.issue", withheld}, req, func(o *operation) error {
		d := draft{spec: req.CredentialSpec, wildcard: req.AllowWildcard}
		if d.spec.Type == store.Token {
			d.field("type", "a token is one that was made elsewhere: import it, or issue an api_key or a pat")
		}
		c, err := o.draft(&d)
		if err != nil {
			return err
		}
		secret, err := o.secret(c)
		if err != nil {
			return err
		}
		issued = &Issued{Credential: o.view(c), Secret: secret}
		return o.issued(c)
	}, nil)
	if err != nil {
		return nil, change, err
	}
	if call.ValidateOnly {
		withhold(issued)
	}
	return issued, change, nil
}

// withhold takes out of a result what only a call that counts may have.
func withhold(i *Issued) {
	i.Secret = policy.Secret{}
	i.ID, i.Digest = "", ""
}

// secret makes the secret of a credential, and its id and digest.
func (o *operation) secret(c *store.Credential) (policy.Secret, error) {
	if c.Format == store.JWT {
		return o.signed(c)
	}
	m, err := o.mint(kindOf(c.Type), c.Environment, store.KindCredential)
	if err != nil {
		return policy.Secret{}, err
	}
	c.ID, c.Digest = m.ID, m.Digest.String()
	return m.Secret, nil
}

// signed is secret for a token that is a JWT (P-13): its jti is the id of the record,
// and the record has the digest of its whole text, as for every other secret.
func (o *operation) signed(c *store.Credential) (secret policy.Secret, err error) {
	s := o.signer()
	switch {
	case s == nil:
		return secret, fail(NotConfigured, "format", "no JWT can be issued without signing keys: set signing")
	case o.peppers.None():
		return secret, errNoPepper
	}
	if c.ID, err = o.newID(store.KindCredential); err != nil {
		return secret, err
	}
	secret = s.PAT(signer.PAT{
		ID: c.ID, Subject: c.Principal, Tenant: c.Tenant, Environment: c.Environment, IssuedAt: c.CreatedAt, ExpiresAt: c.ExpiresAt,
	})
	digest := o.peppers.Digest(secret)
	if digest.IsZero() {
		return policy.Secret{}, &Error{Fault: fault(Internal, "", "no token could be made"), Err: errors.New("it would be too long")}
	}
	c.Digest = digest.String()
	return secret, nil
}

// issued writes a new credential.
func (o *operation) issued(c *store.Credential) error {
	o.made = c.ID
	o.target(store.KindCredential, c.ID, c.Tenant)
	o.detail("type", string(c.Type))
	o.detail("principal", c.Principal)
	o.detail("name", c.Name)
	o.detail("format", string(c.Format))
	return o.put(c, "the id or the secret")
}

func (o *operation) view(c *store.Credential) Credential {
	return Credential{Credential: c, State: StateOf(c, o.now)}
}

func kindOf(t store.CredentialType) seal.Kind {
	if t == store.PAT {
		return seal.KindPAT
	}
	return seal.KindKey
}

// draft is a credential that somebody wants, with all that is wrong with it.
type draft struct {
	faults
	spec     CredentialSpec
	wildcard bool
	imported bool
	// prefix starts our own secrets.
	prefix string
	// living counts the tokens of users whom an import has looked at.
	living map[string]int
}

// draft makes a credential of a spec, all but its id and digest. It reports every
// fault that it can find at once: first what is wrong in itself, then what the
// tenant forbids, then what the actor may not.
func (o *operation) draft(d *draft) (*store.Credential, error) {
	c := d.form(o)
	p, rules, err := o.receiver(c.Tenant, c.Principal)
	if err != nil {
		return nil, d.also(err, "principal_id")
	}
	o.target(store.KindPrincipal, p.Key(), p.Tenant)
	d.fits(c, p)
	d.life(c, d.spec.TTL, time.Duration(rules.MaxTTL), o.now)
	if err := o.quota(d, c, rules.MaxPATs); err != nil {
		return nil, err
	}
	if err := o.checkParent(&d.faults, c, p); err != nil {
		return nil, err
	}
	d.ownRights(c, p)
	d.installationRoles(c.Tenant, listed(c))
	d.wildcards(o.actor, d.wildcard, Rights{}, listed(c))
	d.grants(o.actor, reach{}, reachOf(c, p))
	d.within(o.actor, c.Constraints)
	return c, d.err()
}

// also adds an error that ends a draft to its faults. What names no field is about
// the given one.
func (f *faults) also(err error, field string) error {
	var e *Error
	if !errors.As(err, &e) || e.Err != nil {
		return err
	}
	if e.Field == "" {
		e.Field = field
	}
	f.list, f.denied = append(f.list, e.All()...), f.denied || e.denied
	return f.err()
}

// form checks what is wrong with a spec in itself, and writes it down.
func (d *draft) form(o *operation) *store.Credential {
	s := &d.spec
	switch s.Type {
	case store.APIKey, store.PAT, store.Token:
	default:
		d.field("type", "is api_key, pat or token")
	}
	if s.Tenant != "" && !isTenantID(s.Tenant) {
		d.field("tenant", "is at most %d lower-case letters, digits, dots, dashes and underscores", maxTenantID)
	}
	d.principalID("principal_id", s.Principal)
	d.name("display_name", s.Name, maxName)
	if s.Type == store.PAT && s.Name == "" {
		d.field("display_name", "is required for a personal access token: say what it is for") // P-03
	}
	if s.Environment != "" && !seal.IsWord(s.Environment) {
		d.field("environment", "is at most %d lower-case letters and digits, a letter first", seal.WordLen)
	}
	d.format(s)
	rights := d.rights(s.Rights)
	limits := d.constraints(s.Constraints)
	if len(s.Metadata) > 0 {
		d.metadata("metadata", s.Metadata)
	}
	return &store.Credential{
		Type: s.Type, Tenant: s.Tenant, Principal: s.Principal, Name: s.Name, Environment: s.Environment, Format: s.Format,
		Roles: rights.Roles, Scopes: rights.Scopes, Permissions: rights.Permissions,
		Constraints: limits, Metadata: s.Metadata, CreatedAt: o.now, UpdatedAt: o.now,
		NotBefore: store.Micro(s.NotBefore), ExpiresAt: store.Micro(s.ExpiresAt),
		Period: store.Duration(s.Period), MaxExpiresAt: store.Micro(s.MaxExpiresAt),
		Parent: s.Parent, IssuedBy: seal.Scrub(o.actor.Name()),
	}
}

// format checks the form of the secret. The end of a JWT stands in it, so that it
// cannot be renewed.
func (d *draft) format(s *CredentialSpec) {
	switch {
	case s.Format == "":
	case s.Format != store.JWT:
		d.field("format", "is jwt, or is left out")
	case s.Type != store.PAT || d.imported:
		d.field("format", "is for personal access tokens that are issued here")
	case s.Period != 0:
		d.field("renew_period", "does not go with a JWT, in which its end is written: rotate it instead")
	}
}

// fits checks that the principal is of a kind that can have the credential: tokens
// of people are for people, keys for programs (K-10, P-01).
func (f *faults) fits(c *store.Credential, p *store.Principal) {
	user := p.Kind == policy.KindUser
	switch {
	case c.Type == store.PAT && !user:
		f.field("principal_id", "is a %s; a personal access token is for a user", p.Kind)
	case c.Type == store.APIKey && user:
		f.field("principal_id", "is a user; an API key is for a service, an agent or a device: issue a pat")
	}
}

// The shortest life and period: less is a mistake in the unit.
const minLife = time.Second

// life works out when a credential ends (K-06, K-07, P-03, P-11). The bound counts
// from when it was made, so that no update and no renewal can move it.
func (f *faults) life(c *store.Credential, ttl, longest time.Duration, now time.Time) {
	latest := c.CreatedAt.Add(longest)
	period := time.Duration(c.Period)
	switch {
	case period < 0 || period > 0 && period < minLife:
		f.field("renew_period", "is at least %s, or is left out", span(minLife))
		return
	case period == 0 && !c.MaxExpiresAt.IsZero():
		f.field("max_expire_time", "needs a renew_period")
		return
	case period > longest:
		f.tooLong("renew_period", longest)
		return
	case period > 0 && c.MaxExpiresAt.IsZero():
		c.MaxExpiresAt = latest
	case c.MaxExpiresAt.After(latest):
		f.tooLong("max_expire_time", longest)
		return
	}
	switch {
	case ttl != 0 && !c.ExpiresAt.IsZero():
		f.field("ttl", "and expire_time exclude each other")
		return
	case ttl < 0 || ttl > 0 && ttl < minLife:
		f.field("ttl", "is at least %s", span(minLife))
		return
	case ttl > longest:
		f.tooLong("ttl", longest)
		return
	case ttl > 0:
		c.ExpiresAt = store.Micro(now.Add(ttl))
	case c.ExpiresAt.IsZero() && period > 0:
		c.ExpiresAt = earlier(now.Add(period), c.MaxExpiresAt)
	case c.ExpiresAt.IsZero():
		c.ExpiresAt = latest
	}
	switch {
	case !c.ExpiresAt.After(now):
		f.field("expire_time", "is in the past")
	case !c.ExpiresAt.After(c.NotBefore):
		f.field("not_before", "is not before its end")
	case c.ExpiresAt.After(latest):
		f.tooLong("expire_time", longest)
	case period > 0 && c.ExpiresAt.After(c.MaxExpiresAt):
		f.field("max_expire_time", "is before expire_time")
	}
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

func (f *faults) tooLong(field string, longest time.Duration) {
	over := fault(TTLTooLong, field, "it would live longer than the tenant allows, which is %s from when it is made", span(longest))
	over.Meta = map[string]string{"max_ttl": span(longest)}
	f.list = append(f.list, over)
}

// quota counts the tokens of a user (P-08). Those that were replaced do not count.
func (o *operation) quota(d *draft, c *store.Credential, most int) error {
	if c.Type != store.PAT {
		return nil
	}
	owner := store.PrincipalKey(c.Tenant, c.Principal)
	n, counted := d.living[owner]
	if !counted {
		err := each[store.Credential](o.tx, store.Query{Owner: owner}, func(c *store.Credential) error {
			if state := StateOf(c, o.now); c.Type == store.PAT && c.Rotated == nil && state != Revoked && state != Expired {
				n++
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	if d.living != nil {
		d.living[owner] = n
	}
	if n >= most {
		d.add(QuotaExceeded, "principal_id", "the user has %d personal access tokens, which is all that the tenant allows: revoke one", n)
	}
	return nil
}

// checkParent looks at the credential with which one is to fall: a living one of
// the same principal, or of one that owns it.
func (o *operation) checkParent(f *faults, c *store.Credential, p *store.Principal) error {
	if c.Parent == "" {
		return nil
	}
	parent, err := readCredential(o.tx, o.actor, c.Parent)
	if ReasonOf(err) == NotFound {
		f.field("parent_id", "there is no such credential")
		return nil
	}
	if err != nil {
		return err
	}
	line, err := o.owners(p)
	if err != nil {
		return err
	}
	related := parent.Tenant == p.Tenant && parent.Principal == p.ID
	for _, owner := range line {
		related = related || parent.Tenant == owner.Tenant && parent.Principal == owner.ID
	}
	switch state := StateOf(parent, o.now); {
	case !related:
		f.field("parent_id", "is a credential of neither the principal nor one that owns it")
	case state == Revoked || state == Rotated || state == Expired || state == Rotating:
		f.add(WrongState, "parent_id", "the parent is at its end")
	}
	return nil
}
