package mtls

// ParseXFCC returns the elements of a header as pairs of keys and values, for tests.
func ParseXFCC(text string, most int) ([][][2]string, error) {
	elements, err := parseXFCC(text, most)
	var all [][][2]string
	for _, e := range elements {
		var pairs [][2]string
		for _, p := range e {
			pairs = append(pairs, [2]string{p.key, p.value})
		}
		all = append(all, pairs)
	}
	return all, err
}

// Forget empties the memory of proofs.
func (a *Authenticator) Forget() { a.good.InvalidateAll() }
