package main

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// day and week are what people count lives of keys in. They are 24 and 168 hours:
// nothing here knows of time zones.
const (
	day  = 24 * time.Hour
	week = 7 * day
)

var errDuration = errors.New("write a duration such as 90d, 36h, 1d12h or 15m")

// parseDuration reads what time.ParseDuration does, with weeks and days in front:
// "90d", "1w", "1d12h". A duration is at least 0.
func parseDuration(s string) (time.Duration, error) {
	rest, total := s, time.Duration(0)
	for _, unit := range []struct {
		name string
		size time.Duration
	}{{"w", week}, {"d", day}} {
		digits, after, found := strings.Cut(rest, unit.name)
		if !found {
			continue
		}
		n, err := strconv.ParseUint(digits, 10, 32)
		if err != nil || time.Duration(n) > (math.MaxInt64-total)/unit.size {
			return 0, errDuration
		}
		total, rest = total+time.Duration(n)*unit.size, after
	}
	if rest == "" && s != "" {
		return total, nil
	}
	d, err := time.ParseDuration(rest)
	if err != nil || d < 0 || strings.ContainsAny(rest[:1], "+-") || d > math.MaxInt64-total {
		return 0, errDuration
	}
	return total + d, nil
}

// formatDuration writes a duration as short as parseDuration reads it.
func formatDuration(d time.Duration) string {
	days, rest := d/day, d%day
	switch {
	case days <= 0:
		return shorten(d)
	case rest == 0:
		return fmt.Sprintf("%dd", days)
	}
	return fmt.Sprintf("%dd%s", days, shorten(rest))
}

// shorten drops the zeros of "36h0m0s".
func shorten(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// parseTime reads a moment: RFC 3339, a day in UTC, or a duration before or after
// now. A bare duration goes the way that the flag is about: until 30d, since 24h.
func parseTime(s string, now time.Time, past bool) (time.Time, error) {
	for _, layout := range []string{time.RFC3339Nano, time.DateOnly} {
		if t, err := time.Parse(layout, s); err == nil {
			return t.UTC(), nil
		}
	}
	sign, rest := time.Duration(1), s
	if past {
		sign = -1
	}
	switch {
	case strings.HasPrefix(s, "+"):
		sign, rest = 1, s[1:]
	case strings.HasPrefix(s, "-"):
		sign, rest = -1, s[1:]
	}
	d, err := parseDuration(rest)
	if err != nil {
		return time.Time{}, errors.New("write a time such as 2026-12-31, 2026-12-31T18:00:00Z, or 30d for a duration from now (-30d: before)")
	}
	return now.Add(sign * d).UTC(), nil
}

// formatTime writes a moment in the local zone, with milliseconds if it has any.
func formatTime(t time.Time) string { return t.Local().Format("2006-01-02T15:04:05.999Z07:00") }
