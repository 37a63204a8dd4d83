package console

import (
	"fmt"
	"html/template"
	"strconv"
	"strings"
	"time"
)

// functions format values in the pages.
var functions = template.FuncMap{
	"when": when, "ago": ago, "took": took, "or": or, "here": here, "count": count,
	"figure": figure, "size": Size,
}

// when is a time to the millisecond, in UTC.
func when(t time.Time) string {
	if t.IsZero() {
		return "–"
	}
	return t.UTC().Format("2006-01-02 15:04:05.000")
}

// ago is how long before now a time was.
func ago(t, now time.Time) string {
	switch {
	case t.IsZero():
		return "–"
	case t.After(now):
		return "in " + took(t.Sub(now))
	}
	return took(now.Sub(t)) + " ago"
}

// took is a duration with three digits or so.
func took(d time.Duration) string {
	switch {
	case d == 0:
		return "0 s"
	case d < time.Millisecond:
		return strconv.FormatInt(d.Microseconds(), 10) + " µs"
	case d < 10*time.Millisecond:
		return fmt.Sprintf("%.1f ms", float64(d)/float64(time.Millisecond))
	case d < time.Second:
		return strconv.FormatInt(d.Milliseconds(), 10) + " ms"
	case d < time.Minute:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case d < 48*time.Hour:
		text := d.Round(time.Second).String()
		if strings.HasSuffix(text, "m0s") {
			text = strings.TrimSuffix(text, "0s")
		}
		return text
	}
	return fmt.Sprintf("%.0f days", d.Hours()/24)
}

// or is the text, or a dash for none.
func or(text any) string {
	shown := fmt.Sprint(text)
	if shown == "" || shown == "0" {
		return "–"
	}
	return shown
}

// here tells whether a path is below an entry of the menu.
func here(path, entry string) bool {
	return path == entry || entry != "/" && strings.HasPrefix(path, entry+"/")
}

// count is a number with spaces between thousands.
func count(n int64) string {
	digits := strconv.FormatInt(n, 10)
	for i := len(digits) - 3; i > 0 && digits[i-1] != '-'; i -= 3 {
		digits = digits[:i] + "\u202f" + digits[i:]
	}
	return digits
}

// Size is a number of bytes as people read it: exact below 1 KiB, and to a tenth of the
// unit above.
func Size(bytes int64) string {
	number, unit := float64(bytes), "B"
	for _, next := range []string{"KiB", "MiB", "GiB", "TiB", "PiB"} {
		if number < 1023.95 { // more is 1024.0 to a tenth
			break
		}
		number, unit = number/1024, next
	}
	return strings.TrimSuffix(strconv.FormatFloat(number, 'f', 1, 64), ".0") + " " + unit
}

// figure shows a number that may be missing.
func figure(number *float64) string {
	if number == nil {
		return "–"
	}
	return strconv.FormatFloat(*number, 'f', 1, 64)
}
