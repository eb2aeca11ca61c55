package authn_test

import (
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

const idp, other = "https://idp.example", "https://other.example"

func fill(t *testing.T, lines []authn.Revocation) *authn.Denylist {
	t.Helper()
	d := authn.NewDenylist()
	for i := range lines {
		if err := d.Fill(strconv.Itoa(i), &lines[i]); err != nil {
			t.Fatal(err)
		}
	}
	return d
}

// J-09
func TestDenylist(t *testing.T) {
	fp := strings.Repeat("0a", 32)
	d := fill(t, []authn.Revocation{
		{JTI: "t1"}, {JTI: "t2", Issuer: idp}, {SID: "s1"}, {KID: "k1", Issuer: idp}, {Fingerprint: fp},
		{Subject: "alice", Issuer: idp, IssuedBefore: noon},
		{Subject: "alice", Issuer: idp, IssuedBefore: noon.Add(-time.Hour)},
		{Client: "app", Issuer: idp, IssuedBefore: noon}, {Agent: "bot", IssuedBefore: noon},
		{Tenant: "acme", IssuedBefore: noon}, {Tenant: "hooli", Issuer: idp, IssuedBefore: noon},
	})
	if d.Len() != 11 {
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
		{"agent before", authn.Subject{ID: "bob", Agent: "bot", Issuer: other, IssuedAt: before}, true},
		{"agent after", authn.Subject{ID: "bob", Agent: "bot", IssuedAt: after}, false},
		{"agent as subject", authn.Subject{ID: "bot", Issuer: idp, IssuedAt: before}, false},
		{"by fingerprint", authn.Subject{Fingerprint: fp, IssuedAt: after}, true},
		{"another fingerprint", authn.Subject{Fingerprint: fp[2:] + "0b"}, false},
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
	for _, d := range []*authn.Denylist{nil, authn.NewDenylist()} {
		if d.Len() != 0 {
			t.Fatal(d.Len())
		}
		s := &authn.Subject{TokenID: "t", SessionID: "s", KeyID: "k", Fingerprint: "f", Issuer: "i", ID: "a", Client: "c", Agent: "b", Tenant: "t"}
		if _, revoked := d.Revoked(s); revoked {
			t.Error("the empty denylist revokes")
		}
		if n := testing.AllocsPerRun(10, func() { d.Revoked(s) }); n != 0 {
			t.Errorf("%v allocations", n)
		}
	}
}

func TestDenylistRefuses(t *testing.T) {
	t.Parallel()
	for name, r := range map[string]authn.Revocation{
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
		"agent without time":      {Agent: "a"},
		"a name as fingerprint":   {Fingerprint: "cert"},
		"upper-case fingerprint":  {Fingerprint: strings.Repeat("0A", 32)},
		"kid with a time as well": {KID: "a", Issuer: idp, IssuedBefore: noon},
	} {
		d := fill(t, []authn.Revocation{{JTI: "good"}})
		if d.Set("bad", &r) == nil || d.Fill("bad", &r) == nil || d.Len() != 1 {
			t.Errorf("%s: accepted", name)
		}
		if d.Set("0", &r) == nil {
			t.Errorf("%s: accepted in place of a good one", name)
		}
		if _, revoked := d.Revoked(&authn.Subject{TokenID: "good"}); !revoked {
			t.Errorf("%s: a bad line drove out a good one", name)
		}
	}
}

// J-09: a line of a tenant reaches nobody else's credentials.
func TestDenylistWithinTenant(t *testing.T) {
	t.Parallel()
	d := fill(t, []authn.Revocation{{JTI: "t", Within: "acme"}, {Subject: "alice", Issuer: idp, IssuedBefore: noon, Within: "acme"}})
	for _, s := range []authn.Subject{{TokenID: "t"}, {ID: "alice", Issuer: idp}} {
		for tenant, want := range map[string]bool{"acme": true, "hooli": false, "": false} {
			s.Tenant = tenant
			if _, got := d.Revoked(&s); got != want {
				t.Errorf("%+v: %v", s, got)
			}
		}
	}
}

// J-09: whatever lines come, change and go, exactly those that are there count.
func TestDenylistChanges(t *testing.T) {
	t.Parallel()
	names := rapid.SampledFrom([]string{"a", "b"})
	rapid.Check(t, func(t *rapid.T) {
		d, lines := authn.NewDenylist(), map[string]authn.Revocation{}
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			line := rapid.SampledFrom([]string{"1", "2", "3"}).Draw(t, "line")
			var r authn.Revocation
			switch name := names.Draw(t, "name"); rapid.IntRange(0, 4).Draw(t, "what") {
			case 0:
				d.Remove(line)
				delete(lines, line)
				continue
			case 1:
				r = authn.Revocation{JTI: name}
			case 2:
				r = authn.Revocation{SID: name, Issuer: idp}
			default:
				r = authn.Revocation{Subject: name, Issuer: idp, IssuedBefore: noon.Add(time.Duration(rapid.IntRange(0, 3).Draw(t, "hours")) * time.Hour)}
			}
			set := d.Set
			if rapid.Bool().Draw(t, "fill") {
				set = d.Fill
			}
			if err := set(line, &r); err != nil {
				t.Fatal(err)
			}
			lines[line] = r
		}
		if d.Len() != len(lines) {
			t.Fatalf("%d lines, want %d", d.Len(), len(lines))
		}
		s := authn.Subject{TokenID: names.Draw(t, "jti"), SessionID: names.Draw(t, "sid"), ID: names.Draw(t, "sub"), Issuer: idp, IssuedAt: noon.Add(time.Hour)}
		want := false
		for _, r := range lines {
			want = want || r.JTI == s.TokenID || r.SID == s.SessionID || r.Subject == s.ID && s.IssuedAt.Before(r.IssuedBefore)
		}
		if _, got := d.Revoked(&s); got != want {
			t.Fatalf("%+v in %+v: %v", s, lines, got)
		}
	})
}

// A line that stays is in force at every moment while others change around it.
func TestDenylistWhileItChanges(t *testing.T) {
	t.Parallel()
	d := fill(t, []authn.Revocation{{JTI: "stays"}, {Subject: "alice", Issuer: idp, IssuedBefore: noon}})
	done := make(chan struct{})
	var readers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			s := authn.Subject{TokenID: "stays", ID: "alice", Issuer: idp, IssuedAt: noon.Add(-1)}
			byName := authn.Subject{ID: "alice", Issuer: idp, IssuedAt: noon.Add(-1)}
			for {
				select {
				case <-done:
					return
				default:
				}
				_, token := d.Revoked(&s)
				if _, name := d.Revoked(&byName); !token || !name {
					t.Error("a line was gone for a moment")
					return
				}
			}
		})
	}
	for i := range 2000 {
		line := strconv.Itoa(2 + i%50)
		_ = d.Set(line, &authn.Revocation{JTI: strconv.Itoa(i)})
		_ = d.Set("1", &authn.Revocation{Subject: "alice", Issuer: idp, IssuedBefore: noon.Add(time.Duration(i))})
		if i%3 == 0 {
			d.Remove(line)
		}
	}
	close(done)
	readers.Wait()
}

// However lines of one name come, change and go, the latest instant counts, each
// tenant's own for itself.
func TestDenylistManyLinesOfOneName(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(1, 2))
	d, model := authn.NewDenylist(), map[string]authn.Revocation{}
	for step := range 3000 {
		id := string(rune('a' + random.IntN(12)))
		if random.IntN(3) == 0 {
			d.Remove(id)
			delete(model, id)
		} else {
			r := authn.Revocation{
				Subject: "alice", Issuer: idp, Within: []string{"", "acme", "globex"}[random.IntN(3)],
				IssuedBefore: noon.Add(time.Duration(random.IntN(50)) * time.Minute),
			}
			if err := d.Set(id, &r); err != nil {
				t.Fatal(err)
			}
			model[id] = r
		}
		s := authn.Subject{
			ID: "alice", Issuer: idp, Tenant: []string{"", "acme", "globex", "hooli"}[random.IntN(4)],
			IssuedAt: noon.Add(time.Duration(random.IntN(50)) * time.Minute),
		}
		want := false
		for _, r := range model {
			want = want || (r.Within == "" || r.Within == s.Tenant) && s.IssuedAt.Before(r.IssuedBefore)
		}
		if _, got := d.Revoked(&s); got != want || d.Len() != len(model) {
			t.Fatalf("step %d: %v, want %v, of %d lines, want %d", step, got, want, d.Len(), len(model))
		}
	}
}
