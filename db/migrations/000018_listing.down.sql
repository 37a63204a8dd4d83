DROP TRIGGER requests_removed_unsuccessful ON requests;
DROP TRIGGER requests_became_unsuccessful ON requests;
DROP TRIGGER requests_inserted_unsuccessful ON requests;
DROP FUNCTION forget_unsuccessful_request;
DROP FUNCTION note_unsuccessful_request;
DROP TABLE unsuccessful_search;
DROP TABLE unsuccessful_requests;
