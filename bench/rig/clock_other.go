//go:build !linux || !amd64

package rig

import (
	"errors"
	"time"
)

// Clock is what a process believes the time to be; see the other file of this name. It
// can be had on linux/amd64 only.
type Clock struct{}

// ClockOf reports that it cannot.
func ClockOf(int) (*Clock, error) {
	return nil, errors.New("the clock of one process can be moved on linux/amd64 only")
}

// Shift does nothing.
func (*Clock) Shift(_, _ time.Duration) error { return nil }

// Set does nothing.
func (*Clock) Set(time.Duration) error { return nil }

// Pass does nothing.
func (*Clock) Pass(time.Duration) error { return nil }

// Close does nothing.
func (*Clock) Close() error { return nil }
