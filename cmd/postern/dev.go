package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/policy/lib"
	"github.com/postern-auth/postern/server"
)

// devConfig is what --dev runs with: an ordinary configuration, but for the
// directory, which is thrown away at the end.
const devConfig = `version: 1
listen:
  grpc: %s
  admin: %s
api_keys:
  pepper: ${file:pepper}
  file: keys.yaml
policy:
  path: policy
decisions:
  log: all
reflection: true            # grpcurl works without proto files
plaintext:
  insecure_accept: true     # this machine only: requests over http are decided too
`

// serveDev makes a temporary directory with everything that a server needs, and
// runs it.
func serveDev(ctx context.Context, stdout, stderr io.Writer, addresses listenFlags) error {
	dir, err := os.MkdirTemp("", "postern-dev-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	key, err := writeDev(dir, addresses)
	if err != nil {
		return err
	}
	return serve(ctx, filepath.Join(dir, "postern.yaml"), listenFlags{}, stderr, func(a server.Addresses) {
		fmt.Fprintf(stdout, devBanner, a.GRPC, a.Admin, dir, key, a.GRPC, key, a.GRPC, key, a.GRPC)
	})
}

const devBanner = `
Postern is ready, on this machine only. Nothing is kept when it stops.

  ask          %s   (postern.v1.CheckService, Envoy ext_authz, health, reflection)
  look         http://%s/readyz, /metrics
  change       %s: policy, keys and configuration are read again when you save

A demo key for "demo", who is a user of the shop and may list its products:

  export KEY=%s

Three calls to try, in another terminal (paste the line above there first):

  # 1. ask, and see why
  go run ./cmd/postern check https://shop.test/products --server %s -H "x-api-key: $KEY"

  # 2. the same over gRPC
  grpcurl -plaintext -d '{"target":{"http":{"method":"DELETE","scheme":"https","host":"shop.test","path":"/products/7","headers":[{"name":"x-api-key","value":"%s"}]}}}' \
    %s postern.v1.CheckService/Check

  # 3. what Envoy would ask
  grpcurl -plaintext -d '{"attributes":{"request":{"http":{"method":"GET","scheme":"https","host":"shop.test","path":"/products","headers":{"x-api-key":"%s"}}}}}' \
    %s envoy.service.auth.v3.Authorization/Check

`

// writeDev fills the directory and returns the demo key.
func writeDev(dir string, addresses listenFlags) (string, error) {
	pepper := make([]byte, 32)
	_, _ = rand.Read(pepper)
	files := map[string]string{
		"pepper":       hex.EncodeToString(pepper) + "\n",
		"postern.yaml": fmt.Sprintf(devConfig, orDefault(addresses.grpc, "127.0.0.1:9191"), orDefault(addresses.admin, "127.0.0.1:9192")),
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			return "", err
		}
	}
	o := order{
		pepperFile: filepath.Join(dir, "pepper"), kind: "key", env: "test", name: "the demo key",
		id: "demo", principalKind: string(policy.KindUser), roles: []string{"user"}, expiresIn: 24 * time.Hour,
	}
	minted, entry, err := o.mint(time.Now())
	if err != nil {
		return "", err
	}
	if err := addEntry(filepath.Join(dir, "keys.yaml"), entry); err != nil {
		return "", err
	}
	return minted.Secret.Reveal(), copyFS(filepath.Join(dir, "policy"), lib.Sample)
}

// copyFS writes the embedded policy where people can change it.
func copyFS(dir string, from fs.FS) error {
	if err := os.CopyFS(dir, from); err != nil {
		return err
	}
	return filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		return os.Chmod(name, 0o600)
	})
}

func orDefault(s, def string) string {
	if s == "" {
		return def
	}
	return s
}
