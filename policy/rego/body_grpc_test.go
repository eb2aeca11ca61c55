package rego_test

import (
	"encoding/binary"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/types/descriptorpb"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/policy/rego"
	"github.com/postern-auth/postern/server/strictyaml"
)

// descriptors is a file with the descriptors of two services: one of unary calls and one
// of streams.
func descriptors(tb testing.TB) strictyaml.Path {
	tb.Helper()
	text, err := proto.Marshal(&descriptorpb.FileDescriptorSet{File: []*descriptorpb.FileDescriptorProto{
		protodesc.ToFileDescriptorProto(healthpb.File_grpc_health_v1_health_proto),
		protodesc.ToFileDescriptorProto(reflectionpb.File_grpc_reflection_v1_reflection_proto),
	}})
	if err != nil {
		tb.Fatal(err)
	}
	name := filepath.Join(tb.TempDir(), "all.binpb")
	if err := os.WriteFile(name, text, 0o600); err != nil {
		tb.Fatal(err)
	}
	return strictyaml.Path(name)
}

// framed is a message as gRPC sends it.
func framed(tb testing.TB, m proto.Message) string {
	tb.Helper()
	text, err := proto.Marshal(m)
	if err != nil {
		tb.Fatal(err)
	}
	return string(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(text)))) + string(text)
}

func rpc(path, kind, body string) *policy.Input {
	return input(withBody(kind, body), func(in *policy.Input) {
		in.Attributes.Method, in.Attributes.Path = "POST", path
		in.Request.Method, in.Request.Path = "POST", path
	})
}

// The message of a unary call is what protojson makes of it, as for OPA's plugin. What a
// policy would not see whole is refused or null, never empty.
func TestGRPCBody(t *testing.T) {
	t.Parallel()
	s := compile(t, module("decision := {\"allow\": true, \"obligations\": [{\"type\": \"x\", \"parameters\": {\"body\": input.parsed_body, \"cut\": input.truncated_body}}]}"),
		rego.Config{ProtoDescriptor: descriptors(t)})
	const check, list = "/grpc.health.v1.Health/Check", "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
	full := framed(t, &healthpb.HealthCheckRequest{Service: "orders"})
	compressed := "\x01" + full[1:]
	for name, tt := range map[string]struct{ path, kind, body, want string }{
		"unary":          {check, "application/grpc", full, `{"body":{"service":"orders"},"cut":false}`},
		"named":          {check, "application/grpc+proto", full, `{"body":{"service":"orders"},"cut":false}`},
		"empty message":  {check, "application/grpc", framed(t, &healthpb.HealthCheckRequest{}), `{"body":{},"cut":false}`},
		"no body":        {check, "application/grpc", "", `{"body":null,"cut":false}`},
		"cut":            {check, "application/grpc", full[:len(full)-1], `{"body":null,"cut":true}`},
		"cut early":      {check, "application/grpc", full[:3], `{"body":null,"cut":true}`},
		"stream":         {list, "application/grpc", framed(t, &reflectionpb.ServerReflectionRequest{Host: "h"}), `{"body":null,"cut":false}`},
		"unknown method": {"/grpc.health.v1.Health/Nope", "application/grpc", full, `{"body":null,"cut":false}`},
		"no service":     {"/grpc.health.v1.HealthCheckRequest/Check", "application/grpc", full, `{"body":null,"cut":false}`},
		"other path":     {"/a", "application/grpc", full, `{"body":null,"cut":false}`},
		"deeper":         {check + "/x", "application/grpc", full, `{"body":null,"cut":false}`},
		"compressed":     {check, "application/grpc", compressed, `request_invalid`},
		"two messages":   {check, "application/grpc", full + full, `request_invalid`},
		"garbage":        {check, "application/grpc", "\x00\x00\x00\x00\x02\xff\xff", `request_invalid`},
		"bad text":       {check, "application/grpc", "\x00\x00\x00\x00\x03\x0a\x01\xff", `request_invalid`},
		"JSON in frames": {check, "application/grpc+json", full, `request_invalid`},
		"another type":   {check, "application/grpc-web", full, `{"body":null,"cut":false}`},
	} {
		v := decide(t, s, rpc(tt.path, tt.kind, tt.body))
		got := v.Reason.String()
		if v.Allow {
			text, _ := json.Marshal(v.Obligations[0].Parameters)
			got = string(text)
		}
		if got != tt.want {
			t.Errorf("%s: %s, want %s", name, got, tt.want)
		}
	}
	// The same bytes mean something else to another method, so that the cache must not
	// mix them up.
	if v := decide(t, s, rpc("/a/b", "application/grpc", full)); v.Obligations[0].Parameters["body"] != nil {
		t.Error("the body of one method is taken for that of another")
	}
	without := compile(t, module("decision := input.parsed_body == null"), rego.Config{})
	if !decide(t, without, rpc(check, "application/grpc", full)).Allow {
		t.Error("a body is read without descriptors")
	}
}

func TestBadDescriptors(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "x")
	if err := os.WriteFile(name, []byte("syntax = \"proto3\";"), 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{name: "is no descriptor set", name + ".missing": "no such file"} {
		b, err := rego.LoadFS(module("decision := true"), rego.Config{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := rego.Compile(t.Context(), b, rego.Config{ProtoDescriptor: strictyaml.Path(path)}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

func FuzzGRPCBody(f *testing.F) {
	s := compile(f, module("decision := input.parsed_body"), rego.Config{ProtoDescriptor: descriptors(f)})
	f.Add("/grpc.health.v1.Health/Check", []byte(framed(f, &healthpb.HealthCheckRequest{Service: "orders"})))
	f.Fuzz(func(t *testing.T, path string, body []byte) {
		if _, _, err := s.Decide(t.Context(), rpc(path, "application/grpc", string(body))); err != nil {
			t.Error(err)
		}
	})
}
