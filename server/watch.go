package server

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
)

// An editor or a copy touches several files: they must be quiet for settle before
// they are read. What is never quiet is read after patience.
const (
	settle   = 100 * time.Millisecond
	patience = time.Second
)

// watch reloads when a file changes, and tells the health service of readiness,
// until ctx ends.
func (s *Server) watch(ctx context.Context) {
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		s.log.Warn("files are not watched; send SIGHUP after a change", "error", err)
		watcher = &fsnotify.Watcher{} // its channels are nil: nothing ever comes
	} else {
		defer func() { _ = watcher.Close() }()
	}
	var in surveyed
	look := func() (grown bool) {
		next := s.survey()
		for _, dir := range next.dirs {
			// Also where it is watched already: a directory may have been replaced.
			if err == nil && watcher.Add(dir) == nil {
				grown = grown || !slices.Contains(in.dirs, dir)
			}
		}
		next.stamps = in.stamps
		in = next
		return grown
	}
	quiet := time.NewTimer(settle)
	quiet.Stop()
	defer quiet.Stop()
	var since time.Time // of the first change that is not read yet
	changed := func() {
		if since.IsZero() {
			since = time.Now()
		}
		if time.Since(since) < patience {
			quiet.Reset(settle)
		}
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	if look() {
		changed() // what was read at the start may have changed before it was watched
	}
	s.publishHealth()
	for {
		select {
		case <-ctx.Done():
			return
		case event := <-watcher.Events:
			if in.concerns(event) {
				look() // what is new is watched before it is read
				changed()
			}
		case err := <-watcher.Errors:
			s.log.Warn("changes of files were lost; all of them are read again", "error", err)
			changed()
		case <-quiet.C:
			since = time.Time{}
			_ = s.Reload(ctx) // logged, and told by conditions
			s.publishHealth()
		case <-s.reloaded:
			// What is named only now may have changed before it was watched.
			if look() {
				changed()
			}
		case <-tick.C:
			if in.moved() { // behind a link, on a network file system, or an event was lost
				changed()
			}
			s.publishHealth()
		}
	}
}

// surveyed is what there is to watch: the files that the configuration in force
// names, and the directories of the policy. Directories are what is watched,
// because files are replaced by renaming.
type surveyed struct {
	files, policy, dirs []string // absolute
	stamps              map[string]os.FileInfo
}

// moved reports whether a file or a directory of the policy is another one than
// before, by what the file system says of it. It follows links, which events do
// not.
func (v *surveyed) moved() (moved bool) {
	next := make(map[string]os.FileInfo, len(v.stamps))
	for _, name := range slices.Concat(v.files, v.policy) {
		info, err := os.Stat(name)
		if err != nil {
			info = nil
		}
		old, known := v.stamps[name]
		next[name] = info
		moved = moved || known && !sameFile(old, info)
	}
	v.stamps = next
	return moved
}

func sameFile(a, b os.FileInfo) bool {
	if a == nil || b == nil {
		return a == nil && b == nil
	}
	return os.SameFile(a, b) && a.Size() == b.Size() && a.ModTime().Equal(b.ModTime())
}

// concerns reports whether an event may mean that something has to be read. What
// is only written to must be one of our own files, since the log may well be in
// the same directory; everything else may be a link that leads to one.
func (v *surveyed) concerns(e fsnotify.Event) bool {
	switch e.Op {
	case fsnotify.Chmod:
		return false
	case fsnotify.Write:
		return slices.Contains(v.files, e.Name) || slices.Contains(v.policy, filepath.Dir(e.Name))
	}
	return true
}

func (s *Server) survey() (v surveyed) {
	p := s.current.Load()
	base := filepath.Dir(s.opts.ConfigPath)
	file := func(name string) {
		if name == "" {
			return
		}
		if !filepath.IsAbs(name) {
			name = filepath.Join(base, name)
		}
		if abs, err := filepath.Abs(name); err == nil {
			v.files = append(v.files, abs)
		}
	}
	if s.opts.ConfigPath != "" {
		file(filepath.Base(s.opts.ConfigPath))
	}
	file(p.cfg.APIKeys.File.String())
	if t := p.cfg.TLS; t != nil {
		file(t.Cert.String())
		file(t.Key.String())
		file(t.ClientCA.String())
	}
	for _, i := range p.cfg.Issuers {
		file(i.JWKSFile)
		file(i.Keys.File)
		file(i.Keys.CAFile)
	}
	for _, reference := range p.cfg.references {
		if name, ok := strings.CutPrefix(reference, "${file:"); ok {
			file(strings.TrimSuffix(name, "}"))
		}
	}
	file(p.cfg.Policy.Path) // which may be a link, or replaced
	for _, name := range v.files {
		v.dirs = append(v.dirs, filepath.Dir(name))
	}
	if p.cfg.Policy.Path != "" {
		v.policy = directories(v.files[len(v.files)-1])
	}
	v.dirs = append(v.dirs, v.policy...)
	slices.Sort(v.dirs)
	v.dirs = slices.Compact(v.dirs)
	return v
}

// directories are those of a tree, which may stand behind a link.
func directories(root string) (dirs []string) {
	if real, err := filepath.EvalSymlinks(root); err == nil {
		root = real
	}
	_ = filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			dirs = append(dirs, name)
		}
		return nil
	})
	return dirs
}
