package server

import (
	"context"
	"path/filepath"
	"reflect"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-auth/postern/server/admin"
	"github.com/postern-auth/postern/server/audit"
)

// Shadow is a second policy, from a directory or from bundles, with settings of its own,
// that is asked about every request about which the policy in force was asked, and
// compared. Nothing that it says is enforced, and nobody waits for it: it is asked after
// the answer, max_evaluations at a time (default 1), and requests that come faster are
// left out and counted. Danger: it takes processor time and memory (policy.shadow.cache)
// from the same machine, and functions that it may use to reach others are called for
// each request.
type Shadow struct {
	OnePolicy `yaml:",inline"`
}

// SetDefaults implements strictyaml.Defaulter.
func (s *Shadow) SetDefaults() {
	s.OnePolicy = defaultPolicy()
	s.MaxEvaluations = 1
}

// checkShadow holds the policy in the shadow against itself and the one in force.
func (c *Config) checkShadow(report report) {
	s := c.Policy.Shadow
	if s == nil {
		return
	}
	const at = "policy.shadow"
	s.check(at, report)
	if s.Path == "" && len(s.Bundles) == 0 {
		report(at, "nothing says where the policy is", "add path or bundles, or remove it")
	}
	if s.Persist != "" && c.Policy.Persist != "" && filepath.Clean(s.Persist.String()) == filepath.Clean(c.Policy.Persist.String()) {
		report(at+".persist", "is where the bundles in force are kept, and after a restart this policy would be in force in their place", "name another directory")
	}
	if s.InsecureExposeCredentials && !c.Policy.InsecureExposeCredentials {
		report(at+".insecure_expose_credentials", "the policy in force is not shown credentials", "remove it")
	}
}

// shadow is a policy that is asked beside the one in force.
type shadow struct {
	*policySource
	*audit.Shadow
}

// assembleShadow makes the policy in the shadow; nil if there is none. One that is wrong
// is no reason to refuse a configuration or not to be ready: it is said wherever people
// look, and nothing is compared until it is mended.
func assembleShadow(ctx context.Context, cfg *Config, prev *parts, env surroundings) *shadow {
	if cfg.Policy.Shadow == nil {
		return nil
	}
	own := ownShadow(cfg)
	var before *policySource
	if prev.shadow != nil {
		before = prev.shadow.policySource
		if reflect.DeepEqual(own, before.cfg) {
			return prev.shadow
		}
	}
	env.log = env.log.With("shadow", true)
	s := &policySource{cfg: own, env: env}
	if err := s.load(ctx, before); err != nil {
		s.last.note(err, env.now())
		env.log.Error("the shadow policy cannot be used; nothing is compared", "error", err)
	}
	return &shadow{s, audit.NewShadow(audit.ShadowConfig{Policy: s, Workers: own.MaxEvaluations, Logger: env.log, Now: env.now})}
}

// ownShadow hides from the policy in the shadow what is hidden from the one in force.
func ownShadow(cfg *Config) OnePolicy {
	own := cfg.Policy.Shadow.OnePolicy
	own.CredentialHeaders = slices.Concat(own.CredentialHeaders, cfg.Policy.CredentialHeaders, cfg.credentialHeaders())
	return own
}

// recorder adds the comparison to what is recorded of decisions.
func (s *shadow) recorder(others audit.Recorder) audit.Recorder {
	switch {
	case s == nil:
		return others
	case others == nil:
		return s.Shadow
	}
	return audit.Tee{others, s.Shadow}
}

// run asks for newer bundles until close.
func (s *shadow) run() {
	if s != nil {
		s.policySource.run()
	}
}

// reload is that of the policy. Bundles that could not be opened are opened again when
// their configuration changes.
func (s *shadow) reload(ctx context.Context) (changed bool, err error) {
	switch {
	case s == nil:
		return false, nil
	case len(s.cfg.Bundles) > 0 && s.bundles == nil:
		_, err = s.last.get()
		return false, err
	}
	return s.policySource.reload(ctx)
}

func (s *shadow) close() {
	s.policySource.close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = s.Close(ctx) // what is still evaluated ends by its own deadline
}

// shadowStats is how the two policies agree; false if there is but one.
func (s *Server) shadowStats() (stats audit.ShadowStats, enforced string, found bool) {
	p := s.current.Load()
	if p.shadow == nil {
		return stats, "", false
	}
	return p.shadow.Stats(), p.policy.Revision(), true
}

// condition is always ready.
func (s *shadow) condition() admin.Condition {
	c := admin.Condition{Name: "shadow policy", Ready: true, Detail: "revision " + s.Revision()}
	usable, err := s.policySource.condition()
	switch {
	case err != nil && s.Snapshot() == nil:
		c.Detail = "nothing is compared: " + err.Error()
	case err != nil:
		c.Detail = "the last reload failed, what was there stays: " + err.Error()
	case s.Snapshot() == nil:
		c.Detail = "nothing is compared: it is not here yet"
	case !usable:
		c.Detail = "it is older than policy.shadow.max_age, and counts as one that cannot answer"
	}
	return c
}

var (
	descShadow            = describe("shadow_info", "The policy in the shadow; always 1.", "revision")
	descShadowTime        = describe("shadow_activated_seconds", "When the policy in the shadow was loaded, as Unix time.")
	descShadowFailed      = describe("shadow_failed", "Whether the newest policy in the shadow could not be loaded.")
	descShadowDecisions   = describe("shadow_decisions_total", "Decisions that were compared with the policy in the shadow, by result: same or different; since that policy was loaded.", "result")
	descShadowDropped     = describe("shadow_dropped_total", "Decisions that were not compared because too many waited, or for too long.")
	descShadowDifferences = describe("shadow_differences_total", "Decisions that the policy in the shadow would change, by change (deny to allow, allow to deny, error, or what part of the answer), by the rule that makes it and by route; since that policy was loaded.", "change", "rule", "route")
)

// collect is what can be counted of the comparison.
func (s *shadow) collect(gauge func(*prometheus.Desc, float64, ...string), count func(*prometheus.Desc, uint64, ...string)) {
	_, err := s.policySource.condition()
	gauge(descShadowFailed, truth(err != nil))
	if snapshot := s.Snapshot(); snapshot != nil {
		gauge(descShadow, 1, snapshot.Revision)
		gauge(descShadowTime, float64(snapshot.Activated.Unix()))
	}
	stats := s.Stats()
	count(descShadowDecisions, stats.Compared-stats.Different, "same")
	count(descShadowDecisions, stats.Different, "different")
	count(descShadowDropped, stats.Lost)
	for _, k := range stats.Kinds {
		count(descShadowDifferences, k.N, k.Change, k.Rule, k.Route)
	}
}
