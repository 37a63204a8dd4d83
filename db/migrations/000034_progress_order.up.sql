-- When the stored progress was taken by a process. A process keeps the latest progress that
-- it may not store yet, and must not replace progress that another process took later.
--
-- The previous version stores progress without the time, as the first in each half
-- second; such progress may be replaced. The lock is held for a moment, since no row is
-- read or written.
ALTER TABLE work_leases
    ADD COLUMN progress_at timestamptz;
