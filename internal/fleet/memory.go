package fleet

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"
)

// File is a Memory in a JSON file. A file that is not there is an empty one.
type File string

type fileContent struct {
	LastScaling map[string]time.Time `json:"last_scaling"`
}

// Load reads the file.
func (f File) Load() (map[string]time.Time, error) {
	var c fileContent
	text, err := os.ReadFile(string(f))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err == nil {
		err = json.Unmarshal(text, &c)
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", f, err)
	}
	return c.LastScaling, nil
}

// Save replaces the file in one step.
func (f File) Save(last map[string]time.Time) error {
	text, err := json.Marshal(fileContent{last})
	if err != nil {
		return err
	}
	tmp := string(f) + ".new"
	if err := os.WriteFile(tmp, append(text, '\n'), 0o600); err != nil {
		return fmt.Errorf("write %s: %w", f, err)
	}
	return os.Rename(tmp, string(f))
}
