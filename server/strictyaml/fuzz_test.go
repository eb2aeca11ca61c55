package strictyaml_test

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/postern-auth/postern/server/strictyaml"
)

// FuzzDecode checks that no input panics, that errors are bounded, lie within the
// file and leave the target alone, that no resolved secret is shown, and that
// the pass which only looks whether anything is wrong agrees with the one that
// finds out where.
func FuzzDecode(f *testing.F) {
	files, _ := filepath.Glob("testdata/*.txt")
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		for _, c := range strings.Split(string(text), "\n\n") {
			input, _, _ := strings.Cut(c, "\n----\n")
			f.Add(unescape(input))
		}
	}
	f.Fuzz(func(t *testing.T, src string) {
		got, err := decode(src)
		full, fullErr := decode(src, strictyaml.WithReferences(map[string]string{}))
		if (err == nil) != (fullErr == nil) || !reflect.DeepEqual(got, full) {
			t.Fatalf("the passes disagree: %v, %v", err, fullErr)
		}
		if err == nil {
			return
		}
		var all strictyaml.Errors
		if !errors.As(err, &all) || len(all) == 0 || len(all) > 101 || len(err.Error()) > 200_000 {
			t.Fatalf("%d errors, %d bytes", len(all), len(err.Error()))
		}
		if !reflect.DeepEqual(got, document{}) {
			t.Fatal("an error changed the target")
		}
		lines := strings.Count(src, "\n") + 1
		for _, e := range all {
			if e.Line < 1 || e.Line > lines || e.Column < 1 {
				t.Fatalf("an error outside of the file: %v", e)
			}
			if strings.ContainsAny(e.Error(), "\x00\x1b") {
				t.Fatalf("control characters are printed: %q", e.Error())
			}
			if secretIn(e.Message+e.Suggestion) != "" && secretIn(src) == "" {
				t.Fatalf("a secret is shown: %v", e)
			}
		}
	})
}
