-- The requests whose callback is dead, so that nobody looks for them among
-- millions that were delivered. An index of requests would do it, too, but no
-- write that changes an indexed column is heap-only, and every callback's would
-- be one.
CREATE TABLE dead_letters (
    client text NOT NULL,
    request_id uuid NOT NULL,
    callback_host text NOT NULL,
    accepted_at timestamptz NOT NULL,

    CONSTRAINT dead_letters_pkey PRIMARY KEY (client, request_id)
);

INSERT INTO dead_letters (client, request_id, callback_host, accepted_at)
SELECT client, id, substring(callback_url FROM '^[a-z]+://([^/?#]+)'), accepted_at
FROM requests
WHERE callback_state = 'dead';

-- What a client's Idempotency-Key stands for. A row is there before its request
-- only while the work of a sync call runs.
CREATE TABLE idempotency_keys (
    client text NOT NULL,
    key text NOT NULL,
    -- SHA-256 of the call that took the key, to tell another call from the same
    -- one again.
    fingerprint bytea NOT NULL,
    request_id uuid NOT NULL,
    -- Until then a key without a request belongs to work under way; afterwards, to
    -- a process that died.
    held_until timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,

    CONSTRAINT idempotency_keys_pkey PRIMARY KEY (client, key),
    CONSTRAINT idempotency_keys_fingerprint_is_sha256 CHECK (octet_length(fingerprint) = 32),
    CONSTRAINT idempotency_keys_key_is_short CHECK (octet_length(key) BETWEEN 1 AND 255)
);

-- For removing what has expired.
CREATE INDEX idempotency_keys_expires_at_idx ON idempotency_keys (expires_at);

-- The requests above are read before this lock, which all others wait for. The rows that are
-- there have neither column, so the constraints need not read them.
ALTER TABLE requests
    -- Work that has not begun by then is not done any more.
    ADD COLUMN expires_at timestamptz,
    -- When the callback was last let off again: its age counts from then.
    ADD COLUMN redelivered_at timestamptz,
    ADD CONSTRAINT requests_expired_had_an_end
        CHECK (status <> 'expired' OR expires_at IS NOT NULL) NOT VALID,
    ADD CONSTRAINT requests_redelivered_after_the_work
        CHECK (redelivered_at IS NULL OR (mode = 'async' AND status IN ('succeeded', 'failed', 'expired'))) NOT VALID;

CREATE OR REPLACE VIEW request_trace AS
SELECT
    requests.id AS request_id,
    requests.seq,
    requests.mode,
    requests.client,
    requests.status,
    requests.error ->> 'code' AS error_code,
    requests.callback_url,
    requests.callback_state,
    requests.traceparent,
    requests.accepted_at,
    requests.started_at,
    requests.finished_at,
    requests.settled_at,
    requests.work_job_id,
    work_job.state AS work_job_state,
    work_job.attempt AS work_job_attempt,
    work_job.attempted_at AS work_job_attempted_at,
    work_job.attempted_by[array_upper(work_job.attempted_by, 1)] AS work_job_attempted_by,
    requests.callback_job_id,
    callback_job.state AS callback_job_state,
    callback_job.attempt AS callback_job_attempt,
    callback_job.scheduled_at AS callback_job_scheduled_at,
    callback_job.attempted_by[array_upper(callback_job.attempted_by, 1)] AS callback_job_attempted_by,
    callback_attempts.attempt,
    callback_attempts.started_at AS attempt_started_at,
    callback_attempts.ended_at AS attempt_ended_at,
    callback_attempts.outcome,
    callback_attempts.http_status,
    callback_attempts.next_attempt_at,
    callback_attempts.address,
    callback_attempts.cause,
    requests.expires_at,
    requests.redelivered_at
FROM requests
LEFT JOIN river_job AS work_job ON work_job.id = requests.work_job_id
LEFT JOIN river_job AS callback_job ON callback_job.id = requests.callback_job_id
LEFT JOIN callback_attempts ON callback_attempts.request_id = requests.id;
