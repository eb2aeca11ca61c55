package main

import (
	"errors"
	"log"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/postern-auth/postern/server/store"
	"github.com/postern-auth/postern/server/store/pgtest"
)

// TestMain is the child as well.
func TestMain(m *testing.M) {
	if address := os.Getenv(childVariable); address != "" {
		log.Fatal(child(address))
	}
	os.Exit(m.Run())
}

// G-06, G-11: kill -9 loses nothing that was acknowledged and leaves nothing half.
func TestKill(t *testing.T) {
	for _, s := range []settings{
		{engine: "sqlite", rounds: 6},
		{engine: "postgres", rounds: 2},
		{engine: "postgres", rounds: 2, server: true},
	} {
		result, err := run(t.Context(), s)
		if errors.Is(err, pgtest.ErrNone) {
			t.Log("skipped: ", err)
			continue
		}
		if err != nil || result.bad() || result.acknowledged == 0 {
			t.Errorf("%+v: %v, %v", s, result, err)
		}
	}
}

// CRASH-02: a power cut loses nothing that was acknowledged and leaves nothing half,
// whatever of the rest has reached the disk.
func TestPowerCut(t *testing.T) {
	s, dir := settings{rounds: 100, seed: 1}, t.TempDir()
	calls, err := record(dir, 1500*time.Millisecond)
	if errors.Is(err, errNoTracer) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	home := filepath.Join(dir, "disk")
	result, err := cutAll(t.Context(), s, calls, home)
	t.Logf("%d calls: %v", len(calls), result)
	if err != nil || result.bad() || result.acknowledged == 0 || result.refused > 0 {
		t.Errorf("%v, %v", result, err)
	}
	// Were the log of the store not synced, it would be seen.
	unsynced := slices.DeleteFunc(calls, func(c call) bool { return c.name == "sync" && strings.HasSuffix(c.path, "-wal") })
	if result, err := cutAll(t.Context(), s, unsynced, home); err != nil || len(result.lost) == 0 {
		t.Errorf("without its syncs: %v, %v", result, err)
	}
}

// The comparison sees what it is there to see.
func TestCompare(t *testing.T) {
	record := func(version int64, body string) store.Record {
		return store.Record{Version: version, Body: []byte(body)}
	}
	good := func() map[string]store.Record {
		return map[string]store.Record{
			all: record(2, `{"n":2,"change":2}`), "x/a": record(2, `{"n":2,"change":2}`), "x/b": record(2, `{"n":2,"change":2}`),
		}
	}
	acks := map[string]ack{"x": {n: 2, change: 2}}
	report := store.Report{Head: 2, Audit: 2}
	for name, c := range map[string]struct {
		spoil             func(map[string]store.Record)
		report            store.Report
		acks              map[string]ack
		lost, half, other bool
	}{
		"good":               {report: report, acks: acks},
		"one more":           {report: report, acks: map[string]ack{"x": {n: 1, change: 1}}},
		"gone":               {report: report, acks: acks, lost: true, spoil: func(r map[string]store.Record) { delete(r, "x/a"); delete(r, "x/b") }},
		"older":              {report: report, acks: map[string]ack{"x": {n: 3, change: 3}}, lost: true},
		"not deleted":        {report: report, acks: map[string]ack{"x": {n: 2, change: 2, gone: true}}, lost: true},
		"two more":           {report: report, acks: map[string]ack{"x": {n: 0, change: 1}}, lost: true},
		"one of two":         {report: report, acks: acks, half: true, spoil: func(r map[string]store.Record) { delete(r, "x/b") }},
		"not added":          {report: report, acks: acks, half: true, spoil: func(r map[string]store.Record) { r[all] = record(2, `{"n":1,"change":2}`) }},
		"no audit":           {report: store.Report{Head: 2, Audit: 1}, acks: acks, half: true},
		"another's version":  {report: report, acks: acks, other: true, spoil: func(r map[string]store.Record) { r[all] = record(1, `{"n":2,"change":2}`) }},
		"what is not a body": {report: report, acks: acks, half: true, other: true, spoil: func(r map[string]store.Record) { r[all] = record(2, `{"n":`) }},
	} {
		records := good()
		if c.spoil != nil {
			c.spoil(records)
		}
		var found tally
		found.compare(c.report, records, c.acks)
		if len(found.lost) > 0 != c.lost || len(found.half) > 0 != c.half || len(found.other) > 0 != c.other {
			t.Errorf("%s: %v", name, found)
		}
	}
}
