package jwt

import (
	"cmp"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/jose"
)

// Config is one issuer of tokens: who may sign, for whom, and what the claims
// mean. Tokens of issuers that no Config names are refused. One that is made in Go
// starts with SetDefaults; New takes a zero for the default too where it could mean
// nothing else, which leaves out ClockSkew.
type Config struct {
	// URL is the issuer. The claim `iss` must equal it, character by character: a
	// trailing slash counts.
	URL string `yaml:"url,required"`
	// Audiences are the names by which this service is known to the issuer. One of
	// them must be in the claim `aud`. The single entry "any" accepts every token
	// of the issuer, also those that it meant for other services, so that each of
	// these can act here in its callers' names.
	Audiences []string `yaml:"audiences,required"`
	// Algorithms are the signature algorithms that are accepted: RS256, RS384,
	// RS512, PS256, PS384, PS512, ES256, ES384, ES512, EdDSA, Ed25519; default
	// RS256, ES256 and EdDSA. HS256, HS384 and HS512 need `secret`, and nothing
	// else goes with it.
	Algorithms []string `yaml:"algorithms"`

	// JWKS is the URL of the issuer's key set. Without it, `jwks_file` and
	// `secret`, the URL is found by discovery (OpenID Connect Discovery 1.0, RFC
	// 8414).
	JWKS string `yaml:"jwks"`
	// JWKSFile is a file that holds the issuer's key set.
	JWKSFile string `yaml:"jwks_file"`
	// Secret is the key that Postern shares with the issuer, for algorithms HS256
	// to HS512: at least 32 random bytes, for example of `openssl rand -hex 32`.
	// Whoever knows it can sign as the issuer; public keys are better.
	Secret policy.Secret `yaml:"secret"`
	// SecretEncoding says how the bytes of `secret` are written: "text" (the
	// default: the characters are the bytes) or "base64url" (as in a JWK).
	SecretEncoding Encoding `yaml:"secret_encoding"`
	// SecretID is the `kid` that tokens give for `secret`. Tokens that name
	// another are refused; tokens that name none are tried.
	SecretID string `yaml:"secret_id"`

	// ClockSkew is how far the issuer's clock and ours may differ; default 30 s,
	// at most 5 m. Tokens are accepted that much longer than they say.
	ClockSkew time.Duration `yaml:"clock_skew"`
	// MaxLifetime is the longest time from `iat` to `exp` that is accepted, and
	// makes `iat` required; default: any.
	MaxLifetime time.Duration `yaml:"max_lifetime"`
	// MaxTokenBytes is the length of the longest token that is looked at; default
	// 8192, at most 65536.
	MaxTokenBytes int `yaml:"max_token_bytes"`
	// RequiredClaims are paths to claims that must be there besides `iss`, `aud`,
	// `exp` and the id.
	RequiredClaims []ClaimPath `yaml:"required_claims"`
	// TokenTypes says which types of tokens are accepted: "lenient" (the default:
	// `typ` absent, JWT or at+jwt, and nothing that shows another purpose) or
	// "strict" (access tokens of RFC 9068 only: at+jwt with iat, jti, client_id).
	TokenTypes TokenTypes `yaml:"token_types"`
	// Clients are the OAuth clients whose tokens are accepted, by `client_id` or
	// `azp`; empty: all of the issuer's.
	Clients []string `yaml:"clients"`

	// Claims says what the token's claims mean.
	Claims Claims `yaml:"claims"`
	// Pass are top-level claims that policies and logs may see, as
	// `principal.claims`. Claims whose names look like a secret never pass, nor do
	// such members inside others.
	Pass []string `yaml:"pass"`
	// Kind is what the issuer's principals are: user, service, agent or device.
	// Default: service if the token was issued to a client on its own behalf (id
	// equal to the client, and no sign of a user), else user.
	Kind policy.Kind `yaml:"kind"`
	// Method is the name by which routes know these tokens; default jwt.
	Method policy.Method `yaml:"method"`
	// Assurance is the level of the proof, 1 to 4; default 3. If the claim amr shows a
	// second factor (RFC 8176: mfa, or say pwd and otp), it is 4.
	Assurance int `yaml:"assurance"`
	// Constraints limit where and when the issuer's tokens may be used.
	Constraints *policy.Constraints `yaml:"constraints"`
}

// Claims are paths to the claims that make a principal.
type Claims = jose.ClaimMap

// ClaimPath says where in a token a claim is.
type ClaimPath = jose.ClaimPath

// ParseClaimPath reads a path.
func ParseClaimPath(text string) (ClaimPath, error) { return jose.ParseClaimPath(text) }

// Encoding is how a secret is written.
type Encoding string

// The encodings of secrets.
const (
	EncodingText      Encoding = "text"
	EncodingBase64URL Encoding = "base64url"
)

// Values returns what the configuration may say.
func (Encoding) Values() []string { return []string{string(EncodingText), string(EncodingBase64URL)} }

// TokenTypes says which types of tokens are accepted.
type TokenTypes string

// The choices of token types.
const (
	Lenient TokenTypes = "lenient"
	Strict  TokenTypes = "strict"
)

// Values returns what the configuration may say.
func (TokenTypes) Values() []string { return []string{string(Lenient), string(Strict)} }

// The defaults and bounds of Config.
const (
	defaultClockSkew = 30 * time.Second
	maxClockSkew     = 5 * time.Minute
	maxTokenBytes    = 64 << 10
	defaultAssurance = 3
	maxAssurance     = 4
	anyAudience      = "any"
)

var defaultAlgorithms = []string{"RS256", "ES256", "EdDSA"}

// SetDefaults sets what each field states as its default. Files are read into a
// Config that starts so: what is shown is then what is in force, and a clock_skew
// that is written as 0s stays one.
func (c *Config) SetDefaults() {
	c.ClockSkew = defaultClockSkew
	*c = c.withDefaults()
}

// withDefaults sets the fields whose zero value means nothing to their defaults.
func (c Config) withDefaults() Config {
	if len(c.Algorithms) == 0 && !c.UsesSecret() {
		c.Algorithms = slices.Clone(defaultAlgorithms)
	}
	c.SecretEncoding = cmp.Or(c.SecretEncoding, EncodingText)
	c.MaxTokenBytes = cmp.Or(c.MaxTokenBytes, jose.DefaultBytes)
	c.TokenTypes = cmp.Or(c.TokenTypes, Lenient)
	c.Claims = c.Claims.WithDefaults()
	c.Method = cmp.Or(c.Method, policy.MethodJWT)
	c.Assurance = cmp.Or(c.Assurance, defaultAssurance)
	return c
}

// UsesSecret reports whether the issuer signs with a shared secret, so that its
// keys come from nowhere else.
func (c *Config) UsesSecret() bool { return !c.Secret.IsZero() }

// Check calls report for everything that is wrong with the configuration: path
// is the field, message says what is wrong, suggestion what to do instead.
func (c *Config) Check(report func(path, message, suggestion string)) {
	c.checkIssuer(report)
	c.checkAlgorithms(report)
	c.checkKeys(report)
	c.checkBounds(report)
	c.checkPrincipal(report)
	c.Constraints.Faults(func(path, message, suggestion string) { report("constraints."+path, message, suggestion) })
}

func (c *Config) checkIssuer(report func(path, message, suggestion string)) {
	if u, err := url.Parse(c.URL); c.URL == "" || err != nil || !jose.IsIdentifier(c.URL) || u.User != nil {
		report("url", "must be the issuer exactly as its tokens name it, without a user", "copy the claim iss from a token")
	}
	switch {
	case len(c.Audiences) == 0:
		report("audiences", "at least one is required: a token that is not meant for this service must be refused", "name this service as the issuer does, or write [any] to accept tokens meant for others")
	case len(c.Audiences) > 1 && slices.Contains(c.Audiences, anyAudience):
		report("audiences", `"any" accepts all and stands alone`, "remove it, or the others")
	}
	for i, a := range c.Audiences {
		if !jose.IsIdentifier(a) {
			report(fmt.Sprintf("audiences[%d]", i), "must be printable text without spaces around it", "")
		}
	}
	for i, id := range c.Clients {
		if !jose.IsIdentifier(id) {
			report(fmt.Sprintf("clients[%d]", i), "must be printable text without spaces around it", "")
		}
	}
}

func (c *Config) checkAlgorithms(report func(path, message, suggestion string)) {
	if c.UsesSecret() && (len(c.Algorithms) == 0 || slices.Equal(c.Algorithms, defaultAlgorithms)) {
		report("algorithms", "a shared secret is used only if its algorithm is listed", "set algorithms: [HS256]")
		return
	}
	known := jose.Algorithms()
	for i, alg := range c.Algorithms {
		path := fmt.Sprintf("algorithms[%d]", i)
		switch {
		case !slices.Contains(known, alg):
			report(path, "is not one of "+strings.Join(known, ", "), "")
		case slices.Contains(c.Algorithms[:i], alg):
			report(path, "is there twice", "remove it")
		case isSymmetric(alg) && !c.UsesSecret():
			report(path, alg+" needs a shared secret", "set secret, or use RS256, ES256 or EdDSA")
		case !isSymmetric(alg) && c.UsesSecret():
			report(path, alg+" does not go with a shared secret: who can read a public key must not be able to sign", "remove secret, or list only HS256, HS384, HS512")
		}
	}
}

func isSymmetric(alg string) bool { return strings.HasPrefix(alg, "HS") }

func (c *Config) checkKeys(report func(path, message, suggestion string)) {
	sources := 0
	for _, set := range []bool{c.JWKS != "", c.JWKSFile != "", c.UsesSecret()} {
		if set {
			sources++
		}
	}
	if sources > 1 {
		report("", "jwks, jwks_file and secret exclude each other: the keys come from one place", "keep one of them")
	}
	if c.JWKS != "" {
		if u, err := url.Parse(c.JWKS); err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil {
			report("jwks", "must be an https URL without a user", "")
		}
	}
	if !c.UsesSecret() {
		if c.SecretID != "" {
			report("secret_id", "names no secret", "set secret too")
		}
		return
	}
	if err := c.checkSecret(); err != nil {
		report("secret", err.Error(), "make a random one with `openssl rand -hex 32`")
	}
}

func (c *Config) checkBounds(report func(path, message, suggestion string)) {
	if c.ClockSkew < 0 || c.ClockSkew > maxClockSkew {
		report("clock_skew", fmt.Sprintf("must be between 0s and %s", maxClockSkew), "synchronize the clocks")
	}
	if c.MaxLifetime < 0 {
		report("max_lifetime", "must not be negative", "")
	}
	if c.MaxTokenBytes < 1 || c.MaxTokenBytes > maxTokenBytes {
		report("max_token_bytes", fmt.Sprintf("must be between 1 and %d", maxTokenBytes), "")
	}
	if c.TokenTypes != "" && !slices.Contains(c.TokenTypes.Values(), string(c.TokenTypes)) {
		report("token_types", "must be lenient or strict", "")
	}
	if c.Assurance < 1 || c.Assurance > maxAssurance {
		report("assurance", fmt.Sprintf("must be between 1 and %d", maxAssurance), "")
	}
}

func (c *Config) checkPrincipal(report func(path, message, suggestion string)) {
	switch c.Kind {
	case "", policy.KindUser, policy.KindService, policy.KindAgent, policy.KindDevice:
	default:
		report("kind", "must be user, service, agent or device", "")
	}
	for i, p := range c.RequiredClaims {
		if p.IsZero() {
			report(fmt.Sprintf("required_claims[%d]", i), "is empty", "")
		}
	}
	for i, name := range c.Pass {
		switch path := fmt.Sprintf("pass[%d]", i); {
		case name == "":
			report(path, "is empty", "")
		case jose.LooksSecret(name):
			report(path, "looks like the name of a secret, which never passes", "let the issuer put it into a claim of another name if it is none")
		}
	}
}
