-- One row for every accepted request, sync or async.
--
-- input, result and error are json, not jsonb: what was stored is what is sent,
-- byte for byte, and nothing is searched inside them on the hot path.
CREATE TABLE requests (
    id uuid NOT NULL,
    -- Acceptance order. Ids order by the accepting process's clock, this by the
    -- sequence: if A was acknowledged before B arrived, A.seq < B.seq.
    seq bigint GENERATED ALWAYS AS IDENTITY,
    mode text NOT NULL,
    client text NOT NULL,
    status text NOT NULL,
    input json NOT NULL,
    result json,
    error json,
    callback_url text,
    callback_state text,
    -- The River jobs: the join for tracing. No foreign keys, since River removes
    -- ended jobs on a schedule of its own.
    work_job_id bigint,
    callback_job_id bigint,
    traceparent text,
    accepted_at timestamptz NOT NULL,
    started_at timestamptz,
    finished_at timestamptz,
    settled_at timestamptz,

    CONSTRAINT requests_pkey PRIMARY KEY (id),
    CONSTRAINT requests_mode_known
        CHECK (mode IN ('sync', 'async')),
    CONSTRAINT requests_status_known
        CHECK (status IN ('accepted', 'succeeded', 'failed', 'expired', 'cancelled')),
    CONSTRAINT requests_callback_state_known
        CHECK (callback_state IN ('waiting', 'pending', 'delivered', 'dead', 'cancelled')),
    CONSTRAINT requests_sync_is_finished
        CHECK (mode <> 'sync' OR status <> 'accepted'),
    CONSTRAINT requests_async_has_callback
        CHECK ((mode = 'async') = (callback_url IS NOT NULL)
           AND (mode = 'async') = (callback_state IS NOT NULL)),
    CONSTRAINT requests_async_has_work_job
        CHECK ((mode = 'async') = (work_job_id IS NOT NULL)),
    CONSTRAINT requests_finished_has_time
        CHECK ((status <> 'accepted') = (finished_at IS NOT NULL)),
    CONSTRAINT requests_succeeded_has_result
        CHECK ((status = 'succeeded') = (result IS NOT NULL)),
    CONSTRAINT requests_unsuccessful_has_error
        CHECK ((status IN ('failed', 'expired', 'cancelled')) = (error IS NOT NULL)),
    CONSTRAINT requests_callback_follows_work
        CHECK ((callback_state = 'waiting') = (status = 'accepted')),
    CONSTRAINT requests_pending_has_callback_job
        CHECK (callback_state NOT IN ('pending', 'delivered', 'dead') OR callback_job_id IS NOT NULL),
    CONSTRAINT requests_settled_has_time
        CHECK ((callback_state IN ('delivered', 'dead', 'cancelled')) = (settled_at IS NOT NULL))
)
-- A row is written at most three times. Room left in the page and no index on a
-- column that changes keep all but the first write heap-only (HOT).
WITH (fillfactor = 70);

-- Listing is newest first within a client and a mode.
CREATE INDEX requests_client_mode_id_idx ON requests (client, mode, id DESC);

-- Every callback that was sent, numbered from 1 within its request.
CREATE TABLE callback_attempts (
    request_id uuid NOT NULL,
    attempt integer NOT NULL,
    started_at timestamptz NOT NULL,
    ended_at timestamptz NOT NULL,
    outcome text NOT NULL,
    http_status smallint,
    next_attempt_at timestamptz,
    -- For operators only: a caller who saw these could scan our network.
    address text,
    cause text,
    dns_us integer,
    connect_us integer,
    tls_us integer,
    first_byte_us integer,

    CONSTRAINT callback_attempts_pkey PRIMARY KEY (request_id, attempt),
    CONSTRAINT callback_attempts_request_exists
        FOREIGN KEY (request_id) REFERENCES requests (id) ON DELETE CASCADE,
    CONSTRAINT callback_attempts_numbered_from_one
        CHECK (attempt >= 1),
    CONSTRAINT callback_attempts_outcome_known
        CHECK (outcome IN ('delivered', 'gone', 'throttled', 'http_status', 'timeout', 'tls_failed', 'connection_failed')),
    CONSTRAINT callback_attempts_delivered_is_last
        CHECK (outcome NOT IN ('delivered', 'gone') OR next_attempt_at IS NULL)
);

-- The whole life of a request in one join: a row for every callback attempt, or
-- one row for a request without any. Where River has removed an ended job, the
-- job's columns are null and the rest stays.
CREATE VIEW request_trace AS
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
    callback_attempts.cause
FROM requests
LEFT JOIN river_job AS work_job ON work_job.id = requests.work_job_id
LEFT JOIN river_job AS callback_job ON callback_job.id = requests.callback_job_id
LEFT JOIN callback_attempts ON callback_attempts.request_id = requests.id;
