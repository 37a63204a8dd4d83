-- The sync requests that were stored before their work ended stay as they are: the rules
-- are for rows that are written.
DROP TRIGGER requests_have_no_callback ON requests;
DROP FUNCTION drop_callback_of_none;
CREATE OR REPLACE FUNCTION requests_is_valid(
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
