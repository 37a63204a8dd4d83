-- Which work a request is for, by the name that the service gives it. The previous
-- version of the program inserts requests without it, and null stands for the
-- default work, which is all that version offers. It does the work of any request
-- as its own: other work is to be offered once every process runs this version.
-- There is no rule for the column, since no caller writes it, and each rule costs
-- Postgres time in every statement that writes.

-- The lock is held for a moment, since no row is read or written. But transactions that
-- come later wait behind a wait for it. So ask for it for a moment at a time; db.Migrate
-- begins again until it is free. The first lock lets everybody read and write. It ends
-- an autovacuum, which would outlast these attempts.
SET LOCAL lock_timeout = '5s';
LOCK TABLE requests IN SHARE UPDATE EXCLUSIVE MODE;
SET LOCAL lock_timeout = '200ms';
LOCK TABLE requests IN ACCESS EXCLUSIVE MODE;

ALTER TABLE requests ADD COLUMN work text;

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
    requests.redelivered_at,
    requests.work,
    work_job.errors AS work_job_errors -- of the attempts that did not end the work
FROM requests
LEFT JOIN river_job AS work_job ON work_job.id = requests.work_job_id
LEFT JOIN river_job AS callback_job ON callback_job.id = requests.callback_job_id
LEFT JOIN callback_attempts ON callback_attempts.request_id = requests.id;
