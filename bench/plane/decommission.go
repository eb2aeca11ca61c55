package main

import (
	"context"
	"fmt"
	"log"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/postern-auth/postern/bench/rig"
	adminv1 "github.com/postern-auth/postern/gen/postern/admin/v1"
	posternv1 "github.com/postern-auth/postern/gen/postern/v1"
)

// decommission measures when the last key of an agent, and of those below it, is allowed
// after the agent's end was acknowledged, and how long ending a large one takes.
func decommission(ctx context.Context, l *lab, s settings, out *rig.Report) error {
	f, err := newFleet(ctx, l, make([]string, s.replicas))
	if err != nil {
		return err
	}
	defer f.close()
	good, err := f.people.many(ctx, goodKeys)
	if err != nil {
		return err
	}
	for _, r := range f.replicas {
		if err := f.await(ctx, r, good); err != nil {
			return err
		}
	}
	loading, stop := context.WithCancel(ctx)
	var loads sync.WaitGroup
	for _, r := range f.replicas {
		loads.Go(func() { f.load.run(loading, r, good) })
	}
	defer func() { stop(); loads.Wait() }()
	for _, d := range f.disturbances() {
		if d.name != "calm" && d.name != "all notifications lost" && d.name != "all connections of a replica cut" {
			continue
		}
		d.part = "decommission"
		if err := f.endings(ctx, max(2, s.events/8), d, out); err != nil {
			return fmt.Errorf("%s: %w", d.name, err)
		}
	}
	return f.largeEnding(ctx, out)
}

// endings decommissions families one after the other, while all replicas are asked about
// the keys of each.
func (f *fleet) endings(ctx context.Context, families int, d disturbance, out *rig.Report) error {
	if d.begin != nil {
		if err := d.begin(ctx); err != nil {
			return err
		}
	}
	var t tally
	for i := range families {
		log.Printf("  %s, %d of %d", d.name, i+1, families)
		if err := f.endOnce(ctx, d, &t); err != nil {
			return err
		}
	}
	if d.end != nil {
		if err := d.end(ctx); err != nil {
			return err
		}
	}
	t.report(out, d)
	return nil
}

func (f *fleet) endOnce(ctx context.Context, d disturbance, t *tally) error {
	root, keys, err := f.people.agents(ctx, 4, 1)
	if err != nil {
		return err
	}
	for _, r := range f.replicas {
		if err := f.await(ctx, r, keys); err != nil {
			return err
		}
	}
	outcomes := make([][]*outcome, len(keys))
	ctx, cancel := context.WithCancel(ctx)
	var watchers sync.WaitGroup
	defer func() { cancel(); watchers.Wait() }()
	for i, e := range keys {
		for _, r := range f.replicas {
			o := &outcome{}
			outcomes[i] = append(outcomes[i], o)
			watchers.Go(func() { e.watch(ctx, r, o) })
		}
	}
	time.Sleep(50 * time.Millisecond)
	if d.before != nil {
		if err := d.before(ctx); err != nil {
			return err
		}
	}
	if _, err := f.people.decommission(ctx, root); err != nil {
		return err
	}
	ack := time.Now()
	for _, e := range keys {
		e.ack.set(ack)
	}
	watchers.Wait()
	for i, e := range keys {
		for _, o := range outcomes[i] {
			t.take(e, o)
		}
	}
	return nil
}

// largeEnding says how long it takes to decommission an agent with many below it.
func (f *fleet) largeEnding(ctx context.Context, out *rig.Report) error {
	const agents, keys = 250, 4
	log.Printf("  %d agents with %d keys each", agents, keys)
	root, all, err := f.people.agents(ctx, agents, keys)
	if err != nil {
		return err
	}
	begin := time.Now()
	done, err := f.people.decommission(ctx, root)
	if err != nil {
		return err
	}
	out.Add(rig.Row{
		Part: "decommission", What: fmt.Sprintf("an agent with %d below it, and %d keys", done.GetAgents()-1, done.GetCredentials()),
		Figure: fmt.Sprintf("acknowledged after %v", time.Since(begin).Round(time.Millisecond)),
		Wanted: "all of them end", Verdict: rig.Promise(int(done.GetAgents()) == agents && int(done.GetCredentials()) == len(all)),
	})
	return nil
}

// agents registers a tree of agents, each of which owns up to two others, with keys.
func (p *people) agents(ctx context.Context, n, keys int) (root string, all []*event, err error) {
	p.n++
	name := func(i int) string { return fmt.Sprintf("agent-%d-%d", p.n, i) }
	ctx = p.admin.as(ctx)
	registry, credentials := adminv1.NewAgentServiceClient(p.admin.admin), adminv1.NewCredentialServiceClient(p.admin.admin)
	for i := range n {
		a := &adminv1.Agent{Tenant: tenant, Id: name(i), Roles: []string{"reader"}}
		if i > 0 {
			a.OwnerId = name((i - 1) / 2)
		}
		if _, err := registry.CreateAgent(ctx, &adminv1.CreateAgentRequest{Agent: a}); err != nil {
			return "", nil, err
		}
		for range keys {
			res, err := credentials.IssueCredential(ctx, &adminv1.IssueCredentialRequest{Credential: &adminv1.Credential{
				Type: adminv1.CredentialType_CREDENTIAL_TYPE_API_KEY, Tenant: tenant, PrincipalId: a.GetId(),
				Expiration: &adminv1.Credential_Ttl{Ttl: durationpb.New(time.Hour)},
			}})
			if err != nil {
				return "", nil, err
			}
			all = append(all, &event{
				kind: "decommission", ends: posternv1.Reason_REASON_REVOKED, owner: a.GetId(),
				key: res.GetSecret(), id: res.GetCredential().GetId(),
			})
		}
	}
	return name(0), all, nil
}

// decommission ends an agent. It tries again for a while if the store did not answer: the
// id makes that one and the same call.
func (p *people) decommission(ctx context.Context, id string) (*adminv1.DecommissionAgentResponse, error) {
	for begin := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		call, cancel := context.WithTimeout(p.admin.as(ctx), 10*time.Second)
		res, err := adminv1.NewAgentServiceClient(p.admin.admin).DecommissionAgent(call, &adminv1.DecommissionAgentRequest{Tenant: tenant, Id: id, RequestId: "bench-" + id})
		cancel()
		if err == nil || time.Since(begin) > 20*time.Second || ctx.Err() != nil {
			return res, err
		}
	}
}
