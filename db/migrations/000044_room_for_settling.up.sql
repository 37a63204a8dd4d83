-- A page of requests has room for three versions of each of its rows: as accepted, with the
-- result, and settled. The first version is gone by the time of the third, but with 30 % the
-- page was full all the same, where a result is longer than its input: half of the third
-- versions moved to other pages, each with two new entries in the indexes. 25 leaves room for
-- nine in ten. The table gets smaller by a quarter, and the WAL of a request by a twelfth.
-- Pages that exist stay as they are.
--
-- The previous version of the service doesn't notice. The lock keeps out nobody but
-- migrations, VACUUM and CREATE INDEX.
SET LOCAL lock_timeout = '5s';
ALTER TABLE requests SET (fillfactor = 25);
