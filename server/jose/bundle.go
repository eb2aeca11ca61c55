package jose

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"time"
)

// bundle is what a SPIFFE bundle says besides its keys (SPIFFE Trust Domain and Bundle,
// section 4.1).
type bundle struct {
	// sequence grows with every change; -1 if it is not there.
	sequence int64
	// refresh is when to look for a new one; 0 if it does not say.
	refresh time.Duration
}

// ParseBundle reads a SPIFFE bundle: a JWK set whose keys say in use what kind of SVID
// they vouch for. Those for JWT-SVIDs become the set, and each must have a kid (JWT-SVID
// section 6.1); those for others are left out, as are keys of no known use. What is
// wrong with the others is a warning, as with ParseKeySet.
//
// A set without any key is what a trust domain publishes that wants to be trusted no
// more (section 4.1.3), and no error.
func ParseBundle(data []byte) (*KeySet, []string, error) {
	doc, err := ParseJSON(data, documentLimits)
	if err != nil {
		return nil, nil, fmt.Errorf("reading a bundle: %w", err)
	}
	if keys := doc.Get("keys"); keys.Kind() != Array {
		return nil, nil, fmt.Errorf(`%w: a bundle is an object whose "keys" is an array, not %s`, ErrMalformed, keys.Kind())
	}
	b := bundle{sequence: -1}
	if b.sequence, err = whole(doc, "spiffe_sequence", -1); err != nil {
		return nil, nil, err
	}
	refresh, err := whole(doc, "spiffe_refresh_hint", 0)
	if err != nil {
		return nil, nil, err
	}
	b.refresh = time.Duration(min(refresh, maxRefreshHint)) * time.Second
	entries, err := entriesOf(doc)
	if err != nil {
		return nil, nil, err
	}
	var ours []jwk
	unnamed := 0
	for _, j := range entries {
		switch kid, _ := j.Get("kid").Text(); {
		case !j.Get("use").Is(useSVID):
		case kid == "":
			unnamed++
		default:
			ours = append(ours, j)
		}
	}
	set, warnings := parseKeys(ours, useSVID)
	set.bundle = &b
	if unnamed > 0 {
		warnings = append(warnings, fmt.Sprintf("%d keys for JWT-SVIDs without a kid are not used", unnamed))
	}
	return set, warnings, nil
}

// maxRefreshHint keeps the hint, in seconds, within a Duration.
const maxRefreshHint = 365 * 24 * 60 * 60

// whole returns a member that is a whole number from 0 on, or def if it is not there.
func whole(doc Value, name string, def int64) (int64, error) {
	v := doc.Get(name)
	if !v.Exists() {
		return def, nil
	}
	text, _ := v.Number()
	n, err := strconv.ParseInt(string(text), 10, 64)
	if err != nil || n < 0 || n == math.MaxInt64 {
		return 0, fmt.Errorf("%w: %s is not a whole number", ErrMalformed, name)
	}
	return n, nil
}

var errOldBundle = errors.New("the bundle is older than the one in use: its spiffe_sequence is lower")

// follows returns an error for a bundle that is older than the one in use: a server that
// lags behind another must not bring back a key that was withdrawn.
func (s *KeySet) follows(inUse *KeySet) error {
	if inUse == nil || inUse.bundle == nil || s.bundle == nil || s.bundle.sequence < 0 || s.bundle.sequence >= inUse.bundle.sequence {
		return nil
	}
	return errOldBundle
}

// refreshHint returns the shorter of the age that an HTTP answer named, -1 for none, and
// that which the bundle names.
func (s *KeySet) refreshHint(maxAge time.Duration) time.Duration {
	if s.bundle == nil || s.bundle.refresh == 0 || maxAge >= 0 && maxAge < s.bundle.refresh {
		return maxAge
	}
	return s.bundle.refresh
}
