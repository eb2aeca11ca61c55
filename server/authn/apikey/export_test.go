package apikey

import "github.com/postern-auth/postern/server/seal"

// ParseKeysFile reads the keys of a file with default limits, as YAML.
func ParseKeysFile(file string, peppers *seal.Peppers) ([]Key, error) {
	if err := refusePlaintext("keys.yaml", []byte(file), seal.DefaultPrefix); err != nil {
		return nil, err
	}
	f, err := decodeKeysFile("keys.yaml", []byte(file), limits{peppers: peppers, maxAge: defaultMaxAge})
	var keys []Key
	for i := range f.Keys {
		keys = append(keys, f.Keys[i].Key)
	}
	return keys, err
}

// ReadQuickly reads an entry without strictyaml, if it is one that Entry wrote.
func ReadQuickly(entry string) (Key, bool) {
	k, ok := newEntryReader().read([]byte(entry))
	if !ok {
		return Key{}, false
	}
	return k.Key, true
}
