package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"
)

// programOf is `postern` with arguments, in a process of its own: the test binary,
// which TestMain put on the PATH.
func programOf(t *testing.T, dir string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("postern", args...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "TMPDIR="+dir, hurry)
	return cmd
}

// The first thing that a newcomer does: start it, and paste what it prints. Each
// call works as it is printed, and gives what the comment above it says.
func TestDev(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cmd := programOf(t, dir, "serve", "--dev", "--grpc", "127.0.0.1:0", "--admin", "127.0.0.1:0")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	out := bufio.NewReader(stdout)
	banner := ""
	for !strings.Contains(banner, "/metrics.\n") {
		line, err := out.ReadString('\n')
		if banner += line; err != nil {
			t.Fatalf("%v\n%s%s", err, banner, stderr.String())
		}
	}
	calls := regexp.MustCompile(`(?m)^(?:postern check|grpcurl) .*$`).FindAllString(banner, -1)
	if len(calls) != 3 {
		t.Fatalf("the banner shows %d calls:\n%s", len(calls), banner)
	}

	for i, want := range []string{"decision     allow\n", `"missingPermissions":["products.delete"]`, `"key":"x-auth-principal","value":"demo"`} {
		if got := paste(t, dir, calls[i]); !strings.Contains(got, want) {
			t.Errorf("%s\nprinted\n%s\nwhich lacks %s", calls[i], got, want)
		}
	}
	explain := regexp.MustCompile(`"postern explain ID(.*)" shows`).FindStringSubmatch(banner)
	id := regexp.MustCompile(`decision id\s+(\S+)`).FindStringSubmatch(paste(t, dir, calls[0]))
	if explain == nil || id == nil {
		t.Fatal(banner)
	}
	if got := paste(t, dir, "postern explain "+id[1]+explain[1]); !strings.Contains(got, "asked by     grpc\n") {
		t.Error(got)
	}

	for _, line := range regexp.MustCompile(`(?m)^postern (?:principal|key) .*$`).FindAllString(banner, -1) {
		if got := paste(t, dir, line); !strings.Contains(got, "change ") {
			t.Errorf("%s\nprinted\n%s", line, got)
		}
	}

	// It takes its files with it, and its log tells nothing that the banner tells.
	files, _ := filepath.Glob(filepath.Join(dir, "postern-dev-*"))
	if len(files) != 1 || !strings.Contains(banner, files[0]) {
		t.Errorf("files in %v, but not as in\n%s", files, banner)
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, out)
	if err := cmd.Wait(); err != nil {
		t.Error(err, stderr.String())
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*")); len(left) != 0 {
		t.Error("left behind: ", left)
	}
	if key := regexp.MustCompile(`pst_\w+`).FindString(banner); key == "" || strings.Contains(stderr.String(), key) {
		t.Error("the key is in the log:\n", stderr.String())
	}
}

// paste runs a line of a terminal. Of grpcurl's it does what grpcurl would: ask
// the server itself how its messages look.
func paste(t *testing.T, dir, line string) string {
	t.Helper()
	words := regexp.MustCompile(`'[^']*'|\S+`).FindAllString(line, -1)
	for i := range words {
		words[i] = strings.Trim(words[i], "'")
	}
	if words[0] != "grpcurl" {
		out, err := programOf(t, dir, words[1:]...).CombinedOutput()
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
		return string(out)
	}
	if !slices.Equal(words[1:3], []string{"-plaintext", "-d"}) || len(words) != 6 {
		t.Fatalf("grpcurl is called as %q", words)
	}
	return grpcurl(t, words[4], words[5], words[3])
}

func grpcurl(t *testing.T, target, method, body string) string {
	t.Helper()
	conn, err := grpc.NewClient(target, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	service, name, _ := strings.Cut(method, "/")
	files := reflected(t, conn, service)
	found, err := files.FindDescriptorByName(protoreflect.FullName(service))
	if err != nil {
		t.Fatal(err)
	}
	m := found.(protoreflect.ServiceDescriptor).Methods().ByName(protoreflect.Name(name))
	types := dynamicpb.NewTypes(files)
	in, out := dynamicpb.NewMessage(m.Input()), dynamicpb.NewMessage(m.Output())
	if err := (protojson.UnmarshalOptions{Resolver: types}).Unmarshal([]byte(body), in); err != nil {
		t.Fatal(err)
	}
	if err := conn.Invoke(t.Context(), "/"+method, in, out); err != nil {
		t.Fatal(err)
	}
	text, err := protojson.MarshalOptions{Resolver: types}.Marshal(out)
	if err != nil {
		t.Fatal(err)
	}
	var stable any // protojson varies its spaces on purpose
	if err := json.Unmarshal(text, &stable); err != nil {
		t.Fatal(err)
	}
	text, _ = json.Marshal(stable)
	return string(text)
}

// reflected asks a server for the files that describe a service.
func reflected(t *testing.T, conn *grpc.ClientConn, service string) *protoregistry.Files {
	t.Helper()
	stream, err := reflectionpb.NewServerReflectionClient(conn).ServerReflectionInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&reflectionpb.ServerReflectionRequest{
		MessageRequest: &reflectionpb.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: service},
	}); err != nil {
		t.Fatal(err)
	}
	res, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	set := &descriptorpb.FileDescriptorSet{}
	for _, raw := range res.GetFileDescriptorResponse().GetFileDescriptorProto() {
		file := &descriptorpb.FileDescriptorProto{}
		if err := proto.Unmarshal(raw, file); err != nil {
			t.Fatal(err)
		}
		set.File = append(set.File, file)
	}
	files, err := protodesc.NewFiles(set)
	if err != nil {
		t.Fatalf("%v, %v", err, res.GetErrorResponse())
	}
	return files
}
