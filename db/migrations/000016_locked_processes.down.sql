DROP TABLE locked_processes;
