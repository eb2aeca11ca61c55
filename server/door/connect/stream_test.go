package connect_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	grpclib "google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	posternv1 "github.com/postern-auth/postern/gen/postern/v1"
	"github.com/postern-auth/postern/server/door/connect"
)

// counts is a service with one method that answers with a stream.
func counts(send func(req *posternv1.CheckRequest, s grpclib.ServerStream) error) *grpclib.ServiceDesc {
	return &grpclib.ServiceDesc{
		ServiceName: "test.Counts", HandlerType: (*any)(nil),
		Streams: []grpclib.StreamDesc{
			{StreamName: "Count", ServerStreams: true, Handler: func(_ any, s grpclib.ServerStream) error {
				req := &posternv1.CheckRequest{}
				if err := s.RecvMsg(req); err != nil {
					return err
				}
				if err := s.RecvMsg(req); !errors.Is(err, io.EOF) {
					return errors.New("there is more than one question")
				}
				return send(req, s)
			}},
			{StreamName: "Both", ServerStreams: true, ClientStreams: true, Handler: func(any, grpclib.ServerStream) error { return nil }},
		},
	}
}

func pass(srv any, s grpclib.ServerStream, _ *grpclib.StreamServerInfo, next grpclib.StreamHandler) error {
	return next(srv, s)
}

func streaming(send func(req *posternv1.CheckRequest, s grpclib.ServerStream) error) *connect.Mux {
	m := connect.New(nil, 1<<10, slog.New(slog.DiscardHandler), connect.JSONOnly(), connect.WithStreams(pass))
	m.RegisterService(counts(send), nil)
	return m
}

func envelope(flags byte, text string) string {
	return string(binary.BigEndian.AppendUint32([]byte{flags}, uint32(len(text)))) + text
}

func askStream(h http.Handler, path, body string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodPost, path, strings.NewReader(body))
	r.Header.Set("Content-Type", "application/connect+json")
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// open takes a stream apart: its messages, and what the last envelope says.
func open(t *testing.T, body []byte) (messages []string, end string) {
	t.Helper()
	for len(body) >= 5 {
		size := binary.BigEndian.Uint32(body[1:])
		text := string(body[5 : 5+size])
		if body[0] == 2 {
			if len(body) != int(5+size) {
				t.Error("something follows the end")
			}
			return messages, text
		}
		messages = append(messages, text)
		body = body[5+size:]
	}
	t.Error("the stream has no end")
	return messages, ""
}

// A stream is its messages in envelopes and one that says how it ended.
func TestStream(t *testing.T) {
	t.Parallel()
	m := streaming(func(req *posternv1.CheckRequest, s grpclib.ServerStream) error {
		for range 3 {
			if err := s.SendMsg(req); err != nil {
				return err
			}
		}
		if req.GetTarget() == nil {
			return status.Error(codes.ResourceExhausted, "enough")
		}
		if req.GetTarget().GetHttp().GetMethod() == "PANIC" {
			panic("a secret")
		}
		return nil
	})
	const question = `{"target":{"http":{"method":"GET"}}}`
	w := askStream(m, "/test.Counts/Count", envelope(0, question))
	messages, end := open(t, w.Body.Bytes())
	if w.Code != 200 || w.Header().Get("Content-Type") != "application/connect+json" || len(messages) != 3 || end != "{}" {
		t.Error(w.Code, messages, end)
	}
	var back struct {
		Target struct{ HTTP struct{ Method string } }
	}
	if err := json.Unmarshal([]byte(messages[0]), &back); err != nil || back.Target.HTTP.Method != "GET" {
		t.Error(messages[0], err)
	}
	if _, end = open(t, askStream(m, "/test.Counts/Count", envelope(0, `{}`)).Body.Bytes()); end != `{"error":{"code":"resource_exhausted","message":"enough"}}` {
		t.Error(end)
	}
	if _, end = open(t, askStream(m, "/test.Counts/Count", envelope(0, strings.Replace(question, "GET", "PANIC", 1))).Body.Bytes()); end != `{"error":{"code":"internal","message":"internal error"}}` {
		t.Error(end)
	}
}

// What is no question in one envelope is refused, and so is what is no stream.
func TestStreamRefuses(t *testing.T) {
	t.Parallel()
	m := streaming(func(*posternv1.CheckRequest, grpclib.ServerStream) error { t.Error("it was called"); return nil })
	for name, body := range map[string]string{
		"nothing":           "",
		"a plain message":   "{}",
		"compressed":        envelope(1, "{}"),
		"an end":            envelope(2, "{}"),
		"two":               envelope(0, "{}") + envelope(0, "{}"),
		"too short":         envelope(0, "{}")[:6],
		"a huge length":     "\x00\xff\xff\xff\xff{}",
		"an unknown field":  envelope(0, `{"tarqet":{}}`),
		"no JSON":           envelope(0, `{`),
		"trailing data":     envelope(0, `{} {}`),
		"the same twice":    envelope(0, `{"target":{},"target":{}}`),
		"protobuf in there": envelope(0, "\x0a\x00"),
	} {
		if _, end := open(t, askStream(m, "/test.Counts/Count", body).Body.Bytes()); !strings.Contains(end, `"code":"invalid_argument"`) {
			t.Errorf("%s: %s", name, end)
		}
	}
	if _, end := open(t, askStream(m, "/test.Counts/Count", envelope(0, `{"x":"`+strings.Repeat("x", 1<<11)+`"}`)).Body.Bytes()); !strings.Contains(end, "resource_exhausted") {
		t.Error(end)
	}
	if w := askStream(m, "/test.Counts/Both", envelope(0, "{}")); w.Code != http.StatusNotFound {
		t.Error("a stream of questions is served", w.Code)
	}
	if w := post(m, "/test.Counts/Count", "{}"); w.Code != http.StatusUnsupportedMediaType || w.Header().Get("Accept-Post") != "application/connect+json" {
		t.Error(w.Code, w.Header())
	}
	plain := connect.New(nil, 1<<10, nil)
	plain.RegisterService(counts(nil), nil)
	if w := askStream(plain, "/test.Counts/Count", envelope(0, "{}")); w.Code != http.StatusNotFound {
		t.Error("streams are served without being asked for", w.Code)
	}
}

// Over a real connection, messages come when they are sent, a stream outlives the times
// that the listener gives to requests, and it ends when the client goes.
func TestStreamLives(t *testing.T) {
	t.Parallel()
	more, ended := make(chan struct{}), make(chan error, 1)
	m := streaming(func(req *posternv1.CheckRequest, s grpclib.ServerStream) error {
		for {
			if err := s.SendMsg(req); err != nil {
				ended <- err
				return err
			}
			select {
			case <-more:
			case <-s.Context().Done():
				ended <- s.Context().Err()
				return nil
			}
		}
	})
	server := httptest.NewUnstartedServer(m)
	server.Config.ReadTimeout, server.Config.WriteTimeout = 50*time.Millisecond, 50*time.Millisecond
	server.Start()
	defer server.Close()
	ctx, leave := context.WithCancel(t.Context())
	req, _ := http.NewRequestWithContext(ctx, http.MethodPost, server.URL+"/test.Counts/Count", strings.NewReader(envelope(0, "{}")))
	req.Header.Set("Content-Type", "application/connect+json")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	for range 3 {
		got := make([]byte, 7)
		if _, err := io.ReadFull(res.Body, got); err != nil || !bytes.Equal(got, []byte(envelope(0, "{}"))) {
			t.Fatal(got, err)
		}
		time.Sleep(120 * time.Millisecond) // more than the listener's times
		more <- struct{}{}
	}
	leave()
	if err := <-ended; err == nil {
		t.Error("it did not end")
	}
}

// JSON is read strictly, and what is nested too deeply is refused before anybody goes down
// into it.
func TestStrictJSON(t *testing.T) {
	t.Parallel()
	h := serve(t, allow, nil)
	for name, body := range map[string]string{
		"an unknown field":  `{"target":{"http":{}},"x":1}`,
		"the same twice":    `{"target":{"http":{}},"target":{"http":{}}}`,
		"in both spellings": `{"target":{"http":{"sourceIp":"1.1.1.1","source_ip":"1.1.1.1"}}}`,
		"trailing data":     `{"target":{"http":{}}}{}`,
		"a list":            `[]`,
		"nothing":           ``,
		"no UTF-8":          "{\"target\":{\"http\":{\"path\":\"\xff\"}}}",
		"deep lists":        `{"context":{"x":` + strings.Repeat("[", 200) + strings.Repeat("]", 200) + `}}`,
		"deep unknown":      `{"x":` + strings.Repeat("[", 400),
	} {
		if w := post(h, checkPath, body); w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), "invalid_argument") {
			t.Errorf("%s: %d %s", name, w.Code, w.Body)
		}
	}
	only := connect.New(nil, 1<<10, nil, connect.JSONOnly())
	only.RegisterService(&posternv1.CheckService_ServiceDesc, nil)
	for _, kind := range []string{"application/proto", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "application/json; charset=utf-16", ""} {
		if w := post(only, checkPath, "{}", "Content-Type", kind); w.Code != http.StatusUnsupportedMediaType {
			t.Errorf("%q: %d", kind, w.Code)
		}
	}
}
