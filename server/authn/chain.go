package authn

import (
	"context"
	"errors"

	"github.com/postern-auth/postern/policy"
)

// Link is one authenticator of a Chain under the name by which extraction rules
// and routes know it.
type Link struct {
	Method policy.Method
	Authenticator
	// Shapes are those of the credentials that it is asked about; zero for all.
	Shapes Shape
}

// Chain asks the authenticators that a credential's rule names, in that order,
// until one owns it. Of those that differ in the shape of their tokens only the one
// is asked whose shape it has, so that a token of one kind is never shown to the
// server of another.
type Chain []Link

// Authenticate returns the answer of the first authenticator that owns the
// credential. A credential that nobody owns is refused as unknown, so that the
// answer does not tell which kinds are configured.
func (c Chain) Authenticate(ctx context.Context, cred *Credential) (*Proof, error) {
	shape := c.shape(cred)
	var unowned error = errUnowned
	for _, use := range cred.Uses {
		link := c.lookup(use)
		if link == nil || link.Shapes != 0 && link.Shapes&shape == 0 {
			continue
		}
		proof, err := link.Authenticate(ctx, cred)
		switch {
		case errors.Is(err, ErrNotMine):
			continue
		case isForeign(err):
			unowned = err // somebody else may know it
			continue
		case err != nil:
			return nil, err
		case proof == nil || proof.Principal == nil:
			return nil, errors.New("authenticator " + string(use) + " returned neither a principal nor an error")
		}
		return proof, nil
	}
	return nil, unowned
}

var errUnowned = Refuse(policy.ReasonCredentialUnknown, "no configured method owns the credential")

// shape returns the shape of the credential in the eyes of those who may be asked: one
// that none of them takes is no shape, and the text is opaque.
func (c Chain) shape(cred *Credential) Shape {
	var taken Shape
	for _, use := range cred.Uses {
		if link := c.lookup(use); link != nil {
			taken |= link.Shapes
		}
	}
	if taken == 0 {
		return 0 // nobody looks at shapes
	}
	if s := shapeOf(cred.Secret.Reveal()); s&taken != 0 {
		return s
	}
	return ShapeOpaque
}

func (c Chain) lookup(use policy.Method) *Link {
	for i := range c {
		if c[i].Method == use {
			return &c[i]
		}
	}
	return nil
}

// Union is several authenticators of one method. They are asked in order, until one
// owns the credential.
type Union []Authenticator

// Authenticate returns the answer of the first that owns the credential. An issuer
// that one does not know may be another's.
func (u Union) Authenticate(ctx context.Context, cred *Credential) (*Proof, error) {
	unowned := ErrNotMine
	for _, a := range u {
		proof, err := a.Authenticate(ctx, cred)
		switch {
		case errors.Is(err, ErrNotMine):
		case isForeign(err):
			unowned = err
		default:
			return proof, err
		}
	}
	return nil, unowned
}

// isForeign reports whether a credential was refused only because its issuer is not
// known there.
func isForeign(err error) bool {
	refusal := (*Refusal)(nil)
	return errors.As(err, &refusal) && refusal.Reason == policy.ReasonIssuerUntrusted
}
