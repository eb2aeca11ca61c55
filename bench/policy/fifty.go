package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"strings"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/protobuf/proto"

	"github.com/postern-auth/postern/bench/rig"
)

// fifty puts fifty policies a second in force, and looks at every answer for which of
// them made it. Each says it in its Rego and in its data; the answer says it a third
// time, and a cached one of another policy would say something else.
func fifty(ctx context.Context, l *lab, s settings, out *rig.Report) error {
	const several, every = 64, 20 * time.Millisecond
	var bundles [][]byte
	for i := range several {
		raw, err := l.packMarked(ctx, i+1)
		if err != nil {
			return err
		}
		bundles = append(bundles, raw)
	}
	p, err := newPublisher(bundles)
	if err != nil {
		return err
	}
	defer p.close()
	server, err := l.subscribe(ctx, p)
	if err != nil {
		return err
	}
	defer server.stop()
	seen := &pair{}
	var mixed rig.Failures
	look := func(answer []byte) error {
		err := consistent(answer)
		if errors.Is(err, errMixed) {
			mixed.Note(err)
		}
		return err
	}
	log.Printf("  without activations, for %v …", min(s.long, 15*time.Second))
	quiet, err := paced(s.checks, min(s.long, 15*time.Second), look).drive(ctx, server.conns, l.requests)
	if err != nil {
		return err
	}
	seen.quiet.Add(quiet)
	log.Printf("  fifty a second, for %v …", s.long)
	count := activations{server: server}
	count.begin()
	publishing, stop := context.WithCancel(ctx)
	go p.every(publishing, every)
	busy, err := paced(s.checks, s.long, look).drive(ctx, server.conns, l.requests)
	stop()
	count.end()
	if err != nil {
		return fmt.Errorf("%w\n%s", err, server.Said())
	}
	seen.busy.Add(busy)
	what := fmt.Sprintf("open loop, %d/s", s.checks)
	n, first := mixed.Count()
	row := rig.Row{Part: "fifty", What: what + ": answers by two policies", Figure: fmt.Sprintf("%d of %d", n, len(seen.busy.Latencies)), Wanted: "none", Verdict: rig.Promise(n == 0)}
	if n > 0 {
		row.Remark = first.Error()
	}
	out.Add(row)
	out.Add(seen.failures("fifty", what))
	const most = 3
	out.Add(rig.Row{
		Part: "fifty", What: what, Figure: seen.beside(), Wanted: fmt.Sprintf("p99 %d × the quiet one", most), Verdict: rig.Goal(seen.ratio() <= most),
		Remark: fmt.Sprintf("%.1f ×; %s %s", seen.ratio(), &count, seen.late()),
	})
	out.Add(rig.Row{Part: "fifty", What: "activations", Figure: fmt.Sprintf("%.1f/s", count.rate()), Wanted: "50/s", Verdict: rig.Goal(count.rate() >= 49)})
	return nil
}

// packMarked packs a policy that says its revision in two places.
func (l *lab) packMarked(ctx context.Context, revision int) ([]byte, error) {
	files, err := policyFiles(fewRoles, map[string]string{
		"authz.rego": fmt.Sprintf(`package postern.authz
import data.postern.lib.rbac
decision := object.union(rbac.decision, {"headers": {"x-by-rule": "%d", "x-by-data": data.marks.revision}})
`, revision),
		"marks/data.json": fmt.Sprintf(`{"revision": "%d"}`, revision),
	})
	if err != nil {
		return nil, err
	}
	return l.pack(ctx, files, fmt.Sprint(revision))
}

var errMixed = errors.New("the answer is not of one revision")

// consistent says what is wrong with an answer of such a policy.
func consistent(answer []byte) error {
	var res authv3.CheckResponse
	if err := proto.Unmarshal(answer, &res); err != nil {
		return err
	}
	if err := rig.Allowed(answer); err != nil {
		return err
	}
	said := map[string]string{}
	for _, h := range res.GetOkResponse().GetHeaders() {
		said[h.GetHeader().GetKey()] = h.GetHeader().GetValue() + string(h.GetHeader().GetRawValue())
	}
	revision, _, _ := strings.Cut(res.GetDynamicMetadata().GetFields()["postern"].GetStructValue().GetFields()["policy_revision"].GetStringValue(), "+")
	if rule, data := said["x-by-rule"], said["x-by-data"]; rule == "" || rule != data || rule != revision {
		return fmt.Errorf("%w: the rule is of %q, the data of %q, and the decision of %q", errMixed, rule, data, revision)
	}
	return nil
}
