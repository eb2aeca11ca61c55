package dpop

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/jose"
)

// Config says which proofs are accepted. Its zero value, with SetDefaults, is a good one.
type Config struct {
	// Algorithms are the signature algorithms that a client may use, as challenges list
	// them: RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, ES512, EdDSA,
	// Ed25519. Default: ES256, EdDSA, Ed25519, PS256, RS256.
	Algorithms []string `yaml:"algorithms"`
	// MaxAge is the longest time from the making of a proof to its use; default 30s, at
	// most 5m. Who steals a proof before it is used has that long.
	MaxAge time.Duration `yaml:"max_age"`
	// ClockSkew is how far the clocks of clients and ours may differ; default 10s, at
	// most 1m. With `nonce`, clients need no clock.
	ClockSkew time.Duration `yaml:"clock_skew"`
	// ReplaySize is how many proofs are remembered, so that none is used twice; default
	// 500000, from 1000 to 20000000. A proof is remembered for max_age and twice
	// clock_skew, 50s by default, with `nonce` for three times max_age; so the default
	// is enough for 10000 requests a second. Each costs about 70 bytes, 35 MB when all
	// are in use. When it is full, requests are denied as "overloaded".
	ReplaySize int `yaml:"replay_size"`
	// Nonce demands that proofs hold a nonce of Postern's, which then tells their age:
	// a client cannot make proofs in advance. A client without one is denied once, with
	// a nonce to try again with. Default: false.
	Nonce bool `yaml:"nonce"`
	// NonceKey makes the nonces: at least 32 random bytes, for example of `openssl rand
	// -hex 32`. All replicas need the same one, or each sends clients back for a nonce
	// of its own. Default: random at each start, which does for one replica.
	NonceKey policy.Secret `yaml:"nonce_key"`
}

// The defaults and bounds of Config.
const (
	defaultMaxAge     = 30 * time.Second
	maxMaxAge         = 5 * time.Minute
	defaultClockSkew  = 10 * time.Second
	maxClockSkew      = time.Minute
	defaultReplaySize = 500_000
	minReplaySize     = 1_000
	maxReplaySize     = 20_000_000
	minNonceKeyBytes  = 32
)

var defaultAlgorithms = []string{"ES256", "EdDSA", "Ed25519", "PS256", "RS256"}

// SetDefaults sets what each field states as its default. Files are read into a Config
// that starts so: a clock_skew that is written as 0s stays one.
func (c *Config) SetDefaults() {
	c.ClockSkew = defaultClockSkew
	*c = c.withDefaults()
}

// withDefaults sets the fields whose zero value means nothing to their defaults.
func (c Config) withDefaults() Config {
	if len(c.Algorithms) == 0 {
		c.Algorithms = slices.Clone(defaultAlgorithms)
	}
	if c.MaxAge == 0 {
		c.MaxAge = defaultMaxAge
	}
	if c.ReplaySize == 0 {
		c.ReplaySize = defaultReplaySize
	}
	return c
}

// Check calls report for everything that is wrong with the configuration: path is the
// field, message says what is wrong, suggestion what to do instead.
func (c *Config) Check(report func(path, message, suggestion string)) {
	known := slices.DeleteFunc(jose.Algorithms(), func(alg string) bool { return strings.HasPrefix(alg, "HS") })
	for i, alg := range c.Algorithms {
		path := fmt.Sprintf("algorithms[%d]", i)
		switch {
		case !slices.Contains(known, alg):
			report(path, "is not one of "+strings.Join(known, ", "), "leave it out for "+strings.Join(defaultAlgorithms, ", "))
		case slices.Contains(c.Algorithms[:i], alg):
			report(path, "is there twice", "remove it")
		}
	}
	if c.MaxAge < time.Second || c.MaxAge > maxMaxAge {
		report("max_age", fmt.Sprintf("must be between 1s and %s", maxMaxAge), "leave it out for 30s")
	}
	if c.ClockSkew < 0 || c.ClockSkew > maxClockSkew {
		report("clock_skew", fmt.Sprintf("must be between 0s and %s", maxClockSkew), "set nonce: true for clients whose clocks are wrong")
	}
	if c.ReplaySize < minReplaySize || c.ReplaySize > maxReplaySize {
		report("replay_size", fmt.Sprintf("must be between %d and %d", minReplaySize, maxReplaySize), "leave it out for 500000")
	}
	switch n := len(c.NonceKey.Reveal()); {
	case n == 0:
	case !c.Nonce:
		report("nonce_key", "makes no nonces while nonce is false", "set nonce: true, or remove it")
	case n < minNonceKeyBytes:
		report("nonce_key", fmt.Sprintf("has %d bytes, at least %d are required", n, minNonceKeyBytes), "make a random one with `openssl rand -hex 32`")
	}
}
