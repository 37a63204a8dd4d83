DROP FUNCTION rows_are_changed;
