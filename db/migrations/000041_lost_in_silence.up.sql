-- A trigger BEFORE INSERT that returns no row keeps the row from being written, and
-- Postgres tells of no error: the service would acknowledge requests that nobody stored.
-- Its statements call this function where they wrote less than they were to write, and
-- fail.
CREATE FUNCTION rows_are_missing() RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'rows are missing: a trigger that was made by hand keeps them from being written';
END
$$;

-- Jobs may lose their step in two more ways: they are completed by hand before they ran,
-- or the table is truncated. A job that the service completes while it waits, since a
-- report of the work came, has its step done in the same statement, which the function
-- sees.
--
-- A job whose arguments name no request, since somebody changed them by hand, could be
-- neither deleted nor cancelled: Postgres casts a parameter to uuid before it looks at the
-- condition in the same statement. Now the condition stands before the statement.
--
-- The previous version of the service runs with these triggers as well.
CREATE OR REPLACE FUNCTION note_lost_step() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    request text := OLD.args ->> 'request_id';
    is_owed boolean := true;
BEGIN
    IF request IS NULL OR request !~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' THEN
        RETURN NULL;
    END IF;
    IF TG_OP = 'UPDATE' AND NEW.state = 'completed' THEN
        EXECUTE format('
            SELECT EXISTS (
                SELECT
                FROM %I.requests
                WHERE id = $1
                  AND (status = ''accepted'' AND work_job_id = $2 OR callback_state = ''pending'' AND callback_job_id = $2)
            )', TG_TABLE_SCHEMA)
        INTO is_owed
        USING request::uuid, OLD.id;
    END IF;
    IF is_owed THEN
        EXECUTE format('
            INSERT INTO %I.lost_steps (request_id)
            VALUES ($1)
            ON CONFLICT (request_id) DO UPDATE
            SET request_id = excluded.request_id', TG_TABLE_SCHEMA) -- keeps the note until this transaction has ended
        USING request::uuid;
    END IF;
    RETURN NULL;
END
$$;

CREATE FUNCTION note_all_steps() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('
        INSERT INTO %1$I.lost_steps (request_id)
        SELECT id
        FROM %1$I.requests
        WHERE status = ''accepted''
           OR callback_state = ''pending''
        ON CONFLICT DO NOTHING', TG_TABLE_SCHEMA);
    RETURN NULL;
END
$$;

-- As in the migrations before: the lock is asked for a moment at a time, so that
-- nobody waits behind it. Nothing is read or rewritten below.
SET LOCAL lock_timeout = '5s';
LOCK TABLE river_job IN SHARE UPDATE EXCLUSIVE MODE;
SET LOCAL lock_timeout = '200ms';
LOCK TABLE river_job IN SHARE ROW EXCLUSIVE MODE;

CREATE OR REPLACE TRIGGER river_job_ended_undone
    AFTER UPDATE OF state ON river_job
    FOR EACH ROW
    WHEN ((NEW.state IN ('cancelled', 'discarded') AND OLD.state <> NEW.state
           OR NEW.state = 'completed' AND OLD.state NOT IN ('running', 'completed'))
          AND NEW.kind IN ('work', 'callback'))
    EXECUTE FUNCTION note_lost_step();

CREATE TRIGGER river_job_truncated
    AFTER TRUNCATE ON river_job
    FOR EACH STATEMENT
    EXECUTE FUNCTION note_all_steps();
