package apikey_test

import (
	"crypto/rand"
	"testing"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn/apikey"
	"github.com/postern-auth/postern/server/seal"
)

const idp = "https://idp.example"

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func peppers(t testing.TB) *seal.Peppers {
	t.Helper()
	ps, err := apikey.NewPeppers(apikey.Config{Pepper: policy.NewSecret(pepperText)})
	if err != nil {
		t.Fatal(err)
	}
	return ps
}

func mintKey(t testing.TB, spec seal.Spec) seal.Minted {
	t.Helper()
	m, err := seal.Mint(rand.Reader, spec, peppers(t))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// keyOf is the beginning of a minted key's entry.
func keyOf(m seal.Minted) apikey.Key {
	p, _ := seal.Parse(m.Secret.Reveal())
	return apikey.Key{ID: m.ID, Digest: m.Digest, Kind: p.Kind, Environment: p.Env}
}
