package apikey

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/postern-auth/postern/policy"
)

// Entry renders a key as an item of the list `keys`, to be appended to a keys
// file: one field a line, what is not set left out, nested values in JSON, which
// YAML reads too. All texts are quoted: an id may look like a number. It does
// not check the key: Validate does, and so does reading the keys file.
//
// A keys file of such entries is read a hundred times as fast as any YAML (see
// entryReader, which has to know what Entry writes).
func (k *Key) Entry() string {
	var b strings.Builder
	indent := "  - "
	for _, f := range k.fields() {
		if text := flow(f.value); text != "" {
			fmt.Fprintf(&b, "%s%s: %s\n", indent, f.name, text)
			indent = "    "
		}
	}
	return b.String()
}

// Validate reports what a server with the configuration would find wrong in the
// key's entry: that it would refuse it, and the whole keys file with it, or read
// something else than the key says. Whoever writes entries asks before. Errors
// about fields are strictyaml.Errors, with paths that begin with "keys[0].".
func (k *Key) Validate(c Config) error {
	c = c.withDefaults()
	peppers, err := NewPeppers(c)
	if err != nil {
		return fmt.Errorf("api_keys: %w", err)
	}
	src := append(bytes.Clone(listStart), k.Entry()...)
	if err := refusePlaintext("the entry", src, c.Prefix); err != nil {
		return err
	}
	f, err := decodeKeysFile("the entry", src, limits{peppers: peppers, maxAge: c.MaxAge, refuseImported: c.RefuseImported})
	if err != nil {
		return err
	}
	if _, err := json.Marshal(k.Principal.Metadata); err != nil || f.Keys[0].Entry() != k.Entry() {
		return errors.New("the key holds what a keys file cannot, such as bytes that are not UTF-8 or a number that is none")
	}
	return nil
}

// entryField is a field's name and value; entryFields is a mapping in order.
type entryField struct {
	name  string
	value any
}
type entryFields []entryField

func (k *Key) fields() entryFields {
	p := &k.Principal
	all := entryFields{
		{"id", k.ID}, {"digest", k.Digest}, {"kind", k.Kind},
		{"name", k.Name}, {"owner", k.Owner}, {"environment", k.Environment},
		{"principal", entryFields{
			{"id", p.ID}, {"kind", p.Kind}, {"tenant", p.Tenant},
			{"roles", p.Roles}, {"scopes", p.Scopes}, {"permissions", p.Permissions},
			{"metadata", p.Metadata},
		}},
		{"allow_wildcard", k.AllowWildcard},
		{"constraints", constraintFields(k.Constraints)},
		{"created_at", k.CreatedAt}, {"not_before", k.NotBefore}, {"expires_at", k.ExpiresAt},
		{"max_age", k.MaxAge}, {"disabled", k.Disabled},
	}
	if r := k.Revoked; r != nil {
		// The instant is written even if it is not set: the field must not vanish.
		all = append(all, entryField{"revoked", json.RawMessage("{" + strings.Join(flowFields(entryFields{{"at", r.At}, {"reason", r.Reason}}), ", ") + "}")})
	}
	if r := k.Rotated; r != nil {
		all = append(all, entryField{"rotated", entryFields{{"to", r.To}, {"at", r.At}}})
	}
	return append(all, entryField{"released_at", k.ReleasedAt})
}

func constraintFields(c *policy.Constraints) entryFields {
	if c == nil {
		return nil
	}
	windows := make([]entryFields, len(c.Windows))
	for i, w := range c.Windows {
		windows[i] = entryFields{{"days", w.Days}, {"from", w.From}, {"to", w.To}}
	}
	return entryFields{
		{"networks", c.Networks}, {"methods", c.Methods}, {"hosts", c.Hosts}, {"paths", c.Paths},
		{"audiences", c.Audiences}, {"resources", c.Resources}, {"peers", c.Peers}, {"windows", windows},
		{"require_tls", c.RequireTLS},
	}
}

// flow renders a value in one line, or nothing if it is not set.
func flow(value any) string {
	switch v := value.(type) {
	case json.RawMessage:
		return string(v)
	case entryFields:
		if set := flowFields(v); len(set) > 0 {
			return "{" + strings.Join(set, ", ") + "}"
		}
		return ""
	case []entryFields:
		items := make([]string, len(v))
		for i := range v {
			items[i] = flow(v[i])
		}
		if len(items) == 0 {
			return ""
		}
		return "[" + strings.Join(items, ", ") + "]"
	case time.Time:
		if v.IsZero() {
			return ""
		}
		value = v.UTC().Format(time.RFC3339Nano)
	case time.Duration:
		if v == 0 {
			return ""
		}
		return v.String()
	}
	return flowJSON(value)
}

func flowFields(fields entryFields) (set []string) {
	for _, f := range fields {
		if text := flow(f.value); text != "" {
			set = append(set, f.name+": "+text)
		}
	}
	return set
}

// flowJSON renders what JSON knows. A value that JSON cannot say, such as NaN in
// metadata, is left out.
func flowJSON(value any) string {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if e.Encode(value) != nil {
		return ""
	}
	switch text := strings.TrimSpace(b.String()); text {
	case `""`, "null", "[]", "{}", "false":
		return ""
	default:
		return text
	}
}
