package bundle

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/postern-auth/postern/server/regular"
)

// fetcher gets the bytes of one bundle from where it is. The etag is what an answer
// said about the bytes that are in force, or "". With a wait, the answer may take
// so long if there is nothing new. It returns at most limit bytes: more is an error.
type fetcher interface {
	fetch(ctx context.Context, etag string, wait time.Duration) (*answer, error)
	close()
}

// answer is what a fetcher got.
type answer struct {
	body []byte // nil: what the etag named is still the newest
	etag string
	held bool // the server knows how to wait
}

// Bounds of what servers send besides bundles.
const (
	maxHeaders   = 64 << 10
	maxETag      = 1 << 10
	maxRedirects = 5
)

func newFetcher(b *Bundle, limit int64) (fetcher, error) {
	switch {
	case b.File != "":
		return &fileFetcher{path: string(b.File), limit: limit}, nil
	case b.OCI != "":
		return newRegistry(b, limit)
	}
	c, err := newClient(b, b.URL)
	if err != nil {
		return nil, err
	}
	return &httpFetcher{client: c, url: b.URL, limit: limit}, nil
}

// httpFetcher asks a server with If-None-Match and, for long polling, Prefer, as OPA
// does.
type httpFetcher struct {
	*client
	url   string
	limit int64
}

// longPollType is the content type by which a server says that it can wait.
const longPollType = "application/vnd.openpolicyagent.bundles"

func (f *httpFetcher) fetch(ctx context.Context, etag string, wait time.Duration) (*answer, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, f.url, nil)
	if err != nil {
		return nil, withoutURL(err)
	}
	request.Header.Set("User-Agent", "postern")
	prefer := "modes=snapshot"
	if wait > 0 {
		prefer += fmt.Sprintf(";wait=%d", int(wait.Seconds()))
	}
	request.Header.Set("Prefer", prefer)
	if etag != "" {
		request.Header.Set("If-None-Match", etag)
	}
	response, err := f.do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	got := response.Header.Get("ETag")
	a := &answer{etag: got, held: response.Header.Get("Content-Type") == longPollType}
	switch {
	case response.StatusCode == http.StatusNotModified:
		a.etag, a.held = etag, wait > 0
		return a, isAnswerTo(etag, got)
	case response.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("the server answers %d %s", response.StatusCode, http.StatusText(response.StatusCode))
	case len(got) > maxETag:
		a.etag = ""
	}
	a.body, err = readBody(response, f.limit)
	return a, err
}

// isAnswerTo holds a 304 against what was asked. One that was not asked for, or that
// is about other bytes, says nothing about ours.
func isAnswerTo(asked, got string) error {
	switch {
	case asked == "":
		return errors.New("the server answers 304, and nothing was asked for that could be unchanged")
	case got != "" && strings.TrimPrefix(got, "W/") != strings.TrimPrefix(asked, "W/"):
		return errors.New("the server answers 304 about another bundle than the one that was asked for")
	}
	return nil
}

// readBody reads what fits.
func readBody(response *http.Response, limit int64) ([]byte, error) {
	if response.ContentLength > limit {
		return nil, fmt.Errorf("%w: the server sends %d bytes", errTooMuch, response.ContentLength)
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, limit+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("the download was cut off after %d bytes: %w", len(body), err)
	case int64(len(body)) > limit:
		return nil, fmt.Errorf("%w: the server sends more than %d bytes", errTooMuch, limit)
	case body == nil:
		body = []byte{} // nil says that nothing changed
	}
	return body, nil
}

// mayRedirect follows redirects on the server itself and, with https, to the hosts
// that the configuration names. Anything else could be a way to servers inside.
func (b *Bundle) mayRedirect(next *http.Request, before []*http.Request) error {
	first := before[0].URL
	switch {
	case len(before) > maxRedirects:
		return fmt.Errorf("the server redirects more than %d times", maxRedirects)
	case next.URL.User != nil:
	case next.URL.Scheme == first.Scheme && hostPort(next.URL) == hostPort(first):
		return nil
	case next.URL.Scheme == "https" && (b.allows(next.URL) || next.URL.Host == first.Host):
		return nil
	}
	return fmt.Errorf("the server redirects to %.200q; name the host in allowed_hosts if that is meant", next.URL.Scheme+"://"+next.URL.Host)
}

func (b *Bundle) allows(u *url.URL) bool {
	for _, pattern := range b.AllowedHosts {
		if pattern.Match(strings.ToLower(u.Hostname())) {
			return true
		}
	}
	return false
}

// withoutURL takes the URL out of an error: its query may be a secret.
func withoutURL(err error) error {
	if e, ok := errors.AsType[*url.Error](err); ok {
		return e.Err
	}
	return err
}

// fileFetcher looks at a file on disk.
type fileFetcher struct {
	path  string
	limit int64

	mu    sync.Mutex
	last  os.FileInfo // of what was seen
	stamp string      // changes when the file does
}

func (*fileFetcher) close() {}

func (f *fileFetcher) fetch(_ context.Context, etag string, _ time.Duration) (*answer, error) {
	stamp, err := f.look()
	if err != nil {
		return nil, err
	}
	if stamp == etag {
		return &answer{etag: etag}, nil
	}
	body, err := readFile(f.path, f.limit)
	if err != nil {
		return nil, err
	}
	if again, err := f.look(); err != nil || again != stamp {
		return nil, errors.New("the file changed while it was read")
	}
	return &answer{body: body, etag: stamp}, nil
}

// look returns the stamp of the file as it is now.
func (f *fileFetcher) look() (string, error) {
	info, err := os.Stat(f.path)
	if err != nil {
		return "", err
	}
	if !info.Mode().IsRegular() {
		return "", fmt.Errorf("%s is no regular file; a directory goes into policy.path", f.path)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.last == nil || !os.SameFile(f.last, info) || f.last.Size() != info.Size() || !f.last.ModTime().Equal(info.ModTime()) {
		f.last, f.stamp = info, rand.Text()
	}
	return f.stamp, nil
}

func readFile(path string, limit int64) ([]byte, error) {
	body, err := regular.ReadFile(path, limit)
	if errors.Is(err, regular.ErrTooLarge) {
		return nil, fmt.Errorf("%w: %w", errTooMuch, err)
	}
	return body, err
}
