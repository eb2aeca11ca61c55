package seal_test

import (
	"crypto/rand"
	"strings"
	"testing"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/seal"
)

// G-11, G-14: a secret is taken out of any text, whole or cut off, and nothing else.
func TestScrub(t *testing.T) {
	t.Parallel()
	peppers, err := seal.NewPeppers([]seal.Pepper{{Version: 1, Secret: policy.NewSecret(strings.Repeat("pepper", 8))}})
	if err != nil {
		t.Fatal(err)
	}
	m, err := seal.Mint(rand.Reader, seal.Spec{Kind: seal.KindKey, Environment: "live"}, peppers)
	if err != nil {
		t.Fatal(err)
	}
	key := m.Secret.Reveal()
	for cut := range 30 { // 49 characters behind the id, of which at least 20 are left
		text := seal.Scrub("/items/" + key[:len(key)-cut])
		if strings.Contains(text, key[len(key)-49:len(key)-34]) || !strings.HasPrefix(text, "/items/pst_key_live_") {
			t.Errorf("cut by %d: %s", cut, text)
		}
	}
	for _, text := range []string{"", "/orders/7", "/files/0123456789abcdef0123456789abcdef01234567", "a_b", key[:30]} {
		if got := seal.Scrub(text); got != text {
			t.Errorf("%q became %q", text, got)
		}
	}
}

// P-13, G-11: a signed token is a secret as well, whosever it is.
func TestScrubSigned(t *testing.T) {
	t.Parallel()
	const token = "eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiJhbm4ifQ.c2lnbmF0dXJlLXNpZ25hdHVyZS1zaWduYXR1cmU"
	for _, text := range []string{token, "/items/" + token + "/x", "?a=" + token[:len(token)-10]} {
		if got := seal.Scrub(text); strings.Contains(got, "c2lnbmF0dXJl") || !strings.Contains(got, "[secret]") || !seal.HoldsSigned(text) {
			t.Errorf("%s became %s", text, got)
		}
	}
	for _, text := range []string{"", "eyJ", "keyJack.eyJohn.short", "/a.b.c", token[:40]} {
		if got := seal.Scrub(text); got != text || seal.HoldsSigned(text) {
			t.Errorf("%q became %q", text, got)
		}
	}
}

// V-07: what is a token of Vault by its own word does not get into a log either.
func TestScrubVault(t *testing.T) {
	t.Parallel()
	const secret = "CAESIJlU02LQZq2lWaGVJbmc2"
	for _, prefix := range []string{"hvs.", "hvb.", "hvr."} {
		if got := seal.Scrub("/items/" + prefix + secret + "/x"); got != "/items/[secret]/x" {
			t.Error(got)
		}
	}
	for _, text := range []string{"hvs.short", "hvac.example.com/a", "/hv", "hvs.example.com"} {
		if got := seal.Scrub(text); got != text {
			t.Errorf("%q became %q", text, got)
		}
	}
}
