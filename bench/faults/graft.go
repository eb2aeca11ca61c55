package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"maps"
	"slices"
	"strings"
)

// signatures is the file of a bundle that holds them.
const signatures = ".signatures.json"

// graft puts the signature of one bundle on the files of another.
func graft(signed, other []byte) ([]byte, error) {
	from, err := unpack(signed)
	if err != nil {
		return nil, err
	}
	to, err := unpack(other)
	if err != nil {
		return nil, err
	}
	for name, text := range from {
		if strings.TrimPrefix(name, "/") == signatures {
			to[name] = text
		}
	}
	var out bytes.Buffer
	zip := gzip.NewWriter(&out)
	w := tar.NewWriter(zip)
	for _, name := range slices.Sorted(maps.Keys(to)) {
		err = errors.Join(err, w.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: int64(len(to[name]))}))
		_, bad := w.Write(to[name])
		err = errors.Join(err, bad)
	}
	err = errors.Join(err, w.Close(), zip.Close())
	return out.Bytes(), err
}

func unpack(raw []byte) (map[string][]byte, error) {
	zip, err := gzip.NewReader(bytes.NewReader(raw))
	if err != nil {
		return nil, err
	}
	files := map[string][]byte{}
	for r := tar.NewReader(zip); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files, nil
		}
		if err != nil {
			return nil, err
		}
		if files[h.Name], err = io.ReadAll(io.LimitReader(r, 1<<20)); err != nil {
			return nil, err
		}
	}
}
