package admin

import (
	"hash/maphash"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/tally"
)

// tries bounds how many wrong credentials one address may show: some hundreds at once,
// and then as many as tryPace says (GCRA). Beyond, what comes from there is not looked at,
// but for what was good before: an honest client behind the same address goes on, and
// elsewhere nobody notices. Wrong ones are counted when they have been looked at, so that
// many honest calls at once never count; how many wrong ones are under way is bounded by
// the listener.
//
// Neither credentials nor digests of them are kept: what was good is known by a hash of 64
// bits with a key of this process. Who finds another text with the same hash has it looked
// at, and no more.
type tries struct {
	now  func() time.Time
	log  *slog.Logger
	seed maphash.Seed

	mu    sync.Mutex
	wrong tally.Book[netip.Addr] // until when what was tried is paid for
	good  tally.Book[uint64]
}

const (
	// tryPace is what each wrong one costs, and tryBurst how many may be shown at once.
	tryPace  = 100 * time.Millisecond
	tryBurst = 300
	// goodFor is how long a credential that was good is looked at in any case.
	goodFor = time.Hour
)

func newTries(log *slog.Logger, now func() time.Time) *tries {
	return &tries{now: now, log: log, seed: maphash.MakeSeed()}
}

// admits reports whether to look at what somebody shows.
func (t *tries) admits(from netip.Addr, shown uint64) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.now()
	return !t.wrong.Get(tally.Client(from), now).Until.After(now.Add((tryBurst-1)*tryPace)) || t.good.Get(shown, now).N > 0
}

// failed counts a wrong one, and says so in the log when the first burst is over.
func (t *tries) failed(from netip.Addr) {
	t.mu.Lock()
	client, now := tally.Client(from), t.now()
	n := t.wrong.Get(client, now)
	if n.N == 0 {
		n.Until = now
	}
	n.N++
	n.Until = n.Until.Add(tryPace)
	t.wrong.Put(client, n, now)
	t.mu.Unlock()
	if n.N == tryBurst {
		t.log.Warn("wrong credentials are tried at the admin API", "event", "admin_tries", "client", client)
	}
}

// passed remembers a good one.
func (t *tries) passed(shown uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.now()
	t.good.Put(shown, tally.Tally{N: 1, Until: now.Add(goodFor)}, now)
}

// shown stands for the credentials of a request and the address that it comes from: the
// fields that may hold one, and the certificate.
func (t *tries) shown(from netip.Addr, a *policy.Attributes, fields []string) uint64 {
	var h maphash.Hash
	h.SetSeed(t.seed)
	write := func(text string) {
		maphash.WriteComparable(&h, len(text))
		_, _ = h.WriteString(text)
	}
	write(tally.Client(from).String())
	for _, f := range a.Headers {
		if f.Name == "authorization" || slices.Contains(fields, f.Name) {
			write(f.Name)
			write(f.Value)
		}
	}
	if len(a.Connection) > 0 {
		write(string(a.Connection[0].Raw))
	}
	return h.Sum64()
}
