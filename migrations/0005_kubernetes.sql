-- What a cluster needs to be managed by a program: machines bound to the processes that they are, layers
-- and the whole database with one manager, sectors that are asked for instead of queued.

ALTER TABLE curio.harmony_task_machines ADD COLUMN instance text NOT NULL DEFAULT '';
ALTER TABLE curio.harmony_task_machines ADD COLUMN process_started_at timestamptz;
ALTER TABLE curio.harmony_task_machines ADD COLUMN cordoned_at timestamptz;
COMMENT ON COLUMN curio.harmony_task_machines.instance IS 'What the process runs in, such as the UID of a pod; empty when nobody said';
COMMENT ON COLUMN curio.harmony_task_machines.process_started_at IS 'Start of the process by the clock of its own node, to be compared with what that node says of the process end';
COMMENT ON COLUMN curio.harmony_task_machines.cordoned_at IS 'Set: the machine claims nothing new, and goes on with what it has';
COMMENT ON COLUMN curio.harmony_task_machines.evicted_at IS 'Set when the lease ran out, or the process was reported dead, and the tasks were released';

ALTER TABLE curio.harmony_config ADD COLUMN managed_by text;
ALTER TABLE curio.harmony_config ADD COLUMN managed_config text;
COMMENT ON COLUMN curio.harmony_config.managed_by IS 'Program that keeps the layer, such as curiocluster/NAMESPACE/NAME; null is a person';
COMMENT ON COLUMN curio.harmony_config.managed_config IS 'Text as a program last wrote it; when config differs, a person has edited the layer since';

-- The layers as 0001 made them. One that was edited before today keeps its text and differs from this one.
UPDATE curio.harmony_config c SET managed_config = made.config
FROM (VALUES
('base', ''),
('post', '[Subsystems]
EnableWindowPost = true
EnableWinningPost = true
'),
('gui', '[Subsystems]
EnableWebGui = true
'),
('seal', '[Subsystems]
EnableSealSDR = true
EnableSealSDRTrees = true
EnableSendPrecommitMsg = true
EnablePoRepProof = true
EnableSendCommitMsg = true
EnableMoveStorage = true
'),
('seal-gpu', '[Subsystems]
EnableSealSDRTrees = true
EnableSendPrecommitMsg = true
'),
('seal-snark', '[Subsystems]
EnablePoRepProof = true
EnableSendCommitMsg = true
'),
('sdr', '[Subsystems]
EnableSealSDR = true
'),
('storage', '[Subsystems]
EnableMoveStorage = true
')) AS made (title, config)
WHERE c.title = made.title;

CREATE TABLE curio.harmony_owner (
    id     bigint PRIMARY KEY DEFAULT 1 CHECK (id = 1),
    uid    text NOT NULL,
    name   text NOT NULL,
    since  timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE curio.harmony_owner IS 'The one manager of this database; a second one is refused';
COMMENT ON COLUMN curio.harmony_owner.uid IS 'Never used again for another manager, as a Kubernetes UID';
COMMENT ON COLUMN curio.harmony_owner.name IS 'For people: NAMESPACE/NAME';

CREATE TABLE curio.seal_requests (
    uid             text PRIMARY KEY,
    miner           text NOT NULL,
    sector_count    bigint NOT NULL,
    piece_url       text,
    piece_cid       text,
    piece_raw_size  bigint,
    state           varchar(10) NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'started', 'refused')),
    error           text NOT NULL DEFAULT '',
    tries           integer NOT NULL DEFAULT 0,
    not_before      timestamptz NOT NULL DEFAULT now(),
    created_at      timestamptz NOT NULL DEFAULT now(),
    started_at      timestamptz
);
COMMENT ON TABLE curio.seal_requests IS 'Sectors that were asked for by somebody without a chain node; any runner turns them into sectors';
COMMENT ON COLUMN curio.seal_requests.uid IS 'Chosen by whoever asks; the same one asked for twice is one request';
COMMENT ON COLUMN curio.seal_requests.miner IS 'Address of the miner actor, as given';
COMMENT ON COLUMN curio.seal_requests.piece_url IS 'Data of the one sector; null for sectors without data';
COMMENT ON COLUMN curio.seal_requests.piece_cid IS 'What the piece CID must be, if known';
COMMENT ON COLUMN curio.seal_requests.piece_raw_size IS 'What the size must be, in bytes before padding, if known';
COMMENT ON COLUMN curio.seal_requests.error IS 'Why it was refused; while it is pending, why the last try failed';
COMMENT ON COLUMN curio.seal_requests.tries IS 'Grows whenever a runner takes the request up';
COMMENT ON COLUMN curio.seal_requests.not_before IS 'Nobody takes it up before: somebody is at it, or the last try failed';
CREATE INDEX seal_requests_pending ON curio.seal_requests (not_before, uid) WHERE state = 'pending';

ALTER TABLE curio.sectors_sdr_pipeline ADD COLUMN request_uid text;
ALTER TABLE curio.sectors_sdr_pipeline ADD COLUMN ended_at timestamptz;
COMMENT ON COLUMN curio.sectors_sdr_pipeline.request_uid IS 'The row of seal_requests that asked for the sector';
COMMENT ON COLUMN curio.sectors_sdr_pipeline.ended_at IS 'When nothing was left to do: proven on chain and moved to long-term storage';
UPDATE curio.sectors_sdr_pipeline SET ended_at = now() WHERE after_commit_msg_success AND after_move_storage;
CREATE INDEX sectors_sdr_pipeline_by_request ON curio.sectors_sdr_pipeline (request_uid) WHERE request_uid IS NOT NULL;
CREATE INDEX sectors_sdr_pipeline_ended ON curio.sectors_sdr_pipeline (ended_at) WHERE ended_at IS NOT NULL;

COMMENT ON COLUMN curio.sector_location.removal_requested_at IS 'Set: this copy is to be removed and is no longer read; another copy was declared in the same transaction, or the sector was removed';
CREATE INDEX sector_location_going ON curio.sector_location (storage_id) WHERE removal_requested_at IS NOT NULL;
