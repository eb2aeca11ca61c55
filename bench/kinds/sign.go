package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"

	"github.com/postern-auth/postern/bench/rig"
)

// claims are those of a token, or of a header.
type claims map[string]any

// signer signs JWTs with one key.
type signer struct {
	alg, kid string
	key      crypto.Signer
}

func newSigner(alg, kid string) (s signer) {
	var err error
	s.alg, s.kid = alg, kid
	switch alg {
	case "RS256":
		s.key, err = rsa.GenerateKey(rand.Reader, 2048)
	case "ES256":
		s.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "EdDSA":
		_, s.key, err = ed25519.GenerateKey(rand.Reader)
	default:
		panic(alg)
	}
	if err != nil {
		panic(err) // there is no randomness
	}
	return s
}

// jwk is the public key.
func (s signer) jwk() claims {
	switch k := s.key.Public().(type) {
	case *rsa.PublicKey:
		return claims{"kty": "RSA", "n": rig.Encode(k.N.Bytes()), "e": rig.Encode(big.NewInt(int64(k.E)).Bytes())}
	case *ecdsa.PublicKey:
		point, err := k.Bytes()
		if err != nil {
			panic(err)
		}
		return claims{"kty": "EC", "crv": "P-256", "x": rig.Encode(point[1:33]), "y": rig.Encode(point[33:])}
	case ed25519.PublicKey:
		return claims{"kty": "OKP", "crv": "Ed25519", "x": rig.Encode(k)}
	}
	panic("no such key")
}

// thumbprint is that of RFC 7638; encoding/json sorts the members as it wants them.
func (s signer) thumbprint() string { return digest(encode(s.jwk())) }

func digest(text []byte) string {
	sum := sha256.Sum256(text)
	return rig.Encode(sum[:])
}

// keySet is a JWK Set of their keys, for a use.
func keySet(use string, all ...signer) []byte {
	keys := make([]claims, len(all))
	for i, s := range all {
		keys[i] = s.jwk()
		keys[i]["kid"], keys[i]["use"] = s.kid, use
		if use == "sig" {
			keys[i]["alg"] = s.alg
		}
	}
	return encode(claims{"keys": keys})
}

func encode(v any) []byte {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return text
}

// sign makes a JWS of a header, to which the algorithm is added, and claims.
func (s signer) sign(header, body claims) string {
	header["alg"] = s.alg
	text := rig.Encode(encode(header)) + "." + rig.Encode(encode(body))
	sum := sha256.Sum256([]byte(text))
	var signature []byte
	var err error
	switch k := s.key.(type) {
	case *rsa.PrivateKey:
		signature, err = rsa.SignPKCS1v15(rand.Reader, k, crypto.SHA256, sum[:])
	case *ecdsa.PrivateKey:
		signature = make([]byte, 64) // r and s, RFC 7518 section 3.4
		a, b, bad := ecdsa.Sign(rand.Reader, k, sum[:])
		if err = bad; err == nil {
			a.FillBytes(signature[:32])
			b.FillBytes(signature[32:])
		}
	case ed25519.PrivateKey:
		signature = ed25519.Sign(k, []byte(text))
	}
	if err != nil {
		panic(err)
	}
	return text + "." + rig.Encode(signature)
}

// authority issues certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	n    atomic.Int64
}

func newAuthority() (*authority, error) {
	a := &authority{key: newSigner("ES256", "").key.(*ecdsa.PrivateKey)}
	der, err := a.sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: "the CA of the benchmark"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}, &a.key.PublicKey)
	if err != nil {
		return nil, err
	}
	a.cert, err = x509.ParseCertificate(der)
	return a, err
}

func (a *authority) sign(template *x509.Certificate, public *ecdsa.PublicKey) ([]byte, error) {

	template.SerialNumber = big.NewInt(a.n.Add(1))
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	by := a.cert
	if by == nil {
		by = template
	}
	return x509.CreateCertificate(rand.Reader, template, by, public, a.key)
}

// pem is the authority's own certificate.
func (a *authority) pem() []byte { return certPEM(a.cert.Raw) }

func certPEM(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// workload issues a client certificate for a SPIFFE id.
func (a *authority) workload(id string) ([]byte, error) {
	uri, err := url.Parse(id)
	if err != nil {
		return nil, err
	}
	key := newSigner("ES256", "").key.(*ecdsa.PrivateKey)
	return a.sign(&x509.Certificate{
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, URIs: []*url.URL{uri},
	}, &key.PublicKey)
}

// serve serves a handler over TLS on loopback, and returns its URL.
func (a *authority) serve(h http.Handler) (*http.Server, string, error) {
	key := newSigner("ES256", "").key.(*ecdsa.PrivateKey)
	der, err := a.sign(&x509.Certificate{
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}, &key.PublicKey)
	if err != nil {
		return nil, "", err
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, NextProtos: []string{"h2", "http/1.1"}, MinVersion: tls.VersionTLS12,
	})
	if err != nil {
		return nil, "", err
	}
	s := &http.Server{Handler: h, ReadHeaderTimeout: time.Minute}
	go func() { _ = s.Serve(l) }()
	return s, fmt.Sprintf("https://%s", l.Addr()), nil
}
