-- A job whose arguments name no request, since somebody changed them by hand, could be
-- neither deleted nor cancelled: Postgres casts a parameter to uuid before it looks at the
-- condition in the same statement. Now the condition stands before the statement.
--
-- No table is locked, and the previous version of the service runs with either function.
CREATE OR REPLACE FUNCTION note_lost_step() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    request text := OLD.args ->> 'request_id';
BEGIN
    IF request ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' THEN
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
