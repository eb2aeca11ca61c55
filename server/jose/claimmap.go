package jose

import (
	"cmp"
	"strings"

	"github.com/postern-auth/postern/policy"
)

// ClaimMap are paths to the claims that make a principal.
type ClaimMap struct {
	// ID is who it is; default sub. It must be unique within the issuer and must
	// never be given to somebody else.
	ID ClaimPath `yaml:"id"`
	// Tenant is the tenant it belongs to; default: none. A token without the claim
	// belongs to no tenant; list it in required_claims to refuse such tokens.
	Tenant ClaimPath `yaml:"tenant"`
	// Roles and Permissions are lists of strings, or one string; default roles and
	// permissions.
	Roles       ClaimPath `yaml:"roles"`
	Permissions ClaimPath `yaml:"permissions"`
	// Scopes is a list of strings, or one string that is separated by spaces;
	// default scope, or else scp.
	Scopes ClaimPath `yaml:"scopes"`
	// Client is the OAuth client; default client_id, or else azp.
	Client ClaimPath `yaml:"client"`
	// Session is the session at the issuer, for revocation; default sid.
	Session ClaimPath `yaml:"session"`
	// ACR and AMR are how the user authenticated; default acr and amr.
	ACR ClaimPath `yaml:"acr"`
	AMR ClaimPath `yaml:"amr"`
}

// The claims that are read where the configuration names no others.
var (
	pathSubject     = mustPath("sub")
	pathRoles       = mustPath("roles")
	pathPermissions = mustPath("permissions")
	pathSession     = mustPath("sid")
	pathACR         = mustPath("acr")
	pathAMR         = mustPath("amr")
)

// WithDefaults returns the map with what is not set at its default. Scopes and Client
// stay zero: their defaults are two claims each.
func (m ClaimMap) WithDefaults() ClaimMap {
	m.ID = m.ID.or(pathSubject)
	m.Roles = m.Roles.or(pathRoles)
	m.Permissions = m.Permissions.or(pathPermissions)
	m.Session = m.Session.or(pathSession)
	m.ACR = m.ACR.or(pathACR)
	m.AMR = m.AMR.or(pathAMR)
	return m
}

// Identity is what claims say of a caller.
type Identity struct {
	// Principal has what the claims alone can say: who it is, what it holds, how its
	// user logged in, who acts for it, and the token's id. Kind is a guess that the
	// configuration may overrule. The caller adds issuer, method, assurance and times.
	Principal *policy.Principal
	// Client is the OAuth client, Session the session at the issuer.
	Client, Session string
}

// Read makes an identity of claims that were proven. ID is empty if the claim is not
// there. The error is a *ClaimError.
func (m ClaimMap) Read(claims Value) (Identity, error) {
	r := &claimReader{}
	p := &policy.Principal{
		ID:           r.identifier("id", m.ID.Find(claims)),
		Tenant:       r.identifier("tenant", m.Tenant.Find(claims)),
		Roles:        r.names("roles", m.Roles.Find(claims)),
		Permissions:  r.names("permissions", m.Permissions.Find(claims)),
		Scopes:       r.scopes(either(claims, m.Scopes, "scope", "scp")),
		ACR:          r.identifier("acr", m.ACR.Find(claims)),
		AMR:          r.names("amr", m.AMR.Find(claims)),
		Actors:       r.actors(claims.Get("act")),
		CredentialID: r.identifier("jti", claims.Get("jti")),
	}
	who := Identity{
		Principal: p,
		Session:   r.identifier("session", m.Session.Find(claims)),
		Client:    r.identifier("client", either(claims, m.Client, "client_id", "azp")),
	}
	if !m.ID.isSubject() {
		r.identifier("sub", claims.Get("sub"))
	}
	p.Kind = kindOf(claims, p.ID, who.Client)
	return who, r.err
}

// either returns the claim at the configured path, or else the first of the
// names that is there.
func either(claims Value, path ClaimPath, names ...string) Value {
	if !path.IsZero() {
		return path.Find(claims)
	}
	for _, name := range names {
		if v := claims.Get(name); v.Exists() {
			return v
		}
	}
	return Value{}
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
func kindOf(claims Value, id, client string) policy.Kind {
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

// claimReader keeps the first error, so that the list of claims in Read stays a list.
type claimReader struct{ err error }

func (r *claimReader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = invalidClaim(format, args...)
	}
}

// identifier returns a string that can stand for somebody: see IsIdentifier.
// It is empty if the claim is not there.
func (r *claimReader) identifier(what string, v Value) string {
	if !v.Exists() {
		return ""
	}
	s, ok := v.Text()
	if !ok {
		r.fail("%s is %s, not a string", what, v.Kind())
	} else if !IsIdentifier(s) {
		r.fail("%s is empty or holds characters that cannot be seen", what)
	}
	return s
}

// names returns a list of names. Null, which issuers write for an empty list, is
// none; a string is a list of one.
func (r *claimReader) names(what string, v Value) []string {
	switch v.Kind() {
	case Absent, Null:
		return nil
	case String:
		return []string{r.identifier(what, v)}
	case Array:
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
func (r *claimReader) scopes(v Value) []string {
	var all []string
	switch v.Kind() {
	case String:
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
func (r *claimReader) actors(act Value) []policy.Actor {
	var all []policy.Actor
	for ; act.Exists(); act = act.Get("act") {
		if act.Kind() != Object {
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
