package registry_test

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/postern-auth/postern/server/registry"
	"github.com/postern-auth/postern/server/store"
)

func TestLimits(t *testing.T) {
	w := newWorld(t)
	line := func(budget, subject, tenant string, limit int64) store.Limit {
		return store.Limit{Budget: budget, Subject: subject, Tenant: tenant, Limit: limit}
	}
	read := func(want map[string]int64) {
		t.Helper()
		got, err := w.Limits(ctx)
		w.ok(err)
		if d := cmp.Diff(want, got); d != "" {
			t.Error(d)
		}
	}
	read(map[string]int64{})
	for _, l := range []store.Limit{line("a", "tenant=acme", "acme", 5), line("a", "-", "", 7), line("b", "tenant=acme", "acme", 9), line("a", "tenant=acme", "acme", 6)} {
		change, err := w.SetLimit(ctx, root(), l)
		w.ok(err)
		if change.Number == 0 {
			t.Error("nothing was changed")
		}
	}
	read(map[string]int64{"a tenant=acme": 6, "a -": 7, "b tenant=acme": 9})
	if _, err := w.SetLimit(ctx, root(), line("a", "tenant=acme", "acme", 0)); err != nil {
		t.Error(err)
	}
	if _, err := w.SetLimit(ctx, root(), line("a", "tenant=acme", "acme", 8)); err != nil {
		t.Errorf("what went cannot come back: %v", err)
	}
	read(map[string]int64{"a tenant=acme": 8, "a -": 7, "b tenant=acme": 9})
	_, err := w.SetLimit(ctx, root(), line("a", "tenant=acme", "acme", -1))
	w.refused(err, registry.InvalidField, "limit")
	_, err = w.SetLimit(ctx, of("acme"), line("a", "tenant=umbrella", "umbrella", 1))
	w.refused(err, registry.NotFound, "")
	dry := root()
	dry.ValidateOnly = true
	if _, err := w.SetLimit(ctx, dry, line("a", "-", "", 1)); err != nil {
		t.Error(err)
	}
	read(map[string]int64{"a tenant=acme": 8, "a -": 7, "b tenant=acme": 9})
}

// More than fit on a page.
func TestManyLimits(t *testing.T) {
	w := newWorld(t)
	for i := range store.MaxPage + 5 {
		_, err := w.SetLimit(ctx, root(), store.Limit{Budget: "a", Subject: fmt.Sprint("principal=", i), Limit: 1})
		w.ok(err)
	}
	if got, err := w.Limits(ctx); err != nil || len(got) != store.MaxPage+5 {
		t.Errorf("%d, %v", len(got), err)
	}
}
