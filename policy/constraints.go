package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Constraints are the limits that a credential carries itself. They hold
// whatever the policy says, and mean the same for every kind of credential. An
// empty list constrains nothing; nil Constraints permit all.
type Constraints struct {
	// Networks are the client addresses from which it may be used. A request
	// whose client address is unknown fits no network.
	Networks []netip.Prefix `yaml:"networks" json:"networks,omitempty"`
	// Methods are HTTP methods, Hosts and Paths patterns of requests.
	Methods []string      `yaml:"methods" json:"methods,omitempty"`
	Hosts   []HostPattern `yaml:"hosts" json:"hosts,omitempty"`
	Paths   []PathPattern `yaml:"paths" json:"paths,omitempty"`
	// Audiences are services, one of which the route or the installation must be.
	Audiences []string `yaml:"audiences" json:"audiences,omitempty"`
	// Resources are "type:id" or "type:*" of actions (Action), for questions
	// that are not about an HTTP request.
	Resources []string `yaml:"resources" json:"resources,omitempty"`
	// Peers are workloads, over one of whose TLS connections it must come: SPIFFE ids,
	// DNS names, or "sha256:" and the fingerprint of a certificate in lower-case hex.
	Peers []string `yaml:"peers" json:"peers,omitempty"`
	// Windows are the times at which it may be used.
	Windows []TimeWindow `yaml:"windows" json:"windows,omitempty"`
	// RequireTLS refuses a request whose connection is not known to be TLS.
	RequireTLS bool `yaml:"require_tls" json:"require_tls,omitempty"`
}

// TimeWindow is a span of the day on some days, in UTC.
type TimeWindow struct {
	// Days are "mon" to "sun"; empty means every day.
	Days []string `yaml:"days" json:"days,omitempty"`
	// From and To are "15:04", two digits each; To is exclusive, must be later than
	// From, and may be "24:00".
	From string `yaml:"from" json:"from"`
	To   string `yaml:"to" json:"to"`
}

// Use is what a credential is used for.
type Use struct {
	Request *Request
	// Action is set where the question is not about an HTTP request. It has no
	// method, host and path: limits on those refuse it.
	Action *Action
	// Audience is the service that is asked for; empty if nobody has named it.
	Audience string
	// Peer is the workload that connected; nil if none was proven.
	Peer *Peer
	Now  time.Time
}

// Check returns ReasonAllowed, or the first limit that the use breaks.
func (c *Constraints) Check(use Use) Reason {
	if c == nil {
		return ReasonAllowed
	}
	q := use.Request
	switch {
	case len(c.Audiences) > 0 && !slices.Contains(c.Audiences, use.Audience):
		return ReasonInvalidAudience
	case len(c.Peers) > 0 && !permitsPeer(c.Peers, use.Peer):
		return ReasonBinding
	case len(c.Networks) > 0 && !containsAddr(c.Networks, q.ClientIP):
		return ReasonNetwork
	case c.RequireTLS && (q.Plaintext || q.Scheme != "https"):
		return ReasonPlaintext
	case len(c.Windows) > 0 && !slices.ContainsFunc(c.Windows, func(w TimeWindow) bool { return w.contains(use.Now) }):
		return ReasonTimeWindow
	case len(c.Resources) > 0 && !permitsResource(c.Resources, use.Action):
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

// Faults reports limits that would not limit as they look, and those that fit no request.
// Each path is relative to the constraints, as in "windows[0]". Whoever takes constraints
// from people calls it.
func (c *Constraints) Faults(report func(path, message, suggestion string)) {
	c.Damage(report)
	c.vain(report)
}

// Damage reports limits that would not limit as they look: lists that are written and hold
// nothing, and what cannot be compared with anything. Whoever reads constraints that were
// taken before, maybe by an older version with fewer rules, calls it before using them.
func (c *Constraints) Damage(report func(path, message, suggestion string)) {
	if c == nil {
		return
	}
	for _, list := range []struct {
		name  string
		empty bool
	}{
		{"networks", c.Networks != nil && len(c.Networks) == 0},
		{"methods", c.Methods != nil && len(c.Methods) == 0},
		{"hosts", c.Hosts != nil && len(c.Hosts) == 0},
		{"paths", c.Paths != nil && len(c.Paths) == 0},
		{"audiences", c.Audiences != nil && len(c.Audiences) == 0},
		{"resources", c.Resources != nil && len(c.Resources) == 0},
		{"peers", c.Peers != nil && len(c.Peers) == 0},
		{"windows", c.Windows != nil && len(c.Windows) == 0},
	} {
		if list.empty {
			report(list.name, "is empty, which limits nothing", "leave it out, or list what is permitted")
		}
	}
	for _, list := range []struct {
		name, suggestion string
		items            []string
	}{
		{"methods", "write a method such as GET", c.Methods},
		{"audiences", "write the name that `audience` gives the service", c.Audiences},
		{"peers", "write the name of a workload", c.Peers},
	} {
		for i, item := range list.items {
			if item == "" {
				report(fmt.Sprintf("%s[%d]", list.name, i), "is empty, and fits what has no name", list.suggestion)
			}
		}
	}
	for i, r := range c.Resources {
		if kind, id, ok := strings.Cut(r, ":"); !ok || kind == "" || id == "" {
			report(fmt.Sprintf("resources[%d]", i), fmt.Sprintf("%q fits no resource", r), `write "type:id" or "type:*"`)
		}
	}
	for i, w := range c.Windows {
		if fault := w.fault(); fault != "" {
			report(fmt.Sprintf("windows[%d]", i), fault, `for example {days: [mon, tue], from: "08:00", to: "17:30"}, in UTC`)
		}
	}
}

// fault says what is wrong with a window, or "".
func (w TimeWindow) fault() string {
	for _, d := range w.Days {
		if !slices.Contains(weekdays[:], d) {
			return fmt.Sprintf("%q is not a day: use mon, tue, wed, thu, fri, sat or sun", d)
		}
	}
	switch {
	case w.Days != nil && len(w.Days) == 0:
		return "days is empty, which means every day"
	case !isClock(w.From):
		return fmt.Sprintf("from is %q, not a time of the day with two digits each", w.From)
	case !isClock(w.To) && w.To != endOfDay:
		return fmt.Sprintf("to is %q, not a time of the day with two digits each", w.To)
	case w.From >= w.To:
		return "to is not after from; write a window over midnight as two"
	}
	return ""
}

// endOfDay is the To of a window that lasts until midnight: To is exclusive, so
// "23:59" would leave out the last minute.
const endOfDay = "24:00"

// isClock accepts "00:00" to "23:59", exactly five characters, which can be
// compared as texts. time.Parse alone would also take "9:00".
func isClock(s string) bool {
	_, err := time.Parse("15:04", s)
	return err == nil && len(s) == len("15:04")
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

const fingerprintPrefix = "sha256:"

func isFingerprint(s string) bool {
	return len(s) == 64 && strings.Trim(s, "0123456789abcdef") == ""
}

func permitsPeer(peers []string, p *Peer) bool {
	if p == nil {
		return false
	}
	for _, want := range peers {
		if hex, ok := strings.CutPrefix(want, fingerprintPrefix); ok {
			if hex == p.Fingerprint {
				return true
			}
		} else if want == p.ID && want != "" {
			return true
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
