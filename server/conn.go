package server

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
)

// bounded is a listener that has a number of connections at once; others wait in the
// kernel. One address has three quarters of them at most, and is closed on beyond that:
// who opens all that it can and says nothing leaves room for others. Each connection is
// cut when nobody reads what Postern writes there.
type bounded struct {
	net.Listener
	places  chan struct{}
	held    shares
	refused *atomic.Uint64
	closed  chan struct{}
	once    sync.Once
}

func newBounded(l net.Listener, connections int, refused *atomic.Uint64) *bounded {
	return &bounded{Listener: l, places: make(chan struct{}, connections), refused: refused, closed: make(chan struct{})}
}

// Accept implements net.Listener.
func (l *bounded) Accept() (net.Conn, error) {
	select {
	case l.places <- struct{}{}:
	case <-l.closed:
		return nil, net.ErrClosed
	}
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			<-l.places
			return nil, err
		}
		from := shareOf(c.RemoteAddr())
		if l.held.enter(from, int64(cap(l.places))) {
			return &conn{Conn: c, leave: func() { l.held.leave(from); <-l.places }}, nil
		}
		l.refused.Add(1)
		_ = c.Close()
	}
}

// Close implements net.Listener.
func (l *bounded) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

// conn is one of its connections.
type conn struct {
	net.Conn
	leave func()
	once  sync.Once
	until atomic.Int64 // when a write that is stuck is given up; nanoseconds since begun
}

// begun is what until counts from: by the monotonic clock, as deadlines of connections
// do. By the wall clock, one that is set back would leave a deadline where it is, and so
// end every connection.
var begun = time.Now()

// stall is how long nothing may move where Postern has something to say. A peer that does
// not read keeps its requests, and the answers, in memory for that long.
const stall = 20 * time.Second

// Write implements net.Conn. The deadline moves on in steps, because each of them costs
// as much as a small answer does.
func (c *conn) Write(p []byte) (int, error) {
	now, last := time.Now(), c.until.Load()
	if last == 0 || last-int64(now.Sub(begun)) < int64(stall*3/4) {
		until := now.Add(stall)
		if err := c.SetWriteDeadline(until); err != nil {
			return 0, err
		}
		c.until.Store(int64(until.Sub(begun)))
	}
	return c.Conn.Write(p)
}

// Close implements net.Conn.
func (c *conn) Close() error {
	err := c.Conn.Close()
	c.once.Do(c.leave)
	return err
}

// strangers are connections to the listener of gRPC that do not speak as they have to. A
// line of the log tells of one, and how many there were since the last line; not more
// often than every strangersEvery, so that nobody fills a disk by connecting.
type strangers struct {
	log  *slog.Logger
	now  func() time.Time
	seen atomic.Uint64
	next atomic.Int64 // not before this is another line written; Unix time in nanoseconds
	told atomic.Uint64
}

const strangersEvery = 10 * time.Second

// note counts one and closes with what it seems to be.
func (s *strangers) note(from net.Addr, what string) {
	seen, now, next := s.seen.Add(1), s.now().UnixNano(), s.next.Load()
	if now < next || !s.next.CompareAndSwap(next, now+int64(strangersEvery)) {
		return
	}
	since := seen - s.told.Swap(seen)
	s.log.LogAttrs(context.Background(), slog.LevelWarn, "a connection was closed: it is not gRPC",
		slog.String("from", from.String()), slog.String("because", what), slog.Uint64("since_last_line", since))
}

// greeted is a connection whose client has to begin as HTTP/2 does. The first byte that
// is another ends it: who speaks something else need not be waited for.
type greeted struct {
	net.Conn
	strangers *strangers
	heard     int // of the preface
	line      line
}

// RemoteAddr implements net.Conn. It leads from a call to its connection.
func (c *greeted) RemoteAddr() net.Addr { return callerAddr{c.Conn.RemoteAddr(), &c.line} }

// callerAddr is the address of a gRPC client.
type callerAddr struct {
	net.Addr
	line *line
}

// line is where the calls of one connection wait for the processor. When there are as many
// as waiting permits, no more are taken from the connection until one of them has begun:
// who opens streams faster than they can be looked at, to reset them for example, waits
// for himself, and the calls of all others come next. It costs nobody anything as long as
// there are processors, because a call that has begun does not count, however long it takes.
type line struct {
	calls atomic.Int32
	begun chan struct{} // of one place
	from  share
}

const (
	// lineCalls is how many calls of a connection may wait for the processor.
	lineCalls = 16
	// lineMost is how long a connection waits. It need not, except behind calls that
	// never begin because nobody can read them.
	lineMost = 20 * time.Millisecond
)

func newLine(from share) line { return line{begun: make(chan struct{}, 1), from: from} }

// join adds a call.
func (l *line) join() {
	if l.calls.Add(1) <= lineCalls {
		return
	}
	enough := time.NewTimer(lineMost)
	defer enough.Stop()
	for l.calls.Load() > lineCalls {
		select {
		case <-l.begun:
		case <-enough.C:
			l.calls.Store(0) // what has not begun by now never will, or soon
			return
		}
	}
}

// begin takes it away again, unless it was waited for long enough.
func (l *line) begin() {
	n := l.calls.Load()
	for n > 0 && !l.calls.CompareAndSwap(n, n-1) {
		n = l.calls.Load()
	}
	if n <= lineCalls {
		return
	}
	select {
	case l.begun <- struct{}{}:
	default:
	}
}

// share is that of the address at the other end; 0 where there is no line.
func (l *line) share() share {
	if l == nil {
		return 0
	}
	return l.from
}

// lineOf is the line of the connection that a call came over; nil if it has none.
func lineOf(ctx context.Context) *line {
	if p, ok := peer.FromContext(ctx); ok {
		if at, ok := p.Addr.(callerAddr); ok {
			return at.line
		}
	}
	return nil
}

var errNotHTTP2 = errors.New("the client does not speak HTTP/2")

// Read implements net.Conn.
func (c *greeted) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if c.heard == len(http2.ClientPreface) || n == 0 {
		return n, err
	}
	rest := http2.ClientPreface[c.heard:]
	rest = rest[:min(n, len(rest))]
	if string(p[:len(rest)]) != rest {
		c.strangers.note(c.RemoteAddr(), c.seems(p[:n]))
		return 0, errNotHTTP2
	}
	c.heard += len(rest)
	return n, err
}

// seems says what the first bytes look like, for people who look for their mistake.
func (c *greeted) seems(first []byte) string {
	text := string(first[:min(len(first), 16)])
	switch {
	case c.heard > 0: // it began well
	case strings.HasPrefix(text, "\x16\x03"):
		return "it speaks TLS, and this listener has none"
	case strings.HasPrefix(text, "PROXY "), strings.HasPrefix(text, "\r\n\r\n\x00\r\nQUIT\n"):
		return "it begins with a PROXY header, which is not supported"
	case isHTTP1(text):
		return "it speaks HTTP/1.1"
	}
	return "it does not begin as HTTP/2 does"
}

// isHTTP1 reports whether a text can be the beginning of a request line.
func isHTTP1(text string) bool {
	method, _, found := strings.Cut(text, " ")
	return found && method != "" && method != "PRI" && strings.Trim(method, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") == ""
}

// greetedListener is for a listener without TLS.
type greetedListener struct {
	net.Listener
	strangers *strangers
}

// Accept implements net.Listener.
func (l greetedListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &greeted{Conn: c, strangers: l.strangers, line: newLine(shareOf(c.RemoteAddr()))}, nil
}

// greetedTLS is for a listener with TLS.
type greetedTLS struct {
	credentials.TransportCredentials
	strangers *strangers
}

// ServerHandshake implements credentials.TransportCredentials.
func (t greetedTLS) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	c, info, err := t.TransportCredentials.ServerHandshake(raw)
	if err != nil {
		if !errors.Is(err, io.EOF) { // as load balancers look whether anybody is there
			t.strangers.note(raw.RemoteAddr(), shorten(err.Error()))
		}
		return c, info, err
	}
	return &greeted{Conn: c, strangers: t.strangers, line: newLine(shareOf(c.RemoteAddr()))}, info, nil
}

// Clone implements credentials.TransportCredentials.
func (t greetedTLS) Clone() credentials.TransportCredentials {
	return greetedTLS{t.TransportCredentials.Clone(), t.strangers}
}

// shorten bounds what a log line quotes of an error, which can name what a certificate
// says of itself.
func shorten(text string) string {
	const most = 200
	if len(text) > most {
		return text[:most] + "…"
	}
	return text
}
