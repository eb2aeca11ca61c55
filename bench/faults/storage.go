package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/grpc/status"

	"github.com/postern-auth/postern/bench/rig"
	"github.com/postern-auth/postern/server/store/pgtest"
)

// storage is what happens to the store and its disk.
var storage = []fault{
	{"store-down", "PostgreSQL refuses connections", func(ctx context.Context, l *lab) (*line, error) {
		return l.badStore(ctx, "PostgreSQL away, connections refused", down, 0)
	}},
	{"store-slow", "PostgreSQL takes 2 s for whatever it says", func(ctx context.Context, l *lab) (*line, error) {
		return l.badStore(ctx, "PostgreSQL answers 2 s late", slow, 2*time.Second)
	}},
	{"store-silent", "connections to PostgreSQL are half open: nothing comes back", func(ctx context.Context, l *lab) (*line, error) {
		return l.badStore(ctx, "connections to PostgreSQL half open", silent, 0)
	}},
	{"store-torn", "PostgreSQL's answers break off in the middle", func(ctx context.Context, l *lab) (*line, error) {
		return l.badStore(ctx, "answers of PostgreSQL broken off by RST", torn, 0)
	}},
	{"disk", "the disk of the store is full (SQLite on a tmpfs of 16 MiB; root only)", fullDisk},
}

// badStore has two replicas reach PostgreSQL through a bad connection, one of each mode,
// and a third one reach it well, on which a key is revoked just before.
//
// The honest load and the gateway ask the replica in mode available, which promises to
// answer on. The one in mode strict promises to know of that revocation within a second,
// or to deny; so it denies honest people too, which is no failure.
func (l *lab) badStore(ctx context.Context, did string, how mode, delay time.Duration) (*line, error) {
	db, err := pgtest.Start(true)
	if errors.Is(err, pgtest.ErrNone) {
		return skipped("%v", err), nil
	}
	if err != nil {
		return nil, err
	}
	defer db.Close()
	dsn, err := db.Database(ctx)
	if err != nil {
		return nil, err
	}
	_, rest, _ := strings.Cut(dsn, "host=")
	dir, rest, _ := strings.Cut(rest, " ")
	between, err := newProxy(filepath.Join(dir, ".s.PGSQL.5432"))
	if err != nil {
		return nil, err
	}
	defer between.close()
	_, port, _ := net.SplitHostPort(between.at)
	if err := errors.Join(l.write("dsn.direct", dsn), l.write("dsn.through", "host=127.0.0.1 port="+port+" "+rest+" sslmode=disable")); err != nil {
		return nil, err
	}
	const store = "{ driver: postgres, dsn: \"${file:%s}\"%s }"
	direct, p, err := l.openPlane(ctx, recipe{store: fmt.Sprintf(store, "dsn.direct", "")})
	if err != nil {
		return nil, err
	}
	s := &scene{lab: l}
	defer func() { stopAll(append(s.replicas, direct)) }()
	defer p.close()
	for _, more := range []string{", mode: available, max_stale: 1h", ", mode: strict"} {
		one, err := l.open(ctx, 1, recipe{store: fmt.Sprintf(store, "dsn.through", more)})
		if err != nil {
			return nil, err
		}
		s.replicas = append(s.replicas, one...)
	}
	s.targets = s.replicas[:1]
	return s.playStore(ctx, did, p, func() { between.set(how, delay) }, func() { between.set(pass, 0) })
}

// playStore plays the scene of badStore.
func (s *scene) playStore(ctx context.Context, did string, p *plane, bad, good func()) (*line, error) {
	s.questions = s.lab.questions()
	var victim *issued
	for i := range 5 {
		k, err := p.issue(ctx)
		if err != nil {
			return nil, err
		}
		s.questions = append(s.questions, withKey("a good key of the store", "/api/v1/things7/42", k.key, allow))
		if i == 0 {
			if err := p.revoke(ctx, k); err != nil {
				return nil, err
			}
			s.questions[len(s.questions)-1] = k.question("a key revoked long ago")
			time.Sleep(known)
		}
		victim = k
	}
	s.questions = s.questions[:len(s.questions)-1] // the last is the victim, about whom the one in mode available may be wrong
	strict, err := newClient(time.Second, s.replicas[1].launch.GRPC)
	if err != nil {
		return nil, err
	}
	defer strict.close()
	witness := &load{ask: strict.ask, rate: 100, tally: &tally{}, questions: []*question{victim.question("a key revoked just before")}}
	for _, q := range s.questions {
		lenient := *q
		if q.right() == allow {
			lenient.right = func() want { return either }
		}
		witness.questions = append(witness.questions, victim.question("a key revoked just before"), &lenient)
	}
	s.also = append(s.also, witness)
	out, err := s.play(ctx, did, func(ctx context.Context) error {
		if err := p.revoke(ctx, victim); err != nil {
			return err
		}
		bad()
		time.Sleep(max(s.long, 3*known))
		good()
		return nil
	})
	if err != nil {
		return nil, err
	}
	out.want(out.Failed == 0, "%d failed checks in mode available, none are wanted", out.Failed)
	asked, unanswered, _, _ := witness.tally.counts()
	out.remark("mode strict: %d questions, %d without answer", asked, unanswered)
	return out, nil
}

// fullDisk fills the disk of a store while keys are issued and revoked. What was
// acknowledged holds, also after a restart; what was not may hold or not; and checks go
// on.
func fullDisk(ctx context.Context, l *lab) (*line, error) {
	disk := l.path("disk")
	unmount, err := rig.MountMemory(disk, "16m")
	if err != nil {
		return skipped("a tmpfs cannot be mounted, which only root can: %v", err), nil
	}
	defer func() { _ = unmount() }()
	r, p, err := l.openPlane(ctx, recipe{store: fmt.Sprintf("{ driver: sqlite, path: %q }", filepath.Join(disk, "postern.db"))})
	if err != nil {
		return nil, err
	}
	s := &scene{lab: l, replicas: []*replica{r}, questions: l.questions()}
	defer stopAll(s.replicas)
	defer p.close()
	w := &writer{plane: p}
	for range 8 { // four to be revoked on a full disk, four to stay
		if err := w.issue(ctx); err != nil {
			return nil, err
		}
	}
	for _, k := range w.keys {
		s.questions = append(s.questions, k.question("a key of the store"))
	}
	out, err := s.play(ctx, "the disk of the store full", func(ctx context.Context) error {
		ballast := filepath.Join(disk, "ballast")
		if err := fill(ballast); err != nil {
			return err
		}
		for began := time.Now(); time.Since(began) < s.long; time.Sleep(50 * time.Millisecond) {
			w.try(ctx)
		}
		if err := os.Remove(ballast); err != nil {
			return err
		}
		s.lift()
		return w.again(ctx)
	})
	if err != nil {
		return nil, err
	}
	wrong, lost, err := w.afterRestart(ctx, r)
	if err != nil {
		return nil, err
	}
	out.WrongAllows += wrong
	out.want(out.Failed == 0, "%d failed checks, none are wanted", out.Failed)
	out.want(lost == 0, "%d acknowledged keys do not work after a restart", lost)
	out.remark("%d writes failed meanwhile (%s), %d were acknowledged; the first one afterwards worked after %v", w.failed, w.how, w.acknowledged, w.took.Round(time.Millisecond))
	return out, nil
}

// writer issues keys and revokes them, whether that works or not.
type writer struct {
	plane        *plane
	keys         []*issued // all that were acknowledged
	revoking     int       // the next to be revoked
	acknowledged int
	failed       int
	how          string // the codes of the failures
	took         time.Duration
}

func (w *writer) issue(ctx context.Context) error {
	k, err := w.plane.issue(ctx)
	if err == nil {
		w.keys = append(w.keys, k)
	}
	return err
}

// try issues a key, and revokes one of the first four.
func (w *writer) try(ctx context.Context) {
	errs := []error{w.issue(ctx)}
	if w.revoking < 4 {
		k := w.keys[w.revoking]
		if err := w.plane.revoke(ctx, k); err != nil {
			errs = append(errs, err)
		} else {
			w.revoking++
			w.acknowledged++
		}
	}
	for i, err := range errs {
		switch code := status.Code(err).String(); {
		case err == nil && i == 0:
			w.acknowledged++
		case err != nil:
			w.failed++
			if !strings.Contains(w.how, code) {
				w.how = strings.TrimSpace(w.how + " " + code)
			}
		}
	}
}

// again waits until writing works, and revokes what is left to revoke.
func (w *writer) again(ctx context.Context) error {
	began := time.Now()
	var err error
	for time.Since(began) < 30*time.Second && ctx.Err() == nil {
		if err = w.issue(ctx); err == nil {
			w.took = time.Since(began)
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	for ; err == nil && w.revoking < 4; w.revoking++ {
		err = w.plane.revoke(ctx, w.keys[w.revoking])
	}
	return err
}

// afterRestart starts the server again and asks about all keys.
func (w *writer) afterRestart(ctx context.Context, r *replica) (wrong, lost int, err error) {
	if err := r.start(ctx); err != nil {
		return 0, 0, err
	}
	defer r.Kill()
	c, err := newClient(5*time.Second, r.launch.GRPC)
	if err != nil {
		return 0, 0, err
	}
	defer c.close()
	time.Sleep(known)
	scratch := &tally{}
	asks := &load{ask: c.ask, tally: scratch}
	for _, k := range w.keys {
		switch asks.one(ctx, k.question("a key")) {
		case wrongAllow:
			wrong++
		case failed:
			lost++
		case rightAnswer:
		}
	}
	return wrong, lost, nil
}

// fill writes until there is no room.
func fill(name string) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer f.Close()
	for size := 64 << 10; size > 0; size /= 2 { // to the last bytes
		for block := make([]byte, size); err == nil; {
			_, err = f.Write(block)
		}
		err = nil
	}
	return nil
}
