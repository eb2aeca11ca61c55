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
