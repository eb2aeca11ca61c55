// Package login is the door for people: an optional HTTP endpoint at which the users
// of an application log in with a password and get a session cookie.
//
//	curl -c cookies.txt -d username=alice -d password=… https://app.example.com/login
//	curl -b cookies.txt https://app.example.com/session
//	curl -b cookies.txt -X POST https://app.example.com/logout
//
// # The endpoints
//
//	POST /login    a form or a JSON object of username, password and perhaps tenant
//	POST /logout   ends the session of the cookie, if there is one
//	GET  /session  who is logged in, and a new CSRF token
//
// A login always makes a new session: whatever the client brings is not looked at. It
// answers with two header fields that matter: Set-Cookie, and x-csrf-token, which the
// application sends back with requests that change something (see check.CSRF).
//
// # What it tells
//
// A wrong password, an unknown name, a user who is disabled: all get the same 401, byte
// for byte, and cost one hash. Too many tries for a name get 429, whether or not the
// name exists. What could not be found out is 503, which does not count as a try.
//
// # Who may send what
//
// A page of another site must not log the user in as somebody else (login CSRF) or out.
// Browsers say where such requests come from, so one that says elsewhere is refused; a
// program that says nothing is not a browser that somebody could misuse.
package login

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/canonical"
	"github.com/postern-auth/postern/server/check"
	"github.com/postern-auth/postern/server/door"
)

// ErrFailed says that name and password do not belong together, for whatever reason.
// Every other error of Accounts says that it could not be found out.
var ErrFailed = errors.New("login failed")

// Accounts knows the users and keeps their sessions.
type Accounts interface {
	// Login starts a new session of the user whose password it is given, or returns
	// ErrFailed. Names that do not exist must cost the same. The client is where the
	// request comes from; invalid if that is not known.
	Login(ctx context.Context, client netip.Addr, tenant, user string, password policy.Secret) (Session, error)
	// Logout ends the session that proved the principal (CredentialID). One that has
	// ended already is no error.
	Logout(ctx context.Context, p *policy.Principal) error
}

// Session is a session that was just made.
type Session struct {
	// ID is public, Secret the value of the cookie.
	ID     string
	Secret policy.Secret
	// Tenant and User are whose it is; ExpiresAt is when it ends at the latest.
	Tenant, User string
	ExpiresAt    time.Time
}

// Prover says who is calling (check.Live).
type Prover interface {
	Authenticate(ctx context.Context, a *policy.Attributes) policy.Decision
}

// Tokens makes CSRF tokens (session.Authenticator).
type Tokens interface {
	CSRFToken(session string) policy.Secret
}

// Deps are what a Handler works with. All but the last three are required.
type Deps struct {
	Accounts Accounts
	Prover   Prover
	Tokens   Tokens
	// Reader reads the request, the client's address above all.
	Reader *canonical.Reader
	// InsecurePlaintext takes passwords over connections without TLS.
	InsecurePlaintext bool
	// Logger is for faults; nil for none.
	Logger *slog.Logger
	// Now is the clock; time.Now if nil.
	Now func() time.Time
}

// Handler serves the endpoints. It is safe for concurrent use.
type Handler struct {
	cfg   Config
	deps  Deps
	limit *limiter
	csrf  check.CSRF
}

// New returns a Handler for a configuration that was checked. The tries that it counts
// are its own: keep it over a reload that changes nothing of it.
func New(cfg Config, deps Deps) *Handler {
	cfg = cfg.WithDefaults()
	if deps.Now == nil {
		deps.Now = time.Now
	}
	if deps.Logger == nil {
		deps.Logger = slog.New(slog.DiscardHandler)
	}
	return &Handler{
		cfg: cfg, deps: deps, limit: newLimiter(cfg.LoginTries, cfg.LoginWindow, deps.Now),
		csrf: check.CSRF{SameSite: cfg.InsecureSameSiteRequests},
	}
}

// endpoints is the whole surface.
var endpoints = map[string]struct {
	method  string
	changes bool // must not be sent by another site's page
	serve   func(h *Handler, r *http.Request, x *exchange) reply
}{
	"/login":   {http.MethodPost, true, (*Handler).login},
	"/logout":  {http.MethodPost, true, (*Handler).logout},
	"/session": {http.MethodGet, false, (*Handler).session},
}

// exchange is a request as it was read.
type exchange struct {
	attributes *policy.Attributes
	request    policy.Request
}

// ServeHTTP implements http.Handler.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	defer func() {
		if thrown := recover(); thrown != nil {
			door.Recovered(r.Context(), h.deps.Logger, "login", thrown)
			unavailable.write(w)
		}
	}()
	if r.Body != nil {
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	}
	h.answer(r).write(w)
}

// answer goes the way that all endpoints share.
func (h *Handler) answer(r *http.Request) reply {
	e, known := endpoints[r.URL.Path]
	switch {
	case !known:
		return notFound
	case r.Method != e.method:
		return methodNotAllowed.with("allow", e.method)
	case r.URL.RawQuery != "" || r.URL.ForceQuery:
		return badRequest // a password in a URL stands in every log
	}
	x := &exchange{attributes: attributes(r)}
	if err := h.deps.Reader.Read(x.attributes, &x.request); err != nil {
		return badRequest
	}
	if h.exposed(&x.request) {
		return denied(policy.ReasonPlaintext)
	}
	if e.changes && h.elsewhere(x) {
		return denied(policy.ReasonCSRF)
	}
	return e.serve(h, r, x)
}

// sender is the address that tries count for. A proxy on this machine stands for all of
// its clients, and one of them must not use up the tries of the others, so what it says
// of them counts here. Nothing else goes by it: to a proxy that hands the field on as it
// came, a client can say what it likes.
func (x *exchange) sender() netip.Addr {
	at := x.request.ClientIP
	if !at.IsLoopback() {
		return at
	}
	said := ""
	for i := range x.attributes.Headers {
		if h := &x.attributes.Headers[i]; h.Name == "x-forwarded-for" {
			said = h.Value
		}
	}
	last := strings.Trim(said[strings.LastIndexByte(said, ',')+1:], " \t")
	if client, err := netip.ParseAddr(last); err == nil {
		return client.Unmap().WithZone("")
	}
	return at
}

// exposed reports whether others may have read what the client sent. What comes from
// this machine has not been on any wire.
func (h *Handler) exposed(q *policy.Request) bool {
	return q.Plaintext && !h.deps.InsecurePlaintext && !q.ClientIP.IsLoopback()
}

// elsewhere reports whether another site's page made a browser send the request. An
// Origin that is "null" hides who did, which a page can bring about.
func (h *Handler) elsewhere(x *exchange) bool {
	sender, _ := h.csrf.Sender(x.attributes.Headers, &x.request)
	_, origins := x.attributes.Headers.Get("origin")
	return sender == check.SenderOther || sender == check.SenderUnknown && origins > 0
}

// login checks a name and a password, and starts a session.
func (h *Handler) login(r *http.Request, x *exchange) reply {
	f, refusal := readForm(r)
	if refusal != nil {
		return *refusal
	}
	client := x.sender()
	wait, done := h.limit.try(client, f.tenant, f.username)
	if done == nil {
		return tooMany(wait)
	}
	result := unknown
	defer func() { done(result) }()
	s, err := h.deps.Accounts.Login(r.Context(), client, f.tenant, f.username, f.password)
	switch {
	case errors.Is(err, ErrFailed):
		result = failed
		return loginFailed
	case err != nil:
		h.deps.Logger.WarnContext(r.Context(), "a login could not be decided", "error", err)
		return unavailable
	}
	result = passed
	return h.who(s.Tenant, s.User, s.ID, s.ExpiresAt).with("set-cookie", h.cfg.SetCookie(s.Secret).Reveal())
}

// logout ends the session, if there is one, and takes the cookie back in any case.
func (h *Handler) logout(r *http.Request, x *exchange) reply {
	d := h.deps.Prover.Authenticate(r.Context(), x.attributes)
	if d.Reason.Fault() {
		return unavailable
	}
	if p := d.Principal; d.Allowed && p != nil && p.Method == policy.MethodSession {
		if err := h.deps.Accounts.Logout(r.Context(), p); err != nil {
			h.deps.Logger.WarnContext(r.Context(), "a session could not be ended", "session", p.CredentialID, "error", err)
			return unavailable
		}
	}
	return reply{status: http.StatusNoContent}.with("set-cookie", h.cfg.ClearCookie())
}

// session says who is logged in.
func (h *Handler) session(r *http.Request, x *exchange) reply {
	d := h.deps.Prover.Authenticate(r.Context(), x.attributes)
	switch p := d.Principal; {
	case d.Reason.Fault():
		return unavailable
	case !d.Allowed:
		return denied(d.Reason)
	case p == nil || p.Method != policy.MethodSession:
		return denied(policy.ReasonMethodNotAccepted)
	default:
		return h.who(p.Tenant, p.ID, p.CredentialID, p.ExpiresAt)
	}
}

// who is the answer about a session. The id is public; the secret is in the cookie
// alone.
func (h *Handler) who(tenant, user, session string, expires time.Time) reply {
	body := struct {
		User       string    `json:"user"`
		Tenant     string    `json:"tenant,omitempty"`
		Session    string    `json:"session"`
		ExpireTime time.Time `json:"expire_time,omitzero"`
	}{user, tenant, session, expires.UTC()}
	return jsonReply(http.StatusOK, body).with(check.CSRFHeader, h.deps.Tokens.CSRFToken(session).Reveal())
}
