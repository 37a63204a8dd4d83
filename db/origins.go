package db

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype/zeronull"
)

// CallbackOrigin is a row of callback_origins: what is remembered of a receiver.
type CallbackOrigin struct {
	Name         string         // scheme://host:port
	Rate         float64        // callbacks a second that it was known to take; zero for a receiver that took none
	InFlight     int            // likewise at a time
	AnsweredFrom []netip.Prefix // of the addresses that took callbacks
	GrantedUntil time.Time      // zero when it granted nothing
	PerMinute    int            // callbacks granted, 0 for no limit
	Prefixes     []netip.Prefix // of the addresses that granted them
	ClosedUntil  time.Time      // no callbacks of anybody until then; zero for open
	Openings     int            // of the circuit breaker, in a row
	Closings     []byte         // JSON: the clients to which alone it is closed; nil for none
	LastOutcome  string
	ExpiresAt    time.Time
}

// LoadCallbackOrigins returns what is remembered, by name, of those of the
// receivers of which something is.
func LoadCallbackOrigins(ctx context.Context, q Querier, names []string) (map[string]CallbackOrigin, error) {
	const sql = `
		SELECT ` + callbackOriginColumns + `
		FROM callback_origins
		WHERE origin = ANY ($1::text[])
		  AND expires_at > now()`
	rows, err := q.Query(ctx, sql, names)
	if err != nil {
		return nil, fmt.Errorf("loading callback origins: %w", err)
	}
	found, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (o CallbackOrigin, err error) {
		return readCallbackOrigin(row)
	})
	if err != nil {
		return nil, fmt.Errorf("loading callback origins: %w", err)
	}
	origins := make(map[string]CallbackOrigin, len(found))
	for _, origin := range found {
		origins[origin.Name] = origin
	}
	return origins, nil
}

const callbackOriginColumns = `origin, rate, in_flight, coalesce(array_to_string(answered_from, ' '), ''),
	granted_until, per_minute, coalesce(array_to_string(prefixes, ' '), ''),
	closed_until, openings, closings, last_outcome, expires_at`

// readCallbackOrigin reads callbackOriginColumns, and what comes after them into
// more.
func readCallbackOrigin(row pgx.CollectableRow, more ...any) (o CallbackOrigin, err error) {
	var answeredFrom, prefixes string
	var inFlight, perMinute zeronull.Int4
	targets := []any{
		&o.Name, (*zeronull.Float8)(&o.Rate), &inFlight, &answeredFrom,
		(*zeronull.Timestamptz)(&o.GrantedUntil), &perMinute, &prefixes,
		(*zeronull.Timestamptz)(&o.ClosedUntil), &o.Openings, &o.Closings, (*zeronull.Text)(&o.LastOutcome), &o.ExpiresAt,
	}
	if err := row.Scan(append(targets, more...)...); err != nil {
		return o, err
	}
	o.InFlight, o.PerMinute = int(inFlight), int(perMinute)
	if o.AnsweredFrom, err = readPrefixes(answeredFrom); err != nil {
		return o, err
	}
	o.Prefixes, err = readPrefixes(prefixes)
	return o, err
}

func readPrefixes(text string) (prefixes []netip.Prefix, err error) {
	for one := range strings.FieldsSeq(text) {
		prefix, err := netip.ParsePrefix(one)
		if err != nil {
			return nil, fmt.Errorf("reading an address prefix: %w", err)
		}
		prefixes = append(prefixes, prefix)
	}
	return prefixes, nil
}

// SaveCallbackOrigins remembers receivers, each at most once in the set, and
// forgets some expired receivers, about twice as many as it is given, so that the table doesn't grow with receivers that are never met again.
func SaveCallbackOrigins(ctx context.Context, q Querier, origins []CallbackOrigin) error {
	const sql = `
		WITH expired AS (
			DELETE FROM callback_origins
			WHERE origin IN (
				SELECT origin
				FROM callback_origins
				WHERE expires_at < now() - interval '1 minute'
				  AND origin <> ALL ($1::text[])
				ORDER BY expires_at
				LIMIT 2 * cardinality($1::text[])
				FOR UPDATE SKIP LOCKED
			)
		)
		INSERT INTO callback_origins (
			origin, rate, in_flight, answered_from, granted_until, per_minute, prefixes,
			closed_until, openings, closings, last_outcome, expires_at, saved_at
		)
		SELECT origin, rate, in_flight, string_to_array(answered_from, ' '), granted_until, per_minute, string_to_array(prefixes, ' '),
		       closed_until, openings, closings, last_outcome, expires_at, now()
		FROM unnest(
			$1::text[], $2::double precision[], $3::integer[], $4::text[], $5::timestamptz[], $6::integer[], $7::text[],
			$8::timestamptz[], $9::integer[], $10::jsonb[], $11::text[], $12::timestamptz[]
		) AS met (
			origin, rate, in_flight, answered_from, granted_until, per_minute, prefixes,
			closed_until, openings, closings, last_outcome, expires_at
		)
		-- In one order, so that two processes that save the same ones don't lock
		-- each other out.
		ORDER BY origin
		ON CONFLICT (origin) DO UPDATE
		SET rate = excluded.rate,
		    in_flight = excluded.in_flight,
		    answered_from = excluded.answered_from,
		    granted_until = excluded.granted_until,
		    per_minute = excluded.per_minute,
		    prefixes = excluded.prefixes,
		    closed_until = excluded.closed_until,
		    openings = excluded.openings,
		    closings = excluded.closings,
		    last_outcome = excluded.last_outcome,
		    expires_at = excluded.expires_at,
		    saved_at = excluded.saved_at`
	_, err := q.Exec(ctx, sql,
		column(origins, func(o CallbackOrigin) string { return o.Name }),
		column(origins, func(o CallbackOrigin) zeronull.Float8 { return zeronull.Float8(o.Rate) }),
		column(origins, func(o CallbackOrigin) zeronull.Int4 { return zeronull.Int4(o.InFlight) }),
		column(origins, func(o CallbackOrigin) zeronull.Text { return zeronull.Text(joinPrefixes(o.AnsweredFrom)) }),
		column(origins, func(o CallbackOrigin) zeronull.Timestamptz { return zeronull.Timestamptz(o.GrantedUntil) }),
		column(origins, func(o CallbackOrigin) zeronull.Int4 { return zeronull.Int4(o.PerMinute) }),
		column(origins, func(o CallbackOrigin) zeronull.Text { return zeronull.Text(joinPrefixes(o.Prefixes)) }),
		column(origins, func(o CallbackOrigin) zeronull.Timestamptz { return zeronull.Timestamptz(o.ClosedUntil) }),
		column(origins, func(o CallbackOrigin) int32 { return int32(o.Openings) }),
		column(origins, func(o CallbackOrigin) []byte { return o.Closings }),
		column(origins, func(o CallbackOrigin) zeronull.Text { return zeronull.Text(o.LastOutcome) }),
		column(origins, func(o CallbackOrigin) time.Time { return o.ExpiresAt }))
	if err != nil {
		return fmt.Errorf("saving callback origins: %w", err)
	}
	return nil
}

func joinPrefixes(prefixes []netip.Prefix) string {
	texts := make([]string, len(prefixes))
	for i, prefix := range prefixes {
		texts[i] = prefix.String()
	}
	return strings.Join(texts, " ")
}
