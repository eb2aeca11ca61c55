package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/postern-auth/postern/server/store"
	"github.com/postern-auth/postern/server/store/postgres"
	"github.com/postern-auth/postern/server/store/sqlite"
)

const (
	// childVariable holds the store's address for a process that is to write.
	childVariable = "POSTERN_DURABILITY_STORE"
	// roundVariable makes the ids of each round its own.
	roundVariable = "POSTERN_DURABILITY_ROUND"

	goroutines = 6
	// all is the record that every change adds to.
	all = "all"
)

// open opens the store at "sqlite:path" or "postgres:address".
func open(ctx context.Context, address string) (store.Store, error) {
	engine, rest, _ := strings.Cut(address, ":")
	switch engine {
	case "sqlite":
		return sqlite.Open(ctx, rest, sqlite.Options{})
	case "postgres":
		return postgres.Open(ctx, rest, postgres.Options{})
	}
	return nil, fmt.Errorf("no engine %q", engine)
}

// content is the body of a record.
type content struct {
	// N counts what was done to the record; for all it is the number of changes.
	N int64 `json:"n"`
	// Change is the number of the change that wrote it.
	Change int64 `json:"change"`
}

// child writes until it is killed.
func child(address string) error {
	s, err := open(context.Background(), address)
	if err != nil {
		return err
	}
	failed := make(chan error)
	for g := range goroutines {
		go func() { failed <- work(s, fmt.Sprintf("%s.%d", os.Getenv(roundVariable), g)) }()
	}
	return <-failed
}

// work issues pairs, updates each twice, and deletes every other one.
func work(s store.Store, name string) error {
	for k := 0; ; k++ {
		id := fmt.Sprintf("%s.%d", name, k)
		for n := int64(1); n <= 4; n++ {
			gone := n == 4
			if gone && k%2 == 0 {
				break
			}
			change, err := s.Update(context.Background(), func(tx store.Tx) error { return write(tx, id, n, gone) })
			if err != nil {
				return err
			}
			// One system call, so that the line is whole or not there.
			if _, err := fmt.Fprintf(os.Stdout, "%s %d %t %d\n", id, n, gone, change.Number); err != nil {
				return err
			}
		}
	}
}

// write is one change.
func write(tx store.Tx, id string, n int64, gone bool) error {
	head, err := tx.Head()
	if err != nil {
		return err
	}
	total, err := read(tx, all)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	if gone {
		err = errors.Join(tx.Delete(store.KindCredential, id+"/a"), tx.Delete(store.KindCredential, id+"/b"))
	} else {
		err = errors.Join(put(tx, id+"/a", content{n, head + 1}), put(tx, id+"/b", content{n, head + 1}))
	}
	return errors.Join(err, put(tx, all, content{total.N + 1, head + 1}),
		tx.Note(store.AuditEntry{Actor: "bench/durability", Action: "write", Target: id}))
}

func put(tx store.Tx, id string, c content) error {
	body, err := json.Marshal(c)
	if err != nil {
		return err
	}
	return tx.Put(store.Record{Kind: store.KindCredential, ID: id, Tenant: "t", Body: body})
}

func read(from store.Reader, id string) (c content, err error) {
	r, err := from.Get(store.KindCredential, id)
	if err != nil {
		return c, err
	}
	return c, json.Unmarshal(r.Body, &c)
}
