package server

import (
	"time"

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
	// up to 1_000_000, at about 1 KiB each. Default: 10_000.
	Keep int `yaml:"keep"`
	// Log says which decisions are logged: "deny", "all" or "none". Default: deny.
	Log DecisionLog `yaml:"log"`
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
