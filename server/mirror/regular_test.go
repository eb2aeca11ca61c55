package mirror

import (
	"encoding/json"
	"reflect"
	"testing"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/store"
)

// What readRegular reads is what encoding/json reads.
func agree(t *testing.T, body []byte) bool {
	// What was read before into the same memory leaves no trace.
	quick, whole := *regularCredential(), store.Credential{}
	if !readRegular(string(body), &quick) {
		return false
	}
	for _, list := range []*[]string{&quick.Roles, &quick.Scopes, &quick.Permissions} {
		if len(*list) == 0 {
			*list = nil
		}
	}
	if err := json.Unmarshal(body, &whole); err != nil {
		t.Fatalf("accepted what encoding/json refuses: %v\n%s", err, body)
	}
	if !reflect.DeepEqual(quick, whole) {
		t.Fatalf("%s\nis read as\n%+v\nand\n%+v", body, quick, whole)
	}
	return true
}

func regularCredential() *store.Credential {
	at := time.Date(2026, 3, 1, 12, 0, 0, 123456000, time.UTC)
	return &store.Credential{
		ID: "0123456789AB", Type: store.PAT, Tenant: "acme", Principal: "alice", Name: "Käse & Wein", Environment: "live",
		Format: store.JWT, Digest: "hmac-sha256:v1:00", Roles: []string{"a", "b"}, Scopes: []string{"s"}, Permissions: []string{"p:*"},
		CreatedAt: at, UpdatedAt: at, NotBefore: at, ExpiresAt: at, Period: store.Duration(time.Hour), MaxExpiresAt: at,
		Parent: "p", IssuedBy: "acme/admin",
	}
}

func TestReadRegular(t *testing.T) {
	t.Parallel()
	end := &store.Ending{At: time.Unix(0, 0).UTC()}
	for name, c := range map[string]struct {
		change func(*store.Credential)
		quick  bool
	}{
		"all that is regular": {func(c *store.Credential) { c.Name = "plain" }, true},
		"not ASCII":           {func(c *store.Credential) { c.Name = "日本" }, true},
		"little":              {func(c *store.Credential) { *c = store.Credential{ID: "x"} }, true},
		"escaped":             {func(c *store.Credential) { c.Name = `a"b` }, false},
		"escaped for HTML":    {func(*store.Credential) {}, false},
		"constraints":         {func(c *store.Credential) { c.Constraints = &policy.Constraints{Methods: []string{"GET"}} }, false},
		"metadata":            {func(c *store.Credential) { c.Metadata = map[string]any{"a": 1} }, false},
		"revoked":             {func(c *store.Credential) { c.Revoked = end }, false},
		"rotated":             {func(c *store.Credential) { c.Rotated, c.Successor = end, "s" }, false},
		"disabled":            {func(c *store.Credential) { c.Disabled = end }, false},
		"low":                 {func(c *store.Credential) { c.Low = true }, false},
	} {
		d := regularCredential()
		c.change(d)
		body, err := json.Marshal(d)
		if err != nil {
			t.Fatal(err)
		}
		if got := agree(t, body); got != c.quick {
			t.Errorf("%s: read quickly: %v\n%s", name, got, body)
		}
	}
}

// Times are read as encoding/json reads them, whatever they are.
func TestReadRegularTimes(t *testing.T) {
	t.Parallel()
	for text, quick := range map[string]bool{
		"2026-03-01T12:00:00Z":           true,
		"2026-03-28T23:59:59.123456Z":    true,
		"2026-03-01T12:00:00.1Z":         true,
		"2026-03-01T12:00:00.123456789Z": true,
		"0001-01-01T00:00:00Z":           true,
		"2026-01-31T12:00:00Z":           true,
		"2028-02-29T12:00:00Z":           true,
		"2026-03-01T12:00:00+01:00":      true,
		"2026-02-29T12:00:00Z":           false,
		"2026-02-00T12:00:00Z":           false,
		"2026-13-01T12:00:00Z":           false,
		"2026-03-01T24:00:00Z":           false,
		"2026-03-01T12:60:00Z":           false,
		"2026-03-01T12:00:60Z":           false,
		"2026-03-01T12:00:00.Z":          false,
		"2026-03-01T12:00:00,5Z":         true,
		"2026-03-01T12:00:00.5xZ":        false,
		"2026-03-01T12:00:00":            false,
		"2026-03-01 12:00:00Z":           false,
		"+026-03-01T12:00:00Z":           false,
		"Z":                              false,
		"":                               false,
	} {
		body := []byte(`{"id":"x","created_at":"` + text + `"}`)
		if got := agree(t, body); got != quick {
			t.Errorf("%q: read: %v", text, got)
		}
		if err := json.Unmarshal(body, new(store.Credential)); (err == nil) != quick {
			t.Errorf("%q: encoding/json says %v", text, err)
		}
	}
}

func FuzzReadRegular(f *testing.F) {
	for _, d := range []*store.Credential{regularCredential(), {ID: "x"}} {
		d.Name = "plain"
		body, err := json.Marshal(d)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(body)
	}
	f.Add([]byte(`{"id":"a","id":"b","roles":["x","y"],"roles":["z"]}`))
	f.Add([]byte(`{"id":"a\u0062","period":"1h"}`))
	f.Fuzz(func(t *testing.T, body []byte) { agree(t, body) })
}

// What a regular credential costs to read, in both ways.
func BenchmarkReadRegular(b *testing.B) {
	d := regularCredential()
	d.Name = "plain"
	body, err := json.Marshal(d)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("regular", func(b *testing.B) {
		b.ReportAllocs()
		var c store.Credential
		for b.Loop() {
			if !readRegular(string(body), &c) {
				b.Fatal("not regular")
			}
		}
	})
	b.Run("json", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if err := json.Unmarshal(body, new(store.Credential)); err != nil {
				b.Fatal(err)
			}
		}
	})
}
