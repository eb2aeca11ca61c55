package main

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/postern-auth/postern/server"
)

// The bits of a file's mode that let everybody in.
const (
	othersRead  fs.FileMode = 0o004
	othersWrite fs.FileMode = 0o002
	othersEnter fs.FileMode = 0o001
	sticky                  = fs.ModeSticky
)

// lookAtFiles looks who else on this machine can read secrets, or write what decides.
func (d *doctor) lookAtFiles() {
	if runtime.GOOS == "windows" || d.cfg == nil {
		d.skip("files", "not looked at")
		return
	}
	before, n := len(d.found), 0
	config, _ := filepath.Abs(d.config)
	for _, f := range append([]server.File{{Field: "the configuration", Path: config}}, d.cfg.Files(d.base())...) {
		info, err := os.Stat(f.Path)
		if err != nil {
			if f.Secret {
				d.problem("files", fmt.Sprintf("%s: %s cannot be read", f.Field, f.Path), "say where it is, or who may read it")
			}
			continue // what need not exist, config check has looked for
		}
		n++
		d.lookAtFile(f, info)
	}
	if len(d.found) == before {
		d.ok("files", "none of %d can be read or written by everybody that should not be", n)
	}
}

func (d *doctor) lookAtFile(f server.File, info fs.FileInfo) {
	mode := info.Mode()
	switch reach := reachable(f.Path); {
	case !reach:
	case f.Secret && mode&othersRead != 0:
		d.problem("files", fmt.Sprintf("%s: everybody on this machine can read %s", f.Field, f.Path), "chmod o= "+f.Path)
	case mode&othersWrite != 0:
		d.problem("files", fmt.Sprintf("%s: everybody on this machine can change %s", f.Field, f.Path), "chmod o-w "+f.Path)
	}
	if !info.IsDir() || !reachable(f.Path) {
		if dir, err := os.Stat(filepath.Dir(f.Path)); err == nil && reachable(filepath.Dir(f.Path)) && dir.Mode()&othersWrite != 0 && dir.Mode()&sticky == 0 {
			d.problem("files", fmt.Sprintf("%s: everybody on this machine can replace %s", f.Field, f.Path), "chmod o-w "+filepath.Dir(f.Path))
		}
		return
	}
	_ = filepath.WalkDir(f.Path, func(name string, e fs.DirEntry, err error) error {
		if err != nil {
			return nil //nolint:nilerr // what cannot be looked at is told elsewhere
		}
		if in, err := e.Info(); err == nil && name != f.Path && in.Mode()&othersWrite != 0 && in.Mode()&fs.ModeSymlink == 0 {
			d.problem("files", fmt.Sprintf("%s: everybody on this machine can change %s", f.Field, name), "chmod -R o-w "+f.Path)
			return fs.SkipAll
		}
		return nil
	})
}

// reachable reports whether everybody can come as far as the file: through a directory
// that only its owner may enter, nobody else does, whatever the file says.
func reachable(path string) bool {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		real = path
	}
	for dir := filepath.Dir(real); ; dir = filepath.Dir(dir) {
		if info, err := os.Stat(dir); err == nil && info.Mode()&othersEnter == 0 {
			return false
		}
		if dir == filepath.Dir(dir) {
			return true
		}
	}
}

// soon is when a certificate that ends is a warning.
const soon = 14 * 24 * time.Hour

// lookAtCertificates looks at those on disk.
func (d *doctor) lookAtCertificates() {
	if d.cfg == nil || d.cfg.TLS == nil {
		return
	}
	chain, err := readCertificates(string(d.cfg.TLS.Cert))
	if err != nil {
		return // config check has said it
	}
	d.lookAtChain("tls.cert", chain)
	if d.cfg.TLS.ClientCA == "" {
		return
	}
	authorities, err := readCertificates(string(d.cfg.TLS.ClientCA))
	if err != nil {
		return
	}
	for _, ca := range authorities {
		d.lookAtEnd("tls.client_ca: "+ca.Subject.String(), ca)
		if !ca.IsCA {
			d.problem("tls", "tls.client_ca: "+ca.Subject.String()+" is no authority, so that no client is taken", "put the CA's own certificate there")
		}
	}
}

// lookAtChain looks at a server's certificate and those after it.
func (d *doctor) lookAtChain(what string, chain []*x509.Certificate) {
	if len(chain) == 0 {
		return
	}
	before := len(d.found)
	var signed *x509.Certificate
	for i, c := range chain {
		d.lookAtEnd(what+": "+c.Subject.String(), c)
		if signed != nil && signed.CheckSignatureFrom(c) != nil {
			d.problem("tls", fmt.Sprintf("%s: certificate %d did not sign the one before it; clients cannot follow the chain", what, i+1), "the leaf first, then who signed it, and so on")
		}
		signed = c
	}
	if leaf := chain[0]; len(leaf.DNSNames)+len(leaf.IPAddresses)+len(leaf.URIs) == 0 {
		d.problem("tls", what+" names no host (subjectAltName); no client takes it", "have it issued for the name by which gateways connect")
	}
	if len(d.found) == before {
		d.ok("tls", "%s is good until %s", what, chain[0].NotAfter.UTC().Format(time.RFC3339))
	}
}

// lookAtEnd looks when a certificate ends.
func (d *doctor) lookAtEnd(what string, c *x509.Certificate) {
	switch now := d.now(); {
	case now.Before(c.NotBefore):
		d.problem("tls", fmt.Sprintf("%s is not good before %s", what, c.NotBefore.UTC().Format(time.RFC3339)), "is the clock right?")
	case now.After(c.NotAfter):
		d.problem("tls", fmt.Sprintf("%s has ended at %s", what, c.NotAfter.UTC().Format(time.RFC3339)), "renew it: a new file is taken over without a restart")
	case now.Add(soon).After(c.NotAfter):
		d.warn("tls", fmt.Sprintf("%s ends at %s", what, c.NotAfter.UTC().Format(time.RFC3339)), "renew it: a new file is taken over without a restart")
	}
}

// readCertificates reads the certificates of a PEM file.
func readCertificates(name string) (all []*x509.Certificate, err error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		all = append(all, c)
	}
	return all, nil
}
