package jose

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func b64(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }

func compact(header, payload, signature string) string {
	return b64(header) + "." + b64(payload) + "." + b64(signature)
}

func TestParseCompact(t *testing.T) {
	t.Parallel()
	token := compact(` {"\u0061lg":"RS256", "kid":"k-1","typ":"at+jwt","x":{"a":[1]}} `, `{"iss":"i","exp":1.5e3,"n":"Zo\u00eb"}`, "sig")
	got, err := ParseCompact(token, Limits{})
	if err != nil {
		t.Fatal(err)
	}
	if got.Algorithm() != "RS256" || got.KeyID() != "k-1" || !got.Header().Get("typ").Is("at+jwt") {
		t.Error(got.Algorithm(), got.KeyID(), got.Header().Any())
	}
	if !got.Claims().Get("n").Is("Zoë") || got.Claims().Get("kid").Exists() || got.Header().Get("iss").Exists() {
		t.Error(got.Claims().Any())
	}
	if got.signed+"."+b64(string(got.signature)) != token {
		t.Error("the signed text is not the token's")
	}
}

// J-12: everything that is not exactly one compact JWS.
func TestParseCompactRefuses(t *testing.T) {
	t.Parallel()
	const header, payload = `{"alg":"RS256"}`, `{"a":1}`
	good := compact(header, payload, "sig")
	if _, err := ParseCompact(good, Limits{}); err != nil {
		t.Fatal(err)
	}
	h, p, s := b64(header), b64(payload), b64("sig")
	for name, c := range map[string]struct {
		token string
		want  error
	}{
		"empty":                  {"", ErrMalformed},
		"one dot":                {".", ErrMalformed},
		"two dots":               {"..", ErrMalformed},
		"no signature":           {h + "." + p + ".", ErrMalformed},
		"no payload":             {h + ".." + s, ErrMalformed},
		"no header":              {"." + p + "." + s, ErrMalformed},
		"two parts":              {h + "." + p, ErrMalformed},
		"four parts":             {good + "." + s, ErrMalformed},
		"trailing dot":           {good + ".", ErrMalformed},
		"padding":                {compact(header, payload, "sigs") + "==", ErrMalformed},
		"newline after":          {good + "\n", ErrMalformed},
		"newline inside":         {h + "." + p[:4] + "\n" + p[4:] + "." + s, ErrMalformed},
		"carriage return":        {h + "." + p + ".\r" + s, ErrMalformed},
		"space":                  {" " + good, ErrMalformed},
		"standard alphabet":      {h + "." + p + ".ab+/", ErrMalformed},
		"five characters":        {h + "." + p + ".AAAAA", ErrMalformed},
		"loose bits, 2 of 4":     {h + "." + p + ".AB", ErrMalformed},
		"loose bits, 3 of 4":     {h + "." + p + ".AAB", ErrMalformed},
		"high bytes":             {h + "." + p + ".AA\xff\xff", ErrMalformed},
		"header is an array":     {compact(`[]`, payload, "s"), ErrMalformed},
		"header is null":         {compact(`null`, payload, "s"), ErrMalformed},
		"header with BOM":        {compact("\ufeff"+header, payload, "s"), ErrMalformed},
		"header twice":           {compact(header+header, payload, "s"), ErrMalformed},
		"payload is an array":    {compact(header, `[]`, "s"), ErrMalformed},
		"payload is a token":     {compact(header, good, "s"), ErrMalformed},
		"payload not UTF-8":      {compact(header, "{\"a\":\"\xff\"}", "s"), ErrMalformed},
		"duplicate claim":        {compact(header, `{"a":1,"\u0061":2}`, "s"), ErrMalformed},
		"duplicate alg":          {compact(`{"alg":"RS256","alg":"RS256"}`, payload, "s"), ErrMalformed},
		"crit":                   {compact(`{"alg":"RS256","crit":["exp"],"exp":1}`, payload, "s"), ErrMalformed},
		"crit null":              {compact(`{"alg":"RS256","crit":null}`, payload, "s"), ErrMalformed},
		"b64":                    {compact(`{"alg":"RS256","b64":true}`, payload, "s"), ErrMalformed},
		"zip":                    {compact(`{"alg":"RS256","zip":"DEF"}`, payload, "s"), ErrMalformed},
		"enc":                    {compact(`{"alg":"RS256","enc":"A256GCM"}`, payload, "s"), ErrMalformed},
		"kid is a number":        {compact(`{"alg":"RS256","kid":1}`, payload, "s"), ErrMalformed},
		"kid is null":            {compact(`{"alg":"RS256","kid":null}`, payload, "s"), ErrMalformed},
		"kid is empty":           {compact(`{"alg":"RS256","kid":""}`, payload, "s"), ErrMalformed},
		"typ is a list":          {compact(`{"alg":"RS256","typ":["JWT"]}`, payload, "s"), ErrMalformed},
		"cty is a boolean":       {compact(`{"alg":"RS256","cty":true}`, payload, "s"), ErrMalformed},
		"no alg":                 {compact(`{}`, payload, "s"), ErrAlgorithm},
		"alg in capitals":        {compact(`{"ALG":"RS256"}`, payload, "s"), ErrAlgorithm},
		"none":                   {compact(`{"alg":"none"}`, payload, "s"), ErrAlgorithm},
		"rs256":                  {compact(`{"alg":"rs256"}`, payload, "s"), ErrAlgorithm},
		"RS256 and a space":      {compact(`{"alg":"RS256 "}`, payload, "s"), ErrAlgorithm},
		"RS1":                    {compact(`{"alg":"RS1"}`, payload, "s"), ErrAlgorithm},
		"ES256K":                 {compact(`{"alg":"ES256K"}`, payload, "s"), ErrAlgorithm},
		"alg is a list":          {compact(`{"alg":["RS256"]}`, payload, "s"), ErrAlgorithm},
		"over the limit":         {strings.Repeat(".", DefaultBytes+1), ErrTooLarge},
		"too deep":               {compact(header, `{"a":`+strings.Repeat("[", 16)+strings.Repeat("]", 16)+`}`, "s"), ErrTooLarge},
		"JSON serialization":     {`{"payload":"` + p + `","protected":"` + h + `","signature":"` + s + `"}`, ErrMalformed},
		"encrypted (five parts)": {h + "." + p + "." + s + "." + s + "." + s, ErrMalformed},
	} {
		got, err := ParseCompact(c.token, Limits{})
		if got != nil || !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
		if err != nil && strings.Contains(err.Error(), "RS256 ") {
			t.Errorf("%s: the error quotes the token: %v", name, err)
		}
	}
}

// J-12: base64url has one text for each value, and it is the one of
// encoding/base64.
func TestBase64(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		data := rapid.SliceOfN(rapid.Byte(), 0, 40).Draw(t, "data")
		text := base64.RawURLEncoding.EncodeToString(data)
		if got, ok := appendBase64(nil, text); !ok || string(got) != string(data) {
			t.Fatalf("%q: %x, %v", text, got, ok)
		}
		other := rapid.StringMatching(`[A-Za-z0-9_\-+/=\n\x00\xff]{0,12}`).Draw(t, "text")
		if got, ok := appendBase64(nil, other); ok && base64.RawURLEncoding.EncodeToString(got) != other {
			t.Fatalf("%q was read as %x, whose text is another", other, got)
		}
	})
}

// FuzzCompact: whatever is accepted has one text and one reading. J-12
func FuzzCompact(f *testing.F) {
	f.Add(compact(`{"alg":"RS256","kid":"k","typ":"JWT"}`, `{"iss":"i","exp":1}`, "sig"))
	f.Add(compact(`{"alg":"none"}`, `{}`, ""))
	f.Add(compact(`{"\u0061lg":"ES256"}`, `{"a":"\ud83d\ude00"}`, "\x00"))
	f.Add("e30.e30.AA")
	f.Add("a.b.c.d.e")
	f.Fuzz(func(t *testing.T, token string) {
		got, err := ParseCompact(token, Limits{})
		if err != nil {
			if got != nil || !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrTooLarge) && !errors.Is(err, ErrAlgorithm) {
				t.Fatalf("%v, %v", got, err)
			}
			return
		}
		parts := strings.Split(token, ".")
		if len(parts) != 3 || got.signed != parts[0]+"."+parts[1] || base64.RawURLEncoding.EncodeToString(got.signature) != parts[2] {
			t.Fatalf("%q: parts", token)
		}
		for i, v := range []Value{got.Header(), got.Claims()} {
			text, err := base64.RawURLEncoding.Strict().DecodeString(parts[i])
			if err != nil || base64.RawURLEncoding.EncodeToString(text) != parts[i] {
				t.Fatalf("%q: another text for the same token", parts[i])
			}
			want := map[string]any{}
			d := json.NewDecoder(strings.NewReader(string(text)))
			d.UseNumber()
			if err := d.Decode(&want); err != nil || !reflect.DeepEqual(v.Any(), any(want)) {
				t.Fatalf("%q: %v, want %v, %v", text, v.Any(), want, err)
			}
		}
		if got.Algorithm() == "none" || got.Header().Get("crit").Exists() {
			t.Fatal("accepted what is never accepted")
		}
	})
}
