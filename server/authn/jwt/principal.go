package jwt

import (
	"cmp"
	"slices"
	"strings"
	"unicode"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn"
	"github.com/postern-auth/postern/server/jose"
)

// The claims that are read where the configuration names no others.
var (
	pathSubject     = mustPath("sub")
	pathRoles       = mustPath("roles")
	pathPermissions = mustPath("permissions")
	pathSession     = mustPath("sid")
	pathACR         = mustPath("acr")
	pathAMR         = mustPath("amr")
)

// withDefaults sets what is not set to its default. Scopes and Client stay zero:
// their defaults are two claims each.
func (c Claims) withDefaults() Claims {
	c.ID = c.ID.or(pathSubject)
	c.Roles = c.Roles.or(pathRoles)
	c.Permissions = c.Permissions.or(pathPermissions)
	c.Session = c.Session.or(pathSession)
	c.ACR = c.ACR.or(pathACR)
	c.AMR = c.AMR.or(pathAMR)
	return c
}

// reader reads mapped claims and keeps the first error, so that the list of
// them below stays a list.
type reader struct {
	claims jose.Value
	err    error
}

// proof makes the principal of a token that was proven.
func (i *issuer) proof(claims jose.Value, key *jose.Key, life lifetime) (*authn.Proof, error) {
	r := &reader{claims: claims}
	p := &policy.Principal{
		ID:           r.identifier("id", i.claims.ID.find(claims)),
		Tenant:       r.identifier("tenant", i.claims.Tenant.find(claims)),
		Roles:        r.names("roles", i.claims.Roles.find(claims)),
		Permissions:  r.names("permissions", i.claims.Permissions.find(claims)),
		Scopes:       r.scopes(either(claims, i.claims.Scopes, "scope", "scp")),
		ACR:          r.identifier("acr", i.claims.ACR.find(claims)),
		AMR:          r.names("amr", i.claims.AMR.find(claims)),
		AuthTime:     life.authenticated,
		Actors:       r.actors(claims.Get("act")),
		CredentialID: r.identifier("jti", claims.Get("jti")),
		Claims:       i.passed(claims),
		Method:       i.method,
		Assurance:    i.assurance,
		Issuer:       i.url,
		IssuedAt:     life.issued,
		ExpiresAt:    life.expires,
	}
	session := r.identifier("session", i.claims.Session.find(claims))
	client := r.identifier("client", either(claims, i.claims.Client, "client_id", "azp"))
	if !i.claims.ID.isSubject() {
		r.identifier("sub", claims.Get("sub"))
	}
	switch {
	case r.err != nil:
		return nil, r.err
	case p.ID == "":
		return nil, invalid("%s is missing, which says who the caller is", i.claims.ID)
	case len(i.clients) > 0 && !slices.Contains(i.clients, client):
		return nil, invalid("the client is not one of those that are accepted")
	}
	p.Kind = cmp.Or(i.kind, kindOf(claims, p.ID, client))
	agent := ""
	if p.Kind == policy.KindAgent {
		agent = p.ID
	}
	return &authn.Proof{
		Principal:   p,
		Constraints: i.constraints,
		NotAfter:    life.notAfter,
		State:       policy.StateNone,
		Subject: authn.Subject{
			TokenID:   p.CredentialID,
			SessionID: session,
			KeyID:     key.ID,
			Issuer:    i.url,
			ID:        p.ID,
			Client:    client,
			Agent:     agent,
			Tenant:    p.Tenant,
			IssuedAt:  life.issued,
		},
	}, nil
}

func (p ClaimPath) isSubject() bool { return len(p.steps) == 1 && p.steps[0] == "sub" }

// either returns the claim at the configured path, or else the first of the
// names that is there.
func either(claims jose.Value, path ClaimPath, names ...string) jose.Value {
	if !path.IsZero() {
		return path.find(claims)
	}
	for _, name := range names {
		if v := claims.Get(name); v.Exists() {
			return v
		}
	}
	return jose.Value{}
}

// serviceMarks are claims by which issuers say that a token was issued to a
// client itself: Auth0 and Microsoft Entra.
var serviceMarks = [...]struct{ claim, value string }{
	{"gty", "client-credentials"},
	{"idtyp", "app"},
}

// userMarks are claims that only the login of a user brings about.
var userMarks = [...]string{"auth_time", "amr", "nonce", "sid", "email", "name"}

// kindOf tells a service from a user: a client that acts for itself is its own
// subject (RFC 9068 section 2.2, sub), and there was no login.
func kindOf(claims jose.Value, id, client string) policy.Kind {
	for _, mark := range serviceMarks {
		if claims.Get(mark.claim).Is(mark.value) {
			return policy.KindService
		}
	}
	if client == "" || id != client {
		return policy.KindUser
	}
	for _, mark := range userMarks {
		if claims.Get(mark).Exists() {
			return policy.KindUser
		}
	}
	return policy.KindService
}

func (r *reader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = invalid(format, args...)
	}
}

// identifier returns a string that can stand for somebody: see isIdentifier.
// It is empty if the claim is not there.
func (r *reader) identifier(what string, v jose.Value) string {
	if !v.Exists() {
		return ""
	}
	s, ok := v.Text()
	if !ok {
		r.fail("%s is %s, not a string", what, v.Kind())
	} else if !isIdentifier(s) {
		r.fail("%s is empty or holds characters that cannot be seen", what)
	}
	return s
}

// isIdentifier reports whether a text can name somebody without being mistaken
// for another name: not empty, nothing that cannot be seen (control and format
// characters, text direction, line ends, blank letters), spaces only inside.
// Names are compared byte by byte; nothing is folded or normalized.
func isIdentifier(s string) bool {
	if s == "" || s[0] == ' ' || s[len(s)-1] == ' ' {
		return false
	}
	for _, c := range s {
		if c < ' ' || c >= 0x7f && !isVisible(c) {
			return false
		}
	}
	return true
}

func isVisible(c rune) bool {
	return unicode.IsPrint(c) && c != unicode.ReplacementChar &&
		!unicode.In(c, unicode.Other_Default_Ignorable_Code_Point, unicode.Variation_Selector)
}

// names returns a list of names. Null, which issuers write for an empty list, is
// none; a string is a list of one.
func (r *reader) names(what string, v jose.Value) []string {
	switch v.Kind() {
	case jose.Absent, jose.Null:
		return nil
	case jose.String:
		return []string{r.identifier(what, v)}
	case jose.Array:
		all := make([]string, 0, v.Len())
		for e := range v.Elements() {
			all = append(all, r.identifier(what, e))
		}
		return all
	}
	r.fail("%s is %s, not a list of strings", what, v.Kind())
	return nil
}

// scopes returns the scopes of a string that spaces separate (RFC 8693 section
// 4.2) or of a list.
func (r *reader) scopes(v jose.Value) []string {
	var all []string
	switch v.Kind() {
	case jose.String:
		text, _ := v.Text()
		all = make([]string, 0, strings.Count(text, " ")+1)
		for scope := range strings.SplitSeq(text, " ") {
			if scope != "" {
				all = append(all, scope)
			}
		}
	default:
		all = r.names("scope", v)
	}
	for _, scope := range all {
		if !isScope(scope) {
			r.fail("scope holds what is no scope (RFC 6749 section 3.3)")
			return nil
		}
	}
	return all
}

// isScope reports whether the text is a scope-token of RFC 6749 section 3.3.
func isScope(s string) bool {
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c > '~' || c == '"' || c == '\\' {
			return false
		}
	}
	return s != ""
}

// actors returns the chain of those who act for the subject, outermost first
// (RFC 8693 section 4.1).
func (r *reader) actors(act jose.Value) []policy.Actor {
	var all []policy.Actor
	for ; act.Exists(); act = act.Get("act") {
		if act.Kind() != jose.Object {
			r.fail("act is %s, not an object", act.Kind())
			return nil
		}
		sub := r.identifier("act.sub", act.Get("sub"))
		client := r.identifier("act.client_id", act.Get("client_id"))
		a := policy.Actor{ID: cmp.Or(sub, client)}
		if a.ID == "" {
			r.fail("act does not say who acts")
			return nil
		}
		if a.ID == client {
			a.Kind = policy.KindService
		}
		all = append(all, a)
	}
	return all
}

// passed copies the claims that the configuration lets through.
func (i *issuer) passed(claims jose.Value) map[string]any {
	var all map[string]any
	for _, name := range i.pass {
		v := claims.Get(name)
		if !v.Exists() {
			continue
		}
		if all == nil {
			all = make(map[string]any, len(i.pass))
		}
		all[name] = withoutSecrets(v)
	}
	return all
}

// withoutSecrets returns the value as Value.Any does, without the members whose
// names look like those of secrets.
func withoutSecrets(v jose.Value) any {
	switch v.Kind() {
	case jose.Array:
		all := make([]any, 0, v.Len())
		for e := range v.Elements() {
			all = append(all, withoutSecrets(e))
		}
		return all
	case jose.Object:
		all := make(map[string]any, v.Len())
		for name, m := range v.Members() {
			if !looksSecret(name) {
				all[name] = withoutSecrets(m)
			}
		}
		return all
	}
	return v.Any()
}
