package migrate

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
)

// GARMProviders reads the external providers of GARM's configuration file. It knows
// what that file has of TOML: tables, texts, and lists of texts, on any number of
// lines; everything else is passed over.
func GARMProviders(file string) ([]GARMProvider, error) {
	var out []GARMProvider
	table := ""
	lines := strings.Split(file, "\n")
	for i := 0; i < len(lines); i++ {
		line := uncommented(lines[i])
		switch {
		case line == "":
			continue
		case strings.HasPrefix(line, "["):
			table = strings.Trim(line, "[] \t")
			if table == "provider" {
				out = append(out, GARMProvider{})
			}
			continue
		case len(out) == 0 || table != "provider" && table != "provider.external":
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		if !ok {
			continue
		}
		key, value = strings.TrimSpace(key), strings.TrimSpace(value)
		for strings.HasPrefix(value, "[") && !strings.HasSuffix(value, "]") && i+1 < len(lines) {
			i++
			value += " " + uncommented(lines[i])
		}
		p := &out[len(out)-1]
		var err error
		switch table + "." + key {
		case "provider.name":
			p.Name, err = textOf(value)
		case "provider.external.provider_executable":
			p.Executable, err = textOf(value)
		case "provider.external.provider_dir":
			if p.Executable, err = textOf(value); err == nil {
				p.Executable = strings.TrimSuffix(p.Executable, "/") + "/garm-external-provider"
			}
		case "provider.external.config_file":
			p.ConfigFile, err = textOf(value)
		case "provider.external.interface_version":
			p.InterfaceVersion, err = textOf(value)
		case "provider.external.environment_variables":
			p.Environment, err = textsOf(value)
		}
		if err != nil {
			return nil, fmt.Errorf("line %d of GARM's configuration: %s: %w", i+1, key, err)
		}
	}
	return out, nil
}

// uncommented is a line without its comment and the space around it.
func uncommented(line string) string {
	quote := byte(0)
	for i := 0; i < len(line); i++ {
		switch ch := line[i]; {
		case quote == '"' && ch == '\\':
			i++
		case quote != 0 && ch == quote:
			quote = 0
		case quote == 0 && (ch == '"' || ch == '\''):
			quote = ch
		case quote == 0 && ch == '#':
			return strings.TrimSpace(line[:i])
		}
	}
	return strings.TrimSpace(line)
}

func textOf(value string) (string, error) {
	if len(value) > 1 && value[0] == '\'' && value[len(value)-1] == '\'' {
		return value[1 : len(value)-1], nil
	}
	s, err := strconv.Unquote(value)
	if err != nil || value[0] != '"' {
		return "", fmt.Errorf("%.60s is not a text", value)
	}
	return s, nil
}

func textsOf(value string) ([]string, error) {
	value = strings.TrimSpace(strings.TrimSuffix(strings.TrimSuffix(value, "]"), " "))
	value = strings.TrimSuffix(value, ",") + "]"
	var out []string
	if err := json.Unmarshal([]byte(value), &out); err != nil {
		return nil, fmt.Errorf("%.60s is not a list of texts", value)
	}
	return out, nil
}
