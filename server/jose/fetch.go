package jose

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/postern-auth/postern/server/outbound"
	"github.com/postern-auth/postern/server/regular"
)

// fetched is a body that was fetched, and what its server says of its age.
type fetched struct {
	body []byte
	// maxAge is how long the server lets it be kept; negative if it does not say.
	maxAge time.Duration
}

// get fetches a JSON document. The context bounds the whole of it, the last byte
// of the body included; MaxDocumentBytes bounds the body after decompression.
func get(ctx context.Context, client *http.Client, from *url.URL) (fetched, error) {
	got, err := tryGet(ctx, client, from)
	if err != nil {
		return fetched{}, fmt.Errorf("GET %s: %w", outbound.Name(from), err)
	}
	return got, nil
}

func tryGet(ctx context.Context, client *http.Client, from *url.URL) (fetched, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, from.String(), nil)
	if err != nil {
		return fetched{}, errors.New("it is not a URL")
	}
	request.Header.Set("Accept", "application/jwk-set+json, application/json")
	response, err := outbound.Do(client, request)
	if err != nil {
		return fetched{}, err
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return fetched{}, outbound.StatusError(response.StatusCode)
	}
	// Other types than a web page's are accepted: key servers send all kinds.
	if contentType := response.Header.Get("Content-Type"); outbound.IsHTML(contentType) {
		return fetched{}, fmt.Errorf("the answer is %s, not JSON", quote(contentType))
	}
	body, err := outbound.ReadBody(response, MaxDocumentBytes)
	if err != nil {
		return fetched{}, tooLarge(err)
	}
	return fetched{body, maxAge(response.Header)}, nil
}

// tooLarge makes an error of what is longer than MaxDocumentBytes one of this
// package's.
func tooLarge(err error) error {
	if errors.Is(err, outbound.ErrTooLarge) || errors.Is(err, regular.ErrTooLarge) {
		return fmt.Errorf("%w: %w", ErrTooLarge, err)
	}
	return err
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
