-- A promise of room belongs to a machine that wants a task, not to the task: several machines may reserve for the same
-- one before the claim decides, and whoever loses gives back its own promise alone.

ALTER TABLE curio.storage_reservations DROP CONSTRAINT storage_reservations_pkey;
ALTER TABLE curio.storage_reservations ADD PRIMARY KEY (storage_id, task_id, machine_name);
