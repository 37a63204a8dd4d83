-- The working processes, by River's client id, so that the jobs of one that died
-- are taken up by others. Each says every other second that it lives, by the
-- database's clock.
CREATE TABLE processes (
    id text NOT NULL,
    beat_at timestamptz NOT NULL,

    CONSTRAINT processes_pkey PRIMARY KEY (id)
);

-- How far what removes old requests has come. It is one row, which the process
-- that removes a batch holds, so that there is one at a time.
--
-- Requests are not partitioned by time, which would make removing them cheap: a
-- step looks up a batch of ids, and in a plan made before they are known, Postgres
-- would have to look into every partition.
CREATE TABLE retention (
    position uuid NOT NULL,         -- those up to here have been looked at
    pass_began_at timestamptz NOT NULL, -- from the start of the table
    next_at timestamptz NOT NULL,   -- no batch before

    is_one_row boolean NOT NULL DEFAULT true,
    CONSTRAINT retention_pkey PRIMARY KEY (is_one_row),
    CONSTRAINT retention_is_one_row CHECK (is_one_row)
);
INSERT INTO retention (position, pass_began_at, next_at)
VALUES ('00000000-0000-0000-0000-000000000000', now(), now());

-- Rows leave at the pace at which they come. By default, Postgres would wait for a
-- fifth of the table to be dead.
ALTER TABLE requests SET (autovacuum_vacuum_scale_factor = 0.02);
ALTER TABLE callback_attempts SET (autovacuum_vacuum_scale_factor = 0.02);
