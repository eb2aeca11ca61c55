package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"

	posternv1 "github.com/postern-auth/postern/gen/postern/v1"
	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server"
	"github.com/postern-auth/postern/server/authn/apikey"
	"github.com/postern-auth/postern/server/seal"
)

// The black-box tests start real servers and talk to them over loopback, as
// gateways and services do. A world is a directory with everything that a server
// reads, made from testdata/blackbox; a box is a server that runs in one.
//
// Two promises are kept by every one of these tests: both doors answer the same
// (box.ask), and no credential shows up in a log, a metric or an answer (T-08 and
// G-11, box.hide).

// world is the directory of a configuration.
type world string

// prepare copies testdata/blackbox/NAME. Pairs of strings are replaced in all of
// its files: @JWKS@, for example, by an address that is known only now.
func prepare(t testing.TB, name string, replace ...string) world {
	t.Helper()
	w := world(t.TempDir())
	if err := os.CopyFS(string(w), os.DirFS(filepath.Join("testdata", "blackbox", name))); err != nil {
		t.Fatal(err)
	}
	err := filepath.WalkDir(string(w), func(name string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		return os.WriteFile(name, []byte(strings.NewReplacer(replace...).Replace(string(text))), 0o600)
	})
	if err != nil {
		t.Fatal(err)
	}
	w.write(t, "pepper", hex.EncodeToString([]byte("not a secret: it is in the tests")))
	return w
}

func (w world) path(name string) string { return filepath.Join(string(w), filepath.FromSlash(name)) }

// write replaces a file by renaming, so that a server never reads half of it.
func (w world) write(t testing.TB, name, text string) {
	t.Helper()
	aside := filepath.Join(t.TempDir(), "aside")
	if err := os.WriteFile(aside, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(w.path(name)), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(aside, w.path(name)); err != nil {
		t.Fatal(err)
	}
}

func (w world) read(t testing.TB, name string) string {
	t.Helper()
	text, err := os.ReadFile(w.path(name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// shared has several servers run in the world: without a store, as one of SQLite is one
// server's.
func (w world) shared(t testing.TB) {
	t.Helper()
	w.write(t, "postern.yaml", w.read(t, "postern.yaml")+"store: {driver: none}\n")
}

// mint adds a key to keys.yaml as `postern key mint --add` does, and returns it.
// Changes are to what the file says of it.
func (w world) mint(t testing.TB, o order, changes ...func(*apikey.Key)) string {
	t.Helper()
	o.pepperFile, o.kind = w.path("pepper"), cmp.Or(o.kind, string(seal.KindKey))
	o.principalKind, o.expiresIn = cmp.Or(o.principalKind, string(policy.KindUser)), cmp.Or(o.expiresIn, time.Hour)
	secret, key, err := o.mint(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	for _, change := range changes {
		change(&key)
	}
	if err := addEntry(w.path("keys.yaml"), key.Entry()); err != nil {
		t.Fatal(err)
	}
	return secret.Reveal()
}

// box is a server that runs.
type box struct {
	world
	envoy   authv3.AuthorizationClient
	postern posternv1.CheckServiceClient
	rpc     string // host:port of the doors
	admin   string // and of the admin listener
	gateway string // and of the doors that speak HTTP, if they are open
	log     journal

	mu      sync.Mutex
	hidden  map[uint64]bool // what no output may hold: every 8 bytes of a credential
	answers bytes.Buffer    // all that the doors said
}

// start runs a server in the world until the test ends, and then looks for
// credentials in all that it said. Options say how to connect to its doors.
func start(t testing.TB, w world, options ...grpc.DialOption) *box {
	t.Helper()
	b := &box{world: w, hidden: map[uint64]bool{}}
	ctx, stop := context.WithCancel(context.Background())
	ready := make(chan server.Addresses, 1)
	s, err := server.New(ctx, server.Options{
		Load:       func() (*server.Config, error) { return server.LoadConfig(w.path("postern.yaml")) },
		ConfigPath: w.path("postern.yaml"),
		Logger:     slog.New(slog.NewJSONHandler(&b.log, nil)),
		OnReady:    func(a server.Addresses) { ready <- a },
	})
	if err != nil {
		stop()
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	var at server.Addresses
	select {
	case at = <-ready:
	case err := <-ended:
		stop()
		t.Fatal("the server did not start: ", err)
	}
	conn, err := grpc.NewClient(at.GRPC.String(), append([]grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())}, options...)...)
	if err != nil {
		stop()
		t.Fatal(err)
	}
	b.envoy, b.postern = authv3.NewAuthorizationClient(conn), posternv1.NewCheckServiceClient(conn)
	b.rpc, b.admin = at.GRPC.String(), at.Admin.String()
	if at.Gateway != nil {
		b.gateway = at.Gateway.String()
	}
	t.Cleanup(func() {
		metrics := b.scrape(t)
		_ = conn.Close()
		stop()
		if err := <-ended; err != nil {
			t.Error("the server ended: ", err)
		}
		if err := s.Close(); err != nil {
			t.Error("the server did not close: ", err)
		}
		b.leaks(t, "log", b.log.String())
		b.leaks(t, "metrics", metrics)
		b.leaks(t, "answers", b.answers.String())
		for line := range strings.Lines(b.log.String()) {
			if strings.Contains(line, "panic") {
				t.Error("the log speaks of a panic: ", line)
				break
			}
		}
	})
	return b
}

// hide says that no part of these credentials may show up anywhere. What stands
// before the secret of a key of ours is its public id.
func (b *box) hide(credentials ...string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, c := range credentials {
		if strings.HasPrefix(c, "pst_") {
			c = c[strings.LastIndexByte(c, '_')+1:]
		}
		for i := 0; i+8 <= len(c); i++ {
			b.hidden[binary.LittleEndian.Uint64([]byte(c[i:i+8]))] = true
		}
	}
}

func (b *box) leaks(t testing.TB, where, text string) {
	t.Helper()
	raw := []byte(text)
	for i := 0; i+8 <= len(raw); i++ {
		if b.hidden[binary.LittleEndian.Uint64(raw[i:])] {
			t.Errorf("%s: a part of a credential: …%q…", where, raw[max(0, i-80):min(len(raw), i+40)])
			return
		}
	}
}

// said keeps an answer for the search at the end.
func (b *box) said(m proto.Message) {
	raw, _ := proto.Marshal(m)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.answers.Write(raw)
}

// fetch asks the admin listener.
func (b *box) fetch(t testing.TB, path string) (status int, body string) {
	t.Helper()
	res, err := http.Get("http://" + b.admin + path)
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

func (b *box) scrape(t testing.TB) string {
	_, text := b.fetch(t, "/metrics")
	return text
}

// metric is the value of a counter or gauge in the text of /metrics.
func metric(t testing.TB, text, name string) int {
	t.Helper()
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			n, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			if err != nil {
				t.Fatal(err)
			}
			return int(n)
		}
	}
	t.Fatalf("no metric %s", name)
	return 0
}

// request is what a client sent, as a gateway saw it.
type request struct {
	method, scheme, host, path, source string
	headers                            policy.Headers
	body                               string
}

// get asks for a path of api.test over https. Headers are names and values in
// turn; what else differs is set on the result.
func get(path string, headers ...string) request {
	q := request{method: "GET", scheme: "https", host: "api.test", path: path, source: "192.0.2.5"}
	for i := 0; i < len(headers); i += 2 {
		q.headers = append(q.headers, policy.Header{Name: headers[i], Value: headers[i+1]})
	}
	return q
}

func (q request) with(method string) request { q.method = method; return q }

// posting is the request with a body.
func (q request) posting(body string) request { q.method, q.body = "POST", body; return q }

func bearer(token string) []string { return []string{"authorization", "Bearer " + token} }

// answer is what a door said, in words that both have.
type answer struct {
	status                                int // HTTP; 200 is an allow
	reason, id, revision                  string
	principal, issuer, method, credential string
	body                                  string
	headers                               policy.Headers // for the client
	set                                   policy.Headers // for the upstream
	removed, unquery                      []string
	missingScopes, missingPermissions     []string
	code                                  codes.Code // ext_authz only
	faulted                               bool       // ext_authz only: an error_response
	rule                                  string     // CheckService only: file:line
}

func (a answer) allowed() bool { return a.status == http.StatusOK }

func (a answer) String() string {
	return fmt.Sprintf("%d %s %s|%s", a.status, a.reason, a.issuer, a.principal)
}

// header returns the fields of a name, joined.
func (a answer) header(name string) string { return joined(a.headers, name) }

func (a answer) upstream(name string) string { return joined(a.set, name) }

func joined(h policy.Headers, name string) string {
	var all []string
	for _, f := range h {
		if f.Name == name {
			all = append(all, f.Value)
		}
	}
	return strings.Join(all, " | ")
}

// ask asks both doors, which have to agree, and returns what Envoy is told.
func (b *box) ask(t testing.TB, q request) answer {
	t.Helper()
	a, other := b.askEnvoy(t, q), b.askPostern(t, q)
	if a.String() != other.String() {
		t.Errorf("%s %s: ext_authz says %v, CheckService %v", q.method, q.path, a, other)
	}
	a.rule, a.missingScopes, a.missingPermissions = other.rule, other.missingScopes, other.missingPermissions
	return a
}

// expect is ask for one who knows the answer.
func (b *box) expect(t testing.TB, q request, status int, reason string) answer {
	t.Helper()
	a := b.ask(t, q)
	if a.status != status || a.reason != reason {
		t.Errorf("%s %s://%s%s: %v, want %d %s", q.method, q.scheme, q.host, q.path, a, status, reason)
	}
	return a
}

// forEnvoy is the request as Envoy tells it. Header fields go into the map, as by
// default, or into the list if there are several of one name.
func (q request) forEnvoy() *authv3.CheckRequest {
	h := &authv3.AttributeContext_HttpRequest{Id: "1", Method: q.method, Scheme: q.scheme, Host: q.host, Path: q.path, Protocol: "HTTP/2", Headers: map[string]string{}}
	fields := append(policy.Headers{{Name: ":method", Value: q.method}, {Name: ":scheme", Value: q.scheme}, {Name: ":authority", Value: q.host}, {Name: ":path", Value: q.path}}, q.headers...)
	list := &corev3.HeaderMap{}
	for _, f := range fields {
		h.Headers[f.Name] = f.Value
		list.Headers = append(list.Headers, &corev3.HeaderValue{Key: f.Name, RawValue: []byte(f.Value)})
	}
	if len(h.Headers) < len(fields) {
		h.Headers, h.HeaderMap = nil, list
	}
	h.RawBody = []byte(q.body)
	return &authv3.CheckRequest{Attributes: &authv3.AttributeContext{
		Source:  &authv3.AttributeContext_Peer{Address: socket(q.source)},
		Request: &authv3.AttributeContext_Request{Http: h},
	}}
}

// forPostern is the request in Postern's own words.
func (q request) forPostern() *posternv1.Target {
	h := &posternv1.HttpTarget{Method: q.method, Scheme: q.scheme, Host: q.host, Path: q.path, SourceIp: q.source, Body: []byte(q.body)}
	for _, f := range q.headers {
		h.Headers = append(h.Headers, &posternv1.HeaderField{Name: f.Name, Value: f.Value})
	}
	return &posternv1.Target{Kind: &posternv1.Target_Http{Http: h}}
}

// askEnvoy asks ext_authz.
func (b *box) askEnvoy(t testing.TB, q request) answer {
	t.Helper()
	return b.askRaw(t, q.forEnvoy())
}

func socket(ip string) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address: ip, PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: 40000},
	}}}
}

// askRaw asks ext_authz. A gRPC error is never right: a gateway that fails open
// would let the request through.
func (b *box) askRaw(t testing.TB, req *authv3.CheckRequest) answer {
	t.Helper()
	res, err := b.envoy.Check(context.Background(), req)
	if err != nil {
		t.Errorf("a gRPC error: %v", err)
		return answer{}
	}
	b.said(res)
	a, problem := readEnvoy(res)
	if problem != "" {
		t.Errorf("a gateway would not take this answer: %s: %v", problem, res)
	}
	return a
}

// readEnvoy reads an answer as Envoy does, and says what Envoy would not like.
func readEnvoy(res *authv3.CheckResponse) (a answer, problem string) {
	a.code = codes.Code(res.GetStatus().GetCode())
	said := res.GetDynamicMetadata().GetFields()["postern"].GetStructValue().GetFields()
	a.reason, a.id, a.revision = said["reason"].GetStringValue(), said["decision_id"].GetStringValue(), said["policy_revision"].GetStringValue()
	who := said["principal"].GetStructValue().GetFields()
	a.principal, a.issuer, a.method, a.credential = who["id"].GetStringValue(), who["issuer"].GetStringValue(), who["method"].GetStringValue(), who["credential_id"].GetStringValue()
	denied := res.GetDeniedResponse()
	if e := res.GetErrorResponse(); e != nil {
		denied, a.faulted = e, true
	}
	ok := res.GetOkResponse()
	if (a.code == codes.OK) != (ok != nil) || (ok == nil) == (denied == nil) {
		return a, "the status and the response differ"
	}
	if denied != nil {
		a.status, a.body = int(denied.GetStatus().GetCode()), denied.GetBody()
		for _, h := range denied.GetHeaders() {
			a.headers = append(a.headers, policy.Header{Name: h.GetHeader().GetKey(), Value: h.GetHeader().GetValue()})
		}
		if a.status < 400 || a.status > 599 {
			problem = "a deny without the status of one"
		}
		return a, problem
	}
	a.status, a.removed, a.unquery = http.StatusOK, ok.GetHeadersToRemove(), ok.GetQueryParametersToRemove()
	for _, h := range ok.GetHeaders() {
		name := h.GetHeader().GetKey()
		if h.GetAppendAction() != corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD {
			problem = name + " does not replace the client's"
		}
		if slices.Contains(a.removed, name) {
			problem = name + " is set and removed"
		}
		a.set = append(a.set, policy.Header{Name: name, Value: h.GetHeader().GetValue()})
	}
	return a, problem
}

// askPostern asks CheckService, with the credential among the headers.
func (b *box) askPostern(t testing.TB, q request) answer {
	t.Helper()
	return b.askCheck(t, q, nil)
}

// askCheck asks CheckService, with a credential apart from the headers.
func (b *box) askCheck(t testing.TB, q request, c *posternv1.Credential) answer {
	t.Helper()
	res, err := b.postern.Check(context.Background(), &posternv1.CheckRequest{Credential: c, Target: q.forPostern()})
	if err != nil {
		t.Errorf("a gRPC error: %v", err)
		return answer{}
	}
	b.said(res)
	return readPostern(t, res)
}

func readPostern(t testing.TB, res *posternv1.CheckResponse) answer {
	t.Helper()
	d, p := res.GetDecision(), res.GetPrincipal()
	a := answer{
		status: int(d.GetHttpStatus()), reason: strings.ToLower(strings.TrimPrefix(d.GetReason().String(), "REASON_")),
		id: d.GetDecisionId(), revision: d.GetPolicyRevision(), body: d.GetMessage(),
		principal: p.GetId(), issuer: p.GetIssuer(), method: p.GetMethod(), credential: p.GetCredentialId(),
		removed: d.GetHeadersToRemove(), missingScopes: d.GetMissingScopes(), missingPermissions: d.GetMissingPermissions(),
	}
	if d.GetAllowed() != a.allowed() {
		t.Errorf("allowed and http_status differ: %v", d)
	}
	if r := d.GetRule(); r != nil {
		a.rule = fmt.Sprintf("%s:%d", r.GetFile(), r.GetLine())
	}
	for _, f := range d.GetUpstreamHeaders() {
		a.set = append(a.set, policy.Header{Name: f.GetName(), Value: f.GetValue()})
	}
	for _, f := range d.GetResponseHeaders() {
		a.headers = append(a.headers, policy.Header{Name: f.GetName(), Value: f.GetValue()})
	}
	return a
}

// journal is a log in memory, a JSON object a line.
type journal struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(p)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.String()
}

// entries are the lines with a message, and the raw line of each as "".
func (j *journal) entries(t testing.TB, message string) []map[string]any {
	t.Helper()
	var all []map[string]any
	for line := range strings.Lines(j.String()) {
		if !strings.HasSuffix(line, "\n") { // the rest of it is still in the pipe
			break
		}
		var e map[string]any
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("a line of the log is no JSON: %q: %v", line, err)
		}
		if e["msg"] == message {
			e[""] = line
			all = append(all, e)
		}
	}
	return all
}

// eventually waits until something is true. It fails after a time that is far
// longer than any test takes.
func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("never: ", what)
		}
	}
}

// tally counts vectors by class for `go test -v`.
type tally map[string]*[2]int

func (c tally) count(class string, passed bool) {
	if c[class] == nil {
		c[class] = new([2]int)
	}
	if passed {
		c[class][0]++
	} else {
		c[class][1]++
	}
}

func (c tally) print(t testing.TB) {
	t.Helper()
	var lines strings.Builder
	passed, failed := 0, 0
	for _, class := range slices.Sorted(maps.Keys(c)) {
		fmt.Fprintf(&lines, "\n%-28s %4d passed %3d failed", class, c[class][0], c[class][1])
		passed, failed = passed+c[class][0], failed+c[class][1]
	}
	t.Logf("%d passed, %d failed%s", passed, failed, lines.String())
}

// loads says why a server does not start in the world.
func loads(w world) error {
	s, err := server.New(context.Background(), server.Options{Load: func() (*server.Config, error) { return server.LoadConfig(w.path("postern.yaml")) }})
	if err != nil {
		return err
	}
	return s.Close()
}
