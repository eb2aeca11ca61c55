package connect_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	grpclib "google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	posternv1 "github.com/postern-auth/postern/gen/postern/v1"
	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/door"
	"github.com/postern-auth/postern/server/door/connect"
	"github.com/postern-auth/postern/server/door/grpc"
)

// answers is a Checker that answers by a function.
type answers func(ctx context.Context, a *policy.Attributes) policy.Decision

func (f answers) Check(ctx context.Context, a *policy.Attributes) policy.Decision { return f(ctx, a) }
func (f answers) Authenticate(ctx context.Context, a *policy.Attributes) policy.Decision {
	return f(ctx, a)
}

func allow(_ context.Context, a *policy.Attributes) policy.Decision {
	return policy.Decision{Allowed: a.Path == "/orders?x=1", Reason: policy.ReasonAllowed, Status: 200, Principal: &policy.Principal{ID: "ann"}}
}

func serve(t testing.TB, c answers, interceptor grpclib.UnaryServerInterceptor) http.Handler {
	t.Helper()
	m := connect.New(interceptor, 1<<10, slog.New(slog.DiscardHandler))
	grpc.New(c, c, slog.New(slog.DiscardHandler)).Register(m)
	return m
}

const checkPath = "/postern.v1.CheckService/Check"

func post(h http.Handler, path, body string, fields ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodPost, path, strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	for i := 0; i < len(fields); i += 2 {
		r.Header.Set(fields[i], fields[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

const question = `{"credential":{"apiKey":"k"},"target":{"http":{"method":"GET","path":"/orders?x=1"}}}`

// FAILOPEN-08: nothing is read of a caller that may not ask.
func TestUnlisted(t *testing.T) {
	t.Parallel()
	r := httptest.NewRequest(http.MethodPost, checkPath, iotest.ErrReader(errors.New("it was read")))
	r.Header.Set("Content-Type", "application/json")
	w := httptest.NewRecorder()
	serve(t, allow, nil).ServeHTTP(w, r.WithContext(door.WithUnlisted(r.Context())))
	if w.Code != http.StatusForbidden || !strings.Contains(w.Body.String(), `"permission_denied"`) {
		t.Error(w.Code, w.Body)
	}
}

// G-01: the same question in JSON and in protobuf, the same answer.
func TestCall(t *testing.T) {
	t.Parallel()
	h := serve(t, allow, nil)
	w := post(h, checkPath, question, "Connect-Protocol-Version", "1", "Content-Type", "application/json; charset=utf-8")
	var answer struct {
		Decision  struct{ Allowed bool }
		Principal struct{ ID string }
	}
	if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil || w.Code != 200 || !answer.Decision.Allowed || answer.Principal.ID != "ann" || w.Header().Get("Content-Type") != "application/json" {
		t.Errorf("%d %s %v", w.Code, w.Body, err)
	}
	text, err := proto.Marshal(&posternv1.CheckRequest{Target: &posternv1.Target{Kind: &posternv1.Target_Http{Http: &posternv1.HttpTarget{Method: "GET", Path: "/orders?x=1"}}}})
	if err != nil {
		t.Fatal(err)
	}
	w = post(h, checkPath, string(text), "Content-Type", "application/proto")
	var m posternv1.CheckResponse
	if err := proto.Unmarshal(w.Body.Bytes(), &m); err != nil || !m.GetDecision().GetAllowed() {
		t.Errorf("%d %v", w.Code, err)
	}
	if w = post(h, checkPath, strings.Replace(question, "x=1", "x=2", 1)); w.Code != 200 || strings.Contains(w.Body.String(), "allowed\":true") {
		t.Errorf("a deny is an answer: %d %s", w.Code, w.Body)
	}
}

// What is no call is an error in Connect's words, which quotes nothing of it.
func TestErrors(t *testing.T) {
	t.Parallel()
	h := serve(t, allow, nil)
	for name, c := range map[string]struct {
		path, body string
		fields     []string
		status     int
		code       string
	}{
		"no such method":     {"/postern.v1.CheckService/Chek", question, nil, 404, "unimplemented"},
		"no JSON":            {checkPath, `{"credential":{"apiKey":"hunter2"`, nil, 400, "invalid_argument"},
		"misspelt":           {checkPath, `{"crednetial":{"apiKey":"hunter2"}}`, nil, 400, "invalid_argument"},
		"twice":              {checkPath, `{"target":{},"target":{}}`, nil, 400, "invalid_argument"},
		"no target":          {checkPath, `{}`, nil, 400, "invalid_argument"},
		"too large":          {checkPath, `{"correlationId":"` + strings.Repeat("x", 1<<10) + `"}`, nil, 429, "resource_exhausted"},
		"form":               {checkPath, "a=b", []string{"Content-Type", "application/x-www-form-urlencoded"}, 415, "unimplemented"},
		"another charset":    {checkPath, question, []string{"Content-Type", "application/json; charset=utf-7"}, 415, "unimplemented"},
		"compressed":         {checkPath, question, []string{"Content-Encoding", "gzip"}, 501, "unimplemented"},
		"another protocol":   {checkPath, question, []string{"Connect-Protocol-Version", "2"}, 400, "invalid_argument"},
		"a time that is not": {checkPath, question, []string{"Connect-Timeout-Ms", "-1"}, 400, "invalid_argument"},
	} {
		w := post(h, c.path, c.body, c.fields...)
		var e struct {
			Code    string
			Details []struct{ Type, Value string }
		}
		if err := json.Unmarshal(w.Body.Bytes(), &e); err != nil || w.Code != c.status || e.Code != c.code || strings.Contains(w.Body.String(), "hunter2") {
			t.Errorf("%s: %d %s %v", name, w.Code, w.Body, err)
		}
		if name != "no target" {
			continue
		}
		var fields errdetails.BadRequest
		value, err := base64.RawStdEncoding.DecodeString(e.Details[1].Value)
		if err != nil || proto.Unmarshal(value, &fields) != nil || e.Details[1].Type != "google.rpc.BadRequest" || fields.GetFieldViolations()[0].GetField() != "target" {
			t.Errorf("%v %v", e, err)
		}
	}
	for _, method := range []string{http.MethodGet, http.MethodPut, http.MethodOptions} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(method, checkPath, nil))
		if w.Code != http.StatusMethodNotAllowed || w.Header().Get("Allow") != "POST" {
			t.Errorf("%s: %d", method, w.Code)
		}
	}
}

// A mistake in JSON is told by its place and by the name of a field, never by a value or
// by what may be one.
func TestMistakes(t *testing.T) {
	t.Parallel()
	h := serve(t, allow, nil)
	for body, says := range map[string]string{
		`{"crednetial":{}}`:                                  "line 1, column 2: there is no field crednetial",
		`{"target":{},"target":{}}`:                          "line 1, column 14: there are two fields target",
		"{\n \"correlationId\": 7}":                          "line 2, column 19: correlationId is no string",
		`{"credential":{"apiKey":["hunter2"]}}`:              "line 1, column 25: apiKey is no string",
		`{"pst_hunter2":{}}`:                                 "line 1, column 2",
		`{"correlationId":["): unknown field \"hunters\""]}`: "line 1, column 18: correlationId is no string",
		strings.Repeat(`{"a":`, 101):                         "nested too deeply",
	} {
		w := post(h, checkPath, body)
		var e failureText
		if err := json.Unmarshal(w.Body.Bytes(), &e); err != nil || w.Code != 400 || e.Message != "the message cannot be read as application/json: "+says {
			t.Errorf("%s: %d %s %v", body, w.Code, w.Body, err)
		}
	}
	if w := post(h, checkPath, `{"target":`); !strings.Contains(w.Body.String(), "as application/json") {
		t.Error(w.Body)
	}
	if w := post(h, checkPath, "hunter2", "Content-Type", "application/proto"); strings.Contains(w.Body.String(), "hunter2") || !strings.Contains(w.Body.String(), `application/proto"`) {
		t.Error(w.Body)
	}
}

type failureText struct{ Message string }

// The interceptor stands before every call, and what it refuses is refused; a panic in
// it quotes nothing.
func TestInterceptor(t *testing.T) {
	t.Parallel()
	refuse := func(context.Context, any, *grpclib.UnaryServerInfo, grpclib.UnaryHandler) (any, error) {
		return nil, status.Error(codes.PermissionDenied, "not listed")
	}
	if w := post(serve(t, allow, refuse), checkPath, question); w.Code != 403 || !strings.Contains(w.Body.String(), "permission_denied") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	throw := func(context.Context, any, *grpclib.UnaryServerInfo, grpclib.UnaryHandler) (any, error) {
		panic("hunter2")
	}
	if w := post(serve(t, allow, throw), checkPath, question); w.Code != 500 || strings.Contains(w.Body.String(), "hunter2") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

// The caller's time is the call's deadline.
func TestTimeout(t *testing.T) {
	t.Parallel()
	var left time.Duration
	h := serve(t, func(ctx context.Context, a *policy.Attributes) policy.Decision {
		at, _ := ctx.Deadline()
		left = time.Until(at)
		return allow(ctx, a)
	}, nil)
	if post(h, checkPath, question, "Connect-Timeout-Ms", "60000"); left <= 0 || left > time.Minute {
		t.Error(left)
	}
}

// FuzzConnect: no message makes anything but an answer or an error.
func FuzzConnect(f *testing.F) {
	f.Add(question, "application/json")
	f.Add("\x0a\x03abc", "application/proto")
	f.Fuzz(func(t *testing.T, body, contentType string) {
		w := post(serve(t, allow, nil), checkPath, body, "Content-Type", contentType)
		answer, err := io.ReadAll(w.Body)
		if err != nil || w.Code == http.StatusInternalServerError || len(bytes.TrimSpace(answer)) == 0 && w.Code != 200 {
			t.Fatalf("%d %q", w.Code, answer)
		}
	})
}
