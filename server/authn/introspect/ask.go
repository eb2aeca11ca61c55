package introspect

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn"
	"github.com/postern-auth/postern/server/jose"
	"github.com/postern-auth/postern/server/outbound"
	"github.com/postern-auth/postern/server/regular"
)

// maxAnswerBytes bounds an answer, after decompression.
const maxAnswerBytes = 64 << 10

// assertionLife is how long an assertion by which Postern proves itself counts (RFC
// 7523 section 3): for one question, and the difference of two clocks.
const assertionLife = time.Minute

// asker asks an issuer about tokens.
type asker struct {
	name     string // of whom it asks, for errors
	client   *http.Client
	endpoint func(context.Context) (*url.URL, error)
	close    func()
	now      func() time.Time

	auth     Auth
	id       string
	secret   policy.Secret // the client's, or the bearer token
	key      *jose.SigningKey
	keyID    string
	audience string
}

func newAsker(cfg *Config, deps Deps) (asker, error) {
	a := asker{
		name:     cfg.place(),
		now:      deps.Now,
		auth:     cfg.Auth,
		id:       cfg.ClientID,
		secret:   cfg.ClientSecret,
		keyID:    cfg.KeyID,
		audience: cmp.Or(cfg.AssertionAudience, cfg.Issuer),
	}
	if a.auth == AuthBearer {
		a.secret = cfg.BearerToken
	}
	connect := cfg.HTTP
	connect.KeepConnections, connect.Transport = cfg.MaxConcurrent, deps.Transport
	var err error
	if a.client, err = outbound.NewClient(connect); err != nil {
		return a, fmt.Errorf("http: %w", err)
	}
	if a.auth == AuthPrivateKey {
		text, err := regular.ReadFile(cfg.KeyFile.String(), maxKeyFile)
		if err != nil {
			return a, fmt.Errorf("key_file: %w", err)
		}
		if a.key, err = jose.ParseSigningKey(text); err != nil {
			return a, fmt.Errorf("key_file: %w", err)
		}
	}
	a.close = a.client.CloseIdleConnections
	if cfg.URL == "" {
		f, err := newFinder(cfg, deps)
		if err != nil {
			return a, err
		}
		a.endpoint = f.find
		a.close = func() { f.cancel(); a.client.CloseIdleConnections() }
		return a, nil
	}
	at, err := outbound.ParseURL(cfg.URL, &cfg.HTTP)
	a.endpoint = func(context.Context) (*url.URL, error) { return at, nil }
	return a, err
}

const maxKeyFile = 64 << 10

// ask returns the issuer's answer about a token. The error holds neither the token nor
// what Postern proves itself by. It is authn.ErrUnreachable for faults of the network
// and of the issuer (5xx).
func (a *asker) ask(ctx context.Context, token string) ([]byte, error) {
	at, err := a.endpoint(ctx)
	if err != nil {
		return nil, failed(err)
	}
	request, err := a.request(ctx, at, token)
	if err != nil {
		return nil, err
	}
	response, err := outbound.Do(a.client, request)
	if err != nil {
		return nil, failed(err)
	}
	defer func() { _ = response.Body.Close() }()
	switch status := response.StatusCode; {
	case status >= http.StatusInternalServerError || status == http.StatusTooManyRequests:
		return nil, failed(outbound.StatusError(status))
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		return nil, fmt.Errorf("%w: it does not accept our own credentials", outbound.StatusError(status))
	case status != http.StatusOK:
		return nil, outbound.StatusError(status)
	case !isJSON(response.Header.Get("Content-Type")):
		return nil, errors.New("the answer is not JSON by its Content-Type")
	}
	body, err := outbound.ReadBody(response, maxAnswerBytes)
	switch {
	case errors.Is(err, outbound.ErrTooLarge):
		return nil, err
	case err != nil:
		return nil, failed(err)
	}
	return body, nil
}

// failure is an error that counts for the breaker: the issuer could not be talked to,
// is broken, or has had enough of us. What may depend on the token, such as an answer of
// a firewall before the issuer, is none.
type failure struct{ error }

func (f failure) Unwrap() error { return f.error }

// failed makes an error a failure, and marks the faults of the network and of the
// issuer.
func failed(err error) error {
	status := outbound.StatusError(0)
	if outbound.IsNetwork(err) || errors.As(err, &status) && status >= http.StatusInternalServerError {
		err = fmt.Errorf("%w: %w", authn.ErrUnreachable, err)
	}
	return failure{err}
}

// isJSON reports whether a media type is JSON. A signed answer (RFC 9701) is not.
func isJSON(contentType string) bool {
	t, _, err := mime.ParseMediaType(contentType)
	return err == nil && (t == "application/json" || strings.HasPrefix(t, "application/") && strings.HasSuffix(t, "+json"))
}

// request makes the question (RFC 7662 section 2.1).
func (a *asker) request(ctx context.Context, at *url.URL, token string) (*http.Request, error) {
	form := url.Values{"token": {token}, "token_type_hint": {"access_token"}}
	switch a.auth {
	case AuthPost:
		form.Set("client_id", a.id)
		form.Set("client_secret", a.secret.Reveal())
	case AuthTLS:
		form.Set("client_id", a.id)
	case AuthPrivateKey:
		assertion, err := a.assertion()
		if err != nil {
			return nil, err
		}
		form.Set("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer")
		form.Set("client_assertion", assertion)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, at.String(), bytes.NewReader([]byte(form.Encode())))
	if err != nil {
		return nil, errors.New("the endpoint is not a URL")
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	request.Header.Set("Accept", "application/json")
	// Not sent, but net/http then knows that a question may be asked twice, and does so
	// if a kept connection was closed just before.
	request.Header["Idempotency-Key"] = nil
	switch a.auth {
	case AuthBasic:
		request.Header.Set("Authorization", "Basic "+basic(a.id, a.secret.Reveal()))
	case AuthBearer:
		request.Header.Set("Authorization", "Bearer "+a.secret.Reveal())
	}
	return request, nil
}

// basic encodes a client's id and secret as forms do, before Basic does (RFC 6749
// section 2.3.1): a secret may hold any character.
func basic(id, secret string) string {
	return base64.StdEncoding.EncodeToString([]byte(url.QueryEscape(id) + ":" + url.QueryEscape(secret)))
}

// assertion signs who Postern is (RFC 7523 section 2.2, OpenID Connect Core section 9).
// Its audience is the issuer, not the endpoint: an issuer that was made to hand out
// another's endpoint could use what it gets there.
func (a *asker) assertion() (string, error) {
	now := a.now()
	text, err := a.key.Sign("JWT", a.keyID, struct {
		Issuer   string `json:"iss"`
		Subject  string `json:"sub"`
		Audience string `json:"aud"`
		ID       string `json:"jti"`
		IssuedAt int64  `json:"iat"`
		Expires  int64  `json:"exp"`
	}{a.id, a.id, a.audience, rand.Text(), now.Unix(), now.Add(assertionLife).Unix()})
	if err != nil {
		return "", fmt.Errorf("the assertion of who we are: %w", err)
	}
	return text, nil
}
