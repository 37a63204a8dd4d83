package console

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"ringback/db"
)

const (
	// alarmSpan is over how many samples calls and dropped lines are counted.
	alarmSpan = 120
	// fewUnauthorized 401s in that span are no alarm, as for the alert RingbackUnauthorized.
	fewUnauthorized = 6
	// unreadRatio of the log's buffer, for unreadAfter samples in a row, is more than lines
	// on their way to a reader.
	unreadRatio = 0.01
	unreadAfter = 10
	// skewedBy so many seconds, a clock is wrong.
	skewedBy = 1
)

// Alarms of the overview that the database alone shows.
const (
	noAnswer    = "The database doesn't answer."
	nobodyWorks = "Requests wait, and no process works. Start a process with --role=worker, or without a role." // as the alert RingbackNobodyWorks tells it
	queuePaused = "Somebody paused the queue %s: its jobs wait. Resume it in River UI."
	noClients   = "No client may call: every call is refused with 401. Add a client with ringback client add NAME."
)

// faultWords say what a fault of the database is.
var faultWords = map[db.Fault]string{
	db.Away:        "The database doesn't answer",
	db.Untrusted:   "TLS with the database isn't as DATABASE_URL asks",
	db.ReadOnly:    "The database is read-only",
	db.DiskFull:    "The database's disk is full",
	db.NoResources: "The database is out of connections or memory",
	db.Locked:      "A table is locked",
	db.Denied:      "The database denies what the service needs",
	db.Broken:      "The schema isn't as the service needs it",
	db.Wraparound:  "The database has no transaction ids left",
	db.Slow:        "The database is too slow",
}

// faultAlarms tell of faults of the database, with their remedies.
func faultAlarms(lasting map[db.Fault]db.Lasting) (alarms []string) {
	for _, fault := range slices.Sorted(maps.Keys(lasting)) {
		alarm := fmt.Sprintf("%s: %s.", faultWords[fault], lasting[fault].Remedy)
		if holders := lasting[fault].BlockedBy; holders != "" {
			alarm += " It is locked by " + holders + "."
		}
		alarms = append(alarms, alarm)
	}
	return alarms
}

// unreadableAlarm tells of clients whose secrets can't be opened, of which it names few.
func unreadableAlarm(clients []string) string {
	const most = 5
	names := strings.Join(clients[:min(most, len(clients))], ", ")
	if more := len(clients) - most; more > 0 {
		names += fmt.Sprintf(" and %d more", more)
	}
	return "The secret can't be opened of the client " + names +
		": new requests are refused, and callbacks wait. Start with the SECRETS_KEY that sealed it, or rotate the key (ringback client rotate NAME)."
}

// readings are a process's figures from which alarms are made.
type readings struct {
	works               map[string]string // states of the kinds of work whose service isn't called
	skew                float64           // of the process's clock, in seconds
	logFull             float64           // part of the log's buffer
	unread              int               // samples in a row in which lines waited
	dropped             float64           // lines of the log, since the start
	calls, unauthorized float64           // likewise, without calls of monitors
	unoffered           float64           // times that jobs were postponed for work that this process doesn't offer, likewise
}

// alarms tell of the latest readings, and of the changes since the readings before.
func (s readings) alarms(before readings) (alarms []string) {
	tell := func(format string, args ...any) { alarms = append(alarms, fmt.Sprintf(format, args...)) }
	for _, name := range slices.Sorted(maps.Keys(s.works)) {
		if s.works[name] == "paused" {
			tell("The service of the work %s asked for a pause by Retry-After: async requests wait, and sync requests get 503.", name)
			continue
		}
		tell("The service of the work %s is down: async requests wait, and sync requests get 503. Start it, or correct its URL in WORK_URL or WORKS. The log line work_down has its address and the cause.", name)
	}
	if s.unoffered > before.unoffered { // as the alert RingbackWorkUnknown tells it
		tell("Requests wait for work that this process doesn't offer, and fail 48 hours after they were accepted. The log line work_unknown names the work: put it back into WORKS (or WORK_URL).")
	}
	if math.Abs(s.skew) > skewedBy {
		side := "ahead"
		if s.skew < 0 {
			side = "behind"
		}
		tell("The clocks of this process and of its database differ by %.0f s (the process is %s). Find out first which is wrong; see the runbook before the database's clock is set.", math.Abs(s.skew), side)
	}
	switch dropped := s.dropped - before.dropped; {
	case dropped > 0:
		tell("Nobody reads the log, or too slowly: %.0f of its lines were dropped in two minutes. Look at the log shipper and its disk.", dropped)
	case s.unread >= unreadAfter:
		tell("Nobody reads the log, or too slowly: %.0f %% of its buffer is full. Nothing is dropped yet. Look at the log shipper and its disk.", max(1, 100*s.logFull))
	}
	calls, unauthorized := s.calls-before.calls, s.unauthorized-before.unauthorized
	if unauthorized >= fewUnauthorized && unauthorized > calls/2 {
		tell("%.0f of %.0f calls in two minutes were refused with 401. The log lines with the problem unauthorized say why, and where they come from.", unauthorized, calls)
	}
	return alarms
}
