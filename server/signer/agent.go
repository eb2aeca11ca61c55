package signer

import (
	"encoding/hex"
	"fmt"
	"strconv"
	"time"

	"github.com/postern-auth/postern/policy"
)

// TypeAgent is the typ of agent tokens.
const TypeAgent = "agent+jwt"

// TypeClaim is the claim type of agent tokens.
const TypeClaim = "agent"

// Agent is what an agent token says. Who verifies it here holds all of it against what is
// registered of the agent (server/authn/agent): a token can lose rights that way, and
// never gain any.
type Agent struct {
	// ID is the claim jti; see NewID.
	ID string
	// Subject is the agent, or whoever Actors act for. Kind is empty for an agent, and
	// Origin for those for whom Postern itself vouches: an issuer's URL.
	Subject string
	Kind    policy.Kind
	Origin  string
	Tenant  string
	// Audience are the services that it is for.
	Audience []string
	// Roles and Scopes are what it grants.
	Roles, Scopes []string
	// TokenBudget is how many model tokens may be spent by it; 0 for no limit of its own.
	TokenBudget int64
	// Budgets are those of the tokens that it came from, of which is spent as well, and Via
	// the ids of the kept credentials that it came from. See policy.Principal.
	Budgets []policy.SharedBudget
	Via     []string
	// Origins are all credentials that it came from, those of Via among them: at most
	// MaxOrigins.
	Origins []Origin
	// Root is the credential that it came from first of all (policy.Principal.BudgetID).
	Root string
	// ACR, AMR and AuthTime say how the user logged in for whom Actors act; empty if
	// nobody knows (RFC 9470 section 2, RFC 8176).
	ACR      string
	AMR      []string
	AuthTime time.Time
	// Actors are those who act for the subject, the one who shows the token first.
	Actors []policy.Actor
	// Certificate is the SHA-256 of a client certificate in hex, and Key the thumbprint of
	// a JWK, to which the token is bound; empty for none.
	Certificate, Key    string
	IssuedAt, ExpiresAt time.Time
}

// Origin is a credential from which a token came, by all the names that a denylist may have
// for it: the members of authn.Subject, which says what they are. IssuedAt is cut to seconds.
type Origin struct {
	TokenID, SessionID                string
	KeyID                             string
	Fingerprint                       string
	Issuer, ID, Client, Agent, Tenant string
	IssuedAt                          time.Time
}

// MaxOrigins is from how many credentials a token comes at most. Where three agents act for
// one another and for a user, these are nine: the user's, those of the agents and of whoever
// issued them, and what the first two exchanges gave.
const MaxOrigins = 12

// Agent returns an agent token:
//
//	iss, sub, aud, iat, exp, jti   RFC 7519; aud is one text, or a list of several
//	tenant                         whose it is
//	type                           "agent"
//	roles, scopes                  lists
//	scope                          the scopes as one text (RFC 8693 section 4.2)
//	token_budget                   how many model tokens may be spent by it
//	budgets                        those of tokens that it came from: a list of jti,
//	                               token_budget and exp
//	via, root                      the ids of the kept credentials that it came from, and of
//	                               the first of all
//	origins                        all that it came from, as a denylist names it: a list of
//	                               iss, sub, agent, tenant, jti, sid, client_id, kid, iat and
//	                               fingerprint
//	acr, amr, auth_time            how the user logged in (RFC 9068 section 2.2.1)
//	kind, origin                   of a subject that is no agent of Postern's
//	act                            who acts for it (RFC 8693 section 4.1)
//	cnf                            what it is bound to: x5t#S256 (RFC 8705 section 3.1),
//	                               jkt (RFC 9449 section 6.1)
//
// Those that are empty are missing. Times are cut to seconds. The errors are those of
// Identity.
func (s *Signer) Agent(t *Agent) (policy.Secret, error) {
	switch {
	case s == nil:
		return policy.Secret{}, ErrNotConfigured
	case t.Subject == "" || t.ID == "":
		return policy.Secret{}, ErrNobody
	case len(t.Audience) == 0:
		return policy.Secret{}, ErrNoAudience
	case t.ExpiresAt.Unix() <= t.IssuedAt.Unix():
		return policy.Secret{}, ErrEnded
	case len(t.Actors) > maxActors || len(t.Origins) > MaxOrigins:
		return policy.Secret{}, ErrTooLarge
	}
	o := newObject(1024)
	o.text("iss", s.issuer)
	o.text("sub", t.Subject)
	if len(t.Audience) == 1 {
		o.text("aud", t.Audience[0])
	} else {
		o.list("aud", t.Audience)
	}
	o.time("iat", t.IssuedAt)
	o.time("exp", t.ExpiresAt)
	o.text("jti", t.ID)
	o.text("tenant", t.Tenant)
	o.text("type", TypeClaim)
	o.text("kind", string(t.Kind))
	o.text("origin", t.Origin)
	o.list("roles", t.Roles)
	o.list("scopes", t.Scopes)
	o.scope(t.Scopes)
	if t.TokenBudget > 0 {
		o.name("token_budget")
		o.b = strconv.AppendInt(o.b, t.TokenBudget, 10)
	}
	o.budgets(t.Budgets)
	o.list("via", t.Via)
	o.text("root", t.Root)
	o.origins(t.Origins)
	o.text("acr", t.ACR)
	o.list("amr", t.AMR)
	o.time("auth_time", t.AuthTime)
	o.actors(t.Actors)
	if err := o.confirmation(t.Certificate, t.Key); err != nil {
		return policy.Secret{}, err
	}
	text := s.Sign(TypeAgent, o.end())
	if len(text) > MaxTokenBytes {
		return policy.Secret{}, ErrTooLarge
	}
	return policy.NewSecret(text), nil
}

// NewID makes the id of a token that people may have to revoke: 128 bits less a fraction of
// one, as none begins with a dash, which a command line would take for a flag.
func (s *Signer) NewID() (string, error) {
	if s == nil {
		return "", ErrNotConfigured
	}
	id, err := s.newID()
	if err != nil {
		return "", err
	}
	if id[0] == '-' {
		id[0] = 'A'
	}
	return string(id[:]), nil
}

// budgets writes what is spent of besides.
func (o *object) budgets(all []policy.SharedBudget) {
	if len(all) == 0 {
		return
	}
	o.name("budgets")
	for i, b := range all {
		o.b = append(o.b, "[,"[min(i, 1)], '{')
		o.text("jti", b.ID)
		o.name("token_budget")
		o.b = strconv.AppendInt(o.b, b.Limit, 10)
		o.time("exp", b.ExpiresAt)
		o.b = append(o.b, '}')
	}
	o.b = append(o.b, ']')
}

// origins writes what the token came from.
func (o *object) origins(all []Origin) {
	if len(all) == 0 {
		return
	}
	o.name("origins")
	for i := range all {
		from := &all[i]
		o.b = append(o.b, "[,"[min(i, 1)], '{')
		o.text("iss", from.Issuer)
		o.text("sub", from.ID)
		o.text("agent", from.Agent)
		o.text("tenant", from.Tenant)
		o.text("jti", from.TokenID)
		o.text("sid", from.SessionID)
		o.text("client_id", from.Client)
		o.text("kid", from.KeyID)
		o.text("fingerprint", from.Fingerprint)
		o.time("iat", from.IssuedAt)
		o.b = append(o.b, '}')
	}
	o.b = append(o.b, ']')
}

// confirmation writes what a token is bound to (RFC 7800).
func (o *object) confirmation(certificate, key string) error {
	if certificate == "" && key == "" {
		return nil
	}
	o.name("cnf")
	o.b = append(o.b, '{')
	if certificate != "" {
		sum, err := hex.DecodeString(certificate)
		if err != nil {
			return fmt.Errorf("the certificate that the token is to be bound to: %w", err)
		}
		o.text("x5t#S256", b64.EncodeToString(sum))
	}
	o.text("jkt", key)
	o.b = append(o.b, '}')
	return nil
}
