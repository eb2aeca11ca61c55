package jose

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/outbound"
)

// Discovery says how an issuer is asked where something of it is: its keys, or where
// it answers questions.
type Discovery struct {
	// Issuer is its name, which is also where its metadata is.
	Issuer string
	// AllowedHosts are hosts besides its own to which the metadata may point.
	AllowedHosts []policy.HostPattern
	// Outbound says which URLs may be asked.
	Outbound *outbound.Config
}

// Check returns why the issuer cannot be asked at all, or nil.
func (d *Discovery) Check() error {
	_, err := d.wellKnown()
	return err
}

// Find returns the URL that a member of the issuer's metadata holds, for example
// jwks_uri: first by OpenID Connect Discovery 1.0, then, if the issuer has no such
// document, by RFC 8414. The context bounds the whole of it. An error that comes from
// the network is one for outbound.IsNetwork, an answer other than 200 an
// outbound.StatusError.
func (d *Discovery) Find(ctx context.Context, client *http.Client, member string) (*url.URL, error) {
	at, err := d.wellKnown()
	if err != nil {
		return nil, err
	}
	got, err := get(ctx, client, at[0])
	if status := outbound.StatusError(0); errors.As(err, &status) && 400 <= status && status < 500 {
		got, err = get(ctx, client, at[1])
	}
	if err != nil {
		return nil, err
	}
	return d.read(got.body, member)
}

// wellKnown returns the two URLs of an issuer's metadata. OpenID Connect puts
// the well-known part after the issuer's path (Discovery 1.0 section 4), RFC 8414
// before it (section 3).
func (d *Discovery) wellKnown() ([2]*url.URL, error) {
	issuer, err := outbound.ParseURL(d.Issuer, d.Outbound)
	if err == nil && (issuer.RawQuery != "" || issuer.ForceQuery) {
		err = errors.New("it has a query")
	}
	if err != nil {
		return [2]*url.URL{}, fmt.Errorf("the issuer %s cannot be discovered: %w", quote(d.Issuer), err)
	}
	origin := &url.URL{Scheme: issuer.Scheme, Host: issuer.Host}
	path := strings.TrimSuffix(issuer.EscapedPath(), "/")
	return [2]*url.URL{
		origin.JoinPath(path, "/.well-known/openid-configuration"),
		origin.JoinPath("/.well-known/oauth-authorization-server", path),
	}, nil
}

// read returns the URL in a member of a metadata document. The document
// must be the issuer's own, by its exact name (RFC 8414 section 3.3): one that a
// slash tells apart is another's. It can only point to the issuer's own origin
// or to a host that the configuration names, so that whoever can write the
// document cannot make Postern ask anywhere else.
func (d *Discovery) read(data []byte, member string) (*url.URL, error) {
	doc, err := ParseJSON(data, documentLimits)
	if err != nil {
		return nil, fmt.Errorf("reading the discovery document: %w", err)
	}
	if doc.Kind() != Object {
		return nil, fmt.Errorf("%w: a discovery document is an object, not %s", ErrMalformed, doc.Kind())
	}
	if !doc.Get("issuer").Is(d.Issuer) {
		name, _ := doc.Get("issuer").Text()
		return nil, fmt.Errorf("the discovery document is of the issuer %s, not %s", quote(name), quote(d.Issuer))
	}
	text, ok := doc.Get(member).Text()
	if !ok {
		return nil, fmt.Errorf("%w: the discovery document has no %s", ErrMalformed, member)
	}
	found, err := outbound.ParseURL(text, d.Outbound)
	if err != nil {
		return nil, fmt.Errorf("the %s of the discovery document is refused: %w", member, err)
	}
	issuer, err := outbound.ParseURL(d.Issuer, d.Outbound)
	if err != nil {
		return nil, err
	}
	switch {
	case outbound.SameOrigin(issuer, found):
		return found, nil
	case issuer.Scheme == "https" && found.Scheme != "https":
		return nil, fmt.Errorf("the %s of the discovery document is not https, though the issuer is", member)
	case !d.allowsHost(found):
		return nil, fmt.Errorf("the %s of the discovery document is on another host, %s; allowed_hosts permits it", member, quote(found.Host))
	}
	return found, nil
}

func (d *Discovery) allowsHost(u *url.URL) bool {
	host := strings.TrimSuffix(strings.ToLower(u.Hostname()), ".")
	for _, p := range d.AllowedHosts {
		if p.Match(host) {
			return true
		}
	}
	return false
}
