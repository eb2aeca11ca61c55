package bundle

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"
)

// Inspect reads what is on disk of bundles as a Source would at the start: the file of
// those that have one, and of the others what was kept. If all are there, they are
// compiled together. Nothing is asked over the network, written or put in force; of Deps,
// the Engine is not needed. It returns the names of the bundles of which nothing is there;
// the error says all that is wrong.
func Inspect(ctx context.Context, config Config, deps Deps) (absent []string, err error) {
	if err := config.validate(); err != nil {
		return nil, err
	}
	s := &Source{config: config.withDefaults(), deps: deps.withDefaults()}
	defer s.Close()
	var set []*content
	var all []error
	for i := range s.config.Bundles {
		f, err := s.newFeed(s.config.Bundles[i])
		if err != nil {
			all = append(all, err)
			continue
		}
		s.feeds = append(s.feeds, f)
		c, err := s.onDisk(ctx, f)
		switch {
		case err != nil:
			all = append(all, fmt.Errorf("bundle %s: %w", f.bundle.Name, err))
		case c == nil:
			absent = append(absent, f.bundle.Name)
		}
		set = append(set, c)
	}
	if len(all) == 0 && !slices.Contains(set, nil) {
		all = append(all, s.compiles(ctx, set))
	}
	return absent, errors.Join(all...)
}

// onDisk reads a bundle without asking a server; nil if nothing of it is there.
func (s *Source) onDisk(ctx context.Context, f *feed) (*content, error) {
	kept, err := s.recalled(f)
	if err != nil || f.bundle.remote() {
		return kept, err
	}
	got, err := f.fetcher.fetch(ctx, "", 0)
	if err != nil {
		return nil, failed(FailedDownload, err)
	}
	c, err := f.reading.read(got.body, s.deps.Now())
	if err == nil && !f.bundle.AllowRollback {
		err = failed(FailedRollback, c.follows(kept))
	}
	return c, err
}

// compiles says why a set of contents is no policy. A compiler that panics is a reason.
func (s *Source) compiles(ctx context.Context, set []*content) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = panicked(p)
		}
	}()
	_, err = s.compile(ctx, set)
	return err
}

// panicked is what is wrong with a policy that the compiler cannot take.
func panicked(p any) error {
	return failed(FailedPolicy, fmt.Errorf("the policy makes the compiler panic: %T", p))
}

func (d Deps) withDefaults() Deps {
	if d.Now == nil {
		d.Now = time.Now
	}
	if d.Logger == nil {
		d.Logger = slog.New(slog.DiscardHandler)
	}
	return d
}
