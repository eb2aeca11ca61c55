package trace

import (
	"math"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	collectorpb "go.opentelemetry.io/proto/otlp/collector/trace/v1"

	"github.com/postern-auth/postern/server/audit"
)

const (
	someTrace = "4bf92f3577b34da6a3ce929d0e0e4736"
	someSpan  = "00f067aa0ba902b7"
)

// The table of W3C Trace Context section 3.2.
func TestParseParent(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		text        string
		ok, sampled bool
	}{
		"sampled":                   {"00-" + someTrace + "-" + someSpan + "-01", true, true},
		"not sampled":               {"00-" + someTrace + "-" + someSpan + "-00", true, false},
		"other flags":               {"00-" + someTrace + "-" + someSpan + "-fe", true, false},
		"a later version":           {"cc-" + someTrace + "-" + someSpan + "-01", true, true},
		"a later version with more": {"cc-" + someTrace + "-" + someSpan + "-01-what-comes", true, true},
		"a later version, longer":   {"cc-" + someTrace + "-" + someSpan + "-01x", false, false},
		"version 00 with more":      {"00-" + someTrace + "-" + someSpan + "-01-x", false, false},
		"version ff":                {"ff-" + someTrace + "-" + someSpan + "-01", false, false},
		"upper case":                {"00-" + strings.ToUpper(someTrace) + "-" + someSpan + "-01", false, false},
		"upper case version":        {"CC-" + someTrace + "-" + someSpan + "-01", false, false},
		"no trace":                  {"00-" + strings.Repeat("0", 32) + "-" + someSpan + "-01", false, false},
		"no span":                   {"00-" + someTrace + "-" + strings.Repeat("0", 16) + "-01", false, false},
		"no hex":                    {"00-" + someTrace[:31] + "g-" + someSpan + "-01", false, false},
		"short":                     {"00-" + someTrace + "-" + someSpan + "-0", false, false},
		"spaces":                    {" 00-" + someTrace + "-" + someSpan + "-01", false, false},
		"empty":                     {"", false, false},
		"other hyphens":             {"00_" + someTrace + "_" + someSpan + "_01", false, false},
	} {
		r, ok := parseParent(c.text)
		if ok != c.ok || r.sampled != c.sampled || ok && (r.trace.String() != someTrace || r.span.String() != someSpan) || !ok && r != (remote{}) {
			t.Errorf("%s: %v %+v", name, ok, r)
		}
	}
}

func FuzzParseParent(f *testing.F) {
	f.Add("00-" + someTrace + "-" + someSpan + "-01")
	f.Add("cc-" + someTrace + "-" + someSpan + "-01-x")
	f.Fuzz(func(t *testing.T, text string) {
		r, ok := parseParent(text)
		if ok && !strings.HasPrefix(text[2:], "-"+r.trace.String()+"-"+r.span.String()+"-") || !ok && r != (remote{}) {
			t.Errorf("%q: %v %+v", text, ok, r)
		}
		if cleaned := cleanState(text); cleaned != "" && cleaned != text {
			t.Errorf("%q became %q", text, cleaned)
		}
		if len(readBaggage([]string{text}, []string{"a"})) > 1 {
			t.Errorf("%q: an entry twice", text)
		}
	})
}

func TestCleanState(t *testing.T) {
	t.Parallel()
	for text, good := range map[string]bool{
		"":                                 true,
		"congo=t61rcWkgMzE":                true,
		"rojo=00f067aa0ba902b7,congo=t61":  true,
		"tenant@vendor=x , other=y":        true,
		"a=b,,c=d":                         true, // empty members are allowed
		"no pair":                          false,
		"a=b=c":                            false,
		"UPPER=x":                          false,
		"a=\x1b[31m":                       false,
		"a=ü":                              false,
		"a=" + strings.Repeat("x", 600):    false,
		strings.Repeat("a=b,", 40):         false,
		"a=b\r\nset-cookie: x":             false,
		"=x":                               false,
		strings.Repeat("a=b,", 31) + "a=b": true,
		strings.Repeat("a=b,", 32) + "a=b": false,
		"a=" + string([]byte{0xff, 0xfe}):  false,
	} {
		if got := cleanState(text); got != "" && !good || good && got != text {
			t.Errorf("%q: %q", text, got)
		}
	}
}

func TestReadBaggage(t *testing.T) {
	t.Parallel()
	got := readBaggage([]string{"user=ann%20lee;ttl=3, other=x", "user=second,tier = gold ,broken,bad=%zz"}, []string{"user", "tier", "bad"})
	if len(got) != 2 || got[0] != [2]string{"user", "ann lee"} || got[1] != [2]string{"tier", "gold"} {
		t.Errorf("%q", got)
	}
	if got := readBaggage([]string{strings.Repeat("x", 9000), "user=ann"}, []string{"user"}); got != nil {
		t.Errorf("it reads on: %q", got)
	}
}

// At most so many a second, whatever the clock does; and as many as that over time.
func TestPace(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 50).Draw(t, "per second")
		p := pace{each: int64(time.Second) / int64(n)}
		taken, now, start := 0, int64(1e18), int64(1e18)
		for range 400 {
			now += rapid.Int64Range(0, int64(time.Second)/10).Draw(t, "passes")
			if p.take(now) {
				taken++
			}
			if most := float64(n) + float64(now-start)/1e9*float64(n); float64(taken) > most+1 {
				t.Fatalf("%d were taken, at most %g should", taken, most)
			}
		}
	})
	p := pace{each: int64(time.Second) / 10}
	at, taken := int64(1e18), 0
	for range 100 {
		for range 5 {
			if p.take(at) {
				taken++
			}
		}
		at += int64(time.Second) / 10
	}
	if taken < 100 || taken > 111 {
		t.Errorf("%d in 10 s at 10 a second", taken)
	}
	p.next.Store(math.MaxInt64 / 2) // a clock that goes back an age must not panic
	p.take(0)
}

// What a receiver answers is read as the protocol's own code reads it, and never panics.
func TestRefused(t *testing.T) {
	t.Parallel()
	for _, n := range []int64{0, 1, 7, math.MaxInt64, -1} {
		raw, err := proto.Marshal(&collectorpb.ExportTraceServiceResponse{PartialSuccess: &collectorpb.ExportTracePartialSuccess{RejectedSpans: n, ErrorMessage: "no"}})
		if err != nil {
			t.Fatal(err)
		}
		if got := refusedIn(raw); got != uint64(max(n, 0)) {
			t.Errorf("%d: %d", n, got)
		}
	}
	for _, raw := range [][]byte{nil, []byte("<html>"), {0x0a}, {0x0a, 0xff, 0xff}, protowire.AppendTag(nil, 1, protowire.StartGroupType)} {
		if got := refusedIn(raw); got != 0 {
			t.Errorf("%x: %d", raw, got)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		raw := rapid.SliceOf(rapid.Byte()).Draw(t, "answer")
		var m collectorpb.ExportTraceServiceResponse
		if proto.Unmarshal(raw, &m) == nil {
			if want := m.GetPartialSuccess().GetRejectedSpans(); refusedIn(raw) != uint64(max(want, 0)) {
				t.Fatalf("%x: %d, and the generated code reads %d", raw, refusedIn(raw), want)
			}
		}
	})
}

// Only words of closed sets stand in for methods.
func TestKnownMethod(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{"GET": "GET", "get": "_OTHER", "pst_live_x": "_OTHER", "": ""} {
		if got := knownMethod(in); got != want {
			t.Errorf("%q: %q", in, got)
		}
	}
}

func TestBoundOf(t *testing.T) {
	t.Parallel()
	if boundOf(0) != 0 || boundOf(1) != 1<<63 || boundOf(-1) != 0 || boundOf(0.5) < 1<<61 || boundOf(0.5) > 1<<62 {
		t.Error(boundOf(0), boundOf(0.5), boundOf(1))
	}
	if (audit.TraceID{}).String() != strings.Repeat("0", 32) {
		t.Error("an id is 32 digits")
	}
}
