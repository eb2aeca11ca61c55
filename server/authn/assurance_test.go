package authn_test

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/postern-auth/postern/server/authn"
)

// which amr (RFC 8176) makes a token of level 3 one of level 4.
func TestAssurance(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		amr  []string
		want int
	}{
		{nil, 3},
		{[]string{}, 3},
		{[]string{"mfa"}, 4},
		{[]string{"pwd", "mfa"}, 4},
		{[]string{"pwd"}, 3},
		{[]string{"otp"}, 3}, // a code alone is one factor
		{[]string{"sms"}, 3},
		{[]string{"fpt"}, 3},
		{[]string{"hwk"}, 3},
		{[]string{"pwd", "otp"}, 4},
		{[]string{"pwd", "sms"}, 4},
		{[]string{"swk", "pin"}, 4},
		{[]string{"hwk", "fpt"}, 4},
		{[]string{"face", "kba"}, 4},
		{[]string{"sc", "pin"}, 4},
		{[]string{"pwd", "pin"}, 3}, // both are known
		{[]string{"otp", "hwk"}, 3}, // both are had
		{[]string{"face", "fpt", "iris"}, 3},
		{[]string{"pwd", "pwd"}, 3},
		{[]string{"pwd", "geo", "rba", "user", "wia", "mca"}, 3},
		{[]string{"MFA"}, 3},
		{[]string{"mfa "}, 3},
		{[]string{"pwd otp"}, 3},
		{[]string{"nothing", ""}, 3},
	} {
		if got := authn.Assurance(3, tt.amr); got != tt.want {
			t.Errorf("%q: %d, want %d", tt.amr, got, tt.want)
		}
	}
	for base := range 5 {
		if got := authn.Assurance(base, nil); got != base {
			t.Errorf("base %d: %d", base, got)
		}
		if got := authn.Assurance(base, []string{"mfa"}); got != 4 {
			t.Errorf("base %d with mfa: %d", base, got)
		}
	}
}

// more methods never lower the level, and their order says nothing.
func TestAssuranceOnlyGrows(t *testing.T) {
	t.Parallel()
	method := rapid.SampledFrom([]string{"pwd", "pin", "otp", "hwk", "fpt", "mfa", "geo", "x"})
	rapid.Check(t, func(t *rapid.T) {
		amr := rapid.SliceOf(method).Draw(t, "amr")
		level := authn.Assurance(3, amr)
		if more := authn.Assurance(3, append([]string{method.Draw(t, "more")}, amr...)); more < level {
			t.Fatalf("%q: %d, then %d", amr, level, more)
		}
		if other := authn.Assurance(3, rapid.Permutation(amr).Draw(t, "order")); other != level {
			t.Fatalf("%q: %d or %d", amr, level, other)
		}
	})
}
