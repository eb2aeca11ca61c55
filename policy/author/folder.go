package author

import (
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"
)

// folder is texts by the names of their files, as a file system, for whatever reads one.
// Where a name is that of a file and of a directory, it is the file's.
type folder map[string]string

// Open implements fs.FS.
func (f folder) Open(name string) (fs.File, error) {
	if !fs.ValidPath(name) {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrInvalid}
	}
	if text, ok := f[name]; ok {
		return &openFile{entry{path.Base(name), len(text), 0o444}, strings.NewReader(text)}, nil
	}
	below := f.below(name)
	if len(below) == 0 && name != "." {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return &openDir{entry{path.Base(name), 0, fs.ModeDir | 0o555}, below}, nil
}

// below lists a directory, by name.
func (f folder) below(dir string) (all []fs.DirEntry) {
	prefix := strings.TrimPrefix(dir+"/", "./")
	seen := map[string]entry{}
	for name, text := range f {
		rest, inside := strings.CutPrefix(name, prefix)
		if !inside {
			continue
		}
		first, _, deeper := strings.Cut(rest, "/")
		if !deeper {
			seen[first] = entry{first, len(text), 0o444}
		} else if _, there := seen[first]; !there {
			seen[first] = entry{first, 0, fs.ModeDir | 0o555}
		}
	}
	for _, e := range seen {
		all = append(all, fs.FileInfoToDirEntry(e))
	}
	slices.SortFunc(all, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return all
}

// entry is a file or a directory as it is listed. It implements fs.FileInfo.
type entry struct {
	name string
	size int
	mode fs.FileMode
}

func (e entry) Name() string       { return e.name }
func (e entry) Size() int64        { return int64(e.size) }
func (e entry) Mode() fs.FileMode  { return e.mode }
func (e entry) ModTime() time.Time { return time.Time{} }
func (e entry) IsDir() bool        { return e.mode.IsDir() }
func (e entry) Sys() any           { return nil }

type openFile struct {
	entry entry
	text  *strings.Reader
}

func (f *openFile) Stat() (fs.FileInfo, error) { return f.entry, nil }
func (f *openFile) Read(p []byte) (int, error) { return f.text.Read(p) }
func (f *openFile) Close() error               { return nil }

type openDir struct {
	entry entry
	left  []fs.DirEntry
}

func (d *openDir) Stat() (fs.FileInfo, error) { return d.entry, nil }
func (d *openDir) Close() error               { return nil }

func (d *openDir) Read([]byte) (int, error) {
	return 0, &fs.PathError{Op: "read", Path: d.entry.name, Err: fs.ErrInvalid}
}

// ReadDir implements fs.ReadDirFile.
func (d *openDir) ReadDir(n int) ([]fs.DirEntry, error) {
	if n > 0 && len(d.left) == 0 {
		return nil, io.EOF
	}
	if n <= 0 || n > len(d.left) {
		n = len(d.left)
	}
	next := d.left[:n:n]
	d.left = d.left[n:]
	return next, nil
}
