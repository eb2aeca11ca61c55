package doctor

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// What only the metrics tell.
func TestLooksAtMetrics(t *testing.T) {
	t.Parallel()
	x := at(time.Now())
	x.lookAtMetrics(`# HELP x
postern_store_blind 1
postern_issuer_fetch_failed{issuer="https://a.test"} 1
postern_issuer_fetch_failed{issuer="https://b.test"} 0
postern_trace_failed 0
postern_store_age_seconds 0.2
postern_bundle_checked_seconds{bundle="shop"} 1
postern_policy_activated_seconds 1.7e+09
broken line
`)
	if len(x.found) != 4 || x.found[0].Level != Problem || !strings.Contains(x.found[1].Text, `issuer="https://a.test"`) || x.found[2].Level != Warning || x.found[3].Level != OK {
		t.Errorf("%v", x.found)
	}
}

// Every alarm is about a metric that docs/operations.md names, and each metric there that
// counts failures has an alarm.
func TestAlarmsAreAboutMetrics(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile(filepath.Join("..", "..", "..", "docs", "operations.md"))
	if err != nil {
		t.Fatal(err)
	}
	registered := map[string]bool{}
	for _, row := range regexp.MustCompile("(?m)^\\| `(postern_[a-z_]+)` \\|").FindAllSubmatch(page, -1) {
		registered[string(row[1])] = true
	}
	for _, a := range alarms {
		if !registered[a.metric] {
			t.Errorf("there is no metric %s", a.metric)
		}
		delete(registered, a.metric)
	}
	for metric := range registered {
		if strings.HasSuffix(metric, "_failed") {
			t.Errorf("the doctor does not look at %s", metric)
		}
	}
}
