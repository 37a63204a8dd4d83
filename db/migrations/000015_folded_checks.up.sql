-- For each statement that writes, Postgres parses the text of all CHECK
-- constraints of the table: 16 kB for requests, 5.6 kB for river_job, 3.2 kB for
-- callback_attempts. That was a quarter of its CPU where a batch is one request.
-- So each of these tables has one constraint, a call of a function that looks at
-- the columns it is given. A session plans the function once. It refuses a row as
-- the old constraints did: by their names and with their message, in the order of
-- their names. A null is no violation, as in a CHECK.
--
-- The previous version of the program runs on this schema unchanged.
--
-- A rule changes by CREATE OR REPLACE FUNCTION, which locks no table. A rule about
-- another column needs a function with one more argument, and a constraint that
-- calls it. The functions name no table, view or function of a schema, so that
-- they run under any search_path, that of pg_restore included.

-- The locks below are held for milliseconds, since no row is read: the rows that
-- are there met the old constraints. But whoever waits for such a lock holds up
-- all who come later. So the migration waits a fifth of a second at a time, and db.Migrate
-- begins again where that was too short. The first lock lets everybody read and write,
-- and ends an autovacuum, which would outlast these attempts: after deadlock_timeout, a
-- second.
SET LOCAL lock_timeout = '5s';
LOCK TABLE requests, river_job, callback_attempts IN SHARE UPDATE EXCLUSIVE MODE;
SET LOCAL lock_timeout = '200ms';
LOCK TABLE requests, river_job, callback_attempts IN ACCESS EXCLUSIVE MODE;

-- The arguments are columns rather than the row. Postgres would copy the row for
-- each call, and fetch an input that is stored out of line: with batches of 64
-- the rules cost a third more that way.
--
-- The shortcuts save what the rules apart cost Postgres to set up, once in each
-- transaction and function.
CREATE FUNCTION requests_is_valid(
    mode text,
    status text,
    result json,
    error json,
    callback_url text,
    callback_state text,
    work_job_id bigint,
    callback_job_id bigint,
    finished_at timestamptz,
    settled_at timestamptz,
    expires_at timestamptz,
    redelivered_at timestamptz,
    ordering_key text
) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    broken text;
BEGIN
    -- Shortcuts for what most rows are: async and accepted; async and succeeded;
    -- sync and succeeded. They let no row pass that breaks a rule below.
    IF mode = 'async' AND status = 'accepted' AND callback_state = 'waiting'
       AND callback_url IS NOT NULL AND work_job_id IS NOT NULL
       AND result IS NULL AND error IS NULL AND finished_at IS NULL AND settled_at IS NULL
       AND redelivered_at IS NULL AND ordering_key IS NULL
    THEN
        RETURN true;
    END IF;
    IF mode = 'async' AND status = 'succeeded'
       AND callback_url IS NOT NULL AND work_job_id IS NOT NULL AND callback_job_id IS NOT NULL
       AND result IS NOT NULL AND error IS NULL AND finished_at IS NOT NULL
       AND (callback_state = 'pending' AND settled_at IS NULL OR callback_state = 'delivered' AND settled_at IS NOT NULL)
       AND redelivered_at IS NULL AND ordering_key IS NULL
    THEN
        RETURN true;
    END IF;
    IF mode = 'sync' AND status = 'succeeded'
       AND callback_url IS NULL AND callback_state IS NULL AND work_job_id IS NULL
       AND result IS NOT NULL AND error IS NULL AND finished_at IS NOT NULL
       AND redelivered_at IS NULL AND ordering_key IS NULL
    THEN
        RETURN true;
    END IF;

    broken := CASE
        WHEN NOT ((mode = 'async') = (callback_url IS NOT NULL)
              AND (mode = 'async') = (callback_state IS NOT NULL))
            THEN 'requests_async_has_callback'
        WHEN NOT ((mode = 'async') = (work_job_id IS NOT NULL))
            THEN 'requests_async_has_work_job'
        WHEN NOT ((callback_state = 'waiting') = (status = 'accepted'))
            THEN 'requests_callback_follows_work'
        WHEN NOT (callback_state IN ('waiting', 'pending', 'delivered', 'dead', 'cancelled'))
            THEN 'requests_callback_state_known'
        WHEN NOT (status <> 'expired' OR expires_at IS NOT NULL)
            THEN 'requests_expired_had_an_end'
        WHEN NOT ((status <> 'accepted') = (finished_at IS NOT NULL))
            THEN 'requests_finished_has_time'
        WHEN NOT (mode IN ('sync', 'async'))
            THEN 'requests_mode_known'
        WHEN NOT (ordering_key IS NULL OR mode = 'async' AND char_length(ordering_key) BETWEEN 1 AND 255)
            THEN 'requests_ordering_key_bounded'
        WHEN NOT (callback_state NOT IN ('pending', 'delivered', 'dead') OR callback_job_id IS NOT NULL)
            THEN 'requests_pending_has_callback_job'
        WHEN NOT (redelivered_at IS NULL OR mode = 'async' AND status IN ('succeeded', 'failed', 'expired'))
            THEN 'requests_redelivered_after_the_work'
        WHEN NOT ((callback_state IN ('delivered', 'dead', 'cancelled')) = (settled_at IS NOT NULL))
            THEN 'requests_settled_has_time'
        WHEN NOT (status IN ('accepted', 'succeeded', 'failed', 'expired', 'cancelled'))
            THEN 'requests_status_known'
        WHEN NOT ((status = 'succeeded') = (result IS NOT NULL))
            THEN 'requests_succeeded_has_result'
        WHEN NOT (mode <> 'sync' OR status <> 'accepted')
            THEN 'requests_sync_is_finished'
        WHEN NOT ((status IN ('failed', 'expired', 'cancelled')) = (error IS NOT NULL))
            THEN 'requests_unsuccessful_has_error'
    END;
    IF broken IS NULL THEN
        RETURN true;
    END IF;
    RAISE EXCEPTION USING
        ERRCODE = 'check_violation', TABLE = 'requests', CONSTRAINT = broken,
        MESSAGE = format('new row for relation "requests" violates check constraint "%s"', broken);
END;
$$;

ALTER TABLE requests
    DROP CONSTRAINT requests_async_has_callback,
    DROP CONSTRAINT requests_async_has_work_job,
    DROP CONSTRAINT requests_callback_follows_work,
    DROP CONSTRAINT requests_callback_state_known,
    DROP CONSTRAINT requests_expired_had_an_end,
    DROP CONSTRAINT requests_finished_has_time,
    DROP CONSTRAINT requests_mode_known,
    DROP CONSTRAINT requests_ordering_key_bounded,
    DROP CONSTRAINT requests_pending_has_callback_job,
    DROP CONSTRAINT requests_redelivered_after_the_work,
    DROP CONSTRAINT requests_settled_has_time,
    DROP CONSTRAINT requests_status_known,
    DROP CONSTRAINT requests_succeeded_has_result,
    DROP CONSTRAINT requests_sync_is_finished,
    DROP CONSTRAINT requests_unsuccessful_has_error,
    ADD CONSTRAINT requests_is_valid CHECK (requests_is_valid(
        mode, status, result, error, callback_url, callback_state, work_job_id, callback_job_id,
        finished_at, settled_at, expires_at, redelivered_at, ordering_key
    )) NOT VALID;

-- River's own constraints. A later migration of River's that drops or alters one
-- of them fails here, since they are gone. It needs a migration of ours before it,
-- with the river_job part of this one's down, and one after it that folds what
-- River has then. A test compares the rules with those that River creates.
CREATE FUNCTION river_job_is_valid(
    state river_job_state,
    finalized_at timestamptz,
    max_attempts smallint,
    priority smallint,
    queue text,
    kind text
) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    broken text;
BEGIN
    -- A shortcut for the jobs that this program inserts.
    IF kind IN ('work', 'callback') AND queue IN ('work', 'callback') AND max_attempts > 0 AND priority = 1
       AND (finalized_at IS NOT NULL) = (state IN ('cancelled', 'completed', 'discarded'))
    THEN
        RETURN true;
    END IF;

    broken := CASE
        WHEN NOT ((finalized_at IS NOT NULL) = (state IN ('cancelled', 'completed', 'discarded')))
            THEN 'finalized_or_finalized_at_null'
        WHEN NOT (char_length(kind) BETWEEN 1 AND 127)
            THEN 'kind_length'
        WHEN NOT (max_attempts > 0)
            THEN 'max_attempts_is_positive'
        WHEN NOT (priority BETWEEN 1 AND 4)
            THEN 'priority_in_range'
        WHEN NOT (char_length(queue) BETWEEN 1 AND 127)
            THEN 'queue_length'
    END;
    IF broken IS NULL THEN
        RETURN true;
    END IF;
    RAISE EXCEPTION USING
        ERRCODE = 'check_violation', TABLE = 'river_job', CONSTRAINT = broken,
        MESSAGE = format('new row for relation "river_job" violates check constraint "%s"', broken);
END;
$$;

ALTER TABLE river_job
    DROP CONSTRAINT finalized_or_finalized_at_null,
    DROP CONSTRAINT kind_length,
    DROP CONSTRAINT max_attempts_is_positive,
    DROP CONSTRAINT priority_in_range,
    DROP CONSTRAINT queue_length,
    ADD CONSTRAINT river_job_is_valid CHECK (river_job_is_valid(
        state, finalized_at, max_attempts, priority, queue, kind
    )) NOT VALID;

CREATE FUNCTION callback_attempts_is_valid(
    attempt integer,
    outcome text,
    next_attempt_at timestamptz
) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    broken text;
BEGIN
    IF outcome = 'delivered' AND attempt >= 1 AND next_attempt_at IS NULL THEN
        RETURN true; -- a shortcut for most rows
    END IF;

    broken := CASE
        WHEN NOT (outcome NOT IN ('delivered', 'gone') OR next_attempt_at IS NULL)
            THEN 'callback_attempts_delivered_is_last'
        WHEN NOT (attempt >= 1)
            THEN 'callback_attempts_numbered_from_one'
        WHEN NOT (outcome IN (
            'delivered', 'gone', 'throttled', 'http_status', 'timeout', 'tls_failed', 'connection_failed', 'not_sent'
        ))
            THEN 'callback_attempts_outcome_known'
    END;
    IF broken IS NULL THEN
        RETURN true;
    END IF;
    RAISE EXCEPTION USING
        ERRCODE = 'check_violation', TABLE = 'callback_attempts', CONSTRAINT = broken,
        MESSAGE = format('new row for relation "callback_attempts" violates check constraint "%s"', broken);
END;
$$;

ALTER TABLE callback_attempts
    DROP CONSTRAINT callback_attempts_delivered_is_last,
    DROP CONSTRAINT callback_attempts_numbered_from_one,
    DROP CONSTRAINT callback_attempts_outcome_known,
    ADD CONSTRAINT callback_attempts_is_valid CHECK (callback_attempts_is_valid(
        attempt, outcome, next_attempt_at
    )) NOT VALID;
