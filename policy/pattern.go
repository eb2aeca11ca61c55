package policy

import (
	"errors"
	"fmt"
	"strings"
)

// PathPattern matches canonical paths, segment by segment:
//
//	/orders/7     that path and no other
//	/orders/*     exactly one more segment
//	/public/**    /public itself and everything below it
//
// "*" stands for one whole segment that is not empty, "**" only stands last.
// Matching is case-sensitive. The zero pattern matches nothing.
type PathPattern struct {
	text     string
	segments []string
	subtree  bool
}

// ParsePathPattern reads a pattern. Errors say what is allowed.
func ParsePathPattern(text string) (PathPattern, error) {
	if !strings.HasPrefix(text, "/") {
		return PathPattern{}, errors.New(`a path pattern starts with "/"`)
	}
	p := PathPattern{text: text, segments: strings.Split(text[1:], "/")}
	if last := len(p.segments) - 1; p.segments[last] == "**" {
		p.segments, p.subtree = p.segments[:last], true
	}
	for i, s := range p.segments {
		switch {
		case s == "" && i < len(p.segments)-1:
			return PathPattern{}, errors.New("a path pattern has no empty segments")
		case s == "." || s == "..":
			return PathPattern{}, errors.New("a path pattern has no dot segments")
		case s != "*" && strings.Contains(s, "*"):
			return PathPattern{}, fmt.Errorf(`"*" stands for a whole segment and "**" only last, not %q`, s)
		case strings.ContainsAny(s, "?#%\\;"):
			return PathPattern{}, fmt.Errorf("a path pattern is matched against the decoded path and cannot hold %q: write the characters that escapes stand for", s)
		}
	}
	return p, nil
}

// Match reports whether the canonical path fits. It does not allocate.
func (p PathPattern) Match(path string) bool {
	if p.text == "" || path == "" || path[0] != '/' {
		return false
	}
	rest, more := path[1:], true
	for _, want := range p.segments {
		if !more {
			return false
		}
		var got string
		got, rest, more = strings.Cut(rest, "/")
		if want == "*" {
			if got == "" {
				return false
			}
		} else if want != got {
			return false
		}
	}
	return p.subtree || !more
}

// String returns the pattern as it was written.
func (p PathPattern) String() string { return p.text }

// MarshalText and UnmarshalText let configuration read and show patterns.
func (p PathPattern) MarshalText() ([]byte, error) { return []byte(p.text), nil }

// UnmarshalText reads a pattern as ParsePathPattern does.
func (p *PathPattern) UnmarshalText(text []byte) error {
	q, err := ParsePathPattern(string(text))
	*p = q
	return err
}

// HostPattern matches canonical hosts: "api.example.com" that host, and
// "*.example.com" every host with at least one more label. The zero pattern
// matches nothing.
type HostPattern struct {
	text string
}

// ParseHostPattern reads a pattern; it folds case.
func ParseHostPattern(text string) (HostPattern, error) {
	t := strings.ToLower(text)
	name := strings.TrimPrefix(t, "*.")
	if name == "" || strings.ContainsAny(name, "*/@?# \t:") && !strings.HasPrefix(name, "[") {
		return HostPattern{}, fmt.Errorf(`a host pattern is a host name without port, or "*." and a domain, not %q`, text)
	}
	return HostPattern{t}, nil
}

// Match reports whether the canonical host fits.
func (p HostPattern) Match(host string) bool {
	if suffix, ok := strings.CutPrefix(p.text, "*"); ok {
		return len(host) > len(suffix) && strings.HasSuffix(host, suffix)
	}
	return p.text != "" && host == p.text
}

// String returns the pattern in lower case.
func (p HostPattern) String() string { return p.text }

// MarshalText and UnmarshalText let configuration read and show patterns.
func (p HostPattern) MarshalText() ([]byte, error) { return []byte(p.text), nil }

// UnmarshalText reads a pattern as ParseHostPattern does.
func (p *HostPattern) UnmarshalText(text []byte) error {
	q, err := ParseHostPattern(string(text))
	*p = q
	return err
}
