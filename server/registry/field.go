package registry

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/seal"
)

// What a request may hold.
const (
	maxName        = 200     // bytes of a display name
	maxReason      = 256     // bytes of a reason
	maxPrincipalID = 128     // bytes
	maxTenantID    = 64      // bytes
	maxRight       = 128     // bytes of one role, scope or permission
	maxRights      = 256     // items of one list of them
	maxMetadata    = 8 << 10 // bytes as JSON (T-07)
	maxLimits      = 64      // items of one list of constraints
	maxLimit       = 512     // bytes of one of them
	maxLabels      = 64      // labels of a tenant, notes on a session
	maxLabelKey    = 64      // bytes
	maxLabelValue  = 512     // bytes
)

// MaxBatch is how many records one call may bring or name.
const MaxBatch = 1000

// printable reports whether people can read a text and logs can hold it: UTF-8 of
// graphic characters and spaces.
func printable(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(c rune) bool { return !unicode.IsPrint(c) })
}

// ownSecret finds our own secrets, whatever their prefix, in other texts.
var ownSecret = regexp.MustCompile(fmt.Sprintf(`[0-9A-Za-z]{%d}_[0-9A-Za-z]{%d}`, seal.IDLen, seal.SecretLen+seal.ChecksumLen))

// holdsSecret reports whether somebody put a secret where everybody can read it.
func holdsSecret(s string) bool { return ownSecret.MatchString(s) || seal.HoldsSigned(s) }

// text checks a text for people.
func (f *faults) text(field, s string, most int) {
	switch {
	case len(s) > most:
		f.field(field, "has %d bytes; at most %d are allowed", len(s), most)
	case !printable(s):
		f.field(field, "holds characters that cannot be printed; write one line of plain text")
	case strings.TrimSpace(s) != s:
		f.field(field, "begins or ends with a space")
	case holdsSecret(s):
		f.field(field, "holds a secret, which everybody could read there: if it is in use, revoke it")
	}
}

// isMarkup reports whether a text is more than a text to who shows it as HTML or makes a
// file name of it. Whoever does that is wrong, and need not pay for it.
func isMarkup(s string) bool {
	return strings.ContainsAny(s, "<>") || strings.Contains(s, "../") || strings.Contains(s, `..\`)
}

const noMarkup = `holds "<", ">" or "../", which names do not`

// name checks a text that something is called by.
func (f *faults) name(field, s string, most int) {
	f.text(field, s, most)
	if isMarkup(s) {
		f.field(field, "%s", noMarkup)
	}
}

// principalID checks the id of a principal.
func (f *faults) principalID(field, id string) {
	switch {
	case id == "":
		f.field(field, "is required")
	case !isPrincipalID(id):
		f.field(field, "is at most %d letters, digits and -._~@+:", maxPrincipalID)
	case holdsSecret(id):
		f.field(field, "looks like a secret")
	}
}

func isPrincipalID(id string) bool {
	return id != "" && len(id) <= maxPrincipalID && seal.IsBase62(strings.Map(func(c rune) rune {
		if strings.ContainsRune("-._~@+:", c) {
			return 'x'
		}
		return c
	}, id))
}

func isTenantID(id string) bool {
	return id != "" && len(id) <= maxTenantID && seal.IsBase62(strings.Map(func(c rune) rune {
		switch {
		case c >= 'A' && c <= 'Z':
			return '?'
		case strings.ContainsRune("-._", c):
			return 'x'
		}
		return c
	}, id))
}

// lists are the lists of rights in their order, with their names in the protocol.
func (g *Rights) lists() []rightsList {
	return []rightsList{{"roles", &g.Roles}, {"scopes", &g.Scopes}, {"permissions", &g.Permissions}}
}

type rightsList struct {
	field string
	items *[]string
}

// set takes over the list of a name.
func (g *Rights) set(from *Rights, list string) {
	other := from.lists()
	for i, l := range g.lists() {
		if l.field == list {
			*l.items = *other[i].items
		}
	}
}

// rights checks how rights are written, and returns them without repetitions.
func (f *faults) rights(g Rights) Rights {
	for _, l := range g.lists() {
		if len(*l.items) > maxRights {
			f.field(l.field, "has %d items; at most %d are allowed", len(*l.items), maxRights)
			continue
		}
		for i, item := range *l.items {
			if why := rightFault(l.field, item); why != "" {
				f.field(fmt.Sprintf("%s[%d]", l.field, i), "%s", why)
			}
		}
		*l.items = distinct(*l.items)
	}
	return g
}

// distinct returns a copy without repetitions, nil for nothing.
func distinct(items []string) []string {
	var once []string
	for _, item := range items {
		if !slices.Contains(once, item) {
			once = append(once, item)
		}
	}
	return once
}

// rightFault says what is wrong with one right. The characters are those of a scope
// (RFC 6749 section 3.3) without the comma: lists of them travel in header fields,
// where "reader,admin" must not become two.
func rightFault(list, s string) string {
	switch {
	case s == "":
		return "is empty"
	case len(s) > maxRight:
		return fmt.Sprintf("has %d bytes; at most %d are allowed", len(s), maxRight)
	case strings.ContainsFunc(s, func(c rune) bool { return c <= ' ' || c > '~' || strings.ContainsRune("\"\\,", c) }):
		return `is ASCII without spaces, commas, quotes and "\"`
	case holdsSecret(s):
		return "looks like a secret"
	case list == "roles":
		return "" // "*" has no meaning in a role, and is a wildcard all the same
	}
	prefix, star := strings.CutSuffix(s, "*")
	if strings.Contains(prefix, "*") || star && prefix != "" && !strings.ContainsAny(prefix[len(prefix)-1:], ".:/") {
		return `"*" stands alone or for the whole last part, as in "orders.*"`
	}
	return ""
}

// metadata checks facts for the policy.
func (f *faults) metadata(field string, m any) {
	text, err := json.Marshal(m)
	switch {
	case err != nil:
		f.field(field, "cannot be written as JSON")
	case len(text) > maxMetadata:
		f.field(field, "has %d bytes as JSON; at most %d are allowed", len(text), maxMetadata)
	case holdsSecret(string(text)):
		f.field(field, "holds a secret, which everybody could read there: if it is in use, revoke it")
	}
}

// labels checks notes.
func (f *faults) labels(field string, m map[string]string) {
	if len(m) > maxLabels {
		f.field(field, "has %d entries; at most %d are allowed", len(m), maxLabels)
		return
	}
	for k, v := range m {
		switch {
		case k == "" || len(k) > maxLabelKey || !printable(k):
			f.field(field, "a key has 1 to %d printable characters", maxLabelKey)
		case len(v) > maxLabelValue || !printable(v):
			f.field(field+"."+k, "has at most %d printable characters", maxLabelValue)
		case isMarkup(k) || isMarkup(v):
			f.field(field, "%s", noMarkup)
		case holdsSecret(k) || holdsSecret(v):
			f.field(field, "holds a secret, which everybody could read there: if it is in use, revoke it")
		}
	}
}

// span writes a duration as people do, and as the command line reads it: "90d", "8h",
// "1d12h30m".
func span(d time.Duration) string {
	days, rest := d/day, (d % day).String()
	for _, zero := range []string{"m0s", "h0m"} { // as in 8h0m0s
		if strings.HasSuffix(rest, zero) {
			rest = rest[:len(rest)-2]
		}
	}
	switch {
	case days <= 0:
		return rest
	case d%day == 0:
		rest = ""
	}
	return strconv.FormatInt(int64(days), 10) + "d" + rest
}

// join lists names in a message.
func join[T ~string](items []T) string { return strings.Trim(fmt.Sprint(items), "[]") }

// fields checks an update mask.
func (f *faults) fields(mask, allowed []string) {
	if len(mask) == 0 {
		f.field("update_mask", "names no field; allowed are %s", strings.Join(allowed, ", "))
	}
	for _, name := range mask {
		if !slices.Contains(allowed, name) {
			f.field("update_mask", "names a field that cannot be changed; allowed are %s", strings.Join(allowed, ", "))
			return
		}
	}
}

// constraints checks limits and returns a copy in their one form: nil if there are
// none.
func (f *faults) constraints(c *policy.Constraints) *policy.Constraints {
	if c == nil {
		return nil
	}
	c.Faults(func(path, message, suggestion string) {
		f.field("constraints."+path, "%s: %s", message, suggestion)
	})
	limits := *c
	f.limits("networks", len(c.Networks), func(i int) (string, error) {
		p, err := policy.ParsePrefix(c.Networks[i].String())
		if err == nil && p != c.Networks[i] {
			err = fmt.Errorf("is written as %s", p)
		}
		return "", err
	})
	f.limits("methods", len(c.Methods), func(i int) (string, error) { return c.Methods[i], nil })
	f.limits("hosts", len(c.Hosts), func(i int) (string, error) {
		_, err := policy.ParseHostPattern(c.Hosts[i].String())
		return c.Hosts[i].String(), err
	})
	f.limits("paths", len(c.Paths), func(i int) (string, error) {
		_, err := policy.ParsePathPattern(c.Paths[i].String())
		return c.Paths[i].String(), err
	})
	f.limits("audiences", len(c.Audiences), func(i int) (string, error) { return c.Audiences[i], nil })
	f.limits("resources", len(c.Resources), func(i int) (string, error) { return c.Resources[i], nil })
	f.limits("peers", len(c.Peers), func(i int) (string, error) { return c.Peers[i], nil })
	f.limits("windows", len(c.Windows), func(i int) (string, error) {
		if len(c.Windows[i].Days) > 7 {
			return "", errors.New("names more than seven days")
		}
		return "", nil
	})
	if isUnlimited(&limits) {
		return nil
	}
	return &limits
}

// limits checks one list of constraints.
func (f *faults) limits(name string, n int, at func(i int) (string, error)) {
	if n > maxLimits {
		f.field("constraints."+name, "has %d items; at most %d are allowed", n, maxLimits)
		return
	}
	for i := range n {
		text, err := at(i)
		field := fmt.Sprintf("constraints.%s[%d]", name, i)
		switch {
		case err != nil:
			f.field(field, "%s", err)
		case len(text) > maxLimit:
			f.field(field, "has %d bytes; at most %d are allowed", len(text), maxLimit)
		case !printable(text):
			f.field(field, "holds characters that cannot be printed")
		case holdsSecret(text):
			f.field(field, "looks like a secret")
		}
	}
}

func isUnlimited(c *policy.Constraints) bool {
	return len(c.Networks)+len(c.Methods)+len(c.Hosts)+len(c.Paths)+len(c.Audiences)+len(c.Resources)+len(c.Peers)+len(c.Windows) == 0 && !c.RequireTLS
}
