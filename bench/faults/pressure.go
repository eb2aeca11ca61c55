package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/postern-auth/postern/bench/rig"
)

// pressure is more than a server can do.
var pressure = []fault{
	{"overload-wait", "ten times as many requests as can be answered, where answers wait for others", overloadWait},
	{"overload-work", "ten times as many requests as can be answered, where answers are work", overloadWork},
	{"junk", "a flood of tokens and keys that are none, beside honest people", junk},
}

// dear requests are a decision of their own each, and of much work: as many rounds of a
// loop as the path says.
const (
	counter    = "00000000" // in the path, and counted up
	dearPolicy = `package postern.authz
import data.postern.lib.rbac

is_dear if startswith(input.request.path, "/dear/")

decision := rbac.decision if not is_dear

decision if {
	is_dear
	"role7" in input.principal.roles
	count([i | some i in numbers.range(1, to_number(input.parsed_path[1])); i % 7 == 3]) > 0
}
`
)

// dearPath is that of requests with so many rounds.
func dearPath(rounds int) string { return fmt.Sprintf("/dear/%d/%s", rounds, counter) }

// costly asks requests of which none is like another.
type costly struct {
	client *client
	n      atomic.Int64
}

func (c *costly) ask(ctx context.Context, raw []byte) ([]byte, error) {
	return c.client.ask(ctx, bytes.ReplaceAll(raw, []byte(counter), fmt.Appendf(nil, "%08d", c.n.Add(1))))
}

// closed asks with a few callers, each of whom waits for its answer, and returns how many
// were allowed in a second.
func (c *costly) closed(ctx context.Context, callers int, q *question, d time.Duration) (rate float64, seen *tally) {
	seen = &tally{}
	var all sync.WaitGroup
	began := time.Now()
	for range callers {
		all.Go(func() {
			for time.Since(began) < d && ctx.Err() == nil {
				(&load{ask: c.ask, tally: seen}).one(ctx, q)
			}
		})
	}
	all.Wait()
	return float64(seen.goodput(quiet)) / time.Since(began).Seconds(), seen
}

// rounds finds out how many rounds take about a millisecond here and now.
func (c *costly) rounds(ctx context.Context, key string) int {
	const first, aim = 200, time.Millisecond
	_, seen := c.closed(ctx, 1, withKey("", dearPath(first), key, allow), 500*time.Millisecond)
	took := max(seen.quantile(quiet, .5), 100*time.Microsecond)
	return max(first, min(5000, int(first*aim/took)))
}

// overloadWork has what can be done bounded by processors: decisions that are work.
func overloadWork(ctx context.Context, l *lab) (*line, error) {
	if err := errors.Join(l.write("dear/authz.rego", dearPolicy), l.write("dear/data.json", string(tables()))); err != nil {
		return nil, err
	}
	return l.overload(ctx, recipe{policy: "{ path: dear }"}, "dear decisions", 4, func(ctx context.Context, c *costly) (may, mayNot *question) {
		rounds := c.rounds(ctx, l.keys[0])
		return withKey("a dear request", dearPath(rounds), l.keys[0], allow), withKey("a dear request of a stranger", dearPath(rounds), unknownKey(), deny)
	})
}

// overloadWait has it bounded by how many may wait at once, here for an issuer that needs
// 100 ms to say what a token is. Processors have little to do.
func overloadWait(ctx context.Context, l *lab) (*line, error) {
	const waiting = 40 // all of them of one address, which has three quarters of the places
	block := fmt.Sprintf(`limits: { requests: %d }
credentials:
  - { from: "header:x-api-key", use: api_key }
  - { from: "header:authorization/bearer", use: [jwt, oauth] }
introspection:
  - { issuer: "http://opaque.test", url: %q, client_id: postern, client_secret: "${file:pepper}", audiences: [bench], claims: { roles: roles },
      max_concurrent: 64, http: { insecure_allow_http: true, insecure_allow_private_addresses: true } }
`, waiting+waiting/3, l.issuer.url+"/introspect")
	return l.overload(ctx, recipe{more: block}, "tokens that an issuer is asked about", waiting*3/4, func(context.Context, *costly) (may, mayNot *question) {
		return bearer("an opaque token", rig.Path, goodOpaque+counter, allow), bearer("an opaque token of a stranger", rig.Path, "opaque-bad-"+counter, deny)
	})
}

// overload finds out how many requests of a kind a server can answer in a second, and asks
// it for ten times as many.
func (l *lab) overload(ctx context.Context, r recipe, of string, callers int, choose func(context.Context, *costly) (may, mayNot *question)) (*line, error) {
	all, err := l.open(ctx, 1, r)
	if err != nil {
		return nil, err
	}
	s := &scene{lab: l, replicas: all, questions: l.questions(), rate: min(l.rate, 50), patience: 2 * time.Second}
	c, err := newClient(2*time.Second, all[0].launch.GRPC)
	if err != nil {
		return nil, err
	}
	defer c.close()
	asks := &costly{client: c}
	flood, strangers := &tally{}, &tally{}
	var can, did, asked float64
	out, err := s.play(ctx, "", func(ctx context.Context) error {
		may, mayNot := choose(ctx, asks)
		can, _ = asks.closed(ctx, callers, may, max(s.quiet, time.Second))
		flooding, stop := context.WithTimeout(ctx, s.long)
		defer stop()
		began := time.Now()
		var both sync.WaitGroup
		both.Go(func() {
			(&load{ask: asks.ask, tally: flood, questions: []*question{may}, rate: max(1, int(can*tenfold)), most: underWay}).run(flooding)
		})
		both.Go(func() {
			(&load{ask: asks.ask, tally: strangers, questions: []*question{mayNot}, rate: max(1, int(can/10))}).run(flooding)
		})
		both.Wait()
		took := time.Since(began).Seconds()
		s.lift()
		n, _, _, _ := flood.counts()
		did, asked = float64(flood.goodput(quiet))/took, float64(n-flood.unsent)/took
		return nil
	})
	if err != nil {
		return nil, err
	}
	_, _, wrong, _ := strangers.counts()
	out.WrongAllows += wrong
	out.Did = fmt.Sprintf("%.0f %s asked for in a second, of %.0f that it can", asked, of, can)
	p50, p99 := flood.refusals.Quantile(.5), flood.refusals.Quantile(.99)
	out.want(did >= .8*can, "%.0f %% of its goodput, 80 are wanted", 100*did/can)
	out.want(flood.refused == 0 || p99 <= 10*time.Millisecond, "refusals took p99 %v, 10 ms are wanted", p99.Round(100*time.Microsecond))
	out.want(out.Recovered <= 5, "normal after %.1f s, 5 are wanted", out.Recovered)
	_, failures, _, _ := flood.counts()
	out.remark("goodput %.0f/s, %.0f %%; %d refused, p50 %v, p99 %v; %d of the flood failed otherwise (%v), %d had to stay with the client; %d of the few others were refused too", did, 100*did/can, flood.refused,
		p50.Round(10*time.Microsecond), p99.Round(10*time.Microsecond), failures-flood.refused-flood.unsent, flood.other, flood.unsent, s.tally.refused)
	out.Failed -= s.tally.refused
	return out, nil
}

const (
	// tenfold is how many times as much is asked for as can be done.
	tenfold = 10
	// underWay is how many requests of the flood may be: gateways have such a bound too,
	// and here the client would else take the processors from the server.
	underWay = 256
)

// floodRate is how many bad credentials a second there are beside the honest.
const floodRate = 3000

// junk floods a server with credentials of all kinds that are none, none of them twice.
func junk(ctx context.Context, l *lab) (*line, error) {
	all, err := l.open(ctx, 1, recipe{})
	if err != nil {
		return nil, err
	}
	s := &scene{lab: l, replicas: all, questions: l.questions()}
	c, err := newClient(2*time.Second, all[0].launch.GRPC)
	if err != nil {
		return nil, err
	}
	defer c.close()
	flood := &load{ask: func(ctx context.Context, raw []byte) ([]byte, error) { return c.ask(ctx, spoil(raw)) }, questions: l.rubbish(), rate: floodRate, tally: &tally{}}
	if l.short {
		flood.rate = 500
	}
	return s.beside(ctx, fmt.Sprintf("%d bad credentials a second", flood.rate), func(ctx context.Context) string {
		flood.run(ctx)
		n, without, wrong, _ := flood.tally.counts()
		s.extraWrong += wrong
		return fmt.Sprintf("%d bad ones asked, %d without an answer", n, without)
	})
}

// spoiled is what stands for what is different in each bad credential.
const spoiled = "XXXXXXXXXXXXXXXX"

// rubbish are credentials that look as if they might be good, until somebody has worked
// on them.
func (l *lab) rubbish() []*question {
	token := func(s signer) string {
		t := s.sign(l.issuer.body("nobody", 0, day))
		return t[:len(t)-30] + spoiled + t[len(t)-30+len(spoiled):]
	}
	elsewhere := newSigner("k" + spoiled)
	known := signer{kid: "k0", key: elsewhere.key}
	return []*question{
		bearer("a token with a bad signature", rig.Path, token(known), deny),
		bearer("a token with an unknown key", rig.Path, token(elsewhere), deny),
		withKey("a key nobody knows", rig.Path, "pst_key_live_"+spoiled[:12]+"_"+spoiled+spoiled+spoiled[:11]+"abcdef", deny),
		bearer("an opaque token", rig.Path, spoiled+spoiled, deny),
		bearer("something with two dots", rig.Path, spoiled+"."+spoiled+"."+spoiled, deny),
	}
}

// spoil makes one of them different from all others.
func spoil(raw []byte) []byte {
	const letters = "ABCDEFGHIJKLMNOPQRSTUVWYZabcdefghijklmnopqrstuvwxyz0123456789"
	own := bytes.Clone(raw)
	for i := 0; ; {
		at := bytes.Index(own[i:], []byte(spoiled[:11]))
		if at < 0 {
			return own
		}
		for i += at; i < len(own) && own[i] == 'X'; i++ {
			own[i] = letters[rand.IntN(len(letters))]
		}
	}
}

// beside plays a scene in which somebody disturbs, until the time is over, and holds what
// honest people get against what they had before.
func (s *scene) beside(ctx context.Context, did string, disturb func(context.Context) string) (*line, error) {
	var said string
	var most state
	out, err := s.play(ctx, did, func(ctx context.Context) error {
		base, err := s.replicas[0].state()
		if err != nil {
			return err
		}
		s.base = &base
		disturbing, stop := context.WithTimeout(ctx, s.long)
		defer stop()
		watched := make(chan state)
		go func() { watched <- s.replicas[0].highest(disturbing) }()
		said = disturb(disturbing)
		stop()
		most = <-watched
		return nil
	})
	if err != nil {
		return nil, err
	}
	share := s.share()
	out.want(share >= .8, "honest people had %.0f %% of their throughput, 80 are wanted", 100*share)
	base, end := s.base, s.settled
	out.WrongAllows += s.extraWrong
	out.want(base.near(end), "%d goroutines afterwards, %d before", end.goroutines, base.goroutines)
	out.remark("%s; honest throughput %.0f %%; resident %.0f MiB before, at most %.0f, %.0f afterwards; goroutines %d, %d, %d", said, 100*share,
		base.resident, most.resident, end.resident, base.goroutines, most.goroutines, end.goroutines)
	return out, nil
}

// share is how much of their throughput honest people had during the fault.
func (s *scene) share() float64 {
	before := float64(s.tally.goodput(quiet)) / s.began.Sub(s.started).Seconds()
	while := float64(s.tally.goodput(during)) / s.lifted.Load().Sub(s.began).Seconds()
	return while / before
}

// state is what a server takes.
type state struct {
	resident   float64 // MiB
	goroutines int
	files      int
}
