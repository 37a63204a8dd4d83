ALTER TABLE callback_attempts
    ADD CONSTRAINT callback_attempts_request_exists
    FOREIGN KEY (request_id) REFERENCES requests (id) ON DELETE CASCADE;
ALTER TABLE requests SET (fillfactor = 70);
ALTER TABLE river_job RESET (
    autovacuum_vacuum_scale_factor,
    autovacuum_analyze_scale_factor,
    autovacuum_vacuum_cost_delay
);
CREATE INDEX river_job_kind ON river_job USING btree (kind);
CREATE INDEX river_job_metadata_index ON river_job USING gin (metadata);
CREATE INDEX river_job_args_index ON river_job USING gin (args);
