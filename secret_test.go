package muster_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/muster-ci/muster"
)

// No way of printing shows a secret.
func TestSecretIsNotShown(t *testing.T) {
	const marker = "gh5_Canary"
	type holder struct {
		Token muster.Secret
		Map   map[string]muster.Secret
	}
	secret := muster.Secret(marker)
	h := holder{secret, map[string]muster.Secret{"k": secret}}
	var out []string
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%f", "%t", "%c", "%U", "%10.3s"} {
		out = append(out, fmt.Sprintf(verb, secret), fmt.Sprintf(verb, &secret), fmt.Sprintf(verb, h), fmt.Sprintf(verb, []muster.Secret{secret}))
	}
	out = append(out, fmt.Sprint(secret), fmt.Errorf("call: %w", errors.New(fmt.Sprint(secret))).Error())
	j, err := json.Marshal(h)
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("m", "secret", secret, "holder", h)
	slog.New(slog.NewTextHandler(&log, nil)).Info("m", "secret", secret, "holder", h)
	for _, s := range append(out, string(j), log.String()) {
		if strings.Contains(s, marker) || strings.Contains(s, fmt.Sprintf("%x", marker)) || strings.Contains(s, fmt.Sprintf("%X", marker)) {
			t.Errorf("shown in %q", s)
		}
	}
	if got := fmt.Sprint(secret); got != "***" {
		t.Errorf("printed %q", got)
	}
	if secret.Reveal() != marker || fmt.Sprint(muster.Secret("")) != "" {
		t.Error("Reveal or the empty secret")
	}
}
