package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// drain reads whatever comes and forgets it.
func (w *wire) drain() {
	go func() {
		for {
			if _, err := w.ReadFrame(); err != nil {
				return
			}
		}
	}()
}

// flood does something many times, until the server has had enough, which it may.
func (w *wire) flood(times int, do func(i int) error) {
	for i := range times {
		if do(i) != nil {
			return
		}
	}
}

// GRPC-04: streams that are reset as soon as they are opened, over one connection and
// over many, on every listener: an honest client does not notice, and nothing is kept.
func TestWireRapidReset(t *testing.T) {
	t.Parallel()
	p := launchWire(t, "")
	p.alive(t)
	before := p.holds(t)
	done := p.honest(t)
	reset := func(l wireListener, times int) {
		path := checks
		if l.name == "admin" {
			path = "/postern.admin.v1.TenantService/ListTenants"
		}
		w := speak(t, l.at)
		w.drain()
		w.flood(times, func(int) error {
			stream, err := w.open(false, calls(path)...)
			if err == nil {
				err = w.WriteRSTStream(stream, http2.ErrCodeCancel)
			}
			return err
		})
		_ = w.Close()
	}
	for _, l := range p.listeners() {
		reset(l, 5_000)
		var all sync.WaitGroup
		for range 20 {
			all.Go(func() { reset(l, 250) })
		}
		all.Wait()
	}
	t.Logf("the honest client was answered %d times", done())
	p.keepsLess(t, before, 96<<20) // garbage for the most part, which is collected when there is twice as much
	p.calmsDown(t, before)
	p.alive(t)
}

// GRPC-05: header fields that never end are cut off before 1 MiB of them.
func TestWireContinuation(t *testing.T) {
	t.Parallel()
	p := launchWire(t, "")
	p.alive(t)
	before := p.holds(t)
	for _, l := range p.listeners() {
		w := speak(t, l.at)
		err := w.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: w.encode(calls(checks)...)})
		for sent := 0; sent < 1000<<10 && err == nil; sent += 8 << 10 {
			err = w.WriteContinuation(1, false, w.encode(fmt.Sprint("x-", sent), strings.Repeat("~", 6000)))
		}
		if a := w.hear(0); a.closed == nil || isTimeout(a.closed) {
			t.Errorf("%s: %+v", l.name, a)
		}
	}
	p.keepsLess(t, before, 16<<20)
	p.alive(t)
}

// GRPC-06: header fields that unpack to much, or are many, are refused at the limit, and
// those below it are read.
func TestWireHeaderLists(t *testing.T) {
	t.Parallel()
	p := launchWire(t, "limits: { header_list: 16KiB }")
	p.alive(t)
	before := p.holds(t)
	many := func(n, size int) []string {
		fields := calls(checks)
		for i := range n {
			fields = append(fields, fmt.Sprintf("x-%d", i), strings.Repeat("v", size))
		}
		return fields
	}
	again := calls(checks) // 4,000 bytes that are said once and pointed to 4,000 times
	for range 4_000 {
		again = append(again, "x-bomb", strings.Repeat("b", 4_000))
	}
	for _, l := range p.listeners() {
		for name, fields := range map[string][]string{
			"a bomb": again, "64 KiB": many(16, 4096), "10,000 fields": many(10_000, 1), "one of 40 KiB": many(1, 40<<10),
		} {
			w := speak(t, l.at)
			block := w.encode(fields...)
			first := block[:min(len(block), 16<<10)]
			rest := block[len(first):]
			err := w.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: first, EndHeaders: len(rest) == 0})
			for len(rest) > 0 && err == nil {
				part := rest[:min(len(rest), 16<<10)]
				rest = rest[len(part):]
				err = w.WriteContinuation(1, len(rest) == 0, part)
			}
			if err == nil {
				_ = w.WriteData(1, true, asking())
			}
			if a := w.hear(1); !a.refused() || isTimeout(a.closed) {
				t.Errorf("%s: %s: %+v", l.name, name, a)
			}
		}
	}
	if a := speak(t, p.rpc).call(checks, asking(), many(8, 1024)[12:]...); !a.yes() {
		t.Errorf("8 KiB: %+v", a)
	}
	p.keepsLess(t, before, 16<<20)
	p.alive(t)
}

// GRPC-07: frames that ask for nothing, from a client that reads what comes and from one
// that does not, leave an honest client as it is; whoever sends them may be closed.
func TestWireFloods(t *testing.T) {
	t.Parallel()
	p := launchWire(t, "")
	p.alive(t)
	before := p.holds(t)
	done := p.honest(t)
	const times = 20_000
	floods := map[string]func(w *wire, i int) error{
		"PING":     func(w *wire, i int) error { return w.WritePing(false, [8]byte{byte(i)}) },
		"PING ack": func(w *wire, i int) error { return w.WritePing(true, [8]byte{byte(i)}) },
		"SETTINGS": func(w *wire, i int) error {
			return w.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: uint32(i)})
		},
		"SETTINGS ack":  func(w *wire, i int) error { return w.WriteSettingsAck() },
		"PRIORITY":      func(w *wire, i int) error { return w.WritePriority(uint32(2*i+1), http2.PriorityParam{Weight: 1}) },
		"WINDOW_UPDATE": func(w *wire, i int) error { return w.WriteWindowUpdate(0, 1) },
		"empty DATA":    func(w *wire, i int) error { return w.WriteData(1, false, nil) },
		"unknown":       func(w *wire, i int) error { return w.WriteRawFrame(0xbe, 0, 0, []byte("cafe")) },
		"RST_STREAM":    func(w *wire, i int) error { return w.WriteRSTStream(1, http2.ErrCodeCancel) },
		"early aborts": func(w *wire, i int) error {
			_, err := w.open(true, ":method", "GET", ":scheme", "http", ":path", "/", ":authority", "a.test")
			return err
		},
	}
	for _, l := range p.listeners() {
		for name, send := range floods {
			for _, reads := range []bool{true, false} {
				w := speak(t, l.at)
				if name == "empty DATA" || name == "RST_STREAM" {
					if _, err := w.open(false, calls(checks)...); err != nil {
						t.Fatal(err)
					}
				}
				if reads {
					w.drain()
				} else {
					_ = w.SetWriteDeadline(time.Now().Add(500 * time.Millisecond)) // the server stops reading
				}
				w.flood(times, func(i int) error { return send(w, i) })
				_ = w.Close()
			}
		}
		p.keepsLess(t, before, 48<<20)
	}
	t.Logf("the honest client was answered %d times", done())
	p.calmsDown(t, before)
	p.alive(t)
}

// GRPC-08: settings that may not be end the connection (RFC 9113 section 6.5.2); those
// that may are lived with. What serves gRPC takes no notice of two that may not be, and
// needs neither: it pushes nothing, and its frames fit into any size.
func TestWireSettings(t *testing.T) {
	t.Parallel()
	p := launchWire(t, "")
	var ending sync.WaitGroup
	for _, l := range p.listeners() {
		lives := func(a wireAnswer) bool {
			return l.name == "grpc" && a.yes() || l.name != "grpc" && a.status != "" && !a.reset && !a.goaway && a.closed == nil
		}
		for _, c := range []struct {
			id    http2.SettingID
			value uint32
			legal bool
		}{
			{http2.SettingMaxFrameSize, 0, false}, {http2.SettingMaxFrameSize, 16<<10 - 1, false}, {http2.SettingMaxFrameSize, 1 << 24, false}, {http2.SettingMaxFrameSize, 1<<32 - 1, false},
			{http2.SettingMaxFrameSize, 1<<24 - 1, true}, {http2.SettingMaxFrameSize, 16 << 10, true},
			{http2.SettingInitialWindowSize, 1 << 31, false}, {http2.SettingInitialWindowSize, 1<<32 - 1, false}, {http2.SettingInitialWindowSize, 1<<31 - 1, true},
			{http2.SettingHeaderTableSize, 0, true}, {http2.SettingHeaderTableSize, 1<<32 - 1, true},
			{http2.SettingEnablePush, 2, false}, {http2.SettingMaxConcurrentStreams, 0, true}, {http2.SettingMaxConcurrentStreams, 1<<32 - 1, true},
			{http2.SettingMaxHeaderListSize, 1<<32 - 1, true}, {http2.SettingMaxHeaderListSize, 0, true}, {0xffff, 1<<32 - 1, true},
		} {
			w := speak(t, l.at, http2.Setting{ID: c.id, Val: c.value})
			a := w.call(checks, asking())
			switch {
			case l.name == "grpc" && c.id == http2.SettingMaxHeaderListSize && c.value == 0: // no answer has so few header fields
				if !a.reset {
					t.Errorf("%s: %v = %d: %+v", l.name, c.id, c.value, a)
				}
			case c.legal, l.name == "grpc" && c.id != http2.SettingInitialWindowSize:
				if !lives(a) {
					t.Errorf("%s: %v = %d: %+v", l.name, c.id, c.value, a)
				}
			default:
				ending.Go(func() {
					if a.closed == nil {
						a.closed = w.hear(0).closed
					}
					if a.status != "" || isTimeout(a.closed) || !a.goaway && l.name != "grpc" {
						t.Errorf("%s: %v = %d, and it goes on: %+v", l.name, c.id, c.value, a)
					}
				})
			}
		}
		// A window of nothing: the answer waits until there is one, and then comes.
		w := speak(t, l.at, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
		stream, err := w.open(false, calls(checks)...)
		if err == nil {
			err = w.WriteData(stream, true, asking())
		}
		if err != nil {
			t.Fatal(err)
		}
		w.answersWithoutData(stream)
		if err := w.WriteWindowUpdate(stream, 1<<16); err != nil {
			t.Fatal(err)
		}
		if a := w.hear(stream); a.reset || a.closed != nil || len(a.data) == 0 || l.name == "grpc" && !a.yes() {
			t.Errorf("%s: a window of nothing: %+v", l.name, a)
		}
	}
	ending.Wait()
	p.alive(t)
}

// frame is the next frame.
func (w *wire) frame() http2.Frame {
	w.t.Helper()
	frame, err := w.ReadFrame()
	if err != nil {
		w.t.Fatal(err)
	}
	return frame
}

// answersWithoutData waits for the header fields of an answer, and then for a ping to come
// back, and fails if there is data before.
func (w *wire) answersWithoutData(stream uint32) {
	w.t.Helper()
	for {
		switch f := w.frame().(type) {
		case *http2.MetaHeadersFrame:
			if f.StreamEnded() {
				w.t.Fatalf("an answer without data: %v", f.Fields)
			}
			if err := w.WritePing(false, [8]byte{1}); err != nil {
				w.t.Fatal(err)
			}
		case *http2.PingFrame:
			if f.IsAck() {
				return
			}
		case *http2.DataFrame:
			if f.StreamID == stream && f.Length > 0 {
				w.t.Fatal("data that there is no window for")
			}
		case *http2.RSTStreamFrame, *http2.GoAwayFrame:
			w.t.Fatal(f)
		}
	}
}

// trickle connects many times and says a little, again and again, until it is closed.
func trickle(t *testing.T, at string, times int, first, more string) (closed *sync.WaitGroup) {
	t.Helper()
	closed = new(sync.WaitGroup)
	for range times {
		c := rawConn(t, at)
		if _, err := c.Write([]byte(first)); err != nil {
			t.Fatal(err)
		}
		closed.Go(func() {
			defer c.Close()
			began := time.Now()
			for left := more; ; {
				_ = c.SetReadDeadline(time.Now().Add(time.Second))
				switch _, err := c.Read(make([]byte, 4096)); {
				case err != nil && !isTimeout(err):
					return
				case time.Since(began) > 30*time.Second:
					t.Error("a handshake that does not end was not closed")
					return
				case err != nil && left != "":
					_, _ = c.Write([]byte(left[:1]))
					left = left[1:]
				}
			}
		})
	}
	return closed
}

// GRPC-10: who begins a handshake and does not go on is closed, and what it held is free.
// It is for 5 s; the test only says that it is not for ever.
func TestWireSlowHandshakes(t *testing.T) {
	t.Parallel()
	p := launchWire(t, "")
	p.alive(t)
	before := p.holds(t)
	done := p.honest(t)
	var all []*sync.WaitGroup
	for _, l := range p.listeners() {
		all = append(all, trickle(t, l.at, 25, http2.ClientPreface[:1], http2.ClientPreface[1:]))
		if l.name != "grpc" {
			all = append(all, trickle(t, l.at, 25, "GET / HTTP/1.1\r\n", strings.Repeat("x", 100)))
		}
	}
	all = append(all, trickle(t, p.rpc, 25, http2.ClientPreface, "\x00\x00\x06")) // and no SETTINGS
	for _, closed := range all {
		closed.Wait()
	}
	t.Logf("the honest client was answered %d times", done())
	p.calmsDown(t, before)
}

// GRPC-10, the other half: a ClientHello, and then nothing.
func TestWireSlowTLS(t *testing.T) {
	t.Parallel()
	lab := startMutualBox(t, "min_version: \"1.3\"")
	var hello strings.Builder
	_ = tls.Client(helloWriter{&hello}, &tls.Config{ServerName: "localhost", NextProtos: []string{"h2"}}).Handshake()
	if hello.Len() < 100 {
		t.Fatal(hello.Len())
	}
	whole, half := trickle(t, lab.rpc, 50, hello.String(), ""), trickle(t, lab.rpc, 50, hello.String()[:50], "")
	whole.Wait()
	half.Wait()
	lab.expect(t, withKey("/", lab.key), 200, "allowed")
}

// helloWriter is a connection that keeps what is written, and has nothing to say.
type helloWriter struct{ text *strings.Builder }

func (r helloWriter) Write(p []byte) (int, error)    { return r.text.Write(p) }
func (helloWriter) Read([]byte) (int, error)         { return 0, os.ErrDeadlineExceeded }
func (helloWriter) Close() error                     { return nil }
func (helloWriter) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (helloWriter) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (helloWriter) SetDeadline(time.Time) error      { return nil }
func (helloWriter) SetReadDeadline(time.Time) error  { return nil }
func (helloWriter) SetWriteDeadline(time.Time) error { return nil }

// GRPC-13: calls that are given up at some point leave nothing behind.
func TestWireCancelledCalls(t *testing.T) {
	t.Parallel()
	p := launchWire(t, "")
	p.alive(t)
	before := p.holds(t)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 250 {
				ctx, cancel := context.WithTimeout(context.Background(), time.Duration(rand.Int64N(int64(2*time.Millisecond))))
				res, err := p.envoy.Check(ctx, get("/").forEnvoy())
				if code := status.Code(err); code != codes.OK && code != codes.DeadlineExceeded && code != codes.Canceled {
					t.Error(err)
				} else if denied := res.GetDeniedResponse(); err == nil && denied != nil && denied.GetStatus().GetCode() != 503 { // it was given up there first
					t.Error(res)
				}
				cancel()
			}
		})
	}
	all.Wait()
	p.calmsDown(t, before)
	if n := metric(t, p.scrape(t), `postern_requests_under_way{listener="doors"}`); n != 0 {
		t.Errorf("%d are under way", n)
	}
	p.alive(t)
}

// GRPC-16: a connection has so many streams and no more, a call whose message does not come
// is ended, and a connection that does nothing keeps little.
func TestWireIdle(t *testing.T) {
	t.Parallel()
	const streams, many = 100, 300
	p := launchWire(t, fmt.Sprintf("limits: { concurrent_streams: %d, connections: 500 }", streams))
	p.alive(t)
	before := p.holds(t)
	for _, l := range p.listeners() {
		w := speak(t, l.at)
		waiting := map[string][2]string{ // requests that are answered when their body has come
			"grpc": {checks, "application/grpc"}, "admin": {"/postern.admin.v1.TenantService/ListTenants", "application/grpc"},
			"gateway": {"/postern.v1.CheckService/Check", "application/json"}, "http": {"/login", "application/x-www-form-urlencoded"},
		}[l.name]
		var last uint32
		for range streams + 1 {
			var err error
			if last, err = w.open(false, ":method", "POST", ":scheme", "http", ":path", waiting[0], ":authority", "localhost", "content-type", waiting[1], "te", "trailers"); err != nil {
				t.Fatal(err)
			}
		}
		if a := w.nextEnd(); a != last {
			t.Errorf("%s: of %d streams, %d ends first", l.name, streams+1, a)
		}
		if l.name == "grpc" { // the others give 30 s
			if err := w.WriteData(last-2, true, asking()); err != nil {
				t.Fatal(err)
			}
			if a := w.hear(last - 2); !a.yes() {
				t.Errorf("the last that there is room for: %+v", a)
			}
			if a := w.hear(1); a.grpc != "4" { // DEADLINE_EXCEEDED
				t.Errorf("a message that does not come: %+v", a)
			}
		}
		_ = w.Close()
	}
	p.calmsDown(t, before)
	var open []*wire
	for range many {
		w := speak(t, p.rpc)
		if _, err := w.ReadFrame(); err != nil {
			t.Fatal(err)
		}
		open = append(open, w)
	}
	p.alive(t)
	t.Logf("%d bytes a connection that does nothing", (p.holds(t).rss-before.rss)/many)
	p.keepsLess(t, before, many*64<<10)
	for _, w := range open {
		_ = w.Close()
	}
	p.calmsDown(t, before)
}

// nextEnd is the stream that is refused, or answered, next.
func (w *wire) nextEnd() (stream uint32) {
	w.t.Helper()
	for {
		switch f := w.frame().(type) {
		case *http2.RSTStreamFrame:
			if f.ErrCode != http2.ErrCodeRefusedStream {
				w.t.Error(f)
			}
			return f.StreamID
		case *http2.MetaHeadersFrame, *http2.GoAwayFrame:
			w.t.Error(f)
			return f.Header().StreamID
		}
	}
}
