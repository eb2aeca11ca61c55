package registry

import (
	"context"
	"slices"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/seal"
	"github.com/postern-auth/postern/server/store"
)

// State is where a credential is in its life. The texts are those of
// CredentialState in proto/postern/admin/v1, without the prefix.
type State string

// The states. The first that fits in the order revoked, rotated, expired, disabled,
// pending, rotating, active.
const (
	Active   State = "ACTIVE"
	Pending  State = "PENDING"
	Disabled State = "DISABLED"
	Rotating State = "ROTATING"
	Rotated  State = "ROTATED"
	Expired  State = "EXPIRED"
	Revoked  State = "REVOKED"
)

var states = []State{Active, Pending, Disabled, Rotating, Rotated, Expired, Revoked}

// Credential is a credential as a reader sees it.
type Credential struct {
	*store.Credential
	State State
	// LastUsedAt is when it was last used, some seconds behind; zero if never, and
	// in the results of what changes a credential.
	LastUsedAt time.Time
	// LivingSuccessor is the id of what took its place and is still good, in the result
	// of RevokeCredential; empty for none.
	LivingSuccessor string
}

// Etag returns the text that stands for its version.
func (c *Credential) Etag() string { return Etag(c.Version) }

// CredentialSpec is what can be said of a credential: all of it when it is issued,
// the fields of CredentialFields when it is updated.
type CredentialSpec struct {
	Type              store.CredentialType
	Tenant, Principal string
	Name              string
	Environment       string
	// Format is empty, or store.JWT for a personal access token. Left out of JSON then, so
	// that calls which were made before there was one are still known by their hash.
	Format      store.CredentialFormat `json:",omitempty"`
	Rights      Rights
	Constraints *policy.Constraints
	// Metadata is JSON: at most 8 KiB (T-07).
	Metadata  map[string]any
	NotBefore time.Time
	// ExpiresAt is when it ends; TTL the same, from now. At most one of them; neither:
	// after one Period, without a Period as late as is allowed.
	ExpiresAt time.Time
	TTL       time.Duration
	// Period is by how much Renew moves the end; 0: it cannot be renewed.
	Period time.Duration
	// MaxExpiresAt is how far Renew moves the end at most. Zero, with a Period: as
	// far as is allowed.
	MaxExpiresAt time.Time
	// Parent is the id of a living credential with which this one falls: of the same
	// principal, or of one that owns it.
	Parent string
}

// CredentialQuery says which credentials to list. Fields that are set must all
// match.
type CredentialQuery struct {
	Page
	Tenant, Principal string
	Types             []store.CredentialType
	States            []State
	// UnusedFor: not used for so long, or never and made so long ago.
	UnusedFor     time.Duration
	ExpiresBefore time.Time
}

// GetCredential returns a credential.
func (r *Registry) GetCredential(ctx context.Context, actor Actor, id string) (*Credential, error) {
	var c *store.Credential
	err := r.store.View(ctx, func(from store.Reader) (err error) {
		c, err = readCredential(from, &actor, id)
		return err
	})
	if err != nil {
		return nil, asError(err)
	}
	last, err := r.lastUsed(ctx, id)
	if err != nil {
		return nil, asError(err)
	}
	return &Credential{Credential: c, State: StateOf(c, r.now()), LastUsedAt: last}, nil
}

// ListCredentials lists credentials in the order of their ids and returns the token
// of the next page, empty at the end.
func (r *Registry) ListCredentials(ctx context.Context, actor Actor, q CredentialQuery) ([]Credential, string, error) {
	query, cursor, err := r.readQuery(&actor, q)
	if err != nil {
		return nil, "", asError(err)
	}
	now := r.now()
	found, next, err := list(ctx, r, query, cursor, func(c *store.Credential) bool {
		return (len(q.Types) == 0 || slices.Contains(q.Types, c.Type)) &&
			(len(q.States) == 0 || slices.Contains(q.States, StateOf(c, now))) &&
			(q.ExpiresBefore.IsZero() || !c.ExpiresAt.IsZero() && c.ExpiresAt.Before(q.ExpiresBefore)) &&
			(q.UnusedFor == 0 || !c.CreatedAt.After(now.Add(-q.UnusedFor)))
	})
	if err != nil {
		return nil, "", err
	}
	all := make([]Credential, 0, len(found))
	for _, c := range found {
		last, err := r.lastUsed(ctx, c.ID)
		if err != nil {
			return nil, "", asError(err)
		}
		if q.UnusedFor == 0 || !last.After(now.Add(-q.UnusedFor)) {
			all = append(all, Credential{Credential: c, State: StateOf(c, now), LastUsedAt: last})
		}
	}
	return all, next, nil
}

// readQuery checks a query.
func (r *Registry) readQuery(a *Actor, q CredentialQuery) (store.Query, cursor, error) {
	var f faults
	for _, t := range q.Types {
		if !slices.Contains([]store.CredentialType{store.APIKey, store.PAT, store.Token}, t) {
			f.field("types", "are api_key, pat and token")
		}
	}
	for _, s := range q.States {
		if !slices.Contains(states, s) {
			f.field("states", "are %s", join(states))
		}
	}
	if q.UnusedFor < 0 {
		f.field("unused_for", "is negative")
	}
	owner := f.owner("principal_id", q.Tenant, q.Principal)
	tenant, err := a.visible(q.Tenant)
	if err != nil {
		return store.Query{}, cursor{}, err
	}
	if err := f.err(); err != nil {
		return store.Query{}, cursor{}, err
	}
	page := q.Page
	q.Page, q.Tenant = Page{}, tenant
	c, err := r.cursor(page, q)
	return store.Query{Tenant: tenant, Owner: owner}, c, err
}

// owner returns the key of the principal that a query is limited to.
func (f *faults) owner(field, tenant, id string) string {
	if id == "" {
		return ""
	}
	f.principalID(field, id)
	return store.PrincipalKey(tenant, id)
}

// lastUsed returns when a credential was last used; zero if never.
func (r *Registry) lastUsed(ctx context.Context, id string) (time.Time, error) {
	// Newest day first: the last use is nearly always among the first counters. All
	// of them are only needed if the last days had nothing but denies.
	var last time.Time
	for _, limit := range []int{32, store.MaxPage} {
		counters, err := r.store.Usage(ctx, store.UsageQuery{Credential: id, Limit: limit})
		if err != nil {
			return last, err
		}
		for _, u := range counters {
			if u.LastUsedAt.After(last) {
				last = u.LastUsedAt
			}
		}
		if !last.IsZero() || len(counters) < limit {
			break
		}
	}
	return last, nil
}

// Usage returns counters of use (K-13), by credential, newest day first.
func (r *Registry) Usage(ctx context.Context, actor Actor, q store.UsageQuery) ([]store.Usage, error) {
	var f faults
	for _, d := range []struct{ field, day string }{{"from_day", q.From}, {"to_day", q.To}} {
		if _, err := time.Parse(time.DateOnly, d.day); d.day != "" && err != nil {
			f.field(d.field, "is a day in UTC, as 2006-01-02")
		}
	}
	if q.Credential != "" && !seal.IsID(q.Credential) {
		f.field("credential_id", "is no id of a credential")
	}
	if q.Limit < 0 {
		f.field("page_size", "is negative")
	}
	f.owner("principal_id", q.Tenant, q.Principal)
	if err := f.err(); err != nil {
		return nil, err
	}
	var err error
	if q.Tenant, err = actor.visible(q.Tenant); err != nil {
		return nil, err
	}
	if q.Limit == 0 {
		q.Limit = defaultPage
	}
	counters, err := r.store.Usage(ctx, q)
	if err != nil {
		return nil, asError(err)
	}
	return counters, nil
}
