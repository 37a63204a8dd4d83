package db

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype/zeronull"
)

// The operator's words of a receiver. A forgotten word is known for a minute
// more, for running processes to hear of it.
const (
	ReceiverAllowed   = "allowed"
	ReceiverDenied    = "denied"
	ReceiverForgotten = "forgotten"
)

// ReceiverWord is what the operator says of a receiver: a row of callback_origins
// of its own.
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
		SELECT origin, word, word_rate, word_concurrency, word_at
		FROM callback_origins
		WHERE word IS NOT NULL
		  AND expires_at > now()`
	rows, err := q.Query(ctx, sql)
	if err != nil {
		return nil, fmt.Errorf("reading the operator's words of receivers: %w", err)
	}
	words, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (w ReceiverWord, err error) {
		var concurrency zeronull.Int4
		err = row.Scan(&w.Target, &w.Word, (*zeronull.Float8)(&w.Rate), &concurrency, &w.At)
		w.Concurrency = int(concurrency)
		return w, err
	})
	if err != nil {
		return nil, fmt.Errorf("reading the operator's words of receivers: %w", err)
	}
	return words, nil
}

// SayOfReceiver puts the operator's word in the place of the one before it.
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

// ForgetReceiver removes what is remembered of the receivers of a host and port, of
// all ports where that is "*", and takes back what the operator said of them.
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

// Receiver is what is known of a receiver, for the operator to read.
type Receiver struct {
	CallbackOrigin
	ReceiverWord
	SavedAt time.Time // when this was known; zero for a word
}

// ListReceivers returns what is remembered of receivers and what the operator says
// of them, by name.
func ListReceivers(ctx context.Context, q Querier) ([]Receiver, error) {
	const sql = `
		SELECT ` + callbackOriginColumns + `, coalesce(word, ''), word_rate, word_concurrency, word_at, saved_at
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
		var concurrency zeronull.Int4
		r.CallbackOrigin, err = readCallbackOrigin(row, &r.Word, (*zeronull.Float8)(&r.ReceiverWord.Rate), &concurrency,
			(*zeronull.Timestamptz)(&r.At), (*zeronull.Timestamptz)(&r.SavedAt))
		r.Target, r.Concurrency = r.Name, int(concurrency)
		return r, err
	})
	if err != nil {
		return nil, fmt.Errorf("listing receivers: %w", err)
	}
	return receivers, nil
}
