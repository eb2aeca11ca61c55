package main

import (
	"bytes"
	"database/sql"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	adminv1 "github.com/postern-auth/postern/gen/postern/admin/v1"
	"github.com/postern-auth/postern/server/vectortest"
)

// The scenarios of the admin API about how it is called: as JSON, by browsers, with wrong
// credentials, twice, and for the first time.

// post sends a body to the admin listener over HTTP/1.1, with header fields in turn.
func (c *control) send(t testing.TB, method, path, host, body string, headers ...string) (status int, answer string) {
	t.Helper()
	req, err := http.NewRequest(method, "http://"+c.replica.admin+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if host != "" {
		req.Host = host
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(text)
}

const createTenant = "/postern.admin.v1.TenantService/CreateTenant"

// oddBodies are no messages: what they say is unknown, said twice, more than one thing, or
// nested without end.
func oddBodies(good, field string) map[string]string {
	deep := strings.Repeat
	return map[string]string{
		"an unknown field":        strings.Replace(good, "{", `{"isAdmin":true,`, 1),
		"an unknown field inside": strings.Replace(good, `"`+field+`":`, `"nobodyKnows":1,"`+field+`":`, 1),
		"a field twice":           strings.Replace(good, `"`+field+`":`, `"`+field+`":"first","`+field+`":`, 1),
		"another spelling":        strings.Replace(good, `"`+field+`":`, `"`+strings.ToUpper(field)+`":`, 1),
		"data behind":             good + `{}`,
		"text behind":             good + ` x`,
		"a second message behind": good + good,
		"NUL behind":              good + "\x00",
		"a comma too many":        strings.TrimSuffix(good, "}") + ",}",
		"arrays, 100,000 deep":    deep("[", 100_000),
		"objects, 100,000 deep":   deep(`{"x":`, 100_000) + "1" + deep("}", 100_000),
		"an unknown field, deep":  `{"x":` + deep("[", 100_000) + deep("]", 100_000) + `}`,
		"not UTF-8":               strings.Replace(good, `"`+field+`":"`, `"`+field+"\":\"\xff\xfe", 1),
		"half a surrogate":        strings.Replace(good, `"`+field+`":"`, `"`+field+`":"\ud800`, 1),
		"nothing":                 "",
		"an array":                "[" + good + "]",
		"a text":                  `"x"`,
		"a comment":               "// x\n" + good,
		"a byte order mark":       "\ufeff" + good,
	}
}

// ADMIN-05: JSON is read as strictly as the rest: what has two readings, or none, is
// refused, before much memory goes into it.
func TestAdminJSON(t *testing.T) {
	t.Parallel()
	c := launchControl(t)
	before := c.mark(t)
	const good = `{"tenant":{"id":"json","displayName":"x"},"validateOnly":true}`
	ask := func(body string) (int, string) {
		return c.send(t, "POST", createTenant, "", body, "content-type", "application/json", "authorization", "Bearer "+c.root)
	}
	if status, answer := ask(good); status != http.StatusOK {
		t.Fatalf("a good one: %d %s", status, answer)
	}
	allocated := metric(t, c.scrape(t), "go_memstats_alloc_bytes_total")
	bodies, sent := oddBodies(good, "id"), 0
	maps.Copy(bodies, map[string]string{
		"a field in both spellings":  `{"tenant":{"id":"x"},"validateOnly":true,"validate_only":false}`,
		"metadata, deep":             `{"credential":{"metadata":{"x":` + strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000) + `}}}`,
		"a number for a text":        `{"tenant":{"id":1}}`,
		"NaN":                        `{"tenant":{"id":"x","maxPats":NaN}}`,
		"a number that is too large": `{"tenant":{"id":"x","maxPats":1e300}}`,
		"a duration of NaN":          `{"tenant":{"id":"x","maxTtl":"NaNs"}}`,
		"a duration of 1e300":        `{"tenant":{"id":"x","maxTtl":"1e300s"}}`,
		"a duration in years":        `{"tenant":{"id":"x","maxTtl":"1y"}}`,
		"a duration that overflows":  `{"tenant":{"id":"x","maxTtl":"9223372036854775807s"}}`,
	})
	for name, body := range bodies {
		status, answer := ask(body)
		if status != http.StatusBadRequest || !strings.Contains(answer, `"invalid_argument"`) {
			t.Errorf("%s: %d %.300s", name, status, answer)
		}
		sent += len(body)
	}
	// The body itself is read once, and grows while it is; the rest has to be small.
	if allocated = metric(t, c.scrape(t), "go_memstats_alloc_bytes_total") - allocated; allocated > len(bodies)<<20+4*sent {
		t.Errorf("%d bytes were allocated for %d bodies of %d bytes", allocated, len(bodies), sent)
	}
	if status, answer := ask(`{"tenant":{"id":"` + strings.Repeat("a", 5<<20) + `"}}`); status < 400 || status >= 500 {
		t.Errorf("5 MiB: %d %.300s", status, answer)
	}
	c.unchanged(t, before)
}

// ADMIN-07: pages of strangers get nothing done: not from another origin, not by a name
// that they made to mean this listener, and not by following a link.
func TestAdminAndBrowsers(t *testing.T) {
	t.Parallel()
	c := launchControl(t)
	before := c.mark(t)
	auth := []string{"authorization", "Bearer " + c.root}
	for _, method := range changing() {
		path := "/postern.admin.v1." + method
		body, err := protojson.Marshal(newMessage(t, methodNamed(t, method).Input()))
		if err != nil {
			t.Fatal(err)
		}
		for name, try := range map[string]func() (int, string){
			"text/plain from elsewhere": func() (int, string) {
				return c.send(t, "POST", path, "", string(body), append(auth, "content-type", "text/plain", "origin", "https://evil.test")...)
			},
			"JSON from elsewhere": func() (int, string) {
				return c.send(t, "POST", path, "", string(body), append(auth, "content-type", "application/json", "origin", "https://evil.test")...)
			},
			"JSON, cross-site": func() (int, string) {
				return c.send(t, "POST", path, "", string(body), append(auth, "content-type", "application/json", "sec-fetch-site", "cross-site")...)
			},
			"JSON, same site": func() (int, string) {
				return c.send(t, "POST", path, "", string(body), append(auth, "content-type", "application/json", "sec-fetch-site", "same-site")...)
			},
			"JSON from null": func() (int, string) {
				return c.send(t, "POST", path, "", string(body), append(auth, "content-type", "application/json", "origin", "null")...)
			},
			"a form": func() (int, string) {
				return c.send(t, "POST", path, "", "x=1", append(auth, "content-type", "application/x-www-form-urlencoded")...)
			},
			"another name": func() (int, string) {
				return c.send(t, "POST", path, "evil.test", string(body), append(auth, "content-type", "application/json")...)
			},
			"another name with a port": func() (int, string) {
				return c.send(t, "POST", path, "evil.test:9192", string(body), append(auth, "content-type", "application/json", "origin", "http://evil.test:9192")...)
			},
			"a name that begins like ours": func() (int, string) {
				return c.send(t, "POST", path, "127.0.0.1.evil.test", string(body), append(auth, "content-type", "application/json")...)
			},
			"GET": func() (int, string) {
				return c.send(t, "GET", path+"?encoding=json&message=%7B%7D&connect=v1", "", "", auth...)
			},
			"HEAD": func() (int, string) { return c.send(t, "HEAD", path, "", "", auth...) },
			"PUT": func() (int, string) {
				return c.send(t, "PUT", path, "", string(body), append(auth, "content-type", "application/json")...)
			},
			"POST that says it is a GET": func() (int, string) {
				return c.send(t, "GET", path, "", string(body), append(auth, "content-type", "application/json", "x-http-method-override", "POST")...)
			},
			"a preflight": func() (int, string) {
				return c.send(t, "OPTIONS", path, "", "", "origin", "https://evil.test", "access-control-request-method", "POST")
			},
		} {
			if status, answer := try(); status < 400 || status >= 500 {
				t.Errorf("%s, %s: %d %.300s", method, name, status, answer)
			}
		}
		conn := dial(t, c.replica.admin, grpc.WithAuthority("evil.test"), withToken(c.root))
		if err := conn.Invoke(t.Context(), path, newMessage(t, methodNamed(t, method).Input()), newMessage(t, methodNamed(t, method).Output())); err == nil ||
			status.Code(err) == codes.InvalidArgument {
			t.Errorf("%s, gRPC under another name: %v", method, err)
		}
		_ = conn.Close()
	}
	for _, path := range []string{"/", "/metrics", "/readyz", "/console/"} {
		if status, answer := c.send(t, "GET", path, "evil.test", ""); status != http.StatusMisdirectedRequest {
			t.Errorf("GET %s under another name: %d %.100s", path, status, answer)
		}
	}
	c.unchanged(t, before)
}

// ADMIN-08: who shows wrong credentials over and over has to wait; the administrator who
// works from the same address does not, and neither does anybody else.
func TestWrongAdminCredentials(t *testing.T) {
	t.Parallel()
	c := launchControl(t)
	stop := make(chan struct{})
	var all sync.WaitGroup
	var mu sync.Mutex
	answers := map[string]int{}
	for i := range 4 {
		all.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", fmt.Sprintf("Bearer %s%d-%d", c.root[:len(c.root)-6], i, n))
				_, err := adminv1.NewTenantServiceClient(c.conn).ListTenants(ctx, &adminv1.ListTenantsRequest{})
				mu.Lock()
				answers[status.Code(err).String()+" "+reasonOf(err)]++
				mu.Unlock()
			}
		})
	}
	limited := func() int { mu.Lock(); defer mu.Unlock(); return answers["ResourceExhausted TOO_MANY_TRIES"] }
	eventually(t, "too many tries", func() bool { return limited() > 100 })
	for range 50 {
		does(t, c.tenants.ListTenants, &adminv1.ListTenantsRequest{})
	}
	c.mark(t)
	close(stop)
	all.Wait()
	for answer := range answers {
		if answer != "Unauthenticated UNAUTHENTICATED" && answer != "ResourceExhausted TOO_MANY_TRIES" {
			t.Errorf("%s, %d times", answer, answers[answer])
		}
	}
	t.Log(answers)
	// Who comes for the first time waits for a tenth of a second's worth of the others.
	eventually(t, "somebody new gets in", func() bool {
		_, err := c.as(t, c.rival).trail.ListAuditEntries(t.Context(), &adminv1.ListAuditEntriesRequest{})
		return err == nil
	})
	eventually(t, "the log tells of it", func() bool {
		lines := c.log.entries(t, "wrong credentials are tried at the admin API")
		return len(lines) == 1 && lines[0]["event"] == "admin_tries"
	})
}

// altered is another request for the same: it says something more.
func altered(t testing.TB, req proto.Message) proto.Message {
	t.Helper()
	other := proto.Clone(req)
	switch r := other.(type) {
	case *adminv1.IssueCredentialRequest:
		r.Credential.DisplayName = "another"
	case *adminv1.RotateCredentialRequest:
		r.Ttl = days(3)
	case *adminv1.UpdateCredentialRequest:
		r.Credential.DisplayName = "another"
	case *adminv1.UpdatePrincipalRequest:
		r.Principal.DisplayName = "another"
	case *adminv1.UpdateTenantRequest:
		r.Tenant.DisplayName = "another"
	case *adminv1.UpdateAgentRequest:
		r.Agent.Purpose = "another"
	case *adminv1.CreateTenantRequest:
		r.Tenant.DisplayName = "another"
	case *adminv1.CreatePrincipalRequest:
		r.Principal.DisplayName = "another"
	case *adminv1.CreateAgentRequest:
		r.Agent.DisplayName = "another"
	case *adminv1.AddDenialRequest:
		r.Denial.Note = "another"
	case *adminv1.IssueAgentTokenRequest:
		r.TtlMinutes = 3
	case *adminv1.ExchangeTokenRequest:
		r.TtlMinutes = 3
	case *adminv1.SetLimitRequest:
		r.Limit++
	case *adminv1.GrantConsentRequest:
		r.Consent.Evidence = "another"
	case *adminv1.RequestApprovalRequest:
		r.Reason = "another"
	default:
		f := other.ProtoReflect().Descriptor().Fields().ByName("reason")
		if f == nil {
			return nil // it names a record, and no more
		}
		other.ProtoReflect().Set(f, protoreflect.ValueOfString("another"))
	}
	return other
}

// ADMIN-09: a call that is repeated with its id has the result that it had; another call
// with the id is refused; ids of others are others; and a restart forgets nothing.
func TestRequestIDs(t *testing.T) {
	t.Parallel()
	c := launchControl(t)
	// The administrator has a second key of somebody else's, so that there is another caller.
	c.principal(t, &adminv1.Principal{Id: "second", Kind: aService, Roles: []string{"platform-admin"}})
	_, second := c.issue(t, &adminv1.Credential{Type: apiKey, PrincipalId: "second"})
	type made struct {
		method string
		req    proto.Message
		res    proto.Message
		err    error
	}
	var done []made
	for _, method := range changing() {
		f := methodNamed(t, method).Input().Fields().ByName("request_id")
		if f == nil {
			continue
		}
		m := mutations[method]
		req := m.request(t, c)
		req.ProtoReflect().Set(f, protoreflect.ValueOfString("id of "+method[strings.IndexByte(method, '/')+1:]))
		set(req, "request_id", protoreflect.ValueOfString(strings.ReplaceAll(req.ProtoReflect().Get(f).String(), " ", "-")))
		end := c.trailEnd(t)
		first, err := c.invoke(t, m.by(c), method, req)
		if err != nil {
			t.Errorf("%s: %v", method, err)
			continue
		}
		again, err := c.invoke(t, m.by(c), method, req)
		// The answer to these held a secret, of which nothing is kept.
		secret := slices.ContainsFunc([]string{"IssueCredential", "RotateCredential", "IssueAgentToken", "ExchangeToken"}, func(s string) bool { return strings.HasSuffix(method, "/"+s) })
		switch {
		case secret && (status.Code(err) != codes.AlreadyExists || reasonOf(err) != "SECRET_NOT_REPEATED"):
			t.Errorf("%s, repeated: %v", method, err)
		case !secret && (err != nil || !proto.Equal(changeOf(first), changeOf(again))):
			t.Errorf("%s, repeated: %v, %v, first %v", method, err, changeOf(again), changeOf(first))
		}
		done = append(done, made{method, req, again, err})
		if n := len(c.trailFrom(t, end)); n != 1+m.records {
			t.Errorf("%s, repeated: %d entries", method, n)
		}
		if other := altered(t, req); other != nil {
			if _, err := c.invoke(t, m.by(c), method, other); status.Code(err) != codes.InvalidArgument || reasonOf(err) != "REQUEST_ID_REUSED" {
				t.Errorf("%s, another call with the id: %v", method, err)
			}
		}
		if m.as == nil { // another caller's ids are another's
			if _, err := c.invoke(t, second, method, req); reasonOf(err) == "REQUEST_ID_REUSED" || reasonOf(err) == "SECRET_NOT_REPEATED" {
				t.Errorf("%s, the id of another caller: %v", method, err)
			}
		}
	}
	if len(done) < 20 {
		t.Errorf("only %d methods take an id", len(done))
	}
	c.restart(t)
	for _, d := range done {
		res, err := c.invoke(t, mutations[d.method].by(c), d.method, d.req)
		if status.Code(err) != status.Code(d.err) || reasonOf(err) != reasonOf(d.err) || d.err == nil && !proto.Equal(changeOf(res), changeOf(d.res)) {
			t.Errorf("%s after a restart: %v %v, before %v %v", d.method, changeOf(res), err, changeOf(d.res), d.err)
		}
	}
}

func changeOf(m proto.Message) *adminv1.Change {
	return m.(interface{ GetChange() *adminv1.Change }).GetChange()
}

// restart ends the server and starts it again.
func (c *control) restart(t testing.TB) {
	t.Helper()
	c.stop(t, syscall.SIGTERM)
	hidden := c.hidden
	c.replica = launch(t, c.world)
	c.mu.Lock()
	for part := range hidden {
		c.hidden[part] = true
	}
	c.mu.Unlock()
	c.conn = dial(t, c.replica.admin)
}

// ADMIN-06: a secret is in the answer that hands it over, and neither it nor its digest is
// in anything else that the server says.
func TestSecretsAreShownOnce(t *testing.T) {
	t.Parallel()
	c := launchControl(t)
	res := does(t, c.credentials.IssueCredential, &adminv1.IssueCredentialRequest{Credential: &adminv1.Credential{Type: apiKey, Tenant: "acme", PrincipalId: "app"}})
	id, secret := res.GetCredential().GetId(), res.GetSecret()
	rotated := does(t, c.credentials.RotateCredential, &adminv1.RotateCredentialRequest{Id: id, GracePeriod: days(1)})
	session := does(t, c.sessions.CreateSession, &adminv1.CreateSessionRequest{Session: &adminv1.Session{Tenant: "acme", PrincipalId: "ann"}}).GetCreated()
	c.agentToken(t, "researcher")
	does(t, c.users.SetPassword, &adminv1.SetPasswordRequest{Tenant: "acme", Id: "ann", Password: annsPassword, KeepSessions: true})

	// Whatever the store keeps of them is a secret of its own (launch looks for it).
	digests := c.digests(t)
	if len(digests) < 4 {
		t.Errorf("%d digests", len(digests))
	}
	c.hide(digests...)

	c.becomes(t, withKey("/", rotated.GetSecret()), 200, "allowed")
	c.expect(t, withKey("/", secret[:len(secret)-1]+"x"), 401, "credential_malformed")
	for _, as := range []string{c.root, secret} {
		for _, method := range listing() {
			_, _ = c.page(t, as, method, "", func(m protoreflect.Message) {
				m.Set(m.Descriptor().Fields().ByName("page_size"), protoreflect.ValueOfInt32(1000))
			})
		}
	}
	for method, req := range map[string]proto.Message{
		"CredentialService/GetCredential": &adminv1.GetCredentialRequest{Id: id}, "SessionService/GetSession": &adminv1.GetSessionRequest{Id: session.GetSession().GetId()},
		"PrincipalService/GetPrincipal":       &adminv1.GetPrincipalRequest{Tenant: "acme", Id: "ann"},
		"CredentialService/RevokeCredential":  &adminv1.RevokeCredentialRequest{Id: id},
		"CredentialService/GetUsage":          &adminv1.GetUsageRequest{CredentialId: id},
		"DecisionService/ListDecisions":       &adminv1.ListDecisionsRequest{PageSize: 1000},
		"CredentialService/UpdateCredential":  &adminv1.UpdateCredentialRequest{Credential: &adminv1.Credential{Id: rotated.GetCredential().GetId(), DisplayName: "x"}, UpdateMask: mask("display_name")},
		"CredentialService/DisableCredential": &adminv1.DisableCredentialRequest{Id: rotated.GetCredential().GetId()},
	} {
		c.make(t, method, req)
	}
	for _, args := range [][]string{
		{"key", "list", "--tenant", "acme"}, {"key", "get", id}, {"audit"}, {"session", "list", "--tenant", "acme"}, {"user", "get", "acme/ann"}, {"explain"},
	} {
		for _, form := range []string{"json", "yaml", "table"} {
			var out, complaints bytes.Buffer
			root := newRoot()
			root.SetArgs(append(slices.Clone(args), "--server", c.replica.admin, "--token-file", c.path("admin.key"), "-o", form))
			root.SetOut(&out)
			root.SetErr(&complaints)
			_ = root.ExecuteContext(t.Context())
			c.leaks(t, strings.Join(args, " "), out.String()+complaints.String())
		}
	}
	for _, path := range []string{"/readyz", "/metrics", "/console/", "/debug/pprof/heap", "/debug/vars"} {
		_, text := c.fetch(t, path)
		c.leaks(t, path, text)
	}
	c.stop(t, syscall.SIGQUIT) // its last words
}

// digests is what the store holds of secrets.
func (c *control) digests(t testing.TB) (all []string) {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+c.path("postern.db")+"?mode=ro&_pragma=busy_timeout(5000)")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	rows, err := db.Query(`SELECT body FROM records WHERE body IS NOT NULL`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var body []byte
		var record struct{ Digest, Password string }
		if err := rows.Scan(&body); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(body, &record); err != nil {
			continue // of another shape
		}
		for _, text := range []string{record.Digest, record.Password} {
			if i := strings.LastIndexAny(text, ":$"); i >= 0 {
				all = append(all, text[i+1:])
			}
		}
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return all
}

// ADMIN-11: before anybody has made the first administrator, nobody is one; the first key
// is shown once, and nothing that others reach is opened by itself.
func TestFirstStart(t *testing.T) {
	t.Parallel()
	w := preparePlane(t, sqliteStore)
	w.write(t, "admin.key", "pst_key_AAAAAAAAAAAA_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA0000000")
	p := launch(t, w)
	for _, key := range []string{"", "admin", "postern", "password", "bootstrap", "root", "changeme", "admin:admin", "null", strings.TrimSpace(w.read(t, "admin.key"))} {
		for _, method := range changing() {
			var headers []string
			if key != "" {
				headers = append(headers, "authorization", "Bearer "+key)
			}
			conn := dial(t, p.admin)
			ctx := metadata.AppendToOutgoingContext(t.Context(), headers...)
			err := conn.Invoke(ctx, "/postern.admin.v1."+method, newMessage(t, methodNamed(t, method).Input()), newMessage(t, methodNamed(t, method).Output()))
			if code := status.Code(err); code != codes.Unauthenticated && code != codes.ResourceExhausted && code != codes.Unimplemented {
				t.Errorf("%s by %q: %v", method, key, err)
			}
			_ = conn.Close()
		}
	}
	for _, who := range []string{"admin", "root", "postern", "bootstrap"} {
		for _, password := range []string{"", who, "admin", "password", "postern", "changeme"} {
			if v := p.post(t, "/login", map[string][]string{"username": {who}, "password": {password}}); v.status == http.StatusOK {
				t.Errorf("%s logs in with %q", who, password)
			}
		}
	}
	if strings.Contains(p.log.String(), "pst_") {
		t.Error("the log shows a secret")
	}
	key := strings.TrimSpace(postern(t, "store", "bootstrap", "-q", "-c", w.path("postern.yaml")))
	if !secretForm.MatchString(key) {
		t.Errorf("the first key is %q", key)
	}
	p.hide(key)
	root := newRoot()
	var out bytes.Buffer
	root.SetArgs([]string{"store", "bootstrap", "-q", "-c", w.path("postern.yaml")})
	root.SetOut(&out)
	root.SetErr(&out)
	if err := root.ExecuteContext(t.Context()); err == nil || secretForm.MatchString(strings.TrimSpace(out.String())) {
		t.Errorf("a second first key: %v %s", err, &out)
	}
	eventually(t, "the first key works", func() bool {
		_, err := p.as(t, key).tenants.ListTenants(t.Context(), &adminv1.ListTenantsRequest{})
		return err == nil
	})

	// Out of the box it is on this machine only, and elsewhere it wants to be guarded.
	if text := w.read(t, "postern.yaml"); !strings.Contains(text, `admin: "127.0.0.1:0"`) {
		t.Fatal(text)
	}
	for _, at := range []string{"0.0.0.0:0", "[::]:0", "192.0.2.1:9192"} {
		open := preparePlane(t, sqliteStore, `admin: "127.0.0.1:0"`, `admin: "`+at+`"`)
		if err := loads(open); err == nil || !strings.Contains(err.Error(), "admin") {
			t.Errorf("listen.admin %s with nobody to guard it: %v", at, err)
		}
	}
}

// ADMIN-12: a shared secret that can be guessed is no reason to start, and the reason that
// is given names the issuer and not the secret.
func TestWeakSharedSecrets(t *testing.T) {
	t.Parallel()
	weak := map[string]string{
		"31 bytes": "Zb8!kQ2#vN5$wX7%yA9^cD1&eF3*gH4", "one byte": strings.Repeat("a", 64), "two bytes": strings.Repeat("ab", 32), "zeros": strings.Repeat("0", 128),
		"a word": "secret", "a word, repeated": strings.Repeat("secret", 8),
	}
	known := 0
	for line := range strings.Lines(string(vectortest.Read(t, "strings/jwt.secrets.list"))) {
		line = strings.TrimRight(line, "\r\n")
		if line == "" || strings.ContainsAny(line, "\"\\\x00") {
			continue
		}
		// Some of the short ones, and some of the long ones: package jwt tries all of them.
		if known++; len(line) < 32 && known%5_000 == 0 || len(line) >= 32 && known%40 == 0 {
			weak[fmt.Sprintf("known secret %d", known)] = line
		}
	}
	if len(weak) < 40 {
		t.Errorf("only %d secrets", len(weak))
	}
	for name, secret := range weak {
		w := prepare(t, "weaksecret")
		w.write(t, "shared.secret", secret)
		err := loads(w)
		switch {
		case err == nil:
			t.Errorf("%s: the server starts", name)
		case !strings.Contains(err.Error(), "issuers[0]") && !strings.Contains(err.Error(), "https://weak.test"):
			t.Errorf("%s: the issuer is not named: %v", name, err)
		case len(secret) >= 8 && strings.Contains(err.Error(), secret):
			t.Errorf("%s: the secret is shown: %v", name, err)
		}
	}
	t.Logf("%d secrets", len(weak))
	w := prepare(t, "weaksecret")
	w.write(t, "shared.secret", "Zb8!kQ2#vN5$wX7%yA9^cD1&eF3*gH4(jK6)")
	if err := loads(w); err != nil {
		t.Errorf("a good one: %v", err)
	}
}
