package main

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	adminv1 "github.com/postern-auth/postern/gen/postern/admin/v1"
)

// agentsAdded is what the world of the credential plane gets besides: workloads of
// prod.test are agents but for its services, and Postern signs tokens.
const agentsAdded = `decisions: { log: all }
callers: [{ name: gateway, cidrs: [127.0.0.0/8], trust: [x_forwarded_client_cert] }]
signing: { issuer: "https://auth.test", keys: [{ id: one, key: "${file:one.key}" }] }
mtls:
  kind: agent
  identities: [spiffe, dns]
  bundles:
    - { name: prod, trust_domain: prod.test, file: ca/ca.pem }
    - { name: partners, file: ca/ca.pem }
  principals:
    - { match: "spiffe://prod.test/services/**", kind: service }
    - { match: "spiffe://prod.test/billing/**", kind: service, tenant: billing }
`

// prepareAgents makes a world with agents, and the CA of their workloads.
func prepareAgents(t testing.TB, store string) (world, pki) {
	t.Helper()
	w := preparePlane(t, store, "decisions: { log: all }\n", agentsAdded)
	w.write(t, "one.key", strings.Repeat("ab", 21)+"A")
	return w, newPKI(t, w.path("ca"))
}

// ended is what `postern agent decommission -o json` prints.
type ended struct {
	Agents, Principals, Credentials, Sessions, Approvals int
}

func (p *replica) decommission(t testing.TB, id string, flags ...string) (e ended) {
	t.Helper()
	text := p.run(t, append([]string{"agent", "decommission", id, "--yes", "-o", "json"}, flags...)...)
	if err := json.Unmarshal([]byte(text), &e); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	return e
}

// who is of the kind agent is one that is registered, and has what the registry says;
// who is none is not touched.
func TestAgentsAreRegistered(t *testing.T) {
	t.Parallel()
	w, ca := prepareAgents(t, sqliteStore)
	w.bootstrap(t)
	p := launch(t, w)
	svid, dns, service := ca.workload(t, "agents/researcher"), ca.issue(t, "--dns", "researcher.test"), ca.workload(t, "services/web")
	shown := func(c certificate) request { return get("/items/7", c.xfcc()...) }

	for _, c := range []certificate{svid, dns} {
		p.expect(t, shown(c), 401, "credential_unknown")
	}
	if a := p.expect(t, get("/", service.xfcc()...), 200, "allowed"); a.principal != service.spiffe {
		t.Error(a)
	}

	p.run(t, "user", "create", "carol")
	p.run(t, "agent", "create", "researcher", "--owner", "carol", "--role", "reader", "--model", "gpt-4o-mini",
		"--spiffe-id", svid.spiffe, "--certificate", dns.Certificate)
	for _, c := range []certificate{svid, dns} {
		p.becomes(t, shown(c), 200, "allowed")
		if a := p.ask(t, shown(c)); a.principal != "researcher" || a.method != "mtls" {
			t.Error(a)
		}
	}
	_, key := p.key(t, "researcher")
	p.expect(t, withKey("/items/7", key), 200, "allowed")
	p.expect(t, withKey("/items", key).with("POST"), 403, "permission_missing")
	acting := get("/", bearer(testIssuer.token(claims{"sub": "carol", "act": claims{"sub": "researcher"}}))...)
	p.expect(t, acting, 200, "allowed")

	// What the registry says counts at once.
	p.run(t, "agent", "update", "researcher", "--role", "writer")
	p.becomes(t, shown(svid), 200, "allowed")
	eventually(t, "the new role", func() bool {
		return p.askEnvoy(t, get("/items", svid.xfcc()...).with("POST")).allowed()
	})

	// An agent that is off, or whose owner is, is refused by whatever it comes.
	all := []request{shown(svid), shown(dns), withKey("/items/7", key), acting}
	for _, off := range [][2][]string{
		{{"agent", "disable", "researcher", "--reason", "odd"}, {"agent", "enable", "researcher"}},
		{{"user", "disable", "carol"}, {"user", "enable", "carol"}},
	} {
		p.run(t, off[0]...)
		bound := time.Now().Add(time.Second)
		for _, q := range all {
			p.until(t, bound, q, 401, "disabled")
		}
		p.run(t, off[1]...)
		for _, q := range all {
			p.becomes(t, q, 200, "allowed")
		}
	}

	// so is one that is decommissioned, and for good.
	if e := p.decommission(t, "researcher", "--reason", "replaced"); e.Agents != 1 || e.Credentials != 1 {
		t.Errorf("%+v", e)
	}
	bound := time.Now().Add(time.Second)
	for _, q := range all {
		p.until(t, bound, q, 401, "revoked")
	}
	time.Sleep(1100 * time.Millisecond) // iat counts whole seconds
	fresh := get("/", bearer(testIssuer.token(claims{"sub": "carol", "act": claims{"sub": "researcher"}}))...)
	p.expect(t, fresh, 401, "revoked")
	if text := p.run(t, "agent", "get", "researcher"); !strings.Contains(text, "decommissioned") || !strings.Contains(text, "replaced") {
		t.Error(text)
	}

	// Another agent can be the workload then, and no other id brings the old one back.
	p.run(t, "agent", "create", "researcher-2", "--role", "reader", "--spiffe-id", svid.spiffe)
	eventually(t, "the workload is another agent", func() bool { return p.askEnvoy(t, shown(svid)).principal == "researcher-2" })
	p.expect(t, shown(dns), 401, "revoked") // nobody has taken that over

	// What configuration and registry say of one workload must not differ.
	billing := ca.workload(t, "billing/bot")
	p.run(t, "agent", "create", "biller", "--spiffe-id", billing.spiffe)
	p.becomes(t, get("/", billing.xfcc()...), 401, "multiple_credentials")
}

// within a second of the acknowledgement nothing works any more that an agent ever
// held, nor what its children held, nor what they owned, on any replica, under load.
func TestDecommissionUnderLoad(t *testing.T) {
	t.Parallel()
	link, dsn := lay(t)
	w, ca := prepareAgents(t, `{ driver: postgres, dsn: "${file:dsn}", mode: strict }`)
	w.write(t, "dsn", dsn)
	link.join(t)
	w.bootstrap(t)
	replicas := []*replica{launch(t, w), launch(t, w)}
	a := replicas[0]

	svid, below := ca.workload(t, "agents/root"), ca.workload(t, "agents/child")
	a.run(t, "agent", "create", "root", "--spiffe-id", svid.spiffe)
	a.run(t, "agent", "create", "child", "--owner", "root", "--spiffe-id", below.spiffe)
	a.run(t, "agent", "create", "grandchild", "--owner", "child")
	a.run(t, "agent", "create", "bystander")
	a.principal(t, &adminv1.Principal{Id: "helper", Kind: aUser, OwnerId: "child"})
	issue := func(c *adminv1.Credential) string { _, secret := a.issue(t, c); return secret }
	parentID, own := a.key(t, "root")
	cookie := does(t, a.sessions.CreateSession, &adminv1.CreateSessionRequest{Session: &adminv1.Session{PrincipalId: "helper"}}).GetCreated().GetSecret()
	act := func(agent string) request {
		return get("/", bearer(testIssuer.token(claims{"sub": "carol", "act": claims{"sub": agent}}))...)
	}
	victims := map[string]request{
		"API key":                 withKey("/", own),
		"child's API key":         withKey("/", issue(&adminv1.Credential{Type: apiKey, PrincipalId: "child"})),
		"grandchild's API key":    withKey("/", issue(&adminv1.Credential{Type: apiKey, PrincipalId: "grandchild"})),
		"key below a key":         withKey("/", issue(&adminv1.Credential{Type: apiKey, PrincipalId: "grandchild", ParentId: parentID})),
		"token of who it owns":    withKey("/", issue(&adminv1.Credential{Type: pat, PrincipalId: "helper", DisplayName: "laptop"})),
		"JWT of who it owns":      get("/", bearer(issue(&adminv1.Credential{Type: pat, PrincipalId: "helper", DisplayName: "jwt", Format: aJWT}))...),
		"session of who it owns":  withCookie("/", cookie),
		"SVID":                    get("/", svid.xfcc()...),
		"child's SVID":            get("/", below.xfcc()...),
		"JWT that it acts by":     act("root"),
		"JWT that a child's used": act("grandchild"),
	}
	other := withKey("/", issue(&adminv1.Credential{Type: apiKey, PrincipalId: "bystander"}))
	for _, q := range append(slices.Collect(maps.Values(victims)), other) {
		everywhere(t, replicas, q, 200, "allowed")
	}

	last := map[string]*atomic.Int64{} // when the last request was made that was allowed
	for what := range victims {
		last[what] = new(atomic.Int64)
	}
	ctx, stop := context.WithCancel(t.Context())
	var load sync.WaitGroup
	for _, p := range replicas {
		load.Go(func() {
			for ctx.Err() == nil {
				for what, q := range victims {
					asked := time.Now().UnixNano()
					if p.askEnvoy(t, q).allowed() && asked > last[what].Load() {
						last[what].Store(asked) // of two at once the other is hardly later
					}
				}
			}
		})
	}
	e := a.decommission(t, "root")
	ack := time.Now()
	if e.Agents != 3 || e.Principals != 1 || e.Credentials != 6 || e.Sessions != 1 {
		t.Errorf("%+v", e)
	}
	for what, q := range victims {
		everywhere(t, replicas, q, 401, map[bool]string{true: "credential_unknown", false: "revoked"}[strings.HasPrefix(what, "session")])
	}
	time.Sleep(time.Until(ack.Add(1100 * time.Millisecond)))
	stop()
	load.Wait()
	for what := range victims {
		late := time.Duration(last[what].Load() - ack.UnixNano())
		t.Logf("%s: last allowed %v after the acknowledgement", what, max(late, 0).Round(time.Millisecond))
		if late > time.Second {
			t.Errorf("the %s was allowed %v after the acknowledgement", what, late)
		}
	}
	everywhere(t, replicas, other, 200, "allowed")

	// Nothing of it is in force in the store either, and a replica that starts now knows.
	for _, id := range []string{"root", "child", "grandchild", "helper"} {
		for _, c := range does(t, a.credentials.ListCredentials, &adminv1.ListCredentialsRequest{PrincipalId: id}).GetCredentials() {
			if c.GetState() != adminv1.CredentialState_CREDENTIAL_STATE_REVOKED {
				t.Errorf("%s of %s is %v", c.GetId(), id, c.GetState())
			}
		}
	}
	late := launch(t, w)
	for _, q := range victims {
		if late.ask(t, q).allowed() {
			t.Errorf("%v is allowed by a replica that was not there", q.headers)
		}
	}
	late.expect(t, act("child"), 401, "revoked")
}
