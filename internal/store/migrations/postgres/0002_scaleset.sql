-- +goose Up

-- What messages said of assignments to a pool's scale set. settled is 1 when
-- nothing is left to do about one; job and attempt are the job that it is about,
-- 0 until that is found.
CREATE TABLE scale_set_jobs (
  workspace  TEXT NOT NULL,
  pool       TEXT NOT NULL,
  id         TEXT NOT NULL,
  state      TEXT NOT NULL,
  settled    BIGINT NOT NULL,
  changed_at BIGINT NOT NULL,
  job        BIGINT NOT NULL,
  attempt    BIGINT NOT NULL,
  doc        TEXT NOT NULL,
  PRIMARY KEY (workspace, pool, id)
);
CREATE INDEX scale_set_jobs_unsettled ON scale_set_jobs (workspace, pool, changed_at, id) WHERE settled = 0;
CREATE INDEX scale_set_jobs_settled ON scale_set_jobs (changed_at) WHERE settled = 1;
CREATE TABLE scale_sets (
  workspace TEXT NOT NULL,
  pool      TEXT NOT NULL,
  doc       TEXT NOT NULL,
  PRIMARY KEY (workspace, pool)
);
