package strictyaml_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/postern-auth/postern/server/strictyaml"
)

// BenchmarkDecode reads a list as long as a large keys file.
func BenchmarkDecode(b *testing.B) {
	type key struct {
		ID      string         `yaml:"id,required"`
		Digest  string         `yaml:"digest,required"`
		Scopes  []string       `yaml:"scopes"`
		Created time.Time      `yaml:"created"`
		Meta    map[string]any `yaml:"metadata"`
	}
	var file struct {
		Keys []key `yaml:"keys"`
	}
	var src strings.Builder
	src.WriteString("keys:\n")
	for i := range 10_000 {
		fmt.Fprintf(&src, "  - id: k%012d\n    digest: v1:%064x\n    scopes: [read, write]\n    created: 2026-01-31T12:00:00Z\n    metadata: {team: billing, n: %d}\n", i, i, i)
	}
	b.SetBytes(int64(src.Len()))
	b.ReportAllocs()
	for b.Loop() {
		if err := strictyaml.Decode("keys.yaml", []byte(src.String()), &file, strictyaml.WithMaxSize(1<<30)); err != nil {
			b.Fatal(err)
		}
	}
}
