package strictyaml

import (
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/postern-auth/postern/policy"
)

var (
	secretType   = reflect.TypeFor[policy.Secret]()
	durationType = reflect.TypeFor[time.Duration]()
	timeType     = reflect.TypeFor[time.Time]()
	prefixType   = reflect.TypeFor[netip.Prefix]()
	addrType     = reflect.TypeFor[netip.Addr]()
	addrPortType = reflect.TypeFor[netip.AddrPort]()
	sizeType     = reflect.TypeFor[Size]()
	pathType     = reflect.TypeFor[Path]()
)

// known decodes the types that have a notation of their own, and reports whether
// the value's type is one of them.
func (d *decoder) known(n *yaml.Node, v reflect.Value, path string) bool {
	var parse func(string) error
	switch t := v.Type(); t {
	case secretType:
		d.secret(n, v, path)
		return true
	case durationType:
		parse = func(s string) error { return setParsed(v, s, parseDuration) }
	case timeType:
		parse = func(s string) error { return setParsed(v, s, parseTime) }
	case prefixType:
		parse = func(s string) error { return setParsed(v, s, policy.ParsePrefix) }
	case addrType:
		parse = func(s string) error { return setParsed(v, s, parseAddr) }
	case pathType:
		parse = func(s string) error { return setParsed(v, s, d.parsePath) }
	case addrPortType:
		parse = func(s string) error { return setParsed(v, s, parseAddrPort) }
	default:
		if !reflect.PointerTo(t).Implements(textUnmarshaler) {
			return false
		}
		u := v.Addr().Interface().(encoding.TextUnmarshaler)
		parse = func(s string) error { return u.UnmarshalText([]byte(s)) }
	}
	if !d.isKind(n, yaml.ScalarNode, v.Type(), path) || !d.isLiteral(n, path) {
		return true
	}
	if n.Value == "" {
		d.fail(n, path, "is empty; it must be "+want(v.Type()), "")
		return true
	}
	if err := parse(n.Value); err != nil {
		d.fail(n, path, fmt.Sprintf("%s is not allowed: %s", quoted(n), err), "")
	}
	return true
}

// isLiteral refuses references where no secret belongs, secrets where they
// should have been references, and characters that nobody means.
func (d *decoder) isLiteral(n *yaml.Node, path string) bool {
	switch {
	case looksSecret(n.Value):
		d.mask(n, "[redacted]")
		suggestion := "put it into a file and name the file"
		if strings.Contains(n.Value, "://") {
			suggestion = "remove the password from the URL"
		}
		d.fail(n, path, "a secret cannot stand in this file", suggestion)
	case strings.Contains(n.Value, "${"):
		d.fail(n, path, "a reference ${…} is only resolved where a secret belongs", "write the value itself")
	case strings.ContainsFunc(n.Value, func(r rune) bool { return isInvisible(r) }):
		d.fail(n, path, "holds a control character", "remove the escape")
	default:
		return true
	}
	return false
}

// basic decodes texts, numbers and truth values.
func (d *decoder) basic(n *yaml.Node, v reflect.Value, path string) {
	if v.Kind() == reflect.String {
		d.text(n, v, path)
		return
	}
	if !d.isKind(n, yaml.ScalarNode, v.Type(), path) || !d.isLiteral(n, path) {
		return
	}
	plain := isPlain(n)
	var message, suggestion string
	switch v.Kind() {
	case reflect.Bool:
		message, suggestion = setBool(n, v, plain)
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		message, suggestion = setInt(n, v, plain)
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		message, suggestion = setUint(n, v, plain)
	case reflect.Float32, reflect.Float64:
		message, suggestion = setFloat(n, v, plain)
	default:
		message = "cannot be set from a file"
	}
	if message != "" {
		d.fail(n, path, message, suggestion)
	}
}

// text decodes texts and closed sets of them.
func (d *decoder) text(n *yaml.Node, v reflect.Value, path string) bool {
	t := v.Type()
	if !d.isKind(n, yaml.ScalarNode, t, path) || !d.isLiteral(n, path) {
		return false
	}
	if t.Implements(enumType) {
		allowed := reflect.Zero(t).Interface().(Enum).Values()
		return d.enum(n, v, path, allowed)
	}
	if n.Tag != "!!str" && n.Tag != "!!timestamp" {
		d.fail(n, path, fmt.Sprintf("is %s; it must be a text", describe(n, t)), fmt.Sprintf("write %q", n.Value))
		return false
	}
	v.SetString(n.Value)
	return true
}

func (d *decoder) enum(n *yaml.Node, v reflect.Value, path string, allowed []string) bool {
	for _, a := range allowed {
		if n.Value == a {
			v.SetString(a)
			return true
		}
	}
	d.fail(n, path, fmt.Sprintf("%s is not allowed: use %s", quoted(n), orList(allowed)), Suggest(n.Value, allowed))
	return false
}

func setBool(n *yaml.Node, v reflect.Value, plain bool) (message, suggestion string) {
	if plain && (n.Value == "true" || n.Value == "false") {
		v.SetBool(n.Value == "true")
		return "", ""
	}
	switch strings.ToLower(n.Value) {
	case "true", "yes", "on", "y":
		suggestion = "write true"
	case "false", "no", "off", "n":
		suggestion = "write false"
	}
	return quoted(n) + " is not allowed: use true or false", suggestion
}

// Numbers are decimal. Underscores may stand between digits; a leading zero,
// which means base eight to some readers, may not.
var (
	wholeNumber   = regexp.MustCompile(`^-?(?:0|[1-9][0-9]*(?:_[0-9]+)*)$`)
	decimalNumber = regexp.MustCompile(`^-?(?:0|[1-9][0-9]*(?:_[0-9]+)*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?$`)
)

func setInt(n *yaml.Node, v reflect.Value, plain bool) (message, suggestion string) {
	if !plain || !wholeNumber.MatchString(n.Value) {
		return notANumber(n, "a whole number", wholeNumber)
	}
	i, err := strconv.ParseInt(digits(n), 10, 64)
	if err != nil || v.OverflowInt(i) {
		bits := v.Type().Bits()
		return fmt.Sprintf("%s is out of range: use %d to %d", clip(n.Value), int64(-1)<<(bits-1), int64(math.MaxInt64)>>(64-bits)), ""
	}
	v.SetInt(i)
	return "", ""
}

func setUint(n *yaml.Node, v reflect.Value, plain bool) (message, suggestion string) {
	if !plain || !wholeNumber.MatchString(n.Value) {
		return notANumber(n, "a whole number", wholeNumber)
	}
	i, err := strconv.ParseUint(digits(n), 10, 64)
	if err != nil || v.OverflowUint(i) {
		return fmt.Sprintf("%s is out of range: use 0 to %d", clip(n.Value), uint64(math.MaxUint64)>>(64-v.Type().Bits())), ""
	}
	v.SetUint(i)
	return "", ""
}

func setFloat(n *yaml.Node, v reflect.Value, plain bool) (message, suggestion string) {
	if !plain || !decimalNumber.MatchString(n.Value) {
		return notANumber(n, "a number", decimalNumber)
	}
	f, err := strconv.ParseFloat(digits(n), v.Type().Bits())
	if err != nil {
		return clip(n.Value) + " is out of range", ""
	}
	v.SetFloat(f)
	return "", ""
}

func notANumber(n *yaml.Node, want string, form *regexp.Regexp) (message, suggestion string) {
	message = fmt.Sprintf("%s is not allowed: use %s", quoted(n), want)
	if bare := strings.TrimSpace(n.Value); n.Tag == "!!str" && form.MatchString(bare) {
		suggestion = "write " + bare + " without quotes"
	} else if n.Tag == "!!int" {
		suggestion = "write it in decimal, for example 10_000"
	}
	return message, suggestion
}

func digits(n *yaml.Node) string { return strings.ReplaceAll(n.Value, "_", "") }

// any decodes what JSON can say: nil, bool, json.Number, string, []any and
// map[string]any.
func (d *decoder) any(n *yaml.Node, v reflect.Value, path string) {
	var value any
	switch n.Kind {
	case yaml.MappingNode:
		m := map[string]any{}
		d.mapping(n, reflect.ValueOf(&m).Elem(), path)
		value = m
	case yaml.SequenceNode:
		l := []any{}
		d.list(n, reflect.ValueOf(&l).Elem(), path, false)
		value = l
	default:
		if !d.isLiteral(n, path) {
			return
		}
		value = d.anyScalar(n, path)
	}
	if value != nil {
		v.Set(reflect.ValueOf(value))
	} else {
		v.SetZero()
	}
}

func (d *decoder) anyScalar(n *yaml.Node, path string) any {
	switch n.Tag {
	case "!!null":
		return nil
	case "!!bool":
		if n.Value == "true" || n.Value == "false" {
			return n.Value == "true"
		}
	case "!!int", "!!float":
		if decimalNumber.MatchString(n.Value) {
			return json.Number(digits(n))
		}
	default:
		return n.Value
	}
	d.fail(n, path, clip(n.Value)+" can be read in more than one way", fmt.Sprintf("write %q if it is a text", n.Value))
	return nil
}

func setParsed[T any](v reflect.Value, s string, parse func(string) (T, error)) error {
	t, err := parse(s)
	if err == nil {
		v.Set(reflect.ValueOf(t))
	}
	return err
}

func parseDuration(s string) (time.Duration, error) {
	const form = "a duration is a number with a unit, for example 250ms, 30s, 15m or 24h"
	if wholeNumber.MatchString(s) {
		return 0, fmt.Errorf("%s: write %ss if you mean seconds", form, s)
	}
	v, err := time.ParseDuration(s)
	switch {
	case err != nil:
		return 0, errors.New(form)
	case v < 0:
		return 0, errors.New("a duration is not negative")
	}
	return v, nil
}

func parseTime(s string) (time.Time, error) {
	t, err := time.Parse(time.RFC3339, s)
	switch {
	case err != nil:
		return t, errors.New("a time is written as 2026-01-31T12:00:00Z (RFC 3339)")
	case t.IsZero():
		// To whoever reads the value this instant means that none is set.
		return t, errors.New("leave the field out if there is no such time")
	}
	return t, nil
}

func parseAddr(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	switch {
	case err != nil:
		return a, errors.New("an address is written as 192.0.2.1 or 2001:db8::1")
	case a.Is4In6():
		return a, errors.New("write IPv4 addresses as IPv4")
	case a.Zone() != "":
		return a, errors.New("an address has no zone")
	}
	return a, nil
}

func (d *decoder) parsePath(s string) (Path, error) {
	if strings.ContainsAny(s, "\n") || strings.TrimSpace(s) != s {
		return "", errors.New("a path has no spaces around it and no line ends")
	}
	return Path(d.absolute(s)), nil
}

func parseAddrPort(s string) (netip.AddrPort, error) {
	a, err := netip.ParseAddrPort(s)
	if err != nil {
		return a, errors.New("an address with port is written as 192.0.2.1:8080 or [2001:db8::1]:8080")
	}
	return a, nil
}
