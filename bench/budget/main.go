// Command budget puts the promise of budgets to the test: exact over all replicas, whoever
// dies.
//
//	go run ./bench/budget                                a million reservations
//	go run ./bench/budget -reservations 20000 -kill 1s   half a minute
//
// Replicas are processes of this program that host package server/budget over one
// PostgreSQL, a throw-away cluster of the server that the machine has. Clients reserve 1
// to 20 units at a time of one budget, on whatever replica, and settle some with what they
// then say that they used, on whatever other one. Every few seconds a replica is
// killed with SIGKILL and another one started. When all reservations are made the clients
// go on, settling nothing, until nobody gets anything any more. Replicas, clients and the
// database share the machine.
//
// # What is promised
//
//	never overspent     settled + reserved + leased is at most the limit in every state
//	                    that is committed (looked at every 50 ms, and the database itself
//	                    refuses others), and what clients were told adds up to no more
//	                    than what is settled and reserved in the end
//	no false denial     while there is budget, nobody is denied; and in the end, when all
//	                    are, nothing is left
//	answers only        nobody is told that it could not be found out, but by a replica
//	                    that is dying
//
// A broken promise ends the command with status 1, a goal that is missed does not.
package main

import (
	"context"
	"errors"
	"flag"
	"log"
	"os"
	"os/signal"
	"time"

	"github.com/postern-auth/postern/bench/rig"
	"github.com/postern-auth/postern/server/store/pgtest"
)

// settings are the command's flags.
type settings struct {
	replicas, clients int
	reservations      int
	kill              time.Duration
	wait              time.Duration
	limit             int64
	settle            int
	durable           bool
}

func main() {
	log.SetFlags(log.Ltime)
	if address := os.Getenv(childVariable); address != "" {
		log.Fatal(child(address))
	}
	var s settings
	flag.IntVar(&s.replicas, "replicas", 8, "processes that share the database")
	flag.IntVar(&s.clients, "clients", 64, "clients that reserve at the same time")
	flag.IntVar(&s.reservations, "reservations", 1_000_000, "how many reservations to make before the rest is used up")
	flag.DurationVar(&s.kill, "kill", 3*time.Second, "how often a replica is killed; 0 for never")
	flag.DurationVar(&s.wait, "wait", 2*time.Second, "how long a request waits for what others have on lease (ledger.wait); the default of Postern is for machines with more than two processors for ten processes")
	flag.IntVar(&s.settle, "settle", 25, "how many in a hundred reservations are settled: each settlement is on disk before it is acknowledged")
	flag.Int64Var(&s.limit, "limit", 0, "units that the budget holds; 0 for 12 for each reservation")
	flag.BoolVar(&s.durable, "durable", true, "the database waits for the disk")
	flag.Parse()
	if s.limit == 0 {
		s.limit = 12 * int64(s.reservations)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	r := &rig.Report{}
	err := errors.Join(cost(ctx, r), measure(ctx, s, r))
	if errors.Is(err, pgtest.ErrNone) {
		r.Add(rig.Row{Part: "exact", What: "all", Figure: "none", Verdict: rig.Skipped, Remark: err.Error()})
		err = nil
	}
	r.Show(os.Stdout)
	if err != nil {
		log.Fatal(err)
	}
	if r.Broken() {
		os.Exit(1)
	}
}
