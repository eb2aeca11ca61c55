package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
)

// action is a command that makes one call of the admin API. What is not said here
// follows from the messages of the call: whether it is a list, an update or a dry
// run, what a flag holds, and which part of the answer is secret.
type action struct {
	use, short, long, example string
	// method is the full name of the call, as in the generated code.
	method string
	// args are the fields of the request that the arguments fill, in the order of use.
	// The last may be left out if it ends with "?".
	args []string
	// flags are the fields that flags of its own fill. Those of standard come by
	// themselves.
	flags []field
	// fixed are fields that the command itself fills, as "credential.type=pat".
	fixed []string
	// mask is what an update changes, if it is not what the flags say.
	mask []string
	// columns are the fields of a list's table. The first is what -q prints.
	columns []string
	// danger is what is about to happen, if a person should be asked about it.
	danger string
}

// standard are the flags of every call whose request has the field, at the top or in
// the record that it holds.
var standard = []field{
	{flag: "tenant", path: "tenant", usage: "the tenant (default: none, the installation itself)"},
	{flag: "reason", path: "reason", usage: "why, for the audit log"},
	{flag: "etag", path: "etag", usage: "do it only if this is still its etag"},
	{flag: "allow-wildcard", path: "allow_wildcard", usage: "allow * in roles, scopes and permissions: it may do what nobody has thought of yet"},
	{flag: "request-id", path: "request_id", usage: "id of the call, which makes it safe to repeat"},
	{flag: "dry-run", path: "validate_only", usage: "only check what would happen"},
}

// invocation is one run of an action.
type invocation struct {
	action
	remote
	printer
	// request is the empty request, record the field of it that holds a record.
	request protoreflect.Message
	record  string
	values  []*value
	clear   []string
	limit   int32
	yes     bool
}

// command makes the command of an action.
func (a action) command() *cobra.Command {
	_, cmd := a.bound()
	return cmd
}

// bound makes the command with what its flags write to.
func (a action) bound() (*invocation, *cobra.Command) {
	a.args = slices.Clone(a.args)
	req, res := messages(a.method)
	r := &invocation{action: a, request: req.ProtoReflect(), record: recordOf(req.ProtoReflect())}
	cmd := &cobra.Command{Use: a.use, Short: a.short, Long: a.long, Example: a.example, Args: arguments(r.counts()), RunE: r.run}
	r.bind(cmd)
	if r.isUpdate() && a.mask == nil {
		cmd.Flags().StringArrayVar(&r.clear, "clear", nil, "flag whose field is to be emptied, such as role; repeatable")
	}
	if a.columns != nil {
		cmd.Flags().Int32Var(&r.limit, "limit", 0, "the most to print (default: all)")
	}
	if a.danger != "" {
		yesFlag(cmd, &r.yes)
	}
	r.printer.flags(cmd, res, a.columns != nil)
	r.remote.flags(cmd)
	return r, cmd
}

// recordOf is the field of a request that holds a record: its first message.
func recordOf(req protoreflect.Message) string {
	fields := req.Descriptor().Fields()
	for i := range fields.Len() {
		if fd := fields.Get(i); fd.Message() != nil && !fd.IsList() && fd.Message().Fields().ByName("id") != nil {
			return string(fd.Name())
		}
	}
	return ""
}

func (r *invocation) counts() (least, most int) {
	most = len(r.args)
	if most > 0 && strings.HasSuffix(r.args[most-1], "?") {
		return most - 1, most
	}
	return most, most
}

func (r *invocation) isUpdate() bool { return fieldOf(r.request, "update_mask") != nil }

// bind gives the command its flags.
func (r *invocation) bind(cmd *cobra.Command) {
	names := strings.Fields(r.use)[1:]
	for i := range r.args {
		r.args[i] = strings.TrimSuffix(r.args[i], "?")
		r.fields = append(r.fields, field{flag: strings.Trim(names[i], "[]"), path: r.args[i]})
	}
	all := slices.Clone(r.action.flags)
	for _, f := range standard {
		if fieldOf(r.request, f.path) == nil && (f.flag != "etag" || r.isUpdate()) {
			f.path = r.record + "." + f.path
		}
		taken := slices.ContainsFunc(all, func(o field) bool { return o.path == f.path || o.flag == f.flag })
		if fieldOf(r.request, f.path) != nil && !taken && !slices.Contains(r.args, f.path) {
			all = append(all, f)
		}
	}
	r.values = bindFields(cmd, r.request, all)
	r.fields = append(r.fields, all...)
}

// bindFields gives a command a flag for each field of a request.
func bindFields(cmd *cobra.Command, req protoreflect.Message, fields []field) (values []*value) {
	for _, f := range fields {
		v := &value{field: f, fd: fieldOf(req, f.path)}
		if v.fd == nil {
			panic(cmd.Name() + ": no field " + f.path) // every start builds every command
		}
		usage := f.usage
		if v.fd.Kind() == protoreflect.EnumKind {
			usage += ": " + strings.Join(words(v.fd.Enum()), ", ")
		}
		if v.fd.IsList() || collects(v.fd) {
			usage += "; repeatable"
		}
		flag := cmd.Flags().VarPF(v, f.flag, "", usage)
		switch v.fd.Kind() {
		case protoreflect.BoolKind:
			flag.NoOptDefVal = "true"
		case protoreflect.EnumKind:
			completions(cmd, f.flag, words(v.fd.Enum())...)
		}
		values = append(values, v)
	}
	return values
}

func (r *invocation) run(cmd *cobra.Command, args []string) error {
	req, err := r.build(cmd.Context(), args)
	if err != nil {
		return err
	}
	if r.columns != nil {
		return r.list(cmd, req)
	}
	return r.finish(cmd, req, args)
}

// finish makes the call, if a person who has to be asked agrees, and prints the
// answer.
func (r *invocation) finish(cmd *cobra.Command, req proto.Message, args []string) error {
	if err := r.confirm(cmd, req, args); err != nil {
		return err
	}
	_, res := messages(r.method)
	if err := r.call(cmd.Context(), r.method, req, res); err != nil {
		return err
	}
	if m := res.ProtoReflect(); !isDryRun(req) {
		if next := showField(m, fieldOf(m, "living_successor_id")); next != "" {
			fmt.Fprintf(cmd.ErrOrStderr(), "%s took its place and stays good; if a thief may have rotated it, revoke again with --successors\n", printable(next))
		}
	}
	return r.print(cmd, res, isDryRun(req))
}

func isDryRun(req proto.Message) bool {
	m := req.ProtoReflect()
	fd := fieldOf(m, "validate_only")
	return fd != nil && m.Get(fd).Bool()
}

// build makes the request of what was said.
func (r *invocation) build(ctx context.Context, args []string) (proto.Message, error) {
	req := r.request.New()
	for i, arg := range args {
		if err := fillArgument(req, r.args[i], arg, r.tenantSaid()); err != nil {
			return nil, fmt.Errorf("%s: %w", r.remote.fields[i].flag, err)
		}
	}
	for _, f := range r.fixed {
		path, text, _ := strings.Cut(f, "=")
		if err := fill(req, path, text); err != nil {
			return nil, err
		}
	}
	var changed []string
	if r.isUpdate() {
		var err error
		if changed, err = r.changes(); err != nil {
			return nil, err
		}
		if err := r.merge(ctx, req, changed); err != nil {
			return nil, err
		}
		r.setMask(req, changed)
	}
	if err := applyAll(r.values, req, time.Now()); err != nil {
		return nil, err
	}
	for _, path := range changed {
		if v := r.valueAt(path); v != nil && len(v.texts) == 0 {
			holder, fd := find(req, path, true)
			holder.Clear(fd)
		}
	}
	return req.Interface(), nil
}

func (r *invocation) tenantSaid() bool {
	return slices.ContainsFunc(r.values, func(v *value) bool { return v.flag == "tenant" && len(v.texts) > 0 })
}

func (r *invocation) valueAt(path string) *value {
	for _, v := range r.values {
		if v.path == path {
			return v
		}
	}
	return nil
}

func fill(m protoreflect.Message, path, text string) error {
	holder, fd := find(m, path, true)
	return putField(holder, fd, text, time.Now(), false)
}

// fillArgument fills a field from an argument. A principal can be written as in the
// audit log, with its tenant in front: acme/ann.
func fillArgument(m protoreflect.Message, path, text string, tenantSaid bool) error {
	if text == "" {
		return errors.New("is empty")
	}
	holder, _ := find(m, path, true)
	tenant := holder.Descriptor().Fields().ByName("tenant")
	if tenant == nil {
		tenant = holder.Descriptor().Fields().ByName("tenant_id")
	}
	if before, after, ok := strings.Cut(text, "/"); ok && tenant != nil && !tenantSaid {
		holder.Set(tenant, protoreflect.ValueOfString(before))
		text = after
	}
	return fill(m, path, text)
}

// changes are the paths of the fields that an update changes.
func (r *invocation) changes() (paths []string, err error) {
	if r.mask != nil {
		for _, name := range r.mask {
			paths = append(paths, r.record+"."+name)
		}
		return paths, nil
	}
	for _, v := range r.values {
		if len(v.texts) > 0 && r.changeable(v) {
			paths = append(paths, v.path)
		}
	}
	for _, name := range r.clear {
		i := slices.IndexFunc(r.values, func(v *value) bool { return v.flag == name && r.changeable(v) })
		if i < 0 {
			return nil, fmt.Errorf("--clear %s: there is no such flag here", printable(name))
		}
		if len(r.values[i].texts) > 0 {
			return nil, fmt.Errorf("--%s and --clear %s do not go together", name, name)
		}
		paths = append(paths, r.values[i].path)
	}
	if len(paths) == 0 {
		return nil, errors.New("there is nothing to change: give a flag with the new value")
	}
	return paths, nil
}

// changeable reports whether a flag is of a field that an update can change.
func (r *invocation) changeable(v *value) bool {
	return strings.HasPrefix(v.path, r.record+".") && !slices.ContainsFunc(standard, func(f field) bool { return f.flag == v.flag })
}

// setMask names the fields of the record that change; parts of one change it whole.
func (r *invocation) setMask(req protoreflect.Message, changed []string) {
	mask := &fieldmaskpb.FieldMask{}
	for _, path := range changed {
		name, _, _ := strings.Cut(strings.TrimPrefix(path, r.record+"."), ".")
		if !slices.Contains(mask.Paths, name) {
			mask.Paths = append(mask.Paths, name)
		}
	}
	req.Set(fieldOf(req, "update_mask"), protoreflect.ValueOfMessage(mask.ProtoReflect()))
}

// merge reads the record first if only a part of one of its fields changes, such as
// the networks of its constraints: the rest of it stays. The etag makes sure that
// nobody changes it meanwhile.
func (r *invocation) merge(ctx context.Context, req protoreflect.Message, changed []string) error {
	var partly []string
	for _, path := range changed {
		if name, _, deeper := strings.Cut(strings.TrimPrefix(path, r.record+"."), "."); deeper {
			partly = append(partly, name)
		}
	}
	if partly == nil {
		return nil
	}
	method := strings.Replace(r.method, "/Update", "/Get", 1)
	get, got := messages(method)
	asked := req.Get(fieldOf(req, r.record)).Message()
	get.ProtoReflect().Set(fieldOf(get.ProtoReflect(), "id"), asked.Get(fieldOf(asked, "id")))
	if err := r.call(ctx, method, get, got); err != nil {
		return err
	}
	current := got.ProtoReflect().Get(fieldOf(got.ProtoReflect(), r.record)).Message()
	into := req.Mutable(fieldOf(req, r.record)).Message()
	for _, name := range append(partly, "etag") {
		if fd := fieldOf(current, name); current.Has(fd) {
			into.Set(fd, current.Get(fd))
		}
	}
	return nil
}

// maxPage is the most records that the API returns at once.
const maxPage = 1000

// list reads page after page and prints all of them as one answer.
func (r *invocation) list(cmd *cobra.Command, req proto.Message) error {
	_, all := messages(r.method)
	m, whole := req.ProtoReflect(), all.ProtoReflect()
	records := listOf(whole)
	size, token := fieldOf(m, "page_size"), fieldOf(m, "page_token")
	for {
		left := maxPage
		if r.limit > 0 {
			left = min(left, int(r.limit)-whole.Get(records).List().Len())
		}
		m.Set(size, protoreflect.ValueOfInt32(int32(left)))
		_, page := messages(r.method)
		if err := r.call(cmd.Context(), r.method, req, page); err != nil {
			return err
		}
		got := page.ProtoReflect().Get(records).List()
		to := whole.Mutable(records).List()
		for i := range got.Len() {
			to.Append(got.Get(i))
		}
		switch {
		case token == nil && r.limit == 0 && got.Len() == maxPage:
			fmt.Fprintf(cmd.ErrOrStderr(), "these are the first %d; narrow the question to see others\n", maxPage)
			return r.printList(cmd, all, records, r.columns)
		case token == nil, r.limit > 0 && to.Len() >= int(r.limit):
			return r.printList(cmd, all, records, r.columns)
		}
		next := page.ProtoReflect().Get(fieldOf(page.ProtoReflect(), "next_page_token"))
		if next.String() == "" {
			return r.printList(cmd, all, records, r.columns)
		}
		m.Set(token, next)
	}
}

// listOf is the field that holds the records of a list's response.
func listOf(res protoreflect.Message) protoreflect.FieldDescriptor {
	fields := res.Descriptor().Fields()
	for i := range fields.Len() {
		if fd := fields.Get(i); fd.IsList() && fd.Message() != nil {
			return fd
		}
	}
	return nil
}

// confirm asks a person before something goes that does not come back, and says how
// much it is where a dry run can tell.
func (r *invocation) confirm(cmd *cobra.Command, req proto.Message, args []string) error {
	if r.danger == "" || r.yes || isDryRun(req) || !interactive(cmd) {
		return nil
	}
	question := strings.Join(append([]string{r.danger}, args...), " ")
	for _, v := range r.values {
		if len(args) == 0 && len(v.texts) > 0 {
			question += fmt.Sprintf(" --%s %s", v.flag, strings.Join(v.texts, " "))
		}
	}
	if n, err := r.preview(cmd.Context(), req); err != nil {
		return err
	} else if n > 1 {
		question += fmt.Sprintf(", %d records in all", n)
	}
	return askYes(cmd, question)
}

// preview counts what a call would take.
func (r *invocation) preview(ctx context.Context, req proto.Message) (int, error) {
	dry := proto.Clone(req).ProtoReflect()
	fd := fieldOf(dry, "validate_only")
	if fd == nil {
		return 0, nil
	}
	dry.Set(fd, protoreflect.ValueOfBool(true))
	dry.Clear(fieldOf(dry, "request_id"))
	_, res := messages(r.method)
	if err := r.call(ctx, r.method, dry.Interface(), res); err != nil {
		return 0, err
	}
	m := res.ProtoReflect()
	n := 0
	for _, count := range []protoreflect.Name{"records", "agents", "principals", "credentials", "sessions", "approvals"} {
		if fd := fieldOf(m, string(count)); fd != nil && fd.Kind() == protoreflect.Int32Kind {
			n += int(m.Get(fd).Int())
		}
	}
	if n > 0 {
		return n, nil
	}
	if fd := fieldOf(m, "ids"); fd != nil {
		return m.Get(fd).List().Len(), nil
	}
	return 0, nil
}
