// Package connect offers gRPC services to plain HTTP clients, curl and browsers among
// them, by Connect's protocol: a POST of a message as JSON or protobuf to the path of the
// method.
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
// Methods that answer with a stream are served WithStreams (stream.go): the messages come
// in envelopes, and the last envelope says how it ended.
//
// JSON is read strictly: an unknown field, a name that stands twice, what comes after the
// message, and what is nested too deeply are INVALID_ARGUMENT. Streams of questions,
// compression and Connect's GET are not offered, and nothing is said to browsers of other
// origins (CORS).
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
	"regexp"
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
	streams     grpc.StreamServerInterceptor // nil: they are not served
	maxMessage  int64
	log         *slog.Logger
	methods     map[string]method
	unary       forms // in which unary methods are asked
	streamed    forms
}

// method is one of the two.
type method struct {
	service any
	unary   *grpc.MethodDesc
	stream  *grpc.StreamDesc
}

// New returns a Mux without services. Each call goes through the interceptor; nil for
// none. A message may have maxMessage bytes. A panic is reported to log; nil means the
// default logger.
func New(interceptor grpc.UnaryServerInterceptor, maxMessage int64, log *slog.Logger, options ...Option) *Mux {
	if log == nil {
		log = slog.Default()
	}
	m := &Mux{
		interceptor: interceptor, maxMessage: maxMessage, log: log, methods: map[string]method{},
		unary: forms{asJSON, asProto}, streamed: forms{asJSON.enveloped(), asProto.enveloped()},
	}
	for _, option := range options {
		option(m)
	}
	return m
}

// Option changes what a Mux serves.
type Option func(*Mux)

// JSONOnly refuses protobuf. A page can send neither without being asked first whether it
// may (the fetch standard, CORS-safelisted request-header), and one form is less to look
// after.
func JSONOnly() Option { return func(m *Mux) { m.unary, m.streamed = m.unary[:1], m.streamed[:1] } }

// WithStreams serves the methods that answer one question with a stream. Each call goes
// through the interceptor.
func WithStreams(interceptor grpc.StreamServerInterceptor) Option {
	return func(m *Mux) { m.streams = interceptor }
}

// RegisterService implements grpc.ServiceRegistrar.
func (m *Mux) RegisterService(desc *grpc.ServiceDesc, service any) {
	for i := range desc.Methods {
		m.methods["/"+desc.ServiceName+"/"+desc.Methods[i].MethodName] = method{service: service, unary: &desc.Methods[i]}
	}
	for i := range desc.Streams {
		if s := &desc.Streams[i]; m.streams != nil && s.ServerStreams && !s.ClientStreams {
			m.methods["/"+desc.ServiceName+"/"+s.StreamName] = method{service: service, stream: s}
		}
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
	form, refused := called.forms(m).accept(r)
	if refused != nil {
		for name, value := range refused.headers {
			w.Header().Set(name, value)
		}
		fail(w, refused.status, status.New(refused.code, refused.message))
		return
	}
	if called.stream != nil {
		m.answer(w, r, called, form)
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
	ctx, cancel, err := deadline(r)
	if err != nil {
		return nil, err
	}
	defer cancel()
	receive := func(into any) error {
		text, err := m.read(w, r, m.maxMessage)
		if err != nil {
			return err
		}
		return form.read(text, into)
	}
	reply, err := called.unary.Handler(called.service, ctx, receive, m.interceptor)
	if err != nil {
		return nil, err
	}
	return reply.(proto.Message), nil
}

// deadline is the context of a call that may say how long it waits.
func deadline(r *http.Request) (context.Context, context.CancelFunc, error) {
	text := r.Header.Get("Connect-Timeout-Ms")
	if text == "" {
		return r.Context(), func() {}, nil
	}
	ms, err := strconv.ParseInt(text, 10, 64)
	if err != nil || ms < 0 || ms > math.MaxInt32 {
		return nil, nil, status.Error(codes.InvalidArgument, "connect-timeout-ms is no number of milliseconds")
	}
	ctx, cancel := context.WithTimeout(r.Context(), time.Duration(ms)*time.Millisecond)
	return ctx, cancel, nil
}

// read reads the body of a request.
func (m *Mux) read(w http.ResponseWriter, r *http.Request, limit int64) ([]byte, error) {
	if r.ContentLength > limit {
		return nil, errTooLarge
	}
	text, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return nil, errTooLarge
	case err != nil:
		return nil, status.Error(codes.Canceled, "the message did not arrive")
	}
	return text, nil
}

var errTooLarge = status.Error(codes.ResourceExhausted, "the message is too large")

// form is how a message is written.
type form struct {
	contentType string
	marshal     func(proto.Message) ([]byte, error)
	unmarshal   func([]byte, proto.Message) error
}

var (
	asJSON  = &form{"application/json", protojson.MarshalOptions{}.Marshal, readJSON}
	asProto = &form{"application/proto", proto.Marshal, proto.Unmarshal}
)

// enveloped is the form of the messages of a stream.
func (f *form) enveloped() *form {
	other := *f
	other.contentType = strings.Replace(f.contentType, "/", "/connect+", 1)
	return &other
}

// read reads one message.
func (f *form) read(text []byte, into any) error {
	if err := f.unmarshal(text, into.(proto.Message)); err != nil {
		return status.Error(codes.InvalidArgument, "the message cannot be read as "+f.contentType+mistake(err))
	}
	return nil
}

// What protojson says of a mistake: where it is, which name is unknown or stands twice,
// and which field holds something else than it should.
var (
	mistakeAt    = regexp.MustCompile(`^proto:.(?:syntax error )?\(line (\d+):(\d+)\)`)
	mistakeName  = regexp.MustCompile(`^proto:.\(line \d+:\d+\): (unknown|duplicate) field "([A-Za-z][A-Za-z_]{0,39})"$`)
	mistakeField = regexp.MustCompile(`^proto:.\(line \d+:\d+\): invalid value for (\w+) field (\w+): `)
)

// mistake is the part of an error that can be shown; empty for none. Values are left out,
// and so are names that do not look like a field's: either may be a credential.
func mistake(err error) string {
	if errors.Is(err, errDepth) {
		return ": " + errDepth.Error()
	}
	text := err.Error()
	at := mistakeAt.FindStringSubmatch(text)
	if at == nil {
		return ""
	}
	place := ": line " + at[1] + ", column " + at[2]
	if m := mistakeName.FindStringSubmatch(text); m != nil {
		return place + ": " + map[string]string{"unknown": "there is no field ", "duplicate": "there are two fields "}[m[1]] + m[2]
	}
	if m := mistakeField.FindStringSubmatch(text); m != nil {
		return place + ": " + m[2] + " is no " + m[1]
	}
	return place
}

// maxDepth is how deep JSON may be nested. protojson goes down by recursion, up to 10,000.
const maxDepth = 100

var errDepth = errors.New("nested too deeply")

// readJSON is protojson.Unmarshal, which refuses unknown fields, names that stand twice
// and what follows the message, but for what is nested too deeply.
func readJSON(text []byte, into proto.Message) error {
	depth, quoted := 0, false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{' || c == '[':
			if depth++; depth > maxDepth {
				return errDepth
			}
		case c == '}' || c == ']':
			depth--
		}
	}
	return protojson.Unmarshal(text, into)
}

// refusal says why a request is no call.
type refusal struct {
	status  int
	code    codes.Code
	message string
	headers map[string]string
}

// forms are those that a method can be asked in.
type forms []*form

func (c *method) forms(m *Mux) forms {
	if c.stream != nil {
		return m.streamed
	}
	return m.unary
}

// String lists the content types.
func (all forms) String() string {
	var b strings.Builder
	for i, f := range all {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(f.contentType)
	}
	return b.String()
}

// accept returns the form of a request that is a call.
func (all forms) accept(r *http.Request) (*form, *refusal) {
	if r.Method != http.MethodPost {
		return nil, &refusal{http.StatusMethodNotAllowed, codes.Unimplemented, "only POST", map[string]string{"Allow": "POST"}}
	}
	if v := r.Header.Get("Connect-Protocol-Version"); v != "" && v != "1" {
		return nil, &refusal{http.StatusBadRequest, codes.InvalidArgument, "connect-protocol-version is not 1", nil}
	}
	for _, name := range []string{"Content-Encoding", "Connect-Content-Encoding"} {
		if e := r.Header.Get(name); e != "" && e != "identity" {
			return nil, &refusal{http.StatusNotImplemented, codes.Unimplemented, "messages are not compressed", map[string]string{"Accept-Encoding": "identity"}}
		}
	}
	kind, parameters, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	charset := strings.ToLower(parameters["charset"])
	for _, f := range all {
		if err == nil && kind == f.contentType && (charset == "" || charset == "utf-8") {
			return f, nil
		}
	}
	return nil, &refusal{http.StatusUnsupportedMediaType, codes.Unimplemented, "the message is " + all.String(), map[string]string{"Accept-Post": all.String()}}
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

// failure is an error as Connect's protocol writes it.
type failure struct {
	Code    string   `json:"code"`
	Message string   `json:"message,omitempty"`
	Details []detail `json:"details,omitempty"`
}

func failureOf(st *status.Status) *failure {
	f := &failure{Code: word(st.Code()), Message: st.Message()}
	for _, d := range st.Proto().GetDetails() {
		f.Details = append(f.Details, detail{strings.TrimPrefix(d.GetTypeUrl(), "type.googleapis.com/"), base64.RawStdEncoding.EncodeToString(d.GetValue())})
	}
	return f
}

// fail writes the answer that is an error.
func fail(w http.ResponseWriter, httpStatus int, st *status.Status) {
	body, err := json.Marshal(failureOf(st))
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
