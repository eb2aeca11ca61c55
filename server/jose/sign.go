package jose

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"

	"github.com/golang-jwt/jwt/v5"
)

// SigningKey is a private key by which Postern proves itself to others. It prints as
// its algorithm.
type SigningKey struct {
	algorithm string
	method    jwt.SigningMethod
	private   crypto.Signer
}

// ParseSigningKey reads a private key in PEM: PKCS #8, or the older forms of RSA and EC
// keys. The key decides the algorithm: ES256, ES384 and ES512 by its curve, EdDSA of
// Ed25519, RS256 of RSA with 2048 bits or more. The error shows nothing of the key.
func ParseSigningKey(text []byte) (*SigningKey, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New("no private key in PEM")
	}
	private, err := parsePrivate(block)
	if err != nil {
		return nil, err
	}
	switch k := private.(type) {
	case *ecdsa.PrivateKey:
		switch k.Curve {
		case elliptic.P256():
			return &SigningKey{"ES256", jwt.SigningMethodES256, k}, nil
		case elliptic.P384():
			return &SigningKey{"ES384", jwt.SigningMethodES384, k}, nil
		case elliptic.P521():
			return &SigningKey{"ES512", jwt.SigningMethodES512, k}, nil
		}
		return nil, errors.New("the curve of the key is none of P-256, P-384 and P-521")
	case ed25519.PrivateKey:
		return &SigningKey{"EdDSA", jwt.SigningMethodEdDSA, k}, nil
	case *rsa.PrivateKey:
		if bits := k.N.BitLen(); bits < minRSABits || bits > maxRSABits {
			return nil, fmt.Errorf("the RSA key has %d bits, %d to %d are accepted", bits, minRSABits, maxRSABits)
		}
		return &SigningKey{"RS256", jwt.SigningMethodRS256, k}, nil
	}
	return nil, errors.New("the key is none of EC, Ed25519 and RSA")
}

func parsePrivate(block *pem.Block) (any, error) {
	var private any
	var err error
	switch block.Type {
	case "PRIVATE KEY":
		private, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	case "EC PRIVATE KEY":
		private, err = x509.ParseECPrivateKey(block.Bytes)
	case "RSA PRIVATE KEY":
		private, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	case "ENCRYPTED PRIVATE KEY":
		return nil, errors.New("the key is encrypted: decrypt it with `openssl pkcs8`")
	default:
		return nil, errors.New("the first block of the PEM is no private key")
	}
	if err != nil {
		return nil, errors.New("the private key cannot be read")
	}
	return private, nil
}

// Algorithm is the one that it signs with, as in the header alg.
func (k *SigningKey) Algorithm() string { return k.algorithm }

// Format implements fmt.Formatter for every verb: the algorithm, never the key.
func (k *SigningKey) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, k.algorithm) }

// Public returns the public half.
func (k *SigningKey) Public() crypto.PublicKey { return k.private.Public() }

// Sign returns the compact JWS (RFC 7515 section 7.1) of the claims as JSON. An empty
// typ or kid is left out of the header.
func (k *SigningKey) Sign(typ, kid string, claims any) (string, error) {
	header, err := json.Marshal(struct {
		Algorithm string `json:"alg"`
		Type      string `json:"typ,omitempty"`
		KeyID     string `json:"kid,omitempty"`
	}{k.algorithm, typ, kid})
	if err != nil {
		return "", err
	}
	payload, err := json.Marshal(claims)
	if err != nil {
		return "", err
	}
	signed := base64.RawURLEncoding.EncodeToString(header) + "." + base64.RawURLEncoding.EncodeToString(payload)
	signature, err := k.method.Sign(signed, k.private)
	if err != nil {
		return "", fmt.Errorf("signing: %w", err)
	}
	return signed + "." + base64.RawURLEncoding.EncodeToString(signature), nil
}
