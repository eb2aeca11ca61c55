package apikey

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/seal"
)

// manyEntries is a keys file of n entries as they are minted, each of which a
// test may change.
func manyEntries(t testing.TB, n int, change func(i int, k *Key)) []byte {
	t.Helper()
	random, ps := seeded("many entries"), testPeppers(t)
	var b bytes.Buffer
	b.WriteString("keys:\n")
	for i := range n {
		m, err := seal.Mint(random, seal.Spec{Environment: "live"}, ps)
		if err != nil {
			t.Fatal(err)
		}
		k := Key{ID: m.ID, Digest: m.Digest, Environment: "live"}
		k.Principal = Principal{ID: fmt.Sprintf("service-%d", i), Kind: policy.KindService, Tenant: "acme", Roles: []string{"role7"}}
		k.CreatedAt = time.Date(2026, 1, 15, 9, 0, 0, 0, time.UTC)
		change(i, &k)
		b.WriteString(k.Entry())
	}
	return b.Bytes()
}

// Loading costs the same for each key, and little when most are alike.
func BenchmarkLoad(b *testing.B) {
	const n = 20_000
	l := limits{peppers: testPeppers(b), maxAge: defaultMaxAge}
	for _, c := range []struct {
		name    string
		change  func(i int, k *Key)
		replace string
	}{
		{name: "alike", change: func(int, *Key) {}},
		{name: "all different", change: func(i int, k *Key) {
			k.Name, k.Principal.Tenant = fmt.Sprintf("Key %d", i), fmt.Sprintf("tenant %d", i)
			k.Principal.Metadata = map[string]any{"n": i, "plan": "pro"}
			k.Constraints = &policy.Constraints{Methods: []string{"GET"}, Resources: []string{fmt.Sprintf("tenant:%d", i)}}
		}},
		{name: "by hand", change: func(int, *Key) {}, replace: "role7"},
	} {
		src := manyEntries(b, n, c.change)
		if c.replace != "" {
			src = bytes.ReplaceAll(src, []byte(`"`+c.replace+`"`), []byte(c.replace))
		}
		b.Run(c.name, func(b *testing.B) {
			b.SetBytes(int64(len(src)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := loadKeysFile("keys.yaml", src, seal.DefaultPrefix, l, len(src)); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/key")
		})
	}
}
