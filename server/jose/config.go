package jose

import (
	"cmp"
	"errors"
	"fmt"
	"reflect"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/outbound"
)

// SourceConfig says where the keys of an issuer are and how they are kept fresh.
// With neither URL nor File they are found through the issuer's discovery
// document.
type SourceConfig struct {
	// Issuer is the issuer's name, exactly as its tokens and its discovery
	// document write it. URL is the address of its key set; with it, there is no
	// discovery. File is the path of a key set on disk: it is read at the start
	// and on each reload, never by age. All three are set by the issuer's own
	// configuration.
	Issuer string `yaml:"-"`
	URL    string `yaml:"-"`
	File   string `yaml:"-"`
	// Bundle says that URL or File holds a SPIFFE bundle (ParseBundle). It is set by the
	// trust domain's own configuration.
	Bundle bool `yaml:"-"`

	// Refresh is the longest time between two fetches, and so, unless the issuer is
	// down, the time within which a key that it withdrew is no longer accepted. The
	// issuer's Cache-Control can make it shorter. Default 15m.
	Refresh time.Duration `yaml:"refresh"`
	// MinRefresh is the shortest time to which the issuer's Cache-Control can
	// bring Refresh down. Default 1m, or refresh if that is shorter.
	MinRefresh time.Duration `yaml:"min_refresh"`
	// Cooldown is the time between two fetches that tokens with an unknown key
	// can cause, and between two tries when the issuer is down. Default 30s, at
	// least 1s: anybody can send tokens with unknown keys.
	Cooldown time.Duration `yaml:"cooldown"`
	// KeepStale is how long keys are used after they were fetched while newer
	// ones cannot be had. After that, the issuer's tokens are denied as "could not
	// find out". At least refresh; equal to it, the first failure counts.
	// Default 24h.
	KeepStale time.Duration `yaml:"keep_stale"`
	// Timeout bounds one fetch as a whole, discovery included. Default 5s, at most
	// 1m.
	Timeout time.Duration `yaml:"timeout"`

	// AllowedHosts are hosts besides the issuer's own on which its discovery
	// document may place the key set, for example www.googleapis.com for
	// https://accounts.google.com.
	AllowedHosts []policy.HostPattern `yaml:"allowed_hosts"`
	// CAFile is a PEM file of the authorities that the key server's certificate
	// must come from. Default: those of the system.
	CAFile string `yaml:"ca_file"`

	// InsecureAllowHTTP permits http. Danger: who can change packets on the way
	// can then sign any token.
	InsecureAllowHTTP bool `yaml:"insecure_allow_http"`
	// InsecureAllowPrivateAddresses permits key servers on loopback and private
	// addresses. Danger: who controls the issuer's DNS or discovery document can
	// make Postern send a GET to servers inside. Link-local addresses and the
	// metadata services of clouds stay refused.
	InsecureAllowPrivateAddresses bool `yaml:"insecure_allow_private_addresses"`
}

// SetDefaults sets what is not set to its default. Some defaults follow from
// others' values, so it comes after whatever the file says.
func (c *SourceConfig) SetDefaults() {
	c.Refresh = cmp.Or(c.Refresh, 15*time.Minute)
	c.MinRefresh = cmp.Or(c.MinRefresh, min(time.Minute, c.Refresh))
	c.Cooldown = cmp.Or(c.Cooldown, 30*time.Second)
	c.KeepStale = cmp.Or(c.KeepStale, max(24*time.Hour, c.Refresh))
	c.Timeout = cmp.Or(c.Timeout, 5*time.Second)
}

// withDefaults returns the configuration that is in force.
func (c SourceConfig) withDefaults() SourceConfig {
	c.SetDefaults()
	return c
}

// Check reports whatever is wrong with the times: path is the field's name in the
// configuration, suggestion what to do.
func (c *SourceConfig) Check(report func(path, message, suggestion string)) {
	d := c.withDefaults()
	if d.MinRefresh < time.Second {
		report("min_refresh", fmt.Sprintf("is %s, at least 1s is needed", d.MinRefresh), "leave it out for 1m")
	}
	if d.Refresh < d.MinRefresh {
		report("refresh", fmt.Sprintf("is %s, less than min_refresh, %s", d.Refresh, d.MinRefresh), "leave it out for 15m")
	}
	if d.Cooldown < time.Second {
		report("cooldown", fmt.Sprintf("is %s, at least 1s is needed", d.Cooldown), "leave it out for 30s")
	}
	if d.KeepStale < d.Refresh {
		report("keep_stale", fmt.Sprintf("is %s, less than refresh, %s", d.KeepStale, d.Refresh), "leave it out for 24h")
	}
	if d.Timeout < 0 || d.Timeout > time.Minute {
		report("timeout", fmt.Sprintf("is %s, more than 0s and at most 1m is accepted", d.Timeout), "leave it out for 5s")
	}
}

// check returns all that is wrong with the configuration but the place of the
// keys itself.
func (c *SourceConfig) check() error {
	var all []error
	c.Check(func(path, message, suggestion string) {
		all = append(all, fmt.Errorf("%s %s: %s", path, message, suggestion))
	})
	if c.URL != "" && c.File != "" {
		all = append(all, errors.New("a URL and a file of the key set exclude each other"))
	}
	if c.URL == "" && c.File == "" && c.Issuer == "" {
		all = append(all, errors.New("there is no issuer to discover, and neither URL nor file of a key set"))
	}
	return errors.Join(all...)
}

// outbound returns how the key server is asked. Each fetch has its own connection:
// fetches are minutes apart, and so a key server that moved is found.
func (c *SourceConfig) outbound() *outbound.Config {
	return &outbound.Config{
		Timeout:                       c.Timeout,
		CAFile:                        c.CAFile,
		InsecureAllowHTTP:             c.InsecureAllowHTTP,
		InsecureAllowPrivateAddresses: c.InsecureAllowPrivateAddresses,
	}
}

// discovery returns how the issuer is asked where its keys are: at each refresh, so
// that it may move them.
func (c *SourceConfig) discovery() *Discovery {
	return &Discovery{Issuer: c.Issuer, AllowedHosts: c.AllowedHosts, Outbound: c.outbound()}
}

// memberKeys is the member of an issuer's metadata that holds the key set's URL.
const memberKeys = "jwks_uri"

// samePlace reports whether both get their keys from the same place by the same
// rules: all is equal but the times.
func (c SourceConfig) samePlace(other SourceConfig) bool {
	return reflect.DeepEqual(c.withoutTimes(), other.withoutTimes())
}

func (c SourceConfig) withoutTimes() SourceConfig {
	c.Refresh, c.MinRefresh, c.Cooldown, c.KeepStale, c.Timeout = 0, 0, 0, 0, 0
	return c
}
