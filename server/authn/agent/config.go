package agent

import (
	"cmp"
	"encoding/base64"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/jose"
)

// Config says which tokens of agents are accepted, and what those say that Postern
// issues. Which agents there are is in the store (`postern agent`).
type Config struct {
	// Audiences are the names by which agents know this installation and the services
	// behind it, one of which must be in a token's claim `aud`. The first is the
	// installation's: a token for it is good wherever Postern decides. A token for others
	// alone is good where a route, or the installation, has one of these as `audience`.
	// Default: `signing.issuer`; required without it.
	Audiences []string `yaml:"audiences"`
	// Roles are the roles of agent tokens, each with the scopes that it stands for. A table
	// here replaces the default:
	//
	//	reader    data:read
	//	writer    data:read, data:write
	//	executor  data:read, data:write, exec:sandbox
	//
	// An agent gets tokens of those of its own `token_roles`. Taking a scope away here
	// takes it from tokens that were issued, too.
	Roles map[string][]string `yaml:"roles"`
	// TTL is how long an issued token lives that asks for no time of its own; default 15m,
	// or max_ttl if that is less.
	TTL time.Duration `yaml:"ttl"`
	// MaxTTL is the longest life of an issued token, 1m to 1h; default 1h.
	MaxTTL time.Duration `yaml:"max_ttl"`
	// TokenBudget is how many model tokens may be spent by an issued token that asks for no
	// budget of its own; default 10000.
	TokenBudget int64 `yaml:"token_budget"`
	// MaxDepth is how many may act for one another, in every kind of token, 1 to 8;
	// default 3.
	MaxDepth int `yaml:"max_depth"`
	// ClockSkew is how far the clocks of agents, of the replicas and ours may differ;
	// default 30s, at most 5m. Tokens are accepted that much longer than they say.
	ClockSkew time.Duration `yaml:"clock_skew"`
	// Algorithms are the signature algorithms of what agents sign themselves: RS256, RS384,
	// RS512, PS256, PS384, PS512, ES256, ES384, ES512, EdDSA, Ed25519; default ES256,
	// PS256 and EdDSA.
	Algorithms []string `yaml:"algorithms"`
	// MaxLifetime is the longest time from `iat` to `exp` of what agents sign themselves;
	// default 5m, at most 1h. Each such token is accepted once.
	MaxLifetime time.Duration `yaml:"max_lifetime"`
	// ReplaySize is how many tokens that agents signed are remembered, so that none is used
	// twice; default 200000, from 1000 to 20000000. A token is remembered for max_lifetime
	// and twice clock_skew. Each costs about 70 bytes, 14 MB when all are in use. When it
	// is full, requests are denied as "could not find out".
	ReplaySize int `yaml:"replay_size"`
	// CompatHS256 accepts the tokens of an older issuer, which are signed with a secret
	// that it shares with Postern. Default: they are refused.
	CompatHS256 *CompatHS256 `yaml:"compat_hs256"`
}

// CompatHS256 accepts tokens of agents that somebody else issues and signs with HMAC:
// {sub, tenant, scopes, token_budget, iat, exp, type: "agent"}, and nothing else but aud,
// jti and nbf. The agents must be registered, and get what they may have by that at most.
type CompatHS256 struct {
	// Secret is shared with the issuer, as ${file:…} or ${env:…}: at least 32 random bytes.
	// Danger: who knows it can be any agent that is registered, with all that this may do.
	// Required.
	Secret policy.Secret `yaml:"secret,required"`
	// SecretEncoding is how the secret is written: text (the default), or base64url.
	SecretEncoding Encoding `yaml:"secret_encoding"`
	// MaxLifetime is the longest time from `iat` to `exp`; default and most 1h.
	MaxLifetime time.Duration `yaml:"max_lifetime"`
}

// Encoding is how a shared secret is written.
type Encoding string

// The encodings.
const (
	EncodingText      Encoding = "text"
	EncodingBase64URL Encoding = "base64url"
)

// Values implements strictyaml.Enum.
func (Encoding) Values() []string { return []string{string(EncodingText), string(EncodingBase64URL)} }

// The defaults and bounds of Config.
const (
	// MaxTTL is the longest life of a token of an agent, whoever signs it.
	MaxTTL             = time.Hour
	minTTL             = time.Minute
	defaultTTL         = 15 * time.Minute
	defaultTokenBudget = 10_000
	// MaxTokenBudget is the largest budget that a token can say.
	MaxTokenBudget = int64(1) << 50
	// DefaultDepth is how many may act for one another where nothing else is said.
	DefaultDepth       = 3
	maxDepth           = 8
	defaultClockSkew   = 30 * time.Second
	maxClockSkew       = 5 * time.Minute
	defaultMaxLifetime = 5 * time.Minute
	defaultReplaySize  = 200_000
	minReplaySize      = 1_000
	maxReplaySize      = 20_000_000
	minSecretBytes     = 32 // RFC 7518 section 3.2
	minSecretDistinct  = 8  // different bytes in it; of 32 random hex digits, fewer are once in 10^7
	maxRoles           = 64 // of the table
	maxRoleScopes      = 64 // of one role
)

// DefaultRoles are the roles of agent tokens, with the scopes of each.
func DefaultRoles() map[string][]string {
	return map[string][]string{
		"reader":   {"data:read"},
		"writer":   {"data:read", "data:write"},
		"executor": {"data:read", "data:write", "exec:sandbox"},
	}
}

var defaultAlgorithms = []string{"ES256", "PS256", "EdDSA"}

// SetDefaults sets what each field states as its default, but for those that depend on
// others. Files are read into a Config that starts so.
func (c *Config) SetDefaults() {
	d := c.WithDefaults("")
	c.ClockSkew, c.Algorithms = defaultClockSkew, d.Algorithms
	c.MaxTTL, c.TokenBudget, c.MaxDepth, c.MaxLifetime, c.ReplaySize = d.MaxTTL, d.TokenBudget, d.MaxDepth, d.MaxLifetime, d.ReplaySize
}

// WithDefaults returns a copy in which all fields have their defaults. The issuer is that
// of the signing keys; empty if there are none.
func (c Config) WithDefaults(issuer string) Config {
	if len(c.Audiences) == 0 && issuer != "" {
		c.Audiences = []string{issuer}
	}
	if c.Roles == nil {
		c.Roles = DefaultRoles()
	}
	if len(c.Algorithms) == 0 {
		c.Algorithms = slices.Clone(defaultAlgorithms)
	}
	c.MaxTTL = cmp.Or(c.MaxTTL, MaxTTL)
	c.TTL = cmp.Or(c.TTL, min(defaultTTL, c.MaxTTL))
	c.TokenBudget = cmp.Or(c.TokenBudget, defaultTokenBudget)
	c.MaxDepth = cmp.Or(c.MaxDepth, DefaultDepth)
	c.MaxLifetime = cmp.Or(c.MaxLifetime, defaultMaxLifetime)
	c.ReplaySize = cmp.Or(c.ReplaySize, defaultReplaySize)
	if c.CompatHS256 != nil {
		compat := *c.CompatHS256
		compat.MaxLifetime = cmp.Or(compat.MaxLifetime, MaxTTL)
		compat.SecretEncoding = cmp.Or(compat.SecretEncoding, EncodingText)
		c.CompatHS256 = &compat
	}
	return c
}

// Check calls report for everything that is wrong with the configuration: path is the
// field, message says what is wrong, suggestion what to do instead. The issuer is that of
// the signing keys; empty if there are none.
func (c *Config) Check(issuer string, report func(path, message, suggestion string)) {
	d := c.WithDefaults(issuer)
	if len(d.Audiences) == 0 {
		report("audiences", "at least one is required without `signing`: a token that is not meant for this installation must be refused", "name it as the agents write it into aud")
	}
	for i, name := range d.Audiences {
		switch {
		case !jose.IsIdentifier(name):
			report(fmt.Sprintf("audiences[%d]", i), "must be printable text without spaces around it", "")
		case slices.Contains(d.Audiences[:i], name):
			report(fmt.Sprintf("audiences[%d]", i), "is there twice", "remove it")
		}
	}
	checkRoles(d.Roles, report)
	span(report, "max_ttl", d.MaxTTL, minTTL, MaxTTL)
	span(report, "ttl", d.TTL, minTTL, max(d.MaxTTL, minTTL))
	span(report, "max_lifetime", d.MaxLifetime, time.Second, MaxTTL)
	if c.ClockSkew < 0 || c.ClockSkew > maxClockSkew {
		report("clock_skew", fmt.Sprintf("must be between 0s and %s", maxClockSkew), "synchronize the clocks")
	}
	if d.TokenBudget < 1 || d.TokenBudget > MaxTokenBudget {
		report("token_budget", fmt.Sprintf("must be between 1 and %d", MaxTokenBudget), "leave it out for 10000")
	}
	if d.MaxDepth < 1 || d.MaxDepth > maxDepth {
		report("max_depth", fmt.Sprintf("must be between 1 and %d", maxDepth), "leave it out for 3")
	}
	if d.ReplaySize < minReplaySize || d.ReplaySize > maxReplaySize {
		report("replay_size", fmt.Sprintf("must be between %d and %d", minReplaySize, maxReplaySize), "leave it out for 200000")
	}
	checkAlgorithms(d.Algorithms, report)
	if compat := d.CompatHS256; compat != nil {
		span(report, "compat_hs256.max_lifetime", compat.MaxLifetime, time.Second, MaxTTL)
		if _, fault := compat.secret(); fault != "" {
			report("compat_hs256.secret", fault, "make one with `openssl rand -hex 32`; the value is not shown")
		}
	}
}

func span(report func(path, message, suggestion string), field string, d, least, most time.Duration) {
	if d < least || d > most {
		report(field, fmt.Sprintf("is %s; %s to %s are accepted", d, least, most), "tokens of agents live shortly: renew them more often")
	}
}

func checkRoles(roles map[string][]string, report func(path, message, suggestion string)) {
	if len(roles) == 0 || len(roles) > maxRoles {
		report("roles", fmt.Sprintf("has %d roles; 1 to %d are accepted", len(roles), maxRoles), "leave it out for reader, writer and executor")
		return
	}
	for _, role := range slices.Sorted(maps.Keys(roles)) {
		at := "roles." + role
		switch scopes := roles[role]; {
		case !jose.IsIdentifier(role) || strings.Contains(role, "*"):
			report(at, "is no name for a role", `use printable text without "*"`)
		case len(scopes) == 0 || len(scopes) > maxRoleScopes:
			report(at, fmt.Sprintf("has %d scopes; 1 to %d are accepted", len(scopes), maxRoleScopes), "take a role away that stands for nothing")
		default:
			for i, s := range scopes {
				if !isScope(s) || strings.Contains(s, "*") {
					report(fmt.Sprintf("%s[%d]", at, i), `is no scope (RFC 6749 section 3.3), or holds a "*"`, "list each scope by itself")
				}
			}
		}
	}
}

func checkAlgorithms(algorithms []string, report func(path, message, suggestion string)) {
	known := slices.DeleteFunc(jose.Algorithms(), func(alg string) bool { return strings.HasPrefix(alg, "HS") })
	for i, alg := range algorithms {
		path := fmt.Sprintf("algorithms[%d]", i)
		switch {
		case !slices.Contains(known, alg):
			report(path, "is not one of "+strings.Join(known, ", "), "leave it out for "+strings.Join(defaultAlgorithms, ", "))
		case slices.Contains(algorithms[:i], alg):
			report(path, "is there twice", "remove it")
		}
	}
}

// isScope reports whether the text is a scope-token of RFC 6749 section 3.3.
func isScope(s string) bool {
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c > '~' || c == '"' || c == '\\' {
			return false
		}
	}
	return s != ""
}

// secret returns the shared secret, or what is wrong with it, without a part of it.
func (c *CompatHS256) secret() (secret []byte, fault string) {
	secret = []byte(c.Secret.Reveal())
	if c.SecretEncoding == EncodingBase64URL {
		var err error
		if secret, err = base64.RawURLEncoding.Strict().DecodeString(strings.TrimRight(string(secret), "=")); err != nil {
			return nil, "is not base64url"
		}
	}
	distinct := map[byte]bool{}
	for _, b := range secret {
		distinct[b] = true
	}
	switch {
	case len(secret) < minSecretBytes:
		return nil, fmt.Sprintf("has %d bytes, at least %d are required", len(secret), minSecretBytes)
	case len(distinct) < minSecretDistinct:
		return nil, "repeats itself and can be guessed"
	}
	return secret, ""
}

// ScopesOf returns the scopes that roles stand for, each once, in the order of the table's
// lists. Roles that are not in the table stand for nothing.
func (c *Config) ScopesOf(roles []string) []string {
	var all []string
	for _, role := range roles {
		for _, s := range c.Roles[role] {
			if !slices.Contains(all, s) {
				all = append(all, s)
			}
		}
	}
	return all
}
