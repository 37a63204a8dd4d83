ALTER TABLE write_checks
    DROP CONSTRAINT write_checks_pkey;
