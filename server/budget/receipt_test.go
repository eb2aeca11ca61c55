package budget

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/seal"
)

func testPeppers(t testing.TB, versions ...int) *seal.Peppers {
	var list []seal.Pepper
	for _, v := range versions {
		list = append(list, seal.Pepper{Version: v, Secret: policy.NewSecret(strings.Repeat(string(rune('a'+v)), 31) + "!")})
	}
	ps, err := seal.NewPeppers(list)
	if err != nil {
		t.Fatal(err)
	}
	return ps
}

func issued(r *receipts) (string, time.Time) {
	tokens := newRule(Budget{Name: "t", Unit: UnitTokens, Limit: 1}, seedForTests)
	money := newRule(Budget{Name: "m", Unit: UnitMicros, Limit: 1, ReserveFor: time.Minute}, seedForTests)
	requests := newRule(Budget{Name: "r", Limit: 1}, seedForTests)
	take := func(r *rule, seq, amount int64, price Price) taking {
		return taking{account: &account{key: [16]byte{byte(seq)}}, rule: r, lease: &tranche{seq: seq}, amount: amount, price: price}
	}
	over := take(tokens, 9, 9, Price{})
	over.over = true
	t := &taken{takings: []taking{take(tokens, 7, MaxAmount, Price{}), take(requests, 8, 1, Price{}), over, take(money, 1<<40, 5, Price{Input: 1, Output: maxPrice})}}
	return r.issue(t, time.Unix(1_800_000_000, 5))
}

// A receipt says the same on any replica, also when the pepper has a successor.
func TestReceipt(t *testing.T) {
	t.Parallel()
	a := newReceipts([8]byte{1}, testPeppers(t, 1))
	text, expires := issued(a)
	if !expires.Equal(time.Unix(1_800_000_060, 0)) {
		t.Error(expires)
	}
	v, err := newReceipts([8]byte{2}, testPeppers(t, 2, 1)).read(text)
	if err != nil || v.holder != encode([]byte{1, 0, 0, 0, 0, 0, 0, 0}) || v.id != v.holder+".1" || !v.expires.Equal(expires) || len(v.items) != 2 {
		t.Fatalf("%+v, %v", v, err)
	}
	if i := v.items[0]; i.lease != 7 || i.amount != MaxAmount || i.unit != UnitTokens || i.account != encode(append([]byte{7}, make([]byte, 15)...)) {
		t.Errorf("%+v", i)
	}
	if i := v.items[1]; i.lease != 1<<40 || i.amount != 5 || i.unit != UnitMicros || i.price != (Price{1, maxPrice}) {
		t.Errorf("%+v", i)
	}
	if second, _ := issued(a); second == text {
		t.Error("two receipts are one")
	}
}

// Nobody can make one, or another one of it.
func TestForgedReceipts(t *testing.T) {
	t.Parallel()
	r := newReceipts([8]byte{1}, testPeppers(t, 1))
	text, _ := issued(r)
	foreign, _ := issued(newReceipts([8]byte{1}, testPeppers(t, 3)))
	without, _ := issued(newReceipts([8]byte{1}, nil))
	for i := range text {
		for _, c := range "A_9" {
			if forged := text[:i] + string(c) + text[i+1:]; forged != text {
				if _, err := r.read(forged); !errors.Is(err, ErrReceipt) {
					t.Fatalf("%q: %v", forged, err)
				}
			}
		}
		if _, err := r.read(text[:i]); !errors.Is(err, ErrReceipt) {
			t.Fatalf("%q: %v", text[:i], err)
		}
	}
	for _, s := range []string{"", text + "A", text + text, foreign, without, strings.Repeat("A", maxReceipt+1), text + "=", " " + text} {
		if _, err := r.read(s); !errors.Is(err, ErrReceipt) {
			t.Errorf("%.200q: %v", s, err)
		}
	}
	if _, err := r.read(text); err != nil {
		t.Error(err)
	}
}

// FuzzReceipt: whatever follows a good MAC is read without a panic and within bounds.
func FuzzReceipt(f *testing.F) {
	r := newReceipts([8]byte{1}, testPeppers(f, 1))
	text, _ := issued(r)
	f.Add([]byte(text))
	f.Add([]byte(strings.Repeat("\xff", 100)))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := r.read(string(b)); err == nil && string(b) != text {
			t.Fatal("forged")
		}
		v, err := parseReservation(b)
		if err != nil {
			return
		}
		if len(v.items) == 0 || len(v.items) > maxItems || len(v.id) > 64 {
			t.Fatalf("%+v", v)
		}
		for _, i := range v.items {
			if i.amount < 0 || i.amount > MaxAmount || i.price.of(i.amount, i.amount) < 0 {
				t.Fatalf("%+v", i)
			}
		}
	})
}

// A subject is read as words.
func TestSubjectText(t *testing.T) {
	t.Parallel()
	for want, s := range map[string]Subject{
		"-":                        {},
		"tenant=acme":              {Tenant: "acme"},
		`tenant="a b" agent="x=y"`: {Tenant: "a b", Agent: "x=y"},
		`principal="\u00fc"`:       {Principal: "ü"},
	} {
		if got := s.String(); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}
