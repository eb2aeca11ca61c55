package vault

import (
	"crypto/subtle"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/postern-auth/postern/server/jose"
)

// answer is what Vault says of a token (auth/token/lookup), read once.
type answer struct {
	// accessor names the token in Vault's audit log. Batch tokens have none.
	accessor string
	batch    bool
	// policies are the token's own, identity those that its entity and groups add.
	policies, identity []string
	meta               map[string]string
	displayName        string
	entityID           string
	// path is where the token was made, for example auth/approle/login.
	path string
	// namespace is the path of its namespace without a slash at the end; empty for the
	// root namespace.
	namespace string
	// numUses is how many uses are left: 0 means without limit, less that it is used up.
	numUses int64
	created time.Time
	// expires says that the token ends, ttl after the question.
	expires bool
	ttl     time.Duration
	// networks are its bound_cidrs. cidrsUnread says that one of them cannot be read.
	networks    []netip.Prefix
	cidrsUnread bool
}

func (a *answer) limited() bool { return a.numUses > 0 }

// maxTTL and maxCreated keep sums of times within what can be written: a hundred years,
// and the year 9999.
const (
	maxTTL     = 100 * 365 * 24 * time.Hour
	maxCreated = 253402300799
)

// readAnswer reads what Vault says of the token. The error is errAnswer: a part that is
// missing, of another type or about another token makes all of it no answer, because
// what is not understood may be a limit.
func readAnswer(said jsonAnswer, token string) (*answer, error) {
	r := &reader{data: said.Get("data")}
	if r.data.Kind() != jose.Object {
		return nil, fmt.Errorf("%w: it has no data", errAnswer)
	}
	id, _ := r.data.Get("id").Text()
	if subtle.ConstantTimeCompare([]byte(id), []byte(token)) != 1 {
		return nil, fmt.Errorf("%w: it is about another token than the one in question (an agent that uses its own?)", errAnswer)
	}
	a := &answer{
		accessor:    r.text("accessor"),
		batch:       r.isBatch(),
		policies:    r.list("policies"),
		identity:    r.list("identity_policies"),
		meta:        r.meta(),
		displayName: r.text("display_name"),
		entityID:    r.entityID(),
		path:        r.text("path"),
		namespace:   strings.TrimSuffix(r.optional("namespace_path"), "/"),
		numUses:     r.number("num_uses"),
	}
	if created := r.number("creation_time"); created > 0 {
		a.created = time.Unix(min(created, maxCreated), 0).UTC()
	}
	a.expires, a.ttl = r.expiry()
	a.networks, a.cidrsUnread = readNetworks(r.data.Get("bound_cidrs"))
	if r.wrong != "" {
		return nil, fmt.Errorf("%w: %s", errAnswer, r.wrong)
	}
	return a, nil
}

// reader keeps what is wrong first.
type reader struct {
	data  jose.Value
	wrong string
}

func (r *reader) fail(format string, args ...any) {
	if r.wrong == "" {
		r.wrong = fmt.Sprintf(format, args...)
	}
}

// text returns a string that must be there.
func (r *reader) text(name string) string {
	text, ok := r.data.Get(name).Text()
	if !ok {
		r.fail("%s is %s, not a string", name, r.data.Get(name).Kind())
	}
	return text
}

// optional returns a string that may be absent.
func (r *reader) optional(name string) string {
	if !r.data.Get(name).Exists() {
		return ""
	}
	return r.text(name)
}

func (r *reader) number(name string) int64 {
	text, ok := r.data.Get(name).Number()
	n, err := strconv.ParseInt(string(text), 10, 64)
	if !ok || err != nil {
		r.fail("%s is not a whole number", name)
	}
	return n
}

// list returns a list of names. null is an empty one: that is how Go writes it.
func (r *reader) list(name string) []string {
	v := r.data.Get(name)
	switch v.Kind() {
	case jose.Absent, jose.Null:
		return nil
	case jose.Array:
	default:
		r.fail("%s is %s, not a list", name, v.Kind())
		return nil
	}
	all := make([]string, 0, v.Len())
	for e := range v.Elements() {
		text, ok := e.Text()
		if !ok {
			r.fail("%s holds %s", name, e.Kind())
		}
		all = append(all, text)
	}
	return all
}

func (r *reader) meta() map[string]string {
	v := r.data.Get("meta")
	switch v.Kind() {
	case jose.Absent, jose.Null:
		return nil
	case jose.Object:
	default:
		r.fail("meta is %s, not an object", v.Kind())
		return nil
	}
	all := make(map[string]string, v.Len())
	for name, e := range v.Members() {
		text, ok := e.Text()
		if !ok {
			r.fail("meta holds %s", e.Kind())
		}
		all[name] = text
	}
	return all
}

// isBatch reads the type. Vault before 1.0 knew one type only and did not name it.
func (r *reader) isBatch() bool {
	switch kind := r.optional("type"); kind {
	case "batch":
		return true
	case "service", "default", "":
	default:
		r.fail("the token is of an unknown type")
	}
	return false
}

// entityID returns the id of the token's entity: a UUID, perhaps with a dot and the id
// of a namespace. It becomes a part of a path, so nothing else is let through.
func (r *reader) entityID() string {
	id := r.optional("entity_id")
	name, namespace, _ := strings.Cut(id, ".")
	if len(id) > 128 || !isBase64URL(name) || !isBase64URL(namespace) {
		r.fail("entity_id is not the id of an entity")
		return ""
	}
	return id
}

// expiry returns whether the token ends, and how long that takes from the question on.
// A token without an end has neither expire_time, nor ttl, nor the ttl that it was made
// with; anything between is not to be believed.
func (r *reader) expiry() (expires bool, ttl time.Duration) {
	seconds := r.number("ttl")
	end := r.data.Get("expire_time")
	if end.Kind() == jose.Absent || end.Kind() == jose.Null {
		if seconds != 0 || r.number("creation_ttl") != 0 {
			r.fail("expire_time is not there, though the token has a ttl")
		}
		return false, 0
	}
	text, ok := end.Text()
	if _, err := time.Parse(time.RFC3339, text); !ok || err != nil {
		r.fail("expire_time is not a time")
	}
	return true, time.Duration(min(max(seconds, 0), int64(maxTTL/time.Second))) * time.Second
}

// readNetworks reads bound_cidrs as Vault means them: an address alone stands for
// itself, and bits behind the prefix mean nothing. An IPv4 network that is written as
// IPv6 becomes the IPv4 one, as the addresses of clients do.
func readNetworks(list jose.Value) (networks []netip.Prefix, unread bool) {
	switch list.Kind() {
	case jose.Absent, jose.Null:
		return nil, false
	case jose.Array:
	default:
		return nil, true
	}
	for e := range list.Elements() {
		text, _ := e.Text()
		p, err := parseCIDR(text)
		if err != nil {
			return nil, true
		}
		networks = append(networks, p)
	}
	return networks, false
}

func parseCIDR(text string) (netip.Prefix, error) {
	if !strings.Contains(text, "/") {
		text += "/" + strconv.Itoa(hostBits(text))
	}
	p, err := netip.ParsePrefix(text)
	if err != nil {
		return p, err
	}
	if p.Addr().Is4In6() && p.Bits() >= 96 {
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p.Masked(), nil
}

// hostBits is the length of a prefix that holds one address.
func hostBits(address string) int {
	if strings.Contains(address, ":") {
		return 128
	}
	return 32
}
