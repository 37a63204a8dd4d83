package api

import (
	"errors"
	"regexp"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// timeForm is RFC 3339, section 5.6, in capital letters.
var timeForm = regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]([01]\d|2[0-3]):[0-5]\d)$`)

var errNotATime = errors.New("must be a time with its zone, as in 2026-11-24T00:00:00Z (RFC 3339)")

// readTime reads a time in either letter case. A leap second, which Go's clock doesn't
// have, is the second that follows it.
func readTime(text string) (time.Time, error) {
	text = strings.ToUpper(text)
	if !timeForm.MatchString(text) {
		return time.Time{}, errNotATime
	}
	const second = len("2006-01-02T15:04:")
	leaps := text[second:second+2] == "60"
	if leaps {
		text = text[:second] + "59" + text[second+2:]
	}
	at, err := time.Parse(time.RFC3339Nano, text)
	if err != nil || leaps && at.UTC().Format("15:04") != "23:59" {
		return time.Time{}, errNotATime
	}
	if leaps {
		at = at.Truncate(time.Second).Add(time.Second)
	}
	return at, nil
}

// times reads the times of bodies.
var times = json.UnmarshalFromFunc(func(decoder *jsontext.Decoder, at *time.Time) error {
	value, err := decoder.ReadValue()
	if err != nil {
		return err
	}
	var text string
	if json.Unmarshal(value, &text) != nil {
		return errNotATime
	}
	*at, err = readTime(text)
	return err
})
