package agent

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"hash/maphash"
	"slices"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn"
	"github.com/postern-auth/postern/server/jose"
	"github.com/postern-auth/postern/server/seal"
	"github.com/postern-auth/postern/server/signer"
)

// The levels of the proofs, see policy.Principal.Assurance.
const (
	assuranceSigned = 3
	assuranceBound  = 4 // to a certificate, which the Checker asks for
)

// maxID is the length of the longest jti in bytes.
const maxID = 256

// own proves what Postern signed itself, all but its records.
func (a *Authenticator) own(token *jose.Token) (*authn.Proof, error) {
	// 1. Signature. The header is known letter by letter.
	key, err := verify(token, a.keys, []string{"EdDSA"})
	if err != nil {
		return nil, err
	}

	// 2. Claims.
	claims := token.Claims()
	if !claims.Get("iss").Is(a.issuer) || !claims.Get("type").Is(signer.TypeClaim) {
		return nil, authn.Refuse(policy.ReasonWrongTokenType, "signed by Postern, and no agent token of this issuer")
	}
	rules := jose.ClaimRules{Audiences: a.cfg.Audiences, Skew: a.cfg.ClockSkew, MaxLifetime: MaxTTL}
	proof, err := a.said(claims, rules, true)
	if err != nil {
		return nil, err
	}

	// 3. Subject.
	p := proof.Principal
	kind, _ := claims.Get("kind").Text()
	origin, _ := claims.Get("origin").Text()
	switch p.Kind = policy.Kind(kind); {
	case !claims.Get("kind").Exists() && !claims.Get("origin").Exists():
		p.Kind = policy.KindAgent
	case p.Kind != policy.KindUser:
		return nil, invalid("kind is not user")
	case len(p.Actors) == 0:
		return nil, invalid("act is missing, without which the token is of an agent itself")
	}
	if origin != "" {
		p.Issuer = origin
	}
	if err := agentsAct(p.Actors, claims.Get("act")); err != nil {
		return nil, err
	}
	a.named(proof, key.ID)
	if p.Issuer != seal.Issuer {
		// The token and who acts by it are Postern's. The subject is in Origins, with the
		// issuer that vouches for it.
		proof.Subject.Issuer, proof.Subject.ID = seal.Issuer, ""
	}
	if err := comesFrom(proof, claims); err != nil {
		return nil, err
	}
	return proof, nil
}

// elder proves a token of compat_hs256, all but its record.
func (a *Authenticator) elder(token *jose.Token, text string) (*authn.Proof, error) {
	// 1. Header and signature.
	if err := jose.CheckPlain(token); err != nil {
		return nil, refuse(err)
	}
	if a.shared == nil {
		return nil, authn.ErrNotMine
	}
	if _, err := verify(token, a.shared, []string{algHS256}); err != nil {
		return nil, err
	}

	// 2. Claims: these and no others, as nobody could say what they promise.
	claims := token.Claims()
	for name := range claims.Members() {
		switch name {
		case "sub", "tenant", "scopes", "token_budget", "iat", "exp", "type", "aud", "jti", "nbf":
		default:
			return nil, invalid("%.64q is no claim of a token of compat_hs256", name)
		}
	}
	rules := jose.ClaimRules{Audiences: a.cfg.Audiences, Skew: a.cfg.ClockSkew, MaxLifetime: a.cfg.CompatHS256.MaxLifetime}
	if !claims.Get("aud").Exists() {
		rules.Audiences = nil
	}
	proof, err := a.said(claims, rules, false)
	if err != nil {
		return nil, err
	}
	p := proof.Principal
	p.Kind = policy.KindAgent
	if p.TokenBudget == 0 {
		p.TokenBudget = a.cfg.TokenBudget
	}
	if p.CredentialID == "" { // so that it can be revoked, and has a budget of its own
		sum := sha256.Sum256([]byte(text))
		p.CredentialID = "hs256-" + base64.RawURLEncoding.EncodeToString(sum[:16])
	}
	return a.named(proof, ""), nil
}

// selfSigned proves a token that an agent signed with a key of its record (RFC 7523
// section 3), and uses it up.
func (a *Authenticator) selfSigned(token *jose.Token) (*authn.Proof, error) {
	// 1. Record.
	claims := token.Claims()
	id, _ := claims.Get("iss").Text()
	tenant, is := claims.Get("tenant").Text()
	if claims.Get("tenant").Exists() && !is {
		return nil, invalid("tenant is %s, not a string", claims.Get("tenant").Kind())
	}
	record := a.agents.Agent(tenant, id)
	switch {
	case record == nil:
		return nil, errUnregistered
	case a.alsoOwned != nil && a.alsoOwned(id, id):
		return nil, errTwoOwners
	}

	// 2. Header and signature.
	if err := jose.CheckPlain(token); err != nil {
		return nil, refuse(err)
	}
	keys, err := a.keysOf(record)
	if err != nil {
		return nil, err
	}
	key, err := verify(token, keys, a.cfg.Algorithms)
	if err != nil {
		return nil, err
	}

	// 3. Claims.
	if t := claims.Get("type"); t.Exists() && !t.Is(signer.TypeClaim) {
		return nil, authn.Refuse(policy.ReasonWrongTokenType, "its claim type says that it is no token of an agent")
	}
	for _, name := range [...]string{"kind", "origin"} {
		if claims.Get(name).Exists() {
			return nil, invalid("%s: an agent signs for itself", name)
		}
	}
	rules := jose.ClaimRules{Audiences: a.cfg.Audiences, Skew: a.cfg.ClockSkew, MaxLifetime: a.cfg.MaxLifetime}
	proof, err := a.said(claims, rules, true)
	if err != nil {
		return nil, err
	}
	p := proof.Principal
	p.Kind, p.AMR, p.ACR, p.AuthTime = policy.KindAgent, []string{AMRKey}, "", time.Time{} // nobody has logged in
	p.BudgetID = tenant + " " + id + " " + p.CredentialID                                  // the agent chose the jti: it may be that of somebody else's token or key
	for i := range p.Actors {
		p.Actors[i].Kind = policy.KindAgent // or nobody could say whether they are in force
	}

	// 4. Records.
	if err := inForce(record); err != nil {
		return nil, err
	}
	if err := a.ask(p, claims, record); err != nil {
		return nil, err
	}
	if proof, err = a.standing(a.named(proof, key.ID)); err != nil {
		return nil, err
	}

	// 5. Once.
	err = a.once.Use(proof.NotAfter, tenant, id, p.CredentialID)
	switch {
	case errors.Is(err, authn.ErrUsed):
		return nil, errUsed
	case errors.Is(err, authn.ErrOver):
		return nil, authn.Refuse(policy.ReasonExpired, "it expired while it was being proven")
	case err != nil:
		return nil, fmt.Errorf("tokens that agents signed: %w", err)
	}
	return proof, nil
}

// AMRKey says in the principal of a token that an agent signed itself that whoever calls
// holds a key (RFC 8176 section 2).
const AMRKey = "pop"

var (
	// Of an issuer that nobody knows here: another kind may.
	errUnregistered = authn.Refuse(policy.ReasonIssuerUntrusted, "no agent of that name is registered in the tenant")
	errTwoOwners    = authn.Refuse(policy.ReasonCredentialAmbiguous, "the token names an agent, and an issuer or workload of ours")
	errUsed         = authn.Refuse(policy.ReasonReplayed, "the jti was used before")
)

// ask sets what a token asks for, which must be within what its agent may have; all of it
// if the token asks for nothing in particular.
func (a *Authenticator) ask(p *policy.Principal, claims jose.Value, record *authn.Agent) error {
	roles, scopes := a.allowed(record)
	narrowsRoles, narrowsScopes := claims.Get("roles").Exists(), claims.Get("scopes").Exists() || claims.Get("scope").Exists()
	switch {
	case !narrowsRoles && !narrowsScopes:
		p.Roles, p.Scopes, p.Permissions = roles, scopes, record.Principal.Permissions
		return nil
	case narrowsRoles && !narrowsScopes:
		p.Scopes = a.cfg.ScopesOf(p.Roles)
	}
	for _, role := range p.Roles {
		if !slices.Contains(roles, role) {
			return widened("the token asks for a role that the agent may not have")
		}
	}
	if !within(p.Scopes, scopes) {
		return widened("the token asks for a scope that the agent may not have")
	}
	return nil
}

// said makes a proof of what claims say of a token and of whom it is. Rights are as the
// token has them.
func (a *Authenticator) said(claims jose.Value, rules jose.ClaimRules, named bool) (*authn.Proof, error) {
	life, err := rules.Lifetime(claims, a.now())
	if err != nil {
		return nil, refuse(err)
	}
	limits, err := a.audience(claims.Get("aud"), rules)
	if err != nil {
		return nil, err
	}
	who, err := claimMap(claims).Read(claims)
	if err != nil {
		return nil, refuse(err)
	}
	certificate, key, err := jose.ReadConfirmation(claims.Get("cnf"))
	if err != nil {
		return nil, refuse(err)
	}
	budget, err := budgetOf(claims.Get("token_budget"))
	if err != nil {
		return nil, err
	}
	said := who.Principal
	switch {
	case said.ID == "":
		return nil, invalid("sub is missing")
	case named && said.CredentialID == "":
		return nil, invalid("jti is missing, by which a token is known")
	case len(said.CredentialID) > maxID:
		return nil, invalid("jti has more than %d bytes", maxID)
	case len(said.Actors) > a.cfg.MaxDepth:
		return nil, widened(fmt.Sprintf("%d act for one another, at most %d are accepted", len(said.Actors), a.cfg.MaxDepth))
	}
	p := &policy.Principal{
		ID: said.ID, Tenant: said.Tenant, Roles: said.Roles, Scopes: said.Scopes, Actors: said.Actors,
		Method: policy.MethodAgent, Assurance: assuranceSigned, CredentialID: said.CredentialID, TokenBudget: budget,
		Issuer: seal.Issuer, IssuedAt: life.Issued, ExpiresAt: life.Expires, BoundTo: certificate, BoundToKey: key,
		ACR: said.ACR, AMR: said.AMR, AuthTime: life.Authenticated,
	}
	if certificate != "" {
		p.Assurance = assuranceBound
	}
	return &authn.Proof{
		Principal: p, Constraints: limits, NotAfter: life.NotAfter, State: policy.StateMirror,
		Confirm: authn.Confirmation{Certificate: certificate, Key: key},
	}, nil
}

// named says in a proof what a denylist may revoke.
func (a *Authenticator) named(proof *authn.Proof, key string) *authn.Proof {
	proof.Subject = authn.SubjectOf(proof.Principal)
	proof.Subject.KeyID = key
	return proof
}

// claimMap says where in a token its claims are.
func claimMap(claims jose.Value) jose.ClaimMap {
	m := jose.ClaimMap{Tenant: pathTenant}.WithDefaults()
	if claims.Get("scopes").Exists() {
		m.Scopes = pathScopes
	}
	return m
}

var pathTenant, pathScopes = mustPath("tenant"), mustPath("scopes")

func mustPath(text string) jose.ClaimPath {
	p, err := jose.ParseClaimPath(text)
	if err != nil {
		panic(err) // a name is a path
	}
	return p
}

// budgetOf reads a budget: a whole number above 0, since 0 stands for no limit.
func budgetOf(v jose.Value) (int64, error) {
	if !v.Exists() {
		return 0, nil
	}
	number, ok := v.Number()
	n, err := number.Int64()
	if !ok || err != nil || n < 1 || n > MaxTokenBudget {
		return 0, invalid("token_budget is no whole number from 1 to %d", MaxTokenBudget)
	}
	return n, nil
}

// comesFrom reads what a token of Postern's came from. One that came from others must say
// how to find them on a denylist: it could not end with them.
func comesFrom(proof *authn.Proof, claims jose.Value) (err error) {
	p := proof.Principal
	p.BudgetID, _ = claims.Get("root").Text()
	via := claims.Get("via")
	if via.Exists() && via.Kind() != jose.Array {
		return invalid("via is no list of ids")
	}
	for e := range via.Elements() {
		id, ok := e.Text()
		if !ok {
			return invalid("via is no list of ids")
		}
		p.Via = append(p.Via, id)
	}
	if proof.Origins, err = originsOf(claims.Get("origins")); err != nil {
		return err
	}
	for _, id := range p.Via {
		if !slices.ContainsFunc(proof.Origins, func(s authn.Subject) bool { return s.Issuer == seal.Issuer && (s.TokenID == id || s.SessionID == id) }) {
			return invalid("origins does not name what is in via")
		}
	}
	if p.Issuer != seal.Issuer && !slices.ContainsFunc(proof.Origins, func(s authn.Subject) bool { return s.Issuer == p.Issuer && s.ID == p.ID && s.Tenant == p.Tenant }) {
		return invalid("origins does not name whom the token is of")
	}
	for e := range claims.Get("budgets").Elements() {
		id, _ := e.Get("jti").Text()
		limit, err := budgetOf(e.Get("token_budget"))
		ends, ok := e.Get("exp").NumericDate()
		if err != nil || !ok || id == "" || limit == 0 {
			return invalid("budgets is no list of budgets")
		}
		p.Budgets = append(p.Budgets, policy.SharedBudget{ID: id, Limit: limit, ExpiresAt: ends})
	}
	return nil
}

// originsOf reads the credentials that a token came from, as signer.Agent writes them.
func originsOf(claim jose.Value) ([]authn.Subject, error) {
	switch n := claim.Len(); {
	case !claim.Exists():
		return nil, nil
	case claim.Kind() != jose.Array || n == 0 || n > signer.MaxOrigins:
		return nil, invalid("origins is no list of 1 to %d credentials", signer.MaxOrigins)
	}
	all := make([]authn.Subject, 0, claim.Len())
	for e := range claim.Elements() {
		s, err := originOf(e)
		if err != nil {
			return nil, err
		}
		all = append(all, s)
	}
	return all, nil
}

// originOf reads one of them: whose it is, and something by which to find it. A name that
// nobody knows here could be the one by which it is revoked.
func originOf(v jose.Value) (s authn.Subject, err error) {
	for name, member := range v.Members() {
		var to *string
		switch name {
		case "iss":
			to = &s.Issuer
		case "sub":
			to = &s.ID
		case "agent":
			to = &s.Agent
		case "tenant":
			to = &s.Tenant
		case "jti":
			to = &s.TokenID
		case "sid":
			to = &s.SessionID
		case "client_id":
			to = &s.Client
		case "kid":
			to = &s.KeyID
		case "fingerprint":
			to = &s.Fingerprint
		case "iat":
			at, ok := member.NumericDate()
			if !ok {
				return s, invalid("origins: iat is no date")
			}
			s.IssuedAt = at
			continue
		default:
			return s, invalid("origins: %.64q is no name of a credential", name)
		}
		if *to, _ = member.Text(); *to == "" {
			return s, invalid("origins: %s is no name", name)
		}
	}
	if s.Issuer == "" || s.ID+s.TokenID+s.SessionID+s.Fingerprint == "" {
		return s, invalid("origins: a credential is not named, or not whose it is")
	}
	return s, nil
}

// agentsAct says of actors what they are. Of others than agents nobody could say whether
// they are still in force.
func agentsAct(actors []policy.Actor, act jose.Value) error {
	for i := range actors {
		if !act.Get("kind").Is(string(policy.KindAgent)) {
			return invalid("act.kind is not agent")
		}
		actors[i].Kind = policy.KindAgent
		act = act.Get("act")
	}
	return nil
}

// audience checks for whom a token is. One that is not for the installation as a whole is
// held to the services that it is for.
func (a *Authenticator) audience(aud jose.Value, rules jose.ClaimRules) (*policy.Constraints, error) {
	if err := rules.CheckAudience(aud); err != nil {
		return nil, refuse(err)
	}
	if rules.Audiences == nil || aud.Is(a.cfg.Audiences[0]) {
		return nil, nil
	}
	var services []string
	for _, name := range a.cfg.Audiences {
		for e := range aud.Elements() {
			if e.Is(name) && name == a.cfg.Audiences[0] {
				return nil, nil
			}
			if e.Is(name) {
				services = append(services, name)
			}
		}
		if aud.Is(name) {
			services = append(services, name)
		}
	}
	return &policy.Constraints{Audiences: services}, nil
}

// keysOf returns the keys of an agent. They are read once for each state of its record.
func (a *Authenticator) keysOf(record *authn.Agent) (*jose.KeySet, error) {
	p := record.Principal
	slot := &a.sets[(maphash.String(a.seed, p.Tenant)^3*maphash.String(a.seed, p.ID))%keySets]
	if known := slot.Load(); known != nil && known.of == record {
		return known.set, nil
	}
	set := &jose.KeySet{}
	if len(record.Keys) > 0 {
		var err error
		if set, _, err = jose.ParseKeySet(record.Keys); err != nil {
			return nil, fmt.Errorf("the keys of agent %s: %w", p.ID, err)
		}
	}
	slot.Store(&agentKeys{record, set})
	return set, nil
}

// verify returns the key that signed the token.
func verify(t *jose.Token, keys *jose.KeySet, algorithms []string) (*jose.Key, error) {
	if !slices.Contains(algorithms, t.Algorithm()) {
		return nil, authn.Refuse(policy.ReasonSignatureInvalid, t.Algorithm()+" is not an algorithm of these tokens")
	}
	found, err := keys.Find(context.Background(), t.KeyID(), t.Algorithm())
	if err != nil {
		return nil, err
	}
	if len(found) == 0 {
		return nil, authn.Refuse(policy.ReasonSignatureInvalid, fmt.Sprintf("there is no key %.128q for %s", t.KeyID(), t.Algorithm()))
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

// widened refuses a token that is good, and by which somebody would get more than whoever
// it came from can give.
func widened(detail string) error { return authn.Refuse(policy.ReasonDelegation, detail) }

// refuse turns what package jose says is wrong with a claim into a Refusal.
func refuse(err error) error {
	if claim := (*jose.ClaimError)(nil); errors.As(err, &claim) {
		return authn.Refuse(claim.Reason, claim.Detail)
	}
	return err
}
