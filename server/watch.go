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
	w := s.newWatch()
	defer w.close()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	w.look() // what was read at the start may have changed before it was watched
	s.publishHealth()
	for {
		select {
		case <-ctx.Done():
			return
		case event := <-w.events.Events:
			w.happened(event)
		case err := <-w.events.Errors:
			s.log.Warn("changes of files were lost; all of them are read again", "error", err)
			w.changed()
		case <-w.quiet.C:
			w.since = time.Time{}
			_ = s.Reload(ctx) // logged, and told by conditions
			s.publishHealth()
		case <-s.reloaded:
			w.look() // what is named only now may have changed before it was watched
		case <-tick.C:
			if w.in.moved() { // behind a link, on a network file system, or an event was lost
				w.changed()
			}
			s.publishHealth()
		}
	}
}

// watching is what watch knows between two events.
type watching struct {
	server *Server
	events *fsnotify.Watcher
	blind  bool // no events come
	in     surveyed
	quiet  *time.Timer // fires when what changed is to be read
	since  time.Time   // of the first change that is not read yet
}

func (s *Server) newWatch() *watching {
	w := &watching{server: s, quiet: time.NewTimer(settle)}
	w.quiet.Stop()
	var err error
	if w.events, err = fsnotify.NewWatcher(); err != nil {
		s.log.Warn("files are not watched; send SIGHUP after a change", "error", err)
		w.events, w.blind = &fsnotify.Watcher{}, true // its channels are nil
	}
	return w
}

func (w *watching) close() {
	w.quiet.Stop()
	if !w.blind {
		_ = w.events.Close()
	}
}

// look surveys again and watches what it finds. What is watched only from now on
// counts as changed.
func (w *watching) look() {
	next, grown := w.server.survey(), false
	for _, dir := range next.dirs {
		// Also where it is watched already: a directory may have been replaced.
		if !w.blind && w.events.Add(dir) == nil {
			grown = grown || !slices.Contains(w.in.dirs, dir)
		}
	}
	next.stamps = w.in.stamps
	w.in = next
	if grown {
		w.changed()
	}
}

func (w *watching) happened(event fsnotify.Event) {
	if w.in.concerns(event) {
		w.look() // what is new is watched before it is read
		w.changed()
	}
}

// changed has everything read once it is quiet.
func (w *watching) changed() {
	if w.since.IsZero() {
		w.since = time.Now()
	}
	if time.Since(w.since) < patience {
		w.quiet.Reset(settle)
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
	for _, k := range p.kinds {
		for _, name := range k.files {
			file(name)
		}
	}
	for _, reference := range p.cfg.references {
		if name, ok := strings.CutPrefix(reference, "${file:"); ok {
			file(strings.TrimSuffix(name, "}"))
		}
	}
	policies := []string{p.cfg.Policy.Path}
	if shadow := p.cfg.Policy.Shadow; shadow != nil {
		policies = append(policies, shadow.Path)
	}
	for _, path := range policies {
		if path == "" {
			continue
		}
		file(path) // which may be a link, or replaced
		v.policy = append(v.policy, directories(v.files[len(v.files)-1])...)
	}
	for _, name := range v.files {
		v.dirs = append(v.dirs, filepath.Dir(name))
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
