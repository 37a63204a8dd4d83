-- A publication of all tables, as replication to another database needs it, makes Postgres
-- refuse to remove rows of a table without a primary key. Then no check could write, and
-- nothing was accepted. All other tables have a primary key. The previous version of the
-- program writes and removes rows here as before.
--
-- The table holds rows of transactions that are under way alone. The lock is asked for a
-- moment at a time, so that no check waits behind it.
ALTER TABLE write_checks
    ADD CONSTRAINT write_checks_pkey PRIMARY KEY (id);
