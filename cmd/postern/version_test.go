package main

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"strings"
	"testing"
)

// The bill of materials lists what is in the binary, all of it, once, and the same each
// time.
func TestVersionSBOM(t *testing.T) {
	t.Parallel()
	text := output(t, "postern", "version", "--sbom")
	var b bom
	d := json.NewDecoder(strings.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&b); err != nil {
		t.Fatal(err)
	}
	info, ok := debug.ReadBuildInfo()
	if !ok || b.Format != "CycloneDX" || b.Spec != "1.6" || b.Metadata.Component.Name != info.Main.Path {
		t.Fatalf("%v %+v", ok, b.Metadata)
	}
	purl := regexp.MustCompile(`^pkg:golang/[A-Za-z0-9._~/-]+@[A-Za-z0-9._%-]+$`)
	seen := map[string]bool{}
	for _, c := range b.Components {
		if seen[c.Ref] || !purl.MatchString(c.PURL) || c.Version == "" || c.Type != "library" {
			t.Errorf("%+v", c)
		}
		seen[c.Ref] = true
	}
	for _, name := range []string{"std", "github.com/open-policy-agent/opa", "google.golang.org/grpc"} {
		if !strings.Contains(text, `"pkg:golang/`+name+"@") {
			t.Errorf("%s is not in it", name)
		}
	}
	if len(b.Depends) != 1 || len(b.Depends[0].On) != len(b.Components) {
		t.Errorf("%d components, %d dependencies", len(b.Components), len(b.Depends))
	}
	// What the tests are linked with is in their own binary, so it is not less here.
	for _, m := range info.Deps {
		if m.Replace == nil && !seen["pkg:golang/"+m.Path+"@"+purlVersion(m.Version)] {
			t.Errorf("%s is not in it", m.Path)
		}
	}
	if again := output(t, "postern", "version", "--sbom"); again != text {
		t.Error("two bills of one binary differ")
	}
	self, err := exec.LookPath("postern")
	if err != nil {
		t.Fatal(err)
	}
	if of := output(t, "postern", "version", "--sbom", "--binary", self); of != text {
		t.Error("of itself as a file it says something else")
	}
	if out, err := exec.CommandContext(t.Context(), "postern", "version", "--binary", filepath.Join(repository, "README.md")).CombinedOutput(); err == nil {
		t.Errorf("a page is a binary: %s", out)
	}
}

// CycloneDX's own schema says that it is one, where it can be had.
func TestVersionSBOMSchema(t *testing.T) {
	t.Parallel()
	check := os.Getenv("POSTERN_CYCLONEDX")
	if check == "" {
		t.Skip("POSTERN_CYCLONEDX names no directory with the npm package @cyclonedx/cyclonedx-library and ajv: .ci/run deploy makes one")
	}
	file := filepath.Join(t.TempDir(), "postern.cdx.json")
	judge := func(text string) ([]byte, error) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), "node", "-e", cyclonedxCheck, file)
		cmd.Dir = check
		return cmd.CombinedOutput()
	}
	text := output(t, "postern", "version", "--sbom")
	if out, err := judge(text); err != nil || !bytes.Contains(out, []byte("valid")) {
		t.Errorf("%v %s", err, out)
	}
	if out, err := judge(strings.Replace(text, `"type": "library"`, `"type": "book"`, 1)); err == nil {
		t.Errorf("a book is a component: %s", out)
	}
}

const cyclonedxCheck = `
const { Validation, Spec } = require('@cyclonedx/cyclonedx-library');
const text = require('fs').readFileSync(process.argv[1], 'utf8');
new Validation.JsonStrictValidator(Spec.Version.v1dot6).validate(text).then(
  (wrong) => { console.log(wrong === null ? 'valid' : JSON.stringify(wrong)); process.exit(wrong === null ? 0 : 1); },
  (err) => { console.log(String(err)); process.exit(1); });
`

// What a release says of itself.
func TestVersionDetails(t *testing.T) {
	t.Parallel()
	b := builtFrom(&debug.BuildInfo{GoVersion: "go1.26.8", Main: debug.Module{Version: "v1.2.3"}, Settings: []debug.BuildSetting{
		{Key: "vcs.revision", Value: "abc"}, {Key: "vcs.time", Value: "2026-01-02T03:04:05Z"}, {Key: "vcs.modified", Value: "true"}, {Key: "CGO_ENABLED", Value: "0"},
		{Key: "-trimpath", Value: "true"}, {Key: "GOOS", Value: "plan9"}, {Key: "GOARCH", Value: "arm64"},
	}})
	var out bytes.Buffer
	if err := printVersion(&out, "table", b); err != nil || out.String() != "postern v1.2.3 (go1.26.8 plan9/arm64)\ncommit abc of 2026-01-02T03:04:05Z, with changes\n" {
		t.Errorf("%v %q", err, out.String())
	}
	out.Reset()
	if err := printVersion(&out, "json", b); err != nil || !strings.Contains(out.String(), `"trimpath": true`) || !strings.Contains(out.String(), `"cgo": false`) {
		t.Errorf("%v %s", err, out.String())
	}
	if stdVersion("go1.26.8 X:nodwarf5") != "1.26.8" || purlVersion("v1.0.0+incompatible") != "v1.0.0%2Bincompatible" {
		t.Error(stdVersion("go1.26.8 X:nodwarf5"), purlVersion("v1.0.0+incompatible"))
	}
}
