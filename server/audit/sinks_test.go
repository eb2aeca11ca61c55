package audit

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// fakeSink does what a test tells it.
type fakeSink struct {
	gather time.Duration
	write  func(events [][]byte) (done, refused int, err error)

	mu  sync.Mutex
	got []string
}

func (*fakeSink) Name() string            { return "fake" }
func (s *fakeSink) Gather() time.Duration { return s.gather }
func (*fakeSink) Close() error            { return nil }
func (s *fakeSink) Write(_ context.Context, events [][]byte) (int, int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	done, refused, err := len(events), 0, error(nil)
	if s.write != nil {
		done, refused, err = s.write(events)
	}
	for _, e := range events[:done] {
		s.got = append(s.got, string(e))
	}
	return done, refused, err
}

func (s *fakeSink) all() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.got, " ")
}

// A sink that fails gets the same events again, in order and later each time; nothing is
// lost, and the status says what is wrong until it is over.
func TestOutboxRetries(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		fails := 3
		var at []time.Duration
		began := time.Now()
		s := &fakeSink{write: func(events [][]byte) (int, int, error) {
			at = append(at, time.Since(began))
			if fails--; fails >= 0 {
				return 1, 0, errors.New("down")
			}
			return len(events), 0, nil
		}}
		b := newOutbox(s)
		for i := range 5 {
			b.put(fmt.Append(nil, i))
		}
		time.Sleep(100 * time.Millisecond)
		if err := b.stats().Err; err == nil {
			t.Error("nothing is said about the failure")
		}
		b.put([]byte("5"))
		time.Sleep(time.Minute)
		if got := s.all(); got != "0 1 2 3 4 5" {
			t.Error(got)
		}
		if st := b.stats(); st.Err != nil || st.Written != 6 || st.Lost != 0 {
			t.Errorf("%+v", st)
		}
		if fmt.Sprint(at[:4]) != "[0s 1s 3s 7s]" {
			t.Error(at)
		}
		if err := b.close(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// What does not fit is counted, whether the sink is slow or fails, and so is what is left
// at the end.
func TestOutboxLoses(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &fakeSink{write: func([][]byte) (int, int, error) { return 0, 0, errors.New("down") }}
		b := newOutbox(s)
		big := bytes.Repeat([]byte("x"), maxBoxBytes/4)
		for range 10 {
			b.put(big)
			synctest.Wait()
		}
		if st := b.stats(); st.Lost < 5 || st.Lost > 6 {
			t.Errorf("%+v", st)
		}
		if err := b.close(t.Context()); err != nil {
			t.Error(err)
		}
		if st := b.stats(); st.Lost != 10 || st.Written != 0 {
			t.Errorf("%+v", st)
		}
		b.put(big)
		if st := b.stats(); st.Lost != 11 {
			t.Errorf("%+v", st)
		}
	})
}

// A sink that never returns holds up nobody; closing gives up on it.
func TestOutboxHangs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		end := make(chan struct{})
		s := &fakeSink{write: func(events [][]byte) (int, int, error) { <-end; return len(events), 0, nil }}
		b := newOutbox(s)
		b.put([]byte("1"))
		synctest.Wait()
		b.put([]byte("2"))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := b.close(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		close(end)
	})
}

func TestOutboxGathers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		writes := 0
		s := &fakeSink{gather: 5 * time.Second, write: func(events [][]byte) (int, int, error) { writes++; return len(events), 0, nil }}
		b := newOutbox(s)
		for i := range 4 {
			b.put(fmt.Append(nil, i))
			time.Sleep(time.Second)
		}
		time.Sleep(10 * time.Second)
		b.put([]byte("last"))
		if err := b.close(t.Context()); err != nil { // does not wait for others
			t.Error(err)
		}
		if writes != 2 || s.all() != "0 1 2 3 last" {
			t.Error(writes, s.all())
		}
	})
}

func events(texts ...string) (all [][]byte) {
	for _, t := range texts {
		all = append(all, []byte(t))
	}
	return all
}

func newTestFile(t *testing.T, cfg FileConfig) (*File, *time.Time) {
	t.Helper()
	now := time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)
	cfg.Path = filepath.Join(t.TempDir(), "d.jsonl")
	cfg.Now = func() time.Time { now = now.Add(time.Nanosecond); return now }
	f, err := NewFile(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f, &now
}

func contents(t *testing.T, f *File) (all []string) {
	t.Helper()
	names, _ := filepath.Glob(f.cfg.Path + "*")
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, strings.ReplaceAll(string(text), "\n", ";"))
		if info, _ := os.Stat(name); info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v", name, info.Mode())
		}
	}
	return all
}

func write(t *testing.T, s Sink, texts ...string) {
	t.Helper()
	if done, refused, err := s.Write(t.Context(), events(texts...)); done != len(texts) || refused != 0 || err != nil {
		t.Fatal(done, refused, err)
	}
}

// A file is put aside by size, whole lines only, and the oldest are removed. The first
// name in the list is the file in use.
func TestFileBySize(t *testing.T) {
	t.Parallel()
	f, _ := newTestFile(t, FileConfig{MaxSize: 10, Keep: 2})
	write(t, f, "aaaa", "bbbb", "cccc")
	if got := fmt.Sprint(contents(t, f)); got != "[cccc; aaaa;bbbb;]" {
		t.Error(got)
	}
	write(t, f, "an event that is larger than the file may be", "d")
	if got := fmt.Sprint(contents(t, f)); got != "[d; cccc; an event that is larger than the file may be;]" {
		t.Error(got)
	}
}

func TestFileByAge(t *testing.T) {
	t.Parallel()
	f, now := newTestFile(t, FileConfig{MaxSize: 1 << 20, MaxAge: time.Hour, Keep: 5})
	write(t, f, "a")
	*now = now.Add(59 * time.Minute)
	write(t, f, "b")
	*now = now.Add(time.Minute)
	write(t, f, "c")
	*now = now.Add(2 * time.Hour)
	write(t, f, "d")
	if got := fmt.Sprint(contents(t, f)); got != "[d; a;b; c;]" {
		t.Error(got)
	}
}

// A file that was there is gone on with; one that somebody moved is made anew; what is
// no file is refused, and files of others are left alone.
func TestFileOfOthers(t *testing.T) {
	t.Parallel()
	f, _ := newTestFile(t, FileConfig{MaxSize: 8, Keep: 1})
	if err := os.WriteFile(f.cfg.Path+".old", []byte("not ours\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	write(t, f, "a")
	again, err := NewFile(f.cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	write(t, again, "b")
	if err := os.Rename(f.cfg.Path, f.cfg.Path+".moved"); err != nil {
		t.Fatal(err)
	}
	write(t, again, "c", "dddddd", "eeeeee")
	if got := fmt.Sprint(contents(t, again)); got != "[eeeeee; dddddd; a;b; not ours;]" {
		t.Error(got)
	}
	if _, err := NewFile(FileConfig{Path: t.TempDir()}); err == nil {
		t.Error("a directory")
	}
	if _, err := NewFile(FileConfig{Path: "/dev/null"}); err == nil {
		t.Error("a device")
	}
}

// A disk that is full takes half of a line. Nothing of it stays, and the events come
// again.
func TestFileThatCannotBeWritten(t *testing.T) {
	t.Parallel()
	f, _ := newTestFile(t, FileConfig{MaxSize: 1 << 20, Keep: 1})
	write(t, f, "a")
	_ = f.file.Close() // every write fails from here on
	if done, _, err := f.Write(t.Context(), events("b")); err == nil || done != 0 {
		if done != 1 {
			t.Fatal(done, err)
		}
	}
	if err := os.RemoveAll(filepath.Dir(f.cfg.Path)); err != nil {
		t.Fatal(err)
	}
	if done, _, err := f.Write(t.Context(), events("b")); err == nil || done != 0 {
		t.Fatal(done, err)
	}
	if err := os.MkdirAll(filepath.Dir(f.cfg.Path), 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, f, "b")
	if got := fmt.Sprint(contents(t, f)); got != "[b;]" {
		t.Error(got)
	}
}

// fakePoster keeps what is posted.
type fakePoster struct {
	answer func(n int) (bool, error)
	chunks [][]string
	sizes  []int
}

func (p *fakePoster) Close() {}

func (p *fakePoster) Post(_ context.Context, chunk []byte) (bool, error) {
	if p.answer != nil {
		if refused, err := p.answer(len(p.chunks)); err != nil {
			return refused, err
		}
	}
	zip, err := gzip.NewReader(bytes.NewReader(chunk))
	if err != nil {
		return true, err
	}
	text, err := io.ReadAll(zip)
	if err != nil {
		return true, err
	}
	var all []json.RawMessage
	if err := json.Unmarshal(text, &all); err != nil {
		return true, err
	}
	var got []string
	for _, e := range all {
		got = append(got, string(e))
	}
	p.chunks, p.sizes = append(p.chunks, got), append(p.sizes, len(chunk))
	return false, nil
}

// Chunks are JSON arrays in gzip, none over the limit, all events in order.
func TestServiceChunks(t *testing.T) {
	t.Parallel()
	p := &fakePoster{}
	s := NewService(ServiceConfig{Limit: 4096}, p)
	var all [][]byte
	for i := range 2000 {
		all = append(all, fmt.Appendf(nil, `{"decision_id":"%d","input":{"x":"%x"}}`, i, i*7919*7919*7919))
	}
	if done, refused, err := s.Write(t.Context(), all); done != len(all) || refused != 0 || err != nil {
		t.Fatal(done, refused, err)
	}
	n := 0
	for i, chunk := range p.chunks {
		if p.sizes[i] > 4096 {
			t.Error("a chunk of", p.sizes[i])
		}
		for _, e := range chunk {
			if e != string(all[n]) {
				t.Fatalf("%s instead of %s", e, all[n])
			}
			n++
		}
	}
	if n != len(all) || len(p.chunks) < 3 {
		t.Error(n, len(p.chunks))
	}
}

// An event that is too large goes without its input, and says so; one that is too large
// even so is lost and counted.
func TestServiceTooLarge(t *testing.T) {
	t.Parallel()
	noise := func(n int) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, "%08x", uint32(i*2654435761))
		}
		return b.String()
	}
	p := &fakePoster{}
	s := NewService(ServiceConfig{Limit: 4096}, p)
	write := events(`{"decision_id":"1","erased":["/input/a","/result/headers"],"input":{"x":"`+noise(4000)+`"},"masked":["/input/b"]}`, `{"decision_id":"2"}`, `{"decision_id":"`+noise(4000)+`"}`)
	if done, refused, err := s.Write(t.Context(), write); done != 3 || refused != 1 || err != nil {
		t.Fatal(done, refused, err)
	}
	if got := fmt.Sprint(p.chunks); got != `[[{"decision_id":"1","erased":["/result/headers","/input"]}] [{"decision_id":"2"}]]` {
		t.Error(got)
	}
}

// A service that fails gets the rest later; one that refuses a chunk does not hold up
// the others.
func TestServiceFails(t *testing.T) {
	t.Parallel()
	var all [][]byte
	for i := range 3 {
		all = append(all, fmt.Appendf(nil, `{"n":%d,"x":"%s"}`, i, strings.Repeat(fmt.Sprint(i), 4096*perChunk)))
	}
	p := &fakePoster{answer: func(n int) (bool, error) {
		if n == 1 {
			return false, errors.New("down")
		}
		return false, nil
	}}
	if done, refused, err := NewService(ServiceConfig{Limit: 4096}, p).Write(t.Context(), all); done != 1 || refused != 0 || err == nil {
		t.Error(done, refused, err)
	}
	calls := 0
	p = &fakePoster{answer: func(int) (bool, error) {
		if calls++; calls == 2 {
			return true, errors.New("malformed")
		}
		return false, nil
	}}
	if done, refused, err := NewService(ServiceConfig{Limit: 4096}, p).Write(t.Context(), all); done != 3 || refused != 1 || err != nil || len(p.chunks) != 2 {
		t.Error(done, refused, err)
	}
}

func TestStream(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	write(t, NewStream("stdout", &out), "a", "b")
	if out.String() != "a\nb\n" {
		t.Errorf("%q", out.String())
	}
}
