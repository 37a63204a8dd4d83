-- Requests whose next step may have lost its job: it was cancelled or discarded, or
-- deleted before it had ended, by River UI or by hand. The running processes look at
-- them within seconds, and remove them.
CREATE TABLE lost_steps (
    request_id uuid NOT NULL,

    CONSTRAINT lost_steps_pkey PRIMARY KEY (request_id)
);

-- How far the look has come for requests that lost their job in another way, and for
-- ordering keys whose head has ended. It is one row, which the process that looks
-- holds.
CREATE TABLE reconciliation (
    position uuid NOT NULL,       -- requests up to here have been looked at
    order_position uuid NOT NULL, -- ordered_requests, in the order of request_id
    next_at timestamptz NOT NULL, -- no look before

    is_one_row boolean NOT NULL DEFAULT true,
    CONSTRAINT reconciliation_pkey PRIMARY KEY (is_one_row),
    CONSTRAINT reconciliation_is_one_row CHECK (is_one_row)
);
INSERT INTO reconciliation (position, order_position, next_at)
VALUES ('00000000-0000-0000-0000-000000000000', '00000000-0000-0000-0000-000000000000', now());

-- A trigger sees what anybody does to a job, the previous version of the service
-- included, which runs beside this one during a rolling restart and doesn't know the
-- table. A job that completes pays for the condition alone. The schema is named, since
-- the session of an operator may have another search_path.
CREATE FUNCTION note_lost_step() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('
        INSERT INTO %I.lost_steps (request_id)
        SELECT request_id::uuid
        FROM (VALUES ($1)) AS job (request_id)
        WHERE request_id ~ ''^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$''
        ON CONFLICT (request_id) DO UPDATE
        SET request_id = excluded.request_id', TG_TABLE_SCHEMA) -- keeps the note until this transaction has ended
    USING OLD.args ->> 'request_id';
    RETURN NULL;
END
$$;

-- As in the migrations before: the lock is asked for a moment at a time, so that
-- nobody waits behind it. Nothing is read or rewritten below.
SET LOCAL lock_timeout = '5s';
LOCK TABLE river_job IN SHARE UPDATE EXCLUSIVE MODE;
SET LOCAL lock_timeout = '200ms';
LOCK TABLE river_job IN SHARE ROW EXCLUSIVE MODE;

CREATE TRIGGER river_job_ended_undone
    AFTER UPDATE OF state ON river_job
    FOR EACH ROW
    WHEN (NEW.state IN ('cancelled', 'discarded') AND OLD.state <> NEW.state AND NEW.kind IN ('work', 'callback'))
    EXECUTE FUNCTION note_lost_step();

CREATE TRIGGER river_job_removed_undone
    AFTER DELETE ON river_job
    FOR EACH ROW
    WHEN (OLD.finalized_at IS NULL AND OLD.kind IN ('work', 'callback'))
    EXECUTE FUNCTION note_lost_step();
