package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/postern-auth/postern/bench/rig"
)

// attacks are clients that speak HTTP/2 as nobody should, beside honest ones.
var attacks = func() (all []fault) {
	for _, x := range tricks {
		all = append(all, fault{x.name, x.what, func(ctx context.Context, l *lab) (*line, error) { return l.attack(ctx, x) }})
	}
	return all
}()

// trick is what one attacker does on a connection until it breaks.
type trick struct {
	name, what  string
	connections int
	play        func(ctx context.Context, c *attacker) error
}

var tricks = []trick{
	{"reset", "rapid reset: streams that are opened and reset at once", 4, rapidReset},
	{"windows", "answers that cannot be sent: windows of nothing, then of a byte each", 16, noWindows},
	{"updates", "floods of WINDOW_UPDATE, SETTINGS and PING", 4, frames},
	{"overflow", "windows beyond what there can be, and settings that are none", 4, overflow},
	{"readers", "slow readers: thousands of questions, of whose answers nothing is read", 32, slowReaders},
	{"writers", "slow writers: a byte now and then, of questions that never end", 64, slowWriters},
}

// attacker is a connection that was opened in the manner of a client.
type attacker struct {
	net.Conn
	framer *http2.Framer
	out    *bytes.Buffer // what the framer writes
	sent   *atomic.Int64 // frames
	stream uint32
	head   []byte // of a question
	body   []byte
	pause  time.Duration // between two batches: the attacker shares this machine with the honest
}

// flush sends what was framed.
func (c *attacker) flush() error {
	_, err := c.Write(c.out.Bytes())
	c.out.Reset()
	time.Sleep(c.pause)
	return err
}

// next is the number of another stream.
func (c *attacker) next() uint32 { c.stream += 2; return c.stream - 2 }

// open frames the beginning of a question.
func (c *attacker) open(end bool) (stream uint32, err error) {
	stream = c.next()
	c.sent.Add(1)
	return stream, c.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: c.head, EndHeaders: true, EndStream: end})
}

// question frames a whole one.
func (c *attacker) question() error {
	stream, err := c.open(false)
	if err != nil {
		return err
	}
	return c.framer.WriteData(stream, true, c.body)
}

// connect opens a connection with a preface and settings.
func connect(ctx context.Context, address string, raw []byte, sent *atomic.Int64, settings ...http2.Setting) (*attacker, error) {
	conn, err := (&net.Dialer{Timeout: 2 * time.Second}).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	c := &attacker{Conn: conn, out: &bytes.Buffer{}, sent: sent, stream: 1, pause: 2 * time.Millisecond}
	c.framer = http2.NewFramer(c.out, nil)
	c.framer.AllowIllegalWrites = true
	var head bytes.Buffer
	w := hpack.NewEncoder(&head)
	w.SetMaxDynamicTableSize(0) // so that the same bytes can be sent again
	for _, f := range [][2]string{
		{":method", "POST"}, {":scheme", "http"}, {":path", "/envoy.service.auth.v3.Authorization/Check"}, {":authority", "postern.test"},
		{"content-type", "application/grpc"}, {"te", "trailers"},
	} {
		_ = w.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]})
	}
	c.head = head.Bytes()
	c.body = append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(raw))), raw...) // gRPC's prefix
	c.out.WriteString(http2.ClientPreface)
	if err := c.framer.WriteSettings(settings...); err != nil {
		return nil, err
	}
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	return c, c.flush()
}

// attack has attackers come back as soon as they are thrown out, beside honest people.
func (l *lab) attack(ctx context.Context, t trick) (*line, error) {
	all, err := l.open(ctx, 1, recipe{})
	if err != nil {
		return nil, err
	}
	s := &scene{lab: l, replicas: all, questions: l.questions()}
	raw := withKey("", rig.Path, l.keys[0], allow).raw
	connections := t.connections
	if l.short {
		connections = max(2, connections/4)
	}
	return s.beside(ctx, fmt.Sprintf("%s, on %d connections", strings.Split(t.what, ":")[0], connections), func(ctx context.Context) string {
		var sent, opened, thrown atomic.Int64
		var crowd sync.WaitGroup
		for range connections {
			crowd.Go(func() {
				for ; ctx.Err() == nil; time.Sleep(5 * time.Millisecond) {
					opened.Add(1)
					if attackOnce(ctx, t, all[0].launch.GRPC, raw, &sent) != nil && ctx.Err() == nil {
						thrown.Add(1)
					}
				}
			})
		}
		crowd.Wait()
		return fmt.Sprintf("%d frames on %d connections, thrown out %d times", sent.Load(), opened.Load(), thrown.Load())
	})
}

// attackOnce is one connection, until the server ends it or time is over.
func attackOnce(ctx context.Context, t trick, address string, raw []byte, sent *atomic.Int64) error {
	var settings []http2.Setting
	if t.name == "windows" || t.name == "readers" {
		settings = append(settings, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
	}
	c, err := connect(ctx, address, raw, sent, settings...)
	if err != nil {
		return err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { _ = c.Close() })()
	if t.name != "readers" {
		go func() { _, _ = io.Copy(io.Discard, c); _ = c.Close() }() // reads, and notices the end
	}
	return t.play(ctx, c)
}

// batch is how many frames are sent at once.
const batch = 64

func rapidReset(ctx context.Context, c *attacker) error {
	for ctx.Err() == nil {
		for range batch {
			stream, err := c.open(false)
			if err != nil {
				return err
			}
			if err := c.framer.WriteRSTStream(stream, http2.ErrCodeCancel); err != nil {
				return err
			}
		}
		if err := c.flush(); err != nil {
			return err
		}
	}
	return nil
}

// noWindows asks until no stream is left and then opens the windows by a byte at a time.
func noWindows(ctx context.Context, c *attacker) error {
	for range 1000 {
		if err := c.question(); err != nil {
			return err
		}
		if c.out.Len() > 32<<10 {
			if err := c.flush(); err != nil {
				return err
			}
		}
	}
	for n := uint32(0); ctx.Err() == nil; n++ {
		for range batch {
			c.sent.Add(1)
			if err := c.framer.WriteWindowUpdate(1+2*(n%1000), 1); err != nil {
				return err
			}
			n++
		}
		if err := c.flush(); err != nil {
			return err
		}
	}
	return nil
}

func frames(ctx context.Context, c *attacker) error {
	for ctx.Err() == nil {
		for i := range batch {
			c.sent.Add(1)
			var err error
			switch i % 3 {
			case 0:
				err = c.framer.WritePing(false, [8]byte{1})
			case 1:
				err = c.framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: uint32(i)})
			default:
				err = c.framer.WriteWindowUpdate(0, 1)
			}
			if err != nil {
				return err
			}
		}
		if err := c.flush(); err != nil {
			return err
		}
	}
	return nil
}

// overflow does each time one thing that ends a connection by the protocol.
func overflow(_ context.Context, c *attacker) (err error) {
	switch c.sent.Add(1) % 4 {
	case 0:
		err = c.framer.WriteWindowUpdate(0, 1<<31-1)
	case 1:
		err = c.framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1<<32 - 1})
	case 2:
		err = c.framer.WriteSettings(http2.Setting{ID: http2.SettingMaxFrameSize, Val: 1})
	default:
		err = c.framer.WriteWindowUpdate(0, 0)
	}
	if err != nil {
		return err
	}
	for range batch { // and asks on
		if err := c.question(); err != nil {
			return err
		}
	}
	if err := c.flush(); err != nil {
		return err
	}
	time.Sleep(100 * time.Millisecond) // until it is closed, or for a while
	return c.flush()
}

// slowReaders asks on and on and reads nothing.
func slowReaders(ctx context.Context, c *attacker) error {
	for ctx.Err() == nil {
		for range batch / 8 {
			if err := c.question(); err != nil {
				return err
			}
		}
		if err := c.flush(); err != nil {
			return err
		}
		time.Sleep(100 * time.Millisecond)
	}
	return nil
}

// slowWriters begins questions and goes on with a byte at a time.
func slowWriters(ctx context.Context, c *attacker) error {
	var streams []uint32
	for range 16 {
		stream, err := c.open(false)
		if err != nil {
			return err
		}
		streams = append(streams, stream)
	}
	for i := 0; ctx.Err() == nil && i < len(c.body); i++ {
		for _, stream := range streams {
			c.sent.Add(1)
			if err := c.framer.WriteData(stream, false, c.body[i:i+1]); err != nil {
				return err
			}
		}
		if err := c.flush(); err != nil {
			return err
		}
		time.Sleep(200 * time.Millisecond)
	}
	return nil
}
