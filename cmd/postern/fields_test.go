package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/reflect/protoreflect"

	adminv1 "github.com/postern-auth/postern/gen/postern/admin/v1"
)

// What a flag says is what is shown.
func TestFieldsRoundTrip(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	for _, tt := range []struct{ path, text, shown string }{
		{"type", "pat", "pat"},
		{"state", "rotating", "rotating"},
		{"display_name", "my laptop", "my laptop"},
		{"roles", "reader", "reader"},
		{"constraints.networks", "10.0.0.0/8", "10.0.0.0/8"},
		{"constraints.require_tls", "true", "true"},
		{"constraints.windows", "mon-wed,sun/08:00-17:30", "mon,tue,wed,sun/08:00-17:30"},
		{"constraints.windows", "22:00-24:00", "22:00-24:00"},
		{"ttl", "90d", "90d"},
		{"expire_time", "1d", formatTime(now.Add(day))},
		{"metadata", "team=a=b", `{"team":"a=b"}`},
		{"metadata", `{"level": 3, "x": [1]}`, `{"level":3,"x":[1]}`},
	} {
		m := (&adminv1.Credential{}).ProtoReflect()
		holder, fd := find(m, tt.path, true)
		if err := putField(holder, fd, tt.text, now, false); err != nil {
			t.Errorf("%s %s: %v", tt.path, tt.text, err)
		} else if got := showPath(m, tt.path); got != tt.shown {
			t.Errorf("%s %s is shown as %s, want %s", tt.path, tt.text, got, tt.shown)
		}
	}
	for _, tt := range []struct{ path, text string }{
		{"type", "personal_access_token"}, {"type", "unspecified"}, {"type", ""}, {"type", "key"}, {"roles", ""},
		{"constraints.require_tls", "perhaps"}, {"constraints.windows", "mon/"}, {"constraints.windows", "fri-mon/08:00-17:00"},
		{"constraints.windows", "someday/08:00-17:00"}, {"constraints.windows", "/08:00-17:00"}, {"ttl", "long"}, {"expire_time", "long"},
		{"metadata", "team"}, {"metadata", "=x"}, {"metadata", "{"}, {"metadata", "[1]"},
	} {
		m := (&adminv1.Credential{}).ProtoReflect()
		holder, fd := find(m, tt.path, true)
		if err := putField(holder, fd, tt.text, now, false); err == nil {
			t.Errorf("%s %q was taken", tt.path, tt.text)
		}
	}
}

// A field of a message that is new has to be thought of: can it be read and shown?
func TestEveryFieldHasAText(t *testing.T) {
	t.Parallel()
	for _, m := range []protoreflect.ProtoMessage{
		&adminv1.Credential{}, &adminv1.Principal{}, &adminv1.Tenant{}, &adminv1.Session{}, &adminv1.Denial{},
	} {
		fields := m.ProtoReflect().Descriptor().Fields()
		for i := range fields.Len() {
			fd := fields.Get(i)
			if fd.Message() == nil || fd.IsMap() || fd.Name() == "constraints" {
				continue
			}
			if got := show(fd, protoreflect.ValueOfMessage(messageOf(fd.Message().FullName()))); got == "" {
				t.Errorf("%s cannot be shown", fd.FullName())
			}
		}
	}
}

// Every call of the admin API can be made from the command line, and every field of
// a record that people may set has a flag.
func TestEveryCallHasACommand(t *testing.T) {
	t.Parallel()
	names, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	var source strings.Builder
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		source.Write(text)
	}
	for _, file := range []protoreflect.FileDescriptor{
		adminv1.File_postern_admin_v1_credential_service_proto, adminv1.File_postern_admin_v1_principal_service_proto,
		adminv1.File_postern_admin_v1_session_service_proto, adminv1.File_postern_admin_v1_tenant_service_proto,
		adminv1.File_postern_admin_v1_denylist_service_proto, adminv1.File_postern_admin_v1_audit_service_proto,
	} {
		for i := range file.Services().Len() {
			s := file.Services().Get(i)
			for j := range s.Methods().Len() {
				if name := string(s.Name()) + "_" + string(s.Methods().Get(j).Name()) + "_FullMethodName"; !strings.Contains(source.String(), name) {
					t.Errorf("no command makes the call %s", name)
				}
			}
		}
	}
	for record, fields := range map[protoreflect.ProtoMessage][]field{
		&adminv1.Credential{}: append(slices.Clone(issueFields), formatField), &adminv1.Principal{}: principalFields, &adminv1.Tenant{}: tenantFields,
	} {
		var paths []string
		for _, f := range fields {
			paths = append(paths, f.path)
		}
		text := " " + strings.Join(paths, " ") + " id type tenant principal_id kind disabled disabled_reason etag constraints" + outputOnly + " "
		d := record.ProtoReflect().Descriptor().Fields()
		for i := range d.Len() {
			if name := string(d.Get(i).Name()); !strings.Contains(text, " "+name+" ") {
				t.Errorf("%s has no flag", d.Get(i).FullName())
			}
		}
	}
}

const outputOnly = " state issued_by successor_id grace_end_time ended_reason imported low_entropy create_time update_time last_use_time has_password"

// The errors of the API are all thought of.
func TestEveryReasonIsKnown(t *testing.T) {
	t.Parallel()
	for n, name := range adminv1.ErrorReason_name {
		if _, known := advice[strings.TrimPrefix(name, "ERROR_REASON_")]; !known && n != 0 {
			t.Errorf("no advice, not even an empty one, for %s", name)
		}
	}
	for name := range advice {
		if _, known := adminv1.ErrorReason_value["ERROR_REASON_"+name]; !known {
			t.Errorf("advice for %s, which does not exist", name)
		}
	}
}
