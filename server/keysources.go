package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"

	"github.com/postern-auth/postern/server/jose"
)

// keySource is a source of keys, and the file that it reads; "" for none.
type keySource struct {
	*jose.Source
	file string
}

// keySources are those of several who sign, by name.
type keySources map[string]keySource

// open starts to keep somebody's keys, beginning with those of before.
func (k keySources) open(name string, from jose.SourceConfig, before keySources, env surroundings) (*jose.Source, error) {
	s, err := jose.NewSource(from, jose.WithClock(env.now), jose.Inherit(before[name].Source), jose.OnFetch(logFetch(env.log)))
	if err == nil {
		k[name] = keySource{s, from.File}
	}
	return s, err
}

func logFetch(log *slog.Logger) func(jose.Event) {
	return func(e jose.Event) {
		switch {
		case e.Err != nil:
			log.Warn("an issuer's keys could not be fetched", "source", e.Source, "error", e.Err)
		case e.Changed:
			log.Info("an issuer's keys changed", "source", e.Source, "keys", e.Keys)
		}
	}
}

// Close ends all of them.
func (k keySources) Close() error { return k.closeUnlessIn(nil) }

// closeUnlessIn ends those that others do not have.
func (k keySources) closeUnlessIn(others keySources) error {
	var errs []error
	for name, s := range k {
		if others[name].Source != s.Source {
			errs = append(errs, s.Close())
		}
	}
	return errors.Join(errs...)
}

func (k keySources) files() []string {
	var all []string
	for _, s := range k {
		if s.file != "" {
			all = append(all, s.file)
		}
	}
	return all
}

func (k keySources) reload(ctx context.Context) error {
	var errs []error
	for _, s := range k {
		if s.file != "" {
			errs = append(errs, s.Reload(ctx))
		}
	}
	return errors.Join(errs...)
}

// err is what was wrong with the last fetches.
func (k keySources) err() error {
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(k)) {
		if err := k[name].Status().Err; err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", name, err))
		}
	}
	return errors.Join(errs...)
}
