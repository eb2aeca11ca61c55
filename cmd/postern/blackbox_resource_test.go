package main

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	adminv1 "github.com/postern-auth/postern/gen/postern/admin/v1"
	posternv1 "github.com/postern-auth/postern/gen/postern/v1"
	"github.com/postern-auth/postern/server"
	"github.com/postern-auth/postern/server/vectortest"
)

// What strangers may cost: CPU, memory, goroutines, series of metrics, lines of logs.
// The bounds that are looked at here are counts, which no busy machine changes; times
// under floods of full size are those of `go run ./bench/faults`.

// RESOURCE-02: hashes that would take for ever are refused where they are imported, with
// the row and without the hash, and nothing was computed.
func TestResourceHostileHashes(t *testing.T) {
	t.Parallel()
	p := launchPlane(t)
	const salt, sum = "c29tZXNhbHRzb21lc2FsdA", "MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTI"
	blow := strings.Repeat("a", 53)
	for i, hash := range []string{
		"$2b$31$" + blow, "$2b$16$" + blow, "$2b$99$" + blow, "$2b$2147483648$" + blow,
		"$argon2id$v=19$m=4194304,t=1,p=1$" + salt + "$" + sum,
		"$argon2id$v=19$m=262145,t=1,p=1$" + salt + "$" + sum,
		"$argon2id$v=19$m=8,t=11,p=1$" + salt + "$" + sum,
		"$argon2id$v=19$m=19456,t=4294967295,p=1$" + salt + "$" + sum,
		"$argon2id$v=19$m=19456,t=2,p=255$" + salt + "$" + sum,
		"$argon2id$v=19$m=18446744073709551616,t=2,p=1$" + salt + "$" + sum,
		"$pbkdf2-sha256$i=4000000000$" + salt + "$" + sum,
	} {
		name := fmt.Sprintf("user%d", i)
		p.write(t, "users.jsonl", fmt.Sprintf(`{"user": {"id": %q, "roles": ["user"]}, "password_hash": %q}`+"\n", name, hash))
		out, err := exec.Command("postern", "user", "import", p.path("users.jsonl"), "--server", p.admin, "--token-file", p.path("admin.key")).CombinedOutput()
		if err == nil || !strings.Contains(string(out), "users.jsonl:1: ") || !strings.Contains(string(out), "hash") || strings.Contains(string(out), blow) || strings.Contains(string(out), sum) {
			t.Errorf("%.30s: %v %s", hash, err, out)
		}
		if _, err := p.principals.GetPrincipal(t.Context(), &adminv1.GetPrincipalRequest{Id: name}); err == nil {
			t.Errorf("%.30s was taken", hash)
		}
	}
}

// dearIssuer is an issuer whose signatures are dear to check.
type dearIssuer struct {
	url string
	key *ecdsa.PrivateKey
}

func newDearIssuer(t testing.TB, url string) dearIssuer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return dearIssuer{url, key}
}

func (c dearIssuer) jwks(t testing.TB) string {
	t.Helper()
	point, err := c.key.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	b64 := base64.RawURLEncoding.EncodeToString
	return fmt.Sprintf(`{"keys":[{"kty":"EC","crv":"P-384","alg":"ES384","use":"sig","kid":"1","x":%q,"y":%q}]}`, b64(point[1:49]), b64(point[49:]))
}

// forged is a well-formed token with a signature that is none.
func (c dearIssuer) forged(n int) string {
	signature := make([]byte, 96)
	_, _ = rand.Read(signature)
	signature[0], signature[48] = 0, 0 // below the order of the curve: it has to be computed
	now := time.Now()
	return segment(map[string]any{"alg": "ES384", "kid": "1"}) + "." +
		segment(claims{"iss": c.url, "aud": "api", "sub": fmt.Sprint("u", n), "iat": now.Unix(), "exp": now.Add(time.Hour).Unix()}) + "." +
		base64.RawURLEncoding.EncodeToString(signature)
}

// RESOURCE-03: three thousand tokens whose signatures are wrong, and dear to check, from
// one source. Few of them are looked at, and the others turned away at once; those of
// other sources are proven as ever.
func TestResourceSignatureFlood(t *testing.T) {
	t.Parallel()
	dear := newDearIssuer(t, "https://dear.test")
	w := preparePlane(t, sqliteStore)
	w.write(t, "dear.json", dear.jwks(t))
	w.write(t, "postern.yaml", strings.Replace(w.read(t, "postern.yaml"), "issuers:\n",
		"issuers:\n  - { url: https://dear.test, audiences: [api], algorithms: [ES384], jwks_file: dear.json }\n", 1))
	w.bootstrap(t)
	p := launch(t, w)
	known := get("/", bearer(testIssuer.token(claims{"sub": "known"}))...)
	p.expect(t, known, 200, "allowed")

	began := time.Now()
	const tokens, senders = 3000, 8
	var checked, refused atomic.Int64
	var flood sync.WaitGroup
	for sender := range senders {
		flood.Go(func() {
			for n := sender; n < tokens; n += senders {
				q := get("/", bearer(dear.forged(n))...)
				q.source = "198.51.100.7"
				switch a := p.askEnvoy(t, q); {
				case a.status == 401 && a.reason == "signature_invalid":
					checked.Add(1)
				case a.status == 503 && a.reason == "overloaded":
					refused.Add(1)
				default:
					t.Errorf("a forged token: %v", a)
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { flood.Wait(); close(done) }()
	honest := 0
	for over := false; !over; honest++ {
		select {
		case <-done:
			over = true
		default:
		}
		p.expect(t, known, 200, "allowed")
		fresh := get("/", bearer(testIssuer.token(claims{"sub": fmt.Sprint("h", honest)}))...)
		fresh.source = "203.0.113.9"
		p.expect(t, fresh, 200, "allowed")
	}
	windows := int64(time.Since(began)/(10*time.Second)) + 1
	t.Logf("%d checked, %d turned away in %v; %d honest tokens proven meanwhile", checked.Load(), refused.Load(), time.Since(began).Round(time.Millisecond), honest)
	if checked.Load() > 2*windows*(500+senders) || refused.Load() == 0 { // as many again by what is spare
		t.Errorf("%d signatures were checked", checked.Load())
	}
	if metric(t, p.scrape(t), "postern_credential_effort_refused_total") == 0 {
		t.Error("no metric tells of it")
	}
}

// jsonText is a text of JSONTestSuite: y is JSON, n is not, i is for readers to say.
type jsonText struct {
	Name, Expect string
	B64          []byte
}

// RESOURCE-04: texts that are JSON, nearly, or not at all, as header and payload of
// tokens, as the body of a question, and as the configuration. None is taken for
// anything, and nothing panics. Nested arrays of all depths among them.
func TestResourceJSON(t *testing.T) {
	t.Parallel()
	w := preparePlane(t, "{ driver: memory }")
	w.write(t, "postern.yaml", strings.Replace(w.read(t, "postern.yaml"), `http: "127.0.0.1:0"`, `http: "127.0.0.1:0", gateway: "127.0.0.1:0"`, 1))
	b := start(t, w)
	texts := vectortest.Lines[jsonText](t, "json/JSONTestSuite.jsonl")
	deep := []byte(strings.Repeat("[", 100_000))
	texts = append(texts,
		jsonText{"100,000 arrays", "n", deep},
		jsonText{"100,000 whole arrays", "y", append(deep, strings.Repeat("]", 100_000)...)},
		jsonText{"100,000 objects", "n", []byte(strings.Repeat(`{"":`, 100_000))})
	dir := t.TempDir()
	for _, c := range texts {
		signed := func(header, payload []byte) string {
			return testIssuer.over(base64.RawURLEncoding.EncodeToString(header) + "." + base64.RawURLEncoding.EncodeToString(payload))
		}
		for what, token := range map[string]string{
			"header":  signed(c.B64, []byte(`{"iss":"https://issuer.test","aud":"api","sub":"x","exp":9999999999}`)),
			"payload": signed([]byte(`{"alg":"EdDSA","kid":"1"}`), c.B64),
		} {
			if a := b.askEnvoy(t, get("/", bearer(token)...)); a.status != 401 && a.status != 400 {
				t.Errorf("%s as %s: %v", c.Name, what, a)
			}
		}
		res, err := http.Post("http://"+b.gateway+"/postern.v1.CheckService/Check", "application/json", strings.NewReader(string(c.B64)))
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(res.Body)
		res.Body.Close()
		if strings.Contains(string(body), `"allowed":true`) || res.StatusCode >= 500 && res.StatusCode != 503 {
			t.Errorf("%s as a question: %d %s", c.Name, res.StatusCode, body)
		}
		if c.Expect == "n" && res.StatusCode == 200 {
			t.Errorf("%s is not JSON, and was taken for a question: %s", c.Name, body)
		}
		file := filepath.Join(dir, "postern.yaml")
		if err := os.WriteFile(file, c.B64, 0o600); err != nil {
			t.Fatal(err)
		}
		if cfg, err := server.LoadConfig(file); err == nil {
			t.Errorf("%s is a configuration: %+v", c.Name, cfg.Listen)
		}
	}
	t.Logf("%d texts", len(texts))
}

// over signs a text as it is.
func (i issuer) over(text string) string {
	signature, err := i.key.Sign(nil, []byte(text), crypto.Hash(0))
	if err != nil {
		panic(err)
	}
	return text + "." + base64.RawURLEncoding.EncodeToString(signature)
}

// RESOURCE-06: when everything that any corpus holds was sent as credentials and paths,
// goroutines, open files and memory are what they were when all of it had been sent once
// before.
func TestResourceBackToBase(t *testing.T) {
	t.Parallel()
	p := launchPlane(t)
	texts := everyText(t)
	base := p.use(t)
	p.sendAll(t, texts)
	p.settles(t, "once", func(now use) bool { return now.goroutines <= base.goroutines+5 && now.files <= base.files+2 })
	first := p.use(t)
	p.sendAll(t, texts)
	p.settles(t, "twice", func(now use) bool {
		return now.goroutines <= first.goroutines+5 && now.files <= first.files+2 && now.heap <= 2*first.heap+8<<20
	})
	t.Logf("%d texts: %v, then %v, then %v", len(texts), base, first, p.use(t))
}

// use is what a process uses.
type use struct{ goroutines, files, heap int }

func (p *replica) use(t testing.TB) use {
	text := p.scrape(t)
	return use{metric(t, text, "go_goroutines"), metric(t, text, "process_open_fds"), metric(t, text, "go_memstats_heap_inuse_bytes")}
}

func (p *replica) settles(t testing.TB, when string, is func(use) bool) {
	t.Helper()
	eventually(t, "what it uses settles after all was sent "+when, func() bool { return is(p.use(t)) })
}

// sendAll asks with each text in each place, over connections that end.
func (p *replica) sendAll(t testing.TB, texts []string) {
	t.Helper()
	var all sync.WaitGroup
	for sender := range 4 {
		all.Go(func() {
			conn, err := grpc.NewClient(p.rpc, grpc.WithTransportCredentials(insecure.NewCredentials()))
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			asks := posternv1.NewCheckServiceClient(conn)
			for n := sender; n < len(texts); n += 4 {
				text := texts[n]
				for _, q := range []request{
					withKey("/", text), get("/", bearer(text)...), get("/" + text), withCookie("/", text),
					get("/", "authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(text))),
				} {
					res, err := asks.Check(context.Background(), &posternv1.CheckRequest{Target: q.forPostern()})
					if err == nil && res.GetDecision().GetAllowed() && q.path != "/"+text {
						t.Errorf("allowed: %q", text)
					}
				}
			}
		})
	}
	all.Wait()
}

// everyText is all that the shared vectors hold, cut to what a header may have.
func everyText(t testing.TB) []string {
	t.Helper()
	seen := map[string]bool{}
	var texts []string
	var walk func(v any)
	walk = func(v any) {
		switch v := v.(type) {
		case string:
			v = strings.ToValidUTF8(v[:min(len(v), 16<<10)], "")
			if !seen[v] && len(texts) < 4000 {
				seen[v] = true
				texts = append(texts, v)
			}
		case []any:
			for _, v := range v {
				walk(v)
			}
		case map[string]any:
			for _, name := range slices.Sorted(maps.Keys(v)) { // the same texts each time
				walk(v[name])
			}
		}
	}
	for _, file := range vectortest.Names(t, "*/*.jsonl") {
		some := 0
		for line := range strings.Lines(string(vectortest.Read(t, file))) {
			if some++; some > 300 {
				break
			}
			var v any
			if json.Unmarshal([]byte(line), &v) == nil {
				walk(v)
			}
		}
	}
	if len(texts) < 500 {
		t.Errorf("%d texts", len(texts))
	}
	return texts
}

// RESOURCE-07: metrics know no principal, no path and no text of a stranger: their series
// stay as many as they were.
func TestResourceSeries(t *testing.T) {
	t.Parallel()
	p := launchPlane(t)
	ask := func(n int) {
		name := fmt.Sprint("x", n)
		token := testIssuer.token(claims{"sub": name, "client_id": name, "jti": name, "roles": []string{name}})
		p.askEnvoy(t, get("/"+name, bearer(token)...))
		p.askEnvoy(t, get("/nobody", bearer(token)...))
		q := withKey("/"+name+"/"+name, foreign())
		q.host, q.method, q.source = name+".test", "GET", fmt.Sprintf("10.%d.%d.1", n/250%250, n%250)
		p.askEnvoy(t, q)
	}
	for n := range 50 {
		ask(n)
	}
	series := func() int { return strings.Count(p.scrape(t), "\n") }
	before := series()
	for n := range 1500 {
		ask(50 + n)
	}
	t.Logf("%d lines of metrics, %d before", series(), before)
	if after := series(); after > before+20 || after > 2000 {
		t.Errorf("%d lines of metrics, %d before", after, before)
	}
}

// RESOURCE-08: nobody reads the log any more. Answers and revocations do not wait for it;
// what it cannot keep up with is counted; and the server can be stopped.
func TestResourceLogBlocked(t *testing.T) {
	t.Parallel()
	w := preparePlane(t, sqliteStore)
	w.bootstrap(t)
	plugged := make(chan struct{})
	p := launch(t, w, func(cmd *exec.Cmd) { plug(t, cmd, plugged) })
	p.service(t, "app")
	id, key := p.key(t, "app")
	p.becomes(t, withKey("/", key), 200, "allowed")
	close(plugged)
	dropped := func() int {
		text := p.scrape(t)
		return metric(t, text, "postern_log_dropped_total") + metric(t, text, "postern_decision_log_dropped_total")
	}
	for asked := 0; dropped() == 0; asked += 500 { // however long it takes
		if asked >= 50_000 {
			t.Fatal("nothing is dropped after so many lines")
		}
		for range 500 {
			p.askEnvoy(t, withKey("/", key))
		}
	}
	does(t, p.credentials.RevokeCredential, &adminv1.RevokeCredentialRequest{Id: id})
	p.becomes(t, withKey("/", key), 401, "revoked")
	t.Logf("%d lines dropped", dropped())
	if p.stop(t, syscall.SIGTERM); p.err == nil {
		return
	}
	// A log that is lost may be told by the exit status, and by nothing worse.
	if p.cmd.ProcessState.ExitCode() != exitFault {
		t.Errorf("the server ended: %v", p.err)
	}
}

// plug gives a server a pipe for its log, which is read until it is plugged.
func plug(t testing.TB, cmd *exec.Cmd, plugged <-chan struct{}) {
	t.Helper()
	log := cmd.Stderr
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = w
	t.Cleanup(func() { _, _ = r.Close(), w.Close() })
	go func() {
		some := make([]byte, 4096)
		for {
			select {
			case <-plugged:
				return
			default:
			}
			n, err := r.Read(some)
			if err != nil {
				return
			}
			_, _ = log.Write(some[:n])
		}
	}()
}
