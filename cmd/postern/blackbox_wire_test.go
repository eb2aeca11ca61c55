package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
)

// The tests of the wire write HTTP/2 frame by frame, as no client library does, to each
// listener of a server in a process of its own, and look at what it keeps: memory,
// goroutines, files. They are smaller than what a machine of one's own would be put to,
// and hold no times but what is given up after; bench/faults has the sizes.

// launchWire runs world "wire"; more is appended to its configuration.
func launchWire(t testing.TB, more string) *replica {
	t.Helper()
	w := prepare(t, "wire", "@MORE@", more)
	w.bootstrap(t)
	return launch(t, w)
}

// listener is where a server listens.
type wireListener struct{ name, at string }

func (p *replica) listeners() []wireListener {
	return []wireListener{{"grpc", p.rpc}, {"admin", p.admin}, {"gateway", p.box.gateway}, {"http", p.login}}
}

// wire is a connection on which HTTP/2 is written by hand.
type wire struct {
	net.Conn
	*http2.Framer
	t     testing.TB
	block bytes.Buffer
	hpack *hpack.Encoder
	next  uint32 // stream
}

// rawConn connects.
func rawConn(t testing.TB, at string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	return c
}

// speak connects and says who speaks.
func speak(t testing.TB, at string, settings ...http2.Setting) *wire {
	t.Helper()
	c := rawConn(t, at)
	w := &wire{Conn: c, Framer: http2.NewFramer(c, c), t: t, next: 1}
	w.hpack = hpack.NewEncoder(&w.block)
	w.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	w.AllowIllegalWrites = true
	if _, err := io.WriteString(c, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	if err := w.WriteSettings(settings...); err != nil {
		t.Fatal(err)
	}
	return w
}

// encode writes header fields: names and values in turn.
func (w *wire) encode(fields ...string) []byte {
	w.block.Reset()
	for i := 0; i < len(fields); i += 2 {
		if err := w.hpack.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]}); err != nil {
			w.t.Fatal(err)
		}
	}
	return w.block.Bytes()
}

// calls are the header fields of a gRPC call.
func calls(path string, more ...string) []string {
	return append([]string{":method", "POST", ":scheme", "http", ":path", path, ":authority", "postern.test", "content-type", "application/grpc", "te", "trailers"}, more...)
}

// open opens a stream with header fields, and returns its number.
func (w *wire) open(end bool, fields ...string) (stream uint32, err error) {
	stream, w.next = w.next, w.next+2
	return stream, w.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: w.encode(fields...), EndHeaders: true, EndStream: end})
}

// call makes a whole call.
func (w *wire) call(path string, data []byte, more ...string) wireAnswer {
	w.t.Helper()
	stream, err := w.open(false, calls(path, more...)...)
	for len(data) > 16<<10 && err == nil {
		err = w.WriteData(stream, false, data[:16<<10])
		data = data[16<<10:]
	}
	if err == nil {
		err = w.WriteData(stream, true, data)
	}
	if err != nil {
		return wireAnswer{closed: err}
	}
	return w.hear(stream)
}

// envelope is a gRPC message.
func envelope(m proto.Message) []byte {
	text, err := proto.Marshal(m)
	if err != nil {
		panic(err)
	}
	return append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(text))), text...)
}

// wireAnswer is what became of a stream.
type wireAnswer struct {
	status  string // HTTP
	grpc    string // grpc-status
	message string
	data    []byte
	reset   bool  // the stream alone
	goaway  bool  // the connection, by a frame that says so
	closed  error // the connection
	code    http2.ErrCode
}

// refused reports whether no handler was reached.
func (a wireAnswer) refused() bool {
	code, _ := strconv.Atoi(a.status)
	return a.reset || a.goaway || a.closed != nil || a.grpc == "12" || code >= 400
}

// hear reads until a stream ends; 0 waits for the end of the connection.
func (w *wire) hear(stream uint32) (a wireAnswer) {
	for {
		frame, err := w.ReadFrame()
		if err != nil {
			a.closed = err
			return a
		}
		switch f := frame.(type) {
		case *http2.MetaHeadersFrame:
			if f.StreamID != stream {
				continue
			}
			for _, field := range f.Fields {
				switch field.Name {
				case ":status":
					a.status = field.Value
				case "grpc-status":
					a.grpc = field.Value
				case "grpc-message":
					a.message = field.Value
				}
			}
			if f.StreamEnded() {
				return a
			}
		case *http2.DataFrame:
			if f.StreamID != stream {
				continue
			}
			a.data = append(a.data, f.Data()...)
			if f.StreamEnded() {
				return a
			}
		case *http2.RSTStreamFrame:
			if f.StreamID == stream && stream != 0 {
				a.reset, a.code = true, f.ErrCode
				return a
			}
		case *http2.GoAwayFrame:
			a.goaway, a.code = true, f.ErrCode
			if stream != 0 && f.LastStreamID < stream {
				return a
			}
		case *http2.SettingsFrame:
			if !f.IsAck() {
				_ = w.WriteSettingsAck()
			}
		case *http2.PingFrame:
			if !f.IsAck() {
				_ = w.WritePing(true, f.Data)
			}
		}
	}
}

// checks is the path of ext_authz, and asking a question that is answered with yes.
const checks = "/envoy.service.auth.v3.Authorization/Check"

func asking() []byte { return envelope(get("/").forEnvoy()) }

// yes reports whether an answer is an allow.
func (a wireAnswer) yes() bool {
	var res authv3.CheckResponse
	return a.grpc == "0" && len(a.data) > 5 && proto.Unmarshal(a.data[5:], &res) == nil && res.GetOkResponse() != nil
}

// honest asks now and then, over a connection of its own, until done: not one of its
// questions may fail while others misbehave.
func (p *replica) honest(t testing.TB) (done func() (answered int)) {
	stop, ended := make(chan struct{}), make(chan int)
	go func() {
		n := 0
		for {
			select {
			case <-stop:
				ended <- n
				return
			default:
			}
			if a := p.askEnvoy(t, get("/")); !a.allowed() {
				t.Errorf("an honest client was told: %v", a)
			}
			n++
		}
	}()
	return func() int { close(stop); return <-ended }
}

// raced says that the race detector looks on.
var raced bool

// holding is what a process keeps.
type holding struct{ rss, goroutines, files int }

func (p *replica) holds(t testing.TB) (h holding) {
	t.Helper()
	h.goroutines = metric(t, p.scrape(t), "go_goroutines")
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", p.cmd.Process.Pid))
	if err != nil {
		t.Skip("no /proc: ", err)
	}
	h.rss, _ = strconv.Atoi(strings.Fields(string(text))[1])
	h.rss *= os.Getpagesize()
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", p.cmd.Process.Pid))
	h.files = len(files)
	return h
}

// calmsDown waits until nothing is left of what was done to a server.
func (p *replica) calmsDown(t testing.TB, before holding) {
	t.Helper()
	var now holding
	defer func() { t.Logf("before %+v, after %+v", before, now) }()
	eventually(t, "goroutines and files are as before", func() bool {
		now = p.holds(t)
		return now.goroutines <= before.goroutines+5 && now.files <= before.files+2
	})
}

// keepsLess fails if the process holds so much more memory than before. The race
// detector keeps a multiple of everything.
func (p *replica) keepsLess(t testing.TB, before holding, than int) {
	t.Helper()
	if raced {
		than *= 10
	}
	if now := p.holds(t); now.rss-before.rss > than {
		t.Errorf("%d KiB more than before, %d are the most", (now.rss-before.rss)>>10, than>>10)
	}
}

// alive fails unless a server answers as before.
func (p *replica) alive(t testing.TB) {
	t.Helper()
	if a := p.askEnvoy(t, get("/")); !a.allowed() || !p.runs() {
		t.Errorf("afterwards: %v, running: %v", a, p.runs())
	}
}

// methods are all methods of the services that Postern has, or could be thought to have.
func everyMethod(t testing.TB) (all []protoreflect.MethodDescriptor) {
	t.Helper()
	protoregistry.GlobalFiles.RangeFiles(func(f protoreflect.FileDescriptor) bool {
		name := string(f.Package())
		if !strings.HasPrefix(name, "postern.") && !strings.HasPrefix(name, "grpc.") && name != "envoy.service.auth.v3" {
			return true
		}
		for i := range f.Services().Len() {
			for j := range f.Services().Get(i).Methods().Len() {
				all = append(all, f.Services().Get(i).Methods().Get(j))
			}
		}
		return true
	})
	if len(all) < 70 {
		t.Fatalf("%d methods", len(all))
	}
	return all
}

// pathOf is the path of a method, with its slash.
func pathOf(m protoreflect.MethodDescriptor) string {
	return "/" + string(m.Parent().FullName()) + "/" + string(m.Name())
}

// isTimeout reports whether a test gave up waiting, rather than the server closing.
func isTimeout(err error) bool {
	var e net.Error
	return errors.As(err, &e) && e.Timeout()
}
