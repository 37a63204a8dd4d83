-- The requests that failed, expired or were cancelled, and the requests whose
-- callback was cancelled, so that nobody looks for them among millions of others.
-- An index of requests would do it, too, but no write that changes an indexed
-- column is heap-only.
CREATE TABLE unsuccessful_requests (
    client text NOT NULL,
    ending text NOT NULL,
    mode text NOT NULL,
    request_id uuid NOT NULL,

    CONSTRAINT unsuccessful_requests_pkey PRIMARY KEY (client, ending, mode, request_id),
    CONSTRAINT unsuccessful_requests_ending_known
        CHECK (ending IN ('failed', 'expired', 'cancelled', 'callback_cancelled')),
    CONSTRAINT unsuccessful_requests_mode_known
        CHECK (mode IN ('sync', 'async'))
);

-- How far the search for requests has come that ended before there were the
-- triggers below. The running processes search, a batch at a time, and lock nothing
-- that others wait for. Until it is done, listings look at the requests themselves.
-- It is one row, which the process that searches a batch holds.
CREATE TABLE unsuccessful_search (
    position uuid NOT NULL, -- requests up to here have been looked at
    done boolean NOT NULL,

    is_one_row boolean NOT NULL DEFAULT true,
    CONSTRAINT unsuccessful_search_pkey PRIMARY KEY (is_one_row),
    CONSTRAINT unsuccessful_search_is_one_row CHECK (is_one_row)
);

-- Triggers rather than parts of our statements: the previous version of the service,
-- which runs beside this one during a rolling restart, doesn't know the table.
-- A row that succeeds pays for the condition alone.
CREATE FUNCTION note_unsuccessful_request() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO unsuccessful_requests (client, ending, mode, request_id)
    SELECT NEW.client, ending, NEW.mode, NEW.id
    FROM unnest(ARRAY[NEW.status, 'callback_' || NEW.callback_state]) AS ending
    WHERE ending IN ('failed', 'expired', 'cancelled', 'callback_cancelled')
    ON CONFLICT DO NOTHING;
    RETURN NULL;
END
$$;

CREATE FUNCTION forget_unsuccessful_request() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM unsuccessful_requests
    WHERE client = OLD.client
      AND ending = ANY (ARRAY[OLD.status, 'callback_' || OLD.callback_state])
      AND mode = OLD.mode
      AND request_id = OLD.id;
    RETURN NULL;
END
$$;

-- Creating a trigger waits for all transactions that write to the table, and later
-- transactions wait behind it. So ask for its lock for a moment at a time; db.Migrate
-- begins again until it is free. The first lock lets everybody read and write. It ends
-- an autovacuum, which would outlast these attempts.
SET LOCAL lock_timeout = '5s';
LOCK TABLE requests IN SHARE UPDATE EXCLUSIVE MODE;
SET LOCAL lock_timeout = '200ms';
LOCK TABLE requests IN SHARE ROW EXCLUSIVE MODE;

CREATE TRIGGER requests_inserted_unsuccessful
    AFTER INSERT ON requests
    FOR EACH ROW
    WHEN (NEW.callback_state = 'cancelled' OR NEW.status IN ('failed', 'expired', 'cancelled'))
    EXECUTE FUNCTION note_unsuccessful_request();

CREATE TRIGGER requests_became_unsuccessful
    AFTER UPDATE OF status, callback_state ON requests
    FOR EACH ROW
    WHEN (NEW.callback_state = 'cancelled'
          OR NEW.status <> OLD.status AND NEW.status IN ('failed', 'expired', 'cancelled'))
    EXECUTE FUNCTION note_unsuccessful_request();

CREATE TRIGGER requests_removed_unsuccessful
    AFTER DELETE ON requests
    FOR EACH ROW
    WHEN (OLD.callback_state = 'cancelled' OR OLD.status IN ('failed', 'expired', 'cancelled'))
    EXECUTE FUNCTION forget_unsuccessful_request();

-- Nothing is missing where there is nothing yet.
INSERT INTO unsuccessful_search (position, done)
SELECT '00000000-0000-0000-0000-000000000000', NOT EXISTS (SELECT FROM requests);
