package seal

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"iter"
	"regexp"
)

// Info is what a secret says about itself. It never holds the secret.
type Info struct {
	Parts
	// ChecksumOK says that the checksum fits: the text was typed without error,
	// not that there is such a secret.
	ChecksumOK bool
}

// Inspect reads the public parts of a secret, whatever its prefix and kind. The
// error does not repeat the text.
func Inspect(text string) (Info, error) {
	p, err := Parse(text)
	if err != nil {
		return Info{}, err
	}
	return Info{Parts: p, ChecksumOK: ChecksumFits(text)}, nil
}

// ScannerRegexp returns the pattern of keys with the prefix, in RE2 syntax, for
// secret scanners. A scanner that can also compute the CRC-32 (IEEE) of all but
// the last six characters, in base62 digits 0-9A-Za-z, has no false alarms.
func ScannerRegexp(prefix string) string {
	return `\b` + keyPattern(prefix) + `\b`
}

func keyPattern(prefix string) string {
	word := fmt.Sprintf(`[a-z][a-z0-9]{0,%d}`, WordLen-1)
	return fmt.Sprintf(`%s_%s(?:_%s)?_[0-9A-Za-z]{%d}_[0-9A-Za-z]{%d}`,
		regexp.QuoteMeta(prefix), word, word, IDLen, SecretLen+ChecksumLen)
}

// Finding is a key that lies where it should not.
type Finding struct {
	Info
	// Offset is the number of bytes before it, Line the number of its line,
	// counted from 1.
	Offset int64
	Line   int
}

// scanWindow is how much Scan holds at a time.
const scanWindow = 64 << 10

// Scan finds the keys with the prefix in a text, in any surroundings, and
// reports only those whose checksum fits. It holds 64 KiB at a time, however
// large the text is. A read error ends the sequence as its last element.
func Scan(r io.Reader, prefix string) iter.Seq2[Finding, error] {
	return func(yield func(Finding, error) bool) {
		if !IsWord(prefix) {
			yield(Finding{}, errors.New("the prefix of a key is a lower-case word"))
			return
		}
		s := scanner{pattern: regexp.MustCompile(keyPattern(prefix)), line: 1}
		buf := make([]byte, 0, scanWindow)
		for {
			n, err := io.ReadFull(r, buf[len(buf):cap(buf)])
			buf = buf[:len(buf)+n]
			last := err != nil
			if !s.window(buf, last, func(f Finding) bool { return yield(f, nil) }) {
				return
			}
			if last {
				if err != io.EOF && err != io.ErrUnexpectedEOF {
					yield(Finding{}, fmt.Errorf("scanning for keys: %w", err))
				}
				return
			}
			buf = buf[:copy(buf, buf[s.done:])]
			s.done = 0
		}
	}
}

// scanner knows how far a scan has come.
type scanner struct {
	pattern *regexp.Regexp
	// offset and line are those of the byte at done, the first of the window that
	// is not dealt with yet.
	offset int64
	line   int
	done   int
}

// window reports the keys that begin in the window, but for those that may go
// on behind its end: unless it is the last window, they are left for the next.
func (s *scanner) window(buf []byte, last bool, report func(Finding) bool) bool {
	end := len(buf)
	if !last {
		end = max(0, end-MaxLen)
	}
	for s.done < end {
		at := s.pattern.FindIndex(buf[s.done:])
		if at == nil || s.done+at[0] >= end {
			break
		}
		text := string(buf[s.done+at[0] : s.done+at[1]])
		s.advance(buf, s.done+at[0])
		if info, err := Inspect(text); err == nil && info.ChecksumOK {
			if !report(Finding{Info: info, Offset: s.offset, Line: s.line}) {
				return false
			}
		}
		// The next may begin one byte later: what looked like a key may have been
		// something else in front of one.
		s.advance(buf, s.done+1)
	}
	s.advance(buf, max(end, s.done))
	return true
}

func (s *scanner) advance(buf []byte, to int) {
	s.line += bytes.Count(buf[s.done:to], []byte{'\n'})
	s.offset += int64(to - s.done)
	s.done = to
}
