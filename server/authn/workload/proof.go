package workload

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn"
	"github.com/postern-auth/postern/server/jose"
)

// assurance is the level of a token that was signed for, or by, a workload.
const assurance = 3

// domain is a TrustDomain made ready, client a Client.
type (
	domain struct {
		id          string
		keys        jose.Keys
		rules       jose.ClaimRules
		maxLifetime time.Duration
		whose
	}
	client struct {
		id         string
		keys       jose.Keys
		algorithms []string
		rules      jose.ClaimRules
		reusable   bool
		// holds has what the configuration grants, and nothing else.
		holds policy.Principal
		whose
	}
	// whose is what every principal of a domain or client gets.
	whose struct {
		kind        policy.Kind
		tenant      string
		constraints *policy.Constraints
	}
)

func newDomain(cfg *Config, d *TrustDomain, keys map[string]jose.Keys) *domain {
	audiences := d.Audiences
	if len(audiences) == 0 {
		audiences = cfg.Audiences
	}
	return &domain{
		id: d.id(), keys: keys[d.id()], maxLifetime: d.MaxLifetime,
		rules: jose.ClaimRules{Audiences: slices.Clone(audiences), Skew: cfg.ClockSkew},
		whose: whose{d.Kind, d.Tenant, d.Constraints},
	}
}

func newClient(cfg *Config, c *Client, keys map[string]jose.Keys) *client {
	return &client{
		id: c.ID, keys: keys[c.ID], algorithms: slices.Clone(c.Algorithms), reusable: c.Reusable,
		rules: jose.ClaimRules{Audiences: slices.Clone(cfg.Audiences), Skew: cfg.ClockSkew, MaxLifetime: c.MaxLifetime},
		holds: policy.Principal{Roles: slices.Clone(c.Roles), Permissions: slices.Clone(c.Permissions), Scopes: slices.Clone(c.Scopes), Metadata: c.Metadata},
		whose: whose{c.Kind, c.Tenant, c.Constraints},
	}
}

// prove proves the token.
func (t *owned) prove(ctx context.Context, now time.Time) (*authn.Proof, error) {
	if t.client != nil {
		return t.client.prove(ctx, t, now)
	}
	return t.domain.prove(ctx, t, now)
}

// prove proves a JWT-SVID (JWT-SVID sections 2 to 4).
func (d *domain) prove(ctx context.Context, t *owned, now time.Time) (*authn.Proof, error) {
	// 1. Header: no parameter but these (section 2), and a key that it names. The
	// specification leaves kid out of what it requires; but keys of a bundle have one,
	// and makers of SVIDs write it.
	for name, v := range t.Header().Members() {
		switch name {
		case "alg", "kid":
		case "typ":
			if !v.Is("JWT") && !v.Is("JOSE") {
				return nil, authn.Refuse(policy.ReasonWrongTokenType, "typ is not that of a JWT-SVID")
			}
		default:
			return nil, authn.Refuse(policy.ReasonCredentialMalformed, fmt.Sprintf("header: a JWT-SVID has no %.64q", name))
		}
	}
	if t.KeyID() == "" {
		return nil, authn.Refuse(policy.ReasonSignatureInvalid, "the JWT-SVID names no key")
	}

	// 2. Signature.
	key, err := verify(ctx, t.Token, d.id, d.keys, svidAlgorithms)
	if err != nil {
		return nil, err
	}

	// 3. Claims.
	if !isWorkload(t.subject) {
		return nil, invalid("sub is not the SPIFFE id of a workload")
	}
	life, err := d.rules.Lifetime(t.Claims(), now)
	if err != nil {
		return nil, refuse(err)
	}
	begins := life.Issued
	if begins.IsZero() {
		begins = now
	}
	if lives := life.Expires.Sub(begins); lives > d.maxLifetime {
		return nil, authn.Refuse(policy.ReasonLifetimeExceeded, fmt.Sprintf("the token lives %s, at most %s is accepted", lives, d.maxLifetime))
	}
	if err := d.rules.CheckAudience(t.Claims().Get("aud")); err != nil {
		return nil, refuse(err)
	}

	// 4. Principal.
	p := &policy.Principal{ID: t.subject, Method: policy.MethodSVID, Issuer: d.id}
	return d.proof(t, p, key, life, &d.rules)
}

// prove proves a token that a client signed (RFC 7523 section 3).
func (c *client) prove(ctx context.Context, t *owned, now time.Time) (*authn.Proof, error) {
	// 1. Header.
	if err := jose.CheckPlain(t.Token); err != nil {
		return nil, refuse(err)
	}

	// 2. Signature.
	key, err := verify(ctx, t.Token, c.id, c.keys, c.algorithms)
	if err != nil {
		return nil, err
	}

	// 3. Claims.
	if t.subject != c.id {
		return nil, invalid("sub is not the client's own id, as iss is")
	}
	life, err := c.rules.Lifetime(t.Claims(), now)
	if err != nil {
		return nil, refuse(err)
	}
	if err := c.rules.CheckAudience(t.Claims().Get("aud")); err != nil {
		return nil, refuse(err)
	}
	if !c.reusable && !t.Claims().Get("jti").Exists() {
		return nil, invalid("jti is missing, by which a token is accepted once")
	}

	// 4. Principal.
	p := c.holds
	p.ID, p.Method, p.Issuer = c.id, policy.MethodWorkload, c.id
	if p.Scopes, err = c.narrow(t.Claims().Get("scope")); err != nil {
		return nil, err
	}
	proof, err := c.proof(t, &p, key, life, &c.rules)
	if err == nil {
		proof.Subject.Client = c.id
	}
	return proof, err
}

// narrow returns the scopes that the token asks for, of those that the client holds; all
// if it asks for none in particular.
func (c *client) narrow(scope jose.Value) ([]string, error) {
	if !scope.Exists() {
		return c.holds.Scopes, nil
	}
	text, ok := scope.Text()
	if !ok {
		return nil, invalid("scope is %s, not a string (RFC 8693 section 4.2)", scope.Kind())
	}
	wanted := strings.Fields(text)
	for _, s := range wanted {
		if !slices.Contains(c.holds.Scopes, s) {
			return nil, invalid("scope has what the client was not given")
		}
	}
	return wanted, nil
}

// proof makes the proof of a principal. The claims that it reads mean the same in both
// kinds.
func (w *whose) proof(t *owned, p *policy.Principal, key *jose.Key, life jose.Lifetime, rules *jose.ClaimRules) (*authn.Proof, error) {
	id := t.Claims().Get("jti")
	p.CredentialID, _ = id.Text()
	if id.Exists() && (!jose.IsIdentifier(p.CredentialID) || len(p.CredentialID) > maxID) {
		return nil, invalid("jti is no printable text of 1 to %d bytes", maxID)
	}
	if t.Claims().Get("act").Exists() {
		return nil, invalid("act: a workload signs for itself, and nobody acts for it")
	}
	certificate, confirmed, err := jose.ReadConfirmation(t.Claims().Get("cnf"))
	if err != nil {
		return nil, refuse(err)
	}
	p.Kind, p.Tenant, p.Assurance = w.kind, w.tenant, assurance
	p.IssuedAt, p.ExpiresAt = life.Issued, life.Expires
	subject := authn.SubjectOf(p)
	subject.KeyID = key.ID
	return &authn.Proof{
		Principal:   p,
		Constraints: w.constraints,
		NotAfter:    life.NotAfter,
		Confirm:     authn.Confirmation{Certificate: certificate, Key: confirmed},
		State:       policy.StateNone,
		Subject:     subject,
		Audiences:   rules.Named(t.Claims().Get("aud")),
	}, nil
}

// maxID is the length of the longest jti in bytes.
const maxID = 512

// verify returns the key that signed the token.
func verify(ctx context.Context, t *jose.Token, owner string, keys jose.Keys, algorithms []string) (*jose.Key, error) {
	if !slices.Contains(algorithms, t.Algorithm()) {
		return nil, authn.Refuse(policy.ReasonSignatureInvalid, t.Algorithm()+" is not an algorithm of "+owner)
	}
	found, err := keys.Find(ctx, t.KeyID(), t.Algorithm())
	if err != nil {
		return nil, fmt.Errorf("keys of %s: %w", owner, err)
	}
	if len(found) == 0 {
		return nil, authn.RefuseNoKey(fmt.Sprintf("%s has no key %.128q for %s", owner, t.KeyID(), t.Algorithm()))
	}
	key, err := jose.Verify(t, found, algorithms)
	if err != nil {
		return nil, authn.Refuse(policy.ReasonSignatureInvalid, err.Error())
	}
	return key, nil
}

func invalid(format string, args ...any) error {
	return authn.Refuse(policy.ReasonInvalidClaim, fmt.Sprintf(format, args...))
}

// refuse turns what package jose says is wrong with a claim into a Refusal.
func refuse(err error) error {
	if claim := (*jose.ClaimError)(nil); errors.As(err, &claim) {
		return authn.Refuse(claim.Reason, claim.Detail)
	}
	return err
}
