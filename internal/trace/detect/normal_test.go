package detect

import (
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// What was written in a baseline's way is not written in another way again: a fact may be
// named as the job had it, and as the baseline has it.
func TestNormalTwiceIsOnce(t *testing.T) {
	n := normaliser{workspace: "/home/r/_work/app/app", temp: "/home/r/_work/_temp"}
	piece := rapid.SampledFrom([]string{
		"/", ".", "..", "r-zol7zr7wmtabajbm", "-", "_", "*", "~", "$WORKSPACE", "$TEMP", "tmp", "home", "root", "r", "_work", "app", "_temp", "opt", "x64", "v20.1.0", "1.27.0-rc.1", "7", "go-build314", "deadbeefdeadbeef",
		"0a1b2c3d-1111-4222-8333-444455556666", ".npmrc", ".swp", ".AbCdEf12", "python3.11", "mirror", "eu", "west", "1", "blob", "core", "windows", "net", "github", "io", "com", "co", "uk", "amazonaws", "compute", "dev", "shm", "i-0123456789abcdef0", "abcdefghijklmnop0123456789", ":", "f00", "é",
	})
	rapid.Check(t, func(t *rapid.T) {
		text := strings.Join(rapid.SliceOfN(piece, 1, 12).Draw(t, "pieces"), rapid.SampledFrom([]string{"", "/", "."}).Draw(t, "between"))
		if once := n.host(text); (normaliser{}).host(once) != once {
			t.Errorf("host %q is %q, and that is %q", text, once, (normaliser{}).host(once))
		}
		if once := n.path(text); (normaliser{}).path(once) != once {
			t.Errorf("path %q is %q, and that is %q", text, once, (normaliser{}).path(once))
		}
	})
}
