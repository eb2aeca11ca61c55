package main

import (
	"encoding/hex"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	adminv1 "github.com/postern-auth/postern/gen/postern/admin/v1"
)

// revokedLab is world "agenttokens" with two issuers: one that signs with two keys, whose
// administrators count in the admin API, and one whose opaque tokens it is asked about.
type revokedLab struct {
	*tokenLab
	next   issuer // the second key
	oauth  *oauthServer
	actors [2]string // tokens of researcher and coder
	users  int
}

func launchRevoked(t testing.TB) *revokedLab {
	t.Helper()
	oauth := startOAuth(t)
	w := prepare(t, "agenttokens", "@STORE@", sqliteStore, "@AGENTS@", "",
		"jwks_file: jwks.json, claims: { tenant: tenant } }", `jwks_file: jwks.json, claims: { tenant: tenant, roles: roles } }
introspection:
  - { issuer: "`+oauth.URL+`", url: "`+oauth.URL+`/introspect", client_id: postern, client_secret: "${file:oauth.secret}", audiences: [api],
      claims: { tenant: tenant }, http: { ca_file: oauth.pem, insecure_allow_private_addresses: true, timeout: 5s } }
admin_api: { issuers: ["https://issuer.test"] }`, "use: [api_key, pat, jwt, agent]", "use: [api_key, pat, jwt, oauth, agent]")
	l := &revokedLab{next: newIssuer(testIssuer.url, "next"), oauth: oauth}
	w.write(t, "jwks.json", jwks(testIssuer, l.next))
	w.write(t, "oauth.pem", oauth.ca())
	w.write(t, "oauth.secret", introspectionSecret)
	w.write(t, "one.key", hex.EncodeToString([]byte("thirty-two bytes for a signature")))
	w.bootstrap(t)
	key := strings.TrimSpace(w.read(t, "admin.key"))
	l.tokenLab = &tokenLab{replica: launch(t, w)}
	l.hide(introspectionSecret)
	l.tokens = l.calling(t, key)
	l.agents = adminv1.NewAgentServiceClient(dial(t, l.replica.admin, withToken(key)))
	for _, tenant := range []string{"acme", "other"} {
		does(t, l.tenants.CreateTenant, &adminv1.CreateTenantRequest{Tenant: &adminv1.Tenant{Id: tenant}})
	}
	l.principal(t, &adminv1.Principal{Tenant: "acme", Id: "ann", Kind: aUser, Scopes: []string{"data:read"}})
	for i, id := range []string{"researcher", "coder"} {
		l.agent(t, &adminv1.Agent{Tenant: "acme", Id: id, TokenRoles: []string{"reader"}})
		l.actors[i], _ = l.issued(t, id, "reader")
	}
	return l
}

// family is a credential with what it was exchanged for, and what that was exchanged for.
type family struct {
	what  string
	names claims
	all   [3]request
}

// familyOf exchanges a credential, which a request shows.
func (l *revokedLab) familyOf(t testing.TB, what string, names claims, shown request, subject, kind string) family {
	t.Helper()
	f := family{what, names, [3]request{shown}}
	for i, actor := range l.actors {
		eventually(t, what+" is exchanged", func() bool {
			res, err := l.tokens.ExchangeToken(t.Context(), &adminv1.ExchangeTokenRequest{SubjectToken: subject, SubjectTokenType: kind, ActorToken: actor})
			if err != nil {
				return false
			}
			subject, kind = res.GetAccessToken(), ""
			l.hide(subject)
			return true
		})
		f.all[i+1] = get("/", bearer(subject)...)
	}
	return f
}

// user is a family of a token of an issuer's user.
func (l *revokedLab) user(t testing.TB, what string, by issuer, changes claims) family {
	t.Helper()
	l.users++
	names := claims{
		"jti": fmt.Sprint("jti-", l.users), "sid": fmt.Sprint("sid-", l.users), "client_id": fmt.Sprint("client-", l.users), "sub": fmt.Sprint("user-", l.users),
		"tenant": "acme", "scope": "data:read", "iat": time.Now().Add(-10 * time.Minute).Unix(),
	}
	maps.Copy(names, changes)
	token := ""
	if by.url == l.oauth.URL {
		token = l.oauth.opaque(names)
	} else {
		token = by.token(names)
	}
	l.hide(token)
	return l.familyOf(t, what, names, get("/", bearer(token)...), token, "")
}

func (f *family) name(claim string) string { return f.names[claim].(string) }

// are waits until all of a family are allowed, or none is.
func (l *revokedLab) are(t testing.TB, f *family, status int, reason string) {
	t.Helper()
	for i, q := range f.all {
		if t.Failed() {
			return
		}
		t.Logf("%s, exchanged %d times: %s", f.what, i, reason)
		l.becomes(t, q, status, reason)
	}
}

func (l *revokedLab) deny(t testing.TB, d *adminv1.Denial) string {
	t.Helper()
	return does(t, l.denylist.AddDenial, &adminv1.AddDenialRequest{Denial: d}).GetDenial().GetId()
}

// P-13, J-09: whatever the denylist names of a credential, it names what that was exchanged
// for, however often, and nothing else.
func TestRevokedCredentialsTakeTheirExchangesWithThem(t *testing.T) {
	t.Parallel()
	l := launchRevoked(t)
	url, asked := testIssuer.url, l.oauth.URL
	witness := l.user(t, "another user's", testIssuer, nil)
	alike := l.user(t, "an opaque one with the same names", l.oauth.issuer, witness.names)
	for _, c := range []struct {
		what   string
		by     issuer
		denial func(f *family) *adminv1.Denial
	}{
		{"a jti of an issuer", testIssuer, func(f *family) *adminv1.Denial {
			return &adminv1.Denial{What: &adminv1.Denial_Jti{Jti: f.name("jti")}, Issuer: url}
		}},
		{"a jti of any issuer", testIssuer, func(f *family) *adminv1.Denial {
			return &adminv1.Denial{What: &adminv1.Denial_Jti{Jti: f.name("jti")}}
		}},
		{"a jti in the tenant", testIssuer, func(f *family) *adminv1.Denial {
			return &adminv1.Denial{What: &adminv1.Denial_Jti{Jti: f.name("jti")}, Tenant: "acme"}
		}},
		{"a session", testIssuer, func(f *family) *adminv1.Denial {
			return &adminv1.Denial{What: &adminv1.Denial_Sid{Sid: f.name("sid")}, Issuer: url}
		}},
		{"a client", testIssuer, func(f *family) *adminv1.Denial {
			return &adminv1.Denial{What: &adminv1.Denial_Client{Client: f.name("client_id")}, Issuer: url}
		}},
		{"a subject", testIssuer, func(f *family) *adminv1.Denial {
			return &adminv1.Denial{What: &adminv1.Denial_Subject{Subject: f.name("sub")}, Issuer: url}
		}},
		// What is exchanged was issued after that, and what it was exchanged for before.
		{"a subject's old ones", testIssuer, func(f *family) *adminv1.Denial {
			return &adminv1.Denial{What: &adminv1.Denial_Subject{Subject: f.name("sub")}, Issuer: url, IssuedBefore: timestamppb.New(time.Now().Add(-time.Minute))}
		}},
		{"a client's old ones", testIssuer, func(f *family) *adminv1.Denial {
			return &adminv1.Denial{What: &adminv1.Denial_Client{Client: f.name("client_id")}, Issuer: url, IssuedBefore: timestamppb.New(time.Now().Add(-time.Minute))}
		}},
		{"a key", l.next, func(*family) *adminv1.Denial {
			return &adminv1.Denial{What: &adminv1.Denial_Kid{Kid: "next"}, Issuer: url}
		}},
		{"an opaque token's jti", l.oauth.issuer, func(f *family) *adminv1.Denial {
			return &adminv1.Denial{What: &adminv1.Denial_Jti{Jti: f.name("jti")}, Issuer: asked}
		}},
		{"an opaque token's session", l.oauth.issuer, func(f *family) *adminv1.Denial {
			return &adminv1.Denial{What: &adminv1.Denial_Sid{Sid: f.name("sid")}}
		}},
		{"an opaque token's client", l.oauth.issuer, func(f *family) *adminv1.Denial {
			return &adminv1.Denial{What: &adminv1.Denial_Client{Client: f.name("client_id")}, Issuer: asked}
		}},
	} {
		f := l.user(t, c.what, c.by, nil)
		l.are(t, &f, 200, "allowed")
		line := l.deny(t, c.denial(&f))
		l.are(t, &f, 401, "revoked")
		if c.what == "a session" { // the line is taken off again
			does(t, l.denylist.RemoveDenial, &adminv1.RemoveDenialRequest{Id: line})
			l.are(t, &f, 200, "allowed")
		}
	}

	// Lines that name something else: another issuer's, another tenant's, older ones, and an
	// agent of an issuer's by the name of one that acts.
	for _, d := range []*adminv1.Denial{
		{What: &adminv1.Denial_Jti{Jti: witness.name("jti")}, Issuer: "https://else.test"},
		{What: &adminv1.Denial_Jti{Jti: witness.name("jti")}, Issuer: "postern"},
		{What: &adminv1.Denial_Jti{Jti: witness.name("jti")}, Tenant: "other"},
		{What: &adminv1.Denial_Sid{Sid: witness.name("sid")}, Tenant: "other"},
		{What: &adminv1.Denial_Subject{Subject: witness.name("sub")}, Issuer: "postern"},
		{What: &adminv1.Denial_Subject{Subject: witness.name("sub")}, Issuer: url, IssuedBefore: timestamppb.New(time.Now().Add(-time.Hour))},
		{What: &adminv1.Denial_Subject{Subject: "coder"}, Issuer: url},
		{What: &adminv1.Denial_Kid{Kid: "one"}, Issuer: url},
	} {
		l.deny(t, d)
	}
	end := l.user(t, "the last of those lines", testIssuer, nil) // lines come in order: when this one is seen, so are the others
	l.deny(t, &adminv1.Denial{What: &adminv1.Denial_Jti{Jti: end.name("jti")}})
	l.are(t, &end, 401, "revoked")
	l.are(t, &witness, 200, "allowed")
	l.are(t, &alike, 200, "allowed")

	// All that an issuer gave out in a tenant; what the other one did, with the same names, stays.
	l.deny(t, &adminv1.Denial{What: &adminv1.Denial_OfTenant{OfTenant: "acme"}, Issuer: url})
	l.are(t, &witness, 401, "revoked")
	l.are(t, &alike, 200, "allowed")
	for _, actor := range l.actors {
		l.becomes(t, get("/", bearer(actor)...), 200, "allowed")
	}
	// An agent of Postern's that acts for somebody of another issuer.
	l.deny(t, &adminv1.Denial{What: &adminv1.Denial_Agent{Agent: "coder"}, Issuer: "postern"})
	l.becomes(t, alike.all[2], 401, "revoked")
	l.becomes(t, alike.all[1], 200, "allowed")
}

// P-13: so it is with Postern's own: a session that is on the denylist, a token by its jti,
// and whoever asked for a token, by a key here or an issuer's.
func TestRevokedOwnCredentialsTakeTheirExchangesWithThem(t *testing.T) {
	t.Parallel()
	l := launchRevoked(t)
	session := does(t, l.sessions.CreateSession, &adminv1.CreateSessionRequest{Session: &adminv1.Session{Tenant: "acme", PrincipalId: "ann"}}).GetCreated()
	l.hide(session.GetSecret())
	cookie := withCookie("/", session.GetSecret())
	f := l.familyOf(t, "a session", nil, cookie, session.GetSecret(), "urn:postern:params:oauth:token-type:session")
	l.are(t, &f, 200, "allowed")
	l.deny(t, &adminv1.Denial{What: &adminv1.Denial_Sid{Sid: session.GetSession().GetId()}, Issuer: "postern"})
	l.are(t, &f, 401, "revoked")

	// In the middle of a chain: what came before stays.
	f = l.user(t, "a user's", testIssuer, nil)
	l.are(t, &f, 200, "allowed")
	jti, _ := newVerifier(t, l.replica).read(t, strings.TrimPrefix(f.all[1].headers[0].Value, "Bearer "))["jti"].(string)
	l.deny(t, &adminv1.Denial{What: &adminv1.Denial_Jti{Jti: jti}, Issuer: "postern"})
	l.becomes(t, f.all[1], 401, "revoked")
	l.becomes(t, f.all[2], 401, "revoked")
	l.becomes(t, f.all[0], 200, "allowed")

	// Whoever asks for a token by an issuer's: it ends with that.
	for what, denial := range map[string]*adminv1.Denial{
		"jti":     {What: &adminv1.Denial_Jti{Jti: "boss-jti"}, Issuer: testIssuer.url},
		"client":  {What: &adminv1.Denial_Client{Client: "boss-client"}, Issuer: testIssuer.url},
		"subject": {What: &adminv1.Denial_Subject{Subject: "boss-subject"}, Issuer: testIssuer.url},
	} {
		boss := testIssuer.token(claims{
			"jti": "boss-" + what, "client_id": "boss-" + what, "sub": "boss-" + what,
			"tenant": "acme", "roles": []string{"tenant-admin", "reader"}, "scope": "data:read",
		})
		l.hide(boss)
		token := ""
		eventually(t, "a token is issued", func() bool {
			res, err := l.calling(t, boss).IssueAgentToken(t.Context(), &adminv1.IssueAgentTokenRequest{AgentId: "researcher", Role: "reader", TenantId: "acme"})
			token = res.GetSecret()
			return err == nil
		})
		l.hide(token)
		l.becomes(t, get("/", bearer(token)...), 200, "allowed")
		l.deny(t, denial)
		l.becomes(t, get("/", bearer(token)...), 401, "revoked")
	}
	for _, actor := range l.actors {
		l.becomes(t, get("/", bearer(actor)...), 200, "allowed")
	}
}
