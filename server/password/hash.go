package password

import (
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/bcrypt"
)

// scheme is how a hash is computed.
type scheme uint8

const (
	argon2id scheme = iota + 1
	argon2i
	bcrypted
	pbkdf2SHA256
	pbkdf2SHA512
)

// names are the PHC names of the schemes; those of bcrypt have a parser of their own.
var names = map[string]scheme{
	"argon2id": argon2id, "argon2i": argon2i, "pbkdf2-sha256": pbkdf2SHA256, "pbkdf2-sha512": pbkdf2SHA512,
}

// What a hash may ask for. Measured on one slow core: 256 MiB with 2 passes take
// 0.7 s, bcrypt of cost 15 takes 1.8 s, two million rounds of PBKDF2 take 1 s.
const (
	maxForeignMemory = 256 * 1024 // KiB
	maxForeignWork   = 512 * 1024 // KiB times passes
	maxThreads       = 16
	minCost, maxCost = 4, 15
	maxRounds        = 2_000_000
	maxText          = 512 // bytes of the whole hash
)

// hash is a hash in parts.
type hash struct {
	scheme scheme
	salt   []byte
	sum    []byte
	// memory is in KiB; passes are the time cost of Argon2, the rounds of PBKDF2 and
	// the logarithm of those of bcrypt.
	memory, passes uint32
	threads        uint8
	// pepper is its version; 0 for none.
	pepper uint16
	// text is the whole of a bcrypt hash.
	text string
}

// derive computes what sum has to be equal to.
func (h *hash) derive(password []byte) ([]byte, error) {
	n := uint32(len(h.sum))
	if n == 0 {
		n = sumLen
	}
	switch h.scheme {
	case argon2id:
		return argon2.IDKey(password, h.salt, h.passes, h.memory, h.threads, n), nil
	case argon2i:
		return argon2.Key(password, h.salt, h.passes, h.memory, h.threads, n), nil
	case pbkdf2SHA256:
		return pbkdf2.Key(sha256.New, string(password), h.salt, int(h.passes), int(n))
	case pbkdf2SHA512:
		return pbkdf2.Key(sha512.New, string(password), h.salt, int(h.passes), int(n))
	case bcrypted:
		if bcrypt.CompareHashAndPassword([]byte(h.text), password) == nil {
			return h.sum, nil
		}
		return nil, nil
	}
	return nil, ErrHash
}

// maxBcrypt is how much of a password bcrypt looks at, in bytes.
const maxBcrypt = 72

// takes reports whether the scheme tells the password from all others. bcrypt drops
// what is over 72 bytes, repeats the password and a NUL until it has them, so that
// "a" is also "a", NUL, "a"; HMAC (RFC 2104 section 2) pads with NULs, and takes a
// long key's hash for the key itself, but a hash is not what people type.
func (h *hash) takes(password string) bool {
	switch h.scheme {
	case bcrypted:
		return len(password) <= maxBcrypt && !strings.Contains(password, "\x00")
	case pbkdf2SHA256, pbkdf2SHA512:
		return !strings.Contains(password, "\x00")
	}
	return true
}

// peppered is what is hashed instead of the password.
func peppered(key [32]byte, password []byte) []byte {
	mac := hmac.New(sha256.New, key[:])
	mac.Write(password)
	return mac.Sum(nil)
}

// String writes an Argon2id hash in PHC form.
func (h *hash) String() string {
	keyid := ""
	if h.pepper != 0 {
		keyid = ",keyid=" + b64.EncodeToString([]byte("v"+strconv.Itoa(int(h.pepper))))
	}
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d%s$%s$%s", argon2.Version, h.memory, h.passes, h.threads, keyid,
		b64.EncodeToString(h.salt), b64.EncodeToString(h.sum))
}

// b64 is the Base64 of PHC strings: without padding, and with one spelling for each
// value.
var b64 = base64.RawStdEncoding.Strict()

// parse takes a hash apart. The error is an ErrHash and does not repeat the text,
// which may be a password that somebody put in the wrong place.
func parse(text string) (hash, error) {
	if len(text) > maxText {
		return hash{}, refused("longer than %d bytes", maxText)
	}
	fields := strings.Split(text, "$")
	if len(fields) < 2 || fields[0] != "" {
		return hash{}, refused("it does not begin with $ and the name of a scheme")
	}
	if name := fields[1]; len(name) == 2 && name[0] == '2' {
		return parseBcrypt(text, fields)
	}
	h := hash{scheme: names[fields[1]]}
	var err error
	switch h.scheme {
	case argon2id, argon2i:
		err = h.parseArgon2(fields[2:])
	case pbkdf2SHA256, pbkdf2SHA512:
		err = h.parsePBKDF2(fields[2:])
	default:
		err = refused("the scheme is not argon2id, argon2i, 2a, 2b, 2y, pbkdf2-sha256 or pbkdf2-sha512")
	}
	if err != nil {
		return hash{}, err
	}
	return h, nil
}

func refused(why string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrHash, fmt.Sprintf(why, args...))
}

// parseArgon2 reads v=19, the parameters, salt and sum.
func (h *hash) parseArgon2(fields []string) error {
	if len(fields) != 4 || fields[0] != "v=19" {
		return refused("an Argon2 hash is $argon2id$v=19$m=…,t=…,p=…$salt$hash; other versions are not supported")
	}
	p := parameters{rest: fields[1]}
	h.memory, h.passes = p.number("m"), p.number("t")
	threads := p.number("p")
	if p.rest != "" && h.scheme == argon2id {
		h.pepper = p.keyID()
	}
	switch {
	case p.wrong || p.rest != "":
		return refused("the parameters of Argon2 are m, t and p, in this order")
	case threads < 1 || threads > maxThreads || h.passes < 1 || h.passes > maxPasses || h.memory < 8*threads:
		return refused("the parameters of Argon2 are out of range (RFC 9106 section 3.1)")
	case h.memory > maxForeignMemory || uint64(h.memory)*uint64(h.passes) > maxForeignWork:
		return refused("it would take more than 256 MiB or about a second")
	}
	h.threads = uint8(threads)
	return h.parseBytes(fields[2], fields[3], 64)
}

// parsePBKDF2 reads the rounds, as i=… or alone as passlib writes them, salt and sum.
func (h *hash) parsePBKDF2(fields []string) error {
	if len(fields) != 3 {
		return refused("a PBKDF2 hash is $pbkdf2-sha256$i=…$salt$hash")
	}
	p := parameters{rest: fields[0]}
	length := uint32(0)
	if strings.HasPrefix(p.rest, "i=") {
		h.passes = p.number("i")
		if p.rest != "" {
			length = p.number("l")
		}
	} else {
		h.passes = p.value(p.rest)
		p.rest = ""
	}
	most := sha256.Size
	if h.scheme == pbkdf2SHA512 {
		most = sha512.Size
	}
	switch {
	case p.wrong || p.rest != "" || h.passes < 1:
		return refused("the parameters of PBKDF2 are i, the rounds, and l, the length")
	case h.passes > maxRounds:
		return refused("more than %d rounds take too long", maxRounds)
	}
	dot := strings.NewReplacer(".", "+")
	if err := h.parseBytes(dot.Replace(fields[1]), dot.Replace(fields[2]), most); err != nil {
		return err
	}
	if length != 0 && int(length) != len(h.sum) {
		return refused("the length is not that of the hash")
	}
	return nil
}

// parseBytes reads salt and sum. Less than 16 bytes of a sum could be guessed.
func (h *hash) parseBytes(salt, sum string, mostSum int) error {
	var ok, also bool
	h.salt, ok = decode(salt)
	h.sum, also = decode(sum)
	switch {
	case !ok || !also:
		return refused("salt and hash are Base64 without padding")
	case len(h.salt) < 8 || len(h.salt) > 64:
		return refused("a salt has 8 to 64 bytes")
	case len(h.sum) < 16 || len(h.sum) > mostSum:
		return refused("a hash has 16 to %d bytes", mostSum)
	}
	return nil
}

// decode refuses line breaks, which encoding/base64 skips.
func decode(s string) ([]byte, bool) {
	if strings.ContainsAny(s, "\r\n") {
		return nil, false
	}
	b, err := b64.DecodeString(s)
	return b, err == nil
}

// parseBcrypt reads $2b$12$ and 53 characters. $2x$ is what a broken version made.
func parseBcrypt(text string, fields []string) (hash, error) {
	const length = 60
	if name := fields[1]; name != "2a" && name != "2b" && name != "2y" {
		return hash{}, refused("of bcrypt, only $2a$, $2b$ and $2y$ are verified")
	}
	if len(text) != length || len(fields) != 4 || len(fields[2]) != 2 || !isBcrypt64(fields[3]) {
		return hash{}, refused("a bcrypt hash has %d characters, as in $2b$12$…", length)
	}
	cost, err := strconv.ParseUint(fields[2], 10, 8)
	if err != nil || cost < minCost || cost > maxCost {
		return hash{}, refused("the cost of bcrypt is from %02d to %d", minCost, maxCost)
	}
	return hash{scheme: bcrypted, passes: uint32(cost), text: text, sum: []byte(fields[3])}, nil
}

func isBcrypt64(s string) bool {
	for i := range len(s) {
		if c := s[i]; c != '.' && c != '/' && (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') {
			return false
		}
	}
	return true
}

// parameters reads name=value,name=value in a fixed order.
type parameters struct {
	rest  string
	wrong bool
}

func (p *parameters) next(name string) string {
	item, rest, more := strings.Cut(p.rest, ",")
	value, ok := strings.CutPrefix(item, name+"=")
	p.wrong = p.wrong || !ok || more && rest == ""
	p.rest = rest
	return value
}

func (p *parameters) number(name string) uint32 { return p.value(p.next(name)) }

// value reads a number that is written in the one way: digits without a zero first.
func (p *parameters) value(s string) uint32 {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil || strconv.FormatUint(n, 10) != s {
		p.wrong = true
	}
	return uint32(n)
}

// keyID reads the version of the pepper.
func (p *parameters) keyID() uint16 {
	id, ok := decode(p.next("keyid"))
	text, also := strings.CutPrefix(string(id), "v")
	version := p.value(text)
	if !ok || !also || version < 1 || version > 1<<16-1 {
		p.wrong = true
		return 0
	}
	return uint16(version)
}
