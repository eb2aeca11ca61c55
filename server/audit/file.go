package audit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Stream writes events to something like standard output, one a line.
type Stream struct {
	name string
	out  io.Writer
}

// NewStream returns a sink that never closes out.
func NewStream(name string, out io.Writer) *Stream { return &Stream{name, out} }

// Name implements Sink.
func (s *Stream) Name() string { return s.name }

// Gather implements Sink.
func (*Stream) Gather() time.Duration { return 0 }

// Write implements Sink.
func (s *Stream) Write(_ context.Context, events [][]byte) (done, refused int, err error) {
	for i, e := range events {
		if _, err := s.out.Write(append(slices.Clip(e), '\n')); err != nil {
			return i, 0, err
		}
	}
	return len(events), 0, nil
}

// Close implements Sink.
func (*Stream) Close() error { return nil }

// FileConfig says where events are kept on disk.
type FileConfig struct {
	Path string
	// MaxSize is in bytes; a file that would get larger is put aside, as one that is
	// older than MaxAge is. Keep is how many of those stay.
	MaxSize int64
	MaxAge  time.Duration
	Keep    int
	// Sync has an event be on disk when Write says so; otherwise a crash of the machine
	// can take it.
	Sync bool
	// Now is the clock.
	Now func() time.Time
}

// File writes events to a file, one a line, and puts the file aside when it is large or
// old: PATH becomes PATH.20260131T120000.000000000Z. A file that somebody else put aside
// is made anew.
type File struct {
	cfg   FileConfig
	file  *os.File
	size  int64
	since time.Time // of the first event in it
}

// NewFile opens the file, or makes it, for its owner only.
func NewFile(cfg FileConfig) (*File, error) {
	f := &File{cfg: cfg}
	return f, f.open()
}

// Name implements Sink.
func (*File) Name() string { return "file" }

// Gather implements Sink. A moment saves most of the writes under load.
func (*File) Gather() time.Duration { return 20 * time.Millisecond }

func (f *File) open() error {
	// A pipe would be waited for, and a device is no place for what is kept.
	if info, err := os.Stat(f.cfg.Path); err == nil && !info.Mode().IsRegular() {
		return fmt.Errorf("%s is not a regular file", f.cfg.Path)
	}
	file, err := os.OpenFile(f.cfg.Path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	info, err := file.Stat()
	if err != nil {
		return errors.Join(err, file.Close())
	}
	if f.cfg.Sync { // or a crash could take the file with all that is synced in it
		if err := syncDir(filepath.Dir(f.cfg.Path)); err != nil {
			return errors.Join(err, file.Close())
		}
	}
	f.file, f.size, f.since = file, info.Size(), f.cfg.Now()
	if f.size > 0 {
		f.since = info.ModTime()
	}
	return nil
}

func syncDir(name string) error {
	d, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Write implements Sink.
func (f *File) Write(_ context.Context, events [][]byte) (done, refused int, err error) {
	if err := f.ready(); err != nil {
		return 0, 0, err
	}
	for done < len(events) {
		if f.isDue(len(events[done]) + 1) {
			if err := f.rotate(); err != nil {
				return done, 0, err
			}
		}
		n, err := f.writeSome(events[done:])
		done += n
		if err != nil {
			return done, 0, err
		}
	}
	return done, 0, nil
}

// writeSome writes as many events as fit into the file, in one piece and at least one.
func (f *File) writeSome(events [][]byte) (n int, err error) {
	var lines bytes.Buffer
	for n < len(events) && (n == 0 || f.size+int64(lines.Len()+len(events[n])+1) <= f.cfg.MaxSize && lines.Len() < 1<<20) {
		lines.Write(events[n])
		lines.WriteByte('\n')
		n++
	}
	if f.size == 0 {
		f.since = f.cfg.Now()
	}
	if _, err := f.file.Write(lines.Bytes()); err != nil {
		// A full disk takes half of a line: the next attempt must not go on from there.
		_ = f.file.Truncate(f.size)
		return 0, err
	}
	if err := f.sync(); err != nil {
		return 0, err
	}
	f.size += int64(lines.Len())
	return n, nil
}

// sync has what was written be on disk. After a failure nobody knows what is: the kernel
// forgets that it failed, so another attempt on the same file would prove nothing. What
// was written is taken back as far as it can be, and the file opened anew.
func (f *File) sync() error {
	if !f.cfg.Sync {
		return nil
	}
	err := f.file.Sync()
	if err != nil {
		_ = f.file.Truncate(f.size)
		_ = f.file.Close()
		f.file = nil
	}
	return err
}

// probe finds out whether something could be written.
func (f *File) probe() error {
	if err := f.ready(); err != nil {
		return err
	}
	return f.sync()
}

// ready opens the file again if it is not there any more.
func (f *File) ready() error {
	if f.file != nil {
		ours, err := f.file.Stat()
		there, gone := os.Stat(f.cfg.Path)
		if err == nil && gone == nil && os.SameFile(ours, there) {
			return nil
		}
		_ = f.file.Close()
		f.file = nil
	}
	return f.open()
}

func (f *File) isDue(more int) bool {
	return f.size > 0 && (f.size+int64(more) > f.cfg.MaxSize || f.cfg.MaxAge > 0 && f.cfg.Now().Sub(f.since) >= f.cfg.MaxAge)
}

// asideForm is the time in the name of a file that was put aside: it sorts.
const asideForm = "20060102T150405.000000000Z"

// rotate puts the file aside, opens a new one and removes the oldest.
func (f *File) rotate() error {
	aside := f.cfg.Path + "." + f.cfg.Now().UTC().Format(asideForm)
	if _, err := os.Lstat(aside); err == nil {
		return fmt.Errorf("%s is there already", aside)
	}
	if err := os.Rename(f.cfg.Path, aside); err != nil {
		return err
	}
	_ = f.file.Close()
	f.file = nil
	if err := f.open(); err != nil {
		return err
	}
	return f.prune()
}

func (f *File) prune() error {
	dir, name := filepath.Dir(f.cfg.Path), filepath.Base(f.cfg.Path)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var old []string
	for _, e := range entries {
		if stamp, ok := strings.CutPrefix(e.Name(), name+"."); ok {
			if _, err := time.Parse(asideForm, stamp); err == nil {
				old = append(old, filepath.Join(dir, e.Name()))
			}
		}
	}
	slices.Sort(old)
	for len(old) > f.cfg.Keep {
		if err := os.Remove(old[0]); err != nil {
			return err
		}
		old = old[1:]
	}
	return nil
}

// Close implements Sink.
func (f *File) Close() error {
	if f.file == nil {
		return nil
	}
	return f.file.Close()
}
