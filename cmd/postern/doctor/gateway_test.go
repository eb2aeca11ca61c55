package doctor

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/postern-auth/postern/policy"
)

const goodKey = "a-key-that-is-good"

// through is what is found through a gateway while Postern itself cannot be asked.
func through(t testing.TB, gateway http.HandlerFunc, credential ...Field) []Finding {
	t.Helper()
	g := httptest.NewServer(gateway)
	defer g.Close()
	x := &examination{Question: Question{URL: g.URL + "/orders/7", Credential: credential}}
	x.Server.Timeout = time.Minute
	x.lookThroughGateway(t.Context())
	if strings.Contains(lines(x.found), goodKey) {
		t.Errorf("the credential stands in a finding: %v", x.found)
	}
	return x.found
}

// What an answer through a gateway means, where nobody else says what it should be. With
// Postern to ask, the tests of the command look through real ones.
func TestLooksThroughGateways(t *testing.T) {
	t.Parallel()
	good := Field{"X-Api-Key", policy.NewSecret(goodKey)}
	holds := func(r *http.Request) bool { return r.Header.Get("X-Api-Key") == goodKey }
	guarded := func(answer func(http.ResponseWriter, *http.Request)) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if !holds(r) {
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			answer(w, r)
		}
	}
	for name, c := range map[string]struct {
		gateway    http.HandlerFunc
		credential []Field
		worst      Level
		want       string
	}{
		"good":               {guarded(func(http.ResponseWriter, *http.Request) {}), []Field{good}, OK, "ok gateway: your credential: status 200"},
		"no credential":      {guarded(nil), nil, OK, "skipped gateway: a good credential was not tried"},
		"asks nobody":        {func(http.ResponseWriter, *http.Request) {}, nil, Problem, "no credential: status 200: the gateway lets requests through"},
		"cannot ask":         {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) }, nil, Problem, "status 502, which is no decision"},
		"refuses everything": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) }, []Field{good}, Problem, "your credential: status 403; does the gateway pass"},
		"repeats identities": {guarded(func(w http.ResponseWriter, r *http.Request) { w.Header().Set("X-Told", r.Header.Get("X-Auth-User")) }), []Field{good}, Problem, "that the client sent reaches the service"},
		"believes any proxy": {func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Proxy-Authorization") == "" {
				w.WriteHeader(http.StatusUnauthorized)
			}
		}, nil, Problem, "a false credential in proxy-authorization: status 200: it was let through"},
		"matches a prefix": {func(w http.ResponseWriter, r *http.Request) {
			if strings.HasPrefix(r.RequestURI, "/orders") {
				w.WriteHeader(http.StatusUnauthorized)
			}
		}, nil, Problem, "a doubled slash (//orders/7): status 200"},
		"breaks off":   {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, nil, Problem, "does not answer: what came back is not HTTP"},
		"a line break": {guarded(nil), []Field{{"X-Api-Key", policy.NewSecret("one\r\nX-Two: " + goodKey)}}, Problem, "your credential: no answer: a header field has a line break"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			found := through(t, c.gateway, c.credential...)
			if text := lines(found); Worst(found) != c.worst || !strings.Contains(text, c.want) {
				t.Errorf("%s", text)
			}
		})
	}
}

// Paths arrive as they are written: whoever tidies them up sees nothing.
func TestSendsPathsAsTheyAre(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var arrived []string
	through(t, func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		arrived = append(arrived, r.RequestURI)
		w.WriteHeader(http.StatusUnauthorized)
	})
	for _, form := range pathForms("/orders/7") {
		if !slices.Contains(arrived, form.path) {
			t.Errorf("%s did not arrive as %s", form.what, form.path)
		}
	}
}

// What is no URL is said to be none, and not repeated: there may be a password in it.
func TestLooksThroughNoURL(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"http://ann:" + goodKey + "@[", "%"} {
		x := &examination{Question: Question{URL: text}}
		x.lookThroughGateway(t.Context())
		if Worst(x.found) != Problem || strings.Contains(lines(x.found), goodKey) {
			t.Errorf("%q: %v", text, x.found)
		}
	}
	x := &examination{}
	x.Server.Timeout = time.Minute
	if _, _, err := x.send(t.Context(), &url.URL{Scheme: "http", Host: "127.0.0.1:1"}, probe{path: "/"}); err == nil {
		t.Error("nobody answered")
	}
}
