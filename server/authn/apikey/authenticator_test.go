package apikey_test

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn"
	"github.com/postern-auth/postern/server/authn/apikey"
	"github.com/postern-auth/postern/server/seal"
	"github.com/postern-auth/postern/server/strictyaml"
	"github.com/postern-auth/postern/server/vectortest"
)

const (
	pepperText = "a pepper for tests, at least 32 bytes long"
	foreignKey = "sk_live_abc123def456ghi789"
)

// fixture is an authenticator over a keys file in memory, with a clock that
// stands still.
type fixture struct {
	*apikey.Authenticator
	t    testing.TB
	now  time.Time
	file string
	err  error
}

func newFixture(t testing.TB, file string, change ...func(*apikey.Config)) *fixture {
	t.Helper()
	f := &fixture{t: t, now: noon, file: file}
	cfg := apikey.Config{Pepper: policy.NewSecret(pepperText), File: "keys.yaml"}
	for _, c := range change {
		c(&cfg)
	}
	a, err := apikey.New(cfg, apikey.Deps{
		Now:      func() time.Time { return f.now },
		ReadFile: func(string) ([]byte, error) { return []byte(f.file), f.err },
	})
	if err != nil {
		t.Fatal(err)
	}
	f.Authenticator = a
	return f
}

// keysFile writes a keys file with the entries.
func keysFile(keys ...apikey.Key) string {
	var b strings.Builder
	b.WriteString("version: 1\nkeys:\n")
	for i := range keys {
		b.WriteString(keys[i].Entry())
	}
	return b.String()
}

// entry is a minted key's entry in the keys file.
func entry(t testing.TB, m seal.Minted, change ...func(*apikey.Key)) apikey.Key {
	t.Helper()
	t.Helper()
	k := keyOf(m)
	k.Principal.ID = "svc-" + k.ID
	for _, c := range change {
		c(&k)
	}
	return k
}

func importedEntry(id, key string) apikey.Key {
	return apikey.Key{
		ID: id, Digest: seal.ImportedDigest(policy.NewSecret(key)),
		Principal: apikey.Principal{ID: "legacy-client"},
	}
}

// The rules through which credentials come: a header for keys only, and the
// bearer scheme, where tokens come too.
var (
	keyHeader = []policy.Method{policy.MethodAPIKey}
	bearer    = []policy.Method{policy.MethodAPIKey, policy.MethodJWT}
)

func (f *fixture) ask(uses []policy.Method, secret string) (*authn.Proof, error) {
	return f.Authenticate(context.Background(), &authn.Credential{Uses: uses, Secret: policy.NewSecret(secret)})
}

// prove fails the test unless the secret is good.
func (f *fixture) prove(uses []policy.Method, secret string) *authn.Proof {
	f.t.Helper()
	p, err := f.ask(uses, secret)
	if err != nil {
		f.t.Fatalf("refused: %v", err)
	}
	return p
}

// refused fails the test unless the secret is refused for the reason.
func (f *fixture) refused(uses []policy.Method, secret string, want policy.Reason) {
	f.t.Helper()
	p, err := f.ask(uses, secret)
	var refusal *authn.Refusal
	switch {
	case p != nil || !errors.As(err, &refusal):
		f.t.Errorf("got %v, %v; want a refusal as %v", p, err, want)
	case refusal.Reason != want:
		f.t.Errorf("refused as %v (%v); want %v", refusal.Reason, err, want)
	case want.Status() != 401:
		f.t.Errorf("%v has status %d", want, want.Status())
	case len(secret) > 20 && strings.Contains(err.Error(), secret[len(secret)-16:]):
		f.t.Errorf("the refusal shows the secret: %v", err)
	}
}

func (f *fixture) notMine(uses []policy.Method, secret string) {
	f.t.Helper()
	if p, err := f.ask(uses, secret); p != nil || !errors.Is(err, authn.ErrNotMine) {
		f.t.Errorf("%.40q: got %v, %v; want not mine", secret, p, err)
	}
}

func (f *fixture) reload(file string) {
	f.t.Helper()
	f.file = file
	if err := f.Reload(context.Background()); err != nil {
		f.t.Fatal(err)
	}
}

func TestGoodKeyGivesItsPrincipal(t *testing.T) {
	t.Parallel()
	m := mintKey(t, seal.Spec{Environment: "live"})
	who := apikey.Principal{
		ID: "svc-orders", Tenant: "acme", Roles: []string{"writer"}, Scopes: []string{"orders:read"},
		Permissions: []string{"orders.refund"}, Metadata: map[string]any{"team": "payments"},
	}
	created, expires := noon.Add(-time.Hour), noon.Add(time.Hour)
	f := newFixture(t, keysFile(entry(t, m, func(k *apikey.Key) {
		k.Principal, k.Name, k.Owner, k.Environment = who, "CI", "team-a", "live"
		k.CreatedAt, k.ExpiresAt = created, expires
		k.Constraints = &policy.Constraints{Methods: []string{"GET"}}
	})))
	p := f.prove(keyHeader, m.Secret.Reveal())
	want := &policy.Principal{
		ID: "svc-orders", Kind: policy.KindService, Tenant: "acme", Roles: []string{"writer"},
		Scopes: []string{"orders:read"}, Permissions: []string{"orders.refund"},
		Claims:   map[string]any{"name": "CI", "owner": "team-a", "environment": "live"},
		Metadata: map[string]any{"team": "payments"},
		Method:   policy.MethodAPIKey, Assurance: 2, CredentialID: m.ID, Issuer: "postern",
		IssuedAt: created, ExpiresAt: expires,
	}
	if diff := cmp.Diff(want, p.Principal); diff != "" {
		t.Error(diff)
	}
	subject := authn.Subject{TokenID: m.ID, Issuer: "postern", ID: "svc-orders", Tenant: "acme", IssuedAt: created}
	if diff := cmp.Diff(subject, p.Subject); diff != "" {
		t.Error(diff)
	}
	if !p.NotAfter.Equal(expires) || p.State != policy.StateMirror || len(p.Constraints.Methods) != 1 {
		t.Errorf("%v %v %+v", p.NotAfter, p.State, p.Constraints)
	}
	if again := f.prove(bearer, m.Secret.Reveal()); again != p {
		t.Error("the proof is not shared")
	}
}

func TestKindsOfKeys(t *testing.T) {
	t.Parallel()
	pat := mintKey(t, seal.Spec{Kind: seal.KindPAT})
	device := mintKey(t, seal.Spec{})
	f := newFixture(t, keysFile(
		entry(t, pat),
		entry(t, device, func(k *apikey.Key) { k.Kind, k.Principal.Kind = "", policy.KindDevice }),
	))
	if p := f.prove(keyHeader, pat.Secret.Reveal()).Principal; p.Method != policy.MethodPAT || p.Kind != policy.KindUser {
		t.Errorf("personal access token: %+v", p)
	}
	if p := f.prove(keyHeader, device.Secret.Reveal()).Principal; p.Method != policy.MethodAPIKey || p.Kind != policy.KindDevice {
		t.Errorf("key: %+v", p)
	}
}

// K-02: `curl -H "x-api-key: sk_live_abc123def456ghi789"` works with an imported
// key, and so does the same key as a bearer token.
func TestImportedKeyWorksAsDocumented(t *testing.T) {
	t.Parallel()
	file := `
keys:
  - id: legacy-1
    digest: sha256:` + fmt.Sprintf("%x", sha256.Sum256([]byte(foreignKey))) + `
    principal: {id: legacy-client, scopes: [read]}
`
	f := newFixture(t, file)
	for _, uses := range [][]policy.Method{keyHeader, bearer} {
		p := f.prove(uses, foreignKey).Principal
		if p.ID != "legacy-client" || p.CredentialID != "legacy-1" || p.Method != policy.MethodAPIKey {
			t.Errorf("%v: %+v", uses, p)
		}
	}
	for _, wrong := range []string{foreignKey[1:], foreignKey + "0", strings.ToUpper(foreignKey), " " + foreignKey, foreignKey + "\x00", ""} {
		f.refused(keyHeader, wrong, policy.ReasonCredentialUnknown)
		f.notMine(bearer, wrong)
	}
	// An imported key may even begin as ours do.
	lookalike := "pst_live_imported_from_elsewhere"
	f.reload(keysFile(importedEntry("legacy.2", lookalike)))
	f.prove(bearer, lookalike)
	f.refused(keyHeader, foreignKey, policy.ReasonCredentialUnknown)
	// The longest one, and what only begins with it.
	longest := strings.Repeat("k", 512)
	f.reload(keysFile(importedEntry("longest", longest)))
	f.prove(keyHeader, longest)
	f.refused(keyHeader, longest+"k", policy.ReasonTokenTooLarge)
	f.notMine(bearer, longest+"k")
}

func TestImportedKeysCanBeRefused(t *testing.T) {
	t.Parallel()
	_, err := apikey.New(apikey.Config{File: "keys.yaml", RefuseImported: true}, apikey.Deps{
		ReadFile: func(string) ([]byte, error) { return []byte(keysFile(importedEntry("x", foreignKey))), nil },
	})
	if err == nil || !strings.Contains(err.Error(), "refuse_imported") {
		t.Error(err)
	}
}

// Who owns what: an own prefix is ours, good or bad; where only keys come,
// everything is; elsewhere the next authenticator gets its chance.
func TestWhatIsMine(t *testing.T) {
	t.Parallel()
	known, unknown := mintKey(t, seal.Spec{}), mintKey(t, seal.Spec{Environment: "live"})
	agent := mintKey(t, seal.Spec{Kind: "agent"}).Secret.Reveal()
	foreignPrefix := mintKey(t, seal.Spec{Prefix: "acme"}).Secret.Reveal()
	jwt := "eyJhbGciOiJSUzI1NiJ9." + strings.Repeat("e30", 300) + ".c2ln"
	f := newFixture(t, keysFile(entry(t, known)))
	swapped := []byte(known.Secret.Reveal())
	for i := 30; swapped[i] == known.Secret.Reveal()[30]; i++ {
		swapped[30], swapped[i+1] = swapped[i+1], swapped[30]
	}
	misspelt := known.Secret.Reveal()[:20] + "!" + known.Secret.Reveal()[21:]

	for _, uses := range [][]policy.Method{keyHeader, bearer} {
		f.refused(uses, unknown.Secret.Reveal(), policy.ReasonCredentialUnknown)
		for _, bad := range []string{"pst_", "pst_key_live_tooshort", misspelt, string(swapped), known.Secret.Reveal() + "0", "pst_" + strings.Repeat("a", 1000)} {
			f.refused(uses, bad, policy.ReasonCredentialMalformed)
		}
	}
	for _, text := range []string{agent, foreignPrefix, jwt, "", "opaque", "PST_KEY"} {
		f.notMine(bearer, text)
		f.notMine(nil, text)
	}
	for _, text := range []string{agent, foreignPrefix, "", "opaque", "PST_KEY"} {
		f.refused(keyHeader, text, policy.ReasonCredentialUnknown)
		f.refused([]policy.Method{policy.MethodPAT, policy.MethodAPIKey}, text, policy.ReasonCredentialUnknown)
	}
	f.refused(keyHeader, jwt, policy.ReasonTokenTooLarge)
	f.refused(keyHeader, strings.Repeat("a", 513), policy.ReasonTokenTooLarge)
	f.refused(keyHeader, strings.Repeat("a", 512), policy.ReasonCredentialUnknown)
}

func TestConfiguredPrefix(t *testing.T) {
	t.Parallel()
	m, old := mintKey(t, seal.Spec{Prefix: "acme"}), mintKey(t, seal.Spec{})
	f := newFixture(t, keysFile(entry(t, m), entry(t, old)), func(c *apikey.Config) { c.Prefix = "acme" })
	f.prove(bearer, m.Secret.Reveal())
	f.notMine(bearer, old.Secret.Reveal())
	f.refused(bearer, "acme_live_x", policy.ReasonCredentialMalformed)
}

// A name may begin as the prefix does.
func TestPrefixIsAWholeWord(t *testing.T) {
	t.Parallel()
	m := mintKey(t, seal.Spec{Prefix: "pstx"})
	f := newFixture(t, keysFile(entry(t, m)))
	f.notMine(bearer, m.Secret.Reveal())
}

// K-04: whoever can write to the keys file but does not know the pepper cannot
// make up a key of our format, nor use the digest of one under another id.
func TestForgedRowsDoNotWork(t *testing.T) {
	t.Parallel()
	mine := mintKey(t, seal.Spec{})
	attacker, err := apikey.NewPeppers(apikey.Config{Pepper: policy.NewSecret("another pepper that the attacker has made up")})
	if err != nil {
		t.Fatal(err)
	}
	forged := entry(t, mintKey(t, seal.Spec{}))
	madeUp := mintKey(t, seal.Spec{})
	forged.ID, forged.Digest = madeUp.ID, attacker.Digest(madeUp.Secret)
	moved := entry(t, mine, func(k *apikey.Key) { k.ID = "0123456789AB" })
	f := newFixture(t, keysFile(forged, moved))
	f.refused(keyHeader, madeUp.Secret.Reveal(), policy.ReasonCredentialUnknown)
	// The same secret under the other id, with a checksum that fits.
	body := "pst_key_0123456789AB_" + mine.Secret.Reveal()[len("pst_key_0123456789AB_"):]
	for _, text := range []string{mine.Secret.Reveal(), withChecksum(body[:len(body)-6])} {
		f.refused(keyHeader, text, policy.ReasonCredentialUnknown)
	}
	// And with a plain SHA-256 of an own key: it is found by id, and only by id.
	plain := entry(t, mine, func(k *apikey.Key) { k.Digest = seal.ImportedDigest(mine.Secret) })
	f.reload(keysFile(plain))
	f.refused(keyHeader, mine.Secret.Reveal(), policy.ReasonCredentialUnknown)
}

// withChecksum appends the checksum that an attacker would: computed by hand,
// from what is published about the format.
func withChecksum(body string) string {
	const digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	crc := ^uint32(0)
	for i := range len(body) {
		crc ^= uint32(body[i])
		for range 8 {
			crc = crc>>1 ^ 0xedb88320&-(crc&1)
		}
	}
	crc = ^crc
	sum := make([]byte, 6)
	for i := 5; i >= 0; i-- {
		sum[i], crc = digits[crc%62], crc/62
	}
	return body + string(sum)
}

// K-04: the environment and the kind in a key are proven as well: nobody turns a
// test key into a live one by editing its text.
func TestEditedKeysDoNotWork(t *testing.T) {
	t.Parallel()
	m := mintKey(t, seal.Spec{Environment: "test"})
	f := newFixture(t, keysFile(entry(t, m)))
	text := m.Secret.Reveal()
	body := text[:len(text)-6]
	if withChecksum(body) != text {
		t.Fatal("the checksum is wrong: this test could not fail")
	}
	for _, edited := range []string{
		strings.Replace(body, "_test_", "_live_", 1), strings.Replace(body, "_test_", "_", 1), strings.Replace(body, "_key_", "_pat_", 1),
	} {
		f.refused(keyHeader, withChecksum(edited), policy.ReasonCredentialUnknown)
	}
	f.prove(keyHeader, text)
}

// K-04: what is at rest holds neither the key nor any part of its secret.
func TestKeysFileHoldsNoSecret(t *testing.T) {
	t.Parallel()
	m := mintKey(t, seal.Spec{Environment: "live"})
	file := keysFile(entry(t, m), importedEntry("legacy", foreignKey))
	f := newFixture(t, file)
	f.prove(keyHeader, m.Secret.Reveal())
	f.prove(keyHeader, foreignKey)
	dumps := []string{file, fmt.Sprintf("%+v", f.Status()), fmt.Sprintf("%#v", m), fmt.Sprintf("%+v", f.prove(keyHeader, foreignKey).Principal)}
	for _, dump := range dumps {
		for range seal.Scan(strings.NewReader(dump), "pst") {
			t.Errorf("a key in %s", dump)
		}
		secret := m.Secret.Reveal()[len("pst_key_live_")+13:]
		for i := 0; i+8 <= len(secret); i++ {
			if strings.Contains(dump, secret[i:i+8]) {
				t.Fatalf("a part of the secret in %s", dump)
			}
		}
		for _, part := range []string{foreignKey[8:16], base64.StdEncoding.EncodeToString([]byte(foreignKey))} {
			if strings.Contains(dump, part) {
				t.Errorf("a part of the imported key in %s", dump)
			}
		}
	}
}

// K-06: a key counts from not_before until expires_at, to the nanosecond, and
// the end needs no event.
func TestKeyLivesWithinItsTimes(t *testing.T) {
	t.Parallel()
	m := mintKey(t, seal.Spec{})
	f := newFixture(t, keysFile(entry(t, m, func(k *apikey.Key) {
		k.NotBefore, k.ExpiresAt = noon, noon.Add(time.Second)
	})))
	key := m.Secret.Reveal()
	f.now = noon.Add(-time.Nanosecond)
	f.refused(keyHeader, key, policy.ReasonNotYetValid)
	f.now = noon
	if p := f.prove(keyHeader, key); !p.NotAfter.Equal(noon.Add(time.Second)) {
		t.Errorf("not after %v", p.NotAfter)
	}
	f.now = noon.Add(time.Second - time.Nanosecond)
	f.prove(keyHeader, key)
	f.now = noon.Add(time.Second)
	f.refused(keyHeader, key, policy.ReasonExpired)
	// The wrong secret never learns of it.
	wrong := withChecksum(key[:len(key)-7] + "0")
	if wrong == key {
		wrong = withChecksum(key[:len(key)-7] + "1")
	}
	f.refused(keyHeader, wrong, policy.ReasonCredentialUnknown)
}

// K-06: without expires_at, the greatest age is the end.
func TestGreatestAge(t *testing.T) {
	t.Parallel()
	m := mintKey(t, seal.Spec{})
	ends := func(change func(*apikey.Key), cfg ...func(*apikey.Config)) time.Time {
		k := entry(t, m, func(k *apikey.Key) { k.CreatedAt = noon }, change)
		return newFixture(t, keysFile(k), cfg...).prove(keyHeader, m.Secret.Reveal()).NotAfter
	}
	const days = 24 * time.Hour
	for _, c := range []struct {
		name   string
		change func(*apikey.Key)
		want   time.Time
	}{
		{"of the configuration", func(*apikey.Key) {}, noon.Add(90 * days)},
		{"of the key", func(k *apikey.Key) { k.MaxAge = 365 * days }, noon.Add(365 * days)},
		{"the key ends earlier", func(k *apikey.Key) { k.ExpiresAt = noon.Add(days) }, noon.Add(days)},
		{"a key without age does not end", func(k *apikey.Key) { k.CreatedAt = time.Time{} }, time.Time{}},
	} {
		if got := ends(c.change); !got.Equal(c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
	if got := ends(func(*apikey.Key) {}, func(c *apikey.Config) { c.MaxAge = days }); !got.Equal(noon.Add(days)) {
		t.Errorf("configured: %v", got)
	}
}

func TestEndsOfKeys(t *testing.T) {
	t.Parallel()
	m := mintKey(t, seal.Spec{})
	past, future := noon.Add(-time.Hour), noon.Add(time.Hour)
	for _, c := range []struct {
		name   string
		change func(*apikey.Key)
		want   policy.Reason
	}{
		{"disabled", func(k *apikey.Key) { k.Disabled = true }, policy.ReasonDisabled},
		{"revoked", func(k *apikey.Key) { k.Revoked = &apikey.Revoked{Reason: "compromise"} }, policy.ReasonRevoked},
		{"revoked and disabled", func(k *apikey.Key) { k.Revoked, k.Disabled = &apikey.Revoked{}, true }, policy.ReasonRevoked},
		{"revoked since", func(k *apikey.Key) { k.Revoked = &apikey.Revoked{At: noon} }, policy.ReasonRevoked},
		{"revoked later", func(k *apikey.Key) { k.Revoked = &apikey.Revoked{At: future} }, policy.ReasonAllowed},
		{"rotated", func(k *apikey.Key) { k.Rotated = &apikey.Rotated{To: "0123456789AB"} }, policy.ReasonRotated},
		{"rotated since", func(k *apikey.Key) { k.Rotated = &apikey.Rotated{To: "0123456789AB", At: past} }, policy.ReasonRotated},
		{"overlap of a rotation", func(k *apikey.Key) { k.Rotated = &apikey.Rotated{To: "0123456789AB", At: future} }, policy.ReasonAllowed},
		{"expired", func(k *apikey.Key) { k.ExpiresAt = past }, policy.ReasonExpired},
		{"expired, then rotated", func(k *apikey.Key) {
			k.ExpiresAt, k.Rotated = past, &apikey.Rotated{To: "0123456789AB", At: noon}
		}, policy.ReasonExpired},
		{"disabled before it began", func(k *apikey.Key) { k.NotBefore, k.Disabled = future, true }, policy.ReasonDisabled},
	} {
		f := newFixture(t, keysFile(entry(t, m, c.change)))
		if c.want != policy.ReasonAllowed {
			f.refused(keyHeader, m.Secret.Reveal(), c.want)
		} else if p := f.prove(keyHeader, m.Secret.Reveal()); !p.NotAfter.Equal(future) {
			t.Errorf("%s: not after %v, want %v", c.name, p.NotAfter, future)
		}
	}
}

// Peppers are rotated by putting a new version first: old digests go on working
// as long as their version is listed.
func TestPepperRotation(t *testing.T) {
	t.Parallel()
	first, second := policy.NewSecret(pepperText), policy.NewSecret("the second pepper, also long enough for this")
	old := mintKey(t, seal.Spec{})
	both := apikey.Config{Peppers: []seal.Pepper{{Version: 2, Secret: second}, {Version: 1, Secret: first}}}
	ps, err := apikey.NewPeppers(both)
	if err != nil {
		t.Fatal(err)
	}
	fresh := mintKey(t, seal.Spec{})
	freshEntry := entry(t, fresh, func(k *apikey.Key) { k.Digest = ps.Digest(fresh.Secret) })
	if !strings.HasPrefix(freshEntry.Digest.String(), "hmac-sha256:v2:") {
		t.Errorf("minted with %s", freshEntry.Digest)
	}
	file := keysFile(entry(t, old), freshEntry)
	f := newFixture(t, file, func(c *apikey.Config) { c.Pepper, c.Peppers = policy.Secret{}, both.Peppers })
	f.prove(keyHeader, old.Secret.Reveal())
	f.prove(keyHeader, fresh.Secret.Reveal())

	_, err = apikey.New(apikey.Config{File: "keys.yaml", Peppers: both.Peppers[:1]},
		apikey.Deps{ReadFile: func(string) ([]byte, error) { return []byte(file), nil }})
	if err == nil || !strings.Contains(err.Error(), "version 1 of the pepper") {
		t.Errorf("a missing pepper: %v", err)
	}
}

// A reload is all or nothing.
func TestReloadKeepsTheLastGoodKeys(t *testing.T) {
	t.Parallel()
	first, second := mintKey(t, seal.Spec{}), mintKey(t, seal.Spec{})
	f := newFixture(t, keysFile(entry(t, first)))
	proof, epoch := f.prove(keyHeader, first.Secret.Reveal()), f.Epoch()

	f.now = noon.Add(time.Minute)
	for name, bad := range map[string]func(){
		"malformed":  func() { f.file = "keys: [" },
		"empty":      func() { f.file = "" },
		"one bad":    func() { f.file = keysFile(entry(t, second)) + "  - id: x\n" },
		"unreadable": func() { f.err = os.ErrPermission },
	} {
		bad()
		if err := f.Reload(context.Background()); err == nil {
			t.Fatalf("%s: accepted", name)
		} else if s := f.Status(); s.Err == nil || s.Keys != 1 || !s.LoadedAt.Equal(noon) {
			t.Errorf("%s: status %+v", name, s)
		}
		f.err = nil
	}
	if f.prove(keyHeader, first.Secret.Reveal()) != proof || f.Epoch() != epoch {
		t.Error("a failed reload changed something")
	}
	f.refused(keyHeader, second.Secret.Reveal(), policy.ReasonCredentialUnknown)

	// The old content again: nothing has changed, and the error is over.
	f.reload(keysFile(entry(t, first)))
	if f.Epoch() != epoch || f.Status().Err != nil || f.prove(keyHeader, first.Secret.Reveal()) != proof {
		t.Error("reading the same file again changed something")
	}
	f.reload(keysFile(entry(t, second)))
	f.refused(keyHeader, first.Secret.Reveal(), policy.ReasonCredentialUnknown)
	f.prove(keyHeader, second.Secret.Reveal())
	if s := f.Status(); s.Err != nil || s.Keys != 1 || !s.LoadedAt.Equal(f.now) || f.Epoch() == epoch {
		t.Errorf("status %+v", s)
	}

	ended, cancel := context.WithCancel(context.Background())
	cancel()
	if err := f.Reload(ended); !errors.Is(err, context.Canceled) {
		t.Errorf("with an ended context: %v", err)
	}
}

func TestNewReadsARealFile(t *testing.T) {
	t.Parallel()
	m := mintKey(t, seal.Spec{})
	path := filepath.Join(t.TempDir(), "keys.yaml")
	if err := os.WriteFile(path, []byte(keysFile(entry(t, m))), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := apikey.Config{Pepper: policy.NewSecret(pepperText), File: strictyaml.Path(path)}
	a, err := apikey.New(cfg, apikey.Deps{})
	if err != nil {
		t.Fatal(err)
	}
	if s := a.Status(); s.Keys != 1 {
		t.Errorf("%+v", s)
	}
	cfg.MaxFileSize = 10
	if _, err := apikey.New(cfg, apikey.Deps{}); err == nil || !strings.Contains(err.Error(), "too large: more than 10 bytes") {
		t.Errorf("too large: %v", err)
	}
	for name, wrong := range map[string]string{"missing": path + "x", "a folder": filepath.Dir(path)} {
		cfg.File = strictyaml.Path(wrong)
		if _, err := apikey.New(cfg, apikey.Deps{}); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// Without a keys file there are no keys, and nobody gets in.
func TestZeroConfigDenies(t *testing.T) {
	t.Parallel()
	a, err := apikey.New(apikey.Config{}, apikey.Deps{})
	if err != nil {
		t.Fatal(err)
	}
	f := &fixture{Authenticator: a, t: t}
	f.refused(keyHeader, mintKey(t, seal.Spec{}).Secret.Reveal(), policy.ReasonCredentialUnknown)
	f.refused(keyHeader, foreignKey, policy.ReasonCredentialUnknown)
	f.notMine(bearer, foreignKey)
	f.refused(keyHeader, "", policy.ReasonCredentialUnknown)
}

func TestConfigMistakes(t *testing.T) {
	t.Parallel()
	_, err := apikey.New(apikey.Config{Prefix: "A_b", Pepper: policy.NewSecret("swordfish"), MaxAge: -1, MaxFileSize: -1}, apikey.Deps{})
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{"api_keys.prefix", "api_keys.pepper: has 9 bytes", "api_keys.max_age", "api_keys.max_file_size"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is missing in: %v", want, err)
		}
	}
	if strings.Contains(err.Error(), "swordfish") {
		t.Error("the error shows the pepper")
	}
}

// G-08: a quarantined key is off at once and stays off when the keys file is
// read again, until somebody says otherwise.
func TestQuarantine(t *testing.T) {
	t.Parallel()
	m, neighbour := mintKey(t, seal.Spec{}), mintKey(t, seal.Spec{})
	key := m.Secret.Reveal()
	file := func(change ...func(*apikey.Key)) string {
		return keysFile(importedEntry("legacy", foreignKey), entry(t, m, change...), entry(t, neighbour))
	}
	f := newFixture(t, file())
	f.prove(keyHeader, key)
	epoch := f.Epoch()

	if !f.Quarantine(m.ID) || !f.Quarantine(m.ID) || f.Quarantine("0123456789AB") || f.Quarantine("") {
		t.Error("quarantine does not say which keys exist")
	}
	if f.Epoch() != epoch+1 {
		t.Errorf("epoch %d after %d", f.Epoch(), epoch)
	}
	f.refused(keyHeader, key, policy.ReasonDisabled)
	f.prove(keyHeader, neighbour.Secret.Reveal())
	if diff := cmp.Diff([]string{m.ID}, f.Status().Quarantined); diff != "" {
		t.Error(diff)
	}

	f.reload(file(func(k *apikey.Key) { k.Name = "edited" }))
	f.refused(keyHeader, key, policy.ReasonDisabled)
	f.reload(file(func(k *apikey.Key) { k.ReleasedAt = noon.Add(-time.Hour) })) // an earlier one
	f.refused(keyHeader, key, policy.ReasonDisabled)
	f.reload(file(func(k *apikey.Key) { k.ReleasedAt = noon.Add(time.Second) }))
	f.prove(keyHeader, key)
	if s := f.Status(); len(s.Quarantined) > 0 {
		t.Errorf("%+v", s)
	}

	f.Quarantine(m.ID)
	if !f.Release(m.ID) || f.Release(m.ID) || f.Release("nobody") {
		t.Error("release does not say what was in quarantine")
	}
	f.prove(keyHeader, key)
	f.reload(file(func(k *apikey.Key) { k.Name = "edited again" }))
	f.prove(keyHeader, key)

	if !f.Quarantine("legacy") {
		t.Error("an imported key cannot be put in quarantine")
	}
	f.refused(keyHeader, foreignKey, policy.ReasonDisabled)
}

// A quarantine does not wait for a keys file that is being read, and is not lost
// to it.
func TestQuarantineDuringReload(t *testing.T) {
	t.Parallel()
	m := mintKey(t, seal.Spec{})
	f := newFixture(t, keysFile(entry(t, m)))
	reading, goOn, done := make(chan struct{}), make(chan struct{}), make(chan error)
	slow, err := apikey.New(apikey.Config{Pepper: policy.NewSecret(pepperText), File: "keys.yaml"}, apikey.Deps{
		ReadFile: func() func(string) ([]byte, error) {
			first := true
			return func(string) ([]byte, error) {
				if first {
					first = false
					return []byte(f.file), nil
				}
				close(reading)
				<-goOn
				return []byte(f.file + "\n"), nil
			}
		}(),
	})
	if err != nil {
		t.Fatal(err)
	}
	go func() { done <- slow.Reload(context.Background()) }()
	<-reading
	if !slow.Quarantine(m.ID) {
		t.Error("no such key")
	}
	close(goOn)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	f.Authenticator = slow
	f.refused(keyHeader, m.Secret.Reveal(), policy.ReasonDisabled)
}

// J-09: the denylist of the keys file reaches tokens and keys alike.
func TestDenylistOfTheKeysFile(t *testing.T) {
	t.Parallel()
	m := mintKey(t, seal.Spec{})
	f := newFixture(t, keysFile(entry(t, m))+`
revocations:
  - {jti: stolen, note: "laptop lost"}
  - {subject: alice, issuer: "https://idp.example", issued_before: 2026-03-01T12:00:00Z}
`)
	for _, c := range []struct {
		s    authn.Subject
		want bool
	}{
		{authn.Subject{TokenID: "stolen", Issuer: idp}, true},
		{authn.Subject{ID: "alice", Issuer: idp, IssuedAt: noon.Add(-time.Second)}, true},
		{authn.Subject{ID: "alice", Issuer: idp, IssuedAt: noon.Add(time.Second)}, false},
	} {
		if _, got := f.Revoked(&c.s); got != c.want {
			t.Errorf("%+v: %v", c.s, got)
		}
	}
	p := f.prove(keyHeader, m.Secret.Reveal())
	if _, revoked := f.Revoked(&p.Subject); revoked {
		t.Error("the key is revoked")
	}
	f.reload(keysFile(entry(t, m)) + "revocations: [{jti: " + fmt.Sprintf("%q", m.ID) + "}]\n")
	if _, revoked := f.Revoked(&p.Subject); !revoked {
		t.Error("the key is not revoked by its id")
	}
	if s := f.Status(); s.Revocations != 1 || f.Denylist().Len() != 1 {
		t.Errorf("%+v", s)
	}
}

// RESOURCE-05: hostile texts as credentials are answered, never with a principal.
func TestNaughtyStrings(t *testing.T) {
	t.Parallel()
	m := mintKey(t, seal.Spec{})
	f := newFixture(t, keysFile(entry(t, m), importedEntry("legacy", foreignKey)))
	texts := []string{"\x00", "\xff\xfe", "pst_\x00", strings.Repeat("pst_", 1000), "pst_key_" + strings.Repeat("é", 60)}
	for _, text := range texts {
		for _, uses := range [][]policy.Method{keyHeader, bearer, nil} {
			if p, err := f.ask(uses, text); p != nil || err == nil {
				t.Errorf("%q is somebody: %+v", text, p)
			}
		}
	}
	t.Run("vectors", func(t *testing.T) {
		for _, text := range naughtyStrings(t) {
			for _, text := range []string{text, "pst_" + text, "pst_key_" + text} {
				if p, err := f.ask(keyHeader, text); p != nil || err == nil {
					t.Errorf("%q is somebody: %+v", text, p)
				}
			}
		}
	})
}

// Requests, reloads and quarantines at the same time: run with -race.
func TestConcurrentUse(t *testing.T) {
	t.Parallel()
	m := mintKey(t, seal.Spec{})
	file := keysFile(entry(t, m))
	var mu sync.Mutex
	current := file
	a, err := apikey.New(apikey.Config{Pepper: policy.NewSecret(pepperText), File: "keys.yaml"}, apikey.Deps{
		ReadFile: func(string) ([]byte, error) { mu.Lock(); defer mu.Unlock(); return []byte(current), nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	var workers sync.WaitGroup
	for range 4 {
		workers.Go(func() {
			c := &authn.Credential{Uses: keyHeader, Secret: m.Secret}
			for range 500 {
				p, err := a.Authenticate(context.Background(), c)
				var refusal *authn.Refusal
				if (p == nil) == (err == nil) || err != nil && (!errors.As(err, &refusal) || refusal.Reason != policy.ReasonDisabled) {
					t.Errorf("%v, %v", p, err)
				}
				a.Revoked(&authn.Subject{TokenID: m.ID})
			}
		})
	}
	workers.Go(func() {
		for i := range 50 {
			mu.Lock()
			current = file + strings.Repeat("\n", i%3)
			mu.Unlock()
			if err := a.Reload(context.Background()); err != nil {
				t.Error(err)
			}
			a.Quarantine(m.ID)
			a.Status()
			a.Release(m.ID)
		}
	})
	workers.Wait()
}

func naughtyStrings(t *testing.T) []string {
	t.Helper()
	var encoded, texts []string
	decodeJSON(t, vectortest.Read(t, "strings/blns.base64.json"), &encoded)
	for _, e := range encoded {
		text, err := base64.StdEncoding.DecodeString(e)
		if err != nil {
			t.Fatal(err)
		}
		texts = append(texts, string(text))
	}
	return texts
}
