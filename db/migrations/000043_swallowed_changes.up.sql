-- A trigger BEFORE UPDATE that returns no row keeps the row from being changed, and Postgres
-- tells of no error: the work of a request was done again and again, since its end was not
-- stored. The statements that end a step call this function where they changed fewer rows
-- than they were to change, and it fails where the step is still owed. Being volatile, it
-- sees what others have committed since the statement began: a step that another process
-- has ended is no mistake, and neither is a job that another process took up meanwhile.
--
-- The previous version of the service doesn't know the function. Nothing that exists is
-- locked.
CREATE FUNCTION rows_are_changed(request_ids uuid[], job_ids bigint[]) RETURNS boolean LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    IF EXISTS (
        SELECT
        FROM requests
        WHERE id = ANY (request_ids)
          AND (status = 'accepted' AND work_job_id = ANY (job_ids) OR callback_state = 'pending' AND callback_job_id = ANY (job_ids))
    ) OR EXISTS (
        SELECT
        FROM river_job
        WHERE id = ANY (job_ids)
          AND state::text = 'running'
          AND attempted_at < statement_timestamp()
    ) THEN
        RAISE EXCEPTION 'rows are unchanged: a trigger that was made by hand keeps them from being changed';
    END IF;
    RETURN true;
END
$$;
