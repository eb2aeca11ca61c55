package main

import "context"

func million(context.Context, *lab, settings, *report) error { return nil }
