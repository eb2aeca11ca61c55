package main

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/postern-auth/postern/bench/rig"
)

// pause is what a hostile caller waits after an answer: those that are refused at once
// would else be a flood, which is another attack.
const pause = 10 * time.Millisecond

// wild are policies that want too much time or memory, by the path that asks them.
var wild = []struct{ name, rule string }{
	{"loop", `some i in numbers.range(1, 3000); some j in numbers.range(1, 3000); some k in numbers.range(1, 3000); i * j * k == -1`},
	{"range", `count(numbers.range(1, 10000000)) == 1`},
	{"split", `count(split(big(big("a")), "")) == 1`},
	{"object", `count({i: j | some i in numbers.range(1, 60000); some j in numbers.range(1, 60000); j == i}) == 1`},
}

// bombs has callers ask policies that run wild, and measures what others notice who ask
// the same server: those whose decisions are cached, and those of whom each one needs an
// evaluation.
func bombs(ctx context.Context, l *lab, s settings, out *rig.Report) error {
	text := `package postern.authz
import data.postern.lib.rbac

big(s) := x if { x := concat("", [s | some _ in numbers.range(1, 1024)]) }

decision := rbac.decision if not startswith(input.request.path, "/wild/")
`
	for _, w := range wild {
		text += fmt.Sprintf("decision if { input.request.path == \"/wild/%s\"; %s }\n", w.name, w.rule)
	}
	files, err := policyFiles(fewRoles, map[string]string{"authz.rego": text})
	if err != nil {
		return err
	}
	for name, f := range files {
		if err := l.write("wild/"+name, string(f.Data)); err != nil {
			return err
		}
	}
	for _, how := range []struct{ name, cache string }{{"cached", ""}, {"evaluated", ", cache: { size: -1 }"}} {
		if err := l.neighbours(ctx, s, how.name, "policy: { path: wild"+how.cache+" }\n", out); err != nil {
			return err
		}
	}
	return nil
}

func (l *lab) neighbours(ctx context.Context, s settings, name, block string, out *rig.Report) error {
	server, err := l.start(ctx, block)
	if err != nil {
		return err
	}
	defer server.stop()
	var hostile [][]byte
	for _, w := range wild {
		hostile = append(hostile, rig.Request(map[string]string{":path": "/wild/" + w.name}))
	}
	var asked, allowed atomic.Int64
	load := paced(s.rate/2, s.turn, nil)
	what := fmt.Sprintf("%s neighbours, %s", name, load.name)
	seen, err := load.turns(ctx, server, l.requests, s.turns, func(ctx context.Context) func() {
		ctx, stop := context.WithCancel(ctx)
		var all sync.WaitGroup
		for i := range hostile {
			all.Go(func() {
				var answer []byte
				for ; ctx.Err() == nil; time.Sleep(pause) {
					if rig.Call(ctx, server.conns[i%len(server.conns)], hostile[i], &answer) == nil {
						asked.Add(1)
						if rig.IsAllow(answer) {
							allowed.Add(1)
						}
					}
				}
			})
		}
		return func() { stop(); all.Wait() }
	})
	if err != nil {
		return err
	}
	out.Add(seen.failures("bombs", what))
	const most = 2
	out.Add(rig.Row{
		Part: "bombs", What: what, Figure: seen.beside(), Wanted: fmt.Sprintf("p99 %d × the quiet one", most), Verdict: rig.Goal(seen.ratio() < most),
		Remark: fmt.Sprintf("%.1f ×; %s", seen.ratio(), seen.late()),
	})
	out.Add(rig.Row{
		Part: "bombs", What: name + ": allowed by a policy that runs wild", Figure: fmt.Sprintf("%d of %d", allowed.Load(), asked.Load()),
		Wanted: "none", Verdict: rig.Promise(allowed.Load() == 0 && asked.Load() > 0),
	})
	return nil
}
