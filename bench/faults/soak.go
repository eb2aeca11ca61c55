package main

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/postern-auth/postern/bench/rig"
)

// window is what a soak saw in a minute.
type window struct {
	state
	heap     float64 // MiB that is alive
	p50, p99 time.Duration
	asked    int
	failed   int
}

// soak keeps up mixed traffic for long: keys of a file and of the store, tokens, strangers,
// and one question for each hundred that is malformed. Each minute there
// is another policy and a key that is revoked, and every third minute the issuer signs
// with another key. What a server takes must not grow, nor its answers get slower.
func (l *lab) soak(ctx context.Context) (*line, error) {
	const minute = time.Minute
	from, err := l.newSource(ctx, 2+int(l.settings.soak/minute))
	if err != nil {
		return nil, err
	}
	defer from.close()
	r, p, err := l.openPlane(ctx, recipe{
		policy: from.block(), store: fmt.Sprintf("{ driver: sqlite, path: %q }", l.path("soak.db")), issuer: ", cooldown: 2s, refresh: 1m, min_refresh: 10s",
	})
	if err != nil {
		return nil, err
	}
	s := &scene{lab: l, replicas: []*replica{r}}
	defer stopAll(s.replicas)
	defer p.close()
	w := &weather{lab: l, plane: p, source: from}
	c, err := newClient(time.Second, r.launch.GRPC)
	if err != nil {
		return nil, err
	}
	defer c.close()
	if err := w.furnish(ctx, s, c); err != nil {
		return nil, err
	}
	var windows []*window
	fmt.Println("minute  asked  failed  wrong      p50      p99  resident  alive  goroutines  files  load")
	out, err := s.play(ctx, fmt.Sprintf("mixed traffic for %v", l.settings.soak), func(ctx context.Context) error {
		for began, n := time.Now(), 1; time.Since(began) < l.settings.soak && ctx.Err() == nil; n++ {
			s.tally.restart()
			time.Sleep(min(minute, time.Until(began.Add(l.settings.soak))))
			x, err := s.look()
			if err != nil {
				return err
			}
			windows = append(windows, x)
			fmt.Printf("%6d %6d %7d %6d %8v %8v %9.0f %6.1f %11d %6d  %s\n", n, x.asked, x.failed, s.wrong(), x.p50.Round(10*time.Microsecond), x.p99.Round(10*time.Microsecond),
				x.resident, x.heap, x.goroutines, x.files, loadAverage())
			if err := w.change(ctx, n); err != nil {
				return err
			}
		}
		return ctx.Err()
	})
	if err != nil {
		return nil, err
	}
	out.Fault = "soak"
	out.hold(windows)
	out.judge()
	fmt.Println(out)
	return out, nil
}

// hold compares the end of a soak with its beginning. The first minutes are left out: what
// is filled for the first time grows.
func (l *line) hold(all []*window) {
	l.want(l.Failed == 0, "%d failed checks, none are wanted", l.Failed)
	part := len(all) / 4
	if part == 0 {
		l.remark("too short to compare its end with its beginning")
		return
	}
	begin, end := all[part:2*part], all[len(all)-part:]
	of := func(w []*window, get func(*window) float64) float64 {
		var v []float64
		for _, x := range w {
			v = append(v, get(x))
		}
		return rig.Median(v)
	}
	for _, x := range []struct {
		what  string
		get   func(*window) float64
		ratio float64 // that is wanted
		slack float64 // that is nothing
	}{
		{"p99 (µs)", func(w *window) float64 { return float64(w.p99.Microseconds()) }, 1.1, 0},
		{"resident (MiB)", func(w *window) float64 { return w.resident }, 1.1, 0},
		{"alive heap (MiB)", func(w *window) float64 { return w.heap }, 1.1, 2},
		{"goroutines", func(w *window) float64 { return float64(w.goroutines) }, 1, 5},
		{"files", func(w *window) float64 { return float64(w.files) }, 1, 2},
	} {
		a, b := of(begin, x.get), of(end, x.get)
		l.want(b <= a*x.ratio+x.slack, "%s %.1f at the end, %.1f at the beginning", x.what, b, a)
		l.remark("%s %.1f, at the beginning %.1f (%.2f ×)", x.what, b, a, b/a)
	}
}

// wrong is how many wrong allows there were so far.
func (s *scene) wrong() (n int) {
	for _, l := range append([]*load{{tally: &s.tally}, {tally: &s.gw}}, s.also...) {
		_, _, wrong, _ := l.tally.counts()
		n += wrong
	}
	return n
}

// look is what the last minute was.
func (s *scene) look() (*window, error) {
	st, err := s.replicas[0].state()
	if err != nil {
		return nil, err
	}
	heap, err := s.replicas[0].Metric("go_memstats_heap_inuse_bytes")
	x := &window{state: st, heap: heap / (1 << 20)}
	s.tally.mu.Lock()
	defer s.tally.mu.Unlock()
	x.p50, x.p99 = s.tally.latencies[during].Quantile(.5), s.tally.latencies[during].Quantile(.99)
	x.asked, x.failed = s.tally.asked[during]-s.tally.seen, s.tally.failed[during]-s.tally.seenFailed
	return x, err
}

// weather changes what there is during a soak.
type weather struct {
	*lab
	plane  *plane
	source *source

	stored []*issued
	token  atomic.Pointer[[]byte]
}

// furnish gives a scene its questions: those of a trial and keys of the store; and beside
// them, one for each hundred, malformed ones and tokens of the newest key.
func (w *weather) furnish(ctx context.Context, s *scene, c *client) error {
	s.questions = w.questions()
	for i := range 4 {
		if err := w.another(ctx); err != nil {
			return err
		}
		s.questions = append(s.questions, w.stored[i].question(fmt.Sprint("key of the store ", i)))
	}
	w.issuer.keep.Store(true)
	w.mint()
	percent := max(1, w.rate/100)
	s.also = []*load{
		{ask: c.ask, questions: w.corpus(), rate: percent, tally: &tally{}},
		{ask: func(ctx context.Context, _ []byte) ([]byte, error) { return c.ask(ctx, *w.token.Load()) },
			questions: []*question{ask("a token of the newest key", rig.Path, nil, allow)}, rate: percent, tally: &tally{}},
	}
	return nil
}

// mint makes a token of the newest key.
func (w *weather) mint() {
	q := bearer("", rig.Path, w.issuer.token("newest", 0, day), allow)
	w.token.Store(&q.raw)
}

// another issues one more key of the store.
func (w *weather) another(ctx context.Context) error {
	k, err := w.plane.issue(ctx)
	if err == nil {
		w.stored = append(w.stored, k)
	}
	return err
}

// change is what happens each minute.
func (w *weather) change(ctx context.Context, n int) error {
	w.source.publish()
	if n%3 == 0 {
		w.issuer.rotate()
	}
	w.mint()
	if n <= len(w.stored) { // the first keys of the store end, one a minute
		if err := w.plane.revoke(ctx, w.stored[n-1]); err != nil {
			return err
		}
	}
	return w.another(ctx)
}

// corpus are malformed requests: those of the shared vectors where they are, or else a few
// of our own. Whatever they are, none of them may be allowed.
func (w *weather) corpus() []*question {
	all := []*question{
		ask("a path that goes up", "/api/v1/../../etc/passwd", map[string]string{"x-api-key": w.keys[0]}, deny),
		ask("a path with an encoded slash", "/api/v1%2fthings7/42", map[string]string{"x-api-key": w.keys[0]}, deny),
		ask("a path with a zero", "/api/v1/things7/%00", map[string]string{"x-api-key": w.keys[0]}, deny),
		ask("half a path", "/api/v1/things7/%f", map[string]string{"x-api-key": w.keys[0]}, deny),
		ask("two credentials", rig.Path, map[string]string{"x-api-key": w.keys[0], "authorization": "Bearer " + w.stranger.sign(claims{})}, deny),
		ask("a key that is long", rig.Path, map[string]string{"x-api-key": strings.Repeat("a", 8000)}, deny),
	}
	for _, text := range w.vectors() {
		all = append(all, bearer("a token of the corpus", rig.Path, text, deny))
	}
	return all
}

// vectors are tokens that nobody may believe, from the shared vectors beside the checkout.
func (w *weather) vectors() (all []string) {
	names, _ := filepath.Glob(filepath.Join("..", "shared", "vectors", "jwt", "*.jsonl"))
	for _, name := range names {
		f, err := os.Open(name)
		if err != nil {
			continue
		}
		lines := bufio.NewScanner(f)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() && len(all) < 200 {
			var v struct{ Token string }
			if json.Unmarshal(lines.Bytes(), &v) == nil && v.Token != "" && len(v.Token) < 8000 && printable(v.Token) {
				all = append(all, v.Token)
			}
		}
		_ = f.Close()
	}
	if len(all) == 0 {
		log.Print("the shared vectors are not here; a few tokens of our own are asked instead")
		for _, head := range []string{`{"alg":"none"}`, `{"alg":"HS256","kid":"k0"}`, `[]`, `{"alg":"EdDSA","crit":["x"]}`} {
			all = append(all, base64.RawURLEncoding.EncodeToString([]byte(head))+".e30.")
		}
	}
	return all
}

func printable(text string) bool {
	return !strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r > '~' })
}
