package registry_test

import (
	"math"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/registry"
	"github.com/postern-auth/postern/server/seal"
	"github.com/postern-auth/postern/server/store"
)

type spec = registry.CredentialSpec

// K-01: the secret is in the result of the call and nowhere else; the record can be
// found by its id and verified by its digest.
func TestIssue(t *testing.T) {
	w := newWorld(t)
	issued, _, err := w.IssueCredential(ctx, root(), keyOf(func(s *spec) {
		s.Environment, s.Rights, s.Metadata = "live", rights("s:orders.read"), map[string]any{"team": "blue"}
	}))
	w.ok(err)
	text := issued.Secret.Reveal()
	parts, err := seal.Parse(text)
	w.ok(err)
	if parts.ID != issued.ID || parts.Env != "live" || parts.Kind != seal.KindKey || !seal.ChecksumFits(text) {
		t.Errorf("%+v", parts)
	}
	got := w.get(issued.ID)
	if got.State != registry.Active || got.IssuedBy != "/root" || !got.LastUsedAt.IsZero() || got.ExpiresAt != w.now.Add(90*day) ||
		got.Metadata["team"] != "blue" || !strings.HasPrefix(got.Digest, "hmac-sha256:v1:") {
		t.Errorf("%+v", got.Credential)
	}
	pat, _, err := w.IssueCredential(ctx, root(), patOf())
	w.ok(err)
	if parts, err := seal.Parse(pat.Secret.Reveal()); err != nil || parts.Kind != seal.KindPAT {
		t.Errorf("%+v, %v", parts, err)
	}
}

// What is wrong with a request is reported at once, each fault with its field.
func TestIssueRefuses(t *testing.T) {
	w := newWorld(t)
	w.principal(registry.PrincipalSpec{Tenant: "acme", ID: "off", Kind: policy.KindService, Disabled: true})
	w.principal(registry.PrincipalSpec{Tenant: "acme", ID: "app", Kind: policy.KindService, Disabled: true})
	w.principal(registry.PrincipalSpec{Tenant: "acme", ID: "owned", Kind: policy.KindService, Owner: "app"})
	elsewhere, dead := w.key(func(s *spec) { s.Tenant = "umbrella" }), w.key()
	_, _, _, err := w.RevokeCredential(ctx, root(), registry.EndRequest{ID: dead.ID})
	w.ok(err)
	other, _, err := w.IssueCredential(ctx, root(), patOf())
	w.ok(err)
	for name, tt := range map[string]struct {
		change func(*spec)
		reason registry.Reason
		field  string
	}{
		"no type":            {func(s *spec) { s.Type = "" }, registry.InvalidField, "type"},
		"a token":            {func(s *spec) { s.Type = store.Token }, registry.InvalidField, "type"},
		"bad tenant":         {func(s *spec) { s.Tenant = "Acme" }, registry.InvalidField, "tenant"},
		"no such tenant":     {func(s *spec) { s.Tenant = "nobody" }, registry.NotFound, "principal_id"},
		"no principal":       {func(s *spec) { s.Principal = "" }, registry.InvalidField, "principal_id"},
		"bad principal":      {func(s *spec) { s.Principal = "a b" }, registry.InvalidField, "principal_id"},
		"slash":              {func(s *spec) { s.Principal = "../shop" }, registry.InvalidField, "principal_id"},
		"no such principal":  {func(s *spec) { s.Principal = "nobody" }, registry.NotFound, "principal_id"},
		"disabled":           {func(s *spec) { s.Principal = "off" }, registry.WrongState, "principal_id"},
		"owner disabled":     {func(s *spec) { s.Principal = "owned" }, registry.WrongState, "principal_id"},
		"a user's key":       {func(s *spec) { s.Principal = "alice" }, registry.InvalidField, "principal_id"}, // K-10
		"a service's pat":    {func(s *spec) { s.Type = store.PAT }, registry.InvalidField, "principal_id"},    // P-01
		"control in name":    {func(s *spec) { s.Name = "a\x00b" }, registry.InvalidField, "display_name"},
		"long name":          {func(s *spec) { s.Name = strings.Repeat("x", 201) }, registry.InvalidField, "display_name"},
		"bad UTF-8":          {func(s *spec) { s.Name = "\xff" }, registry.InvalidField, "display_name"},
		"secret in name":     {func(s *spec) { s.Name = other.Secret.Reveal() }, registry.InvalidField, "display_name"},
		"environment":        {func(s *spec) { s.Environment = "Live" }, registry.InvalidField, "environment"},
		"empty scope":        {func(s *spec) { s.Rights.Scopes = []string{"a", ""} }, registry.InvalidField, "scopes[1]"},
		"comma in a role":    {func(s *spec) { s.Rights.Roles = []string{"reader,admin"} }, registry.InvalidField, "roles[0]"},
		"space in scope":     {func(s *spec) { s.Rights.Scopes = []string{"a b"} }, registry.InvalidField, "scopes[0]"},
		"long permission":    {func(s *spec) { s.Rights.Permissions = []string{strings.Repeat("x", 129)} }, registry.InvalidField, "permissions[0]"},
		"many roles":         {func(s *spec) { s.Rights.Roles = make([]string, 257) }, registry.InvalidField, "roles"},
		"metadata":           {func(s *spec) { s.Metadata = map[string]any{"x": strings.Repeat("y", 8<<10)} }, registry.InvalidField, "metadata"}, // T-07
		"metadata not JSON":  {func(s *spec) { s.Metadata = map[string]any{"x": math.NaN()} }, registry.InvalidField, "metadata"},
		"secret in metadata": {func(s *spec) { s.Metadata = map[string]any{"x": other.Secret.Reveal()} }, registry.InvalidField, "metadata"},
		"empty networks":     {func(s *spec) { s.Constraints = &policy.Constraints{Networks: []netip.Prefix{}} }, registry.InvalidField, "constraints.networks"},
		"no network":         {func(s *spec) { s.Constraints = &policy.Constraints{Networks: []netip.Prefix{{}}} }, registry.InvalidField, "constraints.networks[0]"},
		"4in6":               {func(s *spec) { s.Constraints = networks("::ffff:10.0.0.0/104") }, registry.InvalidField, "constraints.networks[0]"},
		"bits behind":        {func(s *spec) { s.Constraints = networks("10.0.0.1/8") }, registry.InvalidField, "constraints.networks[0]"},
		"lower-case method":  {func(s *spec) { s.Constraints = &policy.Constraints{Methods: []string{"get"}} }, registry.InvalidField, "constraints.methods[0]"},
		"no host":            {func(s *spec) { s.Constraints = &policy.Constraints{Hosts: make([]policy.HostPattern, 1)} }, registry.InvalidField, "constraints.hosts[0]"},
		"no path":            {func(s *spec) { s.Constraints = &policy.Constraints{Paths: make([]policy.PathPattern, 1)} }, registry.InvalidField, "constraints.paths[0]"},
		"many audiences":     {func(s *spec) { s.Constraints = &policy.Constraints{Audiences: make([]string, 65)} }, registry.InvalidField, "constraints.audiences"},
		"bad window": {func(s *spec) {
			s.Constraints = &policy.Constraints{Windows: []policy.TimeWindow{{From: "9:00", To: "10:00"}}}
		}, registry.InvalidField, "constraints.windows[0]"},
		"no such parent":     {func(s *spec) { s.Parent = "000000000000" }, registry.InvalidField, "parent_id"},
		"parent elsewhere":   {func(s *spec) { s.Parent = elsewhere.ID }, registry.InvalidField, "parent_id"},
		"parent of other":    {func(s *spec) { s.Parent = other.ID }, registry.InvalidField, "parent_id"},
		"parent is dead":     {func(s *spec) { s.Parent = dead.ID }, registry.WrongState, "parent_id"},
		"admin role":         {func(s *spec) { s.Rights.Roles = []string{"platform-admin"} }, registry.InvalidField, "roles"},
		"ttl":                {func(s *spec) { s.TTL = 91 * day }, registry.TTLTooLong, "ttl"}, // K-07
		"expires late":       {func(s *spec) { s.ExpiresAt = w.now.Add(90*day + time.Second) }, registry.TTLTooLong, "expire_time"},
		"expired":            {func(s *spec) { s.ExpiresAt = w.now }, registry.InvalidField, "expire_time"},
		"both":               {func(s *spec) { s.TTL, s.ExpiresAt = day, w.now.Add(day) }, registry.InvalidField, "ttl"},
		"negative":           {func(s *spec) { s.TTL = -time.Hour }, registry.InvalidField, "ttl"},
		"tiny":               {func(s *spec) { s.TTL = time.Millisecond }, registry.InvalidField, "ttl"},
		"overflow":           {func(s *spec) { s.TTL = math.MaxInt64 }, registry.TTLTooLong, "ttl"},
		"never":              {func(s *spec) { s.ExpiresAt = time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC) }, registry.TTLTooLong, "expire_time"},
		"begins after end":   {func(s *spec) { s.NotBefore = w.now.Add(100 * day) }, registry.InvalidField, "not_before"},
		"max without period": {func(s *spec) { s.MaxExpiresAt = w.now.Add(day) }, registry.InvalidField, "max_expire_time"},
		"max too late":       {func(s *spec) { s.Period, s.MaxExpiresAt = day, w.now.Add(91*day) }, registry.TTLTooLong, "max_expire_time"},
		"max before end":     {func(s *spec) { s.Period, s.TTL, s.MaxExpiresAt = day, 2*day, w.now.Add(day) }, registry.InvalidField, "max_expire_time"},
		"period too long":    {func(s *spec) { s.Period = 91 * day }, registry.TTLTooLong, "renew_period"},
		"period is negative": {func(s *spec) { s.Period = -1 }, registry.InvalidField, "renew_period"},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := w.IssueCredential(ctx, root(), keyOf(tt.change))
			e := w.refused(err, tt.reason, tt.field)
			if strings.Contains(e.Error(), other.Secret.Reveal()) {
				t.Error("the error holds a secret")
			}
		})
	}
	_, _, err = w.IssueCredential(ctx, root(), keyOf(func(s *spec) {
		s.Name, s.Environment, s.TTL, s.Rights.Scopes = "\x01", "X", 91*day, []string{"*", ""}
	}))
	e := w.refused(err, registry.InvalidField, "display_name")
	for _, field := range []string{"environment", "scopes[1]", "scopes", "ttl"} {
		w.refused(err, registry.InvalidField, field)
	}
	if len(e.All()) != 5 {
		t.Errorf("%v", e)
	}
}

func networks(s string) *policy.Constraints {
	return &policy.Constraints{Networks: []netip.Prefix{netip.MustParsePrefix(s)}}
}

// P-03: a token of a user has a name.
func TestPATNeedsAName(t *testing.T) {
	w := newWorld(t)
	_, _, err := w.IssueCredential(ctx, root(), patOf(func(s *spec) { s.Name = "" }))
	w.refused(err, registry.InvalidField, "display_name")
	c, _, err := w.IssueCredential(ctx, root(), patOf())
	w.ok(err)
	_, _, err = w.UpdateCredential(ctx, root(), registry.UpdateCredentialRequest{ID: c.ID, Fields: []string{"display_name"}})
	w.refused(err, registry.InvalidField, "display_name")
	w.key(func(s *spec) { s.Name = "" }) // a key need not
}

// P-03, K-06, K-07: no expiry given means the longest that the tenant allows; what
// the tenant says goes before the installation's rule.
func TestLongestLife(t *testing.T) {
	w := newWorld(t, func(c *registry.Config) { c.MaxTTL = 30 * day })
	if c := w.key(); c.ExpiresAt != w.now.Add(30*day) {
		t.Errorf("%s", c.ExpiresAt)
	}
	_, _, err := w.UpdateTenant(ctx, root(), registry.UpdateTenantRequest{
		Fields: []string{"max_ttl"}, Spec: registry.TenantSpec{ID: "acme", Rules: store.Rules{MaxTTL: store.Duration(day)}},
	})
	w.ok(err)
	c := w.key()
	if c.ExpiresAt != w.now.Add(day) {
		t.Errorf("%s", c.ExpiresAt)
	}
	_, _, err = w.IssueCredential(ctx, root(), keyOf(func(s *spec) { s.TTL = day + time.Second }))
	if e := w.refused(err, registry.TTLTooLong, "ttl"); e.Meta["max_ttl"] != "1d" {
		t.Errorf("%v", e.Meta)
	}
	// The bound counts from when it was issued: no update moves it.
	w.now = w.now.Add(time.Hour)
	for _, s := range []spec{{TTL: day}, {ExpiresAt: w.now.Add(day)}} {
		_, _, err := w.UpdateCredential(ctx, root(), registry.UpdateCredentialRequest{ID: c.ID, Fields: []string{"expire_time"}, Spec: s})
		w.refused(err, registry.TTLTooLong, "expire_time")
	}
	u, _, err := w.UpdateCredential(ctx, root(), registry.UpdateCredentialRequest{ID: c.ID, Fields: []string{"ttl"}, Spec: spec{TTL: time.Hour}})
	w.ok(err)
	if u.ExpiresAt != w.now.Add(time.Hour) {
		t.Errorf("%s", u.ExpiresAt)
	}
}

// P-08: many tokens for a user, as many as the tenant allows. Those that have ended
// do not count.
func TestQuota(t *testing.T) {
	w := newWorld(t, func(c *registry.Config) { c.MaxPATs = 3 })
	var ids []string
	for _, scope := range []string{"orders.read", "orders.write", "orders.read"} {
		c, _, err := w.IssueCredential(ctx, root(), patOf(func(s *spec) { s.Rights.Scopes, s.TTL = []string{scope}, day }))
		w.ok(err)
		ids = append(ids, c.ID)
	}
	full := func() {
		t.Helper()
		w.refused(second(w.IssueCredential(ctx, root(), patOf())), registry.QuotaExceeded, "principal_id")
	}
	full()
	// Rotation makes no more of them.
	w.ok(second(w.RotateCredential(ctx, root(), registry.RotateRequest{ID: ids[0], Grace: time.Hour})))
	full()
	_, _, _, err := w.RevokeCredential(ctx, root(), registry.EndRequest{ID: ids[1]})
	w.ok(err)
	w.ok(second(w.IssueCredential(ctx, root(), patOf())))
	full()
	w.now = w.now.Add(2 * day)
	w.ok(second(w.IssueCredential(ctx, root(), patOf())))
	_, _, err = w.UpdateTenant(ctx, root(), registry.UpdateTenantRequest{
		Fields: []string{"max_pats"}, Spec: registry.TenantSpec{ID: "acme", Rules: store.Rules{MaxPATs: 1}},
	})
	w.ok(err)
	full()
	w.key() // keys are not counted
}

// T-07: metadata is updated in place.
func TestUpdate(t *testing.T) {
	w := newWorld(t)
	c := w.key(func(s *spec) { s.Metadata = map[string]any{"a": 1}; s.Period, s.NotBefore = day, w.now.Add(time.Hour) })
	update := func(fields []string, s spec) (*registry.Credential, error) {
		u, _, err := w.UpdateCredential(ctx, root(), registry.UpdateCredentialRequest{ID: c.ID, Fields: fields, Spec: s})
		return u, err
	}
	limits := networks("10.0.0.0/8")
	u, err := update([]string{"metadata", "constraints", "not_before"}, spec{Metadata: map[string]any{"b": "2"}, Constraints: limits, Name: "ignored"})
	w.ok(err)
	got := w.get(c.ID)
	if got.Metadata["b"] != "2" || got.Metadata["a"] != nil || got.Constraints.Networks[0] != limits.Networks[0] || !got.NotBefore.IsZero() ||
		got.Name != "a key" || u.State != registry.Active || got.ExpiresAt != c.ExpiresAt {
		t.Errorf("%+v", got.Credential)
	}
	u, err = update([]string{"constraints", "renew_period"}, spec{Constraints: &policy.Constraints{}})
	w.ok(err)
	if u.Constraints != nil || u.Period != 0 || !u.MaxExpiresAt.IsZero() {
		t.Errorf("%+v", u.Credential)
	}
	for _, fields := range [][]string{nil, {"id"}, {"tenant"}, {"display_name", "principal_id"}} {
		_, err := update(fields, spec{})
		w.refused(err, registry.InvalidField, "update_mask")
	}
	_, _, _, err = w.RevokeCredential(ctx, root(), registry.EndRequest{ID: c.ID})
	w.ok(err)
	_, err = update([]string{"display_name"}, spec{Name: "x"})
	w.refused(err, registry.WrongState, "")
}
