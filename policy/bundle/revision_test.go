package bundle_test

import (
	"fmt"
	"testing"

	"github.com/postern-auth/postern/policy/bundle"
	"pgregory.net/rapid"
)

// In each chain every revision is lower than those after it. BND-02
func TestRevisionsInOrder(t *testing.T) {
	t.Parallel()
	for _, chain := range [][]string{
		{"1", "2", "9", "10", "r11", "v12", "20260131", "1767225600", "99999999999999999999999999999999"},
		{"1.9", "1.10", "v1.10.1", "2.0"},
		{"1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-alpha.beta", "1.0.0-beta", "1.0.0-beta.2", "1.0.0-beta.11", "1.0.0-rc.1", "1.0.0"},
		{"v1.2.3", "v1.2.3-1-gabcdef0", "v1.2.3-14-g1a2b3c4", "v1.2.4-rc.1-2-gabcdef0", "v1.2.4"},
		{"2026-01-31", "2026-01-31T12:00:00Z", "2026-01-31T12:00:00.5Z", "2026-01-31T12:30:00-01:00", "20260201T000000Z"},
	} {
		for i, low := range chain {
			for _, high := range chain[i+1:] {
				if got := bundle.CompareRevisions(low, high); got != "older" {
					t.Errorf("%s before %s: %s", low, high, got)
				}
				if got := bundle.CompareRevisions(high, low); got != "newer" {
					t.Errorf("%s after %s: %s", high, low, got)
				}
			}
		}
	}
}

func TestRevisionsWithoutOrder(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ offered, running, want string }{
		{"1a2b3c4", "5d6e7f8", "unknown"},
		{"release-7", "release-6", "unknown"},
		{"7", "2026-01-31", "unknown"},
		{"7", "1.2.3", "newer"}, // a version of one number
		{"7-a", "6-b", "unknown"},
		{"", "7", "older"},
		{"", "", "same"},
		{"7", "", "unknown"},
		{"1.0", "1.0.0", "same"},
		{"1.0.0+a", "1.0.0+b", "same"},
	} {
		if got := bundle.CompareRevisions(c.offered, c.running); got != c.want {
			t.Errorf("%q after %q: %s, want %s", c.offered, c.running, got, c.want)
		}
	}
}

// Whatever two revisions are, they stand to each other the other way round.
func TestRevisionsAreSymmetric(t *testing.T) {
	t.Parallel()
	part := rapid.SampledFrom([]string{"", "0", "1", "007", "10", ".", "-", "+", "v", "r", "rc", "g1a2b", "2026-01-31", "T12:00:00Z"})
	other := map[string]string{"older": "newer", "newer": "older", "same": "same", "unknown": "unknown"}
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.Custom(func(t *rapid.T) string {
			return fmt.Sprint(part.Draw(t, "a"), part.Draw(t, "b"), part.Draw(t, "c"), part.Draw(t, "d"), part.Draw(t, "e"))
		})
		a, b := text.Draw(t, "x"), text.Draw(t, "y")
		if a == "" || b == "" {
			return // on purpose: losing the revision is a step back, getting one is not
		}
		if x, y := bundle.CompareRevisions(a, b), bundle.CompareRevisions(b, a); other[x] != y {
			t.Fatalf("%q, %q: %s and %s", a, b, x, y)
		}
	})
}
