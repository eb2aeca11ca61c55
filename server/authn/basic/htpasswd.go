package basic

import (
	"bytes"
	"errors"
	"fmt"
	"hash/maphash"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/postern-auth/postern/server/authn"
	"github.com/postern-auth/postern/server/password"
)

// Bounds of the file. A hash is no longer than 512 bytes.
const (
	maxFile   = 16 << 20
	maxLine   = 4 << 10
	maxFaults = 100
)

// Issuer vouches for the users of the file, in principals: they are others than those of
// the store who have the same name.
const Issuer = "htpasswd"

// fileUser is a line of the file.
type fileUser struct {
	// line tells its states apart.
	line  string
	hash  string
	roles []string
}

// file is a whole file.
type file struct {
	text  []byte
	users map[string]*fileUser
	// decoys are the users in the order of their lines.
	decoys []*fileUser
	seed   maphash.Seed
}

// decoy returns the user whose hash is computed for a name that is not in the file. It
// is always the same for a name, and all of them are chosen alike, so that names which
// are not there cost what those cost that are, whatever the schemes.
func (f *file) decoy(name string) *fileUser {
	if len(f.decoys) == 0 {
		return nil
	}
	return f.decoys[maphash.String(f.seed, name)%uint64(len(f.decoys))]
}

// parseFile reads the lines of a file. The error names all that are wrong, up to a
// bound, and shows nothing of them: they hold hashes, or passwords.
func parseFile(name string, text []byte) (*file, error) {
	f := &file{text: text, users: map[string]*fileUser{}, seed: maphash.MakeSeed()}
	var faults []error
	number := 0
	for line := range bytes.Lines(text) {
		number++
		user, u, err := parseLine(string(line))
		if err == nil && u != nil && f.users[user] != nil {
			err = errors.New("names a user who is there already")
		}
		switch {
		case err != nil && len(faults) == maxFaults:
			return nil, errors.Join(faults...)
		case err != nil:
			faults = append(faults, fmt.Errorf("%s:%d: %w", name, number, err))
		case u != nil:
			f.users[user] = u
			f.decoys = append(f.decoys, u)
		}
	}
	return f, errors.Join(faults...)
}

// parseLine reads `user:hash` or `user:hash:role,role`; nil for a blank line or a
// comment.
func parseLine(line string) (user string, u *fileUser, err error) {
	line = strings.TrimSuffix(strings.TrimSuffix(line, "\n"), "\r")
	if line == "" || strings.HasPrefix(line, "#") {
		return "", nil, nil
	}
	fields := strings.Split(line, ":")
	switch {
	case len(line) > maxLine || !utf8.ValidString(line) || strings.ContainsFunc(line, isUnseen):
		return "", nil, fmt.Errorf("is not a text of at most %d bytes without control characters", maxLine)
	case len(fields) != 2 && len(fields) != 3:
		return "", nil, errors.New("is not user:hash or user:hash:role,role")
	case fields[0] == "" || len(fields[0]) > authn.MaxUser || strings.TrimSpace(fields[0]) != fields[0]:
		return "", nil, fmt.Errorf("a user has 1 to %d bytes and no space around it", authn.MaxUser)
	}
	if err := password.Check(fields[1]); err != nil {
		return "", nil, fmt.Errorf("%w; make one with htpasswd -B", err)
	}
	u = &fileUser{line: line, hash: fields[1]}
	if len(fields) == 3 {
		u.roles = strings.Split(fields[2], ",")
		if slices.ContainsFunc(u.roles, func(r string) bool { return r == "" || strings.ContainsAny(r, " *\"\\") }) {
			return "", nil, errors.New("a role is empty, or holds a space, a quote, a backslash or *")
		}
	}
	return fields[0], u, nil
}

// isUnseen reports control and format characters, such as a byte order mark.
func isUnseen(r rune) bool { return unicode.IsControl(r) || unicode.Is(unicode.Cf, r) }
