SET LOCAL lock_timeout = '5s';
LOCK TABLE river_job IN SHARE UPDATE EXCLUSIVE MODE;
SET LOCAL lock_timeout = '200ms';
LOCK TABLE river_job IN SHARE ROW EXCLUSIVE MODE;

DROP TRIGGER river_job_truncated ON river_job;
CREATE OR REPLACE TRIGGER river_job_ended_undone
    AFTER UPDATE OF state ON river_job
    FOR EACH ROW
    WHEN (NEW.state IN ('cancelled', 'discarded') AND OLD.state <> NEW.state AND NEW.kind IN ('work', 'callback'))
    EXECUTE FUNCTION note_lost_step();
DROP FUNCTION note_all_steps();
CREATE OR REPLACE FUNCTION note_lost_step() RETURNS trigger LANGUAGE plpgsql AS $$
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
DROP FUNCTION rows_are_missing();
