//go:build race

package main

func init() { crowded, raced = 500, true }
