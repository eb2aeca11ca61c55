package doctor

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/postern-auth/postern/server"
)

// wiring is a configuration in a directory of its own, and a question about it that asks
// nobody.
type wiring struct {
	dir string
	ask Question
}

func newWiring(t testing.TB) wiring {
	t.Helper()
	w := wiring{dir: t.TempDir()}
	if err := os.CopyFS(w.dir, os.DirFS(filepath.Join("testdata", "wiring"))); err != nil {
		t.Fatal(err)
	}
	w.ask = Question{File: w.path("postern.yaml"), Offline: true}
	var err error
	if w.ask.Config, err = server.LoadConfig(w.ask.File); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w wiring) path(name string) string { return filepath.Join(w.dir, filepath.FromSlash(name)) }

// lines are findings as a person reads them.
func lines(found []Finding) string {
	var all strings.Builder
	for _, f := range found {
		fmt.Fprintf(&all, "%s %s: %s; %s\n", f.Level, f.About, f.Text, f.Hint)
	}
	return all.String()
}

// at is an examination at a time.
func at(now time.Time) *examination {
	return &examination{Question: Question{Now: func() time.Time { return now }}}
}

// Offline, nobody is asked whatever the question names, and what the check of the
// configuration says is told line by line.
func TestExamineOffline(t *testing.T) {
	t.Parallel()
	asked := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { t.Errorf("somebody asks for %s", r.URL) }))
	defer asked.Close()
	w := newWiring(t)
	w.ask.Config.OnFault, w.ask.Config.Plaintext.InsecureAccept, w.ask.Config.Upstream.InsecureKeepCredential = "error_response", true, true
	w.ask.Faults = []error{errors.New("line 2: one\n  the line itself"), errors.New("line 3: two")}
	w.ask.URL, w.ask.EnvoyAdmin, w.ask.Admin, w.ask.Gateway = asked.URL, asked.URL, asked.Listener.Addr().String(), asked.Listener.Addr().String()
	w.ask.Server.Address = asked.Listener.Addr().String()
	text := lines(Examine(t.Context(), w.ask))
	for _, want := range []string{
		"problem config: line 2: one; `postern config check", "problem config: line 3: two; ", "skipped server: not asked: --offline",
		"warning config: on_fault is error_response", "warning config: plaintext.insecure_accept", "warning config: upstream.insecure_keep_credential",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("it does not say %q but:\n%s", want, text)
		}
	}
	if strings.Contains(text, "the line itself") {
		t.Error(text)
	}
}

// A configuration that cannot be read leaves the rest to be looked at.
func TestExamineWithoutConfig(t *testing.T) {
	t.Parallel()
	found := Examine(t.Context(), Question{File: "postern.yaml", Faults: []error{errors.New("nothing")}, Offline: true, EnvoyConfig: filepath.Join("..", "..", "..", "deploy", "envoy", "envoy.yaml")})
	if text := lines(found); Worst(found) != Problem || !strings.Contains(text, "ok envoy: asks as it should") {
		t.Error(text)
	}
}

// The zero value of what was found is that nothing is wrong; a warning is less than a problem.
func TestWorst(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		levels []Level
		want   Level
	}{{nil, OK}, {[]Level{Skipped, OK}, OK}, {[]Level{OK, Warning}, Warning}, {[]Level{Problem, Warning, OK}, Problem}} {
		var found []Finding
		for _, l := range c.levels {
			found = append(found, Finding{Level: l})
		}
		if got := Worst(found); got != c.want {
			t.Errorf("%v: %s", c.levels, got)
		}
	}
}
