package bundle

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/open-policy-agent/opa/v1/logging"
	"github.com/open-policy-agent/opa/v1/plugins/rest"
	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/strictyaml"
)

// Credentials prove to a bundle server who we are. At most one kind is given.
type Credentials struct {
	// Bearer is a token for the Authorization field.
	Bearer policy.Secret `yaml:"bearer"`
	// BearerFile is a file with such a token, read again for each request.
	BearerFile strictyaml.Path `yaml:"bearer_file"`
	// Basic is a user and a password.
	Basic *Basic `yaml:"basic"`
	// ClientCertificate is shown on the TLS connection.
	ClientCertificate *ClientCertificate `yaml:"client_certificate"`
	// OAuth2 gets tokens with the client credentials grant (RFC 6749 section 4.4).
	OAuth2 *OAuth2 `yaml:"oauth2"`
	// S3 signs requests for AWS (Signature Version 4).
	S3 *S3 `yaml:"s3"`
	// GCP gets tokens from the metadata service of Google's cloud.
	GCP *GCP `yaml:"gcp"`
	// Azure gets tokens for a managed identity of Azure.
	Azure *Azure `yaml:"azure"`
}

// Basic is a user and a password (RFC 7617).
type Basic struct {
	// Username is the user. Required.
	Username string `yaml:"username,required"`
	// Password is the password, as ${file:…} or ${env:…}. Required.
	Password policy.Secret `yaml:"password,required"`
}

// ClientCertificate is a certificate with its key, both PEM files, read again when
// they change.
type ClientCertificate struct {
	// Cert is a PEM file with the certificate and its chain. Required.
	Cert strictyaml.Path `yaml:"cert,required"`
	// Key is the PEM file with its private key. Required.
	Key strictyaml.Path `yaml:"key,required"`
}

// OAuth2 is a client of an authorization server.
type OAuth2 struct {
	// TokenURL is the token endpoint; https.
	TokenURL     string        `yaml:"token_url,required"`
	ClientID     string        `yaml:"client_id,required"`
	ClientSecret policy.Secret `yaml:"client_secret,required"`
	Scopes       []string      `yaml:"scopes"`
}

// S3 says where the keys for AWS come from.
type S3 struct {
	// From is environment, the default: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY,
	// AWS_REGION and, for temporary ones, AWS_SESSION_TOKEN; metadata: those of the
	// machine; web_identity: AWS_ROLE_ARN and AWS_WEB_IDENTITY_TOKEN_FILE, as
	// Kubernetes sets them; or profile: a credentials file.
	From S3Source `yaml:"from"`
	// Region is needed but with environment.
	Region string `yaml:"region"`
	// Profile is the profile's name. Default: AWS_PROFILE, or default.
	Profile string `yaml:"profile"`
}

// S3Source says where the keys for AWS come from.
type S3Source string

// The sources of keys for AWS.
const (
	S3Environment S3Source = "environment"
	S3Metadata    S3Source = "metadata"
	S3WebIdentity S3Source = "web_identity"
	S3Profile     S3Source = "profile"
)

// Values implements strictyaml.Enum.
func (S3Source) Values() []string {
	return []string{"environment", "metadata", "web_identity", "profile"}
}

// GCP says which token the metadata service gives.
type GCP struct {
	// Scopes of an access token, such as
	// https://www.googleapis.com/auth/devstorage.read_only.
	Scopes []string `yaml:"scopes"`
	// Audience of an identity token, for Cloud Run and the like. Excludes scopes.
	Audience string `yaml:"audience"`
}

// Azure says which managed identity is used.
type Azure struct {
	// Resource is what the token is for. Default https://storage.azure.com/.
	Resource string `yaml:"resource"`
	// ClientID picks one of several identities.
	ClientID string `yaml:"client_id"`
}

// kinds names the credentials that are given.
func (c *Credentials) kinds() (given []string) {
	for _, k := range []struct {
		name  string
		given bool
	}{
		{"bearer", !c.Bearer.IsZero()}, {"bearer_file", c.BearerFile != ""}, {"basic", c.Basic != nil},
		{"client_certificate", c.ClientCertificate != nil}, {"oauth2", c.OAuth2 != nil},
		{"s3", c.S3 != nil}, {"gcp", c.GCP != nil}, {"azure", c.Azure != nil},
	} {
		if k.given {
			given = append(given, k.name)
		}
	}
	return given
}

func (c *Credentials) isZero() bool { return len(c.kinds()) == 0 }

func (c *Credentials) check(b *Bundle, report func(path, message, suggestion string)) {
	given := c.kinds()
	switch {
	case len(given) > 1:
		report("credentials", fmt.Sprintf("are of several kinds: %v", given), "keep one")
	case len(given) == 1 && !b.remote():
		report("credentials", "are shown to nobody: the bundle is a file", "leave them out")
	}
	if s := c.S3; s != nil && s.Region == "" && s.From != "" && s.From != S3Environment {
		report("credentials.s3.region", "is missing", "write it as eu-central-1")
	}
	if g := c.GCP; g != nil && (len(g.Scopes) == 0) == (g.Audience == "") {
		report("credentials.gcp", "needs either scopes or an audience", "for Cloud Storage, scopes: [https://www.googleapis.com/auth/devstorage.read_only]")
	}
}

// object is a JSON object of OPA's configuration.
type object map[string]any

// opa writes the credentials as OPA's client reads them.
func (c *Credentials) opa() object {
	switch {
	case !c.Bearer.IsZero():
		return object{"bearer": object{"token": c.Bearer.Reveal()}}
	case c.BearerFile != "":
		return object{"bearer": object{"token_path": string(c.BearerFile)}}
	case c.Basic != nil:
		pair := c.Basic.Username + ":" + c.Basic.Password.Reveal()
		return object{"bearer": object{"scheme": "Basic", "token": base64.StdEncoding.EncodeToString([]byte(pair))}}
	case c.ClientCertificate != nil:
		return object{"client_tls": object{"cert": string(c.ClientCertificate.Cert), "private_key": string(c.ClientCertificate.Key)}}
	case c.OAuth2 != nil:
		return object{"oauth2": object{"token_url": c.OAuth2.TokenURL, "client_id": c.OAuth2.ClientID,
			"client_secret": c.OAuth2.ClientSecret.Reveal(), "scopes": c.OAuth2.Scopes}}
	case c.S3 != nil:
		return object{"s3_signing": c.S3.opa()}
	case c.GCP != nil:
		return object{"gcp_metadata": object{"scopes": c.GCP.Scopes, "audience": c.GCP.Audience}}
	case c.Azure != nil:
		return object{"azure_managed_identity": object{"resource": c.Azure.Resource, "client_id": c.Azure.ClientID}}
	}
	return object{}
}

func (s *S3) opa() object {
	switch s.From {
	case S3Metadata:
		return object{"metadata_credentials": object{"aws_region": s.Region}}
	case S3WebIdentity:
		return object{"web_identity_credentials": object{"aws_region": s.Region}}
	case S3Profile:
		return object{"profile_credentials": object{"aws_region": s.Region, "profile": s.Profile}}
	}
	return object{"environment_credentials": object{}}
}

// client asks one server, with its credentials.
type client struct {
	http *http.Client
	auth rest.HTTPAuthPlugin
}

// newClient makes a client of OPA's authentication and our own bounds. The URL is
// the server's.
func newClient(b *Bundle, server string) (*client, error) {
	service := object{
		"name": b.Name, "url": server,
		"response_header_timeout_seconds": 0, // each request has a deadline of its own
		"credentials":                     b.Credentials.opa(),
	}
	if b.CAFile != "" {
		service["tls"] = object{"ca_cert": string(b.CAFile)}
	}
	text, err := json.Marshal(service)
	if err != nil {
		return nil, err
	}
	parsed, err := rest.New(text, nil, rest.Logger(logging.NewNoOpLogger()))
	if err != nil {
		return nil, err
	}
	c := &client{}
	if c.auth, err = parsed.Config().AuthPlugin(nil); err != nil {
		return nil, err
	}
	if c.http, err = c.auth.NewClient(*parsed.Config()); err != nil {
		return nil, fmt.Errorf("credentials of bundle %s: %w", b.Name, err)
	}
	if t, ok := c.http.Transport.(*http.Transport); ok {
		t.DisableCompression = true // what is signed and limited is what was sent
		t.MaxResponseHeaderBytes = maxHeaders
		t.MaxIdleConnsPerHost, t.MaxConnsPerHost = 1, 4
	}
	c.http.CheckRedirect = b.mayRedirect
	return c, nil
}

func (c *client) do(request *http.Request) (*http.Response, error) {
	if request.Header.Get("Authorization") == "" {
		if err := c.auth.Prepare(request); err != nil {
			return nil, fmt.Errorf("prove who we are: %w", withoutURL(err))
		}
	}
	response, err := c.http.Do(request) //nolint:gosec // the configuration names the server, and mayRedirect where it may send us
	if err != nil {
		return nil, withoutURL(err)
	}
	return response, nil
}

func (c *client) close() { c.http.CloseIdleConnections() }
