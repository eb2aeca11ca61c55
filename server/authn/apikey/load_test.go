package apikey

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/seal"
)

// What a file is read as must not depend on the way in which it is read. The
// tests hold the two quick ways, entryReader and the reading by entries, against
// strictyaml with the whole file.

func testLimits(t testing.TB) limits {
	t.Helper()
	return limits{peppers: testPeppers(t), maxAge: defaultMaxAge}
}

// found is everything that an index holds of a key.
type found struct {
	Sum                                   [32]byte
	NotBefore, NotAfter, Created, Release int64
	End                                   policy.Reason
	Pepper                                uint16
	ID, Principal, Name                   string
	Profile                               profile
}

func contents(ix *index) (all []found) {
	for i := range ix.records {
		r := &ix.records[i]
		all = append(all, found{
			r.sum, r.notBefore, r.notAfter, r.created, r.released, r.end, r.pepper,
			r.id, r.principal, r.name, *r.profile,
		})
	}
	return all
}

// linesOf is what the denylist names.
func linesOf(ix *index) string {
	if ix.denylist == nil {
		return ""
	}
	return fmt.Sprint(ix.denylist.Len(), reflect.ValueOf(ix.denylist).Elem().FieldByName("lines"))
}

// byEntries reads a file entry by entry only.
func byEntries(src []byte, l limits) *index {
	file, ok := layOut(src)
	if !ok {
		return nil
	}
	ix, _, err := file.load("keys.yaml", &l)
	if err != nil {
		panic(err)
	}
	return ix
}

// agree fails the test if reading by entries accepts what strictyaml does not, or
// as something else, and reports whether it accepts.
func agree(t interface{ Fatalf(string, ...any) }, src []byte, l limits) bool {
	quick := byEntries(src, l)
	if quick == nil {
		return false
	}
	whole, err := loadWhole("keys.yaml", src, l)
	if err != nil {
		t.Fatalf("accepted what strictyaml refuses: %v\n%s", err, src)
	}
	if !reflect.DeepEqual(contents(whole), contents(quick)) || linesOf(whole) != linesOf(quick) {
		t.Fatalf("read in two ways:\n%s", src)
	}
	if !reflect.DeepEqual(whole.byID, quick.byID) || !reflect.DeepEqual(whole.byDigest, quick.byDigest) {
		t.Fatalf("found in two ways:\n%s", src)
	}
	return true
}

// entriesAgree is the same for entryReader and a single entry, which the checks
// may refuse in the end.
func entriesAgree(t interface{ Fatalf(string, ...any) }, r *entryReader, entry []byte, l limits) bool {
	k, ok := r.read(entry)
	if !ok {
		return false
	}
	good := true
	complain := func(string, string, string) { good = false }
	k.Check(complain)
	l.check(k, complain)
	f, err := decodeKeysFile("keys.yaml", slices.Concat(listStart, entry), l)
	if good != (err == nil) {
		t.Fatalf("accepted: %v; strictyaml: %v\n%s", good, err, entry)
	}
	if good && !reflect.DeepEqual(f.Keys, []fileKey{*k}) {
		t.Fatalf("%+v\n%+v\n%s", f.Keys, *k, entry)
	}
	return true
}

// fullKey sets every field that a key can have.
func fullKey(t testing.TB) Key {
	t.Helper()
	m, err := seal.Mint(seeded("full"), seal.Spec{Environment: "live"}, testPeppers(t))
	if err != nil {
		t.Fatal(err)
	}
	path, err := policy.ParsePathPattern("/a/*/**")
	if err != nil {
		t.Fatal(err)
	}
	host, err := policy.ParseHostPattern("*.example.com")
	if err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 1, 15, 9, 0, 0, 0, time.UTC)
	k := Key{ID: m.ID, Digest: m.Digest, Kind: seal.KindKey, Environment: "live"}
	k.Name, k.Owner, k.AllowWildcard = `it's the "key" of C:\é`, "team-a", true
	k.Principal = Principal{
		ID: "svc", Kind: policy.KindService, Tenant: "acme",
		Roles: []string{"a", "b"}, Scopes: []string{"*"}, Permissions: []string{"c:d"},
		Metadata: map[string]any{
			"text": "x", "": json.Number("-1.5e+3"), "list": []any{true, nil, "y", []any{}, map[string]any{}},
			"deep": map[string]any{"a": map[string]any{"b": false}},
		},
	}
	k.Constraints = &policy.Constraints{
		Networks: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8::/32")},
		Methods:  []string{"GET", "PUT"}, Hosts: []policy.HostPattern{host}, Paths: []policy.PathPattern{path},
		Resources:  []string{"order:7", "user:*"},
		Peers:      []string{"spiffe://acme/billing", "sha256:" + strings.Repeat("0a", 32)},
		Windows:    []policy.TimeWindow{{Days: []string{"mon", "tue"}, From: "00:00", To: "24:00"}, {From: "08:00", To: "17:30"}},
		RequireTLS: true, Audiences: []string{"orders"},
	}
	k.CreatedAt, k.NotBefore, k.ExpiresAt, k.ReleasedAt = at, at.Add(time.Millisecond), at.Add(time.Hour), at
	k.MaxAge, k.Disabled = 90*time.Minute, true
	k.Revoked = &Revoked{At: at, Reason: "lost"}
	k.Rotated = &Rotated{To: "0123456789AB", At: at}
	return k
}

// Every field that Entry writes is one that the entryReader knows. A field that
// is new in Key fails here until both know it.
func TestEveryFieldIsReadQuickly(t *testing.T) {
	t.Parallel()
	k := fullKey(t)
	for _, path := range unsetFields(reflect.ValueOf(k), "Key") {
		t.Errorf("%s is not set in the test", path)
	}
	entry := []byte(k.Entry())
	r := newEntryReader()
	if !entriesAgree(t, r, entry, testLimits(t)) {
		t.Fatalf("left to strictyaml:\n%s", entry)
	}
	if got := r.key.Entry(); got != string(entry) {
		t.Errorf("%s\nbecomes\n%s", entry, got)
	}
	// In any order, and with less.
	lines := strings.SplitAfter(strings.Replace(string(entry), "  - ", "    ", 1), "\n")
	lines = lines[:len(lines)-1]
	for i := range lines {
		for j := range lines {
			less := slices.Clone(lines)
			less[0], less[i] = less[i], less[0]
			less = slices.Delete(less, j, j+1)
			entry := []byte("  - " + strings.Join(less, "")[4:])
			required := slices.ContainsFunc([]string{"    id:", "    digest:", "    principal:"}, func(name string) bool {
				return !strings.Contains("    "+string(entry[4:]), name)
			})
			if entriesAgree(t, r, entry, testLimits(t)) == required {
				t.Errorf("read quickly: %v\n%s", !required, entry)
			}
		}
	}
}

// unsetFields lists the fields with a tag that are zero.
func unsetFields(v reflect.Value, path string) (unset []string) {
	if v.Kind() == reflect.Pointer {
		v = v.Elem()
	}
	for i := range v.NumField() {
		f, field := v.Type().Field(i), v.Field(i)
		if _, ok := f.Tag.Lookup("yaml"); !ok {
			continue
		}
		at := path + "." + f.Name
		switch {
		case field.IsZero():
			unset = append(unset, at)
		case f.Name == "Principal", field.Kind() == reflect.Pointer:
			unset = append(unset, unsetFields(field, at)...)
		}
	}
	return unset
}

// What looks nearly as Entry writes it is read as strictyaml reads it, or left to
// strictyaml.
func TestNearlyRegularEntries(t *testing.T) {
	t.Parallel()
	good := "  - id: \"0a1B2c3D4e5F\"\n    digest: \"hmac-sha256:v1:ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb\"\n"
	who := "    principal: {id: \"svc\"}\n"
	for _, c := range []struct {
		entry string
		quick bool
	}{
		{good + who, true},
		{good + who + "\n# a comment: é\n\n", true},
		{good + who[:len(who)-1], true},
		{good + who + "    # a comment\n", false},
		{good + who + "# a\u2028comment\n", false},
		{good + who + "# a\tcomment\n", false},
		{good + who + "\r\n", false},
		{good + who + "    \n", false},
		{good + who + "    name: \"x\" \n", false},
		{good + who + "    name: \"x\" # comment\n", false},
		{good + who + "    name:  \"x\"\n", false},
		{good + who + "    name: x\n", false},
		{good + who + "    name: 'x'\n", false},
		{good + who + "    name: \"\"\n", true},
		{good + who + "    name: \"a\\\"b\\\\\"\n", true},
		{good + who + "    name: \"a\\tb\"\n", false},
		{good + who + "    name: \"\\ud83d\\ude00\"\n", false},
		{good + who + "    name: \"a\\\"\n", false},
		{good + who + "    name: \"a\\\n", false},
		{good + who + "    name: \"a\n", false},
		{good + who + "    name: \"\xff\"\n", false},
		{good + who + "    name: \"\u00a0\"\n", false},
		{good + who + "    name: \"\ufeff\"\n", false},
		{good + who + "    name: \"\u202e\"\n", false},
		{good + who + "    name: \"\ufffd\"\n", false},
		{good + who + "    name: \"😀\"\n", true},
		{good + who + "    name: \"${env:HOME}\"\n", false},
		{good + who + "    name: \"-----BEGIN PRIVATE KEY-----\"\n", false},
		{good + who + "    name: \"eyJhbGciOi.e30.c2ln\"\n", false},
		{good + who + "    name: \"https://u:p@x\"\n", false},
		{good + who + "    name: \"https://example.com\"\n", true},
		{good + who + "    name: \"a\"\n    name: \"a\"\n", false},
		{good + who + "    nam: \"a\"\n", false},
		{good + who + "    disabled: false\n", false},
		{good + who + "    disabled: true1\n", false},
		{good + who + "    disabled: \"true\"\n", false},
		{good + who + "    max_age: 24h\n", false},
		{good + who + "    max_age: 24h0m0s\n", true},
		{good + who + "    max_age: 1.5µs\n", true},
		{good + who + "    max_age: 0s\n", false},
		{good + who + "    max_age: -1s\n", false},
		{good + who + "    max_age: \n", false},
		{good + who + "    created_at: \"0001-01-01T00:00:00Z\"\n", false},
		{good + who + "    created_at: \"2026-01-15T9:00:00Z\"\n", true}, // time.Parse takes it, so both do
		{good + who + "    created_at: \"2026-01-15T09:00:00+01:00\"\n", true},
		{good + who + "    created_at: \"1969-01-01T00:00:00Z\"\n", true},
		{good + who + "    created_at: 2026-01-15T09:00:00Z\n", false},
		{good + who + "    created_at: \"\"\n", false},
		{good + who + "    revoked: {}\n", true},
		{good + who + "    revoked: {at: \"0001-01-01T00:00:00Z\"}\n", false},
		{good + who + "    revoked: {reason: \"x\", reason: \"x\"}\n", false},
		{good + who + "    revoked: {reason: \"x\",}\n", false},
		{good + who + "    revoked: {, reason: \"x\"}\n", false},
		{good + who + "    revoked: { }\n", false},
		{good + who + "    rotated: {at: \"2026-01-15T09:00:00Z\"}\n", false},
		{good + who + "    rotated: {to: \"\"}\n", false},
		{good + who + "    rotated: {to: \"0a1B2c3D4e5F\"}\n", true}, // to be refused by the checks
		{good + who + "    kind: \"agent\"\n", true},
		{good + who + "    environment: \"Live\"\n", true},
		{good + who + "    constraints: {}\n", true},
		{good + who + "    constraints: {methods: []}\n", false},
		{good + who + "    constraints: {methods: [\"get\"]}\n", true},
		{good + who + "    constraints: {networks: [\"10.0.0.1/8\"]}\n", false},
		{good + who + "    constraints: {networks: [\"::ffff:10.0.0.0/104\"]}\n", true},
		{good + who + "    constraints: {networks: [\"\"]}\n", false},
		{good + who + "    constraints: {paths: [\"x\"]}\n", false},
		{good + who + "    constraints: {hosts: [\"A.example\"]}\n", true},
		{good + who + "    constraints: {require_tls: true, require_tls: true}\n", false},
		{good + who + "    constraints: {windows: [{from: \"8:00\", to: \"9:00\"}]}\n", true},
		{good + who + "    constraints: {methods: [\"GET\"]} \n", false},
		{good + "    principal: {id: \"\"}\n", true},
		{good + "    principal: {kind: \"user\", id: \"svc\"}\n", false},
		{good + "    principal: {id: \"svc\", id: \"svc\"}\n", false},
		{good + "    principal: {id: \"svc\", roles: [\"a\" , \"b\"]}\n", false},
		{good + "    principal: {id: \"svc\", roles: [\"a\", \"*\"]}\n", true},
		{good + "    principal: {id: \"svc\", roles: [\"a\" \"b\"]}\n", false},
		{good + "    principal: {id: \"svc\", roles: [a]}\n", false},
		{good + "    principal: {id: \"svc\"}}\n", false},
		{good + "    principal: {id: \"svc\"\n", false},
		{good + "    principal: {id:\"svc\"}\n", false},
		{good + "    principal: {id: \"svc\", metadata: {}}\n", true},
		{good + "    principal: {id: \"svc\", metadata: {\"a\":1,\"a\":1}}\n", false},
		{good + "    principal: {id: \"svc\", metadata: {\"<<\":{\"a\":1}}}\n", true},
		{good + "    principal: {id: \"svc\", metadata: {\"a\":01}}\n", false},
		{good + "    principal: {id: \"svc\", metadata: {\"a\":+1}}\n", false},
		{good + "    principal: {id: \"svc\", metadata: {\"a\":.5}}\n", false},
		{good + "    principal: {id: \"svc\", metadata: {\"a\":-0}}\n", true},
		{good + "    principal: {id: \"svc\", metadata: {\"a\":1e999}}\n", false},
		{good + "    principal: {id: \"svc\", metadata: {\"a\":123456789012345678901234567890}}\n", true},
		{good + "    principal: {id: \"svc\", metadata: {\"a\":nullx}}\n", false},
		{good + "    principal: {id: \"svc\", metadata: {\"a\":null}}\n", true},
		{good + "    principal: {id: \"svc\", metadata: {\"a\":}}\n", false},
		{good + "    principal: {id: \"svc\", metadata: {\"a\":" + strings.Repeat("[", 40) + "1" + strings.Repeat("]", 40) + "}}\n", false},
		{good + "    principal: {id: \"svc\", metadata: {\"" + strings.Repeat("a", 1100) + "\":1}}\n", false},
		{good + "    principal: {id: \"svc\", metadata: [\"a\"]}\n", false},
		{good + who + "  id: \"x\"\n", false},
		{good + who + "version: 1\n", false},
		{good + who + "---\n", false},
		{good + who + "...\n", false},
		{good, false},
		{"  - " + good[:0] + who[4:], false},
		{"  -\n    " + good[4:] + who, false},
		{"  -  " + good[4:] + who, false},
		{"  - {}\n", false},
		{"  - \n", false},
		{"  -", false},
		{"", false},
	} {
		if got := entriesAgree(t, newEntryReader(), []byte(c.entry), testLimits(t)); got != c.quick {
			t.Errorf("read quickly: %v, want %v\n%s", got, c.quick, c.entry)
		}
		agree(t, slices.Concat(listStart, []byte(c.entry)), testLimits(t))
	}
}

// Files that can be cut, and files that only look so.
func TestLayouts(t *testing.T) {
	t.Parallel()
	a := "  - id: \"0a1B2c3D4e5F\"\n    digest: \"hmac-sha256:v1:ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb\"\n    principal: {id: \"a\"}\n"
	b := "  - {id: old, digest: \"sha256:3e23e8160039594a33894f6564e1b1348bbd7a0088d42c4acb73eeaed59c009d\",\n     principal: {id: b}}\n"
	revoke := "revocations:\n  - {jti: abc}\n  - {subject: s, issuer: i, issued_before: 2026-03-01T12:00:00Z, note: \"\n\n    x\"}\n"
	for _, c := range []struct {
		name, file string
		cut        bool
	}{
		{"entries", "keys:\n" + a + b, true},
		{"the last line is not ended", "keys:\n" + a + b[:len(b)-1], true},
		{"comments", "# c\n\nkeys:\n# c\n\n" + a + "# c\n" + b + "  # c\n\n", true},
		{"a version", "version: 1\nkeys:\n" + a, true},
		{"revocations", revoke + "keys:\n" + a + b, true},
		{"revocations in the first column", "revocations:\n- {jti: abc}\n# c\nkeys:\n" + b, true},
		{"by hand", "keys:\n" + strings.ReplaceAll(b, "\n", " # c\n"), true},
		{"folded text", "keys:\n" + strings.Replace(a, "    principal", "    name: >\n      x\n\n      y\n    principal", 1) + b, true},
		{"nothing", "keys:\n", false},
		{"no entries", "keys: []\n", false},
		{"keys twice", "keys: []\nkeys:\n" + a, false},
		{"keys twice, once in quotes", "version: 1\n\"keys\": []\nkeys:\n" + a, false},
		{"a bad version", "version: 2\nkeys:\n" + a, false},
		{"no version", "version:\nkeys:\n" + a, false},
		{"an indented version", "  version: 1\nkeys:\n" + a, false},
		{"a mapping in braces", "{version: 1}\nkeys:\n" + a, false},
		{"a mapping in braces, later", "version: 1\n{}\nkeys:\n" + a, false},
		{"an open brace", "revocations: [\nkeys:\n" + a + "]\n", false},
		{"an open quote", "version: \"\nkeys:\n" + a + "\"\n", false},
		{"more behind the keys", "keys:\n" + a + revoke, false},
		{"two documents", "version: 1\n---\nkeys:\n" + a, false},
		{"two documents, later", "keys:\n" + a + "---\nkeys:\n" + b, false},
		{"an ended document", "version: 1\n...\nkeys:\n" + a, false},
		{"a document's mark", "---\nkeys:\n" + a, false},
		{"list in the first column", "keys:\n" + strings.ReplaceAll(a, "\n  ", "\n")[2:], false},
		{"three spaces", "keys:\n " + strings.ReplaceAll(a, "\n", "\n "), false},
		{"ends of line with CR", strings.ReplaceAll("keys:\n"+a+b, "\n", "\r\n"), false},
		{"a bad comment before the keys", "# \u2028\nkeys:\n" + a, false},
		{"a bad comment before the entries", "keys:\n# \x00\n" + a, false},
		{"a bad comment within", "keys:\n" + a + "# \x00\n" + b, false},
		{"an anchor and its alias", "keys:\n" + strings.Replace(a, "{id: \"a\"}", "&p {id: \"a\"}", 1) + strings.Replace(b, "{id: b}", "*p", 1), false},
		{"a text over two entries", "keys:\n" + strings.Replace(a, "id: \"a\"", "id: \"a", 1) + b + strings.Replace(a, "{id: \"a", "{id: x\"", 1), false},
		{"a text that looks like an entry", "keys:\n" + strings.Replace(a, "id: \"a\"", "id: \"a\n  - b\"", 1), false},
		{"the same id twice", "keys:\n" + a + b + strings.Replace(a, "ca97", "ca98", 1), false},
		{"the same digest twice", "keys:\n" + a + b + strings.Replace(a, "0a1B", "0a1C", 1), false},
		{"a byte order mark", "\ufeffkeys:\n" + a, false},
	} {
		if got := agree(t, []byte(c.file), testLimits(t)); got != c.cut {
			t.Errorf("%s: read by entries: %v, want %v", c.name, got, c.cut)
		}
		_, whole := loadWhole("keys.yaml", []byte(c.file), testLimits(t))
		if _, err := loadKeysFile("keys.yaml", []byte(c.file), seal.DefaultPrefix, testLimits(t), 1<<20); fmt.Sprint(err) != fmt.Sprint(whole) {
			t.Errorf("%s: %v, want %v", c.name, err, whole)
		}
	}
}

// snippets are what mistakes and attacks are made of.
var snippets = []string{
	`"`, `\`, `\"`, `'`, "${", ": ", ":", ", ", ",", "#", " #", "\n", "\n  - ", "\n    ", "    ", "{", "}", "[", "]", "- ", "&a ", "*a", "!!str ",
	"true", "false", "null", "~", "1e999", "0x1", "<<: ", "\t", "\r", "\u2028", "\ufeff", "\x00", "\xff", "é", "keys:\n", "\nkeys:\n", "---\n", "|", ">", "? ", "%",
	"pst_", "a_pat_0123456789AB_0123456789012345678901234567890123456789012ABCDEF", "eyJa.b.c", "://u:p@h", "disabled: true\n", "    disabled: true\n", `    name: "x"` + "\n", "revoked: {}", `"0001-01-01T00:00:00Z"`,
}

// Files that somebody or something has damaged are read in one way or not at all.
func TestDamagedFiles(t *testing.T) {
	t.Parallel()
	full := fullKey(t)
	simple := Key{ID: "legacy", Digest: seal.ImportedDigest(policy.NewSecret("x")), Principal: Principal{ID: "svc"}}
	head := "version: 1\nrevocations:\n  - {jti: abc, note: \"x\"}\n# c\nkeys:\n# c\n"
	good := head + full.Entry() + "\n# c\n" + simple.Entry()
	if !agree(t, []byte(good), testLimits(t)) {
		t.Fatalf("not read by entries:\n%s", good)
	}
	r, l := newEntryReader(), testLimits(t)
	rapid.Check(t, func(t *rapid.T) {
		file := good
		for range rapid.IntRange(1, 3).Draw(t, "damages") {
			at := rapid.IntRange(0, len(file)).Draw(t, "at")
			cut := min(rapid.SampledFrom([]int{0, 0, 1, 2, 8}).Draw(t, "cut"), len(file)-at)
			file = file[:at] + rapid.SampledFrom(snippets).Draw(t, "snippet") + file[at+cut:]
		}
		agree(t, []byte(file), l)
		if _, entries, ok := strings.Cut(file, "keys:\n# c\n"); ok {
			entry, _, _ := strings.Cut(entries, "\n  -")
			entriesAgree(t, r, []byte(entry+"\n"), l)
		}
	})
}

// The errors in a large file are those in the whole, although only the entries at
// fault are read to find them.
func TestMistakesAmongManyEntries(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/keysfile/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	crowd, ok := layOut(manyEntries(t, 1000, func(int, *Key) {}))
	if !ok {
		t.Fatal("not a list of entries")
	}
	compared := 0
	for _, name := range files {
		golden, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		input, _, _ := bytes.Cut(golden, []byte("----\n"))
		part, ok := layOut(input)
		if !ok {
			continue
		}
		src := slices.Concat(part.head, part.list)
		for i := range part.len() {
			src = append(append(src, crowd.body[crowd.starts[100*i]:crowd.starts[100*i+100]]...), part.entry(i)...)
		}
		file, ok := layOut(src)
		if !ok {
			t.Fatal(name)
		}
		_, whole := decodeKeysFile("keys.yaml", src, testLimits(t))
		l := testLimits(t)
		ix, faulty, err := file.load("keys.yaml", &l)
		if err != nil || (ix == nil) != (whole != nil) {
			t.Fatalf("%s: %v, %v, %v", name, ix, whole, err)
		}
		if ix != nil {
			continue
		}
		compared++
		_, err = decodeKeysFile("keys.yaml", file.only(faulty), testLimits(t))
		if diff := cmp.Diff(fmt.Sprint(whole), fmt.Sprint(renumber(err, faulty))); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
	if compared < 10 {
		t.Errorf("only %d files were compared", compared)
	}
}

// A mistake in a large file is found at its place, and more mistakes than are
// listed end the search.
func TestMistakesInLargeFiles(t *testing.T) {
	t.Parallel()
	const n = 6000
	src := manyEntries(t, n, func(i int, k *Key) {
		if i == n-2 || i == 10 {
			k.Digest = seal.ImportedDigest(policy.NewSecret("twin"))
		}
		if i == 3000 {
			k.Name = "${x}"
		}
	})
	if len(src) <= maxWholeMistake {
		t.Fatalf("%d bytes are not many", len(src))
	}
	load := func(src []byte) string {
		_, err := loadKeysFile("keys.yaml", src, seal.DefaultPrefix, testLimits(t), maxYAMLSize)
		return fmt.Sprint(err)
	}
	_, err := decodeKeysFile("keys.yaml", src, testLimits(t))
	if got := load(src); err == nil || got != err.Error() {
		t.Errorf("got  %v\nwant %v", got, err)
	}
	if got := strings.Count(load(bytes.ReplaceAll(src, []byte("roles"), []byte("rolls"))), "unknown field"); got != 100 {
		t.Errorf("%d of %d mistakes are listed", got, n)
	}
	if got := load(append([]byte("verson: 1\n"), manyEntries(t, n, func(int, *Key) {})...)); !strings.Contains(got, "keys.yaml:1:1: unknown field") || strings.Contains(got, "keys[") {
		t.Errorf("a mistake in front of the keys: %s", got)
	}
	large := append(bytes.Repeat([]byte("# no layout\n"), maxYAMLSize/10), "keys: []\n"...)
	if _, err := loadKeysFile("keys.yaml", large, seal.DefaultPrefix, testLimits(t), 2*len(large)); err == nil || !strings.Contains(err.Error(), "end with its list of keys") {
		t.Errorf("too large for YAML: %v", err)
	}
	if _, err := loadKeysFile("keys.yaml", src, seal.DefaultPrefix, testLimits(t), len(src)-1); err == nil || !strings.Contains(err.Error(), "is larger than") {
		t.Errorf("too large: %v", err)
	}
}

// Entries are read by several workers; some of them by strictyaml, in lots.
func TestManyEntries(t *testing.T) {
	t.Parallel()
	src := manyEntries(t, 3*batch, func(i int, k *Key) {
		switch {
		case i%7 == 0:
			k.Principal.Metadata = map[string]any{"n": json.Number(fmt.Sprint(i))}
		case i%11 == 0:
			k.Digest, k.ID = seal.ImportedDigest(policy.NewSecret(k.ID)), "legacy-"+k.ID
		}
		k.Principal.Tenant = fmt.Sprint("tenant ", i%10)
	})
	if !agree(t, src, testLimits(t)) {
		t.Error("not read by entries")
	}
	if !agree(t, bytes.ReplaceAll(src, []byte(`"tenant 3"`), []byte(`tenant 3`)), testLimits(t)) {
		t.Error("not read by entries and partly by hand")
	}
}

func FuzzLoad(f *testing.F) {
	files, err := filepath.Glob("testdata/keysfile/*.txt")
	if err != nil || len(files) == 0 {
		f.Fatal(files, err)
	}
	for _, name := range files {
		golden, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		input, _, _ := bytes.Cut(golden, []byte("----\n"))
		f.Add(input)
	}
	k := fullKey(f)
	f.Add([]byte("version: 1\nrevocations:\n  - {jti: abc}\nkeys:\n" + k.Entry() + "# c\n"))
	l := testLimits(f)
	f.Fuzz(func(t *testing.T, src []byte) {
		agree(t, src, l)
		if file, ok := layOut(src); ok {
			r := newEntryReader()
			for i := range file.len() {
				entriesAgree(t, r, file.entry(i), l)
			}
			if _, err := loadKeysFile("keys.yaml", src, seal.DefaultPrefix, l, len(src)); err != nil && refusePlaintext("", src, seal.DefaultPrefix) == nil {
				if _, whole := loadWhole("keys.yaml", src, l); whole == nil {
					t.Fatalf("strictyaml accepts what is refused: %v\n%s", err, src)
				}
			}
		}
	})
}
