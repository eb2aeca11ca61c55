package storetest

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/postern-auth/postern/server/store"
)

// Bench measures an engine: commits by one writer and by 16, reads of one record,
// and a load of 100,000 records through the feed.
func Bench(b *testing.B, open Open) {
	for _, writers := range []int{1, 16} {
		b.Run(fmt.Sprintf("commits/%d", writers), func(b *testing.B) { benchCommits(b, open(b, time.Now), writers) })
	}
	s := open(b, time.Now)
	const records = 100_000
	fill(b, s, records)
	b.Run("get", func(b *testing.B) {
		for i := range b.N {
			if err := s.View(b.Context(), func(r store.Reader) error {
				_, err := r.Get(store.KindCredential, fmt.Sprintf("key-%09d", i*7919%records))
				return err
			}); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("list", func(b *testing.B) {
		for range b.N {
			if err := s.View(b.Context(), func(r store.Reader) error {
				found, err := r.List(store.Query{Kind: store.KindCredential, Tenant: "t", After: "key-00005"})
				if len(found) != store.MaxPage {
					b.Fatal(len(found))
				}
				return err
			}); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(b.N)*store.MaxPage/b.Elapsed().Seconds(), "records/s")
	})
	b.Run("nothing new", func(b *testing.B) {
		for range b.N {
			if _, err := s.Changes(b.Context(), records/1000, 1000); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("load", func(b *testing.B) {
		for range b.N {
			total := 0
			for after, complete := int64(0), false; !complete; {
				batch, err := s.Changes(b.Context(), after, 5000)
				if err != nil {
					b.Fatal(err)
				}
				total += len(batch.Records)
				after, complete = batch.Next, batch.Complete
			}
			if total != records {
				b.Fatal(total)
			}
		}
		b.ReportMetric(float64(b.N)*records/b.Elapsed().Seconds(), "records/s")
	})
}

func benchCommits(b *testing.B, s store.Store, writers int) {
	var n atomic.Int64
	done := make(chan error, writers)
	b.ResetTimer()
	for w := range writers {
		go func() {
			var err error
			for err == nil && n.Add(1) <= int64(b.N) {
				_, err = s.Update(b.Context(), func(tx store.Tx) error {
					if err := tx.Put(typical(int(n.Load()*100) + w)); err != nil {
						return err
					}
					return tx.Note(store.AuditEntry{Actor: "t/admin", Action: "credential.issue", Target: "credential/x", Tenant: "t"})
				})
			}
			done <- err
		}()
	}
	for range writers {
		if err := <-done; err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "commits/s")
}

// typical is a credential of the usual size.
func typical(i int) store.Record {
	id := fmt.Sprintf("key-%09d", i)
	return store.Record{
		Kind: store.KindCredential, ID: id, Tenant: "t", Owner: fmt.Sprintf("t/app-%d", i%100),
		Body: fmt.Appendf(nil, `{"id":%q,"type":"api_key","tenant":"t","principal":"app-%d","digest":"hmac-sha256:v1:%064x","scopes":["orders.read","orders.write"],"created_at":"2026-03-01T12:00:00Z","updated_at":"2026-03-01T12:00:00Z","expires_at":"2026-06-01T12:00:00Z"}`, id, i%100, i),
	}
}

func fill(b *testing.B, s store.Store, records int) {
	for from := 0; from < records; from += 1000 {
		if _, err := s.Update(context.Background(), func(tx store.Tx) error {
			for i := from; i < from+1000; i++ {
				if err := tx.Put(typical(i)); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			b.Fatal(err)
		}
	}
}
