package server

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/strictyaml"
)

// Listen says where Postern listens: ADDRESS:PORT, or unix:///path for a socket
// that its directory's permissions guard.
type Listen struct {
	// GRPC serves CheckService and Envoy's ext_authz. An address that is not
	// loopback needs `callers` or `tls.client_ca`. Default: 127.0.0.1:9191.
	GRPC Address `yaml:"grpc"`
	// Admin serves metrics, health, explanations and the admin API, or is "off". An
	// address that is not loopback needs `callers` or `tls.client_ca`. Danger:
	// explanations show who called what; keep it on a private network. Default:
	// 127.0.0.1:9192.
	Admin Address `yaml:"admin"`
	// HTTP serves /login, /logout and /session, with which the users in the store get a
	// session cookie (see `sessions`). An address that is not loopback needs `tls`.
	// Default: off.
	HTTP Address `yaml:"http"`
	// Gateway serves over HTTP what grpc serves: forward-auth for nginx, Traefik, Caddy
	// and HAProxy (/forward-auth/nginx and so on), CheckService as JSON
	// (/postern.v1.CheckService/Check), and OpenID AuthZEN (/access/v1/evaluation). An
	// address that is not loopback needs `callers` or `tls.client_ca`. Default: off.
	Gateway Address `yaml:"gateway"`
}

// Address is where to listen: an IP address with a port, or a Unix socket. The
// zero Address is nowhere.
type Address struct {
	tcp  netip.AddrPort
	unix string
}

// UnmarshalText reads ADDRESS:PORT, unix:///path, or "off".
func (a *Address) UnmarshalText(text []byte) error {
	s := string(text)
	*a = Address{}
	if s == "off" {
		return nil
	}
	if path, ok := strings.CutPrefix(s, "unix://"); ok {
		if !filepath.IsAbs(path) || strings.HasSuffix(path, "/") {
			return errors.New("a socket is written as unix:///run/postern/check.sock")
		}
		a.unix = path
		return nil
	}
	switch ap, err := netip.ParseAddrPort(s); {
	case err == nil:
		a.tcp = ap
		return nil
	case strings.HasPrefix(s, ":"):
		return fmt.Errorf("say on which address: 127.0.0.1%s for this machine only, 0.0.0.0%s for every network", s, s)
	case strings.HasPrefix(s, "localhost:"):
		return fmt.Errorf("write the address: 127.0.0.1%s", strings.TrimPrefix(s, "localhost"))
	}
	return errors.New("an address is written as 127.0.0.1:9191, [::1]:9191 or unix:///run/postern/check.sock")
}

// Network is "tcp" or "unix", as net.Listen wants it; "" for nowhere.
func (a Address) Network() string {
	switch {
	case a.unix != "":
		return "unix"
	case a.tcp.IsValid():
		return "tcp"
	}
	return ""
}

// Target is the address as net.Listen wants it.
func (a Address) Target() string {
	if a.unix != "" {
		return a.unix
	}
	return a.tcp.String()
}

// Local reports whether only this machine reaches the address.
func (a Address) Local() bool {
	return a.Network() != "tcp" || a.tcp.Addr().Unmap().IsLoopback()
}

// String returns the address as it is written in the configuration.
func (a Address) String() string {
	switch a.Network() {
	case "unix":
		return "unix://" + a.unix
	case "tcp":
		return a.tcp.String()
	}
	return "off"
}

// MarshalText writes what UnmarshalText reads.
func (a Address) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

func loopback(port uint16) Address {
	return Address{tcp: netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port)}
}

// TLS is the server's side of TLS. The files are read again when they change.
type TLS struct {
	// Cert is a PEM file with the server's certificate and its chain. Required.
	Cert strictyaml.Path `yaml:"cert,required"`
	// Key is the PEM file with its private key. Required.
	Key strictyaml.Path `yaml:"key,required"`
	// ClientCA is a PEM file of CAs. If set, every client must show a certificate
	// that one of them signed.
	ClientCA strictyaml.Path `yaml:"client_ca"`
	// MinVersion is the oldest version of TLS: "1.2" or "1.3". Default: "1.3".
	MinVersion TLSVersion `yaml:"min_version"`
}

// SetDefaults implements strictyaml.Defaulter.
func (t *TLS) SetDefaults() { t.MinVersion = TLS13 }

// verifiesClients reports whether whoever connects shows a certificate. A nil TLS
// is none at all.
func (t *TLS) verifiesClients() bool { return t != nil && t.ClientCA != "" }

// TLSVersion is a version of TLS.
type TLSVersion string

// The versions of TLS that are not broken.
const (
	TLS12 TLSVersion = "1.2"
	TLS13 TLSVersion = "1.3"
)

// Values implements strictyaml.Enum.
func (TLSVersion) Values() []string { return []string{"1.2", "1.3"} }

// Caller is a gateway or service that may ask. It must satisfy every one of
// `spiffe`, `dns`, `cidrs` and `token` that is set, and at least one must be.
type Caller struct {
	// Name names the caller in logs and policies. Required, unique.
	Name string `yaml:"name,required"`
	// SPIFFE is the SPIFFE ID in its client certificate, for example
	// spiffe://prod.example.com/ns/edge/sa/envoy. Needs `tls.client_ca`.
	SPIFFE string `yaml:"spiffe"`
	// DNS is a DNS name in its client certificate. Needs `tls.client_ca`.
	DNS string `yaml:"dns"`
	// CIDRs are the networks from which it connects, for example 10.0.3.0/24.
	CIDRs []netip.Prefix `yaml:"cidrs"`
	// Token is what it sends as gRPC metadata `authorization: Bearer TOKEN`, or with
	// forward-auth in the header X-Postern-Caller-Token: at
	// least 16 characters, as ${file:…} or ${env:…}. Without TLS it needs `cidrs`
	// as well, because others could read it on its way.
	Token policy.Secret `yaml:"token"`
	// Trust lists what it is believed to say about its own clients. What it is not
	// believed is taken away. Default: nothing. Danger: whoever is trusted can name any
	// identity.
	//   source_principal: the identity and certificate that it verified (Envoy)
	//   x_forwarded_client_cert: that header, which it must take from what clients send
	//   client_cert: the headers Client-Cert and Client-Cert-Chain (RFC 9440), likewise
	//   context_extensions: what its routes say of themselves
	//   own_certificate: that it asks for itself, so that its own certificate counts
	//   subject: who its client is, without a credential (OpenID AuthZEN), method asserted
	//   cost: what requests cost, as CheckService's cost and in the headers under
	//     usage.cost_headers, which it must take from what clients send; and that less was
	//     used than reserved (UsageService)
	//   models: which model is asked, and of what category the prompt is, in the headers
	//     under models, which it must take from what clients send
	Trust []Trust `yaml:"trust"`
}

// Trust is what a caller is believed to say.
type Trust string

// What a caller can be believed to say.
const (
	TrustSourcePrincipal   Trust = "source_principal"
	TrustXFCC              Trust = "x_forwarded_client_cert"
	TrustClientCert        Trust = "client_cert"
	TrustContextExtensions Trust = "context_extensions"
	TrustOwnCertificate    Trust = "own_certificate"
	TrustCost              Trust = "cost"
	TrustSubject           Trust = "subject"
	TrustModels            Trust = "models"
)

// Values implements strictyaml.Enum.
func (Trust) Values() []string {
	return []string{"source_principal", "x_forwarded_client_cert", "client_cert", "context_extensions", "own_certificate", "cost", "subject", "models"}
}
