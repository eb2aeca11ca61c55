package audit

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"slices"
	"time"
)

// Poster sends one chunk: a JSON array, gzipped.
type Poster interface {
	// Post returns whether the service will never take this chunk, apart from errors
	// that another attempt may mend.
	Post(ctx context.Context, chunk []byte) (refused bool, err error)
	Close()
}

// ServiceConfig says how events are sent to a service that takes OPA's decision logs.
type ServiceConfig struct {
	// Limit is the size of a chunk after compression, in bytes.
	Limit int
	// Delay is how long events wait for others.
	Delay time.Duration
}

// Service sends events in chunks as OPA's decision_logs plugin does: POST of a gzipped
// JSON array.
type Service struct {
	cfg  ServiceConfig
	post Poster
}

// NewService returns a sink for a service.
func NewService(cfg ServiceConfig, post Poster) *Service { return &Service{cfg, post} }

// Name implements Sink.
func (*Service) Name() string { return "service" }

// Gather implements Sink.
func (s *Service) Gather() time.Duration { return s.cfg.Delay }

// Close implements Sink.
func (s *Service) Close() error { s.post.Close(); return nil }

// perChunk is how many bytes of JSON are first tried in one chunk, per byte of the
// limit: events compress about tenfold.
const perChunk = 8

// Write implements Sink.
func (s *Service) Write(ctx context.Context, events [][]byte) (done, refused int, err error) {
	for done < len(events) {
		n := s.first(events[done:])
		chunk, n := s.pack(events[done : done+n])
		if n == 0 { // not even one fits, with nothing in it that could be left out
			done, refused = done+1, refused+1
			continue
		}
		never, err := s.post.Post(ctx, chunk)
		switch {
		case never:
			refused += n
		case err != nil:
			return done, refused, err
		}
		done += n
	}
	return done, refused, nil
}

// first is how many events to try first.
func (s *Service) first(events [][]byte) int {
	size := 0
	for i, e := range events {
		if size += len(e); size > s.cfg.Limit*perChunk {
			return max(i, 1)
		}
	}
	return len(events)
}

// pack compresses as many events, from the first on, as fit. One that is too large by
// itself goes without its input.
func (s *Service) pack(events [][]byte) (chunk []byte, n int) {
	for n = len(events); n > 0; n /= 2 {
		if chunk = compressed(events[:n]); len(chunk) <= s.cfg.Limit {
			return chunk, n
		}
	}
	if chunk = compressed([][]byte{withoutInput(events[0])}); len(chunk) <= s.cfg.Limit {
		return chunk, 1
	}
	return nil, 0
}

func compressed(events [][]byte) []byte {
	var out bytes.Buffer
	zip := gzip.NewWriter(&out) // writing to memory does not fail
	_, _ = zip.Write([]byte{'['})
	_, _ = zip.Write(bytes.Join(events, []byte{','}))
	_, _ = zip.Write([]byte{']'})
	_ = zip.Close()
	return out.Bytes()
}

// withoutInput is an event whose input is left out, and which says so.
func withoutInput(event []byte) []byte {
	var fields map[string]json.RawMessage
	var erased []string
	if json.Unmarshal(event, &fields) != nil {
		return event
	}
	_ = json.Unmarshal(fields["erased"], &erased)
	delete(fields, partInput)
	erased = slices.DeleteFunc(erased, func(place string) bool { return len(place) > len("/input") && place[:7] == "/input/" })
	fields["erased"], _ = json.Marshal(append(erased, "/"+partInput))
	delete(fields, "masked")
	smaller, err := json.Marshal(fields)
	if err != nil {
		return event
	}
	return smaller
}
