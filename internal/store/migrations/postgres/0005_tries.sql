-- +goose Up

-- tries is how many runners listened that were made for the job, tried_at when the
-- last of them began to: a job that none of them gets is not served for ever.
ALTER TABLE jobs ADD COLUMN tries BIGINT NOT NULL DEFAULT 0;
ALTER TABLE jobs ADD COLUMN tried_at BIGINT NOT NULL DEFAULT 0;
DROP INDEX jobs_pool;
CREATE INDEX jobs_pool ON jobs (workspace, pool, state, queued_at, id, attempt, repository, tries, tried_at);
