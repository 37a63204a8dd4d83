ALTER TABLE work_leases
    DROP COLUMN progress_at;
