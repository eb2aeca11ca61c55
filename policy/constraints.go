package policy

import (
	"net/netip"
	"slices"
	"time"
)

// Constraints are the limits that a credential carries itself. They hold
// whatever the policy says, and mean the same for every kind of credential. An
// empty list constrains nothing; nil Constraints permit all.
type Constraints struct {
	// Networks are the client addresses from which it may be used. A request
	// whose client address is unknown fits no network.
	Networks []netip.Prefix `yaml:"networks"`
	// Methods are HTTP methods, Hosts and Paths patterns of requests.
	Methods []string      `yaml:"methods"`
	Hosts   []HostPattern `yaml:"hosts"`
	Paths   []PathPattern `yaml:"paths"`
	// Resources are "type:id" or "type:*" of actions (Action), for questions
	// that are not about an HTTP request.
	Resources []string `yaml:"resources"`
	// Windows are the times at which it may be used.
	Windows []TimeWindow `yaml:"windows"`
	// RequireTLS refuses a request whose connection is not known to be TLS.
	RequireTLS bool `yaml:"require_tls"`
}

// TimeWindow is a span of the day on some days, in UTC.
type TimeWindow struct {
	// Days are "mon" to "sun"; empty means every day.
	Days []string `yaml:"days"`
	// From and To are "15:04"; To is exclusive and must be later than From.
	From string `yaml:"from"`
	To   string `yaml:"to"`
}

// Check returns ReasonAllowed, or the first limit that the request breaks. An
// action has no method, host and path: limits on those refuse it.
func (c *Constraints) Check(q *Request, action *Action, now time.Time) Reason {
	switch {
	case c == nil:
		return ReasonAllowed
	case len(c.Networks) > 0 && !containsAddr(c.Networks, q.ClientIP):
		return ReasonNetwork
	case c.RequireTLS && (q.Plaintext || q.Scheme != "https"):
		return ReasonPlaintext
	case len(c.Windows) > 0 && !slices.ContainsFunc(c.Windows, func(w TimeWindow) bool { return w.contains(now) }):
		return ReasonTimeWindow
	case len(c.Resources) > 0 && !permitsResource(c.Resources, action):
		return ReasonResource
	case !matchString(c.Methods, q.Method):
		return ReasonRequestMethod
	case !matchAny(c.Hosts, q.Host):
		return ReasonHost
	case !matchAny(c.Paths, q.Path):
		return ReasonPath
	}
	return ReasonAllowed
}

func containsAddr(prefixes []netip.Prefix, ip netip.Addr) bool {
	for _, p := range prefixes {
		if p.Contains(ip) {
			return true
		}
	}
	return false
}

func permitsResource(resources []string, a *Action) bool {
	if a == nil {
		return false
	}
	for _, r := range resources {
		if n := len(a.ResourceType); len(r) > n && r[:n] == a.ResourceType && r[n] == ':' {
			if id := r[n+1:]; id == "*" || id == a.ResourceID {
				return true
			}
		}
	}
	return false
}

var weekdays = [...]string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}

func (w TimeWindow) contains(now time.Time) bool {
	now = now.UTC()
	if !matchString(w.Days, weekdays[now.Weekday()]) {
		return false
	}
	clock := now.Format("15:04")
	return w.From <= clock && clock < w.To
}
