// Package registry says what may be done to the records of package store, and does
// it: tenants, principals, credentials, sessions, the denylist, and what people agree
// to. It knows no wire and no Rego. Whoever calls it has authenticated the caller and
// asked the policy (server/admin does both); what is here holds whatever the policy says.
//
// # One operation, one transaction
//
// Every operation that changes something runs as
//
//	request id seen?   yes: the earlier result, or an error
//	read, check        all faults of the request at once
//	write records      and what falls with them
//	write audit entry
//	remember the id
//
// in one transaction of the store, so an operation is done whole, with its audit
// entry, or not at all. ValidateOnly does the same and then lets go of it. What is
// refused for lack of rights leaves an audit entry as well, in a transaction of its
// own.
//
// # What holds whatever the policy says
//
//   - Tenants are apart. An actor of a tenant sees and changes what is of that
//     tenant; anything else is not there for it. An actor without a tenant is of the
//     installation and may look at all tenants.
//   - Nobody grants more than they have: see grant.go.
//   - Secrets leave once, in the result of the call that made them. Records hold
//     digests, audit entries and errors hold neither.
//   - What falls with a record falls in the same transaction: the children of a
//     credential when it is revoked; credentials, sessions and owned principals of a
//     principal, and everything of a tenant, when it is deleted.
//   - Every credential ends some day, at the latest after what its tenant allows.
package registry

import (
	"context"
	"crypto/rand"
	"io"
	"net/netip"
	"strconv"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn"
	"github.com/postern-auth/postern/server/seal"
	"github.com/postern-auth/postern/server/signer"
	"github.com/postern-auth/postern/server/store"
)

// Config is what the installation demands where a tenant demands nothing of its
// own. The zero value stands for the defaults.
type Config struct {
	// Prefix starts every secret; "pst" unless set.
	Prefix string
	// MaxTTL is the longest life of a credential; 90 days unless set.
	MaxTTL time.Duration
	// MaxPATs is how many living personal access tokens a user may have; 50 unless
	// set.
	MaxPATs int
	// MaxSessions is how many living sessions a user may have; 100 unless set. A login
	// beyond ends the one that was not used for the longest time.
	MaxSessions int
	// MaxDenials is how many lines of the denylist a tenant may have; 10,000 unless
	// set. The installation's own are not counted.
	MaxDenials int
	// UnusedFor disables what was not used for so long; 0: never.
	UnusedFor time.Duration
	// MaxGrace is how long a rotated credential may stay good at most; 7 days unless
	// set.
	MaxGrace time.Duration
	// Bound is the time after which every replica knows of a change, or refuses to
	// answer; 1 s unless set.
	Bound time.Duration
	// SessionIdle and SessionMax bound sessions; 30 minutes and 8 hours unless set.
	SessionIdle, SessionMax time.Duration
	// SessionOverlap is how long a rotated session stays good, for requests that are
	// on their way; 10 s unless set, which is also the most.
	SessionOverlap time.Duration
	// LoginTries is how many wrong passwords in LoginWindow lock a user out for as
	// long; 5 in 15 minutes unless set.
	LoginTries  int
	LoginWindow time.Duration
	// Approvals says how approvals are given.
	Approvals ApprovalRules
}

// WithDefaults returns the configuration with what it leaves out.
func (c Config) WithDefaults() Config {
	if c.Prefix == "" {
		c.Prefix = seal.DefaultPrefix
	}
	positive(&c.MaxTTL, 90*day)
	positive(&c.MaxPATs, 50)
	positive(&c.MaxSessions, 100)
	positive(&c.MaxDenials, 10_000)
	positive(&c.MaxGrace, 7*day)
	positive(&c.Bound, time.Second)
	positive(&c.SessionIdle, 30*time.Minute)
	positive(&c.SessionMax, 8*time.Hour)
	positive(&c.SessionOverlap, maxOverlap)
	c.SessionOverlap = min(c.SessionOverlap, maxOverlap)
	positive(&c.LoginTries, 5)
	positive(&c.LoginWindow, 15*time.Minute)
	c.Approvals = c.Approvals.WithDefaults()
	return c
}

func positive[T int | time.Duration](v *T, otherwise T) {
	if *v <= 0 {
		*v = otherwise
	}
}

const day = 24 * time.Hour

// maxOverlap bounds how long two secrets of one session are good (S-03).
const maxOverlap = 10 * time.Second

// Deps are what a Registry works with.
type Deps struct {
	// Now is the clock; time.Now unless set.
	Now func() time.Time
	// Random makes ids and secrets; crypto/rand.Reader unless set.
	Random io.Reader
	// Peppers make digests. Without any, nothing can be issued: NOT_CONFIGURED.
	Peppers *seal.Peppers
	// Passwords hashes them. Nil: there are no passwords, NOT_CONFIGURED.
	Passwords Passwords
	// Signer returns the signing keys in force; nil, or a nil Signer: no token can be
	// issued that is a JWT, NOT_CONFIGURED.
	Signer func() *signer.Signer
	// Seen waits until this replica knows of a change (mirror.WaitFor), so that what a
	// call has made or ended is so here when it returns. Every call waits for it for
	// Config.Bound at most: the change is made, whether or not this replica has heard
	// of it. May be nil.
	Seen func(ctx context.Context, change int64) error
}

// Registry keeps the records of a store in order. It is safe for concurrent use.
type Registry struct {
	cfg       Config
	store     store.Store
	now       func() time.Time
	random    io.Reader
	peppers   *seal.Peppers
	passwords Passwords
	signer    func() *signer.Signer
	seen      func(context.Context, int64) error
	logins    *lockout
	refusals  *refusals
	tokens    *Pages
}

// Pages are the tokens of pages, for lists that are kept elsewhere.
func (r *Registry) Pages() *Pages { return r.tokens }

// New returns a Registry over a store.
func New(cfg Config, st store.Store, deps Deps) *Registry {
	if deps.Now == nil {
		deps.Now = time.Now
	}
	if deps.Random == nil {
		deps.Random = rand.Reader
	}
	if deps.Signer == nil {
		deps.Signer = func() *signer.Signer { return nil }
	}
	cfg = cfg.WithDefaults()
	return &Registry{
		cfg: cfg, store: st,
		now:    func() time.Time { return store.Micro(deps.Now()) },
		random: deps.Random, peppers: deps.Peppers, passwords: deps.Passwords,
		signer: deps.Signer, seen: deps.Seen,
		logins: newLockout(cfg.LoginTries, cfg.LoginWindow), refusals: newRefusals(), tokens: NewPages(deps.Peppers),
	}
}

// Rights are what somebody may do. What the names mean is the policy's business;
// permissions and scopes may end in "*", as in "orders.*".
type Rights struct {
	Roles, Scopes, Permissions []string
}

// Actor is who calls, as far as it matters here.
type Actor struct {
	// Tenant and ID name the principal; an actor without a tenant is of the
	// installation, one without an id is nobody and can do nothing.
	Tenant, ID string
	// Kind is what sort of caller it is, and Actors those who act for it, outermost first:
	// somebody may only be let in because another lets him.
	Kind   policy.Kind
	Actors []policy.Actor
	// AuthTime is when a user has logged in, as far as the credential says.
	AuthTime time.Time
	// Credential is the id of the credential that proved it, and Origins what a denylist may
	// revoke of that and of those that it came from: tokens that it issues fall with each.
	Credential string
	Origins    []authn.Subject
	// Rights are what it has through that credential now: the bound of what it can
	// grant. Permissions that its roles stand for count only if they are listed.
	Rights Rights
	// Ends is when its credential ends, if that is a token which may not bring about others
	// that outlive it; zero for all others.
	Ends time.Time
	// Narrowed is set if its permissions, those of its roles included, are cut down
	// to the listed ones (policy.Narrowed.Permissions), as those of a fine-grained
	// token are. It can then pass on nothing that is not cut down likewise.
	Narrowed []string
	// Constraints are those of its credential. What it issues is held by them too.
	Constraints *policy.Constraints
	// Unlimited lets it grant rights that it does not have, in the tenants that it
	// sees, and without its constraints. Admin roles and permissions of Postern's own
	// ("postern.…") it must still have.
	Unlimited bool
	// Wildcard lets it grant rights with a "*", if the call says so as well: it has
	// the permission postern.credentials.wildcard.
	Wildcard bool
	// Itself says that it may rotate its credential only because that does so by
	// itself. Who has stolen it must not get a second one besides, nor one that lives
	// longer: the old one ends at once, and the successor's life is no longer.
	Itself bool
	// Ranks says of roles of the installation's own making which roles may grant each:
	// one of them is needed, as for the roles that Postern ships (see grant.go). Roles
	// that are not in it mean nothing to Postern's own API.
	Ranks map[string][]string
}

// Name is how records and audit entries name the actor: "tenant/id".
func (a *Actor) Name() string { return store.PrincipalKey(a.Tenant, a.ID) }

// visible returns the tenant that a list is limited to: the actor's own, or the one
// that is asked for.
func (a *Actor) visible(tenant string) (string, error) {
	switch {
	case a.ID == "":
		return "", nobody()
	case a.Tenant == "" || tenant == a.Tenant:
		return tenant, nil
	case tenant == "":
		return a.Tenant, nil
	}
	return "", foreign("tenant")
}

// sees reports whether what is of the tenant is there for the actor. Nobody sees
// nothing.
func (a *Actor) sees(tenant string) bool {
	return a.ID != "" && (a.Tenant == "" || a.Tenant == tenant)
}

// Call is what every operation is told besides its request.
type Call struct {
	Actor Actor
	// RequestID makes the call safe to repeat for a day: at most MaxRequestID printable
	// characters, of the actor's choosing. The same request again gets the earlier
	// result, or SECRET_NOT_REPEATED where that held a secret; another request,
	// REQUEST_ID_REUSED. Empty: every call counts.
	RequestID string
	// ValidateOnly runs all checks and changes nothing. Ids and secrets of what would
	// be made are empty, and the Change is zero.
	ValidateOnly bool
	// Client is the address from which somebody tries a password; invalid if it is not
	// known.
	Client netip.Addr
}

// Change says what a call changed and from when on that holds everywhere. It is
// zero if nothing was to be changed.
type Change struct {
	// Number is its place in the feed of changes.
	Number int64
	// CommittedAt is when it was committed.
	CommittedAt time.Time
	// EffectiveAt is when no replica lets anything through any more that the change
	// forbids.
	EffectiveAt time.Time
}

// Etag is the text that stands for the version of a record.
func Etag(version int64) string { return "v" + strconv.FormatInt(version, 36) }

// Page is a part of a list.
type Page struct {
	// Size is how many to return at most; 0 means 50, the most is store.MaxPage.
	Size int
	// Token is where to go on: what the last call returned. It only fits the query
	// that it came from. A page may hold fewer than Size, even none, and still have
	// a token for the next one.
	Token string
}
