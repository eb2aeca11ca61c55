package apikey

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn"
	"github.com/postern-auth/postern/server/seal"
	"github.com/postern-auth/postern/server/strictyaml"
)

// Key is one entry of the keys file: everything about a key but the key.
type Key struct {
	// ID names the key in logs, in the denylist and in the key itself: the 12
	// characters before its secret. An imported key has none of its own; give it
	// any name of letters, digits, ".", "_" and "-". Required.
	ID string `yaml:"id,required"`
	// Digest is what is kept of the key (see seal.Digest). Required.
	Digest seal.Digest `yaml:"-"`
	// Kind is "key" (default) or "pat", a personal access token. It decides the
	// method of authentication, api_key or pat.
	Kind seal.Kind `yaml:"kind"`
	// Name says in a few words what the key is for, Owner whom to ask about it,
	// Environment where it is meant to be used. Policies see them as claims.
	Name        string `yaml:"name"`
	Owner       string `yaml:"owner"`
	Environment string `yaml:"environment"`
	// Principal is who calls when this key is presented. Required.
	Principal Principal `yaml:"principal,required"`
	// AllowWildcard accepts "*" in roles, scopes and permissions. Such a key may
	// do what nobody has thought of yet.
	AllowWildcard bool `yaml:"allow_wildcard"`
	// Constraints limit where, when and for what the key may be used.
	Constraints *policy.Constraints `yaml:"constraints"`
	// CreatedAt is when the key was minted. Tokens "issued before" some time are
	// revoked by it, and the age of the key counts from it.
	CreatedAt time.Time `yaml:"created_at"`
	// NotBefore and ExpiresAt bound the key's life; ExpiresAt is exclusive. A key
	// with CreatedAt and without ExpiresAt ends at its greatest age.
	NotBefore time.Time `yaml:"not_before"`
	ExpiresAt time.Time `yaml:"expires_at"`
	// MaxAge replaces the configuration's max_age for this key.
	MaxAge time.Duration `yaml:"max_age"`
	// Disabled turns the key off until it is set to false again.
	Disabled bool `yaml:"disabled"`
	// Revoked ends the key for good. "revoked: {}" is enough.
	Revoked *Revoked `yaml:"revoked"`
	// Rotated says that another key takes its place.
	Rotated *Rotated `yaml:"rotated"`
	// ReleasedAt ends a quarantine that a replica imposed before that instant.
	ReleasedAt time.Time `yaml:"released_at"`
}

// Principal is who calls with a key.
type Principal struct {
	// ID is stable and unique within the tenant. Required.
	ID string `yaml:"id,required"`
	// Kind is user, service, agent or device; by default a key is a service's and
	// a personal access token a user's.
	Kind policy.Kind `yaml:"kind"`
	// Tenant is the tenant it belongs to; empty means none.
	Tenant string `yaml:"tenant"`
	// Roles, Scopes and Permissions are what it holds.
	Roles       []string `yaml:"roles"`
	Scopes      []string `yaml:"scopes"`
	Permissions []string `yaml:"permissions"`
	// Metadata are further facts for policies.
	Metadata map[string]any `yaml:"metadata"`
}

// Revoked says when and why a key was revoked.
type Revoked struct {
	// At is the instant from which it counts; left out, it counts at once.
	At time.Time `yaml:"at"`
	// Reason is for people, for example "compromise".
	Reason string `yaml:"reason"`
}

// Rotated says which key takes over, and when.
type Rotated struct {
	// To is the id of the new key. Required.
	To string `yaml:"to,required"`
	// At is the instant from which the old key is refused; until then both work.
	// Left out, the old key is refused at once.
	At time.Time `yaml:"at"`
}

// keysFile is the document. The fields without a tag are not part of it.
type keysFile struct {
	// Version is the version of the format: 1, also if it is left out.
	Version int `yaml:"version"`
	// Revocations is the denylist.
	Revocations []authn.Revocation `yaml:"revocations"`
	// Keys are the keys. A file that ends with the line `keys:` waits for its first.
	// (A denylist without its entries would let revoked tokens in: that is a mistake.)
	Keys []fileKey `yaml:"keys,blank"`

	limits *limits
}

// limits is what the configuration demands of every key.
type limits struct {
	peppers        *seal.Peppers
	maxAge         time.Duration
	refuseImported bool
	// issuer is the iss of the tokens that Postern signs; empty if it signs none.
	issuer string
	// hide is set when a key may stand where it does not belong: then no line of
	// the file may be shown.
	hide bool
}

// fileKey is a Key with a digest that is read without complaint, because the
// complaint of a decoder repeats the value.
type fileKey struct {
	Digest digestText `yaml:"digest,required"`
	Key    `yaml:",inline"`
}

type digestText struct {
	digest seal.Digest
	err    error
}

func (d *digestText) UnmarshalText(text []byte) error {
	d.err = d.digest.UnmarshalText(text)
	return nil
}

// decodeKeysFile reads a keys file, or a part of one, as YAML. On any mistake
// nothing is read, and the error lists all mistakes.
func decodeKeysFile(name string, src []byte, l limits) (keysFile, error) {
	f := keysFile{limits: &l}
	if err := strictyaml.Decode(name, src, &f, strictyaml.WithMaxSize(len(src))); err != nil {
		return keysFile{}, l.redact(err)
	}
	for i := range f.Keys {
		f.Keys[i].Key.Digest = f.Keys[i].Digest.digest
	}
	return f, nil
}

// newDenylist builds the denylist of a file, or returns what is wrong with the
// first bad line; nil if there is none. Tokens that Postern signed are its own
// credentials like others, whatever their iss is.
func newDenylist(revocations []authn.Revocation, l *limits) (*authn.Denylist, error) {
	if len(revocations) == 0 {
		return nil, nil
	}
	d := authn.NewDenylist()
	for i := range revocations {
		line := revocations[i]
		if line.Issuer != "" && line.Issuer == l.issuer {
			line.Issuer = seal.Issuer
		}
		if err := d.Fill(strconv.Itoa(i), &line); err != nil {
			return nil, err
		}
	}
	return d, nil
}

// maxFindings bounds how many exposed keys one error lists.
const maxFindings = 100

// refusePlaintext finds keys of our own format anywhere in the file, comments
// included.
func refusePlaintext(name string, src []byte, prefix string) error {
	var found strictyaml.Errors
	for _, p := range slices.Compact([]string{prefix, seal.DefaultPrefix}) {
		for f, err := range seal.Scan(bytes.NewReader(src), p) {
			if err != nil {
				return err
			}
			if len(found) == maxFindings {
				return found
			}
			found = append(found, &strictyaml.Error{
				File: name, Line: f.Line, Column: 1,
				Message:    fmt.Sprintf("the key %s stands here in plain text", f.ID),
				Suggestion: "write its digest instead, and replace the key: it has been exposed",
			})
		}
	}
	if len(found) == 0 {
		return nil
	}
	return found
}

// redact takes out of the errors what may be a key. A file with a mistake in it
// may hold one anywhere: in place of a digest, of an id or of a whole entry.
func (l *limits) redact(err error) error {
	var all strictyaml.Errors
	if !errors.As(err, &all) {
		return err
	}
	for _, e := range all {
		digest := strings.HasSuffix(e.Path, ".digest")
		if m := otherKind.FindStringIndex(e.Message); m != nil && (digest || wholeEntry.MatchString(e.Path)) {
			e.Message = e.Message[:m[0]] + "is something else, which is not shown; it must be" + e.Message[m[1]:]
			e.Suggestion, l.hide = "", true
		}
		l.hide = l.hide || digest
	}
	for _, e := range all {
		e.Message, e.Suggestion, e.Source = maskKeys(e.Message), maskKeys(e.Suggestion), maskKeys(e.Source)
		if l.hide {
			e.Source = ""
		}
	}
	return all
}

var (
	// otherKind is how a decoder says that a value is of the wrong kind.
	otherKind = regexp.MustCompile(`(?s)is (?:a|the) .*; it must be`)
	// wholeEntry is the path of an entry, of its id, or of what holds entries.
	wholeEntry = regexp.MustCompile(`^(?:keys(?:\[[0-9]+\](?:\.id)?)?)?$`)
	keyLike    = regexp.MustCompile(`[0-9A-Za-z_+/=-]{16,}`)
)

// maskKeys hides what looks like a key or a digest: long, with a digit in it.
// The length stays, because errors point at columns.
func maskKeys(text string) string {
	return keyLike.ReplaceAllStringFunc(text, func(s string) string {
		if !strings.ContainsAny(s, "0123456789") {
			return s
		}
		return strings.Repeat("*", len(s))
	})
}

// Check finds what is wrong with a key by itself.
func (k *fileKey) Check(report func(path, message, suggestion string)) {
	if k.Digest.err != nil {
		report("digest", k.Digest.err.Error(), "")
	}
	if k.ID == "" {
		report("id", "is empty", "")
	}
	if k.Kind != "" && k.Kind != seal.KindKey && k.Kind != seal.KindPAT {
		report("kind", "is not a kind of key", `use "key" or "pat"`)
	}
	if k.Environment != "" && !seal.IsWord(k.Environment) {
		report("environment", "is not a lower-case word", `for example "live" or "test"`)
	}
	k.Principal.check(k.AllowWildcard, report)
	k.Constraints.Faults(func(path, message, suggestion string) { report("constraints."+path, message, suggestion) })
	k.checkTimes(report)
	if k.Rotated != nil && k.Rotated.To == k.ID {
		report("rotated.to", "names the key itself", "write the id of the key that takes its place")
	}
}

func (p *Principal) check(wildcard bool, report func(path, message, suggestion string)) {
	switch p.Kind {
	case "", policy.KindUser, policy.KindService, policy.KindAgent, policy.KindDevice:
	default:
		report("principal.kind", fmt.Sprintf("%q is not a kind of caller", p.Kind), "use user, service, agent or device")
	}
	if strings.TrimSpace(p.ID) != p.ID || p.ID == "" {
		report("principal.id", "is empty or has white space around it", "")
	}
	for _, list := range []struct {
		name   string
		values []string
	}{{"roles", p.Roles}, {"scopes", p.Scopes}, {"permissions", p.Permissions}} {
		for i, v := range list.values {
			if message, suggestion := grantMistake(v, wildcard); message != "" {
				report(fmt.Sprintf("principal.%s[%d]", list.name, i), message, suggestion)
			}
		}
	}
}

func grantMistake(v string, wildcard bool) (message, suggestion string) {
	switch {
	case v == "" || strings.ContainsAny(v, " \t\n\r\"\\"):
		return "is empty or holds white space, quotes or backslashes", "write each as an item of its own"
	case strings.Contains(v, "*") && !wildcard:
		return fmt.Sprintf("%q grants what nobody has listed", v), "list what is needed, or set allow_wildcard: true"
	}
	return "", ""
}

// earliest and latest bound the times of keys: nanoseconds since 1970 in 64 bits
// end in 2262.
var (
	earliest = time.Unix(0, 0)
	latest   = time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC)
)

func (k *Key) checkTimes(report func(path, message, suggestion string)) {
	var revoked, rotated time.Time
	if k.Revoked != nil {
		revoked = k.Revoked.At
	}
	if k.Rotated != nil {
		rotated = k.Rotated.At
	}
	ok := true
	for _, t := range [...]struct {
		path string
		at   time.Time
	}{
		{"created_at", k.CreatedAt}, {"not_before", k.NotBefore}, {"expires_at", k.ExpiresAt},
		{"released_at", k.ReleasedAt}, {"revoked.at", revoked}, {"rotated.at", rotated},
	} {
		if !t.at.IsZero() && (t.at.Before(earliest) || t.at.After(latest)) {
			ok = false
			report(t.path, "lies outside of 1970 to 2200", "leave the field out if there is no such time")
		}
	}
	if !ok || k.ExpiresAt.IsZero() {
		return
	}
	if !k.NotBefore.IsZero() && !k.NotBefore.Before(k.ExpiresAt) {
		report("expires_at", "is not after not_before", "such a key is never valid")
	} else if !k.CreatedAt.IsZero() && !k.CreatedAt.Before(k.ExpiresAt) {
		report("expires_at", "is not after created_at", "such a key is never valid")
	}
}

// Check finds what is wrong between keys, and between them and the
// configuration.
func (f *keysFile) Check(report func(path, message, suggestion string)) {
	if f.Version != 0 && f.Version != 1 {
		report("version", "is not known", "this version of Postern reads version 1")
	}
	for i := range f.Revocations {
		if err := f.Revocations[i].Validate(); err != nil {
			report(fmt.Sprintf("revocations[%d]", i), err.Error(), "")
		}
		if r := &f.Revocations[i]; r.KID != "" && r.Issuer != "" && (r.Issuer == seal.Issuer || r.Issuer == f.limits.issuer) {
			report(fmt.Sprintf("revocations[%d].kid", i), "is of a key of Postern's own", "take the key away from signing.keys, which ends all that it signed")
		}
	}
	ids, digests := map[string]int{}, map[seal.Digest]int{}
	for i := range f.Keys {
		k := &f.Keys[i]
		ofKey := func(path, message, suggestion string) {
			report(fmt.Sprintf("keys[%d].%s", i, path), message, suggestion)
		}
		f.limits.check(k, ofKey)
		if first, ok := ids[k.ID]; ok && k.ID != "" {
			ofKey("id", fmt.Sprintf("is the id of keys[%d] too", first), "an id names one key")
		} else {
			ids[k.ID] = i
		}
		if k.Digest.err != nil || k.Digest.digest.IsZero() {
			continue
		}
		if first, ok := digests[k.Digest.digest]; ok {
			ofKey("digest", fmt.Sprintf("is the digest of keys[%d] too", first), "a key has one entry")
		} else {
			digests[k.Digest.digest] = i
		}
	}
}

// check holds one key against the configuration.
func (l *limits) check(k *fileKey, report func(path, message, suggestion string)) {
	d := k.Digest.digest
	if k.Digest.err != nil {
		l.hide = true
	}
	switch {
	case k.Digest.err != nil || d.IsZero() || k.ID == "":
		// What is missing or unreadable has been reported.
	case !d.Imported() && !seal.IsID(k.ID):
		l.hide = true // perhaps the whole key was written there
		report("id", fmt.Sprintf("is not the id of a key, which has %d letters and digits", seal.IDLen), "copy it from between the last two _ of the key")
	case d.Imported() && !isName(k.ID):
		l.hide = true
		report("id", `is not a name of at most 64 letters, digits, ".", "_" and "-"`, "")
	case d.Imported() && l.refuseImported:
		report("digest", "is of an imported key, and the configuration refuses those", "mint a key, or set refuse_imported: false")
	case !d.Imported() && !l.peppers.Has(d.Pepper()):
		report("digest", fmt.Sprintf("was made with version %d of the pepper, which is not configured", d.Pepper()), "add it to api_keys.peppers")
	}
	age := k.maxAge(l.maxAge)
	if !k.CreatedAt.IsZero() && k.ExpiresAt.Sub(k.CreatedAt) > age {
		report("expires_at", fmt.Sprintf("is more than %s after created_at", showDays(age)), "end the key earlier, or set max_age on it")
	}
}

func (k *Key) maxAge(configured time.Duration) time.Duration {
	if k.MaxAge > 0 {
		return k.MaxAge
	}
	return configured
}

const day = 24 * time.Hour

func showDays(d time.Duration) string {
	switch {
	case d == day:
		return "1 day"
	case d%day == 0:
		return fmt.Sprintf("%d days", d/day)
	}
	return d.String()
}

// isName accepts what may name an imported key.
func isName(s string) bool {
	for i := range len(s) {
		if c := s[i]; !seal.IsBase62(s[i:i+1]) && c != '.' && c != '_' && c != '-' {
			return false
		}
	}
	return s != "" && len(s) <= 64
}
