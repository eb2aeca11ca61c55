package authn

import "github.com/postern-auth/postern/policy"

// Person is somebody who can have a password, as far as it is known in RAM: not the
// password. Its methods wait for nothing.
type Person interface {
	// Version names the state of what is known. There is another one after every
	// change, of the password as well.
	Version() Version
	// Alive returns nil if the person counts at the moment, and does not allocate then.
	// A *Refusal says why not, for example that its tenant is disabled; any other error,
	// that this could not be found out.
	Alive() error
	// Open returns who it is and the version that this was read from, or the error of
	// Alive. The principal is a new value: the caller says in it how it was proven.
	Open() (*policy.Principal, Version, error)
}

// Version names a state of a record. Versions of different states differ.
type Version struct {
	// Epoch names the store, and Change the change that wrote the record last.
	Epoch  string
	Change int64
}

// People finds persons in RAM, without locks and without allocation.
type People interface {
	// Person returns the user of a tenant, which may be empty, or nil.
	Person(tenant, name string) Person
}
