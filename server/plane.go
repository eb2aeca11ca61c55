package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/admin"
	"github.com/postern-auth/postern/server/audit"
	"github.com/postern-auth/postern/server/authn"
	"github.com/postern-auth/postern/server/authn/apikey"
	"github.com/postern-auth/postern/server/authn/session"
	"github.com/postern-auth/postern/server/budget"
	"github.com/postern-auth/postern/server/check"
	"github.com/postern-auth/postern/server/door/login"
	"github.com/postern-auth/postern/server/mirror"
	"github.com/postern-auth/postern/server/password"
	"github.com/postern-auth/postern/server/registry"
	"github.com/postern-auth/postern/server/seal"
	"github.com/postern-auth/postern/server/signer"
	"github.com/postern-auth/postern/server/store"
	"github.com/postern-auth/postern/server/store/memory"
	"github.com/postern-auth/postern/server/store/postgres"
	"github.com/postern-auth/postern/server/store/sqlite"
	"github.com/postern-auth/postern/server/store/table"
)

// plane is the credential plane of a replica: the store, the mirror that follows it,
// and the registry that writes. It is made when the server starts and outlives
// configurations; nil where there is no store.
type plane struct {
	store    store.Store
	mirror   *mirror.Mirror
	registry *registry.Registry
	budgets  *budget.Budgets
	limits   limits
	// sessions is nil without a pepper.
	sessions *session.Authenticator
	signer   atomic.Pointer[signer.Signer] // in force; nil: nothing is signed
	log      *slog.Logger
}

// newPlane opens the store and reads it. A database that does not answer is no reason
// not to start: until it does, this replica knows nothing, or what its snapshot says,
// and denies or answers as store.mode has it.
func newPlane(ctx context.Context, cfg *Config, o table.Options, log *slog.Logger) (_ *plane, err error) {
	now := o.Now
	peppers, err := apikey.NewPeppers(cfg.APIKeys)
	if err != nil {
		return nil, err
	}
	st, err := openStore(ctx, cfg, o)
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	if st == nil {
		return nil, nil
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, st.Close())
		}
	}()
	p := &plane{store: st, log: log}
	p.mirror = mirror.New(mirror.Config{
		Mode: cfg.Store.Mode, MaxStale: cfg.Store.MaxStale, Snapshot: cfg.Store.Snapshot.String(),
	}, st, mirror.Deps{Now: now, Peppers: peppers, Logger: log, Ending: p.ending})
	passwords, err := password.New(password.Config{}, password.Deps{Peppers: peppers})
	if err != nil {
		return nil, err
	}
	p.registry = p.newRegistry(cfg, registry.Deps{Now: now, Peppers: peppers, Passwords: passwords})
	if !peppers.None() {
		p.sessions, err = session.New(session.Config{Prefix: cfg.APIKeys.Prefix}, session.Deps{Index: p.mirror.Sessions(), Peppers: peppers, Now: now})
		if err != nil {
			return nil, err
		}
	}
	if err := p.openBudgets(cfg, peppers, now); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = p.budgets.Close(ctx)
		}
	}()
	sound := make(chan error, 1)
	go func() { sound <- p.examine(ctx, o) }() // it takes about as long as the load
	err = p.mirror.Load(ctx)
	if damage := <-sound; damage != nil {
		return nil, damage
	}
	if err != nil {
		if errors.Is(err, store.ErrCorrupt) || errors.Is(err, store.ErrNewer) {
			return nil, err
		}
		log.Error("the store does not answer; nothing is allowed by a credential until it does", "error", err)
	} else {
		p.readLimits(ctx)
	}
	return p, nil
}

// examine has a store that is this server's alone look for damage. What is wrong with
// pages that the mirror does not read would otherwise be found by whoever writes.
func (p *plane) examine(ctx context.Context, o table.Options) error {
	s, can := p.store.(interface{ Examine(context.Context) error })
	if !can || !o.Alone {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, examination)
	defer cancel()
	err := s.Examine(ctx)
	if ctx.Err() != nil && !errors.Is(err, store.ErrCorrupt) {
		p.log.Info("the store is too large to be looked through at the start; `postern store check` does so")
		return nil
	}
	return err
}

// examination is how long a start waits to hear whether the store is damaged, which is
// enough for some 500,000 keys.
const examination = 2 * time.Second

func (p *plane) newRegistry(cfg *Config, deps registry.Deps) *registry.Registry {
	deps.Signer, deps.Seen = p.signer.Load, p.mirror.WaitFor
	return registry.New(registry.Config{
		Prefix: cfg.APIKeys.Prefix,
		MaxTTL: cfg.Tenants.MaxTTL, MaxPATs: cfg.Tenants.MaxPATs, MaxGrace: cfg.Tenants.MaxGrace, UnusedFor: cfg.Tenants.UnusedFor,
		SessionIdle: cfg.Sessions.Idle, SessionMax: cfg.Sessions.Max,
		LoginTries: cfg.Sessions.LoginTries, LoginWindow: cfg.Sessions.LoginWindow,
		Approvals: cfg.Approvals.rules(),
	}, p.store, deps)
}

// sign puts other keys in force for what the registry issues.
func (p *plane) sign(s *signer.Signer) {
	if p != nil {
		p.signer.Store(s)
	}
}

// openStore returns nil where the configuration has none.
func openStore(ctx context.Context, cfg *Config, o table.Options) (store.Store, error) {
	switch cfg.Store.Driver {
	case DriverMemory:
		return memory.New(o.Now), nil
	case DriverSQLite:
		return orNil(sqlite.Open(ctx, cfg.Store.Path.String(), o))
	case DriverPostgres:
		return openPatiently(ctx, func(ctx context.Context) (store.Store, error) {
			return orNil(postgres.Open(ctx, cfg.Store.DSN.Reveal(), o))
		})
	}
	return nil, nil
}

// orNil keeps the nil pointer that comes with an error from looking like a store.
func orNil[S store.Store](s S, err error) (store.Store, error) {
	if err != nil {
		return nil, err
	}
	return s, nil
}

// run follows the store and does what time demands, until ctx ends.
func (p *plane) run(ctx context.Context) {
	var all sync.WaitGroup
	all.Go(func() { _ = p.mirror.Run(ctx) })
	all.Go(func() { every(ctx, maintenance, func() { p.maintain(ctx) }) })
	all.Go(func() { every(ctx, lookAgain, func() { p.readLimits(ctx) }) })
	all.Wait()
}

// maintenance is how often the registry does what time demands.
const maintenance = 5 * time.Minute

func (p *plane) maintain(ctx context.Context) {
	done, err := p.registry.Maintain(ctx)
	switch {
	case err != nil && ctx.Err() == nil:
		p.log.Warn("maintenance of the store failed; it is tried again", "error", err)
	case done.Disabled > 0:
		p.log.Info("credentials that nobody used were disabled", "event", "credential_unused", "credentials", done.Disabled)
	}
}

func (p *plane) ending(e mirror.Ending) {
	p.log.Warn("a credential will expire soon", "event", "credential_expiring", "credential", e.Credential,
		"tenant", e.Tenant, "principal", e.Principal, "name", e.Name, "at", e.At, "days", e.Days)
}

func (p *plane) close() error {
	if p == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	return errors.Join(p.budgets.Close(ctx), p.registry.FlushAudit(ctx), p.store.Close())
}

// condition says whether this replica hears of what changes in the store.
func (p *plane) condition(now time.Time) admin.Condition {
	view, status := p.mirror.View(), p.mirror.Status()
	c := admin.Condition{Name: "store", Ready: view.State(now) != mirror.Blind, Detail: fmt.Sprintf("change %d", view.Number)}
	if status.Err != nil {
		c.Detail += ", and then not heard of for " + view.Age(now).Round(time.Millisecond).String() + ": " + status.Err.Error()
	}
	if err := p.failed(); err != nil {
		c.Detail += ", and can be read but not written: " + err.Error()
	}
	return c
}

// failed says why nothing more is written to the store until a restart; nil if nothing
// is wrong. What is known goes on counting meanwhile.
func (p *plane) failed() error {
	if s, ok := p.store.(interface{ Failed() error }); ok {
		return s.Failed()
	}
	return nil
}

// agents is the registry of agents; nil where there is none.
func (p *plane) agents() authn.Agents {
	if p == nil {
		return nil
	}
	return p.mirror.Agents()
}

// indexes are where API keys are looked for besides the keys file.
func (p *plane) indexes() []authn.Index {
	if p == nil {
		return nil
	}
	return []authn.Index{p.mirror.Credentials()}
}

// sight is what the mirror has seen, for the checker.
func (p *plane) sight() func() check.Sight {
	if p == nil {
		return nil
	}
	return func() check.Sight { return sight{p.mirror.View()} }
}

type sight struct{ *mirror.View }

// Freshness implements check.Sight.
func (s sight) Freshness(now time.Time) check.Freshness {
	switch s.State(now) {
	case mirror.Fresh:
		return check.Fresh
	case mirror.Stale:
		return check.Stale
	}
	return check.Blind
}

// Record implements audit.Recorder: it counts what credentials are used for.
func (p *plane) Record(r *audit.Record) {
	who := r.Decision.Principal
	if who == nil || who.Issuer != seal.Issuer || who.CredentialID == "" {
		return
	}
	route := ""
	if r.Decision.Route != nil {
		route = r.Decision.Route.Name
	}
	p.mirror.Used(who.CredentialID, route, r.Decision.Allowed, r.Time)
}

// revocations asks several denylists.
type revocations []check.Revocations

// Revoked implements check.Revocations.
func (all revocations) Revoked(s *authn.Subject) (policy.Reason, bool) {
	for _, list := range all {
		if reason, revoked := list.Revoked(s); revoked {
			return reason, true
		}
	}
	return policy.ReasonUnspecified, false
}

// adminAPI adds the admin API to what the admin listener serves. It needs a store.
func (s *Server) adminAPI(ctx context.Context, c *admin.Config, cfg *Config) error {
	if s.plane == nil {
		return nil
	}
	roles, err := adminRoles(ctx, cfg)
	if err != nil {
		return err
	}
	c.Authenticate, c.Authorizer = s.identify, admin.NewAuthorizer(roles)
	c.Prove, c.TokenRules = s.live.Identify, func() *registry.TokenRules { return tokenRules(s.current.Load().cfg) }
	c.Registry, c.Logger, c.Now = s.plane.registry, s.log, s.now
	c.Fields = func() []string { return append([]string{"cookie"}, s.current.Load().cfg.credentialHeaders()...) }
	c.Budgets = s.plane.budgets
	if s.plane.sessions != nil {
		c.Browser = func(made *store.Session, secret policy.Secret) (setCookie, csrfToken string) {
			return cfg.Sessions.SetCookie(secret).Reveal(), s.plane.sessions.CSRFToken(made.ID).Reveal()
		}
	}
	return nil
}

// adminRoles reads who may do what with the admin API.
func adminRoles(ctx context.Context, cfg *Config) (*admin.Policy, error) {
	if cfg.AdminAPI.Roles == "" {
		return admin.LoadPolicy(ctx, nil) // those that Postern ships
	}
	from := cfg.AdminAPI.Roles.String()
	roles, err := admin.LoadPolicy(ctx, os.DirFS(from))
	if err != nil {
		return nil, fmt.Errorf("admin_api.roles: %s: %w", from, err)
	}
	return roles, nil
}

// identify says who calls the admin API. Somebody else's word counts only where the
// configuration says so: their roles mean nothing here otherwise.
func (s *Server) identify(ctx context.Context, a *policy.Attributes) (policy.Decision, check.Identity) {
	d, who := s.live.Identify(ctx, a)
	if p := d.Principal; d.Allowed && p.Issuer != seal.Issuer && !s.current.Load().cfg.AdminAPI.believes(p.Issuer) {
		r := policy.ReasonIssuerUntrusted
		return policy.Decision{ID: d.ID, Reason: r, Status: r.Status(), Message: r.Message()}, check.Identity{}
	}
	return d, who
}

// loginHandler serves /login, /logout and /session.
func (s *Server) loginHandler(cfg *Config) (*login.Handler, error) {
	reader, err := requestReader(cfg)
	if err != nil {
		return nil, err
	}
	for _, w := range cfg.Sessions.Warnings() {
		s.log.Warn("sessions", "warning", w)
	}
	return login.New(cfg.Sessions, login.Deps{
		Accounts: login.AccountsOf(s.plane.registry, s.plane.mirror.WaitFor),
		Prover:   &s.live, Tokens: s.plane.sessions, Reader: reader,
		InsecurePlaintext: cfg.Plaintext.InsecureAccept, Logger: s.log, Now: s.now,
	}), nil
}
