package server

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/tap"

	posternv1 "github.com/postern-auth/postern/gen/postern/v1"
	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/audit"
	"github.com/postern-auth/postern/server/authn"
	"github.com/postern-auth/postern/server/canonical"
	"github.com/postern-auth/postern/server/check"
)

// held is a policy that answers when it is told to.
type held struct {
	asked, answer chan struct{}
	panics        bool
}

func (h *held) Decide(ctx context.Context, _ *policy.Input) (*policy.Verdict, bool, error) {
	if h.panics {
		panic("hunter2")
	}
	h.asked <- struct{}{}
	select {
	case <-h.answer:
	case <-ctx.Done():
	}
	return &policy.Verdict{Allow: true}, false, nil
}

func (*held) Revision() string { return "r1" }

// decidedBy has a server that runs decide by another policy, without credentials.
func decidedBy(t *testing.T, s *Server, d check.Decider, changes ...func(*check.Config)) {
	t.Helper()
	reader, err := canonical.New(canonical.Config{})
	if err != nil {
		t.Fatal(err)
	}
	cfg := check.Config{
		Reader: reader, Extractor: authn.NewExtractor(nil), Decider: d, Recorder: s.env.recorder,
		Routes: []policy.Route{{Anonymous: true}}, Logger: s.log,
	}
	for _, change := range changes {
		change(&cfg)
	}
	s.live.Swap(check.New(cfg))
}

func connectTo(t *testing.T, at net.Addr) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+at.String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

var (
	forEnvoy = &authv3.CheckRequest{Attributes: &authv3.AttributeContext{Request: &authv3.AttributeContext_Request{
		Http: &authv3.AttributeContext_HttpRequest{Method: "GET", Scheme: "https", Host: "a.test", Path: "/"},
	}}}
	forPostern = &posternv1.CheckRequest{Target: &posternv1.Target{
		Kind: &posternv1.Target_Http{Http: &posternv1.HttpTarget{Method: "GET", Host: "a.test", Path: "/", Scheme: "https"}},
	}}
)

// FAILOPEN-13: one more request than limits.requests permits is refused at once, at every
// door in its own words, and while health and the admin listener answer; when there is
// room again everything is as before.
func TestTooManyUnderWay(t *testing.T) {
	t.Parallel()
	s, at := run(t, func(c *Config) { c.Limits.Requests, c.Listen.Gateway = 1, loopback(0) })
	policy := &held{asked: make(chan struct{}), answer: make(chan struct{})}
	decidedBy(t, s, policy)
	conn := connectTo(t, at.GRPC)
	envoy, postern := authv3.NewAuthorizationClient(conn), posternv1.NewCheckServiceClient(conn)
	first := make(chan *authv3.CheckResponse)
	ask := func() {
		res, err := envoy.Check(context.Background(), forEnvoy)
		if err != nil {
			t.Error(err)
		}
		first <- res
	}
	go ask()
	<-policy.asked

	res, err := envoy.Check(t.Context(), forEnvoy)
	why := res.GetDynamicMetadata().GetFields()["postern"].GetStructValue().GetFields()["reason"].GetStringValue()
	if err != nil || res.GetDeniedResponse().GetStatus().GetCode() != 503 || why != "overloaded" {
		t.Errorf("ext_authz: %v %v", res, err)
	}
	if _, err := postern.Check(t.Context(), forPostern); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("CheckService: %v", err)
	}
	for path, want := range map[string]string{
		"/forward-auth/caddy":            `"reason":"unavailable"`,
		"/access/v1/evaluation":          "busy",
		"/postern.v1.CheckService/Check": "busy",
	} {
		res, err := http.Post("http://"+at.Gateway.String()+path, "application/json", strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if res.StatusCode != 503 || !strings.Contains(string(body), want) {
			t.Errorf("%s: %d %s", path, res.StatusCode, body)
		}
	}
	if refused := s.checks.refused.Load(); refused != 5 {
		t.Errorf("%d are counted", refused)
	}
	if res, err := http.Get("http://" + at.Admin.String() + "/healthz"); err != nil || res.StatusCode != 200 {
		t.Errorf("the admin listener: %v %v", res, err)
	}
	policy.answer <- struct{}{}
	if res := <-first; res.GetOkResponse() == nil {
		t.Errorf("the first: %v", res)
	}
	go ask()
	<-policy.asked
	policy.answer <- struct{}{}
	if res := <-first; res.GetOkResponse() == nil {
		t.Errorf("afterwards: %v", res)
	}
}

// Strangers take no place of those who may ask, not even with a call whose message does
// not come.
func TestStrangersTakeNoPlace(t *testing.T) {
	t.Parallel()
	s, at := run(t, func(c *Config) {
		c.Limits.Requests = 1
		c.Callers = []Caller{{Name: "elsewhere", CIDRs: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}}}
	})
	conn := connectTo(t, at.GRPC)
	for _, method := range []string{"/envoy.service.auth.v3.Authorization/Check", "/postern.v1.CheckService/Check"} {
		stream, err := conn.NewStream(t.Context(), &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, method)
		if err != nil {
			t.Fatal(err)
		}
		switch err := stream.RecvMsg(new(authv3.CheckResponse)); {
		case strings.Contains(method, "envoy") && err != nil, strings.Contains(method, "postern") && status.Code(err) != codes.PermissionDenied:
			t.Errorf("%s: %v", method, err)
		}
	}
	if now, refused := s.checks.now.Load(), s.callers.refused.Load(); now != 0 || refused != 2 {
		t.Errorf("%d under way, %d refused", now, refused)
	}
}

func waitFor(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("never: ", what)
		}
	}
}

// shared is a log that several write.
type shared struct {
	mu   sync.Mutex
	text strings.Builder
}

func (s *shared) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(p)
}

func (s *shared) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// recorders fail when a decision is recorded.
type recorders struct{}

func (recorders) Record(*audit.Record) { panic("hunter2") }

// GRPC-14: a panic while it is decided, or recorded, is a deny at every door; the process
// lives, the next request is answered, and the text of the panic goes nowhere. Where else
// one can be is for the tests of server/check and of each door.
func TestPanicsAtTheDoors(t *testing.T) {
	t.Parallel()
	var log shared
	for name, change := range map[string]func(*check.Config){
		"decide": func(c *check.Config) { c.Decider = &held{panics: true} },
		"record": func(c *check.Config) { c.Recorder = recorders{} },
	} {
		s, at := runWith(t, slog.New(slog.NewJSONHandler(&log, nil)), func(c *Config) { c.Listen.Gateway = loopback(0) })
		yes := &held{asked: make(chan struct{}, 99), answer: make(chan struct{})}
		close(yes.answer)
		conn := connectTo(t, at.GRPC)
		envoy, postern := authv3.NewAuthorizationClient(conn), posternv1.NewCheckServiceClient(conn)
		overHTTP := func(path, body string) (int, string) {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+at.Gateway.String()+path, strings.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			req.Header = http.Header{
				"Content-Type": {"application/json"}, "X-Forwarded-Method": {"GET"}, "X-Forwarded-Proto": {"https"},
				"X-Forwarded-Host": {"a.test"}, "X-Forwarded-Uri": {"/"},
			}
			res, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			text, _ := io.ReadAll(res.Body)
			return res.StatusCode, string(text)
		}
		decidedBy(t, s, yes, change)
		if res, err := envoy.Check(t.Context(), forEnvoy); err != nil || res.GetDeniedResponse().GetStatus().GetCode() != 503 {
			t.Errorf("%s: ext_authz: %v %v", name, res, err)
		}
		if res, err := postern.Check(t.Context(), forPostern); err != nil || res.GetDecision().GetAllowed() || res.GetDecision().GetHttpStatus() != 503 {
			t.Errorf("%s: CheckService: %v %v", name, res, err)
		}
		if code, text := overHTTP("/forward-auth/caddy", ""); code != 503 || !strings.Contains(text, "unavailable") {
			t.Errorf("%s: forward-auth: %d %s", name, code, text)
		}
		const question = `{"target":{"http":{"method":"GET","scheme":"https","host":"a.test","path":"/"}}}`
		if code, text := overHTTP("/postern.v1.CheckService/Check", question); code != 200 || strings.Contains(text, `"allowed":true`) || !strings.Contains(text, "503") {
			t.Errorf("%s: as JSON: %d %s", name, code, text)
		}
		decidedBy(t, s, yes)
		if res, err := envoy.Check(t.Context(), forEnvoy); err != nil || res.GetOkResponse() == nil {
			t.Errorf("%s: afterwards: %v %v", name, res, err)
		}
		if n := s.checks.now.Load(); n != 0 {
			t.Errorf("%s: %d are still under way", name, n)
		}
	}
	waitFor(t, "a line for each panic", func() bool { return strings.Count(log.String(), `"msg":"panic`) >= 8 })
	if text := log.String(); strings.Contains(text, "hunter2") {
		t.Error(text)
	}
}

// GRPC-13: what nobody waits for is not decided, and never an allow that is recorded.
func TestNobodyWaits(t *testing.T) {
	t.Parallel()
	s, at := run(t, nil)
	policy := &held{asked: make(chan struct{}), answer: make(chan struct{})}
	decidedBy(t, s, policy)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-policy.asked; cancel() }() // and then the policy says yes
	if _, err := authv3.NewAuthorizationClient(connectTo(t, at.GRPC)).Check(ctx, forEnvoy); status.Code(err) != codes.Canceled {
		t.Fatal(err)
	}
	waitFor(t, "the call is over", func() bool { return s.checks.now.Load() == 0 })
	all := s.ring.Last(10, nil)
	if len(all) != 1 || all[0].Decision.Allowed {
		t.Errorf("recorded: %+v", all)
	}
}

// Every unary call ends, also one whose caller wants to wait for a hundred centuries, and
// the deadline of the caller counts if it is sooner. Subscriptions last.
func TestCallsEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		soon, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		centuries, cancel := context.WithTimeout(t.Context(), 1<<62)
		defer cancel()
		for method, ends := range map[string]bool{
			"/envoy.service.auth.v3.Authorization/Check": true, "/grpc.health.v1.Health/Check": true, "nonsense": true,
			"/grpc.health.v1.Health/Watch": false, "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo": false,
		} {
			for given, most := range map[context.Context]time.Duration{t.Context(): 10 * time.Second, soon: time.Second, centuries: 10 * time.Second} {
				ctx, err := entrance{}.arrive(10*time.Second)(given, &tap.Info{FullMethodName: method})
				until, ok := ctx.Deadline()
				if err != nil || ends && (!ok || time.Until(until) > most) || !ends && ctx != given {
					t.Errorf("%s: %v %v %v", method, until, ok, err)
				}
			}
		}
		time.Sleep(time.Minute) // and nothing is left of them: synctest would say so
	})
}

// A client that begins with something else than HTTP/2 is closed at its first wrong byte;
// the log has one line of many.
func TestStrangers(t *testing.T) {
	t.Parallel()
	var log strings.Builder
	now := time.Unix(1e9, 0)
	s := &strangers{log: slog.New(slog.NewJSONHandler(&log, nil)), now: func() time.Time { return now }}
	hears := func(pieces ...string) error {
		ours, theirs := net.Pipe()
		defer theirs.Close()
		defer ours.Close()
		go func() {
			for _, p := range pieces {
				_, _ = io.WriteString(theirs, p)
			}
		}()
		c := &greeted{Conn: ours, strangers: s}
		_, err := io.ReadFull(c, make([]byte, len(http2.ClientPreface)))
		return err
	}
	half := len(http2.ClientPreface) / 2
	if err := hears(http2.ClientPreface[:1], http2.ClientPreface[1:half], http2.ClientPreface[half:]+"more"); err != nil || s.seen.Load() != 0 {
		t.Errorf("HTTP/2: %v", err)
	}
	for first, want := range map[string]string{
		"GET / HTTP/1.1\r\n":                     "HTTP/1.1",
		"POST /":                                 "HTTP/1.1",
		"\x16\x03\x01\x02\x00\x01":               "TLS",
		"PROXY TCP4 192.0.2.1":                   "PROXY",
		"\r\n\r\n\x00\r\nQUIT\n\x21\x11":         "PROXY",
		"\x00":                                   "does not begin",
		"PRI * HTTP/1.1\r\n\r\nSM\r\n\r\n":       "does not begin",
		http2.ClientPreface[:half] + "\x1b[2Jxx": "does not begin",
	} {
		log.Reset()
		now = now.Add(strangersEvery)
		if err := hears(first); !errors.Is(err, errNotHTTP2) || !strings.Contains(log.String(), want) {
			t.Errorf("%q: %v, %s", first, err, log.String())
		}
	}
	log.Reset()
	now = now.Add(strangersEvery)
	for range 1000 {
		s.note(&net.TCPAddr{}, "noise")
	}
	if n := strings.Count(log.String(), "\n"); n != 1 {
		t.Errorf("%d lines", n)
	}
	log.Reset()
	now = now.Add(strangersEvery)
	s.note(&net.TCPAddr{}, "noise")
	if !strings.Contains(log.String(), `"since_last_line":1000`) {
		t.Error(log.String())
	}
}

// Calls of a connection wait for the processor only so many at once; one that never
// begins holds up its connection for a moment, and not for ever.
func TestLine(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l, began := newLine(0), time.Now()
		for range lineCalls {
			l.join()
		}
		in := false
		go func() { l.join(); in = true }()
		synctest.Wait()
		if in {
			t.Error("one too many does not wait")
		}
		l.begin()
		synctest.Wait()
		if !in || time.Since(began) > 0 {
			t.Errorf("in: %v, after %v", in, time.Since(began))
		}
		l.join() // behind those that never begin
		if waited := time.Since(began); waited != lineMost {
			t.Errorf("waited for %v", waited)
		}
		for range 2 * lineCalls {
			l.begin() // they did after all
		}
		began = time.Now()
		for range lineCalls {
			l.join()
		}
		if n := l.calls.Load(); n != lineCalls || time.Since(began) > 0 {
			t.Errorf("%d in line, after %v", n, time.Since(began))
		}
	})
}

// A peer that reads nothing does not keep what Postern has to say for ever.
func TestStall(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		defer theirs.Close()
		left := false
		c := &conn{Conn: ours, leave: func() { left = true }}
		began := time.Now()
		if _, err := c.Write([]byte("a")); err == nil || time.Since(began) > stall {
			t.Errorf("%v after %v", err, time.Since(began))
		}
		_, _ = c.Close(), c.Close()
		if !left {
			t.Error("its place is still taken")
		}
	})
}
