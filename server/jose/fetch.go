package jose

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// fetched is a body that was fetched, and what its server says of its age.
type fetched struct {
	body []byte
	// maxAge is how long the server lets it be kept; negative if it does not say.
	maxAge time.Duration
}

// statusError is an answer other than 200.
type statusError int

func (e statusError) Error() string {
	if 300 <= e && e < 400 {
		return fmt.Sprintf("status %d: redirects are not followed", int(e))
	}
	return fmt.Sprintf("status %d, not 200", int(e))
}

// newClient returns a client that follows no redirect: where keys come from is
// for the configuration to say, not for whoever answers. It keeps no cookies.
func newClient(transport http.RoundTripper) *http.Client {
	return &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// get fetches a JSON document. The context bounds the whole of it, the last byte
// of the body included; MaxDocumentBytes bounds the body after decompression.
func get(ctx context.Context, client *http.Client, from *url.URL) (fetched, error) {
	got, err := tryGet(ctx, client, from)
	if err != nil {
		// The query may hold an API key of the issuer's.
		return fetched{}, fmt.Errorf("GET %s://%s%s: %w", from.Scheme, from.Host, from.EscapedPath(), err)
	}
	return got, nil
}

func tryGet(ctx context.Context, client *http.Client, from *url.URL) (fetched, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, from.String(), nil)
	if err != nil {
		return fetched{}, errors.New("it is not a URL")
	}
	request.Header.Set("Accept", "application/jwk-set+json, application/json")
	request.Header.Set("User-Agent", "postern")
	response, err := client.Do(request)
	if err != nil {
		// *url.Error repeats the URL with its query.
		if u := (*url.Error)(nil); errors.As(err, &u) {
			err = u.Err
		}
		return fetched{}, err
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return fetched{}, statusError(response.StatusCode)
	}
	if err := checkType(response.Header.Get("Content-Type")); err != nil {
		return fetched{}, err
	}
	if response.ContentLength > MaxDocumentBytes {
		return fetched{}, fmt.Errorf("%w: %d bytes, at most %d", ErrTooLarge, response.ContentLength, MaxDocumentBytes)
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, MaxDocumentBytes+1))
	if err != nil {
		return fetched{}, fmt.Errorf("reading the body: %w", err)
	}
	if len(body) > MaxDocumentBytes {
		return fetched{}, fmt.Errorf("%w: more than %d bytes", ErrTooLarge, MaxDocumentBytes)
	}
	return fetched{body, maxAge(response.Header)}, nil
}

// checkType refuses web pages: a login page or an error page with status 200 is
// the most frequent wrong answer, and this names it. Other types are accepted,
// since key servers send all kinds.
func checkType(contentType string) error {
	if strings.Contains(strings.ToLower(contentType), "html") {
		return fmt.Errorf("the answer is %s, not JSON", quote(contentType))
	}
	return nil
}

// maxAge returns for how long a response is fresh (RFC 9111 section 4.2.1),
// less the time that it already spent in a cache. The shortest of several
// answers counts; it is negative if there is none.
func maxAge(h http.Header) time.Duration {
	const none = time.Duration(-1)
	least := none
	for directive := range strings.SplitSeq(strings.Join(h.Values("Cache-Control"), ","), ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(directive), "=")
		age := none
		switch strings.ToLower(name) {
		case "no-store", "no-cache":
			age = 0
		case "max-age":
			age = deltaSeconds(strings.Trim(value, `"`))
		}
		if age >= 0 && (least < 0 || age < least) {
			least = age
		}
	}
	if spent := deltaSeconds(h.Get("Age")); least > 0 && spent > 0 {
		least = max(0, least-spent)
	}
	return least
}

// deltaSeconds reads a number of seconds (RFC 9111 section 1.2.2); -1 if it is
// none. What overflows is as good as ten years.
func deltaSeconds(text string) time.Duration {
	const tenYears = 10 * 365 * 24 * time.Hour
	n, err := strconv.ParseUint(text, 10, 64)
	switch {
	case errors.Is(err, strconv.ErrRange), err == nil && n > uint64(tenYears/time.Second):
		return tenYears
	case err != nil:
		return -1
	}
	return time.Duration(n) * time.Second
}

// parseEndpoint reads a URL from which something may be fetched.
func parseEndpoint(text string, cfg *SourceConfig) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil {
		// The error of the URL package repeats the text.
		return nil, errors.New("it is not a URL")
	}
	switch {
	case u.Scheme == "http" && !cfg.InsecureAllowHTTP:
		return nil, errors.New("it is not https; insecure_allow_http permits that")
	case u.Scheme != "https" && u.Scheme != "http":
		return nil, errors.New("it is not an https URL")
	case u.Opaque != "" || u.Hostname() == "":
		return nil, errors.New("it has no host")
	case u.User != nil:
		return nil, errors.New("it holds a user name or password")
	case u.Fragment != "" || strings.Contains(text, "#"):
		return nil, errors.New("it has a fragment")
	}
	if port := u.Port(); port != "" {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return nil, errors.New("its port is not a number from 1 to 65535")
		}
	}
	if ip, err := netip.ParseAddr(u.Hostname()); err == nil {
		if err := checkAddress(ip, cfg.InsecureAllowPrivateAddresses); err != nil {
			return nil, err
		}
	}
	return u, nil
}

// sameOrigin compares scheme, host and port (RFC 6454 section 4).
func sameOrigin(a, b *url.URL) bool {
	return a.Scheme == b.Scheme && strings.EqualFold(a.Hostname(), b.Hostname()) && portOf(a) == portOf(b)
}

func portOf(u *url.URL) string {
	switch {
	case u.Port() != "":
		return u.Port()
	case u.Scheme == "http":
		return "80"
	}
	return "443"
}
