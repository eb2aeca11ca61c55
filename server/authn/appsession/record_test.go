package appsession_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn"
	"github.com/postern-auth/postern/server/authn/appsession"
)

// What a record may hold in a field, in JSON and in a hash.
func TestRecord(t *testing.T) {
	t.Parallel()
	cfg := config(t, "redis://host")
	read := func(text string) (*authn.Proof, error) {
		return appsession.ReadRecord(cfg, []byte(`{"user":{"id":"alice","tenant":"acme"},`+text+`}`), nil, noon)
	}
	for text, want := range map[string][]string{
		`"permissions":null`: nil, `"permissions":[]`: {}, `"permissions":"a b"`: {"a b"}, `"permissions":["a","b c"]`: {"a", "b c"}, `"x":1`: nil,
	} {
		if p, err := read(text); err != nil || !slices.Equal(p.Principal.Permissions, want) {
			t.Errorf("%s: %v", text, err)
		}
	}
	for text, want := range map[string]time.Time{
		`"auth_time":1795262400`: noon, `"auth_time":1795262400.5`: noon.Add(time.Second / 2), `"auth_time":"2026-11-21T12:00:00Z"`: noon,
		`"auth_time":"2026-11-21T13:00:00+01:00"`: noon, `"auth_time":null`: {}, `"auth_time":0`: time.Unix(0, 0),
	} {
		if p, err := read(text); err != nil || !p.Principal.AuthTime.Equal(want) {
			t.Errorf("%s: %v", text, err)
		}
	}
	for _, text := range []string{
		`"permissions":{}`, `"permissions":[1]`, `"permissions":[""]`, `"permissions":true`, `"permissions":"a\u200b"`, `"permissions":[["a"]]`,
		`"auth_time":"yesterday"`, `"auth_time":[]`, `"auth_time":1795262400000`, `"auth_time":-1`, `"auth_time":1e300`, `"auth_time":"2026-11-21"`, `"auth_time":1795262999`,
		`"cookie":{"expires":"never"}`, `"user":{"id":"bob"}`,
	} {
		p, err := read(text)
		var refusal *authn.Refusal
		if p != nil || err == nil || errors.As(err, &refusal) {
			t.Errorf("%s: %v, %v", text, p, err)
		}
	}
	for text, want := range map[string]policy.Reason{
		`{}`: policy.ReasonCredentialUnknown, `{"user":null}`: policy.ReasonCredentialUnknown, `{"user":{"id":null}}`: policy.ReasonCredentialUnknown, `{"user":"alice"}`: policy.ReasonCredentialUnknown,
	} {
		_, err := appsession.ReadRecord(cfg, []byte(text), nil, noon)
		if reason(err) != want {
			t.Errorf("%s: %v", text, err)
		}
	}
	for text, ok := range map[string]bool{`7`: true, `0`: true, `-7`: false, `7.5`: false, `7e3`: false, `""`: false, `" a"`: false, `true`: false, `{}`: false} {
		p, err := appsession.ReadRecord(cfg, []byte(`{"user":{"id":`+text+`,"tenant":"acme"}}`), nil, noon)
		if (err == nil) != ok || ok && p.Principal.ID != text {
			t.Errorf("id %s: %v", text, err)
		}
	}
}

// No record makes it panic, and whoever it is about is somebody, with names that can be
// told from others.
func FuzzRecord(f *testing.F) {
	f.Add([]byte(full), false)
	f.Add([]byte(`["a","b"]`), true)
	f.Add([]byte(`a,b , c`), true)
	f.Add([]byte(`{"user":{"id":1e9}}`), false)
	f.Fuzz(func(t *testing.T, text []byte, hash bool) {
		cfg := config(t, "redis://host")
		fields := map[string]string{}
		if hash {
			cfg.Format = appsession.Hash
			for _, name := range []string{"user.id", "user.tenant", "user.roles", "scope", "permissions", "cookie.expires", "auth_time", "amr"} {
				fields[name] = string(text)
			}
		}
		p, err := appsession.ReadRecord(cfg, text, fields, noon)
		if err != nil {
			return
		}
		who := p.Principal
		names := slices.Concat([]string{who.ID, who.Tenant}, who.Roles, who.Scopes, who.Permissions, who.AMR)
		if slices.ContainsFunc(names, func(s string) bool { return s == "" || strings.ContainsAny(s, "\x00\r\n") }) {
			t.Errorf("%q", names)
		}
		if !p.NotAfter.After(noon) || p.NotAfter.After(noon.Add(5*time.Second)) {
			t.Errorf("until %v", p.NotAfter)
		}
	})
}

// pieces is a connection that delivers a text in pieces of a few bytes.
type pieces struct {
	net.Conn
	text []byte
	size int
}

func (p *pieces) Read(b []byte) (int, error) {
	if len(p.text) == 0 {
		return 0, io.EOF
	}
	n := copy(b[:min(len(b), p.size)], p.text)
	p.text = p.text[n:]
	return n, nil
}

// The guard lets every regular reply through as it came, however it is cut, and none
// that announces too much.
func TestGuard(t *testing.T) {
	t.Parallel()
	for text, ok := range map[string]bool{
		"+OK\r\n:1\r\n$3\r\nabc\r\n$-1\r\n*2\r\n$1\r\na\r\n:2\r\n-ERR x\r\n": true,
		"$0\r\n\r\n$100\r\n" + strings.Repeat("$", 100) + "\r\n+OK\r\n":      true,
		"$101\r\n": false, "$-2\r\n": true, "$x\r\n": false, "$99999999999999999999\r\n": false, "*4097\r\n": false, "*4096\r\n": true, "=101\r\n": false, "!101\r\n": false,
		"%5000\r\n": false, ">5000\r\n": false, "~5000\r\n": false, "$\r\n": false,
		"+" + strings.Repeat("x", 1021) + "\r\n": true, "+" + strings.Repeat("x", 1022) + "\r\n": false, strings.Repeat("x", 5000): false,
		strings.Repeat("+OK\r\n", 20_000): false,
	} {
		for _, size := range []int{1, 2, 7, 1 << 20} {
			got, err := io.ReadAll(appsession.Guard(&pieces{text: []byte(text), size: size}, 100))
			if ok && (err != nil || string(got) != text) || !ok && !errors.Is(err, appsession.ErrTooLarge) {
				t.Errorf("%.40q by %d: %v", text, size, err)
			}
		}
	}
}

// Whatever comes, and however it is cut, the guard says the same, and does not change
// what it lets through.
func FuzzGuard(f *testing.F) {
	f.Add([]byte("$3\r\nabc\r\n*1\r\n:1\r\n"), 2)
	f.Add([]byte("$200\r\n"), 3)
	f.Fuzz(func(t *testing.T, text []byte, size int) {
		whole, first := io.ReadAll(appsession.Guard(&pieces{text: text, size: 1 << 20}, 100))
		cut, second := io.ReadAll(appsession.Guard(&pieces{text: text, size: 1 + max(0, size)%100}, 100))
		if (first == nil) != (second == nil) || first == nil && !(bytes.Equal(whole, text) && bytes.Equal(cut, text)) {
			t.Errorf("%v and %v", first, second)
		}
	})
}
