package rego_test

import (
	"encoding/json"
	"fmt"
	"testing"
	"testing/fstest"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/policy/rego"
)

// tables returns RBAC data of n roles with eight permissions and routes each.
func tables(tb testing.TB, n int) fstest.MapFS {
	tb.Helper()
	roles, routes := map[string]any{}, []any{}
	for i := range n {
		var permissions []string
		for j := range 8 {
			p := fmt.Sprintf("svc%d.res%d.read", i, j)
			permissions = append(permissions, p)
			routes = append(routes, map[string]any{"methods": []string{"GET"}, "path": fmt.Sprintf("/svc%d/res%d/*", i, j), "permission": p})
		}
		roles[fmt.Sprint("role", i)] = permissions
	}
	data, err := json.Marshal(map[string]any{"roles": roles, "routes": routes})
	if err != nil {
		tb.Fatal(err)
	}
	return fstest.MapFS{"tables.json": {Data: data}}
}

func rbacInput(n int) *policy.Input {
	return input(func(in *policy.Input) {
		in.Principal.Roles = []string{"role0", fmt.Sprint("role", n/2)}
		in.Request.Path = fmt.Sprintf("/svc%d/res5/1", n/2)
	})
}

// A deny that is not cached pays for its explanation.
func BenchmarkDeny(b *testing.B) {
	s := compile(b, tables(b, 10), rego.Config{Timeout: time.Second, Cache: rego.CacheConfig{Size: -1}})
	in := rbacInput(10)
	in.Principal.Roles = nil
	b.ReportAllocs()
	for b.Loop() {
		if v, _, err := s.Decide(b.Context(), in); err != nil || v.Allow || v.Line == 0 {
			b.Fatal(v, err)
		}
	}
}

// One activation of a large table, from the files to a snapshot.
func BenchmarkActivate(b *testing.B) {
	fsys := tables(b, 10_000)
	for b.Loop() {
		compile(b, fsys, rego.Config{})
	}
}
