package signer

import (
	"bytes"
	"crypto/ed25519"
	"crypto/subtle"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"strings"
)

// key is a signing key. Its id needs no escaping anywhere.
type key struct {
	id     string
	public ed25519.PublicKey
	// sign holds the private half. Of a function nothing can be printed.
	sign func(text []byte) (signature []byte)
}

// keyFault is what is wrong with one key of a configuration.
type keyFault struct{ field, message, suggestion string }

func readKey(c *KeyConfig, others []key) (key, *keyFault) {
	if !isKeyID(c.ID) {
		return key{}, &keyFault{"id", "is not a name for a key", fmt.Sprintf(`use at most %d letters, digits, ".", "_" and "-"`, maxKeyID)}
	}
	private, fault := readPrivate(c.Key.Reveal())
	if fault != "" {
		return key{}, &keyFault{"key", fault, howToMake}
	}
	k := key{
		id: c.ID, public: private.Public().(ed25519.PublicKey),
		sign: func(text []byte) []byte { return ed25519.Sign(private, text) },
	}
	for i := range others {
		switch other := &others[i]; {
		case other.id == k.id:
			return key{}, &keyFault{"id", "is the id of another key too", "a key set with two of one id is refused: choose another"}
		case bytes.Equal(other.public, k.public):
			return key{}, &keyFault{"key", "is the same as that of " + other.id, "one id is enough for a key"}
		}
	}
	return k, nil
}

const howToMake = "make one with `openssl genpkey -algorithm ed25519`, or `openssl rand -hex 32`; the value is not shown"

// isKeyID accepts what may name a key.
func isKeyID(id string) bool {
	for i := range len(id) {
		c := id[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '.' && c != '_' && c != '-' {
			return false
		}
	}
	return id != "" && len(id) <= maxKeyID
}

// readPrivate reads a key in one of its three forms. Their lengths tell them apart, so
// that a text has one reading. What is wrong is said without a part of the text.
func readPrivate(text string) (private ed25519.PrivateKey, fault string) {
	text = strings.TrimSpace(text)
	var seed []byte
	var err error
	switch {
	case text == "":
		return nil, "is missing"
	case strings.HasPrefix(text, "-----BEGIN "):
		return readPEM(text)
	case len(text) == hex.EncodedLen(ed25519.SeedSize):
		seed, err = hex.DecodeString(text)
	case len(text) == b64.EncodedLen(ed25519.SeedSize):
		seed, err = base64.RawURLEncoding.Strict().DecodeString(text)
	default:
		return nil, "is neither an Ed25519 key in PEM (PKCS#8), nor 32 bytes in hex or base64url"
	}
	if err != nil || len(seed) != ed25519.SeedSize {
		return nil, "has the length of 32 bytes in hex or base64url, and other characters in it"
	}
	return checked(ed25519.NewKeyFromSeed(seed))
}

func readPEM(text string) (ed25519.PrivateKey, string) {
	block, rest := pem.Decode([]byte(text))
	switch {
	case block == nil:
		return nil, "is damaged PEM"
	case len(bytes.TrimSpace(rest)) > 0:
		return nil, "holds more than one PEM block"
	case block.Type == "ENCRYPTED PRIVATE KEY":
		return nil, "is encrypted"
	case block.Type != "PRIVATE KEY":
		return nil, "is not a private key in PKCS#8"
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, "is not a private key in PKCS#8"
	}
	private, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		return nil, "is a key of another kind than Ed25519"
	}
	return checked(private)
}

// published are public keys whose private halves stand in RFC 8032 section 7.1 (the
// first is that of RFC 8037 appendix A too).
var published = []string{
	"d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
	"3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
	"fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
}

// checked refuses keys that anybody can guess.
func checked(private ed25519.PrivateKey) (ed25519.PrivateKey, string) {
	seed := private.Seed()
	if subtle.ConstantTimeCompare(seed, bytes.Repeat(seed[:1], len(seed))) == 1 {
		return nil, "repeats one byte"
	}
	public := hex.EncodeToString(private.Public().(ed25519.PublicKey))
	for _, known := range published {
		if public == known {
			return nil, "stands in a published example, where everybody can read it"
		}
	}
	return private, ""
}

const (
	headAlg = `{"alg":"EdDSA","kid":"`
	headTyp = `","typ":"`
	headEnd = `"}`
)

func headLen(id, typ string) int {
	return b64.EncodedLen(len(headAlg) + len(id) + len(headTyp) + len(typ) + len(headEnd))
}

// appendHead appends the encoded header. Neither id nor typ needs escaping.
func (k *key) appendHead(text []byte, typ string) []byte {
	var room [len(headAlg) + maxKeyID + len(headTyp) + 64 + len(headEnd)]byte
	head := append(room[:0], headAlg...)
	head = append(head, k.id...)
	head = append(head, headTyp...)
	head = append(head, typ...)
	head = append(head, headEnd...)
	return b64.AppendEncode(text, head)
}
