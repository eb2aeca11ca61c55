package server

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/policy/rego"
	"github.com/postern-auth/postern/server/authn"
	"github.com/postern-auth/postern/server/authn/apikey"
	"github.com/postern-auth/postern/server/authn/jwt"
	"github.com/postern-auth/postern/server/canonical"
	"github.com/postern-auth/postern/server/jose"
	"github.com/postern-auth/postern/server/strictyaml"
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
	// header:authorization/bearer as api_key, pat or jwt.
	Credentials []CredentialRule `yaml:"credentials"`
	// APIKeys are the server's own keys.
	APIKeys apikey.Config `yaml:"api_keys"`
	// Issuers are the issuers of JWTs that are believed. Each has its own keys,
	// audiences and algorithms, and a token is only held against its own issuer's.
	Issuers []Issuer `yaml:"issuers"`
	// Routes say what requests must bring before the policy is asked. The first
	// that matches counts, and one that certainly never is the first is an error. A
	// request that matches none may use every configured method and needs a
	// credential.
	Routes []Route `yaml:"routes"`
	// Request says how requests are read: the repairs made to a path, the bounds
	// on sizes, and where the client's address is found.
	Request canonical.Config `yaml:"request"`
	// Upstream is what the service behind the gateway gets to see.
	Upstream Upstream `yaml:"upstream"`
	// Policy is the Rego policy that decides. Without a path everything is denied
	// with no_policy, and the server is not ready.
	Policy rego.Config `yaml:"policy"`
	// Cache bounds the memory of proven credentials.
	Cache Cache `yaml:"cache"`
	// Decisions says what is kept and logged of decisions.
	Decisions Decisions `yaml:"decisions"`
	// Limits bounds connections and messages.
	Limits Limits `yaml:"limits"`
	// OnFault is what ext_authz answers if a request could not be decided: "deny",
	// a denied response with status 503, which a gateway that fails open obeys as
	// well; or "error_response", a gRPC error. Danger: a gateway with
	// failure_mode_allow lets a request through on an error. Default: deny.
	OnFault OnFault `yaml:"on_fault"`
	// StatusProfile chooses the HTTP status that ext_authz answers for credentials
	// that are refused: "standard", 401 as RFC 9110 has it; or "legacy", 403 for API
	// keys that are unknown, revoked or expired. CheckService always says the
	// standard one. Default: standard.
	StatusProfile StatusProfile `yaml:"status_profile"`
	// Realm is the realm in WWW-Authenticate (RFC 9110 section 11.5). Default:
	// postern.
	Realm string `yaml:"realm"`
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

// Listen says where Postern listens: ADDRESS:PORT, or unix:///path for a socket
// that its directory's permissions guard.
type Listen struct {
	// GRPC serves CheckService and Envoy's ext_authz. An address that is not
	// loopback needs `callers` or `tls.client_ca`. Default: 127.0.0.1:9191.
	GRPC Address `yaml:"grpc"`
	// Admin serves metrics, health and explanations over HTTP, or is "off". An
	// address that is not loopback needs `callers` or `tls.client_ca`. Danger:
	// explanations show who called what; keep it on a private network. Default:
	// 127.0.0.1:9192.
	Admin Address `yaml:"admin"`
}

// TLS is the server's side of TLS. The files are read again when they change.
type TLS struct {
	// Cert is a PEM file with the server's certificate and its chain. Required.
	Cert strictyaml.Path `yaml:"cert,required"`
	// Key is the PEM file with its private key. Required.
	Key strictyaml.Path `yaml:"key,required"`
	// ClientCA is a PEM file of CAs. If set, every client must show a certificate
	// that one of them signed.
	ClientCA strictyaml.Path `yaml:"client_ca"`
	// MinVersion is the oldest version of TLS: "1.2" or "1.3". Default: "1.3".
	MinVersion TLSVersion `yaml:"min_version"`
}

// SetDefaults implements strictyaml.Defaulter.
func (t *TLS) SetDefaults() { t.MinVersion = TLS13 }

// verifiesClients reports whether whoever connects shows a certificate. A nil TLS
// is none at all.
func (t *TLS) verifiesClients() bool { return t != nil && t.ClientCA != "" }

// Caller is a gateway or service that may ask. It must satisfy every one of
// `spiffe`, `dns`, `cidrs` and `token` that is set, and at least one must be.
type Caller struct {
	// Name names the caller in logs and policies. Required, unique.
	Name string `yaml:"name,required"`
	// SPIFFE is the SPIFFE ID in its client certificate, for example
	// spiffe://prod.example.com/ns/edge/sa/envoy. Needs `tls.client_ca`.
	SPIFFE string `yaml:"spiffe"`
	// DNS is a DNS name in its client certificate. Needs `tls.client_ca`.
	DNS string `yaml:"dns"`
	// CIDRs are the networks from which it connects, for example 10.0.3.0/24.
	CIDRs []netip.Prefix `yaml:"cidrs"`
	// Token is what it sends as gRPC metadata `authorization: Bearer TOKEN`, at
	// least 16 characters, as ${file:…} or ${env:…}. Without TLS it needs `cidrs`
	// as well, because others could read it on its way.
	Token policy.Secret `yaml:"token"`
	// Trust lists what it is believed to say about its own clients:
	// "source_principal", the identity that it verified for their connection, and
	// "context_extensions", what its routes say of themselves. Default: nothing.
	// Danger: whoever is trusted can name any identity.
	Trust []Trust `yaml:"trust"`
}

// CredentialRule says where one kind of credential is carried.
type CredentialRule struct {
	// From is the place: header:NAME, header:authorization/SCHEME, or query:NAME,
	// which is only looked at on routes with `insecure_query_credential`. Required.
	From authn.Location `yaml:"from,required"`
	// Use lists what may be found there, in the order in which it is tried:
	// api_key, pat, jwt, or what an issuer's `method` says. A single one needs no
	// brackets. Required.
	Use []policy.Method `yaml:"use,required,scalar"`
}

// Issuer is one issuer of tokens and the way to its keys.
type Issuer struct {
	// Config says who the issuer is and what its tokens mean.
	jwt.Config `yaml:",inline"`
	// Keys says how the issuer's keys are fetched and kept.
	Keys jose.SourceConfig `yaml:"keys"`
}

// SetDefaults implements strictyaml.Defaulter. Those of Keys depend on each other,
// so they are set when the file has been read.
func (s *Issuer) SetDefaults() { s.Config.SetDefaults() }

// Route says what requests to some place must bring before the policy is asked.
// It never allows anything by itself.
type Route struct {
	// Name names the route in policies, logs and metrics. Required, unique.
	Name string `yaml:"name,required"`
	// Hosts are host names without port, or *.example.com for every name below.
	// Default: every host.
	Hosts []policy.HostPattern `yaml:"hosts"`
	// Methods are HTTP methods in capitals. Default: every method.
	Methods []string `yaml:"methods"`
	// Paths are /orders/7, /orders/* for one more segment, or /public/** for
	// everything below. Default: every path.
	Paths []policy.PathPattern `yaml:"paths"`
	// AnyOf lists methods of authentication, one of which must be used: api_key,
	// pat, jwt, or what an issuer's `method` says. Default: every configured one.
	AnyOf []policy.Method `yaml:"any_of"`
	// AllOf lists methods that must all be used, instead of AnyOf.
	AllOf []policy.Method `yaml:"all_of"`
	// Anonymous lets requests without any credential on to the policy. A bad
	// credential is refused all the same. It does not go with `kinds`, `scopes`,
	// `min_assurance`, `max_age` and `tenant`, which such a request could not meet.
	// Default: false.
	Anonymous bool `yaml:"anonymous"`
	// Kinds lists the kinds of principals that are accepted: user, service, agent,
	// device. Default: every kind.
	Kinds []policy.Kind `yaml:"kinds"`
	// Scopes must all be held.
	Scopes []string `yaml:"scopes"`
	// Permission is what the request needs, which the policy decides:
	// input.route.permission.
	Permission string `yaml:"permission"`
	// MinAssurance is the least level of proof: 1 password, 2 key or bearer token,
	// 3 signed token, 4 certificate or second factor. Default: 0, every level.
	MinAssurance int `yaml:"min_assurance"`
	// MaxAge is the longest time since the user authenticated. Default: 0s, any.
	MaxAge time.Duration `yaml:"max_age"`
	// Tenant owns what the route leads to; principals of others are refused.
	Tenant string `yaml:"tenant"`
	// InsecurePlaintext accepts credentials over connections without TLS. Danger:
	// everybody on the way can read and use them. Default: false.
	InsecurePlaintext bool `yaml:"insecure_plaintext"`
	// InsecureQueryCredential names the query parameter in which a legacy client
	// may send its credential; `credentials` needs a rule for query:NAME. Danger:
	// URLs stand in every access log and browser history.
	InsecureQueryCredential string `yaml:"insecure_query_credential"`
	// Labels are for the policy: input.route.labels.
	Labels map[string]string `yaml:"labels"`
}

// Policy returns the route as the phases know it.
func (r Route) Policy() policy.Route { return policy.Route(r) }

// Upstream is what the service behind the gateway gets to see.
type Upstream struct {
	// Headers are the fields in which it is told who called, and what each says:
	// id, kind, tenant, roles, scopes, permissions, issuer, method, assurance,
	// credential (its id) or decision (its id). Fields of these names that a client
	// sends are removed. A mapping here replaces the default: x-auth-principal: id,
	// x-auth-tenant: tenant, x-auth-roles: roles, x-auth-scopes: scopes,
	// x-auth-issuer: issuer, x-auth-method: method, x-auth-decision: decision.
	Headers map[string]Attribute `yaml:"headers"`
	// InsecureKeepCredential leaves the caller's credential on the request. Danger:
	// the service, and whatever it logs or calls, can then act as the caller.
	// Default: false, it is removed.
	InsecureKeepCredential bool `yaml:"insecure_keep_credential"`
}

// Cache bounds the memory of proven credentials. Decisions have a cache of their
// own, `policy.cache`.
type Cache struct {
	// Credentials that proved good.
	Credentials GoodCache `yaml:"credentials"`
	// Negative are credentials that proved bad, apart from the good ones, so that
	// garbage cannot drive those out.
	Negative BadCache `yaml:"negative"`
}

// GoodCache bounds the memory of good credentials.
type GoodCache struct {
	// Size is how many are kept, 1 to 10_000_000. Default: 100_000.
	Size int `yaml:"size"`
	// MaxTTL is how long one counts without being proven again, less if it expires
	// sooner; 1s to 1h. Default: 5m.
	MaxTTL time.Duration `yaml:"max_ttl"`
}

// BadCache bounds the memory of bad credentials.
type BadCache struct {
	// Size is how many are kept, 1 to 10_000_000. Default: 20_000.
	Size int `yaml:"size"`
	// TTL is how long one is refused without being looked at again, 100ms to 1m.
	// A key that was added meanwhile works after that time. Default: 2s.
	TTL time.Duration `yaml:"ttl"`
}

// Decisions says what is kept and logged of decisions.
type Decisions struct {
	// Keep is how many of the last decisions stay in memory for `postern explain`,
	// up to 1_000_000, at about 1 KiB each. Default: 10_000.
	Keep int `yaml:"keep"`
	// Log says which decisions are logged: "deny", "all" or "none". Default: deny.
	Log DecisionLog `yaml:"log"`
}

// Limits bounds connections and messages. What is over is refused before work is
// done on it.
type Limits struct {
	// MessageSize is the largest message of a caller, up to 64MiB. It must hold the
	// largest path, query, headers and body that `request.limits` lets through, and
	// 16KiB more. Default: 4MiB.
	MessageSize strictyaml.Size `yaml:"message_size"`
	// HeaderList is the largest header list of a message, 1KiB to 1MiB; Postern's
	// callers send their own request's headers inside the message, not here.
	// Default: 64KiB.
	HeaderList strictyaml.Size `yaml:"header_list"`
	// Streams is how many requests one connection may have under way, 1 to
	// 100_000. Default: 1_000.
	Streams uint32 `yaml:"concurrent_streams"`
	// Connections is how many connections are served at once, 1 to 1_000_000;
	// others wait. Default: 10_000.
	Connections int `yaml:"connections"`
	// Deadline is the longest time that proving a credential may take, 1ms to 1m;
	// a caller's own deadline counts if it is shorter. Past it the answer is a deny
	// with dependency_unavailable. policy.timeout bounds the policy. Default: 1s.
	Deadline time.Duration `yaml:"deadline"`
}

// Plaintext says what becomes of credentials that were sent without TLS. They are
// denied with credential_over_plaintext unless a route says otherwise.
type Plaintext struct {
	// Quarantine also disables a good API key that was sent without TLS, on this
	// replica, until a restart or until the key's entry says released_at after it:
	// somebody may have read it. Default: false.
	Quarantine bool `yaml:"quarantine"`
	// InsecureAccept accepts credentials without TLS on every route. Danger:
	// everybody on the way can read and use them. Default: false; true in --dev.
	InsecureAccept bool `yaml:"insecure_accept"`
}

// Shutdown says how the server stops.
type Shutdown struct {
	// Drain is how long requests under way may go on after the signal to stop, up
	// to 10m. Meanwhile the server is not ready and takes no connections. Default:
	// 10s.
	Drain time.Duration `yaml:"drain"`
}

// Log is the server's own log. It holds no secrets at any level.
type Log struct {
	// Level is the least level that is logged: "debug", "info", "warn" or "error".
	// Default: info.
	Level LogLevel `yaml:"level"`
	// Format is "text", "json" or "auto", which is text on a terminal and JSON
	// elsewhere. Default: auto.
	Format LogFormat `yaml:"format"`
}

// OnFault is what ext_authz answers if a request could not be decided.
type OnFault string

// The answers to a fault.
const (
	FaultDeny          OnFault = "deny"
	FaultErrorResponse OnFault = "error_response"
)

// Values implements strictyaml.Enum.
func (OnFault) Values() []string { return []string{"deny", "error_response"} }

// StatusProfile chooses the HTTP status for credentials that are refused.
type StatusProfile string

// The status profiles.
const (
	StatusStandard StatusProfile = "standard"
	StatusLegacy   StatusProfile = "legacy"
)

// Values implements strictyaml.Enum.
func (StatusProfile) Values() []string { return []string{"standard", "legacy"} }

// TLSVersion is a version of TLS.
type TLSVersion string

// The versions of TLS that are not broken.
const (
	TLS12 TLSVersion = "1.2"
	TLS13 TLSVersion = "1.3"
)

// Values implements strictyaml.Enum.
func (TLSVersion) Values() []string { return []string{"1.2", "1.3"} }

// Trust is what a caller is believed to say.
type Trust string

// What a caller can be believed to say.
const (
	TrustSourcePrincipal   Trust = "source_principal"
	TrustContextExtensions Trust = "context_extensions"
)

// Values implements strictyaml.Enum.
func (Trust) Values() []string { return []string{"source_principal", "context_extensions"} }

// Attribute is something about a principal, or about the decision on it, that an
// upstream can be told.
type Attribute string

// The attributes.
const (
	AttributeID          Attribute = "id"
	AttributeKind        Attribute = "kind"
	AttributeTenant      Attribute = "tenant"
	AttributeRoles       Attribute = "roles"
	AttributeScopes      Attribute = "scopes"
	AttributePermissions Attribute = "permissions"
	AttributeIssuer      Attribute = "issuer"
	AttributeMethod      Attribute = "method"
	AttributeAssurance   Attribute = "assurance"
	AttributeCredential  Attribute = "credential"
	AttributeDecision    Attribute = "decision"
)

// Values implements strictyaml.Enum.
func (Attribute) Values() []string {
	return []string{"id", "kind", "tenant", "roles", "scopes", "permissions", "issuer", "method", "assurance", "credential", "decision"}
}

// DecisionLog says which decisions are logged.
type DecisionLog string

// The settings of the decision log.
const (
	LogDenies DecisionLog = "deny"
	LogAll    DecisionLog = "all"
	LogNone   DecisionLog = "none"
)

// Values implements strictyaml.Enum.
func (DecisionLog) Values() []string { return []string{"deny", "all", "none"} }

// LogLevel is the least level that is logged.
type LogLevel string

// Values implements strictyaml.Enum.
func (LogLevel) Values() []string { return []string{"debug", "info", "warn", "error"} }

// LogFormat is the form of the log.
type LogFormat string

// Values implements strictyaml.Enum.
func (LogFormat) Values() []string { return []string{"auto", "text", "json"} }

// Address is where to listen: an IP address with a port, or a Unix socket. The
// zero Address is nowhere.
type Address struct {
	tcp  netip.AddrPort
	unix string
}

// UnmarshalText reads ADDRESS:PORT, unix:///path, or "off".
func (a *Address) UnmarshalText(text []byte) error {
	s := string(text)
	*a = Address{}
	if s == "off" {
		return nil
	}
	if path, ok := strings.CutPrefix(s, "unix://"); ok {
		if !filepath.IsAbs(path) || strings.HasSuffix(path, "/") {
			return errors.New("a socket is written as unix:///run/postern/check.sock")
		}
		a.unix = path
		return nil
	}
	switch ap, err := netip.ParseAddrPort(s); {
	case err == nil:
		a.tcp = ap
		return nil
	case strings.HasPrefix(s, ":"):
		return fmt.Errorf("say on which address: 127.0.0.1%s for this machine only, 0.0.0.0%s for every network", s, s)
	case strings.HasPrefix(s, "localhost:"):
		return fmt.Errorf("write the address: 127.0.0.1%s", strings.TrimPrefix(s, "localhost"))
	}
	return errors.New("an address is written as 127.0.0.1:9191, [::1]:9191 or unix:///run/postern/check.sock")
}

// Network is "tcp" or "unix", as net.Listen wants it; "" for nowhere.
func (a Address) Network() string {
	switch {
	case a.unix != "":
		return "unix"
	case a.tcp.IsValid():
		return "tcp"
	}
	return ""
}

// Target is the address as net.Listen wants it.
func (a Address) Target() string {
	if a.unix != "" {
		return a.unix
	}
	return a.tcp.String()
}

// Local reports whether only this machine reaches the address.
func (a Address) Local() bool {
	return a.Network() != "tcp" || a.tcp.Addr().Unmap().IsLoopback()
}

// String returns the address as it is written in the configuration.
func (a Address) String() string {
	switch a.Network() {
	case "unix":
		return "unix://" + a.unix
	case "tcp":
		return a.tcp.String()
	}
	return "off"
}

// MarshalText writes what UnmarshalText reads.
func (a Address) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

func loopback(port uint16) Address {
	return Address{tcp: netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port)}
}

// Default returns the configuration of a file that says nothing.
func Default() *Config {
	return &Config{
		Version:       1,
		Listen:        Listen{GRPC: loopback(9191), Admin: loopback(9192)},
		Credentials:   defaultCredentials(),
		APIKeys:       apikey.Config{Prefix: "pst", MaxFileSize: 512 * strictyaml.MiB, MaxAge: 90 * 24 * time.Hour},
		Request:       defaultRequest(),
		Upstream:      Upstream{Headers: defaultHeaders()},
		Policy:        defaultPolicy(),
		Cache:         Cache{GoodCache{100_000, 5 * time.Minute}, BadCache{20_000, 2 * time.Second}},
		Decisions:     Decisions{Keep: 10_000, Log: LogDenies},
		Limits:        Limits{4 * strictyaml.MiB, 64 * strictyaml.KiB, 1_000, 10_000, time.Second},
		OnFault:       FaultDeny,
		StatusProfile: StatusStandard,
		Realm:         "postern",
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
		IdentityHeaders: []string{"x-auth-*"},
	}
}

func defaultPolicy() rego.Config {
	one := 1
	c := rego.Config{Entrypoint: rego.DefaultEntrypoint, RegoVersion: &one, Timeout: 50 * time.Millisecond, MaxValue: 64 << 10}
	c.Cache = rego.CacheConfig{Size: 1 << 16, MaxBytes: 64 << 20, MaxTTL: 10 * time.Second}
	c.Limits = rego.Limits{Files: 4096, Bytes: 64 << 20, Depth: 32}
	return c
}

// Dev returns the configuration of `postern serve --dev`: loopback only, gRPC
// reflection, and requests over http are served. Keys and policy are the
// caller's to add.
func Dev() *Config {
	c := Default()
	c.Reflection = true
	c.Plaintext.InsecureAccept = true
	c.Realm = "postern-dev"
	return c
}

// maxConfigSize is far more than a file that people write.
const maxConfigSize = 1 << 20

// LoadConfig reads the file. Relative paths in it are relative to its directory.
// The error is strictyaml.Errors if the file could be read.
func LoadConfig(path string, opts ...strictyaml.Option) (*Config, error) {
	src, err := readFile(path, maxConfigSize)
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
	paths := []*string{&c.Policy.Path}
	for i := range c.Issuers {
		s := &c.Issuers[i]
		paths = append(paths, &s.JWKSFile, &s.Keys.File, &s.Keys.CAFile)
	}
	for _, p := range paths {
		if *p != "" && !filepath.IsAbs(*p) {
			*p = filepath.Join(base, *p)
		}
	}
}

// readFile reads a regular file. One that is too large is read just as far as
// is needed to see that.
func readFile(path string, most int64) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a file", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	return io.ReadAll(io.LimitReader(f, most+1))
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
