package server

import (
	"fmt"
	"regexp"
	"time"

	"github.com/postern-auth/postern/policy/bundle"
	"github.com/postern-auth/postern/policy/rego"
	"github.com/postern-auth/postern/server/strictyaml"
)

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
	// up to 1_000_000, at about 1 KiB each; what a policy read before it denied takes up
	// to 5 KiB more. Default: 10_000.
	Keep int `yaml:"keep"`
	// Log says which decisions are logged: "deny", "all" or "none". Default: deny.
	Log DecisionLog `yaml:"log"`
	// Events are decisions with what the policy was asked, in the format of OPA's
	// decision log. Default: none.
	Events *DecisionEvents `yaml:"events"`
}

// DecisionEvents says which decisions become events, what is in them, and where they
// go: at least one of stdout, file and service. Header fields that carry credentials,
// and members whose names look like those of secrets, are never in them.
type DecisionEvents struct {
	// Which decisions: "all" or "deny". Default: all.
	Which EventChoice `yaml:"which"`
	// Query keeps the query of requests. Danger: clients put secrets there. Those under
	// names such as token and password are left out all the same. Default: false.
	Query bool `yaml:"query"`
	// Body keeps what was read of bodies (parsed_body), with the same danger. Default:
	// false.
	Body bool `yaml:"body"`
	// Labels are in each event, besides `id`, which names this start of the process, and
	// `version`.
	Labels map[string]string `yaml:"labels"`
	// Mask is the rule that says what of an event to hide. Default: data.system.log.mask.
	Mask string `yaml:"mask"`
	// Drop is the rule that says which events to leave out. Default: data.system.log.drop.
	Drop string `yaml:"drop"`
	// Stdout writes events to standard output, one a line. Default: false.
	Stdout bool `yaml:"stdout"`
	// File writes events to a file, one a line.
	File *EventFile `yaml:"file"`
	// Service sends events to a service that takes OPA's decision logs.
	Service *bundle.Upload `yaml:"service"`
}

// SetDefaults implements strictyaml.Defaulter.
func (e *DecisionEvents) SetDefaults() {
	e.Which, e.Mask, e.Drop = EventsAll, rego.DefaultMask, rego.DefaultDrop
}

// maxLabels and maxLabel bound what stands in each event.
const (
	maxLabels = 32
	maxLabel  = 256
)

// Check implements strictyaml.Checker.
func (e *DecisionEvents) Check(report func(path, message, suggestion string)) {
	if !e.Stdout && e.File == nil && e.Service == nil {
		report("", "nothing says where events go", "add stdout: true, file or service")
	}
	for _, rule := range []struct{ path, name string }{{"mask", e.Mask}, {"drop", e.Drop}} {
		if !isRule.MatchString(rule.name) {
			report(rule.path, fmt.Sprintf("%.80q is no rule", rule.name), "write it as data.system.log."+rule.path)
		}
	}
	if len(e.Labels) > maxLabels {
		report("labels", fmt.Sprintf("are %d, at most %d are accepted", len(e.Labels), maxLabels), "")
	}
	for name, value := range e.Labels {
		if name == "" || len(name) > maxLabel || len(value) > maxLabel {
			report("labels", fmt.Sprintf("%.80q and its value have 1 to %d characters", name, maxLabel), "")
		}
	}
}

var isRule = regexp.MustCompile(`^data(\.[A-Za-z_][A-Za-z0-9_]*)+$`)

// EventFile is a file of events.
type EventFile struct {
	// Path of the file; made for its owner only. Each process needs one of its own.
	Path strictyaml.Path `yaml:"path,required"`
	// MaxSize puts the file aside before it gets larger, 64KiB to 64GiB. Default: 100MiB.
	MaxSize strictyaml.Size `yaml:"max_size"`
	// MaxAge puts the file aside once its first event is older, at least 1m; 0s for
	// never. Default: 24h.
	MaxAge time.Duration `yaml:"max_age"`
	// Keep is how many files that were put aside stay, 1 to 10_000. Default: 7.
	Keep int `yaml:"keep"`
}

// SetDefaults implements strictyaml.Defaulter.
func (f *EventFile) SetDefaults() {
	f.MaxSize, f.MaxAge, f.Keep = 100*strictyaml.MiB, 24*time.Hour, 7
}

// Check implements strictyaml.Checker.
func (f *EventFile) Check(report func(path, message, suggestion string)) {
	if f.MaxSize < 64*strictyaml.KiB || f.MaxSize > 64*strictyaml.GiB {
		report("max_size", fmt.Sprintf("%s is out of range: use 64KiB to 64GiB", f.MaxSize), "")
	}
	if f.MaxAge != 0 && f.MaxAge < time.Minute {
		report("max_age", fmt.Sprintf("%s is out of range: use at least 1m", short(f.MaxAge)), "")
	}
	if f.Keep < 1 || f.Keep > 10_000 {
		report("keep", fmt.Sprintf("%d is out of range: use 1 to 10000", f.Keep), "")
	}
}

// EventChoice says which decisions become events.
type EventChoice string

// The choices.
const (
	EventsAll    EventChoice = "all"
	EventsDenies EventChoice = "deny"
)

// Values implements strictyaml.Enum.
func (EventChoice) Values() []string { return []string{"all", "deny"} }

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
	// Connections is how many connections a listener serves at once, 1 to 1_000_000;
	// others wait. One address has three quarters of them at most. Default: 10_000.
	Connections int `yaml:"connections"`
	// Requests is how many requests of gateways and services may be under way at once,
	// over all connections of `grpc` and `gateway`, 1 to 1_000_000; and as many again on
	// `http`. Others are refused before their message is read: with a denied response,
	// status 503 and the reason overloaded, where a gateway may take an error for a yes;
	// else with an error. One that waits, for an issuer for example, counts all the
	// while. One address has three quarters of them at most. Default: 5_000.
	Requests int `yaml:"requests"`
	// Deadline is the longest time that proving a credential may take, 1ms to 1m;
	// a caller's own deadline counts if it is shorter. Past it the answer is a deny
	// with dependency_unavailable. policy.timeout bounds the policy. Default: 1s.
	Deadline time.Duration `yaml:"deadline"`
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

// LogLevel is the least level that is logged.
type LogLevel string

// Values implements strictyaml.Enum.
func (LogLevel) Values() []string { return []string{"debug", "info", "warn", "error"} }

// LogFormat is the form of the log.
type LogFormat string

// Values implements strictyaml.Enum.
func (LogFormat) Values() []string { return []string{"auto", "text", "json"} }
