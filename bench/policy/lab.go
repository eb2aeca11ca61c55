package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing/fstest"
	"time"

	"google.golang.org/grpc"

	"github.com/postern-auth/postern/bench/rig"
	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/policy/bundle"
	"github.com/postern-auth/postern/policy/rego"
	"github.com/postern-auth/postern/server/authn/apikey"
)

// lab holds what one run needs: the binary, API keys, and the key that signs bundles.
type lab struct {
	dir, binary string
	private     []byte // PEM
	public      bundle.Key
	// requests are allowed by rig.RoleTable, each with a key and a role of its own.
	requests [][]byte
}

const (
	// people is how many keys ask, the i-th with the i-th role.
	people = 64
	// fewRoles is how many roles there are where that is not what is measured.
	fewRoles = 100
	// connections are shared by all who ask, as gateways do.
	connections = 2
	signerID    = "bench"
)

func newLab(ctx context.Context) (*lab, error) {
	dir, err := os.MkdirTemp("", "postern-policy-")
	if err != nil {
		return nil, err
	}
	l := &lab{dir: dir, binary: filepath.Join(dir, "postern")}
	if err := l.furnish(ctx); err != nil {
		l.close()
		return nil, err
	}
	return l, nil
}

func (l *lab) close() { _ = os.RemoveAll(l.dir) }

func (l *lab) furnish(ctx context.Context) error {
	if err := rig.Build(ctx, l.binary, "cmd/postern", rig.Stripped); err != nil {
		return err
	}
	private, public, err := rig.SigningKey()
	if err != nil {
		return err
	}
	l.private, l.public = private, bundle.Key{ID: signerID, Key: public}
	if err := l.write("signer.pem", l.public.Key); err != nil {
		return err
	}
	keys, err := rig.WriteKeys(l.dir, people, func(i int) apikey.Principal {
		p := rig.Service(i)
		p.Roles = []string{fmt.Sprint("role", i)}
		return p
	})
	for i, k := range keys {
		l.requests = append(l.requests, rig.Request(map[string]string{":path": thingsOf(i), "x-api-key": k}))
	}
	return err
}

// thingsOf is a path that the i-th role may get.
func thingsOf(i int) string { return fmt.Sprintf("/api/v1/things%d/42", i) }

func (l *lab) write(name, text string) error {
	name = filepath.Join(l.dir, name)
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return err
	}
	return os.WriteFile(name, []byte(text), 0o600)
}

// policyFiles are tables of so many roles, and modules besides them by name.
func policyFiles(roles int, modules map[string]string) (fstest.MapFS, error) {
	table, err := json.Marshal(rig.RoleTable(roles))
	files := fstest.MapFS{"tables.json": {Data: table}}
	for name, text := range modules {
		files[name] = &fstest.MapFile{Data: []byte(text)}
	}
	return files, err
}

// pack makes a signed bundle.
func (l *lab) pack(ctx context.Context, files fstest.MapFS, revision string) ([]byte, error) {
	raw, err := bundle.Build(ctx, files, rego.Config{}, bundle.Limits{}, bundle.Manifest{Revision: revision})
	if err != nil {
		return nil, err
	}
	signed, _, err := bundle.Sign(raw, bundle.Limits{}, bundle.Signature{KeyID: signerID, Key: l.private, Issued: time.Now()})
	return signed, err
}

// server is a Postern under test, and connections to it.
type server struct {
	*rig.Process
	conns []*grpc.ClientConn
}

// start runs a server whose block "policy" is given, and waits until it allows what it
// should.
func (l *lab) start(ctx context.Context, block string) (s *server, err error) {
	s = &server{}
	s.Process, err = rig.Start(ctx, l.binary, func(g, h string) []string {
		text := fmt.Sprintf("version: 1\nlisten: { grpc: %q, admin: %q }\napi_keys: { pepper: \"${file:pepper}\", file: keys.yaml }\n%s", g, h, block)
		if err := l.write("postern.yaml", text); err != nil {
			panic(err)
		}
		return []string{"serve", "-c", filepath.Join(l.dir, "postern.yaml")}
	})
	if err != nil {
		return nil, err
	}
	for range connections {
		c, err := s.Dial()
		if err != nil {
			s.stop()
			return nil, err
		}
		s.conns = append(s.conns, c)
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if err = rig.Verify(ctx, s.conns[0], l.requests[0], true); err == nil {
			return s, nil
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			defer s.stop()
			return nil, fmt.Errorf("%w\n%s", err, s.Said())
		}
	}
}

// subscribe runs a server with a policy from the publisher.
func (l *lab) subscribe(ctx context.Context, p *publisher) (*server, error) {
	return l.start(ctx, fmt.Sprintf(`policy:
  bundles:
    - { name: bench, url: %q, poll: { min: 1s, max: 1s, wait: 60s }, allow_rollback: true }
  keys: [{ id: %s, file: signer.pem }]
`, p.url, signerID))
}

func (s *server) stop() {
	for _, c := range s.conns {
		_ = c.Close()
	}
	s.Stop()
}

// inputOf is the i-th request as a policy sees it.
func inputOf(i int) *policy.Input {
	path := thingsOf(i)
	return &policy.Input{
		Attributes: &policy.Attributes{Method: "GET", Scheme: "https", Host: rig.Host, Path: path},
		Request:    &policy.Request{Method: "GET", Scheme: "https", Host: rig.Host, Path: path, Folded: path},
		Principal:  &policy.Principal{ID: fmt.Sprint("service-", i), Kind: policy.KindService, Tenant: "acme", Roles: []string{fmt.Sprint("role", i)}},
		Route:      &policy.Route{},
	}
}
