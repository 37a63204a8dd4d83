-- What every job pays for and nobody here asks for. All jobs have one of two
-- kinds, their arguments are found through the requests, and neither we, River
-- nor River UI search jobs by arguments or metadata. Without the three indexes
-- Postgres spends about a fifth less CPU and a third less WAL on a request.
-- (River leaves unused indexes to its users' judgement; should it ever need one
-- of these, its migration brings it back.)
DROP INDEX river_job_args_index;
DROP INDEX river_job_metadata_index;
DROP INDEX river_job_kind;

-- A job's row is written three times, and each time its state, which is indexed,
-- changes, so no room in the page would make that cheaper. But the dead rows pile
-- up at the very start of the index that fetching reads: take them away early,
-- and at full speed.
ALTER TABLE river_job SET (
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_analyze_scale_factor = 0.02,
    autovacuum_vacuum_cost_delay = 0
);

-- A request grows by its result when it finishes, and all of a batch finish at
-- about the same time: 70 left room for half of the new rows, 30 for nine in ten,
-- in about as many pages, since the room is used.
ALTER TABLE requests SET (fillfactor = 30);

-- The step that logs an attempt has just loaded the request, and what removes
-- requests removes their attempts. The foreign key looked each of them up again,
-- for about a tenth of what a callback costs Postgres.
ALTER TABLE callback_attempts DROP CONSTRAINT callback_attempts_request_exists;
