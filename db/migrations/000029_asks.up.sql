-- When the work of a request is due, null for at once, and what a caller wants each
-- callback of a request to carry: headers as JSON, sealed like secrets. The former
-- version inserts requests without the columns and does the work of a request when
-- its job is due, but it sends callbacks without the headers: offer them once every
-- process runs this version.
--
-- The lock is held for a moment, since no row is read or written.
LOCK TABLE requests IN ACCESS EXCLUSIVE MODE;
ALTER TABLE requests
    ADD COLUMN run_at timestamptz,
    ADD COLUMN callback_headers text;
