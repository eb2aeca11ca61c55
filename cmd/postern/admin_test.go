package main

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/admin"
	"github.com/postern-auth/postern/server/audit"
	"github.com/postern-auth/postern/server/check"
	"github.com/postern-auth/postern/server/password"
	"github.com/postern-auth/postern/server/registry"
	"github.com/postern-auth/postern/server/seal"
	"github.com/postern-auth/postern/server/signer"
	"github.com/postern-auth/postern/server/store"
	"github.com/postern-auth/postern/server/store/memory"
)

// TestAdminScripts runs the commands of the credential plane against a real admin
// listener over a store in memory. $ADMIN is its address; a caller is who its token
// names: "root" a platform-admin, "acme-admin" a tenant-admin of acme, and
// "acme-issuer" a service there that may issue and has the scope orders:read, "acme-hana"
// a user there who may approve, "acme-bot" an agent.
//
// It runs before the parallel tests: its scripts start many processes, and those of
// TestScripts have a deadline.
func TestAdminScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/admin",
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			at, stop := adminListener(t)
			env.Defer(stop)
			env.Vars = append(env.Vars, hurry, "ADMIN="+at, "POSTERN_TOKEN=root")
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"status": scriptStatus, "capture": scriptCapture},
	})
}

// callersByToken are who a token stands for. How tokens are verified is not what is
// tested here.
var callersByToken = map[string]*policy.Principal{
	"root":        {ID: "root", Kind: policy.KindService, Roles: []string{"platform-admin"}},
	"acme-admin":  {ID: "boss", Kind: policy.KindService, Tenant: "acme", Roles: []string{"tenant-admin"}},
	"acme-hana":   {ID: "hana", Kind: policy.KindUser, Tenant: "acme", Roles: []string{"approver"}, Permissions: []string{"postern.consents.grant"}},
	"acme-bot":    {ID: "bot", Kind: policy.KindAgent, Tenant: "acme"},
	"acme-issuer": {ID: "ci", Kind: policy.KindService, Tenant: "acme", Roles: []string{"issuer"}, Scopes: []string{"orders:read"}},
}

func adminListener(t *testing.T) (address string, stop func()) {
	t.Helper()
	peppers, err := seal.NewPeppers([]seal.Pepper{{Version: 1, Secret: policy.NewSecret("of course this is not a secret, as it stands in a test")}})
	if err != nil {
		t.Fatal(err)
	}
	passwords, err := password.New(password.Config{}, password.Deps{})
	if err != nil {
		t.Fatal(err)
	}
	snapshot, err := admin.LoadPolicy(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := signer.New(signer.Config{
		Issuer: "https://auth.example.com", Keys: []signer.KeyConfig{{ID: "k1", Key: policy.NewSecret(strings.Repeat("ab", 21) + "A")}},
	}, signer.Deps{})
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(admin.Handler(admin.Config{
		Conditions: func() []admin.Condition { return nil },
		Metrics:    http.NotFoundHandler(),
		Decisions:  &admin.Decisions{Ring: audit.NewRing(1)},
		Registry: registry.New(registry.Config{}, memory.New(time.Now), registry.Deps{
			Peppers: peppers, Passwords: passwords, Signer: func() *signer.Signer { return keys },
		}),
		Authorizer: admin.NewAuthorizer(snapshot),
		Browser: func(_ *store.Session, secret policy.Secret) (string, string) {
			return "__Host-session=" + secret.Reveal() + "; Path=/; Secure; HttpOnly", "a-csrf-token"
		},
		Authenticate: func(_ context.Context, a *policy.Attributes) (policy.Decision, check.Identity) {
			for _, h := range a.Headers {
				if token, ok := strings.CutPrefix(h.Value, "Bearer "); ok && h.Name == "authorization" && callersByToken[token] != nil {
					p := *callersByToken[token]
					p.Issuer, p.Method, p.CredentialID = "postern", policy.MethodAPIKey, "test"
					return policy.Decision{Allowed: true, Reason: policy.ReasonAllowed, Principal: &p}, check.Identity{}
				}
			}
			return policy.Decision{Reason: policy.ReasonUnspecified}, check.Identity{}
		},
	}))
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetHTTP1(true)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Start()
	return strings.TrimPrefix(s.URL, "http://"), s.Close
}
