package apikey

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn"
	"github.com/postern-auth/postern/server/regular"
	"github.com/postern-auth/postern/server/seal"
	"github.com/postern-auth/postern/server/signer"
	"github.com/postern-auth/postern/server/strictyaml"
)

// Deps are what the authenticator takes from outside. Zero fields are the real
// things.
type Deps struct {
	// Now is the clock; time.Now by default.
	Now func() time.Time
	// ReadFile reads the keys file; by default from disk, never more than
	// Config.MaxFileSize.
	ReadFile func(name string) ([]byte, error)
	// Indexes are asked, in this order, for keys that the keys file does not hold.
	Indexes []authn.Index
	// Signer has signed the personal access tokens that are JWTs; nil: there are none.
	// Other keys need another Authenticator.
	Signer *signer.Signer
}

// Authenticator proves API keys. It answers from RAM and waits for nothing.
type Authenticator struct {
	prefix  string // without the "_" behind it
	file    string // empty: no keys
	maxSize int
	limits  limits
	now     func() time.Time
	read    func(string) ([]byte, error)
	current atomic.Pointer[index]
	indexes []authn.Index
	tokens  *signed
	epoch   atomic.Uint64
	held    *quarantine
	// decoy is the digest with which keys that do not exist are compared.
	decoy [sha256.Size]byte

	reloading sync.Mutex // one reload at a time
	source    [sha256.Size]byte

	mu     sync.Mutex // orders changes of held and of what follows; requests never take it
	status Status
}

// New reads the keys file and returns an authenticator for it. Errors list all
// that is wrong with the configuration or the file, and show no secret.
func New(cfg Config, deps Deps) (*Authenticator, error) {
	cfg = cfg.withDefaults()
	if err := strictyaml.Check("api_keys.", cfg.Check); err != nil {
		return nil, err
	}
	peppers, err := NewPeppers(cfg)
	if err != nil {
		return nil, fmt.Errorf("api_keys: %w", err)
	}
	tokens, err := newSigned(deps.Signer)
	if err != nil {
		return nil, fmt.Errorf("api_keys: %w", err)
	}
	a := &Authenticator{
		prefix:  cfg.Prefix,
		file:    string(cfg.File),
		maxSize: int(cfg.MaxFileSize),
		limits:  limits{peppers: peppers, maxAge: cfg.MaxAge, refuseImported: cfg.RefuseImported, issuer: deps.Signer.Issuer()},
		tokens:  tokens,
		now:     deps.Now,
		read:    deps.ReadFile,
		indexes: deps.Indexes,
		held:    newQuarantine(),
	}
	_, _ = rand.Read(a.decoy[:]) // never fails: it ends the process instead
	if a.now == nil {
		a.now = time.Now
	}
	if a.read == nil {
		a.read = func(name string) ([]byte, error) { return regular.ReadFile(name, int64(a.maxSize)) }
	}
	if err := a.Reload(context.Background()); err != nil {
		return nil, err
	}
	return a, nil
}

// The refusals that say nothing about any key. Unknown and wrong are one value.
var (
	errUnknown   = authn.Refuse(policy.ReasonCredentialUnknown, "no such key, or its secret is wrong")
	errMalformed = authn.Refuse(policy.ReasonCredentialMalformed, "the key is misspelt or cut off: its form or its checksum is wrong")
	errTooLong   = authn.Refuse(policy.ReasonTokenTooLarge, fmt.Sprintf("longer than the %d bytes of the longest key", seal.MaxForeignLen))
)

// Authenticate implements authn.Authenticator. It does not allocate unless it
// meets a good key for the first time or refuses one that was proven.
func (a *Authenticator) Authenticate(_ context.Context, c *authn.Credential) (*authn.Proof, error) {
	ix, text := a.current.Load(), c.Secret.Reveal()
	p, err := seal.Parse(text)
	shaped := err == nil && p.Prefix == a.prefix
	if shaped && isOurs(p.Kind) {
		s := a.own(ix, text, p.ID)
		if s == nil && !seal.ChecksumFits(text) {
			// The digest covers the checksum, so only bad keys need to look at it.
			return nil, errMalformed
		}
		return a.answer(s)
	}
	if a.tokens.owns(text) {
		return a.signed(ix, text)
	}
	// Whatever is not one of our keys may be an imported one.
	if s := a.imported(ix, text); s != nil {
		return a.answer(s)
	}
	exclusive := isExclusive(c.Uses)
	switch {
	case a.hasPrefix(text) && !(shaped && seal.ChecksumFits(text)):
		return nil, errMalformed
	case !exclusive:
		return nil, authn.ErrNotMine
	case len(text) > seal.MaxForeignLen:
		return nil, errTooLong
	}
	return nil, errUnknown
}

// own verifies a key of our own format. An id that does not exist takes the same
// steps as a wrong secret, with the decoy in place of the record; wherever the
// record is, one digest is computed.
func (a *Authenticator) own(ix *index, text, id string) authn.Sealed {
	s := ix.ByID(id)
	for i := 0; i < len(a.indexes) && s == nil; i++ {
		s = a.indexes[i].ByID(id)
	}
	want, pepper := &a.decoy, a.limits.peppers.Current()
	if s != nil {
		want, pepper = s.Seal()
	}
	got, known := a.limits.peppers.Sum(pepper, text)
	if same := seal.Equal(&got, want); !same || !known || s == nil {
		return nil
	}
	return s
}

// imported finds a key of a foreign format by its digest: one hash, whether it
// exists or not.
func (a *Authenticator) imported(ix *index, text string) authn.Sealed {
	if a.limits.refuseImported || len(ix.byDigest) == 0 && len(a.indexes) == 0 {
		return nil
	}
	sum, ok := seal.ForeignSum(text)
	if !ok {
		return nil
	}
	s := ix.ByDigest(sum)
	for i := 0; i < len(a.indexes) && s == nil; i++ {
		s = a.indexes[i].ByDigest(sum)
	}
	return s
}

// answer turns a proven key, or none, into an answer.
func (a *Authenticator) answer(s authn.Sealed) (*authn.Proof, error) {
	if s == nil {
		return nil, errUnknown
	}
	proof, err := s.Open(a.now())
	if err != nil {
		return nil, err
	}
	if id := proof.Principal.CredentialID; a.held.holds(id) {
		return nil, authn.Refuse(policy.ReasonDisabled, "key "+id+" is proven, but in quarantine on this replica")
	}
	return proof, nil
}

// hasPrefix reports whether the text begins as our keys do.
func (a *Authenticator) hasPrefix(text string) bool {
	n := len(a.prefix)
	return len(text) > n && text[n] == '_' && text[:n] == a.prefix
}

// isOurs reports whether keys of the kind are proven here. Other kinds of our
// format, such as those of agents, belong to other authenticators.
func isOurs(kind seal.Kind) bool { return kind == seal.KindKey || kind == seal.KindPAT }

// isExclusive reports whether the rule that found the credential gives it to
// this authenticator alone, so that nobody else could own it.
func isExclusive(uses []policy.Method) bool {
	for _, u := range uses {
		if u != policy.MethodAPIKey && u != policy.MethodPAT {
			return false
		}
	}
	return len(uses) > 0
}

// Revoked reports whether the denylist names the credential, of whatever kind.
func (a *Authenticator) Revoked(s *authn.Subject) (policy.Reason, bool) {
	return a.current.Load().denylist.Revoked(s)
}

// Denylist returns the denylist in force; nil revokes nothing.
func (a *Authenticator) Denylist() *authn.Denylist { return a.current.Load().denylist }

// Epoch changes whenever an earlier answer may no longer be right: after a
// reload, a quarantine and a release (see authn.Epoch).
func (a *Authenticator) Epoch() uint64 { return a.epoch.Load() }

// Reload reads the keys file again. On any error the keys stay as they were, and
// Status says why.
func (a *Authenticator) Reload(ctx context.Context) error {
	a.reloading.Lock()
	defer a.reloading.Unlock()
	err := a.reload(ctx)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.status.Err = err
	return err
}

func (a *Authenticator) reload(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("reading the keys file: %w", err)
	}
	var src []byte
	if a.file != "" {
		var err error
		if src, err = a.read(a.file); err != nil {
			return fmt.Errorf("reading the keys file: %w", err)
		}
	}
	if len(src) > largeSource {
		// What reading needs is garbage when it is done, even if nothing is new.
		// Left alone, it stays with the process until as much as is in use has been
		// allocated once more, which in a server that hardly allocates is late.
		defer debug.FreeOSMemory()
	}
	sum := sha256.Sum256(src)
	if a.current.Load() != nil && sum == a.source {
		return nil
	}
	ix, err := a.build(src)
	if err != nil {
		return err
	}
	a.swap(ix)
	a.source = sum
	return nil
}

// largeSource is the size of keys files that leave much garbage.
const largeSource = 8 << 20

func (a *Authenticator) swap(ix *index) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.current.Store(ix)
	a.keepQuarantine(ix)
	a.epoch.Add(1)
	a.status = Status{
		Keys: len(ix.byID), Imported: len(ix.byDigest), Revocations: ix.denylist.Len(),
		LoadedAt: a.now(),
	}
}

// build makes an index of the file's content.
func (a *Authenticator) build(src []byte) (*index, error) {
	if a.file == "" {
		return newIndex(nil, nil, &a.limits)
	}
	return loadKeysFile(a.file, src, a.prefix, a.limits, a.maxSize)
}

// keepQuarantine ends quarantines when the file says so with released_at, or
// nobody knows the key any more, and not because somebody happened to edit another
// line.
func (a *Authenticator) keepQuarantine(ix *index) {
	for id, since := range a.held.all() {
		r := ix.find(id)
		if r != nil && since.Before(instant(r.released)) || r == nil && !a.elsewhere(id) {
			a.held.release(id)
		}
	}
}

// elsewhere reports whether one of the other indexes has the key.
func (a *Authenticator) elsewhere(id string) bool {
	for _, ix := range a.indexes {
		if ix.ByID(id) != nil {
			return true
		}
	}
	return false
}

// Quarantine disables a key on this replica at once: requests with it are
// refused as disabled until Release, a restart, or a keys file that says
// released_at. To make it last, disable it where it is kept. It reports whether
// there is such a key.
func (a *Authenticator) Quarantine(id string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.current.Load().find(id) == nil && !a.elsewhere(id) {
		return false
	}
	if !a.held.holds(id) {
		a.held.hold(strings.Clone(id), a.now())
		a.epoch.Add(1)
	}
	return true
}

// Release ends a quarantine. It reports whether there was one.
func (a *Authenticator) Release(id string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.held.holds(id) {
		return false
	}
	a.held.release(id)
	a.epoch.Add(1)
	return true
}

// Status is the state of the keys, for readiness and metrics.
type Status struct {
	// Keys, Imported and Revocations are how many of each are in force.
	Keys, Imported, Revocations int
	// LoadedAt is when the keys file in force was read.
	LoadedAt time.Time
	// Quarantined are the ids of the keys in quarantine on this replica, sorted.
	Quarantined []string
	// Err says why the last reload failed and older keys are in force; nil if it
	// did not fail.
	Err error
}

// Status returns the state now.
func (a *Authenticator) Status() Status {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := a.status
	for id := range a.held.all() {
		s.Quarantined = append(s.Quarantined, id)
	}
	slices.Sort(s.Quarantined)
	return s
}

var (
	_ authn.Authenticator = (*Authenticator)(nil)
	_ authn.Epoch         = (*Authenticator)(nil)
)
