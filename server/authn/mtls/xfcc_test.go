package mtls_test

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/postern-auth/postern/server/authn"
	"github.com/postern-auth/postern/server/authn/mtls"
	"github.com/postern-auth/postern/server/vectortest"
)

// The vectors name no certificates, so the gateway's word has to do.
func namesOnly(t testing.TB) *world {
	root := newCA("root", nil, nil)
	return open(t, mtls.Config{
		Bundles:             []mtls.Bundle{{Name: "mesh", TrustDomain: "cluster.local", File: "mesh.pem"}},
		Identities:          []mtls.Identity{mtls.IdentitySPIFFE, mtls.IdentityURI, mtls.IdentityDNS},
		InsecureAcceptNames: true,
	}, map[string]string{"mesh.pem": certPEM(root.cert)})
}

func TestXFCCVectors(t *testing.T) {
	t.Parallel()
	w := namesOnly(t)
	passed := 0
	for _, v := range vectortest.Lines[struct {
		ID, XFCC, Expect, Why string
		Elements              []map[string]any
		Principal             *string
	}](t, "http/xfcc.jsonl") {
		proof, err := w.Peer(withHeaders("x-forwarded-client-cert", v.XFCC), everything)
		var refusal *authn.Refusal
		if proof == nil && !errors.As(err, &refusal) {
			t.Errorf("%s (%s): %v is not a refusal", v.ID, v.Why, err)
			continue
		}
		switch v.Expect {
		case "parse":
			elements, err := mtls.ParseXFCC(v.XFCC, 10)
			if got := asMaps(elements); err != nil || !reflect.DeepEqual(got, v.Elements) {
				t.Errorf("%s (%s): %v, %v", v.ID, v.Why, got, err)
				continue
			}
			if want := v.Principal; (want == nil) != (proof == nil) || want != nil && proof.Principal.ID != *want {
				t.Errorf("%s (%s): %v, %v", v.ID, v.Why, proof, err)
				continue
			}
		case "not-admin":
			// Whatever the answer is, it is the nearest hop's own name or none.
			if proof != nil && strings.Contains(proof.Principal.ID, "admin") {
				t.Errorf("%s (%s): %q", v.ID, v.Why, proof.Principal.ID)
				continue
			}
		default:
			t.Errorf("%s expects %q", v.ID, v.Expect)
			continue
		}
		passed++
	}
	t.Logf("%d vectors as they should be", passed)
	if passed < 34 {
		t.Errorf("%d vectors of 34", passed)
	}
}

// asMaps writes elements as the vectors do: a key of which there may be many is a list
// if there are.
func asMaps(elements [][][2]string) (all []map[string]any) {
	for _, pairs := range elements {
		m := map[string]any{}
		for _, p := range pairs {
			switch before := m[p[0]].(type) {
			case nil:
				m[p[0]] = p[1]
			case string:
				m[p[0]] = []any{before, p[1]}
			case []any:
				m[p[0]] = append(before, p[1])
			}
		}
		all = append(all, m)
	}
	return all
}

func TestXFCCIsStrict(t *testing.T) {
	t.Parallel()
	for _, bad := range []string{
		"", " ", ",", ";", "=", "Hash", "=x", "Hash=1;", "Hash=1,", ";Hash=1", ",Hash=1", "Hash=1;;By=x", "Hash=1,,By=x", "Hash=1 ", "Ha sh=1",
		"Hash =1", "Hash=1;Hash=1", "HASH=1;hash=1", `Subject="x`, `Subject="x"y`, `Subject="x\"`, `Subject="x\`, `Subject=x"`, `Subject=x"y"`,
		`Subject="a" ;By=x`, "By=a\tb", "By=a\x00", "Subject=\"a\nb\"", "Subject=\"a\\\nb\"", "By=ä", "Häsh=1", "Ha\u017fh=1", strings.Repeat("By=x,", 10) + "By=x",
		strings.Repeat("By=x;", 64) + "By=x",
	} {
		if got, err := mtls.ParseXFCC(bad, 10); err == nil {
			t.Errorf("%.40q is read as %v", bad, got)
		}
	}
	for _, good := range []string{
		"By=;Hash=1", "by=a=b;x-y_z=1", `Subject="";By="a,b;c=d"`, `Subject="\\"`, `Subject="ä"`, "By=a, \tBy=b", `Other=1;Other=2`, `Subject="a\\\"b",By=c`,
	} {
		if _, err := mtls.ParseXFCC(good, 10); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
	if _, err := mtls.ParseXFCC("By=x,By=y", 1); err == nil {
		t.Error("two elements where one is permitted")
	}
}

// What Envoy writes is read as it was meant, whatever stands in the subject: the names
// of the last element are those that the proxy put there.
func TestXFCCRoundTrip(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringOfN(rapid.SampledFrom([]rune(`aZ0=,;"\ äURI:/`)), 0, 20, -1)
		plain := rapid.StringMatching(`[a-z:/.=-]{0,12}`)
		var written []string
		var want [][][2]string
		for range rapid.IntRange(1, 4).Draw(t, "hops") {
			subject := text.Draw(t, "subject")
			escaped := strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(subject)
			read := strings.ReplaceAll(subject, `\`, `\\`) // only the quote is the header's own escape
			pairs := [][2]string{{"By", plain.Draw(t, "by")}, {"Hash", "00ff"}, {"Subject", read}, {"URI", plain.Draw(t, "uri")}}
			element := fmt.Sprintf(`By=%s;Hash=00ff;Subject="%s";URI=%s`, pairs[0][1], escaped, pairs[3][1])
			for range rapid.IntRange(0, 2).Draw(t, "dns") {
				pairs = append(pairs, [2]string{"DNS", plain.Draw(t, "name")})
				element += ";DNS=" + pairs[len(pairs)-1][1]
			}
			written, want = append(written, element), append(want, pairs)
		}
		got, err := mtls.ParseXFCC(strings.Join(written, ","), 10)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("%q\n%q\n%q\n%v", written, got, want, err)
		}
	})
}

// FuzzXFCC: nothing panics; what is read has one reading, which survives being written
// again; and nobody becomes another than the last element says.
func FuzzXFCC(f *testing.F) {
	hash := strings.Repeat("0a", 32)
	for _, seed := range []string{
		"", ";;", "By=a;Hash=" + hash + ";URI=spiffe://cluster.local/ns/x", "URI=spiffe://cluster.local/a,Hash=" + hash + ";URI=spiffe://cluster.local/b",
		`Hash=` + hash + `;Subject="CN=x\";URI=spiffe://cluster.local/a";DNS=a.test`, `Hash=` + hash + `;Cert="-----BEGIN%20CERTIFICATE-----%0A"`,
		`Hash=` + hash + `;Chain="%zz",By=x`, `By=a;100D010=\`, "hash=" + strings.ToUpper(hash) + ";uri=http://a/;x=\"\\\"\"",
	} {
		f.Add(seed)
	}
	w := namesOnly(f)
	f.Fuzz(func(t *testing.T, text string) {
		elements, err := mtls.ParseXFCC(text, 10)
		proof, refused := w.Peer(withHeaders("x-forwarded-client-cert", text), mtls.Trust{Forwarded: true})
		if (proof == nil) == (refused == nil) || err != nil && proof != nil {
			t.Fatal(proof, refused, err)
		}
		if err != nil {
			return
		}
		again, err := mtls.ParseXFCC(write(elements), 10)
		if err != nil || !reflect.DeepEqual(again, elements) {
			t.Fatalf("%q is read as %q, and that as %q: %v", text, elements, again, err)
		}
		if proof == nil {
			return
		}
		last := elements[len(elements)-1]
		if !slices.ContainsFunc(last, func(p [2]string) bool {
			return (p[0] == "URI" || p[0] == "DNS") && strings.EqualFold(p[1], proof.Principal.ID)
		}) {
			t.Fatalf("%q makes %q", text, proof.Principal.ID)
		}
	})
}

// write is the header of the elements, with quotes where a value needs them: one with
// a single backslash at its end can only stand without.
func write(elements [][][2]string) string {
	var all []string
	for _, pairs := range elements {
		var element []string
		for _, p := range pairs {
			value := p[1]
			if value == "" || strings.ContainsFunc(value, func(r rune) bool { return r <= ' ' || r >= 0x7f || strings.ContainsRune(`",;`, r) }) {
				value = `"` + requote(value) + `"`
			}
			element = append(element, p[0]+"="+value)
		}
		all = append(all, strings.Join(element, ";"))
	}
	return strings.Join(all, ",")
}

// requote escapes quotes. Backslashes stand in pairs with what follows them.
func requote(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '"':
			b.WriteString(`\"`)
		case s[i] == '\\' && i+1 < len(s):
			b.WriteString(s[i : i+2])
			i++
		default:
			b.WriteByte(s[i])
		}
	}
	return b.String()
}

// FuzzCertificate: nothing panics in the other places, and only a certificate that the
// CA signed is anybody.
func FuzzCertificate(f *testing.F) {
	root := newCA("root", nil, nil)
	w := open(f, config(), map[string]string{"prod.pem": certPEM(root.cert)})
	shop := root.issue(leaf(uris(shopID)))
	f.Add(viaClientCert(shop).Headers[1].Value, viaClientCert(shop, root.cert).Headers[2].Value, encoded(shop), shopID)
	f.Add("::", "", "%0A", "CN=x")
	f.Fuzz(func(t *testing.T, cert, chain, pem, principal string) {
		a := withHeaders("client-cert", cert, "client-cert-chain", chain)
		a.Source.Certificate, a.Source.Principal = pem, principal
		for _, trust := range []mtls.Trust{{ClientCert: true}, {Source: true}, {ClientCert: true, Source: true}} {
			proof, err := w.Peer(a, trust)
			if (proof == nil) == (err == nil) {
				t.Fatal(proof, err)
			}
			if proof != nil && proof.Peer.Fingerprint != mtls.Fingerprint(shop) {
				t.Fatal(proof.Principal)
			}
		}
	})
}
