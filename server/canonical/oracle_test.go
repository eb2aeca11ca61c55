package canonical_test

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
	"pgregory.net/rapid"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/canonical"
)

// The oracle reads a path the way careless servers do. It shares no code with the
// package: what it lacks in exactness it makes up for in greed.
var rewrites = []struct {
	name  string
	apply func(string) string
}{
	{"unescape", unescapeLoosely},
	{"unescape-u", unescapeMicrosoft},
	{"overlong", strings.NewReplacer("\xc0\xae", ".", "\xc0\xaf", "/", "\xc1\x9c", `\`, "\xe0\x80\xae", ".", "\xe0\x80\xaf", "/").Replace},
	{"nfkc", norm.NFKC.String},
	{"best fit", strings.NewReplacer("\u2044", "/", "\u2215", "/", "\u2216", `\`, "\u2024", ".").Replace},
	{"invisible", dropInvisible},
	{"backslash", strings.NewReplacer(`\`, "/").Replace},
	{"parameters", stripParameters},
	{"nul", func(s string) string { s, _, _ = strings.Cut(s, "\x00"); return s }},
	{"space", perSegment(strings.TrimSpace)},
	{"windows", perSegment(trimWindows)},
	{"merge", mergeSlashes},
	{"dots", resolveDots},
	{"case", strings.ToLower},
}

// readings returns everything that up to depth rewrites make of the path.
func readings(path string, depth int) map[string]string {
	all := map[string]string{path: "as it is"}
	edge := []string{path}
	for range depth {
		var next []string
		for _, s := range edge {
			for _, rw := range rewrites {
				if t := rw.apply(s); all[t] == "" {
					all[t] = all[s] + ", " + rw.name
					next = append(next, t)
				}
			}
		}
		edge = next
	}
	return all
}

func unescapeLoosely(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) {
			if c, err := hex.DecodeString(s[i+1 : i+3]); err == nil {
				b.Write(c)
				i += 2
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

func unescapeMicrosoft(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if i+5 < len(s) && s[i] == '%' && (s[i+1] == 'u' || s[i+1] == 'U') {
			if c, err := strconv.ParseUint(s[i+2:i+6], 16, 16); err == nil {
				b.WriteRune(rune(c))
				i += 5
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

func dropInvisible(s string) string {
	return strings.Map(func(c rune) rune {
		if unicode.Is(unicode.Cf, c) || unicode.IsControl(c) {
			return -1
		}
		return c
	}, s)
}

func perSegment(f func(string) string) func(string) string {
	return func(s string) string {
		parts := strings.Split(s, "/")
		for i := range parts {
			parts[i] = f(parts[i])
		}
		return strings.Join(parts, "/")
	}
}

func stripParameters(s string) string {
	return perSegment(func(s string) string { s, _, _ = strings.Cut(s, ";"); return s })(s)
}

func trimWindows(s string) string {
	if s == "." || s == ".." {
		return s
	}
	return strings.TrimRight(s, " .")
}

func mergeSlashes(s string) string {
	for strings.Contains(s, "//") {
		s = strings.ReplaceAll(s, "//", "/")
	}
	return s
}

func resolveDots(s string) string {
	var out []string
	parts := strings.Split(s, "/")
	for i, p := range parts {
		switch {
		case p == ".." && len(out) > 1:
			out = out[:len(out)-1]
		case p != "." && p != "..":
			out = append(out, p)
		}
		if i == len(parts)-1 && (p == "." || p == "..") {
			out = append(out, "")
		}
	}
	return strings.Join(out, "/")
}

// escape writes a decoded path as a request target.
func escape(path string) string {
	var b strings.Builder
	for i := range len(path) {
		switch c := path[i]; {
		case c <= ' ', c >= 0x7f, strings.IndexByte("%;?#\\", c) >= 0:
			fmt.Fprintf(&b, "%%%02X", c)
		default:
			b.WriteByte(c)
		}
	}
	return b.String()
}

// tb is what *testing.T, *testing.F and *rapid.T have in common.
type tb interface {
	Helper()
	Fatalf(format string, args ...any)
}

func checkRefusal(t tb, err error) {
	t.Helper()
	if err == nil {
		return
	}
	var refusal *canonical.Refusal
	if !errors.As(err, &refusal) || refusal.Reason != policy.ReasonRequestInvalid && refusal.Reason != policy.ReasonRequestTooLarge {
		t.Fatalf("not a refusal with a reason: %#v", err)
	}
	if refusal.Detail == "" || len(refusal.Detail) > 100 || !isASCII(refusal.Detail) || strings.ContainsFunc(refusal.Detail, unicode.IsControl) {
		t.Fatalf("not a safe detail: %q", refusal.Detail)
	}
}

// checkPath reads the target, and if it is accepted, holds the reading against
// every promise about paths. It reports whether it was accepted.
func checkPath(t tb, r *canonical.Reader, target string) bool {
	t.Helper()
	var q policy.Request
	if err := r.Read(get(target), &q); err != nil {
		checkRefusal(t, err)
		if q.Path != "" || q.Method != "" || q.Host != "" {
			t.Fatalf("%q: refused, but filled: %+v", target, q)
		}
		return false
	}
	checkClean(t, target, &q)

	var again policy.Request
	if err := r.Read(get(escape(q.Path)), &again); err != nil || again.Path != q.Path {
		t.Fatalf("%q: read as %q, and that as %q, %v", target, q.Path, again.Path, err)
	}
	fold := canonical.Fold(q.Path)
	if twice := canonical.Fold(fold); twice != fold {
		t.Fatalf("%q: folded to %q, and that to %q", target, fold, twice)
	}

	// Every reading of it is the same place but for the letters: it folds to the
	// same path.
	raw, _, _ := strings.Cut(target, "?")
	for s, how := range readings(raw, 3) {
		if got := canonical.Fold(mergeSlashes(stripParameters(unescapeLoosely(s)))); got != fold {
			t.Fatalf("%q: read as %q (fold %q), but %s makes it %q (fold %q)", target, q.Path, fold, how, s, got)
		}
	}
	return true
}

// checkClean holds a path against the promise of policy.Request.
func checkClean(t tb, target string, q *policy.Request) {
	t.Helper()
	switch {
	case !strings.HasPrefix(q.Path, "/"), strings.Contains(q.Path, "//"), strings.Contains(q.Path, `\`):
		t.Fatalf("%q: slashes in %q", target, q.Path)
	case !utf8.ValidString(q.Path), strings.ContainsFunc(q.Path, unicode.IsControl):
		t.Fatalf("%q: control characters in %q", target, q.Path)
	case "/"+strings.Join(q.Segments, "/") != q.Path:
		t.Fatalf("%q: segments %q of %q", target, q.Segments, q.Path)
	}
	if s, err := url.PathUnescape(q.Path); err == nil && s != q.Path || unescapeLoosely(q.Path) != q.Path {
		t.Fatalf("%q: an escape is left in %q", target, q.Path)
	}
	for _, s := range q.Segments {
		if s == "." || s == ".." {
			t.Fatalf("%q: a dot segment in %q", target, q.Path)
		}
	}
}

// checkHost reads the authority; an accepted one is clean and reads as itself.
func checkHost(t tb, r *canonical.Reader, authority string) bool {
	t.Helper()
	a := get("/")
	a.Host = authority
	var q policy.Request
	if err := r.Read(a, &q); err != nil {
		checkRefusal(t, err)
		return false
	}
	if !isASCII(q.Host) || q.Host == "" || strings.ToLower(q.Host) != q.Host || strings.HasSuffix(q.Host, ".") || strings.ContainsAny(q.Host, "/\\@?#%, \t\x00") {
		t.Fatalf("%q: host %q", authority, q.Host)
	}
	// net/url is another reader of authorities.
	u, err := url.Parse("https://" + authority + "/")
	if err != nil {
		t.Fatalf("%q: accepted as %q, but %v", authority, q.Host, err)
	}
	host := strings.TrimSuffix(strings.ToLower(u.Hostname()), ".")
	if !strings.HasPrefix(q.Host, "[") && host != q.Host {
		t.Fatalf("%q: host %q, but %q for another reader", authority, q.Host, host)
	}
	a.Host = q.Host
	var again policy.Request
	if err := r.Read(a, &again); err != nil || again.Host != q.Host {
		t.Fatalf("%q: read as %q, and that as %q, %v", authority, q.Host, again.Host, err)
	}
	return true
}

// pieces are what paths are made of, the honest and the other.
var pieces = []string{
	"/", "/", "/", "a", "public", "admin", "ADMIN", "x1", "-", "_", "~", ".", ".", "..", "...", "%2e", "%2E", "%252e", "%25", "%2",
	"2e", "%2f", "%2F", "%5c", `\`, ";", ";v=1", "%3b", "%3f", "%23", "#", "%20", "+", "%00", "%0a", "%7f", "%ff", "%c0%ae", "%c0%af",
	"%ef%bc%8e", "%ef%bc%8f", "%ef%bc%85", "%ef%bc%9b", "%ef%bd%81", "%e2%80%a5", "%e2%80%8b", "%c2%ad", "%c2%a0", "%e2%88%95", "%e2%80%ae",
	"%u002e", "%u2215", "u002e", "%c3%a9", "e%cc%81", "%c4%b1", "%c5%bf", "%e2%84%aa", "%f0%9f%98%80", ":", "::$DATA", "@", ",", "=", "*", "(", "$", "'",
}

// TestPathProperties reads random paths, of which about every other segment is
// made of suspicious pieces.
func TestPathProperties(t *testing.T) {
	t.Parallel()
	r := newReader(t, canonical.Config{})
	loose := newReader(t, canonical.Config{Paths: canonical.PathConfig{
		EncodedSlash: canonical.EncodedSlashDecode, EncodedDelimiters: canonical.EncodedDelimitersDecode,
	}})
	keeping := newReader(t, canonical.Config{Paths: canonical.PathConfig{EncodedSlash: canonical.EncodedSlashKeep}})
	honest := rapid.SampledFrom([]string{"a", "public", "Admin", "caf%c3%a9", "a%20b", "x;v=1", "x%3by", "%41dmin", "..hidden", "a+b", "%ef%bd%81b", "a%e2%80%8db"})
	odd := rapid.Map(rapid.SliceOfN(rapid.SampledFrom(pieces), 1, 3), func(p []string) string { return strings.Join(p, "") })
	segment := rapid.OneOf(honest, honest, odd)
	checks, accepted := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		target := "/" + strings.Join(rapid.SliceOfN(segment, 0, 4).Draw(t, "segments"), "/")
		checks++
		if checkPath(t, r, target) {
			accepted++
		}
		for _, r := range []*canonical.Reader{loose, keeping} {
			var q policy.Request
			if r.Read(get(target), &q) != nil {
				continue
			}
			for s := range strings.SplitSeq(strings.ReplaceAll(q.Path[1:], "%2F", "/"), "/") {
				if s == "." || s == ".." {
					t.Fatalf("%q: a dot segment in %q", target, q.Path)
				}
			}
		}
	})
	if accepted*5 < checks {
		t.Errorf("only %d of %d paths were accepted: the test has lost its subject", accepted, checks)
	}
}

// FuzzPath reads any target.
func FuzzPath(f *testing.F) {
	for _, p := range pieces {
		f.Add("/" + p)
		f.Add("/public/" + p + "/admin")
	}
	r := newReader(f, canonical.Config{})
	f.Fuzz(func(t *testing.T, target string) {
		if len(target) < 200 {
			checkPath(t, r, target)
		}
	})
}

// FuzzHost reads any authority.
func FuzzHost(f *testing.F) {
	for _, s := range []string{"api.test", "API.test:443", "a.b.", "[::1]:80", "[::ffff:1.2.3.4]", "127.1", "0x7f.1", "a@b", "a,b", "xn--a", "a:0", "a:65536", "[fe80::1%25eth0]"} {
		f.Add(s)
	}
	r := newReader(f, canonical.Config{})
	f.Fuzz(func(t *testing.T, authority string) { checkHost(t, r, authority) })
}

// FuzzForwardedFor reads any forwarded addresses. An address that is taken for the
// client's is the one at the trusted place, as another parser reads it.
func FuzzForwardedFor(f *testing.F) {
	for _, s := range []string{"1.2.3.4", "1.2.3.4, 5.6.7.8", "[::1]:80,1.2.3.4:5", "::ffff:1.2.3.4", "fe80::1%eth0", "", ",", "[1.2.3.4]", "1.2.3.4:", "01.2.3.4", "::1:80"} {
		f.Add(s, s, uint8(1))
		f.Add("9.9.9.9", s, uint8(2))
	}
	peer := netip.MustParseAddrPort("192.0.2.5:1")
	f.Fuzz(func(t *testing.T, first, second string, hops uint8) {
		hop := int(hops % 4)
		r := newReader(t, canonical.Config{Client: canonical.ClientConfig{TrustedHops: hop}})
		a := get("/")
		a.Source.Address = peer
		a.Headers = policy.Headers{{Name: "x-forwarded-for", Value: first}, {Name: "x-forwarded-for", Value: second}}
		var q policy.Request
		if err := r.Read(a, &q); err != nil {
			checkRefusal(t, err)
			return
		}
		if q.ClientIP.Is4In6() || q.ClientIP.Zone() != "" {
			t.Fatalf("%v", q.ClientIP)
		}
		want := net.IP(peer.Addr().AsSlice())
		if hop > 0 {
			members := strings.Split(first+","+second, ",")
			want = nil
			if hop <= len(members) {
				want = parseLoosely(members[len(members)-hop])
			}
		}
		if q.ClientIP.IsValid() && !want.Equal(net.IP(q.ClientIP.AsSlice())) {
			t.Fatalf("%q, %q, hop %d: got %v, want %v", first, second, hop, q.ClientIP, want)
		}
	})
}

// parseLoosely reads an address with anything around it that a proxy may write.
func parseLoosely(s string) net.IP {
	s = strings.TrimSpace(s)
	if host, _, err := net.SplitHostPort(s); err == nil {
		s = host
	}
	s = strings.TrimSuffix(strings.TrimPrefix(s, "["), "]")
	s, _, _ = strings.Cut(s, "%")
	return net.ParseIP(s)
}
