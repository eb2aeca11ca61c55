package jose

import (
	"errors"
	"fmt"
)

// EmbeddedKey returns the public key that a token brings with it in the parameter jwk of
// its header (RFC 7515 section 4.1.3). It is held to the rules for keys that issuers
// publish; one with a private or symmetric member is refused (RFC 9449 section 4.3).
//
// A signature by such a key says that the sender has the other half, and nothing about
// who that is. So this is for proofs of possession alone, and whoever uses it compares
// the thumbprint of the key with one that an issuer vouches for. The error wraps
// ErrMalformed.
func EmbeddedKey(header Value) (*Key, error) {
	j := jwk{header.Get("jwk")}
	if j.Kind() != Object {
		return nil, fmt.Errorf("%w: header: jwk is %s, not an object", ErrMalformed, j.Kind())
	}
	if j.isPrivate() || j.has("k") {
		return nil, fmt.Errorf("%w: header: %w", ErrMalformed, errPrivate)
	}
	k, err := readKey(j, useSignature)
	if err != nil {
		return nil, fmt.Errorf("%w: header: jwk: %w", ErrMalformed, err)
	}
	return k, nil
}

var errPrivate = errors.New("jwk holds a secret, which its sender should treat as compromised")
