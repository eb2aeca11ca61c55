package apikey_test

import (
	"testing"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn"
	"github.com/postern-auth/postern/server/authn/apikey"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

const idp, other = "https://idp.example", "https://other.example"

// J-09
func TestDenylist(t *testing.T) {
	d, err := apikey.NewDenylist([]apikey.Revocation{
		{JTI: "t1"}, {JTI: "t2", Issuer: idp}, {SID: "s1"}, {KID: "k1", Issuer: idp},
		{Subject: "alice", Issuer: idp, IssuedBefore: noon},
		{Subject: "alice", Issuer: idp, IssuedBefore: noon.Add(-time.Hour)},
		{Client: "app", Issuer: idp, IssuedBefore: noon},
		{Tenant: "acme", IssuedBefore: noon}, {Tenant: "hooli", Issuer: idp, IssuedBefore: noon},
	})
	if err != nil {
		t.Fatal(err)
	}
	if d.Len() != 9 {
		t.Errorf("%d revocations", d.Len())
	}
	before, after := noon.Add(-time.Nanosecond), noon.Add(time.Nanosecond)
	for _, c := range []struct {
		name string
		s    authn.Subject
		want bool
	}{
		{"nothing", authn.Subject{}, false},
		{"by jti, any issuer", authn.Subject{TokenID: "t1", Issuer: other}, true},
		{"by jti of the issuer", authn.Subject{TokenID: "t2", Issuer: idp}, true},
		{"same jti of another issuer", authn.Subject{TokenID: "t2", Issuer: other}, false},
		{"same jti without issuer", authn.Subject{TokenID: "t2"}, false},
		{"another jti", authn.Subject{TokenID: "t3", Issuer: idp}, false},
		{"jti as sid", authn.Subject{SessionID: "t1"}, false},
		{"by sid", authn.Subject{TokenID: "x", SessionID: "s1", Issuer: idp}, true},
		{"by kid", authn.Subject{TokenID: "x", KeyID: "k1", Issuer: idp}, true},
		{"same kid of another issuer", authn.Subject{KeyID: "k1", Issuer: other}, false},
		{"subject before", authn.Subject{ID: "alice", Issuer: idp, IssuedAt: before}, true},
		{"subject at the instant", authn.Subject{ID: "alice", Issuer: idp, IssuedAt: noon}, false},
		{"subject after", authn.Subject{ID: "alice", Issuer: idp, IssuedAt: after}, false},
		{"subject that says no time", authn.Subject{ID: "alice", Issuer: idp}, true},
		{"same subject of another issuer", authn.Subject{ID: "alice", Issuer: other, IssuedAt: before}, false},
		{"another subject", authn.Subject{ID: "alicia", Issuer: idp, IssuedAt: before}, false},
		{"client before", authn.Subject{ID: "bob", Client: "app", Issuer: idp, IssuedAt: before}, true},
		{"client after", authn.Subject{ID: "bob", Client: "app", Issuer: idp, IssuedAt: after}, false},
		{"tenant before, any issuer", authn.Subject{ID: "bob", Tenant: "acme", Issuer: other, IssuedAt: before}, true},
		{"tenant after", authn.Subject{ID: "bob", Tenant: "acme", Issuer: other, IssuedAt: after}, false},
		{"tenant of the issuer", authn.Subject{Tenant: "hooli", Issuer: idp, IssuedAt: before}, true},
		{"tenant of another issuer", authn.Subject{Tenant: "hooli", Issuer: other, IssuedAt: before}, false},
		{"split between issuer and name", authn.Subject{ID: "ealice", Issuer: "https://idp.exampl", IssuedAt: before}, false},
	} {
		reason, got := d.Revoked(&c.s)
		if got != c.want || got != (reason == policy.ReasonRevoked) {
			t.Errorf("%s: %v, %v, want %v", c.name, got, reason, c.want)
		}
		if n := testing.AllocsPerRun(10, func() { d.Revoked(&c.s) }); n != 0 {
			t.Errorf("%s: %v allocations", c.name, n)
		}
	}
}

// J-09: without revocations, nothing is revoked and nothing is allocated.
func TestEmptyDenylist(t *testing.T) {
	d, err := apikey.NewDenylist(nil)
	if err != nil || d.Len() != 0 {
		t.Fatal(d.Len(), err)
	}
	s := &authn.Subject{TokenID: "t", SessionID: "s", KeyID: "k", Issuer: "i", ID: "a", Client: "c", Tenant: "t"}
	if _, revoked := d.Revoked(s); revoked {
		t.Error("the empty denylist revokes")
	}
	if n := testing.AllocsPerRun(10, func() { d.Revoked(s) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestDenylistRefuses(t *testing.T) {
	t.Parallel()
	for name, r := range map[string]apikey.Revocation{
		"nothing":                 {},
		"only an issuer":          {Issuer: idp},
		"only a time":             {IssuedBefore: noon},
		"two names":               {JTI: "a", SID: "b"},
		"kid without issuer":      {KID: "a"},
		"subject without issuer":  {Subject: "a", IssuedBefore: noon},
		"client without issuer":   {Client: "a", IssuedBefore: noon},
		"subject without time":    {Subject: "a", Issuer: idp},
		"tenant without time":     {Tenant: "a"},
		"jti with time":           {JTI: "a", IssuedBefore: noon},
		"subject and its client":  {Subject: "a", Client: "b", Issuer: idp, IssuedBefore: noon},
		"kid with a time as well": {KID: "a", Issuer: idp, IssuedBefore: noon},
	} {
		if _, err := apikey.NewDenylist([]apikey.Revocation{{JTI: "good"}, r}); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
