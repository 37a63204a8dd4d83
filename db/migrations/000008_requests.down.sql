DROP VIEW request_trace;
DROP TABLE callback_attempts;
DROP TABLE requests;
