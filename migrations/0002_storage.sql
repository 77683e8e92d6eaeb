-- Where sector files lie. A path belongs to machines by an explicit relation, never by matching
-- addresses in text.

CREATE TABLE curio.storage_path (
    storage_id      text PRIMARY KEY,
    weight          bigint NOT NULL DEFAULT 10,
    max_storage     bigint NOT NULL DEFAULT 0,
    can_seal        boolean NOT NULL DEFAULT false,
    can_store       boolean NOT NULL DEFAULT false,
    groups          text[] NOT NULL DEFAULT '{}',
    allow_to        text[] NOT NULL DEFAULT '{}',
    allow_types     text[] NOT NULL DEFAULT '{}',
    deny_types      text[] NOT NULL DEFAULT '{}',
    allow_miners    text[] NOT NULL DEFAULT '{}',
    deny_miners     text[] NOT NULL DEFAULT '{}',
    capacity        bigint NOT NULL DEFAULT 0,
    available       bigint NOT NULL DEFAULT 0,
    fs_available    bigint NOT NULL DEFAULT 0,
    reserved        bigint NOT NULL DEFAULT 0,
    used            bigint NOT NULL DEFAULT 0,
    last_heartbeat  timestamptz,
    heartbeat_err   text
);
COMMENT ON TABLE curio.storage_path IS 'Storage paths; storage_id is the id in sectorstore.json of the path';
COMMENT ON COLUMN curio.storage_path.weight IS 'Preference among paths with room; larger is preferred';
COMMENT ON COLUMN curio.storage_path.max_storage IS 'Most bytes to use; 0 is no limit';
COMMENT ON COLUMN curio.storage_path.capacity IS 'Bytes of the file system';
COMMENT ON COLUMN curio.storage_path.available IS 'Bytes that may still be used here: the smaller of file system and max_storage, less reservations';
COMMENT ON COLUMN curio.storage_path.fs_available IS 'Bytes free in the file system';
COMMENT ON COLUMN curio.storage_path.reserved IS 'Bytes promised to running tasks';
COMMENT ON COLUMN curio.storage_path.used IS 'Bytes of sector files';

CREATE TABLE curio.storage_path_machines (
    storage_id   text NOT NULL REFERENCES curio.storage_path (storage_id) ON DELETE CASCADE,
    machine_name text NOT NULL,
    local_path   text NOT NULL,
    attached_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (storage_id, machine_name)
);
COMMENT ON TABLE curio.storage_path_machines IS 'Which machine reaches a path, and under which local directory';
CREATE INDEX storage_path_machines_by_machine ON curio.storage_path_machines (machine_name);

CREATE TABLE curio.sector_location (
    miner_id         bigint NOT NULL,
    sector_num       bigint NOT NULL,
    sector_filetype  integer NOT NULL,
    storage_id       text NOT NULL REFERENCES curio.storage_path (storage_id) ON DELETE CASCADE,
    is_primary       boolean NOT NULL DEFAULT true,
    size_bytes       bigint NOT NULL DEFAULT 0,
    declared_at      timestamptz NOT NULL DEFAULT now(),
    removal_requested_at timestamptz,
    PRIMARY KEY (miner_id, sector_num, sector_filetype, storage_id)
);
COMMENT ON TABLE curio.sector_location IS 'Complete sector files, declared after they are durable';
COMMENT ON COLUMN curio.sector_location.sector_filetype IS '1 unsealed, 2 sealed, 4 cache';
COMMENT ON COLUMN curio.sector_location.size_bytes IS 'Bytes of the file, or of all files of the directory, when declared';
COMMENT ON COLUMN curio.sector_location.removal_requested_at IS 'Set: this copy is to be removed and is no longer read; another copy was declared in the same transaction';
CREATE INDEX sector_location_by_path ON curio.sector_location (storage_id);

CREATE TABLE curio.storage_reservations (
    storage_id    text NOT NULL REFERENCES curio.storage_path (storage_id) ON DELETE CASCADE,
    task_id       bigint NOT NULL,
    machine_name  text NOT NULL,
    holder        uuid NOT NULL,
    miner_id      bigint NOT NULL,
    sector_num    bigint NOT NULL,
    filetypes     integer NOT NULL,
    bytes         bigint NOT NULL,
    reserved_at   timestamptz NOT NULL DEFAULT now(),
    expires_at    timestamptz NOT NULL,
    PRIMARY KEY (storage_id, task_id)
);
COMMENT ON TABLE curio.storage_reservations IS 'Room promised to a task on a path; a lease, renewed while the task runs';
COMMENT ON COLUMN curio.storage_reservations.holder IS 'One attempt of one runner; a guard that outlived its attempt changes nothing';
COMMENT ON COLUMN curio.storage_reservations.filetypes IS 'Sector files the bytes are for: a sum of sector_filetype';
COMMENT ON COLUMN curio.storage_reservations.bytes IS 'Bytes of these files at their largest, including what is on disk already';
