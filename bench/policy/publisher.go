package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// publisher is a bundle server that knows long polling. It has a few bundles, which it
// offers in turns.
type publisher struct {
	url     string
	bundles [][]byte
	server  *http.Server

	mu      sync.Mutex
	at      int           // which one is offered
	sent    int           // how many were
	changed chan struct{} // closed when another one is offered
	eager   bool          // who asks gets another one at once
}

func newPublisher(bundles [][]byte) (*publisher, error) {
	on, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &publisher{url: fmt.Sprintf("http://%s/bench.tar.gz", on.Addr()), bundles: bundles, changed: make(chan struct{})}
	p.server = &http.Server{Handler: p, ReadHeaderTimeout: time.Second}
	go func() {
		if err := p.server.Serve(on); !errors.Is(err, http.ErrServerClosed) {
			panic(err)
		}
	}()
	return p, nil
}

func (p *publisher) close() { _ = p.server.Close() }

// ServeHTTP implements http.Handler.
func (p *publisher) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	for {
		raw, etag, changed := p.offer(r.Header.Get("If-None-Match"))
		if raw != nil {
			w.Header().Set("Content-Type", "application/vnd.openpolicyagent.bundles")
			w.Header().Set("ETag", etag)
			_, _ = w.Write(raw)
			return
		}
		select {
		case <-changed:
		case <-r.Context().Done():
			return
		}
	}
}

// offer returns a bundle, if there is one that the etag does not name.
func (p *publisher) offer(etag string) (raw []byte, name string, changed <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if name = p.etag(); name == etag {
		if !p.eager {
			return nil, "", p.changed
		}
		p.advance()
		name = p.etag()
	}
	p.sent++
	return p.bundles[p.at], name, nil
}

func (p *publisher) etag() string { return `"` + strconv.Itoa(p.at) + `"` }

// advance offers the next one.
func (p *publisher) advance() {
	p.at = (p.at + 1) % len(p.bundles)
	close(p.changed)
	p.changed = make(chan struct{})
}

// backToBack has each who asks get another bundle at once, or ends that.
func (p *publisher) backToBack(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.eager = on; on {
		p.advance()
	}
}

// every offers another bundle in equal times, until ctx ends.
func (p *publisher) every(ctx context.Context, d time.Duration) {
	tick := time.NewTicker(d)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			p.mu.Lock()
			p.advance()
			p.mu.Unlock()
		}
	}
}
