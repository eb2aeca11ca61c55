package rate

import (
	"fmt"
	"slices"
	"time"

	"github.com/postern-auth/postern/policy"
)

// Unit is what rates count.
const Unit = "requests"

// Config is one rate: how often something may be asked. Counters are in the memory of
// each replica: behind a load balancer with n replicas, n times as much can get through.
type Config struct {
	// Name names it in answers, logs and metrics. Required, unique.
	Name string `yaml:"name,required"`
	// Per says whose requests are counted together. Default: principal.
	//   principal: those of one principal, whatever its credential; of nobody in
	//     particular, those of one client address
	//   credential: those with one key or token; of one without an id, its principal's.
	//     Danger: who can get new tokens at will gets a new counter with each
	//   tenant: those of all principals of a tenant; of those without one together
	//   client: those of one client address, or one /64 of IPv6
	//   route: those to one route
	//   installation: all
	Per Per `yaml:"per"`
	// Limit is how many requests there may be in Every, at a steady pace. Required: 1 to
	// 1,000,000,000.
	Limit int64 `yaml:"limit,required"`
	// Every is how long Limit is for: 1s to 24h. Default: 1s.
	Every time.Duration `yaml:"every"`
	// Burst is how many requests may come at once after a pause. Default: Limit.
	Burst int64 `yaml:"burst"`
	// Routes are the names of the routes whose requests count. Default: all requests.
	Routes []string `yaml:"routes"`
	// Kinds are the kinds of principals whose requests count: user, service, agent,
	// device, anonymous. Default: all.
	Kinds []policy.Kind `yaml:"kinds"`
	// MaxKeys is how many principals, addresses or whatever else is counted are told
	// apart at the same time; those above share counters until others have been quiet.
	// Each takes about 60 bytes. Default: 100000.
	MaxKeys int `yaml:"max_keys"`
}

// Per is whose requests a rate counts together. Empty means PerPrincipal.
type Per string

// Whose requests can be counted together.
const (
	PerPrincipal    Per = "principal"
	PerCredential   Per = "credential"
	PerTenant       Per = "tenant"
	PerClient       Per = "client"
	PerRoute        Per = "route"
	PerInstallation Per = "installation"
)

// Values lists the values that configuration may use.
func (Per) Values() []string {
	return []string{"principal", "credential", "tenant", "client", "route", "installation"}
}

// The bounds of a rate.
const (
	maxLimit   = 1_000_000_000
	maxEvery   = 24 * time.Hour
	maxAhead   = 30 * 24 * time.Hour // burst times interval
	maxMaxKeys = 10_000_000

	defaultMaxKeys = 100_000
)

// SetDefaults implements strictyaml.Defaulter.
func (c *Config) SetDefaults() { *c = Config{}.withDefaults() }

func (c Config) withDefaults() Config {
	if c.Per == "" {
		c.Per = PerPrincipal
	}
	if c.Every == 0 {
		c.Every = time.Second
	}
	if c.MaxKeys == 0 {
		c.MaxKeys = defaultMaxKeys
	}
	if c.Burst == 0 {
		c.Burst = c.Limit
	}
	return c
}

// interval is what one request costs: rounded up, so that a rate is never exceeded.
func (c *Config) interval() int64 { return (int64(c.Every) + c.Limit - 1) / c.Limit }

// Check implements strictyaml.Checker.
func (c Config) Check(report func(path, message, suggestion string)) {
	c = c.withDefaults()
	switch {
	case c.Limit < 1 || c.Limit > maxLimit:
		report("limit", fmt.Sprintf("%d is out of range: use 1 to %d", c.Limit, maxLimit), "")
		return
	case c.Every < time.Second || c.Every > maxEvery:
		report("every", fmt.Sprintf("%s is out of range: use 1s to 24h", c.Every), "for longer times there are budgets")
		return
	case c.Burst < 1 || c.Burst > int64(maxAhead)/c.interval():
		report("burst", fmt.Sprintf("%d is out of range: use 1 to %d", c.Burst, int64(maxAhead)/c.interval()), "leave it out for as many as limit")
	case c.MaxKeys < shards || c.MaxKeys > maxMaxKeys:
		report("max_keys", fmt.Sprintf("%d is out of range: use %d to %d", c.MaxKeys, shards, maxMaxKeys), "")
	}
}

// matches reports whether the request of a charge counts.
func (c *Config) matches(q *policy.Charge) bool {
	return (len(c.Routes) == 0 || slices.Contains(c.Routes, q.Route.Name)) &&
		(len(c.Kinds) == 0 || slices.Contains(c.Kinds, q.Principal.Kind))
}

func (c *Config) equal(o Config) bool {
	return c.Name == o.Name && c.Per == o.Per && c.Limit == o.Limit && c.Every == o.Every && c.Burst == o.Burst &&
		c.MaxKeys == o.MaxKeys && slices.Equal(c.Routes, o.Routes) && slices.Equal(c.Kinds, o.Kinds)
}
