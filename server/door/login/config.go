package login

import (
	"fmt"
	"strings"
	"time"

	"github.com/postern-auth/postern/policy"
)

// Config is the block `sessions`: the cookie of sessions and what they may do. Every
// field that makes them weaker says insecure.
type Config struct {
	// Cookie is the name of the cookie. Browsers take a name that begins with __Host-
	// from nobody but this very host, over TLS. Default: __Host-session.
	Cookie string `yaml:"cookie"`
	// SameSite says with which requests of other sites' pages browsers send the
	// cookie: "lax", with links that are followed; or "strict", with none, so that
	// whoever follows a link arrives without a session. Default: lax.
	SameSite SameSite `yaml:"same_site"`
	// Idle is how long a session lives without use, at least 1m. Tenants may ask for
	// less. Default: 30m.
	Idle time.Duration `yaml:"idle"`
	// Max is how long a session lives at most, 720h at the most. Tenants may ask for
	// less. Default: 8h.
	Max time.Duration `yaml:"max"`
	// LoginTries is how many wrong passwords for a name lock it for the rest of
	// LoginWindow, whether or not it exists. One address has twenty times as many for
	// all names together. Default: 5.
	LoginTries int `yaml:"login_tries"`
	// LoginWindow is how long wrong passwords count. Default: 15m.
	LoginWindow time.Duration `yaml:"login_window"`
	// InsecureSameSiteRequests takes requests that change something from the other
	// hosts under the same registered domain. Danger: whoever controls one of them, or
	// finds a hole in it, then acts for the users of all. Default: false.
	InsecureSameSiteRequests bool `yaml:"insecure_same_site_requests"`
	// InsecureHTTP leaves Secure out of the cookie, so that browsers send it without
	// TLS. Danger: whoever can read or change the traffic has the session. The default
	// name of the cookie is then session. Default: false.
	InsecureHTTP bool `yaml:"insecure_http"`
	// InsecureScript leaves HttpOnly out of the cookie, so that scripts can read it.
	// Danger: a hole in any page gives the session away. Default: false.
	InsecureScript bool `yaml:"insecure_script"`
	// InsecureSameSiteNone has browsers send the cookie with every request that any
	// site's page makes, in place of SameSite. Default: false.
	InsecureSameSiteNone bool `yaml:"insecure_same_site_none"`
	// InsecureDomain sends the cookie to every host under a domain. Danger: each of
	// them can read the session and set another one. The default name of the cookie is
	// then __Secure-session. Default: none.
	InsecureDomain string `yaml:"insecure_domain"`
	// InsecureName takes a name without the prefix __Host-. Danger: the application's
	// other hosts, and without TLS everybody on the way, can set the cookie. Default:
	// false.
	InsecureName bool `yaml:"insecure_name"`
}

// SameSite is the attribute of that name (RFC 6265bis section 4.1.2.7).
type SameSite string

// The values of SameSite.
const (
	SameSiteLax    SameSite = "lax"
	SameSiteStrict SameSite = "strict"
)

// Values lists the values that configuration may use.
func (SameSite) Values() []string { return []string{string(SameSiteLax), string(SameSiteStrict)} }

const (
	defaultIdle   = 30 * time.Minute
	defaultMax    = 8 * time.Hour
	defaultTries  = 5
	defaultWindow = 15 * time.Minute

	leastIdle   = time.Minute
	mostMax     = 30 * 24 * time.Hour
	mostTries   = 1000
	leastWindow = time.Second
	mostWindow  = 24 * time.Hour
	mostName    = 64
)

// WithDefaults returns the configuration with what it leaves out.
func (c Config) WithDefaults() Config {
	if c.Cookie == "" {
		c.Cookie = c.prefix() + "session"
	}
	if c.SameSite == "" {
		c.SameSite = SameSiteLax
	}
	if c.Idle == 0 {
		c.Idle = min(defaultIdle, max(c.Max, leastIdle))
		if c.Max == 0 {
			c.Idle = defaultIdle
		}
	}
	if c.Max == 0 {
		c.Max = max(defaultMax, c.Idle)
	}
	if c.LoginTries == 0 {
		c.LoginTries = defaultTries
	}
	if c.LoginWindow == 0 {
		c.LoginWindow = defaultWindow
	}
	return c
}

// prefix is the strongest that the other settings allow (RFC 6265bis section 4.1.3).
func (c *Config) prefix() string {
	switch {
	case c.InsecureHTTP:
		return ""
	case c.InsecureDomain != "":
		return "__Secure-"
	}
	return "__Host-"
}

// Check reports all that is wrong with the block, each with its field.
func (c *Config) Check(report func(path, message, suggestion string)) {
	d := c.WithDefaults()
	d.checkCookie(report)
	if d.Idle < leastIdle {
		report("idle", fmt.Sprintf("is less than %v", leastIdle), "")
	}
	if d.Max < d.Idle || d.Max > mostMax {
		report("max", fmt.Sprintf("is not from idle, %v, to %v", d.Idle, mostMax), "")
	}
	if d.LoginTries < 1 || d.LoginTries > mostTries {
		report("login_tries", fmt.Sprintf("is not from 1 to %d", mostTries), "")
	}
	if d.LoginWindow < leastWindow || d.LoginWindow > mostWindow {
		report("login_window", fmt.Sprintf("is not from %v to %v", leastWindow, mostWindow), "")
	}
}

func (c *Config) checkCookie(report func(path, message, suggestion string)) {
	prefix := ""
	for _, p := range []string{"__Host-", "__Secure-"} {
		if len(c.Cookie) >= len(p) && strings.EqualFold(c.Cookie[:len(p)], p) {
			prefix = p
		}
	}
	switch {
	case !isName(c.Cookie):
		report("cookie", fmt.Sprintf("is not a name of up to %d letters, digits, - and _", mostName), "")
	case prefix != "" && !strings.HasPrefix(c.Cookie, prefix):
		report("cookie", "browsers write the prefix in another case", "write "+prefix)
	case prefix != "" && c.InsecureHTTP:
		report("cookie", "browsers take a name with this prefix over TLS only", "take the prefix off, or insecure_http out")
	case prefix == "__Host-" && c.InsecureDomain != "":
		report("cookie", "browsers take a name with __Host- for one host only", "write __Secure-, or take insecure_domain out")
	case prefix != c.prefix() && !c.InsecureName:
		report("cookie", "does not begin with "+c.prefix(), "let it, or set insecure_name")
	}
	if c.SameSite != SameSiteLax && c.SameSite != SameSiteStrict {
		report("same_site", "is not lax or strict", "")
	}
	if c.InsecureSameSiteNone && c.InsecureHTTP {
		report("insecure_same_site_none", "browsers take SameSite=None over TLS only", "take one of the two out")
	}
	if c.InsecureDomain != "" && !isDomain(c.InsecureDomain) {
		report("insecure_domain", "is not a domain such as example.com", "")
	}
}

// isName accepts what every browser, server and tool reads in the same way.
func isName(s string) bool {
	for i := range len(s) {
		if c := s[i]; c != '-' && c != '_' && (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') {
			return false
		}
	}
	return s != "" && len(s) <= mostName
}

// isDomain accepts two labels at least, in lower case: browsers refuse a single one.
func isDomain(s string) bool {
	labels := strings.Split(s, ".")
	for _, l := range labels {
		if !isName(l) || strings.ToLower(l) != l || strings.Contains(l, "_") || l[0] == '-' || l[len(l)-1] == '-' {
			return false
		}
	}
	return len(labels) > 1 && len(s) <= 253
}

// Warnings says in a sentence each what was made weaker than it is by default.
func (c *Config) Warnings() []string {
	var all []string
	for _, w := range []struct {
		on   bool
		text string
	}{
		{c.InsecureSameSiteRequests, "sessions.insecure_same_site_requests: every host of the site can act for the users of this one"},
		{c.InsecureHTTP, "sessions.insecure_http: sessions travel without TLS, where anybody on the way can take them"},
		{c.InsecureScript, "sessions.insecure_script: scripts can read the session"},
		{c.InsecureSameSiteNone, "sessions.insecure_same_site_none: browsers send the session whoever asks them to"},
		{c.InsecureDomain != "", "sessions.insecure_domain: every host of the domain can read and replace the session"},
		{c.InsecureName, "sessions.insecure_name: other hosts of the site can replace the session"},
	} {
		if w.on {
			all = append(all, w.text)
		}
	}
	return all
}

// SetCookie returns the Set-Cookie field that gives a browser its session (RFC 6265
// section 4.1). It says no time: the browser forgets it when it is closed, and
// Postern decides when it is over.
func (c Config) SetCookie(secret policy.Secret) policy.Secret {
	return policy.NewSecret(c.setCookie(secret.Reveal(), ""))
}

// ClearCookie returns the Set-Cookie field that takes the cookie back.
func (c Config) ClearCookie() string { return c.setCookie("", "; Max-Age=0") }

func (c Config) setCookie(value, age string) string {
	c = c.WithDefaults()
	var b strings.Builder
	b.WriteString(c.Cookie + "=" + value + "; Path=/" + age)
	if c.InsecureDomain != "" {
		b.WriteString("; Domain=" + c.InsecureDomain)
	}
	if !c.InsecureHTTP {
		b.WriteString("; Secure")
	}
	if !c.InsecureScript {
		b.WriteString("; HttpOnly")
	}
	switch {
	case c.InsecureSameSiteNone:
		b.WriteString("; SameSite=None")
	case c.SameSite == SameSiteStrict:
		b.WriteString("; SameSite=Strict")
	default:
		b.WriteString("; SameSite=Lax")
	}
	return b.String()
}
