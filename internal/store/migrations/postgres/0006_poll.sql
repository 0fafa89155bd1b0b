-- +goose Up

-- unnamed_since is since when a runner is known to have, or to have had, a job that
-- nobody has named; 0 for the others.
ALTER TABLE runners ADD COLUMN unnamed_since BIGINT NOT NULL DEFAULT 0;
CREATE INDEX runners_unnamed ON runners (workspace, unnamed_since) WHERE unnamed_since <> 0;
-- Polling compares what a repository runs with what is believed of it, at every look.
CREATE INDEX jobs_open ON jobs (workspace, repository, seen_at, id, attempt) WHERE state <> 'completed';
