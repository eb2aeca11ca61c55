package target_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/postern-auth/postern/policy"
)

// BenchmarkRead is the reading alone: of a conversation of 2 KiB, of the call of a tool,
// of a path with a tenant, and where nothing is read.
func BenchmarkRead(b *testing.B) {
	c := config()
	c.Tenancy = tenancy().Tenancy[:1]
	r := newReader(b, c)
	message := fmt.Sprintf(`{"role":"user","content":"%s"}`, strings.Repeat("words ", 36))
	for _, bench := range []struct{ name, route, path, body string }{
		{"openai", "openai", "/v1/chat/completions", `{"model":"mini","max_tokens":500,"stream":true,"messages":[` + strings.Repeat(message+",", 7) + message + `]}`},
		{"mcp", "mcp", "/mcp", `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"search","arguments":{"q":"words","limit":10}}}`},
		{"path", "orders", "/tenants/acme/orders", ""},
		{"nothing", "orders", "/orders", ""},
	} {
		b.Run(bench.name, func(b *testing.B) {
			a, route := post(bench.path, bench.body), &policy.Route{Name: bench.route}
			var q policy.Request
			if err := requests.Read(a, &q); err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := r.Read(a, &q, route); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
