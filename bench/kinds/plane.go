package main

import (
	"context"
	"fmt"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	"github.com/postern-auth/postern/bench/rig"
	adminv1 "github.com/postern-auth/postern/gen/postern/admin/v1"
	posternv1 "github.com/postern-auth/postern/gen/postern/v1"
)

// plane makes users, tokens and sessions over the admin API.
type plane struct {
	key   string
	conn  *grpc.ClientConn
	named int // users so far
}

func newPlane(address, key string) (*plane, error) {
	conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	return &plane{key: key, conn: conn}, err
}

// all does something n times, a few at once: the store writes those together.
func (p *plane) all(ctx context.Context, n int, do func(ctx context.Context, i int) error) error {
	ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+p.key)
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(16)
	for i := range n {
		group.Go(func() error { return do(ctx, i) })
	}
	return group.Wait()
}

// users makes users who have the role.
func (p *plane) users(ctx context.Context, n int) ([]string, error) {
	names, first := make([]string, n), p.named
	p.named += n
	client := adminv1.NewPrincipalServiceClient(p.conn)
	return names, p.all(ctx, n, func(ctx context.Context, i int) error {
		names[i] = fmt.Sprint("user-", first+i)
		_, err := client.CreatePrincipal(ctx, &adminv1.CreatePrincipalRequest{Principal: &adminv1.Principal{
			Id: names[i], Kind: posternv1.PrincipalKind_PRINCIPAL_KIND_USER, Roles: []string{rig.Role},
		}})
		return err
	})
}

// tokens issues personal access tokens, at most 500 to a user.
func (p *plane) tokens(ctx context.Context, n int) ([]string, error) {
	const each = 500
	names, err := p.users(ctx, (n+each-1)/each)
	if err != nil {
		return nil, err
	}
	all := make([]string, n)
	client := adminv1.NewCredentialServiceClient(p.conn)
	return all, p.all(ctx, n, func(ctx context.Context, i int) error {
		res, err := client.IssueCredential(ctx, &adminv1.IssueCredentialRequest{Credential: &adminv1.Credential{
			Type: adminv1.CredentialType_CREDENTIAL_TYPE_PERSONAL_ACCESS_TOKEN, PrincipalId: names[i/each], DisplayName: fmt.Sprint("laptop ", i), Roles: []string{rig.Role},
		}})
		all[i] = res.GetSecret()
		return err
	})
}

// sessions makes sessions, at most 50 of a user: of more than 100 the oldest would end.
func (p *plane) sessions(ctx context.Context, n int) ([]string, error) {
	const each = 50
	names, err := p.users(ctx, (n+each-1)/each)
	if err != nil {
		return nil, err
	}
	all := make([]string, n)
	client := adminv1.NewSessionServiceClient(p.conn)
	return all, p.all(ctx, n, func(ctx context.Context, i int) error {
		res, err := client.CreateSession(ctx, &adminv1.CreateSessionRequest{Session: &adminv1.Session{PrincipalId: names[i/each], Amr: []string{"pwd"}}})
		all[i] = res.GetCreated().GetSecret()
		return err
	})
}

const password = "correct horse battery staple"

// people makes users with a password.
func (p *plane) people(ctx context.Context, n int) ([]string, error) {
	names, err := p.users(ctx, n)
	if err != nil {
		return nil, err
	}
	client := adminv1.NewUserServiceClient(p.conn)
	return names, p.all(ctx, n, func(ctx context.Context, i int) error {
		_, err := client.SetPassword(ctx, &adminv1.SetPasswordRequest{Id: names[i], Password: password})
		return err
	})
}
