//go:build !linux

package main

import "errors"

func mountSmall(string) (disk string, unmount func(), err error) {
	return "", nil, errors.ErrUnsupported
}
