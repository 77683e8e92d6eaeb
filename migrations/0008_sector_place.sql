-- Where the chain wants a sector proven, for whoever looks at the sector: the chain alone knew it before.

ALTER TABLE curio.sectors_meta ADD COLUMN deadline bigint;
ALTER TABLE curio.sectors_meta ADD COLUMN partition bigint;
COMMENT ON COLUMN curio.sectors_meta.deadline IS 'Deadline in which the sector is proven, as the chain placed it when the commit landed; null before, and for sectors older than this column';
COMMENT ON COLUMN curio.sectors_meta.partition IS 'Partition of that deadline';
