package apikey

import (
	"context"
	"fmt"
	"math"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn"
	"github.com/postern-auth/postern/server/seal"
)

// manyKeys makes an authenticator with n keys and some more, without the detour
// over a file, and the texts of a sample of the n.
func manyKeys(t testing.TB, n, sample int, more ...Key) (*Authenticator, []string) {
	t.Helper()
	a, err := New(Config{Pepper: policy.NewSecret(testPepper)}, Deps{})
	if err != nil {
		t.Fatal(err)
	}
	random := seeded("many keys")
	keys := make([]Key, n)
	var texts []string
	for i := range keys {
		m, err := seal.Mint(random, seal.Spec{Environment: "live"}, a.limits.peppers)
		if err != nil {
			t.Fatal(err)
		}
		keys[i] = Key{
			ID: m.ID, Digest: a.limits.peppers.Digest(m.Secret),
			Principal: Principal{ID: fmt.Sprintf("svc-%08d", i), Tenant: fmt.Sprintf("tenant-%d", i%100), Scopes: []string{"read", "write"}},
			ExpiresAt: time.Now().Add(time.Hour),
		}
		if i%(n/sample) == 0 && len(texts) < sample {
			texts = append(texts, m.Secret.Reveal())
		}
	}
	use(t, a, append(keys, more...))
	return a, texts
}

// use puts an index of the keys in force.
func use(t testing.TB, a *Authenticator, keys []Key) {
	t.Helper()
	ix, err := newIndex(keys, nil, &a.limits)
	if err != nil {
		t.Fatal(err)
	}
	a.current.Store(ix)
}

func ask(a *Authenticator, c *authn.Credential) (*authn.Proof, error) {
	return a.Authenticate(context.Background(), c)
}

// K-05, TIMING-01 and TIMING-03: a key that does not exist and a wrong secret cost the
// same hashes and get the very same refusal, however much of the secret is right: what is
// compared is digests, whole. How long that takes is bench/plane's to say. This test must not run beside others: it counts hashes.
func TestUnknownAndWrongTakeTheSamePath(t *testing.T) {
	ps := testPeppers(t)
	m, err := seal.Mint(seeded("known"), seal.Spec{}, ps)
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := seal.Mint(seeded("unknown"), seal.Spec{}, ps)
	if err != nil {
		t.Fatal(err)
	}
	foreign := policy.NewSecret("sk_live_abc123def456ghi789")
	ended := Key{ID: stranger.ID[:11] + "Z", Digest: ps.Digest(policy.NewSecret("ended")), Disabled: true}
	text := m.Secret.Reveal()
	body := text[:len("pst_key_")+seal.IDLen+1] + "0000000000000000000000000000000000000000000"
	wrong := string(seal.AppendChecksum([]byte(body), body))
	endedBody := "pst_key_" + ended.ID + body[len("pst_key_")+seal.IDLen:]
	wrongOfEnded := string(seal.AppendChecksum([]byte(endedBody), endedBody))

	sharing := func(n int) string { // the first n characters of the secret, and then others
		at := len("pst_key_") + seal.IDLen + 1
		body := text[:at+n] + strings.Repeat("0", seal.SecretLen-n)
		return string(seal.AppendChecksum([]byte(body), body))
	}
	a, err := New(Config{Pepper: policy.NewSecret(testPepper)}, Deps{})
	if err != nil {
		t.Fatal(err)
	}
	use(t, a, []Key{{ID: m.ID, Digest: ps.Digest(m.Secret)}, ended, {ID: "legacy", Digest: seal.ImportedDigest(foreign)}})

	hashes := 0
	stop := seal.Observe(func() { hashes++ })
	count := func(text string) (int, error) {
		hashes = 0
		_, err := ask(a, &authn.Credential{Uses: []policy.Method{policy.MethodAPIKey}, Secret: policy.NewSecret(text)})
		return hashes, err
	}
	for _, c := range []struct {
		name, text string
		want       error
	}{
		{"good", text, nil},
		{"wrong secret", wrong, errUnknown},
		{"wrong secret of a disabled key", wrongOfEnded, errUnknown},
		{"wrong secret, 8 characters shared", sharing(8), errUnknown},
		{"wrong secret, 16 characters shared", sharing(16), errUnknown},
		{"wrong secret, 31 characters shared", sharing(31), errUnknown},
		{"wrong secret, 42 characters shared", sharing(42), errUnknown},
		{"unknown id", stranger.Secret.Reveal(), errUnknown},
		{"imported", foreign.Reveal(), nil},
		{"foreign and unknown", "sk_live_000000000000000000", errUnknown},
	} {
		if n, err := count(c.text); n != 1 || err != c.want {
			t.Errorf("%s: %d digests, %v; want 1, %v", c.name, n, err, c.want)
		}
	}
	stop()
	printTimes(t, a, wrong, stranger.Secret.Reveal())
}

// printTimes shows how long both take, for people: machines that run tests are
// too noisy to assert it. What remains are the few nanoseconds by which a map
// that holds an id differs from one that does not; ids are public.
func printTimes(t *testing.T, a *Authenticator, wrong, unknown string) {
	const samples = 50_000
	var times [2][]time.Duration
	creds := [2]authn.Credential{{Secret: policy.NewSecret(wrong)}, {Secret: policy.NewSecret(unknown)}}
	for range samples {
		for i := range creds {
			start := time.Now()
			_, _ = ask(a, &creds[i])
			times[i] = append(times[i], time.Since(start))
		}
	}
	for i, name := range []string{"wrong secret", "unknown id"} {
		slices.Sort(times[i])
		t.Logf("%-12s median %v, p95 %v", name, times[i][samples/2], times[i][samples*95/100])
		times[i] = times[i][:samples*95/100]
	}
	m0, v0 := moments(times[0])
	m1, v1 := moments(times[1])
	t.Logf("means below p95 differ by %.1f ns, Welch's t %.1f", m0-m1, (m0-m1)/math.Sqrt(v0+v1))
}

// moments returns the mean and the squared standard error of it.
func moments(times []time.Duration) (mean, variance float64) {
	n := float64(len(times))
	for _, d := range times {
		mean += float64(d) / n
	}
	for _, d := range times {
		variance += (float64(d) - mean) * (float64(d) - mean) / (n - 1) / n
	}
	return mean, variance
}

// Keys share a profile if, and only if, nothing in it differs: or one key would
// get another's rights.
func TestProfilesAreSharedOnlyIfEqual(t *testing.T) {
	t.Parallel()
	base := func() *Key {
		return &Key{
			Owner: "o", Environment: "live",
			Principal:   Principal{Tenant: "t", Roles: []string{"a"}, Scopes: []string{"b"}, Metadata: map[string]any{"k": "v"}},
			Constraints: &policy.Constraints{Methods: []string{"GET"}},
		}
	}
	all := profiles{}
	profileOf := func(change func(*Key)) *profile {
		k := base()
		change(k)
		p, err := all.of(k)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	same := profileOf(func(*Key) {})
	for name, change := range map[string]func(*Key){
		"nothing":   func(*Key) {},
		"name":      func(k *Key) { k.Name = "x" },
		"principal": func(k *Key) { k.Principal.ID = "x" },
		"times":     func(k *Key) { k.ExpiresAt = time.Unix(1, 0) },
	} {
		if profileOf(change) != same {
			t.Errorf("%s: not shared", name)
		}
	}
	path, err := policy.ParsePathPattern("/a/**")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[*profile]string{same: "base"}
	for name, change := range map[string]func(*Key){
		"kind":                func(k *Key) { k.Kind = seal.KindPAT },
		"principal kind":      func(k *Key) { k.Principal.Kind = policy.KindUser },
		"tenant":              func(k *Key) { k.Principal.Tenant = "u" },
		"no tenant":           func(k *Key) { k.Principal.Tenant = "" },
		"owner":               func(k *Key) { k.Owner = "p" },
		"environment":         func(k *Key) { k.Environment = "test" },
		"no roles":            func(k *Key) { k.Principal.Roles = nil },
		"role moved to scope": func(k *Key) { k.Principal.Roles, k.Principal.Scopes = nil, []string{"a", "b"} },
		"roles joined":        func(k *Key) { k.Principal.Roles = []string{`a","b`} },
		"two roles":           func(k *Key) { k.Principal.Roles = []string{"a", "b"} },
		"permissions":         func(k *Key) { k.Principal.Permissions = []string{"a"} },
		"metadata":            func(k *Key) { k.Principal.Metadata = map[string]any{"k": 1} },
		"no constraints":      func(k *Key) { k.Constraints = nil },
		"zero constraints":    func(k *Key) { k.Constraints = &policy.Constraints{} },
		"paths":               func(k *Key) { k.Constraints.Paths = []policy.PathPattern{path} },
		"networks":            func(k *Key) { k.Constraints.Networks = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")} },
		"tls":                 func(k *Key) { k.Constraints.RequireTLS = true },
		"windows":             func(k *Key) { k.Constraints.Windows = []policy.TimeWindow{{From: "08:00", To: "09:00"}} },
		"resources":           func(k *Key) { k.Constraints.Resources = []string{"a:b"} },
		"peers":               func(k *Key) { k.Constraints.Peers = []string{"billing.internal"} },
	} {
		p := profileOf(change)
		if other, taken := seen[p]; taken {
			t.Errorf("%s: shared with %s", name, other)
		}
		seen[p] = name
	}
}

// K-15: good and bad credentials of every shape cost no allocation.
func TestAuthenticateDoesNotAllocate(t *testing.T) {
	foreign := policy.NewSecret("sk_live_abc123def456ghi789")
	a, texts := manyKeys(t, 1000, 1, Key{ID: "legacy", Digest: seal.ImportedDigest(foreign)})
	stranger, err := seal.Mint(seeded("stranger"), seal.Spec{}, a.limits.peppers)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"good": texts[0], "imported": foreign.Reveal(), "unknown": stranger.Secret.Reveal(), "misspelt": texts[0] + "x",
		"foreign": "opaque", "token": "eyJhbGciOiJSUzI1NiJ9.e30.c2ln", "empty": "",
	} {
		for _, uses := range [][]policy.Method{{policy.MethodAPIKey}, {policy.MethodAPIKey, policy.MethodJWT}} {
			c := &authn.Credential{Uses: uses, Secret: policy.NewSecret(text)}
			if n := testing.AllocsPerRun(100, func() { _, _ = ask(a, c) }); n != 0 {
				t.Errorf("%s through %v: %v allocations", name, uses, n)
			}
		}
	}
}

// K-15
func BenchmarkAuthenticate(b *testing.B) {
	for _, n := range []int{1_000, 1_000_000} {
		before := heap()
		a, texts := manyKeys(b, n, 1000)
		size := float64(heap()-before) / float64(n)
		creds := make([]authn.Credential, len(texts))
		for i := range texts {
			creds[i] = authn.Credential{Uses: []policy.Method{policy.MethodAPIKey}, Secret: policy.NewSecret(texts[i])}
			if _, err := ask(a, &creds[i]); err != nil {
				b.Fatal(err)
			}
		}
		stranger, err := seal.Mint(seeded("stranger"), seal.Spec{Environment: "live"}, a.limits.peppers)
		if err != nil {
			b.Fatal(err)
		}
		unknown := authn.Credential{Secret: stranger.Secret}
		b.Run(fmt.Sprintf("good/%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if _, err := ask(a, &creds[i%len(creds)]); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(size, "B/key")
		})
		b.Run(fmt.Sprintf("unknown/%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := ask(a, &unknown); err != errUnknown {
					b.Fatal(err)
				}
			}
		})
	}
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
