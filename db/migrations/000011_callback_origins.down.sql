-- Before the constraint, which would refuse them.
DELETE FROM callback_attempts
WHERE outcome = 'not_sent';

ALTER TABLE callback_attempts
    DROP CONSTRAINT callback_attempts_outcome_known,
    ADD CONSTRAINT callback_attempts_outcome_known
        CHECK (outcome IN ('delivered', 'gone', 'throttled', 'http_status', 'timeout', 'tls_failed', 'connection_failed'));

DROP TABLE callback_origins;
