package client_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/postern-auth/postern/cmd/postern/client"
)

func write(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// What cannot be followed is refused before anybody is asked.
func TestDialRefuses(t *testing.T) {
	t.Parallel()
	for want, c := range map[string]client.Connection{
		"the address of the server is empty": {},
		"--cert and --key belong together":   {Address: "127.0.0.1:1", Cert: "client.pem"},
		"no such file":                       {Address: "127.0.0.1:1", CA: filepath.Join(t.TempDir(), "ca.pem")},
		"holds no certificate":               {Address: "127.0.0.1:1", CA: write(t, "nothing")},
		"failed to find any PEM":             {Address: "127.0.0.1:1", Cert: write(t, "nothing"), Key: write(t, "nothing")},
	} {
		if conn, err := c.Dial(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, %v instead of %q", conn, err, want)
		}
	}
}

// Authorities and a certificate imply TLS; nothing else does.
func TestEncrypted(t *testing.T) {
	t.Parallel()
	for c, want := range map[client.Connection]bool{
		{}: false, {Address: "a", Key: "k", TokenFile: "t"}: false,
		{TLS: true}: true, {CA: "ca.pem"}: true, {Cert: "client.pem"}: true,
	} {
		if c.Encrypted() != want {
			t.Errorf("%+v: %t", c, !want)
		}
	}
}

// A call ends in time and shows the token of its caller, if there is one.
func TestContext(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{"": "", " a-token\n": "Bearer a-token"} {
		c := client.Connection{Timeout: time.Minute}
		if want != "" {
			c.TokenFile = write(t, text)
		}
		ctx, cancel, err := c.Context(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer cancel()
		if _, bounded := ctx.Deadline(); !bounded {
			t.Error("the call never ends")
		}
		md, _ := metadata.FromOutgoingContext(ctx)
		if got := strings.Join(md.Get("authorization"), "|"); got != want {
			t.Errorf("it shows %q instead of %q", got, want)
		}
	}
	lost := client.Connection{TokenFile: filepath.Join(t.TempDir(), "token"), Timeout: time.Minute}
	if _, _, err := lost.Context(t.Context()); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

// What went wrong is said in words that help.
func TestExplainRPC(t *testing.T) {
	t.Parallel()
	c := client.Connection{Address: "postern.test:9191"}
	for want, err := range map[string]error{
		"no answer from postern.test:9191: nothing listens there": status.Error(codes.Unavailable, "dial tcp: connection refused"),
		"there was no answer in time; --timeout waits longer":     status.Error(codes.DeadlineExceeded, "context deadline exceeded"),
		"no answer from postern.test:9191: the moon is full":      status.Error(codes.Unavailable, "the moon is full"),
		"show who is asking with --cert and --key":                status.Error(codes.PermissionDenied, "not you"),
		"postern.test:9191 does not serve this":                   status.Error(codes.Unimplemented, ""),
		"too long":                                                status.Error(codes.InvalidArgument, "too long"),
		"no status":                                               errors.New("no status"),
	} {
		if got := c.ExplainRPC(err).Error(); !strings.Contains(got, want) {
			t.Errorf("%q instead of %q", got, want)
		}
	}
}
