package trace

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/strictyaml"
)

// Config says where spans go, which checks have one, and what is in it. The environment
// variables of OpenTelemetry (OTEL_…) are not read: what a span tells about callers goes
// where this file says, and nowhere else.
type Config struct {
	// Endpoint is the OTLP receiver: https://collector.example.com:4317 for grpc, and for
	// http https://collector.example.com:4318, to which /v1/traces is added unless it has
	// a path. Plain http is for this machine, 127.0.0.1; see insecure_plaintext. Required.
	Endpoint string `yaml:"endpoint,required"`
	// Protocol is "grpc" or "http", which is protobuf over HTTP. Default: grpc.
	Protocol Protocol `yaml:"protocol"`
	// Headers are sent with each export, names in lower case: authorization for example.
	Headers map[string]policy.Secret `yaml:"headers"`
	// Timeout bounds one export, 100ms to 1m. Default: 5s.
	Timeout time.Duration `yaml:"timeout"`
	// CAFile is a PEM file of the authorities that the receiver's certificate must come
	// from. Default: those of the system.
	CAFile strictyaml.Path `yaml:"ca_file"`
	// ClientCertFile and ClientKeyFile are PEM files by which Postern proves itself to the
	// receiver.
	ClientCertFile strictyaml.Path `yaml:"client_cert_file"`
	ClientKeyFile  strictyaml.Path `yaml:"client_key_file"`
	// InsecurePlaintext permits http to other machines. Danger: whoever listens on the way
	// reads the spans, and the headers. Default: false.
	InsecurePlaintext bool `yaml:"insecure_plaintext"`

	// Gateways says what becomes of the trace that whoever asks Postern sends with its
	// call (traceparent, in gRPC metadata): "adopt", the check is a span of it, kept if it
	// says so; "link", it is only named by a trace of Postern's own; or "ignore".
	// Default: adopt.
	Gateways Belief `yaml:"gateways"`
	// Clients says the same of the header fields of the request that is checked, where
	// the gateway has not said it. Gateways that know of traces put their own there, and
	// all others let through what anybody on the internet writes; whoever can name a
	// trace can have their requests kept, and put them into others' traces. Default:
	// link.
	Clients Belief `yaml:"clients"`
	// SampleRatio is which part of the checks is kept that no adopted trace decides about,
	// 0 to 1. Default: 1.
	SampleRatio float64 `yaml:"sample_ratio"`
	// MaxPerSecond bounds how many checks are kept, whoever asks for it, 1 to 10_000; and
	// as many again of those that adopted traces ask for, so that neither takes the
	// other's place. Default: 100.
	MaxPerSecond int `yaml:"max_per_second"`
	// Queue is how many checks wait for the receiver; what does not fit is dropped and
	// counted. 64 to 65_536, at about 1 KiB each. Default: 2_048.
	Queue int `yaml:"queue"`
	// ServiceName is the service.name of the spans. Default: postern.
	ServiceName string `yaml:"service_name"`
	// Attributes are further attributes of the resource, such as
	// deployment.environment.name: production.
	Attributes map[string]string `yaml:"attributes"`
	// Include lists what else of a check is in its span. Default: nothing. Danger: whoever
	// sees the traces sees these.
	//   tenant, principal: whose request it was
	//   host, path: what was asked for, without the query; a path may hold names
	//   client: the client's address
	Include []Detail `yaml:"include"`
	// Baggage lists entries of an adopted gateway's baggage that become attributes, as
	// baggage.NAME. Default: none.
	Baggage []string `yaml:"baggage"`
}

// SetDefaults implements strictyaml.Defaulter.
func (c *Config) SetDefaults() {
	*c = Config{
		Protocol: ProtocolGRPC, Timeout: 5 * time.Second, Gateways: Adopt, Clients: Link,
		SampleRatio: 1, MaxPerSecond: 100, Queue: 2048, ServiceName: "postern",
	}
}

// Protocol is how spans are sent.
type Protocol string

// The protocols.
const (
	ProtocolGRPC Protocol = "grpc"
	ProtocolHTTP Protocol = "http"
)

// Values implements strictyaml.Enum.
func (Protocol) Values() []string { return []string{"grpc", "http"} }

// Belief is what becomes of a trace that somebody else names.
type Belief string

// The beliefs.
const (
	Adopt  Belief = "adopt"
	Link   Belief = "link"
	Ignore Belief = "ignore"
)

// Values implements strictyaml.Enum.
func (Belief) Values() []string { return []string{"adopt", "link", "ignore"} }

// Detail is something about a check that is not in its span unless it is asked for.
type Detail string

// The details.
const (
	DetailTenant    Detail = "tenant"
	DetailPrincipal Detail = "principal"
	DetailHost      Detail = "host"
	DetailPath      Detail = "path"
	DetailClient    Detail = "client"
)

// Values implements strictyaml.Enum.
func (Detail) Values() []string { return []string{"tenant", "principal", "host", "path", "client"} }

// The bounds of what is configured.
const (
	maxHeaders    = 32
	maxAttributes = 64
	maxText       = 256
	maxBaggage    = 16
)

// Check implements strictyaml.Checker.
func (c *Config) Check(report func(path, message, suggestion string)) {
	if _, err := c.parseEndpoint(); err != nil {
		report("endpoint", err.Error(), "")
	}
	c.checkHeaders(report)
	outside := func(path string, ok bool, value any, want string) {
		if !ok {
			report(path, fmt.Sprintf("%v is out of range: use %s", value, want), "")
		}
	}
	outside("timeout", c.Timeout >= 100*time.Millisecond && c.Timeout <= time.Minute, c.Timeout, "100ms to 1m")
	outside("sample_ratio", c.SampleRatio >= 0 && c.SampleRatio <= 1 && !math.IsNaN(c.SampleRatio), c.SampleRatio, "0 to 1")
	outside("max_per_second", c.MaxPerSecond >= 1 && c.MaxPerSecond <= 10_000, c.MaxPerSecond, "1 to 10000")
	outside("queue", c.Queue >= 64 && c.Queue <= 65_536, c.Queue, "64 to 65536")
	if (c.ClientCertFile == "") != (c.ClientKeyFile == "") {
		report("client_cert_file", "client_cert_file and client_key_file go together", "set both, or neither")
	}
	if c.ServiceName == "" || len(c.ServiceName) > maxText {
		report("service_name", fmt.Sprintf("has 1 to %d characters", maxText), "")
	}
	if len(c.Attributes) > maxAttributes {
		report("attributes", fmt.Sprintf("are %d, at most %d are accepted", len(c.Attributes), maxAttributes), "")
	}
	for name, value := range c.Attributes {
		if name == "" || len(name) > maxText || len(value) > maxText {
			report("attributes", fmt.Sprintf("%.80q and its value have 1 to %d characters", name, maxText), "")
		}
	}
	if len(c.Baggage) > maxBaggage {
		report("baggage", fmt.Sprintf("are %d, at most %d are accepted", len(c.Baggage), maxBaggage), "")
	}
	for i, name := range c.Baggage {
		if !isToken(name) || len(name) > maxText {
			report(fmt.Sprintf("baggage[%d]", i), fmt.Sprintf("%.80q is not the name of an entry", name), "")
		}
	}
}

// taken are header fields that are the protocol's own.
var taken = []string{"content-type", "content-length", "content-encoding", "host", "te", "connection", "transfer-encoding", "user-agent"}

func (c *Config) checkHeaders(report func(path, message, suggestion string)) {
	if len(c.Headers) > maxHeaders {
		report("headers", fmt.Sprintf("are %d, at most %d are accepted", len(c.Headers), maxHeaders), "")
	}
	for name, value := range c.Headers {
		switch {
		case !isToken(name) || name != strings.ToLower(name):
			report("headers", fmt.Sprintf("%.80q is not the name of a header field in lower case", name), "")
		case slices.Contains(taken, name) || strings.HasPrefix(name, "grpc-") || strings.HasSuffix(name, "-bin"):
			report("headers."+name, "cannot be set", "")
		case strings.ContainsFunc(value.Reveal(), func(r rune) bool { return r < ' ' || r > '~' }):
			report("headers."+name, "is not visible ASCII", "look whether the file ends in the middle of a line")
		}
	}
}

// parseEndpoint reads the endpoint; its error does not repeat the text.
func (c *Config) parseEndpoint() (*url.URL, error) {
	u, err := url.Parse(c.Endpoint)
	switch {
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.Opaque != "":
		return nil, errors.New("is not a URL such as http://127.0.0.1:4317")
	case u.User != nil:
		return nil, errors.New("holds a user or password: send them in headers")
	case u.RawQuery != "" || u.Fragment != "" || strings.ContainsAny(c.Endpoint, "?#"):
		return nil, errors.New("has a query or a fragment")
	case c.Protocol == ProtocolGRPC && u.Path != "" && u.Path != "/":
		return nil, errors.New("has a path, which grpc does not: leave it out, or use protocol: http")
	case u.Scheme == "http" && !c.InsecurePlaintext && !local(u.Hostname()):
		return nil, errors.New("leaves this machine in plaintext: use https, or insecure_plaintext: true")
	}
	if u.Port() == "" {
		port := map[Protocol]string{ProtocolGRPC: "4317", ProtocolHTTP: "4318"}[c.Protocol]
		u.Host += ":" + port
	}
	if c.Protocol == ProtocolHTTP && (u.Path == "" || u.Path == "/") {
		u.Path = "/v1/traces"
	}
	return u, nil
}

func local(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.Unmap().IsLoopback()
}

// isToken reports whether the text is a token (RFC 9110 section 5.6.2).
func isToken(s string) bool {
	return s != "" && strings.IndexFunc(s, func(r rune) bool {
		return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("!#$%&'*+-.^_`|~", r))
	}) < 0
}
