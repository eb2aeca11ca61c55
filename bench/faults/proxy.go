package main

import (
	"net"
	"sync"
	"time"
)

// proxy stands before a server on a Unix socket and can be a bad connection.
type proxy struct {
	at     string
	target string
	on     net.Listener

	mu    sync.Mutex
	mode  mode
	delay time.Duration // of slow
	conns map[net.Conn]bool
	woken chan struct{} // closed when the mode changes
}

// mode is what a proxy does.
type mode int

// The modes of a proxy.
const (
	pass mode = iota
	// down refuses: connections end as soon as they begin.
	down
	// slow delays whatever the server says.
	slow
	// silent takes everything and says nothing, as a server does whose machine is gone.
	silent
	// torn resets each connection in the middle of an answer.
	torn
)

func newProxy(target string) (*proxy, error) {
	on, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &proxy{at: on.Addr().String(), target: target, on: on, conns: map[net.Conn]bool{}, woken: make(chan struct{})}
	go p.accept()
	return p, nil
}

func (p *proxy) close() { _ = p.on.Close(); p.set(down, 0) }

// set changes the mode. Connections stay, but for those to a server that is down or was
// gone: these are reset, as by a machine that knows nothing of them.
func (p *proxy) set(m mode, delay time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if m == down || p.mode == silent {
		for c := range p.conns {
			reset(c)
		}
	}
	p.mode, p.delay = m, delay
	close(p.woken)
	p.woken = make(chan struct{})
}

// reset ends a connection by RST.
func reset(c net.Conn) {
	if t, ok := c.(*net.TCPConn); ok {
		_ = t.SetLinger(0)
	}
	_ = c.Close()
}

func (p *proxy) state() (mode, time.Duration, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.mode, p.delay, p.woken
}

func (p *proxy) accept() {
	for {
		c, err := p.on.Accept()
		if err != nil {
			return
		}
		go p.serve(c)
	}
}

func (p *proxy) serve(c net.Conn) {
	p.mu.Lock()
	p.conns[c] = true
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		delete(p.conns, c)
		p.mu.Unlock()
		reset(c)
	}()
	if m, _, _ := p.state(); m == down {
		return
	}
	server, err := net.Dial("unix", p.target)
	if err != nil {
		return
	}
	defer server.Close()
	go func() { p.copy(server, c, false); _ = server.Close() }()
	p.copy(c, server, true)
}

// copy carries bytes, in the manner of the moment. Answers are what the server says.
func (p *proxy) copy(to, from net.Conn, answers bool) {
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		if err != nil {
			return
		}
		m, delay, woken := p.state()
		switch {
		case m == down:
			return
		case m == silent:
			<-woken // by then the connection is reset
			return
		case m == slow && answers:
			time.Sleep(delay)
		case m == torn && answers:
			_, _ = to.Write(buffer[:n/2])
			return
		}
		if _, err := to.Write(buffer[:n]); err != nil {
			return
		}
	}
}
