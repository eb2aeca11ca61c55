package registry_test

import (
	"strings"
	"testing"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/registry"
	"github.com/postern-auth/postern/server/seal"
)

// ADMIN-02: the token of a page is good for its query alone, as it was made, on any
// replica with the same pepper.
func TestPageTokenIsSealed(t *testing.T) {
	t.Parallel()
	peppers := func(text string) *seal.Peppers {
		ps, err := seal.NewPeppers([]seal.Pepper{{Version: 1, Secret: policy.NewSecret(text)}})
		if err != nil {
			t.Fatal(err)
		}
		return ps
	}
	const one, two = "a pepper of these tests, long enough", "another pepper, and also long enough"
	type query struct{ Tenant string }
	type other struct{ Tenant string }
	pages, replica := registry.NewPages(peppers(one)), registry.NewPages(peppers(one))
	token := pages.Token("id-7", query{"acme"})
	if after, err := replica.After(token, query{"acme"}); err != nil || after != "id-7" {
		t.Errorf("%q %v", after, err)
	}
	if after, err := pages.After("", query{"acme"}); err != nil || after != "" || pages.Token("", query{"acme"}) != "" {
		t.Errorf("%q %v", after, err)
	}
	for name, err := range map[string]error{
		"another tenant":       errOf(pages.After(token, query{"rival"})),
		"another sort":         errOf(pages.After(token, other{"acme"})),
		"another installation": errOf(registry.NewPages(peppers(two)).After(token, query{"acme"})),
		"no pepper":            errOf(registry.NewPages(nil).After(token, query{"acme"})),
		"too long":             errOf(pages.After(strings.Repeat("A", 1<<20), query{"acme"})),
		"nothing behind":       errOf(pages.After(token[:21], query{"acme"})),
	} {
		if registry.ReasonOf(err) != registry.InvalidField {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func errOf(_ string, err error) error { return err }
