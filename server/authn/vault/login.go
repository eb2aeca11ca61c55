package vault

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/jose"
	"github.com/postern-auth/postern/server/regular"
)

// login keeps Postern's own login alive. One goroutine does all of it:
//
//	at the start      log in; a token of one's own is looked up, to learn how long it lives
//	at two thirds     of the lease: renew; log in again if that is refused, or if a renewal
//	                  brings less than half of what the login brought (max_ttl is near)
//	on doubt          when a question is forbidden: look the own token up, log in if it is dead
//	after a failure   again after 1, 2, 4 … 30 seconds
//
// Whoever asks gets the own token from RAM as long as it lives, and waits only for a
// login that is under way.
type login struct {
	cfg     *Config
	client  *client
	now     func() time.Time
	onLogin func(Status)

	state atomic.Pointer[ownState]

	ctx   context.Context
	end   context.CancelFunc
	ended chan struct{}
	wake  chan struct{}

	mu     sync.Mutex
	flight chan struct{} // closed when the attempt that runs, or is about to, has ended; nil for none
}

// ownState is all that a login knows. It never changes; each attempt makes a new one.
type ownState struct {
	own *own // nil: none
	// tried is when the last attempt ended; next is when the goroutine makes another by
	// itself, zero for never.
	tried, next time.Time
	// err is why the last attempt to log in or to renew failed, and how many did so in a
	// row. That a doubt was groundless says nothing about that.
	err      error
	failures int
}

// own is a token of Postern's own.
type own struct {
	token    policy.Secret
	accessor string
	// granted is the lease of the login; lease that of the last renewal; 0 without end.
	granted, lease time.Duration
	renewable      bool
	// since is when the lease began, at the latest.
	since time.Time
}

// ends returns when the own token ends; zero for never.
func (o *own) ends() time.Time {
	if o == nil || o.lease == 0 {
		return time.Time{}
	}
	return o.since.Add(o.lease)
}

// is reports whether both are the same token, renewed or not.
func (o *own) is(other *own) bool {
	return o != nil && other != nil && o.token.Reveal() == other.token.Reveal()
}

func (s *ownState) usable(now time.Time) bool {
	return s.own != nil && (s.own.lease == 0 || now.Before(s.own.ends()))
}

// The pauses between attempts that fail, and the time within which one doubt is as good
// as another: so that callers with tokens which may not be looked up cost Vault
// nothing to speak of.
const (
	firstRetry = time.Second
	lastRetry  = 30 * time.Second
	doubtPause = 5 * time.Second
)

var (
	errLogin   = errors.New("postern's own login")
	errRefused = errors.New("vault refuses it: it has expired, was revoked, or may not look itself up as the policy default permits")
	errLasting = errors.New("it cannot be renewed any more; give Postern another, or a way to log in")
	errUses    = errors.New("it has a number of uses, which would soon be over; set token_num_uses to 0 in its role")
)

func newLogin(cfg *Config, client *client, deps Deps) *login {
	l := &login{cfg: cfg, client: client, now: deps.Now, onLogin: deps.OnLogin, ended: make(chan struct{}), wake: make(chan struct{}, 1)}
	l.ctx, l.end = context.WithCancel(context.Background())
	l.state.Store(l.inherited(deps.Inherit))
	if !l.state.Load().usable(l.now()) {
		l.join()
	}
	go l.run()
	return l
}

// inherited returns what the replaced Authenticator knows, if it logs in as this one does.
func (l *login) inherited(old *Authenticator) *ownState {
	if old == nil || old.login == nil {
		return new(ownState)
	}
	was := &old.cfg
	if was.Address != l.cfg.Address || was.Namespace != l.cfg.Namespace || was.CAFile != l.cfg.CAFile || !reflect.DeepEqual(was.Login, l.cfg.Login) {
		return new(ownState)
	}
	return old.login.state.Load()
}

func (l *login) close() {
	l.end()
	<-l.ended
}

// current returns the own token. It waits for an attempt that is under way, and does not
// begin one: after a failure that is the goroutine's to do.
func (l *login) current(ctx context.Context) (*own, error) {
	if st := l.state.Load(); st.usable(l.now()) {
		return st.own, nil
	}
	if err := wait(ctx, l.underWay()); err != nil {
		return nil, err
	}
	st := l.state.Load()
	switch {
	case st.usable(l.now()):
		return st.own, nil
	case st.err != nil:
		return nil, st.err
	}
	return nil, fmt.Errorf("%w has ended", errLogin)
}

// doubt says that a question by the own token was forbidden. It returns another token if
// that one was dead, and the same one if it lives.
func (l *login) doubt(ctx context.Context, of *own) (*own, error) {
	st := l.state.Load()
	if st.own.is(of) && l.now().Sub(st.tried) >= doubtPause {
		if err := wait(ctx, l.join()); err != nil {
			return nil, err
		}
	}
	return l.current(ctx)
}

// wait waits until an attempt has ended; nil is none.
func wait(ctx context.Context, flight <-chan struct{}) error {
	if flight == nil {
		return nil
	}
	select {
	case <-flight:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("waiting for %w: %w", errLogin, context.Cause(ctx))
	}
}

func (l *login) underWay() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.flight
}

// join returns the attempt that runs, or begins one.
func (l *login) join() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.flight == nil && l.ctx.Err() == nil {
		l.flight = make(chan struct{})
		select {
		case l.wake <- struct{}{}:
		default: // it is awake already
		}
	}
	return l.flight
}

// takeOff lets those who come now wait for the attempt that the timer began.
func (l *login) takeOff() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.flight == nil {
		l.flight = make(chan struct{})
	}
}

// land ends the flight.
func (l *login) land() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.flight != nil {
		close(l.flight)
		l.flight = nil
	}
}

// run is the login's one goroutine.
func (l *login) run() {
	defer close(l.ended)
	defer l.land()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	l.schedule(timer)
	for {
		select {
		case <-l.ctx.Done():
			return
		case <-timer.C:
			l.takeOff()
			l.attempt(l.prolong)
		case <-l.wake:
			l.attempt(l.reassure)
		}
		l.land()
		l.schedule(timer)
	}
}

// schedule sets the timer to the next attempt.
func (l *login) schedule(timer *time.Timer) {
	timer.Stop()
	if next := l.state.Load().next; !next.IsZero() {
		timer.Reset(next.Sub(l.now()))
	}
}

// next returns when to make the next attempt: after a pause if the last one failed, else
// at two thirds of the lease. Replicas that were started together drift apart.
func (l *login) next(st *ownState) time.Time {
	switch {
	case st.err != nil:
		pause := min(firstRetry<<min(st.failures-1, 10), lastRetry)
		return st.tried.Add(pause - time.Duration(rand.Int64N(int64(pause)/4)))
	case st.own != nil && st.own.lease > 0:
		share := st.own.lease * 2 / 3
		due := st.own.since.Add(share - time.Duration(rand.Int64N(int64(share)/10+1)))
		if soonest := st.tried.Add(firstRetry); due.Before(soonest) {
			return soonest
		}
		return due
	}
	return time.Time{}
}

// attempt makes one attempt, puts what came of it in place, and tells of it. An own token
// that is not known to be dead is kept: it may well outlive the failure.
func (l *login) attempt(how func(context.Context, *own) (*own, error)) {
	ctx, cancel := context.WithTimeout(l.ctx, loginTimeout)
	defer cancel()
	before := l.state.Load()
	after, err := l.recovered(ctx, how, before.own)
	if l.ctx.Err() != nil {
		return // closed meanwhile, which says nothing about Vault
	}
	st := &ownState{own: after, tried: l.now()}
	if err == nil && after == before.own {
		st.next, st.err, st.failures = before.next, before.err, before.failures // a groundless doubt
		l.state.Store(st)
		return
	}
	if err != nil {
		st.err, st.failures = fmt.Errorf("%w: %w", errLogin, err), before.failures+1
	}
	st.next = l.next(st)
	l.state.Store(st)
	if l.onLogin != nil {
		s := l.status()
		s.Name, s.Address = l.cfg.Name, l.cfg.Address
		l.onLogin(s)
	}
}

// recovered turns a panic into an error: on this goroutine it would end the process.
func (l *login) recovered(ctx context.Context, how func(context.Context, *own) (*own, error), has *own) (got *own, err error) {
	defer func() {
		if recover() != nil {
			got, err = has, errors.New("panic while logging in")
		}
	}()
	return how(ctx, has)
}

// prolong is what the timer does: renew, or log in again.
func (l *login) prolong(ctx context.Context, has *own) (*own, error) {
	if has == nil {
		return l.begin(ctx)
	}
	renewed, err := l.renew(ctx, has)
	switch {
	case err == nil && (renewed.lease >= has.granted/2 || !l.canRepeat()):
		return renewed, nil
	case err == nil:
		return l.replace(ctx, renewed) // max_ttl is near
	case !errors.Is(err, errRefused):
		return has, err
	case l.canRepeat():
		return l.replace(ctx, has)
	}
	if _, err := l.lookupSelf(ctx, has.token); err != nil {
		return l.unlessDead(has, err)
	}
	return has, errLasting
}

// reassure is what a doubt does: see whether the own token lives, and log in if not.
func (l *login) reassure(ctx context.Context, has *own) (*own, error) {
	if has == nil {
		return l.begin(ctx)
	}
	_, err := l.lookupSelf(ctx, has.token)
	switch {
	case err == nil:
		return has, nil
	case errors.Is(err, errRefused) && l.canRepeat():
		return l.begin(ctx)
	}
	return l.unlessDead(has, err)
}

// unlessDead keeps a token that may still live.
func (l *login) unlessDead(has *own, err error) (*own, error) {
	if errors.Is(err, errRefused) {
		return nil, err
	}
	return has, err
}

// replace makes another login, and keeps the one that there is if that fails.
func (l *login) replace(ctx context.Context, has *own) (*own, error) {
	fresh, err := l.begin(ctx)
	if err != nil {
		return has, err
	}
	return fresh, nil
}

// canRepeat reports whether there is a way to log in, rather than one token.
func (l *login) canRepeat() bool { return l.cfg.Login.Token.IsZero() }

// begin logs in, or learns about the token that was given.
func (l *login) begin(ctx context.Context) (*own, error) {
	if !l.canRepeat() {
		return l.lookupSelf(ctx, l.cfg.Login.Token)
	}
	q, err := l.cfg.Login.question()
	if err != nil {
		return nil, err
	}
	q.method, q.namespace = http.MethodPost, l.cfg.Namespace
	since := l.now()
	said, err := l.client.do(ctx, q)
	if errors.Is(err, errForbidden) || isStatus(err, http.StatusBadRequest) {
		return nil, fmt.Errorf("vault refuses the login at %s: what it logs in with is wrong, used up, or not for this address: %w", q.path, err)
	}
	if err != nil {
		return nil, fmt.Errorf("at %s: %w", q.path, err)
	}
	return readLogin(said, since)
}

// question returns what is sent to log in. A certificate is in the TLS handshake.
func (l *Login) question() (question, error) {
	switch {
	case l.AppRole != nil:
		body := map[string]string{"role_id": l.AppRole.RoleID}
		if !l.AppRole.SecretID.IsZero() {
			body["secret_id"] = l.AppRole.SecretID.Reveal()
		}
		return question{path: loginPath(l.AppRole.Mount, "approle"), body: body}, nil
	case l.Kubernetes != nil:
		token, err := regular.ReadFile(cmp.Or(l.Kubernetes.TokenFile, defaultTokenFile), maxAnswer)
		if err != nil {
			return question{}, fmt.Errorf("token_file: %w", err)
		}
		body := map[string]string{"role": l.Kubernetes.Role, "jwt": strings.TrimSpace(string(token))}
		return question{path: loginPath(l.Kubernetes.Mount, "kubernetes"), body: body}, nil
	}
	body := map[string]string{}
	if l.Cert.Role != "" {
		body["name"] = l.Cert.Role
	}
	return question{path: loginPath(l.Cert.Mount, "cert"), body: body}, nil
}

func loginPath(mount, usual string) string { return "auth/" + cmp.Or(mount, usual) + "/login" }

// renew renews the own token. errRefused says that it is dead, or cannot be renewed.
func (l *login) renew(ctx context.Context, has *own) (*own, error) {
	if !has.renewable {
		return nil, errRefused
	}
	since := l.now()
	said, err := l.client.do(ctx, question{
		method: http.MethodPost, path: "auth/token/renew-self", token: has.token.Reveal(), namespace: l.cfg.Namespace, body: map[string]string{},
	})
	if errors.Is(err, errForbidden) || errors.Is(err, errBadToken) || isStatus(err, http.StatusBadRequest) {
		return nil, errRefused
	}
	if err != nil {
		return nil, fmt.Errorf("renewing it: %w", err)
	}
	renewed, err := readLogin(said, since)
	if err != nil {
		return nil, err
	}
	// A renewal does not change the token, whatever it says.
	renewed.token, renewed.accessor, renewed.granted = has.token, has.accessor, has.granted
	return renewed, nil
}

// lookupSelf asks about an own token. errRefused says that it is dead.
func (l *login) lookupSelf(ctx context.Context, token policy.Secret) (*own, error) {
	since := l.now()
	said, err := l.client.do(ctx, question{method: http.MethodGet, path: "auth/token/lookup-self", token: token.Reveal(), namespace: l.cfg.Namespace})
	if errors.Is(err, errForbidden) || errors.Is(err, errBadToken) {
		return nil, errRefused
	}
	if err != nil {
		return nil, fmt.Errorf("looking it up: %w", err)
	}
	found, err := readAnswer(said, token.Reveal())
	switch {
	case err != nil:
		return nil, fmt.Errorf("looking it up: %w", err)
	case found.numUses < 0 || found.expires && found.ttl == 0:
		return nil, errRefused
	case found.limited():
		return nil, errUses
	}
	renewable, _ := said.Get("data").Get("renewable").Bool()
	return &own{token: token, accessor: found.accessor, granted: found.ttl, lease: found.ttl, renewable: renewable, since: since}, nil
}

// readLogin reads the answer to a login or a renewal.
func readLogin(said jsonAnswer, since time.Time) (*own, error) {
	r := &reader{data: said.Get("auth")}
	if r.data.Kind() != jose.Object {
		return nil, fmt.Errorf("%w: a login without auth", errAnswer)
	}
	token := r.text("client_token")
	seconds := r.number("lease_duration")
	renewable, _ := r.data.Get("renewable").Bool()
	o := &own{token: policy.NewSecret(token), accessor: r.optional("accessor"), renewable: renewable, since: since}
	o.lease = time.Duration(min(max(seconds, 0), int64(maxTTL/time.Second))) * time.Second
	o.granted = o.lease
	switch {
	case r.wrong != "":
		return nil, fmt.Errorf("%w: %s", errAnswer, r.wrong)
	case token == "" || !isVisible(token):
		return nil, fmt.Errorf("%w: a login without a token (does it ask for a second factor?)", errAnswer)
	case r.data.Get("num_uses").Exists() && r.number("num_uses") != 0:
		return nil, errUses
	}
	return o, nil
}

// isVisible reports whether a text can be sent in a header.
func isVisible(s string) bool {
	return strings.IndexFunc(s, func(c rune) bool { return c <= ' ' || c >= 0x7f }) < 0
}

func isStatus(err error, code int) bool {
	status := statusError{}
	return errors.As(err, &status) && status.code == code
}

// status is the login's part of the Status.
func (l *login) status() Status {
	st := l.state.Load()
	s := Status{Usable: st.usable(l.now()), Degraded: st.err != nil, Err: st.err}
	if st.own != nil {
		s.LoggedIn, s.Ends, s.Accessor = st.own.since, st.own.ends(), st.own.accessor
	}
	return s
}
