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
	var quick, whole store.Credential
	if !readRegular(body, &quick) {
		return false
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
		Digest: "hmac-sha256:v1:00", Roles: []string{"a", "b"}, Scopes: []string{"s"}, Permissions: []string{"p:*"},
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
