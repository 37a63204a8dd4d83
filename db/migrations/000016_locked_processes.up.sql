-- The processes that hold a session advisory lock for as long as they live, so that
-- the end of one is seen at once. A process is in here while it holds its lock.
--
-- The locks of all end with the database, and so must what is said of them: the
-- table is unlogged, which a crash or a failover empties, and a row counts only
-- while the database hasn't been started again since.
--
-- The previous version of the code neither writes nor reads it: its processes are
-- judged by their heartbeat alone, and judge others by theirs. The reference waits
-- for the heartbeats that are being written, and lets the others wait as long.
CREATE UNLOGGED TABLE locked_processes (
    id text NOT NULL,
    locked_at timestamptz NOT NULL, -- when the process last found that it holds it
    database_started_at timestamptz NOT NULL,

    CONSTRAINT locked_processes_pkey PRIMARY KEY (id),
    CONSTRAINT locked_processes_is_process FOREIGN KEY (id) REFERENCES processes (id) ON DELETE CASCADE
);
