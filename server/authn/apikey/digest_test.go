package apikey

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
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
		text := rapid.StringMatching(fmt.Sprintf(`[a-z_0-9A-Z]{0,%d}`, maxLen)).Draw(t, "text")
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
		cfg  Config
		want string // "" is good
	}{
		{"none", Config{}, ""},
		{"one", Config{Pepper: good}, ""},
		{"several", Config{Peppers: []Pepper{{2, good}, {1, good}}}, ""},
		{"exactly 32 bytes", Config{Pepper: policy.NewSecret("0123456789abcdef0123456789abcdef")}, ""},
		{"31 bytes", Config{Pepper: policy.NewSecret("0123456789abcdef0123456789abcde")}, "needs at least 32"},
		{"white space does not count", Config{Pepper: policy.NewSecret("  0123456789abcdef0123456789abc \n\n")}, "has 29 bytes"},
		{"short", Config{Pepper: short}, "has 9 bytes"},
		{"one byte repeated", Config{Pepper: policy.NewSecret(strings.Repeat("x", 40))}, "repeats one byte"},
		{"both", Config{Pepper: good, Peppers: []Pepper{{2, good}}}, "set one of the two"},
		{"same version", Config{Peppers: []Pepper{{1, good}, {1, good}}}, "peppers[1].version: 1 occurs twice"},
		{"version 0", Config{Peppers: []Pepper{{0, good}}}, "peppers[0].version"},
		{"version too large", Config{Peppers: []Pepper{{65537, good}}}, "peppers[0].version"},
		{"no secret", Config{Peppers: []Pepper{{Version: 1}}}, "peppers[0].secret: has 0 bytes"},
		{"too many", Config{Peppers: make([]Pepper, 17)}, "at most 16"},
	} {
		_, err := NewPeppers(c.cfg)
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
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "peppers", ps, "value", *ps, "config", Config{Pepper: policy.NewSecret(testPepper)})
	a, err := New(Config{Pepper: policy.NewSecret(testPepper)}, Deps{})
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{
		fmt.Sprintf("%v %+v %#v %s %x", ps, ps, ps, ps, ps), fmt.Sprintf("%v %+v %#v", *ps, *ps, *ps),
		fmt.Sprintf("%v %+v %#v", a, a, a), log.String(),
	} {
		for _, leak := range []string{inner[1:12], testPepper, hex.EncodeToString([]byte(testPepper))[:16]} {
			if strings.Contains(text, leak) {
				t.Errorf("%q shows the pepper", text)
			}
		}
	}
}
