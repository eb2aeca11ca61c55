package server

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"
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

func (l *lastLoad) get() (error, time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err, l.at
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
	for issuer, source := range p.sources {
		if p.fromFile(issuer) {
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
		{"decisions", old.Decisions != next.Decisions},
		{"on_fault", old.OnFault != next.OnFault},
		{"status_profile", old.StatusProfile != next.StatusProfile},
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

// fromFile reports whether the issuer's keys lie on this machine.
func (p *parts) fromFile(issuer string) bool {
	return slices.ContainsFunc(p.cfg.Issuers, func(i Issuer) bool {
		return i.URL == issuer && (i.JWKSFile != "" || i.Keys.File != "")
	})
}

// settle is how long the files must be quiet before they are read: an editor or
// a copy touches several.
const settle = 100 * time.Millisecond

// watch reloads when a file changes, and tells the health service of readiness,
// until ctx ends.
func (s *Server) watch(ctx context.Context) {
	var changes chan fsnotify.Event
	var lost chan error
	watched := &watched{}
	if watcher, err := fsnotify.NewWatcher(); err != nil {
		s.log.Warn("files are not watched; send SIGHUP after a change", "error", err)
	} else {
		defer func() { _ = watcher.Close() }()
		watched.watcher, changes, lost = watcher, watcher.Events, watcher.Errors
	}
	watched.add(s.directories())
	quiet := time.NewTimer(settle)
	quiet.Stop()
	defer quiet.Stop()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	s.publishHealth()
	for {
		select {
		case <-ctx.Done():
			return
		case event := <-changes:
			if event.Op != fsnotify.Chmod {
				// A directory that is new is watched before it is read.
				watched.add(s.directories())
				quiet.Reset(settle)
			}
		case <-lost: // events were lost: look at everything
			quiet.Reset(settle)
		case <-quiet.C:
			_ = s.Reload(ctx) // logged, and told by conditions
			s.publishHealth()
		case <-s.reloaded:
			// What is named now and was not before may have changed before it was
			// watched: it is read once more.
			if watched.add(s.directories()) {
				quiet.Reset(settle)
			}
		case <-tick.C:
			s.publishHealth()
		}
	}
}

// watched are the directories that are watched: of files, because those are
// replaced by renaming.
type watched struct {
	watcher *fsnotify.Watcher // nil: none can be
	names   []string
}

// add watches the directories, also those that were watched and have been
// replaced since, and reports whether any name is new.
func (w *watched) add(names []string) (grown bool) {
	if w.watcher == nil {
		return false
	}
	var now []string
	for _, name := range names {
		if w.watcher.Add(name) == nil {
			now = append(now, name)
			grown = grown || !slices.Contains(w.names, name)
		}
	}
	w.names = now
	return grown
}

// directories are those of every file that the configuration in force names, and
// all below the policy's.
func (s *Server) directories() []string {
	p := s.current.Load()
	var dirs []string
	file := func(name string) {
		if name != "" {
			dirs = append(dirs, filepath.Dir(name))
		}
	}
	file(s.opts.ConfigPath)
	file(p.cfg.APIKeys.File.String())
	if t := p.cfg.TLS; t != nil {
		file(t.Cert.String())
		file(t.Key.String())
		file(t.ClientCA.String())
	}
	for _, i := range p.cfg.Issuers {
		file(i.JWKSFile)
		file(i.Keys.File)
		file(i.Keys.CAFile)
	}
	for _, name := range p.cfg.secretFiles() {
		if !filepath.IsAbs(name) {
			name = filepath.Join(filepath.Dir(s.opts.ConfigPath), name)
		}
		file(name)
	}
	if root := p.cfg.Policy.Path; root != "" {
		file(root) // which may itself be replaced, or be a link to what is
		if real, err := filepath.EvalSymlinks(root); err == nil {
			root = real
		}
		_ = filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, name)
			}
			return nil
		})
	}
	slices.Sort(dirs)
	return slices.Compact(dirs)
}

// secretFiles are the files that references to secrets name.
func (c *Config) secretFiles() []string {
	var names []string
	for _, reference := range c.references {
		if name, ok := strings.CutPrefix(reference, "${file:"); ok {
			names = append(names, strings.TrimSuffix(name, "}"))
		}
	}
	return names
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
	configErr, _ := s.config.get()
	policyErr, _ := p.policy.last.get()
	all := []admin.Condition{
		{Name: "running", Ready: !s.draining.Load()},
		stays("configuration", true, "", configErr),
		stays("policy", p.policy.Snapshot() != nil, "revision "+p.policy.Revision(), policyErr),
		stays("api_keys", true, "", p.keys.Status().Err),
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
	return all
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
