package server

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/postern-auth/postern/server/registry"
)

// Agreements is who has to agree before something may be done, and what has to be noted
// before. Routes say where: `consents`, `approval` and `audit_first`.
type Agreements struct {
	// Approvals says how requests are approved by people. Needs a store.
	Approvals Approvals `yaml:"approvals"`
	// Audit is the journal of what routes with `audit_first` allow. Default: none, and no
	// route can ask for it.
	Audit *Audit `yaml:"audit"`
}

// Approvals says how requests are approved by people.
type Approvals struct {
	// Header is the field in which a request shows the id of its approval. It never goes
	// upstream. Default: x-postern-approval.
	Header string `yaml:"header"`
	// Request says whether a deny tells what has to be approved: "auto", the action's
	// digest in the field x-postern-action, and in the answer the proposal with which the
	// approval is asked for; or "off", for gateways that make it themselves. Default:
	// auto.
	Request ApprovalHelp `yaml:"request"`
	// Headers are further header fields that are part of what is approved, in lower case.
	// Those that say what a body is, and what is copied or moved, always are. Default:
	// none.
	Headers []string `yaml:"headers"`
	// TTL is how long a wish for an approval waits for an answer at most, 1m to 168h.
	// Default: 1h.
	TTL time.Duration `yaml:"ttl"`
	// UseWithin is how long an approval can be used once it was given, 10s to 24h. It can
	// be used once. Default: 15m.
	UseWithin time.Duration `yaml:"use_within"`
	// AdminRoles are the roles of which the approver has one where a route says
	// `approval: admin`. Default: platform-admin, tenant-admin.
	AdminRoles []string `yaml:"admin_roles"`
	// MaxLoginAge is how long ago the approver has logged in at most, at least 1m. With it,
	// keys and tokens that do not say when cannot approve, so that nobody who has got hold
	// of one approves with it. Default: 0s, any.
	MaxLoginAge time.Duration `yaml:"max_login_age"`
	// MaxPending is how many wishes of one requester may wait at once, 1 to 10_000.
	// Default: 100.
	MaxPending int `yaml:"max_pending"`
}

// ApprovalHelp says whether a deny tells what has to be approved.
type ApprovalHelp string

// The choices.
const (
	ApprovalHelpAuto ApprovalHelp = "auto"
	ApprovalHelpOff  ApprovalHelp = "off"
)

// Values implements strictyaml.Enum.
func (ApprovalHelp) Values() []string { return []string{"auto", "off"} }

func defaultAgreements() Agreements {
	rules := registry.ApprovalRules{}.WithDefaults()
	return Agreements{Approvals: Approvals{
		Header: "x-postern-approval", Request: ApprovalHelpAuto,
		TTL: rules.TTL, UseWithin: rules.UseWithin, AdminRoles: rules.AdminRoles, MaxPending: rules.MaxPending,
	}}
}

// rules are the same in the words of the registry.
func (a *Approvals) rules() registry.ApprovalRules {
	return registry.ApprovalRules{
		TTL: a.TTL, UseWithin: a.UseWithin, AdminRoles: a.AdminRoles, MaxLoginAge: a.MaxLoginAge, MaxPending: a.MaxPending,
	}
}

// Audit is the journal: a file in which a decision is on disk before it is answered. Its
// lines are those of the decision log, as JSON.
type Audit struct {
	// Journal is the file. What is put aside and older than `keep` files goes: take it
	// away before.
	Journal EventFile `yaml:"journal,required"`
	// Timeout is how long a request waits for it at most, 10ms to 1m; then it is denied
	// with audit_unavailable. Default: 1s.
	Timeout time.Duration `yaml:"timeout"`
}

// SetDefaults implements strictyaml.Defaulter.
func (a *Audit) SetDefaults() {
	a.Timeout = time.Second
	a.Journal.SetDefaults()
}

// approvalHeader is the field of approvals, "" where no route asks for any.
func (c *Config) approvalHeader() string {
	if slices.ContainsFunc(c.Routes, func(r Route) bool { return r.Approval != "" }) {
		return c.Approvals.Header
	}
	return ""
}

// approvalHeaders is the same as a list.
func (c *Config) approvalHeaders() []string {
	if name := c.approvalHeader(); name != "" {
		return []string{name}
	}
	return nil
}

func (c *Config) checkAgreements(report report) {
	c.checkApprovals(report)
	if c.Audit != nil {
		if t := c.Audit.Timeout; t < 10*time.Millisecond || t > time.Minute {
			report("audit.timeout", fmt.Sprintf("%s is out of range: use 10ms to 1m", short(t)), "")
		}
		if e := c.Decisions.Events; e != nil && e.File != nil && e.File.Path == c.Audit.Journal.Path {
			report("audit.journal.path", "is the file of decisions.events too", "give it a file of its own")
		}
	}
	for i := range c.Routes {
		c.checkRouteAgreements(report, &c.Routes[i], fmt.Sprintf("routes[%d]", i))
	}
}

func (c *Config) checkApprovals(report report) {
	a := &c.Approvals
	for _, d := range []struct {
		field     string
		v         time.Duration
		low, high time.Duration
	}{
		{"ttl", a.TTL, time.Minute, 7 * 24 * time.Hour},
		{"use_within", a.UseWithin, 10 * time.Second, 24 * time.Hour},
	} {
		if d.v < d.low || d.v > d.high {
			report("approvals."+d.field, fmt.Sprintf("%s is out of range: use %s to %s", short(d.v), short(d.low), short(d.high)), "")
		}
	}
	if a.MaxLoginAge != 0 && a.MaxLoginAge < time.Minute {
		report("approvals.max_login_age", fmt.Sprintf("%s is out of range: use at least 1m, or 0s for any", short(a.MaxLoginAge)), "")
	}
	if a.MaxPending < 1 || a.MaxPending > 10_000 {
		report("approvals.max_pending", fmt.Sprintf("%d is out of range: use 1 to 10000", a.MaxPending), "")
	}
	c.checkApprovalHeader(report)
	for i, name := range a.Headers {
		at := fmt.Sprintf("approvals.headers[%d]", i)
		switch {
		case !isToken(name) || name != strings.ToLower(name):
			report(at, fmt.Sprintf("%q is not the name of a header field", name), "write it in lower case, as in x-amz-target")
		case c.carriesCredential(name):
			report(at, fmt.Sprintf("%q carries credentials, which approvers must not see", name), "remove it")
		}
	}
	checkNoRepeats(report, "approvals.headers", a.Headers)
	for i, role := range a.AdminRoles {
		if !isScope(role) || strings.ContainsAny(role, "*,") {
			report(fmt.Sprintf("approvals.admin_roles[%d]", i), fmt.Sprintf("%q is not a role", role), "write one role an item")
		}
	}
	checkNoRepeats(report, "approvals.admin_roles", a.AdminRoles)
}

// carriesCredential reports whether a header field is one in which clients send secrets.
func (c *Config) carriesCredential(name string) bool {
	return looksSecret(name) || slices.ContainsFunc(c.Credentials, func(r CredentialRule) bool { return r.From.Header() == name })
}

func (c *Config) checkApprovalHeader(report report) {
	name, at := c.Approvals.Header, "approvals.header"
	_, sets := c.Upstream.Headers[name]
	switch {
	case !isToken(name) || name != strings.ToLower(name) || len(name) > 64:
		report(at, fmt.Sprintf("%q is not the name of a header field", name), "write it in lower case, as in x-postern-approval")
	case slices.Contains(unsettable, name) || c.carriesCredential(name):
		report(at, fmt.Sprintf("%s carries something else", name), "choose a name of your own, such as x-postern-approval")
	case sets || slices.Contains(c.Approvals.Headers, name):
		report(at, fmt.Sprintf("%s means something else too", name), "choose a name of its own, such as x-postern-approval")
	}
}

// checkRouteAgreements refuses routes that nobody could ever get through, and those
// whose demands callers could escape.
func (c *Config) checkRouteAgreements(report report, r *Route, path string) {
	none := c.Store.Driver == DriverNone
	if r.Approval != "" && none {
		report(path+".approval", "there is no store to keep approvals in", "configure store, or remove it")
	}
	if len(r.Consents) > 0 && none {
		report(path+".consents", "there is no store to keep consents in", "configure store, or remove it")
	}
	for _, demand := range []struct {
		field string
		set   bool
	}{{"delegated", r.Delegated}, {"consents", len(r.Consents) > 0}, {"approval", r.Approval != ""}} {
		if r.Anonymous && demand.set {
			report(path+"."+demand.field, fmt.Sprintf("anonymous and %s contradict each other: of a caller without a credential nobody knows who it is", demand.field), "remove one of them")
		}
	}
	if r.Approval != "" && r.InsecureQueryCredential != "" {
		report(path+".approval", "what is approved has the query in it, and so the credential of insecure_query_credential", "remove one of them")
	}
	if r.AuditFirst && c.Audit == nil {
		report(path+".audit_first", "there is no journal", "add audit: { journal: { path: journal.log } }")
	}
	for i, s := range r.Consents {
		if !isScope(s) || strings.Contains(s, "*") {
			report(fmt.Sprintf("%s.consents[%d]", path, i), fmt.Sprintf("%q is not a scope", s), "write one scope an item, without spaces, quotes and wildcards")
		}
	}
	checkNoRepeats(report, path+".consents", r.Consents)
	for i, w := range r.Attested {
		if at := fmt.Sprintf("%s.attested[%d]", path, i); !isSPIFFE(w) && !(strings.HasSuffix(w, "/") && isSPIFFE(w+"x")) || strings.Contains(w, "*") {
			report(at, fmt.Sprintf("%q is not a SPIFFE ID", w), "write it as spiffe://prod.example.com/sandbox/7, or spiffe://prod.example.com/sandbox/ for all below")
		}
	}
	checkNoRepeats(report, path+".attested", r.Attested)
	if len(r.Attested) > 0 && c.MTLS == nil {
		report(path+".attested", "nothing proves workloads", "configure mtls, or remove it")
	}
}
