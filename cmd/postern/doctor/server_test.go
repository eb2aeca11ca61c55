package doctor

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/postern-auth/postern/server"
)

// A clock that is off is told, and the second that a Date field leaves open is not.
func TestLooksAtClocks(t *testing.T) {
	t.Parallel()
	asked := time.Date(2026, 11, 21, 12, 0, 0, 700_000_000, time.UTC)
	for _, c := range []struct {
		off  time.Duration
		want Level
	}{{0, ""}, {-time.Second, ""}, {3 * time.Second, ""}, {20 * time.Second, Warning}, {-time.Hour, Problem}, {time.Hour, Problem}} {
		x := at(asked.Add(100 * time.Millisecond))
		x.lookAtClock("server", "it", http.Header{"Date": {asked.Add(c.off).Format(http.TimeFormat)}}, asked)
		if c.want == "" && len(x.found) > 0 || c.want != "" && (len(x.found) != 1 || x.found[0].Level != c.want) {
			t.Errorf("%s: %v", c.off, x.found)
		}
	}
}

// What the admin listener says of itself, condition by condition, and what is none.
func TestLooksAtAdmin(t *testing.T) {
	t.Parallel()
	page := `{"conditions":[{"name":"running","ready":true},{"name":"store","detail":"not heard of for 3s","ready":true},{"name":"keys","ready":false}]}`
	admin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Header.Get("Authorization") != "Bearer a-token":
			w.WriteHeader(http.StatusForbidden)
		case r.URL.Path == "/readyz":
			_, _ = w.Write([]byte(page))
		case r.URL.Path == "/metrics":
			_, _ = w.Write([]byte("postern_trace_failed 1\n"))
		}
	}))
	defer admin.Close()
	x := at(time.Now())
	x.Server.Timeout, x.Server.TokenFile = time.Minute, filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(x.Server.TokenFile, []byte("a-token\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	x.lookAtAdmin(t.Context(), admin.Listener.Addr().String(), false)
	text := lines(x.found)
	for _, want := range []string{"ok ready: running", "warning ready: store: not heard of for 3s", "problem ready: keys is not ready", "warning metrics: traces cannot be sent"} {
		if !strings.Contains(text, want) {
			t.Errorf("it does not say %q but:\n%s", want, text)
		}
	}
	other := httptest.NewServer(http.NotFoundHandler())
	defer other.Close()
	x = at(time.Now())
	x.Server.Timeout = time.Minute
	if x.lookAtAdmin(t.Context(), other.Listener.Addr().String(), false); !strings.Contains(lines(x.found), "is not the admin listener of a Postern") {
		t.Error(x.found)
	}
}

// The address of a listener is one that can be asked.
func TestPlaceOf(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ flag, configured, want string }{
		{"a:1", "127.0.0.1:2", "a:1"}, {"", "127.0.0.1:2", "127.0.0.1:2"}, {"", "0.0.0.0:2", "127.0.0.1:2"}, {"", "[::]:2", "127.0.0.1:2"},
		{"", "unix:///run/postern.sock", "unix:///run/postern.sock"}, {"", "off", ""},
	} {
		var configured server.Address
		if err := configured.UnmarshalText([]byte(c.configured)); err != nil {
			t.Fatal(err)
		}
		if got := placeOf(c.flag, configured); got != c.want {
			t.Errorf("%q, %s: %q", c.flag, c.configured, got)
		}
	}
}
