//go:build !linux

package rig

import "errors"

// MountMemory says that it is not for this system.
func MountMemory(string, string) (unmount func() error, err error) {
	return nil, errors.ErrUnsupported
}
