package main

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	adminv1 "github.com/postern-auth/postern/gen/postern/admin/v1"
	posternv1 "github.com/postern-auth/postern/gen/postern/v1"
)

// watching runs `postern watch` until the test has seen enough.
func watching(t *testing.T, args ...string) (out, complaints *journal, stop func() error) {
	t.Helper()
	out, complaints = &journal{}, &journal{}
	root := newRoot()
	root.SetArgs(append([]string{"watch"}, args...))
	root.SetOut(out)
	root.SetErr(complaints)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- root.ExecuteContext(ctx) }()
	stop = sync.OnceValue(func() error { cancel(); return <-ended })
	t.Cleanup(func() { _ = stop() })
	return out, complaints, stop
}

// Decisions of a real server, in lines for people and for programs, and those alone that
// were asked for.
func TestWatch(t *testing.T) {
	t.Parallel()
	p := preparePlane(t, sqliteStore)
	p.bootstrap(t)
	r := launch(t, p)
	r.service(t, "shop", "reader")
	_, key := r.key(t, "shop")
	as := []string{"--admin", r.admin, "--token-file", r.path("admin.key")}
	r.expect(t, get("/items/0", "x-api-key", key), 200, "allowed")
	all, _, stop := watching(t, append(as, "--recent", "10")...)
	eventually(t, "what was decided before", func() bool { return strings.Contains(all.String(), "/items/0") })
	denies, _, stopDenies := watching(t, append(as, "--deny", "--recent", "10", "-o", "json")...)
	others, _, stopOthers := watching(t, append(as, "--principal", "somebody", "--route", "rest", "--reason", "allowed", "--recent", "10")...)
	r.expect(t, get("/items/1\u202e", "x-api-key", key).with("DELETE"), 400, "request_invalid")
	r.expect(t, get("/items/1", "x-api-key", key).with("DELETE"), 403, "permission_missing")
	line := regexp.MustCompile(`(?m)^\d\d:\d\d:\d\d\.\d\d\d  deny  403  permission_missing +shop +api_key +DELETE api\.test/items/1  \[rest\]  \S+  [0-9a-z]+$`)
	eventually(t, "the deny", func() bool { return line.MatchString(all.String()) })
	eventually(t, "the deny as JSON", func() bool { return strings.Contains(denies.String(), "REASON_PERMISSION_MISSING") })
	for text := range strings.Lines(denies.String()) {
		var d struct {
			Decision struct {
				Allowed bool
				ID      string `json:"decision_id"`
			}
		}
		if err := json.Unmarshal([]byte(text), &d); err != nil || d.Decision.Allowed || d.Decision.ID == "" {
			t.Errorf("%s: %v", text, err)
		}
	}
	if strings.Contains(all.String(), "\x1b") || strings.Contains(all.String(), "\u202e") {
		t.Error("a terminal would obey what a client has sent")
	}
	for _, stop := range []func() error{stop, stopDenies, stopOthers} {
		if err := stop(); err != nil {
			t.Error("Ctrl-C: ", err)
		}
	}
	if others.String() != "" {
		t.Error("nobody asked for ", others)
	}
}

// teller serves decisions that it is told.
type teller struct {
	adminv1.UnimplementedDecisionServiceServer
	tell chan *adminv1.WatchDecisionsResponse
}

func (s *teller) WatchDecisions(_ *adminv1.WatchDecisionsRequest, stream grpc.ServerStreamingServer[adminv1.WatchDecisionsResponse]) error {
	if err := stream.Send(&adminv1.WatchDecisionsResponse{}); err != nil {
		return err
	}
	for {
		select {
		case res := <-s.tell:
			if res == nil {
				return nil
			}
			if err := stream.Send(res); err != nil {
				return err
			}
		case <-stream.Context().Done():
			return nil
		}
	}
}

// A server that goes is said once and asked again, and so is what was lost meanwhile.
func TestWatchConnectsAgain(t *testing.T) {
	t.Parallel()
	at, s := "127.0.0.1:0", &teller{tell: make(chan *adminv1.WatchDecisionsResponse)}
	serve := func() *grpc.Server {
		l, err := net.Listen("tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		at = l.Addr().String()
		rpc := grpc.NewServer()
		adminv1.RegisterDecisionServiceServer(rpc, s)
		go func() { _ = rpc.Serve(l) }()
		t.Cleanup(rpc.Stop)
		return rpc
	}
	rpc := serve()
	out, complaints, stop := watching(t, "--admin", at)
	tell := func(path string) {
		t.Helper()
		select {
		case s.tell <- &adminv1.WatchDecisionsResponse{Lost: 7, Decisions: []*adminv1.DecisionRecord{{Path: path}}}:
		case <-time.After(patience):
			t.Fatal("nobody watches: ", complaints)
		}
	}
	tell("/one")
	eventually(t, "a decision", func() bool { return strings.Contains(out.String(), "/one") })
	s.tell <- nil
	eventually(t, "that the stream has ended", func() bool {
		return strings.Contains(complaints.String(), "the server has ended the stream; trying again")
	})
	tell("/two")
	eventually(t, "the next decision", func() bool { return strings.Contains(out.String(), "/two") })
	rpc.Stop()
	eventually(t, "that there is no server", func() bool { return strings.Contains(complaints.String(), "no answer from") })
	serve()
	tell("/three")
	eventually(t, "another decision", func() bool { return strings.Contains(out.String(), "/three") })
	if err := stop(); err != nil {
		t.Error(err)
	}
	said := complaints.String()
	if strings.Count(said, "connected again; what was decided meanwhile is not shown") != 2 || !strings.Contains(said, "7 decisions were made too fast to be shown") {
		t.Error(said)
	}
}

// Colours are for terminals, and say nothing that the words do not.
func TestWatchLine(t *testing.T) {
	t.Parallel()
	d := &adminv1.DecisionRecord{
		Time: timestamppb.New(time.Unix(0, 0)), Latency: durationpb.New(1234567), Cached: true, Method: "GET", Host: "api.test", Path: "/x\x1b[2J", Route: "r",
		Decision:  &posternv1.Decision{Allowed: true, HttpStatus: 200, Reason: posternv1.Reason_REASON_ALLOWED, DecisionId: "d1"},
		Principal: &posternv1.Principal{Id: "ann", Tenant: "acme", Method: "jwt"},
	}
	plain, coloured := (&watcher{}).line(d), (&watcher{colours: true}).line(d)
	if got := plain[len("15:04:05.000"):]; got != "  allow 200  allowed                 acme/ann              jwt       GET api.test/x\\x1b[2J  [r]  1.235ms cached  d1\n" {
		t.Errorf("%q", got)
	}
	if !strings.Contains(coloured, green+"allow 200"+plainly) || regexp.MustCompile(`\x1b\[[0-9]*m`).ReplaceAllString(coloured, "") != plain {
		t.Errorf("%q", coloured)
	}
	d.Decision.Allowed = false
	if denied := (&watcher{colours: true}).line(d); !strings.Contains(denied, red+"deny ") {
		t.Errorf("%q", denied)
	}
	if wantsColours(&bytes.Buffer{}) {
		t.Error("a buffer is a terminal")
	}
}
