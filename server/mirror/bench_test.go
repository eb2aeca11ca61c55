package mirror_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"runtime"
	"testing"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn"
	"github.com/postern-auth/postern/server/authn/apikey"
	"github.com/postern-auth/postern/server/mirror"
	"github.com/postern-auth/postern/server/seal"
	"github.com/postern-auth/postern/server/store"
)

// full is a store that holds n credentials of n/10 principals, and whose feed costs
// nothing but the bodies.
type full struct {
	store.Store
	n       int
	now     time.Time
	secrets []string // of every thousandth
	sums    map[int]seal.Minted
	changes int
}

func fullStore(t testing.TB, n int) *full {
	f := &full{n: n, now: time.Now(), sums: map[int]seal.Minted{}}
	ps, random := peppers(t, pepperText), rand.NewChaCha8([32]byte{1})
	for i := 0; i < n; i += max(1, n/1000) {
		m, err := seal.Mint(random, seal.Spec{Environment: "live"}, ps)
		if err != nil {
			t.Fatal(err)
		}
		f.sums[i] = m
		f.secrets = append(f.secrets, m.Secret.Reveal())
	}
	return f
}

func (f *full) record(i int) store.Record {
	var d store.Document = &store.Tenant{ID: "acme"}
	switch principals := f.n / 10; {
	case i == 0:
	case i <= principals:
		d = &store.Principal{
			Tenant: "acme", ID: fmt.Sprintf("service-%07d", i), Kind: policy.KindService, Roles: []string{"role7"},
			CreatedAt: f.now, UpdatedAt: f.now,
		}
	default:
		i -= principals + 1
		id, digest := fmt.Sprintf("%012d", i), fmt.Sprintf("hmac-sha256:v1:%064x", i+1)
		if m, ok := f.sums[i]; ok {
			id, digest = m.ID, m.Digest.String()
		}
		d = &store.Credential{
			ID: id, Type: store.APIKey, Tenant: "acme", Principal: fmt.Sprintf("service-%07d", 1+i%principals),
			Name: fmt.Sprintf("key %d", i), Environment: "live", Digest: digest, Scopes: []string{"orders.read", "orders.write"},
			CreatedAt: f.now, UpdatedAt: f.now, ExpiresAt: f.now.Add(90 * day), IssuedBy: "acme/admin",
		}
	}
	r := d.Columns()
	r.Body, _ = json.Marshal(d)
	return r
}

func (f *full) Changes(_ context.Context, after int64, limit int) (store.Batch, error) {
	f.changes++
	b := store.Batch{Epoch: "e", Next: min(after+int64(limit), int64(f.n+f.n/10+1))}
	b.Complete = b.Next == int64(f.n+f.n/10+1)
	for i := after; i < b.Next; i++ {
		r := f.record(int(i))
		r.Version = i + 1
		b.Records = append(b.Records, r)
	}
	return b, nil
}

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// K-15, T-06: verifying costs the same with a thousand keys and with a million, and
// nothing is allocated.
func BenchmarkVerify(b *testing.B) {
	for _, n := range []int{1_000, 1_000_000} {
		f := fullStore(b, n)
		ps := peppers(b, pepperText)
		before := heap()
		m := mirror.New(mirror.Config{}, f, mirror.Deps{Peppers: ps})
		if err := m.Load(context.Background()); err != nil {
			b.Fatal(err)
		}
		size := float64(heap()-before) / float64(n)
		keys, err := apikey.New(apikey.Config{Pepper: policy.NewSecret(pepperText)}, apikey.Deps{Indexes: []authn.Index{m.Credentials()}})
		if err != nil {
			b.Fatal(err)
		}
		creds := make([]authn.Credential, len(f.secrets))
		for i, secret := range f.secrets {
			creds[i] = authn.Credential{Uses: []policy.Method{policy.MethodAPIKey}, Secret: policy.NewSecret(secret)}
			if _, err := keys.Authenticate(context.Background(), &creds[i]); err != nil {
				b.Fatal(err)
			}
		}
		b.Run(fmt.Sprintf("good/%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				p, err := keys.Authenticate(context.Background(), &creds[i%len(creds)])
				if err != nil {
					b.Fatal(p, err)
				}
			}
			b.ReportMetric(size, "B/key")
		})
		b.Run(fmt.Sprintf("used/%d", n), func(b *testing.B) {
			b.ReportAllocs()
			now := time.Now()
			for i := 0; b.Loop(); i++ {
				m.Used(f.secrets[i%len(creds)][9:21], "orders", true, now)
			}
		})
		unknown := authn.Credential{Uses: creds[0].Uses, Secret: policy.NewSecret("pst_key_live_0123456789ZZ" + f.secrets[0][25:])}
		b.Run(fmt.Sprintf("unknown/%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if p, _ := keys.Authenticate(context.Background(), &unknown); p != nil {
					b.Fatal(p)
				}
			}
		})
		runtime.KeepAlive(m)
	}
}

// What loading costs a record, with decoding its JSON and without making it.
func BenchmarkLoad(b *testing.B) {
	f := fullStore(b, 100_000)
	var batches []store.Batch
	for after := int64(0); ; {
		batch, _ := f.Changes(context.Background(), after, 5000)
		batches = append(batches, batch)
		if after = batch.Next; batch.Complete {
			break
		}
	}
	ps := peppers(b, pepperText)
	b.ReportAllocs()
	for b.Loop() {
		m := mirror.New(mirror.Config{}, &recorded{batches: batches}, mirror.Deps{Peppers: ps})
		if err := m.Load(context.Background()); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(f.n), "ns/key")
}

type recorded struct {
	store.Store
	batches []store.Batch
}

func (r *recorded) Changes(context.Context, int64, int) (store.Batch, error) {
	b := r.batches[0]
	r.batches = r.batches[1:]
	return b, nil
}
