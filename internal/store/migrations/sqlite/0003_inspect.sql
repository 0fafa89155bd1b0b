-- +goose Up

-- packed is a decision's snapshot, compressed; doc then has the decision alone.
-- Where it is NULL, doc has both.
ALTER TABLE decision_inputs ADD COLUMN packed BLOB;
-- Replay asks what held at a time.
CREATE INDEX decisions_at ON decisions (workspace, pool, at, id);
-- The senses' report asks for what was first heard of in a time.
CREATE INDEX jobs_seen ON jobs (workspace, seen_at, id, attempt);
-- Budgets add up what a project spent, at every decision.
ALTER TABLE receipts ADD COLUMN project TEXT NOT NULL DEFAULT '';
ALTER TABLE receipts ADD COLUMN cost INTEGER NOT NULL DEFAULT 0;
ALTER TABLE wastes ADD COLUMN project TEXT NOT NULL DEFAULT '';
ALTER TABLE wastes ADD COLUMN cost INTEGER NOT NULL DEFAULT 0;
UPDATE receipts SET project = COALESCE(json_extract(doc, '$.Project'), ''), cost = COALESCE(json_extract(doc, '$.CostMicroUSD'), 0);
UPDATE wastes SET project = COALESCE(json_extract(doc, '$.Project'), ''), cost = COALESCE(json_extract(doc, '$.CostMicroUSD'), 0);
CREATE INDEX receipts_project ON receipts (workspace, project, completed_at, cost);
CREATE INDEX wastes_project ON wastes (workspace, project, at, cost);
-- Quotas and fair shares count a pool's jobs by repository.
DROP INDEX jobs_pool;
CREATE INDEX jobs_pool ON jobs (workspace, pool, state, queued_at, id, attempt, repository);
