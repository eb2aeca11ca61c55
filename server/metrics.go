package server

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/postern-auth/postern/policy/bundle"
	"github.com/postern-auth/postern/server/authn"
	"github.com/postern-auth/postern/server/mirror"
	"github.com/postern-auth/postern/server/store"
)

// registerMetrics adds what is read when somebody asks; decisions are counted by
// audit.Metrics as they are made.
func (s *Server) registerMetrics() {
	s.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), (*collector)(s))
}

// collector reads the parts in force.
type collector Server

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("postern_"+name, help, labels, nil)
}

var (
	descPolicy            = describe("policy_info", "The policy in force; always 1.", "revision")
	descPolicyTime        = describe("policy_activated_seconds", "When the policy in force was activated, as Unix time.")
	descReload            = describe("reload_failed", "Whether the last reload of this part failed; what was in force before stays.", "part")
	descReloadTime        = describe("reload_seconds", "When this part was last read, as Unix time.", "part")
	descKeys              = describe("api_keys", "API keys in the index.")
	descQuarantine        = describe("api_keys_quarantined", "API keys disabled on this replica because they were sent over plaintext.")
	descCache             = describe("credential_cache_total", "Look-ups of the memory of proven credentials, by whose they are and result: hit, negative_hit (a known bad one) or miss.", "of", "result")
	descCacheSize         = describe("credential_cache_entries", "Credentials in that memory, by whose they are and kind: good or bad.", "of", "kind")
	descEffort            = describe("credential_effort_refused_total", "Unknown tokens that were refused unread because too many with wrong signatures came, or too many at once.")
	descDecisions         = describe("decision_cache_total", "Look-ups of the decision cache of the policy in force, by result: hit or miss.", "result")
	descDecisionLen       = describe("decision_cache_entries", "Decisions in the cache of the policy in force.")
	descRefused           = describe("callers_refused_total", "Calls of gateways and services that are not in the list of callers.")
	descUnderWay          = describe("requests_under_way", "Requests that are being answered, by listener: doors (grpc and gateway), http or admin.", "listener")
	descOverloaded        = describe("requests_overloaded_total", "Requests that were refused because too many were under way (limits.requests), by listener.", "listener")
	descStreams           = describe("streams_open", "Subscriptions of gRPC that are open, to health for example.")
	descCrowded           = describe("connections_refused_total", "Connections that were closed because their address had three quarters of limits.connections.")
	descStrangers         = describe("connections_bad_total", "Connections to the listener of gRPC that were closed because they did not begin with a handshake and HTTP/2.")
	descLogDropped        = describe("log_dropped_total", "Lines of the server's own log that were lost because nobody read it.")
	descDropped           = describe("decision_log_dropped_total", "Decisions that were not logged because the log could not keep up.")
	descEvents            = describe("decision_events_total", "Decisions for the decision log, by what became of them: made, dropped (by the policy), lost (too many waited) or withheld (made, but without their input, which could not be masked).", "result")
	descEventsSink        = describe("decision_events_sink_total", "Events by where they go (stdout, file, service) and result: written or lost.", "sink", "result")
	descEventsFailed      = describe("decision_events_sink_failed", "Whether the last attempt to write events failed.", "sink")
	descJournal           = describe("journal_records_total", "Decisions for the journal of routes with audit_first, by result: written or failed (the request was denied).", "result")
	descJournalSyncs      = describe("journal_syncs_total", "Times that the journal was synced to disk; decisions that wait at the same time share one.")
	descJournalFailed     = describe("journal_failed", "Whether the last attempt to write the journal failed.")
	descTraces            = describe("trace_checks_total", "Checks that were kept for a trace, by what became of them: sent, refused (by the receiver), dropped (too many waited), lost (they could not be sent) or limited (not kept, because there were too many).", "result")
	descTraceFailed       = describe("trace_failed", "Whether the last attempt to send traces failed.")
	descIssuerKeys        = describe("issuer_keys", "Keys in use, by issuer.", "issuer")
	descIssuerAge         = describe("issuer_keys_fetched_seconds", "When the keys in use were fetched, as Unix time, by issuer.", "issuer")
	descIssuerErr         = describe("issuer_fetch_failed", "Whether the last fetch of an issuer's keys failed.", "issuer")
	descStoreAge          = describe("store_age_seconds", "How long ago this replica had last heard of all changes in the store.")
	descStoreChange       = describe("store_change", "The last change in the store that this replica has heard of.")
	descStoreBlind        = describe("store_blind", "Whether this replica denies because it has not heard of changes for too long.")
	descStoreFailed       = describe("store_failed", "Whether nothing more is written to the store, after an error of its disk, until this replica is restarted.")
	descStorePolls        = describe("store_polls_total", "Times that the store was asked for changes, by result: ok or failed.", "result")
	descStoreHeld         = describe("store_records", "Records of the store that this replica holds in memory, by kind.", "kind")
	descStoreBad          = describe("store_records_damaged", "Records of the store that cannot be read; what they name is denied.")
	descStoreLoads        = describe("store_loads_total", "Times that this replica has read the whole store.")
	descStoreLoadTook     = describe("store_load_seconds", "How long the last of these took.")
	descUsageLost         = describe("usage_dropped_total", "Uses of credentials that were not counted because the store did not answer for too long.")
	descTouchesLost       = describe("session_touches_dropped_total", "Uses of sessions that were not noted because the store did not answer for too long.")
	descUnverifiable      = describe("keys_unverifiable", "Credentials of the store whose pepper this replica does not have; all of them are denied.")
	descKeysOlder         = describe("keys_older_than", "Credentials of the store in force that are older than so many days.", "days")
	descKeysEnding        = describe("keys_ending_within", "Credentials of the store in force that expire within so many days.", "days")
	descBundleWaiting     = describe("bundle_waiting", "Whether no bundle of this name is in force.", "bundle")
	descBundleFailed      = describe("bundle_failed", "Whether the newest bundle of this name is not in force.", "bundle")
	descBundleChecked     = describe("bundle_checked_seconds", "When the server last said that the bundle in force is the newest, as Unix time; 0 for never.", "bundle")
	descBundleActivations = describe("bundle_activations_total", "Bundles of this name that were put in force.", "bundle")
	descBundleRefusals    = describe("bundle_refusals_total", "Answers of the bundle server that were refused, by the step that failed.", "bundle", "step")
	descKindErr           = describe("credential_source_failed", "Whether something is wrong with where a kind of credentials is looked up.", "of")
	descRate              = describe("rate_requests_total", "Requests that a rate was asked about, by result: allowed, limited, or crowded (allowed, but counted together with others because there are too many keys).", "rate", "result")
	descBudget            = describe("budget_requests_total", "Requests that fell under a budget and that nothing else denied, by result: charged or refused.", "budget", "result")
	descRateKeys          = describe("rate_keys", "Principals, addresses or whatever a rate tells apart that it counts at the moment.", "rate")
	descPrivate           = describe("jwks_private_key_seen", "Whether an issuer publishes a private key in its key set.", "issuer")
)

// Describe implements prometheus.Collector. Sending nothing makes the collector
// unchecked: some metrics come and go with the configuration.
func (*collector) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (c *collector) Collect(out chan<- prometheus.Metric) {
	p := c.current.Load()
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	count := func(d *prometheus.Desc, v uint64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	part := func(name string, last *lastLoad) {
		at, err := last.get()
		gauge(descReload, truth(err != nil), name)
		if !at.IsZero() {
			gauge(descReloadTime, float64(at.Unix()), name)
		}
	}
	part("configuration", &c.config)
	part("policy", &p.policy.last)
	if snapshot := p.policy.Snapshot(); snapshot != nil {
		gauge(descPolicy, 1, snapshot.Revision)
		gauge(descPolicyTime, float64(snapshot.Activated.Unix()))
		stats := snapshot.Stats()
		count(descDecisions, stats.Hits, "hit")
		count(descDecisions, stats.Misses, "miss")
		gauge(descDecisionLen, float64(stats.Entries))
	}
	if p.policy.bundles != nil {
		c.bundles(p.policy.bundles, gauge, count)
	}
	if p.shadow != nil {
		part("shadow policy", &p.shadow.last)
		p.shadow.collect(gauge, count)
	}
	keys := p.keys.Status()
	gauge(descKeys, float64(keys.Keys))
	gauge(descQuarantine, float64(len(keys.Quarantined)))
	gauge(descReload, truth(keys.Err != nil), "api_keys")
	if c.plane != nil {
		c.plane.collect(c.now(), gauge, count)
	}
	memory := func(of string, stats authn.CacheStats) {
		count(descCache, stats.Hits, of, "hit")
		count(descCache, stats.NegativeHits, of, "negative_hit")
		count(descCache, stats.Misses, of, "miss")
		gauge(descCacheSize, float64(stats.Size), of, "good")
		gauge(descCacheSize, float64(stats.NegativeSize), of, "bad")
	}
	memory("issuers", p.proven.Stats())
	for _, k := range p.kinds {
		if k.cache != nil {
			memory(k.name, k.cache.Stats())
		}
		if k.condition != nil {
			_, err := k.condition()
			gauge(descKindErr, truth(err != nil), k.name)
		}
	}
	if c.plane != nil {
		for name, n := range *c.charges.byBudget.Load() {
			count(descBudget, n.charged.Load(), name, "charged")
			count(descBudget, n.refused.Load(), name, "refused")
		}
	}
	for _, r := range p.rates.Status() {
		count(descRate, r.Allowed-r.Crowded, r.Name, "allowed")
		count(descRate, r.Crowded, r.Name, "crowded")
		count(descRate, r.Limited, r.Name, "limited")
		gauge(descRateKeys, float64(r.Keys), r.Name)
	}
	count(descRefused, c.callers.refused.Load())
	count(descEffort, c.env.effort.Refused())
	for _, at := range []struct {
		listener string
		*underWay
	}{{"doors", &c.checks}, {"http", &c.people}, {"admin", &c.operate}} {
		gauge(descUnderWay, float64(at.now.Load()), at.listener)
		count(descOverloaded, at.refused.Load(), at.listener)
	}
	gauge(descStreams, float64(c.streams.now.Load()))
	count(descCrowded, c.crowded.Load())
	count(descStrangers, c.strangers.seen.Load())
	count(descLogDropped, c.lines.Dropped())
	if c.decLog != nil {
		count(descDropped, c.decLog.Dropped())
	}
	if c.events != nil {
		stats := c.events.Stats()
		count(descEvents, stats.Made, "made")
		count(descEvents, stats.Dropped, "dropped")
		count(descEvents, stats.Lost, "lost")
		count(descEvents, stats.Withheld, "withheld")
		for _, sink := range stats.Sinks {
			count(descEventsSink, sink.Written, sink.Name, "written")
			count(descEventsSink, sink.Lost, sink.Name, "lost")
			gauge(descEventsFailed, truth(sink.Err != nil), sink.Name)
		}
	}
	if p.journal != nil {
		stats := p.journal.Stats()
		count(descJournal, stats.Written, "written")
		count(descJournal, stats.Failed, "failed")
		count(descJournalSyncs, stats.Syncs)
		gauge(descJournalFailed, truth(p.journal.Err() != nil))
	}
	if p.tracer != nil {
		stats := p.tracer.Stats()
		for result, n := range map[string]uint64{
			"sent": stats.Sent, "refused": stats.Refused, "dropped": stats.Dropped, "lost": stats.Lost, "limited": stats.Limited,
		} {
			count(descTraces, n, result)
		}
		gauge(descTraceFailed, truth(stats.Err != nil))
	}
	for issuer, source := range p.sources {
		status := source.Status()
		gauge(descIssuerKeys, float64(status.Keys), issuer)
		gauge(descIssuerErr, truth(status.Err != nil), issuer)
		gauge(descPrivate, truth(status.PrivateKeySeen), issuer)
		if !status.Fetched.IsZero() {
			gauge(descIssuerAge, float64(status.Fetched.Unix()), issuer)
		}
	}
}

func (c *collector) bundles(source *bundle.Source, gauge func(*prometheus.Desc, float64, ...string), count func(*prometheus.Desc, uint64, ...string)) {
	for _, b := range source.Status() {
		gauge(descBundleWaiting, truth(b.Waiting), b.Name)
		gauge(descBundleFailed, truth(b.Err != nil), b.Name)
		gauge(descBundleChecked, float64(max(0, b.Checked.Unix())), b.Name)
		count(descBundleActivations, b.Activations, b.Name)
		for _, step := range bundle.Failures() {
			count(descBundleRefusals, b.Refusals[step], b.Name, string(step))
		}
	}
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func (p *plane) collect(now time.Time, gauge func(*prometheus.Desc, float64, ...string), count func(*prometheus.Desc, uint64, ...string)) {
	view, status := p.mirror.View(), p.mirror.Status()
	if !view.Since.IsZero() {
		gauge(descStoreAge, view.Age(now).Seconds())
	}
	gauge(descStoreChange, float64(view.Number))
	gauge(descStoreBlind, truth(view.State(now) == mirror.Blind))
	gauge(descStoreFailed, truth(p.failed() != nil))
	count(descStorePolls, status.Polls-status.Failures, "ok")
	count(descStorePolls, status.Failures, "failed")
	for _, held := range []struct {
		kind store.Kind
		n    int
	}{
		{store.KindTenant, status.Tenants}, {store.KindPrincipal, status.Principals}, {store.KindCredential, status.Credentials},
		{store.KindSession, status.Sessions}, {store.KindDenial, status.Denials},
		{store.KindApproval, status.Approvals}, {store.KindConsent, status.Consents},
	} {
		gauge(descStoreHeld, float64(held.n), string(held.kind))
	}
	gauge(descStoreBad, float64(status.Damaged))
	count(descStoreLoads, status.Loads)
	gauge(descStoreLoadTook, status.LoadTook.Seconds())
	count(descUsageLost, status.UsageDropped)
	count(descTouchesLost, status.TouchesDropped)
	gauge(descUnverifiable, float64(status.Keys.Unverifiable))
	for i, age := range mirror.KeyAges {
		gauge(descKeysOlder, float64(status.Keys.OlderThan[i]), days(age))
	}
	for i, left := range mirror.KeyEnds {
		gauge(descKeysEnding, float64(status.Keys.Ending[i]), days(left))
	}
}

func days(d time.Duration) string { return strconv.Itoa(int(d / (24 * time.Hour))) }
