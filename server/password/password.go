// Package password keeps and checks the passwords of users.
//
// # What is kept
//
// A new password becomes Argon2id (RFC 9106) in the PHC string format, with the
// parameters that OWASP recommends and, if there is one, a pepper:
//
//	$argon2id$v=19$m=19456,t=2,p=1,keyid=djE$<salt, 16 bytes>$<hash, 32 bytes>
//
// The pepper is a secret of the server that is not where the hashes are. What
// Argon2id gets is then HMAC-SHA-256 of the password under the pepper whose version
// stands as keyid, so that stolen hashes cannot even be tried.
//
// Hashes from elsewhere are verified as well, and NeedsRehash says so that the next
// login replaces them: Argon2id and Argon2i of other parameters, bcrypt ($2a$, $2b$,
// $2y$, as htpasswd -B writes it) and PBKDF2 ($pbkdf2-sha256$, $pbkdf2-sha512$).
// Whoever writes a hash also says how much work it is, so anything that would take
// more than about a second or 256 MiB is refused before any work is done.
//
// # How much at once
//
// Hashing is made to be expensive, and anybody may ask for it. So only some hashes
// are computed at once, some more wait, and the rest is turned away with ErrBusy,
// which is "could not find out" and never "no":
//
//	more than Workers + Queue      ErrBusy at once
//	more than Workers              wait, until the context ends
//	hashes that need more memory   besides, one of them at a time
//
// A thousand logins at once therefore need no more memory than Workers of them, and
// leave the other CPUs to those who bring a token.
//
// # Who is unknown
//
// Whoever has no password, or is not there at all, is verified against a hash that
// nothing fits (VerifyNobody), which costs what any other of ours costs. Computed
// counts, so that tests can show it by counting. A hash from elsewhere costs what it
// costs, until its owner's next login.
package password

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync/atomic"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/strictyaml"
)

// The errors of this package. All but ErrHash and ErrLength mean that it could not
// be found out whether a password is right.
var (
	// ErrBusy says that too many passwords are being checked.
	ErrBusy = errors.New("too many passwords are being checked at once")
	// ErrHash says that what is kept is not a hash that can be verified.
	ErrHash = errors.New("not a password hash that can be verified")
	// ErrLength says that a new password is empty or longer than MaxLen.
	ErrLength = fmt.Errorf("a password has 1 to %d bytes", MaxLen)
	// ErrPepper says that a hash was made with a pepper that is not in force.
	ErrPepper = errors.New("the password hash needs a pepper that is not configured")
)

// MaxLen is the longest password, in bytes.
const MaxLen = 1024

// Config says how passwords are hashed.
type Config struct {
	// Memory is what one hash takes, 7MiB to 256MiB. Default: 19MiB (OWASP).
	Memory strictyaml.Size `yaml:"memory"`
	// Passes is how often that memory is gone through, 1 to 10. With less memory,
	// more passes are needed: 19MiB with 2, 12MiB with 3, 46MiB with 1. Default: 2.
	Passes uint32 `yaml:"passes"`
	// Workers is how many hashes are computed at once, each on a CPU of its own.
	// Default: half of the CPUs, at least 1.
	Workers int `yaml:"workers"`
	// Queue is how many more may wait. Others are turned away with 503. Default: 64.
	Queue int `yaml:"queue"`
}

// The defaults of Config, and what it may be.
const (
	defaultMemory = 19 * strictyaml.MiB
	defaultPasses = 2
	defaultQueue  = 64

	minMemory = 7 * strictyaml.MiB
	maxMemory = 256 * strictyaml.MiB
	maxPasses = 10
	// minWork is the least of what OWASP takes for equal, 7 MiB with 5 passes, as
	// KiB times passes.
	minWork    = 7 * 1024 * 5
	maxWorkers = 1024
	maxQueue   = 100_000
)

func (c Config) withDefaults() Config {
	if c.Memory == 0 {
		c.Memory = defaultMemory
	}
	if c.Passes == 0 {
		c.Passes = defaultPasses
	}
	if c.Workers == 0 {
		c.Workers = max(1, runtime.GOMAXPROCS(0)/2)
	}
	if c.Queue == 0 {
		c.Queue = defaultQueue
	}
	return c
}

// Check reports all that is wrong with the block, each with its field.
func (c *Config) Check(report func(path, message, suggestion string)) {
	d := c.withDefaults()
	if d.Memory < minMemory || d.Memory > maxMemory {
		report("memory", fmt.Sprintf("is not from %v to %v", minMemory, maxMemory), "")
	}
	if d.Passes > maxPasses {
		report("passes", fmt.Sprintf("is more than %d", maxPasses), "")
	}
	if uint64(d.Memory/strictyaml.KiB)*uint64(d.Passes) < minWork {
		report("passes", fmt.Sprintf("%d are too few for %v", d.Passes, d.Memory), "use 19MiB with 2, 12MiB with 3, 9MiB with 4 or 7MiB with 5")
	}
	if d.Workers < 0 || d.Workers > maxWorkers {
		report("workers", fmt.Sprintf("is not from 1 to %d", maxWorkers), "")
	}
	if d.Queue < 0 || d.Queue > maxQueue {
		report("queue", fmt.Sprintf("is not from 1 to %d", maxQueue), "")
	}
}

// Peppers makes keys from secrets of the server (seal.Peppers).
type Peppers interface {
	// Current is the version to use for what is new; 0 if there is none.
	Current() uint16
	// Derive returns the key of a version for a purpose, and false if the version is
	// not in force.
	Derive(version uint16, purpose string) (key [32]byte, ok bool)
}

const purpose = "passwords"

// Deps are what a Hasher needs from others.
type Deps struct {
	// Peppers may be nil: then new hashes have none.
	Peppers Peppers
}

// Hasher hashes and verifies passwords. It is safe for concurrent use.
type Hasher struct {
	make    hash // what a new hash is like: everything but salt, sum and pepper
	peppers Peppers
	pool    *Pool
	// heavy is for the hashes from elsewhere that need more memory than ours: one at
	// a time.
	heavy  chan struct{}
	nobody hash
	random io.Reader

	computed atomic.Uint64
	// derive is hash.derive but in tests.
	derive func(h *hash, password []byte) ([]byte, error)
}

// New returns a Hasher.
func New(cfg Config, deps Deps) (*Hasher, error) {
	if err := strictyaml.Check("", cfg.Check); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	h := &Hasher{
		make:    hash{scheme: argon2id, memory: uint32(cfg.Memory / strictyaml.KiB), passes: cfg.Passes, threads: 1},
		peppers: deps.Peppers,
		pool:    NewPool(cfg.Workers, cfg.Queue),
		heavy:   make(chan struct{}, 1),
		random:  rand.Reader,
		derive:  (*hash).derive,
	}
	var err error
	h.nobody, err = h.blank()
	h.nobody.sum = make([]byte, sumLen)
	_, _ = rand.Read(h.nobody.sum) // never fails: it ends the process instead
	return h, err
}

const (
	saltLen = 16 // bytes, as RFC 9106 section 3.1 recommends
	sumLen  = 32
)

// blank is a new hash without its sum.
func (h *Hasher) blank() (hash, error) {
	b := h.make
	if h.peppers != nil {
		b.pepper = h.peppers.Current()
	}
	b.salt = make([]byte, saltLen)
	if _, err := io.ReadFull(h.random, b.salt); err != nil {
		return hash{}, fmt.Errorf("no password was hashed: random source: %w", err)
	}
	return b, nil
}

// Hash returns the hash of a new password in PHC form, ErrLength, ErrBusy or the
// error of the context.
func (h *Hasher) Hash(ctx context.Context, password policy.Secret) (string, error) {
	if !usable(password) {
		return "", ErrLength
	}
	b, err := h.blank()
	if err != nil {
		return "", err
	}
	if b.sum, err = h.compute(ctx, &b, password); err != nil {
		return "", err
	}
	return b.String(), nil
}

func usable(password policy.Secret) bool {
	n := len(password.Reveal())
	return n > 0 && n <= MaxLen
}

// Verify reports whether a password fits a hash. An empty hash is nobody's, and
// nothing fits. An error means that it could not be found out: ErrBusy, the end of
// the context, ErrHash for what is no hash, ErrPepper.
func (h *Hasher) Verify(ctx context.Context, phc string, password policy.Secret) (bool, error) {
	if phc == "" {
		return false, h.VerifyNobody(ctx, password)
	}
	kept, err := parse(phc)
	if err == nil && kept.pepper != 0 && !h.knows(kept.pepper) {
		err = ErrPepper
	}
	if err != nil {
		return false, errors.Join(err, h.VerifyNobody(ctx, password))
	}
	return h.verify(ctx, &kept, password)
}

// VerifyNobody does the work of a Verify that fails, for a user who does not exist,
// is disabled or has no password, and returns the errors that Verify would.
func (h *Hasher) VerifyNobody(ctx context.Context, password policy.Secret) error {
	_, err := h.verify(ctx, &h.nobody, password)
	return err
}

func (h *Hasher) verify(ctx context.Context, kept *hash, password policy.Secret) (bool, error) {
	if !usable(password) {
		return false, nil // whoever the user is
	}
	sum, err := h.compute(ctx, kept, password)
	if err != nil {
		return false, err
	}
	same := subtle.ConstantTimeCompare(sum, kept.sum) == 1
	return same && kept != &h.nobody && kept.takes(password.Reveal()), nil
}

// compute waits for its turn and hashes the password as kept was.
func (h *Hasher) compute(ctx context.Context, kept *hash, password policy.Secret) ([]byte, error) {
	text := []byte(password.Reveal())
	defer clear(text)
	if kept.pepper != 0 {
		key, ok := h.peppers.Derive(kept.pepper, purpose)
		if !ok {
			return nil, ErrPepper
		}
		text = peppered(key, text)
	}
	var before chan struct{}
	if kept.memory > h.make.memory {
		before = h.heavy
	}
	leave, err := h.pool.enter(ctx, before)
	if err != nil {
		return nil, err
	}
	defer leave()
	h.computed.Add(1)
	return h.derive(kept, text)
}

func (h *Hasher) knows(version uint16) bool {
	if h.peppers == nil {
		return false
	}
	_, ok := h.peppers.Derive(version, purpose)
	return ok
}

// NeedsRehash reports whether a hash is not like one that Hash would make now. Who
// has just verified a password against such a hash should keep a new one instead.
func (h *Hasher) NeedsRehash(phc string) bool {
	kept, err := parse(phc)
	want := h.make
	if h.peppers != nil {
		want.pepper = h.peppers.Current()
	}
	return err != nil || kept.scheme != want.scheme || kept.memory != want.memory || kept.passes != want.passes ||
		kept.threads != want.threads || kept.pepper != want.pepper || len(kept.salt) < saltLen || len(kept.sum) < sumLen
}

// Check reports whether a hash that was made elsewhere can be verified. The error
// is an ErrHash that says why not, and does not repeat the hash.
func Check(phc string) error {
	_, err := parse(phc)
	return err
}

// Check is the function of that name.
func (*Hasher) Check(phc string) error { return Check(phc) }

// Computed is how many hashes have been computed, for metrics and for tests that
// count.
func (h *Hasher) Computed() uint64 { return h.computed.Load() }

// Load is how many hashes are being computed, and how many wait.
func (h *Hasher) Load() (running, waiting int) { return h.pool.Load() }

// Format keeps fmt from printing the hash that nothing fits.
func (h *Hasher) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "[password hasher]") }
