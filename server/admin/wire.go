package admin

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	adminv1 "github.com/postern-auth/postern/gen/postern/admin/v1"
	"github.com/postern-auth/postern/server/registry"
)

// This file holds what all services read and write alike.

// timeProto writes a time; nil for none.
func timeProto(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

// durationProto writes a duration; nil for none.
func durationProto(d time.Duration) *durationpb.Duration {
	if d == 0 {
		return nil
	}
	return durationpb.New(d)
}

// structProto writes facts for the policy.
func structProto(m map[string]any) *structpb.Struct {
	if len(m) == 0 {
		return nil
	}
	s, err := structpb.NewStruct(m)
	if err != nil {
		return nil // it was read as JSON, so it is
	}
	return s
}

// changeProto writes a change; nil if nothing was changed.
func changeProto(c registry.Change) *adminv1.Change {
	if c.Number == 0 {
		return nil
	}
	return &adminv1.Change{
		Number: c.Number, CommitTime: timeProto(c.CommittedAt), EffectiveTime: timeProto(c.EffectiveAt),
	}
}

// time reads a time; the zero time if it is not set.
func (v *invalid) time(field string, t *timestamppb.Timestamp) time.Time {
	if t == nil {
		return time.Time{}
	}
	if err := t.CheckValid(); err != nil || t.GetSeconds() <= 0 || t.AsTime().Year() > 9999 {
		v.add(field, "is not a time after 1970")
		return time.Time{}
	}
	return t.AsTime()
}

// maxDuration is the longest time.Duration, about 292 years.
const maxDuration = time.Duration(math.MaxInt64)

// duration reads a duration that is not negative; 0 if it is not set.
func (v *invalid) duration(field string, d *durationpb.Duration) time.Duration {
	if d == nil {
		return 0
	}
	if d.CheckValid() != nil || d.GetSeconds() > int64(maxDuration/time.Second)-1 || d.AsDuration() < 0 {
		v.add(field, "is not a duration of at least 0 and at most 292 years")
		return 0
	}
	return d.AsDuration()
}

// metadata reads facts for the policy. How long they may be is the registry's to say.
func (v *invalid) metadata(field string, s *structpb.Struct) map[string]any {
	if s == nil {
		return nil
	}
	if _, err := protojson.Marshal(s); err != nil { // NaN, infinities, values without a kind
		v.add(field, "cannot be written as JSON")
		return nil
	}
	return s.AsMap()
}

// requestID reads the id that the caller gave the call: visible ASCII characters.
func (v *invalid) requestID(id string) string {
	visible := !strings.ContainsFunc(id, func(r rune) bool { return r <= ' ' || r > '~' })
	if len(id) > registry.MaxRequestID || !visible {
		v.add("request_id", fmt.Sprintf("must be at most %d visible ASCII characters", registry.MaxRequestID))
		return ""
	}
	return id
}

// mask reads a field mask: the paths that it names, each of which must be allowed.
// "*" means all of them.
func (v *invalid) mask(m *fieldmaskpb.FieldMask, allowed []string) []string {
	names := strings.Join(allowed, ", ") + ", or *"
	if len(m.GetPaths()) == 0 {
		v.allow("update_mask", "is required", names)
	}
	var paths []string
	for _, path := range m.GetPaths() {
		switch {
		case path == "*":
			return slices.Clone(allowed)
		case !slices.Contains(allowed, path):
			v.allow("update_mask", "names a field that cannot be updated", names)
			return nil
		case !slices.Contains(paths, path):
			paths = append(paths, path)
		}
	}
	return paths
}

// page reads the part of a listing that is asked for.
func (v *invalid) page(req interface {
	GetPageSize() int32
	GetPageToken() string
}) registry.Page {
	return registry.Page{Size: v.pageSize(req.GetPageSize()), Token: req.GetPageToken()}
}

// pageSize reads how many records a page holds.
func (v *invalid) pageSize(n int32) int {
	switch {
	case n < 0:
		v.add("page_size", "must not be negative")
		return 0
	case n == 0:
		return defaultPage
	}
	return min(int(n), maxPage)
}

// index writes a place in a list.
func index(i int) string { return "[" + strconv.Itoa(i) + "]" }
