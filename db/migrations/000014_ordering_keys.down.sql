DROP TABLE ordered_requests;

ALTER TABLE requests
    DROP COLUMN ordering_key;
