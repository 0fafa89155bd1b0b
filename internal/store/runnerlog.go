package store

import (
	"context"
	"fmt"

	"github.com/muster-ci/muster"
)

const (
	// maxRunnerLog is how much of a runner's output is kept, in bytes.
	maxRunnerLog = 1 << 20
	// logRow is the size below which a row of a log takes in the next chunk, so
	// that many small chunks do not become many rows.
	logRow = 16 << 10
)

// logCut ends a log of which the rest was not kept.
const logCut = "\n[muster: the log was cut here, at 1 MiB]\n"

// AppendRunnerLog keeps a piece of a runner's output whose first byte has the
// given offset. Bytes below the end of what is there are skipped, so a chunk may
// be sent again; chunks are otherwise expected in order. What is missing between
// two chunks, and that a log goes on after 1 MiB, is told by a marker in the
// text. CodeNotFound for an unknown runner, CodeInvalid for a negative offset.
func (s *Store) AppendRunnerLog(ctx context.Context, workspace string, id muster.RunnerID, offset int64, data []byte) error {
	if offset < 0 {
		return muster.Errorf(muster.CodeInvalid, "a log has no offset %d", offset)
	}
	return s.write(ctx, func(t *tx) error {
		if _, err := t.runner(workspace, id, ""); err != nil {
			return err
		}
		if err := t.lock("runner log", workspace, string(id)); err != nil {
			return err
		}
		var start, size int64
		var last []byte
		found, err := t.row("SELECT start, size, data FROM runner_logs WHERE workspace = ? AND runner = ? ORDER BY start DESC LIMIT 1",
			[]any{workspace, id}, &start, &size, &last)
		if err != nil {
			return err
		}
		// A new variable, since the transaction may run again.
		at, chunk := offset, data
		end := start + size
		if skip := end - at; skip > 0 {
			if skip >= int64(len(chunk)) {
				return nil
			}
			at, chunk = end, chunk[skip:]
		}
		if len(chunk) == 0 || end > maxRunnerLog {
			return nil
		}
		if at >= maxRunnerLog {
			// One byte beyond the end is the mark that there was more.
			at, chunk = maxRunnerLog, []byte{0}
		} else if over := at + int64(len(chunk)) - maxRunnerLog; over > 0 {
			chunk = chunk[:int64(len(chunk))-over]
			if err := s.putLogRow(t, workspace, id, maxRunnerLog, []byte{0}); err != nil {
				return err
			}
		}
		if found && at == end && at < maxRunnerLog && size < logRow {
			old, err := s.unseal(logPurpose(workspace, id, start), last)
			if err != nil {
				return err
			}
			at, chunk = start, append(old, chunk...)
		}
		t.changed("log", workspace, string(id))
		return s.putLogRow(t, workspace, id, at, chunk)
	})
}

// RunnerLog returns what is kept of a runner's output, with markers where some
// is missing. CodeNotFound for an unknown runner; a runner without output has an
// empty log.
func (s *Store) RunnerLog(ctx context.Context, workspace string, id muster.RunnerID) ([]byte, error) {
	var log []byte
	err := s.snapshot(ctx, func(t *tx) error {
		if _, err := t.runner(workspace, id, ""); err != nil {
			return err
		}
		end := int64(0)
		return t.rows("SELECT start, size, data FROM runner_logs WHERE workspace = ? AND runner = ? ORDER BY start", []any{workspace, id}, func(scan scanner) error {
			var start, size int64
			var data []byte
			if err := scan(&start, &size, &data); err != nil {
				return err
			}
			if start >= maxRunnerLog {
				log = append(log, logCut...)
				return nil
			}
			if start > end {
				log = fmt.Appendf(log, "\n[muster: %d bytes are missing here]\n", start-end)
			}
			end = start + size
			plain, err := s.unseal(logPurpose(workspace, id, start), data)
			log = append(log, plain...)
			return err
		})
	})
	return log, err
}

func (s *Store) putLogRow(t *tx, workspace string, id muster.RunnerID, start int64, plain []byte) error {
	data, err := s.seal(logPurpose(workspace, id, start), plain)
	if err != nil {
		return err
	}
	_, err = t.exec(`INSERT INTO runner_logs (workspace, runner, start, size, data) VALUES (?, ?, ?, ?, ?)
		ON CONFLICT (workspace, runner, start) DO UPDATE SET size = excluded.size, data = excluded.data`,
		workspace, id, start, len(plain), data)
	return err
}

// logPurpose binds sealed output to its place.
func logPurpose(workspace string, id muster.RunnerID, start int64) string {
	return fmt.Sprintf("runner log %s/%s/%d", workspace, id, start)
}

func (s *Store) seal(purpose string, plain []byte) ([]byte, error) {
	if s.secrets == nil {
		return plain, nil
	}
	return s.secrets.Seal(purpose, plain)
}

func (s *Store) unseal(purpose string, data []byte) ([]byte, error) {
	if s.secrets == nil {
		return data, nil
	}
	return s.secrets.Open(purpose, data)
}
