package main

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/fieldmaskpb"

	adminv1 "github.com/postern-auth/postern/gen/postern/admin/v1"
	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/seal"
	"github.com/postern-auth/postern/server/store"
	"github.com/postern-auth/postern/server/store/sqlite"
)

// G-11, K-04 and S-10: no part of a secret, of whatever kind, stands in anything
// that the server writes, keeps or says, also where somebody puts one into a field
// that is for something else, and when the server dies of it.
func TestNoSecretAnywhere(t *testing.T) {
	t.Parallel()
	w := preparePlane(t, "{ driver: sqlite, mode: available, snapshot: mirror.snapshot }")
	w.bootstrap(t)
	p := launch(t, w)
	p.ann(t)
	p.service(t, "app")

	// One of each kind, and everything that may be done with it.
	_, key := p.key(t, "app")
	_, token := p.issue(t, &adminv1.Credential{Type: pat, PrincipalId: "ann", DisplayName: "laptop"})
	other := foreign()
	does(t, p.credentials.ImportCredentials, &adminv1.ImportCredentialsRequest{Credentials: []*adminv1.ImportedCredential{
		{Credential: &adminv1.Credential{Type: opaque, PrincipalId: "app"}, Known: &adminv1.ImportedCredential_Secret{Secret: other}},
	}})
	rotated := does(t, p.credentials.RotateCredential, &adminv1.RotateCredentialRequest{Id: strings.Split(key, "_")[2]}).GetSecret()
	visit := p.logIn(t, "ann", annsPassword)
	jwt := testIssuer.token(claims{"sub": "ann", "jti": "1", "password": "a-claim-that-says-what-it-is"})
	p.hide(jwt, "a-claim-that-says-what-it-is")
	p.becomes(t, withCookie("/", visit.cookie), 200, "allowed")
	secrets := []string{key, token, other, rotated, visit.cookie, visit.csrf, jwt, annsPassword}
	for _, secret := range secrets {
		p.mislaid(t, secret)
	}
	for _, secret := range []string{key, token, rotated, visit.cookie} {
		p.misfiled(t, secret)
		p.askEnvoy(t, get("/items/"+secret)) // our own form is known anywhere
		p.askPostern(t, get("/items/"+secret+"/x", "x-request-id", secret))
	}
	p.revoke(t, token)
	p.becomes(t, withKey("/", token), 401, "revoked")

	_, ready := p.fetch(t, "/readyz")
	trail := does(t, p.trail.ListAuditEntries, &adminv1.ListAuditEntriesRequest{PageSize: 1000}).GetEntries()
	for _, e := range trail { // what was done stands beside the change that did it
		if (e.GetChangeNumber() == 0) != e.GetDenied() {
			t.Errorf("an entry without its change: %v", e)
		}
	}
	if len(trail) < 10 {
		t.Errorf("there are only %d entries", len(trail))
	}
	does(t, p.decisions.ListDecisions, &adminv1.ListDecisionsRequest{PageSize: 1000})
	p.leaks(t, "/readyz", ready)
	p.leaksFiles(t)
	p.stop(t, syscall.SIGTERM)
	if p.err != nil {
		t.Error("the server ended: ", p.err)
	}
	p.leaksFiles(t)

	// The goroutines of a server that is busy with them.
	busy := launch(t, w)
	busy.hide(secrets...)
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	for _, secret := range secrets {
		all.Go(func() {
			for ctx.Err() == nil {
				_, _ = busy.envoy.Check(ctx, withKey("/", secret).forEnvoy())
				_, _ = http.PostForm("http://"+busy.login+"/login", url.Values{"username": {"ann"}, "password": {secret}})
			}
		})
	}
	eventually(t, "the server is busy", func() bool { return len(busy.log.entries(t, "decision")) > 2*len(secrets) })
	busy.stop(t, syscall.SIGQUIT)
	cancel()
	all.Wait()
	if dump := busy.log.String(); strings.Count(dump, "\ngoroutine ") < 10 {
		t.Error("there is no dump of goroutines")
	}
	busy.leaksFiles(t)
}

// misfiled puts a secret into fields of the admin API that are for something else.
// Whether that is refused or not, nothing may show it: its form tells what it is.
// (Of a password or a token of others nobody could tell for sure.)
func (p *replica) misfiled(t testing.TB, secret string) {
	t.Helper()
	ctx := context.Background()
	_, _ = p.credentials.IssueCredential(ctx, &adminv1.IssueCredentialRequest{RequestId: secret, Credential: &adminv1.Credential{
		Type: apiKey, PrincipalId: "app", DisplayName: "named", Tenant: secret, Roles: []string{secret}, Environment: secret,
	}})
	for _, c := range []*adminv1.Credential{
		{Type: apiKey, PrincipalId: "app", DisplayName: secret},
		{Type: apiKey, PrincipalId: "app", Metadata: object(t, map[string]any{"note": secret})},
		{Type: apiKey, PrincipalId: "app", Scopes: []string{secret}},
		{Type: apiKey, PrincipalId: "app", Constraints: &adminv1.Constraints{Paths: []string{"/" + secret}, Hosts: []string{secret}, Networks: []string{secret}}},
		{Type: apiKey, PrincipalId: secret},
	} {
		_, _ = p.credentials.IssueCredential(ctx, &adminv1.IssueCredentialRequest{Credential: c})
	}
	_, _ = p.credentials.GetCredential(ctx, &adminv1.GetCredentialRequest{Id: secret})
	_, _ = p.credentials.RevokeCredential(ctx, &adminv1.RevokeCredentialRequest{Id: secret, Reason: secret})
	_, _ = p.credentials.ListCredentials(ctx, &adminv1.ListCredentialsRequest{PageToken: secret})
	_, _ = p.credentials.ListCredentials(ctx, &adminv1.ListCredentialsRequest{Tenant: secret})
	id, _ := p.key(t, "app")
	_, _ = p.credentials.RevokeCredential(ctx, &adminv1.RevokeCredentialRequest{Id: id, Reason: "somebody sent " + secret})
	_, _ = p.principals.UpdatePrincipal(ctx, &adminv1.UpdatePrincipalRequest{
		Principal:  &adminv1.Principal{Id: "app", DisplayName: secret},
		UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"display_name"}},
	})
	_, _ = p.principals.UpdatePrincipal(ctx, &adminv1.UpdatePrincipalRequest{
		Principal: &adminv1.Principal{Id: "app"}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{secret}},
	})
	_, _ = p.tenants.CreateTenant(ctx, &adminv1.CreateTenantRequest{Tenant: &adminv1.Tenant{Id: secret, DisplayName: secret}})
	_, _ = p.denylist.AddDenial(ctx, &adminv1.AddDenialRequest{Denial: &adminv1.Denial{What: &adminv1.Denial_Jti{Jti: secret}, Note: secret}})
	_, _ = p.sessions.GetSession(ctx, &adminv1.GetSessionRequest{Id: secret})
	_, _ = p.trail.ListAuditEntries(ctx, &adminv1.ListAuditEntriesRequest{Actor: secret, Target: secret})
	_, _ = p.as(t, secret).credentials.ListCredentials(ctx, &adminv1.ListCredentialsRequest{})
}

// mislaid sends a secret to the doors, where it belongs and where it does not.
func (p *replica) mislaid(t testing.TB, secret string) {
	t.Helper()
	for _, q := range []request{
		withKey("/", secret), get("/", bearer(secret)...), withCookie("/", secret), withKey("/x", secret[:len(secret)-1]),
		get("/?api_key=" + url.QueryEscape(secret)), get("/", "authorization", "Basic "+secret), get("/", "authorization", secret),
		get("/", "cookie", secret), get("/", "x-other", secret), get("/", "x-csrf-token", secret).with("POST"),
	} {
		p.askEnvoy(t, q)
		p.askPostern(t, q)
	}
	p.post(t, "/login", url.Values{"username": {secret}, "password": {secret}}, "Cookie", "__Host-session="+secret)
	p.post(t, "/login?password="+url.QueryEscape(secret), url.Values{"username": {"ann"}, secret: {"x"}})
	p.post(t, "/logout", nil, "Cookie", "__Host-session="+secret)
}

// leaksFiles searches all that is beside the configuration, but for the key file
// that the test itself keeps there.
func (p *replica) leaksFiles(t testing.TB) {
	t.Helper()
	seen := 0
	for _, name := range []string{"postern.db", "postern.db-wal", "postern.db-shm", "mirror.snapshot"} {
		if text, err := os.ReadFile(p.path(name)); err == nil {
			seen++
			p.leaks(t, name, string(text))
		}
	}
	files, _ := filepath.Glob(p.path("*"))
	if seen < 2 {
		t.Errorf("of what the server writes there is only %d: %s", seen, files)
	}
}

// K-04: who can write into the store, but does not know the pepper, cannot make a
// key of Postern's own form.
func TestForgedRowIsNoKey(t *testing.T) {
	t.Parallel()
	w := preparePlane(t, sqliteStore)
	w.bootstrap(t)
	p := launch(t, w)
	p.service(t, "app")
	_, good := p.key(t, "app")
	wrong, err := seal.NewPeppers([]seal.Pepper{{Version: 1, Secret: policy.NewSecret("a pepper that somebody made up for this")}})
	if err != nil {
		t.Fatal(err)
	}
	st, err := sqlite.Open(t.Context(), w.path("postern.db"), sqlite.Options{MustExist: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = st.Close() })
	forge := func(digest func(seal.Minted) seal.Digest) string {
		m, err := seal.Mint(rand.Reader, seal.Spec{Kind: seal.KindKey}, wrong)
		if err != nil {
			t.Fatal(err)
		}
		_, err = st.Update(t.Context(), func(tx store.Tx) error {
			now := time.Now()
			return store.Put(tx, &store.Credential{
				ID: m.ID, Type: store.APIKey, Principal: "app", Digest: digest(m).String(), CreatedAt: now, UpdatedAt: now, ExpiresAt: now.Add(time.Hour),
			})
		})
		if err != nil {
			t.Fatal(err)
		}
		return m.Secret.Reveal()
	}
	peppered := forge(func(m seal.Minted) seal.Digest { return m.Digest })
	plain := forge(func(m seal.Minted) seal.Digest { return seal.ImportedDigest(m.Secret) })
	_, later := p.key(t, "app") // when the replica knows it, it knows those before
	p.becomes(t, withKey("/", later), 200, "allowed")
	for _, key := range []string{peppered, plain} {
		p.expect(t, withKey("/", key), 401, "credential_unknown")
	}
	p.expect(t, withKey("/", good), 200, "allowed")
}

// A store that is not one, or not for this program, is no reason to begin another:
// the server says what is wrong and does not start.
func TestStoreIsRefused(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		spoil func(t *testing.T, w world)
		says  string
	}{
		"a newer one": {func(t *testing.T, w world) {
			db, err := sql.Open("sqlite", w.path("postern.db"))
			if err != nil {
				t.Fatal(err)
			}
			defer db.Close()
			if _, err := db.Exec("INSERT INTO schema_migrations VALUES (999, 'of the future', 'x', 0)"); err != nil {
				t.Fatal(err)
			}
		}, "newer version of Postern"},
		"no database": {func(t *testing.T, w world) { w.write(t, "postern.db", strings.Repeat("not a database ", 500)) }, "is no SQLite database"},
		"cut off":     {func(t *testing.T, w world) { w.write(t, "postern.db", w.read(t, "postern.db")[:50]) }, "damaged"},
		"empty":       {func(t *testing.T, w world) { w.write(t, "postern.db", "") }, "damaged"},
		"overwritten": {func(t *testing.T, w world) {
			text := w.read(t, "postern.db")
			w.write(t, "postern.db", text[:4096]+strings.Repeat("\xff", len(text)-4096))
		}, "damaged"},
		"a directory": {func(t *testing.T, w world) {
			if err := errors.Join(os.Remove(w.path("postern.db")), os.Mkdir(w.path("postern.db"), 0o700)); err != nil {
				t.Fatal(err)
			}
		}, "is no file"},
		"where nobody may write": {func(t *testing.T, w world) {
			w.write(t, "postern.yaml", strings.Replace(w.read(t, "postern.yaml"), sqliteStore, "{ driver: sqlite, path: /sys/postern.db }", 1))
		}, "the store cannot be written: open /sys/"},
		"not writable": {func(t *testing.T, w world) {
			if os.Getuid() == 0 {
				t.Skip("root may write to every file")
			}
			if err := os.Chmod(w.path("postern.db"), 0o400); err != nil {
				t.Fatal(err)
			}
		}, "cannot be written"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := preparePlane(t, sqliteStore)
			w.bootstrap(t)
			c.spoil(t, w)
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			cmd := exec.CommandContext(ctx, "postern", "serve", "-c", w.path("postern.yaml"))
			said, err := cmd.CombinedOutput()
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.ExitCode() != exitFault || !strings.Contains(string(said), c.says) || strings.Contains(string(said), `"ready"`) {
				t.Errorf("%v, %s; want %q", err, said, c.says)
			}
		})
	}
}
