package mirror_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn"
	"github.com/postern-auth/postern/server/mirror"
	"github.com/postern-auth/postern/server/store"
	"github.com/postern-auth/postern/server/store/memory"
)

// shelf is a scene with one of everything, its snapshot on disk, and a store that
// does not answer any more.
type shelf struct {
	*scene
	file    string
	secrets map[string]string
}

func newShelf(t testing.TB) *shelf {
	t.Helper()
	sh := &shelf{scene: newScene(t), file: filepath.Join(t.TempDir(), "snapshot"), secrets: map[string]string{}}
	s := sh.scene
	off := &store.Ending{At: noon}
	s.put(&store.Tenant{ID: "closed", Disabled: off},
		service("app", func(p *store.Principal) { p.Disabled = off }), service("worker", func(p *store.Principal) { p.Owner = "app" }),
		user("alice", func(p *store.Principal) {
			p.Roles, p.Password, p.Metadata = []string{"reader"}, "$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHQ$aGFzaGhhc2g", map[string]any{"n": 1 << 60}
		}),
		&store.Denial{ID: "d1", JTI: "gone", Issuer: "i"}, &store.Denial{ID: "d2", Subject: "eve", Issuer: "i", IssuedBefore: noon, Tenant: "acme"})
	add := func(name string, sort store.CredentialType, of string, change func(*store.Credential)) *store.Credential {
		c, secret := s.issue(sort, of, change)
		sh.secrets[name] = secret
		return c
	}
	parent := add("plain", store.PAT, "alice", func(c *store.Credential) {
		c.Name, c.Environment, c.Scopes = "laptop", "live", []string{"s"}
		c.Constraints = &policy.Constraints{Methods: []string{"GET"}, RequireTLS: true}
		c.Metadata = map[string]any{"a": []any{"b", nil, true}}
	})
	add("expires", store.APIKey, "alice", func(c *store.Credential) { c.NotBefore, c.ExpiresAt = noon.Add(-time.Hour), noon.Add(30*time.Minute) })
	add("later", store.APIKey, "alice", func(c *store.Credential) { c.NotBefore = noon.Add(30 * time.Minute) })
	add("revoked", store.APIKey, "alice", func(c *store.Credential) { c.Revoked, c.ExpiresAt = off, noon.Add(time.Minute) })
	add("disabled", store.APIKey, "alice", func(c *store.Credential) { c.Disabled = off })
	add("rotated", store.APIKey, "alice", func(c *store.Credential) {
		c.Rotated, c.Successor = &store.Ending{At: noon.Add(30 * time.Minute)}, parent.ID
	})
	add("rotated at once", store.APIKey, "alice", func(c *store.Credential) { c.Rotated = &store.Ending{} })
	add("ancient", store.APIKey, "alice", func(c *store.Credential) { c.ExpiresAt = time.Date(1400, 1, 1, 0, 0, 0, 0, time.UTC) })
	add("child", store.APIKey, "alice", func(c *store.Credential) { c.Parent = parent.ID })
	add("of the disabled app", store.APIKey, "worker", nil)
	add("of nobody", store.APIKey, "nobody", nil)
	damaged := add("damaged", store.APIKey, "alice", nil)
	r := damaged.Columns()
	r.Body = []byte("{")
	s.update(func(tx store.Tx) error { return tx.Put(r) })
	sh.secrets["imported"] = s.importToken("sk_live_abc123def456ghi789jkl", "alice")
	sh.secrets["session"] = sh.login("alice", nil)
	sh.secrets["old session"] = sh.login("alice", func(s *store.Session) { s.TouchedAt = noon.Add(-time.Hour) })
	m := s.replica(func(c *mirror.Config) { c.Snapshot = sh.file })
	if err := m.Load(context.Background()); err != nil {
		t.Fatal(err)
	}
	mirror.SaveSnapshot(m)
	if st := m.Status(); st.SnapshotErr != nil || st.SnapshotBytes == 0 {
		t.Fatalf("%+v", st)
	}
	return sh
}

// restart is a replica that starts while the store is down.
func (s *shelf) restart(change ...func(*mirror.Config)) (*mirror.Mirror, error) {
	down := &wire{Store: s.store}
	down.cut.Store(true)
	cfg := mirror.Config{Snapshot: s.file, Mode: mirror.Available}
	for _, c := range change {
		c(&cfg)
	}
	m := mirror.New(cfg, down, mirror.Deps{Now: func() time.Time { return s.now }, Peppers: s.peppers})
	return m, m.Load(context.Background())
}

func (s *shelf) answers(m *mirror.Mirror, at time.Time) map[string]string {
	s.Helper()
	s.now = at
	keys := s.authenticator(m)
	all := map[string]string{}
	for name, secret := range s.secrets {
		ask := func() (*authn.Proof, error) {
			return keys.Authenticate(context.Background(), &authn.Credential{Uses: []policy.Method{policy.MethodAPIKey}, Secret: policy.NewSecret(secret)})
		}
		if strings.Contains(name, "session") {
			ask = func() (*authn.Proof, error) { return s.askSession(m, secret) }
		}
		p, err := ask()
		all[name] = reasonOf(p, err).String()
		if p != nil {
			all[name] += describe(p)
		}
	}
	return all
}

// T-06: a replica that starts while the store is down answers as before, in the
// mode for it: stale, up to its limit counted from the time of the snapshot. When
// the store answers again it goes on from there.
func TestRestart(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	m, err := s.restart()
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range []time.Time{noon, noon.Add(20 * time.Minute), noon.Add(45 * time.Minute)} {
		want, got := s.answers(s.Mirror, at), s.answers(m, at)
		for name := range want {
			if name == "damaged" {
				want[name] = policy.ReasonCredentialUnknown.String() // it was damaged when the replica first saw it
			}
			if got[name] != want[name] {
				t.Errorf("%v %s: %s, want %s", at.Sub(noon), name, got[name], want[name])
			}
		}
	}
	if !func() bool { _, ok := m.Revoked(&authn.Subject{TokenID: "gone", Issuer: "i"}); return ok }() {
		t.Error("the denylist is empty")
	}
	if _, ok := m.Revoked(&authn.Subject{ID: "eve", Issuer: "i", Tenant: "hooli"}); ok {
		t.Error("the line of a tenant reaches another")
	}
	s.now = noon
	for after, want := range map[time.Duration]mirror.Freshness{0: mirror.Stale, 10 * time.Minute: mirror.Stale, 10*time.Minute + 1: mirror.Blind} {
		if got := m.State(noon.Add(after)); got != want {
			t.Errorf("after %v: %v, want %v", after, got, want)
		}
	}
	strict, err := s.restart(func(c *mirror.Config) { c.Mode = mirror.Strict })
	if err != nil || strict.State(noon) != mirror.Blind || !strict.Status().View.Snapshot {
		t.Errorf("strict: %v, %v", strict.State(noon), err)
	}
	late, cancel := context.WithCancel(t.Context())
	cancel()
	if m.WaitFor(late, 1) == nil {
		t.Error("a snapshot counts as having seen a change")
	}
	// The store is back.
	back := mirror.New(mirror.Config{Snapshot: s.file}, s.store, mirror.Deps{Now: func() time.Time { return s.now }, Peppers: s.peppers})
	if err := back.Load(t.Context()); err != nil || back.State(s.now) != mirror.Fresh || back.View().Snapshot {
		t.Error(err, back.View())
	}
}

// G-12: after a restart from a snapshot the mirror goes on with the feed where the
// snapshot ends, and what was revoked meanwhile is known before it is fresh.
func TestRestartCatchesUp(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	down := &wire{Store: s.store}
	down.cut.Store(true)
	m := mirror.New(mirror.Config{Snapshot: s.file, Mode: mirror.Available}, down, mirror.Deps{Now: func() time.Time { return s.now }, Peppers: s.peppers})
	if err := m.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	number := m.View().Number
	s.put(user("alice", func(p *store.Principal) { p.Disabled = &store.Ending{} }))
	if m.Poll(t.Context()) == nil || m.State(s.now) != mirror.Stale {
		t.Error("a cut connection makes fresh")
	}
	down.cut.Store(false)
	if err := m.Poll(t.Context()); err != nil || m.State(s.now) != mirror.Fresh || m.View().Number != number+1 || m.Status().Loads != 0 {
		t.Errorf("%v, %+v", err, m.Status())
	}
	keys := s.authenticator(m)
	if got := reasonOf(keys.Authenticate(t.Context(), &authn.Credential{Secret: policy.NewSecret(s.secrets["plain"])})); got != policy.ReasonDisabled {
		t.Error(got)
	}
}

// K-04: a snapshot that was changed anywhere, cut off, or made without the pepper
// is refused as a whole.
func TestBadSnapshots(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	good, err := os.ReadFile(s.file)
	if err != nil {
		t.Fatal(err)
	}
	try := func(name string, file []byte, change ...func(*mirror.Config)) {
		t.Helper()
		if err := os.WriteFile(s.file, file, 0o600); err != nil {
			t.Fatal(err)
		}
		m, err := s.restart(change...)
		if err == nil || m.State(s.now) != mirror.Blind || m.Status().Credentials+m.Status().Denials+m.Status().Tenants != 0 {
			t.Errorf("%s: %v, %+v", name, err, m.Status())
		} else if !strings.Contains(err.Error(), "snapshot") {
			t.Errorf("%s: %v", name, err)
		}
	}
	for i := 0; i < len(good); i += 1 + len(good)/100 {
		changed := bytes.Clone(good)
		changed[i] ^= 0x01
		try("changed", changed)
		try("cut off", good[:i])
	}
	try("one byte more", append(bytes.Clone(good), 0))
	try("twice", append(bytes.Clone(good), good...))
	try("empty", nil)
	try("another version", bytes.Replace(good, []byte("snapshot 2"), []byte("snapshot 3"), 1))
	own := s.peppers
	s.peppers = peppers(t, "another pepper, of the attacker, who has no other")
	try("another pepper", good)
	s.peppers = own
	s.now = noon.Add(-time.Minute)
	try("from the future", good)
	s.now = noon

	// Forged by somebody who can write files, but has no pepper.
	s.peppers = nil
	m := s.replica(func(c *mirror.Config) { c.Snapshot = s.file })
	if err := m.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	mirror.SaveSnapshot(m)
	forged, err := os.ReadFile(s.file)
	if err != nil || bytes.Equal(forged, good) {
		t.Fatal(err)
	}
	if _, err := s.restart(); err != nil {
		t.Errorf("without a pepper a plain sum must do: %v", err)
	}
	s.peppers = own
	try("forged", forged)
	if err := os.Remove(s.file); err != nil {
		t.Fatal(err)
	}
	if _, err := s.restart(); err == nil || !strings.Contains(err.Error(), "cut") {
		t.Errorf("no snapshot: %v", err)
	}
	if _, err := s.restart(func(c *mirror.Config) { c.Snapshot = "" }); err == nil {
		t.Error("nothing to load from is no error")
	}
	if _, err := s.restart(func(c *mirror.Config) { c.Snapshot = filepath.Dir(s.file) }); err == nil {
		t.Error("a directory is a snapshot")
	}
}

// K-04, S-10: the file is its owner's only, and holds no secret, no part of one, and
// no hash of a password.
func TestSnapshotHoldsNoSecret(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	info, err := os.Stat(s.file)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatal(info.Mode(), err)
	}
	file, err := os.ReadFile(s.file)
	if err != nil {
		t.Fatal(err)
	}
	for name, secret := range s.secrets {
		if containsSecret(string(file), secret+strings.Repeat(" ", max(0, 40-len(secret)))) {
			t.Errorf("a part of %s is in the file", name)
		}
	}
	if bytes.Contains(file, []byte("argon2id")) {
		t.Error("the hash of a password is in the file")
	}
	if left, _ := filepath.Glob(s.file + "*"); len(left) != 1 {
		t.Errorf("left behind: %v", left)
	}
}

// A snapshot is written when something has changed, not more often than it should,
// again before it gets too old to be served, and at the end.
func TestSnapshotTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "snapshot")
		s := memory.New(time.Now)
		ctx, cancel := context.WithCancel(t.Context())
		m := mirror.New(mirror.Config{Snapshot: file, Mode: mirror.Available}, s, mirror.Deps{})
		if err := m.Load(ctx); err != nil {
			t.Fatal(err)
		}
		done := make(chan error)
		go func() { done <- m.Run(ctx) }()
		written := func() time.Time { return m.Status().SnapshotAt }
		time.Sleep(11 * time.Second)
		first := written()
		if first.IsZero() {
			t.Fatal("not written")
		}
		time.Sleep(time.Minute)
		if !written().Equal(first) {
			t.Error("written although nothing has changed")
		}
		time.Sleep(5 * time.Minute)
		second := written()
		if second.Equal(first) {
			t.Error("left to become too old")
		}
		deny(t, s, "a")
		time.Sleep(10500 * time.Millisecond)
		if written().Equal(second) {
			t.Error("not written after a change")
		}
		deny(t, s, "b")
		time.Sleep(time.Second)
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		down := &wire{Store: s}
		down.cut.Store(true)
		again := mirror.New(mirror.Config{Snapshot: file, Mode: mirror.Available}, down, mirror.Deps{})
		if err := again.Load(t.Context()); err != nil || !knows(again, "b") {
			t.Errorf("the last change is not in it: %v", err)
		}
	})
}

// A disk that cannot be written is told, and leaves the last snapshot as it was.
func TestSnapshotNotWritable(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	m := s.replica(func(c *mirror.Config) { c.Snapshot = filepath.Join(t.TempDir(), "none", "snapshot") })
	if err := m.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	mirror.SaveSnapshot(m)
	if m.Status().SnapshotErr == nil {
		t.Error("no error")
	}
}

// FuzzSnapshot: whatever the file holds, it is refused or is one that we wrote.
func FuzzSnapshot(f *testing.F) {
	s := newShelf(f)
	good, err := os.ReadFile(s.file)
	if err != nil {
		f.Fatal(err)
	}
	s.peppers = nil
	m := s.replica(func(c *mirror.Config) { c.Snapshot = s.file })
	if err := m.Load(context.Background()); err != nil {
		f.Fatal(err)
	}
	mirror.SaveSnapshot(m)
	plain, err := os.ReadFile(s.file)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(plain)
	f.Add(plain[:40])
	f.Fuzz(func(t *testing.T, file []byte) {
		m := mirror.New(mirror.Config{}, s.store, mirror.Deps{Now: func() time.Time { return noon }})
		if err := mirror.ReadSnapshot(m, file); err == nil && m.View().Epoch == "" {
			t.Fatal("read, but of no store")
		}
	})
}
