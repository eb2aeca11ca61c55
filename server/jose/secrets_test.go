package jose

import "slices"

// parseWithSecrets is ParseKeySet for test vectors, which write their shared
// secrets as JWKs of kty "oct". It reads them where a document holds nothing else.
func parseWithSecrets(data []byte) (*KeySet, []string, error) {
	set, warnings, err := ParseKeySet(data)
	if err != nil {
		return nil, warnings, err
	}
	doc, err := ParseJSON(data, documentLimits)
	if err != nil {
		return nil, nil, err
	}
	entries, err := entriesOf(doc)
	if err != nil || len(entries) == 0 || slices.ContainsFunc(entries, func(j jwk) bool { return !j.Get("kty").Is("oct") }) {
		return set, warnings, err
	}
	var keys []*Key
	warnings = nil
	repeated := repeatedIDs(entries)
	for _, j := range entries {
		k, err := readSecret(j)
		if err == nil && repeated[k.ID] {
			err = errRepeatedID
		}
		if err != nil {
			warnings = append(warnings, err.Error())
			continue
		}
		keys = append(keys, k)
	}
	set, err = NewKeySet(keys...)
	return set, warnings, err
}

func readSecret(j jwk) (*Key, error) {
	id, err := j.optional("kid")
	if err != nil {
		return nil, err
	}
	alg, err := j.purpose(useSignature)
	if err != nil {
		return nil, err
	}
	secret, err := j.octets("k", 1024)
	if err != nil {
		return nil, err
	}
	k := &Key{ID: id, Alg: alg, Public: NewSymmetricKey(secret)}
	return k, checkKey(k)
}
