package server

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/audit"
	"github.com/postern-auth/postern/server/authn"
	"github.com/postern-auth/postern/server/authn/apikey"
	"github.com/postern-auth/postern/server/authn/jwt"
	"github.com/postern-auth/postern/server/canonical"
	"github.com/postern-auth/postern/server/check"
	"github.com/postern-auth/postern/server/jose"
	"github.com/postern-auth/postern/server/rate"
	"github.com/postern-auth/postern/server/seal"
	"github.com/postern-auth/postern/server/signer"
)

// parts are everything that one configuration makes. A reload assembles the next
// parts aside, taking over what did not change, and swaps them whole.
type parts struct {
	cfg     *Config
	checker *check.Checker
	keys    *apikey.Authenticator
	sources keySources    // by issuer
	proven  *authn.Cached // proofs of tokens
	kinds   kinds
	signer  *signer.Signer // nil: nothing is signed
	policy  *policySource
	shadow  *shadow // nil: there is none
	rates   *rate.Limits
	journal *journal // nil: there is none
	tracer  *tracer  // nil: checks are part of no trace

	peers       check.Peers       // nil: no certificate proves anything
	possessions check.Possessions // nil: no token may be bound to a key
}

// surroundings are what outlives a configuration.
type surroundings struct {
	plane    *plane // nil: there is no store
	spender  check.Spender
	recorder audit.Recorder
	log      *slog.Logger
	now      func() time.Time
	// effort bounds what unknown tokens may cost, over all configurations; nil for no
	// bound.
	effort *authn.Effort
	// offline has nothing be written, used up or recorded.
	offline bool
}

// assemble is the one place that names every concrete type: a new kind of
// credential is one package and one line in the chain below. On an error the
// previous parts stay as they are.
func assemble(ctx context.Context, cfg *Config, prev *parts, env surroundings) (_ *parts, err error) {
	if prev == nil {
		prev = &parts{cfg: &Config{}}
	}
	p := &parts{cfg: cfg, sources: keySources{}}
	defer func() {
		if err != nil {
			p.closeUnlessIn(prev)
		}
	}()
	if p.signer, err = assembleSigner(cfg, prev); err != nil {
		return nil, err
	}
	if p.keys, err = assembleKeys(cfg, prev, p.signer, env); err != nil {
		return nil, err
	}
	if err := p.assembleTokens(cfg, prev, env); err != nil {
		return nil, err
	}
	if err := p.assembleKinds(cfg, prev.kinds, env); err != nil {
		return nil, err
	}
	if p.policy, err = assemblePolicy(ctx, cfg, prev, env); err != nil {
		return nil, err
	}
	p.shadow = assembleShadow(ctx, cfg, prev, env)
	if p.journal, err = assembleJournal(cfg, prev, env); err != nil {
		return nil, err
	}
	if p.tracer, err = assembleTracer(cfg, prev, env); err != nil {
		return nil, err
	}
	p.rates = rate.New(cfg.Rates, rate.Deps{Now: env.now, Previous: prev.rates})
	if p.checker, err = p.newChecker(cfg, env); err != nil {
		return nil, err
	}
	return p, nil
}

// chain is who is asked about a credential, in this order.
func (p *parts) chain(cfg *Config, env surroundings) authn.Chain {
	chain := authn.Chain{
		{Method: policy.MethodAPIKey, Authenticator: only{policy.MethodAPIKey, p.keys}},
		{Method: policy.MethodPAT, Authenticator: only{policy.MethodPAT, p.keys}},
	}
	if env.plane != nil && env.plane.sessions != nil {
		chain = append(chain, authn.Link{Method: policy.MethodSession, Authenticator: env.plane.sessions})
	}
	for _, method := range cfg.tokenMethods() {
		chain = append(chain, authn.Link{Method: method, Authenticator: only{method, p.proven}, Shapes: authn.ShapeSigned})
	}
	for _, k := range p.kinds {
		for _, l := range k.links {
			chain = join(chain, l)
		}
	}
	return chain
}

// newChecker makes the checker of the parts, which are complete but for it.
func (p *parts) newChecker(cfg *Config, env surroundings) (*check.Checker, error) {
	reader, err := requestReader(cfg)
	if err != nil {
		return nil, err
	}
	targets, err := assembleTargets(cfg)
	if err != nil {
		return nil, err
	}
	csrf, denied := check.CSRF{SameSite: cfg.Sessions.InsecureSameSiteRequests}, revocations{p.keys}
	if env.plane != nil {
		denied = append(denied, env.plane.mirror)
		if s := env.plane.sessions; s != nil {
			csrf.Tokens = s
		}
	}
	rules := extractionRules(cfg.Credentials)
	identity, decisionHeader := identityHeaders(cfg.Upstream.Headers)
	return check.New(check.Config{
		Reader:            reader,
		Extractor:         authn.NewExtractor(rules),
		Authenticator:     p.chain(cfg, env),
		Decider:           p.policy,
		Revocations:       denied,
		Sight:             env.plane.sight(),
		CSRF:              csrf,
		Recorder:          p.tracer.recorder(p.shadow.recorder(env.recorder)),
		Tracer:            p.tracerOrNone(),
		Trust:             trust(cfg.Callers),
		Routes:            routes(cfg),
		Rules:             rules,
		Audience:          cfg.Audience,
		Realm:             cfg.Realm,
		ResourceMetadata:  cfg.ResourceMetadata,
		MaxDepth:          maxDepth(cfg),
		Zones:             zones(cfg.Zones),
		MethodZones:       methodZones(cfg),
		Peers:             p.peers,
		Possessions:       p.possessions,
		Targets:           targets,
		Agents:            env.plane.agents(),
		ModelHeaders:      cfg.Models.Trusted(),
		Rates:             p.ratesOrNone(),
		Spender:           env.spender,
		Agreements:        env.agreements(cfg),
		ApprovalHeader:    cfg.approvalHeader(),
		ApprovedHeaders:   cfg.Approvals.Headers,
		Propose:           cfg.Approvals.Request == ApprovalHelpAuto,
		Journal:           p.journalOrNone(env),
		Cost:              cfg.Usage.costs(),
		Limits:            cfg.Usage.limitHeaders(),
		Identity:          identity,
		DecisionHeader:    decisionHeader,
		ReservationHeader: cfg.receiptHeader(),
		IdentityToken:     identityToken(cfg, p.signer),
		Reserved:          reserved(slices.Concat(cfg.approvalHeaders(), cfg.toldNames(), cfg.Request.IdentityHeaders)),
		KeepCredential:    cfg.Upstream.InsecureKeepCredential,
		InsecurePlaintext: cfg.Plaintext.InsecureAccept,
		Quarantine:        quarantine(cfg, p.keys, env.log),
		Logger:            env.log,
		Now:               env.now,
	}), nil
}

// requestReader makes the one reader of requests.
func requestReader(cfg *Config) (*canonical.Reader, error) {
	requests := cfg.Request
	targets := cfg.targets()
	requests.CredentialHeaders = slices.Concat(cfg.credentialHeaders(), targets.Fields(), cfg.approvalHeaders()) // those decide something too
	if len(requests.IdentityHeaders) == 0 {
		requests.IdentityHeaders = canonical.DefaultIdentityHeaders() // before others join them
	}
	requests.IdentityHeaders = slices.Concat(requests.IdentityHeaders, identityNames(cfg.Upstream.Headers), cfg.usageNames())
	if t := cfg.Upstream.IdentityToken; t != nil && !t.shared() {
		requests.IdentityHeaders = append(requests.IdentityHeaders, t.Header)
	}
	reader, err := canonical.New(requests)
	if err != nil {
		return nil, fmt.Errorf("request: %w", err)
	}
	return reader, nil
}

// assembleSigner keeps the signer if its keys are the same.
func assembleSigner(cfg *Config, prev *parts) (*signer.Signer, error) {
	if prev.signer != nil && reflect.DeepEqual(cfg.Signing, prev.cfg.Signing) {
		return prev.signer, nil
	}
	s, err := signer.New(cfg.Signing, signer.Deps{})
	if err != nil {
		return nil, fmt.Errorf("signing: %w", err)
	}
	return s, nil
}

// assembleKeys keeps the key index if nothing about it changed.
func assembleKeys(cfg *Config, prev *parts, signs *signer.Signer, env surroundings) (*apikey.Authenticator, error) {
	if prev.keys != nil && prev.signer == signs && reflect.DeepEqual(cfg.APIKeys, prev.cfg.APIKeys) {
		return prev.keys, nil
	}
	next, err := apikey.New(cfg.APIKeys, apikey.Deps{Now: env.now, Indexes: env.plane.indexes(), Signer: signs})
	if err == nil && prev.keys != nil {
		for _, id := range prev.keys.Status().Quarantined {
			next.Quarantine(id) // a new setting is no reason to trust a key again
		}
	}
	return next, err
}

// assembleTokens makes proven, the authenticator of JWTs with its cache, and sources. A
// source of keys whose issuer did not change starts with the keys that it had.
func (p *parts) assembleTokens(cfg *Config, prev *parts, env surroundings) error {
	if prev.proven != nil && reflect.DeepEqual(cfg.Issuers, prev.cfg.Issuers) && reflect.DeepEqual(cfg.Workloads, prev.cfg.Workloads) && cfg.Cache == prev.cfg.Cache {
		p.sources, p.proven = prev.sources, prev.proven
		return nil
	}
	keys := map[string]jose.Keys{}
	configs := make([]jwt.Config, len(cfg.Issuers))
	for i, issuer := range cfg.Issuers {
		configs[i] = issuer.Config
		if issuer.UsesSecret() {
			continue
		}
		source := issuer.Keys
		source.Issuer = issuer.URL
		source.URL, source.File = cmp.Or(source.URL, issuer.JWKS), issuer.keysFile()
		s, err := p.sources.open(issuer.URL, source, prev.sources, env)
		if err != nil {
			return fmt.Errorf("issuer %s: %w", issuer.URL, err)
		}
		keys[issuer.URL] = s
	}
	deps := jwt.Deps{Keys: keys, Now: env.now}
	if cfg.Workloads != nil {
		deps.AlsoOwned = cfg.Workloads.OwnsClaims
	}
	tokens, err := jwt.New(configs, deps)
	if err != nil {
		return err
	}
	p.proven = authn.NewCached(tokensOf{tokens, p.sources}, proofCache(cfg, env))
	return nil
}

// proofCache is how proofs of signed tokens are remembered.
func proofCache(cfg *Config, env surroundings) authn.CacheConfig {
	return authn.CacheConfig{
		Size: cfg.Cache.Credentials.Size, MaxTTL: cfg.Cache.Credentials.MaxTTL,
		NegativeSize: cfg.Cache.Negative.Size, NegativeTTL: cfg.Cache.Negative.TTL,
		Timeout: cfg.Limits.Deadline, Now: env.now, Effort: env.effort,
	}
}

// tokensOf adds to the authenticator of tokens the epoch of its keys: when an
// issuer changes them, proofs by the old ones are not used any more.
type tokensOf struct {
	*jwt.Authenticator
	sources keySources
}

// Epoch implements authn.Epoch. Every source's own number only grows, so their
// sum changes with each of them.
func (t tokensOf) Epoch() uint64 {
	var sum uint64
	for _, s := range t.sources {
		sum += s.Epoch()
	}
	return sum
}

// closeUnlessIn ends what the parts do not share with others.
func (p *parts) closeUnlessIn(other *parts) {
	if other == nil {
		other = &parts{}
	}
	p.kinds.closeUnlessIn(other.kinds)
	if p.policy != nil && other.policy != p.policy {
		p.policy.close()
	}
	if p.shadow != nil && other.shadow != p.shadow {
		p.shadow.close()
	}
	if p.journal != nil && other.journal != p.journal {
		p.journal.Close()
	}
	if p.tracer != nil && other.tracer != p.tracer {
		p.tracer.close()
	}
	_ = p.sources.closeUnlessIn(other.sources)
}

// only keeps an authenticator to one method of several that it proves.
type only struct {
	method policy.Method
	next   authn.Authenticator
}

// Authenticate disowns proofs of other methods.
func (o only) Authenticate(ctx context.Context, c *authn.Credential) (*authn.Proof, error) {
	proof, err := o.next.Authenticate(ctx, c)
	if err == nil && proof.Principal.Method != o.method {
		return nil, authn.ErrNotMine
	}
	return proof, err
}

func extractionRules(credentials []CredentialRule) []authn.Rule {
	rules := make([]authn.Rule, len(credentials))
	for i, c := range credentials {
		rules[i] = authn.Rule{From: c.From, Uses: c.Use}
	}
	return rules
}

// CredentialFields are the header fields in which credentials come, in lower case and in
// the order of their rules; cookie is one of them if a rule is about a cookie.
func (c *Config) CredentialFields() []string {
	var names []string
	for _, rule := range c.Credentials {
		name := rule.From.Header()
		if rule.From.Cookie() != "" {
			name = "cookie"
		}
		if name != "" && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

// credentialHeaders are those fields without cookie, which holds more than a credential.
func (c *Config) credentialHeaders() []string {
	return slices.DeleteFunc(c.CredentialFields(), func(name string) bool { return name == "cookie" })
}

// keyHeaders are the header fields that hold nothing but API keys.
func keyHeaders(credentials []CredentialRule) []string {
	var names []string
	for _, c := range credentials {
		keysOnly := !slices.ContainsFunc(c.Use, func(m policy.Method) bool { return m != policy.MethodAPIKey && m != policy.MethodPAT })
		if h := c.From.Header(); h != "" && h != "authorization" && keysOnly {
			names = append(names, h)
		}
	}
	return names
}

func routes(cfg *Config) []policy.Route {
	out := make([]policy.Route, len(cfg.Routes))
	for i := range out {
		out[i] = cfg.route(&cfg.Routes[i]).Policy()
		out[i].ResourceMetadata = cmp.Or(out[i].ResourceMetadata, cfg.ResourceMetadata)
	}
	return out
}

func trust(callers []Caller) map[string]check.Trust {
	all := map[string]check.Trust{}
	for _, c := range callers {
		all[c.Name] = check.Trust{
			SourcePrincipal: slices.Contains(c.Trust, TrustSourcePrincipal),
			Extensions:      slices.Contains(c.Trust, TrustContextExtensions),
			XFCC:            slices.Contains(c.Trust, TrustXFCC),
			ClientCert:      slices.Contains(c.Trust, TrustClientCert),
			OwnCertificate:  slices.Contains(c.Trust, TrustOwnCertificate),
			Cost:            slices.Contains(c.Trust, TrustCost),
			Subject:         slices.Contains(c.Trust, TrustSubject),
			Models:          slices.Contains(c.Trust, TrustModels),
		}
	}
	return all
}

func quarantine(cfg *Config, keys *apikey.Authenticator, log *slog.Logger) func(*policy.Principal) {
	return func(p *policy.Principal) {
		done := cfg.Plaintext.Quarantine && p.Issuer == seal.Issuer && keys.Quarantine(p.CredentialID)
		log.Warn("a good credential was sent over plaintext: somebody may have read it",
			"event", "credential_over_plaintext", "credential", p.CredentialID, "method", p.Method, "quarantined", done)
	}
}

// identityToken is how the upstream is told who called by a token; nil for not.
func identityToken(cfg *Config, signs *signer.Signer) *check.IdentityToken {
	t := cfg.Upstream.IdentityToken
	if t == nil || signs == nil {
		return nil
	}
	return &check.IdentityToken{Minter: signs, Header: t.Header, Scheme: t.scheme()}
}

func identityNames(headers map[string]Attribute) []string {
	var names []string
	for name := range headers {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// reserved are the header fields that are taken from every upstream request unless
// Postern sets them, seen or not: a gateway may not show all fields. They are the
// usual names of an identity, the places in which proxies put a path that was
// rewritten, and what the configuration names exactly.
func reserved(configured []string) []string {
	names := append(identityNames(defaultHeaders()),
		"x-auth-user", "x-auth-email", "x-auth-groups", "x-auth-permissions",
		"x-original-url", "x-rewrite-url",
	)
	for _, name := range configured {
		if !strings.HasSuffix(name, "*") {
			names = append(names, strings.ToLower(name))
		}
	}
	return names
}

// identityHeaders makes the configured header fields, in the order of their
// names, and the one that holds the decision's id.
func identityHeaders(headers map[string]Attribute) (fields []check.IdentityHeader, decision string) {
	for _, name := range identityNames(headers) {
		switch headers[name] {
		case AttributeDecision:
			decision = name
			continue
		case AttributeReservation:
			continue // Config.receiptHeader finds it
		}
		fields = append(fields, check.IdentityHeader{Name: name, Value: attributeOf(headers[name])})
	}
	return fields, decision
}

// attributeOf reads an attribute as a field value. The items of a list are
// separated by commas; a comma inside one is escaped like what cannot stand in a
// field at all.
func attributeOf(a Attribute) func(*policy.Principal) string {
	text := func(get func(*policy.Principal) string) func(*policy.Principal) string {
		return func(p *policy.Principal) string { return check.FieldValue(get(p), "") }
	}
	list := func(get func(*policy.Principal) []string) func(*policy.Principal) string {
		return func(p *policy.Principal) string {
			items := slices.Clone(get(p))
			for i := range items {
				items[i] = check.FieldValue(items[i], ",")
			}
			return strings.Join(items, ",")
		}
	}
	switch a {
	case AttributeID:
		return text(func(p *policy.Principal) string { return p.ID })
	case AttributeKind:
		return text(func(p *policy.Principal) string { return string(p.Kind) })
	case AttributeTenant:
		return text(func(p *policy.Principal) string { return p.Tenant })
	case AttributeIssuer:
		return text(func(p *policy.Principal) string { return p.Issuer })
	case AttributeMethod:
		return text(func(p *policy.Principal) string { return string(p.Method) })
	case AttributeCredential:
		return text(func(p *policy.Principal) string { return p.CredentialID })
	case AttributeAssurance:
		return text(func(p *policy.Principal) string { return strconv.Itoa(p.Assurance) })
	case AttributeRoles:
		return list(func(p *policy.Principal) []string { return p.Roles })
	case AttributeScopes:
		return list(func(p *policy.Principal) []string { return p.Scopes })
	case AttributePermissions:
		return list(func(p *policy.Principal) []string { return p.Permissions })
	}
	return func(*policy.Principal) string { return "" }
}
