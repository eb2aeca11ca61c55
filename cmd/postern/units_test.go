package main

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestDurations(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]time.Duration{
		"90d": 90 * day, "36h": 36 * time.Hour, "1w": week, "1w2d": 9 * day, "1d12h": 36 * time.Hour,
		"15m": 15 * time.Minute, "1h30m": 90 * time.Minute, "0s": 0, "0d": 0, "106751d": 106751 * day,
	} {
		if got, err := parseDuration(text); err != nil || got != want {
			t.Errorf("%q is %v (%v), want %v", text, got, err, want)
		}
	}
	for _, text := range []string{
		"", "d", "90", "-1h", "+1h", "1d-1h", "1d+1h", "-90d", "1.5d", "d90", "1d1w", "1d1d", "90 d", "106752d", "106751d24h",
		"15251w", "4294967296d", "99999999999999999999d", "forever", "1h1d", "９0d",
	} {
		if got, err := parseDuration(text); err == nil {
			t.Errorf("%q is %v, want an error", text, got)
		}
	}
}

// What is printed can be typed.
func TestDurationsRoundTrip(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		want := time.Duration(rapid.Int64Min(0).Draw(t, "duration"))
		if got, err := parseDuration(formatDuration(want)); err != nil || got != want {
			t.Fatalf("%v was printed as %s and read as %v (%v)", want, formatDuration(want), got, err)
		}
	})
	for d, want := range map[time.Duration]string{90 * day: "90d", 36 * time.Hour: "1d12h", 15 * time.Minute: "15m", 2 * time.Hour: "2h", 0: "0s", 90 * time.Second: "1m30s"} {
		if got := formatDuration(d); got != want {
			t.Errorf("%v is printed as %s, want %s", d, got, want)
		}
	}
}

func TestTimes(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	for _, tt := range []struct {
		text string
		past bool
		want string
	}{
		{"2026-12-31", false, "2026-12-31T00:00:00Z"},
		{"2026-12-31T18:00:00+02:00", true, "2026-12-31T16:00:00Z"},
		{"30d", false, "2026-12-21T12:00:00Z"},
		{"24h", true, "2026-11-20T12:00:00Z"},
		{"+24h", true, "2026-11-22T12:00:00Z"},
		{"-24h", false, "2026-11-20T12:00:00Z"},
	} {
		got, err := parseTime(tt.text, now, tt.past)
		if err != nil || got.Format(time.RFC3339) != tt.want {
			t.Errorf("%s is %v (%v), want %s", tt.text, got, err, tt.want)
		}
	}
	for _, text := range []string{"", "now", "tomorrow", "2026-13-01", "--1h", "2026-12-31 18:00"} {
		if got, err := parseTime(text, now, false); err == nil {
			t.Errorf("%q is %v, want an error", text, got)
		}
	}
}

func FuzzDuration(f *testing.F) {
	f.Add("1w2d3h")
	f.Fuzz(func(t *testing.T, text string) {
		if d, err := parseDuration(text); err == nil && d < 0 {
			t.Errorf("%q is %v", text, d)
		}
		_, _ = parseTime(text, time.Unix(1, 0), true)
	})
}
