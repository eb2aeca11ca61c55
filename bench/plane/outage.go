package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log"
	"os"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/status"

	"github.com/postern-auth/postern/bench/rig"
	adminv1 "github.com/postern-auth/postern/gen/postern/admin/v1"
	posternv1 "github.com/postern-auth/postern/gen/postern/v1"
	"github.com/postern-auth/postern/server/seal"
)

// said is what must not change of an answer.
type said struct {
	allowed   bool
	reason    posternv1.Reason
	principal string
}

func (s said) String() string {
	return strings.TrimSpace(strings.ToLower(strings.TrimPrefix(s.reason.String(), "REASON_")) + " " + s.principal)
}

// probe is a question and what was answered while all was well.
type probe struct {
	name string
	ask  *posternv1.CheckRequest
	want said
}

// breakdown is a way in which the store can be away.
type breakdown struct {
	name string
	down time.Duration
	// begin takes the store away, and returns what brings it back.
	begin func(*database) (func() error, error)
}

// outage takes the store away from four replicas, two of each mode, of which two
// are killed and started again meanwhile.
func outage(ctx context.Context, l *lab, s settings, out *rig.Report) error {
	for _, b := range []breakdown{
		{"stopped", s.down, func(d *database) (func() error, error) { return d.Up, d.Down() }},
		{"hangs", min(s.down, 15*time.Second), (*database).hang},
	} {
		if err := b.run(ctx, l, out); err != nil {
			return fmt.Errorf("database %s: %w", b.name, err)
		}
	}
	return nil
}

// roles are the four replicas.
var roles = []struct {
	name           string
	strict, killed bool
}{
	{"strict", true, false},
	{"available", false, false},
	{"strict, killed and restarted", true, true},
	{"available, killed and restarted", false, true},
}

func (b breakdown) run(ctx context.Context, l *lab, out *rig.Report) error {
	extras := make([]string, len(roles))
	for i, r := range roles {
		if !r.strict {
			extras[i] = fmt.Sprintf(", mode: available, max_stale: 1h, snapshot: replica%d.snapshot", l.replicas+1+i)
		}
	}
	f, err := newFleet(ctx, l, extras)
	if err != nil {
		return err
	}
	defer f.close()
	probes, victim, err := f.probes(ctx, l)
	if err != nil {
		return err
	}
	interviews := make([]*interview, len(roles))
	for i, r := range f.replicas {
		interviews[i] = &interview{replica: r, strict: roles[i].strict, probes: probes}
		if err := interviews[i].agree(ctx); err != nil {
			return err
		}
		if !roles[i].strict {
			if err := snapshotted(ctx, l.path(r.name+".snapshot"), time.Now()); err != nil {
				return err
			}
		}
	}
	for _, v := range interviews {
		v.start(ctx)
	}
	time.Sleep(500 * time.Millisecond)
	log.Printf("  the database %s for %v", b.name, b.down)
	restore, err := b.begin(f.db)
	down := time.Now()
	if err != nil {
		return err
	}
	for _, v := range interviews {
		v.down.set(down)
	}
	time.Sleep(min(b.down/4, 5*time.Second))
	acknowledged, refused := f.revokeAll(ctx, victim)
	starts, err := f.restart(ctx, interviews)
	if err == nil {
		time.Sleep(time.Until(down.Add(b.down)))
	}
	for _, v := range interviews {
		v.up.set(time.Now())
	}
	if err := errors.Join(err, restore()); err != nil {
		return err
	}
	recovered, err := f.recover(ctx, time.Now())
	if err != nil {
		return err
	}
	time.Sleep(300 * time.Millisecond)
	for _, v := range interviews {
		v.stop()
	}
	for i, v := range interviews {
		v.report(ctx, out, fmt.Sprintf("database %s for %v: %s", b.name, b.down, roles[i].name), down, starts[i])
	}
	out.Add(rig.Row{
		Part: "outage", What: fmt.Sprintf("database %s: revocations meanwhile", b.name),
		Figure: fmt.Sprintf("%d acknowledged", acknowledged),
		Wanted: "none", Verdict: rig.Promise(acknowledged == 0),
		Remark: refused,
	})
	out.Add(rig.Row{Part: "outage", What: fmt.Sprintf("database %s: fresh again after it is back", b.name), Figure: recovered.String()})
	return f.series(ctx, settings{events: 8}, disturbance{part: "outage", name: fmt.Sprintf("revocations after it %s", b.name)}, out)
}

// probes are questions of all sorts. The victim is another key, that is to be revoked
// while the store is away: what becomes of that is open where no answer comes.
func (f *fleet) probes(ctx context.Context, l *lab) (all []probe, victim *event, err error) {
	const good = 12
	keys, err := f.people.many(ctx, good+2*len(kinds))
	if err != nil {
		return nil, nil, err
	}
	if victim, err = f.people.issue(ctx, 0); err != nil {
		return nil, nil, err
	}
	for i, e := range keys[:good] {
		all = append(all, probe{name: fmt.Sprint("good ", i), ask: question(e.key)})
	}
	for _, e := range keys[good:] {
		if err := e.end(ctx, f.replicas[0]); err != nil {
			return nil, nil, err
		}
		all = append(all, probe{name: e.kind, ask: question(e.key)})
	}
	unknown, err := seal.Mint(rand.Reader, seal.Spec{}, l.peppers)
	if err != nil {
		return nil, nil, err
	}
	for _, p := range []struct{ name, key, path string }{
		{"unknown", unknown.Secret.Reveal(), "/things/1"},
		{"wrong secret", wrongSecret(keys[0].key), "/things/1"},
		{"misspelt", keys[0].key[:len(keys[0].key)-1], "/things/1"},
		{"nothing", "", "/things/1"},
		{"no right", keys[0].key, "/secrets/1"},
	} {
		all = append(all, probe{name: p.name, ask: questionOf(p.key, p.path)})
	}
	for i, r := range f.replicas {
		if err := f.await(ctx, r, keys[:good]); err != nil {
			return nil, nil, err
		}
		time.Sleep(300 * time.Millisecond) // longer than a poll: it knows of all that ended
		for j := range all {
			a := r.ask(ctx, all[j].ask)
			got := said{a.allowed, a.reason, a.principal}
			if i == 0 {
				all[j].want = got
			}
			if got != all[j].want || got.allowed != strings.HasPrefix(all[j].name, "good") {
				return nil, nil, fmt.Errorf("%s: %s says %v, the first replica %v", all[j].name, r.name, got, all[j].want)
			}
		}
	}
	return all, victim, nil
}

// wrongSecret is a key with the same id as another, and a right checksum.
func wrongSecret(key string) string {
	const end = seal.SecretLen + seal.ChecksumLen
	body := []byte(key[:len(key)-seal.ChecksumLen])
	at := len(key) - end
	if body[at]++; !seal.IsBase62(string(body[at : at+1])) {
		body[at] = '0'
	}
	return string(seal.AppendChecksum(body, string(body)))
}

// snapshotted waits until a snapshot has been written since.
func snapshotted(ctx context.Context, path string, since time.Time) error {
	for time.Since(since) < time.Minute && ctx.Err() == nil {
		if info, err := os.Stat(path); err == nil && info.ModTime().After(since) {
			return nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	return fmt.Errorf("%s was not written", path)
}

// revokeAll tries to revoke a key on every replica, and returns how often that was
// acknowledged, and one of the refusals.
func (f *fleet) revokeAll(ctx context.Context, e *event) (acknowledged int, refused string) {
	var mu sync.Mutex
	var all sync.WaitGroup
	for _, r := range f.replicas {
		all.Go(func() {
			call, cancel := context.WithTimeout(r.as(ctx), 3*time.Second)
			defer cancel()
			_, err := adminv1.NewCredentialServiceClient(r.admin).RevokeCredential(call, &adminv1.RevokeCredentialRequest{Id: e.id})
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				acknowledged++
			} else if !strings.Contains(refused, status.Code(err).String()) {
				refused = strings.TrimSpace(refused + " " + status.Code(err).String())
			}
		})
	}
	all.Wait()
	return acknowledged, refused
}

// restart kills those replicas that are to be killed and starts them again. It
// returns how long that took from the start to the first answer.
func (f *fleet) restart(ctx context.Context, interviews []*interview) ([]time.Duration, error) {
	took, errs := make([]time.Duration, len(roles)), make([]error, len(roles))
	var all sync.WaitGroup
	for i, r := range f.replicas {
		if !roles[i].killed {
			continue
		}
		all.Go(func() {
			interviews[i].stop()
			r.kill()
			if errs[i] = r.start(ctx); errs[i] != nil {
				return
			}
			for a := (answer{err: errors.New("none yet")}); a.err != nil && ctx.Err() == nil; {
				a = r.ask(ctx, interviews[i].probes[0].ask)
			}
			took[i] = time.Since(r.Started)
			interviews[i].start(ctx)
		})
	}
	all.Wait()
	return took, errors.Join(errs...)
}

// recover waits until every replica has heard of all changes again, and returns how
// long that took after the store was back.
func (f *fleet) recover(ctx context.Context, back time.Time) (times, error) {
	took := make(times, len(f.replicas))
	errs := make([]error, len(f.replicas))
	var all sync.WaitGroup
	for i, r := range f.replicas {
		all.Go(func() {
			for ctx.Err() == nil && time.Since(back) < time.Minute {
				m, err := r.scrape()
				if age, ok := m["postern_store_age_seconds"]; err == nil && ok && age < bound.Seconds()/2 {
					took[i] = time.Since(back)
					return
				}
				time.Sleep(10 * time.Millisecond)
			}
			errs[i] = fmt.Errorf("%s does not recover:\n%s", r.name, r.Said())
		})
	}
	all.Wait()
	return took, errors.Join(errs...)
}

// interview asks a replica all questions over and over.
type interview struct {
	replica *replica
	strict  bool
	probes  []probe
	// down and up are when the store went away and was about to come back.
	down, up moment

	cancel context.CancelFunc
	done   chan struct{}

	asked, blind, early, failed, changed int
	example                              string
	// lastAllow is the last allow while the store was away; late are those past the
	// bound.
	lastAllow time.Time
	late      []answer
}

// pace is the pause between two questions of an interview.
const pace = 10 * time.Millisecond

// agree asks everything once: before anything happens all must be as it was.
func (v *interview) agree(ctx context.Context) error {
	for _, p := range v.probes {
		if a := v.replica.ask(ctx, p.ask); (said{a.allowed, a.reason, a.principal}) != p.want {
			return fmt.Errorf("%s: %s now says %v, before %v", p.name, v.replica.name, a.reason, p.want)
		}
	}
	return nil
}

func (v *interview) start(ctx context.Context) {
	ctx, v.cancel = context.WithCancel(ctx)
	v.done = make(chan struct{})
	go func() {
		defer close(v.done)
		for i := 0; ctx.Err() == nil; i++ {
			p := &v.probes[i%len(v.probes)]
			a := v.replica.ask(ctx, p.ask)
			if ctx.Err() == nil {
				v.note(p, a, v.down.get(), v.up.get())
			}
			time.Sleep(pace)
		}
	}()
}

func (v *interview) stop() { v.cancel(); <-v.done }

// note takes an answer in. Of a strict replica that is blind nothing else is
// wanted.
func (v *interview) note(p *probe, a answer, down, up time.Time) {
	if a.err != nil {
		v.failed++
		return
	}
	v.asked++
	away := !down.IsZero() && a.received.After(down) && (up.IsZero() || a.sent.Before(up))
	got := said{a.allowed, a.reason, a.principal}
	switch {
	case v.strict && a.blind():
		v.blind++
		if down.IsZero() {
			v.early++
		}
		return
	case got != p.want:
		v.changed++
		v.example = fmt.Sprintf("%s: %v, was %v", p.name, got, p.want)
	}
	if !a.allowed || !away {
		return
	}
	if a.received.After(v.lastAllow) {
		v.lastAllow = a.received
	}
	if late(a.received, down) {
		v.late = append(v.late, a)
	}
}

// report judges. What was allowed late is looked at again: it may have been decided
// in time.
func (v *interview) report(ctx context.Context, out *rig.Report, name string, down time.Time, start time.Duration) {
	line := rig.Row{Part: "outage", What: name}
	var remarks []string
	if start > 0 {
		remarks = append(remarks, fmt.Sprintf("start to first answer %v", start.Round(time.Millisecond)))
	}
	if v.failed > 0 {
		remarks = append(remarks, fmt.Sprintf("%d without answer", v.failed))
	}
	if v.changed > 0 {
		remarks = append(remarks, v.example)
	}
	holds := v.asked > len(v.probes) && v.changed == 0 && v.failed == 0
	if v.strict {
		settled := 0
		for _, a := range v.late[:min(len(v.late), 20)] {
			if _, done, ok := v.replica.decided(ctx, a.id); ok && !late(done, down) {
				settled++
			}
		}
		if settled > 0 {
			remarks = append(remarks, fmt.Sprintf("%d decided in time, received late", settled))
		}
		last := "none"
		if !v.lastAllow.IsZero() {
			last = fmt.Sprintf("%.0f ms", float64(v.lastAllow.Sub(down))/1e6)
		}
		line.Figure = fmt.Sprintf("%d answers, %d denied for it, %d otherwise changed; last allow %s", v.asked, v.blind, v.changed, last)
		line.Wanted, line.Verdict = "no allow after 1 s", rig.Promise(holds && v.blind > v.early && len(v.late) == settled)
		if v.early > 0 {
			remarks = append(remarks, fmt.Sprintf("%d denied before it was away", v.early))
		}
	} else {
		line.Figure = fmt.Sprintf("%d answers, %d changed", v.asked, v.changed)
		line.Wanted, line.Verdict = "unchanged", rig.Promise(holds)
	}
	line.Remark = strings.Join(remarks, "; ")
	out.Add(line)
}
