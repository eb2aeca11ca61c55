package audit

import (
	"context"
	"log/slog"
)

// Async is a slog.Handler that never makes anybody wait: records go through a
// bounded queue to one goroutine, and those that do not fit are dropped and
// counted. A log that nobody reads, such as a full pipe, must hold up neither an
// answer nor a revocation.
type Async struct {
	next  slog.Handler
	lines *queue[line]
}

// line is a record and the handler, with its attributes and groups, that it is for.
type line struct {
	handler slog.Handler
	record  slog.Record
}

// NewAsync starts a handler in front of another. Close ends it.
func NewAsync(next slog.Handler) *Async {
	return &Async{next, newQueue(func(l line) {
		_ = l.handler.Handle(context.Background(), l.record) // there is nowhere to report it
	})}
}

// Enabled implements slog.Handler.
func (a *Async) Enabled(ctx context.Context, level slog.Level) bool {
	return a.next.Enabled(ctx, level)
}

// Handle implements slog.Handler.
func (a *Async) Handle(_ context.Context, r slog.Record) error {
	if !a.lines.closing.Load() {
		a.lines.put(line{a.next, r.Clone()})
	}
	return nil
}

// WithAttrs implements slog.Handler.
func (a *Async) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &Async{a.next.WithAttrs(attrs), a.lines}
}

// WithGroup implements slog.Handler.
func (a *Async) WithGroup(name string) slog.Handler { return &Async{a.next.WithGroup(name), a.lines} }

// Dropped is how many records were lost.
func (a *Async) Dropped() uint64 { return a.lines.dropped.Load() }

// Close writes what is queued and ends the goroutine, or gives up with ctx.
// Records that come later are left out. It may be called once.
func (a *Async) Close(ctx context.Context) error { return a.lines.close(ctx) }
