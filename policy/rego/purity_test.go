package rego

import (
	"slices"
	"testing"

	"github.com/open-policy-agent/opa/v1/ast"
)

// Every builtin of OPA has been read and is in one list. An upgrade that adds one
// fails here until somebody has read it (until then it is Impure), and one that
// removes one fails here so that the lists stay true.
func TestPurityKnowsEveryBuiltin(t *testing.T) {
	t.Parallel()
	lists := map[string]int{}
	for name := range pureBuiltins {
		lists[name]++
	}
	for name := range timeBoundBuiltins {
		lists[name]++
	}
	for name := range impureBuiltins {
		lists[name]++
	}
	for _, b := range ast.Builtins {
		switch lists[b.Name] {
		case 1:
		case 0:
			t.Errorf("%s is new: read what it depends on and put it into a list", b.Name)
		default:
			t.Errorf("%s is in several lists", b.Name)
		}
		delete(lists, b.Name)
	}
	for name := range lists {
		t.Errorf("%s is no builtin any more", name)
	}
}

// OPA's own flag misses some, but what it flags is never Pure.
func TestPurityIsNoLaxerThanOPA(t *testing.T) {
	t.Parallel()
	flagged := 0
	for _, b := range ast.Builtins {
		if !b.Nondeterministic {
			continue
		}
		flagged++
		if purity, _ := purityOf(b.Name, nil); purity == Pure {
			t.Errorf("%s is nondeterministic", b.Name)
		}
	}
	if flagged < 8 {
		t.Errorf("only %d builtins are flagged", flagged)
	}
}

// CACHE-08: what is random or comes from outside is never cached.
func TestPurityOfTheOutsideWorld(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"rand.intn", "uuid.rfc4122", "http.send", "opa.runtime", "net.lookup_ip_addr"} {
		if purity, why := purityOf(name, nil); purity != Impure || why == "" {
			t.Errorf("%s: %v %q", name, purity, why)
		}
	}
	if purity, why := purityOf("time.now_ns", nil); purity != TimeBound || why == "" {
		t.Errorf("time.now_ns: %v %q", purity, why)
	}
}

func TestPurityDeclared(t *testing.T) {
	t.Parallel()
	own := map[string]Purity{
		"app.permits": Pure, "app.fresh": TimeBound, "app.ask": Impure,
		"http.send": Pure, "time.now_ns": Pure, "count": TimeBound, "lower": Impure,
	}
	want := map[string]Purity{
		"app.permits": Pure, "app.fresh": TimeBound, "app.ask": Impure,
		"app.other": Impure, "": Impure,
		// A declaration can only take away.
		"http.send": Impure, "time.now_ns": TimeBound, "count": TimeBound, "lower": Impure,
		"upper": Pure,
	}
	for name, purity := range want {
		got, why := purityOf(name, own)
		if got != purity || (why == "") != (got == Pure) {
			t.Errorf("%q is %v (%s), want %v", name, got, why, purity)
		}
	}
}

// The zero value forbids reuse.
func TestPurityZero(t *testing.T) {
	t.Parallel()
	var zero Purity
	if zero != Impure {
		t.Error("the zero Purity allows reuse")
	}
	if (&Analysis{}).Cacheable() || (*Analysis)(nil).Cacheable() {
		t.Error("the zero Analysis allows reuse")
	}
	if got := slices.Max([]Purity{Impure, TimeBound, Pure}); got != Pure {
		t.Error("the order is not from least to most pure")
	}
}
