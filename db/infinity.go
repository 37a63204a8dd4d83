package db

import (
	"encoding/binary"
	"time"

	"github.com/jackc/pgx/v5/pgtype"
)

// finiteTimes reads infinite times, and times beyond the years that JSON has (RFC 3339), as times
// that are far away. They are written by hand, such as an expiry that never comes. Go has no
// infinite time, and its JSON no other year. A single such time would fail the statement that
// reads it, or the answer that tells it, with all other rows.
type finiteTimes struct{ *pgtype.TimestamptzCodec }

func (c finiteTimes) PlanScan(m *pgtype.Map, oid uint32, format int16, target any) pgtype.ScanPlan {
	plan := c.TimestamptzCodec.PlanScan(m, oid, format, target)
	if plan == nil {
		return nil
	}
	return finitePlan{plan}
}

type finitePlan struct{ pgtype.ScanPlan }

func (p finitePlan) Scan(src []byte, dst any) error {
	return p.ScanPlan.Scan(finite(src), dst)
}

// century is farther ahead than any time that a clock has written.
const century = 100 * 365 * 24 * time.Hour

// farAhead is a century ahead.
const farAhead = "now() + interval '100 years'"

// ageOf is the expression for how long ago a time was, null for infinity and the like, which
// somebody wrote by hand. Before version 17, Postgres can't subtract infinity and fails the
// statement. A time.Duration can't hold the difference.
func ageOf(at string) string {
	return "now() - CASE WHEN " + at + " BETWEEN now() - interval '100 years' AND " + farAhead + " THEN " + at + " END"
}

// Times as Postgres sends them, in its binary form.
var (
	farPast   = binaryTime(time.Unix(0, 0))
	farFuture = binaryTime(time.Date(9999, time.December, 31, 0, 0, 0, 0, time.UTC))

	firstTold = microseconds(time.Date(1, time.January, 2, 0, 0, 0, 0, time.UTC))
	lastTold  = microseconds(time.Date(9999, time.December, 31, 0, 0, 0, 0, time.UTC))
)

// finite returns a time as Postgres sent it, or the time to read instead.
func finite(src []byte) []byte {
	switch {
	case string(src) == "infinity":
		return []byte("9999-12-31 00:00:00Z")
	case string(src) == "-infinity":
		return []byte("1970-01-01 00:00:00Z")
	case len(src) != len(farPast): // text, or null
		return src
	}
	switch at := int64(binary.BigEndian.Uint64(src)); { //nolint:gosec // two's complement
	case at < firstTold:
		return farPast
	case at > lastTold:
		return farFuture
	}
	return src
}

func binaryTime(at time.Time) []byte {
	return binary.BigEndian.AppendUint64(nil, uint64(microseconds(at))) //nolint:gosec // two's complement
}

// microseconds counts since the epoch of Postgres.
func microseconds(at time.Time) int64 {
	return at.UnixMicro() - time.Date(2000, time.January, 1, 0, 0, 0, 0, time.UTC).UnixMicro()
}
