package mirror

import (
	"sync/atomic"
	"time"
)

// The four things that an answer is made of each have a place that stays, with what
// never changes about it, and in it a cell with what does. Who belongs to whom is a
// pointer to the place: a change of a principal counts at once for all that it has,
// and touches none of it.
//
//	credential, session ── principal ── its owner ── …
//	                           └────── tenant

// tenant is the place of a tenant.
type tenant struct {
	id    string
	state cell[tenantBody]
}

type tenantBody struct {
	name     string
	disabled bool
	damaged  bool
}

// principal is the place of a principal, whether there is one or not.
type principal struct {
	key    string
	world  *world
	tenant *tenant // nil for none
	state  cell[principalBody]
	// used is the writer's: how many places point to this one.
	used int
}

type principalBody struct {
	name     string
	person   *pooled[person]
	owner    *principal  // nil for none
	agent    *registered // nil for all that are no agents
	disabled bool
	damaged  bool
}

// credential is the place of a key or token, and implements authn.Sealed.
type credential struct {
	sum    [32]byte
	id     string
	owner  *principal
	state  cell[credentialBody]
	pepper uint16 // 0 if it was imported
	// warned is the last threshold before its end that was reported.
	warned atomic.Uint32
}

type credentialBody struct {
	life
	created int64
	name    string
	profile *pooled[profile]
	proof   atomic.Pointer[built]
}

// session is the place of a session, and implements authn.Sealed.
type session struct {
	sum    [32]byte
	id     string
	owner  *principal
	state  cell[sessionBody]
	pepper uint16
	// touched is when it was used, in Unix nanoseconds, within a tenth of idle.
	touched atomic.Int64
}

type sessionBody struct {
	life
	created, authenticated int64
	idle                   time.Duration
	acr                    string
	amr                    []string
	successor              string
	proof                  atomic.Pointer[built]
}
