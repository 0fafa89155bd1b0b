package slurm

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/provider"
)

// tag is the comment of a job of ours: how it is found again, and what operators see.
type tag struct {
	Owner     string          `json:"muster"`
	Runner    muster.RunnerID `json:"runner"`
	Workspace string          `json:"workspace,omitempty"`
	Pool      string          `json:"pool,omitempty"`
}

// tagWord is the most of a workspace's or pool's name that a tag holds. Slurm keeps
// comments of 1,024 characters.
const tagWord = 64

func (t tag) text() string {
	t.Workspace, t.Pool = plainWord(t.Workspace), plainWord(t.Pool)
	text, err := json.Marshal(t)
	if err != nil {
		return "" // four texts always marshal
	}
	return string(text)
}

// plainWord keeps what is harmless on an operator's terminal.
func plainWord(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' || strings.ContainsRune(`\"'`+"`$", r) {
			return '_'
		}
		return r
	}, s)
	return s[:min(len(s), tagWord)]
}

// job is one job as slurmrestd and squeue tell of it.
type job struct {
	id        int64
	tag       tag // zero for a job of somebody else
	user      string
	states    []string // the base state first, flags after it
	reason    string
	nodes     string
	submitted time.Time
	started   time.Time
	limit     int64 // minutes
	exit      exit
	restarts  int64
}

// exit is how a job's script ended.
type exit struct {
	code, signal int64
}

// The JSON differs between versions: states are a text or a list, numbers are plain
// or carry whether they are set. These types read both.

type words []string

func (w *words) UnmarshalJSON(text []byte) error {
	if bytes.HasPrefix(bytes.TrimSpace(text), []byte("[")) {
		return json.Unmarshal(text, (*[]string)(w))
	}
	var one string
	if err := json.Unmarshal(text, &one); err != nil {
		return err
	}
	*w = strings.FieldsFunc(one, func(r rune) bool { return r == ',' || r == ' ' })
	return nil
}

type number int64

func (n *number) UnmarshalJSON(text []byte) error {
	text = bytes.TrimSpace(text)
	if bytes.HasPrefix(text, []byte("{")) {
		var v struct {
			Set    bool
			Number float64
		}
		if err := json.Unmarshal(text, &v); err != nil {
			return err
		}
		if v.Set {
			*n = number(v.Number)
		}
		return nil
	}
	if len(text) == 0 || text[0] != '-' && (text[0] < '0' || text[0] > '9') {
		return nil // null, or a word such as "infinite": not known
	}
	v, err := strconv.ParseFloat(string(text), 64)
	*n = number(v)
	return err
}

// exitCode is the raw wait status, or an object.
type exitCode exit

func (e *exitCode) UnmarshalJSON(text []byte) error {
	if !bytes.HasPrefix(bytes.TrimSpace(text), []byte("{")) {
		var raw number
		if err := raw.UnmarshalJSON(text); err != nil {
			return err
		}
		e.code, e.signal = int64(raw)>>8&0xff, int64(raw)&0x7f
		return nil
	}
	var v struct {
		Code   number `json:"return_code"`
		Signal struct {
			ID number `json:"id"`
		} `json:"signal"`
	}
	if err := json.Unmarshal(text, &v); err != nil {
		return err
	}
	e.code, e.signal = int64(v.Code), int64(v.Signal.ID)
	return nil
}

// complaint is one entry of the errors or warnings of an answer.
type complaint struct {
	Error       string `json:"error"`
	Description string `json:"description"`
	Source      string `json:"source"`
	Code        number `json:"error_code"`
	Number      number `json:"error_number"`
}

func (c complaint) String() string {
	text := cmp.Or(strings.TrimSpace(c.Description), strings.TrimSpace(c.Error), "no words")
	if c.Error != "" && c.Description != "" && c.Error != c.Description {
		text = c.Error + ": " + c.Description
	}
	if n := cmp.Or(c.Number, c.Code); n != 0 {
		text += fmt.Sprintf(" (%d)", n)
	}
	return text
}

func join(cs []complaint) string {
	var out []string
	for _, c := range cs {
		out = append(out, c.String())
	}
	return strings.Join(out, "; ")
}

// listing is the body of a list of jobs.
type listing struct {
	Jobs []struct {
		ID        number   `json:"job_id"`
		Comment   string   `json:"comment"`
		User      string   `json:"user_name"`
		State     words    `json:"job_state"`
		Reason    string   `json:"state_reason"`
		Nodes     string   `json:"nodes"`
		Submitted number   `json:"submit_time"`
		Started   number   `json:"start_time"`
		Limit     number   `json:"time_limit"`
		Exit      exitCode `json:"exit_code"`
		Restarts  number   `json:"restart_cnt"`
	} `json:"jobs"`
	Errors   []complaint `json:"errors"`
	Warnings []complaint `json:"warnings"`
}

// ours are the jobs of a listing that carry a tag.
func (l listing) ours() []job {
	var out []job
	for _, j := range l.Jobs {
		var t tag
		if !strings.HasPrefix(j.Comment, `{"muster":`) || json.Unmarshal([]byte(j.Comment), &t) != nil || t.Runner == "" {
			continue
		}
		out = append(out, job{
			id: int64(j.ID), tag: t, user: j.User, states: j.State, reason: j.Reason, nodes: j.Nodes,
			submitted: time.Unix(int64(j.Submitted), 0).UTC(), started: time.Unix(int64(j.Started), 0).UTC(),
			limit: int64(j.Limit), exit: exit(j.Exit), restarts: int64(j.Restarts),
		})
	}
	slices.SortFunc(out, func(a, b job) int { return cmp.Compare(a.id, b.id) })
	return out
}

// waiting are the states of a job that has not begun to run, or is to begin again.
var waiting = []string{"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD", "POWER_UP_NODE"}

// over are the states of a job that has ended, and what they mean.
var over = map[string]string{
	"COMPLETED":     "",
	"FAILED":        "the runner or its start failed",
	"CANCELLED":     "cancelled",
	"TIMEOUT":       "Slurm's time limit was reached",
	"NODE_FAIL":     "the node was lost; what ran on it may still run there",
	"PREEMPTED":     "another job of higher priority took the node",
	"OUT_OF_MEMORY": "it used more memory than it was given",
	"BOOT_FAIL":     "the node did not start",
	"DEADLINE":      "Slurm's deadline passed",
	"REVOKED":       "another cluster took the job",
	"LAUNCH_FAILED": "the node could not start the job",
}

// reasons says in words why Slurm lets a job wait, where its own word does not.
var reasons = map[string]string{
	"Resources":                   "no node has enough free",
	"Priority":                    "jobs of higher priority are before it",
	"Dependency":                  "another job of the same runner is there",
	"BeginTime":                   "it may not begin yet",
	"PartitionDown":               "the partition takes no jobs now",
	"PartitionInactive":           "the partition takes no jobs now",
	"PartitionConfig":             "no node of the partition is large enough: change partition or offering",
	"PartitionTimeLimit":          "it asks for more time than the partition gives: lower time_limit",
	"PartitionNodeLimit":          "the partition has no such node: change partition or offering",
	"ReqNodeNotAvail":             "the nodes that could run it are down, drained or reserved",
	"JobHeldUser":                 "it is held: scontrol release",
	"JobHeldAdmin":                "an administrator holds it",
	"QOSMaxJobsPerUserLimit":      "the user runs as many jobs as the QOS allows",
	"AssocMaxJobsLimit":           "the account runs as many jobs as it may",
	"AssocGrpCpuLimit":            "the account uses as many CPUs as it may",
	"QOSMaxCpuPerUserLimit":       "the user uses as many CPUs as the QOS allows",
	"QOSMaxGRESPerUser":           "the user uses as many GPUs as the QOS allows",
	"InvalidQOS":                  "the QOS is not valid: correct qos",
	"InvalidAccount":              "the account is not valid: correct account",
	"launch failed requeued held": "its start failed, and Slurm holds it: scontrol release",
}

func (j job) base() string {
	if len(j.states) == 0 {
		return "UNKNOWN"
	}
	return j.states[0]
}

// ended reports whether the job's script has ended for good.
func (j job) ended() bool {
	_, ok := over[j.base()]
	return ok
}

// gone reports whether nothing of the job runs any more, as far as Slurm knows.
func (j job) gone() bool { return j.ended() && !slices.Contains(j.states, "COMPLETING") }

// byItself reports whether Slurm ended the job for a reason of its own: neither its script
// nor whoever cancelled it did. The script was asked to stop first, and may have ended well.
func (j job) byItself() bool {
	return j.ended() && !slices.Contains([]string{"COMPLETED", "FAILED", "CANCELLED", "LAUNCH_FAILED"}, j.base())
}

// instance is the job in the words of the contract.
func (j job) instance() provider.Instance {
	in := provider.Instance{ID: strconv.FormatInt(j.id, 10), Runner: j.tag.Runner, State: provider.InstanceRunning, CreatedAt: j.submitted, Detail: j.detail()}
	switch {
	case j.ended():
		in.State = provider.InstanceEnded
	case slices.Contains(waiting, j.base()):
		in.State = provider.InstanceStarting
	}
	return in
}

// detail is the state in Slurm's words and, where those are few, in ours.
func (j job) detail() string {
	text := j.base()
	if j.reason != "" && j.reason != "None" {
		text += " (" + j.reason + ")"
	}
	if j.nodes != "" {
		text += " on " + j.nodes
	}
	switch {
	case slices.Contains(waiting, j.base()):
		reason, _, _ := strings.Cut(j.reason, ",") // "ReqNodeNotAvail, UnavailableNodes:n1"
		if words := reasons[reason]; words != "" {
			text += ": " + words
		}
	case j.base() == "TIMEOUT" && j.limit > 0:
		text += fmt.Sprintf(": Slurm's time limit of %d minutes was reached", j.limit)
	case over[j.base()] != "":
		text += ": " + over[j.base()]
	}
	if j.ended() && j.base() != "COMPLETED" {
		switch {
		case j.base() == "OUT_OF_MEMORY": // its code is Slurm's own
		case j.exit.signal != 0:
			text += fmt.Sprintf("; signal %d", j.exit.signal)
		case j.exit.code != 0:
			text += fmt.Sprintf("; exit code %d", j.exit.code)
		}
	}
	return text
}
