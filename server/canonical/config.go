package canonical

import (
	"errors"
	"fmt"
	"strings"
)

// Config says how requests are read. Its zero value is the default, and the
// default is strict.
type Config struct {
	// Paths says how paths are read.
	Paths PathConfig `yaml:"paths"`
	// Limits bound the size of a request; beyond them it is refused unread.
	Limits LimitConfig `yaml:"limits"`
	// Client says how the client's address and its use of TLS are found.
	Client ClientConfig `yaml:"client"`
	// IdentityHeaders are the header fields that tell the upstream who is calling.
	// Only Postern sets them: what a client sends under these names, or under
	// names that an upstream may mistake for them (x_auth_roles), is removed. A
	// final "*" stands for any ending. Default: [x-auth-*]. An empty list is the
	// default too.
	IdentityHeaders []string `yaml:"identity_headers"`
	// CredentialHeaders are the fields in which credentials are looked for, in
	// lower case. They may occur once only. Whoever assembles the server fills
	// this from the extraction rules; authorization, proxy-authorization, dpop
	// and x-api-key always count.
	CredentialHeaders []string `yaml:"-"`
}

// PathConfig names the repairs that are made to a path before it is compared
// with anything. A repair that is turned off refuses the request instead.
type PathConfig struct {
	// Decode is how often percent escapes are decoded. The only value is "once":
	// a path that holds a second layer (%252e) is refused.
	Decode Decode `yaml:"decode"`
	// MergeSlashes reads /a//b as /a/b. Two slashes at the start are refused
	// anyway, because //host/path names another host. Default: true.
	MergeSlashes *bool `yaml:"merge_slashes"`
	// EncodedSlash says what %2F inside a path is: "reject" refuses it, "keep"
	// leaves "%2F" in the segment and is safe only if the upstream does the same,
	// "decode" makes it a separator, like Envoy's UNESCAPE_AND_FORWARD. %5C is
	// refused always. Default: reject.
	EncodedSlash EncodedSlash `yaml:"encoded_slash"`
	// EncodedDelimiters says what %3F and %23 inside a path are: "reject" refuses
	// them, because an upstream that parses a path after decoding it cuts it
	// there; "decode" reads "?" and "#" as part of the name, as in
	// /tags/c%23. Default: reject.
	EncodedDelimiters EncodedDelimiters `yaml:"encoded_delimiters"`
	// StripParameters reads /a;v=1/b as /a/b, as Java servers do. Default: true.
	StripParameters *bool `yaml:"strip_parameters"`
}

// Decode is how often percent escapes are decoded.
type Decode string

// DecodeOnce decodes once, and refuses what could be decoded again.
const DecodeOnce Decode = "once"

// Values lists the values that configuration may use.
func (Decode) Values() []string { return []string{string(DecodeOnce)} }

// EncodedSlash is what %2F inside a path means.
type EncodedSlash string

// The meanings of %2F; the zero value is EncodedSlashReject.
const (
	EncodedSlashReject EncodedSlash = "reject" // the request is refused
	EncodedSlashKeep   EncodedSlash = "keep"   // a part of the name, kept as "%2F"
	EncodedSlashDecode EncodedSlash = "decode" // a separator
)

// Values lists the values that configuration may use.
func (EncodedSlash) Values() []string {
	return []string{string(EncodedSlashReject), string(EncodedSlashKeep), string(EncodedSlashDecode)}
}

// EncodedDelimiters is what %3F and %23 inside a path mean.
type EncodedDelimiters string

// The meanings of %3F and %23; the zero value is EncodedDelimitersReject.
const (
	EncodedDelimitersReject EncodedDelimiters = "reject" // the request is refused
	EncodedDelimitersDecode EncodedDelimiters = "decode" // a part of the name
)

// Values lists the values that configuration may use.
func (EncodedDelimiters) Values() []string {
	return []string{string(EncodedDelimitersReject), string(EncodedDelimitersDecode)}
}

// LimitConfig bounds what is read of a request. Zero is the default of each.
type LimitConfig struct {
	// MaxPathBytes bounds the path without the query. Default: 8192.
	MaxPathBytes int `yaml:"max_path_bytes"`
	// MaxQueryBytes bounds the query. Default: 16384.
	MaxQueryBytes int `yaml:"max_query_bytes"`
	// MaxHeaders bounds the number of header fields, pseudo headers and those that
	// the gateway adds included. Default: 128.
	MaxHeaders int `yaml:"max_headers"`
	// MaxHeaderValueBytes bounds one header value. The default leaves room for a
	// forwarded certificate with its chain: 40960.
	MaxHeaderValueBytes int `yaml:"max_header_value_bytes"`
	// MaxHeaderBytes bounds all names and values together. Default: 65536.
	MaxHeaderBytes int `yaml:"max_header_bytes"`
	// MaxBodyBytes bounds what the gateway forwards of the body. Default: 1048576.
	MaxBodyBytes int `yaml:"max_body_bytes"`
}

// ClientConfig says where the client's address is found. The words are Envoy's.
//
// Envoy reports the peer of the client's connection, whatever its own
// xff_num_trusted_hops says, and with its use_remote_address it has already
// appended that peer to x-forwarded-for. So where Envoy is the edge, keep the
// defaults; where N proxies stand before it, set use_remote_address to false and
// trusted_hops to N here.
type ClientConfig struct {
	// UseRemoteAddress takes the peer of the gateway's connection for the client,
	// or for the nearest trusted hop if TrustedHops is set. If it is false, the
	// last address in ForwardedFor is that peer: set it so only where nobody but a
	// proxy that writes the header can reach the gateway, or clients choose their
	// own address. Default: true.
	UseRemoteAddress *bool `yaml:"use_remote_address"`
	// TrustedHops is the number of proxies in front of the gateway that append to
	// ForwardedFor. One too many lets clients choose their own address.
	// Default: 0; at most 16.
	TrustedHops int `yaml:"trusted_hops"`
	// ForwardedFor is the header field that holds addresses separated by commas.
	// Default: x-forwarded-for.
	ForwardedFor string `yaml:"forwarded_for"`
	// TrustForwardedProto lets x-forwarded-proto say whether the client used TLS.
	// Set it only if a proxy overwrites what clients send there. Default: false.
	TrustForwardedProto bool `yaml:"trust_forwarded_proto"`
}

// Bounds on configuration that nobody needs to exceed.
const (
	maxTrustedHops = 16
	maxLimit       = 1 << 30
)

// Check reports everything that is wrong, each with the path of the field.
func (c *Config) Check(report func(path, message, suggestion string)) {
	checkValue(report, "paths.decode", c.Paths.Decode)
	checkValue(report, "paths.encoded_slash", c.Paths.EncodedSlash)
	checkValue(report, "paths.encoded_delimiters", c.Paths.EncodedDelimiters)
	for _, l := range c.Limits.fields() {
		if *l.value < 0 || *l.value > maxLimit {
			report("limits."+l.name, fmt.Sprintf("must be 0 to %d", maxLimit), "leave it out for the default")
		}
	}
	if h := c.Client.TrustedHops; h < 0 || h > maxTrustedHops {
		report("client.trusted_hops", fmt.Sprintf("must be 0 to %d", maxTrustedHops), "count the proxies between the client and the gateway")
	}
	switch f := c.Client.ForwardedFor; {
	case f != "x-forwarded-for" && isBuiltin(f, false):
		report("client.forwarded_for", fmt.Sprintf("%q is not a list of addresses", f), "use x-forwarded-for")
	case f != "" && !isFieldName(f):
		report("client.forwarded_for", "is not a header field name", "write it in lower case, as in x-forwarded-for")
	}
	for i, name := range c.IdentityHeaders {
		at := fmt.Sprintf("identity_headers[%d]", i)
		plain, prefix := strings.CutSuffix(name, "*")
		switch {
		case !isFieldName(plain) || prefix && len(plain) < 3:
			report(at, fmt.Sprintf("%q is not a header field name", name), `write it in lower case, as in x-auth-roles or x-auth-*`)
		case isBuiltin(plain, prefix):
			report(at, fmt.Sprintf("%q covers a field that requests need", name), "choose names of your own, such as x-auth-*")
		}
	}
	for i, name := range c.CredentialHeaders {
		if !isFieldName(name) {
			report(fmt.Sprintf("credential_headers[%d]", i), fmt.Sprintf("%q is not a header field name", name), "write it in lower case")
		}
	}
	if n := len(singleHeaders) + len(c.CredentialHeaders); n > maxSingle {
		report("credential_headers", "too many", fmt.Sprintf("use at most %d", maxSingle-len(singleHeaders)))
	}
}

// checkValue reports a value outside its closed set; empty is the default.
func checkValue[T interface {
	~string
	Values() []string
}](report func(path, message, suggestion string), path string, v T) {
	if v == "" {
		return
	}
	for _, allowed := range v.Values() {
		if string(v) == allowed {
			return
		}
	}
	report(path, fmt.Sprintf("%q is not allowed", string(v)), "use "+strings.Join(v.Values(), ", "))
}

type limit struct {
	name     string
	value    *int
	standard int
}

func (l *LimitConfig) fields() []limit {
	return []limit{
		{"max_path_bytes", &l.MaxPathBytes, 8 << 10},
		{"max_query_bytes", &l.MaxQueryBytes, 16 << 10},
		{"max_headers", &l.MaxHeaders, 128},
		{"max_header_value_bytes", &l.MaxHeaderValueBytes, 40 << 10},
		{"max_header_bytes", &l.MaxHeaderBytes, 64 << 10},
		{"max_body_bytes", &l.MaxBodyBytes, 1 << 20},
	}
}

// isFieldName accepts lower-case names that look the same to every server.
func isFieldName(s string) bool {
	classes, ok := tokenClasses(s)
	return ok && classes == tokenPlain && len(s) <= maxGuardedName
}

// DefaultIdentityHeaders are the identity headers where none are configured.
func DefaultIdentityHeaders() []string { return []string{"x-auth-*"} }

// identityHeaders returns the configured names or the default.
func (c *Config) identityHeaders() []string {
	if len(c.IdentityHeaders) == 0 {
		return DefaultIdentityHeaders()
	}
	return c.IdentityHeaders
}

func defaultTrue(p *bool) bool { return p == nil || *p }

// New returns a Reader. The error holds everything that is wrong with c.
func New(c Config) (*Reader, error) {
	var errs []error
	c.Check(func(path, message, suggestion string) {
		errs = append(errs, fmt.Errorf("%s: %s; %s", path, message, suggestion))
	})
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	for _, l := range c.Limits.fields() {
		if *l.value == 0 {
			*l.value = l.standard
		}
	}
	r := &Reader{
		limits:           c.Limits,
		mergeSlashes:     defaultTrue(c.Paths.MergeSlashes),
		stripParameters:  defaultTrue(c.Paths.StripParameters),
		encodedSlash:     c.Paths.EncodedSlash,
		decodeDelimiters: c.Paths.EncodedDelimiters == EncodedDelimitersDecode,
		client:           newClientRules(&c.Client),
	}
	r.headers = newHeaderRules(&c, r.client.forwardedFor)
	return r, nil
}
