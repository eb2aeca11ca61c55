package vault_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn/vault"
	"github.com/postern-auth/postern/server/authn/vault/vaulttest"
)

const question = "hvs.CAESIquestionquestionquestion"

// said is what Vault says of the token in question, all of it good.
func said() map[string]any {
	return map[string]any{
		"id": question, "accessor": "8609694acdbcdb9bd345e782", "policies": []any{"default"}, "path": "auth/approle/login",
		"meta": map[string]any{"role_name": "orders"}, "display_name": "approle", "num_uses": 0, "orphan": true,
		"creation_time": 1772366400, "creation_ttl": 3600, "expire_time": "2026-03-01T13:00:00.466476215Z", "ttl": 3600,
		"explicit_max_ttl": 0, "entity_id": "7d2e3179-f69b-450c-7179-ac8ee8bd8ca9", "type": "service", "renewable": true,
		"identity_policies": []any{"staff"}, "bound_cidrs": []any{"10.0.0.0/8"}, "namespace_path": "",
	}
}

func body(data map[string]any) string {
	text, err := json.Marshal(map[string]any{"request_id": "1", "data": data, "wrap_info": nil, "auth": nil, "warnings": []string{"beware"}})
	if err != nil {
		panic(err)
	}
	return string(text)
}

// with changes one member.
func with(name string, value any) string {
	data := said()
	if data[name] = value; value == nil {
		delete(data, name)
	}
	return body(data)
}

// null is JSON's.
var null = json.RawMessage("null")

// saying makes a Vault give a status and a body to each question about a token.
func saying(v *vaulttest.Vault, status int, text string) {
	v.Answer(func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, "/auth/token/lookup") {
			return false
		}
		w.WriteHeader(status)
		_, _ = w.Write([]byte(text))
		return true
	})
}

// An answer is read in one way or not at all.
func TestAnswers(t *testing.T) {
	t.Parallel()
	huge := said()
	huge["meta"] = map[string]any{"note": strings.Repeat("x", 64<<10)}
	many := said()
	many["meta"] = map[string]any{}
	for i := range 300 {
		many["meta"].(map[string]any)[fmt.Sprint("key", i)] = "x"
	}
	extra := said()
	maps.Copy(extra, map[string]any{"period": 60, "role": "x", "external_namespace_policies": map[string]any{"abc": []any{"x"}}, "new": []any{map[string]any{}}})
	for name, test := range map[string]struct {
		body string
		good bool
	}{
		"as Vault says it":                   {body(said()), true},
		"with members that are not known":    {body(extra), true},
		"no entity":                          {with("entity_id", ""), true},
		"no metadata":                        {with("meta", null), true},
		"no policies":                        {with("policies", null), true},
		"no networks":                        {with("bound_cidrs", null), true},
		"no type, as before 1.0":             {with("type", nil), true},
		"another token":                      {with("id", "hvs.CAESIagentagentagentagent"), false},
		"no token":                           {with("id", nil), false},
		"an empty token":                     {with("id", ""), false},
		"accessor that is a number":          {with("accessor", 7), false},
		"no accessor":                        {with("accessor", nil), false},
		"policies that are a string":         {with("policies", "root"), false},
		"policies that hold a number":        {with("policies", []any{1}), false},
		"identity policies that are no list": {with("identity_policies", map[string]any{}), false},
		"metadata that is a list":            {with("meta", []any{}), false},
		"metadata that holds an object":      {with("meta", map[string]any{"a": map[string]any{}}), false},
		"no num_uses":                        {with("num_uses", nil), false},
		"num_uses with a fraction":           {with("num_uses", 0.5), false},
		"num_uses that is a string":          {with("num_uses", "0"), false},
		"num_uses beyond all bounds":         {with("num_uses", json.RawMessage("99999999999999999999")), false},
		"no ttl":                             {with("ttl", nil), false},
		"ttl that is a string":               {with("ttl", "1h"), false},
		"no end, yet a ttl":                  {with("expire_time", null), false},
		"an end that is no time":             {with("expire_time", "tomorrow"), false},
		"an end that is a number":            {with("expire_time", 1772370000), false},
		"no creation_time":                   {with("creation_time", nil), false},
		"unknown type":                       {with("type", "session"), false},
		"entity that leads elsewhere":        {with("entity_id", "../../sys/mounts"), false},
		"namespace that is a number":         {with("namespace_path", 1), false},
		"too long":                           {body(huge), false},
		"too many members":                   {body(many), false},
		"not JSON":                           {"<html>sign in</html>", false},
		"nothing":                            {"", false},
		"a list":                             {"[]", false},
		"null":                               {"null", false},
		"no data":                            {`{"data": null}`, false},
		"wrapped":                            {strings.Replace(body(said()), `"wrap_info":null`, `"wrap_info":{"token":"s.x"}`, 1), false},
		"a member twice":                     {strings.Replace(body(said()), `"num_uses":0`, `"num_uses":0,"num_uses":-1`, 1), false},
		"data twice":                         {strings.Replace(body(said()), `"data":{`, `"data":{},"data":{`, 1), false},
		"something behind it":                {body(said()) + "{}", false},
		"deep":                               {with("new", json.RawMessage(strings.Repeat("[", 100)+strings.Repeat("]", 100))), false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, mode := range []set{func(*vault.Config) {}, self} {
				s := newScene(t, mode)
				waitForLogin(t, s)
				saying(s.vault, http.StatusOK, test.body)
				proof, err := ask(s, question)
				if !test.good {
					wantFault(t, err, false)
					if err != nil && strings.Contains(err.Error(), question[8:]) {
						t.Errorf("%v shows the token", err)
					}
					continue
				}
				if err != nil {
					t.Fatal(err)
				}
				if p := proof.Principal; p.CredentialID != "8609694acdbcdb9bd345e782" || p.IssuedAt.Year() != 2026 {
					t.Errorf("principal %+v", p)
				}
			}
		})
	}
}

// waitForLogin lets the login be done before the answers change.
func waitForLogin(t *testing.T, s *scene) {
	t.Helper()
	mustProve(t, s, s.vault.CreateToken(vaulttest.Token{}))
}

// Only one error is an answer about the token. INTROSPECT-07: 403.
func TestErrors(t *testing.T) {
	t.Parallel()
	refused := policy.ReasonCredentialUnknown
	for name, test := range map[string]struct {
		status       int
		body         string
		lookup, self policy.Reason // unspecified: a fault
	}{
		"bad token":              {403, `{"errors":["bad token"]}`, refused, refused},
		"permission denied":      {403, `{"errors":["1 error occurred:\n\t* permission denied\n\n"]}`, 0, refused},
		"both":                   {403, `{"errors":["permission denied","bad token"]}`, 0, refused},
		"bad token, quoted":      {403, `{"errors":["not a bad token"]}`, 0, refused},
		"403 without errors":     {403, `{"errors":[]}`, 0, 0},
		"403 of a proxy":         {403, `<html>forbidden</html>`, 0, 0},
		"403 with other JSON":    {403, `{"error":"forbidden"}`, 0, 0},
		"403 with an odd error":  {403, `{"errors":[{"bad token":1}]}`, 0, 0},
		"403 with errors twice":  {403, `{"errors":["x"],"errors":["bad token"]}`, 0, 0},
		"bad token that is 400":  {400, `{"errors":["bad token"]}`, 0, 0},
		"bad token that is 404":  {404, `{"errors":["bad token"]}`, 0, 0},
		"no such path":           {404, `{"errors":[]}`, 0, 0},
		"unauthorized":           {401, `{"errors":["bad token"]}`, 0, 0},
		"no content":             {204, ``, 0, 0},
		"accepted":               {202, body(said()), 0, 0},
		"storage fault as a 400": {400, `{"errors":["failed to read entry: context deadline exceeded"]}`, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for want, mode := range map[*policy.Reason]set{&test.lookup: func(*vault.Config) {}, &test.self: self} {
				s := newScene(t, mode)
				waitForLogin(t, s)
				saying(s.vault, test.status, test.body)
				_, err := ask(s, question)
				if *want == policy.ReasonUnspecified {
					wantFault(t, err, false)
				} else {
					wantRefusal(t, err, *want)
				}
			}
		})
	}
}

// A lying Vault does no more than deny: times beyond all bounds neither wrap round nor
// panic.
func TestTimes(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		name  string
		value any
		want  policy.Reason
	}{
		"ended":             {"ttl", 0, policy.ReasonExpired},
		"ended long ago":    {"ttl", json.RawMessage("-9223372036854775808"), policy.ReasonExpired},
		"nearly for ever":   {"ttl", json.RawMessage("9223372036854775807"), policy.ReasonAllowed},
		"made at no time":   {"creation_time", 0, policy.ReasonAllowed},
		"made before 1970":  {"creation_time", -1, policy.ReasonAllowed},
		"made in a far age": {"creation_time", json.RawMessage("9223372036854775807"), policy.ReasonAllowed},
	} {
		s := newScene(t)
		waitForLogin(t, s)
		saying(s.vault, http.StatusOK, with(test.name, test.value))
		proof, err := ask(s, question)
		if test.want != policy.ReasonAllowed {
			wantRefusal(t, err, test.want)
			continue
		}
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if !proof.NotAfter.After(s.clock.Now()) || proof.NotAfter.Sub(s.clock.Now()) > 101*365*24*time.Hour || proof.Principal.IssuedAt.Year() > 9999 {
			t.Errorf("%s: from %s to %s", name, proof.Principal.IssuedAt, proof.NotAfter)
		}
	}
}
