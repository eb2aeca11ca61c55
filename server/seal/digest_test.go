package seal

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/postern-auth/postern/policy"
)

// K-04: our HMAC is that of the standard library, for short and long peppers.
func TestDigestIsHMAC(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		length := rapid.OneOf(rapid.IntRange(1, 200), rapid.SampledFrom([]int{63, 64, 65})).Draw(t, "length")
		key := rapid.SliceOfN(rapid.Byte(), length, length).Draw(t, "key")
		text := rapid.StringMatching(fmt.Sprintf(`[a-z_0-9A-Z]{0,%d}`, MaxLen)).Draw(t, "text")
		if rapid.Bool().Draw(t, "signed") { // P-13
			text += strings.Repeat("x", rapid.IntRange(0, MaxSignedLen-len(text)).Draw(t, "more"))
		}
		h := hmac.New(sha256.New, key)
		h.Write([]byte(text))
		p := newPepper(1, key)
		if got := p.mac(text); !hmac.Equal(got[:], h.Sum(nil)) {
			t.Fatalf("got %x, want %x", got, h.Sum(nil))
		}
	})
}

func TestDigestText(t *testing.T) {
	t.Parallel()
	// `printf %s sk_live_abc123def456ghi789 | sha256sum`
	imported := ImportedDigest(policy.NewSecret("sk_live_abc123def456ghi789"))
	if want := fmt.Sprintf("sha256:%x", sha256.Sum256([]byte("sk_live_abc123def456ghi789"))); imported.String() != want {
		t.Errorf("got %s, want %s", imported, want)
	}
	own := testPeppers(t).Digest(policy.NewSecret("pst_key_x"))
	if !strings.HasPrefix(own.String(), "hmac-sha256:v1:") {
		t.Errorf("got %s", own)
	}
	for _, d := range []Digest{imported, own} {
		var again Digest
		if err := again.UnmarshalText([]byte(d.String())); err != nil || again != d {
			t.Errorf("%s is read as %s, %v", d, again, err)
		}
	}
}

func TestDigestRefusesAndDoesNotRepeat(t *testing.T) {
	t.Parallel()
	sum := strings.Repeat("ab", 32)
	for _, wrong := range []string{
		"", "sk_live_secret", sum, "md5:" + sum, "SHA256:" + sum, " sha256:" + sum, "sha256:", "sha256:" + sum[1:],
		"sha256:" + sum + "00", "sha256:" + sum + " ", "sha256:v1:" + sum, "sha256:" + strings.Repeat("zz", 32),
		"hmac-sha256:" + sum, "hmac-sha256::" + sum, "hmac-sha256:v0:" + sum, "hmac-sha256:v01:" + sum, "hmac-sha256:v:" + sum,
		"hmac-sha256:1:" + sum, "hmac-sha256:v10000:" + sum, "hmac-sha256:v-1:" + sum, "hmac-sha256:v65537:" + sum, "hmac-sha256:v1:" + sum[2:],
		"sha256:" + strings.Repeat("0", 64), "hmac-sha256:v1:" + strings.Repeat("0", 64), "sha256:sk_live_secret",
	} {
		var d Digest
		err := d.UnmarshalText([]byte(wrong))
		if err == nil || !d.IsZero() {
			t.Errorf("%q is read as %s", wrong, d)
		} else if strings.Contains(err.Error(), "secret_") || strings.Contains(err.Error(), "live") || strings.Contains(err.Error(), sum[2:]) {
			t.Errorf("the error repeats the value: %v", err)
		}
	}
}

func TestPeppersAreChecked(t *testing.T) {
	t.Parallel()
	good, short := policy.NewSecret(testPepper), policy.NewSecret("swordfish")
	for _, c := range []struct {
		name string
		list []Pepper
		want string // "" is good
	}{
		{"none", nil, ""},
		{"one", []Pepper{{1, good}}, ""},
		{"several", []Pepper{{2, good}, {1, good}}, ""},
		{"exactly 32 bytes", []Pepper{{1, policy.NewSecret("0123456789abcdef0123456789abcdef")}}, ""},
		{"31 bytes", []Pepper{{1, policy.NewSecret("0123456789abcdef0123456789abcde")}}, "needs at least 32"},
		{"white space does not count", []Pepper{{1, policy.NewSecret("  0123456789abcdef0123456789abc \n\n")}}, "has 29 bytes"},
		{"short", []Pepper{{1, short}}, "has 9 bytes"},
		{"one byte repeated", []Pepper{{1, policy.NewSecret(strings.Repeat("x", 40))}}, "repeats one byte"},
		{"same version", []Pepper{{1, good}, {1, good}}, "peppers[1].version: 1 occurs twice"},
		{"version 0", []Pepper{{0, good}}, "peppers[0].version"},
		{"version too large", []Pepper{{65537, good}}, "peppers[0].version"},
		{"no secret", []Pepper{{Version: 1}}, "peppers[0].secret: has 0 bytes"},
		{"too many", make([]Pepper, 17), "at most 16"},
	} {
		_, err := NewPeppers(c.list)
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%s: %v", c.name, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: got %v, want %q", c.name, err, c.want)
		case err != nil && strings.Contains(err.Error(), "swordfish"):
			t.Errorf("%s: the error shows the pepper", c.name)
		}
	}
}

// Nothing prints a pepper, whatever it is put into.
func TestPeppersAreNotPrinted(t *testing.T) {
	t.Parallel()
	ps := testPeppers(t)
	inner := fmt.Sprint(ps.list[0].inner[:8])
	var log strings.Builder
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "peppers", ps, "value", *ps, "config", Pepper{1, policy.NewSecret(testPepper)})
	for _, text := range []string{
		fmt.Sprintf("%v %+v %#v %s %x", ps, ps, ps, ps, ps), fmt.Sprintf("%v %+v %#v", *ps, *ps, *ps),
		log.String(),
	} {
		for _, leak := range []string{inner[1:12], testPepper, hex.EncodeToString([]byte(testPepper))[:16]} {
			if strings.Contains(text, leak) {
				t.Errorf("%q shows the pepper", text)
			}
		}
	}
}

// A sum is what the digest holds, and an unknown version costs as much and fits
// nothing.
func TestSum(t *testing.T) {
	ps, err := NewPeppers([]Pepper{{2, policy.NewSecret(testPepper)}, {1, policy.NewSecret(testPepper + "!")}})
	if err != nil {
		t.Fatal(err)
	}
	m, err := Mint(seeded("sum"), Spec{}, ps)
	if err != nil || m.Digest.Pepper() != 2 || ps.Current() != 2 {
		t.Fatal(m, err)
	}
	hashes := 0
	defer Observe(func() { hashes++ })()
	text := m.Secret.Reveal()
	for _, c := range []struct {
		version uint16
		known   bool
		fits    bool
	}{{2, true, true}, {1, true, false}, {0, false, false}, {3, false, false}} {
		hashes = 0
		sum, known := ps.Sum(c.version, text)
		want := m.Digest.Sum()
		if known != c.known || Equal(&sum, &want) != c.fits || hashes != 1 {
			t.Errorf("version %d: known %v, fits %v, %d hashes", c.version, known, Equal(&sum, &want), hashes)
		}
	}
	none, err := NewPeppers(nil)
	if err != nil || !none.None() || none.Current() != 0 || none.Has(0) || none.Has(1) {
		t.Fatal(none, err)
	}
	a, known := none.Sum(1, text)
	b, _ := ps.Sum(3, text)
	if known || Equal(&a, &b) {
		t.Error("without a pepper the sums are nobody's")
	}
	for _, long := range []string{strings.Repeat("x", MaxSignedLen+1), strings.Repeat("x", 1<<20)} {
		if _, known := ps.Sum(2, long); known {
			t.Error("a text that is too long has a sum")
		}
	}
	if _, known := (*Peppers)(nil).Sum(1, text); known || (*Peppers)(nil).Has(1) {
		t.Error("nil knows a pepper")
	}
}

func TestForeignSum(t *testing.T) {
	t.Parallel()
	secret := strings.Repeat("x", MaxForeignLen)
	sum, ok := ForeignSum(secret)
	if want := ImportedDigest(policy.NewSecret(secret)).Sum(); !ok || sum != want {
		t.Error("the sum of the longest secret is wrong")
	}
	for _, s := range []string{"", secret + "x"} {
		if _, ok := ForeignSum(s); ok {
			t.Errorf("%d bytes have a sum", len(s))
		}
	}
}

// Derived keys differ by purpose and by pepper, and are no digest of anything.
func TestDerive(t *testing.T) {
	t.Parallel()
	ps, err := NewPeppers([]Pepper{{2, policy.NewSecret(testPepper)}, {1, policy.NewSecret(testPepper + "!")}})
	if err != nil {
		t.Fatal(err)
	}
	seen := map[[32]byte]bool{}
	for _, version := range []uint16{1, 2} {
		for _, purpose := range []string{"", "a", "b", "derive a"} {
			key, ok := ps.Derive(version, purpose)
			again, _ := ps.Derive(version, purpose)
			if !ok || seen[key] || key != again {
				t.Errorf("v%d %q: %v", version, purpose, ok)
			}
			seen[key] = true
		}
	}
	if _, ok := ps.Derive(3, "a"); ok {
		t.Error("a key from a pepper that is not in force")
	}
}

func TestLowEntropy(t *testing.T) {
	t.Parallel()
	for secret, low := range map[string]bool{
		"":               true,
		"swordfish":      true,
		"hunter2hunter2": true,
		"correct horse":  true,
		"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa":     true,
		"abababababababababababababababababababababababab":     true,
		"0123456789012345678901234567890":                      true,
		"abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyz": true,
		"20260115090000123456":                                 true,
		"sk_live_abc123def456ghi789":                           false, // looks better than it is
		"9f86d081884c7d659a2feaa0c55ad015":                     false, // 128 bits in hex
		"b2f5ff47436671b6e533d8dc3614845d":                     false,
		"550e8400-e29b-41d4-a716-446655440000":                 false, // a UUID
		"tGzv3JOkF0XG5Qx2TlKWIA":                               false, // 128 bits in Base64
	} {
		if got := LowEntropy(secret); got != low {
			t.Errorf("%q: %v", secret, got)
		}
	}
	// Of random ones with 128 bits hardly any is called weak.
	random := mathrand.New(mathrand.NewChaCha8([32]byte{7}))
	weak := 0
	for range 10_000 {
		if LowEntropy(fmt.Sprintf("%016x%016x", random.Uint64(), random.Uint64())) {
			weak++
		}
	}
	if weak > 10 {
		t.Errorf("%d of 10,000 random secrets are called weak", weak)
	}
}

// K-15
func TestVerifyingDoesNotAllocate(t *testing.T) {
	ps := testPeppers(t)
	m := mint(t, Spec{Environment: "live"})
	text, want := m.Secret.Reveal(), m.Digest.Sum()
	if n := testing.AllocsPerRun(100, func() {
		sum, _ := ps.Sum(1, text)
		foreign, _ := ForeignSum(text)
		_ = Equal(&sum, &want) || Equal(&foreign, &want)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func FuzzDigest(f *testing.F) {
	f.Add("sha256:" + strings.Repeat("ab", 32))
	f.Add("hmac-sha256:v12:" + strings.Repeat("0f", 32))
	f.Fuzz(func(t *testing.T, text string) {
		var d Digest
		if d.UnmarshalText([]byte(text)) != nil {
			if !d.IsZero() {
				t.Fatal("a digest with an error")
			}
			return
		}
		if strings.ToLower(text) != d.String() {
			t.Fatalf("%q is read as %s", text, d)
		}
	})
}

func BenchmarkParse(b *testing.B) {
	text := mint(b, Spec{Environment: "live"}).Secret.Reveal()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Parse(text); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSum(b *testing.B) {
	ps := testPeppers(b)
	text := mint(b, Spec{Environment: "live"}).Secret.Reveal()
	b.ReportAllocs()
	for b.Loop() {
		_, _ = ps.Sum(1, text)
	}
}
