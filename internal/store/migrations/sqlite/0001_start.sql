-- Times are microseconds since 1970 UTC, 0 for none. Booleans are 0 or 1. doc is
-- JSON: columns beside it are there because some query filters, sorts or joins on them.
-- +goose Up

-- Deliveries belong to an App, not yet to a workspace. Bodies lie apart, so that
-- marking a delivery does not rewrite its body.
CREATE TABLE deliveries (
  seq           INTEGER PRIMARY KEY,
  guid          TEXT NOT NULL,
  app           TEXT NOT NULL,
  event         TEXT NOT NULL,
  received_at   INTEGER NOT NULL,
  dispatched_at INTEGER NOT NULL DEFAULT 0,
  not_before    INTEGER NOT NULL DEFAULT 0,
  attempts      INTEGER NOT NULL DEFAULT 0,
  outcome       TEXT NOT NULL DEFAULT '',
  error         TEXT NOT NULL DEFAULT '',
  doc           TEXT NOT NULL,
  UNIQUE (guid, app)
);
CREATE INDEX deliveries_undispatched ON deliveries (seq) WHERE dispatched_at = 0;
CREATE INDEX deliveries_received ON deliveries (received_at);
CREATE TABLE delivery_bodies (
  seq  INTEGER PRIMARY KEY REFERENCES deliveries (seq) ON DELETE CASCADE,
  body BLOB NOT NULL
);

CREATE TABLE facts (
  name  TEXT PRIMARY KEY,
  value TEXT NOT NULL
) WITHOUT ROWID;

CREATE TABLE installations (
  id        INTEGER PRIMARY KEY,
  workspace TEXT NOT NULL,
  app       TEXT NOT NULL,
  account   TEXT NOT NULL,
  state     TEXT NOT NULL,
  doc       TEXT NOT NULL
);
CREATE INDEX installations_account ON installations (workspace, account);

CREATE TABLE jobs (
  workspace   TEXT NOT NULL,
  id          INTEGER NOT NULL,
  attempt     INTEGER NOT NULL,
  state       TEXT NOT NULL,
  pool        TEXT NOT NULL,
  repository  TEXT NOT NULL,
  run_id      INTEGER NOT NULL,
  runner_name TEXT NOT NULL,
  queued_at   INTEGER NOT NULL,
  seen_at     INTEGER NOT NULL,
  doc         TEXT NOT NULL,
  PRIMARY KEY (workspace, id, attempt)
);
CREATE INDEX jobs_pool ON jobs (workspace, pool, state, queued_at, id, attempt);
CREATE INDEX jobs_state ON jobs (workspace, state, id, attempt);
CREATE INDEX jobs_repository ON jobs (workspace, repository, id, attempt);
CREATE INDEX jobs_run ON jobs (workspace, run_id, id, attempt);
CREATE INDEX jobs_runner_name ON jobs (workspace, runner_name, id, attempt) WHERE runner_name <> '';

CREATE TABLE sightings (
  workspace TEXT NOT NULL,
  job       INTEGER NOT NULL,
  attempt   INTEGER NOT NULL,
  sense     TEXT NOT NULL,
  state     TEXT NOT NULL,
  at        INTEGER NOT NULL,
  delivery  TEXT NOT NULL,
  PRIMARY KEY (workspace, job, attempt, sense, state)
) WITHOUT ROWID;

CREATE TABLE pools (
  workspace    TEXT NOT NULL,
  name         TEXT NOT NULL,
  position     INTEGER NOT NULL,
  configured   INTEGER NOT NULL,
  last_scaling INTEGER NOT NULL DEFAULT 0,
  override     TEXT NOT NULL DEFAULT '{}',
  doc          TEXT NOT NULL,
  PRIMARY KEY (workspace, name)
);
CREATE TABLE offerings (
  workspace TEXT NOT NULL,
  name      TEXT NOT NULL,
  position  INTEGER NOT NULL,
  doc       TEXT NOT NULL,
  PRIMARY KEY (workspace, name)
);

-- A decision's inputs lie apart, so that counting a repeated decision does not
-- rewrite them. quiet marks a decision that changed nothing.
CREATE TABLE decisions (
  id        INTEGER PRIMARY KEY AUTOINCREMENT,
  workspace TEXT NOT NULL,
  pool      TEXT NOT NULL,
  at        INTEGER NOT NULL,
  last_at   INTEGER NOT NULL,
  count     INTEGER NOT NULL,
  rule      TEXT NOT NULL,
  reason    TEXT NOT NULL,
  quiet     INTEGER NOT NULL
);
CREATE INDEX decisions_pool ON decisions (workspace, pool, id);
CREATE INDEX decisions_last_at ON decisions (last_at);
CREATE TABLE decision_inputs (
  decision INTEGER PRIMARY KEY REFERENCES decisions (id) ON DELETE CASCADE,
  doc      TEXT NOT NULL
);

-- busy, warm, created_at and idle_since are columns because a pool's snapshot
-- reads them, and nothing else, of every live runner.
CREATE TABLE runners (
  workspace    TEXT NOT NULL,
  id           TEXT NOT NULL,
  pool         TEXT NOT NULL,
  name         TEXT NOT NULL,
  state        TEXT NOT NULL,
  busy         INTEGER NOT NULL,
  warm         INTEGER NOT NULL,
  created_at   INTEGER NOT NULL,
  idle_since   INTEGER NOT NULL,
  destroyed_at INTEGER NOT NULL,
  doc          TEXT NOT NULL,
  PRIMARY KEY (workspace, id)
);
CREATE INDEX runners_live ON runners (workspace, pool, created_at, id, state, busy, warm, idle_since) WHERE state <> 'destroyed';
CREATE INDEX runners_created ON runners (workspace, created_at, id);
CREATE INDEX runners_destroyed ON runners (destroyed_at) WHERE state = 'destroyed';
CREATE TABLE runner_names (
  workspace TEXT NOT NULL,
  name      TEXT NOT NULL,
  runner    TEXT NOT NULL,
  PRIMARY KEY (workspace, name)
) WITHOUT ROWID;
CREATE TABLE runner_events (
  id        INTEGER PRIMARY KEY AUTOINCREMENT,
  workspace TEXT NOT NULL,
  runner    TEXT NOT NULL,
  at        INTEGER NOT NULL,
  state     TEXT NOT NULL,
  note      TEXT NOT NULL
);
CREATE INDEX runner_events_runner ON runner_events (workspace, runner, id);
CREATE TABLE runner_logs (
  workspace TEXT NOT NULL,
  runner    TEXT NOT NULL,
  start     INTEGER NOT NULL,
  size      INTEGER NOT NULL,
  data      BLOB NOT NULL,
  PRIMARY KEY (workspace, runner, start)
);

CREATE TABLE boot_tokens (
  jti        TEXT PRIMARY KEY,
  workspace  TEXT NOT NULL,
  runner     TEXT NOT NULL,
  expires_at INTEGER NOT NULL,
  used_at    INTEGER NOT NULL DEFAULT 0,
  nonce_hash BLOB
);
CREATE INDEX boot_tokens_runner ON boot_tokens (workspace, runner);
CREATE TABLE sessions (
  token_hash BLOB PRIMARY KEY,
  workspace  TEXT NOT NULL,
  runner     TEXT NOT NULL
);
CREATE INDEX sessions_runner ON sessions (workspace, runner);

-- ran is whether the job was ever given to a runner, as the job's row told when
-- the receipt was written.
CREATE TABLE receipts (
  workspace    TEXT NOT NULL,
  job          INTEGER NOT NULL,
  attempt      INTEGER NOT NULL,
  pool         TEXT NOT NULL,
  repository   TEXT NOT NULL,
  completed_at INTEGER NOT NULL,
  ran          INTEGER NOT NULL,
  doc          TEXT NOT NULL,
  PRIMARY KEY (workspace, job, attempt)
);
CREATE INDEX receipts_completed ON receipts (workspace, completed_at, job, attempt);
CREATE TABLE wastes (
  workspace TEXT NOT NULL,
  runner    TEXT NOT NULL,
  pool      TEXT NOT NULL,
  at        INTEGER NOT NULL,
  doc       TEXT NOT NULL,
  PRIMARY KEY (workspace, runner)
);
CREATE INDEX wastes_at ON wastes (workspace, at);

CREATE TABLE findings (
  id        INTEGER PRIMARY KEY AUTOINCREMENT,
  workspace TEXT NOT NULL,
  at        INTEGER NOT NULL,
  kind      TEXT NOT NULL,
  subject   TEXT NOT NULL,
  action    TEXT NOT NULL
);
CREATE INDEX findings_workspace ON findings (workspace, id);
