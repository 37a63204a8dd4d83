package db

import "context"

// RestoreRows writes the row of each table that holds a single row again, where somebody
// removed it, as by emptying all tables or copying a schema without its rows. It returns the
// names of these tables. finishKey is the key of finish calls, if this process knows it; nil
// stands for another key.
func RestoreRows(ctx context.Context, q Querier, finishKey []byte) ([]string, error) {
	const sql = `
		WITH a AS (
			INSERT INTO reconciliation (position, order_position, next_at)
			VALUES ('00000000-0000-0000-0000-000000000000', '00000000-0000-0000-0000-000000000000', now())
			ON CONFLICT DO NOTHING
			RETURNING 'reconciliation'
		), b AS (
			INSERT INTO retention (position, pass_began_at, next_at)
			VALUES ('00000000-0000-0000-0000-000000000000', now(), now())
			ON CONFLICT DO NOTHING
			RETURNING 'retention'
		), c AS (
			INSERT INTO dead_letter_retention (client, position, pass_began_at, next_at)
			VALUES ('', '00000000-0000-0000-0000-000000000000', now(), now())
			ON CONFLICT DO NOTHING
			RETURNING 'dead_letter_retention'
		), d AS (
			INSERT INTO unsuccessful_search (position, done)
			SELECT '00000000-0000-0000-0000-000000000000', NOT EXISTS (SELECT FROM requests)
			ON CONFLICT DO NOTHING
			RETURNING 'unsuccessful_search'
		), e AS (
			INSERT INTO finish_key (key)
			VALUES (coalesce($1::bytea, decode(replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', ''), 'hex')))
			ON CONFLICT DO NOTHING
			RETURNING 'finish_key'
		)
		SELECT * FROM a UNION ALL SELECT * FROM b UNION ALL SELECT * FROM c UNION ALL SELECT * FROM d UNION ALL SELECT * FROM e`
	return readColumn[string](ctx, q, "restoring single rows", sql, finishKey)
}
