package rig

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn/apikey"
	"github.com/postern-auth/postern/server/seal"
)

// Service is the n-th service with Role.
func Service(n int) apikey.Principal {
	return apikey.Principal{ID: fmt.Sprintf("service-%d", n), Kind: policy.KindService, Tenant: "acme", Roles: []string{Role}}
}

// WriteKeys writes the files pepper and keys.yaml into a directory, and returns n new
// keys, the i-th that of the principal who(i).
func WriteKeys(dir string, n int, who func(i int) apikey.Principal) ([]string, error) {
	pepper := make([]byte, 32)
	_, _ = rand.Read(pepper)
	secret := policy.NewSecret(Encode(pepper))
	peppers, err := apikey.NewPeppers(apikey.Config{Pepper: secret})
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, "pepper"), []byte(secret.Reveal()), 0o600); err != nil {
		return nil, err
	}
	file, err := os.OpenFile(filepath.Join(dir, "keys.yaml"), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	w := bufio.NewWriter(file)
	fmt.Fprintln(w, "keys:")
	all := make([]string, n)
	for i := range all {
		minted, err := seal.Mint(rand.Reader, seal.Spec{Environment: "live"}, peppers)
		if err != nil {
			return nil, err
		}
		key := apikey.Key{ID: minted.ID, Digest: minted.Digest, Environment: "live", Principal: who(i)}
		key.CreatedAt = time.Now().UTC().Truncate(time.Second)
		fmt.Fprint(w, key.Entry())
		all[i] = minted.Secret.Reveal()
	}
	return all, w.Flush()
}

// SigningKey makes a key that signs bundles, both parts as PEM.
func SigningKey() (private []byte, public string, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, "", err
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, "", err
	}
	known, err := x509.MarshalPKIXPublicKey(key.Public())
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}), string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: known})), err
}
