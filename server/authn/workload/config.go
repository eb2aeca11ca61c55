package workload

import (
	"cmp"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/jose"
	"github.com/postern-auth/postern/server/strictyaml"
)

// Config says which workloads sign for themselves, and who vouches for their keys.
type Config struct {
	// Audiences are the names by which workloads know this service, one of which must be
	// in the claim `aud`. Required with `clients`, and with a trust domain that lists
	// none of its own. Do not list the address of an authorization server's token
	// endpoint: what a workload signs for it could be used here then.
	Audiences []string `yaml:"audiences"`
	// ClockSkew is how far the workloads' clocks and ours may differ; default 30s, at
	// most 5m. Tokens are accepted that much longer than they say.
	ClockSkew time.Duration `yaml:"clock_skew"`
	// ReplaySize is how many tokens of `clients` are remembered, so that none is used
	// twice; default 200000, from 1000 to 20000000. A token is remembered for its
	// client's max_lifetime and twice clock_skew. Each costs about 70 bytes, 14 MB when
	// all are in use. When it is full, requests are denied as "could not find out".
	ReplaySize int `yaml:"replay_size"`
	// TrustDomains are SPIFFE trust domains whose JWT-SVIDs are accepted (method
	// jwt_svid).
	TrustDomains []TrustDomain `yaml:"trust_domains"`
	// Clients are workloads that sign with keys of their own (method workload).
	Clients []Client `yaml:"clients"`
}

// TrustDomain is a SPIFFE trust domain. Its authority signs the tokens, and its
// workloads get them from an agent beside them, for example of SPIRE.
type TrustDomain struct {
	// Name is the trust domain, as in spiffe://NAME/path.
	Name string `yaml:"name,required"`
	// BundleFile is a file that holds the trust domain's bundle: a JWK set with `use:
	// jwt-svid`. BundleURL is where it is published (a SPIFFE bundle endpoint with the
	// profile https_web). One of them is required.
	BundleFile strictyaml.Path `yaml:"bundle_file"`
	BundleURL  string          `yaml:"bundle_url"`
	// Audiences replace the `audiences` of all.
	Audiences []string `yaml:"audiences"`
	// MaxLifetime is the longest time from `iat`, or if there is none from now, to `exp`
	// that is accepted; default 1h, at most 24h.
	MaxLifetime time.Duration `yaml:"max_lifetime"`
	// Kind is what the workloads are: service (the default), agent or device. Where there
	// is a store, an agent must be registered there.
	Kind policy.Kind `yaml:"kind"`
	// Tenant is the tenant they all belong to; default none.
	Tenant string `yaml:"tenant"`
	// Constraints limit where and when the tokens may be used.
	Constraints *policy.Constraints `yaml:"constraints"`
	// Keys says how a bundle is fetched and kept. What its publisher says in
	// spiffe_refresh_hint counts, if it is less than `refresh`.
	Keys jose.SourceConfig `yaml:"keys"`
}

// Client is a workload that has a key pair of its own and signs a token for each
// request, as OAuth clients do for their authorization server (RFC 7523, RFC 7521).
type Client struct {
	// ID names the workload. Its tokens have it as `iss` and as `sub`.
	ID string `yaml:"id,required"`
	// JWKSFile is a file that holds the workload's public keys, JWKS the URL where it
	// publishes them. One of them is required.
	JWKSFile strictyaml.Path `yaml:"jwks_file"`
	JWKS     string          `yaml:"jwks"`
	// Algorithms are the signature algorithms that are accepted: RS256, RS384, RS512,
	// PS256, PS384, PS512, ES256, ES384, ES512, EdDSA, Ed25519; default RS256, PS256,
	// ES256 and EdDSA.
	Algorithms []string `yaml:"algorithms"`
	// MaxLifetime is the longest time from `iat` to `exp` that is accepted; default 5m,
	// at most 1h.
	MaxLifetime time.Duration `yaml:"max_lifetime"`
	// Reusable accepts a token again until it expires. Default: false, each token has a
	// `jti` and is accepted once. Each replica remembers for itself. Danger of true: who
	// sees a token can use it until it expires.
	Reusable bool `yaml:"reusable"`

	// Kind is what the workload is: service (the default), agent or device.
	Kind policy.Kind `yaml:"kind"`
	// Tenant is the tenant it belongs to; default none.
	Tenant string `yaml:"tenant"`
	// Roles, Permissions and Scopes are what it holds. A token with the claim `scope`
	// holds those scopes only, which must be among these.
	Roles       []string `yaml:"roles"`
	Permissions []string `yaml:"permissions"`
	Scopes      []string `yaml:"scopes"`
	// Metadata is for policies: principal.metadata.
	Metadata map[string]any `yaml:"metadata"`
	// Constraints limit where and when its tokens may be used.
	Constraints *policy.Constraints `yaml:"constraints"`
	// Keys says how a key set is fetched and kept.
	Keys jose.SourceConfig `yaml:"keys"`
}

// The defaults and bounds of Config.
const (
	defaultClockSkew      = 30 * time.Second
	maxClockSkew          = 5 * time.Minute
	defaultReplaySize     = 200_000
	minReplaySize         = 1_000
	maxReplaySize         = 20_000_000
	defaultSVIDLifetime   = time.Hour
	maxSVIDLifetime       = 24 * time.Hour
	defaultClientLifetime = 5 * time.Minute
	maxClientLifetime     = time.Hour
)

// svidAlgorithms are those of JWT-SVID section 2.1. Edwards curves are not among them.
var svidAlgorithms = []string{"RS256", "RS384", "RS512", "ES256", "ES384", "ES512", "PS256", "PS384", "PS512"}

var defaultAlgorithms = []string{"RS256", "PS256", "ES256", "EdDSA"}

// SetDefaults sets what each field states as its default. Files are read into a Config
// that starts so: a clock_skew that is written as 0s stays one.
func (c *Config) SetDefaults() {
	c.ClockSkew = defaultClockSkew
	*c = c.withDefaults()
}

// SetDefaults sets what each field states as its default.
func (d *TrustDomain) SetDefaults() {
	d.MaxLifetime = cmp.Or(d.MaxLifetime, defaultSVIDLifetime)
	d.Kind = cmp.Or(d.Kind, policy.KindService)
}

// SetDefaults sets what each field states as its default.
func (c *Client) SetDefaults() {
	if len(c.Algorithms) == 0 {
		c.Algorithms = slices.Clone(defaultAlgorithms)
	}
	c.MaxLifetime = cmp.Or(c.MaxLifetime, defaultClientLifetime)
	c.Kind = cmp.Or(c.Kind, policy.KindService)
}

// withDefaults returns a copy in which the fields whose zero value means nothing have
// their defaults.
func (c Config) withDefaults() Config {
	c.ReplaySize = cmp.Or(c.ReplaySize, defaultReplaySize)
	c.TrustDomains, c.Clients = slices.Clone(c.TrustDomains), slices.Clone(c.Clients)
	for i := range c.TrustDomains {
		c.TrustDomains[i].SetDefaults()
	}
	for i := range c.Clients {
		c.Clients[i].SetDefaults()
	}
	return c
}

// Sources returns where the keys of each trust domain and client come from, by the names
// under which Deps.Keys has them: spiffe://NAME, or the client's id.
func (c *Config) Sources() map[string]jose.SourceConfig {
	all := make(map[string]jose.SourceConfig, len(c.TrustDomains)+len(c.Clients))
	for i := range c.TrustDomains {
		d := &c.TrustDomains[i]
		s := d.Keys
		s.Issuer, s.File, s.URL, s.Bundle = d.id(), d.BundleFile.String(), d.BundleURL, true
		all[s.Issuer] = s
	}
	for i := range c.Clients {
		s := c.Clients[i].Keys
		s.Issuer, s.File, s.URL = c.Clients[i].ID, c.Clients[i].JWKSFile.String(), c.Clients[i].JWKS
		all[s.Issuer] = s
	}
	return all
}

// OwnsClaims reports what Authenticator.OwnsClaims will, to those who are made before it.
func (c *Config) OwnsClaims(issuer, subject string) bool {
	name, _ := trustDomainOf(subject)
	return slices.ContainsFunc(c.TrustDomains, func(d TrustDomain) bool { return name != "" && d.Name == name }) ||
		slices.ContainsFunc(c.Clients, func(c Client) bool { return issuer != "" && c.ID == issuer })
}

// id returns the SPIFFE id of the trust domain.
func (d *TrustDomain) id() string { return spiffeScheme + d.Name }

// Check calls report for everything that is wrong with the configuration: path is the
// field, message says what is wrong, suggestion what to do instead.
func (c *Config) Check(report func(path, message, suggestion string)) {
	if c.ClockSkew < 0 || c.ClockSkew > maxClockSkew {
		report("clock_skew", fmt.Sprintf("must be between 0s and %s", maxClockSkew), "synchronize the clocks")
	}
	if n := cmp.Or(c.ReplaySize, defaultReplaySize); n < minReplaySize || n > maxReplaySize {
		report("replay_size", fmt.Sprintf("must be between %d and %d", minReplaySize, maxReplaySize), "leave it out for 200000")
	}
	checkAudiences(c.Audiences, report)
	if len(c.Clients) > 0 && len(c.Audiences) == 0 {
		report("audiences", "at least one is required: a token that is not meant for this service must be refused", "name this service as the workloads write it into aud")
	}
	seen := map[string]bool{}
	for i := range c.TrustDomains {
		d := c.TrustDomains[i]
		d.SetDefaults()
		at := within(report, fmt.Sprintf("trust_domains[%d].", i))
		d.check(at)
		if len(d.Audiences) == 0 && len(c.Audiences) == 0 {
			at("audiences", "at least one is required: a token that is not meant for this service must be refused", "name this service as the workloads write it into aud")
		}
		if seen[d.id()] {
			at("name", "is configured twice", "keep one")
		}
		seen[d.id()] = true
	}
	for i := range c.Clients {
		client := c.Clients[i]
		client.SetDefaults()
		at := within(report, fmt.Sprintf("clients[%d].", i))
		client.check(at)
		if seen[client.ID] {
			at("id", "is configured twice", "keep one")
		}
		seen[client.ID] = true
	}
}

// within puts a prefix before each path.
func within(report func(path, message, suggestion string), prefix string) func(path, message, suggestion string) {
	return func(path, message, suggestion string) { report(prefix+path, message, suggestion) }
}

func (d *TrustDomain) check(report func(path, message, suggestion string)) {
	if !isTrustDomain(d.Name) {
		report("name", "must be a SPIFFE trust domain: lower-case letters, digits, dots, dashes and underscores", "write prod.example.com for spiffe://prod.example.com/…")
	}
	checkOnePlace(report, "bundle_file", d.BundleFile.String(), "bundle_url", d.BundleURL)
	checkAudiences(d.Audiences, report)
	checkLifetime(d.MaxLifetime, maxSVIDLifetime, report)
	checkWhose(d.Kind, d.Tenant, d.Constraints, report)
	d.Keys.Check(within(report, "keys."))
}

func (c *Client) check(report func(path, message, suggestion string)) {
	switch {
	case !jose.IsIdentifier(c.ID):
		report("id", "must be printable text without spaces around it", "")
	case strings.HasPrefix(strings.ToLower(c.ID), spiffeScheme):
		report("id", "is a SPIFFE id, for which its trust domain vouches", "list the trust domain in trust_domains, or use another name")
	}
	checkOnePlace(report, "jwks_file", c.JWKSFile.String(), "jwks", c.JWKS)
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
	checkLifetime(c.MaxLifetime, maxClientLifetime, report)
	checkWhose(c.Kind, c.Tenant, c.Constraints, report)
	for _, list := range []struct {
		name  string
		names []string
	}{{"roles", c.Roles}, {"permissions", c.Permissions}, {"scopes", c.Scopes}} {
		checkNames(list.name, list.names, report)
	}
	for i, s := range c.Scopes {
		if strings.Contains(s, " ") {
			report(fmt.Sprintf("scopes[%d]", i), "holds a space, which no scope does (RFC 6749 section 3.3)", "list each scope by itself")
		}
	}
	c.Keys.Check(within(report, "keys."))
}

// checkOnePlace demands that the keys come from one place.
func checkOnePlace(report func(path, message, suggestion string), fileField, file, urlField, text string) {
	switch {
	case file != "" && text != "":
		report(urlField, "does not go with "+fileField+": the keys come from one place", "keep one of them")
	case file == "" && text == "":
		report(fileField, "or "+urlField+" is required: nobody vouches for the keys", "say where they are")
	case text == "":
	default:
		if u, err := url.Parse(text); err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil {
			report(urlField, "must be an https URL without a user", "")
		}
	}
}

func checkAudiences(audiences []string, report func(path, message, suggestion string)) {
	checkNames("audiences", audiences, report)
	if i := slices.Index(audiences, "any"); i >= 0 {
		report(fmt.Sprintf("audiences[%d]", i), `is "any", which is a name here and accepts nothing else`, "name this service: a workload can write it into its token")
	}
}

func checkNames(field string, names []string, report func(path, message, suggestion string)) {
	for i, name := range names {
		if !jose.IsIdentifier(name) {
			report(fmt.Sprintf("%s[%d]", field, i), "must be printable text without spaces around it", "")
		}
	}
}

func checkLifetime(d, most time.Duration, report func(path, message, suggestion string)) {
	if d < time.Second || d > most {
		report("max_lifetime", fmt.Sprintf("must be between 1s and %s", most), "let the workload sign more often")
	}
}

func checkWhose(kind policy.Kind, tenant string, limits *policy.Constraints, report func(path, message, suggestion string)) {
	switch kind {
	case policy.KindService, policy.KindAgent, policy.KindDevice:
	default:
		report("kind", "must be service, agent or device", "")
	}
	if tenant != "" && !jose.IsIdentifier(tenant) {
		report("tenant", "must be printable text without spaces around it", "")
	}
	limits.Faults(within(report, "constraints."))
}
