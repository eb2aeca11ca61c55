package apikey

import (
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"strings"
	"testing"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/seal"
)

// testPepper is a pepper for tests.
const testPepper = "an old, brown pepper mill of 32 bytes or more"

func testPeppers(t testing.TB) *seal.Peppers {
	t.Helper()
	ps, err := NewPeppers(Config{Pepper: policy.NewSecret(testPepper)})
	if err != nil {
		t.Fatal(err)
	}
	return ps
}

// seeded is a random source that gives the same bytes in every run.
func seeded(name string) io.Reader {
	var seed [32]byte
	copy(seed[:], name)
	return mathrand.NewChaCha8(seed)
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
		{"several", Config{Peppers: []seal.Pepper{{Version: 2, Secret: good}, {Version: 1, Secret: good}}}, ""},
		{"short", Config{Pepper: short}, "pepper: has 9 bytes"},
		{"both", Config{Pepper: good, Peppers: []seal.Pepper{{Version: 2, Secret: good}}}, "set one of the two"},
		{"same version", Config{Peppers: []seal.Pepper{{Version: 1, Secret: good}, {Version: 1, Secret: good}}}, "peppers[1].version: 1 occurs twice"},
		{"too many", Config{Peppers: make([]seal.Pepper, 17)}, "peppers: at most 16"},
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
	cfg := Config{Pepper: policy.NewSecret(testPepper)}
	a, err := New(cfg, Deps{})
	if err != nil {
		t.Fatal(err)
	}
	if text := fmt.Sprintf("%v %+v %#v %v %+v %#v", a, a, a, cfg, cfg, cfg); strings.Contains(text, testPepper) {
		t.Errorf("%q shows the pepper", text)
	}
}
