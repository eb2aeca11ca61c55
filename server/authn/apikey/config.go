package apikey

import (
	"errors"
	"fmt"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/seal"
	"github.com/postern-auth/postern/server/strictyaml"
)

// Config is the block `api_keys`.
type Config struct {
	// Prefix starts every key and says whose it is: at most 16 lower-case letters
	// and digits, a letter first. Default: pst. Changing it makes all keys that
	// were minted before unknown.
	Prefix string `yaml:"prefix"`
	// Pepper is the server's own secret in every digest: at least 32 random bytes,
	// for example from `openssl rand -hex 32`, as ${file:…} or ${env:…}. It is
	// version 1. Without it no key can be minted or verified, only imported ones.
	Pepper policy.Secret `yaml:"pepper"`
	// Peppers replaces Pepper where the secret has been changed: all versions
	// whose digests are still in the keys file. The first mints.
	Peppers []seal.Pepper `yaml:"peppers"`
	// File is the keys file. It holds no secret, and is read again when it
	// changes; replace it by renaming, so that no half of it is ever read.
	// Without it there are no keys.
	File strictyaml.Path `yaml:"file"`
	// MaxFileSize is how large that file may be. Reading it needs about three times
	// as much memory for a moment, and one second for 100MiB. Default: 512MiB,
	// which is 1,000,000 keys with much to say about each. A file that does not end
	// with its list of keys, a line `keys:` and below it entries that begin with
	// two spaces and a dash, may have 32MiB at most: it needs 40 times its size.
	MaxFileSize strictyaml.Size `yaml:"max_file_size"`
	// MaxAge is how long after its creation a key may live. Default: 2160h, which
	// is 90 days. A key can set its own.
	MaxAge time.Duration `yaml:"max_age"`
	// RefuseImported refuses keys of foreign formats. Their digests are made
	// without the pepper, so whoever can write to the keys file can add one.
	RefuseImported bool `yaml:"refuse_imported"`
}

const (
	defaultMaxAge      = 90 * day
	defaultMaxFileSize = 512 * strictyaml.MiB
)

func (c Config) withDefaults() Config {
	if c.Prefix == "" {
		c.Prefix = seal.DefaultPrefix
	}
	if c.MaxAge == 0 {
		c.MaxAge = defaultMaxAge
	}
	if c.MaxFileSize == 0 {
		c.MaxFileSize = defaultMaxFileSize
	}
	return c
}

// Check reports all that is wrong with the block, each with its field.
func (c *Config) Check(report func(path, message, suggestion string)) {
	d := c.withDefaults()
	if !seal.IsWord(d.Prefix) {
		report("prefix", "is not a word for keys", fmt.Sprintf("use at most %d lower-case letters and digits, a letter first", seal.WordLen))
	}
	if d.MaxAge < 0 {
		report("max_age", "is negative", "")
	}
	if d.MaxFileSize < 0 {
		report("max_file_size", "is negative", "")
	}
	readPeppers(c, func(path, message string) { report(path, message, "") })
}

// NewPeppers reads the peppers of a configuration: Pepper is version 1, of
// Peppers the first is the one that mints. Errors name the version, never the
// secret. Neither set is no error: then there are only imported keys.
func NewPeppers(c Config) (*seal.Peppers, error) {
	var errs []error
	ps := readPeppers(&c, func(path, message string) {
		errs = append(errs, fmt.Errorf("%s: %s", path, message))
	})
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return ps, nil
}

func readPeppers(c *Config, report func(path, message string)) *seal.Peppers {
	list := c.Peppers
	if !c.Pepper.IsZero() {
		if len(list) > 0 {
			report("pepper", "is set beside peppers; it is the same as version 1 there, so set one of the two")
			return seal.ReadPeppers(nil, nil)
		}
		list = []seal.Pepper{{Version: 1, Secret: c.Pepper}}
	}
	return seal.ReadPeppers(list, func(i int, field, message string) {
		switch {
		case !c.Pepper.IsZero():
			report("pepper", message)
		case field == "":
			report("peppers", message)
		default:
			report(fmt.Sprintf("peppers[%d].%s", i, field), message)
		}
	})
}
