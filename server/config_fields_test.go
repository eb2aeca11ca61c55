package server_test

import (
	"slices"
	"testing"

	"github.com/postern-auth/postern/server"
	"github.com/postern-auth/postern/server/authn"
)

// Each field stands there once, in the order of the rules; a cookie comes in the field cookie,
// and what comes in the query in none.
func TestCredentialFields(t *testing.T) {
	t.Parallel()
	if got := server.Default().CredentialFields(); !slices.Equal(got, []string{"x-api-key", "authorization"}) {
		t.Errorf("the default: %v", got)
	}
	var cfg server.Config
	for _, text := range []string{"cookie:a", "header:X-Mine", "cookie:b", "query:key", "header:authorization/bearer", "header:authorization/apikey"} {
		from, err := authn.ParseLocation(text)
		if err != nil {
			t.Fatal(err)
		}
		cfg.Credentials = append(cfg.Credentials, server.CredentialRule{From: from})
	}
	if got := cfg.CredentialFields(); !slices.Equal(got, []string{"cookie", "x-mine", "authorization"}) {
		t.Errorf("%v", got)
	}
}
