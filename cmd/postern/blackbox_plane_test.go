package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/known/structpb"

	adminv1 "github.com/postern-auth/postern/gen/postern/admin/v1"
	posternv1 "github.com/postern-auth/postern/gen/postern/v1"
	"github.com/postern-auth/postern/policy"
)

// The tests of the credential plane run `postern serve` in processes of their own,
// which can be killed and asked for their goroutines. What they are asked for goes
// over the wires that others use: the doors, the admin API, the commands.

// replica is a server in a process of its own.
type replica struct {
	*box
	*operator
	login   string // host:port of /login
	started time.Time
	cmd     *exec.Cmd
	ended   chan struct{}
	err     error // what it ended with
}

// sqliteStore is the store of one replica.
const sqliteStore = "{ driver: sqlite }"

// testIssuer signs the tokens that these servers believe.
var testIssuer = newIssuer("https://issuer.test", "1")

// preparePlane makes a world with a store and its first admin key.
func preparePlane(t testing.TB, store string, replace ...string) world {
	t.Helper()
	w := prepare(t, "plane", append(replace, "@STORE@", store)...)
	w.write(t, "jwks.json", jwks(testIssuer))
	return w
}

// bootstrap makes the first admin key.
func (w world) bootstrap(t testing.TB) {
	t.Helper()
	w.write(t, "admin.key", postern(t, "store", "bootstrap", "-q", "-c", w.path("postern.yaml")))
}

// postern runs a command, which must succeed, and returns what it prints.
func postern(t testing.TB, args ...string) string {
	t.Helper()
	var out, complaints bytes.Buffer
	root := newRoot()
	root.SetArgs(args)
	root.SetOut(&out)
	root.SetErr(&complaints)
	if err := root.ExecuteContext(context.Background()); err != nil {
		t.Fatalf("postern %s: %v\n%s", strings.Join(args, " "), err, &complaints)
	}
	return out.String()
}

// admin runs a command of the admin API as the first admin.
func (p *replica) run(t testing.TB, args ...string) string {
	t.Helper()
	return postern(t, append(args, "--server", p.admin, "--token-file", p.path("admin.key"))...)
}

// launch runs a server until the test ends, and then looks for credentials in all
// that it said. What is different from other servers is changed before it starts.
func launch(t testing.TB, w world, changes ...func(*exec.Cmd)) *replica {
	t.Helper()
	p := &replica{box: &box{world: w, hidden: map[uint64]bool{}}, ended: make(chan struct{}), started: time.Now()}
	p.cmd = exec.Command("postern", "serve", "-c", w.path("postern.yaml"))
	p.cmd.Env = append(os.Environ(), hurry, "GOTRACEBACK=all")
	p.cmd.Stderr = &p.log
	for _, change := range changes {
		change(p.cmd)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { p.err = p.cmd.Wait(); close(p.ended) }()
	t.Cleanup(func() { p.finish(t) })
	eventually(t, "the server is ready", func() bool {
		if !p.runs() {
			t.Fatalf("the server did not start: %v\n%s", p.err, p.log.String())
		}
		return p.listening()
	})
	p.operator = p.as(t, strings.TrimSpace(w.read(t, "admin.key")))
	p.hide(strings.TrimSpace(w.read(t, "admin.key")))
	doors := dial(t, p.rpc)
	p.envoy, p.postern = authv3.NewAuthorizationClient(doors), posternv1.NewCheckServiceClient(doors)
	return p
}

func dial(t testing.TB, at string, options ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(at, append([]grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())}, options...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// listening takes the addresses from the log.
func (p *replica) listening() bool {
	for line := range strings.Lines(p.log.String()) {
		var said struct{ Msg, GRPC, Admin, HTTP, Gateway string }
		if json.Unmarshal([]byte(line), &said) == nil && said.Msg == "ready" {
			p.rpc, p.admin, p.login, p.box.gateway = said.GRPC, said.Admin, said.HTTP, said.Gateway
		}
	}
	return p.rpc != ""
}

func (p *replica) runs() bool {
	select {
	case <-p.ended:
		return false
	default:
		return true
	}
}

// stop ends the process with a signal and waits for that.
func (p *replica) stop(t testing.TB, signal os.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Error(err)
	}
	<-p.ended
}

// finish ends the process, if it has not yet ended, and searches.
func (p *replica) finish(t testing.TB) {
	if p.runs() && p.admin != "" {
		p.leaks(t, "metrics", p.scrape(t))
		if p.stop(t, syscall.SIGTERM); p.err != nil {
			t.Errorf("the server ended: %v\n%s", p.err, p.log.String())
		}
	}
	_ = p.cmd.Process.Kill()
	<-p.ended
	p.leaks(t, "log", p.log.String())
	p.leaks(t, "answers", p.answers.String())
}

// operator is somebody who calls the admin API.
type operator struct {
	credentials adminv1.CredentialServiceClient
	principals  adminv1.PrincipalServiceClient
	users       adminv1.UserServiceClient
	tenants     adminv1.TenantServiceClient
	sessions    adminv1.SessionServiceClient
	denylist    adminv1.DenylistServiceClient
	trail       adminv1.AuditServiceClient
	decisions   adminv1.DecisionServiceClient
}

// as is somebody with a key; nobody in particular without.
func (p *replica) as(t testing.TB, key string) *operator {
	t.Helper()
	conn := dial(t, p.admin, grpc.WithUnaryInterceptor(func(ctx context.Context, method string, req, res any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, options ...grpc.CallOption) error {
		if key != "" {
			ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+key)
		}
		p.withhold(proto.Clone(req.(proto.Message)))
		err := invoke(ctx, method, req, res, conn, options...)
		p.said(p.withhold(proto.Clone(res.(proto.Message))))
		if err != nil {
			p.said(status.Convert(err).Proto())
		}
		return err
	}))
	return &operator{
		adminv1.NewCredentialServiceClient(conn), adminv1.NewPrincipalServiceClient(conn), adminv1.NewUserServiceClient(conn),
		adminv1.NewTenantServiceClient(conn), adminv1.NewSessionServiceClient(conn), adminv1.NewDenylistServiceClient(conn),
		adminv1.NewAuditServiceClient(conn), adminv1.NewDecisionServiceClient(conn),
	}
}

// withhold takes the secrets out of a message, and has them looked for from now on
// in all that the server says. (A cookie holds one that stands elsewhere too.)
func (b *box) withhold(m proto.Message) proto.Message {
	m.ProtoReflect().Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.Options().(*descriptorpb.FieldOptions).GetDebugRedact():
			if f.Name() != "set_cookie" {
				b.hide(v.String())
			}
			m.ProtoReflect().Clear(f)
		case f.Message() != nil && !f.IsMap() && f.IsList():
			for i := range v.List().Len() {
				b.withhold(v.List().Get(i).Message().Interface())
			}
		case f.Message() != nil && !f.IsMap():
			b.withhold(v.Message().Interface())
		}
		return true
	})
	return m
}

// call is a method of the admin API.
type call[Req, Res any] = func(context.Context, Req, ...grpc.CallOption) (Res, error)

// does makes a call that must succeed.
func does[Req, Res any](t testing.TB, do call[Req, Res], req Req) Res {
	t.Helper()
	res, err := sighted(t, do, req)
	if err != nil {
		t.Fatalf("%T: %v", req, err)
	}
	return res
}

// refuses makes a call that must fail with a code and the reason in ErrorInfo.
func refuses[Req, Res any](t testing.TB, do call[Req, Res], req Req, code codes.Code, reason string) {
	t.Helper()
	_, err := sighted(t, do, req)
	if got := reasonOf(err); status.Code(err) != code || got != reason {
		t.Errorf("%T: %s %v, want %s %v", req, got, err, reason, code)
	}
}

// sighted calls again while the replica is blind, which it is for a moment on a busy
// machine.
func sighted[Req, Res any](t testing.TB, do call[Req, Res], req Req) (res Res, err error) {
	t.Helper()
	eventually(t, fmt.Sprintf("an answer to %T", req), func() bool {
		res, err = do(context.Background(), req)
		return status.Code(err) != codes.Unavailable
	})
	return res, err
}

func reasonOf(err error) string {
	for _, d := range status.Convert(err).Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok {
			return info.GetReason()
		}
	}
	return ""
}

// issue issues a credential, and returns its id and secret.
func (o *operator) issue(t testing.TB, c *adminv1.Credential) (id, secret string) {
	t.Helper()
	res := does(t, o.credentials.IssueCredential, &adminv1.IssueCredentialRequest{Credential: c})
	return res.GetCredential().GetId(), res.GetSecret()
}

// key issues an API key of a service.
func (o *operator) key(t testing.TB, principal string) (id, secret string) {
	t.Helper()
	return o.issue(t, &adminv1.Credential{Type: adminv1.CredentialType_CREDENTIAL_TYPE_API_KEY, PrincipalId: principal})
}

// service and user make principals.
func (o *operator) service(t testing.TB, id string, roles ...string) {
	t.Helper()
	o.principal(t, &adminv1.Principal{Id: id, Kind: aService, Roles: roles})
}

func (o *operator) user(t testing.TB, id string, roles ...string) {
	t.Helper()
	o.principal(t, &adminv1.Principal{Id: id, Kind: aUser, Roles: roles})
}

func (o *operator) principal(t testing.TB, p *adminv1.Principal) {
	t.Helper()
	does(t, o.principals.CreatePrincipal, &adminv1.CreatePrincipalRequest{Principal: p})
}

// ask asks both doors, which have to agree. It asks again where there was no time to
// look at the store: on a busy machine a replica may be blind for a moment, and
// denies then.
func (p *replica) ask(t testing.TB, q request) answer {
	t.Helper()
	var a answer
	eventually(t, "an answer to "+q.path, func() bool {
		var other answer
		a, other = p.askEnvoy(t, q), p.askPostern(t, q)
		switch {
		case a.status == http.StatusServiceUnavailable || other.status == http.StatusServiceUnavailable:
			return false
		case a.String() != other.String():
			t.Errorf("%s %s: ext_authz says %v, CheckService %v", q.method, q.path, a, other)
		}
		return true
	})
	return a
}

// expect is ask for one who knows the answer.
func (p *replica) expect(t testing.TB, q request, status int, reason string) answer {
	t.Helper()
	a := p.ask(t, q)
	if a.status != status || a.reason != reason {
		t.Errorf("%s %s: %v, want %d %s", q.method, q.path, a, status, reason)
	}
	return a
}

// becomes waits for the answer that a change brings. If it takes something away, no
// request that is made later than a second after the change was acknowledged, which
// was just now, may be allowed.
func (p *replica) becomes(t testing.TB, q request, status int, reason string) {
	t.Helper()
	p.until(t, time.Now().Add(time.Second), q, status, reason)
}

// until waits for an answer. If it is a deny, no request that is made after the bound
// may be allowed.
func (p *replica) until(t testing.TB, bound time.Time, q request, status int, reason string) {
	t.Helper()
	eventually(t, fmt.Sprintf("%s %s: %d %s", q.method, q.path, status, reason), func() bool {
		asked := time.Now()
		a := p.askEnvoy(t, q)
		if status != http.StatusOK && a.allowed() && asked.After(bound) {
			t.Fatalf("%s %s is still allowed %v after it was to end", q.method, q.path, asked.Sub(bound))
		}
		return a.status == status && a.reason == reason
	})
}

// bearing adds a credential to a request.
func (q request) bearing(key string) request {
	q.headers = append(slices.Clip(q.headers), policy.Header{Name: "x-api-key", Value: key})
	return q
}

func withKey(path, key string) request { return get(path).bearing(key) }

// acts asks whether the holder of a key may do something to a record.
func (p *replica) acts(t testing.TB, key, action, kind, id string) (a answer) {
	t.Helper()
	eventually(t, "an answer to "+action, func() bool {
		res, err := p.postern.Check(context.Background(), &posternv1.CheckRequest{
			Credential: &posternv1.Credential{Kind: &posternv1.Credential_ApiKey{ApiKey: key}},
			Target: &posternv1.Target{Kind: &posternv1.Target_Action{Action: &posternv1.ActionTarget{
				Action: action, ResourceType: kind, ResourceId: id,
			}}},
		})
		if err != nil {
			t.Fatal(err)
		}
		p.said(res)
		a = readPostern(t, res)
		return a.status != http.StatusServiceUnavailable
	})
	return a
}

// object is a value for metadata.
func object(t testing.TB, fields map[string]any) *structpb.Struct {
	t.Helper()
	s, err := structpb.NewStruct(fields)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// foreign is a secret that somebody else made.
func foreign() string { return "foreign-" + rand.Text() }

// change is the last change in the store that the replica has heard of.
func (p *replica) change(t testing.TB) int {
	t.Helper()
	return metric(t, p.scrape(t), "postern_store_change")
}

var secretForm = regexp.MustCompile(`^pst_(key|pat|ses)_[0-9A-Za-z]{12}_[0-9A-Za-z]{49}$`)
