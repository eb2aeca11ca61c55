package doctor

import (
	"os"
	"strings"
	"testing"
)

// Who else can read secrets, or change what decides.
func TestLooksAtFiles(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(t *testing.T, w wiring)
		want   string
	}{
		"as it should be":      {func(*testing.T, wiring) {}, ""},
		"a readable secret":    {func(t *testing.T, w wiring) { chmod(t, w.path("pepper"), 0o644) }, "everybody on this machine can read"},
		"writable keys":        {func(t *testing.T, w wiring) { chmod(t, w.path("keys.yaml"), 0o666) }, "api_keys.file: everybody on this machine can change"},
		"a writable policy":    {func(t *testing.T, w wiring) { chmod(t, w.path("policy/authz.rego"), 0o666) }, "policy.path: everybody on this machine can change"},
		"a writable directory": {func(t *testing.T, w wiring) { chmod(t, w.dir, 0o777) }, "everybody on this machine can replace"},
		"behind a closed door": {func(t *testing.T, w wiring) { chmod(t, w.path("pepper"), 0o666); chmod(t, w.dir, 0o700) }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWiring(t)
			chmod(t, w.dir, 0o755)
			for _, of := range []string{"pepper", "keys.yaml", "postern.yaml"} {
				chmod(t, w.path(of), 0o600)
			}
			if !reachable(w.path("pepper")) {
				t.Skip("nobody else can come as far as the directory of this test")
			}
			c.change(t, w)
			out := lines(Examine(t.Context(), w.ask))
			if c.want == "" && !strings.Contains(out, "ok files") || c.want != "" && !strings.Contains(out, c.want) {
				t.Error(out)
			}
		})
	}
}

func chmod(t *testing.T, name string, mode os.FileMode) {
	t.Helper()
	if err := os.Chmod(name, mode); err != nil {
		t.Fatal(err)
	}
}
