//go:build race

package main

func init() { crowded = 500 }
