package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	adminv1 "github.com/postern-auth/postern/gen/postern/admin/v1"
)

// This file is between people and messages: each value of a message has a text that
// a flag or a cell of a table can hold, and is read and shown by its type alone. So
// a field of the protocol needs one line here: the flag that it has (field).

// field is a flag and the field of a request that it fills.
type field struct {
	// flag is its name. One letter more is its short form: "yes,y".
	flag string
	// path is the field, as "credential.constraints.networks".
	path string
	// usage is its line in the help.
	usage string
	// past says that a bare duration in place of a time means so long ago.
	past bool
}

// below returns fields of a record as fields of the request that holds it.
func below(record string, fields []field) []field {
	all := slices.Clone(fields)
	for i := range all {
		all[i].path = record + "." + all[i].path
	}
	return all
}

// find walks a path. The last name's field is returned with the message that holds
// it, which is made on the way if grow is set.
func find(m protoreflect.Message, path string, grow bool) (protoreflect.Message, protoreflect.FieldDescriptor) {
	for {
		name, rest, deeper := strings.Cut(path, ".")
		fd := m.Descriptor().Fields().ByName(protoreflect.Name(name))
		if !deeper || fd == nil {
			return m, fd
		}
		if grow {
			m = m.Mutable(fd).Message()
		} else {
			m = m.Get(fd).Message()
		}
		path = rest
	}
}

// fieldOf is the description of a field of a message, or nil.
func fieldOf(m protoreflect.Message, path string) protoreflect.FieldDescriptor {
	_, fd := find(m, path, false)
	return fd
}

// value is a flag.Value that remembers texts until they are put into a request.
type value struct {
	field
	fd    protoreflect.FieldDescriptor
	texts []string
}

// String, Set and Type implement pflag.Value.
func (v *value) String() string { return "" }

func (v *value) Set(text string) error {
	scratch := v.scratch()
	if err := putField(scratch, v.fd, text, time.Now(), v.past); err != nil {
		return err
	}
	if !v.fd.IsList() && !collects(v.fd) {
		v.texts = nil
	}
	v.texts = append(v.texts, text)
	return nil
}

func (v *value) scratch() protoreflect.Message {
	return messageOf(v.fd.ContainingMessage().FullName())
}

func (v *value) Type() string {
	switch kind := v.fd.Kind(); {
	case v.fd.IsMap() || isMessage(v.fd, "google.protobuf.Struct"):
		return "name=value"
	case isMessage(v.fd, "google.protobuf.Duration"):
		return "duration"
	case isMessage(v.fd, "google.protobuf.Timestamp"):
		return "time"
	case isMessage(v.fd, "postern.admin.v1.TimeWindow"):
		return "window"
	case kind == protoreflect.BoolKind:
		return "bool"
	case kind == protoreflect.Int32Kind, kind == protoreflect.Int64Kind:
		return "number"
	case kind == protoreflect.EnumKind:
		return v.flag
	}
	return "text"
}

// applyAll puts what all flags say into a message. Two that are alternatives, such as
// --expires-in and --expires-at, do not go together.
func applyAll(values []*value, m protoreflect.Message, now time.Time) error {
	taken := map[protoreflect.FullName]string{}
	for _, v := range values {
		if len(v.texts) == 0 {
			continue
		}
		if one := v.fd.ContainingOneof(); one != nil {
			if other := taken[one.FullName()]; other != "" {
				return fmt.Errorf("--%s and --%s do not go together", other, v.flag)
			}
			taken[one.FullName()] = v.flag
		}
		if err := v.apply(m, now); err != nil {
			return fmt.Errorf("--%s: %w", v.flag, err)
		}
	}
	return nil
}

// apply puts what was said in place of what the request holds there.
func (v *value) apply(m protoreflect.Message, now time.Time) error {
	holder, fd := find(m, v.path, true)
	holder.Clear(fd)
	for _, text := range v.texts {
		if err := putField(holder, fd, text, now, v.past); err != nil {
			return err
		}
	}
	return nil
}

// collects reports whether a field is no list and still takes more than one text.
func collects(fd protoreflect.FieldDescriptor) bool {
	return fd.IsMap() || isMessage(fd, "google.protobuf.Struct")
}

func isMessage(fd protoreflect.FieldDescriptor, name protoreflect.FullName) bool {
	return fd.Message() != nil && fd.Message().FullName() == name
}

// putField adds a text to a field: to a list as its next item.
func putField(m protoreflect.Message, fd protoreflect.FieldDescriptor, text string, now time.Time, past bool) error {
	switch {
	case fd.IsMap():
		name, content, ok := strings.Cut(text, "=")
		if !ok || name == "" {
			return errors.New("write name=value")
		}
		m.Mutable(fd).Map().Set(protoreflect.ValueOfString(name).MapKey(), protoreflect.ValueOfString(content))
		return nil
	case isMessage(fd, "google.protobuf.Struct"):
		return putFact(m, fd, text)
	case fd.IsList() && text == "":
		return errors.New("is empty")
	}
	v, err := scalar(fd, text, now, past)
	switch {
	case err != nil:
		return err
	case fd.IsList():
		m.Mutable(fd).List().Append(v)
	default:
		m.Set(fd, v)
	}
	return nil
}

func scalar(fd protoreflect.FieldDescriptor, text string, now time.Time, past bool) (protoreflect.Value, error) {
	var none protoreflect.Value
	switch {
	case fd.Kind() == protoreflect.StringKind:
		return protoreflect.ValueOfString(text), nil
	case fd.Kind() == protoreflect.BoolKind:
		b, err := strconv.ParseBool(text)
		if err != nil {
			return none, errors.New("write true or false")
		}
		return protoreflect.ValueOfBool(b), nil
	case fd.Kind() == protoreflect.Int32Kind:
		n, err := strconv.ParseInt(text, 10, 32)
		if err != nil {
			return none, errors.New("write a number")
		}
		return protoreflect.ValueOfInt32(int32(n)), nil
	case fd.Kind() == protoreflect.Int64Kind:
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return none, errors.New("write a number")
		}
		return protoreflect.ValueOfInt64(n), nil
	case fd.Kind() == protoreflect.EnumKind:
		return choice(fd.Enum(), text)
	case isMessage(fd, "google.protobuf.Duration"):
		d, err := parseDuration(text)
		return protoreflect.ValueOfMessage(durationpb.New(d).ProtoReflect()), err
	case isMessage(fd, "google.protobuf.Timestamp"):
		t, err := parseTime(text, now, past)
		return protoreflect.ValueOfMessage(timestamppb.New(t).ProtoReflect()), err
	case isMessage(fd, "postern.admin.v1.TimeWindow"):
		w, err := parseWindow(text)
		return protoreflect.ValueOfMessage(w.ProtoReflect()), err
	}
	return none, fmt.Errorf("a %s has no text", fd.Kind())
}

// putFact adds name=value, a text, to facts for the policy, or a whole JSON object.
func putFact(m protoreflect.Message, fd protoreflect.FieldDescriptor, text string) error {
	facts := &structpb.Struct{}
	if name, content, ok := strings.Cut(text, "="); ok && name != "" && !strings.HasPrefix(name, "{") {
		facts.Fields = map[string]*structpb.Value{name: structpb.NewStringValue(content)}
	} else if protojson.Unmarshal([]byte(text), facts) != nil {
		return errors.New(`write name=value, or JSON such as {"level": 3}`)
	}
	proto.Merge(m.Mutable(fd).Message().Interface(), facts)
	return nil
}

// weekdays are the days of a time window.
var weekdays = []string{"mon", "tue", "wed", "thu", "fri", "sat", "sun"}

var errWindow = errors.New("write a time window in UTC such as mon-fri,sun/08:00-17:30 or 22:00-24:00")

// parseWindow reads "mon-fri,sun/08:00-17:30"; without days it is every day.
func parseWindow(text string) (*adminv1.TimeWindow, error) {
	days, span, some := strings.Cut(text, "/")
	if !some {
		days, span = "", text
	}
	w := &adminv1.TimeWindow{}
	var ok bool
	if w.From, w.To, ok = strings.Cut(span, "-"); !ok || w.From == "" || w.To == "" {
		return w, errWindow
	}
	if !some {
		return w, nil
	}
	for part := range strings.SplitSeq(days, ",") {
		first, last, isRange := strings.Cut(part, "-")
		if !isRange {
			last = first
		}
		i, j := slices.Index(weekdays, first), slices.Index(weekdays, last)
		if i < 0 || j < i {
			return w, errWindow
		}
		w.Days = append(w.Days, weekdays[i:j+1]...)
	}
	return w, nil
}

func formatWindow(w *adminv1.TimeWindow) string {
	span := w.GetFrom() + "-" + w.GetTo()
	if len(w.GetDays()) == 0 {
		return span
	}
	return strings.Join(w.GetDays(), ",") + "/" + span
}

// shortWords are values that people call otherwise; "" is for what nobody can ask
// for.
var shortWords = map[string]string{"personal_access_token": "pat", "unspecified": "", "anonymous": ""}

// wordOf is a value of an enumeration as people write it: without the prefix that
// all of them share.
func wordOf(v protoreflect.EnumValueDescriptor) string {
	prefix := strings.TrimSuffix(string(v.Parent().(protoreflect.EnumDescriptor).Values().ByNumber(0).Name()), "UNSPECIFIED")
	text := strings.ToLower(strings.TrimPrefix(string(v.Name()), prefix))
	if short, ok := shortWords[text]; ok {
		return short
	}
	return text
}

// words are the values of an enumeration that can be asked for.
func words(e protoreflect.EnumDescriptor) (all []string) {
	for i := range e.Values().Len() {
		if w := wordOf(e.Values().Get(i)); w != "" {
			all = append(all, w)
		}
	}
	return all
}

func choice(e protoreflect.EnumDescriptor, text string) (protoreflect.Value, error) {
	for i := range e.Values().Len() {
		if v := e.Values().Get(i); text != "" && wordOf(v) == text {
			return protoreflect.ValueOfEnum(v.Number()), nil
		}
	}
	return protoreflect.Value{}, fmt.Errorf("use %s", strings.Join(words(e), ", "))
}

// showPath is the text of the field at a path. That of a oneof is the name of the one
// that is set and its value.
func showPath(m protoreflect.Message, path string) string {
	holder, fd := find(m, path, false)
	if fd != nil {
		return showField(holder, fd)
	}
	if one := m.Descriptor().Oneofs().ByName(protoreflect.Name(path)); one != nil {
		if fd = m.WhichOneof(one); fd != nil {
			return strings.ReplaceAll(string(fd.Name()), "_", "-") + "=" + showField(m, fd)
		}
	}
	return ""
}

// showField is the text of a field; empty if it is not set.
func showField(m protoreflect.Message, fd protoreflect.FieldDescriptor) string {
	if fd == nil || !m.Has(fd) {
		return ""
	}
	v := m.Get(fd)
	var items []string
	switch {
	case fd.IsMap():
		for k, item := range v.Map().Range {
			items = append(items, k.String()+"="+item.String())
		}
		slices.Sort(items)
	case fd.IsList():
		for i := range v.List().Len() {
			items = append(items, show(fd, v.List().Get(i)))
		}
	default:
		items = []string{show(fd, v)}
	}
	return strings.Join(items, " ")
}

func show(fd protoreflect.FieldDescriptor, v protoreflect.Value) string {
	switch {
	case fd.Kind() == protoreflect.EnumKind:
		if d := fd.Enum().Values().ByNumber(v.Enum()); d != nil {
			return wordOf(d)
		}
		return strconv.Itoa(int(v.Enum())) // of a server that is newer
	case fd.Kind() != protoreflect.MessageKind:
		return v.String()
	}
	switch m := v.Message().Interface().(type) {
	case *timestamppb.Timestamp:
		return formatTime(m.AsTime())
	case *durationpb.Duration:
		return formatDuration(m.AsDuration())
	case *adminv1.TimeWindow:
		return formatWindow(m)
	case *structpb.Struct:
		text, _ := json.Marshal(m.AsMap()) // in the order of the names, unlike protojson
		return string(text)
	}
	return ""
}
