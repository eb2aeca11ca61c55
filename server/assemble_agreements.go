package server

import (
	"context"
	"fmt"
	"reflect"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/admin"
	"github.com/postern-auth/postern/server/audit"
	"github.com/postern-auth/postern/server/check"
	"github.com/postern-auth/postern/server/mirror"
	"github.com/postern-auth/postern/server/registry"
)

// agreements knows what people have agreed to: the mirror in RAM, and the registry in the
// store, where approvals are used up.
type agreements struct {
	mirror   *mirror.Mirror
	registry *registry.Registry
	limit    time.Duration // of a use
	offline  bool
}

// agreements returns them for a configuration; nil where there is no store.
func (env *surroundings) agreements(cfg *Config) check.Agreements {
	if env.plane == nil {
		return nil
	}
	return &agreements{env.plane.mirror, env.plane.registry, cfg.Limits.Deadline, env.offline}
}

// Consent implements check.Agreements.
func (a *agreements) Consent(p *policy.Principal, now time.Time) *policy.Agreement {
	return a.mirror.Consent(p, now)
}

// Approval implements check.Agreements.
func (a *agreements) Approval(id string, now time.Time) *policy.Approval {
	return a.mirror.Approval(id, now)
}

// Use implements check.Agreements. A question that is asked offline uses nothing up.
func (a *agreements) Use(ctx context.Context, id, action, decision string) error {
	if a.offline {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, a.limit)
	defer cancel()
	return a.registry.UseApproval(ctx, id, action, decision)
}

// Return implements check.Agreements. The caller may have gone: that is no reason for the
// approval to be lost.
func (a *agreements) Return(id, decision string) {
	if a.offline {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), a.limit)
	defer cancel()
	_ = a.registry.ReturnApproval(ctx, id, decision) // if it cannot, it stays used
}

// journal is what routes with audit_first allow, on disk.
type journal struct {
	*audit.Journal
	cfg Audit
}

// assembleJournal keeps the journal if nothing about it changed.
func assembleJournal(cfg *Config, prev *parts, env surroundings) (*journal, error) {
	switch {
	case cfg.Audit == nil || env.offline:
		return nil, nil
	case prev.journal != nil && reflect.DeepEqual(prev.journal.cfg, *cfg.Audit):
		return prev.journal, nil
	}
	f := cfg.Audit.Journal
	j, err := audit.NewJournal(audit.JournalConfig{
		FileConfig: audit.FileConfig{Path: string(f.Path), MaxSize: int64(f.MaxSize), MaxAge: f.MaxAge, Keep: f.Keep, Now: env.now},
		Limit:      cfg.Audit.Timeout, Logger: env.log,
	})
	if err != nil {
		return nil, fmt.Errorf("audit.journal: %w", err)
	}
	return &journal{j, *cfg.Audit}, nil
}

// journalOrNone is the journal in the words of the checker.
func (p *parts) journalOrNone(env surroundings) check.Journal {
	switch {
	case p.journal != nil:
		return p.journal
	case env.offline:
		return unwritten{}
	}
	return nil
}

// unwritten is the journal of a question that is asked offline.
type unwritten struct{}

// Write implements check.Journal.
func (unwritten) Write(context.Context, *audit.Record) error { return nil }

// condition makes a replica unready whose journal cannot be written: others may do
// better.
func (j *journal) condition() admin.Condition {
	c := admin.Condition{Name: "journal", Ready: true}
	if err := j.Err(); err != nil {
		c.Ready, c.Detail = false, err.Error()
	}
	return c
}
