DROP TRIGGER river_job_removed_undone ON river_job;
DROP TRIGGER river_job_ended_undone ON river_job;
DROP FUNCTION note_lost_step;
DROP TABLE reconciliation;
DROP TABLE lost_steps;
