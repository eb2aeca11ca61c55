package registry

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn"
	"github.com/postern-auth/postern/server/seal"
	"github.com/postern-auth/postern/server/signer"
	"github.com/postern-auth/postern/server/store"
)

// Agent tokens are signed, and nothing of them is kept but the entry in the audit log, in
// the same transaction in which the records were read that they rest on. Who uses one is
// held against those records again (server/authn/agent), so what is issued here is the
// most that a token can ever be.
//
//	issued      to an agent that may get tokens of the role, by who has what the role
//	            stands for: an administrator, the owner of the agent, the agent itself
//	exchanged   for the token of a subject and that of an actor (RFC 8693): what both
//	            have in common, for no longer than both
//
// No token brings about another one that outlives it, but for what an agent signs itself
// and for the keys and sessions that are kept here.

// TokenRules say which agent tokens there are, and how they are: the section `agents`.
type TokenRules struct {
	// Roles are the roles of tokens with the scopes that they stand for.
	Roles map[string][]string
	// Audiences are the names that a token can be for. The first is the installation's.
	Audiences []string
	// TTL is how long a token lives that asks for nothing else, MaxTTL the longest life.
	TTL, MaxTTL time.Duration
	// TokenBudget is the budget of a token that asks for none, MaxTokenBudget the largest.
	TokenBudget, MaxTokenBudget int64
	// MaxDepth is how many may act for one another.
	MaxDepth int
}

// TokenOptions are what can be said of every token.
type TokenOptions struct {
	// Scopes narrow what the token grants; none for all that it can.
	Scopes []string
	// TokenBudget is how many model tokens may be spent by it; 0 for the default.
	TokenBudget int64
	// TTL is its life; 0 for the default.
	TTL time.Duration
	// Audiences are the services that it is for; none for the installation.
	Audiences []string
	// Certificate is the SHA-256 of a certificate in hex, and Key the thumbprint of a JWK,
	// to which it is bound; empty for none.
	Certificate, Key string
}

// IssueTokenRequest asks for a token of an agent.
type IssueTokenRequest struct {
	TokenOptions
	Tenant, Agent, Role string
}

// ExchangeRequest asks for a token by which the actor acts for the subject. Both were
// proven just now.
type ExchangeRequest struct {
	TokenOptions
	Subject, Actor Party
}

// Party is the subject or the actor of an exchange, with the limits of its credential, and
// what a denylist may revoke of that and of those that it came from (check.Identity).
type Party struct {
	*policy.Principal
	Limits  *policy.Constraints
	Origins []authn.Subject
}

// IssuedToken is an agent token that was just made.
type IssuedToken struct {
	// Said is what it says. Its ID is empty if the call was only to validate.
	Said signer.Agent
	// Token is shown once. Zero if the call was only to validate.
	Token policy.Secret
}

// IssueAgentToken makes a token for an agent. Nil rules have none.
func (r *Registry) IssueAgentToken(ctx context.Context, call Call, rules *TokenRules, req IssueTokenRequest) (*IssuedToken, Change, error) {
	return r.makeToken(ctx, call, action{"token.issue", withheld}, rules, req, func(o *operation) (*signer.Agent, error) {
		t := o.token(rules, &req.TokenOptions)
		scopes, known := rules.Roles[req.Role]
		if !known {
			t.field("role", "is not one of %s", strings.Join(slices.Sorted(maps.Keys(rules.Roles)), ", "))
		}
		t.principalID("agent_id", req.Agent)
		if err := t.err(); err != nil {
			return nil, err
		}
		p, err := o.tokenAgent(req.Tenant, req.Agent)
		if err != nil {
			return nil, t.also(err, "agent_id")
		}
		t.said.Subject, t.said.Tenant = p.ID, p.Tenant
		t.said.Roles, t.said.Scopes = []string{req.Role}, slices.Clone(scopes)
		if len(req.Scopes) > 0 {
			t.said.Scopes = distinct(req.Scopes)
			t.only("scopes", t.said.Scopes, scopes, "the role "+req.Role+" does not stand for it")
		}
		if p.Agent == nil || !slices.Contains(p.Agent.Roles, req.Role) {
			t.refuse("role", "the agent gets no tokens of this role: add it to its token_roles")
		}
		if err := o.mayIssue(&t.faults, rules, p, Rights{Roles: t.said.Roles, Scopes: t.said.Scopes}); err != nil {
			return nil, err
		}
		t.within(o.actor, t.limits)
		t.until(o.actor.Ends)
		if err := o.came(t, nil, o.actor.Origins); err != nil {
			return nil, err
		}
		o.target(store.KindPrincipal, p.Key(), p.Tenant)
		o.detail("role", req.Role)
		return &t.said, t.err()
	})
}

// ExchangeToken makes a token by which the actor acts for the subject (A-07, RFC 8693).
// Where they are the same, the subject only gets a token that can do less.
func (r *Registry) ExchangeToken(ctx context.Context, call Call, rules *TokenRules, req ExchangeRequest) (*IssuedToken, Change, error) {
	return r.makeToken(ctx, call, action{"token.exchange", withheld}, rules, req, func(o *operation) (*signer.Agent, error) {
		t := o.token(rules, &req.TokenOptions)
		subject, actor := req.Subject.Principal, req.Actor.Principal
		if err := o.canExchange(subject, actor); err != nil {
			return nil, err
		}
		o.target(store.KindPrincipal, store.PrincipalKey(subject.Tenant, subject.ID), subject.Tenant)
		o.detail("subject", subject.ID)
		o.detail("actor", actor.ID)
		t.said.Subject, t.said.Tenant = subject.ID, subject.Tenant
		if subject.Kind != policy.KindAgent {
			t.said.Kind = subject.Kind
		}
		if subject.Issuer != seal.Issuer {
			t.said.Origin = subject.Issuer
		}
		t.chain(subject, actor, rules.MaxDepth)
		t.common(subject, actor, req.Scopes)
		t.spends(req.TokenBudget, subject.TokenBudget, actor.TokenBudget)
		t.shares(subject, actor)
		t.bound(actor)
		t.loggedIn(subject)
		for _, p := range []*Party{&req.Subject, &req.Actor} {
			if err := o.came(t, p.Via, p.Origins); err != nil {
				return nil, err
			}
		}
		t.keeps("subject_token", req.Subject.Limits, rules.Audiences, len(req.Audiences) > 0)
		t.keeps("actor_token", req.Actor.Limits, rules.Audiences, len(req.Audiences) > 0)
		t.until(subject.ExpiresAt)
		t.until(actor.ExpiresAt)
		t.until(o.actor.Ends)
		return &t.said, t.err()
	})
}

// makeToken runs an operation that makes a token.
func (r *Registry) makeToken(ctx context.Context, call Call, act action, rules *TokenRules, req any, say func(*operation) (*signer.Agent, error)) (*IssuedToken, Change, error) {
	var made *IssuedToken
	change, err := r.change(ctx, call, act, req, func(o *operation) error {
		signs := o.signer()
		switch {
		case signs == nil:
			return fail(NotConfigured, "", "no token can be issued without signing keys: set signing")
		case rules == nil:
			return fail(NotConfigured, "", "there are no tokens of agents: set agents")
		}
		said, err := say(o)
		if err != nil {
			return err
		}
		made = &IssuedToken{Said: *said}
		return o.sign(signs, made)
	}, nil)
	if err != nil {
		return nil, change, err
	}
	if call.ValidateOnly {
		made.Token, made.Said.ID = policy.Secret{}, ""
	}
	return made, change, nil
}

// sign signs a token, and notes what it says.
func (o *operation) sign(signs *signer.Signer, made *IssuedToken) (err error) {
	t := &made.Said
	if t.ID, err = signs.NewID(); err != nil {
		return &Error{Fault: fault(Internal, "", "no token could be made"), Err: err}
	}
	made.Token, err = signs.Agent(t)
	switch {
	case errors.Is(err, signer.ErrTooLarge):
		return fail(InvalidField, "scopes", "are too many for a token, or what it comes from has names that are too long")
	case errors.Is(err, signer.ErrEnded):
		return fail(WrongState, "", "one of the credentials that it comes from has ended")
	case err != nil:
		return &Error{Fault: fault(Internal, "", "no token could be made"), Err: err}
	}
	o.made = t.ID
	o.detail("jti", t.ID)
	o.detail("scopes", strings.Join(t.Scopes, " "))
	o.detail("audiences", strings.Join(t.Audience, " "))
	o.detail("token_budget", strconv.FormatInt(t.TokenBudget, 10))
	o.detail("expires", t.ExpiresAt.UTC().Format(time.RFC3339))
	if len(t.Actors) > 0 {
		o.detail("act", actorIDs(t.Actors))
	}
	return nil
}

// tokenDraft is a token that somebody wants, with all that is wrong with it.
type tokenDraft struct {
	faults
	said   signer.Agent
	limits *policy.Constraints // that the audience stands for
}

// token checks what is wrong with the options in themselves.
func (o *operation) token(rules *TokenRules, opt *TokenOptions) *tokenDraft {
	t := &tokenDraft{}
	t.rights(Rights{Scopes: opt.Scopes})
	ttl := cmp.Or(opt.TTL, rules.TTL)
	switch {
	case ttl < 0:
		t.field("ttl_minutes", "must not be negative")
	case ttl > rules.MaxTTL:
		t.list = append(t.list, fail(TTLTooLong, "ttl_minutes", "is %d; tokens of agents live %d minutes at most", ttl/time.Minute, rules.MaxTTL/time.Minute).
			with("max_ttl", rules.MaxTTL.String()).Fault)
	}
	if n := opt.TokenBudget; n < 0 || n > rules.MaxTokenBudget {
		t.field("token_budget", "must be 1 to %d, or 0 for %d", rules.MaxTokenBudget, rules.TokenBudget)
	}
	t.said.TokenBudget = cmp.Or(opt.TokenBudget, rules.TokenBudget)
	t.audience(rules, distinct(opt.Audiences))
	t.said.Certificate = strings.ToLower(opt.Certificate)
	if t.said.Certificate != "" && !isSHA256(t.said.Certificate) {
		t.field("certificate", "is the SHA-256 of a certificate's DER in 64 hex digits")
	}
	if t.said.Key = opt.Key; opt.Key != "" && !isThumbprint(opt.Key) {
		t.field("key", "is the thumbprint of a JWK with SHA-256, in base64url (RFC 7638)")
	}
	t.said.IssuedAt = o.now.Truncate(time.Second)
	t.said.ExpiresAt = t.said.IssuedAt.Add(ttl)
	return t
}

// audience chooses for whom the token is.
func (t *tokenDraft) audience(rules *TokenRules, wanted []string) {
	for i, name := range wanted {
		if !slices.Contains(rules.Audiences, name) {
			t.field(fmt.Sprintf("audiences[%d]", i), "is not one of agents.audiences: %s", strings.Join(rules.Audiences, ", "))
		}
	}
	if len(wanted) == 0 && len(rules.Audiences) > 0 {
		wanted = rules.Audiences[:1]
	}
	t.said.Audience = wanted
	t.limits = &policy.Constraints{Audiences: wanted}
	if len(rules.Audiences) > 0 && slices.Contains(wanted, rules.Audiences[0]) {
		t.limits = nil
	}
}

// isThumbprint reports whether a text is a SHA-256 in base64url.
func isThumbprint(s string) bool {
	const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	return len(s) == 43 && strings.Trim(s, letters) == "" && strings.ContainsRune("AEIMQUYcgkosw048", rune(s[42]))
}

// tokenAgent reads an agent that is in force, and so are its owners and its tenant.
func (o *operation) tokenAgent(tenant, id string) (*store.Principal, error) {
	p, _, err := o.receiver(tenant, id)
	switch {
	case err != nil:
		return nil, agentNotFound(err)
	case p.Kind != policy.KindAgent:
		return nil, notFound("agent")
	}
	return p, nil
}

// mayIssue reports what an actor grants by a token and cannot. The owner of the agent has
// given it its roles, and may hand them out.
func (o *operation) mayIssue(f *faults, rules *TokenRules, p *store.Principal, gets Rights) error {
	if len(o.actor.Actors) > 0 {
		return deny("", "who acts for somebody exchanges that token, and gets no other one")
	}
	whole, err := o.isWhole()
	if err != nil {
		return err
	}
	owner := o.actor.Name() == store.PrincipalKey(p.Tenant, p.Owner) && p.Owner != "" && o.actor.Kind != policy.KindAgent
	if owner && whole {
		return nil
	}
	actor := *o.actor
	own, err := o.ownDuties()
	if err != nil {
		return err
	}
	actor.Rights.Roles = append(slices.Clone(actor.Rights.Roles), own.Roles...)
	actor.Rights.Scopes = slices.Clone(actor.Rights.Scopes)
	for _, role := range own.Roles {
		actor.Rights.Scopes = append(actor.Rights.Scopes, rules.Roles[role]...)
	}
	f.grants(&actor, reach{}, reach{Rights: gets})
	return nil
}

// isWhole reports whether the actor calls with all that it has, and not with a key or
// token that lists a part of it.
func (o *operation) isWhole() (bool, error) {
	if o.actor.Narrowed != nil || o.actor.Constraints != nil || !o.actor.Ends.IsZero() {
		return false, nil
	}
	c, err := readCredential(o.tx, o.actor, o.actor.Credential)
	if ReasonOf(err) == NotFound {
		return !o.actor.AuthTime.IsZero(), nil // a session
	}
	return err == nil && listed(c).none(), err
}

// canExchange fails if nobody can get a token by which the actor acts for the subject.
func (o *operation) canExchange(subject, actor *policy.Principal) error {
	switch {
	case subject == nil || actor == nil || subject.ID == "" || actor.ID == "":
		return deny("subject_token", "it is not known who acts for whom")
	case subject.Tenant != actor.Tenant:
		return deny("actor_token", "is of another tenant than the subject")
	case !o.actor.sees(subject.Tenant):
		return deny("subject_token", "is of another tenant than the caller")
	case subject.Kind != policy.KindUser && subject.Kind != policy.KindAgent:
		return deny("subject_token", "is of a %s: nobody acts for one", cmp.Or(subject.Kind, "stranger"))
	case subject.Kind == policy.KindAgent && subject.Issuer != seal.Issuer:
		return deny("subject_token", "is of an agent that is not registered")
	case actor.Kind != policy.KindAgent || actor.Issuer != seal.Issuer:
		return deny("actor_token", "is not of an agent that is registered")
	case len(actor.Actors) > 0 && !(sameOne(subject, actor) && slices.Equal(subject.Actors, actor.Actors)):
		return deny("actor_token", "is one by which somebody acts for another: show the actor's own")
	}
	for _, p := range []*policy.Principal{subject, actor} {
		if p.Issuer != seal.Issuer {
			continue // for whom the issuer vouches
		}
		record, _, err := o.receiver(p.Tenant, p.ID)
		if err != nil {
			return err
		}
		if record.Kind != p.Kind {
			return deny("", "%s is not what the token says", p.ID)
		}
	}
	return nil
}

// sameOne reports whether two principals are one.
func sameOne(a, b *policy.Principal) bool {
	return a.ID == b.ID && a.Tenant == b.Tenant && a.Kind == b.Kind && a.Issuer == b.Issuer
}

// chain says who acts: the actor for those who acted before.
func (t *tokenDraft) chain(subject, actor *policy.Principal, most int) {
	t.said.Actors = slices.Clone(subject.Actors)
	if !sameOne(subject, actor) {
		t.said.Actors = append([]policy.Actor{{ID: actor.ID, Kind: actor.Kind}}, t.said.Actors...)
	}
	if n := len(t.said.Actors); n > most {
		t.refuse("subject_token", "%d would act for one another, at most %d are accepted", n, most)
	}
	for _, a := range t.said.Actors {
		if a.Kind != policy.KindAgent {
			t.refuse("subject_token", "names somebody who acts, and does not say that it is an agent")
		}
	}
	if len(t.said.Actors) == 0 && subject.Kind != policy.KindAgent {
		t.refuse("actor_token", "nobody would act for the subject")
	}
}

// common grants what the subject and the actor both have: all of that, or what is asked
// for.
func (t *tokenDraft) common(subject, actor *policy.Principal, wanted []string) {
	of, by := Rights{Scopes: subject.Scopes}, Rights{Scopes: actor.Scopes}
	both := func(scope string) bool { return of.includes("scopes", scope) && by.includes("scopes", scope) }
	if len(wanted) > 0 {
		t.said.Scopes = distinct(wanted)
		for _, s := range t.said.Scopes {
			if !both(s) {
				t.exceeds("scopes", []string{s}, "a token that is exchanged has what the subject and the actor both have")
			}
		}
	} else {
		for _, s := range slices.Concat(subject.Scopes, actor.Scopes) { // of two patterns the narrow one
			if both(s) && !slices.Contains(t.said.Scopes, s) {
				t.said.Scopes = append(t.said.Scopes, s)
			}
		}
	}
	if len(t.said.Scopes) == 0 {
		t.refuse("scopes", "the subject and the actor have none in common")
	}
	for _, role := range subject.Roles {
		if slices.Contains(actor.Roles, role) && !slices.Contains(t.said.Roles, role) {
			t.said.Roles = append(t.said.Roles, role)
		}
	}
}

// spends bounds the budget by those of the credentials that it comes from.
func (t *tokenDraft) spends(wanted int64, others ...int64) {
	for _, n := range others {
		switch {
		case n == 0:
		case wanted > n:
			t.add(GrantExceedsIssuer, "token_budget", "is more than a token has that it comes from: %d", n)
		default:
			t.said.TokenBudget = min(t.said.TokenBudget, n)
		}
	}
}

// maxShared is of how many tokens, each with less than the one before, one is spent
// besides its own budget.
const maxShared = 4

// shares says from whose budgets is spent what is spent by the token. However often a token
// is exchanged, all that comes of it has its budget together: the subject's, and that of the
// actor, who could else have another one for each exchange.
func (t *tokenDraft) shares(subject, actor *policy.Principal) {
	t.said.Root = cmp.Or(subject.BudgetID, subject.CredentialID)
	t.share(subject)
	t.share(actor)
	if len(t.said.Budgets) > maxShared {
		t.refuse("subject_token", "has a part of a part of a budget, %d times over: exchange the one that it came from", maxShared)
	}
}

// share adds the budgets of one token. Its own is left out if it is no less than the one
// that it is a part of.
func (t *tokenDraft) share(of *policy.Principal) {
	if of.TokenBudget == 0 {
		return
	}
	all := slices.Clone(of.Budgets)
	if n := len(all); n == 0 || all[n-1].Limit > of.TokenBudget {
		id := of.CredentialID
		if of.Method == policy.MethodAgent && slices.Contains(of.AMR, holdsKey) {
			id = of.BudgetID // budget.claimant
		}
		all = append(all, policy.SharedBudget{ID: id, Limit: of.TokenBudget, ExpiresAt: of.ExpiresAt})
	}
	for _, b := range all {
		if !slices.ContainsFunc(t.said.Budgets, func(have policy.SharedBudget) bool { return have.ID == b.ID }) {
			t.said.Budgets = append(t.said.Budgets, b)
		}
	}
}

// bound keeps the token bound to the certificate and to the key to which the actor's is, who
// will show them. (A subject's token that is bound is not accepted: the subject is not here
// to show that.)
func (t *tokenDraft) bound(actor *policy.Principal) {
	for _, b := range []struct {
		field, to string
		said      *string
	}{{"certificate", actor.BoundTo, &t.said.Certificate}, {"key", actor.BoundToKey, &t.said.Key}} {
		switch {
		case b.to == "" || b.to == *b.said:
		case *b.said != "":
			t.exceeds(b.field, []string{b.to}, "the actor's token is bound to another "+b.field)
		default:
			*b.said = b.to
		}
	}
}

// loggedIn passes on how the user logged in for whom the actor acts. That somebody holds a
// key (agent.AMRKey) is true of who shows a token, and not of who has it from another one.
func (t *tokenDraft) loggedIn(subject *policy.Principal) {
	if subject.Kind != policy.KindUser {
		return
	}
	t.said.ACR, t.said.AuthTime = subject.ACR, subject.AuthTime
	t.said.AMR = slices.DeleteFunc(slices.Clone(subject.AMR), func(m string) bool { return m == holdsKey })
}

const holdsKey = "pop" // RFC 8176 section 2

// came notes from which credentials a token comes: all of them, whoever issued them, by what
// a denylist may revoke; and those that are kept here by their ids as well, since their
// records say what becomes of them.
func (o *operation) came(t *tokenDraft, via []string, origins []authn.Subject) error {
	t.said.Via = distinct(append(t.said.Via, via...))
	for _, s := range origins {
		from := signer.Origin(s)
		from.IssuedAt = s.IssuedAt.Truncate(time.Second).UTC() // as the token says it, so that one is not there twice
		if slices.Contains(t.said.Origins, from) {
			continue
		}
		t.said.Origins = append(t.said.Origins, from)
		if from.Issuer != seal.Issuer {
			continue
		}
		id := cmp.Or(from.TokenID, from.SessionID)
		kept, err := o.isKept(id)
		if err != nil {
			return err
		}
		if kept && !slices.Contains(t.said.Via, id) {
			t.said.Via = append(t.said.Via, id)
		}
	}
	if len(t.said.Origins) > signer.MaxOrigins {
		t.refuse("subject_token", "comes from more than %d credentials", signer.MaxOrigins)
	}
	return nil
}

// isKept reports whether an id is that of a credential or session in the store.
func (o *operation) isKept(id string) (bool, error) {
	if !seal.IsID(id) {
		return false, nil
	}
	for _, kind := range []store.Kind{store.KindCredential, store.KindSession} {
		if _, err := o.tx.Get(kind, id); err == nil || !errors.Is(err, store.ErrNotFound) {
			return err == nil, err
		}
	}
	return false, nil
}

// keeps holds the token to the limits of a credential that it comes from. It can keep no
// others than the services that it is for.
func (t *tokenDraft) keeps(field string, limits *policy.Constraints, audiences []string, asked bool) {
	if limits == nil {
		return
	}
	others := *limits
	others.Audiences = nil
	var f faults
	f.within(&Actor{Constraints: &others}, nil)
	if len(f.list) > 0 {
		t.refuse(field, "is limited in where and when it may be used, which the new token could not be")
	}
	if len(limits.Audiences) == 0 {
		return
	}
	if !asked {
		t.said.Audience = only(t.said.Audience, limits.Audiences)
		if len(t.said.Audience) == 0 || slices.Contains(t.said.Audience, audiences[0]) {
			t.said.Audience = only(audiences, limits.Audiences)
		}
	}
	t.only("audiences", t.said.Audience, limits.Audiences, "a token that it comes from is not for it")
	if len(t.said.Audience) == 0 {
		t.refuse("audiences", "there is no service for which all of the tokens are")
	}
}

// until ends the token no later than something that it comes from; zero for never.
func (t *tokenDraft) until(end time.Time) {
	if !end.IsZero() && end.Before(t.said.ExpiresAt) {
		t.said.ExpiresAt = end.Truncate(time.Second)
	}
}

// only returns the items that are in both lists.
func only(items, among []string) []string {
	return slices.DeleteFunc(slices.Clone(items), func(s string) bool { return !slices.Contains(among, s) })
}

// only reports items that are not among others.
func (t *tokenDraft) only(field string, items, among []string, why string) {
	for _, item := range items {
		if !slices.Contains(among, item) {
			t.exceeds(field, []string{item}, why)
		}
	}
}

// refuse reports that the token cannot be had by anybody.
func (f *faults) refuse(field, format string, args ...any) {
	f.add(PermissionDenied, field, format, args...)
}

// tokenLife is how long the line is kept that revokes an agent token by its jti: it has
// ended then.
const tokenLife = 2 * time.Hour

// RevokeAgentToken revokes one agent token by its jti, in a tenant.
func (r *Registry) RevokeAgentToken(ctx context.Context, call Call, tenant, jti, note string) (*store.Denial, Change, error) {
	if len(jti) != tokenIDLen || strings.Trim(jti, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
		return nil, Change{}, fail(InvalidField, "jti", "is no id of an agent token: %d letters, digits, - and _", tokenIDLen)
	}
	asked := []string{"token.revoke", tenant, jti, note}
	return r.addDenial(ctx, call, asked, store.Denial{JTI: jti, Tenant: tenant, Note: note, ExpiresAt: r.now().Add(tokenLife)})
}

// tokenIDLen is the length of the ids of agent tokens: no key has an id of that length.
const tokenIDLen = 22
