package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"math"
	mrand "math/rand/v2"
	"runtime"
	"runtime/debug"
	"time"

	"github.com/postern-auth/postern/bench/rig"
	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn"
	"github.com/postern-auth/postern/server/authn/apikey"
	"github.com/postern-auth/postern/server/mirror"
	"github.com/postern-auth/postern/server/seal"
	"github.com/postern-auth/postern/server/store"
	"github.com/postern-auth/postern/server/store/memory"
)

// sorts are the answers whose times are compared, each with that of another one.
//
// The first two are the same, so that the noise of the machine shows. A "cold" key
// is tried once and then not for a while, as by somebody who looks for ids: its time
// tells as well where in memory its record is, if there is one. A "warm" one is
// tried over and over, as by somebody who measures one id: what is left is work.
var sorts = []struct {
	name    string
	against int
	make    func(*accounts, int) string
}{
	{"unknown id, cold", 0, func(*accounts, int) string { return wrongSecret(stranger()) }},
	{"unknown id, cold, once more", 0, func(*accounts, int) string { return wrongSecret(stranger()) }},
	{"wrong secret, cold", 0, func(a *accounts, i int) string { return wrongSecret(a.active[few+i%(len(a.active)-few)]) }},
	{"wrong secret of a disabled key, cold", 0, func(a *accounts, i int) string { return wrongSecret(a.disabled[few+i%(len(a.disabled)/2-few)]) }},
	{"unknown id, warm", 4, func(a *accounts, i int) string { return wrongSecret(a.strangers[i%few]) }},
	{"wrong secret, warm", 4, func(a *accounts, i int) string { return wrongSecret(a.active[i%few]) }},
	{"wrong secret of a disabled key, warm", 4, func(a *accounts, i int) string { return wrongSecret(a.disabled[i%few]) }},
	// Guesses that get warmer (TIMING-03), beside one that is not (TIMING-01).
	{"wrong secret, 8 characters shared, warm", 5, func(a *accounts, i int) string { return sharing(a.active[i%few], 8) }},
	{"wrong secret, 16 characters shared, warm", 5, func(a *accounts, i int) string { return sharing(a.active[i%few], 16) }},
	{"wrong secret, 31 characters shared, warm", 5, func(a *accounts, i int) string { return sharing(a.active[i%few], 31) }},
	{"right secret of a disabled key, cold", 0, func(a *accounts, i int) string { return a.disabled[len(a.disabled)/2+i%(len(a.disabled)/2)] }},
}

// sharing is a wrong secret of a key, of which the first n characters are right.
func sharing(key string, n int) string {
	body := []byte(key[:len(key)-seal.ChecksumLen])
	at := len(body) - seal.SecretLen + n
	if body[at]++; !seal.IsBase62(string(body[at : at+1])) {
		body[at] = '0'
	}
	return string(seal.AppendChecksum(body, string(body)))
}

// few is how many keys are warm.
const few = 16

// accounts are keys in a store, and strangers some that are not.
type accounts struct{ active, disabled, strangers []string }

// timing measures in process how long each sort of answer takes, one sample of each
// in turn, in an order drawn anew each time. It is a statistic, not a judgement: a
// machine with other work on it shows what it likes.
func timing(ctx context.Context, l *lab, s settings, out *rig.Report) error {
	st := memory.New(time.Now)
	defer st.Close()
	known, err := newAccounts(ctx, l, st, 10_000)
	if err != nil {
		return err
	}
	m := mirror.New(mirror.Config{}, st, mirror.Deps{Peppers: l.peppers})
	if err := m.Load(ctx); err != nil {
		return err
	}
	keys, err := apikey.New(apikey.Config{Pepper: l.pepper}, apikey.Deps{Indexes: []authn.Index{m.Credentials()}})
	if err != nil {
		return err
	}
	took, err := takeTurns(ctx, keys, known, s.samples)
	if err != nil {
		return err
	}
	for i := range took {
		took[i] = took[i].sorted()
	}
	for i, x := range sorts {
		if x.against == i {
			continue
		}
		reference := took[x.against]
		all, cut := compare(reference, took[i])
		out.Add(rig.Row{
			Part: "timing", What: x.name + ", against " + sorts[x.against].name,
			Figure: fmt.Sprintf("mean %+.1f ns, Welch t %+.1f; without the slowest 1%%: mean %+.1f ns, t %+.1f", all.difference, all.t, cut.difference, cut.t),
			Remark: fmt.Sprintf("medians %d and %d ns, n %d", took[i].at(.5), reference.at(.5), s.samples),
		})
	}
	return nil
}

// newAccounts writes n keys, every other one disabled.
func newAccounts(ctx context.Context, l *lab, st store.Store, n int) (a *accounts, err error) {
	a = &accounts{}
	for range few {
		a.strangers = append(a.strangers, stranger())
	}
	w, now := &bulkWriter{ctx: ctx, store: st}, time.Now()
	w.put(&store.Principal{Tenant: tenant, ID: "service", Kind: policy.KindService, CreatedAt: now, UpdatedAt: now})
	for i := range n {
		minted, err := seal.Mint(rand.Reader, seal.Spec{}, l.peppers)
		if err != nil {
			return nil, err
		}
		c := &store.Credential{
			ID: minted.ID, Type: store.APIKey, Tenant: tenant, Principal: "service", Digest: minted.Digest.String(),
			CreatedAt: now, UpdatedAt: now, ExpiresAt: now.Add(time.Hour),
		}
		if i%2 == 0 {
			a.active = append(a.active, minted.Secret.Reveal())
		} else {
			c.Disabled = &store.Ending{At: now}
			a.disabled = append(a.disabled, minted.Secret.Reveal())
		}
		w.put(c)
	}
	w.flush()
	return a, w.err
}

// takeTurns measures n samples of each sort.
func takeTurns(ctx context.Context, keys *apikey.Authenticator, known *accounts, n int) ([]times, error) {
	took := make([]times, len(sorts))
	const batch = 1000
	for done := 0; done < n && ctx.Err() == nil; done += batch {
		made := make([][]authn.Credential, len(sorts))
		for _, i := range mrand.Perm(len(sorts)) {
			for j := range min(batch, n-done) {
				made[i] = append(made[i], credential(sorts[i].make(known, done+j)))
			}
		}
		runtime.GC() // not in the middle
		resume := debug.SetGCPercent(-1)
		for j := range min(batch, n-done) {
			for _, i := range mrand.Perm(len(sorts)) {
				begin := time.Now()
				_, err := keys.Authenticate(ctx, &made[i][j])
				took[i] = append(took[i], time.Since(begin))
				if err == nil {
					return nil, fmt.Errorf("%s: accepted", sorts[i].name)
				}
			}
		}
		debug.SetGCPercent(resume)
	}
	return took, ctx.Err()
}

// difference of two samples, and how sure it is: |t| over about 4.5 is no accident.
type difference struct{ difference, t float64 }

// compare returns the difference of b from a, of all and of those that are not
// slower than 99 % of both: what the machine does now and then hides the rest.
func compare(a, b times) (all, cut difference) {
	limit := min(a.at(.99), b.at(.99))
	of := func(limit time.Duration) difference {
		var x, y sample
		for _, d := range a {
			if d <= limit {
				x.add(float64(d))
			}
		}
		for _, d := range b {
			if d <= limit {
				y.add(float64(d))
			}
		}
		return difference{y.mean() - x.mean(), welch(&y, &x)}
	}
	return of(math.MaxInt64), of(limit)
}
