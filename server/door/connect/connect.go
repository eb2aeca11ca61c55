// Package connect offers gRPC services to plain HTTP clients, curl among them, by the
// unary part of Connect's protocol: a POST of a message as JSON or protobuf to the path
// of the method.
//
//	curl -H 'Content-Type: application/json' \
//	  -d '{"target":{"http":{"method":"GET","path":"/orders"}}}' \
//	  http://127.0.0.1:9193/postern.v1.CheckService/Check
//
// It is no door of its own: the services are those of the gRPC listener, with the same
// interceptor in front, so that both give the same answer. A Mux takes them as a
// grpc.Server does. Of a caller that may not ask (door.IsUnlisted), nothing is read.
//
//	POST, 200        the answer, in the form of the question
//	any other        {"code": …, "message": …, "details": …}, with the code of gRPC
//
// Streams, compression and Connect's GET are not offered.
package connect

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"math"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/postern-auth/postern/server/door"
)

// Name is how the log calls this door.
const Name = "connect"

// Mux serves the unary methods of the services that are registered with it. Register all
// of them before the first request.
type Mux struct {
	interceptor grpc.UnaryServerInterceptor
	maxMessage  int64
	log         *slog.Logger
	methods     map[string]method
}

type method struct {
	service any
	desc    grpc.MethodDesc
}

// New returns a Mux without services. Each call goes through the interceptor; nil for
// none. A message may have maxMessage bytes. A panic is reported to log; nil means the
// default logger.
func New(interceptor grpc.UnaryServerInterceptor, maxMessage int64, log *slog.Logger) *Mux {
	if log == nil {
		log = slog.Default()
	}
	return &Mux{interceptor: interceptor, maxMessage: maxMessage, log: log, methods: map[string]method{}}
}

// RegisterService implements grpc.ServiceRegistrar.
func (m *Mux) RegisterService(desc *grpc.ServiceDesc, service any) {
	for _, d := range desc.Methods {
		m.methods["/"+desc.ServiceName+"/"+d.MethodName] = method{service, d}
	}
}

// Paths are the paths of the services, each with a slash at its end.
func (m *Mux) Paths() []string {
	seen := map[string]bool{}
	var all []string
	for name := range m.methods {
		if path := name[:strings.LastIndexByte(name, '/')+1]; !seen[path] {
			seen[path], all = true, append(all, path)
		}
	}
	return all
}

// ServeHTTP implements http.Handler.
func (m *Mux) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	called, known := m.methods[r.URL.Path]
	if !known {
		fail(w, http.StatusNotFound, status.New(codes.Unimplemented, "there is no such method"))
		return
	}
	if door.IsUnlisted(r.Context()) {
		fail(w, http.StatusForbidden, status.New(codes.PermissionDenied, "this caller is not in the configuration's list of callers"))
		return
	}
	form, refused := m.accepts(r)
	if refused != nil {
		for name, value := range refused.headers {
			w.Header().Set(name, value)
		}
		fail(w, refused.status, status.New(refused.code, refused.message))
		return
	}
	answer, err := m.call(w, r, called, form)
	var body []byte
	if err == nil {
		body, err = form.marshal(answer)
	}
	if err != nil {
		st := status.Convert(err)
		fail(w, statusOf(st.Code()), st)
		return
	}
	w.Header().Set("Content-Type", form.contentType)
	w.Header().Set("Cache-Control", "no-store")
	_, _ = w.Write(body)
}

// call reads the message and calls the method. A panic is an internal error, whose text
// stays here.
func (m *Mux) call(w http.ResponseWriter, r *http.Request, called method, form *form) (answer proto.Message, err error) {
	defer func() {
		if thrown := recover(); thrown != nil {
			door.Recovered(r.Context(), m.log, Name, thrown)
			answer, err = nil, status.Error(codes.Internal, "internal error")
		}
	}()
	ctx := r.Context()
	if text := r.Header.Get("Connect-Timeout-Ms"); text != "" {
		ms, err := strconv.ParseInt(text, 10, 64)
		if err != nil || ms < 0 || ms > math.MaxInt32 {
			return nil, status.Error(codes.InvalidArgument, "connect-timeout-ms is no number of milliseconds")
		}
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(ms)*time.Millisecond)
		defer cancel()
	}
	receive := func(into any) error {
		text, err := io.ReadAll(http.MaxBytesReader(w, r.Body, m.maxMessage))
		var tooLarge *http.MaxBytesError
		switch {
		case errors.As(err, &tooLarge):
			return status.Error(codes.ResourceExhausted, "the message is too large")
		case err != nil:
			return status.Error(codes.Canceled, "the message did not arrive")
		}
		if err := form.unmarshal(text, into.(proto.Message)); err != nil {
			return status.Error(codes.InvalidArgument, "the message cannot be read as "+form.contentType) // the error may quote a credential
		}
		return nil
	}
	reply, err := called.desc.Handler(called.service, ctx, receive, m.interceptor)
	if err != nil {
		return nil, err
	}
	return reply.(proto.Message), nil
}

// form is how a message is written.
type form struct {
	contentType string
	marshal     func(proto.Message) ([]byte, error)
	unmarshal   func([]byte, proto.Message) error
}

var (
	asJSON  = &form{"application/json", protojson.MarshalOptions{}.Marshal, protojson.Unmarshal}
	asProto = &form{"application/proto", proto.Marshal, proto.Unmarshal}
)

// refusal says why a request is no call.
type refusal struct {
	status  int
	code    codes.Code
	message string
	headers map[string]string
}

// accepts returns the form of a request that is a unary call.
func (m *Mux) accepts(r *http.Request) (*form, *refusal) {
	const posts = "application/json, application/proto"
	if r.Method != http.MethodPost {
		return nil, &refusal{http.StatusMethodNotAllowed, codes.Unimplemented, "only POST", map[string]string{"Allow": "POST"}}
	}
	if v := r.Header.Get("Connect-Protocol-Version"); v != "" && v != "1" {
		return nil, &refusal{http.StatusBadRequest, codes.InvalidArgument, "connect-protocol-version is not 1", nil}
	}
	if e := r.Header.Get("Content-Encoding"); e != "" && e != "identity" {
		return nil, &refusal{http.StatusNotImplemented, codes.Unimplemented, "messages are not compressed", map[string]string{"Accept-Encoding": "identity"}}
	}
	kind, parameters, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	charset := strings.ToLower(parameters["charset"])
	for _, f := range []*form{asJSON, asProto} {
		if err == nil && kind == f.contentType && (charset == "" || charset == "utf-8") {
			return f, nil
		}
	}
	return nil, &refusal{http.StatusUnsupportedMediaType, codes.Unimplemented, "the message is " + posts, map[string]string{"Accept-Post": posts}}
}

// statuses are those of Connect's protocol for the codes; 500 is for all others.
var statuses = map[codes.Code]int{
	codes.Canceled: 499, codes.InvalidArgument: 400, codes.DeadlineExceeded: 504, codes.NotFound: 404, codes.AlreadyExists: 409,
	codes.PermissionDenied: 403, codes.ResourceExhausted: 429, codes.FailedPrecondition: 400, codes.Aborted: 409, codes.OutOfRange: 400,
	codes.Unimplemented: 501, codes.Unavailable: 503, codes.Unauthenticated: 401,
}

func statusOf(code codes.Code) int {
	if s, ok := statuses[code]; ok {
		return s
	}
	return http.StatusInternalServerError
}

// detail is google.protobuf.Any as Connect writes it.
type detail struct {
	Type  string `json:"type"`
	Value string `json:"value"`
}

// fail writes an error as Connect's protocol wants it.
func fail(w http.ResponseWriter, httpStatus int, st *status.Status) {
	answer := struct {
		Code    string   `json:"code"`
		Message string   `json:"message,omitempty"`
		Details []detail `json:"details,omitempty"`
	}{Code: word(st.Code()), Message: st.Message()}
	for _, d := range st.Proto().GetDetails() {
		answer.Details = append(answer.Details, detail{strings.TrimPrefix(d.GetTypeUrl(), "type.googleapis.com/"), base64.RawStdEncoding.EncodeToString(d.GetValue())})
	}
	body, err := json.Marshal(answer)
	if err != nil {
		body = []byte(`{"code":"internal"}`) // strings always marshal
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(httpStatus)
	_, _ = w.Write(append(body, '\n'))
}

// word is a code as Connect writes it: InvalidArgument is invalid_argument.
func word(code codes.Code) string {
	if code == codes.OK {
		return "unknown" // an error says that it is one
	}
	var b strings.Builder
	for i, c := range code.String() {
		if c >= 'A' && c <= 'Z' {
			if i > 0 {
				b.WriteByte('_')
			}
			c += 'a' - 'A'
		}
		b.WriteRune(c)
	}
	return b.String()
}
