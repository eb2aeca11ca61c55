// Package signer signs what Postern vouches for itself: personal access tokens that are
// JWTs, the tokens of agents, and those that tell an upstream who called.
//
// # The form
//
// A compact JWS (RFC 7515 section 7.1) with EdDSA over Ed25519 (RFC 8037), which is
// deterministic: there is no nonce that a poor source of randomness could give away.
// The header holds alg, kid and typ, always in that order and with nothing else, so
// that a token of one key and type begins with one known text, and whoever looks for
// tokens of his own need not decode those of others (Signer.Heads).
//
//	base64url({"alg":"EdDSA","kid":"2026-03","typ":"pat+jwt"}) . base64url(claims) . base64url(signature)
//
// One key signs tokens of several sorts. None can be taken for another: typ says what
// it is, and aud for whom (RFC 8725 sections 3.11 and 3.9).
//
//	sort                    typ         aud                    life
//	identity, to upstream   JWT         the upstream           MaxIdentityTTL at most
//	personal access token   pat+jwt     Postern: the issuer    as its record says
//	agent token             agent+jwt   who takes it: agents   an hour at most
//
// # Keys
//
// The first key signs. All of them are published (KeySet) and verify. So a key is
// replaced in three steps, between which every verifier has read the set anew:
//
//	keys: [old, new]    the new one is published, and signs nothing yet
//	keys: [new, old]    it signs; what the old one signed is still good
//	keys: [new]         once that has ended
//
// To take a key away ends whatever it has signed.
//
// Nothing here is verified: see server/jose, and server/authn/apikey for personal access
// tokens, server/authn/agent for those of agents.
package signer

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/postern-auth/postern/policy"
)

// Config is the block `signing`: the keys with which Postern signs tokens of its own.
// Without it there are none.
type Config struct {
	// Issuer is Postern's own name in the tokens that it signs, their claim iss: an
	// https URL, at most 256 bytes, under which /.well-known/jwks.json is served.
	// Changing it ends all personal access tokens that are JWTs. Required with keys.
	Issuer string `yaml:"issuer"`
	// Keys are the signing keys, at most 16. The first signs; all of them are published
	// and verify. To replace a key, add the new one at the end; when all who verify have
	// read the key set again, move it to the front; remove the old one when what it
	// signed has ended. Danger: who has one of them can be anybody to every upstream.
	Keys []KeyConfig `yaml:"keys"`
	// IdentityTTL is how long a token lives that tells an upstream who called, 10s to
	// 5m, and never longer than the caller's own credential. Default: 5m.
	IdentityTTL time.Duration `yaml:"identity_ttl"`
}

// KeyConfig is one signing key.
type KeyConfig struct {
	// ID names the key in what it signs (kid): at most 64 letters, digits, ".", "_" and
	// "-". It must never be used again for another key. Required.
	ID string `yaml:"id,required"`
	// Key is an Ed25519 key as ${file:…} or ${env:…}: PKCS#8 in PEM, as
	// `openssl genpkey -algorithm ed25519` writes it, or its 32 random bytes in hex or
	// in base64url without padding, as from `openssl rand -hex 32`. Required.
	Key policy.Secret `yaml:"key,required"`
}

// The bounds of a configuration.
const (
	// MaxIdentityTTL is the longest life of an identity token.
	MaxIdentityTTL = 5 * time.Minute
	minIdentityTTL = 10 * time.Second
	maxKeys        = 16
	maxIssuer      = 256 // bytes
	maxKeyID       = 64  // bytes
)

// SetDefaults sets what is not set to its default.
func (c *Config) SetDefaults() {
	if c.IdentityTTL == 0 {
		c.IdentityTTL = MaxIdentityTTL
	}
}

// IsZero reports whether nothing can be signed.
func (c *Config) IsZero() bool { return c.Issuer == "" && len(c.Keys) == 0 }

// Check reports all that is wrong with the block, each with its field. It shows no key.
func (c *Config) Check(report func(path, message, suggestion string)) {
	c.read(report)
}

// read returns the keys that are good, and reports what is wrong.
func (c *Config) read(report func(path, message, suggestion string)) []key {
	d := *c
	d.SetDefaults()
	if d.IdentityTTL < minIdentityTTL || d.IdentityTTL > MaxIdentityTTL {
		report("identity_ttl", fmt.Sprintf("is %s; %s to %s are accepted", d.IdentityTTL, minIdentityTTL, MaxIdentityTTL), "leave it out for 5m")
	}
	if c.IsZero() {
		return nil
	}
	if fault := issuerFault(c.Issuer); fault != "" {
		report("issuer", fault, "write the URL under which Postern is known, such as https://auth.example.com")
	}
	switch n := len(c.Keys); {
	case n == 0:
		report("keys", "is empty, so that nothing can be signed", "make a key with `openssl genpkey -algorithm ed25519 -out signing.pem`")
	case n > maxKeys:
		report("keys", fmt.Sprintf("has %d items; at most %d are accepted", n, maxKeys), "remove those whose tokens have ended")
		return nil
	}
	var keys []key
	for i := range c.Keys {
		at := fmt.Sprintf("keys[%d].", i)
		k, fault := readKey(&c.Keys[i], keys)
		if fault != nil {
			report(at+fault.field, fault.message, fault.suggestion)
			continue
		}
		keys = append(keys, k)
	}
	return keys
}

// issuerFault says what is wrong with an issuer, or "". Plain http is for trying things
// out on one machine.
func issuerFault(text string) string {
	u, err := url.Parse(text)
	switch {
	case text == "":
		return "is missing"
	case len(text) > maxIssuer:
		return fmt.Sprintf("has %d bytes; at most %d are accepted", len(text), maxIssuer)
	case err != nil || u.Host == "" || u.Opaque != "" || u.User != nil || strings.ContainsAny(text, "?# "):
		return "is not a URL of a scheme, a host and perhaps a path"
	case u.Scheme != "https" && (u.Scheme != "http" || !isLocal(u.Hostname())):
		return "does not begin with https://"
	}
	return ""
}

func isLocal(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}

// Deps are what a Signer takes from outside. Zero fields are the real things.
type Deps struct {
	// Random makes the ids of tokens; crypto/rand.Reader by default.
	Random io.Reader
}

// Signer signs with the keys of one configuration. It is immutable, and safe for
// concurrent use. Nil has no keys: it signs nothing, and its key set is empty.
type Signer struct {
	issuer string
	ttl    time.Duration
	keys   []key
	set    []byte
	random io.Reader
}

// New returns a Signer, or nil without an error if the configuration is empty. The
// error lists all that is wrong, and shows no key.
func New(cfg Config, deps Deps) (*Signer, error) {
	var faults []error
	keys := cfg.read(func(path, message, suggestion string) {
		faults = append(faults, fmt.Errorf("signing.%s %s: %s", path, message, suggestion))
	})
	switch {
	case len(faults) > 0:
		return nil, errors.Join(faults...)
	case cfg.IsZero():
		return nil, nil
	}
	cfg.SetDefaults()
	if deps.Random == nil {
		deps.Random = rand.Reader
	}
	return &Signer{issuer: cfg.Issuer, ttl: cfg.IdentityTTL, keys: keys, set: keySet(keys), random: deps.Random}, nil
}

// Issuer is the claim iss of what is signed here; empty for nil.
func (s *Signer) Issuer() string {
	if s == nil {
		return ""
	}
	return s.issuer
}

// Sign returns the compact JWS of claims, a JSON object, with the header's typ. Typ is
// one of our own words, such as TypePAT.
func (s *Signer) Sign(typ string, claims []byte) string {
	k := &s.keys[0]
	text := make([]byte, 0, headLen(k.id, typ)+1+b64.EncodedLen(len(claims))+1+b64.EncodedLen(ed25519.SignatureSize))
	text = append(k.appendHead(text, typ), '.')
	text = append(b64.AppendEncode(text, claims), '.')
	return string(b64.AppendEncode(text, k.sign(text[:len(text)-1])))
}

// Heads are the texts with which tokens of a type begin, the dot included: one for each
// key. What begins otherwise was not signed here by a key that is still in force.
func (s *Signer) Heads(typ string) []string {
	if s == nil {
		return nil
	}
	heads := make([]string, len(s.keys))
	for i := range s.keys {
		heads[i] = string(append(s.keys[i].appendHead(nil, typ), '.'))
	}
	return heads
}

// KeySet is the JWK set (RFC 7517 section 5) of the public keys, in the order of their
// ids. It must not be changed.
func (s *Signer) KeySet() []byte {
	if s == nil {
		return emptySet
	}
	return s.set
}

var b64 = base64.RawURLEncoding

var emptySet = []byte(`{"keys":[]}`)

// keySet writes public keys (RFC 8037 section 2).
func keySet(keys []key) []byte {
	keys = slices.Clone(keys)
	slices.SortFunc(keys, func(a, b key) int { return strings.Compare(a.id, b.id) })
	b := []byte(`{"keys":[`)
	for i, k := range keys {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, `{"alg":"EdDSA","crv":"Ed25519","kid":"`...)
		b = append(b, k.id...)
		b = append(b, `","kty":"OKP","use":"sig","x":"`...)
		b = b64.AppendEncode(b, k.public)
		b = append(b, `"}`...)
	}
	return append(b, `]}`...)
}
