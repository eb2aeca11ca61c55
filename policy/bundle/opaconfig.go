package bundle

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/strictyaml"
	"go.yaml.in/yaml/v3"
)

// Translation is what a configuration file of OPA says, in our words.
type Translation struct {
	// Config is its bundles, with services and keys.
	Config Config
	// Entrypoint is the decision that is asked for; empty if the file names none.
	Entrypoint string
	// Listen is the address of the OPA-Envoy plugin; empty if the file names none.
	Listen string
	// ProtoDescriptor is the file of its descriptor set, for the bodies of gRPC calls.
	ProtoDescriptor strictyaml.Path
	// DecisionLog and Status say where reports go; nil if the file has none.
	DecisionLog, Status *Report
	// Labels go into decision logs.
	Labels map[string]string
	// Notes say what was read and has another meaning or none here, by line.
	Notes []string
}

// Report is an upload to a service, or to the console.
type Report struct {
	// URL is the service's, with the path of the upload; empty if there is none.
	URL         string
	Credentials Credentials
	// CAFile is a PEM file of the service's authorities.
	CAFile strictyaml.Path
	// Console writes to stdout too.
	Console bool
	// Mask and Drop are the decisions that hide or drop events; data.… or empty.
	Mask, Drop string
	// MinDelay and MaxDelay are between two uploads; 0 if the file does not say.
	MinDelay, MaxDelay time.Duration
}

// maxOPAFile bounds the file, in bytes.
const maxOPAFile = 1 << 20

// FromOPA reads a configuration file of OPA, YAML or JSON: services, keys, bundles,
// decision_logs, status, labels, default_decision, persistence_directory and the
// OPA-Envoy plugin. The error says, by line, all that cannot be had here, so that
// nothing of a file is left out in silence; what makes no difference to decisions is
// in Notes. Getenv fills in ${NAME}, as OPA does.
//
// OPA verifies a bundle's signature only if the bundle has `signing`. A remote bundle
// without it gets insecure_skip, and a note.
func FromOPA(name string, text []byte, getenv func(string) string) (*Translation, error) {
	if len(text) > maxOPAFile {
		return nil, fmt.Errorf("%s is larger than %d bytes", name, maxOPAFile)
	}
	filled := environment.ReplaceAllFunc(text, func(m []byte) []byte { return []byte(getenv(string(m[2 : len(m)-1]))) })
	var doc yaml.Node
	if err := yaml.Unmarshal(filled, &doc); err != nil {
		// The text may quote a secret that was filled in: only its line is told.
		if m := yamlLine.FindString(err.Error()); m != "" {
			return nil, fmt.Errorf("%s: %s: is not YAML", name, m)
		}
		return nil, fmt.Errorf("%s is not YAML", name)
	}
	if len(doc.Content) == 0 {
		return nil, fmt.Errorf("%s is empty", name)
	}
	t := translator{file: name, services: map[string]service{}, keys: map[string]Key{}}
	t.all(doc.Content[0])
	if len(t.problems) > 0 {
		return nil, fmt.Errorf("%s", strings.Join(t.problems, "\n"))
	}
	return &t.out, nil
}

var (
	environment = regexp.MustCompile(`\$\{[A-Za-z_][A-Za-z0-9_]*\}`)
	yamlLine    = regexp.MustCompile(`line \d+`)
)

// service is one of OPA's, to which bundles and reports refer.
type service struct {
	url         string
	credentials Credentials
	caFile      strictyaml.Path
	oci         bool
}

type translator struct {
	file     string
	out      Translation
	services map[string]service
	keys     map[string]Key
	problems []string
}

func (t *translator) problem(n *yaml.Node, format string, values ...any) {
	t.problems = append(t.problems, fmt.Sprintf("%s:%d: %s", t.file, n.Line, fmt.Sprintf(format, values...)))
}

func (t *translator) remark(n *yaml.Node, format string, values ...any) {
	t.out.Notes = append(t.out.Notes, fmt.Sprintf("%s:%d: %s", t.file, n.Line, fmt.Sprintf(format, values...)))
}

// table is what to do with each field of an object.
type table map[string]func(*yaml.Node)

// fields reads an object; what is not in the table is a problem.
func (t *translator) fields(n *yaml.Node, where string, known table) {
	if n.Kind != yaml.MappingNode {
		if n.ShortTag() != "!!null" {
			t.problem(n, "%s is no object", where)
		}
		return
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		switch read := known[key.Value]; {
		case seen[key.Value]:
			t.problem(key, "%s.%s stands twice", where, key.Value)
		case read == nil:
			t.problem(key, "%s is not supported", strings.TrimPrefix(where+"."+key.Value, "."))
		case value.ShortTag() != "!!null":
			read(value)
		}
		seen[key.Value] = true
	}
}

// each calls f with the members of an object, or of a list whose elements have a
// name.
func (t *translator) each(n *yaml.Node, f func(name string, n *yaml.Node)) {
	switch n.Kind {
	case yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			f(n.Content[i].Value, n.Content[i+1])
		}
	case yaml.SequenceNode:
		for _, e := range n.Content {
			f("", e)
		}
	default:
		t.problem(n, "is neither an object nor a list")
	}
}

func text(into *string) func(*yaml.Node) {
	return func(n *yaml.Node) {
		if n.Kind == yaml.ScalarNode {
			*into = n.Value
		}
	}
}

// scalar reads a value of the type of into.
func scalar[T any](t *translator, into *T) func(*yaml.Node) {
	return func(n *yaml.Node) {
		if n.Kind != yaml.ScalarNode && n.Kind != yaml.SequenceNode || n.Decode(into) != nil {
			t.problem(n, "the value does not fit")
		}
	}
}

func (t *translator) seconds(into *time.Duration) func(*yaml.Node) {
	return func(n *yaml.Node) {
		var s int64
		if n.Decode(&s) != nil || s < 0 || s > 1<<31 {
			t.problem(n, "is no number of seconds")
		}
		*into = time.Duration(s) * time.Second
	}
}

// ignored is for fields that make no difference here.
func (t *translator) ignored(what string) func(*yaml.Node) {
	return func(n *yaml.Node) { t.remark(n, "%s", what) }
}

func (t *translator) all(root *yaml.Node) {
	// Services and keys are read first: what is held back refers to them.
	var bundles, logs, status *yaml.Node
	hold := func(into **yaml.Node) func(*yaml.Node) { return func(n *yaml.Node) { *into = n } }
	t.fields(root, "", table{
		"services":              func(n *yaml.Node) { t.each(n, t.service) },
		"keys":                  func(n *yaml.Node) { t.each(n, t.key) },
		"labels":                func(n *yaml.Node) { _ = n.Decode(&t.out.Labels) },
		"default_decision":      func(n *yaml.Node) { t.entrypoint(n) },
		"persistence_directory": func(n *yaml.Node) { t.out.Config.Persist = strictyaml.Path(n.Value) },
		"bundles":               hold(&bundles),
		"decision_logs":         hold(&logs),
		"status":                hold(&status),
		"plugins":               func(n *yaml.Node) { t.fields(n, "plugins", table{"envoy_ext_authz_grpc": t.envoy}) },
		"discovery": func(n *yaml.Node) {
			t.problem(n, "discovery is not supported: a server must not decide where policy comes from; write the bundles into the file")
		},
		"bundle":                         func(n *yaml.Node) { t.problem(n, "bundle is OPA's old form; write it below bundles") },
		"default_authorization_decision": t.ignored("default_authorization_decision is for OPA's own API, which Postern does not have"),
		"caching":                        t.ignored("caching: the decision cache is set with policy.cache"),
		"server":                         t.ignored("server is for OPA's own API, which Postern does not have"),
		"distributed_tracing":            t.ignored("distributed_tracing is set elsewhere"),
		"nd_builtin_cache":               t.ignored("nd_builtin_cache: Postern does not log the results of built-in functions"),
	})
	if bundles != nil {
		t.each(bundles, t.bundle)
	}
	if logs != nil {
		t.out.DecisionLog = t.report(logs, "decision_logs", "/logs")
	}
	if status != nil {
		t.out.Status = t.report(status, "status", "/status")
	}
}

func (t *translator) service(name string, n *yaml.Node) {
	var s service
	var kind string
	t.fields(n, "services."+name, table{
		"name":                            text(&name),
		"url":                             text(&s.url),
		"type":                            text(&kind),
		"response_header_timeout_seconds": t.ignored("response_header_timeout_seconds: Postern bounds a download as a whole, with timeout"),
		"tls": func(n *yaml.Node) {
			t.fields(n, "tls", table{"ca_cert": func(n *yaml.Node) { s.caFile = strictyaml.Path(n.Value) },
				"system_ca_required": func(n *yaml.Node) {
					if n.Value == "true" {
						t.problem(n, "tls.system_ca_required is not supported: put all authorities into one file")
					}
				}})
		},
		"credentials": func(n *yaml.Node) { t.credentials(n, &s.credentials) },
		"allow_insecure_tls": func(n *yaml.Node) {
			if n.Value == "true" {
				t.problem(n, "allow_insecure_tls is not supported: name the server's authority in tls.ca_cert")
			}
		},
	})
	switch kind {
	case "":
	case "oci":
		s.oci = true
	default:
		t.problem(n, "a service of type %q is not supported", kind)
	}
	t.services[name] = s
}

func (t *translator) credentials(n *yaml.Node, c *Credentials) {
	secret := func(into *policy.Secret) func(*yaml.Node) {
		return func(n *yaml.Node) { *into = policy.NewSecret(n.Value) }
	}
	path := func(into *strictyaml.Path) func(*yaml.Node) {
		return func(n *yaml.Node) { *into = strictyaml.Path(n.Value) }
	}
	t.fields(n, "credentials", table{
		"bearer": func(n *yaml.Node) {
			scheme := "Bearer"
			t.fields(n, "credentials.bearer", table{"token": secret(&c.Bearer), "token_path": path(&c.BearerFile), "scheme": text(&scheme)})
			if !strings.EqualFold(scheme, "bearer") {
				t.problem(n, "credentials.bearer.scheme %q is not supported", scheme)
			}
		},
		"client_tls": func(n *yaml.Node) {
			c.ClientCertificate = &ClientCertificate{}
			t.fields(n, "credentials.client_tls", table{"cert": path(&c.ClientCertificate.Cert), "private_key": path(&c.ClientCertificate.Key),
				"cert_reread_interval_seconds": func(*yaml.Node) {}})
		},
		"oauth2": func(n *yaml.Node) {
			c.OAuth2 = &OAuth2{}
			grant := "client_credentials"
			t.fields(n, "credentials.oauth2", table{"token_url": text(&c.OAuth2.TokenURL), "client_id": text(&c.OAuth2.ClientID),
				"client_secret": secret(&c.OAuth2.ClientSecret), "scopes": scalar(t, &c.OAuth2.Scopes), "grant_type": text(&grant)})
			if grant != "client_credentials" {
				t.problem(n, "credentials.oauth2.grant_type %q is not supported", grant)
			}
		},
		"s3_signing": func(n *yaml.Node) { c.S3 = t.s3(n) },
		"gcp_metadata": func(n *yaml.Node) {
			c.GCP = &GCP{}
			t.fields(n, "credentials.gcp_metadata", table{"scopes": scalar(t, &c.GCP.Scopes), "audience": text(&c.GCP.Audience)})
		},
		"azure_managed_identity": func(n *yaml.Node) {
			c.Azure = &Azure{}
			t.fields(n, "credentials.azure_managed_identity", table{"resource": text(&c.Azure.Resource), "client_id": text(&c.Azure.ClientID)})
		},
	})
}

func (t *translator) s3(n *yaml.Node) *S3 {
	s := &S3{}
	from := func(source S3Source) func(*yaml.Node) {
		return func(n *yaml.Node) {
			s.From = source
			t.fields(n, string(source), table{"aws_region": text(&s.Region), "profile": text(&s.Profile)})
		}
	}
	t.fields(n, "credentials.s3_signing", table{
		"environment_credentials": from(S3Environment), "metadata_credentials": from(S3Metadata),
		"web_identity_credentials": from(S3WebIdentity), "profile_credentials": from(S3Profile),
		"service": func(n *yaml.Node) {
			if n.Value != "s3" {
				t.problem(n, "credentials.s3_signing.service %q is not supported", n.Value)
			}
		},
	})
	return s
}

func (t *translator) key(name string, n *yaml.Node) {
	k := Key{ID: name, Algorithm: "RS256"}
	var value string
	t.fields(n, "keys."+name, table{
		"key": text(&value), "algorithm": text(&k.Algorithm), "private_key": func(*yaml.Node) {},
		"scope": func(n *yaml.Node) {
			t.problem(n, "keys.%s.scope is not supported: set it at the bundle's signing", name)
		},
	})
	switch {
	case strings.HasPrefix(k.Algorithm, "HS"):
		k.Secret = policy.NewSecret(value)
	case strings.Contains(value, "-----BEGIN"):
		k.Key = value
	default:
		k.File = strictyaml.Path(value)
	}
	t.keys[name] = k
}

func (t *translator) bundle(name string, n *yaml.Node) {
	b := Bundle{Name: name}
	var from, resource, keyID string
	signed, persist := false, false
	t.fields(n, "bundles."+name, table{
		"name": text(&b.Name), "service": text(&from), "resource": text(&resource), "persist": scalar(t, &persist),
		"polling": func(n *yaml.Node) {
			t.fields(n, "polling", table{"min_delay_seconds": t.seconds(&b.Poll.Min), "max_delay_seconds": t.seconds(&b.Poll.Max),
				"long_polling_timeout_seconds": t.seconds(&b.Poll.Wait)})
		},
		"signing": func(n *yaml.Node) {
			signed = true
			t.fields(n, "signing", table{"keyid": text(&keyID), "scope": text(&b.Verify.Scope), "exclude_files": scalar(t, &b.Verify.Exclude)})
		},
		"trigger": func(n *yaml.Node) {
			if n.Value != "periodic" {
				t.problem(n, "trigger %q is not supported", n.Value)
			}
		},
		"size_limit_bytes": func(n *yaml.Node) {
			var size int64
			scalar(t, &size)(n)
			if strictyaml.Size(size) > t.out.Config.Limits.Download {
				t.out.Config.Limits.Download, t.out.Config.Limits.Bytes = strictyaml.Size(size), strictyaml.Size(size)
			}
		},
	})
	t.place(n, &b, from, cmp.Or(resource, "bundles/"+name))
	b.Verify.Keys = t.keysFor(n, keyID)
	switch {
	case signed:
	case !b.remote():
		b.Verify = Verify{}
	default:
		b.Verify = Verify{InsecureSkip: true}
		t.remark(n, "bundle %s has no signing: its signature is not verified (insecure_skip)", b.Name)
	}
	if persist && t.out.Config.Persist == "" {
		t.out.Config.Persist = ".opa" // OPA's default
	}
	t.out.Config.Bundles = append(t.out.Config.Bundles, b)
}

// place says where a bundle is: OPA's file:// resources need no service.
func (t *translator) place(n *yaml.Node, b *Bundle, from, resource string) {
	if path, ok := strings.CutPrefix(resource, "file://"); ok {
		b.File = strictyaml.Path(path)
		return
	}
	s, ok := t.services[from]
	if !ok && from == "" && len(t.services) == 1 {
		for _, only := range t.services {
			s, ok = only, true
		}
	}
	if !ok {
		t.problem(n, "bundle %s names the service %q, which there is not", b.Name, from)
		return
	}
	b.Credentials, b.CAFile = s.credentials, s.caFile
	if s.oci {
		b.OCI, b.InsecureHTTP = resource, strings.HasPrefix(s.url, "http://")
		return
	}
	b.URL = strings.TrimRight(s.url, "/") + "/" + strings.Trim(resource, "/")
}

// keysFor returns the key that a bundle names, or all in the order of their names.
func (t *translator) keysFor(n *yaml.Node, id string) (all []Key) {
	for name, k := range t.keys {
		if id == "" || name == id {
			all = append(all, k)
		}
	}
	if id != "" && len(all) == 0 {
		t.problem(n, "signing.keyid names the key %q, which there is not", id)
	}
	slices.SortFunc(all, func(a, b Key) int { return strings.Compare(a.ID, b.ID) })
	return all
}

func (t *translator) report(n *yaml.Node, where, path string) *Report {
	r := &Report{}
	var from, resource, partition string
	t.fields(n, where, table{
		"service": text(&from), "resource": text(&resource), "partition_name": text(&partition), "console": scalar(t, &r.Console),
		"mask_decision": text(&r.Mask), "drop_decision": text(&r.Drop),
		"reporting": func(n *yaml.Node) {
			t.fields(n, where+".reporting", table{"min_delay_seconds": t.seconds(&r.MinDelay), "max_delay_seconds": t.seconds(&r.MaxDelay),
				"buffer_size_limit_bytes":  t.ignored("buffer_size_limit_bytes: Postern bounds its buffer itself"),
				"buffer_size_limit_events": t.ignored("buffer_size_limit_events: Postern bounds its buffer itself"),
				"buffer_type":              t.ignored("buffer_type: Postern has one"),
				"upload_size_limit_bytes":  t.ignored("upload_size_limit_bytes: Postern bounds uploads itself"),
				"max_decisions_per_second": t.ignored("max_decisions_per_second: Postern counts what it cannot keep"),
				"trigger":                  t.ignored("trigger: Postern uploads by time"),
			})
		},
		"prometheus":      t.ignored("prometheus: Postern's metrics are always there"),
		"request_context": t.ignored("request_context: Postern logs no header fields that are not named"),
	})
	if s, ok := t.services[from]; ok {
		r.URL = strings.TrimRight(s.url, "/") + "/" + strings.Trim(cmp.Or(resource, path+"/"+partition), "/")
		r.Credentials, r.CAFile = s.credentials, s.caFile
	} else if from != "" {
		t.problem(n, "%s names the service %q, which there is not", where, from)
	}
	return r
}

func (t *translator) entrypoint(n *yaml.Node) {
	if t.out.Entrypoint == "" {
		t.out.Entrypoint = "data." + strings.ReplaceAll(strings.Trim(n.Value, "/"), "/", ".")
	}
}

// envoy reads the OPA-Envoy plugin's part. What it asks for wins over
// default_decision.
func (t *translator) envoy(n *yaml.Node) {
	t.out.Listen, t.out.Entrypoint = ":9191", "data.envoy.authz.allow" // the plugin's own defaults
	t.fields(n, "plugins.envoy_ext_authz_grpc", table{
		"addr":  text(&t.out.Listen),
		"path":  func(n *yaml.Node) { t.out.Entrypoint = ""; t.entrypoint(n) },
		"query": func(n *yaml.Node) { t.problem(n, "plugins.envoy_ext_authz_grpc.query is not supported: use path") },
		"dry-run": func(n *yaml.Node) {
			if n.Value == "true" {
				t.problem(n, "dry-run allows everything and is not supported")
			}
		},
		"enable-reflection":          t.ignored("enable-reflection is set with reflection"),
		"grpc-max-recv-msg-size":     t.ignored("grpc-max-recv-msg-size is set with limits"),
		"grpc-max-send-msg-size":     t.ignored("grpc-max-send-msg-size is set with limits"),
		"skip-request-body-parse":    t.ignored("skip-request-body-parse: a body is read only where the policy reads it"),
		"proto-descriptor":           func(n *yaml.Node) { t.out.ProtoDescriptor = strictyaml.Path(n.Value) },
		"enable-performance-metrics": t.ignored("enable-performance-metrics: Postern's metrics are always there"),
	})
}
