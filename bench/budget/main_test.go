package main

import (
	"errors"
	"log"
	"os"
	"testing"
	"time"

	"github.com/postern-auth/postern/bench/rig"
	"github.com/postern-auth/postern/server/store/pgtest"
)

// TestMain is the replica as well.
func TestMain(m *testing.M) {
	if address := os.Getenv(childVariable); address != "" {
		log.Fatal(child(address))
	}
	os.Exit(m.Run())
}

// BUDGET-02, A-02: nothing is overspent and nobody denied for nothing while replicas die.
func TestKill(t *testing.T) {
	var r rig.Report
	s := settings{replicas: 3, clients: 12, reservations: 3000, kill: 300 * time.Millisecond, wait: 10 * time.Second, limit: 60_000, settle: 30}
	err := measure(t.Context(), s, &r)
	if errors.Is(err, pgtest.ErrNone) {
		t.Skip(err)
	}
	if err != nil || r.Broken() || len(r.Rows) < 10 {
		t.Errorf("%+v, %v", r.Rows, err)
	}
}
