package main

import (
	"bytes"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// The table of kinds is made, with so few samples that the figures mean nothing. The
// longer cases are the command's alone.
func TestTable(t *testing.T) {
	if testing.Short() {
		t.Skip("it builds and starts servers")
	}
	if _, err := os.Stat("/proc/self/status"); err != nil {
		t.Skip("it reads /proc")
	}
	if _, err := exec.LookPath("go"); err != nil {
		t.Skip(err)
	}
	w, err := newWorld(t.Context(), settings{samples: 10})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.close)
	r := &report{}
	for _, k := range kinds {
		c, err := w.cost(t.Context(), k)
		if err != nil {
			t.Fatalf("%s: %v\n%s", k.name, err, w.postern.Said())
		}
		if c.cold.cpu <= 0 || c.cold.stock <= 0 || c.cold.latency <= 0 || !c.noWarm && c.warm.latency <= 0 {
			t.Errorf("%s: %+v", c.name, c)
		}
		r.addCost(c)
	}
	if err := oneFlight(t.Context(), w, r); err != nil || r.broken() {
		t.Errorf("%v, %+v", err, r.rows)
	}
	var out bytes.Buffer
	r.show(&out)
	for _, k := range kinds {
		if !strings.Contains(out.String(), k.name) {
			t.Errorf("the table has no %s:\n%s", k.name, &out)
		}
	}
}

// The verdicts tell promises from goals.
func TestVerdict(t *testing.T) {
	t.Parallel()
	for want, x := range map[string]row{"kept": {kept: true}, "BROKEN": {}, "reached": {goal: true, kept: true}, "missed": {goal: true}} {
		r := report{rows: []row{x}}
		if got := x.verdict(); got != want || r.broken() != (want == "BROKEN") {
			t.Errorf("%+v: %s, broken %v", x, got, r.broken())
		}
	}
}

func TestSettings(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]int{"small": small, "normal": normal, "50": 50, "9": -1, "x": -1, "1000000": -1} {
		var s settings
		if err := s.setSamples(text); (err != nil) != (want < 0) || err == nil && s.samples != want {
			t.Errorf("%s: %d, %v", text, s.samples, err)
		}
	}
	if _, err := measure(t.Context(), settings{only: "nothing of that name", samples: 10}); err == nil || !strings.Contains(err.Error(), "mtls-xfcc") {
		t.Error(err)
	}
}

// What stands in for Redis is read as Redis is.
func TestFakeRedis(t *testing.T) {
	t.Parallel()
	found := map[string]string{"sess:a": "{}"}
	get := func(key string) (string, bool) { v, ok := found[key]; return v, ok }
	for command, want := range map[string]string{
		"PTTL sess:a": ":3600000\r\n", "pttl sess:b": ":-2\r\n", "getrange sess:a 0 9": "$2\r\n{}\r\n", "getrange sess:b 0 9": "$0\r\n\r\n", "keys *": "-ERR unknown command\r\n",
	} {
		if got := reply(strings.Fields(command), get); got != want {
			t.Errorf("%s: %q", command, got)
		}
	}
}
