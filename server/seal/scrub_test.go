package seal_test

import (
	"crypto/rand"
	"fmt"
	"net/url"
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

// G-11: a secret is found however it is percent-encoded, and in lower case; what stands
// around it stays as it was written.
func TestScrubEscaped(t *testing.T) {
	t.Parallel()
	key := mintKey(t, seal.Spec{Environment: "live"}).Secret.Reveal()
	const signed = "eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiJhbm4ifQ.c2lnbmF0dXJlLXNpZ25hdHVyZS1zaWduYXR1cmU"
	const vault = "hvs.CAESIJlU02LQZq2lWaGVJbmc2"
	every := func(s string) string {
		var b strings.Builder
		for i := range len(s) {
			fmt.Fprintf(&b, "%%%02x", s[i])
		}
		return b.String()
	}
	percent := func(s string) string { return strings.ReplaceAll(s, "%", "%25") }
	for name, encode := range map[string]func(string) string{
		"plain":       func(s string) string { return s },
		"lower case":  strings.ToLower,
		"separators":  strings.NewReplacer("_", "%5F", ".", "%2e", "-", "%2D").Replace,
		"every byte":  every,
		"twice":       func(s string) string { return percent(every(s)) },
		"three times": func(s string) string { return percent(percent(every(s))) },
		"one digit":   func(s string) string { return s[:len(s)-5] + every(s[len(s)-5:len(s)-4]) + s[len(s)-4:] },
		"id":          func(s string) string { return strings.Replace(s, "_live_", "_live%5f", 1) },
		"mixed":       func(s string) string { return percent(every(s[:9])) + every(s[9:len(s)-9]) + s[len(s)-9:] },
	} {
		for _, secret := range []string{key, signed, vault} {
			text := "/a%2Fb?q=" + encode(secret) + "&r=%C3%BC%"
			got := seal.Scrub(text)
			left, prefixed := strings.CutPrefix(got, "/a%2Fb?q=")
			left, found := strings.CutSuffix(left, "[secret]&r=%C3%BC%")
			for strings.Contains(left, "%") {
				left, _ = url.PathUnescape(left)
			}
			if !prefixed || !found || left != "" && !(secret == key && strings.EqualFold(left, "pst_key_live_")) {
				t.Errorf("%s: %s became %s", name, text, got)
			}
		}
	}
	for _, text := range []string{"/a%2Fb%", "/%25%2525%25252525%2525252525252525252525", "/50%25_off/0123456789abcdef%zz0123456789abcdef", strings.Repeat("%5F", 100)} {
		if got := seal.Scrub(text); got != text {
			t.Errorf("%q became %q", text, got)
		}
	}
}

// What Scrub leaves holds nothing that it would find, encoded or not.
func FuzzScrub(f *testing.F) {
	f.Add("/x", "0123456789ab_0123456789012345678901234567890123456789012abcdef", "%5F")
	f.Add("%2525", "eyJhbGciOiJFZERTQSJ9%2eeyJzdWIiOiJhbm4ifQ.c2lnbmF0dXJlLXNpZ25hdHVyZS1zaWduYXR1cmU", "%")
	f.Fuzz(func(t *testing.T, before, secret, after string) {
		text := before + secret + after
		got := seal.Scrub(text)
		if again := seal.Scrub(got); again != got || seal.HoldsSigned(got) {
			t.Fatalf("%q became %q, and then %q", text, got, again)
		}
	})
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
