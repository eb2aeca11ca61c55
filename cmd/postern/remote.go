package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/postern-auth/postern/cmd/postern/client"
)

// remote is the admin API of a server, as somebody.
type remote struct {
	connection
	// keyFile holds the caller's key or token.
	keyFile string
	// fields are the flags of the request, for the words of errors.
	fields []field
	// conn and token are those of the first call, which serve all of them.
	conn  *grpc.ClientConn
	token string
}

// The variables in which a credential can be, so that it stands in no process list.
const (
	keyVariable     = "POSTERN_TOKEN"
	keyFileVariable = "POSTERN_TOKEN_FILE"
)

// flags adds the flags of the admin API.
func (r *remote) flags(cmd *cobra.Command) { r.flagsAs(cmd, "server") }

// flagsAs is flags with another name for the address.
func (r *remote) flagsAs(cmd *cobra.Command, name string) {
	r.wireFlags(cmd, name, defaultAdmin)
	cmd.Flags().StringVar(&r.keyFile, "token-file", "",
		fmt.Sprintf("file with your key or token (default: $%s, or the file $%s)", keyVariable, keyFileVariable))
	_ = cmd.MarkFlagFilename("token-file")
}

// credential is what the caller shows; empty if there is nothing but perhaps a
// certificate.
func (r *remote) credential() (string, error) {
	file, token := r.keyFile, ""
	if file == "" {
		token, file = os.Getenv(keyVariable), os.Getenv(keyFileVariable)
	}
	if token == "" && file != "" {
		text, err := os.ReadFile(file) //nolint:gosec // the user says which file
		if err != nil {
			return "", err
		}
		token = string(text)
		if strings.TrimSpace(token) == "" {
			return "", fmt.Errorf("%s is empty", file)
		}
	}
	token = strings.TrimSpace(token)
	if strings.ContainsFunc(token, func(c rune) bool { return c <= ' ' || c > '~' }) {
		return "", errors.New("what is given as key or token is none: it holds white space or is not ASCII")
	}
	return token, nil
}

// private reports whether nobody on the way can read what is sent: credentials go
// both ways.
func (r *remote) private() bool {
	if r.Encrypted() || strings.HasPrefix(r.Address, "unix:") {
		return true
	}
	host, _, err := net.SplitHostPort(r.Address)
	if err != nil {
		host = r.Address
	}
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}

// errPublic keeps credentials from lines that others can listen to.
func (r *remote) errPublic() error {
	return fmt.Errorf("%s is another machine, and others could read the credentials on the way: give --tls or --ca, or use a tunnel", r.Address)
}

// Context is that of one call, with what the caller shows: a key or token in place of the
// token of a caller.
func (r *remote) Context(ctx context.Context) (context.Context, context.CancelFunc, error) {
	if r.token == "" {
		token, err := r.credential()
		if err != nil {
			return nil, nil, err
		}
		r.token = token
	}
	ctx, cancel := context.WithTimeout(ctx, r.Timeout)
	switch {
	case r.token == "":
		return ctx, cancel, nil
	case !r.private():
		cancel()
		return nil, nil, r.errPublic()
	}
	return client.WithBearer(ctx, r.token), cancel, nil
}

// call makes one call: method is its full name, as in the generated code. The
// connection serves all calls of the command and ends with the process.
func (r *remote) call(ctx context.Context, method string, req, res proto.Message) (err error) {
	if !r.private() {
		return r.errPublic()
	}
	if r.conn == nil {
		if r.conn, err = r.Dial(); err != nil {
			return err
		}
	}
	ctx, cancel, err := r.Context(ctx)
	if err != nil {
		return err
	}
	defer cancel()
	return r.explain(r.conn.Invoke(ctx, method, req, res, grpc.MaxCallRecvMsgSize(maxAnswer)))
}

// maxAnswer is more than 1000 records can hold.
const maxAnswer = 64 << 20

// refusals are the codes that say no: the server looked at the call and will not do
// it. Others say that there is no answer.
var refusals = []codes.Code{
	codes.InvalidArgument, codes.NotFound, codes.AlreadyExists, codes.Aborted, codes.PermissionDenied,
	codes.Unauthenticated, codes.FailedPrecondition, codes.OutOfRange,
}

// advice says what helps, by the reason in the error.
var advice = map[string]string{
	"UNAUTHENTICATED":      "show who is asking with --token-file, $" + keyVariable + " or --cert; `postern store bootstrap` makes the first key (the demo key of `postern init` is no operator's)",
	"WILDCARD_NOT_ALLOWED": "list what is needed, or give --allow-wildcard",
	"ETAG_MISMATCH":        "somebody has changed it meanwhile: look at it again",
	"SECRET_NOT_REPEATED":  "the secret was shown when the call was first made; if it is lost, revoke the credential and issue another",
	"REQUEST_ID_REUSED":    "take a new --request-id for another call",
	"MAX_TTL_EXCEEDED":     "rotate it, or issue another",
	"STORE_FULL":           "make room on the disk of the store; nothing was changed, and no restart is needed",
	"STORE_UNAVAILABLE":    "whether anything was changed is not known; with the same --request-id it is safe to try again",
	"GRANT_EXCEEDS_ISSUER": "nobody can grant more than they have",
	"NOT_CONFIGURED":       "see `postern config schema`",
	"QUOTA_EXCEEDED":       "end or remove one that is not needed",
	"LOGIN_FAILED":         "",
	"PERMISSION_DENIED":    "",
	"NOT_FOUND":            "",
	"ALREADY_EXISTS":       "",
	"WRONG_STATE":          "",
	"TTL_TOO_LONG":         "give a shorter --expires-in",
	"INVALID_FIELD":        "",
	"OVERLOADED":           "try again in a while",
	"TOO_MANY_TRIES":       "somebody on this machine or network shows wrong credentials over and over: try again in a second",
	"INTERNAL":             "the server's log says more",
}

// explain turns an error of the API into what a person can act on. What the server
// has repeated of the call cannot move the cursor.
func (r *remote) explain(err error) error {
	if err == nil {
		return nil
	}
	s := status.Convert(err)
	info, fields := details(s)
	reason := info.GetReason()
	no := slices.Contains(refusals, s.Code()) || reason == "QUOTA_EXCEEDED"
	if info == nil {
		switch s.Code() {
		case codes.Unavailable, codes.DeadlineExceeded:
			return r.NoAnswer(s)
		case codes.Unimplemented:
			return fmt.Errorf("%s does not serve this: name the admin listener with --server; it needs a store", r.Address)
		case codes.Unauthenticated:
			reason = "UNAUTHENTICATED"
		}
	}
	var all []error
	for _, f := range fields {
		text := r.inFlags(f.GetField()) + ": " + f.GetDescription()
		if len(all) == 0 && reason != "INVALID_FIELD" { // it is that of the first
			text += because(reason)
		}
		all = append(all, errors.New(printable(text)))
	}
	if len(all) == 0 {
		all = []error{errors.New(printable(sentence(s, info) + because(reason)))}
	}
	if no {
		return &refusalError{errors.Join(all...), s.Code()}
	}
	return errors.Join(all...)
}

func details(s *status.Status) (info *errdetails.ErrorInfo, fields []*errdetails.BadRequest_FieldViolation) {
	for _, d := range s.Details() {
		switch d := d.(type) {
		case *errdetails.ErrorInfo:
			info = d
		case *errdetails.BadRequest:
			fields = d.GetFieldViolations()
		}
	}
	return info, fields
}

// sentence is an error in one line: what it is about, and the facts.
func sentence(s *status.Status, info *errdetails.ErrorInfo) string {
	text := strings.TrimSuffix(s.Message(), ".") // more follows
	for _, name := range slices.Sorted(maps.Keys(info.GetMetadata())) {
		if fact := info.GetMetadata()[name]; !strings.Contains(strings.ToLower(text), strings.ToLower(fact)) {
			text += "; " + strings.ReplaceAll(name, "_", " ") + ": " + fact
		}
	}
	return text
}

// because is the reason, for programs and for those who look it up, and what helps.
func because(reason string) (text string) {
	if reason != "" {
		text = " (" + strings.ToLower(reason) + ")"
	}
	if help := advice[reason]; help != "" {
		text += "; " + help
	}
	return text
}

// inFlags is the flag behind a field, or the field's own name: "--network" for
// "credential.constraints.networks[0]".
func (r *remote) inFlags(name string) string {
	plain, _, _ := strings.Cut(name, "[")
	for _, f := range r.fields {
		if f.path == plain || strings.HasSuffix(f.path, "."+plain) {
			if f.flag == "" {
				break
			}
			if f.flag == strings.ToUpper(f.flag) {
				return f.flag
			}
			return "--" + f.flag
		}
	}
	return name
}

// messages returns empty messages for a method's request and response.
func messages(method string) (req, res proto.Message) {
	service, name, _ := strings.Cut(strings.TrimPrefix(method, "/"), "/")
	found, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(service + "." + name))
	if err != nil {
		panic("no method " + method) // the names are those of the generated code
	}
	m := found.(protoreflect.MethodDescriptor)
	return messageOf(m.Input().FullName()).Interface(), messageOf(m.Output().FullName()).Interface()
}

// messageOf returns an empty message of a generated type.
func messageOf(name protoreflect.FullName) protoreflect.Message {
	t, err := protoregistry.GlobalTypes.FindMessageByName(name)
	if err != nil {
		panic("no message " + string(name))
	}
	return t.New()
}
