package registry

import (
	"context"
	"strings"

	"github.com/postern-auth/postern/server/seal"
	"github.com/postern-auth/postern/server/store"
)

// maxClaim is the longest jti, sid, kid, subject, client, agent or issuer in bytes.
const maxClaim = 512

// DenialQuery says which lines to list.
type DenialQuery struct {
	Page
	Tenant string
}

// AddDenial adds a line to the denylist. ID, By and CreatedAt are set here, and
// IssuedBefore where it is needed and zero. A tenant adds lines about its own: keys
// that sign and certificates may be others' as well, so these lines are the
// installation's.
func (r *Registry) AddDenial(ctx context.Context, call Call, d store.Denial) (*store.Denial, Change, error) {
	return r.addDenial(ctx, call, d, d)
}

// addDenial adds a line that a request comes to: one that is repeated is the same request,
// though its line may be another.
func (r *Registry) addDenial(ctx context.Context, call Call, req any, d store.Denial) (*store.Denial, Change, error) {
	var added *store.Denial
	change, err := r.change(ctx, call, action{"denial.add", same}, req, func(o *operation) error {
		line := d
		if line.Tenant != "" {
			if _, err := readTenant(o.tx, o.actor, line.Tenant); err != nil {
				return err
			}
		} else if !o.actor.sees("") {
			line.Tenant = o.actor.Tenant
		}
		if err := o.line(&line); err != nil {
			return err
		}
		if err := o.roomForLine(line.Tenant); err != nil {
			return err
		}
		id, err := o.newID(store.KindDenial)
		if err != nil {
			return err
		}
		line.ID, line.By, line.CreatedAt, line.Version = id, seal.Scrub(o.actor.Name()), o.now, 0
		o.target(store.KindDenial, id, line.Tenant)
		o.entry.Reason, o.made, added = line.Note, id, &line
		return o.put(added, "the id")
	}, func(o *operation, made string) (err error) {
		added, err = readDenial(o.tx, o.actor, made)
		return err
	})
	if err != nil {
		return nil, change, err
	}
	if call.ValidateOnly {
		added.ID = ""
	}
	return added, change, nil
}

// line checks a line of the denylist.
func (o *operation) line(d *store.Denial) error {
	var f faults
	var named []string
	for _, w := range []struct {
		field, value          string
		issuer, before, whole bool
	}{
		{"jti", d.JTI, false, false, false},
		{"sid", d.SID, false, false, false},
		{"kid", d.KID, true, false, true},
		{"subject", d.Subject, true, true, false},
		{"client", d.Client, true, true, false},
		{"agent", d.Agent, false, true, false},
		{"of_tenant", d.OfTenant, false, true, false},
		{"fingerprint", d.Fingerprint, false, false, true},
	} {
		if w.value == "" {
			continue
		}
		named = append(named, w.field)
		f.text(w.field, w.value, maxClaim)
		if w.issuer && d.Issuer == "" {
			f.field("issuer", "is required with %s", w.field)
		}
		if w.before {
			otherwise(&d.IssuedBefore, o.now)
		} else if !d.IssuedBefore.IsZero() {
			f.field("issued_before", "does not go with %s", w.field)
		}
		if w.whole && (o.actor.Tenant != "" || d.Tenant != "") {
			f.add(PermissionDenied, w.field, "reaches beyond a tenant: only the installation can add this")
		}
	}
	if len(named) != 1 {
		f.field("what", "is exactly one of jti, sid, kid, subject, client, agent, of_tenant and fingerprint")
	}
	if d.OfTenant != "" && (!o.actor.sees(d.OfTenant) || d.Tenant != "" && d.OfTenant != d.Tenant) {
		f.add(PermissionDenied, "of_tenant", "is another tenant")
	}
	if s := o.signer(); d.Issuer != "" && d.Issuer == s.Issuer() {
		// What Postern signs are credentials of its own like others.
		d.Issuer = seal.Issuer
	}
	if d.KID != "" && d.Issuer == seal.Issuer {
		f.field("kid", "is of a key of Postern's own: take it away from signing.keys, which ends all that it signed")
	}
	d.Fingerprint = strings.ToLower(d.Fingerprint)
	if d.Fingerprint != "" && !isSHA256(d.Fingerprint) {
		f.field("fingerprint", "is the SHA-256 of a certificate's DER in 64 hex digits")
	}
	d.Note = seal.Scrub(d.Note)
	f.text("issuer", d.Issuer, maxClaim)
	f.text("note", d.Note, maxReason)
	d.IssuedBefore, d.ExpiresAt = store.Micro(d.IssuedBefore), store.Micro(d.ExpiresAt)
	if !d.ExpiresAt.IsZero() && !d.ExpiresAt.After(o.now) {
		f.field("expire_time", "is in the past")
	}
	return f.err()
}

// roomForLine fails if a tenant has as many lines as are allowed: every replica holds
// all of them in memory.
func (o *operation) roomForLine(tenant string) error {
	if tenant == "" {
		return nil
	}
	q := store.Query{Kind: store.KindDenial, Tenant: tenant, Limit: store.MaxPage}
	for n := 0; ; {
		some, err := o.tx.List(q)
		if err != nil {
			return err
		}
		for i := range some {
			ends := some[i].ExpiresAt
			if ended := some[i].Owner != ""; !ended && (ends.IsZero() || ends.After(o.now)) {
				n++
			}
		}
		switch {
		case n >= o.cfg.MaxDenials:
			return fail(QuotaExceeded, "tenant", "the tenant has %d lines, which is all that the installation allows: remove some, or revoke by subject, client or agent", n)
		case len(some) < q.Limit:
			return nil
		}
		q.After = some[len(some)-1].ID
	}
}

func isSHA256(s string) bool {
	return len(s) == 64 && strings.Trim(s, "0123456789abcdef") == ""
}

func readDenial(from store.Reader, a *Actor, id string) (*store.Denial, error) {
	return visible[store.Denial](from, a, "line", id, seal.IsID(id), func(d *store.Denial) string { return d.Tenant })
}

// ListDenials lists lines in the order of their ids.
func (r *Registry) ListDenials(ctx context.Context, actor Actor, q DenialQuery) ([]*store.Denial, string, error) {
	tenant, err := actor.visible(q.Tenant)
	if err != nil {
		return nil, "", err
	}
	c, err := r.cursor(q.Page, []string{"denials", tenant})
	if err != nil {
		return nil, "", err
	}
	return list(ctx, r, store.Query{Tenant: tenant}, c, func(*store.Denial) bool { return true })
}

// RemoveDenial takes a line off.
func (r *Registry) RemoveDenial(ctx context.Context, call Call, id string) (Change, error) {
	_, change, err := r.delete(ctx, call, "denial.remove", id, func(o *operation) (int, error) {
		d, err := readDenial(o.tx, o.actor, id)
		if err != nil {
			return 0, err
		}
		o.target(store.KindDenial, d.ID, d.Tenant)
		return 1, o.tx.Delete(store.KindDenial, d.ID)
	})
	return change, err
}
