package apikey

// ParseKeysFile reads the keys of a file with default limits.
func ParseKeysFile(file string, peppers *Peppers) ([]Key, error) {
	keys, _, err := parseKeysFile("keys.yaml", []byte(file), DefaultPrefix, limits{peppers: peppers, maxAge: defaultMaxAge}, 1<<20)
	return keys, err
}
