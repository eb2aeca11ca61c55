package audit

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-auth/postern/policy"
)

func decided(id string) *Record {
	return &Record{
		Time: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC), Door: "grpc", Method: "POST", Host: "run.test", Path: "/exec",
		Decision: policy.Decision{
			ID: id, Allowed: true, Reason: policy.ReasonAllowed, Phase: policy.PhaseRecord, Approval: "4fQzR8xW0bLm",
			Principal: &policy.Principal{ID: "ann", Tenant: "acme", Kind: policy.KindUser, Actors: []policy.Actor{{ID: "bot", Kind: policy.KindAgent}}},
			Route:     &policy.Route{Name: "exec"},
		},
	}
}

func journalAt(t *testing.T, path string, change ...func(*JournalConfig)) *Journal {
	t.Helper()
	cfg := JournalConfig{FileConfig: FileConfig{Path: path, MaxSize: 1 << 20, Keep: 9, Now: time.Now}, Limit: time.Minute}
	for _, c := range change {
		c(&cfg)
	}
	j, err := NewJournal(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if !j.closing.Load() {
			j.Close()
		}
	})
	return j
}

// entriesOf are the lines of files, each JSON.
func entriesOf(t *testing.T, files ...string) (all []map[string]any) {
	t.Helper()
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for line := range bytes.Lines(text) {
			var entry map[string]any
			if err := json.Unmarshal(line, &entry); err != nil {
				t.Fatalf("%q: %v", line, err)
			}
			all = append(all, entry)
		}
	}
	return all
}

// a record is in the file when Write returns; it names the human and the agent.
func TestJournal(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "journal")
	j := journalAt(t, path)
	if err := j.Write(t.Context(), decided("d1")); err != nil {
		t.Fatal(err)
	}
	got := entriesOf(t, path)
	if len(got) != 1 || got[0]["decision_id"] != "d1" || got[0]["allowed"] != true || got[0]["principal"] != "ann" ||
		fmt.Sprint(got[0]["actors"]) != "[bot]" || got[0]["approval"] != "4fQzR8xW0bLm" || got[0]["route"] != "exec" {
		t.Errorf("%v", got)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info.Mode(), err)
	}
}

// Many checks at once are all there, in files that are put aside when they are full.
func TestJournalOfMany(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "journal")
	j := journalAt(t, path, func(c *JournalConfig) { c.MaxSize, c.Keep = 4096, 1000 })
	var all sync.WaitGroup
	for i := range 16 {
		all.Go(func() {
			for k := range 10 {
				if err := j.Write(t.Context(), decided(fmt.Sprintf("d%d-%d", i, k))); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	files, err := filepath.Glob(path + "*")
	if err != nil || len(files) < 2 {
		t.Fatal(files, err)
	}
	seen := map[any]bool{}
	for _, e := range entriesOf(t, files...) {
		seen[e["decision_id"]] = true
	}
	if s := j.Stats(); len(seen) != 160 || s.Written != 160 || s.Failed != 0 || s.Syncs > 160 {
		t.Errorf("%d records, %+v", len(seen), s)
	}
}

// what cannot be written is an error, and mends.
func TestJournalDown(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "audit")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "journal")
	j := journalAt(t, path)
	if err := errors.Join(os.Rename(dir, dir+".gone"), os.WriteFile(dir, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	if err := j.Write(t.Context(), decided("lost")); err == nil || j.Err() == nil {
		t.Fatal("it was written to nowhere")
	}
	if err := errors.Join(os.Remove(dir), os.Mkdir(dir, 0o700)); err != nil {
		t.Fatal(err)
	}
	if err := j.Write(t.Context(), decided("kept")); err != nil || j.Err() != nil {
		t.Fatal(err)
	}
	if got := entriesOf(t, path); len(got) != 1 || got[0]["decision_id"] != "kept" {
		t.Error(got)
	}
	j.Close()
	if err := j.Write(t.Context(), decided("late")); !errors.Is(err, errJournalClosed) {
		t.Error(err)
	}
	if s := j.Stats(); s.Written != 1 || s.Failed != 2 {
		t.Errorf("%+v", s)
	}
}

// No secret of ours gets in, whoever put it where.
func TestJournalHoldsNoSecret(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "journal")
	const secret = "pst_key_live_4fQzR8xW0bLm_0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefg3kQ9zP"
	r := decided("d")
	r.Path, r.RequestID, r.Host = "/x/"+secret, secret, "\x1b[2J\u202e"
	if err := journalAt(t, path).Write(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil || strings.Contains(string(text), secret) || strings.ContainsAny(string(text), "\x1b\u202e") {
		t.Errorf("%v: %s", err, text)
	}
}

// slow is a file that takes its time.
type slow struct {
	mu    sync.Mutex
	lines []string
	took  time.Duration
	fails error
}

func (s *slow) Write(_ context.Context, events [][]byte) (int, int, error) {
	time.Sleep(s.took)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fails != nil {
		return 0, 0, s.fails
	}
	for _, e := range events {
		s.lines = append(s.lines, string(e))
	}
	return len(events), 0, nil
}

func (*slow) Close() error { return nil }

func (s *slow) probe() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.fails
}

// Nobody waits for longer than the limit. What was being written then is taken back by
// a second line, and what was not is not written.
func TestJournalTakesTooLong(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		file := &slow{took: 3 * time.Second}
		j := newJournal(JournalConfig{Limit: time.Second}, file)
		var all sync.WaitGroup
		all.Go(func() {
			if err := j.Write(t.Context(), decided("begun")); !errors.Is(err, errJournalSlow) {
				t.Error(err)
			}
		})
		synctest.Wait()
		all.Go(func() {
			if err := j.Write(t.Context(), decided("waited")); !errors.Is(err, errJournalSlow) {
				t.Error(err)
			}
		})
		start := time.Now()
		all.Wait()
		if took := time.Since(start); took != time.Second {
			t.Errorf("it took %v", took)
		}
		j.Close()
		text := strings.Join(file.lines, "\n")
		if strings.Count(text, `"decision_id":"begun"`) != 2 || !strings.Contains(text, `"allowed":false,"reason":"audit_unavailable"`) || strings.Contains(text, "waited") {
			t.Error(text)
		}
	})
}

// Who checks the journal's state hears within a second that it can be written again.
func TestJournalMends(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		file := &slow{fails: errors.New("no space left")}
		j := newJournal(JournalConfig{Limit: time.Second}, file)
		defer j.Close()
		if err := j.Write(t.Context(), decided("d")); err == nil || j.Err() == nil {
			t.Error("it did not fail")
		}
		file.mu.Lock()
		file.fails = nil
		file.mu.Unlock()
		time.Sleep(1100 * time.Millisecond)
		synctest.Wait()
		if err := j.Err(); err != nil {
			t.Error(err)
		}
	})
}

func BenchmarkJournal(b *testing.B) {
	j, err := NewJournal(JournalConfig{FileConfig: FileConfig{Path: filepath.Join(b.TempDir(), "journal"), MaxSize: 1 << 30, Keep: 9, Now: time.Now}, Limit: time.Minute})
	if err != nil {
		b.Fatal(err)
	}
	defer j.Close()
	b.SetParallelism(32)
	b.ReportAllocs()
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			if err := j.Write(b.Context(), decided("d")); err != nil {
				b.Error(err)
			}
		}
	})
	s := j.Stats()
	b.ReportMetric(float64(s.Written)/float64(s.Syncs), "records/sync")
}
