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
	Name         string         // host:port
	GrantedUntil time.Time      // zero when it granted nothing
	PerMinute    int            // callbacks granted, 0 for no limit
	Prefixes     []netip.Prefix // of the addresses that granted them
	ClosedUntil  time.Time      // no callbacks until then; zero for open
	Openings     int            // of the circuit breaker, in a row
	ExpiresAt    time.Time
}

// LoadCallbackOrigins returns what is remembered, by name, of those of the
// origins of which something is.
func LoadCallbackOrigins(ctx context.Context, q Querier, names []string) (map[string]CallbackOrigin, error) {
	const sql = `
		SELECT origin, granted_until, per_minute, coalesce(array_to_string(prefixes, ' '), ''), closed_until, openings, expires_at
		FROM callback_origins
		WHERE origin = ANY ($1::text[])
		  AND expires_at > now()`
	rows, err := q.Query(ctx, sql, names)
	if err != nil {
		return nil, fmt.Errorf("loading callback origins: %w", err)
	}
	found, err := pgx.CollectRows(rows, readCallbackOrigin)
	if err != nil {
		return nil, fmt.Errorf("loading callback origins: %w", err)
	}
	origins := make(map[string]CallbackOrigin, len(found))
	for _, origin := range found {
		origins[origin.Name] = origin
	}
	return origins, nil
}

func readCallbackOrigin(row pgx.CollectableRow) (o CallbackOrigin, err error) {
	var prefixes string
	var perMinute int32
	if err := row.Scan(&o.Name, (*zeronull.Timestamptz)(&o.GrantedUntil), (*zeronull.Int4)(&perMinute), &prefixes,
		(*zeronull.Timestamptz)(&o.ClosedUntil), &o.Openings, &o.ExpiresAt); err != nil {
		return o, err
	}
	o.PerMinute = int(perMinute)
	for text := range strings.FieldsSeq(prefixes) {
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			return o, fmt.Errorf("reading an address prefix: %w", err)
		}
		o.Prefixes = append(o.Prefixes, prefix)
	}
	return o, nil
}

// SaveCallbackOrigins remembers origins, each at most once in the set, and
// forgets some of those that have expired, about as many as it is given twice
// over, so that the table doesn't grow with receivers that are never met again.
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
		INSERT INTO callback_origins (origin, granted_until, per_minute, prefixes, closed_until, openings, expires_at)
		SELECT origin, granted_until, per_minute, string_to_array(prefixes, ' '), closed_until, openings, expires_at
		FROM unnest(
			$1::text[], $2::timestamptz[], $3::integer[], $4::text[], $5::timestamptz[], $6::integer[], $7::timestamptz[]
		) AS met (origin, granted_until, per_minute, prefixes, closed_until, openings, expires_at)
		-- In one order, so that two processes that save the same ones don't lock
		-- each other out.
		ORDER BY origin
		ON CONFLICT (origin) DO UPDATE
		SET granted_until = excluded.granted_until,
		    per_minute = excluded.per_minute,
		    prefixes = excluded.prefixes,
		    closed_until = excluded.closed_until,
		    openings = excluded.openings,
		    expires_at = excluded.expires_at`
	_, err := q.Exec(ctx, sql,
		column(origins, func(o CallbackOrigin) string { return o.Name }),
		column(origins, func(o CallbackOrigin) zeronull.Timestamptz { return zeronull.Timestamptz(o.GrantedUntil) }),
		column(origins, func(o CallbackOrigin) zeronull.Int4 { return zeronull.Int4(o.PerMinute) }),
		column(origins, func(o CallbackOrigin) zeronull.Text { return zeronull.Text(joinPrefixes(o.Prefixes)) }),
		column(origins, func(o CallbackOrigin) zeronull.Timestamptz { return zeronull.Timestamptz(o.ClosedUntil) }),
		column(origins, func(o CallbackOrigin) int32 { return int32(o.Openings) }),
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
