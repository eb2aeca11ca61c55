package wellknown_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/door/wellknown"
	"github.com/postern-auth/postern/server/jose"
	"github.com/postern-auth/postern/server/signer"
)

// G-02: upstreams fetch the keys over HTTP, keep them for a while, and get the new ones
// after a reload without a restart.
func TestKeySet(t *testing.T) {
	t.Parallel()
	var current *signer.Signer
	h := wellknown.KeySet(func() []byte {
		if current == nil {
			return nil
		}
		return current.KeySet()
	})
	ask := func(method, etag string) *httptest.ResponseRecorder {
		r, w := httptest.NewRequest(method, wellknown.KeySetPath, nil), httptest.NewRecorder()
		if etag != "" {
			r.Header.Set("If-None-Match", etag)
		}
		h.ServeHTTP(w, r)
		return w
	}
	if w := ask("GET", ""); w.Code != http.StatusNotFound {
		t.Errorf("nothing is configured, and it answers %d", w.Code)
	}
	set := func(ids ...string) {
		cfg := signer.Config{Issuer: "https://auth.example.com"}
		for _, id := range ids {
			cfg.Keys = append(cfg.Keys, signer.KeyConfig{ID: id, Key: policy.NewSecret(strings.Repeat(id, 32)[:42] + "A")})
		}
		s, err := signer.New(cfg, signer.Deps{})
		if err != nil {
			t.Fatal(err)
		}
		current = s
	}
	set("k1")
	first := ask("GET", "")
	etag := first.Header().Get("ETag")
	if first.Code != http.StatusOK || first.Header().Get("Content-Type") != "application/jwk-set+json" ||
		first.Header().Get("Cache-Control") != "public, max-age=300" || etag == "" {
		t.Errorf("%d %v", first.Code, first.Header())
	}
	if keys, warnings, err := jose.ParseKeySet(first.Body.Bytes()); err != nil || len(warnings) > 0 || keys.Len() != 1 {
		t.Errorf("%v %v", warnings, err)
	}
	if w := ask("GET", etag); w.Code != http.StatusNotModified || w.Body.Len() > 0 {
		t.Errorf("the same set is sent again: %d", w.Code)
	}
	if w := ask("HEAD", ""); w.Code != http.StatusOK || w.Body.Len() > 0 {
		t.Errorf("HEAD: %d, %d bytes", w.Code, w.Body.Len())
	}
	for _, method := range []string{"POST", "PUT", "DELETE", "OPTIONS"} {
		if w := ask(method, ""); w.Code != http.StatusMethodNotAllowed || w.Header().Get("Allow") == "" {
			t.Errorf("%s: %d", method, w.Code)
		}
	}
	set("k1", "k2")
	if w := ask("GET", etag); w.Code != http.StatusOK || !strings.Contains(w.Body.String(), `"k2"`) {
		t.Errorf("the new key is not published: %d", w.Code)
	}
}
