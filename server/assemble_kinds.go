package server

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn"
	"github.com/postern-auth/postern/server/authn/agent"
	"github.com/postern-auth/postern/server/authn/appsession"
	"github.com/postern-auth/postern/server/authn/basic"
	"github.com/postern-auth/postern/server/authn/dpop"
	"github.com/postern-auth/postern/server/authn/introspect"
	"github.com/postern-auth/postern/server/authn/mtls"
	"github.com/postern-auth/postern/server/authn/vault"
	"github.com/postern-auth/postern/server/authn/workload"
	"github.com/postern-auth/postern/server/check"
	"github.com/postern-auth/postern/server/jose"
	"github.com/postern-auth/postern/server/registry"
	"github.com/postern-auth/postern/server/signer"
)

// assembleKinds makes the kinds that stand for themselves, in the order of the
// sections. A new one is a package and an entry here.
func (p *parts) assembleKinds(cfg *Config, prev kinds, env surroundings) error {
	for _, add := range []func(*Config, kinds, surroundings) error{
		p.addIntrospection, p.addMTLS, p.addDPoP, p.addBasic, p.addWorkloads, p.addAgents, p.addVault, p.addAppSessions,
	} {
		if err := add(cfg, prev, env); err != nil {
			return err
		}
	}
	return nil
}

// cached is a kind that asks somebody: what it has proven is remembered.
func cached(env surroundings, cfg authn.CacheConfig, l authn.Link) *kind {
	cfg.Now = env.now
	c := authn.NewCached(l.Authenticator, cfg)
	l.Authenticator = c
	return &kind{links: []authn.Link{l}, cache: c}
}

func (p *parts) addIntrospection(cfg *Config, prev kinds, env surroundings) error {
	for i := range cfg.Introspection {
		c := cfg.Introspection[i]
		made := []any{c, cfg.APIKeys.Prefix}
		_, err := p.kinds.add(prev, fmt.Sprintf("introspection[%d]", i), made, func() (*kind, error) {
			a, err := introspect.New(c, introspect.Deps{Now: env.now, KeyPrefix: cfg.APIKeys.Prefix})
			if err != nil {
				return nil, err
			}
			k := cached(env, c.CacheConfig(), authn.Link{Method: c.Method, Authenticator: a, Shapes: c.Shapes()})
			k.close = a.Close
			k.condition = func() (string, error) {
				s := a.Status()
				if s.Usable {
					s.Err = nil // one question that failed is no sign of trouble
				}
				return "asks " + s.Endpoint, s.Err
			}
			return k, nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (p *parts) addMTLS(cfg *Config, prev kinds, env surroundings) error {
	if cfg.MTLS == nil {
		return nil
	}
	k, err := p.kinds.add(prev, "mtls", *cfg.MTLS, func() (*kind, error) {
		a, err := mtls.New(*cfg.MTLS, mtls.Deps{Now: env.now})
		if err != nil {
			return nil, err
		}
		return &kind{
			own: peers{a, env.plane.agents()}, files: cfg.MTLS.Files(), reload: a.Reload,
			condition: func() (string, error) { return "", a.Status().Err },
		}, nil
	})
	if err == nil {
		p.peers = k.own.(check.Peers)
	}
	return err
}

// peers is mtls.Authenticator in the words of the Checker.
type peers struct {
	*mtls.Authenticator
	agents authn.Agents // nil: there is no registry
}

// Peer implements check.Peers.
func (p peers) Peer(a *policy.Attributes, t check.Trust) (*authn.Proof, error) {
	proof, err := p.Authenticator.Peer(a, mtls.Trust{Forwarded: t.XFCC, ClientCert: t.ClientCert, Source: t.SourcePrincipal, Own: t.OwnCertificate})
	if err != nil || p.agents == nil {
		return proof, err
	}
	return authn.Enrol(p.agents, proof)
}

func (p *parts) addDPoP(cfg *Config, prev kinds, env surroundings) error {
	if cfg.DPoP == nil {
		return nil
	}
	const name = "dpop"
	k, err := p.kinds.add(prev, name, *cfg.DPoP, func() (*kind, error) {
		v, err := dpop.New(*cfg.DPoP, dpop.Deps{Now: env.now, Previous: previous[*dpop.Verifier](prev, name)})
		return &kind{own: v}, err
	})
	if err == nil {
		p.possessions = k.own.(check.Possessions)
	}
	return err
}

func (p *parts) addBasic(cfg *Config, prev kinds, env surroundings) error {
	if cfg.Basic == nil {
		return nil
	}
	_, err := p.kinds.add(prev, "basic", *cfg.Basic, func() (*kind, error) {
		deps := basic.Deps{Now: env.now, Patience: cfg.Limits.Deadline}
		if env.plane != nil {
			deps.People, deps.Verify = env.plane.mirror.People(), env.plane.verifyPassword
		}
		a, err := basic.New(*cfg.Basic, deps)
		if err != nil {
			return nil, err
		}
		for _, w := range cfg.Basic.Warnings() {
			env.log.Warn("basic", "warning", w)
		}
		k := &kind{links: []authn.Link{{Method: policy.MethodBasic, Authenticator: a}}}
		if file := cfg.Basic.HtpasswdFile.String(); file != "" {
			k.files, k.reload = []string{file}, a.Reload
		}
		return k, nil
	})
	return err
}

// verifyPassword reports whether a password is that of a user of the store.
func (p *plane) verifyPassword(ctx context.Context, t basic.Try) (bool, error) {
	_, err := p.registry.VerifyPassword(ctx, registry.Call{Client: t.Client}, t.Tenant, t.Name, t.Password)
	if no := (*registry.Error)(nil); errors.As(err, &no) && no.Reason == registry.LoginFailed {
		return false, nil
	}
	return err == nil, err
}

func (p *parts) addWorkloads(cfg *Config, prev kinds, env surroundings) error {
	if cfg.Workloads == nil {
		return nil
	}
	const name = "workloads"
	var issuers []string // whose tokens are not taken twice
	for i := range cfg.Issuers {
		issuers = append(issuers, cfg.Issuers[i].URL)
	}
	made := []any{*cfg.Workloads, cfg.Cache, issuers}
	_, err := p.kinds.add(prev, name, made, func() (*kind, error) {
		before := previous[workloads](prev, name)
		keys, sources, err := workloadKeys(cfg.Workloads, before.sources, env)
		if err != nil {
			return nil, err
		}
		a, err := workload.New(*cfg.Workloads, workload.Deps{
			Keys: keys, Previous: before.Authenticator, Now: env.now,
			AlsoOwned: func(issuer, _ string) bool { return slices.Contains(issuers, issuer) },
			Cache:     proofCache(cfg, env),
		})
		if err != nil {
			return nil, errors.Join(err, sources.Close())
		}
		return &kind{
			own: workloads{a, sources}, links: enrol(env.plane.agents(), a.Links()), files: sources.files(), reload: sources.reload, close: sources.Close,
			condition: func() (string, error) { return "", sources.err() },
		}, nil
	})
	return err
}

// enrol has workloads by their SPIFFE ids be the agents that they are registered as.
// Clients that the configuration lists are who it says.
func enrol(agents authn.Agents, links []authn.Link) []authn.Link {
	for i := range links {
		if l := &links[i]; agents != nil && l.Method == policy.MethodSVID {
			l.Authenticator = authn.Enrolled{Authenticator: l.Authenticator, Agents: agents}
		}
	}
	return links
}

// workloads are what the next of their kind takes over.
type workloads struct {
	*workload.Authenticator
	sources keySources
}

// workloadKeys starts to keep the keys of trust domains and clients.
func workloadKeys(cfg *workload.Config, before keySources, env surroundings) (map[string]jose.Keys, keySources, error) {
	keys, sources := map[string]jose.Keys{}, keySources{}
	for name, from := range cfg.Sources() {
		s, err := sources.open(name, from, before, env)
		if err != nil {
			return nil, nil, errors.Join(fmt.Errorf("%s: %w", name, err), sources.Close())
		}
		keys[name] = s
	}
	return keys, sources, nil
}

func (p *parts) addAgents(cfg *Config, prev kinds, env surroundings) error {
	if cfg.Agents == nil {
		return nil
	}
	const name = "agents"
	var issuers []string // whose tokens are not taken twice
	for i := range cfg.Issuers {
		issuers = append(issuers, cfg.Issuers[i].URL)
	}
	made := []any{*cfg.Agents, cfg.Cache, issuers, cfg.Workloads, p.signer}
	_, err := p.kinds.add(prev, name, made, func() (*kind, error) {
		deps := agent.Deps{
			Signer: p.signer, Previous: previous[*agent.Authenticator](prev, name), Now: env.now, Cache: proofCache(cfg, env),
			AlsoOwned: func(issuer, subject string) bool {
				return slices.Contains(issuers, issuer) || cfg.Workloads != nil && cfg.Workloads.OwnsClaims(issuer, subject)
			},
		}
		if env.plane != nil {
			deps.Agents, deps.People, deps.Parents = env.plane.agents(), env.plane.mirror.People(), env.plane.mirror.Parents()
		}
		a, err := agent.New(*cfg.Agents, deps)
		if err != nil {
			return nil, err
		}
		k := &kind{own: a, links: []authn.Link{a.Link()}, cache: a.Cache()}
		k.condition = func() (string, error) { return agentsDetail(cfg, p.signer), nil }
		return k, nil
	})
	return err
}

// agentsDetail says which tokens of agents are accepted.
func agentsDetail(cfg *Config, s *signer.Signer) string {
	accepted := "what agents sign"
	if s != nil {
		accepted = "what Postern issues, " + accepted
	}
	if cfg.Agents.CompatHS256 != nil {
		accepted += ", compat_hs256"
	}
	return "accepts " + accepted
}

// maxDepth is how many may act for one another.
func maxDepth(cfg *Config) int {
	if cfg.Agents == nil {
		return agent.DefaultDepth
	}
	return cfg.Agents.WithDefaults("").MaxDepth
}

// tokenRules are those of agent tokens in the words of the registry; nil for none.
func tokenRules(cfg *Config) *registry.TokenRules {
	if cfg.Agents == nil {
		return nil
	}
	c := cfg.Agents.WithDefaults(cfg.Signing.Issuer)
	return &registry.TokenRules{
		Roles: c.Roles, Audiences: c.Audiences, TTL: c.TTL, MaxTTL: c.MaxTTL,
		TokenBudget: c.TokenBudget, MaxTokenBudget: agent.MaxTokenBudget, MaxDepth: c.MaxDepth,
	}
}

func (p *parts) addVault(cfg *Config, prev kinds, env surroundings) error {
	for i := range cfg.Vault {
		c := cfg.Vault[i]
		name := "vault " + c.Name
		_, err := p.kinds.add(prev, name, c, func() (*kind, error) {
			a, err := vault.New(c, vault.Deps{Now: env.now, Inherit: previous[*vault.Authenticator](prev, name)})
			if err != nil {
				return nil, err
			}
			k := cached(env, c.Cache(), authn.Link{Method: c.Method, Authenticator: a, Shapes: authn.ShapeVault})
			k.own, k.close = a, a.Close
			k.condition = func() (string, error) { return "", a.Status().Err }
			return k, nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (p *parts) addAppSessions(cfg *Config, prev kinds, env surroundings) error {
	for i := range cfg.AppSessions {
		c := cfg.AppSessions[i]
		_, err := p.kinds.add(prev, "app_sessions "+c.Name, c, func() (*kind, error) {
			a, err := appsession.New(c, appsession.Deps{Now: env.now})
			if err != nil {
				return nil, err
			}
			for _, w := range c.Warnings() {
				env.log.Warn("app_sessions", "name", c.Name, "warning", w)
			}
			k := cached(env, c.CacheConfig(), authn.Link{Method: c.Method, Authenticator: a})
			k.close, k.condition = a.Close, func() (string, error) { return "", a.Status().Err }
			return k, nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// methodZones are the zones outside of which a method is not used.
func methodZones(cfg *Config) map[policy.Method][]string {
	if cfg.Basic == nil || cfg.Basic.InsecureAnywhere {
		return nil
	}
	return map[policy.Method][]string{policy.MethodBasic: slices.Clone(cfg.Basic.Zones)}
}
