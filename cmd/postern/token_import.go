package main

import (
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"

	adminv1 "github.com/postern-auth/postern/gen/postern/admin/v1"
	posternv1 "github.com/postern-auth/postern/gen/postern/v1"
)

// A table of tokens says of each whose it is and what role it has. Here a token has
// the rights of its user, so the role in a row is the user's: one that exists must
// have it, and one that does not can be made with it.

// owner is the user of some rows.
type owner struct {
	*adminv1.Principal
	// first is the row that named it first.
	first *importRow
	// missing says that there is no such user yet.
	missing bool
}

func credentialIn(r *importRow) *adminv1.Credential {
	return r.message.Interface().(*adminv1.ImportedCredential).GetCredential()
}

// withUsers imports tokens. Users are made after all else was found good.
func (im *credentialImport) withUsers(cmd *cobra.Command, rows []importRow) error {
	owners, err := im.owners(cmd, rows)
	if err != nil {
		return err
	}
	if im.createUsers {
		if err := im.create(cmd, owners, true); err != nil {
			return err
		}
	}
	if im.dryRun || !im.createUsers {
		return im.take(cmd, rows, nil)
	}
	return im.take(cmd, rows, func() error { return im.create(cmd, owners, false) })
}

// owners finds the users of all rows, and takes the rights out of the rows.
func (im *credentialImport) owners(cmd *cobra.Command, rows []importRow) (all []*owner, err error) {
	known := map[string]*owner{} // by tenant/id
	for i := range rows {
		row, c := &rows[i], credentialIn(&rows[i])
		if row.faults != nil || c.GetPrincipalId() == "" {
			continue
		}
		key := c.GetTenant() + "/" + c.GetPrincipalId()
		o := known[key]
		if o == nil {
			if o, err = im.owner(cmd, row, c); err != nil {
				return nil, err
			}
			known[key], all = o, append(all, o)
		}
		switch {
		case !o.missing:
			row.hold(c, o)
		case im.createUsers:
			o.add(c)
			row.late = true
		default:
			row.fault("there is no user %s; --create-users makes it, with its role", c.GetPrincipalId())
		}
		c.Roles, c.Scopes, c.Permissions = nil, nil, nil
	}
	return all, nil
}

// owner looks for the user of a row.
func (im *credentialImport) owner(cmd *cobra.Command, row *importRow, c *adminv1.Credential) (*owner, error) {
	res := &adminv1.GetPrincipalResponse{}
	err := im.call(cmd.Context(), adminv1.PrincipalService_GetPrincipal_FullMethodName,
		&adminv1.GetPrincipalRequest{Tenant: c.GetTenant(), Id: c.GetPrincipalId()}, res)
	var no *refusalError
	if errors.As(err, &no) && no.code == codes.NotFound {
		return &owner{first: row, missing: true, Principal: &adminv1.Principal{
			Tenant: c.GetTenant(), Id: c.GetPrincipalId(), Kind: posternv1.PrincipalKind_PRINCIPAL_KIND_USER,
		}}, nil
	}
	return &owner{first: row, Principal: res.GetPrincipal()}, err
}

// hold reports what a row grants and its user does not have.
func (r *importRow) hold(c *adminv1.Credential, user *owner) {
	for _, right := range []struct {
		name        string
		asked, held []string
	}{
		{"role", c.GetRoles(), user.GetRoles()},
		{"scope", c.GetScopes(), user.GetScopes()},
		{"permission", c.GetPermissions(), user.GetPermissions()},
	} {
		for _, asked := range right.asked {
			if !slices.Contains(right.held, asked) {
				r.fault("%s does not have the %s %s: give it to the user first", c.GetPrincipalId(), right.name, asked)
			}
		}
	}
}

// add gives a user that is to be made what a row says of it.
func (o *owner) add(c *adminv1.Credential) {
	unite := func(into *[]string, more []string) {
		for _, right := range more {
			if !slices.Contains(*into, right) {
				*into = append(*into, right)
			}
		}
	}
	unite(&o.Roles, c.GetRoles())
	unite(&o.Scopes, c.GetScopes())
	unite(&o.Permissions, c.GetPermissions())
}

// create makes the users that are missing, or only checks whether it could. One that
// cannot be made is a fault of the row that names it.
func (im *credentialImport) create(cmd *cobra.Command, owners []*owner, check bool) error {
	made := 0
	for _, o := range owners {
		if !o.missing || o.first.faults != nil {
			continue
		}
		err := im.call(cmd.Context(), adminv1.PrincipalService_CreatePrincipal_FullMethodName,
			&adminv1.CreatePrincipalRequest{Principal: o.Principal, AllowWildcard: im.allowWildcard, ValidateOnly: check},
			&adminv1.CreatePrincipalResponse{})
		var no *refusalError
		switch {
		case errors.As(err, &no):
			o.first.fault("user %s: %v", o.GetId(), no.error)
		case err != nil:
			return err
		default:
			made++
		}
	}
	if made > 0 && !check {
		fmt.Fprintf(cmd.ErrOrStderr(), "made %d users\n", made)
	}
	return nil
}
