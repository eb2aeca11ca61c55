package appsession

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn"
	"github.com/postern-auth/postern/server/jose"
)

// record is a session as Redis holds it: the text of a JSON object, or fields.
type record struct {
	text   []byte
	fields map[string]string
	// ttl is how long it lives on; negative for no end.
	ttl time.Duration
}

// session is what a record says.
type session struct {
	id, tenant                 string
	roles, scopes, permissions []string
	amr                        []string
	expires, authenticated     time.Time
}

// Bounds of a JSON record besides its size.
const (
	maxDepth   = 32
	maxMembers = 512
)

// read finds in a record what the configuration says is there. An error means that the
// record is not what it should be, which is nobody's fault who shows the cookie, and
// shows nothing of it.
func (c *Config) read(r *record) (*session, error) {
	f := finder{cfg: c, fields: r.fields}
	if c.Format == JSON {
		doc, err := jose.ParseJSON(r.text, jose.Limits{Bytes: int(c.MaxSize), Depth: maxDepth, Members: maxMembers})
		if err != nil {
			return nil, err
		}
		if doc.Kind() != jose.Object {
			return nil, fmt.Errorf("it is %s, not an object", doc.Kind())
		}
		f.doc = doc
	}
	of := &c.Fields
	s := &session{
		id: f.text("id", of.ID), tenant: f.text("tenant", of.Tenant),
		roles: f.list("roles", of.Roles), permissions: f.list("permissions", of.Permissions), scopes: f.scopes(of.Scopes),
		amr:     f.list("amr", of.AMR),
		expires: f.time("expires", of.Expires), authenticated: f.time("auth_time", of.AuthTime),
	}
	return s, f.err
}

// finder looks things up and keeps the first error, so that the list of them stays a
// list.
type finder struct {
	cfg    *Config
	doc    jose.Value
	fields map[string]string
	err    error
}

func (f *finder) fail(what, why string) {
	if f.err == nil {
		f.err = fmt.Errorf("its %s %s", what, why)
	}
}

// find returns the value at a path. What a field of a hash holds is a text; an empty
// one is as if it were not there.
func (f *finder) find(path jose.ClaimPath) (v jose.Value, text string, found bool) {
	if path.IsZero() {
		return v, "", false
	}
	if f.cfg.Format == Hash {
		text = f.fields[path.String()]
		return v, text, text != ""
	}
	v = path.Find(f.doc)
	return v, "", v.Kind() != jose.Absent && v.Kind() != jose.Null
}

// text returns a name: a text, or a whole number as it is written.
func (f *finder) text(what string, path jose.ClaimPath) string {
	v, s, found := f.find(path)
	if !found {
		return ""
	}
	switch v.Kind() {
	case jose.String:
		s, _ = v.Text()
	case jose.Number:
		n, _ := v.Number()
		if s = n.String(); strings.Trim(s, "0123456789") != "" {
			f.fail(what, "is a number with a sign, a point or an exponent")
		}
	case jose.Absent: // of a hash
	default:
		f.fail(what, "is "+v.Kind().String()+", not a text")
		return ""
	}
	return f.name(what, s)
}

func (f *finder) name(what, s string) string {
	if !jose.IsIdentifier(s) {
		f.fail(what, "is empty, or holds what cannot be seen")
		return ""
	}
	return s
}

// list returns names.
func (f *finder) list(what string, path jose.ClaimPath) []string {
	v, s, found := f.find(path)
	switch {
	case !found:
		return nil
	case v.Kind() == jose.String:
		s, _ = v.Text()
		return []string{f.name(what, s)}
	case v.Exists():
		return f.array(what, v)
	case !strings.HasPrefix(s, "["):
		return f.split(what, s, f.cfg.ListSeparator)
	}
	v, err := jose.ParseJSON([]byte(s), jose.Limits{Bytes: int(f.cfg.MaxSize)})
	if err != nil {
		f.fail(what, "begins as a JSON array does, and is none")
		return nil
	}
	return f.array(what, v)
}

func (f *finder) array(what string, v jose.Value) []string {
	if v.Kind() != jose.Array {
		f.fail(what, "is "+v.Kind().String()+", not a list of texts")
		return nil
	}
	all := make([]string, 0, v.Len())
	for e := range v.Elements() {
		s, ok := e.Text()
		if !ok {
			f.fail(what, "holds "+e.Kind().String())
			return nil
		}
		all = append(all, f.name(what, s))
	}
	return all
}

// split cuts a text into names; nothing between two separators is no name.
func (f *finder) split(what, s, separator string) []string {
	var all []string
	for item := range strings.SplitSeq(s, separator) {
		if item = strings.Trim(item, " "); item != "" {
			all = append(all, f.name(what, item))
		}
	}
	return all
}

// scopes returns names; one text is split at spaces (RFC 6749 section 3.3).
func (f *finder) scopes(path jose.ClaimPath) []string {
	all := f.list("scopes", path)
	if len(all) != 1 || !strings.Contains(all[0], " ") {
		return all
	}
	return f.split("scopes", all[0], " ")
}

// latest is the last instant that is taken for one: what is later was written in
// another unit.
var latest = time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC)

// time returns an instant: RFC 3339, or a number since 1970.
func (f *finder) time(what string, path jose.ClaimPath) time.Time {
	v, s, found := f.find(path)
	if !found {
		return time.Time{}
	}
	number := v.Kind() == jose.Number
	switch v.Kind() {
	case jose.String:
		s, _ = v.Text()
	case jose.Number:
		n, _ := v.Number()
		s = n.String()
	case jose.Absent: // of a hash
		_, err := strconv.ParseFloat(s, 64)
		number = err == nil
	default:
		f.fail(what, "is "+v.Kind().String()+", not a time")
		return time.Time{}
	}
	t, ok := f.instant(s, number)
	if !ok || t.Before(time.Unix(0, 0)) || t.After(latest) {
		f.fail(what, "is no time since 1970, in RFC 3339 or as a number of "+string(f.cfg.TimeUnit))
		return time.Time{}
	}
	return t
}

func (f *finder) instant(s string, number bool) (time.Time, bool) {
	if !number {
		t, err := time.Parse(time.RFC3339, s)
		return t.UTC(), err == nil
	}
	n, err := strconv.ParseFloat(s, 64)
	if err != nil || math.IsNaN(n) || math.Abs(n) > 1e15 {
		return time.Time{}, false
	}
	if f.cfg.TimeUnit == Seconds {
		n *= 1000
	}
	return time.UnixMilli(int64(n)).UTC(), true
}

var (
	errUnknown  = authn.Refuse(policy.ReasonCredentialUnknown, "the application has no such session")
	errNobody   = authn.Refuse(policy.ReasonCredentialUnknown, "the session is there, but nobody is logged in")
	errTenant   = authn.Refuse(policy.ReasonCredentialUnknown, "the session names no tenant")
	errExpired  = authn.Refuse(policy.ReasonExpired, "the session says that it is over")
	errTomorrow = fmt.Errorf("its auth_time is in the future")
)

// skew is how far the application's clock may be ahead.
const skew = time.Minute

// proof makes the proof of a session under its public id.
func (a *Authenticator) proof(r *record, id string, now time.Time) (*authn.Proof, error) {
	s, err := a.cfg.read(r)
	switch {
	case err != nil:
		return nil, fmt.Errorf("app_sessions %s: session %s cannot be read: %w", a.cfg.Name, id, err)
	case s.id == "":
		return nil, errNobody
	case s.tenant == "" && !a.cfg.Fields.Tenant.IsZero():
		return nil, errTenant
	case !s.expires.IsZero() && !now.Before(s.expires):
		return nil, errExpired
	case s.authenticated.After(now.Add(skew)):
		return nil, fmt.Errorf("app_sessions %s: session %s: %w", a.cfg.Name, id, errTomorrow)
	}
	ends := s.expires
	if at := now.Add(r.ttl); r.ttl >= 0 && (ends.IsZero() || at.Before(ends)) {
		ends = at
	}
	agent := ""
	if a.cfg.Kind == policy.KindAgent {
		agent = s.id
	}
	return &authn.Proof{
		Principal: &policy.Principal{
			ID: s.id, Kind: a.cfg.Kind, Tenant: s.tenant,
			Roles: s.roles, Scopes: s.scopes, Permissions: s.permissions,
			Method: a.cfg.Method, Assurance: a.cfg.Assurance, AMR: s.amr, AuthTime: s.authenticated,
			CredentialID: id, Issuer: a.cfg.Issuer, ExpiresAt: ends,
		},
		NotAfter: a.until(ends, now), State: policy.StateStore,
		Subject: authn.Subject{
			SessionID: id, Issuer: a.cfg.Issuer, ID: s.id, Agent: agent, Tenant: s.tenant, IssuedAt: s.authenticated,
		},
	}, nil
}

// until is when nobody may go on believing a proof, wherever it is kept: the session's
// end, or the time after which the application has to be asked again.
func (a *Authenticator) until(ends, now time.Time) time.Time {
	until := now.Add(max(a.cfg.MaxTTL+a.cfg.StaleFor, time.Millisecond)) // the request itself began before now
	if !ends.IsZero() && ends.Before(until) {
		return ends
	}
	return until
}
