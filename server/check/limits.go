package check

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/postern-auth/postern/policy"
)

// CostHeader is a header field in which a caller of Postern says what a request costs. It
// counts only from callers that are believed (Trust.Cost); it never goes upstream.
type CostHeader struct {
	// Name is the field, in lower case.
	Name string
	// Unit is what it counts.
	Unit string
}

// readCost takes what the caller says that the request costs, beside the request or in
// its header fields. What somebody said who is not believed is taken away, so that no
// policy takes it for the truth either; what one said who is, and that is no number or
// said twice, is refused: to guess would be to charge too little.
func (c *Checker) readCost(x *exchange) bool {
	if x.cost = x.attributes.Cost; !x.trust.Cost {
		x.cost = nil
	}
	if len(c.cfg.Cost) == 0 {
		return true
	}
	if !x.trust.Cost {
		x.attributes.Headers = slices.DeleteFunc(x.attributes.Headers, c.isCost)
		return true
	}
	for _, h := range c.cfg.Cost {
		text, n := x.attributes.Headers.Get(h.Name)
		if n == 0 {
			continue
		}
		amount, ok := parseAmount(text)
		_, said := x.cost[h.Unit]
		if !ok || n > 1 || said {
			return x.deny(policy.ReasonRequestInvalid, "what the caller says in "+h.Name+" that the request costs is no single number")
		}
		x.say(h.Unit, amount)
	}
	return true
}

func (c *Checker) isCost(h policy.Header) bool {
	return slices.ContainsFunc(c.cfg.Cost, func(cost CostHeader) bool { return cost.Name == h.Name })
}

// say notes a cost. That a request costs nothing is not said by this: then it costs what
// it would anyway.
func (x *exchange) say(unit string, amount int64) {
	if amount == 0 {
		return
	}
	own := make(map[string]int64, len(x.cost)+1)
	for u, a := range x.cost {
		own[u] = a
	}
	own[unit] = amount
	x.cost = own
}

// maxDigits is as many as every number of them fits 63 bits.
const maxDigits = 18

// parseAmount reads digits and nothing else: no sign, no fraction, no exponent.
func parseAmount(text string) (int64, bool) {
	if len(text) == 0 || len(text) > maxDigits || strings.Trim(text, "0123456789") != "" {
		return 0, false
	}
	n, err := strconv.ParseInt(text, 10, 64)
	return n, err == nil
}

// LimitHeaders says what clients are told of the limits that they are held to: in the
// fields RateLimit and RateLimit-Policy (draft-ietf-httpapi-ratelimit-headers, section 3
// and 4). The zero value tells those who are refused about what refused them.
type LimitHeaders struct {
	// Always tells with every answer, Never with none. At most one is set.
	Always, Never bool
	// Legacy adds X-RateLimit-Limit, -Remaining and -Reset (in seconds from now).
	Legacy bool
}

// The fields, in the order in which they are written.
const (
	fieldRateLimit       = "ratelimit"
	fieldRateLimitPolicy = "ratelimit-policy"
)

// maxTold is how many limits an answer names, those that are closest to their end.
const maxTold = 8

// tellLimits adds what is left to the answer, unless the policy has said it itself.
func (c *Checker) tellLimits(d *policy.Decision) {
	states := d.Budgets
	if len(states) == 0 || c.cfg.Limits.Never || d.Allowed && !c.cfg.Limits.Always {
		return
	}
	states = states[:min(len(states), maxTold)]
	var now, rules []byte
	for i := range states {
		if i > 0 {
			now, rules = append(now, ", "...), append(rules, ", "...)
		}
		now, rules = appendLeft(now, &states[i]), appendRule(rules, &states[i])
	}
	fields := []policy.Header{{Name: fieldRateLimitPolicy, Value: string(rules)}, {Name: fieldRateLimit, Value: string(now)}}
	if c.cfg.Limits.Legacy {
		s := &states[0]
		fields = append(fields,
			policy.Header{Name: "x-ratelimit-limit", Value: strconv.FormatInt(bound(s.Limit), 10)},
			policy.Header{Name: "x-ratelimit-remaining", Value: strconv.FormatInt(bound(s.Remaining), 10)},
			policy.Header{Name: "x-ratelimit-reset", Value: strconv.FormatInt(seconds(s.Reset), 10)})
	}
	own := policy.Headers(d.Client)
	fields = slices.DeleteFunc(fields, func(h policy.Header) bool { _, n := own.Get(h.Name); return n > 0 })
	d.Client = append(slices.Clip(d.Client), fields...)
}

// appendLeft writes "llm-tokens/day";r=120;t=3600: what remains, and when it is full again.
func appendLeft(b []byte, s *policy.BudgetState) []byte {
	b = append(b, quote(s.Name)...)
	b = strconv.AppendInt(append(b, ";r="...), bound(s.Remaining), 10)
	if s.Reset > 0 {
		b = strconv.AppendInt(append(b, ";t="...), seconds(s.Reset), 10)
	}
	return b
}

// appendRule writes "llm-tokens/day";q=1000;qu="tokens";w=86400: how much, of what, in how
// long. Requests are what is counted where nothing is said.
func appendRule(b []byte, s *policy.BudgetState) []byte {
	b = append(b, quote(s.Name)...)
	b = strconv.AppendInt(append(b, ";q="...), bound(s.Limit), 10)
	if s.Unit != "" && s.Unit != "requests" {
		b = append(append(b, ";qu="...), quote(s.Unit)...)
	}
	if s.Window > 0 {
		b = strconv.AppendInt(append(b, ";w="...), seconds(s.Window), 10)
	}
	return b
}

// bound is a number as an integer of a structured field (RFC 9651 section 3.3.1), of which
// none here is negative.
func bound(n int64) int64 { return min(max(n, 0), 999_999_999_999_999) }

// seconds rounds up, so that whoever waits for so long does not come too early.
func seconds(d time.Duration) int64 { return int64((d + time.Second - 1) / time.Second) }
