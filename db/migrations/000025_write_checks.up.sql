-- What a process writes and removes again, to see whether anything can be written. It
-- holds no row for longer than a transaction. The previous version of the program
-- doesn't know the table. Nothing that exists is locked.
CREATE TABLE write_checks (
    id uuid NOT NULL,
    filling text NOT NULL -- for which the file has to grow, where the disk was full
);
ALTER TABLE write_checks ALTER COLUMN filling SET STORAGE EXTERNAL;
