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
}

// Chain asks the authenticators that a credential's rule names, in that order,
// until one owns it.
type Chain []Link

// Authenticate returns the answer of the first authenticator that owns the
// credential. A credential that nobody owns is refused as unknown, so that the
// answer does not tell which kinds are configured.
func (c Chain) Authenticate(ctx context.Context, cred *Credential) (*Proof, error) {
	for _, use := range cred.Uses {
		a := c.lookup(use)
		if a == nil {
			continue
		}
		proof, err := a.Authenticate(ctx, cred)
		switch {
		case errors.Is(err, ErrNotMine):
			continue
		case err != nil:
			return nil, err
		case proof == nil || proof.Principal == nil:
			return nil, errors.New("authenticator " + string(use) + " returned neither a principal nor an error")
		}
		return proof, nil
	}
	return nil, errUnowned
}

var errUnowned = Refuse(policy.ReasonCredentialUnknown, "no configured method owns the credential")

func (c Chain) lookup(use policy.Method) Authenticator {
	for i := range c {
		if c[i].Method == use {
			return c[i].Authenticator
		}
	}
	return nil
}
