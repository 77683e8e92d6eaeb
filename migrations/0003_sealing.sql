-- The sealing pipeline: one row per sector in flight. A stage is (task id, after flag, outputs).
-- Task ids are loose references on purpose: a foreign key to the hot task table makes commits conflict.

CREATE TABLE curio.sectors_sdr_pipeline (
    sp_id                     bigint NOT NULL,
    sector_number             bigint NOT NULL,
    create_time               timestamptz NOT NULL DEFAULT now(),
    reg_seal_proof            integer NOT NULL,

    ticket_epoch              bigint,
    ticket_value              bytea,
    ticket_generation         bigint NOT NULL DEFAULT 0,
    task_id_sdr               bigint,
    after_sdr                 boolean NOT NULL DEFAULT false,

    tree_d_cid                text,
    task_id_tree_d            bigint,
    after_tree_d              boolean NOT NULL DEFAULT false,

    task_id_tree_c            bigint,
    after_tree_c              boolean NOT NULL DEFAULT false,
    tree_r_cid                text,
    task_id_tree_r            bigint,
    after_tree_r              boolean NOT NULL DEFAULT false,

    precommit_msg_cid         text,
    task_id_precommit_msg     bigint,
    precommit_send_id         bigint,
    precommit_generation      bigint NOT NULL DEFAULT 0,
    after_precommit_msg       boolean NOT NULL DEFAULT false,
    seed_epoch                bigint,
    precommit_msg_tsk         bytea,
    after_precommit_msg_success boolean NOT NULL DEFAULT false,

    seed_value                bytea,
    task_id_porep             bigint,
    porep_proof               bytea,
    porep_generation          bigint NOT NULL DEFAULT 0,
    after_porep               boolean NOT NULL DEFAULT false,

    task_id_finalize          bigint,
    after_finalize            boolean NOT NULL DEFAULT false,
    task_id_move_storage      bigint,
    after_move_storage        boolean NOT NULL DEFAULT false,

    commit_msg_cid            text,
    task_id_commit_msg        bigint,
    commit_send_id            bigint,
    commit_generation         bigint NOT NULL DEFAULT 0,
    after_commit_msg          boolean NOT NULL DEFAULT false,
    commit_msg_tsk            bytea,
    after_commit_msg_success  boolean NOT NULL DEFAULT false,

    failed                    boolean NOT NULL DEFAULT false,
    failed_at                 timestamptz,
    failed_reason             varchar(20) NOT NULL DEFAULT '',
    failed_reason_msg         text NOT NULL DEFAULT '',
    failed_task_id            bigint,

    PRIMARY KEY (sp_id, sector_number)
);
COMMENT ON TABLE curio.sectors_sdr_pipeline IS 'Sectors on their way from a number to a proof on chain';
COMMENT ON COLUMN curio.sectors_sdr_pipeline.reg_seal_proof IS 'Registered seal proof, the number on chain';
COMMENT ON COLUMN curio.sectors_sdr_pipeline.ticket_value IS '32 bytes; stored before hashing starts, so that SDR resumes with it';
COMMENT ON COLUMN curio.sectors_sdr_pipeline.ticket_generation IS 'How often the sector was given up and sealed anew with a fresh ticket';
COMMENT ON COLUMN curio.sectors_sdr_pipeline.precommit_send_id IS 'The row in message_sends that carries the pre-commit';
COMMENT ON COLUMN curio.sectors_sdr_pipeline.precommit_generation IS 'How often a pre-commit message was given up; part of its idempotency key';
COMMENT ON COLUMN curio.sectors_sdr_pipeline.porep_generation IS 'How often the proof was given up because the chain refused it';
COMMENT ON COLUMN curio.sectors_sdr_pipeline.commit_send_id IS 'The row in message_sends that carries the prove-commit';
COMMENT ON COLUMN curio.sectors_sdr_pipeline.commit_generation IS 'How often a prove-commit message was given up; part of its idempotency key';
COMMENT ON COLUMN curio.sectors_sdr_pipeline.tree_d_cid IS 'Unsealed CID (comm_d)';
COMMENT ON COLUMN curio.sectors_sdr_pipeline.tree_r_cid IS 'Sealed CID (comm_r)';
COMMENT ON COLUMN curio.sectors_sdr_pipeline.precommit_msg_tsk IS 'Tipset that holds the result of the pre-commit: the bytes of its CIDs, one after another';
COMMENT ON COLUMN curio.sectors_sdr_pipeline.failed_reason IS 'A short closed word; the sentence is in failed_reason_msg';
COMMENT ON COLUMN curio.sectors_sdr_pipeline.failed_task_id IS 'The task that ran out of attempts; when it is retried, the sector goes on';
CREATE INDEX sectors_sdr_pipeline_failed ON curio.sectors_sdr_pipeline (failed_task_id) WHERE failed;
CREATE INDEX sectors_sdr_pipeline_open ON curio.sectors_sdr_pipeline (sp_id, sector_number)
    WHERE NOT failed AND NOT (after_commit_msg_success AND after_move_storage);

CREATE TABLE curio.sectors_pipeline_tasks (
    task_id        bigint PRIMARY KEY,
    sp_id          bigint NOT NULL,
    sector_number  bigint NOT NULL,
    task_name      text NOT NULL,
    created_at     timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE curio.sectors_pipeline_tasks IS 'Every task ever created for a sector, in order: the way from a task to its sector, and from a sector to its history';
CREATE INDEX sectors_pipeline_tasks_by_sector ON curio.sectors_pipeline_tasks (sp_id, sector_number);

CREATE TABLE curio.sectors_sdr_initial_pieces (
    sp_id                    bigint NOT NULL,
    sector_number            bigint NOT NULL,
    piece_index              bigint NOT NULL,
    piece_cid                text NOT NULL,
    piece_size               bigint NOT NULL,
    data_url                 text NOT NULL,
    data_headers             jsonb NOT NULL DEFAULT '{}',
    data_raw_size            bigint NOT NULL,
    data_delete_on_finalize  boolean NOT NULL DEFAULT false,
    created_at               timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (sp_id, sector_number, piece_index),
    FOREIGN KEY (sp_id, sector_number) REFERENCES curio.sectors_sdr_pipeline (sp_id, sector_number) ON DELETE CASCADE
);
COMMENT ON TABLE curio.sectors_sdr_initial_pieces IS 'Client data of a sector, in order';
COMMENT ON COLUMN curio.sectors_sdr_initial_pieces.piece_size IS 'Padded bytes, a power of two';
COMMENT ON COLUMN curio.sectors_sdr_initial_pieces.data_raw_size IS 'Bytes of the data before padding';
COMMENT ON COLUMN curio.sectors_sdr_initial_pieces.data_url IS 'file:///PATH or http(s)://';
COMMENT ON COLUMN curio.sectors_sdr_initial_pieces.data_delete_on_finalize IS 'True drops the unsealed copy; false keeps it';

CREATE TABLE curio.sectors_meta (
    sp_id               bigint NOT NULL,
    sector_num          bigint NOT NULL,
    reg_seal_proof      integer NOT NULL,
    ticket_epoch        bigint NOT NULL,
    ticket_value        bytea NOT NULL,
    orig_sealed_cid     text NOT NULL,
    orig_unsealed_cid   text NOT NULL,
    cur_sealed_cid      text NOT NULL,
    cur_unsealed_cid    text NOT NULL,
    msg_cid_precommit   text,
    msg_cid_commit      text,
    seed_epoch          bigint NOT NULL,
    seed_value          bytea,
    is_cc               boolean NOT NULL,
    created_at          timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (sp_id, sector_num)
);
COMMENT ON TABLE curio.sectors_meta IS 'Sectors whose commit was sent: what proving and unsealing need for their whole life';

CREATE TABLE curio.sectors_meta_pieces (
    sp_id                bigint NOT NULL,
    sector_num           bigint NOT NULL,
    piece_num            bigint NOT NULL,
    piece_cid            text NOT NULL,
    piece_size           bigint NOT NULL,
    requested_keep_data  boolean NOT NULL,
    raw_data_size        bigint NOT NULL,
    PRIMARY KEY (sp_id, sector_num, piece_num),
    FOREIGN KEY (sp_id, sector_num) REFERENCES curio.sectors_meta (sp_id, sector_num) ON DELETE CASCADE
);
COMMENT ON TABLE curio.sectors_meta_pieces IS 'Pieces of a sector, in order';
COMMENT ON COLUMN curio.sectors_meta_pieces.piece_size IS 'Padded bytes';
COMMENT ON COLUMN curio.sectors_meta_pieces.raw_data_size IS 'Bytes before padding';

CREATE TABLE curio.sectors_allocated_numbers (
    sp_id      bigint PRIMARY KEY,
    allocated  jsonb NOT NULL
);
COMMENT ON TABLE curio.sectors_allocated_numbers IS 'Sector numbers given out, as run lengths that start with a run of zeros';
