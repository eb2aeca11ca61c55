package bundle

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/postern-auth/postern/server/strictyaml"
)

// Upload says where a service takes decisions, as OPA's decision_logs plugin sends
// them.
type Upload struct {
	// URL takes a POST of a gzipped JSON array of events: that of OPA's service with
	// /logs. https, or http on loopback. Danger: do not put secrets in the URL.
	URL string `yaml:"url,required"`
	// Credentials are shown to the service.
	Credentials Credentials `yaml:"credentials"`
	// CAFile is a PEM file of the authorities that the service's certificate must come
	// from. Default: those of the system.
	CAFile strictyaml.Path `yaml:"ca_file"`
	// InsecureHTTP sends decisions and credentials without TLS. Danger: who sees the
	// packets sees who did what, and has the credentials.
	InsecureHTTP bool `yaml:"insecure_http"`
	// Timeout bounds one upload, 1s to 10m. Default 30s.
	Timeout time.Duration `yaml:"timeout"`
	// ChunkSize is the largest body of an upload after compression, 4KiB to 16MiB.
	// Default 32KiB, as in OPA.
	ChunkSize strictyaml.Size `yaml:"chunk_size"`
	// Delay is how long a decision waits for others to be sent with, up to 10m.
	// Default 5s.
	Delay time.Duration `yaml:"delay"`
}

// SetDefaults implements strictyaml.Defaulter.
func (u *Upload) SetDefaults() {
	u.Timeout, u.ChunkSize, u.Delay = 30*time.Second, 32*strictyaml.KiB, 5*time.Second
}

// Check implements strictyaml.Checker.
func (u *Upload) Check(report func(path, message, suggestion string)) {
	at, err := url.Parse(u.URL)
	if err != nil || at.Scheme != "http" && at.Scheme != "https" || at.Host == "" || at.User != nil || at.Fragment != "" {
		report("url", "is no http or https URL without user and fragment", "write it as https://control.example.com/logs")
	} else if at.Scheme == "http" && !u.InsecureHTTP && !isLoopback(at.Hostname()) {
		report("url", "decisions would be sent in plaintext", "use https")
	}
	if u.Timeout < time.Second || u.Timeout > 10*time.Minute {
		report("timeout", fmt.Sprintf("is %s, from 1s to 10m is accepted", u.Timeout), "leave it out for 30s")
	}
	if u.ChunkSize < 4*strictyaml.KiB || u.ChunkSize > 16*strictyaml.MiB {
		report("chunk_size", "from 4KiB to 16MiB is accepted", "leave it out for 32KiB")
	}
	if u.Delay < 0 || u.Delay > 10*time.Minute {
		report("delay", fmt.Sprintf("is %s, up to 10m is accepted", u.Delay), "leave it out for 5s")
	}
	u.Credentials.check(&Bundle{URL: u.URL}, report)
}

// Uploader sends to one service.
type Uploader struct {
	client  *client
	url     string
	timeout time.Duration
}

// NewUploader makes an Uploader. It asks nobody.
func NewUploader(u Upload) (*Uploader, error) {
	// A service that sends us elsewhere would be followed with a GET, or with our
	// decisions: no host is allowed to.
	c, err := newClient(&Bundle{Name: "decisions", URL: u.URL, Credentials: u.Credentials, CAFile: u.CAFile}, u.URL)
	if err != nil {
		return nil, err
	}
	c.http.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &Uploader{client: c, url: u.URL, timeout: u.Timeout}, nil
}

// maxReply is how much of an answer is read, so that the connection can be used again.
const maxReply = 4 << 10

// Post sends one chunk. It is refused if the service says that no other attempt will
// do: that the chunk is malformed or too large.
func (u *Uploader) Post(ctx context.Context, chunk []byte) (refused bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, u.timeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, u.url, bytes.NewReader(chunk))
	if err != nil {
		return false, withoutURL(err)
	}
	request.Header.Set("User-Agent", "postern")
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Content-Encoding", "gzip")
	response, err := u.client.do(request)
	if err != nil {
		return false, err
	}
	defer response.Body.Close()
	_, _ = io.CopyN(io.Discard, response.Body, maxReply)
	switch code := response.StatusCode; code {
	case http.StatusOK, http.StatusCreated, http.StatusAccepted, http.StatusNoContent:
		return false, nil
	case http.StatusBadRequest, http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType, http.StatusUnprocessableEntity:
		return true, fmt.Errorf("the service refuses decisions with %d %s", code, http.StatusText(code))
	default:
		return false, fmt.Errorf("the service answers %d %s", code, http.StatusText(code))
	}
}

// Close closes connections that nobody uses.
func (u *Uploader) Close() { u.client.close() }
