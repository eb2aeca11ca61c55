package main

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
)

// FAILOPEN-13: with far more to evaluate than can be, a request gets the answer that is
// its own or is told that the service is busy; what the policy denies is never allowed,
// nothing is a gRPC error, and when it is over everything is as before. How soon one is
// told is for the tests of the policy's admission, in the time of a bubble.
func TestOverloaded(t *testing.T) {
	t.Parallel()
	b := start(t, prepare(t, "overload"))
	const callers, each = 64, 25
	kinds := []struct {
		path, right string // the answer if there is one
		status      int
	}{
		{"/good/", "allowed", 200},
		{"/bad/", "policy_denied", 403},
		{"/endless/", "policy_timeout", 503},
		{"/worse/", "policy_denied", 403},
	}
	var shed, answered atomic.Int64
	eventually(t, "one is told that the service is busy", func() bool {
		var all sync.WaitGroup
		for caller := range callers {
			all.Go(func() {
				kind := kinds[caller%len(kinds)]
				for i := range each {
					path := fmt.Sprintf("%s%d/%d", kind.path, caller, i)
					switch a := b.askEnvoy(t, get(path)); {
					case a.status == kind.status && a.reason == kind.right:
						answered.Add(1)
					case a.status == 503 && a.reason == "overloaded":
						shed.Add(1)
					case a.status == 503 && a.reason == "policy_timeout": // on a machine with other work
					default:
						t.Errorf("%s: %v", path, a)
					}
				}
			})
		}
		all.Wait()
		return t.Failed() || shed.Load() > 0 && answered.Load() > 0
	})
	t.Logf("%d answered, %d told that the service is busy", answered.Load(), shed.Load())
	for _, kind := range kinds {
		eventually(t, kind.path+" is answered as before", func() bool {
			a := b.askEnvoy(t, get(kind.path))
			return a.status == kind.status && a.reason == kind.right
		})
	}
}
