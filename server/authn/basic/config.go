package basic

import (
	"cmp"
	"fmt"
	"runtime"
	"strings"
	"time"

	"github.com/postern-auth/postern/server/authn"
	"github.com/postern-auth/postern/server/strictyaml"
)

// Config is the block `basic`. Without it, no password is accepted with a request. One
// that is made in Go starts with SetDefaults; New takes a zero for the default too
// where it could mean nothing else, which leaves out CacheTTL.
type Config struct {
	// Zones are names under `zones`, from one of which a request with a password must
	// come; elsewhere it is not looked at. A password is the same for ever and goes with
	// every request, so use it inside your own networks only. Required, unless
	// insecure_anywhere is set.
	Zones []string `yaml:"zones"`
	// InsecureAnywhere accepts passwords from everywhere. Danger: whoever finds one out,
	// by phishing or from another service where it was used too, can use it from
	// anywhere in the world. Default: false.
	InsecureAnywhere bool `yaml:"insecure_anywhere"`
	// Tenant is the tenant of users whose user-id names none. Default: users without a
	// tenant.
	Tenant string `yaml:"tenant"`
	// TenantSeparator lets user-ids name a tenant: "/" or "\" after it, as in
	// acme/alice, or "@" before it, as in alice@acme, where the last @ counts. Default:
	// user-ids name none.
	TenantSeparator string `yaml:"tenant_separator"`
	// CacheTTL is how long a password that was right is not hashed again, 60s at most; 0s
	// hashes it for every request, at some 20 to 80 ms of CPU each. A change of the
	// password or of the user ends it at once. Default: 60s.
	CacheTTL time.Duration `yaml:"cache_ttl"`
	// Workers is how many passwords are checked at once, each on a CPU of its own, while
	// other requests have the rest. Default: half of the CPUs, at least 1.
	Workers int `yaml:"workers"`
	// Queue is how many more may wait; others are turned away with 503. Default: 64.
	Queue int `yaml:"queue"`
	// Tries is how many wrong passwords for one user from one address lock that user for
	// that address, for the rest of Window. Twenty times as many lock an address, or a
	// user, for everybody else than those users and addresses that have had a right one
	// together in the last day. Default: 5.
	Tries int `yaml:"tries"`
	// Window is how long wrong passwords count, 1s to 24h. Default: 15m.
	Window time.Duration `yaml:"window"`
	// HtpasswdFile is a file of users besides those of the store, a line `user:hash` or
	// `user:hash:role,role` each, in the tenant above. Hashes are bcrypt (htpasswd -B),
	// Argon2 or PBKDF2 in PHC form. A name that is in it is not looked for in the store.
	// It is read again when it changes. Default: none.
	HtpasswdFile strictyaml.Path `yaml:"htpasswd_file"`
}

// The defaults and bounds of Config.
const (
	maxCacheTTL     = time.Minute
	defaultQueue    = 64
	defaultTries    = 5
	defaultWindow   = 15 * time.Minute
	maxWorkers      = 1024
	maxQueue        = 100_000
	maxTries        = 1000
	minWindow       = time.Second
	maxWindow       = 24 * time.Hour
	separators      = `/\@`
	tenantLast      = "@"
	noSuchTenant    = "/" // tenants hold no slash
	maxTenantLength = authn.MaxUser
)

// SetDefaults sets what each field states as its default. Files are read into a Config
// that starts so.
func (c *Config) SetDefaults() {
	c.CacheTTL = maxCacheTTL
	*c = c.withDefaults()
}

func (c Config) withDefaults() Config {
	c.Workers = cmp.Or(c.Workers, max(1, runtime.GOMAXPROCS(0)/2))
	c.Queue = cmp.Or(c.Queue, defaultQueue)
	c.Tries = cmp.Or(c.Tries, defaultTries)
	c.Window = cmp.Or(c.Window, defaultWindow)
	return c
}

// Check reports all that is wrong with the block, each with its field.
func (c *Config) Check(report func(path, message, suggestion string)) {
	d := c.withDefaults()
	switch {
	case len(d.Zones) == 0 && !d.InsecureAnywhere:
		report("zones", "names no network from which passwords are accepted", "name zones, or set insecure_anywhere: true")
	case len(d.Zones) > 0 && d.InsecureAnywhere:
		report("insecure_anywhere", "makes zones mean nothing", "remove one of the two")
	}
	for i, z := range d.Zones {
		if z == "" {
			report(fmt.Sprintf("zones[%d]", i), "is empty", "")
		}
	}
	if len(d.Tenant) > maxTenantLength || strings.Contains(d.Tenant, "/") {
		report("tenant", "is not the id of a tenant", "")
	}
	if d.TenantSeparator != "" && (len(d.TenantSeparator) != 1 || !strings.Contains(separators, d.TenantSeparator)) {
		report("tenant_separator", "is not one of / \\ @", "")
	}
	if d.CacheTTL < 0 || d.CacheTTL > maxCacheTTL {
		report("cache_ttl", fmt.Sprintf("is not from 0s to %v", maxCacheTTL), "")
	}
	for _, n := range []struct {
		name        string
		value, most int
	}{{"workers", d.Workers, maxWorkers}, {"queue", d.Queue, maxQueue}, {"tries", d.Tries, maxTries}} {
		if n.value < 1 || n.value > n.most {
			report(n.name, fmt.Sprintf("is not from 1 to %d", n.most), "")
		}
	}
	if d.Window < minWindow || d.Window > maxWindow {
		report("window", fmt.Sprintf("is not from %v to %v", minWindow, maxWindow), "")
	}
}

// Warnings says in a sentence each what is dangerous about the configuration, to be
// shown at the start.
func (c *Config) Warnings() []string {
	all := []string{"passwords are accepted with requests; keys and tokens are better"}
	if c.InsecureAnywhere {
		all = append(all, "insecure_anywhere: passwords are accepted from everywhere")
	}
	return all
}

// who splits a user-id into tenant and name.
func (c *Config) who(user string) (tenant, name string) {
	at := -1
	switch c.TenantSeparator {
	case "":
	case tenantLast:
		at = strings.LastIndex(user, tenantLast)
		if at >= 0 {
			tenant, name = user[at+1:], user[:at]
		}
	default:
		at = strings.Index(user, c.TenantSeparator)
		if at >= 0 {
			tenant, name = user[:at], user[at+1:]
		}
	}
	switch {
	case at < 0:
		return c.Tenant, user
	case tenant == "" || strings.Contains(tenant, "/"):
		return noSuchTenant, name // and not a user without a tenant
	}
	return tenant, name
}
