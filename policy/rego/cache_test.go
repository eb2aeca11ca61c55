package rego_test

import (
	"encoding/json"
	"fmt"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/policy/rego"
	"pgregory.net/rapid"
)

// E-01: equal requests are answered once; the counters say so.
func TestCache(t *testing.T) {
	t.Parallel()
	c := newClock()
	s := compile(t, module(`decision if input.request.path == "/a"`), rego.Config{}, rego.WithClock(c.Now))
	ask := func(path string, cached bool) {
		t.Helper()
		_, got, err := s.Decide(t.Context(), at(path))
		if err != nil || got != cached {
			t.Errorf("%s: cached %v, %v", path, got, err)
		}
	}
	ask("/a", false)
	ask("/a", true)
	ask("/b", false)
	ask("/b", true) // denies are kept as well
	c.advance(10*time.Second - 1)
	ask("/a", true)
	c.advance(1)
	ask("/a", false)
	if st := s.Stats(); st.Hits != 3 || st.Misses != 3 || st.Entries != 2 || st.Off || st.Bytes == 0 {
		t.Errorf("%+v", st)
	}
	off := compile(t, module(`decision := true`), rego.Config{Cache: rego.CacheConfig{Size: -1}})
	decide(t, off, input())
	if _, cached, _ := off.Decide(t.Context(), input()); cached || !off.Stats().Off {
		t.Error("cached although it is off")
	}
}

// CACHE-07 CACHE-08: what the policy reads is in the key, the second too if it
// reads the time; what it does not read is not.
func TestKeyFollowsThePolicy(t *testing.T) {
	t.Parallel()
	c := newClock()
	region := compile(t, module(`decision if input.attributes.request.http.headers["x-region"] == "eu"`), rego.Config{})
	for _, value := range []string{"eu", "us", "eu", "us"} {
		v := decide(t, region, input(func(in *policy.Input) { in.Attributes.Headers[1].Value = value }))
		if v.Allow != (value == "eu") {
			t.Errorf("%s: %v", value, v.Allow)
		}
	}
	if _, cached, _ := region.Decide(t.Context(), input(func(in *policy.Input) { in.Principal.ID, in.Attributes.RequestID = "bob", "r2" })); !cached {
		t.Error("a field that nobody reads is in the key")
	}
	noon := c.now.Add(2 * time.Second).UnixNano()
	timed := compile(t, module(fmt.Sprintf(`decision if time.now_ns() < %d`, noon)), rego.Config{}, rego.WithClock(c.Now))
	for _, want := range []struct{ allow, cached bool }{{true, false}, {true, true}, {true, false}, {true, true}, {false, false}, {false, true}} {
		v, cached, err := timed.Decide(t.Context(), input())
		if err != nil || v.Allow != want.allow || cached != want.cached {
			t.Errorf("at %v: %v %v %v, want %v", c.now, v.Allow, cached, err, want)
		}
		c.advance(500 * time.Millisecond)
	}
}

// E-03: whatever the deadlines, no answer is served from the cache at or past the
// cap or the credential's end, of whoever asked first or of whoever asks now.
func TestNeverServedPastADeadline(t *testing.T) {
	t.Parallel()
	c := newClock()
	limit := 5 * time.Second
	s := compile(t, module(`decision if input.request.path == "/a"`), rego.Config{Cache: rego.CacheConfig{MaxTTL: limit}}, rego.WithClock(c.Now))
	rapid.Check(t, func(rt *rapid.T) {
		c.advance(time.Hour)
		var until time.Time // when what is in the cache must be gone
		for range rapid.IntRange(1, 20).Draw(rt, "requests") {
			c.advance(time.Duration(rapid.Int64Range(0, int64(3*time.Second)).Draw(rt, "passes")))
			end := time.Time{}
			if rapid.Bool().Draw(rt, "expires") {
				end = c.now.Add(time.Duration(rapid.Int64Range(-int64(time.Second), int64(8*time.Second)).Draw(rt, "in")))
			}
			_, cached, err := s.Decide(t.Context(), input(func(in *policy.Input) {
				in.Request.Path, in.Principal.ExpiresAt = "/a", end
			}))
			over := !end.IsZero() && !c.now.Before(end)
			if err != nil || cached && (over || !c.now.Before(until)) {
				rt.Fatalf("cached %v at %v, held until %v, credential until %v: %v", cached, c.now, until, end, err)
			}
			if !cached && !over {
				if until = c.now.Add(limit); !end.IsZero() && end.Before(until) {
					until = end
				}
			}
		}
	})
}

// A hash that two keys share costs a look-up and nothing else.
func TestCollisionsAreHarmless(t *testing.T) {
	t.Parallel()
	c := rego.NewCache(rego.CacheConfig{Size: 64, MaxBytes: 1 << 20})
	allow, deny := &policy.Verdict{Allow: true}, &policy.Verdict{}
	for i := range 20 {
		v := deny
		if i%2 == 0 {
			v = allow
		}
		c.Put(7, fmt.Sprint("key", i), v, 0, 100)
	}
	found := 0
	for i := range 20 {
		if v := c.Get(7, fmt.Sprint("key", i), 1); v != nil {
			if found++; v.Allow != (i%2 == 0) {
				t.Errorf("key%d got another key's verdict", i)
			}
		}
	}
	if found != 8 || c.Get(7, "key", 1) != nil || c.Get(7, "", 1) != nil {
		t.Errorf("%d of 8 places in use", found)
	}
}

// CACHE-15 E-04: the bounds hold under a flood, and what is used survives it.
func TestFlood(t *testing.T) {
	t.Parallel()
	const size = 1024
	c := rego.NewCache(rego.CacheConfig{Size: size, MaxBytes: 1 << 30})
	v := &policy.Verdict{}
	for i := range 100 {
		c.Put(uint64(i), fmt.Sprint("good", i), v, 0, 1<<40)
	}
	lost := 0
	for i := range uint64(200_000) {
		h := i * 0x9e3779b97f4a7c15
		c.Put(h>>7, fmt.Sprint("garbage", i), v, 0, 1<<40)
		if i%50 == 0 {
			good := int(i/50) % 100
			if c.Get(uint64(good), fmt.Sprint("good", good), 1) == nil {
				lost++
				c.Put(uint64(good), fmt.Sprint("good", good), v, 0, 1<<40)
			}
		}
	}
	if lost > 200 { // of 4,000
		t.Errorf("%d of 4000 look-ups of good keys missed", lost)
	}
	if st := c.Stats(); st.Entries > size || st.Evictions == 0 {
		t.Errorf("%+v", st)
	}
	small := rego.NewCache(rego.CacheConfig{Size: size, MaxBytes: 100 << 10})
	for i := range uint64(5000) {
		small.Put(i, strings.Repeat("x", 1000)+fmt.Sprint(i), v, 0, 1<<40)
	}
	if st := small.Stats(); st.Bytes > 110<<10 || st.Entries == 0 {
		t.Errorf("%+v", st)
	}
	small.Put(1, strings.Repeat("x", 1<<20), v, 0, 1<<40)
	if small.Get(1, strings.Repeat("x", 1<<20), 1) != nil {
		t.Error("a huge key was kept")
	}
}

// A verdict holds no piece of the request: one would keep all of it in memory, and
// the bound of the cache counts what verdicts hold of their own.
func TestVerdictsAreTheirOwn(t *testing.T) {
	t.Parallel()
	s := compile(t, module(`p := input.request.path
decision := {
	"allow": input.principal.id == "ann", "message": p, "body": p, "reason": p,
	"headers": {substring(p, 1, -1): p}, "response_headers_to_add": [{"x": [p]}], "request_headers_to_remove": [substring(p, 1, -1)],
	"query_parameters_to_set": {p: p}, "query_parameters_to_remove": [p],
	"dynamic_metadata": {p: [p, {"a": p}]}, "obligations": [p, {"type": p, "parameters": {p: p}}],
	"missing_scopes": [p], "missing_permissions": [p],
}`), rego.Config{Timeout: time.Minute})
	for _, id := range []string{"ann", "bob"} {
		request := strings.Repeat("x", 1000) + "/a-path-of-its-own"
		path := request[1000:]
		v := decide(t, s, input(func(in *policy.Input) { in.Principal.ID, in.Request.Path = id, path }))
		if v.Message != path {
			t.Fatalf("%+v", v)
		}
		from := uintptr(unsafe.Pointer(unsafe.StringData(request)))
		texts := 0
		eachText(reflect.ValueOf(v), func(s string) {
			texts++
			if p := uintptr(unsafe.Pointer(unsafe.StringData(s))); p >= from && p < from+uintptr(len(request)) {
				t.Errorf("%s: the verdict holds a piece of the request: %q", id, s)
			}
		})
		if texts < 15 {
			t.Errorf("only %d texts", texts)
		}
		runtime.KeepAlive(request)
	}
}

func eachText(v reflect.Value, f func(string)) {
	switch v.Kind() {
	case reflect.String:
		if v.Len() > 0 {
			f(v.String())
		}
	case reflect.Pointer, reflect.Interface:
		if !v.IsNil() {
			eachText(v.Elem(), f)
		}
	case reflect.Slice:
		for i := range v.Len() {
			eachText(v.Index(i), f)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			eachText(v.Field(i), f)
		}
	case reflect.Map:
		for _, key := range v.MapKeys() {
			eachText(key, f)
			eachText(v.MapIndex(key), f)
		}
	}
}

// The bytes of verdicts count.
func TestCacheCountsVerdicts(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 10_000)
	field := []policy.Header{{Name: "x", Value: long}}
	tree := map[string]any{"a": []any{long}}
	for name, v := range map[string]*policy.Verdict{
		"message": {Message: long}, "body": {Body: long}, "upstream": {UpstreamHeaders: field}, "client": {ClientHeaders: field},
		"remove": {RemoveHeaders: []string{long}}, "query": {SetQuery: field}, "unset": {RemoveQuery: []string{long}},
		"scopes": {MissingScopes: []string{long}}, "permissions": {MissingPermissions: []string{long}},
		"metadata": {Metadata: tree}, "obligations": {Obligations: []policy.Obligation{{Type: "t", Parameters: tree}}},
	} {
		c := rego.NewCache(rego.CacheConfig{Size: 1024, MaxBytes: 100_000})
		for i := range uint64(100) {
			c.Put(i, fmt.Sprint(i), v, 0, 100)
		}
		if st := c.Stats(); st.Bytes > 100_000 || st.Entries == 0 || st.Entries > 10 {
			t.Errorf("%s: %+v", name, st)
		}
	}
}

// A cached answer that a fresh evaluation does not confirm turns the cache off.
func TestMismatch(t *testing.T) {
	t.Parallel()
	var alarms []rego.Mismatch
	s := compile(t, module(`decision := false`), rego.Config{}, rego.WithAlarm(func(m rego.Mismatch) { alarms = append(alarms, m) }))
	rego.Poison(s, input(), &policy.Verdict{Allow: true, Revision: s.Revision})
	v, cached, err := s.Decide(t.Context(), input())
	if err != nil || v.Allow || cached {
		t.Errorf("%+v %v %v", v, cached, err)
	}
	if len(alarms) != 1 || !alarms[0].Cached.Allow || alarms[0].Fresh.Allow || alarms[0].Revision != s.Revision {
		t.Errorf("%+v", alarms)
	}
	if st := s.Stats(); !st.Off || st.Entries != 0 {
		t.Errorf("%+v", st)
	}
	decide(t, s, input())
	if _, cached, _ := s.Decide(t.Context(), input()); cached {
		t.Error("still cached")
	}
}

// Audits of right answers keep quiet.
func TestAudit(t *testing.T) {
	t.Parallel()
	s := compile(t, module(`decision := {"allow": true, "dynamic_metadata": {"a": [1, {"b": null}]}}`), rego.Config{Timeout: time.Minute},
		rego.WithAlarm(func(m rego.Mismatch) { t.Errorf("%+v", m) }))
	for range 3000 {
		decide(t, s, input())
	}
	if st := s.Stats(); st.Off || st.Hits < 2990 {
		t.Errorf("%+v", st)
	}
}

// Many at once, with the race detector.
func TestConcurrentCache(t *testing.T) {
	t.Parallel()
	s := compile(t, module(`decision if input.request.path in {"/0", "/2", "/4", "/6"}`),
		rego.Config{Timeout: time.Minute, Cache: rego.CacheConfig{Size: 8, MaxTTL: time.Millisecond}})
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for i := range 500 {
				n := i % 13
				if v, _, err := s.Decide(t.Context(), at(fmt.Sprint("/", n))); err != nil || v.Allow != (n < 8 && n%2 == 0) {
					t.Errorf("/%d: %v %v", n, v, err)
				}
			}
		})
	}
	all.Wait()
	if st := s.Stats(); st.Entries < 0 || st.Entries > 8 || st.Bytes < 0 {
		t.Errorf("%+v", st)
	}
}

// A hit costs no allocation.
func TestHitDoesNotAllocate(t *testing.T) {
	if raceEnabled {
		t.Skip("sync.Pool drops values at random under the race detector")
	}
	s := compile(t, tables(t, 10), rego.Config{Timeout: time.Minute, Cache: rego.CacheConfig{MaxTTL: time.Hour}})
	in := rbacInput(10)
	decide(t, s, in)
	if n := testing.AllocsPerRun(200, func() { decide(t, s, in) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

// CACHE-06: values that look alike in some encoding are different decisions.
func TestLookAlikes(t *testing.T) {
	t.Parallel()
	s := compile(t, module(`decision := {"allow": true, "message": json.marshal(object.get(input.principal.claims, "a", "absent"))}`), rego.Config{})
	values := []any{
		nil, true, false, "", "true", "null", "1", json.Number("1"), json.Number("1.0"), "a,b", []any{"a", "b"}, []any{"a,b"},
		[]any{[]any{"a"}, "b"}, []any{[]any{"a", "b"}}, []any{}, map[string]any{}, []any{map[string]any{}}, map[string]any{"a": json.Number("1")},
		map[string]any{"a": "1"}, map[string]any{"a": true}, map[string]any{"a": nil}, map[string]any{"a": "", "b": ""}, map[string]any{"a": "b"},
		[]string{"x"}, map[string]string{"x": "y"},
	}
	messages := map[string]any{}
	for range 2 {
		for _, v := range values {
			d := decide(t, s, input(func(in *policy.Input) { in.Principal.Claims = map[string]any{"a": v} }))
			want, _ := json.Marshal(v)
			if d.Message != string(want) {
				t.Errorf("%#v got the answer %s", v, d.Message)
			}
			messages[d.Message] = v
		}
	}
	if d := decide(t, s, input(func(in *policy.Input) { in.Principal.Claims = nil })); d.Message != `"absent"` {
		t.Errorf("absent got %s", d.Message)
	}
	if len(messages) != len(values) {
		t.Errorf("%d answers for %d values", len(messages), len(values))
	}
}

// The member "0" of an object and the first element of an array are one step of a
// path, and two answers.
func TestMemberOrElement(t *testing.T) {
	t.Parallel()
	for text, allows := range map[string]any{
		`decision if input.principal.claims.a["0"] == "x"`: map[string]any{"0": "x"},
		`decision if input.principal.claims.a[0] == "x"`:   []any{"x"},
	} {
		s := compile(t, module(text), rego.Config{})
		for range 2 {
			for _, a := range []any{map[string]any{"0": "x"}, []any{"x"}, []string{"x"}, "x"} {
				v := decide(t, s, input(func(in *policy.Input) { in.Principal.Claims = map[string]any{"a": a} }))
				if want := fmt.Sprint(a) == fmt.Sprint(allows); v.Allow != want {
					t.Errorf("%s with %v: %v", text, a, v.Allow)
				}
			}
		}
	}
}

// CACHE-05: one string of bytes, split over the fields of the key in every way,
// never makes one key.
func TestSplitsNeverCollide(t *testing.T) {
	t.Parallel()
	s := compile(t, module(`decision := {"allow": true, "obligations": [sprintf("%v", [[input.principal.tenant, input.principal.id, input.principal.roles,
		input.principal.scopes, input.principal.claims, input.request.path, input.attributes.request.http.headers]])]}`), rego.Config{})
	rapid.Check(t, func(t *rapid.T) {
		parts := func(text string, label string) []string {
			var out []string
			for _, cut := range rapid.SliceOfN(rapid.IntRange(0, len(text)), 8, 8).Draw(t, label) {
				out = append(out, text[:min(cut, len(text))])
				text = text[min(cut, len(text)):]
			}
			return append(out, text)
		}
		text := rapid.StringOfN(rapid.RuneFrom([]rune("a|:,\n\x00\x05\x01b\"")), 0, 12, -1).Draw(t, "text")
		build := func(label string) *policy.Input {
			p := parts(text, label)
			return input(func(in *policy.Input) {
				in.Principal.Tenant, in.Principal.ID = p[0], p[1]
				in.Principal.Roles, in.Principal.Scopes = slices.DeleteFunc([]string{p[2], p[3]}, func(s string) bool { return s == "" }), []string{p[4]}
				in.Principal.Claims = map[string]any{p[5]: p[6]}
				in.Request.Path = "/" + p[7]
				in.Attributes.Headers = policy.Headers{{Name: "x", Value: p[8]}}
			})
		}
		sameKeySameDocument(t, s, build("a"), build("b"))
	})
}

type failer interface {
	Fatalf(string, ...any)
	Helper()
}

// sameKeySameDocument is the rule of the cache: one key, one document.
func sameKeySameDocument(t failer, s *rego.Snapshot, a, b *policy.Input) {
	t.Helper()
	keyA, errA := rego.KeyOf(s, a)
	keyB, errB := rego.KeyOf(s, b)
	if errA != nil || errB != nil || keyA != keyB {
		return
	}
	docA, errA := rego.DocumentOf(s, a)
	docB, errB := rego.DocumentOf(s, b)
	if errA != nil || errB != nil {
		return // never cached
	}
	textA, _ := json.Marshal(docA)
	textB, _ := json.Marshal(docB)
	if string(textA) != string(textB) {
		t.Fatalf("one key for\n%s\n%s", textA, textB)
	}
}

// sameKeySameAnswer is the same for a policy that reads single members, whose
// document may hold more than it reads.
func sameKeySameAnswer(t *testing.T, s *rego.Snapshot, a, b *policy.Input) {
	t.Helper()
	keyA, errA := rego.KeyOf(s, a)
	keyB, errB := rego.KeyOf(s, b)
	if errA != nil || errB != nil || keyA != keyB {
		return
	}
	va, errA := rego.Evaluate(t.Context(), s, a)
	vb, errB := rego.Evaluate(t.Context(), s, b)
	if errA == nil && errB == nil && va.Allow && vb.Allow && va.Message != vb.Message {
		t.Fatalf("one key for\n%s\n%s", va.Message, vb.Message)
	}
}

// FuzzKey: two requests never share a key unless the policy sees them alike.
func FuzzKey(f *testing.F) {
	f.Add("acme", "ann", "a", "b", "/x", "q=1", `{"a": 1}`, "acm", "eann", "a", "b", "/x", "q=1", `{"a": "1"}`)
	config := rego.Config{Timeout: time.Minute}
	whole := compile(f, module(`decision if count(input) > 0`), config)
	some := compile(f, module(`decision := {"allow": true, "message": json.marshal(seen)}
seen contains ["id", input.principal.id]
seen contains ["role", input.principal.roles[0]]
seen contains ["path", input.parsed_path[1]]
seen contains ["query", input.parsed_query.q]
seen contains ["body", input.parsed_body.a]
seen contains ["header", input.attributes.request.http.headers.x]
seen contains ["claim", input.principal.claims.a.b]
seen contains ["element", input.principal.claims.a[0]]
seen contains ["member", object.get(input.principal.claims, ["c", "0"], "none")]
seen contains ["type", type_name(input.principal.claims.c)]`), config)
	f.Fuzz(func(t *testing.T, t1, i1, r1, h1, p1, q1, c1, t2, i2, r2, h2, p2, q2, c2 string) {
		build := func(tenant, id, role, header, path, query, claims string) *policy.Input {
			return input(withBody("application/json", claims), func(in *policy.Input) {
				in.Principal.Tenant, in.Principal.ID, in.Principal.Roles = tenant, id, strings.Split(role, ",")
				in.Attributes.Headers = append(in.Attributes.Headers, policy.Header{Name: "x", Value: header})
				in.Request.Path, in.Request.Query = "/"+path, query
				if v, err := rego.DecodeJSON([]byte(claims), 8); err == nil {
					in.Principal.Claims = map[string]any{"a": v, "c": v}
				}
			})
		}
		a, b := build(t1, i1, r1, h1, p1, q1, c1), build(t2, i2, r2, h2, p2, q2, c2)
		sameKeySameDocument(t, whole, a, b)
		sameKeySameAnswer(t, some, a, b)
	})
}

// One in 1,024 hits is evaluated again, no more and no fewer.
func TestAuditRate(t *testing.T) {
	t.Parallel()
	s := compile(t, tables(t, 10), rego.Config{Timeout: time.Minute, Cache: rego.CacheConfig{MaxTTL: time.Hour}})
	in := rbacInput(10)
	decide(t, s, in)
	n := rego.CountPermits(s)
	for range 3*1024 + 1000 {
		decide(t, s, in)
	}
	if n.Load() != 3 {
		t.Errorf("%d of 4072 hits were evaluated again", n.Load())
	}
}
