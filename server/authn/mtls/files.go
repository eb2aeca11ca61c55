package mtls

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
)

// The sizes of files, in bytes. A revocation list needs about 40 for each entry.
const (
	maxBundle = 4 << 20
	maxList   = 64 << 20
)

// file is one file of the configuration, and what was last read from it.
type file struct {
	field, path string
	limit       int64
	bundle      *Bundle // nil: revocation lists
	digest      [sha256.Size]byte
	certs       []*x509.Certificate
	lists       []*x509.RevocationList
}

// files are the files that the configuration names, unread.
func (c *Config) files() []file {
	var all []file
	for i := range c.Bundles {
		b := &c.Bundles[i]
		all = append(all, file{field: fmt.Sprintf("bundles[%d].file", i), path: b.File.String(), limit: maxBundle, bundle: b})
	}
	for i, path := range c.CRLFiles {
		all = append(all, file{field: fmt.Sprintf("crl_files[%d]", i), path: path.String(), limit: maxList})
	}
	return all
}

// Files returns the paths of all files, to be watched.
func (c *Config) Files() []string {
	var all []string
	for _, f := range c.files() {
		all = append(all, f.path)
	}
	return all
}

// Reload reads the files again, and puts what changed in force. A file that cannot be
// read, holds no certificate, or is half written stays as it was, and so do the lists of
// a file of which one is wrong; the error says so, as Status does until it is mended. No
// proof of before outlives a change.
func (a *Authenticator) Reload(context.Context) error {
	a.reloading.Lock()
	defer a.reloading.Unlock()
	old, now := a.anchors.Load(), a.now()
	next, changed, errs := slices.Clone(a.files), a.faulty, []error(nil)
	for i := range next {
		fresh, err := next[i].read(a.readFile)
		changed = changed || fresh
		if err != nil {
			errs = append(errs, next[i].wrong(err))
		}
	}
	var anchors *anchors
	if changed && (old != nil || errs == nil) {
		var err error
		if anchors, err = a.anchor(next, old, now); err != nil {
			errs = append(errs, err)
		}
		a.faulty = err != nil
	}
	err := errors.Join(errs...)
	if old == nil && err != nil {
		return err // there is nothing that could stay in force
	}
	if anchors != nil {
		a.files = next
		a.anchors.Store(anchors)
		a.good.InvalidateAll() // usable looks at the anchors: this only frees the memory
		a.bad.InvalidateAll()
	}
	a.note(anchors != nil, now, err)
	return err
}

func (a *Authenticator) note(changed bool, now time.Time, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.status.Err = err
	if changed {
		a.status.LoadedAt = now
	}
}

// anchor makes anchors of the files. Where the error is of the lists of a file, those
// stay that the file had before: a wrong list is no reason to go on trusting a CA that
// was taken out of its bundle, nor to forget what was revoked.
func (a *Authenticator) anchor(files []file, old *anchors, now time.Time) (*anchors, error) {
	next := &anchors{lists: revocations{}, requireLists: a.cfg.RequireCRL, staleLists: a.cfg.InsecureStaleCRL}
	for i := range files {
		if f := &files[i]; f.bundle != nil {
			b := bundle{name: f.bundle.Name, domain: f.bundle.TrustDomain, pool: x509.NewCertPool(), certs: f.certs}
			for _, c := range f.certs {
				b.pool.AddCert(c)
			}
			next.bundles = append(next.bundles, b)
		}
	}
	var errs []error
	for i := range files {
		f := &files[i]
		if f.bundle != nil {
			continue
		}
		lists, err := next.readLists(f, old, now)
		if err != nil {
			errs = append(errs, f.wrong(err))
			lists = old.listsOf(f.path)
		}
		for who, some := range lists {
			for _, l := range some {
				next.lists.add(who, l)
			}
		}
	}
	return next, errors.Join(errs...)
}

// wrong says in which file something is wrong.
func (f *file) wrong(err error) error {
	return fmt.Errorf("mtls.%s: %s: %w", f.field, f.path, unwrapPath(err))
}

// read reads the file and reports whether it says something else than before. On an
// error the file stays as it was.
func (f *file) read(readFile func(string, int64) ([]byte, error)) (changed bool, err error) {
	src, err := readFile(f.path, f.limit)
	if err != nil {
		return false, err
	}
	digest := sha256.Sum256(src)
	if digest == f.digest {
		return false, nil
	}
	next := *f
	next.digest, next.certs, next.lists = digest, nil, nil
	if f.bundle == nil && !bytes.Contains(src, pemStart) {
		l, err := x509.ParseRevocationList(src)
		if err != nil {
			return false, errors.New("is no revocation list, neither PEM nor DER")
		}
		next.lists = append(next.lists, l)
	} else if err := next.parse(src); err != nil {
		return false, err
	}
	*f = next
	return true, nil
}

const (
	pemCRL   = "X509 CRL"
	maxCerts = 1000 // of a file
)

var pemStart = []byte("-----BEGIN ")

// parse reads the blocks of a file of PEM. pem.Decode passes over blocks that it cannot
// read; here they are errors, because a file that is half written would lose CAs.
func (f *file) parse(src []byte) error {
	for at := bytes.Index(src, pemStart); at >= 0; at = bytes.Index(src, pemStart) {
		block, rest := pem.Decode(src[at:])
		if block == nil || bytes.Count(src[at:len(src)-len(rest)], pemStart) != 1 {
			return errBroken
		}
		if err := f.add(block); err != nil {
			return err
		}
		src = rest
	}
	switch {
	case f.bundle != nil && len(f.certs) == 0:
		return errors.New("holds no certificate: nobody could be verified")
	case f.bundle == nil && len(f.lists) == 0:
		return errors.New("holds no revocation list")
	case len(f.certs) > maxCerts:
		return fmt.Errorf("holds more than %d certificates", maxCerts)
	}
	return nil
}

var errBroken = errors.New("a block of PEM in it is cut off or broken")

// add takes one block.
func (f *file) add(block *pem.Block) error {
	switch {
	case strings.HasSuffix(block.Type, "PRIVATE KEY"):
		return errors.New("holds a private key, which has no place there: take it out, and treat it as read by others")
	case block.Type == pemCertificate:
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return fmt.Errorf("certificate %d: %w", len(f.certs)+1, err)
		}
		if !c.BasicConstraintsValid || !c.IsCA {
			return fmt.Errorf("certificate %d, of %s, is not of a CA", len(f.certs)+1, nameOf(c))
		}
		if err := checkKey(c); err != nil {
			return fmt.Errorf("certificate %d, of %s: %w", len(f.certs)+1, nameOf(c), err)
		}
		f.certs = append(f.certs, c)
	case block.Type == pemCRL && f.bundle == nil:
		l, err := x509.ParseRevocationList(block.Bytes)
		if err != nil {
			return fmt.Errorf("list %d: %w", len(f.lists)+1, err)
		}
		f.lists = append(f.lists, l)
	default:
		return fmt.Errorf("holds a block %q, which has no place there", block.Type)
	}
	return nil
}

// Status is the state of the files, for readiness and metrics.
type Status struct {
	// Bundles and Lists are those in force.
	Bundles []BundleStatus
	Lists   []ListStatus
	// LoadedAt is when the last change was put in force.
	LoadedAt time.Time
	// Err says why the last reload failed, in whole or in part, so that something older
	// is in force; nil if it did not fail.
	Err error
}

// BundleStatus is a bundle in force.
type BundleStatus struct {
	Name, TrustDomain string
	// Certificates is how many CAs it holds, and NotAfter when the last of them ends.
	Certificates int
	NotAfter     time.Time
}

// ListStatus is a revocation list in force.
type ListStatus struct {
	// Issuer is the CA.
	Issuer string
	// Revoked is how many certificates it names.
	Revoked int
	// NextUpdate is when it is out of date, and Stale whether it is now: certificates of
	// that CA cannot be verified then.
	NextUpdate time.Time
	Stale      bool
}

// Status returns the state now.
func (a *Authenticator) Status() Status {
	a.mu.Lock()
	s := a.status
	a.mu.Unlock()
	current, now := a.anchors.Load(), a.now()
	for i := range current.bundles {
		b := &current.bundles[i]
		last := slices.MaxFunc(b.certs, func(x, y *x509.Certificate) int { return x.NotAfter.Compare(y.NotAfter) })
		s.Bundles = append(s.Bundles, BundleStatus{b.name, b.domain, len(b.certs), last.NotAfter})
	}
	for _, lists := range current.lists {
		for _, l := range lists {
			s.Lists = append(s.Lists, ListStatus{l.issuer, len(l.revoked), l.nextUpdate, !now.Before(l.nextUpdate)})
		}
	}
	slices.SortFunc(s.Lists, func(x, y ListStatus) int { return strings.Compare(x.Issuer, y.Issuer) })
	return s
}

// unwrapPath takes the path out of an error whose reader puts it there itself.
func unwrapPath(err error) error {
	var path *os.PathError
	if errors.As(err, &path) {
		return path.Err
	}
	return err
}
