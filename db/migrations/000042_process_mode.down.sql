ALTER TABLE processes
    DROP COLUMN is_local;
