package seal

import (
	"bytes"
	"crypto/rand"
	"errors"
	"hash/crc32"
	"io"
	mathrand "math/rand/v2"
	"regexp"
	"strings"
	"testing"
	"testing/iotest"

	"pgregory.net/rapid"

	"github.com/postern-auth/postern/policy"
)

// testPepper is a pepper for tests.
const testPepper = "an old, brown pepper mill of 32 bytes or more"

func testPeppers(t testing.TB) *Peppers {
	t.Helper()
	ps, err := NewPeppers([]Pepper{{1, policy.NewSecret(testPepper)}})
	if err != nil {
		t.Fatal(err)
	}
	return ps
}

func mint(t testing.TB, spec Spec) Minted {
	t.Helper()
	m, err := Mint(rand.Reader, spec, testPeppers(t))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// seeded is a random source that gives the same bytes in every run.
func seeded(name string) io.Reader {
	var seed [32]byte
	copy(seed[:], name)
	return mathrand.NewChaCha8(seed)
}

// K-03
func TestMintedKeyHasTheFormat(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		spec Spec
		want string
	}{
		{Spec{}, `^pst_key_([0-9A-Za-z]{12})_[0-9A-Za-z]{43}[0-9A-Za-z]{6}$`},
		{Spec{Environment: "live"}, `^pst_key_live_([0-9A-Za-z]{12})_[0-9A-Za-z]{43}[0-9A-Za-z]{6}$`},
		{Spec{Prefix: "acme", Kind: KindPAT, Environment: "test"}, `^acme_pat_test_([0-9A-Za-z]{12})_[0-9A-Za-z]{43}[0-9A-Za-z]{6}$`},
	} {
		m := mint(t, c.spec)
		found := regexp.MustCompile(c.want).FindStringSubmatch(m.Secret.Reveal())
		if found == nil || found[1] != m.ID {
			t.Errorf("%+v: minted %q with id %s, want %s", c.spec, m.Secret.Reveal(), m.ID, c.want)
		}
		if again := mint(t, c.spec); again.Secret == m.Secret || again.ID == m.ID {
			t.Errorf("%+v: two keys are the same", c.spec)
		}
	}
}

// The checksum that scanners compute is the one of the standard library.
func TestChecksumIsCRC32(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.String().Draw(t, "text")
		var n uint32
		for _, c := range AppendChecksum(nil, text) {
			n = n*62 + uint32(strings.IndexByte(alphabet, c))
		}
		if want := crc32.ChecksumIEEE([]byte(text)); n != want {
			t.Fatalf("checksum %d, want %d", n, want)
		}
	})
}

func TestMintRefusesWhatCouldNotBeParsed(t *testing.T) {
	t.Parallel()
	ps := testPeppers(t)
	for _, spec := range []Spec{
		{Prefix: "PST"}, {Prefix: "a_b"}, {Prefix: "1a"}, {Prefix: strings.Repeat("a", 17)},
		{Kind: "Key"}, {Kind: "k-y"}, {Environment: "Live"}, {Environment: "li ve"}, {Environment: "é"},
	} {
		if m, err := Mint(rand.Reader, spec, ps); err == nil {
			t.Errorf("%+v: minted a key with id %s", spec, m.ID)
		}
	}
	for _, none := range []*Peppers{nil, {}} {
		if _, err := Mint(rand.Reader, Spec{}, none); err == nil {
			t.Error("minted a key without a pepper")
		}
	}
}

// K-03: all 62 digits are equally likely. The same statistic must find the bias
// of a generator without rejection, or it would prove nothing.
func TestDigitsAreFair(t *testing.T) {
	t.Parallel()
	const symbols = 1_000_000
	// 61 degrees of freedom: above 170 once in 10^11 runs with a fair source. A
	// plain remainder prefers 8 digits by a quarter, which gives about 6,400.
	const limit = 170.0

	fair := make([]byte, symbols)
	for i := 0; i < symbols; i += IDLen + SecretLen {
		if err := randomDigits(rand.Reader, fair[i:min(i+IDLen+SecretLen, symbols)]); err != nil {
			// The last chunk may be too short to look random.
			if i+IDLen+SecretLen <= symbols {
				t.Fatal(err)
			}
			fair = fair[:i]
		}
	}
	biased := make([]byte, symbols)
	if _, err := io.ReadFull(rand.Reader, biased); err != nil {
		t.Fatal(err)
	}
	for i, c := range biased {
		biased[i] = alphabet[c%62]
	}

	if x := chiSquared(fair); x > limit {
		t.Errorf("χ² = %.1f over %d digits: they are not fair", x, len(fair))
	} else {
		t.Logf("χ² = %.1f over %d digits", x, len(fair))
	}
	if x := chiSquared(biased); x < limit {
		t.Errorf("χ² = %.1f for a biased generator: this test could not fail", x)
	}
}

func chiSquared(digits []byte) (x float64) {
	var counts [256]float64
	for _, c := range digits {
		counts[c]++
	}
	want := float64(len(digits)) / 62
	for _, c := range []byte(alphabet) {
		x += (counts[c] - want) * (counts[c] - want) / want
	}
	return x
}

// K-03: a random source that fails or is stuck gives an error, never a key.
func TestRandomFaultIsAnErrorNotAWeakKey(t *testing.T) {
	t.Parallel()
	broken := errors.New("the entropy device is on fire")
	for name, source := range map[string]io.Reader{
		"fails at once": iotest.ErrReader(broken),
		"fails later":   io.MultiReader(io.LimitReader(seeded("later"), 63), iotest.ErrReader(broken)),
		"ends":          io.LimitReader(seeded("ends"), 10),
		"zeros":         repeat{0},
		"ones":          repeat{0xff},
		"two values":    repeat{1, 2},
		"short period":  repeat{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11},
	} {
		m, err := Mint(source, Spec{}, testPeppers(t))
		if err == nil || !m.Secret.IsZero() || m.ID != "" || !m.Digest.IsZero() {
			t.Errorf("%s: got a key, error %v", name, err)
		}
	}
	if _, err := Mint(iotest.ErrReader(broken), Spec{}, testPeppers(t)); !errors.Is(err, broken) {
		t.Errorf("the cause is lost: %v", err)
	}
	// One byte at a time is slow, not wrong.
	if _, err := Mint(iotest.OneByteReader(seeded("slow")), Spec{}, testPeppers(t)); err != nil {
		t.Error(err)
	}
}

// repeat is a stuck random source.
type repeat []byte

func (r repeat) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = r[i%len(r)]
	}
	return len(b), nil
}

func TestParseReadsWhatMintWrites(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		word := rapid.StringMatching(`[a-z][a-z0-9]{0,15}`)
		spec := Spec{
			Prefix: word.Draw(t, "prefix"), Kind: Kind(word.Draw(t, "kind")),
			Environment: rapid.OneOf(rapid.Just(""), word).Draw(t, "environment"),
		}
		ps, err := NewPeppers([]Pepper{{1, policy.NewSecret(testPepper)}})
		if err != nil {
			t.Fatal(err)
		}
		m, err := Mint(seeded(rapid.String().Draw(t, "seed")), spec, ps)
		if err != nil {
			t.Fatal(err)
		}
		p, err := read(m.Secret.Reveal())
		want := Parts{spec.Prefix, spec.Kind, spec.Environment, m.ID}
		if err != nil || p != want {
			t.Fatalf("parsed %+v, %v; want %+v", p, err, want)
		}
	})
}

// read is parse with the checksum compared.
func read(text string) (Parts, error) {
	p, err := Parse(text)
	if err == nil && !ChecksumFits(text) {
		err = errors.New("checksum")
	}
	return p, err
}

// Every change of one character and every swap of two neighbours is noticed.
func TestParseFindsTypingErrors(t *testing.T) {
	t.Parallel()
	text := mint(t, Spec{Environment: "live"}).Secret.Reveal()
	for i := range len(text) {
		for c := range 256 {
			wrong := text[:i] + string([]byte{byte(c)}) + text[i+1:]
			if _, err := read(wrong); err == nil && wrong != text {
				t.Errorf("byte %d replaced by %q goes unnoticed", i, byte(c))
			}
		}
		if i+1 < len(text) && text[i] != text[i+1] {
			swapped := text[:i] + text[i+1:i+2] + text[i:i+1] + text[i+2:]
			if _, err := read(swapped); err == nil {
				t.Errorf("bytes %d and %d swapped go unnoticed", i, i+1)
			}
		}
	}
}

func TestParseIsStrict(t *testing.T) {
	t.Parallel()
	text := mint(t, Spec{Environment: "live"}).Secret.Reveal()
	head, tail := text[:len("pst_key_live")], text[len("pst_key_live"):]
	for _, wrong := range []string{
		"", "_", "pst", "pst_", "pst_key_", strings.Repeat("_", 75), strings.Repeat("0", 75),
		" " + text, text + " ", text + "\n", "\t" + text, text + "\x00", "Bearer " + text, text + text, text + "=",
		strings.ToUpper(text), text[:len(text)-1], text[8:],
		"pst" + tail, "pst_" + tail, "_key_live" + tail, "pst__live" + tail, "pst_key_" + tail,
		"pst_key_live_more" + tail, head + "_" + tail, head + tail[1:],
		"pst_key_Live" + tail, "pst_key_1ive" + tail, "pst_kéy_live" + tail,
		strings.Repeat("a", 17) + "_key" + tail, "pst_" + strings.Repeat("a", 17) + tail,
		strings.Repeat("a", 1<<20) + tail,
	} {
		// The checksum is repaired, so that it is the form that is refused.
		fixed := wrong
		if len(wrong) > ChecksumLen {
			fixed = string(AppendChecksum([]byte(wrong[:len(wrong)-ChecksumLen]), wrong[:len(wrong)-ChecksumLen]))
		}
		for _, w := range []string{wrong, fixed} {
			if p, err := read(w); err == nil {
				t.Errorf("%.90q is read as %+v", w, p)
			}
		}
	}
}

// K-15
func TestParseDoesNotAllocate(t *testing.T) {
	text := mint(t, Spec{Environment: "live"}).Secret.Reveal()
	for _, s := range []string{text, text[:len(text)-1] + "_", text[3:], "eyJhbGciOiJSUzI1NiJ9.e30.c2ln"} {
		if n := testing.AllocsPerRun(100, func() { _, _ = read(s) }); n != 0 {
			t.Errorf("%q: %v allocations", s, n)
		}
	}
}

// What is cut off or misspelt still begins as secrets do.
func TestBegins(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		text, prefix string
		want         bool
	}{
		{"acme_key_", "acme", true},
		{"acme_key_", "", true},
		{"acme_pat_live_0123", "acme", true},
		{"acme_ses_x", "acme", true},
		{"acme_key_", "pst", false},
		{"acme_key", "acme", false},
		{"acme_at_x", "acme", false},
		{"Acme_key_x", "", false},
		{"_key_x", "", false},
		{"", "", false},
		{"acme", "acme", false},
	} {
		if got := Begins(tt.text, tt.prefix); got != tt.want {
			t.Errorf("%q, %q: %v", tt.text, tt.prefix, got)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("pst_key_live_0123456789AB_0123456789012345678901234567890123456789012ABCDEF")
	for _, spec := range []Spec{{}, {Environment: "live"}, {Prefix: "a", Kind: "b", Environment: "c"}} {
		m, err := Mint(seeded("fuzz"), spec, testPeppers(f))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(m.Secret.Reveal())
	}
	f.Fuzz(func(t *testing.T, text string) {
		p, err := read(text)
		info, inspectErr := Inspect(text)
		if (err == nil) != (inspectErr == nil && info.ChecksumOK) {
			t.Fatalf("read says %v, Inspect %+v, %v", err, info, inspectErr)
		}
		found := 0
		for range Scan(strings.NewReader(text), DefaultPrefix) {
			found++
		}
		if err != nil {
			return
		}
		// There is one way to write what was read.
		head := p.Prefix + "_" + string(p.Kind)
		if p.Env != "" {
			head += "_" + p.Env
		}
		body := head + "_" + p.ID + "_" + text[len(text)-SecretLen-ChecksumLen:len(text)-ChecksumLen]
		if again := string(AppendChecksum([]byte(body), body)); again != text {
			t.Fatalf("%q is read as %q", text, again)
		}
		if p.Prefix == DefaultPrefix && found != 1 {
			t.Fatalf("Scan finds %d keys in %q", found, text)
		}
		if !bytes.ContainsAny([]byte(text), "_") {
			t.Fatal("a key without separators")
		}
	})
}
