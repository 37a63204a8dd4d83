package db

import (
	"context"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgtype/zeronull"
)

// Receiver is a row of callback_origins: the processes' knowledge of a receiver.
type Receiver struct {
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

// LoadReceivers returns the rows of receivers by name, where there are any.
func LoadReceivers(ctx context.Context, q Querier, names []string) (map[string]Receiver, error) {
	sql := `
		SELECT ` + receiverFields.reads() + `
		FROM callback_origins
		WHERE origin = ANY ($1::text[])
		  AND expires_at > now()`
	rows, err := q.Query(ctx, sql, names)
	if err != nil {
		return nil, fmt.Errorf("loading callback origins: %w", err)
	}
	found, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (o Receiver, err error) {
		return o, row.Scan(receiverFields.targets(&o)...)
	})
	if err != nil {
		return nil, fmt.Errorf("loading callback origins: %w", err)
	}
	origins := make(map[string]Receiver, len(found))
	for _, origin := range found {
		if len(origin.Prefixes) == 0 { // a grant by nobody, which somebody wrote by hand, is none
			origin.GrantedUntil, origin.PerMinute = time.Time{}, 0
		}
		origins[origin.Name] = origin
	}
	return origins, nil
}

// LockReceivers is LoadReceivers for a transaction that saves them. Until it ends, no other
// such transaction begins, so that none overwrites what it has not read: not even a row that
// both insert.
func LockReceivers(ctx context.Context, tx pgx.Tx, names []string) (map[string]Receiver, error) {
	const sql = `SELECT pg_advisory_xact_lock(hashtext('ringback_receivers'))`
	if _, err := tx.Exec(ctx, sql); err != nil {
		return nil, fmt.Errorf("locking callback origins: %w", err)
	}
	return LoadReceivers(ctx, tx, names)
}

// receiverFields are the columns of callback_origins but for the operator's ruling.
var receiverFields = fields[Receiver]{
	written("origin", "text", func(o Receiver) string { return o.Name }, func(o *Receiver) any { return &o.Name }),
	written("rate", "double precision", func(o Receiver) zeronull.Float8 { return zeronull.Float8(o.Rate) },
		func(o *Receiver) any { return (*zeronull.Float8)(&o.Rate) }).by("", withinRate("rate")),
	written("in_flight", "integer", func(o Receiver) zeronull.Int4 { return zeronull.Int4(o.InFlight) },
		func(o *Receiver) any { return &o.InFlight }).by("", withinFlight("in_flight")),
	prefixField("answered_from", func(o *Receiver) *[]netip.Prefix { return &o.AnsweredFrom }),
	written("granted_until", "timestamptz", func(o Receiver) zeronull.Timestamptz { return zeronull.Timestamptz(o.GrantedUntil) },
		func(o *Receiver) any { return (*zeronull.Timestamptz)(&o.GrantedUntil) }),
	written("per_minute", "integer", func(o Receiver) zeronull.Int4 { return zeronull.Int4(o.PerMinute) },
		func(o *Receiver) any { return &o.PerMinute }).by("", "coalesce(per_minute, 0)"),
	prefixField("prefixes", func(o *Receiver) *[]netip.Prefix { return &o.Prefixes }),
	written("closed_until", "timestamptz", func(o Receiver) zeronull.Timestamptz { return zeronull.Timestamptz(o.ClosedUntil) },
		func(o *Receiver) any { return (*zeronull.Timestamptz)(&o.ClosedUntil) }),
	written("openings", "integer", func(o Receiver) int32 { return int32(o.Openings) }, func(o *Receiver) any { return &o.Openings }).
		by("", "least(openings, 1000)"),
	written("closings", "jsonb", func(o Receiver) []byte { return o.Closings }, func(o *Receiver) any { return &o.Closings }),
	written("last_outcome", "text", func(o Receiver) zeronull.Text { return zeronull.Text(o.LastOutcome) },
		func(o *Receiver) any { return (*zeronull.Text)(&o.LastOutcome) }),
	written("expires_at", "timestamptz", func(o Receiver) time.Time { return o.ExpiresAt }, func(o *Receiver) any { return &o.ExpiresAt }),
}

// withinRate and withinFlight read numbers that somebody wrote by hand, such as infinity, as
// the nearest that ringback receiver allow takes. NaN is the greatest number in Postgres.
func withinRate(column string) string {
	return "CASE WHEN " + column + " > 1000000 THEN 1000000 WHEN " + column + " < 0.01 THEN 0.01 ELSE " + column + " END"
}

func withinFlight(column string) string { return "least(coalesce(" + column + ", 0), 10000)" }

// prefixField is a column with address prefixes. Between here and Postgres they are a
// text with spaces: unnest would take an array of arrays apart.
func prefixField(name string, of func(*Receiver) *[]netip.Prefix) field[Receiver] {
	return written(name, "text", func(o Receiver) zeronull.Text { return zeronull.Text(joinPrefixes(*of(&o))) },
		func(o *Receiver) any { return (*prefixes)(of(o)) }).
		by("string_to_array("+name+", ' ')", "array_to_string("+name+", ' ')")
}

// prefixes reads a text of address prefixes.
type prefixes []netip.Prefix

// ScanText is for pgx. A prefix that somebody wrote by hand and that is none is left out: it
// is learned again, and one receiver's row must not fail the statement that reads others.
func (p *prefixes) ScanText(text pgtype.Text) error {
	*p = nil
	for one := range strings.FieldsSeq(text.String) {
		if prefix, err := netip.ParsePrefix(one); err == nil {
			*p = append(*p, prefix)
		}
	}
	return nil
}

// MostReceivers is about how many rows callback_origins has at most, some 300 bytes each:
// ten times as many receivers as a process remembers.
const MostReceivers = 100_000

// SaveReceivers writes receivers, none of them twice. It removes up to twice as many receivers
// that have expired, or that would expire first where there are more than MostReceivers. So
// receivers that are never met again don't make the table grow. The operator's rulings count, and
// stay.
func SaveReceivers(ctx context.Context, q Querier, origins []Receiver) error {
	sql := `
		WITH expired AS (
			DELETE FROM callback_origins
			WHERE origin IN (
				SELECT origin
				FROM callback_origins
				-- greatest ignores null, as where there are fewer rows.
				WHERE expires_at <= greatest(now() - interval '1 minute', (
					SELECT expires_at
					FROM callback_origins
					ORDER BY expires_at DESC
					OFFSET ` + strconv.Itoa(MostReceivers) + `
					LIMIT 1
				))
				  AND (word IS NULL OR expires_at <= now() - interval '1 minute')
				  AND origin <> ALL ($1::text[])
				ORDER BY expires_at
				LIMIT 2 * cardinality($1::text[])
				FOR UPDATE SKIP LOCKED
			)
		)
		INSERT INTO callback_origins (` + receiverFields.names() + `, saved_at)
		SELECT ` + receiverFields.stored() + `, now()
		FROM unnest(` + receiverFields.arrays(1) + `) AS met (` + receiverFields.names() + `)
		-- In one order, so that two processes that save the same receivers don't lock
		-- each other out.
		ORDER BY origin
		ON CONFLICT (origin) DO UPDATE
		SET ` + receiverFields[1:].replaced() + `, saved_at = excluded.saved_at`
	_, err := q.Exec(ctx, sql, receiverFields.args(origins)...)
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

// Effects of a ruling. A ruling that is forgotten stays for a minute more, for running
// processes to read it.
const (
	ReceiverAllowed   = "allowed"
	ReceiverDenied    = "denied"
	ReceiverForgotten = "forgotten"
)

// Ruling is the operator's decision about a receiver: a row of callback_origins beside the
// receiver's row.
type Ruling struct {
	Target      string    // *://host:port, or *://host:* for all ports
	Effect      string    // ReceiverAllowed, ReceiverDenied or ReceiverForgotten
	Rate        float64   // callbacks a second that are allowed, 0 for no limit
	Concurrency int       // callbacks at a time that are allowed, 0 for the share of any receiver
	At          time.Time // when the operator decided, by the database's clock
}

// Rulings returns all rulings of the operator.
func Rulings(ctx context.Context, q Querier) ([]Ruling, error) {
	sql := `
		SELECT origin, word, ` + withinRate("word_rate") + `, ` + withinFlight("word_concurrency") + `, word_at
		FROM callback_origins
		WHERE word IS NOT NULL
		  AND expires_at > now()`
	rows, err := q.Query(ctx, sql)
	if err != nil {
		return nil, fmt.Errorf("reading the operator's rulings on receivers: %w", err)
	}
	rulings, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (r Ruling, err error) {
		return r, row.Scan(&r.Target, &r.Effect, (*zeronull.Float8)(&r.Rate), &r.Concurrency, &r.At)
	})
	if err != nil {
		return nil, fmt.Errorf("reading the operator's rulings on receivers: %w", err)
	}
	return rulings, nil
}

// SetRuling replaces the operator's ruling on a receiver. A ruling on all ports of a host
// replaces those that decide on one port, too; SetRuling returns their number.
func SetRuling(ctx context.Context, q Querier, ruling Ruling) (onPorts int64, err error) {
	const sql = `
		WITH said AS (
			INSERT INTO callback_origins (origin, openings, word, word_rate, word_concurrency, word_at, expires_at)
			VALUES ($1, 0, $2, $3, $4, now(), CASE $2 WHEN 'forgotten' THEN now() + interval '1 minute' ELSE now() + interval '1000 years' END)
			ON CONFLICT (origin) DO UPDATE
			SET word = excluded.word,
			    word_rate = excluded.word_rate,
			    word_concurrency = excluded.word_concurrency,
			    word_at = excluded.word_at,
			    expires_at = excluded.expires_at
		)
		DELETE FROM callback_origins
		WHERE right($1, 2) = ':*'
		  AND starts_with(origin, left($1, -1))
		  AND origin <> $1
		  AND word IN ('allowed', 'denied')`
	tag, err := q.Exec(ctx, sql, ruling.Target, ruling.Effect, zeronull.Float8(ruling.Rate), zeronull.Int4(ruling.Concurrency))
	if err != nil {
		return 0, fmt.Errorf("storing the operator's ruling on a receiver: %w", err)
	}
	return tag.RowsAffected(), nil
}

// Forgotten is what ForgetReceiver found. It is zero where nothing was known.
type Forgotten struct {
	Effect    string // of the ruling: ReceiverAllowed, ReceiverDenied, or empty for no ruling
	OnPorts   int64  // how many rulings on single ports of the host there were
	Receivers int64  // how many receivers were stored: a host may have several ports
}

// ForgetReceiver removes the receivers of a host and port, and the operator's ruling on
// them. The port "*" stands for all ports.
func ForgetReceiver(ctx context.Context, tx pgx.Tx, host, port string) (found Forgotten, err error) {
	target := "*://" + host + ":" + port
	const sql = `
		SELECT coalesce(max(word), '')
		FROM callback_origins
		WHERE origin = $1
		  AND word <> 'forgotten'
		  AND expires_at > now()`
	if err := tx.QueryRow(ctx, sql, target).Scan(&found.Effect); err != nil {
		return found, fmt.Errorf("reading the operator's ruling on a receiver: %w", err)
	}
	if found.Receivers, err = RemoveReceivers(ctx, tx, host, port); err != nil {
		return found, err
	}
	found.OnPorts, err = SetRuling(ctx, tx, Ruling{Target: target, Effect: ReceiverForgotten})
	return found, err
}

// RemoveReceivers removes the receivers of a host and port, and returns their number. The
// port "*" stands for all ports.
func RemoveReceivers(ctx context.Context, q Querier, host, port string) (int64, error) {
	const sql = `
		DELETE FROM callback_origins
		WHERE word IS NULL
		  AND (origin IN ('http://' || $1::text || ':' || $2::text, 'https://' || $1 || ':' || $2)
		       OR $2 = '*' AND regexp_replace(origin, '^https?://(.*):[0-9]+$', '\1') = $1)`
	tag, err := q.Exec(ctx, sql, host, port)
	if err != nil {
		return 0, fmt.Errorf("forgetting a receiver: %w", err)
	}
	return tag.RowsAffected(), nil
}

// ListedReceiver is a row of callback_origins, for the operator to read.
type ListedReceiver struct {
	Receiver
	Ruling
	SavedAt time.Time // zero for a ruling
}

// IsRuling tells whether a row is the operator's ruling, and not a receiver.
func (r ListedReceiver) IsRuling() bool { return strings.HasPrefix(r.Target, "*://") }

// ListReceivers returns the operator's rulings and the receivers that were saved last, so many
// together (0 for all), by name, and how many more there are.
func ListReceivers(ctx context.Context, q Querier, most int) (receivers []ListedReceiver, more int, err error) {
	sql := `
		SELECT ` + receiverFields.reads() + `, coalesce(word, ''), ` + withinRate("word_rate") + `, ` + withinFlight("word_concurrency") + `, word_at, saved_at, total
		FROM (
			SELECT *, count(*) OVER () AS total
			FROM callback_origins
			WHERE expires_at > now()
			  AND word IS DISTINCT FROM 'forgotten'
			  AND strpos(origin, '://') > 0 -- older versions name them by host and port
			ORDER BY word IS NULL, saved_at DESC
			LIMIT nullif($1, 0)
		) AS shown
		ORDER BY split_part(origin, '://', 2), origin`
	rows, err := q.Query(ctx, sql, most)
	if err != nil {
		return nil, 0, fmt.Errorf("listing receivers: %w", err)
	}
	total := 0
	receivers, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (r ListedReceiver, err error) {
		err = row.Scan(append(receiverFields.targets(&r.Receiver), &r.Effect, (*zeronull.Float8)(&r.Ruling.Rate), &r.Concurrency,
			(*zeronull.Timestamptz)(&r.At), (*zeronull.Timestamptz)(&r.SavedAt), &total)...)
		r.Target = r.Name
		return r, err
	})
	if err != nil {
		return nil, 0, fmt.Errorf("listing receivers: %w", err)
	}
	return receivers, total - len(receivers), nil
}
