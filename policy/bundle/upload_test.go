package bundle_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/policy/bundle"
)

func upload(t *testing.T, url string) bundle.Upload {
	t.Helper()
	u := bundle.Upload{URL: url, Credentials: bundle.Credentials{Bearer: policy.NewSecret("correct-horse")}}
	u.SetDefaults()
	return u
}

// A chunk is posted with the credentials; what answers tell it apart: taken, never to be
// taken, and to be tried again. Nobody is followed elsewhere, and no error shows the URL.
func TestUpload(t *testing.T) {
	t.Parallel()
	var elsewhere bool
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { elsewhere = true }))
	defer other.Close()
	for status, want := range map[int]string{
		200: "taken", 202: "taken", 204: "taken", 400: "refused", 413: "refused", 415: "refused", 422: "refused",
		401: "again", 403: "again", 404: "again", 408: "again", 429: "again", 500: "again", 503: "again", 301: "again", 302: "again", 307: "again", 304: "again",
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			if r.Method != http.MethodPost || string(body) != "chunk" || r.Header.Get("Authorization") != "Bearer correct-horse" || r.Header.Get("Content-Encoding") != "gzip" {
				t.Errorf("%s %v %q", r.Method, r.Header, body)
			}
			w.Header().Set("Location", other.URL)
			w.WriteHeader(status)
		}))
		u, err := bundle.NewUploader(upload(t, server.URL+"/logs?key=hunter2"))
		if err != nil {
			t.Fatal(err)
		}
		refused, err := u.Post(t.Context(), []byte("chunk"))
		got := "taken"
		if refused {
			got = "refused"
		} else if err != nil {
			got = "again"
		}
		if got != want || err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%d: %s, want %s: %v", status, got, want, err)
		}
		u.Close()
		server.Close()
		if refused, err := u.Post(t.Context(), []byte("chunk")); refused || err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("a server that is gone: %v %v", refused, err)
		}
	}
	if elsewhere {
		t.Error("decisions went where the server pointed")
	}
}

// A service that never answers is given up on.
func TestUploadTimeout(t *testing.T) {
	t.Parallel()
	end := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-end }))
	defer server.Close()
	defer close(end)
	c := upload(t, server.URL)
	c.Timeout = 20 * time.Millisecond
	u, err := bundle.NewUploader(c)
	if err != nil {
		t.Fatal(err)
	}
	if refused, err := u.Post(t.Context(), []byte("chunk")); refused || err == nil {
		t.Error(refused, err)
	}
}
