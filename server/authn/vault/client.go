package vault

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn"
	"github.com/postern-auth/postern/server/jose"
	"github.com/postern-auth/postern/server/outbound"
)

// maxAnswer bounds what is read of an answer, in bytes.
const maxAnswer = 64 << 10

// limits bound the JSON of an answer. Metadata is flat, and Vault keeps no more than 64
// pairs of it.
var limits = jose.Limits{Bytes: maxAnswer, Depth: 8, Members: 256}

// loginTimeout bounds a request by which Postern logs in or renews: nobody's request
// waits for it but the first.
const loginTimeout = 5 * time.Second

// client asks Vault. It never puts a text of Vault's into an error: Vault repeats secret
// ids in some of them.
type client struct {
	http      *http.Client
	base      *url.URL
	namespace string
	// timeout bounds one question about a caller's token.
	timeout time.Duration
}

// jsonAnswer is the body of an answer with status 200.
type jsonAnswer = jose.Value

// The answers that say no. errForbidden is any 403 but "bad token".
var (
	errBadToken  = errors.New("vault does not know the token")
	errForbidden = errors.New("vault answers that it is forbidden (status 403)")
	errAnswer    = errors.New("what came is not an answer of Vault")
)

// refusedUnknown is what a caller gets for errBadToken.
var refusedUnknown = authn.Refuse(policy.ReasonCredentialUnknown, "Vault does not know the token, or not any more")

// statusError is an answer that says neither yes nor no.
type statusError struct {
	code int
	hint string
}

func (e statusError) Error() string { return fmt.Sprintf("status %d%s", e.code, e.hint) }

func newClient(cfg *Config, transport http.RoundTripper) (*client, error) {
	to := cfg.outbound()
	to.Transport = transport
	base, err := outbound.ParseURL(cfg.Address, &to)
	if err != nil {
		return nil, fmt.Errorf("address: %w", err)
	}
	asking, err := outbound.NewClient(to)
	if err != nil {
		return nil, err
	}
	return &client{http: asking, base: base, namespace: cfg.Namespace, timeout: cfg.Timeout}, nil
}

// lookup asks by a token of Postern's own about a caller's.
func (c *client) lookup(ctx context.Context, own policy.Secret, token string) (jsonAnswer, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	said, err := c.do(ctx, question{
		method: http.MethodPost, path: "auth/token/lookup", token: own.Reveal(), namespace: c.namespace,
		body: map[string]string{"token": token}, repeatable: true,
	})
	if errors.Is(err, errBadToken) {
		return said, refusedUnknown
	}
	return said, err
}

// lookupSelf asks by a token about itself. Any 403 is about that token.
func (c *client) lookupSelf(ctx context.Context, token string) (jsonAnswer, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	said, err := c.do(ctx, question{method: http.MethodGet, path: "auth/token/lookup-self", token: token, namespace: c.namespace})
	if errors.Is(err, errBadToken) || errors.Is(err, errForbidden) {
		return said, refusedUnknown
	}
	return said, err
}

// entityDisabled asks whether the entity of a token was disabled or deleted. It lives in
// the token's namespace.
func (c *client) entityDisabled(ctx context.Context, own policy.Secret, of *answer) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	said, err := c.do(ctx, question{
		method: http.MethodGet, path: "identity/entity/id/" + of.entityID, token: own.Reveal(), namespace: of.namespace,
	})
	if status := (statusError{}); errors.As(err, &status) && status.code == http.StatusNotFound {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	entity := said.Get("data")
	disabled, ok := entity.Get("disabled").Bool()
	if !ok || !entity.Get("id").Is(of.entityID) {
		return false, fmt.Errorf("%w: it is not of that entity", errAnswer)
	}
	return disabled, nil
}

// question is one request.
type question struct {
	method, path     string
	token, namespace string
	body             map[string]string
	// repeatable says that it changes nothing at Vault, so that it may be sent again if
	// Vault closed an idle connection at that moment.
	repeatable bool
}

// do asks one question. The error is errBadToken, errForbidden, a statusError, errAnswer,
// or that of the network; authn.ErrUnreachable if Vault could not answer.
func (c *client) do(ctx context.Context, q question) (jsonAnswer, error) {
	request, err := c.request(ctx, q)
	if err != nil {
		return jsonAnswer{}, err
	}
	response, err := outbound.Do(c.http, request)
	if err != nil {
		return jsonAnswer{}, unreachable(err)
	}
	defer func() { _ = response.Body.Close() }()
	body, err := outbound.ReadBody(response, maxAnswer)
	if errors.Is(err, outbound.ErrTooLarge) {
		return jsonAnswer{}, fmt.Errorf("%w: %w", errAnswer, err)
	}
	if err != nil {
		return jsonAnswer{}, unreachable(err)
	}
	switch response.StatusCode {
	case http.StatusOK:
		return parse(body)
	case http.StatusForbidden:
		return jsonAnswer{}, forbidden(body)
	}
	return jsonAnswer{}, statusOf(response.StatusCode)
}

func (c *client) request(ctx context.Context, q question) (*http.Request, error) {
	var body io.Reader
	if q.body != nil {
		text, err := json.Marshal(q.body)
		if err != nil {
			return nil, errors.New("the question cannot be written")
		}
		body = bytes.NewReader(text)
	}
	at := *c.base
	at.Path = strings.TrimSuffix(at.Path, "/") + "/v1/" + q.path
	at.RawPath = ""
	request, err := http.NewRequestWithContext(ctx, q.method, at.String(), body)
	if err != nil {
		return nil, errors.New("the address is not a URL")
	}
	request.Header.Set("Accept", "application/json")
	request.Header.Set("X-Vault-Request", "true") // an Agent may demand it
	if q.body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	if q.token != "" {
		request.Header.Set("X-Vault-Token", q.token)
	}
	if q.namespace != "" {
		request.Header.Set("X-Vault-Namespace", q.namespace)
	}
	if q.repeatable {
		request.Header["Idempotency-Key"] = nil // tells net/http, and is not sent
	}
	return request, nil
}

// unreachable marks an error of the network as such. What must not be talked to, such as
// a wrong certificate, is none.
func unreachable(err error) error {
	if outbound.IsNetwork(err) {
		return fmt.Errorf("%w: %w", authn.ErrUnreachable, err)
	}
	return err
}

// statusHints say what the statuses of Vault mean that nobody knows by heart
// (sys/health, and its answers to those who ask a node that cannot serve them).
var statusHints = map[int]string{
	http.StatusBadRequest:         ": the request is refused as bad",
	http.StatusNotFound:           ": there is no such path; look at address, namespace and mount",
	http.StatusPreconditionFailed: ": this node has not yet seen what the token rests on",
	http.StatusTooManyRequests:    ": a standby, or over a quota",
	472:                           ": a secondary of disaster recovery",
	473:                           ": a performance standby",
	http.StatusServiceUnavailable: ": sealed, or no active node",
}

// statusOf makes an error of a status that is neither 200 nor 403. A node that cannot
// serve is out of reach; so is a standby that sends us elsewhere, where we do not follow.
func statusOf(code int) error {
	err := statusError{code, statusHints[code]}
	switch {
	case code >= 500, code == http.StatusTooManyRequests, code == http.StatusPreconditionFailed, code == 472, code == 473:
		return fmt.Errorf("%w: %w", authn.ErrUnreachable, err)
	case code >= 300 && code < 400:
		err.hint = ": a standby that redirects, which is not followed; let address name the active node, or what balances to it"
		return fmt.Errorf("%w: %w", authn.ErrUnreachable, err)
	}
	return err
}

// forbidden reads the body of a 403. It is believed only if it has the form of Vault's
// own: a proxy on the way may have said so, too.
func forbidden(body []byte) error {
	said, err := jose.ParseJSON(body, limits)
	if err != nil || said.Get("errors").Len() == 0 {
		return fmt.Errorf("%w: status 403 without its errors", errAnswer)
	}
	bad := 0
	for e := range said.Get("errors").Elements() {
		if e.Kind() != jose.String {
			return fmt.Errorf("%w: status 403 with errors that are none", errAnswer)
		}
		if e.Is("bad token") {
			bad++
		}
	}
	if bad == said.Get("errors").Len() {
		return errBadToken
	}
	return errForbidden
}

// parse reads the body of a 200 as far as every answer has it. A wrapped answer holds
// nothing but another token.
func parse(body []byte) (jsonAnswer, error) {
	said, err := jose.ParseJSON(body, limits)
	switch wrapped := said.Get("wrap_info").Kind(); {
	case err != nil:
		return said, fmt.Errorf("%w: %w", errAnswer, err)
	case said.Kind() != jose.Object:
		return said, fmt.Errorf("%w: it is no object", errAnswer)
	case wrapped != jose.Absent && wrapped != jose.Null:
		return said, fmt.Errorf("%w: it is wrapped", errAnswer)
	}
	return said, nil
}
