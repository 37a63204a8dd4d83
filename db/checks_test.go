package db_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"

	"ringback/db"
	"ringback/db/dbtest"
)

// The schema with single CHECK constraints, and the schema in which a migration folded
// them into one for each table.
const (
	beforeFolding = 14
	folding       = 15
)

// rule is a CHECK constraint of a table.
type rule struct {
	Table      string
	Name       string
	Expression string
	Validated  bool
	Text       int // bytes that Postgres parses for each statement that writes
}

// sameRule compares rules without their text, which holds where it stood in the
// statement that made it.
var sameRule = cmpopts.IgnoreFields(rule{}, "Text")

// foldedTables are the tables whose rules stand in one function, with test values for
// every column in a rule: for each comparison in a rule, some values pass and some don't.
var foldedTables = map[string][]string{
	"requests": {
		"mode: 'sync', 'async', 'later'",
		"status: 'accepted', 'succeeded', 'failed', 'expired', 'cancelled', 'done'",
		"callback_state: 'waiting', 'pending', 'delivered', 'dead', 'cancelled', 'lost', NULL",
		"ordering_key: NULL, '', 'k', repeat('ü', 255), repeat('ü', 256)",
		"callback_url: NULL, 'https://hooks.example.com/'",
		"result: NULL, '1'::json",
		"error: NULL, '{}'::json",
		"work_job_id: NULL, 1::bigint",
		"callback_job_id: NULL, 1::bigint",
		"finished_at: NULL, now()",
		"settled_at: NULL, now()",
		"expires_at: NULL, now()",
		"redelivered_at: NULL, now()",
	},
	"river_job": {
		"state: " + strings.Join(riverStates, ", "),
		"finalized_at: NULL, now()",
		"max_attempts: -1::smallint, 0::smallint, 1::smallint, 1000::smallint",
		"priority: 0::smallint, 1::smallint, 4::smallint, 5::smallint",
		"kind: '', 'work', repeat('ü', 127), repeat('ü', 128)",
		"queue: '', 'callback', repeat('ü', 127), repeat('ü', 128)",
	},
	"callback_attempts": {
		"attempt: 0, 1, 2",
		"outcome: 'delivered', 'gone', 'throttled', 'http_status', 'timeout', 'tls_failed', 'connection_failed', 'not_sent', 'lost'",
		"next_attempt_at: NULL, now()",
	},
}

// changedRules are the rules that a later migration changed: by their former names, their
// present names and expressions.
var changedRules = map[string][2]string{
	"requests_async_has_work_job": {"requests_async_has_work_job", "mode <> 'async' OR work_job_id IS NOT NULL"},
	"requests_sync_is_finished":   {"requests_sync_is_finished_or_has_job", "mode <> 'sync' OR status <> 'accepted' OR work_job_id IS NOT NULL"},
}

func changed(rules []rule) []rule {
	rules = slices.Clone(rules)
	for i, rule := range rules {
		if now, found := changedRules[rule.Name]; found {
			rules[i].Name, rules[i].Expression = now[0], now[1]
		}
	}
	return rules
}

var riverStates = []string{
	"'available'::river_job_state", "'cancelled'", "'completed'", "'discarded'",
	"'pending'", "'retryable'", "'running'", "'scheduled'",
}

func TestFoldedChecks(t *testing.T) {
	t.Parallel()
	old := dbtest.NewEmpty(t)
	migrateTo(t, old, beforeFolding)
	before := rulesOf(t, old, "public")

	for table := range foldedTables {
		t.Run("RefuseWhatWasRefusedByTheSameName/"+table, func(t *testing.T) {
			t.Parallel()
			conn := connect(t, dbtest.New(t))
			tried := map[string]int{}
			rules := changed(before[table])
			for verdict, rows := range verdicts(t, conn, table, rules) {
				tried[verdict.Before] += rows
				if verdict.Now != verdict.Before {
					t.Errorf("%d rows: got %q, want %q (the name of the rule that they break, or nothing)", rows, verdict.Now, verdict.Before)
				}
			}
			for _, rule := range rules {
				if tried[rule.Name] == 0 {
					t.Errorf("no row was tried that breaks %s", rule.Name)
				}
			}
			if tried[""] == 0 {
				t.Error("no row was tried that breaks no rule")
			}
		})

		t.Run("AreOneShortConstraint/"+table, func(t *testing.T) {
			t.Parallel()
			now := rulesOf(t, dbtest.New(t), "public")[table]
			got, most := textOf(now), textOf(before[table])/5
			if len(now) != 1 || got > most {
				t.Errorf("got %d constraints with %d bytes (%+v), want one with at most %d: Postgres parses them for each statement that writes, so write a new rule into %s_is_valid, by a migration of its own",
					len(now), got, now, most, table)
			}
		})
	}

	t.Run("ComeBackAsTheyWere", func(t *testing.T) {
		t.Parallel()
		url := dbtest.NewEmpty(t)
		migrateTo(t, url, folding)
		migrateTo(t, url, beforeFolding)
		if diff := cmp.Diff(before, rulesOf(t, url, "public"), sameRule); diff != "" {
			t.Errorf("after down (-want +got):\n%s", diff)
		}
		const functions = "SELECT count(*) FROM pg_proc WHERE pronamespace = 'public'::regnamespace AND proname LIKE '%is_valid'"
		if left := valueOf[int](t, dbtest.Pool(t, url), functions); left != 0 {
			t.Errorf("after down: got %d functions left, want none", left)
		}
	})

	t.Run("HoldWhatRiverWants", func(t *testing.T) {
		t.Parallel()
		url := dbtest.NewEmpty(t)
		migrator, err := rivermigrate.New(riverpgxv5.New(dbtest.Pool(t, url)), nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := migrator.Migrate(t.Context(), rivermigrate.DirectionUp, nil); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(before["river_job"], rulesOf(t, url, "public")["river_job"], sameRule); diff != "" {
			t.Errorf("a version of River has other constraints on river_job than river_job_is_valid holds (-held +River's):\n%s"+
				"Put a migration before River's that restores its constraints, as migration %d does on its way down, and one after it that folds what it has now.", diff, folding)
		}
	})

	t.Run("HoldInAnotherSchemaAndWithoutASearchPath", func(t *testing.T) {
		t.Parallel()
		url := dbtest.NewEmpty(t)
		conn := connect(t, url)
		execOn(t, conn, "CREATE SCHEMA elsewhere")
		if err := db.Migrate(t.Context(), url+"&search_path=elsewhere"); err != nil {
			t.Fatal(err)
		}
		execOn(t, conn, "SET search_path = ''") // as pg_restore does
		for rule, sql := range map[string]string{
			"": `INSERT INTO elsewhere.requests (id, mode, client, status, input, result, accepted_at, finished_at)
			     VALUES (gen_random_uuid(), 'sync', 'alice', 'succeeded', '1', '1', now(), now())`,
			"requests_mode_known": `INSERT INTO elsewhere.requests (id, mode, client, status, input, result, accepted_at, finished_at)
			     VALUES (gen_random_uuid(), 'later', 'alice', 'succeeded', '1', '1', now(), now())`,
			"finalized_or_finalized_at_null": `INSERT INTO elsewhere.river_job (state, args, kind, max_attempts)
			     VALUES ('completed', '{}', 'work', 1)`,
			"callback_attempts_numbered_from_one": `INSERT INTO elsewhere.callback_attempts (request_id, attempt, started_at, ended_at, outcome)
			     VALUES (gen_random_uuid(), 0, now(), now(), 'gone')`,
		} {
			_, err := conn.Exec(t.Context(), sql)
			if got := constraintOf(err); got != rule || (err == nil) != (rule == "") {
				t.Errorf("%s: got %v, want a violation of %q", sql, err, rule)
			}
		}
	})

	t.Run("AreRefusedAsPostgresRefuses", func(t *testing.T) {
		t.Parallel()
		const sql = "INSERT INTO river_job (args, kind, max_attempts) VALUES ('{}', 'work', 0)"
		refusal := func(url string) (refused *pgconn.PgError) {
			_, err := connect(t, url).Exec(t.Context(), sql)
			if !errors.As(err, &refused) {
				t.Fatalf("got %v, want a refusal", err)
			}
			return refused
		}
		want, got := refusal(old), refusal(dbtest.New(t))
		if got.Code != want.Code || got.Message != want.Message || got.TableName != want.TableName || got.ConstraintName != want.ConstraintName {
			t.Errorf("got %#v, want as before: %#v", got, want)
		}
	})

	t.Run("AreFoldedWithoutHoldingUpWriters", func(t *testing.T) {
		t.Parallel()
		url := dbtest.NewEmpty(t)
		migrateTo(t, url, beforeFolding)
		pool := dbtest.Pool(t, url)
		migrated := make(chan error, 1)
		inTx(t, pool, func(reader pgx.Tx) error {
			execOn(t, reader, "SELECT FROM callback_attempts")
			go func() { migrated <- db.MigrateTo(t.Context(), url, folding) }()
			wait(t, pool, "SELECT EXISTS (SELECT FROM pg_locks WHERE relation = 'callback_attempts'::regclass AND NOT granted)")
			execOn(t, pool, "UPDATE callback_attempts SET attempt = attempt")
			select {
			case err := <-migrated:
				t.Errorf("got a migration that has ended (%v), want it to wait for the reader", err)
			default:
			}
			return nil
		})
		if err := <-migrated; err != nil {
			t.Errorf("after the reader: %v", err)
		}
	})
}

func migrateTo(t *testing.T, url string, version uint) {
	t.Helper()
	if err := db.MigrateTo(t.Context(), url, version); err != nil {
		t.Fatal(err)
	}
}

func execOn(t *testing.T, q interface {
	Exec(context.Context, string, ...any) (pgconn.CommandTag, error)
}, sql string,
) {
	t.Helper()
	if _, err := q.Exec(t.Context(), sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// rulesOf are the CHECK constraints of foldedTables, by table and in the order in which
// Postgres checks them, by name.
func rulesOf(t *testing.T, url, schema string) map[string][]rule {
	t.Helper()
	const sql = `
		SELECT relname, conname, pg_get_expr(conbin, conrelid), convalidated, length(conbin::text)
		FROM pg_constraint
		JOIN pg_class ON pg_class.oid = conrelid
		WHERE contype = 'c'
		  AND relnamespace = $1::regnamespace
		  AND relname = ANY ($2)
		ORDER BY conname COLLATE "C"`
	rows, err := connect(t, url).Query(t.Context(), sql, schema, slices.Collect(maps.Keys(foldedTables)))
	if err != nil {
		t.Fatal(err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[rule])
	if err != nil {
		t.Fatal(err)
	}
	rules := map[string][]rule{}
	for _, rule := range all {
		rules[rule.Table] = append(rules[rule.Table], rule)
	}
	return rules
}

func textOf(rules []rule) (bytes int) {
	for _, rule := range rules {
		bytes += rule.Text
	}
	return bytes
}

// verdict names the rule that refuses a row, or is empty: by the former constraints, and
// by the folded constraint.
type verdict struct{ Before, Now string }

// verdicts counts the verdicts about every combination of the values to try that
// breaks at most two of the rules.
func verdicts(t *testing.T, conn *pgx.Conn, table string, rules []rule) map[verdict]int {
	t.Helper()
	var columns, broken, names []string
	for _, column := range foldedTables[table] {
		name, values, _ := strings.Cut(column, ": ")
		columns = append(columns, fmt.Sprintf("unnest(ARRAY[%s]) AS %s (%[2]s)", values, name))
	}
	for _, rule := range rules {
		broken = append(broken, fmt.Sprintf("coalesce(NOT (%s), false)::integer", rule.Expression))
		names = append(names, fmt.Sprintf("WHEN NOT (%s) THEN '%s'", rule.Expression, rule.Name))
	}
	now := valueOf[string](t, conn, "SELECT pg_get_expr(conbin, conrelid) FROM pg_constraint WHERE conname = $1 || '_is_valid'", table)
	execOn(t, conn, fmt.Sprintf(`
		CREATE TEMPORARY TABLE tried AS
		SELECT *, CASE %s ELSE '' END AS before
		FROM %s
		WHERE %s <= 2`, strings.Join(names, " "), strings.Join(columns, ", "), strings.Join(broken, " + ")))
	execOn(t, conn, fmt.Sprintf(`
		CREATE FUNCTION pg_temp.verdict(this tried) RETURNS text
		LANGUAGE plpgsql AS $$
		DECLARE
			refused_by text;
		BEGIN
			PERFORM %s FROM (SELECT this.*) AS these;
			RETURN '';
		EXCEPTION WHEN check_violation THEN
			GET STACKED DIAGNOSTICS refused_by = CONSTRAINT_NAME;
			RETURN refused_by;
		END;
		$$`, now))
	rows, err := conn.Query(t.Context(), "SELECT before, pg_temp.verdict(tried), count(*) FROM tried GROUP BY 1, 2")
	if err != nil {
		t.Fatal(err)
	}
	counts := map[verdict]int{}
	var one verdict
	var count int
	if _, err := pgx.ForEachRow(rows, []any{&one.Before, &one.Now, &count}, func() error { counts[one] = count; return nil }); err != nil {
		t.Fatal(err)
	}
	return counts
}
