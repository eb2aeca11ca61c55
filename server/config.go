package server

import (
	"fmt"
	"path/filepath"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/policy/rego"
	"github.com/postern-auth/postern/server/authn"
	"github.com/postern-auth/postern/server/authn/apikey"
	"github.com/postern-auth/postern/server/canonical"
	"github.com/postern-auth/postern/server/door"
	"github.com/postern-auth/postern/server/door/extauthz"
	"github.com/postern-auth/postern/server/door/login"
	"github.com/postern-auth/postern/server/mirror"
	"github.com/postern-auth/postern/server/registry"
	"github.com/postern-auth/postern/server/regular"
	"github.com/postern-auth/postern/server/signer"
	"github.com/postern-auth/postern/server/strictyaml"
	"github.com/postern-auth/postern/server/target"
	"github.com/postern-auth/postern/server/trace"
)

// Config is the whole configuration of a server: one YAML file, read strictly.
// Whatever it leaves out has the default that its field states. Default returns
// those defaults; the zero Config is not one.
//
// It is read in three steps, and every error of all three is reported at once
// with its line: strictyaml turns the file into values and resolves the secrets,
// each section's types check themselves, and Check compares the sections with
// each other. A Config that was read is immutable.
type Config struct {
	// Version of the configuration's format. 1 is the only one. Required.
	Version int `yaml:"version,required"`
	// Listen says where Postern listens.
	Listen Listen `yaml:"listen"`
	// TLS is the server's certificate. Without it the listeners speak plaintext.
	TLS *TLS `yaml:"tls"`
	// Callers are the gateways and services that may ask. Without the list, who
	// reaches a listener may ask: everybody on loopback or the socket, and with
	// `tls.client_ca` everybody with a certificate of that CA. A listener that other
	// machines reach needs one of the two; a certificate of the server's own says
	// nothing about who asks.
	Callers []Caller `yaml:"callers"`
	// Credentials says where credentials are looked for and what they may be.
	// Places that are not listed are never looked at. A list here replaces the
	// default: header:x-api-key and header:authorization/apikey as api_key or pat,
	// header:authorization/bearer as api_key, pat or jwt. An empty list, [], is for
	// policies that look at credentials themselves: Postern then knows of nobody.
	Credentials []CredentialRule `yaml:"credentials,empty"`
	// APIKeys are the server's own keys.
	APIKeys apikey.Config `yaml:"api_keys"`
	// Store says where keys, tokens, users and sessions are kept that are managed over
	// the admin API.
	Store Store `yaml:"store"`
	// Tenants are the rules for the credentials in the store, where a tenant has none
	// of its own.
	Tenants Tenants `yaml:"tenants"`
	// Sessions are the sessions of the users in the store, and their cookie.
	Sessions login.Config `yaml:"sessions"`
	// AdminAPI says who may use the admin API.
	AdminAPI AdminAPI `yaml:"admin_api"`
	// Issuers are the issuers of JWTs that are believed. Each has its own keys,
	// audiences and algorithms, and a token is only held against its own issuer's.
	Issuers []Issuer `yaml:"issuers"`
	// Kinds are the other kinds of credentials.
	Kinds `yaml:",inline"`
	// Zones are networks by name, for routes and policies: input.request.zones.
	Zones map[string]Zone `yaml:"zones"`
	// Signing are the keys with which Postern signs tokens of its own: identity tokens
	// for services, and personal access tokens that are JWTs.
	Signing signer.Config `yaml:"signing"`
	// Routes say what requests must bring before the policy is asked. The first
	// that matches counts, and one that certainly never is the first is an error. A
	// request that matches none may use every configured method and needs a
	// credential.
	Routes []Route `yaml:"routes"`
	// Agreements is who has to agree before something may be done.
	Agreements `yaml:",inline"`
	// Models says which models there are, and who says which one a request asks.
	Models target.Models `yaml:"models"`
	// Tenancy lists the places in which requests name what belongs to a tenant: whoever
	// asks must be of that tenant, whatever the policy says.
	Tenancy []target.Rule `yaml:"tenancy"`
	// Budgeting is how much of something there is, and for whom.
	Budgeting `yaml:",inline"`
	// Spending is how often something may be asked for, and how it is known what it costs.
	Spending `yaml:",inline"`
	// Request says how requests are read: the repairs made to a path, the bounds
	// on sizes, and where the client's address is found.
	Request canonical.Config `yaml:"request"`
	// Upstream is what the service behind the gateway gets to see.
	Upstream Upstream `yaml:"upstream"`
	// Policy is the Rego policy that decides. Without a path and bundles everything is
	// denied with no_policy, and the server is not ready.
	Policy Policy `yaml:"policy"`
	// Cache bounds the memory of proven credentials.
	Cache Cache `yaml:"cache"`
	// Decisions says what is kept and logged of decisions.
	Decisions Decisions `yaml:"decisions"`
	// Tracing sends spans of checks to an OpenTelemetry receiver. Default: none.
	Tracing *trace.Config `yaml:"tracing"`
	// Limits bounds connections and messages.
	Limits Limits `yaml:"limits"`
	// OnFault is what ext_authz answers if a request could not be decided: "deny",
	// a denied response with status 503, which a gateway that fails open obeys as
	// well; or "error_response", an error in the protocol's own words (Envoy 1.37 and
	// later). Danger: a gateway with failure_mode_allow lets a request through on an
	// error. Default: deny.
	OnFault extauthz.OnFault `yaml:"on_fault"`
	// StatusProfile chooses the HTTP status that ext_authz answers for credentials
	// that are refused: "standard", 401 as RFC 9110 has it; or "legacy", 403 for API
	// keys that are unknown, revoked or expired. CheckService always says the
	// standard one. Default: standard.
	StatusProfile door.StatusProfile `yaml:"status_profile"`
	// Audience is the name of the service behind the gateway, which a credential with
	// `audiences` must list. A route can have its own. Default: none, which such a
	// credential does not fit.
	Audience string `yaml:"audience"`
	// Realm is the realm in WWW-Authenticate (RFC 9110 section 11.5). Default:
	// postern.
	Realm string `yaml:"realm"`
	// ResourceMetadata is the URL of the metadata of the protected resource, which
	// challenges name (RFC 9728). Default: none.
	ResourceMetadata string `yaml:"resource_metadata"`
	// Plaintext says what becomes of credentials that were sent without TLS.
	Plaintext Plaintext `yaml:"plaintext"`
	// Reflection serves gRPC reflection, so that grpcurl needs no proto files. It
	// shows the API, no data. Default: false; true in --dev.
	Reflection bool `yaml:"reflection"`
	// Shutdown says how the server stops.
	Shutdown Shutdown `yaml:"shutdown"`
	// Log is the server's own log, on standard error.
	Log Log `yaml:"log"`

	// references holds for each secret's path what stands in the file.
	references map[string]string
}

// Default returns the configuration of a file that says nothing.
func Default() *Config {
	tenants := registry.Config{}.WithDefaults()
	return &Config{
		Version:       1,
		Listen:        Listen{GRPC: loopback(9191), Admin: loopback(9192)},
		Credentials:   defaultCredentials(),
		APIKeys:       apikey.Config{Prefix: "pst", MaxFileSize: 512 * strictyaml.MiB, MaxAge: 90 * 24 * time.Hour},
		Store:         Store{Driver: DriverSQLite, Path: "postern.db", Mode: mirror.Strict, MaxStale: mirror.Config{}.WithDefaults().MaxStale},
		Tenants:       Tenants{MaxTTL: tenants.MaxTTL, MaxPATs: tenants.MaxPATs, MaxGrace: tenants.MaxGrace},
		Sessions:      login.Config{}.WithDefaults(),
		Request:       defaultRequest(),
		Upstream:      Upstream{Headers: defaultHeaders()},
		Policy:        Policy{OnePolicy: defaultPolicy()},
		Cache:         Cache{GoodCache{100_000, 5 * time.Minute}, BadCache{20_000, 2 * time.Second}},
		Decisions:     Decisions{Keep: 10_000, Log: LogDenies},
		Limits:        Limits{4 * strictyaml.MiB, 64 * strictyaml.KiB, 1_000, 10_000, 5_000, time.Second},
		OnFault:       extauthz.OnFaultDeny,
		StatusProfile: door.StatusStandard,
		Realm:         "postern",
		Budgeting:     defaultBudgeting(),
		Agreements:    defaultAgreements(),
		Spending:      Spending{Usage: Usage{Tell: TellRefused}},
		Shutdown:      Shutdown{Drain: 10 * time.Second},
		Log:           Log{Level: "info", Format: "auto"},
	}
}

func defaultCredentials() []CredentialRule {
	rule := func(from string, use ...policy.Method) CredentialRule {
		at, err := authn.ParseLocation(from)
		if err != nil {
			panic(err) // A test reads them all.
		}
		return CredentialRule{at, use}
	}
	return []CredentialRule{
		rule("header:x-api-key", policy.MethodAPIKey, policy.MethodPAT),
		rule("header:authorization/bearer", policy.MethodAPIKey, policy.MethodPAT, policy.MethodJWT),
		rule("header:authorization/apikey", policy.MethodAPIKey, policy.MethodPAT),
	}
}

func defaultHeaders() map[string]Attribute {
	return map[string]Attribute{
		"x-auth-principal": AttributeID,
		"x-auth-tenant":    AttributeTenant,
		"x-auth-roles":     AttributeRoles,
		"x-auth-scopes":    AttributeScopes,
		"x-auth-issuer":    AttributeIssuer,
		"x-auth-method":    AttributeMethod,
		"x-auth-decision":  AttributeDecision,
	}
}

func defaultRequest() canonical.Config {
	yes := true
	return canonical.Config{
		Paths: canonical.PathConfig{
			Decode: canonical.DecodeOnce, MergeSlashes: &yes, StripParameters: &yes,
			EncodedSlash: canonical.EncodedSlashReject, EncodedDelimiters: canonical.EncodedDelimitersReject,
		},
		Limits: canonical.LimitConfig{
			MaxPathBytes: 8 << 10, MaxQueryBytes: 16 << 10, MaxHeaders: 128,
			MaxHeaderValueBytes: 40 << 10, MaxHeaderBytes: 64 << 10, MaxBodyBytes: 1 << 20,
		},
		Client:          canonical.ClientConfig{UseRemoteAddress: &yes, ForwardedFor: "x-forwarded-for"},
		IdentityHeaders: canonical.DefaultIdentityHeaders(),
	}
}

func defaultPolicy() OnePolicy {
	one := 1
	c := rego.Config{Entrypoint: rego.DefaultEntrypoint, RegoVersion: &one, Timeout: 50 * time.Millisecond, MaxValue: 64 << 10}
	c.Cache = rego.CacheConfig{Size: 1 << 16, MaxBytes: 64 << 20, MaxTTL: 10 * time.Second}
	c.Limits = rego.Limits{Files: 4096, Bytes: 64 << 20, Depth: 32}
	return OnePolicy{Config: c}
}

// maxConfigSize is far more than a file that people write.
const maxConfigSize = 1 << 20

// LoadConfig reads the file. Relative paths in it are relative to its directory.
// The error is strictyaml.Errors if the file could be read.
func LoadConfig(path string, opts ...strictyaml.Option) (*Config, error) {
	src, err := regular.ReadFile(path, maxConfigSize)
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	base, err := filepath.Abs(filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	c, err := ParseConfig(path, src, append([]strictyaml.Option{strictyaml.WithBase(base)}, opts...)...)
	if err != nil {
		return nil, err
	}
	c.rebase(base)
	return c, nil
}

// rebase resolves the relative paths that are not of type strictyaml.Path.
func (c *Config) rebase(base string) {
	paths := []*string{&c.Policy.Path, (*string)(&c.Store.Path)}
	if shadow := c.Policy.Shadow; shadow != nil {
		paths = append(paths, &shadow.Path)
	}
	for i := range c.Issuers {
		s := &c.Issuers[i]
		paths = append(paths, &s.JWKSFile, &s.Keys.File, &s.Keys.CAFile)
	}
	for i := range c.Introspection {
		h := &c.Introspection[i].HTTP
		paths = append(paths, &h.CAFile, &h.ClientCertFile, &h.ClientKeyFile)
	}
	for i := range c.Vault {
		v := &c.Vault[i]
		paths = append(paths, &v.CAFile)
		if login := v.Login.Cert; login != nil {
			paths = append(paths, &login.CertFile, &login.KeyFile)
		}
		if login := v.Login.Kubernetes; login != nil {
			paths = append(paths, &login.TokenFile)
		}
	}
	if w := c.Workloads; w != nil {
		for i := range w.TrustDomains {
			d := &w.TrustDomains[i]
			paths = append(paths, &d.Keys.File, &d.Keys.CAFile)
		}
		for i := range w.Clients {
			s := &w.Clients[i]
			paths = append(paths, &s.Keys.File, &s.Keys.CAFile)
		}
	}
	for _, p := range paths {
		if *p != "" && !filepath.IsAbs(*p) {
			*p = filepath.Join(base, *p)
		}
	}
}

// ParseConfig reads a configuration from its text; the name stands for the file
// in messages.
func ParseConfig(name string, src []byte, opts ...strictyaml.Option) (*Config, error) {
	c := Default()
	references := map[string]string{}
	opts = append(opts, strictyaml.WithReferences(references), strictyaml.WithMaxSize(maxConfigSize), strictyaml.RefuseEmptyLists())
	if err := strictyaml.Decode(name, src, c, opts...); err != nil {
		return nil, err
	}
	for i := range c.Issuers {
		c.Issuers[i].Keys.SetDefaults()
	}
	c.references = references
	return c, nil
}

// Redacted returns the configuration in force as YAML, every default written
// out, secrets as the references that name them.
func (c *Config) Redacted() ([]byte, error) { return strictyaml.Encode(c, c.references) }
