ALTER TABLE requests
    DROP COLUMN run_at,
    DROP COLUMN callback_headers;
