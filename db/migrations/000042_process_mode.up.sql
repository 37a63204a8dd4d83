-- Whether a process is in local mode: a process in the other mode doesn't start beside it.
-- Processes of the previous version leave it null, which stops nobody.
--
-- The table has a row for each process. The lock is asked for a moment at a time, so that
-- no heartbeat waits behind it.
ALTER TABLE processes
    ADD COLUMN is_local boolean;
