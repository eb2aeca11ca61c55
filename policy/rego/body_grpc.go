package rego

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/postern-auth/postern/server/regular"
)

// rpcs are the gRPC methods of a descriptor set, by which the bodies of calls are
// read.
type rpcs struct {
	files *protoregistry.Files
	types *dynamicpb.Types
}

// maxDescriptors bounds the file of a descriptor set.
const maxDescriptors = 16 << 20

// readRPCs reads a file that `protoc --include_imports --descriptor_set_out` or
// `buf build -o` has made. There are none without a path.
func readRPCs(path string) (*rpcs, error) {
	if path == "" {
		return nil, nil
	}
	text, err := regular.ReadFile(path, maxDescriptors)
	if err != nil {
		return nil, fmt.Errorf("proto_descriptor: %w", err)
	}
	var set descriptorpb.FileDescriptorSet
	if err := proto.Unmarshal(text, &set); err != nil || len(set.File) == 0 {
		return nil, fmt.Errorf("proto_descriptor: %s is no descriptor set; make one with `protoc --include_imports --descriptor_set_out`", path)
	}
	files, err := protodesc.NewFiles(&set)
	if err != nil {
		return nil, fmt.Errorf("proto_descriptor: %s: %w; was it made with --include_imports?", path, err)
	}
	return &rpcs{files, dynamicpb.NewTypes(files)}, nil
}

// isGRPC accepts the content types of gRPC with protobuf inside.
func isGRPC(mediaType string) bool {
	return mediaType == "application/grpc" || mediaType == "application/grpc+proto"
}

// messageHeader is the length of what stands before each message: a byte that says
// whether it is compressed, and its length.
const messageHeader = 5

// isCutShort reports that the first message is longer than what there is of it.
func isCutShort(body []byte) bool {
	return len(body) < messageHeader || int64(binary.BigEndian.Uint32(body[1:])) > int64(len(body)-messageHeader)
}

var errManyMessages = errors.New("a unary call has one message, uncompressed")

// request reads the message of a unary call as protojson writes it. It is nil if the
// descriptor set does not know the method, or if the method takes a stream. A message
// that is compressed, or followed by another, is an error: it has something to say that
// a policy would not see.
func (m *rpcs) request(path string, body []byte) (any, error) {
	input := m.input(path)
	if input == nil {
		return nil, nil
	}
	if len(body) < messageHeader || body[0] != 0 || int64(binary.BigEndian.Uint32(body[1:])) != int64(len(body)-messageHeader) {
		return nil, errManyMessages
	}
	message := dynamicpb.NewMessage(input)
	if err := (proto.UnmarshalOptions{Resolver: m.types, RecursionLimit: maxDocumentDepth}).Unmarshal(body[messageHeader:], message); err != nil {
		return nil, err
	}
	text, err := protojson.MarshalOptions{Resolver: m.types}.Marshal(message)
	if err != nil {
		return nil, err
	}
	return decodeJSON(text, maxDocumentDepth)
}

// input finds what a method takes: the path is /package.Service/Method, as it was sent.
func (m *rpcs) input(path string) protoreflect.MessageDescriptor {
	service, method, ok := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	if !ok || path[0] != '/' || !protoreflect.FullName(service).IsValid() {
		return nil
	}
	found, err := m.files.FindDescriptorByName(protoreflect.FullName(service))
	if err != nil {
		return nil
	}
	described, ok := found.(protoreflect.ServiceDescriptor)
	if !ok {
		return nil
	}
	one := described.Methods().ByName(protoreflect.Name(method))
	if one == nil || one.IsStreamingClient() {
		return nil
	}
	return one.Input()
}
