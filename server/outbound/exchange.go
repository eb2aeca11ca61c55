package outbound

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
)

// StatusError is an answer whose status is not the one that was needed. It names the
// number only: the phrase comes from whoever answered.
type StatusError int

// Error says which status it was, and of a redirect that it was not followed.
func (e StatusError) Error() string {
	if 300 <= e && e < 400 {
		return fmt.Sprintf("status %d: redirects are not followed", int(e))
	}
	return fmt.Sprintf("status %d, not 200", int(e))
}

// Do sends a request that was made for this client. The caller closes the answer's
// body. Errors keep their cause, but not the URL, whose query may hold a key.
func Do(client *http.Client, request *http.Request) (*http.Response, error) {
	request.Header.Set("User-Agent", "postern")
	response, err := client.Do(request)
	if err != nil {
		return nil, withoutURL(err)
	}
	return response, nil
}

// withoutURL removes the *url.Error, which repeats the URL with its query.
func withoutURL(err error) error {
	if u := (*url.Error)(nil); errors.As(err, &u) {
		return u.Err
	}
	return err
}

// ReadBody reads the body of an answer up to the limit in bytes, after decompression.
// The error is ErrTooLarge, or that of the connection.
func ReadBody(response *http.Response, limit int64) ([]byte, error) {
	if response.ContentLength > limit {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", ErrTooLarge, response.ContentLength, limit)
	}
	data, err := readAll(response.Body, limit)
	if err != nil && !errors.Is(err, ErrTooLarge) {
		err = fmt.Errorf("reading the body: %w", err)
	}
	return data, err
}

// IsHTML reports whether a Content-Type is that of a web page: a login page or an
// error page with status 200 is the most frequent wrong answer.
func IsHTML(contentType string) bool { return strings.Contains(strings.ToLower(contentType), "html") }

// Name returns a URL as logs and errors show it: scheme, host and path. The query may
// hold a key.
func Name(u *url.URL) string { return fmt.Sprintf("%s://%s%s", u.Scheme, u.Host, u.EscapedPath()) }

// IsNetwork reports whether an error of Do or ReadBody says that the other side could
// not be talked to: no such host, no connection, a broken one, out of time. It is
// false if the other side must not be talked to (ErrAddress, a certificate that does
// not hold, its refusal of ours), and if the caller itself gave up.
func IsNetwork(err error) bool {
	var (
		certificate *tls.CertificateVerificationError
		authority   x509.UnknownAuthorityError
		hostname    x509.HostnameError
		invalid     x509.CertificateInvalidError
		record      tls.RecordHeaderError
		operation   *net.OpError
		network     net.Error
	)
	switch {
	case err == nil, errors.Is(err, ErrAddress), errors.Is(err, ErrTooLarge), errors.Is(err, context.Canceled):
		return false
	case errors.As(err, &certificate), errors.As(err, &authority), errors.As(err, &hostname), errors.As(err, &invalid), errors.As(err, &record):
		return false
	case errors.As(err, &operation):
		// A TLS alert comes as an OpError of this operation.
		return operation.Op != "remote error" && operation.Op != "local error"
	}
	return errors.As(err, &network) || errors.Is(err, context.DeadlineExceeded) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}
