package server

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"sync"
	"time"

	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/postern-auth/postern/server/admin"
)

// lastLoad is what became of the last attempt to load something.
type lastLoad struct {
	mu  sync.Mutex
	err error
	at  time.Time
}

func (l *lastLoad) note(err error, at time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.err, l.at = err, at
}

func (l *lastLoad) get() (at time.Time, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.at, l.err
}

// Reload reads everything again: configuration, certificates, keys, policy and
// key sets on disk. Each that is wrong is logged and left as it was; the error
// joins them.
func (s *Server) Reload(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer func() {
		select {
		case s.reloaded <- struct{}{}:
		default: // watch will see
		}
	}()
	var errs []error
	attempt := func(what string, changed bool, err error) {
		switch {
		case err != nil:
			s.log.Error("reload failed; what was in force stays", "what", what, "error", err)
			errs = append(errs, err)
		case changed:
			s.log.Info("reloaded", "what", what)
		}
	}
	err := s.reloadConfig(ctx)
	s.config.note(err, s.now())
	attempt("configuration", false, err)
	if s.certs != nil {
		changed, err := s.certs.Reload()
		attempt("certificate", changed, err)
	}
	p := s.current.Load()
	before := p.keys.Epoch()
	err = p.keys.Reload(ctx)
	attempt("keys file", p.keys.Epoch() != before, err)
	changed, err := p.policy.reload(ctx)
	attempt("policy", changed, err)
	changed, err = p.shadow.reload(ctx)
	attempt("shadow policy", changed, err)
	attempt("kinds of credentials", false, p.kinds.reloadAll(ctx))
	for issuer, source := range p.sources {
		if source.file != "" {
			attempt("keys of "+issuer, false, source.Reload(ctx))
		}
	}
	return errors.Join(errs...)
}

// reloadConfig swaps the configuration if the file says something new.
func (s *Server) reloadConfig(ctx context.Context) error {
	cfg, err := s.opts.Load()
	if err != nil {
		return err
	}
	old := s.current.Load().cfg
	if cfg.equal(old) {
		return nil
	}
	if late := startOnly(old, cfg); len(late) > 0 {
		s.log.Warn("some settings change at the next start only", "settings", late)
	}
	return s.Swap(ctx, cfg)
}

// startOnly names the changed settings that listeners, doors and logs were made
// from.
func startOnly(old, next *Config) []string {
	var late []string
	for _, setting := range []struct {
		name    string
		changed bool
	}{
		{"listen", old.Listen != next.Listen},
		{"tls", !reflect.DeepEqual(old.TLS, next.TLS)},
		{"limits", old.Limits != next.Limits},
		{"decisions", !reflect.DeepEqual(old.Decisions, next.Decisions)},
		{"on_fault", old.OnFault != next.OnFault},
		{"status_profile", old.StatusProfile != next.StatusProfile},
		{"store", !reflect.DeepEqual(old.Store, next.Store)},
		{"tenants", old.Tenants != next.Tenants},
		{"sessions", old.Sessions != next.Sessions},
		{"admin_api.roles", old.AdminAPI.Roles != next.AdminAPI.Roles},
		{"api_keys.prefix and peppers, for what the store issues", old.APIKeys.Prefix != next.APIKeys.Prefix ||
			!reflect.DeepEqual(old.APIKeys.Pepper, next.APIKeys.Pepper) || !reflect.DeepEqual(old.APIKeys.Peppers, next.APIKeys.Peppers)},
		{"approvals, but header, request and headers", !reflect.DeepEqual(old.Approvals.rules(), next.Approvals.rules())},
		{"reflection", old.Reflection != next.Reflection},
		{"shutdown", old.Shutdown != next.Shutdown},
		{"log", old.Log != next.Log},
	} {
		if setting.changed {
			late = append(late, setting.name)
		}
	}
	return late
}

// conditions are the parts of readiness. A part that failed to reload is ready as
// long as what was in force before still is, and says so.
func (s *Server) conditions() []admin.Condition {
	p := s.current.Load()
	stays := func(name string, ready bool, detail string, err error) admin.Condition {
		if err != nil {
			detail = "the last reload failed, what was in force stays: " + err.Error()
		}
		return admin.Condition{Name: name, Ready: ready, Detail: detail}
	}
	_, configErr := s.config.get()
	policyReady, policyErr := p.policy.condition()
	all := []admin.Condition{
		{Name: "running", Ready: !s.draining.Load()},
		stays("configuration", true, "", configErr),
		stays("policy", policyReady, "revision "+p.policy.Revision(), policyErr),
		stays("api_keys", true, "", p.keys.Status().Err),
	}
	if p.shadow != nil {
		all = append(all, p.shadow.condition())
	}
	if s.plane != nil {
		all = append(all, s.plane.condition(s.now()))
	}
	if s.events != nil {
		all = append(all, s.events.condition())
	}
	if p.journal != nil {
		all = append(all, p.journal.condition())
	}
	if p.tracer != nil {
		all = append(all, p.tracer.condition())
	}
	if budgets, rates := len(p.cfg.Budgets), len(p.cfg.Rates); budgets+rates > 0 {
		all = append(all, admin.Condition{Name: "budgets", Ready: true, Detail: fmt.Sprintf("%d budgets, %d rates", budgets, rates)})
	}
	for issuer, source := range p.sources {
		status := source.Status()
		all = append(all, stays("issuer "+issuer, true, "", status.Err))
		if !status.Usable {
			// Its tokens are answered with 503. That is for the issuer to mend, and no
			// other replica could do better, so this one stays ready.
			all[len(all)-1].Detail = "no keys: tokens of this issuer cannot be verified"
		}
	}
	return append(all, p.kinds.conditions()...)
}

// publishHealth tells the gRPC health service what /readyz says.
func (s *Server) publishHealth() {
	status := healthpb.HealthCheckResponse_NOT_SERVING
	if admin.Ready(s.conditions()) {
		status = healthpb.HealthCheckResponse_SERVING
	}
	for _, service := range []string{"", "envoy.service.auth.v3.Authorization", "postern.v1.CheckService"} {
		s.health.SetServingStatus(service, status)
	}
}
