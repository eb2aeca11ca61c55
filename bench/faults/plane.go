package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/postern-auth/postern/bench/rig"
	adminv1 "github.com/postern-auth/postern/gen/postern/admin/v1"
	posternv1 "github.com/postern-auth/postern/gen/postern/v1"
)

// plane issues and revokes keys over the admin API of a replica that has a store.
type plane struct {
	conn *grpc.ClientConn
	key  string
	n    int
}

const tenant = "acme"

// bootstrap makes the first admin key in the store of a replica that does not run yet.
func (l *lab) bootstrap(ctx context.Context, r *replica) (string, error) {
	out, err := exec.CommandContext(ctx, l.binary, "store", "bootstrap", "-q", "-c", r.config).Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return "", fmt.Errorf("postern store bootstrap: %s", exit.Stderr)
	}
	return strings.TrimSpace(string(out)), err
}

// openPlane starts a replica with a store of its own, and connects to its admin API.
func (l *lab) openPlane(ctx context.Context, how recipe) (*replica, *plane, error) {
	r, err := l.prepare(how)
	if err != nil {
		return nil, nil, err
	}
	admin, err := l.bootstrap(ctx, r)
	if err != nil {
		return nil, nil, err
	}
	if err := r.start(ctx); err != nil {
		return nil, nil, err
	}
	p, err := newPlane(ctx, r, admin)
	if err != nil {
		stopAll([]*replica{r})
		return nil, nil, err
	}
	return r, p, nil
}

// newPlane connects, and makes the tenant of those who get keys.
func newPlane(ctx context.Context, r *replica, key string) (*plane, error) {
	conn, err := dial(r.launch.Admin)
	if err != nil {
		return nil, err
	}
	p := &plane{conn: conn, key: key}
	if _, err := adminv1.NewTenantServiceClient(conn).CreateTenant(p.as(ctx), &adminv1.CreateTenantRequest{Tenant: &adminv1.Tenant{Id: tenant}}); err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

func (p *plane) close() { _ = p.conn.Close() }

func (p *plane) as(ctx context.Context) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+p.key)
}

// issued is a key of the store.
type issued struct {
	id, key string

	mu      sync.Mutex
	begun   bool      // somebody has begun to revoke it
	revoked time.Time // when that was acknowledged
}

// issue makes a service with a key.
func (p *plane) issue(ctx context.Context) (*issued, error) {
	ctx, cancel := context.WithTimeout(p.as(ctx), 5*time.Second)
	defer cancel()
	p.n++
	who := fmt.Sprintf("stored-%d", p.n)
	_, err := adminv1.NewPrincipalServiceClient(p.conn).CreatePrincipal(ctx, &adminv1.CreatePrincipalRequest{
		Principal: &adminv1.Principal{Tenant: tenant, Id: who, Kind: posternv1.PrincipalKind_PRINCIPAL_KIND_SERVICE, Roles: []string{rig.Role}},
	})
	if err != nil {
		return nil, err
	}
	res, err := adminv1.NewCredentialServiceClient(p.conn).IssueCredential(ctx, &adminv1.IssueCredentialRequest{Credential: &adminv1.Credential{
		Type: adminv1.CredentialType_CREDENTIAL_TYPE_API_KEY, Tenant: tenant, PrincipalId: who, Roles: []string{rig.Role},
		Expiration: &adminv1.Credential_Ttl{Ttl: durationpb.New(time.Hour)},
	}})
	if err != nil {
		return nil, err
	}
	return &issued{id: res.GetCredential().GetId(), key: res.GetSecret()}, nil
}

// revoke ends a key. Where there is no acknowledgement, it may have ended or not.
func (p *plane) revoke(ctx context.Context, k *issued) error {
	ctx, cancel := context.WithTimeout(p.as(ctx), 5*time.Second)
	defer cancel()
	k.mu.Lock()
	k.begun = true
	k.mu.Unlock()
	_, err := adminv1.NewCredentialServiceClient(p.conn).RevokeCredential(ctx, &adminv1.RevokeCredentialRequest{Id: k.id})
	if err == nil {
		k.mu.Lock()
		k.revoked = time.Now()
		k.mu.Unlock()
	}
	return err
}

// known is how long after the acknowledgement every replica knows of a revocation, or
// denies.
const known = time.Second

// right is what is right about a key of the store.
func (k *issued) right() want {
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case !k.begun:
		return allow
	case k.revoked.IsZero() || time.Since(k.revoked) <= known:
		return either
	}
	return deny
}

// question asks with the key.
func (k *issued) question(name string) *question {
	q := withKey(name, rig.Path, k.key, allow)
	q.right = k.right
	return q
}
