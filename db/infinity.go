package db

import (
	"encoding/binary"
	"time"

	"github.com/jackc/pgx/v5/pgtype"
)

// finiteTimes reads infinite times as times that are far away. They are written by hand,
// such as an expiry that never comes. Go has none: a single one would fail the statement
// that reads it, with all its other rows.
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
	if far, infinite := finite[string(src)]; infinite {
		src = far
	}
	return p.ScanPlan.Scan(src, dst)
}

// finite are infinite times as Postgres sends them, each with the time to read instead.
var finite = map[string][]byte{
	"infinity":                         []byte("9999-12-31 00:00:00Z"),
	"-infinity":                        []byte("1970-01-01 00:00:00Z"),
	"\x7f\xff\xff\xff\xff\xff\xff\xff": binaryTime(time.Date(9999, time.December, 31, 0, 0, 0, 0, time.UTC)),
	"\x80\x00\x00\x00\x00\x00\x00\x00": binaryTime(time.Unix(0, 0)),
}

func binaryTime(at time.Time) []byte {
	epoch := time.Date(2000, time.January, 1, 0, 0, 0, 0, time.UTC)
	return binary.BigEndian.AppendUint64(nil, uint64(at.UnixMicro()-epoch.UnixMicro()))
}
