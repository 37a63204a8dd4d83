ALTER TABLE requests SET (fillfactor = 30);
