package appsession

import (
	"cmp"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn"
	"github.com/postern-auth/postern/server/jose"
	"github.com/postern-auth/postern/server/strictyaml"
)

// Config is one application whose sessions are accepted, an item of the list
// `app_sessions`. Which cookie holds its session id is for a rule of `credentials` to
// say. One that is made in Go starts with SetDefaults; New takes a zero for the default
// too where it could mean nothing else, which leaves out MaxTTL.
type Config struct {
	// Name names the application in logs and metrics. Required.
	Name string `yaml:"name,required"`
	// URL is where its Redis or Valkey is: redis://host:6379/0, with the number of the
	// database, rediss://… with TLS, or unix:///path/to/socket. Danger: without TLS,
	// whoever is on the way can read and make up sessions. Required.
	URL string `yaml:"url,required"`
	// Username and Password are those of a user of Redis who may read the sessions and
	// nothing else; the password is given as ${file:…} or ${env:…}. Without a username it
	// is that of the user default. Default: none.
	Username string        `yaml:"username"`
	Password policy.Secret `yaml:"password"`
	// CAFile holds the certificates (PEM) that may vouch for a rediss:// server. Default:
	// those of the system.
	CAFile strictyaml.Path `yaml:"ca_file"`
	// Timeout bounds one look-up, connecting included, 1ms to 10s. Default: 200ms.
	Timeout time.Duration `yaml:"timeout"`
	// Connections is how many connections there are at most, 1 to 1000. Default: 16.
	Connections int `yaml:"connections"`

	// Key is where a session is, with {id} in place of its id. Something has to stand
	// beside it, or every key of the database could be taken for a session. Default:
	// sess:{id}.
	Key string `yaml:"key"`
	// HashID puts the SHA-256 of the id, in lower-case hex, into the key, for
	// applications that keep sessions so. Default: false.
	HashID bool `yaml:"hash_id"`
	// SigningSecrets are set if the application signs the cookie as Express does
	// (cookie-signature: s:ID.HMAC-SHA-256): its secrets, each as a reference. A cookie
	// that none of them signed is refused without asking Redis. Default: cookies are not
	// signed.
	SigningSecrets []policy.Secret `yaml:"signing_secrets"`
	// Format is how a session is kept: "json", a string that holds an object; or "hash",
	// a hash with a field for each value. Default: json.
	Format Format `yaml:"format"`
	// MaxSize is how large a session may be, 1KiB to 1MiB; of a larger one nothing is
	// read. Default: 64KiB.
	MaxSize strictyaml.Size `yaml:"max_size"`
	// Fields says what is where in a session.
	Fields Fields `yaml:"fields,required"`
	// ListSeparator is between the items of a list in a field of a hash. Default: a
	// comma.
	ListSeparator string `yaml:"list_separator"`
	// TimeUnit is the unit of times that are numbers, "s" or "ms" since 1970. Default: s.
	TimeUnit TimeUnit `yaml:"time_unit"`

	// MaxTTL is how long a session is believed without asking again, 0s to 5m: a logout
	// in the application counts after so long at the latest. Default: 5s.
	MaxTTL time.Duration `yaml:"max_ttl"`
	// StaleFor is how much longer it is believed while Redis does not answer, up to 1h.
	// Danger: so long, a logout is not noticed. Default: 0s.
	StaleFor time.Duration `yaml:"stale_for"`

	// Issuer is who vouches for the users, for policies and the denylist. Default: the
	// name.
	Issuer string `yaml:"issuer"`
	// Kind is what they are: user, service, agent or device. Default: user.
	Kind policy.Kind `yaml:"kind"`
	// Method is the name by which rules and routes know these sessions. Each application
	// has its own. Default: app_session.
	Method policy.Method `yaml:"method"`
	// Assurance is the level of the proof, 1 to 4. Default: 2.
	Assurance int `yaml:"assurance"`
}

// Fields are where things are in a session: in JSON, paths such as user.id or
// /user/id; in a hash, names of fields. A default is that it is not there.
type Fields struct {
	// ID is the user's id, a text or a whole number. A session without it is one of
	// nobody, and refused. Required.
	ID jose.ClaimPath `yaml:"id,required"`
	// Tenant is the user's tenant. If it is given, a session without it is refused.
	Tenant jose.ClaimPath `yaml:"tenant"`
	// Roles, Scopes and Permissions are lists of texts, or one text; in a hash, a JSON
	// array or a text with list_separator. One text of scopes is split at spaces.
	Roles       jose.ClaimPath `yaml:"roles"`
	Scopes      jose.ClaimPath `yaml:"scopes"`
	Permissions jose.ClaimPath `yaml:"permissions"`
	// Expires is when the session ends, in RFC 3339 or as a number, if that may be before
	// the key expires.
	Expires jose.ClaimPath `yaml:"expires"`
	// AuthTime is when the user logged in, in the same forms, and AMR how (RFC 8176).
	AuthTime jose.ClaimPath `yaml:"auth_time"`
	AMR      jose.ClaimPath `yaml:"amr"`
}

// Format is how a session is kept.
type Format string

// The formats.
const (
	JSON Format = "json"
	Hash Format = "hash"
)

// Values lists the values that configuration may use.
func (Format) Values() []string { return []string{string(JSON), string(Hash)} }

// TimeUnit is a unit of time.
type TimeUnit string

// The units.
const (
	Seconds      TimeUnit = "s"
	Milliseconds TimeUnit = "ms"
)

// Values lists the values that configuration may use.
func (TimeUnit) Values() []string { return []string{string(Seconds), string(Milliseconds)} }

// The defaults and bounds of Config.
const (
	defaultTimeout     = 200 * time.Millisecond
	minTimeout         = time.Millisecond
	maxTimeout         = 10 * time.Second
	defaultConnections = 16
	maxConnections     = 1000
	defaultKey         = "sess:" + placeholder
	placeholder        = "{id}"
	maxKey             = 256
	defaultSize        = 64 * strictyaml.KiB
	minSize            = strictyaml.KiB
	maxSize            = strictyaml.MiB
	defaultTTL         = 5 * time.Second
	maxTTL             = 5 * time.Minute
	maxStale           = time.Hour
	defaultAssurance   = 2
	maxAssurance       = 4
	negativeTTL        = 2 * time.Second
)

// SetDefaults sets what each field states as its default, but for Issuer, which is the
// name. Files are read into a Config that starts so.
func (c *Config) SetDefaults() {
	c.MaxTTL = defaultTTL
	issuer := c.Issuer
	*c = c.withDefaults()
	c.Issuer = issuer
}

func (c Config) withDefaults() Config {
	c.Timeout = cmp.Or(c.Timeout, defaultTimeout)
	c.Connections = cmp.Or(c.Connections, defaultConnections)
	c.Key = cmp.Or(c.Key, defaultKey)
	c.Format = cmp.Or(c.Format, JSON)
	c.MaxSize = cmp.Or(c.MaxSize, defaultSize)
	c.ListSeparator = cmp.Or(c.ListSeparator, ",")
	c.TimeUnit = cmp.Or(c.TimeUnit, Seconds)
	c.Issuer = cmp.Or(c.Issuer, c.Name)
	c.Kind = cmp.Or(c.Kind, policy.KindUser)
	c.Method = cmp.Or(c.Method, policy.MethodAppSession)
	c.Assurance = cmp.Or(c.Assurance, defaultAssurance)
	return c
}

// CacheConfig says how authn.Cached is to keep what an authenticator of the configuration
// proves. With a max_ttl of 0s that is not at all; callers that ask for one session at
// the same moment still share the answer.
func (c *Config) CacheConfig() authn.CacheConfig {
	d := c.withDefaults()
	ttl := max(d.MaxTTL, 1)
	return authn.CacheConfig{MaxTTL: ttl, NegativeTTL: min(ttl, negativeTTL), StaleFor: d.StaleFor, Timeout: d.Timeout}
}

// Check reports all that is wrong with the item, each with its field.
func (c *Config) Check(report func(path, message, suggestion string)) {
	d := c.withDefaults()
	d.checkServer(report)
	d.checkCookie(report)
	d.checkPrincipal(report)
	if d.MaxTTL < 0 || d.MaxTTL > maxTTL {
		report("max_ttl", fmt.Sprintf("is not from 0s to %v", maxTTL), "")
	}
	switch {
	case d.StaleFor < 0 || d.StaleFor > maxStale:
		report("stale_for", fmt.Sprintf("is not from 0s to %v", maxStale), "")
	case d.StaleFor > 0 && d.MaxTTL == 0:
		report("stale_for", "keeps what max_ttl: 0s does not keep", "remove it, or raise max_ttl")
	}
}

func (c *Config) checkServer(report func(path, message, suggestion string)) {
	if !jose.IsIdentifier(c.Name) {
		report("name", "is missing, or is no name", "")
	}
	u, err := parseURL(c.URL)
	switch {
	case err != nil:
		report("url", err.Error(), "write it as redis://host:6379/0, rediss://host:6379/0 or unix:///path")
	case c.Username != "" && c.Password.IsZero():
		report("password", "is missing for the username", "write password: ${file:/run/secrets/redis-password}")
	case c.CAFile != "" && u.Scheme != "rediss":
		report("ca_file", "means nothing without TLS", "write rediss:// in url, or remove it")
	}
	if c.Timeout < minTimeout || c.Timeout > maxTimeout {
		report("timeout", fmt.Sprintf("is not from %v to %v", minTimeout, maxTimeout), "")
	}
	if c.Connections < 1 || c.Connections > maxConnections {
		report("connections", fmt.Sprintf("is not from 1 to %d", maxConnections), "")
	}
	if c.MaxSize < minSize || c.MaxSize > maxSize {
		report("max_size", fmt.Sprintf("is not from %v to %v", minSize, maxSize), "")
	}
}

// parseURL reads the URL without showing any of it: somebody may have put the password
// there.
func parseURL(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Opaque != "" || u.Fragment != "":
		return nil, errURL
	case u.User != nil || u.RawQuery != "":
		return nil, errParameters
	}
	database := strings.TrimPrefix(u.Path, "/")
	switch u.Scheme {
	case "redis", "rediss":
		if u.Hostname() != "" && strings.Trim(database, "0123456789") == "" && len(database) < 4 {
			return u, nil
		}
	case "unix":
		if u.Host == "" && database != "" {
			return u, nil
		}
	}
	return nil, errURL
}

func (c *Config) checkCookie(report func(path, message, suggestion string)) {
	before, after, found := strings.Cut(c.Key, placeholder)
	switch {
	case !found || strings.Contains(after, placeholder):
		report("key", "does not hold {id} once", "for example sess:{id}")
	case before == "" && after == "":
		report("key", "would take every key of the database for a session", "for example sess:{id}")
	case len(c.Key) > maxKey || strings.ContainsFunc(c.Key, func(r rune) bool { return r <= ' ' || r >= 0x7f }):
		report("key", fmt.Sprintf("is not a text of at most %d visible ASCII characters", maxKey), "")
	}
	for i, s := range c.SigningSecrets {
		if s.IsZero() {
			report(fmt.Sprintf("signing_secrets[%d]", i), "is empty, so that anybody could sign", "")
		}
	}
}

func (c *Config) checkPrincipal(report func(path, message, suggestion string)) {
	if c.Format != JSON && c.Format != Hash {
		report("format", "is not json or hash", "")
	}
	if c.TimeUnit != Seconds && c.TimeUnit != Milliseconds {
		report("time_unit", "is not s or ms", "")
	}
	if c.Fields.ID.IsZero() {
		report("fields.id", "is missing, which says whose the session is", "for example user.id")
	}
	if c.Issuer != "" && !jose.IsIdentifier(c.Issuer) {
		report("issuer", "is no name", "")
	}
	switch c.Kind {
	case policy.KindUser, policy.KindService, policy.KindAgent, policy.KindDevice:
	default:
		report("kind", "must be user, service, agent or device", "")
	}
	if c.Assurance < 1 || c.Assurance > maxAssurance {
		report("assurance", fmt.Sprintf("must be between 1 and %d", maxAssurance), "")
	}
}

// Warnings says in a sentence each what is dangerous about the configuration, to be
// shown at the start.
func (c *Config) Warnings() []string {
	u, err := parseURL(c.URL)
	if err != nil || u.Scheme != "redis" {
		return nil
	}
	if host := u.Hostname(); host == "localhost" || host == "127.0.0.1" || host == "::1" {
		return nil
	}
	return []string{"app_sessions " + c.Name + ": sessions travel without TLS, where anybody on the way can read them and make some up; write rediss://"}
}
