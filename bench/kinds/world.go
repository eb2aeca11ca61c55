package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/grpc"

	"github.com/postern-auth/postern/bench/rig"
	"github.com/postern-auth/postern/server/authn/apikey"
	"github.com/postern-auth/postern/server/authn/vault/vaulttest"
)

// world is a server with one configuration that has every kind of credential, all who
// make its credentials, and the stock server.
type world struct {
	settings
	dir     string // configuration and files
	runtime string // what always goes: the socket of Redis

	ca               *authority
	issuer           *issuer
	mesh             signer // of JWT-SVIDs
	planner, nightly signer // workloads; nightly's tokens are reusable
	vault            *vaulttest.Vault
	sessions         *sessions
	keys             []string // API keys; the first is an admin's
	plane            *plane

	config         func(grpcAddr, adminAddr string) string
	postern, stock *rig.Process
	// asks are the connections to the one, against to the other.
	asks, against []*grpc.ClientConn
	closers       []func()
}

const (
	trustDomain   = "bench.test"
	sessionSecret = "the-secret-with-which-the-application-signs"
	// cooldown is that of the issuer's keys.
	cooldown = 2 * time.Second
	// callers are at the same time, on connections that they share, as gateways do.
	callers     = 16
	connections = 2
)

// theConfig has every kind of credential. Sizes and times are the defaults, but for the
// cooldown, which is short so that a run can see more than one.
const theConfig = `version: 1
listen: { grpc: %[1]q, admin: %[2]q }
callers: [{ name: gateway, cidrs: [127.0.0.0/8], trust: [x_forwarded_client_cert, source_principal] }]
credentials:
  - { from: "header:x-api-key", use: [api_key, pat] }
  - { from: "header:authorization/bearer", use: [api_key, pat, jwt, oauth, jwt_svid, workload] }
  - { from: "header:authorization/dpop", use: jwt }
  - { from: "header:authorization/basic", use: [pat, basic] }
  - { from: "header:x-vault-token", use: vault }
  - { from: "cookie:__Host-session", use: session }
  - { from: "cookie:connect.sid", use: app_session }
api_keys: { pepper: "${file:pepper}", file: keys.yaml }
store: { driver: sqlite }
tenants: { max_pats: 1000 }
issuers:
  - url: %[3]q
    audiences: [bench]
    algorithms: [RS256, ES256, EdDSA]
    claims: { tenant: org, roles: roles }
    keys: { ca_file: ca.pem, insecure_allow_private_addresses: true, cooldown: %[4]s }
introspection:
  - issuer: %[3]q
    url: %[5]q
    client_id: postern
    client_secret: "${file:issuer.secret}"
    audiences: [bench]
    claims: { tenant: org, roles: roles }
    http: { ca_file: ca.pem, insecure_allow_private_addresses: true }
mtls:
  bundles: [{ name: bench, trust_domain: bench.test, file: ca.pem }]
  principals: [{ match: "spiffe://bench.test/**", tenant: acme, roles: [role7] }]
dpop: {}
zones: { office: { cidrs: [192.0.2.0/24, 198.18.0.0/15] } }
basic: { zones: [office] }
workloads:
  audiences: [bench]
  trust_domains: [{ name: bench.test, bundle_file: bundle.json, tenant: acme }]
  clients:
    - { id: planner, kind: agent, jwks_file: planner.json, tenant: acme, roles: [role7] }
    - { id: nightly, jwks_file: nightly.json, tenant: acme, roles: [role7], reusable: true }
vault:
  - address: %[6]q
    ca_file: ca.pem
    login: { approle: { role_id: %[7]q, secret_id: "${file:vault.secret}" } }
    roles: { things: [role7] }
app_sessions:
  - name: shop
    url: %[8]q
    key: "sess:{id}"
    signing_secrets: ["${file:session.secret}"]
    fields: { id: user.id, tenant: user.tenant, roles: user.roles }
policy: { path: policy }
`

// newWorld builds the servers, starts everything and waits until it works.
func newWorld(ctx context.Context, s settings) (w *world, err error) {
	w = &world{settings: s, issuer: newIssuer(), mesh: newSigner("ES256", "mesh"), planner: newSigner("EdDSA", "planner"), nightly: newSigner("EdDSA", "nightly")}
	defer func() {
		if err != nil {
			w.close()
		}
	}()
	if w.runtime, err = os.MkdirTemp("", "kinds"); err != nil { // short: a socket's path has about 100 bytes
		return w, err
	}
	if w.dir = s.keep; w.dir == "" {
		w.dir = filepath.Join(w.runtime, "world")
	}
	if err := os.MkdirAll(filepath.Join(w.dir, "policy"), 0o700); err != nil {
		return w, err
	}
	if err := w.furnish(ctx); err != nil {
		return w, err
	}
	return w, w.start(ctx)
}

func (w *world) path(name string) string { return filepath.Join(w.dir, name) }

// furnish starts the servers that are asked, and writes all files but the
// configuration.
func (w *world) furnish(ctx context.Context) (err error) {
	if w.ca, err = newAuthority(); err != nil {
		return err
	}
	if w.issuer.url, err = w.serve(w.issuer); err != nil {
		return err
	}
	if w.sessions, err = newSessions(ctx, w.runtime, filepath.Join(w.runtime, "redis")); err != nil {
		return err
	}
	w.closers = append(w.closers, w.sessions.close)
	w.vault = vaulttest.New(nil)
	if w.keys, err = rig.WriteKeys(w.dir, w.samples+2, who); err != nil {
		return err
	}
	table := rig.RoleTable(100)
	// A JWT-SVID says who it is and no more, so its route asks for no role.
	table["routes"] = append(table["routes"].([]any), claims{"path": svidPath, "public": true})
	files := map[string][]byte{
		"ca.pem": w.ca.pem(), "issuer.secret": []byte(issuerSecret), "session.secret": []byte(sessionSecret), "policy/data.json": encode(table),
		"planner.json": keySet("sig", w.planner), "nightly.json": keySet("sig", w.nightly), "bundle.json": keySet("jwt-svid", w.mesh),
	}
	for name, text := range files {
		if err := os.WriteFile(w.path(name), text, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// who has the n-th key.
func who(n int) apikey.Principal {
	p := rig.Service(n)
	if n == 0 {
		p.ID, p.Tenant, p.Roles = "admin", "", []string{"platform-admin"}
	}
	return p
}

func (w *world) serve(h http.Handler) (string, error) {
	server, address, err := w.ca.serve(h)
	if err == nil {
		w.closers = append(w.closers, func() { _ = server.Close() })
	}
	return address, err
}

// start builds and starts both servers.
func (w *world) start(ctx context.Context) (err error) {
	vault, err := w.serve(w.vault)
	if err != nil {
		return err
	}
	role := w.vault.EnableAppRole("approle", vaulttest.AppRole{Token: vaulttest.Token{Policies: []string{"postern"}}})
	if err := os.WriteFile(w.path("vault.secret"), []byte(role.SecretID), 0o600); err != nil {
		return err
	}
	flags := rig.Stripped
	if w.keep != "" {
		flags = ""
	}
	if err := errors.Join(rig.Build(ctx, w.path("postern"), "cmd/postern", flags), rig.Build(ctx, w.path("stock"), "bench/stock", flags)); err != nil {
		return err
	}
	_ = os.Remove(w.path("postern.db")) // of another run with -keep
	w.config = func(g, h string) string {
		return fmt.Sprintf(theConfig, g, h, w.issuer.url, cooldown, w.issuer.url+"/introspect", vault, role.RoleID, w.sessions.url())
	}
	if err := w.launch(ctx); err != nil {
		return err
	}
	w.closers = append(w.closers, func() { w.postern.Stop() })
	if w.stock, err = rig.Start(ctx, w.path("stock"), func(g, h string) []string { return []string{"-grpc", g, "-http", h} }); err != nil {
		return err
	}
	w.closers = append(w.closers, w.stock.Stop)
	w.against, err = dialAll(w.stock, connections)
	return err
}

// launch starts the server and waits until it knows the keys of the issuer.
func (w *world) launch(ctx context.Context) (err error) {
	w.postern, err = rig.Start(ctx, w.path("postern"), func(g, h string) []string {
		if err := os.WriteFile(w.path("postern.yaml"), []byte(w.config(g, h)), 0o600); err != nil {
			panic(err)
		}
		return []string{"serve", "-c", w.path("postern.yaml")}
	})
	if err != nil {
		return err
	}
	if w.asks, err = dialAll(w.postern, connections); err != nil {
		return err
	}
	if w.plane, err = newPlane(w.postern.Admin, w.keys[0]); err != nil {
		return err
	}
	return w.until(ctx, bearer(w.issuer.token(w.issuer.rs, "the first", nil)))
}

// relaunch begins with a server that has just started: what it learned is in none of
// the figures that follow.
func (w *world) relaunch(ctx context.Context) error {
	for _, c := range w.asks {
		_ = c.Close()
	}
	_ = w.plane.conn.Close()
	w.postern.Stop()
	return w.launch(ctx)
}

func dialAll(p *rig.Process, n int) ([]*grpc.ClientConn, error) {
	all := make([]*grpc.ClientConn, n)
	for i := range all {
		c, err := p.Dial()
		if err != nil {
			return nil, err
		}
		all[i] = c
	}
	return all, nil
}

// until waits until a request is allowed.
func (w *world) until(ctx context.Context, request []byte) error {
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		err := rig.Verify(ctx, w.asks[0], request, true)
		if err == nil || ctx.Err() != nil || time.Now().After(deadline) {
			return err
		}
	}
}

func (w *world) close() {
	for _, all := range [][]*grpc.ClientConn{w.asks, w.against} {
		for _, c := range all {
			_ = c.Close()
		}
	}
	if w.plane != nil {
		_ = w.plane.conn.Close()
	}
	for i := len(w.closers) - 1; i >= 0; i-- {
		w.closers[i]()
	}
	_ = os.RemoveAll(w.runtime)
}
