-- Proofs of spacetime: window PoSt, recoveries, block production, and what was last seen of the chain.

CREATE TABLE curio.wdpost_partition_tasks (
    sp_id                bigint NOT NULL,
    proving_period_start bigint NOT NULL,
    deadline_index       bigint NOT NULL,
    partition_index      bigint NOT NULL,
    task_id              bigint NOT NULL UNIQUE,
    reg_seal_proof       integer NOT NULL,
    challenge_epoch      bigint NOT NULL,
    open_epoch           bigint NOT NULL,
    submit_epoch         bigint NOT NULL,
    close_epoch          bigint NOT NULL,
    created_at           timestamptz NOT NULL DEFAULT now(),
    outcome              text CHECK (outcome IN ('landed', 'nothing', 'missed')),
    PRIMARY KEY (sp_id, proving_period_start, deadline_index, partition_index)
);
COMMENT ON TABLE curio.wdpost_partition_tasks IS 'One row for each partition that is to be proven in one window; kept until the window is long over';
COMMENT ON COLUMN curio.wdpost_partition_tasks.task_id IS 'WdPost task; another one when the proof is made anew';
COMMENT ON COLUMN curio.wdpost_partition_tasks.submit_epoch IS 'First epoch in which the proof is sent';
COMMENT ON COLUMN curio.wdpost_partition_tasks.close_epoch IS 'First epoch in which the proof is too late';
COMMENT ON COLUMN curio.wdpost_partition_tasks.outcome IS 'landed: the chain took the proof; nothing: there was no sector to prove; missed: the window closed without a proof';
CREATE INDEX wdpost_partition_tasks_open ON curio.wdpost_partition_tasks (close_epoch) WHERE outcome IS NULL;

CREATE TABLE curio.wdpost_proofs (
    sp_id                bigint NOT NULL,
    proving_period_start bigint NOT NULL,
    deadline             bigint NOT NULL,
    partition            bigint NOT NULL,
    challenge_epoch      bigint NOT NULL,
    challenge_rand       bytea NOT NULL,
    submit_at_epoch      bigint NOT NULL,
    submit_by_epoch      bigint NOT NULL,
    post_proof_type      bigint NOT NULL,
    proof                bytea,
    proven_sectors       bigint[] NOT NULL,
    skipped_sectors      bigint[] NOT NULL DEFAULT '{}',
    recovering           boolean NOT NULL DEFAULT false,
    made_at              timestamptz NOT NULL DEFAULT now(),
    made_by              text NOT NULL,
    submit_task_id       bigint,
    send_id              bigint,
    message_generation   integer NOT NULL DEFAULT 0,
    landed_epoch         bigint,
    error                text NOT NULL DEFAULT '',
    PRIMARY KEY (sp_id, proving_period_start, deadline, partition)
);
COMMENT ON TABLE curio.wdpost_proofs IS 'Verified window PoSts of single partitions, and the message that carries them';
COMMENT ON COLUMN curio.wdpost_proofs.challenge_rand IS 'Randomness that the proof answers; when a reorganisation changes it, the proof is made anew';
COMMENT ON COLUMN curio.wdpost_proofs.proof IS 'NULL while it is made anew';
COMMENT ON COLUMN curio.wdpost_proofs.proven_sectors IS 'Sectors in the proof, ascending';
COMMENT ON COLUMN curio.wdpost_proofs.recovering IS 'Whether sectors recover by it: the chain checks such a proof at once';
COMMENT ON COLUMN curio.wdpost_proofs.submit_task_id IS 'WdPostSubmit task; the partitions of one message share it';
COMMENT ON COLUMN curio.wdpost_proofs.send_id IS 'Row of message_sends';
COMMENT ON COLUMN curio.wdpost_proofs.message_generation IS 'Grows when a message failed, or the proof is made anew; part of the idempotency key';
CREATE INDEX wdpost_proofs_open ON curio.wdpost_proofs (submit_by_epoch) WHERE landed_epoch IS NULL;
CREATE INDEX wdpost_proofs_by_task ON curio.wdpost_proofs (submit_task_id) WHERE submit_task_id IS NOT NULL;

CREATE TABLE curio.wdpost_recovery_tasks (
    sp_id                bigint NOT NULL,
    proving_period_start bigint NOT NULL,
    deadline_index       bigint NOT NULL,
    partition_index      bigint NOT NULL,
    task_id              bigint NOT NULL,
    fault_cutoff_epoch   bigint NOT NULL,
    checked_epoch        bigint,
    recoverable_sectors  bigint[] NOT NULL DEFAULT '{}',
    bad_sectors          bigint[] NOT NULL DEFAULT '{}',
    lost_sectors         bigint[] NOT NULL DEFAULT '{}',
    recover_send_id      bigint,
    fault_send_id        bigint,
    generation           integer NOT NULL DEFAULT 0,
    created_at           timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (sp_id, proving_period_start, deadline_index, partition_index)
);
COMMENT ON TABLE curio.wdpost_recovery_tasks IS 'One row for each partition that is looked at before the fault cutoff of its next window';
COMMENT ON COLUMN curio.wdpost_recovery_tasks.proving_period_start IS 'Start of the proving period in which the declaration takes effect';
COMMENT ON COLUMN curio.wdpost_recovery_tasks.task_id IS 'WdPostRecover task; the partitions of one declaration share it';
COMMENT ON COLUMN curio.wdpost_recovery_tasks.checked_epoch IS 'Head at which the files were looked at; NULL before';
COMMENT ON COLUMN curio.wdpost_recovery_tasks.recoverable_sectors IS 'Faulty sectors whose files are well';
COMMENT ON COLUMN curio.wdpost_recovery_tasks.bad_sectors IS 'Faulty sectors whose files are not';
COMMENT ON COLUMN curio.wdpost_recovery_tasks.lost_sectors IS 'Healthy sectors on chain whose files are nowhere';
COMMENT ON COLUMN curio.wdpost_recovery_tasks.generation IS 'How often the partition was looked at before; part of the idempotency keys';
CREATE INDEX wdpost_recovery_tasks_by_task ON curio.wdpost_recovery_tasks (task_id);

-- Terminations and extensions are asked for by a person, looked at, then approved by a person.
CREATE TABLE curio.sector_changes (
    sp_id           bigint NOT NULL,
    sector_number   bigint NOT NULL,
    change          text NOT NULL CHECK (change IN ('terminate', 'extend')),
    new_expiration  bigint CHECK ((change = 'extend') = (new_expiration IS NOT NULL)),
    asked_at        timestamptz NOT NULL DEFAULT now(),
    asked_by        text NOT NULL,
    approved_at     timestamptz,
    approved_by     text,
    send_id         bigint,
    generation      integer NOT NULL DEFAULT 0,
    PRIMARY KEY (sp_id, sector_number, change)
);
COMMENT ON TABLE curio.sector_changes IS 'Terminations and expiry extensions; nothing is sent before approved_at is set';
COMMENT ON COLUMN curio.sector_changes.generation IS 'How often the change was asked for again after its message; part of the idempotency key';
COMMENT ON COLUMN curio.sector_changes.send_id IS 'Row of message_sends, in which all sectors approved together share a message';

CREATE TABLE curio.mining_tasks (
    task_id            bigint PRIMARY KEY,
    sp_id              bigint NOT NULL,
    epoch              bigint NOT NULL,
    base_compute_time  timestamptz NOT NULL,
    won                boolean NOT NULL DEFAULT false,
    lost_because       text,
    mined_cid          text,
    mined_block        jsonb,
    mined_at           timestamptz,
    submitted_at       timestamptz,
    included           boolean,
    UNIQUE (sp_id, epoch)
);
COMMENT ON TABLE curio.mining_tasks IS 'One election per miner and epoch, whoever holds it';
COMMENT ON COLUMN curio.mining_tasks.won IS 'The election was won; stored before anything is signed';
COMMENT ON COLUMN curio.mining_tasks.lost_because IS 'Why no block came of it: not-won, not-eligible, late, given-up, refused, not-included; NULL while that is open, and when the block is in the chain';
COMMENT ON COLUMN curio.mining_tasks.mined_block IS 'The signed block with its messages, kept before it is submitted, so that only this block is ever submitted again';
COMMENT ON COLUMN curio.mining_tasks.included IS 'Whether the block was found in the chain some epochs later; NULL until looked at';
CREATE INDEX mining_tasks_open ON curio.mining_tasks (sp_id) WHERE lost_because IS NULL AND mined_block IS NULL;
CREATE INDEX mining_tasks_unlooked ON curio.mining_tasks (epoch) WHERE won AND included IS NULL;
CREATE INDEX mining_tasks_not_won ON curio.mining_tasks (epoch) WHERE NOT won;

CREATE TABLE curio.mining_base_block (
    id         bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    task_id    bigint NOT NULL REFERENCES curio.mining_tasks (task_id) ON DELETE CASCADE,
    sp_id      bigint NOT NULL,
    block_cid  text NOT NULL,
    no_win     boolean NOT NULL DEFAULT false,
    UNIQUE (task_id, block_cid)
);
COMMENT ON TABLE curio.mining_base_block IS 'Parents of each election; two blocks of a miner on the same parent are a consensus fault';
COMMENT ON COLUMN curio.mining_base_block.no_win IS 'No block comes of the election: another one may be held on this parent';
CREATE UNIQUE INDEX mining_base_block_once ON curio.mining_base_block (sp_id, block_cid) WHERE NOT no_win;

CREATE TABLE curio.chain_fence (
    network         text PRIMARY KEY,
    epoch           bigint NOT NULL,
    revision        bigint NOT NULL DEFAULT 0,
    recorded_at     timestamptz NOT NULL DEFAULT now(),
    held_since      timestamptz,
    held_reason     text,
    confirmed_epoch bigint,
    confirmed_by    text,
    confirmed_at    timestamptz
);
COMMENT ON TABLE curio.chain_fence IS 'Highest epoch that any runner recorded; while held, nothing is mined and nothing is sent';
COMMENT ON COLUMN curio.chain_fence.revision IS 'Grows with every change: a runner that has seen a larger one knows that the database was set back';
COMMENT ON COLUMN curio.chain_fence.confirmed_epoch IS 'A person said that the database may be trusted at this epoch';

-- Deadline work of a machine that falls silent is taken from it sooner than the rest.
ALTER TABLE curio.harmony_task_machines ADD COLUMN deadline_kinds text[] NOT NULL DEFAULT '{}';
COMMENT ON COLUMN curio.harmony_task_machines.deadline_kinds IS 'Those of kinds whose work has a deadline';

-- A message that does not land is signed again with the same nonce and a higher price. Any of its forms may land.
CREATE TABLE curio.message_replacements (
    send_id      bigint NOT NULL REFERENCES curio.message_sends (send_id) ON DELETE CASCADE,
    generation   integer NOT NULL CHECK (generation > 0),
    signed_cid   text NOT NULL UNIQUE,
    signed_json  jsonb NOT NULL,
    epoch        bigint NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (send_id, generation)
);
COMMENT ON TABLE curio.message_replacements IS 'Later forms of a message, stored before they are pushed; the first form is in message_sends, and is the one that is watched';
COMMENT ON COLUMN curio.message_replacements.epoch IS 'Head at which it was signed';
ALTER TABLE curio.message_sends ADD COLUMN sent_epoch bigint;
COMMENT ON COLUMN curio.message_sends.sent_epoch IS 'Head at which a watcher first saw the message sent: from here its patience counts';
