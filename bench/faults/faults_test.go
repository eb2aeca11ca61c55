package main

import (
	"context"
	"errors"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"

	"github.com/postern-auth/postern/bench/rig"
)

// The oracle tells the answers apart, and forgives only what was on its way.
func TestJudge(t *testing.T) {
	t.Parallel()
	none := errors.New("no answer")
	for _, c := range []struct {
		asked, came want
		allowed     bool
		err         error
		out         outcome
	}{
		{allow, allow, true, nil, rightAnswer},
		{allow, allow, false, nil, failed},
		{allow, allow, false, none, failed},
		{deny, deny, false, nil, rightAnswer},
		{deny, deny, true, nil, wrongAllow},
		{deny, deny, false, none, failed},
		{either, either, true, nil, rightAnswer},
		{either, either, false, nil, rightAnswer},
		{either, either, false, none, failed},
		{allow, either, true, nil, rightAnswer},
		{allow, deny, true, nil, rightAnswer},
	} {
		if got := judge(c.asked, c.came, c.allowed, c.err); got != c.out {
			t.Errorf("%+v: %d", c, got)
		}
	}
	var zero want
	if judge(zero, zero, true, nil) != wrongAllow {
		t.Error("the zero want is not deny")
	}
}

// server answers as it is told.
type server struct {
	authv3.UnimplementedAuthorizationServer
	answer func() (*authv3.CheckResponse, error)
}

func (s server) Check(context.Context, *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	return s.answer()
}

func serve(t *testing.T, answer func() (*authv3.CheckResponse, error)) string {
	t.Helper()
	on, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	authv3.RegisterAuthorizationServer(s, server{answer: answer})
	go func() { _ = s.Serve(on) }()
	t.Cleanup(s.Stop)
	return on.Addr().String()
}

func allows() (*authv3.CheckResponse, error) {
	return &authv3.CheckResponse{HttpResponse: &authv3.CheckResponse_OkResponse{OkResponse: &authv3.OkHttpResponse{}}}, nil
}

func denies() (*authv3.CheckResponse, error) {
	return &authv3.CheckResponse{HttpResponse: &authv3.CheckResponse_DeniedResponse{DeniedResponse: &authv3.DeniedHttpResponse{}}}, nil
}

// The client asks another server when one is not there, and a server that allows
// everything is found out.
func TestClient(t *testing.T) {
	t.Parallel()
	c, err := newClient(5*time.Second, rig.FreeAddr(), serve(t, denies), rig.FreeAddr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.close)
	honest := &tally{}
	l := &load{ask: c.ask, tally: honest}
	for range 6 {
		if o := l.one(t.Context(), ask("nobody", rig.Path, nil, deny)); o != rightAnswer {
			t.Error(o, honest.first)
		}
		if o := l.one(t.Context(), ask("somebody", rig.Path, nil, allow)); o != failed {
			t.Error("a deny of who may is ", o)
		}
	}
	lax, err := newClient(5*time.Second, serve(t, allows))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(lax.close)
	l = &load{ask: lax.ask, tally: honest}
	if o := l.one(t.Context(), ask("nobody", rig.Path, nil, deny)); o != wrongAllow || honest.wrong != 1 {
		t.Errorf("%v, %d wrong", o, honest.wrong)
	}
	if asked, failures, _, _ := honest.counts(); asked != 13 || failures != 6 || honest.goodput(quiet) != 7 {
		t.Errorf("%d asked, %d failed", asked, failures)
	}
}

// What stands in for an Envoy fails open, and is closed by an answer.
func TestFailOpen(t *testing.T) {
	t.Parallel()
	for at, want := range map[string]bool{serve(t, denies): false, serve(t, allows): true, rig.FreeAddr(): true} {
		g, err := failOpen([]string{at})
		if err != nil {
			t.Fatal(err)
		}
		if through, err := g.through(t.Context(), ask("nobody", rig.Path, nil, deny)); through != want || err != nil {
			t.Errorf("through %v, %v; want %v", through, err, want)
		}
		g.close()
	}
}

// A connection is as bad as it is told to be.
func TestProxy(t *testing.T) {
	t.Parallel()
	socket := filepath.Join(t.TempDir(), "s")
	on, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = on.Close() })
	go func() {
		for {
			c, err := on.Accept()
			if err != nil {
				return
			}
			go func() { defer c.Close(); _, _ = io.Copy(c, c) }()
		}
	}()
	p, err := newProxy(socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.close)
	echo := func(c net.Conn) (string, error) {
		if _, err := io.WriteString(c, "hello you"); err != nil {
			return "", err
		}
		said := make([]byte, 9)
		n, err := io.ReadFull(c, said)
		return string(said[:n]), err
	}
	open := func() net.Conn {
		t.Helper()
		c, err := net.Dial("tcp", p.at)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	c := open()
	if said, err := echo(c); said != "hello you" || err != nil {
		t.Fatal(said, err)
	}
	p.set(torn, 0)
	if said, err := echo(c); said == "hello you" || err == nil {
		t.Error("torn: ", said, err)
	}
	p.set(down, 0)
	if _, err := echo(open()); err == nil {
		t.Error("down, and it answers")
	}
	p.set(silent, 0)
	c = open()
	ended := make(chan error, 1)
	go func() { _, err := echo(c); ended <- err }()
	select {
	case err := <-ended:
		t.Error("silent, and it ends: ", err)
	case <-time.After(50 * time.Millisecond):
	}
	p.set(pass, 0)
	if err := <-ended; err == nil {
		t.Error("what was swallowed is answered")
	}
	if said, err := echo(open()); said != "hello you" || err != nil {
		t.Error(said, err)
	}
}

// Every bad credential of a flood is another one.
func TestSpoil(t *testing.T) {
	t.Parallel()
	i, err := newIssuer()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(i.close)
	l := &lab{issuer: i}
	for _, q := range l.rubbish() {
		a, b := string(spoil(q.raw)), string(spoil(q.raw))
		if a == b || len(a) != len(q.raw) || strings.Contains(a, spoiled[:11]) {
			t.Errorf("%s is not spoiled", q.name)
		}
	}
}

// The signature of one bundle on the files of another is what it says.
func TestGraft(t *testing.T) {
	t.Parallel()
	key, _, err := rig.SigningKey()
	if err != nil {
		t.Fatal(err)
	}
	signed, err := pack(t.Context(), good(1), "1", key)
	if err != nil {
		t.Fatal(err)
	}
	other, err := pack(t.Context(), good(2), "2", nil)
	if err != nil {
		t.Fatal(err)
	}
	both, err := graft(signed, other)
	if err != nil {
		t.Fatal(err)
	}
	files, err := unpack(both)
	if err != nil {
		t.Fatal(err)
	}
	var signature, module bool
	for name, text := range files {
		signature = signature || strings.HasSuffix(name, signatures)
		module = module || strings.Contains(string(text), "revision := 2")
	}
	if !signature || !module {
		t.Errorf("signature %v, module %v", signature, module)
	}
}

// Faults are chosen by a part of their names, each once, in their order.
func TestChosen(t *testing.T) {
	t.Parallel()
	names := func(only string) string {
		all, err := chosen(only)
		if err != nil {
			return err.Error()
		}
		var text []string
		for _, x := range all {
			text = append(text, x.name)
		}
		return strings.Join(text, " ")
	}
	for only, want := range map[string]string{
		"kill":       "kill",
		"clock,kill": "clock-fast clock-slow kill",
		"kill,kill":  "kill",
		"nothing":    `no fault "nothing": -list tells which there are`,
	} {
		if got := names(only); got != want {
			t.Errorf("%s: %s", only, got)
		}
	}
	seen := map[string]bool{}
	for _, x := range faults {
		if seen[x.name] || x.what == "" {
			t.Errorf("%q stands twice, or says nothing", x.name)
		}
		seen[x.name] = true
	}
	if err := (&settings{}).check(nil); err == nil {
		t.Error("nothing to measure with")
	}
	if err := (&settings{rate: 10, long: time.Second, restarts: 1}).check([]string{"kill"}); err == nil {
		t.Error("an argument is ignored")
	}
}

// A wrong allow breaks a line, through whichever door; a goal that is missed does not.
func TestVerdict(t *testing.T) {
	t.Parallel()
	for want, x := range map[rig.Verdict]*line{
		rig.Kept: {Failed: 7}, rig.Missed: {Missed: []string{"slow"}}, rig.Broken: {WrongAllows: 1, Missed: []string{"slow"}},
	} {
		x.judge()
		if x.Verdict != want || broken([]*line{x}) != (want == rig.Broken) {
			t.Errorf("%+v", x)
		}
	}
	leak := &line{Leaks: 1}
	if leak.judge(); leak.Verdict != rig.Broken {
		t.Error("a leak breaks nothing")
	}
	if x := skipped("no %s", "disk"); x.Verdict != rig.Skipped || !strings.Contains(x.String(), "no disk") || broken([]*line{x}) {
		t.Error(x)
	}
}

// CRASH-15: the end of a soak is held against its beginning. (-soak 30m is the soak.)
func TestHold(t *testing.T) {
	t.Parallel()
	flat := func(p99 time.Duration, goroutines int) *window {
		return &window{state: state{resident: 50, goroutines: goroutines, files: 20}, heap: 10, p99: p99}
	}
	var good, slower, leaking []*window
	for i := range 16 {
		good = append(good, flat(time.Millisecond, 20+i%3))
		slower = append(slower, flat(time.Duration(i+1)*time.Millisecond, 20))
		leaking = append(leaking, flat(time.Millisecond, 20+2*i))
	}
	for name, c := range map[string]struct {
		all  []*window
		want string
	}{"flat": {good, ""}, "slower": {slower, "p99"}, "leaking": {leaking, "goroutines"}} {
		l := &line{}
		l.hold(c.all)
		if got := strings.Join(l.Missed, "; "); !strings.HasPrefix(got, c.want) || (got == "") != (c.want == "") {
			t.Errorf("%s: %q", name, got)
		}
	}
}
