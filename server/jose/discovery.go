package jose

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
)

// discover asks an issuer where its keys are: first by OpenID Connect Discovery
// 1.0, then, if the issuer has no such document, by RFC 8414. It is asked at each
// refresh, so that an issuer may move its keys.
func discover(ctx context.Context, client *http.Client, cfg *SourceConfig) (*url.URL, error) {
	at, err := wellKnown(cfg)
	if err != nil {
		return nil, err
	}
	got, err := get(ctx, client, at[0])
	if status := statusError(0); errors.As(err, &status) && 400 <= status && status < 500 {
		got, err = get(ctx, client, at[1])
	}
	if err != nil {
		return nil, err
	}
	return readDiscovery(got.body, cfg)
}

// wellKnown returns the two URLs of an issuer's metadata. OpenID Connect puts
// the well-known part after the issuer's path (Discovery 1.0 section 4), RFC 8414
// before it (section 3).
func wellKnown(cfg *SourceConfig) ([2]*url.URL, error) {
	issuer, err := parseEndpoint(cfg.Issuer, cfg)
	if err == nil && (issuer.RawQuery != "" || issuer.ForceQuery) {
		err = errors.New("it has a query")
	}
	if err != nil {
		return [2]*url.URL{}, fmt.Errorf("the issuer %s cannot be discovered: %w", quote(cfg.Issuer), err)
	}
	origin := &url.URL{Scheme: issuer.Scheme, Host: issuer.Host}
	path := strings.TrimSuffix(issuer.EscapedPath(), "/")
	return [2]*url.URL{
		origin.JoinPath(path, "/.well-known/openid-configuration"),
		origin.JoinPath("/.well-known/oauth-authorization-server", path),
	}, nil
}

// readDiscovery returns the key set's URL of a metadata document. The document
// must be the issuer's own, by its exact name (RFC 8414 section 3.3): one that a
// slash tells apart is another's. It can only point to the issuer's own origin
// or to a host that the configuration names, so that whoever can write the
// document cannot make Postern fetch from anywhere else.
func readDiscovery(data []byte, cfg *SourceConfig) (*url.URL, error) {
	doc, err := ParseJSON(data, documentLimits)
	if err != nil {
		return nil, fmt.Errorf("reading the discovery document: %w", err)
	}
	if doc.Kind() != Object {
		return nil, fmt.Errorf("%w: a discovery document is an object, not %s", ErrMalformed, doc.Kind())
	}
	if !doc.Get("issuer").Is(cfg.Issuer) {
		name, _ := doc.Get("issuer").Text()
		return nil, fmt.Errorf("the discovery document is of the issuer %s, not %s", quote(name), quote(cfg.Issuer))
	}
	text, ok := doc.Get("jwks_uri").Text()
	if !ok {
		return nil, fmt.Errorf("%w: the discovery document has no jwks_uri", ErrMalformed)
	}
	keys, err := parseEndpoint(text, cfg)
	if err != nil {
		return nil, fmt.Errorf("the jwks_uri of the discovery document is refused: %w", err)
	}
	issuer, err := parseEndpoint(cfg.Issuer, cfg)
	if err != nil {
		return nil, err
	}
	switch {
	case sameOrigin(issuer, keys):
		return keys, nil
	case issuer.Scheme == "https" && keys.Scheme != "https":
		return nil, errors.New("the jwks_uri of the discovery document is not https, though the issuer is")
	case !allowsHost(cfg, keys):
		return nil, fmt.Errorf("the jwks_uri of the discovery document is on another host, %s; allowed_hosts permits it", quote(keys.Host))
	}
	return keys, nil
}

func allowsHost(cfg *SourceConfig, u *url.URL) bool {
	host := strings.TrimSuffix(strings.ToLower(u.Hostname()), ".")
	for _, p := range cfg.AllowedHosts {
		if p.Match(host) {
			return true
		}
	}
	return false
}
