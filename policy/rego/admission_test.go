package rego_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-auth/postern/policy/rego"
)

// overload has requests come at a rate for a time. Each is served for a millisecond, if
// it finds a place.
type overload struct {
	places *rego.Admission
	// served and refused are how long each waited.
	served, refused []time.Duration
}

const (
	service  = time.Millisecond
	patience = 25 * time.Millisecond
)

func (o *overload) run(every, during time.Duration) {
	done := make(chan struct{})
	came := 0
	add := func(to *[]time.Duration, since time.Time) { *to = append(*to, time.Since(since)) }
	turn := make(chan struct{}, 1) // one at a time writes what became of it
	for range during / every {
		came++
		go func() {
			defer func() { done <- struct{}{} }()
			began := time.Now()
			ok := o.places.Enter(context.Background(), patience)
			turn <- struct{}{}
			if !ok {
				add(&o.refused, began)
				<-turn
				return
			}
			add(&o.served, began)
			<-turn
			entered := time.Now()
			time.Sleep(service)
			o.places.Leave(entered)
		}()
		time.Sleep(every)
		for drained := false; !drained; {
			select {
			case <-done:
				came--
			default:
				drained = true
			}
		}
	}
	for range came {
		<-done
	}
}

// FAILOPEN-13: at ten times what can be served, who is refused hears so at once, those
// who are served have what there is of capacity, and nobody waits any more as soon as
// it is over. In the time of a bubble, so that nothing of it depends on the machine.
func TestShedsAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const n, seconds = 2, 10
		o := overload{places: rego.NewAdmission(n)}
		const capacity = n * int(time.Second/service) // a second
		o.run(service/n/10, seconds*time.Second)
		if least := capacity * seconds * 8 / 10; len(o.served) < least {
			t.Errorf("%d were served of %d that could be, at least %d should", len(o.served), capacity*seconds, least)
		}
		if len(o.served)+len(o.refused) != capacity*seconds*10 {
			t.Errorf("%d and %d", len(o.served), len(o.refused))
		}
		late := 0
		for _, waited := range o.refused {
			if waited >= 10*time.Millisecond {
				late++
			}
		}
		// Until the first has been served nobody knows how long that takes.
		if most := 10 * n * int(patience/service); late > most {
			t.Errorf("%d of %d were refused late, at most %d may", late, len(o.refused), most)
		}
		for _, waited := range o.served {
			if waited > patience {
				t.Errorf("one was served after %v", waited)
			}
		}
		after := overload{places: o.places}
		after.run(service, time.Second)
		if len(after.refused) > 0 {
			t.Errorf("%d were refused when it was over", len(after.refused))
		}
		for _, waited := range after.served {
			if waited > 0 {
				t.Errorf("one waited %v when it was over", waited)
			}
		}
	})
}

// However long places have been held, the next in the queue waits: else nobody would
// find out that they are quick again.
func TestOneMayAlwaysWait(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := rego.NewAdmission(1)
		enter := func() {
			t.Helper()
			if !p.Enter(t.Context(), patience) {
				t.Fatal("refused")
			}
		}
		enter()
		began := time.Now()
		time.Sleep(time.Hour)
		p.Leave(began)
		enter()
		began = time.Now()
		go func() { time.Sleep(patience / 2); p.Leave(began) }()
		first := make(chan bool)
		go func() { first <- p.Enter(t.Context(), patience) }()
		synctest.Wait()
		if p.Enter(t.Context(), patience) || time.Since(began) > 0 {
			t.Error("the second waited for what takes an hour")
		}
		if !<-first {
			t.Error("the first was refused")
		}
	})
}

// A machine that stops everything for a while now and then does not make quick
// evaluations look slow: those who came meanwhile are served.
func TestStallsAreNotSlowness(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o := overload{places: rego.NewAdmission(1)}
		for range 20 {
			for range 9 {
				o.run(time.Millisecond, 10*time.Millisecond)
			}
			began := time.Now()
			if !o.places.Enter(t.Context(), patience) {
				t.Fatal("refused")
			}
			time.Sleep(50 * time.Millisecond)
			o.places.Leave(began)
			o.run(time.Millisecond/10, time.Millisecond) // ten at once
		}
		if len(o.refused) > 0 {
			t.Errorf("%d were refused, %d served", len(o.refused), len(o.served))
		}
	})
}
