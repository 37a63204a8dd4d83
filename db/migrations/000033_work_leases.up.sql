-- Work that goes on elsewhere: the upstream said 202, and finishes it by a call of
-- its own. A row stays while the attempt does. It is lost where nothing is heard of
-- it until lease_until.
--
-- The previous version of the program doesn't know the table, and a 202 is a failure to
-- it. It takes up a work job whose lease is over as it does any other, and begins a new
-- attempt. So have services answer 202 once every process runs this version. Nothing
-- that exists is locked. There is no foreign key, which each removal of a request would
-- pay for; rows that are left over are removed by age.
CREATE TABLE work_leases (
    request_id uuid NOT NULL,
    turn integer NOT NULL,            -- which attempt it is: no two of a request have the same
    started_at timestamptz NOT NULL,  -- when the attempt began
    lease_until timestamptz NOT NULL,
    heard_at timestamptz NOT NULL,    -- what was heard last, as far as it was stored
    progress json,                    -- the latest
    progress_number integer NOT NULL, -- how many there were

    CONSTRAINT work_leases_pkey PRIMARY KEY (request_id)
)
WITH (fillfactor = 50);

-- The key by which all processes make and know the tokens of finish calls. It is made
-- by the database: 244 random bits.
CREATE TABLE finish_key (
    key bytea NOT NULL,

    is_one_row boolean NOT NULL DEFAULT true,
    CONSTRAINT finish_key_pkey PRIMARY KEY (is_one_row),
    CONSTRAINT finish_key_is_one_row CHECK (is_one_row)
);
INSERT INTO finish_key (key)
VALUES (decode(replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', ''), 'hex'));
