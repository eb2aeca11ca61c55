//go:build race

package mtls_test

func init() { raceEnabled = true }
