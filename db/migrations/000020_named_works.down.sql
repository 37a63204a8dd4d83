DROP VIEW request_trace;
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
    callback_attempts.cause,
    requests.expires_at,
    requests.redelivered_at
FROM requests
LEFT JOIN river_job AS work_job ON work_job.id = requests.work_job_id
LEFT JOIN river_job AS callback_job ON callback_job.id = requests.callback_job_id
LEFT JOIN callback_attempts ON callback_attempts.request_id = requests.id;

ALTER TABLE requests DROP COLUMN work;
