package server

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"

	"github.com/postern-auth/postern/server/admin"
	"github.com/postern-auth/postern/server/authn"
)

// kind is one way of proving a caller, as one configuration made it. What a kind has
// not, such as files, is nil. A reload takes over the kinds whose configuration did
// not change, with what they have learned.
type kind struct {
	name   string // in readiness, logs and metrics
	config any    // that it was made of
	// links are its own in the chain.
	links []authn.Link
	// own is what else the parts, or the next of its kind, take from it.
	own any
	// files are read again by reload when they change.
	files  []string
	reload func(context.Context) error
	// condition says how it goes: a sentence, and what is wrong.
	condition func() (detail string, err error)
	// cache is that of its proofs, for metrics.
	cache *authn.Cached
	close func() error
}

// kinds are all of a configuration, in the order of the sections.
type kinds []*kind

// add takes over the kind of that name from the previous configuration if it is made
// of the same, or else has it made.
func (k *kinds) add(prev kinds, name string, config any, make func() (*kind, error)) (*kind, error) {
	at := slices.IndexFunc(prev, func(old *kind) bool { return old.name == name && reflect.DeepEqual(old.config, config) })
	if at >= 0 {
		*k = append(*k, prev[at])
		return prev[at], nil
	}
	made, err := make()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	made.name, made.config = name, config
	*k = append(*k, made)
	return made, nil
}

// previous is what the kind of that name had of its own before; zero for none.
func previous[T any](prev kinds, name string) (own T) {
	for _, old := range prev {
		if old.name == name {
			own, _ = old.own.(T)
		}
	}
	return own
}

// closeUnlessIn ends the kinds that others do not have.
func (k kinds) closeUnlessIn(others kinds) {
	for _, own := range k {
		if own.close != nil && !slices.Contains(others, own) {
			_ = own.close()
		}
	}
}

// reloadAll has every kind read its files again; the error joins what is wrong.
func (k kinds) reloadAll(ctx context.Context) error {
	var errs []error
	for _, own := range k {
		if own.reload != nil {
			if err := own.reload(ctx); err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", own.name, err))
			}
		}
	}
	return errors.Join(errs...)
}

// conditions say how it goes with each. None of them makes this replica unready: what
// is wrong is for an issuer to mend, and no other replica could do better.
func (k kinds) conditions() []admin.Condition {
	var all []admin.Condition
	for _, own := range k {
		if own.condition == nil {
			continue
		}
		detail, err := own.condition()
		if err != nil {
			detail = err.Error()
		}
		all = append(all, admin.Condition{Name: own.name, Ready: true, Detail: detail})
	}
	return all
}

// join adds a link to the chain. Several authenticators of one method are asked in the
// order in which they were added.
func join(chain authn.Chain, l authn.Link) authn.Chain {
	at := slices.IndexFunc(chain, func(o authn.Link) bool { return o.Method == l.Method })
	if at < 0 {
		return append(chain, l)
	}
	first := &chain[at]
	union, ok := first.Authenticator.(authn.Union)
	if !ok {
		union = authn.Union{first.Authenticator}
	}
	first.Authenticator = append(union, l.Authenticator)
	if first.Shapes == 0 || l.Shapes == 0 {
		first.Shapes = 0
	} else {
		first.Shapes |= l.Shapes
	}
	return chain
}
