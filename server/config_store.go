package server

import (
	"fmt"
	"regexp"
	"slices"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/mirror"
	"github.com/postern-auth/postern/server/strictyaml"
)

// Store says where keys, tokens, users, sessions and the denylist are kept, and what
// a replica does that cannot hear of their changes. What is in it is managed over the
// admin API and with `postern key`, `postern user` and so on.
type Store struct {
	// Driver is "sqlite", a file for one replica; "postgres", for several; "memory",
	// which keeps nothing when the server stops; or "none": there are only the
	// credentials of the keys file and of issuers. Default: sqlite.
	Driver StoreDriver `yaml:"driver"`
	// Path is the file of sqlite. It is made if it does not exist, with two more
	// beside it while it is open. Default: postern.db, beside the configuration.
	Path strictyaml.Path `yaml:"path"`
	// DSN says how to reach postgres, as in postgres://user:password@host/database,
	// given as ${file:…} or ${env:…}.
	DSN policy.Secret `yaml:"dsn"`
	// Mode is what is answered when the last look at the store's changes is more than
	// one second ago, so that something may be revoked that this replica still
	// believes: "strict", a deny with dependency_unavailable; or "available", what it
	// knows, marked as stale, for `max_stale`. Danger: with available, a credential
	// can be used for so long after it was revoked. Default: strict.
	Mode mirror.Mode `yaml:"mode"`
	// MaxStale is how long `available` answers from old state, 1s to 24h. Default:
	// 10m.
	MaxStale time.Duration `yaml:"max_stale"`
	// Snapshot is a file in which a replica notes what it knows, so that it can start
	// while the store is down. It holds no secret. It only helps with mode available.
	// Default: none.
	Snapshot strictyaml.Path `yaml:"snapshot"`
}

// StoreDriver is a kind of store.
type StoreDriver string

// The kinds of stores.
const (
	DriverSQLite   StoreDriver = "sqlite"
	DriverPostgres StoreDriver = "postgres"
	DriverMemory   StoreDriver = "memory"
	DriverNone     StoreDriver = "none"
)

// Values implements strictyaml.Enum.
func (StoreDriver) Values() []string { return []string{"sqlite", "postgres", "memory", "none"} }

// Tenants are the rules for credentials of tenants that have none of their own.
type Tenants struct {
	// MaxTTL is the longest life of a key or token, 1m to 87600h. Default: 2160h,
	// which is 90 days.
	MaxTTL time.Duration `yaml:"max_ttl"`
	// MaxPATs is how many living personal access tokens a user may have, 1 to 1000.
	// Default: 50.
	MaxPATs int `yaml:"max_pats"`
	// MaxGrace is the longest time that a rotated key stays good, 1s to 87600h. How
	// long one does is up to who rotates it, who may ask for none. Default: 168h.
	MaxGrace time.Duration `yaml:"max_grace"`
	// UnusedFor disables a credential that nobody used for so long. Default: 0s,
	// never.
	UnusedFor time.Duration `yaml:"unused_for"`
}

// AdminAPI says whose word counts for the admin API. What a caller may do with it is
// decided by its roles: platform-admin, tenant-admin, issuer, auditor.
type AdminAPI struct {
	// Issuers are those besides Postern whose word counts: the URL of one of `issuers`
	// or `introspection`, spiffe:// and the trust domain of a bundle of `mtls`, or the
	// name of one that has none. Danger: who can have a token or a certificate of theirs
	// with role platform-admin and no tenant can do everything. Default: none, only
	// credentials of the store and the keys file.
	Issuers []string `yaml:"issuers"`
	// Roles is a directory whose data may define admin.roles, in place of the roles
	// that Postern ships. Default: those.
	Roles strictyaml.Path `yaml:"roles"`
	// Console serves a page for browsers on the admin listener, /console/: live decisions,
	// credentials, the policy. The page holds no data, and asks the API with the credential
	// that is pasted into it. It needs a store. Default: false; true in --dev.
	Console bool `yaml:"console"`
	// Hosts are the names under which browsers, and whoever else sends JSON, reach the admin
	// listener, besides localhost and its addresses: postern.internal. No port. Another name
	// in Host is refused, because a stranger's page can have its own name resolve to this
	// address. Default: none.
	Hosts []string `yaml:"hosts"`
}

// hostName matches a name as browsers send it in Host.
var hostName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$`)

// Check implements strictyaml.Checker.
func (a *AdminAPI) Check(report func(path, message, suggestion string)) {
	for i, name := range a.Hosts {
		if !hostName.MatchString(name) || len(name) > 253 {
			report(fmt.Sprintf("hosts[%d]", i), fmt.Sprintf("%.80q is no name of a host in lower case", name), "write postern.internal, without scheme and port")
		}
	}
}

// believes reports whether tokens of the issuer count.
func (a *AdminAPI) believes(issuer string) bool { return slices.Contains(a.Issuers, issuer) }

func (c *Config) checkStore(report report) {
	s := &c.Store
	switch {
	case s.Driver == DriverPostgres && s.DSN.IsZero():
		report("store.dsn", "is missing", "write dsn: ${file:/run/secrets/postern-dsn}")
	case s.Driver != DriverPostgres && !s.DSN.IsZero():
		report("store.dsn", fmt.Sprintf("means nothing to the driver %s", s.Driver), "write driver: postgres, or remove it")
	}
	if s.Snapshot != "" && s.Mode != mirror.Available {
		report("store.snapshot", "is of no use in mode strict, which denies until the store answers", "write mode: available, or remove it")
	}
	issuers := c.issuers()
	for i, url := range c.AdminAPI.Issuers {
		if !slices.Contains(issuers, url) {
			report(fmt.Sprintf("admin_api.issuers[%d]", i), fmt.Sprintf("%q is not one of the issuers", url), "configure it in issuers, or remove it")
		}
	}
	switch {
	case c.AdminAPI.Console && s.Driver == DriverNone:
		report("admin_api.console", "shows what is in the store, and there is none", "choose a store.driver, or remove it")
	case c.AdminAPI.Console && c.Listen.Admin.Network() == "":
		report("admin_api.console", "is a page on the admin listener, which is off", "set listen.admin, or remove it")
	}
	c.checkSessions(report)
}

// issuers are the names of all who vouch for callers besides Postern itself.
func (c *Config) issuers() []string {
	var all []string
	for i := range c.Issuers {
		all = append(all, c.Issuers[i].URL)
	}
	for i := range c.Introspection {
		all = append(all, c.Introspection[i].Issuer)
	}
	if c.MTLS != nil {
		for _, b := range c.MTLS.Bundles {
			if b.TrustDomain != "" {
				all = append(all, "spiffe://"+b.TrustDomain)
			} else {
				all = append(all, b.Name)
			}
		}
	}
	return all
}

// checkSessions holds sessions against what they need.
func (c *Config) checkSessions(report report) {
	used := c.uses(policy.MethodSession)
	switch {
	case c.Listen.HTTP.Network() == "":
		return
	case !used && !c.Signing.IsZero(): // the keys are all that is served there
		return
	case !c.hasSessions():
		report("listen.http", "nobody can log in: there is no store, or no api_keys.pepper to make sessions with", "set both, or turn it off")
	case !used:
		report("credentials", "no rule takes the cookie of sessions", fmt.Sprintf("add {from: cookie:%s, use: session}", c.Sessions.WithDefaults().Cookie))
	}
}

// servesLogin reports whether people can log in at listen.http.
func (c *Config) servesLogin() bool { return c.uses(policy.MethodSession) && c.hasSessions() }

// hasSessions reports whether the store can hold sessions.
func (c *Config) hasSessions() bool {
	return c.Store.Driver != DriverNone && (!c.APIKeys.Pepper.IsZero() || len(c.APIKeys.Peppers) > 0)
}
