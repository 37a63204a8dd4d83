DELETE FROM callback_origins WHERE word IS NOT NULL;
ALTER TABLE callback_origins
    DROP COLUMN rate,
    DROP COLUMN in_flight,
    DROP COLUMN answered_from,
    DROP COLUMN last_outcome,
    DROP COLUMN closings,
    DROP COLUMN saved_at,
    DROP COLUMN word,
    DROP COLUMN word_rate,
    DROP COLUMN word_concurrency,
    DROP COLUMN word_at;
