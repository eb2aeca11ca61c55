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
