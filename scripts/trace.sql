-- One request's life, for `make trace ID=…`. The psql variable id is its id.
\pset footer off
\pset null '-'
SELECT EXISTS (SELECT FROM requests WHERE id::text = lower(:'id')) AS found \gset
\if :found
\else
DO $$ BEGIN RAISE EXCEPTION 'there is no such request'; END $$;
\endif

\pset format unaligned
\pset tuples_only on
SELECT format(E'%s request %s of client %s%s: %s%s%s', mode, request_id, client, coalesce(' for ' || work, ''), status,
              coalesce(' (' || error_code || ')', ''), coalesce(', callback ' || callback_state, ''))
FROM request_trace
WHERE request_id = :'id'
LIMIT 1;
\pset tuples_only off
\pset format aligned

-- Times that two clocks wrote (Ringback's and River's) may disagree by a little, so the
-- steps come first in the order, and the clock only within a step.
WITH trace AS (
    SELECT * FROM request_trace WHERE request_id = :'id'
), request AS (
    SELECT * FROM trace LIMIT 1
), events (step, at, event, detail) AS (
    SELECT 1, accepted_at, 'accepted', concat_ws(', ', 'seq ' || seq, callback_url) FROM request
    UNION ALL
    SELECT 2, work_job_attempted_at, 'work job ' || work_job_id,
           concat_ws(', ', work_job_state, 'run ' || work_job_attempt, 'by ' || work_job_attempted_by)
    FROM request WHERE work_job_id IS NOT NULL
    UNION ALL
    SELECT 2, (failure ->> 'at')::timestamptz, 'work attempt ' || (failure ->> 'attempt'), failure ->> 'error'
    FROM request, unnest(work_job_errors) AS errors (failure)
    UNION ALL
    SELECT 3, work_leases.started_at, 'work goes on elsewhere',
           'lost at ' || to_char(lease_until AT TIME ZONE 'UTC', 'HH24:MI:SS') || ' unless something is heard of it'
    FROM request JOIN work_leases USING (request_id) WHERE status = 'accepted'
    UNION ALL
    SELECT 3, started_at, 'work started', NULL FROM request WHERE started_at IS NOT NULL
    UNION ALL
    SELECT 4, finished_at, 'work ended', concat_ws(', ', status, error_code) FROM request WHERE finished_at IS NOT NULL
    UNION ALL
    SELECT 5, attempt_started_at, 'attempt ' || attempt,
           concat_ws(', ', outcome || coalesce(' ' || http_status, ''),
                     round(extract(epoch FROM attempt_ended_at - attempt_started_at) * 1000, 1) || ' ms',
                     address, cause, 'next ' || to_char(next_attempt_at AT TIME ZONE 'UTC', 'HH24:MI:SS.MS'))
    FROM trace WHERE attempt IS NOT NULL
    UNION ALL
    SELECT 5, redelivered_at, 'redelivered', NULL FROM request WHERE redelivered_at IS NOT NULL
    UNION ALL
    SELECT 6, settled_at, 'settled', 'callback ' || callback_state FROM request WHERE settled_at IS NOT NULL
    UNION ALL
    SELECT 7, CASE WHEN settled_at IS NULL THEN callback_job_scheduled_at END, 'callback job ' || callback_job_id,
           concat_ws(', ', callback_job_state, 'attempts charged ' || callback_job_attempt, 'by ' || callback_job_attempted_by)
    FROM request WHERE callback_job_id IS NOT NULL
)
SELECT to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US') AS "at (UTC)", event, detail
FROM events
ORDER BY step, at;
