package registry

import (
	"context"
	"fmt"
	"strings"
	"unicode"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/store"
)

// UserRow is a user with the hash of the password; its Kind may be empty.
type UserRow struct {
	PrincipalSpec
	// PasswordHash is Argon2 or PBKDF2 in PHC form, or bcrypt; zero for no password.
	PasswordHash policy.Secret
}

// ImportUsersRequest brings users: at most MaxBatch.
type ImportUsersRequest struct {
	Rows          []UserRow
	SkipBad       bool
	AllowWildcard bool
}

// SetPasswordRequest sets the password of a user.
type SetPasswordRequest struct {
	Tenant, ID string
	// Password is 8 to 256 bytes; zero takes the password away.
	Password policy.Secret
	// KeepSessions leaves the user's sessions alone.
	KeepSessions bool
}

// What a new password may be. The lower bound is that of NIST SP 800-63B.
const (
	minPassword = 8
	maxPassword = 256
)

var passwordRule = fmt.Sprintf("is UTF-8 of %d to %d bytes without control characters", minPassword, maxPassword)

func isPassword(s string) bool {
	return len(s) >= minPassword && len(s) <= maxPassword && store.Text(s) && !strings.ContainsFunc(s, unicode.IsControl)
}

// ImportUsers takes over users with the hashes of their passwords (B-07). IDs of
// the results are those of the principals. Bad rows as in ImportCredentials.
func (r *Registry) ImportUsers(ctx context.Context, call Call, req ImportUsersRequest) (*Imported, Change, error) {
	var done *Imported
	change, err := r.change(ctx, call, action{"user.import", never}, nil, func(o *operation) (err error) {
		done, err = o.rows(len(req.Rows), "users", req.SkipBad, func(i int, result *ImportResult) error {
			row := req.Rows[i]
			return o.importUser(&row, req.AllowWildcard, result)
		})
		return err
	}, nil)
	return imported(done, call.ValidateOnly, err), change, err
}

func (o *operation) importUser(row *UserRow, wildcard bool, result *ImportResult) error {
	var f faults
	otherwise(&row.Kind, policy.KindUser)
	if row.Kind != policy.KindUser {
		f.field("kind", "is user, or is left out")
	}
	hash := row.PasswordHash.Reveal()
	switch {
	case hash == "":
	case o.passwords == nil:
		return fail(NotConfigured, "password_hash", "passwords are not set up")
	default:
		if err := o.passwords.Check(hash); err != nil {
			f.field("password_hash", "%s", err)
		}
	}
	p, err := o.newPrincipal(&row.PrincipalSpec, wildcard)
	if err != nil {
		return f.also(err, "")
	}
	if err := f.err(); err != nil {
		return err
	}
	if hash != "" {
		p.Password, p.PasswordChangedAt = hash, o.now
	}
	if err := o.put(p, "the id"); err != nil {
		return err
	}
	result.ID = p.ID
	return o.tx.Note(o.note("user.import"))
}

// SetPassword sets the password of a user and ends the user's sessions. The actor
// must be able to grant what the user may: whoever knows a password is the user.
func (r *Registry) SetPassword(ctx context.Context, call Call, req SetPasswordRequest) (*store.Principal, Change, error) {
	secret := req.Password.Reveal()
	act := action{"user.set_password", never}
	switch {
	case secret != "" && !isPassword(secret):
		return nil, Change{}, fail(InvalidField, "password", "%s", passwordRule)
	case r.passwords == nil:
		return nil, Change{}, fail(NotConfigured, "", "passwords are not set up")
	}
	hash := ""
	if secret != "" {
		// Hashing takes long: who may not do this does not get that far, and a
		// transaction does not wait for it.
		if err := r.mayBe(ctx, call, act, req); err != nil {
			return nil, Change{}, err
		}
		var err error
		if hash, err = r.passwords.Hash(ctx, req.Password); err != nil {
			return nil, Change{}, unverified(err)
		}
	}
	var p *store.Principal
	change, err := r.change(ctx, call, act, nil, func(o *operation) (err error) {
		if p, err = o.user(req.Tenant, req.ID); err != nil {
			return err
		}
		p.Password, p.PasswordChangedAt, p.UpdatedAt = hash, o.now, o.now
		if !req.KeepSessions {
			n := 0
			if err := o.remove(store.Query{Kind: store.KindSession, Owner: p.Key()}, &n); err != nil {
				return err
			}
			o.detail("sessions", fmt.Sprint(n))
		}
		return o.put(p, "the id")
	}, nil)
	if err != nil {
		return nil, change, err
	}
	return p, change, nil
}

// mayBe runs the checks of SetPassword without a transaction.
func (r *Registry) mayBe(ctx context.Context, call Call, act action, req SetPasswordRequest) error {
	o := &operation{Registry: r, call: call, actor: &call.Actor, now: r.now()}
	err := r.store.View(ctx, func(from store.Reader) error {
		o.tx = readOnly{from}
		_, err := o.user(req.Tenant, req.ID)
		return err
	})
	if err != nil {
		return r.failed(ctx, call, act, o.entry, err)
	}
	return nil
}

// user reads a user as whom the actor could act anyway.
func (o *operation) user(tenant, id string) (*store.Principal, error) {
	p, err := o.principal(tenant, id, "")
	if err != nil {
		return nil, err
	}
	var f faults
	if p.Kind != policy.KindUser {
		f.field("id", "is a %s; passwords are for users", p.Kind)
	}
	f.grants(o.actor, reach{}, reach{Rights: rightsOf(p)})
	return p, f.err()
}
