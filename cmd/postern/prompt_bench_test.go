package main

import (
	"fmt"
	"strings"
	"testing"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server"
)

// BenchmarkPrompt is a warm Check of a prompt of 2 KiB, from attributes to decision: with
// its body left alone, with its body read, and with a policy besides that decides by what
// was read.
func BenchmarkPrompt(b *testing.B) {
	const (
		reads  = "models: {tiers: {mini: standard}}\ntenancy: [{body: /metadata/tenant, routes: [chat]}, {path: '/tenants/{tenant}'}]\n"
		allows = "decision := true"
		tiers  = `decision if sprintf("model:tier:%s", [input.target.tier]) in input.principal.scopes`
	)
	for _, c := range []struct{ name, targets, route, rule string }{
		{"unread", "", "", allows},
		{"read", reads, ", reads: openai", allows},
		{"read and decided", reads, ", reads: openai", tiers},
	} {
		b.Run(c.name, func(b *testing.B) {
			w := prepare(b, "shop")
			w.write(b, "policy/authz.rego", "package postern.authz\n\n"+c.rule+"\n")
			w.write(b, "postern.yaml", "version: 1\nstore: {driver: none}\napi_keys: {pepper: \"${file:pepper}\", file: keys.yaml}\n"+
				"policy: {path: policy}\n"+c.targets+"routes: [{name: chat, paths: [/v1/chat/completions]"+c.route+"}]\n")
			key := w.mint(b, order{id: "bot", tenant: "acme", scopes: []string{"model:tier:standard"}})
			cfg, err := server.LoadConfig(w.path("postern.yaml"))
			if err != nil {
				b.Fatal(err)
			}
			checker, done, err := server.Offline(b.Context(), cfg)
			if err != nil {
				b.Fatal(err)
			}
			defer done()
			body := twoKiB()
			b.ReportAllocs()
			for b.Loop() {
				a := policy.Attributes{
					Method: "POST", Scheme: "https", Host: "llm.test", Path: "/v1/chat/completions", Body: body, Size: -1,
					Headers: policy.Headers{{Name: "x-api-key", Value: key}, {Name: "content-type", Value: "application/json"}},
				}
				if d := checker.Check(b.Context(), &a); !d.Allowed {
					b.Fatal(d.Reason, d.Detail)
				}
			}
		})
	}
}

// twoKiB is a conversation of that length.
func twoKiB() []byte {
	messages := make([]string, 8)
	for i := range messages {
		messages[i] = fmt.Sprintf(`{"role":"user","content":"%d %s"}`, i, strings.Repeat("words ", 35))
	}
	return []byte(`{"model":"mini","max_tokens":500,"stream":true,"metadata":{"tenant":"acme"},"messages":[` + strings.Join(messages, ",") + `]}`)
}
