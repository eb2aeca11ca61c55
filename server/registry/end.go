package registry

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"

	"github.com/postern-auth/postern/server/seal"
	"github.com/postern-auth/postern/server/store"
)

// EndRequest names a record and says why it is ended.
type EndRequest struct {
	ID, Etag string
	// Reason goes to the record and the audit log: at most 256 bytes.
	Reason string
	// Successors ends with a credential that was rotated all that took its place. They
	// are left alone otherwise: rotating is what one does when a secret has leaked, and
	// revoking the old one at once only cuts its grace short.
	Successors bool `json:",omitempty"` // as CredentialSpec.Format
}

// ending says that something ends now.
func (o *operation) ending(reason string) *store.Ending {
	return &store.Ending{At: o.now, Reason: reason, By: seal.Scrub(o.actor.Name())}
}

// because checks a reason and notes it. A secret in it is taken out rather than
// refused: who revokes it is in a hurry.
func (o *operation) because(reason *string) error {
	var f faults
	*reason = seal.Scrub(*reason)
	f.text("reason", *reason, maxReason)
	o.entry.Reason = *reason
	return f.err()
}

// DisableCredential turns a credential off. One that is off stays as it is.
func (r *Registry) DisableCredential(ctx context.Context, call Call, req EndRequest) (*Credential, Change, error) {
	return r.onCredential(ctx, call, "credential.disable", req, req.ID, req.Etag, func(o *operation, c *store.Credential) error {
		if err := o.because(&req.Reason); err != nil {
			return err
		}
		if err := mustBe(c, o.now, Active, Pending, Rotating, Disabled, Expired); err != nil {
			return err
		}
		if c.Disabled != nil {
			return nil
		}
		c.Disabled, c.UpdatedAt = o.ending(req.Reason), o.now
		return o.put(c, "the id")
	})
}

// EnableCredential turns a credential on again. One that is on stays as it is.
func (r *Registry) EnableCredential(ctx context.Context, call Call, req EndRequest) (*Credential, Change, error) {
	return r.onCredential(ctx, call, "credential.enable", req, req.ID, req.Etag, func(o *operation, c *store.Credential) error {
		if err := o.because(&req.Reason); err != nil {
			return err
		}
		if c.Revoked != nil {
			return mustBe(c, o.now, Active)
		}
		if c.Disabled == nil {
			return nil
		}
		if !o.actor.mayUndo(c.Disabled) {
			return deny("", turnedOff)
		}
		c.Disabled, c.UpdatedAt = nil, o.now
		return o.put(c, "the id")
	})
}

// turnedOff is the answer to a tenant that wants to turn on what the installation has
// turned off.
const turnedOff = "the installation turned it off, and only the installation turns it on again"

// mayUndo reports whether the actor may turn on again what somebody turned off: who is of
// a tenant, what that tenant turned off, or Postern itself because nobody used it.
func (a *Actor) mayUndo(off *store.Ending) bool {
	tenant, id := store.SplitPrincipalKey(off.By)
	return a.Tenant == "" || tenant == a.Tenant || tenant == "" && id == system
}

// RevokeCredential ends a credential and its children for good, and returns how
// many children fell, successors among them. One that was revoked stays as it is. The
// result names the successor that is still good, if there is one.
func (r *Registry) RevokeCredential(ctx context.Context, call Call, req EndRequest) (*Credential, int, Change, error) {
	var revoked Credential
	var fell int
	change, err := r.change(ctx, call, action{"credential.revoke", same}, req, func(o *operation) error {
		c, err := o.credential(req.ID, req.Etag)
		if err != nil {
			return err
		}
		line, err := o.successors(c)
		if err != nil {
			return err
		}
		if !req.Successors {
			line = line[:1]
		}
		ids, err := o.revoke(line, req.Reason, c.ID)
		if err != nil {
			return err
		}
		fell = 0
		for _, id := range ids {
			if id != c.ID {
				fell++
			}
		}
		o.detail("cascaded", strconv.Itoa(fell))
		o.made = c.ID + " " + strconv.Itoa(fell)
		revoked, err = o.ended(c)
		return err
	}, func(o *operation, made string) error {
		id, count, _ := strings.Cut(made, " ")
		fell, _ = strconv.Atoi(count)
		c, err := o.credential(id, "")
		if err == nil {
			revoked, err = o.ended(c)
		}
		return err
	})
	if err != nil {
		return nil, 0, change, err
	}
	return &revoked, fell, change, nil
}

// successors returns a credential and what took its place, one after the other.
func (o *operation) successors(c *store.Credential) ([]*store.Credential, error) {
	line := []*store.Credential{c}
	for c.Successor != "" && len(line) <= MaxBatch {
		next, err := store.Get[store.Credential](o.tx, c.Successor)
		if errors.Is(err, store.ErrNotFound) {
			break
		}
		if err != nil {
			return nil, err
		}
		line, c = append(line, next), next
	}
	return line, nil
}

// ended is what the caller learns of a credential that was revoked.
func (o *operation) ended(c *store.Credential) (Credential, error) {
	seen := o.view(c)
	line, err := o.successors(c)
	if err != nil {
		return seen, err
	}
	last := line[len(line)-1]
	if state := StateOf(last, o.now); last.ID != c.ID && state != Revoked && state != Expired {
		seen.LivingSuccessor = last.ID
	}
	return seen, nil
}

// BatchRevokeRequest says what to revoke: either IDs, at most MaxBatch, or all of a
// principal, or all of a tenant.
type BatchRevokeRequest struct {
	IDs []string
	// Tenant and Principal are used without IDs. With Principal, Tenant is the
	// principal's and may be empty.
	Tenant, Principal string
	Reason            string
}

// BatchRevokeCredentials ends many credentials and their children in one change,
// and returns the ids of those that were not revoked before, children included. An
// id that is not there fails the call. A repeated call gets the first 1000 ids.
func (r *Registry) BatchRevokeCredentials(ctx context.Context, call Call, req BatchRevokeRequest) ([]string, Change, error) {
	var ids []string
	change, err := r.change(ctx, call, action{"credential.revoke_batch", same}, req, func(o *operation) error {
		named, err := o.batch(req)
		if err != nil {
			return err
		}
		if ids, err = o.revoke(named, req.Reason, ""); err != nil {
			return err
		}
		o.entry.Tenant = o.actor.Tenant
		if req.Tenant != "" {
			o.entry.Tenant = req.Tenant
		}
		o.entry.Target = ""
		o.detail("revoked", strconv.Itoa(len(ids)))
		o.made = strings.Join(ids[:min(len(ids), MaxBatch)], " ")
		return nil
	}, func(_ *operation, made string) error {
		ids = strings.Fields(made)
		return nil
	})
	if err != nil {
		return nil, change, err
	}
	return ids, change, nil
}

// batch reads the credentials that a request names.
func (o *operation) batch(req BatchRevokeRequest) (named []*store.Credential, err error) {
	all := req.Tenant != "" || req.Principal != ""
	switch {
	case len(req.IDs) > MaxBatch:
		return nil, fail(InvalidField, "ids", "has %d items; at most %d are allowed", len(req.IDs), MaxBatch)
	case all == (len(req.IDs) > 0):
		return nil, fail(InvalidField, "ids", "or tenant or principal_id are needed, and not both")
	}
	var f faults
	for i, id := range req.IDs {
		if slices.Index(req.IDs, id) < i {
			continue
		}
		c, err := o.credential(id, "")
		if err != nil {
			if err = f.also(err, "ids["+strconv.Itoa(i)+"]"); !errors.As(err, new(*Error)) {
				return nil, err
			}
			continue
		}
		named = append(named, c)
	}
	if err := f.err(); err != nil || !all {
		return named, err
	}
	q := store.Query{Tenant: req.Tenant}
	if req.Principal != "" {
		p, err := o.principal(req.Tenant, req.Principal, "")
		if err != nil {
			return nil, err
		}
		q.Owner = p.Key()
	} else if _, err := o.tenant(req.Tenant, ""); err != nil {
		return nil, err
	}
	return named, each[store.Credential](o.tx, q, func(c *store.Credential) error {
		named = append(named, c)
		return nil
	})
}

// revoke ends credentials and what falls with them, and returns the ids of those
// that were not revoked before. Each has an entry in the audit log of its tenant, but
// for one of which the operation's own entry tells; "" for none.
func (o *operation) revoke(named []*store.Credential, reason, told string) (ids []string, err error) {
	if err := o.because(&reason); err != nil {
		return nil, err
	}
	done := map[string]bool{}
	end := func(c *store.Credential, why string) error {
		if done[c.ID] || c.Revoked != nil {
			return nil
		}
		done[c.ID] = true
		ids = append(ids, c.ID)
		c.Revoked, c.UpdatedAt = o.ending(why), o.now
		if err := o.put(c, "the id"); err != nil || c.ID == told {
			return err
		}
		return o.tx.Note(signed(store.AuditEntry{
			Action: "credential.revoke", Target: string(store.KindCredential) + "/" + c.ID, Tenant: c.Tenant, Reason: why,
		}, o.call))
	}
	for _, c := range named {
		if err := end(c, reason); err != nil {
			return nil, err
		}
		children, err := o.children(c)
		if err != nil {
			return nil, err
		}
		for _, child := range children {
			if err := end(child, "its parent "+c.ID+" was revoked"); err != nil {
				return nil, err
			}
		}
	}
	return ids, nil
}
