package strictyaml

import (
	"errors"
	"math"
	"strconv"
	"strings"
)

// Size is a number of bytes, written with its unit: 512B, 8KiB, 4MiB, 1GiB. The
// units are powers of 1024.
type Size int64

// The units of Size.
const (
	Byte Size = 1
	KiB  Size = 1 << 10
	MiB  Size = 1 << 20
	GiB  Size = 1 << 30
)

var sizeUnits = []struct {
	name string
	size Size
}{{"GiB", GiB}, {"MiB", MiB}, {"KiB", KiB}, {"B", Byte}}

// UnmarshalText reads a size.
func (s *Size) UnmarshalText(text []byte) error {
	for _, u := range sizeUnits {
		number, ok := strings.CutSuffix(string(text), u.name)
		if !ok {
			continue
		}
		if !wholeNumber.MatchString(number) {
			break
		}
		n, err := strconv.ParseInt(strings.ReplaceAll(number, "_", ""), 10, 64)
		if err != nil || n < 0 || n > math.MaxInt64/int64(u.size) {
			return errors.New("the size is out of range")
		}
		*s = Size(n) * u.size
		return nil
	}
	return errors.New("a size is a whole number with a unit, for example 512B, 8KiB, 4MiB or 1GiB")
}

// String returns the size in the largest unit that leaves no remainder.
func (s Size) String() string {
	for _, u := range sizeUnits {
		if s != 0 && s%u.size == 0 {
			return strconv.FormatInt(int64(s/u.size), 10) + u.name
		}
	}
	return "0B"
}

// MarshalText writes what UnmarshalText reads.
func (s Size) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Path is the path of a file or directory. A relative one is resolved against
// the base that WithBase gives.
type Path string

// String returns the path.
func (p Path) String() string { return string(p) }
