//go:build !linux

package rig

import "time"

func nap(d time.Duration) { time.Sleep(d) }
