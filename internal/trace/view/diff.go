package view

// Diff is what one job did and an earlier run of the same job did not, after paths
// and names were normalised (see Normal).
type Diff struct {
	// NewHosts, NewPrograms and NewSensitive are in this job and not in the earlier one.
	NewHosts     []Host          `json:"new_hosts,omitempty"`
	NewPrograms  []Program       `json:"new_programs,omitempty"`
	NewSensitive []SensitiveFile `json:"new_sensitive,omitempty"`
	// NewNotable are kinds of notable events that the earlier run had none of: the first of each.
	NewNotable []Notable `json:"new_notable,omitempty"`
	// Gone* were in the earlier one only.
	GoneHosts     []string `json:"gone_hosts,omitempty"`
	GonePrograms  []string `json:"gone_programs,omitempty"`
	GoneSensitive []string `json:"gone_sensitive,omitempty"`
	// Steps are those that were added, are gone, or changed by more than noise.
	Steps []StepDiff `json:"steps,omitempty"`
	// Total compares the whole job, whether or not it changed.
	Total StepDiff `json:"total"`
	// Partial says why the diff may show too much or too little: one of the two was
	// incomplete or over a limit. Empty if it is exact.
	Partial []string `json:"partial,omitempty"`
}

// How a step changed.
const (
	StepAdded   = "added"
	StepGone    = "gone"
	StepChanged = "changed"
	StepSame    = "same"
)

// StepDiff is a step then and now.
type StepDiff struct {
	Name   string `json:"name"`
	Change string `json:"change"` // StepAdded, StepGone, StepChanged or StepSame
	// The durations are 0 where the step was not.
	DurationUS       int64 `json:"duration_us"`
	BeforeDurationUS int64 `json:"before_duration_us"`
	CPUUS            int64 `json:"cpu_us"`
	BeforeCPUUS      int64 `json:"before_cpu_us"`
	Processes        int64 `json:"processes"`
	BeforeProcesses  int64 `json:"before_processes"`
	// Result differs only if both are known.
	Result       string `json:"result,omitempty"`
	BeforeResult string `json:"before_result,omitempty"`
	// Why are the ways in which it changed, as words: "duration", "cpu", "processes", "result".
	Why []string `json:"why,omitempty"`
}

// Empty reports whether nothing is new. What is gone and what took longer is not new.
func (d Diff) Empty() bool {
	return len(d.NewHosts)+len(d.NewPrograms)+len(d.NewSensitive)+len(d.NewNotable) == 0
}
