-- No row is read or rewritten below, so the locks are held for milliseconds. But
-- a transaction that waits for such a lock holds up all that come later, so the
-- migration waits a fifth of a second at a time, and db.Migrate begins again. The first
-- lock lets everybody read and write, and ends an autovacuum.
SET LOCAL lock_timeout = '5s';
LOCK TABLE dead_letters IN SHARE UPDATE EXCLUSIVE MODE;
SET LOCAL lock_timeout = '200ms';
LOCK TABLE clients, dead_letters, retention IN ACCESS EXCLUSIVE MODE;

-- Limits of a client's own, instead of the settings'; null for those. The version
-- before this one names the columns that it reads and writes, so it runs beside
-- this one, with the settings' limits for everybody.
ALTER TABLE clients
    ADD COLUMN rate integer,            -- POSTs a second
    ADD COLUMN unfinished integer,      -- async requests that have not ended
    ADD COLUMN per_destination integer, -- the same for callbacks to one host and port
    ADD COLUMN storage bigint,          -- bytes
    ADD COLUMN dead_letters integer,
    ADD COLUMN callbacks text[],        -- hosts that callbacks may name, null for all
    ADD CONSTRAINT clients_limits_are_positive
        CHECK (rate > 0 AND unfinished > 0 AND per_destination > 0 AND storage > 0 AND dead_letters > 0),
    ADD CONSTRAINT clients_callbacks_are_named
        CHECK (cardinality(callbacks) > 0);

-- When a callback became a dead letter. The default is what writes it, so the
-- version before this one does, too. It is computed once for the letters that are
-- there, which the table's rows need not be rewritten for: their age counts from
-- now. No index on it: what removes old letters goes through the table in the
-- order of its primary key, and building an index would hold up the steps that write.
ALTER TABLE dead_letters ADD COLUMN died_at timestamptz NOT NULL DEFAULT now();

-- How far what removes old dead letters has come: as retention, where client says
-- nothing.
ALTER TABLE retention ADD COLUMN client text NOT NULL DEFAULT '';
CREATE TABLE dead_letter_retention (
    client text NOT NULL,
    position uuid NOT NULL, -- the letters up to this one have been looked at
    pass_began_at timestamptz NOT NULL,
    next_at timestamptz NOT NULL,

    is_one_row boolean NOT NULL DEFAULT true,
    CONSTRAINT dead_letter_retention_pkey PRIMARY KEY (is_one_row),
    CONSTRAINT dead_letter_retention_is_one_row CHECK (is_one_row)
);
INSERT INTO dead_letter_retention (client, position, pass_began_at, next_at)
VALUES ('', '00000000-0000-0000-0000-000000000000', now(), now());
