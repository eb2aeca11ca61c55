package doctor

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// alarm is a metric that says that something is wrong once it is above a bound.
type alarm struct {
	metric string
	above  float64
	level  Level
	text   string
	hint   string
}

var alarms = []alarm{
	{"postern_store_blind", 0, Problem, "the replica has not heard of changes in the store for too long, and denies", "is the store up? See docs/store.md"},
	{"postern_store_failed", 0, Problem, "nothing more is written to the store after an error of the disk", "see to the disk, and restart the server"},
	{"postern_store_records_damaged", 0, Problem, "there are records in the store that cannot be read; what they name is denied", "`postern store check`"},
	{"postern_keys_unverifiable", 0, Problem, "there are keys whose pepper is missing here; all of them are denied", "add it under api_keys.peppers"},
	{"postern_jwks_private_key_seen", 0, Problem, "an issuer publishes a private key: whoever has read it can sign tokens", "tell the issuer now"},
	{"postern_journal_failed", 0, Problem, "the journal cannot be written; what has to be in it first is denied", "is the disk full?"},
	{"postern_issuer_fetch_failed", 0, Warning, "the keys of an issuer could not be fetched the last time", "/readyz and the log say why"},
	{"postern_credential_source_failed", 0, Warning, "something is wrong with where credentials of a kind are looked up", "/readyz and the log say why"},
	{"postern_bundle_waiting", 0, Problem, "no policy bundle of this name is in force", "the log says why"},
	{"postern_bundle_failed", 0, Warning, "the newest policy bundle is not in force", "the log says why"},
	{"postern_reload_failed", 0, Warning, "the last reload failed, and what was in force stays", "the log says why"},
	{"postern_callers_refused_total", 0, Warning, "calls were refused because who made them is not among `callers`", "is it your gateway? Then add it"},
	{"postern_api_keys_quarantined", 0, Warning, "there are keys that were sent in plaintext, and are disabled here", "replace them"},
	{"postern_decision_log_dropped_total", 0, Warning, "decisions were not logged because the log could not keep up", "read standard error faster, or log less: decisions.log"},
	{"postern_decision_events_sink_failed", 0, Warning, "events of decisions could not be written the last time", "the log says why"},
	{"postern_log_dropped_total", 0, Warning, "lines of the log were lost because nobody reads it", "read standard error faster"},
	{"postern_trace_failed", 0, Warning, "traces cannot be sent", "see tracing.endpoint"},
	{"postern_store_age_seconds", 1, Warning, "the replica's view of the store is older than a second", "is the store slow?"},
}

// lookAtMetrics reads what only they tell.
func (x *examination) lookAtMetrics(text string) {
	told := map[string]bool{}
	for line := range strings.Lines(text) {
		series, number, found := strings.Cut(strings.TrimSpace(line), " ")
		value, err := strconv.ParseFloat(number, 64)
		if !found || err != nil || strings.HasPrefix(line, "#") {
			continue
		}
		name, labels, _ := strings.Cut(series, "{")
		for _, a := range alarms {
			if a.metric == name && value > a.above && !told[series] {
				told[series] = true
				where := strings.TrimSuffix(labels, "}")
				x.add(a.level, "metrics", strings.TrimSuffix(a.text+" ("+cmp.Or(where, name)+")", " ()"), a.hint)
			}
		}
		switch name {
		case "postern_policy_activated_seconds":
			x.ok("policy", "in force since %s", time.Unix(int64(value), 0).UTC().Format(time.RFC3339))
		case "postern_bundle_checked_seconds":
			if age := x.Now().Sub(time.Unix(int64(value), 0)); value > 0 && age > time.Hour {
				x.warn("policy", fmt.Sprintf("nobody has said for %s that the bundle in force is the newest (%s)", age.Round(time.Minute), strings.TrimSuffix(labels, "}")), "is the bundle server up?")
			}
		}
	}
}
