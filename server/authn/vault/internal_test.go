package vault

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// FuzzAnswer: no answer makes it panic, and whatever is accepted is about the token in
// question and holds what the rules rest on.
func FuzzAnswer(f *testing.F) {
	for _, seed := range []string{
		`{"data":{"id":"hvs.question","accessor":"abc","policies":["default"],"path":"auth/approle/login","meta":{"a":"b"},"display_name":"x","num_uses":0,"creation_time":1,"creation_ttl":60,"expire_time":"2026-03-01T12:00:00Z","ttl":60,"entity_id":"","type":"service","bound_cidrs":["10.0.0.0/8","::1"],"namespace_path":"a/"}}`,
		`{"data":{"id":"hvs.question","accessor":"","policies":null,"path":"","meta":null,"display_name":"","num_uses":-1,"creation_time":0,"creation_ttl":0,"expire_time":null,"ttl":0,"type":"batch"}}`,
		`{"auth":{"client_token":"hvs.question","accessor":"","lease_duration":60,"renewable":true}}`,
		`{"errors":["bad token"]}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		_ = forbidden(body)
		said, err := parse(body)
		if err != nil {
			return
		}
		if o, err := readLogin(said, time.Unix(0, 0)); err == nil && (o.token.IsZero() || !isVisible(o.token.Reveal())) {
			t.Error("a login without a token")
		}
		const token = "hvs.question"
		a, err := readAnswer(said, token)
		if err != nil {
			return
		}
		if strings.Contains(a.entityID, "/") || a.ttl < 0 || !a.expires && a.ttl != 0 {
			t.Errorf("%+v", a)
		}
		for _, p := range a.networks {
			if !p.IsValid() || p != p.Masked() || p.Addr().Is4In6() && p.Bits() >= 96 {
				t.Errorf("network %s", p)
			}
		}
		all := Config{AcceptBatch: true, AcceptLimitedUse: true, InsecureAcceptRoot: true, Namespaces: []string{"*"}}.withDefaults()
		auth := &Authenticator{cfg: all, login: new(login)}
		kind := service
		if a.batch {
			kind = batch
		}
		if auth.permits(a, kind) != nil {
			return
		}
		proof, err := auth.proof(a, token, time.Unix(0, 0))
		if err == nil && (proof.Principal.ID == "" || a.expires && !proof.NotAfter.After(time.Unix(0, 0)) || len(a.networks) > 0 && len(proof.Constraints.Networks) == 0) {
			t.Errorf("proof %+v", proof)
		}
	})
}

// An address is in the intersection if it is in both lists.
func TestIntersect(t *testing.T) {
	t.Parallel()
	prefix := rapid.Custom(func(t *rapid.T) netip.Prefix {
		if rapid.Bool().Draw(t, "v6") {
			b := [16]byte{0: 0xfd, 1: rapid.Byte().Draw(t, "b")}
			return netip.PrefixFrom(netip.AddrFrom16(b), rapid.IntRange(0, 16).Draw(t, "bits")).Masked()
		}
		b := [4]byte{rapid.Byte().Draw(t, "a"), rapid.Byte().Draw(t, "b")}
		return netip.PrefixFrom(netip.AddrFrom4(b), rapid.IntRange(0, 16).Draw(t, "bits")).Masked()
	})
	within := func(list []netip.Prefix, ip netip.Addr) bool {
		for _, p := range list {
			if p.Contains(ip) {
				return true
			}
		}
		return false
	}
	rapid.Check(t, func(t *rapid.T) {
		a, b := rapid.SliceOfN(prefix, 1, 5).Draw(t, "a"), rapid.SliceOfN(prefix, 1, 5).Draw(t, "b")
		both := intersect(a, b)
		for range 20 {
			ip := prefix.Draw(t, "ip").Addr()
			if within(both, ip) != (within(a, ip) && within(b, ip)) {
				t.Fatalf("%s: %v and %v are not %v", ip, a, b, both)
			}
		}
	})
}

// What is remembered of tokens is bounded.
func TestLimitedIsBounded(t *testing.T) {
	t.Parallel()
	l := newLimited()
	for i := range maxLimited + 10 {
		l.add(strings.Repeat("x", i%7) + string(rune('a'+i%26)) + time.Duration(i).String())
	}
	if len(l.seen) != maxLimited {
		t.Errorf("%d are remembered", len(l.seen))
	}
	var none *limited
	none.add("x")
	if none.has("x") {
		t.Error("nobody remembers")
	}
}
