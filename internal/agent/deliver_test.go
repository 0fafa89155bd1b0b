package agent

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// 4-14 S4-61: the token reaches the next container in a file that only its user reads, and
// is in no output.
func TestDeliver(t *testing.T) {
	dir, token := t.TempDir(), filepath.Join(t.TempDir(), "token")
	t.Setenv("MUSTER_BOOT_TOKEN_FILE", token)
	var out, errs bytes.Buffer
	if code := Main([]string{"--deliver", dir}, "test", &out, &errs); code != ExitInternal || !strings.Contains(errs.String(), "boot token") {
		t.Errorf("without a token: %d %s", code, &errs)
	}
	if err := os.WriteFile(token, []byte(bootToken), 0o440); err != nil {
		t.Fatal(err)
	}
	for range 2 { // an init container may be started again
		if code := Main([]string{"--deliver", dir}, "test", &out, &errs); code != ExitDone {
			t.Fatalf("code %d: %s", code, &errs)
		}
	}
	got := filepath.Join(dir, "boot", "token")
	if text, err := os.ReadFile(got); err != nil || string(text) != bootToken {
		t.Errorf("delivered %q, %v", text, err)
	}
	if info, err := os.Stat(got); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the token's file: %v, %v", info, err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.Stat(self)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(filepath.Join(dir, "bin", "muster-agent")); err != nil || info.Size() != want.Size() || info.Mode().Perm()&0o111 == 0 {
		t.Errorf("the agent's file: %v, %v", info, err)
	}
	if strings.Contains(out.String()+errs.String(), bootToken) {
		t.Error("the token was printed")
	}
}
