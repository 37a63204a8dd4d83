package db

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgtype/zeronull"
)

// CallbackOrigin is a row of callback_origins: what processes learnt of a receiver.
type CallbackOrigin struct {
	Name         string         // scheme://host:port
	Rate         float64        // callbacks a second that it took; zero for a receiver that took none
	InFlight     int            // callbacks at a time that it took
	AnsweredFrom []netip.Prefix // prefixes of the addresses that took callbacks
	GrantedUntil time.Time      // zero when it granted nothing
	PerMinute    int            // callbacks granted, 0 for no limit
	Prefixes     []netip.Prefix // prefixes of the addresses that granted callbacks
	ClosedUntil  time.Time      // no client's callbacks leave until then; zero for open
	Openings     int            // of the circuit breaker, in a row
	Closings     []byte         // JSON: the clients to which alone it is closed; nil for none
	LastOutcome  string
	ExpiresAt    time.Time
}

// LoadCallbackOrigins returns the rows of receivers by name, where there are any.
func LoadCallbackOrigins(ctx context.Context, q Querier, names []string) (map[string]CallbackOrigin, error) {
	sql := `
		SELECT ` + originFields.reads() + `
		FROM callback_origins
		WHERE origin = ANY ($1::text[])
		  AND expires_at > now()`
	rows, err := q.Query(ctx, sql, names)
	if err != nil {
		return nil, fmt.Errorf("loading callback origins: %w", err)
	}
	found, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (o CallbackOrigin, err error) {
		return o, row.Scan(originFields.targets(&o)...)
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

// originFields are the columns of callback_origins but for the operator's word.
var originFields = fields[CallbackOrigin]{
	written("origin", "text", func(o CallbackOrigin) string { return o.Name }, func(o *CallbackOrigin) any { return &o.Name }),
	written("rate", "double precision", func(o CallbackOrigin) zeronull.Float8 { return zeronull.Float8(o.Rate) },
		func(o *CallbackOrigin) any { return (*zeronull.Float8)(&o.Rate) }),
	written("in_flight", "integer", func(o CallbackOrigin) zeronull.Int4 { return zeronull.Int4(o.InFlight) },
		func(o *CallbackOrigin) any { return &o.InFlight }).by("", "coalesce(in_flight, 0)"),
	prefixField("answered_from", func(o *CallbackOrigin) *[]netip.Prefix { return &o.AnsweredFrom }),
	written("granted_until", "timestamptz", func(o CallbackOrigin) zeronull.Timestamptz { return zeronull.Timestamptz(o.GrantedUntil) },
		func(o *CallbackOrigin) any { return (*zeronull.Timestamptz)(&o.GrantedUntil) }),
	written("per_minute", "integer", func(o CallbackOrigin) zeronull.Int4 { return zeronull.Int4(o.PerMinute) },
		func(o *CallbackOrigin) any { return &o.PerMinute }).by("", "coalesce(per_minute, 0)"),
	prefixField("prefixes", func(o *CallbackOrigin) *[]netip.Prefix { return &o.Prefixes }),
	written("closed_until", "timestamptz", func(o CallbackOrigin) zeronull.Timestamptz { return zeronull.Timestamptz(o.ClosedUntil) },
		func(o *CallbackOrigin) any { return (*zeronull.Timestamptz)(&o.ClosedUntil) }),
	written("openings", "integer", func(o CallbackOrigin) int32 { return int32(o.Openings) }, func(o *CallbackOrigin) any { return &o.Openings }),
	written("closings", "jsonb", func(o CallbackOrigin) []byte { return o.Closings }, func(o *CallbackOrigin) any { return &o.Closings }),
	written("last_outcome", "text", func(o CallbackOrigin) zeronull.Text { return zeronull.Text(o.LastOutcome) },
		func(o *CallbackOrigin) any { return (*zeronull.Text)(&o.LastOutcome) }),
	written("expires_at", "timestamptz", func(o CallbackOrigin) time.Time { return o.ExpiresAt }, func(o *CallbackOrigin) any { return &o.ExpiresAt }),
}

// prefixField is a column with address prefixes. Between here and Postgres they are a
// text with spaces: unnest would take an array of arrays apart.
func prefixField(name string, of func(*CallbackOrigin) *[]netip.Prefix) field[CallbackOrigin] {
	return written(name, "text", func(o CallbackOrigin) zeronull.Text { return zeronull.Text(joinPrefixes(*of(&o))) },
		func(o *CallbackOrigin) any { return (*prefixes)(of(o)) }).
		by("string_to_array("+name+", ' ')", "array_to_string("+name+", ' ')")
}

// prefixes reads a text of address prefixes.
type prefixes []netip.Prefix

// ScanText is for pgx.
func (p *prefixes) ScanText(text pgtype.Text) error {
	*p = nil
	for one := range strings.FieldsSeq(text.String) {
		prefix, err := netip.ParsePrefix(one)
		if err != nil {
			return fmt.Errorf("reading an address prefix: %w", err)
		}
		*p = append(*p, prefix)
	}
	return nil
}

// SaveCallbackOrigins writes receivers, none of them twice. It removes up to twice as many
// expired receivers, so that the table doesn't grow with receivers that are never met again.
func SaveCallbackOrigins(ctx context.Context, q Querier, origins []CallbackOrigin) error {
	sql := `
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
		INSERT INTO callback_origins (` + originFields.names() + `, saved_at)
		SELECT ` + originFields.stored() + `, now()
		FROM unnest(` + originFields.arrays(1) + `) AS met (` + originFields.names() + `)
		-- In one order, so that two processes that save the same receivers don't lock
		-- each other out.
		ORDER BY origin
		ON CONFLICT (origin) DO UPDATE
		SET ` + originFields[1:].replaced() + `, saved_at = excluded.saved_at`
	_, err := q.Exec(ctx, sql, originFields.args(origins)...)
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

// The operator's words on a receiver. A forgotten word stays for a minute more, for
// running processes to read it.
const (
	ReceiverAllowed   = "allowed"
	ReceiverDenied    = "denied"
	ReceiverForgotten = "forgotten"
)

// ReceiverWord is the operator's word on a receiver: a row of callback_origins of its own.
type ReceiverWord struct {
	Target      string    // *://host:port, or *://host:* for all ports
	Word        string    // one of the three
	Rate        float64   // callbacks a second that are allowed, 0 for no limit
	Concurrency int       // callbacks at a time that are allowed, 0 for the share of any receiver
	At          time.Time // when it was said, by the database's clock
}

// ReceiverWords returns all of the operator's words.
func ReceiverWords(ctx context.Context, q Querier) ([]ReceiverWord, error) {
	const sql = `
		SELECT origin, word, word_rate, coalesce(word_concurrency, 0), word_at
		FROM callback_origins
		WHERE word IS NOT NULL
		  AND expires_at > now()`
	rows, err := q.Query(ctx, sql)
	if err != nil {
		return nil, fmt.Errorf("reading the operator's words of receivers: %w", err)
	}
	words, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (w ReceiverWord, err error) {
		return w, row.Scan(&w.Target, &w.Word, (*zeronull.Float8)(&w.Rate), &w.Concurrency, &w.At)
	})
	if err != nil {
		return nil, fmt.Errorf("reading the operator's words of receivers: %w", err)
	}
	return words, nil
}

// SayOfReceiver replaces the operator's word on a receiver.
func SayOfReceiver(ctx context.Context, q Querier, word ReceiverWord) error {
	const sql = `
		INSERT INTO callback_origins (origin, openings, word, word_rate, word_concurrency, word_at, expires_at)
		VALUES ($1, 0, $2, $3, $4, now(), CASE $2 WHEN 'forgotten' THEN now() + interval '1 minute' ELSE now() + interval '1000 years' END)
		ON CONFLICT (origin) DO UPDATE
		SET word = excluded.word,
		    word_rate = excluded.word_rate,
		    word_concurrency = excluded.word_concurrency,
		    word_at = excluded.word_at,
		    expires_at = excluded.expires_at`
	_, err := q.Exec(ctx, sql, word.Target, word.Word, zeronull.Float8(word.Rate), zeronull.Int4(word.Concurrency))
	if err != nil {
		return fmt.Errorf("storing the operator's word of a receiver: %w", err)
	}
	return nil
}

// ForgetReceiver removes the receivers of a host and port, of all ports where that is "*",
// and takes back the operator's word on them.
func ForgetReceiver(ctx context.Context, tx pgx.Tx, host, port string) error {
	const sql = `
		DELETE FROM callback_origins
		WHERE word IS NULL
		  AND (origin IN ('http://' || $1::text || ':' || $2::text, 'https://' || $1 || ':' || $2)
		       OR $2 = '*' AND regexp_replace(origin, '^https?://(.*):[0-9]+$', '\1') = $1)`
	if _, err := tx.Exec(ctx, sql, host, port); err != nil {
		return fmt.Errorf("forgetting a receiver: %w", err)
	}
	return SayOfReceiver(ctx, tx, ReceiverWord{Target: "*://" + host + ":" + port, Word: ReceiverForgotten})
}

// Receiver is a row of callback_origins, for the operator to read.
type Receiver struct {
	CallbackOrigin
	ReceiverWord
	SavedAt time.Time // zero for a word
}

// ListReceivers returns the receivers and the operator's words, by name.
func ListReceivers(ctx context.Context, q Querier) ([]Receiver, error) {
	sql := `
		SELECT ` + originFields.reads() + `, coalesce(word, ''), word_rate, coalesce(word_concurrency, 0), word_at, saved_at
		FROM callback_origins
		WHERE expires_at > now()
		  AND word IS DISTINCT FROM 'forgotten'
		  AND strpos(origin, '://') > 0 -- older versions name them by host and port
		ORDER BY split_part(origin, '://', 2), origin`
	rows, err := q.Query(ctx, sql)
	if err != nil {
		return nil, fmt.Errorf("listing receivers: %w", err)
	}
	receivers, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (r Receiver, err error) {
		err = row.Scan(append(originFields.targets(&r.CallbackOrigin), &r.Word, (*zeronull.Float8)(&r.ReceiverWord.Rate), &r.Concurrency,
			(*zeronull.Timestamptz)(&r.At), (*zeronull.Timestamptz)(&r.SavedAt))...)
		r.Target = r.Name
		return r, err
	})
	if err != nil {
		return nil, fmt.Errorf("listing receivers: %w", err)
	}
	return receivers, nil
}
