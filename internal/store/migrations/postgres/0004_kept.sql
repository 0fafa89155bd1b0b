-- +goose Up

-- Machines that are kept: started and stopped, not made and destroyed.
CREATE TABLE machines (
  workspace TEXT NOT NULL,
  provider  TEXT NOT NULL,
  zone      TEXT NOT NULL,
  name      TEXT NOT NULL,
  doc       TEXT NOT NULL,
  PRIMARY KEY (workspace, provider, zone, name)
);
