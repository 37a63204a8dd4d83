DROP TABLE dead_letter_retention;
ALTER TABLE retention DROP COLUMN client;
ALTER TABLE dead_letters DROP COLUMN died_at;
ALTER TABLE clients
    DROP COLUMN rate,
    DROP COLUMN unfinished,
    DROP COLUMN per_destination,
    DROP COLUMN storage,
    DROP COLUMN dead_letters,
    DROP COLUMN callbacks;
