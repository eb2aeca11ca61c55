package registry_test

import (
	"strings"
	"testing"
	"time"

	"github.com/postern-auth/postern/server/registry"
	"github.com/postern-auth/postern/server/store"
)

func TestDenylist(t *testing.T) {
	w := newWorld(t)
	far := w.now.Add(day)
	for name, tt := range map[string]struct {
		call   registry.Call
		line   store.Denial
		reason registry.Reason
		field  string
	}{
		"nothing":          {root(), store.Denial{}, registry.InvalidField, "what"},
		"two":              {root(), store.Denial{JTI: "a", SID: "b"}, registry.InvalidField, "what"},
		"kid alone":        {root(), store.Denial{KID: "a"}, registry.InvalidField, "issuer"},
		"subject alone":    {root(), store.Denial{Subject: "a"}, registry.InvalidField, "issuer"},
		"client alone":     {root(), store.Denial{Client: "a"}, registry.InvalidField, "issuer"},
		"jti before":       {root(), store.Denial{JTI: "a", IssuedBefore: far}, registry.InvalidField, "issued_before"},
		"no fingerprint":   {root(), store.Denial{Fingerprint: "abc"}, registry.InvalidField, "fingerprint"},
		"expired":          {root(), store.Denial{JTI: "a", ExpiresAt: w.now}, registry.InvalidField, "expire_time"},
		"control":          {root(), store.Denial{JTI: "a\x00"}, registry.InvalidField, "jti"},
		"a tenant's kid":   {of("acme"), store.Denial{KID: "a", Issuer: "x"}, registry.PermissionDenied, "kid"},
		"a tenant's cert":  {of("acme"), store.Denial{Fingerprint: strings.Repeat("a", 64)}, registry.PermissionDenied, "fingerprint"},
		"of other tenant":  {of("acme"), store.Denial{OfTenant: "umbrella"}, registry.PermissionDenied, "of_tenant"},
		"of other, listed": {root(), store.Denial{Tenant: "acme", OfTenant: "umbrella"}, registry.PermissionDenied, "of_tenant"},
		"no tenant":        {root(), store.Denial{Tenant: "nobody", JTI: "a"}, registry.NotFound, ""},
	} {
		_, _, err := w.AddDenial(ctx, tt.call, tt.line)
		t.Run(name, func(t *testing.T) { w.refused(err, tt.reason, tt.field) })
	}
	for _, line := range []store.Denial{
		{JTI: "a"}, {SID: "a", ExpiresAt: far}, {KID: "a", Issuer: "https://idp"}, {Subject: "a", Issuer: "https://idp"},
		{Client: "a", Issuer: "https://idp", IssuedBefore: far}, {Agent: "a"}, {OfTenant: "acme"}, {Fingerprint: strings.Repeat("AB", 32)},
	} {
		d, change, err := w.AddDenial(ctx, root(), line)
		w.ok(err)
		timed := line.Subject != "" || line.Agent != "" || line.OfTenant != ""
		if d.By != "/root" || d.CreatedAt != w.now || d.Version != change.Number || timed != (d.IssuedBefore == w.now) || d.Fingerprint != strings.ToLower(line.Fingerprint) {
			t.Errorf("%+v", d)
		}
	}
	call := of("acme")
	call.RequestID = "deny"
	var ids []string
	for range 2 {
		mine, _, err := w.AddDenial(ctx, call, store.Denial{Subject: "x", Issuer: "https://idp"})
		w.ok(err)
		if mine.Tenant != "acme" {
			t.Errorf("%+v", mine)
		}
		ids = append(ids, mine.ID)
		w.now = w.now.Add(time.Second) // what is filled in is not part of the request
	}
	if ids[0] != ids[1] {
		t.Error("added twice")
	}
	_, err := w.RemoveDenial(ctx, of("acme"), ids[0])
	w.ok(err)
	_, err = w.RemoveDenial(ctx, of("acme"), ids[0])
	w.refused(err, registry.NotFound, "")
}
