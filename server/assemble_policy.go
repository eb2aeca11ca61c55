package server

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/policy/bundle"
	"github.com/postern-auth/postern/policy/rego"
	"github.com/postern-auth/postern/server/check"
	"github.com/postern-auth/postern/server/strictyaml"
)

// Policy is the policy that decides, and one that only says what it would.
type Policy struct {
	OnePolicy `yaml:",inline"`
	// Shadow is a second policy. Default: none.
	Shadow *Shadow `yaml:"shadow"`
}

// OnePolicy says where a policy comes from and how it is evaluated: a directory, or
// bundles.
type OnePolicy struct {
	rego.Config `yaml:",inline"`
	// Bundles are put in force together, in the place of a directory. Several must not
	// overlap in their roots.
	Bundles []bundle.Bundle `yaml:"bundles"`
	// Keys verify the bundles' signatures, unless a bundle names keys of its own.
	Keys []bundle.Key `yaml:"keys"`
	// Persist is a directory in which the bundles in force are kept, so that Postern
	// can start while the bundle server is down. Danger: who can write there can bring
	// back any bundle that was ever signed. Default: nothing is kept.
	Persist strictyaml.Path `yaml:"persist"`
	// MaxAge is how long bundles are used without a sign from the server that they are
	// still the newest. Past it, Postern is not ready and denies with policy_stale. At
	// least 10s and more than poll.max of each bundle. Default: 0s, no limit.
	MaxAge time.Duration `yaml:"max_age"`
	// BundleLimits bounds each bundle; `limits` is for a directory.
	BundleLimits bundle.Limits `yaml:"bundle_limits"`
}

// source is the part that says where bundles come from.
func (p *OnePolicy) source() bundle.Config {
	return bundle.Config{Bundles: p.Bundles, Keys: p.Keys, Persist: p.Persist, MaxAge: p.MaxAge, Limits: p.BundleLimits}
}

// checkBundles holds the bundles against the directory and each other. The fields are
// reported below at.
func (p *OnePolicy) checkBundles(at string, report report) {
	if len(p.Bundles) == 0 {
		for _, f := range []struct {
			field string
			set   bool
		}{{"keys", len(p.Keys) > 0}, {"persist", p.Persist != ""}, {"max_age", p.MaxAge != 0}} {
			if f.set {
				report(at+"."+f.field, "is for bundles, and there are none", "add "+at+".bundles, or remove it")
			}
		}
		return
	}
	if p.Path != "" {
		report(at+".path", "bundles and a directory exclude each other", "keep one of them")
	}
	source := p.source()
	source.Check(func(path, message, suggestion string) {
		if rest, ok := strings.CutPrefix(path, "limits."); ok {
			path = "bundle_limits." + rest
		}
		report(at+"."+path, message, suggestion)
	})
}

// policySource is the policy of one configuration: the engine, what became of the last
// attempt to load it, and where bundles come from.
type policySource struct {
	rego.Engine
	cfg  OnePolicy
	env  surroundings
	last lastLoad

	bundles *bundle.Source // nil: the policy is a directory, or there is none
	stale   atomic.Bool
	stop    context.CancelFunc
	stopped chan struct{}
}

// assemblePolicy keeps the engine if its configuration did not change; whether
// the files did is for reload to find out.
func assemblePolicy(ctx context.Context, cfg *Config, prev *parts, env surroundings) (*policySource, error) {
	own := ownPolicy(cfg)
	if prev.policy != nil && reflect.DeepEqual(own, prev.policy.cfg) {
		return prev.policy, nil
	}
	s := &policySource{cfg: own, env: env}
	err := s.load(ctx, prev.policy)
	if err != nil && (prev.policy == nil || prev.policy.Snapshot() == nil) && errors.Is(err, rego.ErrNoPolicy) {
		return s, nil // start without one: not ready, and everything is denied, until there is one
	}
	return s, err
}

// ownPolicy hides credentials from the policy wherever the configuration looks for them.
func ownPolicy(cfg *Config) OnePolicy {
	own := cfg.Policy.OnePolicy
	own.CredentialHeaders = append(slices.Clone(own.CredentialHeaders), cfg.credentialHeaders()...)
	return own
}

// load reads the directory, or opens the bundles.
func (s *policySource) load(ctx context.Context, prev *policySource) (err error) {
	switch {
	case len(s.cfg.Bundles) > 0:
		return s.open(ctx, prev)
	case s.cfg.Path != "":
		_, err = s.reload(ctx)
	}
	return err
}

// open takes over what the source before had of the same bundles, and what is kept on
// disk. It asks nobody.
func (s *policySource) open(ctx context.Context, prev *policySource) (err error) {
	deps := bundle.Deps{Engine: &s.Engine, Rego: s.cfg.Config, Options: s.options(), Logger: s.env.log, Now: s.env.now}
	if prev != nil {
		deps.Previous = prev.bundles
	}
	if s.bundles, err = bundle.New(ctx, s.cfg.source(), deps); err != nil {
		return fmt.Errorf("policy: %w", err)
	}
	s.look()
	return nil
}

func (s *policySource) options() []rego.Option {
	return []rego.Option{rego.WithClock(s.env.now), rego.WithAlarm(func(m rego.Mismatch) {
		s.env.log.Error("a cached decision was wrong; the decision cache is off until the next policy", "revision", m.Revision)
	})}
}

// run asks for newer bundles until close.
func (s *policySource) run() {
	if s.bundles == nil || s.stop != nil {
		return
	}
	var ctx context.Context
	ctx, s.stop = context.WithCancel(context.Background())
	s.stopped = make(chan struct{})
	go func() {
		defer close(s.stopped)
		asking := make(chan struct{})
		go func() { defer close(asking); s.bundles.Run(ctx) }()
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			select {
			case <-asking:
				return
			case <-tick.C:
				s.look()
			}
		}
	}()
}

// look finds out whether the bundles are too old. The hot path reads what it found.
func (s *policySource) look() { s.stale.Store(s.bundles.Stale(s.env.now())) }

// close ends run.
func (s *policySource) close() {
	if s.bundles == nil {
		return
	}
	if s.stop != nil {
		s.stop()
		<-s.stopped
	}
	s.bundles.Close()
}

// Decide asks the engine, unless what it would answer by is too old. What look found
// may be a second old itself: a policy that has come since is good.
func (s *policySource) Decide(ctx context.Context, in *policy.Input) (*policy.Verdict, bool, error) {
	if s.stale.Load() && s.Snapshot() != nil && s.bundles.Stale(s.env.now()) {
		return nil, false, check.ErrPolicyStale
	}
	return s.Engine.Decide(ctx, in)
}

// Revision is the revision in force, or "".
func (s *policySource) Revision() string {
	if p := s.Snapshot(); p != nil {
		return p.Revision
	}
	return ""
}

// condition says whether there is a policy to decide by, and what is wrong with the
// newest.
func (s *policySource) condition() (ready bool, err error) {
	_, err = s.last.get()
	if s.bundles != nil {
		err = s.bundles.Problem()
	}
	return s.Snapshot() != nil && (s.bundles == nil || !s.bundles.Stale(s.env.now())), err
}

// reload loads the directory and puts it in force if it changed and compiles. On
// an error the policy in force stays. Bundles are asked for in the background.
func (s *policySource) reload(ctx context.Context) (changed bool, err error) {
	if s.bundles != nil {
		s.bundles.Refresh()
		return false, nil
	}
	defer func() { s.last.note(err, s.env.now()) }()
	if s.cfg.Path == "" {
		return false, nil
	}
	files, err := rego.Load(s.cfg.Path, s.cfg.Config)
	if err != nil {
		return false, err
	}
	if files.Revision == s.Revision() {
		return false, nil
	}
	next, err := rego.Compile(ctx, files, s.cfg.Config, s.options()...)
	if err != nil {
		return false, err
	}
	for _, w := range next.Warnings {
		s.env.log.Warn("policy", "warning", w.String())
	}
	s.Activate(next)
	return true, nil
}
