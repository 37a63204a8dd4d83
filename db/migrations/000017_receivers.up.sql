-- What a receiver was known to take, and what the operator says of it.
--
-- The version before this one runs on the same table: it names receivers by host and
-- port, and this one by scheme, host and port, so that neither reads or writes the
-- rows of the other; those of the old version expire. What the operator says has a
-- row of its own, under a name that no receiver has, so that the old version, which
-- removes what has expired, never touches it (it expires in a thousand years).
--
-- All columns are nullable and have no default, so that no row is rewritten, and the
-- constraints are not checked for the rows that are there, which have none of these.
ALTER TABLE callback_origins
    ADD COLUMN rate double precision, -- callbacks a second
    ADD COLUMN in_flight integer, -- at a time
    ADD COLUMN answered_from text[], -- the addresses that took callbacks
    ADD COLUMN last_outcome text,
    ADD COLUMN closings jsonb, -- the clients to which alone it is closed, by name
    ADD COLUMN saved_at timestamptz,
    ADD COLUMN word text, -- the operator's
    ADD COLUMN word_rate double precision, -- callbacks a second that the operator allows, null for no limit
    ADD COLUMN word_concurrency integer, -- likewise at a time, null for the share of any receiver
    ADD COLUMN word_at timestamptz,
    ADD CONSTRAINT callback_origins_pace_positive
        CHECK (rate > 0 AND in_flight > 0) NOT VALID,
    ADD CONSTRAINT callback_origins_word_known
        CHECK (word IN ('allowed', 'denied', 'forgotten')) NOT VALID,
    ADD CONSTRAINT callback_origins_word_has_time
        CHECK ((word IS NULL) = (word_at IS NULL)) NOT VALID,
    ADD CONSTRAINT callback_origins_only_allowed_is_limited
        CHECK (word_rate IS NULL AND word_concurrency IS NULL OR word = 'allowed' AND coalesce(word_rate, 1) > 0 AND coalesce(word_concurrency, 1) > 0) NOT VALID;

-- Each process reads the operator's words every two seconds. The table holds
-- receivers, not requests: to index a hundred thousand takes a tenth of a second,
-- for which only the writes of what is remembered wait, in the background.
CREATE INDEX callback_origins_word_idx ON callback_origins (origin) WHERE word IS NOT NULL;
