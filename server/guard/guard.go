// Package guard lets a Go service ask Postern about each of its own requests, as a
// gateway does: a middleware for net/http, and interceptors for gRPC.
//
//	conn, err := grpc.NewClient("unix:///run/postern/check.sock", …)
//	g := guard.New(conn)
//	http.Handle("/", g.HTTP(orders))                       // guard.Principal(r.Context())
//	grpc.NewServer(grpc.UnaryInterceptor(g.Unary), grpc.StreamInterceptor(g.Stream))
//
// A request goes on only with an allow of Postern's. Everything else is a refusal: a
// deny, an answer that is late, a connection that fails, an answer that cannot be read.
// A question whose connection failed is asked once more, which may count it twice where
// budgets are counted; an answer, whatever it says, is final.
//
// An allow may be reused for as long as it says itself (cache_ttl), for exactly the same
// question, if WithReuse asks for that.
package guard

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	posternv1 "github.com/postern-auth/postern/gen/postern/v1"
)

// Guard asks. It is safe for concurrent use.
type Guard struct {
	client  posternv1.CheckServiceClient
	timeout time.Duration
	token   string
	fields  []string // nil: all
	reuse   *reuse   // nil: each question is asked
	now     func() time.Time
}

// Option changes what New returns.
type Option func(*Guard)

// WithTimeout is how long a request may wait for its answer. Default: 1s.
func WithTimeout(d time.Duration) Option { return func(g *Guard) { g.timeout = d } }

// WithToken is the token of this service in the configuration's list of callers.
func WithToken(token string) Option { return func(g *Guard) { g.token = token } }

// WithFields sends these header fields only. The credential's are not added by themselves:
// name them. It makes questions smaller, and alike (WithReuse). Sent all the same is what
// may change the request's meaning (tells).
func WithFields(names ...string) Option {
	return func(g *Guard) {
		g.fields = []string{}
		for _, n := range names {
			g.fields = append(g.fields, strings.ToLower(n))
		}
	}
}

// WithReuse remembers up to entries allows for as long as each says itself. Without it,
// every request is asked about.
func WithReuse(entries int) Option { return func(g *Guard) { g.reuse = newReuse(entries) } }

// New returns a Guard that asks over the connection.
func New(conn grpc.ClientConnInterface, options ...Option) *Guard {
	g := &Guard{client: posternv1.NewCheckServiceClient(conn), timeout: time.Second, now: time.Now}
	for _, o := range options {
		o(g)
	}
	return g
}

type principalKey struct{}

// Principal is who called, of a request that a Guard let through; nil of any other.
func Principal(ctx context.Context) *posternv1.Principal {
	p, _ := ctx.Value(principalKey{}).(*posternv1.Principal)
	return p
}

// ErrUnavailable says that Postern gave no answer: the request is refused, and a retry
// may help.
var ErrUnavailable = errors.New("guard: no answer from Postern")

// Check asks about one request in Postern's own words, for those who need more than the
// middleware. The decision is one that allows, or the request must be refused; an error
// is ErrUnavailable. With WithReuse others may get the same answer: do not change it.
func (g *Guard) Check(ctx context.Context, q *posternv1.CheckRequest) (*posternv1.CheckResponse, error) {
	key, known := g.reuse.find(q, g.now())
	if known != nil {
		return known, nil
	}
	ctx, cancel := context.WithTimeout(ctx, g.timeout)
	defer cancel()
	if g.token != "" {
		ctx = withToken(ctx, g.token)
	}
	asked := g.now()
	answer, err := g.client.Check(ctx, q)
	if status.Code(err) == codes.Unavailable && ctx.Err() == nil {
		answer, err = g.client.Check(ctx, q)
	}
	switch {
	case err != nil:
		return nil, errors.Join(ErrUnavailable, err)
	case answer.GetDecision() == nil:
		return nil, ErrUnavailable
	}
	g.reuse.keep(key, answer, asked)
	return answer, nil
}

// allows reports whether an answer is an allow: by both of its words.
func allows(a *posternv1.CheckResponse) bool {
	d := a.GetDecision()
	return d.GetAllowed() && d.GetReason() == posternv1.Reason_REASON_ALLOWED
}

// selected are the fields to send, in a fixed order.
func (g *Guard) selected(fields map[string][]string) (all []*posternv1.HeaderField) {
	names := make([]string, 0, len(fields))
	for name := range fields {
		lower := strings.ToLower(name)
		if g.fields == nil || slices.Contains(g.fields, lower) || tells(lower) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		for _, value := range fields[name] {
			all = append(all, &posternv1.HeaderField{Name: strings.ToLower(name), Value: value})
		}
	}
	return all
}

// tells reports whether a field says something that Postern must know, whatever the
// service wants to send: one that some handlers take for the method, a pseudo header, or
// one whose name some take for another's (X_Auth_Principal).
func tells(lower string) bool {
	switch lower {
	case "x-http-method-override", "x-http-method", "x-method-override":
		return true
	}
	return strings.Trim(lower, "abcdefghijklmnopqrstuvwxyz0123456789-") != ""
}

// addressOf is the IP address of a connection's other end; empty if it has none.
func addressOf(remote string) string {
	if at, err := netip.ParseAddrPort(remote); err == nil {
		return at.Addr().Unmap().WithZone("").String()
	}
	return ""
}
