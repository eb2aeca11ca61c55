package bundle_test

import (
	"bytes"
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/postern-auth/postern/policy/bundle"
)

// BenchmarkActivate reads, verifies, compiles and puts in force a signed bundle of
// 10,000 roles.
func BenchmarkActivate(b *testing.B) {
	var roles, routes bytes.Buffer
	for i := range 10_000 {
		fmt.Fprintf(&roles, `"role%d":["things.%d.read","things.%d.write"],`, i, i, i)
	}
	for i := range 100 {
		fmt.Fprintf(&routes, `{"methods":["GET"],"path":"/things/%d/*","permission":"things.%d.read"},`, i, i)
	}
	data := fmt.Sprintf(`{"roles":{%s"none":[]},"routes":[%s{"path":"/healthz","public":true}]}`, roles.Bytes(), routes.Bytes())
	offered := make([][]byte, 8)
	for i := range offered {
		offered[i] = made{files: map[string]string{".manifest": fmt.Sprintf(`{"revision":"%d"}`, i), "data.json": data}}.signedBy(b, rsaSigner())
	}
	config, _ := fromFile(b, bundle.Verify{Keys: []bundle.Key{rsaSigner().key()}})
	config.Bundles[0].AllowRollback = true
	w := open(b, config, nil)
	n := 0
	bundle.SetFake(w.Source, func(string, time.Duration) ([]byte, string, bool, error) {
		n++
		return offered[n%len(offered)], "", false, nil
	})
	b.ReportAllocs()
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		must(b, w.Poll(context.Background()))
	}
}
