package mtls

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"time"
)

// list is what a CA has revoked.
type list struct {
	file string // which it came from
	// covers is the list's distribution point, as it stands there; empty for none. A CA
	// that has many certificates may cut its list into several, each with its own.
	covers     string
	number     *big.Int // nil: it does not say
	nextUpdate time.Time
	issuer     string
	revoked    map[string]struct{} // by the bytes of the serial number
}

func (l *list) revokes(c *x509.Certificate) bool {
	_, is := l.revoked[string(c.SerialNumber.Bytes())]
	return is
}

// revocations are the lists of each CA.
type revocations map[authority][]*list

// place returns where the list of the CA stands that another one replaces, or -1.
func (r revocations) place(who authority, l *list) int {
	return slices.IndexFunc(r[who], func(other *list) bool { return other.covers == l.covers })
}

// add adds a list, unless there is a later one in its place.
func (r revocations) add(who authority, l *list) {
	switch i := r.place(who, l); {
	case i < 0:
		r[who] = append(r[who], l)
	case r[who][i].olderThan(l):
		r[who][i] = l
	}
}

// newerThan reports whether there is a later one than the list in its place.
func (r revocations) newerThan(who authority, l *list) bool {
	i := r.place(who, l)
	return i >= 0 && l.olderThan(r[who][i])
}

// olderThan compares lists of one CA, by their numbers where both have one.
func (l *list) olderThan(other *list) bool {
	if l.number != nil && other.number != nil {
		return l.number.Cmp(other.number) < 0
	}
	return l.nextUpdate.Before(other.nextUpdate)
}

// The extensions that may be critical, because they are read or change nothing. What is
// not here changes what a list means: a delta (RFC 5280 section 5.2.4), entries of other
// CAs (5.3.3).
var (
	oidOfPoint  = asn1.ObjectIdentifier{2, 5, 29, 28} // issuingDistributionPoint
	oidsOfLists = []asn1.ObjectIdentifier{
		{2, 5, 29, 20}, // cRLNumber
		{2, 5, 29, 35}, // authorityKeyIdentifier
		oidOfPoint,
	}
	oidsOfEntries = []asn1.ObjectIdentifier{
		{2, 5, 29, 21}, // reasonCode: whatever it is, the certificate is not to be used
		{2, 5, 29, 24}, // invalidityDate
	}
)

var (
	errSigner         = errors.New("is signed by no CA of the bundles")
	errListExtension  = errors.New("has a critical extension that is not known; deltas are not supported")
	errPoint          = errors.New("is only about some of the CA's certificates, or some reasons, which is not supported")
	errEntryExtension = errors.New("has an entry with a critical extension that is not known; lists of several CAs are not supported")
	errNextUpdate     = errors.New("does not say when the next one comes")
)

// readLists checks the lists of a file. Beside them it may hold certificates of
// intermediate CAs, which have to lead to a bundle. A list that is older than the one in
// force is refused: whoever can write the file could bring back what was revoked.
func (a *anchors) readLists(f *file, old *anchors, now time.Time) (revocations, error) {
	cas := slices.Clone(f.certs)
	for _, c := range f.certs {
		if !a.vouch(c, f.certs, now) {
			return nil, fmt.Errorf("the certificate of %s leads to no bundle", nameOf(c))
		}
	}
	for i := range a.bundles {
		cas = append(cas, a.bundles[i].certs...)
	}
	all := revocations{}
	for _, raw := range f.lists {
		who, l, err := readList(raw, cas)
		if err != nil {
			return nil, fmt.Errorf("the list of %q %w", raw.Issuer.String(), err)
		}
		if old != nil && old.lists.newerThan(who, l) {
			return nil, fmt.Errorf("the list of %q is older than the one in force", l.issuer)
		}
		l.file = f.path
		all.add(who, l)
	}
	return all, nil
}

// vouch reports whether a bundle leads to the certificate of an intermediate CA.
func (a *anchors) vouch(ca *x509.Certificate, others []*x509.Certificate, now time.Time) bool {
	between := x509.NewCertPool()
	for _, c := range others {
		between.AddCert(c)
	}
	return slices.ContainsFunc(a.bundles, func(b bundle) bool {
		_, err := ca.Verify(x509.VerifyOptions{
			Roots: b.pool, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
		})
		return err == nil
	})
}

// listsOf returns the lists that came from a file.
func (a *anchors) listsOf(file string) revocations {
	all := revocations{}
	if a == nil {
		return all
	}
	for who, lists := range a.lists {
		for _, l := range lists {
			if l.file == file {
				all.add(who, l)
			}
		}
	}
	return all
}

// readList checks a list that one of the CAs has to have signed.
func readList(raw *x509.RevocationList, cas []*x509.Certificate) (who authority, l *list, err error) {
	ca := signerOf(raw, cas)
	switch {
	case ca == nil:
		return who, nil, errSigner
	case raw.NextUpdate.IsZero():
		return who, nil, errNextUpdate
	case slices.ContainsFunc(raw.Extensions, unknownIn(oidsOfLists)):
		return who, nil, errListExtension
	}
	covers, err := coverage(raw)
	if err != nil {
		return who, nil, err
	}
	l = &list{
		covers: covers, number: raw.Number, nextUpdate: raw.NextUpdate, issuer: raw.Issuer.String(),
		revoked: make(map[string]struct{}, len(raw.RevokedCertificateEntries)),
	}
	for i := range raw.RevokedCertificateEntries {
		entry := &raw.RevokedCertificateEntries[i]
		if slices.ContainsFunc(entry.Extensions, unknownIn(oidsOfEntries)) {
			return who, nil, errEntryExtension
		}
		l.revoked[string(entry.SerialNumber.Bytes())] = struct{}{}
	}
	return authorityOf(ca), l, nil
}

// unknownIn reports of an extension whether it is critical and none of those.
func unknownIn(known []asn1.ObjectIdentifier) func(pkix.Extension) bool {
	return func(e pkix.Extension) bool {
		return e.Critical && !slices.ContainsFunc(known, e.Id.Equal)
	}
}

// coverage returns the list's distribution point (RFC 5280 section 5.2.5), which only
// says where the list is found: what else may stand beside it leaves certificates out.
func coverage(raw *x509.RevocationList) (string, error) {
	for i := range raw.Extensions {
		if !raw.Extensions[i].Id.Equal(oidOfPoint) {
			continue
		}
		var fields []asn1.RawValue
		rest, err := asn1.Unmarshal(raw.Extensions[i].Value, &fields)
		if err != nil || len(rest) > 0 || len(fields) != 1 || fields[0].Class != asn1.ClassContextSpecific || fields[0].Tag != 0 {
			return "", errPoint
		}
		return string(fields[0].FullBytes), nil
	}
	return "", nil
}

// signerOf returns the CA that signed the list, or nil.
func signerOf(raw *x509.RevocationList, cas []*x509.Certificate) *x509.Certificate {
	i := slices.IndexFunc(cas, func(ca *x509.Certificate) bool {
		return slices.Equal(ca.RawSubject, raw.RawIssuer) && checkKey(ca) == nil && raw.CheckSignatureFrom(ca) == nil
	})
	if i < 0 {
		return nil
	}
	return cas[i]
}
