-- +goose Up

-- What is known of the record of one job; its events are in the archive.
CREATE TABLE traces (
  workspace  TEXT NOT NULL,
  runner     TEXT NOT NULL,
  number     BIGINT NOT NULL, -- the how manieth of the runner, from 1
  state      TEXT NOT NULL,
  pool       TEXT NOT NULL,
  job        BIGINT NOT NULL, -- 0: not known
  attempt    BIGINT NOT NULL,
  repository TEXT NOT NULL, -- in lower case
  run_id     BIGINT NOT NULL,
  job_key    TEXT NOT NULL,
  job_name   TEXT NOT NULL,
  baseline   TEXT NOT NULL,
  started_at BIGINT NOT NULL,
  ended_at   BIGINT NOT NULL, -- 0: recording
  expires_at BIGINT NOT NULL, -- 0: never, or deleted
  updated_at BIGINT NOT NULL,
  analysed   BIGINT NOT NULL, -- 1: it was tried
  doc        TEXT NOT NULL,
  PRIMARY KEY (workspace, runner, number)
);
CREATE INDEX traces_started ON traces (workspace, started_at);
CREATE INDEX traces_job ON traces (workspace, job, attempt) WHERE job <> 0;
CREATE INDEX traces_run ON traces (workspace, run_id) WHERE run_id <> 0;
CREATE INDEX traces_baseline ON traces (workspace, baseline, started_at) WHERE baseline <> '';
CREATE INDEX traces_open ON traces (updated_at) WHERE state = 'recording';
CREATE INDEX traces_unanalysed ON traces (ended_at) WHERE analysed = 0;
CREATE INDEX traces_expiry ON traces (expires_at) WHERE expires_at <> 0;

-- What rules found in a trace, in the order in which it happened.
CREATE TABLE detections (
  workspace TEXT NOT NULL,
  runner    TEXT NOT NULL,
  number    BIGINT NOT NULL,
  position  BIGINT NOT NULL,
  rule      TEXT NOT NULL,
  severity  BIGINT NOT NULL, -- 0 is the least
  at        BIGINT NOT NULL,
  doc       TEXT NOT NULL,
  PRIMARY KEY (workspace, runner, number, position)
);
CREATE INDEX detections_at ON detections (workspace, at);

-- What was learnt of the same job in every run.
CREATE TABLE baselines (
  workspace TEXT NOT NULL,
  name      TEXT NOT NULL,
  version   BIGINT NOT NULL,
  doc       BYTEA NOT NULL,
  PRIMARY KEY (workspace, name)
);
