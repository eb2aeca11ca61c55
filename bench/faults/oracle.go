package main

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/postern-auth/postern/bench/rig"
	"github.com/postern-auth/postern/server/histogram"
)

// want is the right answer to a question.
type want int

// The zero want is the safe one.
const (
	deny want = iota
	allow
	// either is for moments in which a revocation is on its way.
	either
)

// question is something that a gateway asks, to which the right answer is known.
type question struct {
	name   string
	path   string
	fields map[string]string // of the header
	raw    []byte            // as Envoy asks it
	// right is what is right at this moment.
	right func() want
}

// ask makes a question whose right answer never changes.
func ask(name, path string, fields map[string]string, right want) *question {
	all := map[string]string{":path": path}
	for k, v := range fields {
		all[k] = v
	}
	return &question{name: name, path: path, fields: fields, raw: rig.Request(all), right: func() want { return right }}
}

// withKey asks with an API key, and bearer with a token.
func withKey(name, path, key string, right want) *question {
	return ask(name, path, map[string]string{"x-api-key": key}, right)
}

func bearer(name, path, token string, right want) *question {
	return ask(name, path, map[string]string{"authorization": "Bearer " + token}, right)
}

// outcome is what became of a question.
type outcome int

const (
	rightAnswer outcome = iota
	// wrongAllow is an allow of what ought to be denied. There is nothing worse.
	wrongAllow
	// failed is a deny of what ought to be allowed, or no answer at all.
	failed
)

// judge compares an answer with what was right when it was asked and when it came. No
// answer is a failure also where a deny is wanted: a gateway that fails open lets the
// request through.
func judge(asked, came want, allowed bool, err error) outcome {
	if asked != came {
		asked = either
	}
	switch {
	case err != nil:
		return failed
	case asked == deny && allowed:
		return wrongAllow
	case asked == allow && !allowed:
		return failed
	}
	return rightAnswer
}

// phase is a part of a trial.
type phase int

// The phases of a trial: before the fault, while it lasts, and when it is over.
const (
	quiet phase = iota
	during
	after
	phases
)

// tally counts what was answered, by phase.
type tally struct {
	mu        sync.Mutex
	now       phase
	asked     [phases]int
	failed    [phases]int
	wrong     int
	refused   int // denied because the server is busy, which is a failure too
	latencies [phases]histogram.Histogram
	refusals  histogram.Histogram // how long these took
	unsent    int                 // that the client kept for itself
	last      time.Time           // of the failures
	first     error               // failure
	other     error               // the first failure that is no refusal
	// seen and seenFailed are how many there were at the last restart.
	seen, seenFailed int
	worst            error // the first wrong allow
}

// errBusy is a deny because the server has too much to do.
var errBusy = errors.New("overloaded")

func (t *tally) enter(p phase) { t.mu.Lock(); t.now = p; t.mu.Unlock() }

// note takes in an answer to what was sent at a time.
func (t *tally) note(q *question, o outcome, sent time.Time, why error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.asked[t.now]++
	switch o {
	case wrongAllow:
		t.wrong++
		if t.worst == nil {
			t.worst = fmt.Errorf("%s was allowed", q.name)
		}
	case failed:
		t.failed[t.now]++
		t.last = time.Now()
		if t.first == nil {
			t.first = fmt.Errorf("%s: %.120w", q.name, why)
		}
		switch {
		case errors.Is(why, errBusy):
			t.refused++
			t.refusals.Add(time.Since(sent))
		case errors.Is(why, errTooMany):
			t.unsent++
		case t.other == nil:
			t.other = why
		}
	case rightAnswer:
		t.latencies[t.now].Add(time.Since(sent))
	}
}

// counts are copies of what a line tells.
func (t *tally) counts() (asked, failed, wrong int, last time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for p := range phases {
		asked, failed = asked+t.asked[p], failed+t.failed[p]
	}
	return asked, failed, t.wrong, t.last
}

// restart begins with new latencies.
func (t *tally) restart() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.latencies[t.now] = histogram.Histogram{}
	t.seen, t.seenFailed = t.asked[t.now], t.failed[t.now]
}

// goodput is how many right answers there were in a phase.
func (t *tally) goodput(p phase) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.asked[p] - t.failed[p]
}

func (t *tally) quantile(p phase, share float64) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.latencies[p].Quantile(share)
}

// signer signs tokens as an issuer does (EdDSA).
type signer struct {
	kid string
	key ed25519.PrivateKey
}

func newSigner(kid string) signer {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		panic(err) // there is no randomness
	}
	return signer{kid, key}
}

type claims map[string]any

func encode(v any) []byte {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return text
}

func (s signer) sign(body claims) string {
	text := rig.Encode(encode(claims{"alg": "EdDSA", "typ": "at+jwt", "kid": s.kid})) + "." + rig.Encode(encode(body))
	return text + "." + rig.Encode(ed25519.Sign(s.key, []byte(text)))
}

func (s signer) jwk() claims {
	public := s.key.Public().(ed25519.PublicKey)
	return claims{"kty": "OKP", "crv": "Ed25519", "x": rig.Encode(public), "kid": s.kid, "alg": "EdDSA", "use": "sig"}
}
