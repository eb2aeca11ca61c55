package server

import (
	"context"
	"crypto/rand"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn/apikey"
	"github.com/postern-auth/postern/server/seal"
)

// BenchmarkSpend is a warm Check by API key in the whole server, from attributes to
// decision, without limits, with a rate, with a budget, and with a budget that reserves.
func BenchmarkSpend(b *testing.B) {
	for _, c := range []struct{ name, sections string }{
		{"none", ""},
		{"rate", "rates: [{name: r, limit: 1000000000}]\n"},
		{"requests", "budgets: [{name: b, limit: 9007199254740992, per: [tenant, principal]}]\n"},
		{"tokens", "budgets: [{name: b, unit: tokens, limit: 9007199254740992, per: [tenant, principal], default_cost: 10}]\nroutes: [{name: all}]\n"},
		{"hierarchy", "budgets: [{name: a, limit: 9007199254740992}, {name: b, limit: 9007199254740992, per: [tenant]}, {name: c, limit: 9007199254740992, per: [key], window: day}]\n"},
	} {
		b.Run(c.name, func(b *testing.B) { benchmarkSpend(b, c.sections) })
	}
}

func benchmarkSpend(b *testing.B, sections string) {
	dir := b.TempDir()
	write := func(name, text string) {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700); err != nil {
			b.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			b.Fatal(err)
		}
	}
	pepper := "a pepper for benchmarks, of more than 32 bytes"
	key, entry := spendKey(b, pepper)
	write("pepper", pepper)
	write("keys.yaml", entry)
	write("policy/data.yaml", "roles: {reader: [things.read]}\nroutes: [{methods: [GET], path: /things/*, permission: things.read}]\n")
	write("postern.yaml", "version: 1\nlisten: {grpc: \"127.0.0.1:0\", admin: \"off\"}\nstore: {driver: memory}\napi_keys: {pepper: \"${file:pepper}\", file: keys.yaml}\npolicy: {path: policy}\n"+sections)
	s, err := New(b.Context(), Options{
		Load:   func() (*Config, error) { return LoadConfig(filepath.Join(dir, "postern.yaml")) },
		Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
	})
	if err != nil {
		b.Fatal(err)
	}
	ctx, stop := context.WithCancel(b.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	defer func() { stop(); <-ended; _ = s.Close() }()
	a := &policy.Attributes{
		Door: "grpc", Method: "GET", Scheme: "https", Host: "api.test", Path: "/things/1", Size: -1,
		Headers: policy.Headers{{Name: "x-api-key", Value: key}},
	}
	for range 1000 { // the first ones ask the store
		if d := s.live.Check(ctx, a); !d.Allowed {
			b.Fatal(d.Reason, d.Detail)
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		if d := s.live.Check(ctx, a); !d.Allowed {
			b.Fatal(d.Reason, d.Detail)
		}
	}
}

// spendKey makes a key and the file with its entry.
func spendKey(b *testing.B, pepper string) (key, file string) {
	b.Helper()
	peppers, err := seal.NewPeppers([]seal.Pepper{{Version: 1, Secret: policy.NewSecret(pepper)}})
	if err != nil {
		b.Fatal(err)
	}
	minted, err := seal.Mint(rand.Reader, seal.Spec{Prefix: "pst", Kind: seal.KindKey}, peppers)
	if err != nil {
		b.Fatal(err)
	}
	now := time.Now().UTC().Truncate(time.Second)
	entry := apikey.Key{ID: minted.ID, Digest: minted.Digest, Kind: seal.KindKey, CreatedAt: now, ExpiresAt: now.Add(time.Hour)}
	entry.Principal = apikey.Principal{ID: "ann", Kind: policy.KindUser, Tenant: "acme", Roles: []string{"reader"}}
	return minted.Secret.Reveal(), "keys:\n" + entry.Entry()
}
