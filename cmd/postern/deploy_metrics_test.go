package main

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/postern-auth/postern/deploy"
	"github.com/postern-auth/postern/policy"
)

// What watches Postern is held against what a server really says: every metric, label and
// value of a label in the rules and the dashboard exists.

// metricSet are metrics by name, and for each label its values; those of an open set,
// such as the names of issuers, are not among them.
type metricSet map[string]map[string][]string

// openLabels take whatever the configuration names.
var openLabels = []string{"issuer", "bundle", "budget", "rate", "revision", "instance", "job"}

// measure is all that servers say of themselves.
func measure(t *testing.T) metricSet {
	t.Helper()
	all := metricSet{}
	for _, text := range scrapes(t) {
		all.add(text)
	}
	for _, r := range policy.Reasons() {
		all.value("postern_decisions_total", "reason", r.String())
	}
	all["up"] = map[string][]string{}
	for _, labels := range all {
		for _, name := range []string{"instance", "job"} { // Prometheus's own
			labels[name] = nil
		}
	}
	return all
}

var (
	sampleLine  = regexp.MustCompile(`(?m)^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*?)\})? \S+`)
	labelInLine = regexp.MustCompile(`([a-zA-Z_]+)="((?:[^"\\]|\\.)*)"`)
)

func (m metricSet) add(text string) {
	for _, line := range sampleLine.FindAllStringSubmatch(text, -1) {
		if m[line[1]] == nil {
			m[line[1]] = map[string][]string{}
		}
		for _, label := range labelInLine.FindAllStringSubmatch(line[2], -1) {
			m.value(line[1], label[1], label[2])
		}
	}
}

func (m metricSet) value(metric, label, value string) {
	if m[metric] != nil && !slices.Contains(m[metric][label], value) {
		m[metric][label] = append(m[metric][label], value)
	}
}

// faults says what in an expression of PromQL does not exist.
func (m metricSet) faults(expr string) (all []string) {
	words, err := promWords(expr)
	if err != nil {
		return []string{err.Error()}
	}
	used := map[string]bool{}
	fault := func(format string, a ...any) { all = append(all, fmt.Sprintf(format, a...)) }
	var grouped []string
	for i := 0; i < len(words); i++ {
		w := words[i]
		next := ""
		if i+1 < len(words) {
			next = words[i+1]
		}
		switch {
		case slices.Contains([]string{"by", "without", "on", "ignoring", "group_left", "group_right"}, w):
			for i++; i < len(words) && words[i] != ")"; i++ {
				if words[i] != "(" && words[i] != "," {
					grouped = append(grouped, words[i])
				}
			}
		case !isWord(w) || next == "(" || next == "by" || next == "without" || // an aggregation or a function
			slices.Contains([]string{"and", "or", "unless", "bool", "offset", "inf", "nan"}, strings.ToLower(w)):
		default:
			labels, exists := m[w]
			if used[w] = true; !exists {
				fault("there is no metric %s", w)
			}
			if next != "{" {
				continue
			}
			for i += 2; i < len(words) && words[i] != "}"; i++ {
				if words[i] == "," {
					continue
				}
				label, value := words[i], strings.Trim(words[i+2], `"`)
				values, has := labels[label]
				if !has {
					fault("%s has no label %s", w, label)
				}
				closed := has && !slices.Contains(openLabels, label)
				for _, v := range strings.Split(value, "|") {
					if closed && !slices.Contains(values, v) {
						fault("%s is never %s=%q", w, label, v)
					}
				}
				i += 2
			}
		}
	}
	for _, label := range grouped {
		if !slices.ContainsFunc(slices.Collect(maps.Keys(used)), func(name string) bool { _, has := m[name][label]; return has }) {
			fault("nothing in it has the label %s", label)
		}
	}
	if len(used) == 0 {
		fault("it looks at no metric")
	}
	return all
}

func isWord(s string) bool { return regexp.MustCompile(`^[a-zA-Z_:]`).MatchString(s) }

var promWord = regexp.MustCompile(`^(?:[a-zA-Z_:][a-zA-Z0-9_:]*|"(?:[^"\\]|\\.)*"|[0-9.]+[a-z]*|=~|!~|!=|==|>=|<=|[-+*/%^=<>(){}\[\],@])`)

// promWords takes an expression apart, as far as finding names needs it.
func promWords(expr string) (words []string, err error) {
	for rest := strings.TrimSpace(expr); rest != ""; rest = strings.TrimSpace(rest) {
		w := promWord.FindString(rest)
		if w == "" {
			return nil, fmt.Errorf("not PromQL at %q", rest)
		}
		words, rest = append(words, w), rest[len(w):]
	}
	return words, nil
}

type alertRule struct {
	Record, Alert, Expr, For string
	Labels, Annotations      map[string]string
}

func alertRules(t testing.TB) (all []alertRule) {
	t.Helper()
	var file struct {
		Groups []struct {
			Name  string
			Rules []alertRule
		}
	}
	if err := yaml.Unmarshal([]byte(deployedFile(t, "prometheus/rules.yaml")), &file); err != nil {
		t.Fatal(err)
	}
	for _, g := range file.Groups {
		all = append(all, g.Rules...)
	}
	return all
}

// TestDeployRules holds alerts and dashboard against the metrics of a server.
func TestDeployRules(t *testing.T) {
	t.Parallel()
	m := measure(t)
	rules := alertRules(t)
	for _, r := range rules {
		if r.Record != "" {
			m[r.Record] = map[string][]string{}
		}
	}
	var exprs string
	alerts := map[string]bool{}
	label := regexp.MustCompile(`\$labels\.([a-z_]+)`)
	for _, r := range rules {
		exprs += r.Expr + "\n"
		for _, f := range m.faults(r.Expr) {
			t.Errorf("%s%s: %s", r.Record, r.Alert, f)
		}
		if r.Alert == "" {
			continue
		}
		if alerts[r.Alert] || r.Annotations["summary"] == "" || r.Annotations["description"] == "" || r.For == "" || !slices.Contains([]string{"page", "ticket"}, r.Labels["severity"]) {
			t.Errorf("%s is not whole, or there are two: %+v", r.Alert, r)
		}
		alerts[r.Alert] = true
		for _, l := range label.FindAllStringSubmatch(r.Annotations["summary"]+r.Annotations["description"], -1) {
			words, _ := promWords(r.Expr)
			if !slices.ContainsFunc(words, func(w string) bool { _, has := m[w][l[1]]; return has }) {
				t.Errorf("%s speaks of a label %s", r.Alert, l[1])
			}
		}
	}
	if len(alerts) < 20 {
		t.Errorf("only %d alerts", len(alerts))
	}

	// The pages say what to alert on; and what a fault is, the reasons do.
	page := docPageNamed(t, "docs/operations.md").prose()
	_, wanted, _ := strings.Cut(page, "Alert on ")
	wanted, _, _ = strings.Cut(wanted, "\n\n")
	named := regexp.MustCompile("`(postern_[a-z_]+)`").FindAllStringSubmatch(wanted, -1)
	for _, n := range named {
		if !regexp.MustCompile(`\b` + n[1] + `\b`).MatchString(exprs) {
			t.Errorf("there is no alert on %s", n[1])
		}
	}
	if len(named) < 6 {
		t.Errorf("the page names %d metrics to alert on", len(named))
	}
	var faults []string
	for _, r := range policy.Reasons() {
		if r.Status() == 503 && r != policy.ReasonCallerUnlisted {
			faults = append(faults, r.String())
		}
	}
	for _, list := range regexp.MustCompile(`reason=~"([^"]*)"`).FindAllStringSubmatch(exprs+strings.Join(dashboardExprs(t), "\n"), -1) {
		if got := strings.Split(list[1], "|"); !equalSets(got, faults) {
			t.Errorf("faults are %v, not %v", faults, got)
		}
	}

	for _, expr := range dashboardExprs(t) {
		for _, f := range m.faults(expr) {
			t.Errorf("dashboard: %s: %s", expr, f)
		}
	}

	// The check can fail.
	for _, expr := range []string{
		"postern_decision_total", `sum(postern_decisions_total{raeson="allowed"})`, `postern_decisions_total{reason="permitted"}`, `postern_decisions_total{reason=~"allowed|permitted"}`,
		"sum by (gateway) (rate(postern_decisions_total[5m]))", "1 + 2", `postern_decision_seconds_bucket{le="0.02"}`, `postern_store_polls_total{result="fail"}`, "postern_decision_seconds", "a ? b",
	} {
		if len(m.faults(expr)) == 0 {
			t.Errorf("nothing is said of %s", expr)
		}
	}
}

func equalSets(a, b []string) bool {
	a, b = slices.Clone(a), slices.Clone(b)
	slices.Sort(a)
	slices.Sort(b)
	return slices.Equal(a, b)
}

// dashboard is a dashboard of Grafana, as far as it is looked at here.
type dashboard struct {
	Panels []struct {
		ID                       int
		Type, Title, Description string
		GridPos                  struct{ X, Y, W, H int }
		Targets                  []struct{ Expr string }
	}
	Templating struct {
		List []struct{ Name, Definition string }
	}
	Annotations struct{ List []struct{ Expr string } }
}

func readDashboard(t testing.TB) (d dashboard) {
	t.Helper()
	if err := json.Unmarshal([]byte(deployedFile(t, "grafana/dashboard.json")), &d); err != nil {
		t.Fatal(err)
	}
	return d
}

// dashboardExprs are the expressions of the dashboard, with its variables filled in.
func dashboardExprs(t testing.TB) (all []string) {
	t.Helper()
	d := readDashboard(t)
	for _, p := range d.Panels {
		for _, target := range p.Targets {
			all = append(all, target.Expr)
		}
	}
	for _, a := range d.Annotations.List {
		all = append(all, a.Expr)
	}
	for i := range all {
		all[i] = strings.NewReplacer("$__rate_interval", "5m", "$instance", "a").Replace(all[i])
		if strings.Contains(all[i], "$") {
			t.Errorf("a variable that nobody fills in: %s", all[i])
		}
	}
	return all
}

// TestDeployDashboard: no panel is empty, lies on another, or goes unexplained.
func TestDeployDashboard(t *testing.T) {
	t.Parallel()
	d := readDashboard(t)
	ids, cells := map[int]bool{}, map[[2]int]string{}
	for _, p := range d.Panels {
		if ids[p.ID] || p.Title == "" || p.Type != "row" && (len(p.Targets) == 0 || p.Description == "") {
			t.Errorf("panel %d %q is not whole", p.ID, p.Title)
		}
		ids[p.ID] = true
		at := p.GridPos
		if at.X+at.W > 24 || at.W < 1 || at.H < 1 {
			t.Errorf("%q does not fit: %+v", p.Title, at)
		}
		for x := at.X; x < at.X+at.W; x++ {
			for y := at.Y; y < at.Y+at.H; y++ {
				if other := cells[[2]int{x, y}]; other != "" {
					t.Fatalf("%q lies on %q", p.Title, other)
				}
				cells[[2]int{x, y}] = p.Title
			}
		}
	}
	if len(d.Panels) < 20 || len(d.Templating.List) != 2 || d.Templating.List[1].Definition != `label_values(up{job="postern"}, instance)` {
		t.Errorf("%d panels, %+v", len(d.Panels), d.Templating)
	}
}

// TestDeployPromtool asks Prometheus itself: the rules parse, and their own tests pass.
func TestDeployPromtool(t *testing.T) {
	t.Parallel()
	promtool := toolFor(t, "POSTERN_PROMTOOL", "promtool", "Debian: apt-get install prometheus")
	dir := t.TempDir()
	sub, err := fs.Sub(deploy.Files, "prometheus")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(dir, sub); err != nil {
		t.Fatal(err)
	}
	output(t, promtool, "check", "rules", filepath.Join(dir, "rules.yaml"))
	output(t, promtool, "check", "config", filepath.Join(dir, "prometheus.yaml"))
	output(t, promtool, "test", "rules", filepath.Join(dir, "rules_test.yaml"))
	// Expressions of the dashboard, as rules.
	var b strings.Builder
	b.WriteString("groups:\n  - name: dashboard\n    rules:\n")
	for i, expr := range dashboardExprs(t) {
		fmt.Fprintf(&b, "      - {record: dashboard_%d, expr: %q}\n", i, expr)
	}
	rules := filepath.Join(dir, "dashboard.yaml")
	if err := os.WriteFile(rules, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	output(t, promtool, "check", "rules", rules)
	if err := os.WriteFile(rules, []byte(strings.Replace(b.String(), "rate(", "rate((", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), promtool, "check", "rules", rules).CombinedOutput(); err == nil {
		t.Errorf("promtool finds nothing wrong: %s", out)
	}
}
