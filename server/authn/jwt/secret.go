package jwt

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"errors"
	"fmt"
	"sort"
	"strings"
	"unicode"
)

const (
	// minSecretBytes is the length of the shortest shared secret (RFC 7518 section
	// 3.2), minDistinct the least number of different bytes in it. Of 32 random hex
	// digits, fewer than 8 are different about once in 10^7, of random bytes never.
	minSecretBytes = 32
	minDistinct    = 8
)

// knownSecrets are the secrets of at least minSecretBytes that lists for cracking
// tokens hold: of each the first digestBytes of its SHA-256, sorted and joined.
// That a random secret is taken for one of them is less likely than 2^-37.
//
//go:embed knownsecrets.sha256
var knownSecrets []byte

const digestBytes = 6

// checkSecret refuses a shared secret that can be guessed. The error does not
// show it.
func (c *Config) checkSecret() error {
	secret, err := c.secretBytes()
	if err != nil {
		return err
	}
	distinct := map[byte]bool{}
	for _, b := range secret {
		distinct[b] = true
	}
	switch {
	case len(secret) < minSecretBytes:
		return fmt.Errorf("has %d bytes, at least %d are required", len(secret), minSecretBytes)
	case len(distinct) < minDistinct:
		return errors.New("repeats itself and can be guessed")
	case isKnownSecret(secret) || isKnownSecret([]byte(c.Secret.Reveal())):
		return errors.New("is publicly known")
	}
	return nil
}

// secretBytes returns the shared secret as bytes.
func (c *Config) secretBytes() ([]byte, error) {
	text := c.Secret.Reveal()
	switch c.SecretEncoding {
	case "", EncodingText:
		return []byte(text), nil
	case EncodingBase64URL:
		b, err := base64.RawURLEncoding.Strict().DecodeString(strings.TrimRight(text, "="))
		if err != nil {
			return nil, errors.New("is not base64url")
		}
		return b, nil
	}
	return nil, errors.New("secret_encoding must be text or base64url")
}

func isKnownSecret(secret []byte) bool {
	sum := sha256.Sum256(bytes.TrimSpace(secret))
	n := len(knownSecrets) / digestBytes
	at := func(i int) []byte { return knownSecrets[i*digestBytes : (i+1)*digestBytes] }
	i := sort.Search(n, func(i int) bool { return bytes.Compare(at(i), sum[:digestBytes]) >= 0 })
	return i < n && bytes.Equal(at(i), sum[:digestBytes])
}

// secretWords are words that make a claim's name look like that of a secret;
// secretParts do so even inside a word.
var (
	secretWords = map[string]bool{"key": true, "keys": true, "token": true, "tokens": true, "pwd": true, "pass": true, "otp": true, "pin": true, "cookie": true, "jwt": true, "assertion": true}
	secretParts = [...]string{"password", "passwd", "passphrase", "secret", "token", "credential", "apikey", "privatekey", "accesskey"}
)

// looksSecret reports whether a claim of that name may hold a secret. Issuers
// should not put any into a token; some do.
func looksSecret(name string) bool {
	lower := strings.ToLower(name)
	for _, part := range secretParts {
		if strings.Contains(lower, part) {
			return true
		}
	}
	for _, word := range words(name) {
		if secretWords[word] {
			return true
		}
	}
	return false
}

// words splits api_key, api-key, apiKey and https://x/key into words in lower
// case.
func words(name string) []string {
	var b strings.Builder
	lower := false
	for _, r := range name {
		if unicode.IsUpper(r) && lower {
			b.WriteByte(' ')
		}
		lower = unicode.IsLower(r)
		if !unicode.IsLetter(r) {
			r = ' '
		}
		b.WriteRune(unicode.ToLower(r))
	}
	return strings.Fields(b.String())
}
