package policy

import (
	"fmt"
	"log/slog"
)

// redacted is what every printer of a Secret shows.
const redacted = "[redacted]"

// Secret is a text that nothing can print: fmt, slog, encoding/json and
// encoding.TextMarshaler all see "[redacted]". Where they cannot call a method,
// in an unexported field of a struct, they see an address: the text is held by
// pointer for that, which costs one small allocation. The one reader is Reveal.
type Secret struct {
	text *string
}

// NewSecret wraps a text.
func NewSecret(text string) Secret { return Secret{&text} }

// Reveal returns the text. Whoever calls it answers for where it goes.
func (s Secret) Reveal() string {
	if s.text == nil {
		return ""
	}
	return *s.text
}

// IsZero reports whether there is no secret.
func (s Secret) IsZero() bool { return s.Reveal() == "" }

// Format implements fmt.Formatter for every verb, %#v and %x included.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(redacted)) }

// LogValue implements slog.LogValuer.
func (s Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText implements encoding.TextMarshaler, and so covers JSON and YAML.
func (s Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }
