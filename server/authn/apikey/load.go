package apikey

import (
	"bytes"
	"errors"
	"fmt"
	"hash/maphash"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/postern-auth/postern/server/authn"
	"github.com/postern-auth/postern/server/strictyaml"
)

const (
	// maxYAMLSize bounds what strictyaml reads at once, which takes 25 times as
	// much memory and, if there is a mistake in it, 40 times: that is for files
	// that people lay out as they like.
	maxYAMLSize = 32 << 20
	// maxWholeMistake bounds the files that it reads as a whole to say what is
	// wrong. A typing error must not use up the memory of a server, so of a larger
	// file it reads the entries at fault.
	maxWholeMistake = 1 << 20
	// maxFaulty bounds how many those are: one more than errors are listed.
	maxFaulty = 101
)

// loadKeysFile makes an index of a keys file. On any mistake there is none, and
// the error lists all mistakes. It never shows a key, whatever place it stands in.
//
// strictyaml decides what a keys file means. But a file that ends with its list of
// keys can be cut in front of each entry, and the parts mean alone what they mean
// together (but for a text in quotes or brackets that goes over several lines, one
// of which looks like the start of an entry; such a part is no YAML, so this is
// noticed). That makes three ways to read, each for what the one before leaves:
//
//  1. entry by entry, on all processors, into the index at once: with an
//     entryReader what Key.Entry writes, with strictyaml what people write
//  2. the entries at fault, with strictyaml, to say what is wrong
//  3. the whole file, with strictyaml
func loadKeysFile(name string, src []byte, prefix string, l limits, maxSize int) (*index, error) {
	if len(src) > maxSize {
		return nil, fmt.Errorf("%s is larger than %d bytes", name, maxSize)
	}
	if err := refusePlaintext(name, src, prefix); err != nil {
		return nil, err
	}
	if file, ok := layOut(src); ok {
		ix, faulty, err := file.load(name, &l)
		if ix != nil || err != nil {
			return ix, err
		}
		if len(src) > maxWholeMistake {
			if _, err := decodeKeysFile(name, file.only(faulty), l); err != nil {
				return nil, renumber(err, faulty)
			}
		}
	}
	return loadWhole(name, src, l)
}

func loadWhole(name string, src []byte, l limits) (*index, error) {
	if len(src) > maxYAMLSize {
		return nil, fmt.Errorf("%s is larger than %d bytes, and such a file has to end with its list of keys: "+
			"a line `keys:`, then one entry after another, each beginning with two spaces and a dash", name, maxYAMLSize)
	}
	f, err := decodeKeysFile(name, src, l)
	if err != nil {
		return nil, err
	}
	denylist, err := newDenylist(f.Revocations, &l)
	if err != nil {
		return nil, err
	}
	keys := make([]Key, len(f.Keys))
	for i := range f.Keys {
		keys[i] = f.Keys[i].Key
	}
	return newIndex(keys, denylist, &l)
}

// layout is a keys file in parts, each of whole lines.
type layout struct {
	// head is what stands before the line "keys:", list that line and comments
	// behind it, body the entries.
	head, list, body []byte
	// starts are the offsets of the entries in body, and its length.
	starts []int
}

var (
	listStart  = []byte("keys:\n")
	entryStart = []byte("\n  -")
)

// layOut cuts a file in front of each entry, or reports that it does not end
// with a list of entries.
func layOut(src []byte) (layout, bool) {
	at := 0
	if !bytes.HasPrefix(src, listStart) {
		if at = 1 + bytes.Index(src, slices.Concat([]byte{'\n'}, listStart)); at == 0 {
			return layout{}, false
		}
	}
	list := src[at:]
	first := 1 + bytes.Index(list, entryStart)
	if first == 0 || !isHead(src[:at]) || !saysNothing(list[len(listStart):first]) {
		return layout{}, false
	}
	l := layout{head: src[:at], list: list[:first], body: list[first:]}
	l.starts = make([]int, 0, 2+bytes.Count(l.body, entryStart))
	for at := 0; at < len(l.body); {
		l.starts = append(l.starts, at)
		next := bytes.Index(l.body[at:], entryStart)
		if next < 0 {
			break
		}
		at += next + 1
	}
	l.starts = append(l.starts, len(l.body))
	return l, true
}

func (f *layout) len() int           { return len(f.starts) - 1 }
func (f *layout) entry(i int) []byte { return f.body[f.starts[i]:f.starts[i+1]:f.starts[i+1]] }

// isHead reports whether the lines, if they are YAML at all, are a mapping that
// goes on with whatever stands in the first column.
func isHead(head []byte) bool {
	inMapping := false
	for line := range bytes.Lines(head) {
		switch {
		case line[0] == '\n', line[0] == '#':
		case line[0] >= 'a' && line[0] <= 'z':
			inMapping = true
		case !inMapping, line[0] != ' ' && !bytes.HasPrefix(line, []byte("- ")):
			return false
		}
	}
	return true
}

// isIndented reports whether only comments stand in the first column.
func isIndented(part []byte) bool {
	for line := range bytes.Lines(part) {
		if line[0] != ' ' && line[0] != '\n' && line[0] != '#' {
			return false
		}
	}
	return true
}

// saysNothing reports whether all lines are empty or comments, with nothing in
// them that a keys file must not hold.
func saysNothing(part []byte) bool {
	for line := range bytes.Lines(part) {
		if text := bytes.TrimSuffix(line, []byte{'\n'}); len(text) > 0 && (text[0] != '#' || !isPrintable(text)) {
			return false
		}
	}
	return true
}

const (
	// batch is how many entries a worker takes at a time,
	batch = 512
	// and maxBatchSize how many bytes of them it gives to strictyaml at once.
	maxBatchSize = 256 << 10
)

// load reads the file entry by entry. It returns no index if anything in the
// file is wrong or not understood, and the places of the entries with which this
// is so.
func (f *layout) load(name string, l *limits) (*index, []int, error) {
	ix := emptyIndex(f.len())
	marks := newMarks(f.len())
	workers := make([]worker, min(runtime.GOMAXPROCS(0), 1+f.len()/batch))
	var next atomic.Int64
	var all sync.WaitGroup
	var err error
	for i := range workers {
		w := &workers[i]
		*w = worker{name: name, file: f, index: ix, marks: marks, limits: *l, reader: newEntryReader()}
		all.Go(func() {
			for from := 0; from < f.len() && len(w.faulty) < maxFaulty; {
				to := int(next.Add(batch))
				from = to - batch
				w.take(from, min(to, f.len()))
			}
		})
	}
	denylist, ok := f.denylist(name, l)
	ix.denylist = denylist
	all.Wait()

	faulty := marks.twins()
	for i := range workers {
		faulty = append(faulty, workers[i].faulty...)
		if workers[i].err != nil {
			err = workers[i].err
		}
	}
	if err != nil || !ok || len(faulty) > 0 {
		slices.Sort(faulty)
		return nil, slices.Compact(faulty), err
	}
	ix.link()
	return ix, nil, nil
}

// denylist reads what stands before the keys, which is a keys file without keys.
func (f *layout) denylist(name string, l *limits) (*authn.Denylist, bool) {
	if saysNothing(f.head) {
		return nil, true
	}
	if len(f.head) > maxYAMLSize {
		return nil, false
	}
	head, err := decodeKeysFile(name, f.head, *l)
	if err != nil || head.Keys != nil {
		return nil, false
	}
	denylist, err := newDenylist(head.Revocations, l)
	return denylist, err == nil
}

// worker reads entries into an index.
type worker struct {
	name   string
	file   *layout
	index  *index
	marks  *marks
	limits limits
	reader *entryReader
	shared profiles

	faulty []int
	err    error
}

// take reads the entries from one place up to another.
func (w *worker) take(from, to int) {
	var others []int
	size := 0
	for i := from; i < to; i++ {
		entry := w.file.entry(i)
		if k, ok := w.reader.read(entry); ok {
			w.accept(i, k)
			continue
		}
		others, size = append(others, i), size+len(entry)
		if size > maxBatchSize {
			w.strict(others)
			others, size = nil, 0
		}
	}
	w.strict(others)
}

// strict reads entries with strictyaml: all at once, or, if there is something
// wrong with any, in halves.
func (w *worker) strict(places []int) {
	if len(places) == 0 || len(w.faulty) >= maxFaulty {
		return
	}
	if keys := w.decode(places); keys != nil {
		for n, i := range places {
			w.accept(i, &keys[n])
		}
		return
	}
	if len(places) == 1 {
		w.faulty = append(w.faulty, places[0])
		return
	}
	half := len(places) / 2
	w.strict(places[:half])
	w.strict(places[half:])
}

// decode reads entries as a keys file of their own, or returns nil.
func (w *worker) decode(places []int) []fileKey {
	src := slices.Clone(listStart)
	for _, i := range places {
		src = append(src, w.file.entry(i)...)
	}
	if len(src) > maxYAMLSize || !isIndented(src[len(listStart):]) {
		return nil
	}
	f, err := decodeKeysFile(w.name, src, w.limits)
	if err != nil || len(f.Keys) != len(places) {
		return nil
	}
	return f.Keys
}

// accept checks a key and puts it into the index.
func (w *worker) accept(i int, k *fileKey) {
	ok := true
	complain := func(string, string, string) { ok = false }
	k.Check(complain)
	w.limits.check(k, complain)
	if !ok {
		w.faulty = append(w.faulty, i)
		return
	}
	w.marks.set(i, &k.Key)
	if err := w.index.put(i, &k.Key, &w.shared, &w.limits); err != nil {
		w.err = err
	}
}

// marks are hashes of what must not occur twice in a file, by entry. They need
// no more than 16 bytes a key and let only those be looked at that may be equal.
type marks struct {
	seed         maphash.Seed
	ids, digests []uint64
}

func newMarks(n int) *marks {
	return &marks{seed: maphash.MakeSeed(), ids: make([]uint64, n), digests: make([]uint64, n)}
}

func (m *marks) set(i int, k *Key) {
	m.ids[i], m.digests[i] = maphash.String(m.seed, k.ID), maphash.Comparable(m.seed, k.Digest)
}

// twins returns the places of the entries that share their id or their digest
// with another.
func (m *marks) twins() (places []int) {
	for _, of := range [][]uint64{m.ids, m.digests} {
		sorted := slices.Sorted(slices.Values(of))
		twice := map[uint64]bool{}
		for i := 1; i < len(sorted); i++ {
			if sorted[i] == sorted[i-1] && sorted[i] != 0 { // 0: not read
				twice[sorted[i]] = true
			}
		}
		for i := 0; len(twice) > 0 && i < len(of); i++ {
			if twice[of[i]] {
				places = append(places, i)
			}
		}
	}
	return places
}

// only returns the file with empty lines in place of all entries but some, so
// that what is said about those names their lines.
func (f *layout) only(entries []int) []byte {
	if len(entries) == 0 {
		return f.head
	}
	b := slices.Concat(f.head, f.list)
	at := 0
	for _, i := range entries[:min(len(entries), maxFaulty)] {
		b = append(b, bytes.Repeat([]byte{'\n'}, bytes.Count(f.body[at:f.starts[i]], []byte{'\n'}))...)
		b = append(b, f.entry(i)...)
		at = f.starts[i+1]
	}
	return b
}

var keyNumber = regexp.MustCompile(`\bkeys\[([0-9]+)\]`)

// renumber gives the entries in an error about some of them the numbers that
// they have in the file.
func renumber(err error, entries []int) error {
	var all strictyaml.Errors
	if !errors.As(err, &all) {
		return err
	}
	inFile := func(text string) string {
		return keyNumber.ReplaceAllStringFunc(text, func(number string) string {
			i, err := strconv.Atoi(number[len("keys[") : len(number)-1])
			if err != nil || i >= len(entries) {
				return number
			}
			return fmt.Sprintf("keys[%d]", entries[i])
		})
	}
	for _, e := range all {
		e.Path, e.Message = inFile(e.Path), inFile(e.Message)
	}
	return all
}
