package policy

// Header is one header field. Names are in lower case.
type Header struct {
	Name, Value string
}

// Headers are header fields in order, duplicates kept. Lists are short, so a
// scan is faster than a map and keeps what a map would merge.
type Headers []Header

// Get returns the first value of the field and how often the field occurs. A
// field that decides anything must occur at most once; that is for the caller
// to check.
func (h Headers) Get(name string) (value string, n int) {
	for i := range h {
		if h[i].Name == name {
			if n == 0 {
				value = h[i].Value
			}
			n++
		}
	}
	return value, n
}
