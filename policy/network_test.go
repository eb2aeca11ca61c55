package policy_test

import (
	"testing"

	"github.com/postern-auth/postern/policy"
)

func TestParsePrefix(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"10.0.0.0/8": "10.0.0.0/8", "10.1.2.3": "10.1.2.3/32", "::1": "::1/128", "2001:DB8::/32": "2001:db8::/32",
		"::ffff:10.0.0.0/104": "10.0.0.0/8", "::ffff:10.1.2.3": "10.1.2.3/32", "0.0.0.0/0": "0.0.0.0/0", "::ffff:0:0/96": "0.0.0.0/0",
	} {
		if p, err := policy.ParsePrefix(text); err != nil || p.String() != want {
			t.Errorf("%q: got %v, %v, want %s", text, p, err, want)
		}
	}
	for _, text := range []string{"", "/", "10.0.0.1/8", "10.0.0.0/33", "10.0.0.0/08", "010.0.0.0/8", "10.0.0.0/-1", "10.0.0.0/", " 10.0.0.0/8", "fe80::1%eth0", "fe80::%1/10", "::ffff:0:0/95", "10.0.0.0/8/8", "10/8", "localhost"} {
		if p, err := policy.ParsePrefix(text); err == nil || p.IsValid() {
			t.Errorf("%q: got %v, %v", text, p, err)
		}
	}
}
