-- Callbacks of one client and ordering key leave one at a time, in the order of
-- acceptance. The rows that are there have no key, so the constraint need not read them.
ALTER TABLE requests
    ADD COLUMN ordering_key text,
    ADD CONSTRAINT requests_ordering_key_bounded
        CHECK (ordering_key IS NULL OR mode = 'async' AND char_length(ordering_key) BETWEEN 1 AND 255) NOT VALID;

-- The live requests with an ordering key: a row from acceptance until the
-- callback is delivered, dead or cancelled. The first of each key may be called
-- back; the callback jobs of those behind it are pending, a state from which
-- River takes no job.
CREATE TABLE ordered_requests (
    client text NOT NULL,
    ordering_key text NOT NULL,
    seq bigint NOT NULL, -- of requests
    request_id uuid NOT NULL,

    CONSTRAINT ordered_requests_pkey PRIMARY KEY (client, ordering_key, seq),
    CONSTRAINT ordered_requests_request_unique UNIQUE (request_id)
)
-- Plans are kept for as long as a connection. While the table is small, they
-- would read it whole, and go on with that when it has grown. So it starts with
-- empty pages, and keeps those that it has.
WITH (
    vacuum_truncate = false,
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_cost_delay = 0
);
INSERT INTO ordered_requests (client, ordering_key, seq, request_id)
SELECT '', '', number, gen_random_uuid()
FROM generate_series(1, 5000) AS number;
DELETE FROM ordered_requests;
