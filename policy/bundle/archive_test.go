package bundle_test

import (
	"archive/tar"
	"bytes"
	"strings"
	"testing"

	"github.com/postern-auth/postern/policy/bundle"
	"github.com/postern-auth/postern/server/strictyaml"
)

// What an archive may not hold, whoever signed it. BND-20 BND-22 BND-24 BND-26 BND-29
func TestScreen(t *testing.T) {
	t.Parallel()
	plain := allowing("1")
	entry := func(h tar.Header) made { return made{files: plain.files, extra: []tar.Header{h}} }
	for name, c := range map[string]struct {
		raw    []byte
		limits bundle.Limits
		says   string
	}{
		"good":            {raw: plain.pack(t)},
		"directories":     {raw: entry(tar.Header{Name: "./docs/", Typeflag: tar.TypeDir}).pack(t)},
		"git archive":     {raw: entry(tar.Header{Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{"comment": "x"}}).pack(t)},
		"twice":           {raw: entry(tar.Header{Name: "policy.rego", Typeflag: tar.TypeReg}).pack(t), says: "policy.rego twice"},
		"twice, dotted":   {raw: entry(tar.Header{Name: "./a/../policy.rego", Typeflag: tar.TypeReg}).pack(t), says: "lead elsewhere"},
		"twice, slashed":  {raw: entry(tar.Header{Name: "//policy.rego", Typeflag: tar.TypeReg}).pack(t), says: "policy.rego twice"},
		"traversal":       {raw: entry(tar.Header{Name: "../evil.rego", Typeflag: tar.TypeReg}).pack(t), says: "lead elsewhere"},
		"backslash":       {raw: entry(tar.Header{Name: `..\evil.rego`, Typeflag: tar.TypeReg}).pack(t), says: "lead elsewhere"},
		"control":         {raw: entry(tar.Header{Name: "evil\n.rego", Typeflag: tar.TypeReg}).pack(t), says: "lead elsewhere"},
		"symbolic link":   {raw: entry(tar.Header{Name: "data.json", Linkname: "/etc/passwd", Typeflag: tar.TypeSymlink}).pack(t), says: "neither a file"},
		"hard link":       {raw: entry(tar.Header{Name: "data.json", Linkname: "policy.rego", Typeflag: tar.TypeLink}).pack(t), says: "neither a file"},
		"device":          {raw: entry(tar.Header{Name: "null", Typeflag: tar.TypeChar}).pack(t), says: "neither a file"},
		"files":           {raw: plain.pack(t), limits: bundle.Limits{Files: 1}, says: "more than 1 files"},
		"bytes":           {raw: plain.pack(t), limits: bundle.Limits{Bytes: 200 * strictyaml.Byte}, says: "over a limit"},
		"depth":           {raw: plain.with("a/b/c/data.json", "{}").pack(t), limits: bundle.Limits{Depth: 3}, says: "nested more than 3"},
		"deep data":       {raw: plain.with("data.json", strings.Repeat(`{"a":`, 40)+"1"+strings.Repeat("}", 40)).pack(t), says: "nested too deeply"},
		"name twice":      {raw: plain.with("data.json", `{"a":1,"a":2}`).pack(t), says: "stands twice"},
		"two texts":       {raw: plain.with("data.json", `{"a":1}{"a":2}`).pack(t), says: "more than one JSON text"},
		"manifest twice":  {raw: plain.with(".manifest", `{"revision":"1","revision":"2"}`).pack(t), says: "stands twice"},
		"yaml aliases":    {raw: plain.with("data.yaml", "a: &a [1]\nb: *a\n").pack(t), says: "aliases"},
		"delta":           {raw: plain.with("patch.json", `{"data":[]}`).pack(t), says: "delta bundle"},
		"trailing":        {raw: append(plain.pack(t), "garbage"...), says: "7 bytes follow"},
		"second archive":  {raw: append(plain.pack(t), plain.pack(t)...), says: "follow the bundle's archive"},
		"checksum":        {raw: flip(plain.pack(t), -6), says: "checksum"},
		"cut off":         {raw: plain.pack(t)[:100], says: "no whole"},
		"not gzip":        {raw: []byte("<html>"), says: "no gzip"},
		"gzip of nothing": {raw: made{}.pack(t)},
	} {
		err := bundle.Screen(c.raw, c.limits)
		if c.says == "" && err != nil || c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)) {
			t.Errorf("%s: %v, want %q", name, err, c.says)
		}
	}
}

// flip changes a bit; at counts from the end if it is negative.
func flip(raw []byte, at int) []byte {
	raw = bytes.Clone(raw)
	raw[(at+len(raw))%len(raw)] ^= 1
	return raw
}

// Whatever comes, nothing panics, and the limits hold.
func FuzzScreen(f *testing.F) {
	f.Add(allowing("1").pack(f))
	f.Add(allowing("1").with("data.json", `{"a":[1]}`).pack(f))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, raw []byte) {
		_ = bundle.Screen(raw, bundle.Limits{Bytes: strictyaml.MiB, Files: 16, Depth: 8})
	})
}
