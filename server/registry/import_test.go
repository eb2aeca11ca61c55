package registry_test

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/registry"
	"github.com/postern-auth/postern/server/seal"
	"github.com/postern-auth/postern/server/store"
)

func row(principal, secret string) registry.ImportRow {
	return registry.ImportRow{
		CredentialSpec: spec{Type: store.Token, Tenant: "acme", Principal: principal}, Secret: policy.NewSecret(secret),
	}
}

// T-05: exactly these two rows, as they are. The users hold the roles, so Bob becomes
// admin without a new token; both secrets are weak, and that is said.
func TestImportTokenTable(t *testing.T) {
	w := newWorld(t)
	users, _, err := w.ImportUsers(ctx, root(), registry.ImportUsersRequest{Rows: []registry.UserRow{
		{PrincipalSpec: registry.PrincipalSpec{Tenant: "acme", ID: "Alice", Rights: rights("r:admin")}},
		{PrincipalSpec: registry.PrincipalSpec{Tenant: "acme", ID: "Bob", Rights: rights("r:user")}},
	}})
	w.ok(err)
	done, change, err := w.ImportCredentials(ctx, root(), registry.ImportRequest{Rows: []registry.ImportRow{row("Alice", "abc1234"), row("Bob", "xyz7890")}})
	w.ok(err)
	if users.Taken != 2 || done.Taken != 2 || change.Number == 0 || !done.Results[0].Low || !done.Results[1].Low {
		t.Errorf("%+v", done)
	}
	bob := w.get(done.Results[1].ID)
	sum := sha256.Sum256([]byte("xyz7890"))
	if bob.Digest != "sha256:"+hex.EncodeToString(sum[:]) || !bob.Low || bob.Principal != "Bob" || bob.State != registry.Active {
		t.Errorf("%+v", bob.Credential)
	}
	if strings.Contains(w.dump(), "abc1234") || strings.Contains(w.dump(), "xyz7890") {
		t.Error("a secret is in the store")
	}
	_, _, err = w.UpdatePrincipal(ctx, root(), registry.UpdatePrincipalRequest{
		Fields: []string{"roles"}, Spec: registry.PrincipalSpec{Tenant: "acme", ID: "Bob", Rights: rights("r:admin")},
	})
	w.ok(err)
}

// An import reports each bad row with its field, and takes the good ones only if
// asked to.
func TestImportReportsEachRow(t *testing.T) {
	w := newWorld(t)
	known := "a-secret-that-is-known-already-1234567890"
	_, _, err := w.ImportCredentials(ctx, root(), registry.ImportRequest{Rows: []registry.ImportRow{row("shop", known)}})
	w.ok(err)
	own := w.key().Secret
	good := func() registry.ImportRow { return row("shop", "kY2mv8Qe41nXzP0rTbW7sLdHc5uJgA9f") }
	bad := []struct {
		row    registry.ImportRow
		reason registry.Reason
		field  string
	}{
		{row("shop", ""), registry.InvalidField, "secret"},
		{row("shop", known), registry.AlreadyExists, "secret"},
		{row("shop", "kY2mv8Qe41nXzP0rTbW7sLdHc5uJgA9f"), registry.AlreadyExists, "secret"}, // as the first row
		{row("shop", "with space"), registry.InvalidField, "secret"},
		{row("shop", "caf\u00e9"), registry.InvalidField, "secret"},
		{row("shop", strings.Repeat("x", seal.MaxForeignLen+1)), registry.InvalidField, "secret"},
		{row("shop", own.Reveal()), registry.InvalidField, "secret"},
		{row("nobody", "secret-of-nobody"), registry.NotFound, "principal_id"},
		{registry.ImportRow{CredentialSpec: good().CredentialSpec, SHA256: "abc"}, registry.InvalidField, "sha256"},
		{registry.ImportRow{CredentialSpec: good().CredentialSpec, SHA256: strings.Repeat("0", 64), Secret: policy.NewSecret("x")}, registry.InvalidField, "secret"},
		{func() registry.ImportRow { r := row("shop", "s1"); r.Rights = rights("s:a"); return r }(), registry.InvalidField, "roles"},
		{func() registry.ImportRow { r := row("shop", "s2"); r.Type, r.Name = store.PAT, "x"; return r }(), registry.InvalidField, "principal_id"},
		{func() registry.ImportRow { r := row("shop", "s3"); r.TTL = 91 * day; return r }(), registry.TTLTooLong, "ttl"},
	}
	rows := []registry.ImportRow{good()}
	for _, b := range bad {
		rows = append(rows, b.row)
	}
	before := w.dump()
	done, change, err := w.ImportCredentials(ctx, root(), registry.ImportRequest{Rows: rows})
	w.refused(err, registry.InvalidField, "credentials[1].secret")
	if done.Taken != 0 || done.Results[0].ID != "" || change.Number != 0 || w.dump() != before {
		t.Errorf("taken %d, %+v", done.Taken, change)
	}
	done, _, err = w.ImportCredentials(ctx, root(), registry.ImportRequest{Rows: rows, SkipBad: true})
	w.ok(err)
	if done.Taken != 1 || done.Results[0].ID == "" || done.Results[0].Low {
		t.Errorf("%+v", done.Results[0])
	}
	for i, b := range bad {
		r := done.Results[i+1]
		if r.ID != "" || len(r.Faults) == 0 || r.Faults[0].Reason != b.reason || r.Faults[0].Field != b.field {
			t.Errorf("row %d: %+v, want %s at %s", i+1, r, b.reason, b.field)
		}
	}
	text := fmt.Sprintf("%+v", done) + w.dump()
	for _, r := range rows {
		if s := r.Secret.Reveal(); len(s) > 8 && strings.Contains(text, s) {
			t.Errorf("%q shows", s)
		}
	}
	// One entry for each credential, and one for the import.
	if e := w.audit(registry.AuditQuery{Action: "credential.import"}); len(e) != 4 || e[0].Detail["taken"] != "1" || e[0].Detail["refused"] != "13" {
		t.Errorf("%+v", e)
	}
	for _, n := range []int{0, 1001} {
		_, _, err := w.ImportCredentials(ctx, root(), registry.ImportRequest{Rows: make([]registry.ImportRow, n)})
		w.refused(err, registry.InvalidField, "credentials")
	}
}

func TestImportByDigest(t *testing.T) {
	w := newWorld(t)
	sum := sha256.Sum256([]byte("something of another system"))
	r := registry.ImportRow{CredentialSpec: keyOf().CredentialSpec, SHA256: strings.ToUpper(hex.EncodeToString(sum[:])), Low: true}
	done, _, err := w.ImportCredentials(ctx, root(), registry.ImportRequest{Rows: []registry.ImportRow{r}})
	w.ok(err)
	c := w.get(done.Results[0].ID)
	if c.Digest != "sha256:"+hex.EncodeToString(sum[:]) || !c.Low || !c.Imported() {
		t.Errorf("%+v", c.Credential)
	}
	call := root()
	call.ValidateOnly = true
	r.SHA256 = strings.Repeat("ab", 32)
	done, change, err := w.ImportCredentials(ctx, call, registry.ImportRequest{Rows: []registry.ImportRow{r}})
	w.ok(err)
	if done.Taken != 1 || done.Results[0].ID != "" || change.Number != 0 {
		t.Errorf("%+v %+v", done, change)
	}
}

// P-08: an import counts its own rows.
func TestImportKeepsTheQuota(t *testing.T) {
	w := newWorld(t, func(c *registry.Config) { c.MaxPATs = 2 })
	var rows []registry.ImportRow
	for i := range 3 {
		r := row("alice", fmt.Sprintf("secret-number-%d", i))
		r.Type, r.Name = store.PAT, "x"
		rows = append(rows, r)
	}
	done, _, err := w.ImportCredentials(ctx, root(), registry.ImportRequest{Rows: rows, SkipBad: true})
	w.ok(err)
	if done.Taken != 2 || done.Results[2].Faults[0].Reason != registry.QuotaExceeded {
		t.Errorf("%+v", done)
	}
}
