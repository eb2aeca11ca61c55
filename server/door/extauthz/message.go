package extauthz

import (
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/runtime/protoiface"

	"github.com/postern-auth/postern/policy"
)

// A protobuf message may bring its own way to and from the wire
// (protoreflect.Message.ProtoMethods): generated code does, and so do request
// and response. To a codec, an interceptor or a logger they are a CheckRequest
// and a CheckResponse; what one sees through reflection is an empty message, so
// that nobody prints a credential by accident.

var (
	emptyRequest  = (*authv3.CheckRequest)(nil).ProtoReflect()
	emptyResponse = (*authv3.CheckResponse)(nil).ProtoReflect()
)

func newRequest() *request { return &request{Message: emptyRequest} }

func newResponse() *response { return &response{Message: emptyResponse} }

// ProtoReflect and its like make request and response protobuf messages.
func (q *request) ProtoReflect() protoreflect.Message   { return q }
func (q *request) Interface() protoreflect.ProtoMessage { return q }
func (q *request) ProtoMethods() *protoiface.Methods    { return &requestMethods }
func (q *request) Reset()                               { q.attributes, q.err = policy.Attributes{}, nil }
func (q *request) String() string                       { return string(q.Descriptor().FullName()) }

func (p *response) ProtoReflect() protoreflect.Message   { return p }
func (p *response) Interface() protoreflect.ProtoMessage { return p }
func (p *response) ProtoMethods() *protoiface.Methods    { return &responseMethods }
func (p *response) Reset()                               { p.wire = nil }
func (p *response) String() string                       { return string(p.Descriptor().FullName()) }

// requestMethods read a request. They never fail: a message that cannot be read
// is answered with a deny, where an error would end the call with a gRPC status
// that a gateway may be told to ignore.
var requestMethods = protoiface.Methods{
	Flags: protoiface.SupportUnmarshalDiscardUnknown,
	Unmarshal: func(in protoiface.UnmarshalInput) (protoiface.UnmarshalOutput, error) {
		in.Message.(*request).read(in.Buf)
		return protoiface.UnmarshalOutput{Flags: protoiface.UnmarshalInitialized}, nil
	},
	CheckInitialized: initialized,
}

// responseMethods write a response, which is its own wire form already.
var responseMethods = protoiface.Methods{
	Flags: protoiface.SupportMarshalDeterministic,
	Size: func(in protoiface.SizeInput) protoiface.SizeOutput {
		return protoiface.SizeOutput{Size: len(in.Message.(*response).wire)}
	},
	Marshal: func(in protoiface.MarshalInput) (protoiface.MarshalOutput, error) {
		return protoiface.MarshalOutput{Buf: append(in.Buf, in.Message.(*response).wire...)}, nil
	},
	CheckInitialized: initialized,
}

func initialized(protoiface.CheckInitializedInput) (protoiface.CheckInitializedOutput, error) {
	return protoiface.CheckInitializedOutput{}, nil
}
