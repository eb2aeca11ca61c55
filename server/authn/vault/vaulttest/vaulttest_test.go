package vaulttest_test

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/postern-auth/postern/server/authn/vault/vaulttest"
)

// call makes one request, and returns its status and body.
func call(t *testing.T, v *vaulttest.Vault, method, path, token, body string) (int, string) {
	t.Helper()
	request, err := http.NewRequest(method, "https://vault.test/v1/"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if namespace, rest, found := strings.Cut(path, "!"); found {
		request.URL.Path = "/v1/" + rest
		request.Header.Set("X-Vault-Namespace", namespace)
	}
	request.Header.Set("X-Vault-Token", token)
	response, err := v.Transport("10.0.0.1:1").RoundTrip(request)
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, strings.TrimSpace(string(text))
}

// V-12: the answers that make the real one hard to use right.
func TestAnswers(t *testing.T) {
	t.Parallel()
	const denied = `{"errors":["1 error occurred:\n\t* permission denied\n\n"]}`
	v := vaulttest.New(nil)
	v.CreateNamespace("team")
	root := v.CreateToken(vaulttest.Token{Policies: []string{"root"}, Forever: true})
	plain := v.CreateToken(vaulttest.Token{})
	batch := v.CreateToken(vaulttest.Token{Batch: true})
	fixed := v.CreateToken(vaulttest.Token{NotRenewable: true})
	inside := v.CreateToken(vaulttest.Token{Namespace: "team", Policies: []string{"default", "postern"}})
	disabled := v.CreateEntity(vaulttest.Entity{Disabled: true})
	about := func(token string) string { return `{"token":"` + token + `"}` }
	for name, test := range map[string]struct {
		method, path, token, body string
		status                    int
		holds                     string
	}{
		"healthy":                     {"GET", "sys/health", "", "", 200, `"sealed":false`},
		"no token":                    {"GET", "auth/token/lookup-self", "", "", 403, denied},
		"unknown token":               {"GET", "auth/token/lookup-self", "hvs.x", "", 403, denied},
		"itself":                      {"GET", "auth/token/lookup-self", plain, "", 200, `"id":"` + plain},
		"itself, in another":          {"GET", "team!auth/token/lookup-self", plain, "", 200, `"id":"` + plain},
		"another, without the right":  {"POST", "auth/token/lookup", plain, about(root), 403, denied},
		"another":                     {"POST", "auth/token/lookup", root, about(plain), 200, `"type":"service"`},
		"nobody in particular":        {"POST", "auth/token/lookup", root, `{}`, 200, `"id":"` + root},
		"an unknown one":              {"POST", "auth/token/lookup", root, about("hvs.x"), 403, `{"errors":["bad token"]}`},
		"a batch token that is none":  {"POST", "auth/token/lookup", root, about("hvb.x"), 400, `{"errors":["illegal base64`},
		"one of a namespace":          {"POST", "auth/token/lookup", root, about(inside), 200, `"namespace_path":"team/"`},
		"one from within a namespace": {"POST", "auth/token/lookup", inside, about(plain), 403, denied},
		"an unknown namespace":        {"POST", "nowhere!auth/token/lookup", root, about(plain), 404, `no handler for route`},
		"not JSON":                    {"POST", "auth/token/lookup", root, `{`, 400, `{"errors":`},
		"no such path":                {"GET", "secret/x", root, "", 404, `{"errors":[]}`},
		"renewing":                    {"POST", "auth/token/renew-self", plain, `{}`, 200, `"lease_duration":3600`},
		"renewing a batch token":      {"POST", "auth/token/renew-self", batch, `{}`, 400, `batch tokens cannot be renewed`},
		"renewing what cannot be":     {"POST", "auth/token/renew-self", fixed, `{}`, 400, `lease is not renewable`},
		"a wrong login":               {"POST", "auth/approle/login", "", `{"role_id":"x","secret_id":"y"}`, 400, `{"errors":["invalid role or secret ID"]}`},
		"an entity":                   {"GET", "identity/entity/id/" + disabled, root, "", 200, `"disabled":true`},
		"no such entity":              {"GET", "identity/entity/id/x", root, "", 404, `{"errors":[]}`},
		"of a disabled entity":        {"GET", "auth/token/lookup-self", v.CreateToken(vaulttest.Token{EntityID: disabled}), "", 403, denied},
		"from elsewhere":              {"GET", "auth/token/lookup-self", v.CreateToken(vaulttest.Token{BoundCIDRs: []string{"10.0.0.2"}}), "", 403, denied},
		"from the right place":        {"GET", "auth/token/lookup-self", v.CreateToken(vaulttest.Token{BoundCIDRs: []string{"10.0.0.0/24"}}), "", 200, `"bound_cidrs"`},
	} {
		status, text := call(t, v, test.method, test.path, test.token, test.body)
		if status != test.status || !strings.Contains(text, test.holds) {
			t.Errorf("%s: %d %s, want %d %s", name, status, text, test.status, test.holds)
		}
	}
}

// Uses are counted down, and the last look at itself says that it was the last.
func TestUses(t *testing.T) {
	t.Parallel()
	v := vaulttest.New(nil)
	token := v.CreateToken(vaulttest.Token{NumUses: 2})
	for _, left := range []int{1, -1} {
		_, text := call(t, v, "GET", "auth/token/lookup-self", token, "")
		var said struct {
			Data struct {
				NumUses int `json:"num_uses"`
			}
		}
		if err := json.Unmarshal([]byte(text), &said); err != nil || said.Data.NumUses != left {
			t.Errorf("num_uses %d, %v, want %d", said.Data.NumUses, err, left)
		}
	}
	if status, _ := call(t, v, "GET", "auth/token/lookup-self", token, ""); status != 403 {
		t.Errorf("after its last use: %d", status)
	}
}

func TestNodes(t *testing.T) {
	t.Parallel()
	v := vaulttest.New(nil)
	token := v.CreateToken(vaulttest.Token{})
	v.Standby(429)
	if status, _ := call(t, v, "GET", "sys/health", "", ""); status != 429 {
		t.Errorf("health of a standby: %d", status)
	}
	if status, _ := call(t, v, "GET", "auth/token/lookup-self", token, ""); status != 307 {
		t.Errorf("a standby: %d", status)
	}
	v.Standby(0)
	v.Seal(true)
	if status, _ := call(t, v, "GET", "sys/health", "", ""); status != 503 {
		t.Errorf("health of a sealed one: %d", status)
	}
	if status, text := call(t, v, "GET", "auth/token/lookup-self", token, ""); status != 503 || text != `{"errors":["Vault is sealed"]}` {
		t.Errorf("a sealed one: %d %s", status, text)
	}
}

// A secret id of limited uses, and tokens that end.
func TestLimits(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	v := vaulttest.New(func() time.Time { return now })
	role := v.EnableAppRole("approle", vaulttest.AppRole{SecretIDUses: 2, Token: vaulttest.Token{TTL: time.Minute, MaxTTL: 90 * time.Second}})
	body := `{"role_id":"` + role.RoleID + `","secret_id":"` + role.SecretID + `"}`
	var said struct{ Auth struct{ Client_Token string } }
	for i, want := range []int{200, 200, 400} {
		status, text := call(t, v, "POST", "auth/approle/login", "", body)
		if status != want {
			t.Errorf("login %d: %d", i, status)
		}
		if status == 200 {
			if err := json.Unmarshal([]byte(text), &said); err != nil {
				t.Fatal(err)
			}
		}
	}
	token := said.Auth.Client_Token
	now = now.Add(50 * time.Second)
	if _, text := call(t, v, "POST", "auth/token/renew-self", token, "{}"); !strings.Contains(text, `"lease_duration":40`) {
		t.Errorf("renewed beyond its max_ttl: %s", text)
	}
	now = now.Add(40 * time.Second)
	if status, _ := call(t, v, "GET", "auth/token/lookup-self", token, ""); status != 403 {
		t.Errorf("after its end: %d", status)
	}
}
