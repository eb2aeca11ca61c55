package audit

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/postern-auth/postern/policy"
)

// Journal is a file of decisions that are on disk before anybody hears of them, for
// routes that allow nothing without. Its lines are those of Log, as JSON.
//
//	check  ──┐             ┌ write, write, write, sync ┐
//	check  ──┼─→ queue ──→ │        one goroutine       │ ──→ each its answer
//	check  ──┘             └───────────────────────────┘
//
// Whoever waits while a sync is under way shares the next one, so many checks at once
// cost few syncs. Nobody waits for longer than Limit. A record that has not been begun
// by then is not written at all; of one that is being written, and may be on disk though
// its check was told otherwise, a second line says that nothing was allowed.
//
// What cannot be written is tried again every second, so that Err is right also where
// nobody asks because of it.
type Journal struct {
	cfg     JournalConfig
	file    journalFile
	entries chan *pending
	end     chan struct{}
	ended   chan struct{}
	closing atomic.Bool

	written, failed, syncs atomic.Uint64

	mu  sync.Mutex
	err error
}

// journalFile is a *File whose Write has synced what it says that it has written.
type journalFile interface {
	Write(ctx context.Context, events [][]byte) (done, refused int, err error)
	Close() error
	probe() error
}

// JournalConfig says where the journal is.
type JournalConfig struct {
	FileConfig
	// Limit is how long a check waits at most.
	Limit time.Duration
	// Logger is told when the journal cannot be written, and when it can be again.
	Logger *slog.Logger
}

// pending is a record that somebody waits for.
type pending struct {
	line []byte
	done chan error // takes one answer without anybody there
	// state is one of the following.
	state atomic.Int32
}

const (
	waits int32 = iota
	begun
	givenUp
)

// The reasons for which a record is not in the journal.
var (
	errJournalClosed = errors.New("it is closed")
	errJournalFull   = errors.New("too many records wait")
	errJournalSlow   = errors.New("it took too long to write")
)

// perSync is how many records share a sync at most.
const perSync = 1024

// NewJournal opens the file, or makes it, and starts writing. Close ends it.
func NewJournal(cfg JournalConfig) (*Journal, error) {
	cfg.Sync = true
	file, err := NewFile(cfg.FileConfig)
	if err != nil {
		return nil, err
	}
	return newJournal(cfg, file), nil
}

func newJournal(cfg JournalConfig, file journalFile) *Journal {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	j := &Journal{cfg: cfg, file: file, entries: make(chan *pending, queueLength), end: make(chan struct{}), ended: make(chan struct{})}
	go j.run()
	return j
}

// Write returns when the record is on disk. Its error is not for callers.
func (j *Journal) Write(ctx context.Context, r *Record) error {
	line, err := journalLine(r)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, j.cfg.Limit, errJournalSlow)
	defer cancel()
	p := &pending{line: line, done: make(chan error, 1)}
	if err := j.put(p); err != nil {
		j.failed.Add(1)
		return err
	}
	select {
	case err = <-p.done:
	case <-ctx.Done():
		err = context.Cause(ctx)
		if !p.state.CompareAndSwap(waits, givenUp) {
			j.correct(r)
		}
	case <-j.ended:
		if err = errJournalClosed; len(p.done) > 0 {
			err = <-p.done
		}
	}
	if err != nil {
		j.failed.Add(1)
	}
	return err
}

func (j *Journal) put(p *pending) error {
	if j.closing.Load() {
		return errJournalClosed
	}
	select {
	case j.entries <- p:
		return nil
	default:
		return errJournalFull
	}
}

// correct says of a record, which may be on disk by now, that the request was not let
// through.
func (j *Journal) correct(r *Record) {
	own := *r
	own.Decision.Allowed, own.Decision.Reason = false, policy.ReasonAuditUnavailable
	own.Decision.Detail = errJournalSlow.Error()
	if line, err := journalLine(&own); err == nil {
		_ = j.put(&pending{line: line, done: make(chan error, 1)})
	}
}

// journalLine is one line of JSON, without secrets and nothing that a terminal obeys.
func journalLine(r *Record) ([]byte, error) {
	own := *r
	own.scrub()
	var b bytes.Buffer
	line := slog.NewRecord(own.Time, slog.LevelInfo, "decision", 0)
	line.AddAttrs(attrs(&own)...)
	err := slog.NewJSONHandler(&b, nil).Handle(context.Background(), line)
	return bytes.TrimSuffix(b.Bytes(), []byte{'\n'}), err
}

func (j *Journal) run() {
	defer close(j.ended)
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case p := <-j.entries:
			j.writeAll(j.gather(p))
		case <-tick.C:
			if j.Err() != nil {
				j.note(j.file.probe())
			}
		case <-j.end:
			for len(j.entries) > 0 {
				j.writeAll(j.gather(<-j.entries))
			}
			_ = j.file.Close()
			return
		}
	}
}

// gather takes what waits besides, without what nobody waits for any more.
func (j *Journal) gather(p *pending) []*pending {
	var all []*pending
	for {
		if p.state.CompareAndSwap(waits, begun) {
			all = append(all, p)
		}
		if len(all) == perSync {
			return all
		}
		select {
		case p = <-j.entries:
		default:
			return all
		}
	}
}

func (j *Journal) writeAll(all []*pending) {
	if len(all) == 0 {
		return
	}
	lines := make([][]byte, len(all))
	for i, p := range all {
		lines[i] = p.line
	}
	done, _, err := j.file.Write(context.Background(), lines)
	j.note(err)
	j.syncs.Add(1)
	j.written.Add(uint64(done))
	for i, p := range all {
		if i < done {
			p.done <- nil
		} else {
			p.done <- err
		}
	}
}

// note remembers how it goes, and logs it when it changes.
func (j *Journal) note(err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	switch was := j.err; {
	case err != nil && was == nil:
		j.cfg.Logger.Error("the journal cannot be written; what has to be in it first is denied", "file", j.cfg.Path, "error", err)
	case err == nil && was != nil:
		j.cfg.Logger.Info("the journal can be written again", "file", j.cfg.Path)
	}
	j.err = err
}

// Err says why the last attempt to write failed; nil if it did not.
func (j *Journal) Err() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.err
}

// JournalStats count records: Written are on disk, Failed were not in time. Syncs is how
// many writes they took.
type JournalStats struct{ Written, Failed, Syncs uint64 }

// Stats returns the counts so far.
func (j *Journal) Stats() JournalStats {
	return JournalStats{j.written.Load(), j.failed.Load(), j.syncs.Load()}
}

// Close writes what waits and ends the journal. Records that come later are refused. It
// may be called once.
func (j *Journal) Close() {
	j.closing.Store(true)
	close(j.end)
	<-j.ended
}
