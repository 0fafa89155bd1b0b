package main

import (
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"gopkg.in/yaml.v3"
)

// machine is the first process of a machine. It runs the user data as cloud-init
// does and stays, as a machine does, until it is killed.
func machine(dir string) int {
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	if os.Getenv("MACHINE_USER_DATA") == "1" {
		if err := cloudInit(dir); err != nil {
			fmt.Fprintf(os.Stderr, "cloud-init: %v\n", err)
		}
	}
	<-stop
	return 0
}

// userData is what the library writes of cloud-init's language.
type userData struct {
	WriteFiles []struct {
		Encoding    string `yaml:"encoding"`
		Content     string `yaml:"content"`
		Path        string `yaml:"path"`
		Permissions string `yaml:"permissions"`
	} `yaml:"write_files"`
	RunCmd []string `yaml:"runcmd"`
}

func cloudInit(dir string) error {
	if err := image(dir); err != nil {
		return err
	}
	text, err := os.ReadFile(filepath.Join(dir, "user-data"))
	if err != nil {
		return err
	}
	var u userData
	if err := yaml.Unmarshal(text, &u); err != nil {
		return fmt.Errorf("user data: %w", err)
	}
	for _, f := range u.WriteFiles {
		if f.Encoding != "b64" {
			return fmt.Errorf("%s is in encoding %q", f.Path, f.Encoding)
		}
		content, err := base64.StdEncoding.DecodeString(f.Content)
		if err != nil {
			return fmt.Errorf("%s: %w", f.Path, err)
		}
		at := filepath.Join(dir, "root", f.Path)
		if err := errors.Join(os.MkdirAll(filepath.Dir(at), 0o755), os.WriteFile(at, content, 0o755)); err != nil {
			return err
		}
	}
	for _, line := range u.RunCmd {
		// Paths at the root of the file system are in the machine's own directory; "su" to
		// the image's user is left out, because there is none but root here.
		line = strings.ReplaceAll(line, "su -l -c /install_runner.sh runner", "/install_runner.sh")
		for _, own := range []string{"/install_runner.sh", "/garm-pre-install"} {
			line = strings.ReplaceAll(line, own, filepath.Join(dir, "root", own))
		}
		fmt.Println("+", line)
		cmd := exec.Command("/bin/sh", "-c", line)
		cmd.Dir = "/home/runner"
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		if err := cmd.Run(); err != nil {
			fmt.Fprintf(os.Stderr, "runcmd %s: %v\n", line, err) // cloud-init goes on, too
		}
	}
	return nil
}

// image makes this process's namespaces look like a cloud's image: a home for the
// user runner, and an /etc of its own.
func image(dir string) error {
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("mounts of its own: %w", err)
	}
	if err := syscall.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	over := filepath.Join(dir, "over")
	if err := os.MkdirAll(over, 0o755); err != nil {
		return err
	}
	if err := syscall.Mount("tmpfs", over, "tmpfs", 0, ""); err != nil {
		return fmt.Errorf("mount a tmpfs: %w", err)
	}
	if err := errors.Join(os.Mkdir(filepath.Join(over, "up"), 0o755), os.Mkdir(filepath.Join(over, "work"), 0o755)); err != nil {
		return err
	}
	if err := syscall.Mount("overlay", "/etc", "overlay", 0, "lowerdir=/etc,upperdir="+over+"/up,workdir="+over+"/work"); err != nil {
		return fmt.Errorf("mount an overlay over /etc: %w", err)
	}
	if err := syscall.Mount("tmpfs", "/home", "tmpfs", 0, ""); err != nil {
		return fmt.Errorf("mount /home: %w", err)
	}
	err := errors.Join(os.MkdirAll("/home/runner", 0o755), os.MkdirAll("/etc/systemd/system", 0o755),
		appendLine("/etc/passwd", "runner:x:61007:61007::/home/runner:/bin/bash"), appendLine("/etc/group", "runner:x:61007:"))
	if err != nil {
		return err
	}
	if from := os.Getenv("MACHINE_RUNNER"); from != "" {
		if err := os.CopyFS("/home/runner/actions-runner", os.DirFS(from)); err != nil {
			return err
		}
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	bin := filepath.Join(dir, "bin")
	if err := errors.Join(os.MkdirAll(bin, 0o755), link(self, filepath.Join(bin, "sudo")), link(self, filepath.Join(bin, "systemctl"))); err != nil {
		return err
	}
	return errors.Join(os.Setenv("PATH", bin+":"+os.Getenv("PATH")), os.Setenv("HOME", "/home/runner"),
		os.Unsetenv("MACHINE_RUNNER"), os.Unsetenv("MACHINE_USER_DATA"))
}

func link(from, to string) error {
	if err := os.Symlink(from, to); !errors.Is(err, os.ErrExist) {
		return err
	}
	return nil
}

func appendLine(name, line string) error {
	text, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	return os.WriteFile(name, append(text, []byte(line+"\n")...), 0o644)
}

// becomes is sudo.
func becomes(args []string) int {
	if len(args) == 0 {
		return 1
	}
	path, err := exec.LookPath(args[0])
	if err == nil {
		err = syscall.Exec(path, args, os.Environ())
	}
	fmt.Fprintln(os.Stderr, err)
	return 1
}

// systemctl knows what the script asks of it.
func systemctl(args []string) int {
	if len(args) != 2 || args[0] != "start" {
		return 0 // daemon-reload, enable
	}
	self, err := os.Executable()
	if err == nil {
		cmd := exec.Command(self, "service", "/etc/systemd/system/"+args[1])
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		err = cmd.Start()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// service runs a unit: ExecStart, and then ExecStopPost.
func service(file string) int {
	text, err := os.ReadFile(file)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	unit, input, lines := map[string]string{}, "", map[string][]string{}
	for line := range strings.Lines(string(text)) {
		if k, v, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
			unit[k], lines[k] = v, append(lines[k], v)
			if k == "StandardInputText" {
				input += v + "\n"
			}
		}
	}
	for _, line := range append(lines["ExecStart"], lines["ExecStopPost"]...) {
		words := split(strings.TrimLeft(line, "-+!@:"))
		cmd := exec.Command(words[0], words[1:]...)
		cmd.Dir = unit["WorkingDirectory"]
		if unit["StandardInput"] == "data" {
			cmd.Stdin = strings.NewReader(input)
		}
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		fmt.Printf("service: %s\n", words[0])
		if err := cmd.Run(); err != nil {
			fmt.Fprintf(os.Stderr, "service: %s: %v\n", words[0], err)
		}
	}
	return 0
}

// split takes a command line of a unit apart, as systemd does: words in single or
// double quotes, %% for %, $$ for $.
func split(line string) (words []string) {
	var b strings.Builder
	quote, inside := byte(0), false
	for i := 0; i < len(line); i++ {
		switch ch := line[i]; {
		case quote != 0 && ch == quote:
			quote = 0
		case quote == 0 && (ch == '\'' || ch == '"'):
			quote, inside = ch, true
		case quote == 0 && ch == ' ':
			if inside {
				words = append(words, b.String())
				b.Reset()
			}
			inside = false
		case (ch == '%' || ch == '$') && i+1 < len(line) && line[i+1] == ch:
			i++
			b.WriteByte(ch)
			inside = true
		default:
			b.WriteByte(ch)
			inside = true
		}
	}
	if inside {
		words = append(words, b.String())
	}
	return words
}
