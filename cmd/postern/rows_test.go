package main

import (
	"fmt"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/prototext"

	adminv1 "github.com/postern-auth/postern/gen/postern/admin/v1"
)

// described is what was read, a line for each row; the spaces of prototext vary.
func described(rows []importRow) string {
	var b strings.Builder
	for _, r := range rows {
		text := prototext.MarshalOptions{}.Format(r.message.Interface())
		if r.faults != nil {
			text = "BAD " + strings.Join(r.faults, "; ")
		}
		fmt.Fprintf(&b, "%d %s\n", r.line, strings.Join(strings.Fields(text), " "))
	}
	return b.String()
}

// T-05: the table as people write it, and as other programs do.
func TestTables(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct{ text, want string }{
		"bars": {"abc1234 | Alice | admin\nxyz9876 | Bob | user\n", `1 credential:{principal_id:"Alice" roles:"admin"} secret:"abc1234"
2 credential:{principal_id:"Bob" roles:"user"} secret:"xyz9876"
`},
		"a table of Markdown": {"| Token | User | Role |\n|---|:--|---|\n| abc1234 | Alice | admin |\n", `3 credential:{principal_id:"Alice" roles:"admin"} secret:"abc1234"
`},
		"commas": {"abc1234,Alice,admin\n\n\"x,1\", Bob ,\"user,writer\"\n", `1 credential:{principal_id:"Alice" roles:"admin"} secret:"abc1234"
3 credential:{principal_id:"Bob" roles:"user" roles:"writer"} secret:"x,1"
`},
		"a heading": {"User,SHA256,tenant,scopes,expires\nann,9f86,acme,a b;c,2026-12-31\n", `2 credential:{tenant:"acme" principal_id:"ann" scopes:"a" scopes:"b" scopes:"c" expire_time:{seconds:1798675200}} sha256:"9f86"
`},
		"no role":          {"abc1234,Alice\n", "1 credential:{principal_id:\"Alice\"} secret:\"abc1234\"\n"},
		"too many":         {"abc1234,Alice,admin,more\nabc,Bob\n", "1 BAD has 4 columns; there are 3: secret, user, role\n2 credential:{principal_id:\"Bob\"} secret:\"abc\"\n"},
		"too few":          {"abc1234\n", "1 BAD has 1 columns; there are 3: secret, user, role\n"},
		"a bad quote":      {"a\"bc,Alice\nabc,Bob\n", "1 BAD bare \" in non-quoted-field\n2 credential:{principal_id:\"Bob\"} secret:\"abc\"\n"},
		"a bad time":       {"secret,user,expires\nabc,Alice,someday\n", "2 BAD expires: write a time such as 2026-12-31, 2026-12-31T18:00:00Z, or 30d for a duration from now (-30d: before)\n"},
		"lines of Windows": {"abc1234 | Alice | admin\r\nxyz | Bob\r\n", "1 credential:{principal_id:\"Alice\" roles:\"admin\"} secret:\"abc1234\"\n2 credential:{principal_id:\"Bob\"} secret:\"xyz\"\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cells := csvRows
			if guessFormat("-", tt.text, "") == "pipe" {
				cells = func(text string) []cellRow { return pipeRows(text) }
			}
			rows, err := cellMessages(cells(tt.text), (&adminv1.ImportedCredential{}).ProtoReflect())
			if got := described(rows); err != nil || got != tt.want {
				t.Errorf("%v\n%swant\n%s", err, got, tt.want)
			}
		})
	}
	_, err := cellMessages(csvRows("secret,user,colour\nabc,ann,red\n"), (&adminv1.ImportedCredential{}).ProtoReflect())
	if err == nil || !strings.HasPrefix(err.Error(), `line 1: there is no column "colour"; use `) {
		t.Errorf("an unknown column: %v", err)
	}
}

func TestJSONRows(t *testing.T) {
	t.Parallel()
	empty := (&adminv1.ImportedCredential{}).ProtoReflect()
	for name, tt := range map[string]struct{ text, want string }{
		"lines": {`{"secret": "a", "credential": {"principal_id": "ann"}}

{"secret": "b", "credential": {"principalId": "bob"}}`, "1 credential:{principal_id:\"ann\"} secret:\"a\"\n3 credential:{principal_id:\"bob\"} secret:\"b\"\n"},
		"an array": {"[\n {\"secret\": \"a\",\n  \"credential\": {}},\n {\"sha256\": \"b\"}\n]", "2 credential:{} secret:\"a\"\n4 sha256:\"b\"\n"},
		"mistakes": {`{"secrte": "hush"}
{"secret": 12345678}
"hush"
{"secret": "hush"`, "1 BAD there is no field \"secrte\"\n2 BAD this is not the JSON of an ImportedCredential\n3 BAD this is not the JSON of an ImportedCredential\n4 BAD this is not the JSON of an ImportedCredential\n"},
		"an empty array": {"[]", ""},
	} {
		rows, err := jsonRows(tt.text, empty)
		if got := described(rows); err != nil || got != tt.want {
			t.Errorf("%s: %v\n%swant\n%s", name, err, got, tt.want)
		}
	}
	for _, text := range []string{"[", "[{}", "[{},", "[{} {}]"} {
		if rows, err := jsonRows(text, empty); err == nil {
			t.Errorf("%q: %d rows", text, len(rows))
		}
	}
}

// B-07: an htpasswd file.
func TestHtpasswd(t *testing.T) {
	t.Parallel()
	const want = `2 user:{id:"ann"} password_hash:"$2y$05$abc"
4 user:{id:"bob"} password_hash:"$argon2id$v=19$m=1,t=1,p=1$c2FsdA$aGFzaA"
5 BAD the hash is none of bcrypt (htpasswd -B), argon2id and PBKDF2; others are too weak to take over
6 BAD the hash is none of bcrypt (htpasswd -B), argon2id and PBKDF2; others are too weak to take over
7 BAD is not user:hash
8 BAD is not user:hash
`
	rows := htpasswdRows("# users\nann:$2y$05$abc\n\nbob:$argon2id$v=19$m=1,t=1,p=1$c2FsdA$aGFzaA\ncora:$apr1$x$y\ndan:{SHA}abc\neve\n:hash\n",
		(&adminv1.ImportedUser{}).ProtoReflect())
	if got := described(rows); got != want {
		t.Errorf("%swant\n%s", got, want)
	}
}

// Flags fill what a row leaves open, and no more.
func TestRowDefaults(t *testing.T) {
	t.Parallel()
	row := &adminv1.ImportedCredential{Credential: &adminv1.Credential{
		Roles: []string{"own"}, Constraints: &adminv1.Constraints{Methods: []string{"GET"}},
		Expiration: &adminv1.Credential_ExpireTime{},
	}}
	flags := &adminv1.ImportedCredential{Known: &adminv1.ImportedCredential_Secret{Secret: "s"}, Credential: &adminv1.Credential{
		Tenant: "acme", Roles: []string{"other"}, Constraints: &adminv1.Constraints{Methods: []string{"PUT"}, Hosts: []string{"h"}},
		Expiration: &adminv1.Credential_Ttl{},
	}}
	defaults(row.ProtoReflect(), flags.ProtoReflect())
	c := row.GetCredential()
	if c.GetTenant() != "acme" || c.GetRoles()[0] != "own" || c.GetConstraints().GetMethods()[0] != "GET" || c.GetConstraints().GetHosts()[0] != "h" || row.GetSecret() != "s" {
		t.Errorf("%v", row)
	}
	if _, ok := c.GetExpiration().(*adminv1.Credential_ExpireTime); !ok {
		t.Errorf("the end that the row had is now %v", c.GetExpiration())
	}
}

// Whatever stands in a file, nothing of it that could be a secret is repeated.
func FuzzRows(f *testing.F) {
	f.Add("hushhush | Alice | admin")
	f.Add("secret,user\nhushhush,ann")
	f.Add(`[{"secret": "hushhush", "hushhush": 1}]`)
	f.Add("ann:hushhush")
	f.Fuzz(func(t *testing.T, text string) {
		empty := (&adminv1.ImportedCredential{}).ProtoReflect()
		a, err1 := cellMessages(csvRows(text), empty)
		b, err2 := cellMessages(pipeRows(text), empty)
		c, err3 := jsonRows(text, empty)
		d := htpasswdRows(text, (&adminv1.ImportedUser{}).ProtoReflect())
		_, _, _ = err1, err2, err3
		for _, rows := range [][]importRow{a, b, c, d} {
			for _, r := range rows {
				if r.line < 1 || r.line > strings.Count(text, "\n")+1 {
					t.Errorf("line %d of %q", r.line, text)
				}
				for _, fault := range r.faults {
					if strings.Contains(fault, "hushhush") && !strings.Contains(fault, "no field") {
						t.Errorf("%q repeats a secret", fault)
					}
				}
			}
		}
	})
}
