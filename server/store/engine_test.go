package store_test

import (
	"context"
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/postern-auth/postern/server/store"
)

// Whatever number a reader comes with, it goes on where the store sent it, or starts
// again; it never goes on from where it may have missed something.
func TestResume(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		head := rapid.Int64Range(0, 1<<43).Draw(t, "head")
		f := store.Feed{Head: head, Floor: rapid.Int64Range(0, head).Draw(t, "floor"), Purges: rapid.Int64Range(0, 1<<40).Draw(t, "purges")}
		upTo := rapid.Int64Range(0, head).Draw(t, "up to")
		next := f.Next(upTo)
		if (next < 0) != (upTo < f.Floor && next != 0) {
			t.Fatalf("next %d", next)
		}
		if got, err := f.Resume(next); upTo > 0 && (err != nil || got != upTo) {
			t.Fatalf("sent to %d, resumed at %d: %v", upTo, got, err)
		}
		later := f
		later.Purges, later.Floor = f.Purges+1, rapid.Int64Range(f.Floor, head).Draw(t, "later floor")
		if got, err := later.Resume(next); err == nil && got > 0 && got < later.Floor {
			t.Fatalf("resumed at %d below the floor %d after a purge", got, later.Floor)
		}
		any := rapid.Int64().Draw(t, "any")
		if got, err := f.Resume(any); err == nil && (got < 0 || got > head) {
			t.Fatalf("%d resumed at %d", any, got)
		}
	})
	for _, after := range []int64{math.MinInt64, math.MinInt64 + 1, -1, 1, math.MaxInt64} {
		if _, err := (store.Feed{}).Resume(after); !errors.Is(err, store.ErrPurged) {
			t.Errorf("%d: %v", after, err)
		}
	}
}

func TestNormal(t *testing.T) {
	t.Parallel()
	e := store.AuditEntry{Actor: "a\x00", Reason: "\xff", Detail: map[string]string{"\x00": "\xfe"}}
	n := e.Normal()
	for _, s := range []string{n.Actor, n.Reason, n.Detail["\uFFFD"]} {
		if !store.Text(s) || !strings.Contains(s, "\uFFFD") {
			t.Errorf("%+v", n)
		}
	}
	if e.Detail["\x00"] == "" {
		t.Error("the caller's entry was changed")
	}
	if at := store.Micro(time.Time{}); !at.IsZero() {
		t.Error(at)
	}
	at := time.Date(1960, 1, 1, 0, 0, 0, 1999, time.FixedZone("x", 3600))
	if got := store.Micro(at); !got.Equal(at.Truncate(time.Microsecond)) || got.Location() != time.UTC {
		t.Error(got)
	}
}

// Hints are not lost between two, but many may be one.
func TestHints(t *testing.T) {
	t.Parallel()
	var h store.Hints
	h.Send() // to nobody
	ctx, cancel := context.WithCancel(t.Context())
	n := 0
	err := h.Listen(ctx, func() {
		if n++; n < 5 {
			h.Send()
			h.Send()
			return
		}
		cancel()
	})
	if !errors.Is(err, context.Canceled) || n != 5 {
		t.Fatalf("%d hints, %v", n, err)
	}
	h.Close()
	h.Close()
	h.Send()
	if err := h.Listen(t.Context(), func() { t.Error("a hint after the end") }); !errors.Is(err, store.ErrClosed) {
		t.Fatal(err)
	}
}
