DROP TABLE work_leases;
DROP TABLE finish_key;
