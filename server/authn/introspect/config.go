package introspect

import (
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn"
	"github.com/postern-auth/postern/server/jose"
	"github.com/postern-auth/postern/server/outbound"
	"github.com/postern-auth/postern/server/strictyaml"
)

// Config is one issuer of opaque tokens: where it is asked about them, as whom, and
// what its answers mean.
type Config struct {
	// Issuer is the name of the authorization server, exactly as its answers and its
	// metadata write it: an answer that names another is refused. Without `url`, the
	// endpoint is found through it (RFC 8414, OpenID Connect Discovery 1.0). Default:
	// scheme and host of `url`.
	Issuer string `yaml:"issuer"`
	// URL is the introspection endpoint.
	URL string `yaml:"url"`
	// AllowedHosts are hosts besides the issuer's own on which its metadata may place
	// the endpoint.
	AllowedHosts []policy.HostPattern `yaml:"allowed_hosts"`

	// ClientID is the id that Postern has at the issuer.
	ClientID string `yaml:"client_id"`
	// Auth is how Postern proves itself to the issuer: client_secret_basic (the default
	// with a secret), client_secret_post, private_key_jwt (the default with `key_file`;
	// RFC 7523), tls_client_auth (with `http.client_cert_file`; RFC 8705), or bearer (the
	// default with `bearer_token`).
	Auth Auth `yaml:"auth"`
	// ClientSecret is the secret of the client.
	ClientSecret policy.Secret `yaml:"client_secret"`
	// KeyFile is a PEM file with the client's private key: EC (ES256, ES384, ES512),
	// Ed25519 (EdDSA), or RSA (RS256). For example of
	// `openssl genpkey -algorithm ed25519 -out key.pem`.
	KeyFile strictyaml.Path `yaml:"key_file"`
	// KeyID is the `kid` under which the issuer knows that key.
	KeyID string `yaml:"key_id"`
	// AssertionAudience is what the signed assertion names as its audience; default: the
	// issuer.
	AssertionAudience string `yaml:"assertion_audience"`
	// BearerToken is an access token of the issuer's that permits introspection.
	BearerToken policy.Secret `yaml:"bearer_token"`

	// Audiences are the names by which this service is known to the issuer. One of
	// them must be in the answer's `aud`. The single entry "any" accepts every token of
	// the issuer, also those that it meant for other services, so that each of these
	// can act here in its callers' names.
	Audiences []string `yaml:"audiences,required"`
	// Prefixes are what the issuer's tokens begin with; empty: anything. Tokens that
	// begin otherwise are not shown to it. Needed where several issuers share a method, and
	// where its tokens look like Vault's (s., b. or r. and 24 characters): those are shown
	// to it only if an entry here begins so, dot included.
	Prefixes []string `yaml:"prefixes"`
	// TokenTypes says which answers are taken for those about an access token: "strict"
	// (those that say so by `token_type`), or "lenient" (also those that have no
	// `token_type` and show no other purpose). Default: lenient, but strict if audiences
	// is [any]: some issuers find refresh tokens active as well, and tell them by nothing
	// but what is missing.
	TokenTypes TokenTypes `yaml:"token_types"`
	// AcceptJWTs has the issuer asked about its JWTs as well, instead of checking them
	// by its keys: each is withdrawn as soon as the issuer says so, and costs a
	// question. Default: JWTs are not this section's.
	AcceptJWTs bool `yaml:"accept_jwts"`
	// MaxTokenBytes is the length of the longest token that is asked about; default
	// 8192, at most 65536.
	MaxTokenBytes int `yaml:"max_token_bytes"`
	// ClockSkew is how far the issuer's clock and ours may differ; default 30 s, at most
	// 5 m. Tokens are accepted that much longer than the answer says.
	ClockSkew time.Duration `yaml:"clock_skew"`
	// RequiredClaims are paths to members that an answer must have besides `active`,
	// the audience and the id.
	RequiredClaims []jose.ClaimPath `yaml:"required_claims"`
	// Clients are the OAuth clients whose tokens are accepted, by `client_id` or `azp`;
	// empty: all of the issuer's.
	Clients []string `yaml:"clients"`

	// Claims says what the members of an answer mean. The id is `sub` by default, or
	// else the client's, which makes the principal a service.
	Claims jose.ClaimMap `yaml:"claims"`
	// Pass are top-level members that policies and logs may see, as `principal.claims`.
	// Those whose names look like a secret never pass, nor do such members inside
	// others.
	Pass []string `yaml:"pass"`
	// Kind is what the issuer's principals are: user, service, agent or device. Default:
	// service if the token was issued to a client on its own behalf, else user.
	Kind policy.Kind `yaml:"kind"`
	// Method is the name by which routes know these tokens; default oauth.
	Method policy.Method `yaml:"method"`
	// Assurance is the level of the proof, 1 to 4; default 3. If the member amr shows a
	// second factor (RFC 8176: mfa, or say pwd and otp), it is 4.
	Assurance int `yaml:"assurance"`
	// Constraints limit where and when the issuer's tokens may be used.
	Constraints *policy.Constraints `yaml:"constraints"`

	// HTTP says how the endpoint is connected to. Its timeout is 500ms by default.
	HTTP outbound.Config `yaml:"http"`
	// MaxConcurrent is how many questions may be under way at once; default 64. More of
	// them wait, no longer than the timeout.
	MaxConcurrent int `yaml:"max_concurrent"`
	// Cache says how long answers are believed.
	Cache Cache `yaml:"cache"`
}

// Cache says how long answers are believed.
type Cache struct {
	// MaxTTL is the longest time before the issuer is asked again about a token that was
	// active, and so the time within which one that it revoked is refused. Default 30s,
	// at most 5m.
	MaxTTL time.Duration `yaml:"max_ttl"`
	// Negative is how long a token that was refused stays refused without asking again;
	// default 5s, at most 1m.
	Negative time.Duration `yaml:"negative"`
	// StaleFor is how much longer than max_ttl a token is believed while the issuer
	// cannot be reached: after a network fault, no answer in time, or a status of 500
	// and more. Never past the token's own end, and never after a refusal. Default 0s:
	// such requests are denied as "could not find out". At most 1h. Danger: a token that
	// was revoked meanwhile goes on being accepted for as long.
	StaleFor time.Duration `yaml:"stale_for"`
}

// Auth is how Postern proves itself to the issuer.
type Auth string

// The ways of OpenID Connect Core section 9 and RFC 8705 section 2, and the bearer
// token of RFC 7662 section 2.1.
const (
	AuthBasic      Auth = "client_secret_basic"
	AuthPost       Auth = "client_secret_post"
	AuthPrivateKey Auth = "private_key_jwt"
	AuthTLS        Auth = "tls_client_auth"
	AuthBearer     Auth = "bearer"
)

// Values returns what the configuration may say.
func (Auth) Values() []string {
	return []string{string(AuthBasic), string(AuthPost), string(AuthPrivateKey), string(AuthTLS), string(AuthBearer)}
}

// TokenTypes says which answers are taken for those about an access token.
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
	defaultTimeout    = 500 * time.Millisecond
	defaultClockSkew  = 30 * time.Second
	maxClockSkew      = 5 * time.Minute
	maxTokenBytes     = 64 << 10
	defaultAssurance  = 3
	maxAssurance      = 4
	defaultConcurrent = 64
	maxConcurrent     = 4096
	defaultMaxTTL     = 30 * time.Second
	longestMaxTTL     = 5 * time.Minute
	defaultNegative   = 5 * time.Second
	longestNegative   = time.Minute
	longestStale      = time.Hour
	anyAudience       = "any"
)

// SetDefaults sets what each field states as its default. Files are read into a Config
// that starts so, and so a clock_skew that is written as 0s stays one; New takes a zero
// for the default too where it could mean nothing else. Those defaults that follow from
// other fields stay open until New.
func (c *Config) SetDefaults() {
	c.ClockSkew = defaultClockSkew
	c.MaxTokenBytes = cmp.Or(c.MaxTokenBytes, jose.DefaultBytes)
	c.Method = cmp.Or(c.Method, policy.MethodOAuth)
	c.Assurance = cmp.Or(c.Assurance, defaultAssurance)
	c.HTTP.Timeout = cmp.Or(c.HTTP.Timeout, defaultTimeout)
	c.MaxConcurrent = cmp.Or(c.MaxConcurrent, defaultConcurrent)
	c.Cache.MaxTTL = cmp.Or(c.Cache.MaxTTL, defaultMaxTTL)
	c.Cache.Negative = cmp.Or(c.Cache.Negative, defaultNegative)
}

// withDefaults returns the configuration that is in force.
func (c Config) withDefaults() Config {
	skew := c.ClockSkew
	c.SetDefaults()
	c.ClockSkew = skew
	c.Auth = c.auth()
	c.TokenTypes = cmp.Or(c.TokenTypes, c.tokenTypes())
	c.Issuer = c.issuer()
	return c
}

// auth returns how Postern proves itself, from what it has for that.
func (c *Config) auth() Auth {
	switch {
	case c.Auth != "":
		return c.Auth
	case !c.ClientSecret.IsZero():
		return AuthBasic
	case c.KeyFile != "":
		return AuthPrivateKey
	case !c.BearerToken.IsZero():
		return AuthBearer
	case c.HTTP.ClientCertFile != "":
		return AuthTLS
	}
	return ""
}

func (c *Config) tokenTypes() TokenTypes {
	if slices.Contains(c.Audiences, anyAudience) {
		return Strict
	}
	return Lenient
}

func (c *Config) issuer() string {
	if u, err := url.Parse(c.URL); c.Issuer == "" && err == nil {
		return u.Scheme + "://" + u.Host
	}
	return c.Issuer
}

// place names the entry in errors.
func (c *Config) place() string {
	if u, err := url.Parse(c.URL); c.URL != "" && err == nil {
		return outbound.Name(u)
	}
	return c.Issuer
}

// CacheConfig returns the times of the cache into which the Authenticator is to be
// wrapped. Its flights get more time than a question may take, so that it is the
// question which ends, and its fault is known for what it is.
func (c *Config) CacheConfig() authn.CacheConfig {
	full := c.withDefaults()
	return authn.CacheConfig{
		MaxTTL:      full.Cache.MaxTTL,
		NegativeTTL: full.Cache.Negative,
		StaleFor:    full.Cache.StaleFor,
		Timeout:     2*full.HTTP.Timeout + time.Second, // a turn is waited for as long
	}
}

// Shapes are those of the tokens that it is asked about.
func (c *Config) Shapes() authn.Shape {
	if c.AcceptJWTs {
		return authn.ShapeOpaque | authn.ShapeSigned
	}
	return authn.ShapeOpaque
}

// Overlaps reports whether there are texts that both would take for tokens of theirs.
// One rule must not list such two: the first would be shown the tokens of the second,
// and refuse them.
func (c *Config) Overlaps(other *Config) bool {
	if len(c.Prefixes) == 0 || len(other.Prefixes) == 0 {
		return true
	}
	for _, a := range c.Prefixes {
		for _, b := range other.Prefixes {
			if strings.HasPrefix(a, b) || strings.HasPrefix(b, a) {
				return true
			}
		}
	}
	return false
}

// Check calls report for everything that is wrong with the configuration: path is the
// field, message says what is wrong, suggestion what to do instead. It reads no file, and
// takes a Config that started with SetDefaults: a zero is what somebody wrote.
func (c *Config) Check(report func(path, message, suggestion string)) {
	c.checkPlace(report)
	c.checkAuth(report)
	c.checkTokens(report)
	c.checkPrincipal(report)
	c.checkCache(report)
	c.HTTP.Check(func(path, message, suggestion string) { report("http."+path, message, suggestion) })
	c.Constraints.Faults(func(path, message, suggestion string) { report("constraints."+path, message, suggestion) })
}

func (c *Config) checkPlace(report func(path, message, suggestion string)) {
	if c.URL == "" && c.Issuer == "" {
		report("url", "is missing, and there is no issuer to find it by", "set url to the introspection endpoint, or issuer to the server's name")
		return
	}
	if c.URL != "" {
		if _, err := outbound.ParseURL(c.URL, &c.HTTP); err != nil {
			report("url", "cannot be asked: "+err.Error(), "")
		}
	}
	if c.Issuer != "" && !jose.IsIdentifier(c.Issuer) {
		report("issuer", "must be printable text without spaces around it", "")
	}
	if c.URL == "" {
		if err := c.discovery().Check(); err != nil {
			report("issuer", err.Error(), "set url to the introspection endpoint")
		}
	}
}

func (c *Config) discovery() *jose.Discovery {
	return &jose.Discovery{Issuer: c.Issuer, AllowedHosts: c.AllowedHosts, Outbound: &c.HTTP}
}

func (c *Config) checkAuth(report func(path, message, suggestion string)) {
	auth := c.auth()
	needs := func(path, what string) {
		report(path, fmt.Sprintf("is missing, which %s needs", auth), what)
	}
	if auth != AuthBearer && auth != "" && c.ClientID == "" {
		needs("client_id", "register Postern as a client at the issuer")
	}
	switch auth {
	case AuthBasic, AuthPost:
		if c.ClientSecret.IsZero() {
			needs("client_secret", "for example ${file:client-secret}")
		}
	case AuthPrivateKey:
		if c.KeyFile == "" {
			needs("key_file", "make one with `openssl genpkey -algorithm ed25519 -out key.pem`")
		}
	case AuthTLS:
		if c.HTTP.ClientCertFile == "" {
			needs("http.client_cert_file", "")
		}
	case AuthBearer:
		if !isToken68(c.BearerToken.Reveal()) {
			needs("bearer_token", "an access token of the issuer's, as it is sent after Bearer")
		}
	case "":
		report("auth", "is missing: an issuer answers only whom it knows (RFC 7662 section 2.1)", "set client_id and client_secret, or key_file, or bearer_token")
	default:
		report("auth", "is not one of "+strings.Join(c.Auth.Values(), ", "), "")
		return
	}
	for _, unused := range []struct {
		path string
		set  bool
		by   []Auth
	}{
		{"client_secret", !c.ClientSecret.IsZero(), []Auth{AuthBasic, AuthPost}},
		{"key_file", c.KeyFile != "", []Auth{AuthPrivateKey}},
		{"key_id", c.KeyID != "", []Auth{AuthPrivateKey}},
		{"assertion_audience", c.AssertionAudience != "", []Auth{AuthPrivateKey}},
		{"bearer_token", !c.BearerToken.IsZero(), []Auth{AuthBearer}},
	} {
		if unused.set && !slices.Contains(unused.by, auth) {
			report(unused.path, fmt.Sprintf("is not used by %s", cmp.Or(string(auth), "any way to authenticate")), "remove it, or set auth")
		}
	}
}

// isToken68 reports whether a text can stand after Bearer (RFC 6750 section 2.1).
func isToken68(s string) bool {
	s = strings.TrimRight(s, "=")
	for i := range len(s) {
		c := s[i]
		if !('0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || strings.IndexByte("-._~+/", c) >= 0) {
			return false
		}
	}
	return s != ""
}

func (c *Config) checkTokens(report func(path, message, suggestion string)) {
	switch {
	case len(c.Audiences) == 0:
		report("audiences", "at least one is required: a token that is not meant for this service must be refused", "name this service as the issuer does, or write [any] if its answers have no aud")
	case len(c.Audiences) > 1 && slices.Contains(c.Audiences, anyAudience):
		report("audiences", `"any" accepts all and stands alone`, "remove it, or the others")
	}
	identifiers(report, "audiences", c.Audiences)
	identifiers(report, "clients", c.Clients)
	identifiers(report, "prefixes", c.Prefixes)
	for i, p := range c.RequiredClaims {
		if p.IsZero() {
			report(fmt.Sprintf("required_claims[%d]", i), "is empty", "")
		}
	}
	if c.TokenTypes != "" && !slices.Contains(c.TokenTypes.Values(), string(c.TokenTypes)) {
		report("token_types", "must be lenient or strict", "")
	}
	if c.MaxTokenBytes < 1 || c.MaxTokenBytes > maxTokenBytes {
		report("max_token_bytes", fmt.Sprintf("must be between 1 and %d", maxTokenBytes), "")
	}
	if c.ClockSkew < 0 || c.ClockSkew > maxClockSkew {
		report("clock_skew", fmt.Sprintf("must be between 0s and %s", maxClockSkew), "synchronize the clocks")
	}
	if c.MaxConcurrent < 1 || c.MaxConcurrent > maxConcurrent {
		report("max_concurrent", fmt.Sprintf("must be between 1 and %d", maxConcurrent), "")
	}
}

func identifiers(report func(path, message, suggestion string), path string, list []string) {
	for i, text := range list {
		if !jose.IsIdentifier(text) {
			report(fmt.Sprintf("%s[%d]", path, i), "must be printable text without spaces around it", "")
		}
	}
}

func (c *Config) checkPrincipal(report func(path, message, suggestion string)) {
	switch c.Kind {
	case "", policy.KindUser, policy.KindService, policy.KindAgent, policy.KindDevice:
	default:
		report("kind", "must be user, service, agent or device", "")
	}
	if c.Assurance < 1 || c.Assurance > maxAssurance {
		report("assurance", fmt.Sprintf("must be between 1 and %d", maxAssurance), "")
	}
	for i, name := range c.Pass {
		switch path := fmt.Sprintf("pass[%d]", i); {
		case name == "":
			report(path, "is empty", "")
		case jose.LooksSecret(name):
			report(path, "looks like the name of a secret, which never passes", "let the issuer answer with a member of another name if it is none")
		}
	}
}

func (c *Config) checkCache(report func(path, message, suggestion string)) {
	for _, bound := range []struct {
		path              string
		have, least, most time.Duration
	}{
		{"cache.max_ttl", c.Cache.MaxTTL, time.Millisecond, longestMaxTTL},
		{"cache.negative", c.Cache.Negative, time.Millisecond, longestNegative},
		{"cache.stale_for", c.Cache.StaleFor, 0, longestStale},
	} {
		if bound.have < bound.least || bound.have > bound.most {
			report(bound.path, fmt.Sprintf("is %s, %s to %s is accepted", bound.have, bound.least, bound.most), "")
		}
	}
}

// refuse turns what package jose says is wrong with a claim into a Refusal.
func refuse(err error) error {
	if claim := (*jose.ClaimError)(nil); errors.As(err, &claim) {
		return authn.Refuse(claim.Reason, claim.Detail)
	}
	return err
}
