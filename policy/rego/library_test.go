package rego_test

import (
	"io/fs"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/postern-auth/postern/policy/lib"
)

// each pack of the library has Rego tests for what it is there for, tagged with
// their ids; TestLibrary runs them.
func TestLibraryCarriesItsIDs(t *testing.T) {
	t.Parallel()
	for file, ids := range map[string][]string{
		"models_test.rego": {"A-01", "A-04", "A-18"},
		"cases_test.rego":  {"A-12", "A-13", "A-14", "A-15", "A-19"},
		"agents_test.rego": {"A-07", "A-08", "A-12", "A-13", "A-15", "A-18"},
	} {
		text, err := fs.ReadFile(lib.Modules, file)
		if err != nil {
			t.Fatal(err)
		}
		tags := tagsOf(string(text))
		for _, id := range ids {
			if !slices.Contains(tags, id) {
				t.Errorf("%s: no test is tagged %s", file, id)
			}
		}
	}
}

var tag = regexp.MustCompile(`\bA-\d\d\b`)

// tagsOf are the ids in the comments right above tests.
func tagsOf(module string) (tags []string) {
	var above []string
	for line := range strings.Lines(module) {
		switch {
		case strings.HasPrefix(line, "#"):
			above = append(above, tag.FindAllString(line, -1)...)
			continue
		case strings.HasPrefix(line, "test_"):
			tags = append(tags, above...)
		}
		above = nil
	}
	return tags
}
