package main

import (
	"maps"
	"testing"
	"testing/fstest"

	"github.com/postern-auth/postern/policy/rego"
)

// Lines of the text format of Prometheus, and what is none.
func TestSample(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]struct {
		name   string
		labels map[string]string
		value  float64
		ok     bool
	}{
		`postern_policy_info{revision="7+ab"} 1`:            {"postern_policy_info", map[string]string{"revision": "7+ab"}, 1, true},
		`postern_x{a="b} c",d="e\"f\\"} 2.5e+06 1700000000`: {"postern_x", map[string]string{"a": "b} c", "d": `e"f\`}, 2.5e6, true},
		`postern_decision_cache_entries 12`:                 {"postern_decision_cache_entries", nil, 12, true},
		`# HELP postern_policy_info The policy in force.`:   {},
		`postern_x{a=b} 1`:                                  {},
		`postern_x{a="b" 1`:                                 {},
		`postern_x nothing`:                                 {},
		``:                                                  {},
	} {
		name, labels, value, ok := sample(line)
		if ok != want.ok || ok && (name != want.name || value != want.value || !maps.Equal(labels, want.labels)) {
			t.Errorf("%s: %s %v %g %v", line, name, labels, value, ok)
		}
	}
}

func TestPlaces(t *testing.T) {
	t.Parallel()
	directory := &source{name: "my/policy", dir: fstest.MapFS{"sub/a.rego": {}}}
	if got := directory.place("sub/a.rego"); got != "my/policy/sub/a.rego" {
		t.Error(got)
	}
	if got := directory.place("postern.lib/rbac.rego"); got != "postern.lib/rbac.rego" {
		t.Error(got)
	}
	if got := directory.placed(rego.Problems{{File: "a.rego", Line: 1, Text: "x\x1b[2J"}}).Error(); got != `a.rego:1: x\x1b[2J` {
		t.Errorf("%q", got)
	}
	if got := lineRanges([][2]int{{3, 3}, {7, 9}}); got != "3, 7-9" {
		t.Error(got)
	}
}
