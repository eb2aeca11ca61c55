package extauthz

import (
	"maps"
	"math"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/door"
)

// Dynamic metadata is JSON in protobuf's clothes: google.protobuf.Struct, Value
// and ListValue. Here it is read from and written to the wire without them.

// The members of Value's oneof.
const (
	nullValue   = 1
	numberValue = 2
	stringValue = 3
	boolValue   = 4
	structValue = 5
	listValue   = 6
)

// dynamic reads a config.core.v3.Metadata.
func (d *decoder) dynamic(s string) error {
	return each(s, func(f field) error {
		if f.key != keyOf(1, bytes) {
			return nil
		}
		var filter string
		values := map[string]any{}
		err := each(f.text, func(f field) (err error) {
			switch f.key {
			case keyOf(1, bytes):
				filter, err = utf8Text(f.text)
			case keyOf(2, bytes):
				err = d.object(f.text, values, 1)
			}
			return err
		})
		if err != nil {
			return err
		}
		if d.metadata == nil {
			d.metadata = make(map[string]any)
		}
		d.metadata[filter] = values
		return d.count()
	})
}

// object reads a Struct into the map.
func (d *decoder) object(s string, into map[string]any, depth int) error {
	if depth > maxDepth {
		return errDeep
	}
	return each(s, func(f field) error {
		if f.key != keyOf(1, bytes) {
			return nil
		}
		var name string
		var v any
		err := each(f.text, func(f field) (err error) {
			switch f.key {
			case keyOf(1, bytes):
				name, err = utf8Text(f.text)
			case keyOf(2, bytes):
				v, err = d.value(f.text, v, depth)
			}
			return err
		})
		if err != nil {
			return err
		}
		into[name] = v
		return d.count()
	})
}

// value reads a Value. An object or list goes on where the last one of the same
// kind stopped; everything else replaces what was there.
func (d *decoder) value(s string, v any, depth int) (any, error) {
	err := each(s, func(f field) (err error) {
		switch f.key {
		case keyOf(nullValue, varint):
			v = nil
		case keyOf(numberValue, fixed64):
			v = number64(f.number)
		case keyOf(stringValue, bytes):
			v, err = utf8Text(f.text)
		case keyOf(boolValue, varint):
			v = f.number != 0
		case keyOf(structValue, bytes):
			members, ok := v.(map[string]any)
			if !ok {
				members = make(map[string]any)
			}
			v, err = members, d.object(f.text, members, depth+1)
		case keyOf(listValue, bytes):
			list, ok := v.([]any)
			if !ok {
				list = []any{}
			}
			v, err = d.list(f.text, list, depth+1)
		}
		return err
	})
	return v, err
}

// list reads a ListValue and appends its values.
func (d *decoder) list(s string, to []any, depth int) (any, error) {
	if depth > maxDepth {
		return nil, errDeep
	}
	err := each(s, func(f field) error {
		if f.key != keyOf(1, bytes) {
			return nil
		}
		v, err := d.value(f.text, nil, depth)
		if err != nil {
			return err
		}
		to = append(to, v)
		return d.count()
	})
	return to, err
}

// number64 returns a double as JSON has it: what JSON cannot say becomes the
// text that protobuf's JSON mapping gives it.
func number64(bits uint64) any {
	switch n := math.Float64frombits(bits); {
	case math.IsNaN(n):
		return "NaN"
	case math.IsInf(n, 1):
		return "Infinity"
	case math.IsInf(n, -1):
		return "-Infinity"
	default:
		return n
	}
}

// metadataKey is the one key of the dynamic metadata that is Postern's own.
const metadataKey = "postern"

// appendMetadata appends the Struct of dynamic metadata: Postern's own under
// "postern", and beside it what the policy wants to hand on.
func appendMetadata(b []byte, number uint64, d *policy.Decision) []byte {
	b, at := open(b, number)
	b = appendMember(b, metadataKey, func(b []byte) []byte { return appendGrounds(b, d) })
	if d.Verdict != nil {
		for _, name := range slices.Sorted(maps.Keys(d.Verdict.Metadata)) {
			if name != metadataKey {
				b = appendAny(b, name, d.Verdict.Metadata[name], 1)
			}
		}
	}
	return shut(b, at)
}

// appendGrounds appends who was decided on, and why, as the gateway's access log
// may want it.
func appendGrounds(b []byte, d *policy.Decision) []byte {
	b, at := open(b, structValue)
	b = appendString(b, "decision_id", d.ID)
	b = appendString(b, "reason", d.Reason.String())
	b = appendString(b, "policy_revision", d.Revision)
	if d.Allowed {
		b = appendString(b, "reservation", d.Reservation) // for a filter that settles it
	}
	if p := d.Principal; p != nil {
		b = appendMember(b, "principal", func(b []byte) []byte { return appendPrincipal(b, p) })
	}
	return shut(b, at)
}

func appendPrincipal(b []byte, p *policy.Principal) []byte {
	b, at := open(b, structValue)
	b = appendString(b, "id", p.ID)
	b = appendString(b, "kind", string(p.Kind))
	b = appendString(b, "tenant", p.Tenant)
	b = appendString(b, "method", string(p.Method))
	b = appendString(b, "issuer", p.Issuer)
	b = appendString(b, "credential_id", p.CredentialID)
	b = appendStrings(b, "roles", p.Roles)
	b = appendStrings(b, "scopes", p.Scopes)
	return shut(b, at)
}

// appendMember appends an entry of a Struct whose Value's member value appends.
func appendMember(b []byte, name string, value func([]byte) []byte) []byte {
	b, entry := open(b, 1)
	b = appendText(b, 1, valid(name))
	b, at := open(b, 2)
	return shut(shut(value(b), at), entry)
}

// appendString appends a text member unless it is empty.
func appendString(b []byte, name, s string) []byte {
	if s == "" {
		return b
	}
	return appendMember(b, name, func(b []byte) []byte { return appendText(b, stringValue, valid(s)) })
}

func appendStrings(b []byte, name string, list []string) []byte {
	if len(list) == 0 {
		return b
	}
	return appendMember(b, name, func(b []byte) []byte {
		b, at := open(b, listValue)
		for _, s := range list {
			var element int
			b, element = open(b, 1)
			b = shut(appendText(b, stringValue, valid(s)), element)
		}
		return shut(b, at)
	})
}

func appendAny(b []byte, name string, v any, depth int) []byte {
	return appendMember(b, name, func(b []byte) []byte { return appendValue(b, v, depth) })
}

// appendValue appends the members of a Value for a JSON value, and null for what
// is none.
func appendValue(b []byte, v any, depth int) []byte {
	switch v := door.JSON(v).(type) {
	case bool:
		var n uint64
		if v {
			n = 1
		}
		return appendVarint(b, boolValue, n)
	case float64:
		return appendFixed64(b, numberValue, math.Float64bits(v))
	case string:
		return appendText(b, stringValue, valid(v))
	case map[string]any:
		if depth < door.MaxDepth {
			return appendObject(b, v, depth+1)
		}
	case []any:
		if depth < door.MaxDepth {
			return appendList(b, v, depth+1)
		}
	}
	return appendVarint(b, nullValue, 0)
}

func appendObject(b []byte, members map[string]any, depth int) []byte {
	b, at := open(b, structValue)
	for _, name := range slices.Sorted(maps.Keys(members)) {
		b = appendAny(b, name, members[name], depth)
	}
	return shut(b, at)
}

func appendList(b []byte, list []any, depth int) []byte {
	b, at := open(b, listValue)
	for _, v := range list {
		var element int
		b, element = open(b, 1)
		b = shut(appendValue(b, v, depth), element)
	}
	return shut(b, at)
}

// valid replaces what is not UTF-8: the gateway would not parse the answer.
func valid(s string) string {
	if utf8.ValidString(s) {
		return s
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}
