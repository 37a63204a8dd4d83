ALTER TABLE callback_attempts RESET (autovacuum_vacuum_scale_factor);
ALTER TABLE requests RESET (autovacuum_vacuum_scale_factor);
DROP TABLE retention;
DROP TABLE processes;
