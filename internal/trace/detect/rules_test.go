package detect

import "testing"

// The rules that are shipped do what the tests beside them say.
func TestShippedRules(t *testing.T) {
	rules, err := Shipped()
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range rules.Check() {
		t.Error(err)
	}
}
