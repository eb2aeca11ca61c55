package budget

import (
	"errors"
	"fmt"
	"time"
)

// Window is for how long a limit is. The zero value is the whole life of whoever has
// the budget.
type Window struct {
	calendar calendar
	rolling  time.Duration
}

type calendar uint8

const (
	always calendar = iota
	daily
	monthly
)

// The windows that have names.
var (
	Lifetime = Window{}
	Day      = Window{calendar: daily}
	Month    = Window{calendar: monthly}
)

// Rolling is the last so long at any moment.
func Rolling(d time.Duration) Window { return Window{rolling: d} }

const (
	minWindow = time.Minute
	maxWindow = 366 * 24 * time.Hour
	// slots is into how many parts a rolling window is cut. What was used in one leaves
	// the window as a whole, when its end has left it.
	slots = 60
)

var errWindow = errors.New("is not lifetime, day, month or a duration, as 24h")

// UnmarshalText implements encoding.TextUnmarshaler.
func (w *Window) UnmarshalText(text []byte) error {
	switch string(text) {
	case "lifetime", "":
		*w = Lifetime
	case "day":
		*w = Day
	case "month":
		*w = Month
	default:
		d, err := time.ParseDuration(string(text))
		if err != nil || d <= 0 {
			return errWindow
		}
		*w = Rolling(d)
	}
	return nil
}

// MarshalText implements encoding.TextMarshaler.
func (w Window) MarshalText() ([]byte, error) { return []byte(w.String()), nil }

// String is the window as configuration has it.
func (w Window) String() string {
	switch {
	case w.rolling > 0:
		return w.rolling.String()
	case w.calendar == daily:
		return "day"
	case w.calendar == monthly:
		return "month"
	}
	return "lifetime"
}

func (w Window) check(report func(path, message, suggestion string)) {
	if w.rolling != 0 && (w.rolling < minWindow || w.rolling > maxWindow) {
		report("window", fmt.Sprintf("%s is out of range: use %s to %s", w.rolling, minWindow, maxWindow), "for shorter times there are rates")
	}
}

// at returns the window that a moment is in: its begin and its end, both zero where it
// is always the same one.
func (w Window) at(now time.Time) (begin, end time.Time) {
	y, m, d := now.UTC().Date()
	switch w.calendar {
	case daily:
		return time.Date(y, m, d, 0, 0, 0, 0, time.UTC), time.Date(y, m, d+1, 0, 0, 0, 0, time.UTC)
	case monthly:
		return time.Date(y, m, 1, 0, 0, 0, 0, time.UTC), time.Date(y, m+1, 1, 0, 0, 0, 0, time.UTC)
	}
	return time.Time{}, time.Time{}
}

// slot is how long a part of a rolling window is; 0 for others.
func (w Window) slot() time.Duration { return w.rolling / slots }
