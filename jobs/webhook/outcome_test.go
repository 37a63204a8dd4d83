package webhook

import (
	"net/http"
	"testing"
	"time"
)

func TestClassify(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 31, 23, 59, 50, 0, time.UTC)
	for _, test := range []struct {
		name       string
		status     int
		retryAfter string
		want       Outcome
		wait       time.Duration
	}{
		{"200", 200, "", Delivered, 0},
		{"204", 204, "", Delivered, 0},
		{"299, Retry-After ignored", 299, "5", Delivered, 0},
		{"410, Retry-After ignored", 410, "5", Gone, 0},
		{"429 in seconds", 429, "120", Throttled, 2 * time.Minute},
		{"503 in seconds", 503, "7", Throttled, 7 * time.Second},
		{"leading zeros", 429, "007", Throttled, 7 * time.Second},
		{"a date", 429, "Sun, 01 Feb 2026 00:00:20 GMT", Throttled, 30 * time.Second},
		{"a date of RFC 850", 503, "Sunday, 01-Feb-26 00:00:20 GMT", Throttled, 30 * time.Second},
		{"a date of asctime", 503, "Sun Feb  1 00:00:20 2026", Throttled, 30 * time.Second},
		{"zero is a second", 429, "0", Throttled, time.Second},
		{"a past date is a second", 429, "Sat, 31 Jan 2026 00:00:00 GMT", Throttled, time.Second},
		{"86399 s", 429, "86399", Throttled, 24*time.Hour - time.Second},
		{"86400 s", 429, "86400", Throttled, 24 * time.Hour},
		{"more than a day", 429, "86401", Throttled, 24 * time.Hour},
		{"seconds that overflow a duration", 429, "9223372036854775807", Throttled, 24 * time.Hour},
		{"digits without end", 503, "99999999999999999999999", Throttled, 24 * time.Hour},
		{"a date far away", 503, "Fri, 31 Dec 9999 23:59:59 GMT", Throttled, 24 * time.Hour},
		{"429 without", 429, "", HTTPStatus, 0},
		{"503 without", 503, "", HTTPStatus, 0},
		{"negative", 429, "-1", HTTPStatus, 0},
		{"signed", 429, "+1", HTTPStatus, 0},
		{"fraction", 429, "1.5", HTTPStatus, 0},
		{"hexadecimal", 429, "0x10", HTTPStatus, 0},
		{"underscores", 429, "1_0", HTTPStatus, 0},
		{"unit", 503, "5s", HTTPStatus, 0},
		{"no date", 503, "tomorrow", HTTPStatus, 0},
		{"000", 0, "", ConnectionFailed, 0},
		{"099", 99, "", ConnectionFailed, 0},
		{"101", 101, "", HTTPStatus, 0},
		{"199", 199, "", HTTPStatus, 0},
		{"300", 300, "", HTTPStatus, 0},
		{"302 with Retry-After", 302, "5", HTTPStatus, 0},
		{"404", 404, "", HTTPStatus, 0},
		{"409", 409, "", HTTPStatus, 0},
		{"411", 411, "", HTTPStatus, 0},
		{"500 with Retry-After", 500, "5", HTTPStatus, 0},
		{"999", 999, "", HTTPStatus, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			header := http.Header{}
			if test.retryAfter != "" {
				header.Set("Retry-After", test.retryAfter)
			}
			got, wait := classify(test.status, header, now)
			if got != test.want || wait != test.wait {
				t.Errorf("classify(%d, Retry-After %q) = %s, %s; want %s, %s",
					test.status, test.retryAfter, got, wait, test.want, test.wait)
			}
		})
	}
	t.Run("a date by the clock of the receiver", func(t *testing.T) {
		t.Parallel()
		header := http.Header{"Date": {"Sun, 01 Feb 2026 08:00:00 GMT"}, "Retry-After": {"Sun, 01 Feb 2026 08:00:30 GMT"}}
		if got, wait := classify(429, header, now); got != Throttled || wait != 30*time.Second {
			t.Errorf("got %s, %s, want to wait 30 s", got, wait)
		}
	})
}
