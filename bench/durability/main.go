// Command durability kills processes that write to a store, at random moments, and
// looks whether what they had been told is true.
//
//	go run ./bench/durability -engine sqlite -rounds 1000
//	go run ./bench/durability -engine postgres -rounds 1000
//	go run ./bench/durability -engine postgres -server   kills the server as well
//	go run ./bench/durability -power -rounds 2000        cuts the power
//
// In each round a child opens the store and writes with several goroutines until it
// is killed with SIGKILL. Every change writes two records that must be alike, adds
// one to a third of which there is only one, and an audit entry; when the store has
// acknowledged it, and not before, the child prints it. Then the store is opened
// again and has to hold all that was printed, nothing by half, and no version that
// is not that of the last change. A fault ends the command with status 1.
//
// SIGKILL takes the process, not the machine. With -power the power is cut instead, in
// a model: one child's system calls are recorded, and for moments between them disks are
// made up that have lost what was not synced, in part, in any order and by sectors (see
// power.go). That needs strace, and SQLite. Whether fsync keeps its promise is up to the
// disk.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"time"
)

// settings are the command's flags.
type settings struct {
	engine string
	rounds int
	server bool
	power  bool
	lasts  time.Duration
	seed   uint64
}

func main() {
	log.SetFlags(0)
	if address := os.Getenv(childVariable); address != "" {
		log.Fatal(child(address))
	}
	var s settings
	flag.StringVar(&s.engine, "engine", "sqlite", "sqlite or postgres")
	flag.IntVar(&s.rounds, "rounds", 50, "how often to kill")
	flag.BoolVar(&s.server, "server", false, "kill the database server as well")
	flag.BoolVar(&s.power, "power", false, "cut the power, in a model, instead of killing")
	flag.DurationVar(&s.lasts, "lasts", 5*time.Second, "how long the child writes whose power is cut")
	flag.Uint64Var(&s.seed, "seed", 1, "for the moments")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	run := run
	if s.power {
		run = cutPower
	}
	result, err := run(ctx, s)
	fmt.Println(result)
	if err != nil {
		log.Fatal(err)
	}
	if result.bad() {
		os.Exit(1)
	}
}
