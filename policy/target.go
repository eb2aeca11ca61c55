package policy

import "time"

// Target is what a request would do at its upstream, as far as its body, its header
// fields and the words of its caller tell (package server/target reads it): which model
// it asks, which tools it calls, whose things it names. Its zero value names nothing.
type Target struct {
	// Protocol is in whose words the body speaks: "openai", "anthropic" or "mcp"; empty
	// if none was looked for, or the request is of another sort.
	Protocol string
	// Model is the model that is asked for, as the request names it, and Tier what the
	// configuration makes of it. A model that is in no table has no tier.
	Model, Tier string
	// MaxTokens is the most tokens that the answer may have, PromptTokens an upper bound
	// of those of the question; -1 for what is not said.
	MaxTokens, PromptTokens int64
	// Category is the category of the prompt, by whoever is trusted to classify it.
	Category string
	// Method is the JSON-RPC method of an MCP request, for example "tools/call".
	Method string
	// Tools are the tools that the request calls.
	Tools []ToolCall
	// Resources are the things that it names, with whose they are.
	Resources []Resource
}

// ToolCall is one call of a tool.
type ToolCall struct {
	Name string
	// Arguments is a JSON value; nil if there are none.
	Arguments any
	// Schema is the SHA-256 in lower-case hex of the tool's schema that the caller
	// knows; empty if it does not say.
	Schema string
}

// Resource is a thing that a request names.
type Resource struct {
	// Type is what it is, for example "conversation". Tenant is whose it is; ID names it
	// within its tenant, and may be empty.
	Type, Tenant, ID string
	// From says where the request names it, for example "path" or "body:/model".
	From string
}

// Agreement is what people have agreed to, of what bears on one request. Its zero
// value is that nobody has.
type Agreement struct {
	// Consent is the id of the user's consent to whoever acts for the user; empty if
	// there is none in force. Scopes are those that it covers.
	Consent string
	Scopes  []string
	// Approval is the approval that the request shows; nil if it shows none that is good
	// for exactly this request.
	Approval *Approval
}

// Approval is somebody's yes to one action, for one use.
type Approval struct {
	ID string
	// Approver is who said yes, as "tenant/id", of what kind and with what roles.
	Approver string
	Kind     Kind
	Roles    []string
	// Action is the digest of the action that it is for (SHA-256 in lower-case hex).
	Action    string
	ExpiresAt time.Time
}
