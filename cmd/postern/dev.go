package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/policy/lib"
	"github.com/postern-auth/postern/server"
)

// devConfig is what --dev runs with: an ordinary configuration, but for the
// directory, which is thrown away at the end.
const devConfig = `version: 1
api_keys:
  pepper: ${file:pepper}
  file: keys.yaml
store:
  driver: memory
policy:
  path: policy
decisions:
  log: all
admin_api:
  console: true             # a page to look at it
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
	defer func() { _ = os.RemoveAll(dir) }()
	key, err := writeDev(dir)
	if err != nil {
		return err
	}
	return serve(ctx, filepath.Join(dir, "postern.yaml"), addresses, stderr, func(a server.Addresses) {
		fmt.Fprint(stdout, devBanner(a, dir, key))
	})
}

// devBanner says what runs where and what to try: each call can be pasted as it
// stands.
func devBanner(a server.Addresses, dir, key string) string {
	flag := func(name, at, standard string) string {
		if at == standard {
			return ""
		}
		return " --" + name + " " + at
	}
	text, at := devText, address(a.GRPC)
	replace := []string{"$POSTERN", program(), "$SERVER", at, "$FLAG", flag("server", at, defaultServer), "$DIR", dir, "$KEY", key}
	if a.Admin != nil {
		at := address(a.Admin)
		text += devExplain
		replace = append(replace, "$ADMIN", at, "$LOOK", flag("admin", at, defaultAdmin), "$MANAGE", flag("server", at, defaultAdmin))
	}
	return strings.NewReplacer(replace...).Replace(text + "\n")
}

const devText = `
Postern is ready, on this machine only. Nothing is kept when it stops (Ctrl-C).

  asks go to   $SERVER   (postern.v1.CheckService, Envoy's ext_authz, health, reflection)
  its files    $DIR
               policy, keys and configuration are read again when you save them

The demo key belongs to "demo", a user of the sample shop, who may look at its
products and not delete them. Three calls to try in another terminal:

# 1. would this be allowed?
$POSTERN check https://shop.test/products$FLAG -H 'x-api-key: $KEY'

# 2. and this? it is not: see which permission is missing
grpcurl -plaintext -d '{"target":{"http":{"method":"DELETE","scheme":"https","host":"shop.test","path":"/products/7","headers":[{"name":"x-api-key","value":"$KEY"}]}}}' $SERVER postern.v1.CheckService/Check

# 3. the first again, as Envoy asks: see what the service behind it is told
grpcurl -plaintext -d '{"attributes":{"request":{"http":{"method":"GET","scheme":"https","host":"shop.test","path":"/products","headers":{"x-api-key":"$KEY"}}}}}' $SERVER envoy.service.auth.v3.Authorization/Check

No grpcurl? go install github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.4
`

const devExplain = `
Each answer has a decision id: "$POSTERN explain ID$LOOK" shows how it came about;
"$POSTERN watch$LOOK" shows all of them as they are made. So does the console,
http://$ADMIN/console/, which takes the key of the administrator in $DIR/admin.key.
To issue keys of your own, kept in memory, with the key of an administrator:
$POSTERN principal create me --kind service --role user$MANAGE --token-file $DIR/admin.key
$POSTERN key issue me$MANAGE --token-file $DIR/admin.key
Health and metrics: http://$ADMIN/readyz and /metrics.
`

// address is a listener's address as clients take it.
func address(a net.Addr) string {
	if a.Network() == "unix" {
		return "unix://" + a.String()
	}
	return a.String()
}

// program is how this program was called: go run leaves it in a directory of its
// own, where nobody finds it.
func program() string {
	if self, err := os.Executable(); err == nil && strings.Contains(self, "go-build") {
		return "go run ./cmd/postern"
	}
	return os.Args[0]
}

// writeDev fills the directory and returns the demo key.
func writeDev(dir string) (string, error) {
	pepper := make([]byte, 32)
	_, _ = rand.Read(pepper)
	files := map[string]string{
		"pepper":       hex.EncodeToString(pepper) + "\n",
		"postern.yaml": devConfig,
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			return "", err
		}
	}
	demo, err := mintDev(dir, order{
		env: "test", name: "the demo key", id: "demo", principalKind: string(policy.KindUser), roles: []string{"user"},
	})
	if err != nil {
		return "", err
	}
	admin, err := mintDev(dir, order{name: "the key of the admin API", id: "admin", roles: []string{"platform-admin"}})
	if err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(dir, "admin.key"), []byte(admin+"\n"), 0o600); err != nil {
		return "", err
	}
	return demo, os.CopyFS(filepath.Join(dir, "policy"), lib.Sample)
}

// mintDev adds a key for a day to the keys file, and returns its secret.
func mintDev(dir string, o order) (string, error) {
	o.pepperFile, o.kind, o.expiresIn = filepath.Join(dir, "pepper"), "key", 24*time.Hour
	secret, key, err := o.mint(time.Now())
	if err != nil {
		return "", err
	}
	return secret.Reveal(), addEntry(filepath.Join(dir, "keys.yaml"), key.Entry())
}
