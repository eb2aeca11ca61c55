package registry

import (
	"context"
	"errors"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/password"
	"github.com/postern-auth/postern/server/store"
)

// Passwords hashes and verifies passwords (server/password).
type Passwords interface {
	// Hash returns the hash of a password in PHC form.
	Hash(ctx context.Context, password policy.Secret) (string, error)
	// Verify reports whether a password fits a hash. An empty hash is nobody's, and
	// costs what another one does. An error means that it could not be found out.
	Verify(ctx context.Context, hash string, password policy.Secret) (bool, error)
	// NeedsRehash reports whether the hash is of another kind or cost than Hash
	// makes.
	NeedsRehash(hash string) bool
	// Check says what is wrong with a hash that is to be imported, without showing
	// it.
	Check(hash string) error
}

// Login starts a session of the user whose password it is given. AMR is "pwd" if
// the spec has none. Every failure is the same LOGIN_FAILED: an unknown user, a
// wrong password, a user that is disabled or locked out. An Actor without an id
// stands for the user.
func (r *Registry) Login(ctx context.Context, call Call, spec SessionSpec, secret policy.Secret) (*NewSession, Change, error) {
	p, err := r.VerifyPassword(ctx, call, spec.Tenant, spec.Principal, secret)
	if err != nil {
		return nil, Change{}, err
	}
	if len(spec.AMR) == 0 {
		spec.AMR = []string{"pwd"} // RFC 8176
	}
	call.Actor = callerOr(call.Actor, p.Tenant, p.ID)
	return r.startSession(ctx, call, "session.create", func(o *operation) (*NewSession, error) {
		now, rules, err := o.receiver(p.Tenant, p.ID)
		if err != nil && asError(err).Err != nil {
			return nil, err
		}
		if err != nil || now.Password != p.Password {
			return nil, loginFailed() // changed since it was verified
		}
		o.detail("by", "password")
		return o.session(now, rules, spec)
	})
}

// callerOr returns the actor, or the user where there is none: who logs in is nobody
// else yet.
func callerOr(a Actor, tenant, id string) Actor {
	if a.ID == "" {
		return Actor{Tenant: tenant, ID: id}
	}
	return a
}

// loginFailed is the same whatever the cause, so that nobody learns who there is.
func loginFailed() *Error {
	e := fail(LoginFailed, "", "the user or the password is wrong, or the user is locked out for a while")
	e.denied = true
	return e
}

var actionLogin = action{"session.login", never}

// VerifyPassword returns the user whose password it is given; errors as for Login.
// It changes nothing but a hash that is out of date (B-06, B-07). All failures cost
// one hash, or none if the name is locked out, which unknown names are as well.
func (r *Registry) VerifyPassword(ctx context.Context, call Call, tenant, id string, secret policy.Secret) (*store.Principal, error) {
	if r.passwords == nil {
		return nil, fail(NotConfigured, "", "passwords are not set up")
	}
	as := callerOr(call.Actor, tenant, id)
	p, err := r.candidate(ctx, &as, tenant, id)
	if err != nil {
		return nil, asError(err)
	}
	refused := store.AuditEntry{Tenant: call.Actor.Tenant}
	hash := ""
	if p != nil {
		// An unknown name is not noted: it may be a password in the wrong field.
		refused.Target, refused.Tenant, hash = string(store.KindPrincipal)+"/"+p.Key(), p.Tenant, p.Password
	}
	locks := r.logins.locks(tenant, id, call.Client, r.now())
	if !r.logins.try(locks, r.now()) {
		return nil, r.failed(ctx, call, actionLogin, refused, loginFailed())
	}
	good, err := r.passwords.Verify(ctx, hash, secret)
	switch {
	case err != nil:
		r.logins.giveBack(locks)
		return nil, unverified(err)
	case !good || p == nil:
		return nil, r.failed(ctx, call, actionLogin, refused, loginFailed())
	}
	r.logins.clear(locks, r.now())
	return r.rehash(ctx, p, secret)
}

// candidate returns the user if one could log in, or nil: that there is none is not
// an error yet.
func (r *Registry) candidate(ctx context.Context, a *Actor, tenant, id string) (*store.Principal, error) {
	var p *store.Principal
	err := r.store.View(ctx, func(from store.Reader) error {
		o := &operation{Registry: r, actor: a, tx: readOnly{from}, now: r.now()}
		found, _, err := o.receiver(tenant, id)
		if err == nil && found.Kind == policy.KindUser && found.Password != "" {
			p = found
		}
		if e := (*Error)(nil); errors.As(err, &e) {
			return nil
		}
		return err
	})
	return p, err
}

// readOnly lets what reads in operations read elsewhere too.
type readOnly struct{ store.Reader }

var errReadOnly = errors.New("nothing can be written here")

func (readOnly) Put(store.Record) error          { return errReadOnly }
func (readOnly) Delete(store.Kind, string) error { return errReadOnly }
func (readOnly) Note(store.AuditEntry) error     { return errReadOnly }

// unverified is the error for a password of which nobody knows whether it is right.
func unverified(err error) *Error {
	var e *Error
	switch {
	case errors.Is(err, password.ErrBusy):
		e = fail(Overloaded, "", "too many passwords are being checked: try again")
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		e = fail(Overloaded, "", "the call was cut short before the password was checked")
	case errors.Is(err, password.ErrLength):
		return fail(InvalidField, "password", "%s", passwordRule)
	default:
		e = fail(Internal, "", "the password could not be checked")
	}
	e.Err = err
	return e
}

// rehash replaces a hash that is out of date by one that is not, once its password
// is known. If that fails, the next login will do it.
func (r *Registry) rehash(ctx context.Context, p *store.Principal, secret policy.Secret) (*store.Principal, error) {
	if !r.passwords.NeedsRehash(p.Password) {
		return p, nil
	}
	hash, err := r.passwords.Hash(ctx, secret)
	if err != nil {
		return p, nil //nolint:nilerr // the password was right: the login does not depend on it
	}
	fresh := p
	_, err = r.change(ctx, Call{Actor: Actor{ID: system}}, action{"user.rehash", never}, nil, func(o *operation) error {
		now, err := o.principal(p.Tenant, p.ID, "")
		if err != nil {
			return err
		}
		if now.Password != p.Password {
			return fail(WrongState, "", "the password was set meanwhile")
		}
		now.Password, now.UpdatedAt, fresh = hash, o.now, now
		return o.put(now, "the id")
	}, nil)
	switch ReasonOf(err) {
	case "":
		return fresh, nil
	case WrongState, NotFound:
		return r.rehashed(ctx, p, secret)
	}
	return p, nil
}

// rehashed is for two logins at once: the other one's hash is of the same password,
// unless that was changed or the user is gone.
func (r *Registry) rehashed(ctx context.Context, p *store.Principal, secret policy.Secret) (*store.Principal, error) {
	now, err := r.candidate(ctx, &Actor{ID: system}, p.Tenant, p.ID)
	if err != nil {
		return nil, asError(err)
	}
	if now == nil {
		return nil, loginFailed()
	}
	good, err := r.passwords.Verify(ctx, now.Password, secret)
	switch {
	case err != nil:
		return nil, unverified(err)
	case !good:
		return nil, loginFailed()
	}
	return now, nil
}

// system is who does what nobody asked for.
const system = "postern"
