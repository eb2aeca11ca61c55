package policy_test

import (
	"net/netip"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/postern-auth/postern/policy"
)

func pathOf(t rapid.TB, text string) policy.PathPattern {
	p, err := policy.ParsePathPattern(text)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func hostOf(t rapid.TB, text string) policy.HostPattern {
	p, err := policy.ParseHostPattern(text)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestPathPatternCovers(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		wide, narrow string
		want         bool
	}{
		{"/a", "/a", true}, {"/**", "/", true}, {"/**", "/a/**", true}, {"/a/**", "/a", true}, {"/a/**", "/a/", true},
		{"/a/**", "/a/*/c", true}, {"/a/*", "/a/b", true}, {"/*/**", "/a/**", true}, {"/a/*", "/a/*", true}, {"/*", "/a", true},
		{"/a", "/a/**", false}, {"/a/b", "/a/*", false}, {"/a/*", "/a/", false}, {"/a/*", "/a/**", false}, {"/a/**", "/**", false},
		{"/a/**", "/ab", false}, {"/a/*/**", "/a/**", false}, {"/a", "/A", false}, {"/*", "/", false}, {"/*/**", "/**", false},
	} {
		if got := pathOf(t, c.wide).Covers(pathOf(t, c.narrow)); got != c.want {
			t.Errorf("%s covers %s: %v", c.wide, c.narrow, got)
		}
	}
	if (policy.PathPattern{}).Covers(pathOf(t, "/a")) || pathOf(t, "/**").Covers(policy.PathPattern{}) {
		t.Error("a zero pattern covers or is covered")
	}
}

func TestHostPatternCovers(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		wide, narrow string
		want         bool
	}{
		{"a.test", "A.test", true}, {"*.test", "a.test", true}, {"*.test", "*.test", true}, {"*.test", "*.a.test", true}, {"*.test", "b.a.test", true},
		{"a.test", "*.a.test", false}, {"*.a.test", "a.test", false}, {"*.a.test", "*.test", false}, {"*.test", "test", false}, {"*.test", "*.atest", false},
	} {
		if got := hostOf(t, c.wide).Covers(hostOf(t, c.narrow)); got != c.want {
			t.Errorf("%s covers %s: %v", c.wide, c.narrow, got)
		}
	}
	if (policy.HostPattern{}).Covers(hostOf(t, "a")) || hostOf(t, "*.a").Covers(policy.HostPattern{}) {
		t.Error("a zero pattern covers or is covered")
	}
}

// What a route covers it also matches: no route may be called dead that a request
// can reach.
func TestRouteCoversIsSound(t *testing.T) {
	t.Parallel()
	var (
		segment = rapid.SampledFrom([]string{"a", "b", "*"})
		path    = rapid.Custom(func(t *rapid.T) policy.PathPattern {
			parts := rapid.SliceOfN(segment, 0, 3).Draw(t, "segments")
			end := rapid.SampledFrom([]string{"", "/", "/**"}).Draw(t, "end")
			text := "/" + strings.Join(parts, "/") + end
			return pathOf(t, strings.Replace(text, "//", "/", 1))
		})
		host = rapid.Map(rapid.SampledFrom([]string{"t", "a.t", "b.a.t", "*.t", "*.a.t", "*.b.a.t"}), func(s string) policy.HostPattern {
			p, _ := policy.ParseHostPattern(s)
			return p
		})
		method = rapid.SampledFrom([]string{"GET", "HEAD", "POST"})
		route  = rapid.Custom(func(t *rapid.T) *policy.Route {
			return &policy.Route{
				Hosts:   rapid.SliceOfN(host, 0, 2).Draw(t, "hosts"),
				Methods: rapid.SliceOfN(method, 0, 2).Draw(t, "methods"),
				Paths:   rapid.SliceOfN(path, 0, 2).Draw(t, "paths"),
			}
		})
	)
	covered := 0
	rapid.Check(t, func(t *rapid.T) {
		wide, narrow := route.Draw(t, "wide"), route.Draw(t, "narrow")
		if !wide.Covers(wide) {
			t.Fatalf("%+v does not cover itself", wide)
		}
		if !wide.Covers(narrow) {
			return
		}
		covered++
		for _, h := range []string{"t", "a.t", "c.t", "b.a.t", "c.a.t", "c.b.a.t"} {
			for _, m := range []string{"GET", "HEAD", "POST", "PUT"} {
				for _, p := range []string{"/", "/a", "/a/", "/b", "/c", "/a/b", "/a/c/", "/a/b/c", "/c/a/b", "/a/a/a/a"} {
					q := &policy.Request{Host: h, Method: m, Path: p}
					if narrow.Match(q, nil) && !wide.Match(q, nil) {
						t.Fatalf("%+v covers %+v but not %s %s%s", wide, narrow, m, h, p)
					}
				}
			}
		}
	})
	if covered == 0 {
		t.Error("nothing was covered: the test says nothing")
	}
}

// Each mistake is reported at its place, and what limits as it looks is not.
func TestConstraintsFaults(t *testing.T) {
	t.Parallel()
	window := func(from, to string, days ...string) *policy.Constraints {
		return &policy.Constraints{Windows: []policy.TimeWindow{{Days: days, From: from, To: to}}}
	}
	peers := func(all ...string) *policy.Constraints { return &policy.Constraints{Peers: all} }
	at := func(all ...string) *policy.Constraints {
		c := &policy.Constraints{}
		for _, text := range all {
			c.Hosts = append(c.Hosts, hostOf(t, text))
		}
		return c
	}
	for name, c := range map[string]struct {
		limits *policy.Constraints
		want   string
	}{
		"hosts":               {at("api.example.com", "*.Example.com", "10.0.0.1", "[::1]", "[2001:db8::1]", "h", "xn--bcher-kva.example", "a_b.test", "0x.test"), ""},
		"a trailing dot":      {at("h", "api.example.com."), "hosts[1]"},
		"a domain's dot":      {at("*.example.com."), "hosts[0]"},
		"another script":      {at("bücher.example"), "hosts[0]"},
		"a long address":      {at("[2001:DB8::0001]"), "hosts[0]"},
		"a short address":     {at("127.1"), "hosts[0]"},
		"a hex address":       {at("0x7f.0x1"), "hosts[0]"},
		"a zone":              {at("[fe80::1%eth0]"), "hosts[0]"},
		"no address":          {at("[x/y", "[]", "[::1]]", "[10.0.0.1]"), "hosts[0] hosts[1] hosts[2] hosts[3]"},
		"labels":              {at("a..b", ".a", strings.Repeat("a", 64)+".b", "*."+strings.Repeat("abc.", 62)+"test"), "hosts[0] hosts[1] hosts[2] hosts[3]"},
		"methods":             {&policy.Constraints{Methods: []string{"GET", "M-SEARCH", "VERSION-CONTROL"}}, ""},
		"methods of nobody":   {&policy.Constraints{Methods: []string{"GE T", "GET ", "", "*", "ſ", "CONNECT", strings.Repeat("A", 41)}}, "methods[2] methods[0] methods[1] methods[3] methods[4] methods[5] methods[6]"},
		"peers":               {peers("spiffe://acme/billing", "spiffe://acme.test/Ns/a_b.c-d", "billing.example.com", "https://Web.test/a?b=c", "sha256:"+strings.Repeat("0a", 32)), ""},
		"a great peer":        {peers("Billing.Example.COM"), "peers[0]"},
		"a pattern of peers":  {peers("spiffe://acme/**", "spiffe://*/a", "*.example.com"), "peers[0] peers[1] peers[2]"},
		"peers with no path":  {peers("spiffe://acme", "spiffe://acme/", "spiffe://acme//a", "spiffe://acme/../a"), "peers[0] peers[1] peers[2] peers[3]"},
		"SPIFFE in any case":  {peers("SPIFFE://acme/a", "spiffe://ACME/a", "spiffe:/acme/a", "spiffe://acme/K"), "peers[0] peers[1] peers[2] peers[3]"},
		"peers that are none": {peers("", "a b", "10.0.0.1", "-a", "a:443", "HTTPS://a/", "sha256:"+strings.Repeat("0A", 32)), "peers[0] peers[1] peers[2] peers[3] peers[4] peers[5] peers[6]"},
		"none":                {nil, ""},
		"nothing":             {&policy.Constraints{}, ""},
		"a window":            {window("08:00", "17:30", "mon", "sun"), ""},
		"until midnight":      {window("08:00", "24:00"), ""},
		"a short hour":        {window("08:00", "9:00"), "windows[0]"},
		"a short hour first":  {window("8:00", "09:00"), "windows[0]"},
		"from midnight":       {window("24:00", "24:00"), "windows[0]"},
		"past midnight":       {window("22:00", "24:01"), "windows[0]"},
		"over midnight":       {window("22:00", "06:00"), "windows[0]"},
		"no time at all":      {window("08:00", "08:00"), "windows[0]"},
		"minute 60":           {window("08:00", "08:60"), "windows[0]"},
		"seconds":             {window("08:00:00", "09:00"), "windows[0]"},
		"spaces":              {window(" 8:00", "09:00"), "windows[0]"},
		"no times":            {window("", ""), "windows[0]"},
		"a long day":          {window("08:00", "09:00", "monday"), "windows[0]"},
		"a great day":         {window("08:00", "09:00", "Mon"), "windows[0]"},
		"no days": {&policy.Constraints{Windows: []policy.TimeWindow{
			{From: "08:00", To: "09:00"}, {Days: []string{}, From: "08:00", To: "09:00"},
		}}, "windows[1]"},
		"no windows":    {&policy.Constraints{Windows: []policy.TimeWindow{}}, "windows"},
		"no networks":   {&policy.Constraints{Networks: []netip.Prefix{}}, "networks"},
		"no hosts":      {&policy.Constraints{Hosts: []policy.HostPattern{}}, "hosts"},
		"no paths":      {&policy.Constraints{Paths: []policy.PathPattern{}}, "paths"},
		"no methods":    {&policy.Constraints{Methods: []string{}}, "methods"},
		"a small get":   {&policy.Constraints{Methods: []string{"GET", "get"}}, "methods[1]"},
		"no resources":  {&policy.Constraints{Resources: []string{}}, "resources"},
		"a bare type":   {&policy.Constraints{Resources: []string{"invoice"}}, "resources[0]"},
		"a type and :":  {&policy.Constraints{Resources: []string{"invoice:"}}, "resources[0]"},
		"all of a type": {&policy.Constraints{Resources: []string{"invoice:*"}}, ""},
	} {
		var paths []string
		c.limits.Faults(func(path, message, suggestion string) {
			paths = append(paths, path)
			if message == "" || suggestion == "" {
				t.Errorf("%s: %q; %q", name, message, suggestion)
			}
		})
		if got := strings.Join(paths, " "); got != c.want {
			t.Errorf("%s: %q", name, got)
		}
	}
}

// A host with a dot at its end is told without it, however many there are.
func TestHostFaultHints(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"api.example.com.":        `write "api.example.com"`,
		"*.Example.com.":          `write "*.example.com"`,
		"[2001:DB8::0001]":        "write [2001:db8::1]",
		"a..":                     "trailing dot",
		".":                       "trailing dot",
		"bücher.example.":         "punycode",
		strings.Repeat(".", 1000): "punycode",
	} {
		(&policy.Constraints{Hosts: []policy.HostPattern{hostOf(t, text)}}).Faults(func(_, _, suggestion string) {
			if !strings.Contains(suggestion, want) {
				t.Errorf("%.20s: %s", text, suggestion)
			}
		})
	}
}
