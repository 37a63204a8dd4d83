-- What is to be remembered of receivers, by host and port: who has granted
-- callbacks, and who is to be left alone for a while. Each process reads a row
-- when it first meets the receiver, and writes it when one of these changes,
-- which is rarely.
CREATE TABLE callback_origins (
    origin text NOT NULL,
    granted_until timestamptz,
    per_minute integer, -- callbacks granted, null for no limit
    prefixes text[], -- the addresses that granted them
    closed_until timestamptz,
    openings integer NOT NULL, -- of the circuit breaker, in a row
    expires_at timestamptz NOT NULL, -- when nothing of it matters any more

    CONSTRAINT callback_origins_pkey PRIMARY KEY (origin),
    CONSTRAINT callback_origins_granted_by_somebody
        CHECK ((granted_until IS NULL) = (prefixes IS NULL)),
    CONSTRAINT callback_origins_rate_is_granted
        CHECK (per_minute IS NULL OR per_minute > 0 AND granted_until IS NOT NULL),
    CONSTRAINT callback_origins_openings_counted
        CHECK (openings >= 0)
);

CREATE INDEX callback_origins_expires_at_idx ON callback_origins (expires_at);

-- A callback that was held back until it was too old to send ends without a try.
-- (Not valid only in name: the rows that are there meet the stricter constraint,
-- and needn't be read for it.)
ALTER TABLE callback_attempts
    DROP CONSTRAINT callback_attempts_outcome_known,
    ADD CONSTRAINT callback_attempts_outcome_known
        CHECK (outcome IN (
            'delivered', 'gone', 'throttled', 'http_status', 'timeout', 'tls_failed', 'connection_failed', 'not_sent'
        )) NOT VALID;
