package api

import (
	"testing"
	"time"
)

func TestReadTime(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 11, 26, 15, 4, 5, 0, time.UTC)
	for text, want := range map[string]time.Time{
		"2026-11-26T15:04:05Z":          at,
		"2026-11-26t15:04:05z":          at,
		"2026-11-26T17:04:05.5+02:00":   at.Add(time.Second / 2),
		"2026-11-26t15:04:05.000-00:00": at,
		"2016-12-31T23:59:60Z":          time.Date(2017, 1, 1, 0, 0, 0, 0, time.UTC),
		"2016-12-31T15:59:60.9-08:00":   time.Date(2017, 1, 1, 0, 0, 0, 0, time.UTC),
		"0001-01-01T00:00:00Z":          {},
	} {
		if got, err := readTime(text); err != nil || !got.Equal(want) {
			t.Errorf("%s: got %v, %v, want %v", text, got, err, want)
		}
	}
	for _, text := range []string{
		"", "now", "2026-11-26", "2026-11-26 15:04:05Z", "2026-11-26T15:04:05", "2026-11-26T15:04:05,5Z", "2026-11-26T1:04:05Z",
		"2026-11-26T15:04:60Z", "2016-12-31T23:59:61Z", "2026-02-29T00:00:00Z", "2026-11-26T24:00:00Z", "2026-11-26T15:04:05+24:00",
		"2026-11-26T15:04:05 01:00", "2026-11-26T15:04:05.Z", "12026-11-26T15:04:05Z",
	} {
		if got, err := readTime(text); err == nil {
			t.Errorf("%q: got %v, want it refused", text, got)
		}
	}
}
