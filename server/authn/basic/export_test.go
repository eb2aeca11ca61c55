package basic

import "github.com/postern-auth/postern/server/authn"

// Who splits a user-id.
func Who(c Config, user string) (tenant, name string) { return c.who(user) }

// KeyOf is the key under which a password of a user of the store is remembered, by a
// process whose secret is k.
func KeyOf(k [32]byte, t Try, v authn.Version) [32]byte {
	return (*key)(&k).of(&t, subject{version: v})
}

// ParseFile reads a htpasswd file and returns how many users it has.
func ParseFile(text []byte) (users int, err error) {
	f, err := parseFile("htpasswd", text)
	if err != nil {
		return 0, err
	}
	return len(f.users), nil
}

// ParseLine reads a line of it.
func ParseLine(line string) (user, hash string, roles []string, err error) {
	user, u, err := parseLine(line)
	if u == nil {
		return user, "", nil, err
	}
	return user, u.hash, u.roles, err
}
