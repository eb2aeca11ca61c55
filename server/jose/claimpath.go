package jose

import (
	"errors"
	"strings"
)

// ClaimPath says where in a token a claim is:
//
//	org_id                         a top-level claim
//	realm_access.roles             a member of a member
//	/realm_access/roles            the same as a JSON Pointer (RFC 6901)
//	https://example.com/roles      a claim whose name is a URL
//
// A name that holds a dot and is no URL is written as a JSON Pointer:
// "/example.com". Steps lead through objects, never into arrays. The zero
// ClaimPath leads nowhere.
type ClaimPath struct {
	text  string
	steps []string
}

// ParseClaimPath reads a path.
func ParseClaimPath(text string) (ClaimPath, error) {
	p := ClaimPath{text: text}
	switch {
	case strings.HasPrefix(text, "/"):
		for _, step := range strings.Split(text[1:], "/") {
			if strings.Contains(strings.NewReplacer("~0", "", "~1", "").Replace(step), "~") {
				return ClaimPath{}, errors.New(`in a JSON Pointer, "~" is written "~0" and "/" within a name "~1"`)
			}
			p.steps = append(p.steps, strings.NewReplacer("~0", "~", "~1", "/").Replace(step))
		}
	case strings.Contains(text, "://"):
		p.steps = []string{text}
	default:
		p.steps = strings.Split(text, ".")
	}
	for _, step := range p.steps {
		if step == "" {
			return ClaimPath{}, errors.New("a path to a claim has no empty steps")
		}
	}
	return p, nil
}

// mustPath is for the paths that are constants of this package.
func mustPath(text string) ClaimPath {
	p, err := ParseClaimPath(text)
	if err != nil {
		panic(err)
	}
	return p
}

// IsZero reports whether the path leads nowhere.
func (p ClaimPath) IsZero() bool { return len(p.steps) == 0 }

// String returns the path as it was written.
func (p ClaimPath) String() string { return p.text }

// MarshalText and UnmarshalText let configuration read and show paths.
func (p ClaimPath) MarshalText() ([]byte, error) { return []byte(p.text), nil }

// UnmarshalText reads a path as ParseClaimPath does.
func (p *ClaimPath) UnmarshalText(text []byte) error {
	q, err := ParseClaimPath(string(text))
	*p = q
	return err
}

// Find returns the value at the path; absent if it leads nowhere.
func (p ClaimPath) Find(claims Value) Value {
	if p.IsZero() {
		return Value{}
	}
	for _, step := range p.steps {
		claims = claims.Get(step)
	}
	return claims
}

// isSubject reports whether it is the path to sub.
func (p ClaimPath) isSubject() bool { return len(p.steps) == 1 && p.steps[0] == "sub" }

// or returns the path, or another one if it is zero.
func (p ClaimPath) or(other ClaimPath) ClaimPath {
	if p.IsZero() {
		return other
	}
	return p
}
