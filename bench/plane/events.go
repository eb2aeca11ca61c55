package main

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	adminv1 "github.com/postern-auth/postern/gen/postern/admin/v1"
	posternv1 "github.com/postern-auth/postern/gen/postern/v1"
)

const tenant = "acme"

// event is a key that will be revoked in some way.
type event struct {
	kind           string
	key, id, owner string
	// ends is the reason of a deny afterwards.
	ends posternv1.Reason
	// ack is when the revocation was acknowledged. The key is tried at least until
	// until.
	ack, until moment
}

// kinds are the ways to take a key out of force.
var kinds = []struct {
	name string
	ends posternv1.Reason
	do   func(context.Context, *replica, *event, string) error
}{
	{"revoke", posternv1.Reason_REASON_REVOKED, func(ctx context.Context, r *replica, e *event, id string) error {
		_, err := adminv1.NewCredentialServiceClient(r.admin).RevokeCredential(ctx, &adminv1.RevokeCredentialRequest{Id: e.id, RequestId: id})
		return err
	}},
	{"rotate", posternv1.Reason_REASON_ROTATED, func(ctx context.Context, r *replica, e *event, id string) error {
		_, err := adminv1.NewCredentialServiceClient(r.admin).RotateCredential(ctx, &adminv1.RotateCredentialRequest{Id: e.id, RequestId: id})
		return err
	}},
	{"disable", posternv1.Reason_REASON_DISABLED, func(ctx context.Context, r *replica, e *event, id string) error {
		_, err := adminv1.NewCredentialServiceClient(r.admin).DisableCredential(ctx, &adminv1.DisableCredentialRequest{Id: e.id, RequestId: id})
		return err
	}},
	{"disable principal", posternv1.Reason_REASON_DISABLED, func(ctx context.Context, r *replica, e *event, id string) error {
		_, err := adminv1.NewPrincipalServiceClient(r.admin).UpdatePrincipal(ctx, &adminv1.UpdatePrincipalRequest{
			Principal:  &adminv1.Principal{Tenant: tenant, Id: e.owner, Disabled: true},
			UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"disabled"}}, RequestId: id,
		})
		return err
	}},
}

// end takes the key out of force and notes the acknowledgement. It tries again for
// a while if the store did not answer: the id makes that one and the same call.
func (e *event) end(ctx context.Context, r *replica) error {
	for _, k := range kinds {
		if k.name != e.kind {
			continue
		}
		id := "bench-" + e.id
		for begin := time.Now(); ; time.Sleep(20 * time.Millisecond) {
			call, cancel := context.WithTimeout(r.as(ctx), 10*time.Second)
			err := k.do(call, r, e, id)
			cancel()
			if err == nil || e.kind == "rotate" && notRepeated(err) {
				e.ack.set(time.Now())
				return nil
			}
			if time.Since(begin) > 20*time.Second || ctx.Err() != nil {
				return fmt.Errorf("%s: %w", e.kind, err)
			}
		}
	}
	return fmt.Errorf("no kind %q", e.kind)
}

// notRepeated reports whether a call had been carried out before, and only its
// secret is not shown again.
func notRepeated(err error) bool {
	for _, d := range status.Convert(err).Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok && info.GetReason() == "SECRET_NOT_REPEATED" {
			return true
		}
	}
	return false
}

// people issues keys over the admin API of a replica.
type people struct {
	admin *replica
	n     int
}

// settle makes the tenant.
func (p *people) settle(ctx context.Context) error {
	_, err := adminv1.NewTenantServiceClient(p.admin.admin).CreateTenant(p.admin.as(ctx), &adminv1.CreateTenantRequest{Tenant: &adminv1.Tenant{Id: tenant}})
	return err
}

// issue makes a principal with a key, which will end in the way of the kind.
func (p *people) issue(ctx context.Context, kind int) (*event, error) {
	p.n++
	k := kinds[kind%len(kinds)]
	e := &event{kind: k.name, ends: k.ends, owner: fmt.Sprintf("service-%d", p.n)}
	ctx = p.admin.as(ctx)
	_, err := adminv1.NewPrincipalServiceClient(p.admin.admin).CreatePrincipal(ctx, &adminv1.CreatePrincipalRequest{
		Principal: &adminv1.Principal{Tenant: tenant, Id: e.owner, Kind: posternv1.PrincipalKind_PRINCIPAL_KIND_SERVICE, Roles: []string{"reader"}},
	})
	if err != nil {
		return nil, err
	}
	res, err := adminv1.NewCredentialServiceClient(p.admin.admin).IssueCredential(ctx, &adminv1.IssueCredentialRequest{Credential: &adminv1.Credential{
		Type: adminv1.CredentialType_CREDENTIAL_TYPE_API_KEY, Tenant: tenant, PrincipalId: e.owner, Roles: []string{"reader"},
		Expiration: &adminv1.Credential_Ttl{Ttl: durationpb.New(time.Hour)},
	}})
	if err != nil {
		return nil, err
	}
	e.key, e.id = res.GetSecret(), res.GetCredential().GetId()
	return e, nil
}

// many issues n keys, of all kinds in turns.
func (p *people) many(ctx context.Context, n int) ([]*event, error) {
	all := make([]*event, n)
	for i := range all {
		var err error
		if all[i], err = p.issue(ctx, i); err != nil {
			return nil, err
		}
	}
	return all, nil
}
