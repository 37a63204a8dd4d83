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
