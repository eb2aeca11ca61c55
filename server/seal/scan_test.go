package seal_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"regexp"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/seal"
)

func peppers(t testing.TB) *seal.Peppers {
	t.Helper()
	ps, err := seal.NewPeppers([]seal.Pepper{{Version: 1, Secret: policy.NewSecret("an old, brown pepper mill of 32 bytes or more")}})
	if err != nil {
		t.Fatal(err)
	}
	return ps
}

func mintKey(t testing.TB, spec seal.Spec) seal.Minted {
	t.Helper()
	m, err := seal.Mint(rand.Reader, spec, peppers(t))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func scan(t testing.TB, r io.Reader, prefix string) (all []seal.Finding) {
	t.Helper()
	for f, err := range seal.Scan(r, prefix) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, f)
	}
	return all
}

// G-15: a key planted in the files of a repository is found in any surroundings.
func TestScanFindsPlantedKeys(t *testing.T) {
	t.Parallel()
	live, pat := mintKey(t, seal.Spec{Environment: "live"}), mintKey(t, seal.Spec{Kind: seal.KindPAT})
	text := "# settings\nexport POSTERN_KEY=" + live.Secret.Reveal() + "\n" +
		`{"token":"` + pat.Secret.Reveal() + `\n"}` + "\n" +
		"x" + live.Secret.Reveal() + "yz, pst_" + pat.Secret.Reveal()
	got := scan(t, strings.NewReader(text), "pst")
	want := []struct {
		id   string
		line int
	}{{live.ID, 2}, {pat.ID, 3}, {live.ID, 4}, {pat.ID, 4}}
	if len(got) != len(want) {
		t.Fatalf("found %d keys: %+v", len(got), got)
	}
	for i, f := range got {
		if f.ID != want[i].id || f.Line != want[i].line || !f.ChecksumOK {
			t.Errorf("key %d: %+v, want %+v", i, f, want[i])
		}
		if !strings.HasPrefix(text[f.Offset:], "pst_"+string(f.Kind)+"_") {
			t.Errorf("key %d: wrong offset %d", i, f.Offset)
		}
		if strings.Contains(fmt.Sprintf("%+v", f), live.Secret.Reveal()[30:50]) {
			t.Errorf("key %d: the finding shows the secret", i)
		}
	}
}

// G-15: no false alarm in 10 MB of random base62, also where it has the shape of
// keys all over and only the checksum is random.
func TestScanHasNoFalseAlarms(t *testing.T) {
	t.Parallel()
	const digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	random := mathrand.New(mathrand.NewChaCha8([32]byte{'n', 'o', 'i', 's', 'e'}))
	text := make([]byte, 10<<20)
	for i := range text {
		text[i] = digits[random.IntN(62)]
	}
	if got := scan(t, bytes.NewReader(text), "pst"); len(got) > 0 {
		t.Errorf("random text: %+v", got)
	}
	shaped := text[:1<<20]
	for i := 0; i+100 <= len(shaped); i += 100 {
		copy(shaped[i:], "pst_key_live_")
		shaped[i+25] = '_'
	}
	pattern := regexp.MustCompile(seal.ScannerRegexp("pst"))
	if !pattern.Match(append(bytes.Clone(shaped[:75]), ' ')) {
		t.Fatal("this text has not the shape of keys: the test could not fail")
	}
	if got := scan(t, bytes.NewReader(shaped), "pst"); len(got) > 0 {
		t.Errorf("texts in the shape of keys: %+v", got)
	}
}

// A key is found wherever the window of the scanner ends.
func TestScanAcrossWindows(t *testing.T) {
	t.Parallel()
	secret := mintKey(t, seal.Spec{Kind: "akindof16letters", Environment: "environmentof16c"}).Secret.Reveal()
	for _, before := range []int{0, 1, 64<<10 - 200, 64<<10 - 114, 64<<10 - 113, 64<<10 - 76, 64<<10 - 75, 64<<10 - 40, 64<<10 - 1, 64 << 10, 128<<10 - 200} {
		text := strings.Repeat("\n", before) + secret + strings.Repeat(".", 300) + secret
		for _, r := range []io.Reader{strings.NewReader(text), iotest.HalfReader(strings.NewReader(text))} {
			got := scan(t, r, "pst")
			if len(got) != 2 || got[0].Offset != int64(before) || got[0].Line != before+1 || got[1].Offset != int64(len(text)-len(secret)) {
				t.Errorf("%d bytes before: %+v", before, got)
			}
		}
	}
}

func TestScanReportsReadErrors(t *testing.T) {
	t.Parallel()
	key, broken := mintKey(t, seal.Spec{}), errors.New("disk gone")
	r := io.MultiReader(strings.NewReader(key.Secret.Reveal()), iotest.ErrReader(broken))
	var ids []string
	var last error
	for f, err := range seal.Scan(r, "pst") {
		if last = err; err == nil {
			ids = append(ids, f.ID)
		}
	}
	if len(ids) != 1 || ids[0] != key.ID || !errors.Is(last, broken) {
		t.Errorf("found %v, error %v", ids, last)
	}
	for _, err := range seal.Scan(strings.NewReader(""), `p.*`) {
		if err == nil {
			t.Error("a pattern is accepted as prefix")
		}
	}
	for range seal.Scan(strings.NewReader(strings.Repeat(key.Secret.Reveal()+" ", 3)), "pst") {
		break // stopping early is fine
	}
}

// G-15
func TestScannerRegexp(t *testing.T) {
	t.Parallel()
	pattern := regexp.MustCompile(seal.ScannerRegexp("acme"))
	for _, spec := range []seal.Spec{{Prefix: "acme"}, {Prefix: "acme", Kind: "pat", Environment: "test"}} {
		secret := mintKey(t, spec).Secret.Reveal()
		if got := pattern.FindString("key=" + secret + ";"); got != secret {
			t.Errorf("%+v: found %q", spec, got)
		}
	}
	if pattern.MatchString(mintKey(t, seal.Spec{}).Secret.Reveal()) {
		t.Error("matches another prefix")
	}
}

func TestInspect(t *testing.T) {
	t.Parallel()
	key := mintKey(t, seal.Spec{Prefix: "acme", Kind: seal.KindPAT, Environment: "test"})
	secret := key.Secret.Reveal()
	want := seal.Info{Parts: seal.Parts{Prefix: "acme", Kind: seal.KindPAT, Env: "test", ID: key.ID}, ChecksumOK: true}
	if got, err := seal.Inspect(secret); err != nil || got != want {
		t.Errorf("got %+v, %v", got, err)
	}
	typo := secret[:len(secret)-10] + string('0'+(secret[len(secret)-10]+1)%10) + secret[len(secret)-9:]
	want.ChecksumOK = false
	if got, err := seal.Inspect(typo); err != nil || got != want {
		t.Errorf("with a typing error: got %+v, %v", got, err)
	}
	if _, err := seal.Inspect("sk_live_abc123def456ghi789"); err == nil || strings.Contains(err.Error(), "abc123") {
		t.Errorf("a foreign key: %v", err)
	}
}
