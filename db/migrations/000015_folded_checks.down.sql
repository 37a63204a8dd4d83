-- This reads the three tables, which nobody else may use meanwhile.
ALTER TABLE requests
    DROP CONSTRAINT requests_is_valid,
    ADD CONSTRAINT requests_mode_known
        CHECK (mode IN ('sync', 'async')),
    ADD CONSTRAINT requests_status_known
        CHECK (status IN ('accepted', 'succeeded', 'failed', 'expired', 'cancelled')),
    ADD CONSTRAINT requests_callback_state_known
        CHECK (callback_state IN ('waiting', 'pending', 'delivered', 'dead', 'cancelled')),
    ADD CONSTRAINT requests_sync_is_finished
        CHECK (mode <> 'sync' OR status <> 'accepted'),
    ADD CONSTRAINT requests_async_has_callback
        CHECK ((mode = 'async') = (callback_url IS NOT NULL)
           AND (mode = 'async') = (callback_state IS NOT NULL)),
    ADD CONSTRAINT requests_async_has_work_job
        CHECK ((mode = 'async') = (work_job_id IS NOT NULL)),
    ADD CONSTRAINT requests_finished_has_time
        CHECK ((status <> 'accepted') = (finished_at IS NOT NULL)),
    ADD CONSTRAINT requests_succeeded_has_result
        CHECK ((status = 'succeeded') = (result IS NOT NULL)),
    ADD CONSTRAINT requests_unsuccessful_has_error
        CHECK ((status IN ('failed', 'expired', 'cancelled')) = (error IS NOT NULL)),
    ADD CONSTRAINT requests_callback_follows_work
        CHECK ((callback_state = 'waiting') = (status = 'accepted')),
    ADD CONSTRAINT requests_pending_has_callback_job
        CHECK (callback_state NOT IN ('pending', 'delivered', 'dead') OR callback_job_id IS NOT NULL),
    ADD CONSTRAINT requests_settled_has_time
        CHECK ((callback_state IN ('delivered', 'dead', 'cancelled')) = (settled_at IS NOT NULL)),
    ADD CONSTRAINT requests_expired_had_an_end
        CHECK (status <> 'expired' OR expires_at IS NOT NULL) NOT VALID,
    ADD CONSTRAINT requests_redelivered_after_the_work
        CHECK (redelivered_at IS NULL OR (mode = 'async' AND status IN ('succeeded', 'failed', 'expired'))) NOT VALID,
    ADD CONSTRAINT requests_ordering_key_bounded
        CHECK (ordering_key IS NULL OR mode = 'async' AND char_length(ordering_key) BETWEEN 1 AND 255) NOT VALID;
DROP FUNCTION requests_is_valid;

ALTER TABLE river_job
    DROP CONSTRAINT river_job_is_valid,
    ADD CONSTRAINT finalized_or_finalized_at_null CHECK (
        (finalized_at IS NULL AND state NOT IN ('cancelled', 'completed', 'discarded')) OR
        (finalized_at IS NOT NULL AND state IN ('cancelled', 'completed', 'discarded'))
    ),
    ADD CONSTRAINT max_attempts_is_positive CHECK (max_attempts > 0),
    ADD CONSTRAINT priority_in_range CHECK (priority >= 1 AND priority <= 4),
    ADD CONSTRAINT queue_length CHECK (char_length(queue) > 0 AND char_length(queue) < 128),
    ADD CONSTRAINT kind_length CHECK (char_length(kind) > 0 AND char_length(kind) < 128);
DROP FUNCTION river_job_is_valid;

ALTER TABLE callback_attempts
    DROP CONSTRAINT callback_attempts_is_valid,
    ADD CONSTRAINT callback_attempts_numbered_from_one
        CHECK (attempt >= 1),
    ADD CONSTRAINT callback_attempts_outcome_known
        CHECK (outcome IN (
            'delivered', 'gone', 'throttled', 'http_status', 'timeout', 'tls_failed', 'connection_failed', 'not_sent'
        )) NOT VALID,
    ADD CONSTRAINT callback_attempts_delivered_is_last
        CHECK (outcome NOT IN ('delivered', 'gone') OR next_attempt_at IS NULL);
DROP FUNCTION callback_attempts_is_valid;
