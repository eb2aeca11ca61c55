package introspect

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/postern-auth/postern/server/jose"
	"github.com/postern-auth/postern/server/outbound"
)

// finder finds the endpoint of an issuer by its metadata, and again from time to time,
// so that the issuer may move it. It looks apart from any question, in its own time:
// only where there is no endpoint yet does anybody wait for it. What was found last goes
// on being used while the metadata cannot be had.
type finder struct {
	discovery *jose.Discovery
	client    *http.Client
	now       func() time.Time
	ctx       context.Context // of all looking; ends with cancel
	cancel    context.CancelFunc

	mu      sync.Mutex
	at      *url.URL  // the endpoint; nil until it is found
	until   time.Time // when to look again
	looking *look     // nil: nobody is
}

// look is one attempt. at and err are set before done closes.
type look struct {
	done chan struct{}
	at   *url.URL
	err  error
}

// How long one attempt may take, and the time until the next one after one that found
// the endpoint, and after one that did not though there was an older one.
const (
	discoveryTimeout = 5 * time.Second
	rediscover       = time.Hour
	retry            = time.Minute
)

func newFinder(cfg *Config, deps Deps) (*finder, error) {
	connect := cfg.HTTP
	connect.Timeout, connect.Transport = discoveryTimeout, deps.Transport
	client, err := outbound.NewClient(connect)
	if err != nil {
		return nil, err
	}
	f := &finder{discovery: cfg.discovery(), client: client, now: deps.Now}
	f.ctx, f.cancel = context.WithCancel(context.Background())
	return f, nil
}

// find returns the endpoint.
func (f *finder) find(ctx context.Context) (*url.URL, error) {
	at, l := f.begin()
	if at != nil {
		return at, nil
	}
	select {
	case <-l.done:
		return l.at, l.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// begin returns the endpoint that is known, or the attempt to wait for. If it is time to
// look, and nobody does, somebody is sent.
func (f *finder) begin() (*url.URL, *look) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.looking == nil && (f.at == nil || !f.now().Before(f.until)) {
		f.looking = &look{done: make(chan struct{})}
		go f.look(f.looking)
	}
	return f.at, f.looking
}

func (f *finder) look(l *look) {
	ctx, cancel := context.WithTimeout(f.ctx, discoveryTimeout)
	defer cancel()
	at, err := f.ask(ctx)
	f.mu.Lock()
	defer f.mu.Unlock()
	if err == nil {
		f.at, f.until = at, f.now().Add(rediscover)
	} else {
		f.until = f.now().Add(retry)
	}
	l.at, l.err, f.looking = at, err, nil
	close(l.done)
}

// ask turns a panic into an error: what comes from outside is read on a goroutine of
// ours here.
func (f *finder) ask(ctx context.Context) (at *url.URL, err error) {
	defer func() {
		if recover() != nil {
			at, err = nil, errors.New("panic while reading the issuer's metadata")
		}
	}()
	return f.discovery.Find(ctx, f.client, "introspection_endpoint")
}
