package bundle

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"path"
	"regexp"
	"strings"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/strictyaml"
)

// Config says where the policy comes from when it comes in bundles.
type Config struct {
	// Bundles are put in force together. Several must not overlap in their roots.
	Bundles []Bundle `yaml:"bundles"`
	// Keys verify the bundles' signatures, unless a bundle names keys of its own.
	Keys []Key `yaml:"keys"`
	// Persist is a directory in which the bundles in force are kept, so that Postern
	// can start while the bundle server is down. Empty: nothing is kept. Danger:
	// who can write there can bring back any bundle that was ever signed.
	Persist strictyaml.Path `yaml:"persist"`
	// MaxAge is how long a policy is used without a sign from the server that it is
	// still the newest. Past it, Postern is not ready and denies with policy_stale.
	// At least 10s and more than poll.max of each bundle. Default: no limit.
	MaxAge time.Duration `yaml:"max_age"`
	// Limits bounds each bundle.
	Limits Limits `yaml:"limits"`
}

// Bundle is one source of policy. Exactly one of url, oci and file says where it is.
type Bundle struct {
	// Name is used in logs, metrics and answers: letters, digits, ".", "_", "-" and
	// "/", up to 64.
	Name string `yaml:"name,required"`
	// URL is where a server has the bundle, http or https; an object of S3, GCS or
	// Azure too. Danger: do not put secrets in the URL.
	URL string `yaml:"url"`
	// OCI is a reference in a registry, such as registry.example.com/policies/shop:1,
	// whose image has the bundle as its layer.
	OCI string `yaml:"oci"`
	// File is a bundle on disk, looked at each second.
	File strictyaml.Path `yaml:"file"`

	// Credentials are shown to the server.
	Credentials Credentials `yaml:"credentials"`
	// CAFile is a PEM file of the authorities that the server's certificate must
	// come from. Default: those of the system.
	CAFile strictyaml.Path `yaml:"ca_file"`
	// AllowedHosts are hosts besides its own to which the server may redirect, or at
	// which a registry may have tokens issued: storage.googleapis.com, auth.docker.io.
	// https only.
	AllowedHosts []policy.HostPattern `yaml:"allowed_hosts"`
	// InsecureHTTP sends credentials, or asks a registry, without TLS. Danger: who
	// sees the packets has the credentials.
	InsecureHTTP bool `yaml:"insecure_http"`

	// Poll says how often to ask.
	Poll Poll `yaml:"poll"`
	// Timeout bounds one download as a whole, the time that a long poll waits not
	// counted. Default 1m.
	Timeout time.Duration `yaml:"timeout"`

	// Verify says how the signature is verified. What comes over a network must be
	// signed.
	Verify Verify `yaml:"verify"`
	// AllowRollback accepts a bundle whose revision is lower than that of the one
	// that runs. Danger: who controls the server can bring back any bundle that was
	// ever signed. Set it for the time of a rollback.
	AllowRollback bool `yaml:"allow_rollback"`
}

// Poll says how often a server is asked: again after a random time from Min to Max.
type Poll struct {
	// Min defaults to 60s; for a file, to 1s. At least 1s.
	Min time.Duration `yaml:"min"`
	// Max defaults to twice Min; for a file, to Min.
	Max time.Duration `yaml:"max"`
	// Wait asks the server to hold its answer until there is something new, for up
	// to this time (long polling). A server that cannot is polled as usual. Whole
	// seconds, up to 10m. Default: off.
	Wait time.Duration `yaml:"wait"`
}

// Verify says how the signature of a bundle is verified.
type Verify struct {
	// Keys are those that this bundle may be signed with. Default: the keys for all
	// bundles.
	Keys []Key `yaml:"keys"`
	// Scope is what the signature must have in its claim `scope`. Default: it must
	// have none.
	Scope string `yaml:"scope"`
	// Exclude are patterns of files that the signature does not cover, such as
	// "docs/*". They never exclude what the policy is made of: *.rego, data files
	// and the manifest are then refused.
	Exclude []string `yaml:"exclude"`
	// InsecureSkip accepts the bundle whatever its signature. Danger: who controls
	// the server, or the network to an http server, decides who may do what.
	InsecureSkip bool `yaml:"insecure_skip"`
}

// Key verifies signatures. Exactly one of key, file and secret is given.
type Key struct {
	// ID is the `kid` of the signatures that it is for.
	ID string `yaml:"id,required"`
	// Algorithm is the only one that is accepted for it: RS256, RS384, RS512, PS256,
	// PS384, PS512, ES256, ES384 or ES512, or HS256, HS384 or HS512 for a secret.
	// Default: what fits the key: RS256, ES256, ES384, ES512 or HS256.
	Algorithm string `yaml:"algorithm"`
	// Key is the public key, or a certificate with it, in PEM.
	Key string `yaml:"key"`
	// File is a file with the same, read at the start.
	File strictyaml.Path `yaml:"file"`
	// Secret is shared with the signer, at least 32 bytes. Danger: whoever can
	// verify with it can sign; prefer a key pair.
	Secret policy.Secret `yaml:"secret"`
}

// Limits bounds each bundle. What is over is refused, never cut.
type Limits struct {
	// Download is the size of the packed bundle. Default 64MiB.
	Download strictyaml.Size `yaml:"download"`
	// Bytes is the size of the unpacked archive. Default 64MiB.
	Bytes strictyaml.Size `yaml:"bytes"`
	// Files is how many entries the archive may have. Default 4096.
	Files int `yaml:"files"`
	// Depth is how deep directories, and values in data files, may nest. Default 32.
	Depth int `yaml:"depth"`
	// Roots is how many roots its manifest may claim. Default 256.
	Roots int `yaml:"roots"`
}

// The defaults, in one place.
const (
	defaultTimeout  = time.Minute
	defaultPollMin  = time.Minute
	defaultFilePoll = time.Second
	shortestMaxAge  = 10 * time.Second
	longestWait     = 10 * time.Minute
	maxBundles      = 64
	maxName         = 64
)

func (c Config) withDefaults() Config {
	c.Limits = c.Limits.withDefaults()
	c.Bundles = append([]Bundle(nil), c.Bundles...)
	for i := range c.Bundles {
		c.Bundles[i] = c.Bundles[i].withDefaults(c.Keys)
	}
	return c
}

func (l Limits) withDefaults() Limits {
	return Limits{
		Download: cmp.Or(l.Download, 64*strictyaml.MiB), Bytes: cmp.Or(l.Bytes, 64*strictyaml.MiB),
		Files: cmp.Or(l.Files, 4096), Depth: cmp.Or(l.Depth, 32), Roots: cmp.Or(l.Roots, 256),
	}
}

func (b Bundle) withDefaults(keys []Key) Bundle {
	b.Timeout = cmp.Or(b.Timeout, defaultTimeout)
	if b.File != "" {
		b.Poll.Min = cmp.Or(b.Poll.Min, defaultFilePoll)
		b.Poll.Max = cmp.Or(b.Poll.Max, b.Poll.Min)
	}
	b.Poll.Min = cmp.Or(b.Poll.Min, defaultPollMin)
	b.Poll.Max = cmp.Or(b.Poll.Max, 2*b.Poll.Min)
	if len(b.Verify.Keys) == 0 {
		b.Verify.Keys = keys
	}
	return b
}

// remote says that the bundle comes over a network.
func (b *Bundle) remote() bool { return b.File == "" }

// Check implements strictyaml.Checker. It looks at neither files nor the network.
func (c *Config) Check(report func(path, message, suggestion string)) {
	d := c.withDefaults()
	if len(c.Bundles) > maxBundles {
		report("bundles", fmt.Sprintf("are %d, at most %d are accepted", len(c.Bundles), maxBundles), "")
	}
	names := map[string]bool{}
	for i := range d.Bundles {
		b, at := &d.Bundles[i], func(field string) string { return strings.TrimSuffix(fmt.Sprintf("bundles[%d].%s", i, field), ".") }
		if names[b.Name] {
			report(at("name"), fmt.Sprintf("%q stands twice", b.Name), "")
		}
		names[b.Name] = true
		inBundle := func(field, message, suggestion string) { report(at(field), message, suggestion) }
		b.check(inBundle)
		checkKeys("verify.keys", c.Bundles[i].Verify.Keys, inBundle)
		if c.MaxAge != 0 && c.MaxAge <= b.Poll.Max+b.Poll.Wait {
			report("max_age", fmt.Sprintf("is %s, and bundle %s is asked for every %s only", c.MaxAge, b.Name, b.Poll.Max+b.Poll.Wait), "raise it, or lower poll.max")
		}
	}
	checkKeys("keys", c.Keys, report)
	if c.MaxAge != 0 && c.MaxAge < shortestMaxAge {
		report("max_age", fmt.Sprintf("is %s, at least %s is needed", c.MaxAge, shortestMaxAge), "leave it out for no limit")
	}
	d.Limits.check(report)
}

func (l Limits) check(report func(path, message, suggestion string)) {
	for _, r := range []struct {
		name       string
		value, max int64
	}{
		{"download", int64(l.Download), int64(strictyaml.GiB)}, {"bytes", int64(l.Bytes), int64(strictyaml.GiB)},
		{"files", int64(l.Files), 1 << 20}, {"depth", int64(l.Depth), 1000}, {"roots", int64(l.Roots), 1 << 16},
	} {
		if r.value < 1 || r.value > r.max {
			report("limits."+r.name, fmt.Sprintf("is %d, from 1 to %d is accepted", r.value, r.max), "leave it out for the default")
		}
	}
}

var namePattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*$`)

func (b *Bundle) check(report func(path, message, suggestion string)) {
	if !namePattern.MatchString(b.Name) || len(b.Name) > maxName {
		report("name", fmt.Sprintf("%.80q is no name", b.Name), "use letters, digits, '.', '_', '-' and '/', up to 64")
	}
	b.checkPlace(report)
	if b.Poll.Min < time.Second || b.Poll.Max < b.Poll.Min {
		report("poll", fmt.Sprintf("from %s to %s: min is at least 1s, and max at least min", b.Poll.Min, b.Poll.Max), "leave both out")
	}
	if w := b.Poll.Wait; w < 0 || w > longestWait || w%time.Second != 0 {
		report("poll.wait", fmt.Sprintf("is %s, whole seconds up to %s are accepted", w, longestWait), "")
	}
	if b.Poll.Wait != 0 && b.URL == "" {
		report("poll.wait", "works with url only", "leave it out")
	}
	if b.Timeout < time.Second || b.Timeout > time.Hour {
		report("timeout", fmt.Sprintf("is %s, from 1s to 1h is accepted", b.Timeout), "leave it out for 1m")
	}
	if b.remote() && !b.Verify.InsecureSkip && len(b.Verify.Keys) == 0 {
		report("verify", "there is no key to verify the signature with", "name the signer's public key in verify.keys or keys")
	}
	for _, pattern := range b.Verify.Exclude {
		if _, err := path.Match(pattern, ""); err != nil || pattern == "" {
			report("verify.exclude", fmt.Sprintf("%q is no pattern", pattern), "write it as docs/*")
		}
	}
	b.Credentials.check(b, report)
}

func (b *Bundle) checkPlace(report func(path, message, suggestion string)) {
	n := 0
	for _, place := range []string{b.URL, b.OCI, string(b.File)} {
		if place != "" {
			n++
		}
	}
	if n != 1 {
		report("", "needs exactly one of url, oci and file", "")
		return
	}
	switch {
	case b.URL != "":
		u, err := url.Parse(b.URL)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.Fragment != "" {
			report("url", "is no http or https URL without user and fragment", "write it as https://bundles.example.com/shop.tar.gz")
		} else if u.Scheme == "http" && !b.Credentials.isZero() && !b.InsecureHTTP && !isLoopback(u.Hostname()) {
			report("credentials", "would be sent in plaintext", "use https")
		}
	case b.OCI != "":
		if _, err := parseReference(b.OCI); err != nil {
			report("oci", err.Error(), "write it as registry.example.com/policies/shop:1")
		}
	}
}

func isLoopback(host string) bool {
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && addr.IsLoopback()
}

func checkKeys(at string, keys []Key, report func(path, message, suggestion string)) {
	ids := map[string]bool{}
	for i, k := range keys {
		field := func(name string) string { return fmt.Sprintf("%s[%d].%s", at, i, name) }
		if ids[k.ID] || k.ID == "" || len(k.ID) > 256 {
			report(field("id"), fmt.Sprintf("%.80q is empty, too long or stands twice", k.ID), "")
		}
		ids[k.ID] = true
		if k.File != "" && k.Key == "" && k.Secret.IsZero() {
			continue // looked at when it is read
		}
		if _, err := k.parse(nil); err != nil {
			report(strings.TrimSuffix(field(""), "."), err.Error(), "")
		}
	}
}

// hostPort is a URL's host with the port that its scheme implies.
func hostPort(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	return net.JoinHostPort(strings.ToLower(u.Hostname()), port)
}
