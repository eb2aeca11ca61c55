package bundle

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"time"
)

// reference names an image: host/repository:tag or host/repository@sha256:digest.
type reference struct {
	host, repository string
	name             string // the tag or the digest
}

var (
	repositoryPattern = regexp.MustCompile(`^[a-z0-9]+(?:[._/-]+[a-z0-9]+)*$`)
	tagPattern        = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$`)
	digestPattern     = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)
)

func parseReference(text string) (r reference, err error) {
	host, rest, ok := strings.Cut(text, "/")
	u, bad := url.Parse("https://" + host)
	if !ok || bad != nil || u.Host != host || !strings.ContainsAny(host, ".:") && host != "localhost" {
		return r, errors.New("does not begin with a registry's host")
	}
	r.host = host
	if repository, digest, ok := strings.Cut(rest, "@"); ok {
		r.repository, r.name = repository, digest
		ok = digestPattern.MatchString(digest)
		if !ok {
			return r, errors.New("has a digest that is not sha256 and 64 hexadecimal digits")
		}
	} else {
		r.repository, r.name, _ = strings.Cut(rest, ":")
		r.name = cmp.Or(r.name, "latest")
		if !tagPattern.MatchString(r.name) {
			return r, fmt.Errorf("has the tag %.40q, which is none", r.name)
		}
	}
	if !repositoryPattern.MatchString(r.repository) || len(r.repository) > 255 {
		return r, fmt.Errorf("names the repository %.80q, which is none", r.repository)
	}
	return r, nil
}

// The media types that matter (image-spec v1.1), with Docker's names for them.
const (
	typeManifest       = "application/vnd.oci.image.manifest.v1+json"
	typeIndex          = "application/vnd.oci.image.index.v1+json"
	typeDockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	typeDockerIndex    = "application/vnd.docker.distribution.manifest.list.v2+json"
	typeLayer          = "application/vnd.oci.image.layer.v1.tar+gzip"
)

// Bounds of what a registry sends besides bundles.
const (
	maxManifest = 4 << 20 // bytes, as the distribution specification recommends
	maxToken    = 64 << 10
	maxImages   = 16
)

// registry gets a bundle out of an image: its first layer of type tar+gzip, as `oras
// push` and `policy push` put it there. The ETag is the layer's digest. Everything
// but a tag is asked for by digest and held against it, so that the registry's
// storage, and whoever redirects to it, need no trust.
type registry struct {
	*client
	bundle *Bundle
	ref    reference
	limit  int64

	mu    sync.Mutex
	token string // for this repository, from the registry's token server
}

func newRegistry(b *Bundle, limit int64) (*registry, error) {
	ref, err := parseReference(b.OCI)
	if err != nil {
		return nil, err
	}
	r := &registry{bundle: b, ref: ref, limit: limit}
	r.client, err = newClient(b, r.base())
	return r, err
}

func (r *registry) base() string {
	if r.bundle.InsecureHTTP {
		return "http://" + r.ref.host
	}
	return "https://" + r.ref.host
}

type descriptor struct {
	MediaType string `json:"mediaType"`
	Digest    string `json:"digest"`
	Size      int64  `json:"size"`
}

func (r *registry) fetch(ctx context.Context, etag string, _ time.Duration) (*answer, error) {
	layer, err := r.layer(ctx, r.ref.name, true)
	switch {
	case err != nil:
		return nil, err
	case layer.Digest == etag:
		return &answer{etag: etag}, nil
	case layer.Size > r.limit:
		return nil, fmt.Errorf("%w: the layer has %d bytes", errTooMuch, layer.Size)
	}
	body, err := r.get(ctx, "blobs/"+layer.Digest, "", r.limit)
	if err != nil {
		return nil, err
	}
	return &answer{body: body, etag: layer.Digest}, matches(body, layer.Digest)
}

// layer finds the bundle's layer in an image, or in the images of an index.
func (r *registry) layer(ctx context.Context, name string, mayBeIndex bool) (d descriptor, err error) {
	accept := strings.Join([]string{typeManifest, typeIndex, typeDockerManifest, typeDockerIndex}, ", ")
	text, err := r.get(ctx, "manifests/"+name, accept, maxManifest)
	if err != nil {
		return d, err
	}
	if strings.HasPrefix(name, "sha256:") {
		if err := matches(text, name); err != nil {
			return d, err
		}
	}
	var manifest struct {
		Layers    []descriptor `json:"layers"`
		Manifests []descriptor `json:"manifests"`
	}
	if err := json.Unmarshal(text, &manifest); err != nil {
		return d, fmt.Errorf("the image's manifest is no JSON: %w", err)
	}
	for _, l := range manifest.Layers {
		if l.MediaType == typeLayer && digestPattern.MatchString(l.Digest) {
			return l, nil
		}
	}
	if mayBeIndex && len(manifest.Manifests) <= maxImages {
		for _, m := range manifest.Manifests {
			if !digestPattern.MatchString(m.Digest) {
				continue
			}
			if d, err := r.layer(ctx, m.Digest, false); err == nil || !errors.Is(err, errNoLayer) {
				return d, err
			}
		}
	}
	return d, errNoLayer
}

var errNoLayer = fmt.Errorf("the image has no layer of type %s", typeLayer)

// matches holds bytes against their digest.
func matches(text []byte, digest string) error {
	sum := sha256.Sum256(text)
	if digest != "sha256:"+hex.EncodeToString(sum[:]) {
		return errors.New("the registry sends other bytes than those that were asked for")
	}
	return nil
}

// get asks for something of the repository and, if the registry sends us for a
// token, gets one and asks again.
func (r *registry) get(ctx context.Context, what, accept string, limit int64) ([]byte, error) {
	response, err := r.ask(ctx, what, accept)
	if err != nil {
		return nil, err
	}
	if response.StatusCode == http.StatusUnauthorized {
		challenge := response.Header.Get("WWW-Authenticate")
		_ = response.Body.Close()
		if err := r.getToken(ctx, challenge); err != nil {
			return nil, err
		}
		if response, err = r.ask(ctx, what, accept); err != nil {
			return nil, err
		}
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		kind, _, _ := strings.Cut(what, "/")
		return nil, fmt.Errorf("the registry answers %d %s to a request for %s", response.StatusCode, http.StatusText(response.StatusCode), kind)
	}
	return readBody(response, limit)
}

func (r *registry) ask(ctx context.Context, what, accept string) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, r.base()+"/v2/"+r.ref.repository+"/"+what, nil)
	if err != nil {
		return nil, withoutURL(err)
	}
	request.Header.Set("User-Agent", "postern")
	if accept != "" {
		request.Header.Set("Accept", accept)
	}
	r.mu.Lock()
	token := r.token
	r.mu.Unlock()
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	return r.do(request)
}

var parameterPattern = regexp.MustCompile(`([a-z]+)="([^"\\]*)"`)

// getToken follows a challenge of the registry to its token server, and shows our
// credentials there.
func (r *registry) getToken(ctx context.Context, challenge string) error {
	r.mu.Lock()
	r.token = ""
	r.mu.Unlock()
	scheme, rest, _ := strings.Cut(challenge, " ")
	if !strings.EqualFold(scheme, "bearer") || len(challenge) > 4096 {
		return errors.New("the registry answers 401 Unauthorized")
	}
	parameters := map[string]string{}
	for _, m := range parameterPattern.FindAllStringSubmatch(rest, -1) {
		parameters[m[1]] = m[2]
	}
	realm, err := url.Parse(parameters["realm"])
	if err != nil || realm.User != nil || !r.trustsRealm(realm) {
		return errors.New("the registry sends us for a token to a host that is not its own; name it in allowed_hosts if that is meant")
	}
	query := realm.Query()
	query.Set("service", parameters["service"])
	query.Set("scope", "repository:"+r.ref.repository+":pull")
	realm.RawQuery = query.Encode()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, realm.String(), nil)
	if err != nil {
		return withoutURL(err)
	}
	response, err := r.do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("the registry's token server answers %d %s", response.StatusCode, http.StatusText(response.StatusCode))
	}
	return r.keepToken(response)
}

func (r *registry) trustsRealm(realm *url.URL) bool {
	base, err := url.Parse(r.base())
	if err != nil {
		return false
	}
	own := realm.Scheme == base.Scheme && hostPort(realm) == hostPort(base)
	return own || realm.Scheme == "https" && r.bundle.allows(realm)
}

func (r *registry) keepToken(response *http.Response) error {
	text, err := readBody(response, maxToken)
	if err != nil {
		return err
	}
	var token struct {
		Token       string `json:"token"`
		AccessToken string `json:"access_token"`
	}
	if json.Unmarshal(text, &token) != nil || token.Token == "" && token.AccessToken == "" {
		return errors.New("the registry's token server gives no token")
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.token = cmp.Or(token.Token, token.AccessToken)
	return nil
}
