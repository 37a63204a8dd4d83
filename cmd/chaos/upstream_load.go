package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"

	"github.com/jackc/pgx/v5"
)

// upstreamLanes are callers whose work the hostile upstream does, beside the others.
const upstreamLanes = 4

func newUpstreamLane(seed uint64, number int) *lane {
	const after = 100 // the numbers of other lanes
	return &lane{number: number, hostile: true, random: rand.New(rand.NewPCG(seed, after+uint64(number)))}
}

// nextHostile is next for work that the upstream does. Later attempts than have a manner
// do the work.
func (l *lane) nextHostile(seed uint64) *call {
	c := &call{
		Text:     fmt.Sprintf("chaos %d upstream %d call %d\n", seed, l.number, l.calls),
		Manners:  []manner{},
		Receiver: drawn()[pick(l.random, 60, 14, 8, 12, 6)],
	}
	for range pick(l.random, 30, 50, 20) {
		c.Manners = append(c.Manners, manners()[l.random.IntN(len(manners()))])
	}
	once, again, expires, sync := l.chance(keyed), l.chance(25), l.chance(6), l.chance(20)
	cancel, redeliver := l.chance(6), l.chance(6)
	if c.Sync = sync; once {
		c.IdempotencyKey = fmt.Sprintf("chaos-%d-upstream-%d-%d", seed, l.number, l.calls)
		c.Repeat = again
	}
	if !c.Sync {
		l.addAsync(c, expires, cancel, redeliver)
	}
	return c
}

// workTrace is the attempts in a work job's row.
type workTrace struct {
	Attempt int            // the latest that was charged
	Snoozes int            // attempts that were charged nothing, and waits
	Failed  map[int]string // codes of the attempts that did not do the work
	CutOff  map[int]int    // runs that a stop broke off, by attempt
}

func readTraces(ctx context.Context, conn *pgx.Conn, h *history) error {
	const sql = `
		SELECT requests.work_job_id, work_job_attempt, coalesce((metadata ->> 'snoozes')::integer, 0), coalesce(array_to_json(work_job_errors), '[]')::text
		FROM requests
		JOIN request_trace ON request_id = id
		JOIN river_job ON river_job.id = requests.work_job_id
		WHERE requests.work = $1`
	rows, err := conn.Query(ctx, sql, upstreamWork)
	if err != nil {
		return fmt.Errorf("reading attempts of the work: %w", err)
	}
	h.Traces = map[int64]workTrace{}
	var id int64
	var trace workTrace
	var failed string
	_, err = pgx.ForEachRow(rows, []any{&id, &trace.Attempt, &trace.Snoozes, &failed}, func() (err error) {
		trace.Failed, trace.CutOff, err = readFailed(failed)
		h.Traces[id] = trace
		return err
	})
	return err
}

// readFailed reads the errors of a job, as River and the service write them.
func readFailed(text string) (failed map[int]string, cutOff map[int]int, err error) {
	var rows []struct {
		Attempt int    `json:"attempt"`
		Error   string `json:"error"`
	}
	if err := json.Unmarshal([]byte(text), &rows); err != nil {
		return nil, nil, fmt.Errorf("reading errors of a job: %w", err)
	}
	failed, cutOff = map[int]string{}, map[int]int{}
	for _, row := range rows {
		code, isUncharged := strings.CutPrefix(row.Error, "not charged: ")
		switch {
		case !isUncharged:
			failed[row.Attempt] = row.Error
		case code == "cut_off":
			cutOff[row.Attempt]++
		}
	}
	return failed, cutOff, nil
}
