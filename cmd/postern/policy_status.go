package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// inForce is what `postern policy status` says.
type inForce struct {
	Server   string `json:"server" yaml:"server"`
	Ready    bool   `json:"ready" yaml:"ready"`
	Revision string `json:"revision" yaml:"revision"`
	// Activated is when the policy was put in force.
	Activated time.Time `json:"activated,omitzero" yaml:"activated,omitempty"`
	// Condition is what the server says of its policy.
	Condition string `json:"condition,omitempty" yaml:"condition,omitempty"`
	// ReloadFailed says that a newer policy was refused.
	ReloadFailed bool `json:"reload_failed" yaml:"reload_failed"`
	// Shadow is what the server says of its shadow policy; empty if it has none.
	Shadow  string  `json:"shadow,omitempty" yaml:"shadow,omitempty"`
	Hits    float64 `json:"cache_hits" yaml:"cache_hits"`
	Misses  float64 `json:"cache_misses" yaml:"cache_misses"`
	Entries float64 `json:"cache_entries" yaml:"cache_entries"`
	// Metrics are all that the server counts about policies and bundles, by name.
	Metrics map[string]float64 `json:"metrics" yaml:"metrics"`

	policyReady bool
}

func policyStatusCommand() *cobra.Command {
	var c connection
	var output format
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show which policy a running server decides by",
		Long: `Asks the admin listener of a server which policy is in force, since when, whether a
newer one was refused, and how its decision cache does. The exit status is 0 if the
server has a policy and refused none, 1 if not, and 2 if there is no answer.`,
		Example: `  postern policy status
  postern policy status --admin 10.0.0.7:9192 --ca ca.pem
  postern policy status -o json`,
		Args: arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := c.policyStatus(cmd.Context())
			if err != nil {
				return err
			}
			if err := s.print(cmd.OutOrStdout(), output); err != nil {
				return err
			}
			if !s.policyReady || s.Revision == "" || s.ReloadFailed {
				return &exitError{exitDeny}
			}
			return nil
		},
	}
	c.flags(cmd, "admin", defaultAdmin)
	outputFlag(cmd, &output)
	return cmd
}

// maxStatus bounds what a server says, in bytes.
const maxStatus = 16 << 20

func (c *connection) policyStatus(ctx context.Context) (*inForce, error) {
	client, base, err := c.httpClient()
	if err != nil {
		return nil, err
	}
	defer client.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	out := &inForce{Server: c.Address, Metrics: map[string]float64{}}
	var ready struct {
		Ready      bool
		Conditions []struct {
			Name, Detail string
			Ready        bool
		}
	}
	text, err := c.get(ctx, client, base+"/readyz", http.StatusOK, http.StatusServiceUnavailable)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(text, &ready); err != nil {
		return nil, fmt.Errorf("%s is no admin listener: what /readyz says is no JSON", c.Address)
	}
	out.Ready = ready.Ready
	for _, condition := range ready.Conditions {
		if condition.Name == "policy" {
			out.Condition, out.policyReady = condition.Detail, condition.Ready
		}
		if condition.Name == "shadow policy" {
			out.Shadow = condition.Detail
		}
	}
	if text, err = c.get(ctx, client, base+"/metrics", http.StatusOK); err != nil {
		return nil, err
	}
	out.measure(string(text))
	return out, nil
}

// httpClient reaches the same listener as a gRPC connection would.
func (c *connection) httpClient() (*http.Client, string, error) {
	switch {
	case c.Address == "":
		return nil, "", errors.New("the address of the server is empty")
	case (c.Cert == "") != (c.Key == ""):
		return nil, "", errors.New("--cert and --key belong together")
	}
	transport, base := &http.Transport{}, "http://"+c.Address
	if c.Encrypted() {
		config, err := c.TLSConfig()
		if err != nil {
			return nil, "", err
		}
		transport.TLSClientConfig, base = config, "https://"+c.Address
	}
	if file, ok := strings.CutPrefix(c.Address, "unix:"); ok {
		file = "/" + strings.TrimLeft(file, "/")
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", file)
		}
		base = strings.TrimSuffix(base, c.Address) + "localhost"
	}
	return &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}, base, nil
}

func (c *connection) get(ctx context.Context, client *http.Client, url string, accepted ...int) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, fmt.Errorf("%s is no address of a server", c.Address)
	}
	token, err := c.Token()
	if err != nil {
		return nil, err
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	res, err := client.Do(req)
	if err != nil {
		return nil, c.NoAnswer(status.New(codes.Unavailable, err.Error()))
	}
	defer res.Body.Close()
	switch {
	case res.StatusCode == http.StatusForbidden:
		return nil, errors.New("the server does not tell everybody; show who is asking with --cert and --key, or --caller-token-file")
	case !slices.Contains(accepted, res.StatusCode):
		return nil, fmt.Errorf("%s answered %s; name the admin listener with --admin", c.Address, res.Status)
	}
	return io.ReadAll(io.LimitReader(res.Body, maxStatus))
}

// measure reads what is about policies in the metrics (the text format of Prometheus).
func (s *inForce) measure(text string) {
	lines := bufio.NewScanner(strings.NewReader(text))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		name, labels, value, ok := sample(lines.Text())
		if !ok {
			continue
		}
		switch {
		case name == "postern_policy_info":
			s.Revision = labels["revision"]
		case name == "postern_policy_activated_seconds":
			s.Activated = time.Unix(int64(value), 0).UTC()
		case name == "postern_reload_failed" && labels["part"] == "policy":
			s.ReloadFailed = value != 0
		case name == "postern_decision_cache_total" && labels["result"] == "hit":
			s.Hits = value
		case name == "postern_decision_cache_total" && labels["result"] == "miss":
			s.Misses = value
		case name == "postern_decision_cache_entries":
			s.Entries = value
		}
		if strings.HasPrefix(name, "postern_policy_") || strings.HasPrefix(name, "postern_bundle") || strings.HasPrefix(name, "postern_decision_cache") || strings.HasPrefix(name, "postern_shadow") {
			full, _, _ := strings.Cut(lines.Text(), "} ")
			if strings.Contains(full, "{") {
				full += "}"
			} else {
				full = name
			}
			s.Metrics[full] = value
		}
	}
}

// sample reads one line: name{label="value",…} number.
func sample(line string) (name string, labels map[string]string, value float64, ok bool) {
	if strings.HasPrefix(line, "#") {
		return "", nil, 0, false
	}
	var rest string
	name, rest, ok = strings.Cut(line, " ")
	if i := strings.IndexByte(line, '{'); i >= 0 {
		end := strings.LastIndex(line, "} ")
		if end < i {
			return "", nil, 0, false
		}
		name, rest = line[:i], line[end+2:]
		labels, ok = labelsOf(line[i+1 : end])
	}
	number, _, _ := strings.Cut(rest, " ")
	value, err := strconv.ParseFloat(number, 64)
	return name, labels, value, ok && err == nil
}

// labelsOf reads label="value" pairs, whose values are quoted as in Go.
func labelsOf(text string) (map[string]string, bool) {
	all := map[string]string{}
	for text != "" {
		name, rest, ok := strings.Cut(text, "=")
		if !ok {
			return nil, false
		}
		quoted, err := strconv.QuotedPrefix(rest)
		if err != nil {
			return nil, false
		}
		if all[name], err = strconv.Unquote(quoted); err != nil {
			return nil, false
		}
		text = strings.TrimPrefix(rest[len(quoted):], ",")
	}
	return all, true
}

func (s *inForce) print(w io.Writer, output format) error {
	if output != "table" {
		return encodeValue(w, output, s)
	}
	word := map[bool]string{true: "yes", false: "no"}
	rows := []row{{"server", s.Server}, {"ready", word[s.Ready]}, {"policy", s.Revision}}
	if s.Revision == "" {
		rows[2].value = "none"
	}
	if !s.Activated.IsZero() {
		rows = append(rows, row{"in force since", formatTime(s.Activated)})
	}
	rows = append(rows, row{"condition", s.Condition})
	if s.ReloadFailed {
		rows = append(rows, row{"newer policy", "refused; what was in force stays"})
	}
	rows = append(rows, row{"shadow", s.Shadow})
	if all := s.Hits + s.Misses; all > 0 {
		rows = append(rows, row{"cache", fmt.Sprintf("%.1f%% of %.0f decisions remembered, %.0f kept", 100*s.Hits/all, all, s.Entries)})
	}
	if err := printRows(w, rows); err != nil {
		return err
	}
	var names []string
	for name := range s.Metrics {
		if strings.HasPrefix(name, "postern_bundle") || strings.HasPrefix(name, "postern_shadow") {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		if _, err := fmt.Fprintf(w, "%s %g\n", printable(name), s.Metrics[name]); err != nil {
			return err
		}
	}
	return nil
}
