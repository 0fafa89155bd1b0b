package kubernetes

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/muster-ci/muster/provider"
)

// standing is what a pod's object says about it, in our words and the platform's.
type standing struct {
	state  provider.InstanceState
	detail string
	// noRoom is since when the scheduler finds no node, zero if it is not that.
	noRoom time.Time
}

// warning is the last that the cluster said about a pod outside of its object.
type warning struct{ reason, text string }

// patience bounds how long a pod may be on its way.
type patience struct {
	start time.Duration
	now   time.Time
}

// hopeless are what a container waits for that nothing but a change of the
// configuration ends; the kubelet tries for ever.
var hopeless = map[string]string{
	"ErrImageNeverPull":          "image is not on the node and may not be pulled",
	"InvalidImageName":           "image name is invalid",
	"CreateContainerConfigError": "container's configuration is wrong",
}

// trying are what a container waits for that may pass.
var trying = map[string]string{
	"ErrImagePull": "image cannot be pulled", "ImagePullBackOff": "image cannot be pulled", "ImageInspectError": "image cannot be read",
	"RegistryUnavailable": "registry does not answer", "CreateContainerError": "container cannot be made", "RunContainerError": "container cannot be started",
	"PostStartHookError": "container's start hook failed", "CrashLoopBackOff": "container ends again and again",
}

// stand reads a pod. The order is that of certainty: the phase before the
// containers, a disruption before an exit code; a container says that it waits in a
// pod that was evicted long ago, and 137 of a node that went looks like 137 of a job.
func stand(pod *corev1.Pod, w warning, p patience) standing {
	disruption := condition(pod, corev1.DisruptionTarget)
	disrupted := disruption != nil && disruption.Status == corev1.ConditionTrue
	switch pod.Status.Phase {
	case corev1.PodSucceeded, corev1.PodFailed:
		detail := endOf(pod, disruption, disrupted)
		if !disrupted && pod.DeletionTimestamp != nil {
			// An agent that is told to end ends well, and looks as if its job was done.
			detail = words(deleted, detail)
		}
		return standing{state: provider.InstanceEnded, detail: detail}
	}
	if pod.DeletionTimestamp != nil {
		return standing{state: provider.InstanceEnded, detail: leaving(pod, disruption, disrupted, p.now)}
	}
	if disrupted {
		return standing{state: stateOf(pod), detail: about(disruption)}
	}
	if pod.Status.Phase == corev1.PodRunning {
		s := standing{state: provider.InstanceRunning}
		if ready := condition(pod, corev1.PodReady); ready != nil && ready.Status == corev1.ConditionFalse && ready.Reason == "" {
			// The one trace that a node's silence leaves at first: no reason. The kubelet always gives one.
			s.detail = words("the node is silent", nodeOf(pod), w.text)
		}
		return s
	}
	return pending(pod, w, p)
}

// pending says what a pod that has not started waits for.
func pending(pod *corev1.Pod, w warning, p patience) standing {
	s := standing{state: provider.InstanceStarting}
	age := p.now.Sub(pod.CreationTimestamp.Time)
	late := p.start > 0 && age > p.start
	if late {
		s.state = provider.InstanceEnded
	}
	say := func(what ...string) standing {
		s.detail = words(what...)
		if late {
			s.detail = fmt.Sprintf("did not start within %s: %s", p.start, cmp.Or(s.detail, "no reason is given"))
		}
		return s
	}
	if c := condition(pod, corev1.PodScheduled); c != nil && c.Status == corev1.ConditionFalse {
		switch c.Reason {
		case corev1.PodReasonUnschedulable:
			s.noRoom = c.LastTransitionTime.Time
			return say("no node has room", c.Message)
		case corev1.PodReasonSchedulingGated:
			return say("held back by a scheduling gate", c.Message)
		}
		return say("not scheduled", c.Reason, c.Message)
	}
	for _, c := range all(pod) {
		if wait := c.State.Waiting; wait != nil {
			if what, ok := hopeless[wait.Reason]; ok {
				s.state = provider.InstanceEnded
				s.detail = words(what, c.Name, wait.Reason, wait.Message)
				return s
			}
			if what, ok := trying[wait.Reason]; ok {
				// Without the name the registry's answer says nothing.
				return say(what, c.Image, wait.Reason, wait.Message)
			}
		}
		if end := c.State.Terminated; end != nil && end.ExitCode != 0 && c.Name == agentContainer {
			return say("agent was not delivered", exit(end))
		}
	}
	switch w.reason {
	case "FailedMount", "FailedAttachVolume":
		return say("volume is missing", w.text)
	case "FailedCreatePodSandBox":
		return say("sandbox cannot be made", w.text)
	case "":
	default:
		return say(w.reason, w.text)
	}
	return say()
}

// endOf says how a pod ended.
func endOf(pod *corev1.Pod, disruption *corev1.PodCondition, disrupted bool) string {
	switch {
	case disrupted:
		return words(about(disruption), pod.Status.Reason, pod.Status.Message)
	case pod.Status.Reason == "DeadlineExceeded":
		return words("maximum age reached", pod.Status.Reason, pod.Status.Message)
	case pod.Status.Reason == "Evicted" && strings.Contains(pod.Status.Message, "rejected"), strings.HasPrefix(pod.Status.Reason, "OutOf"), refusals[pod.Status.Reason]:
		return words("refused by the node before it started", pod.Status.Reason, pod.Status.Message)
	case pod.Status.Reason == "Evicted":
		// Without a disruption it is the pod's own doing: its disk.
		return words("used more disk than it may", pod.Status.Reason, pod.Status.Message)
	}
	for _, c := range all(pod) {
		end := c.State.Terminated
		if end == nil || c.Name != runnerContainer && end.ExitCode == 0 {
			continue
		}
		switch {
		case c.Name == agentContainer:
			return words("agent was not delivered", exit(end))
		case end.Reason == "OOMKilled":
			return words("out of memory", c.Name, exit(end))
		case end.Reason == "StartError" || end.Reason == "ContainerCannotRun":
			return words("program cannot be started", c.Name, exit(end))
		case end.Reason == "ContainerStatusUnknown":
			return words("the node lost its records", exit(end))
		case end.ExitCode == 0:
			return words("agent ended", exit(end))
		}
		return words("agent failed", exit(end))
	}
	return cmp.Or(words(pod.Status.Reason, pod.Status.Message), strings.ToLower(string(pod.Status.Phase)))
}

// refusals are the reasons of a kubelet that took a pod and then did not run it.
var refusals = map[string]bool{"NodeAffinity": true, "NodeShutdown": true, "UnexpectedAdmissionError": true, "PodOSNotSupported": true, "SysctlForbidden": true, "AppArmor": true, "Preempting": true, "Terminated": true}

const deleted = "deleted from outside, or by Muster"

// leaving says why a pod is on its way out.
func leaving(pod *corev1.Pod, disruption *corev1.PodCondition, disrupted bool, now time.Time) string {
	what := deleted
	if disrupted {
		what = about(disruption)
	}
	if now.Sub(pod.DeletionTimestamp.Time) > time.Minute {
		// Only the node can say that its processes are gone.
		what = words(what, fmt.Sprintf("node %s has not confirmed the end since %s; remove the node if it does not come back", nodeOf(pod), pod.DeletionTimestamp.UTC().Format(time.RFC3339)))
	}
	return what
}

// about names a disruption.
func about(c *corev1.PodCondition) string {
	what := map[string]string{
		"PreemptionByScheduler": "preempted by a pod of higher priority", "DeletionByTaintManager": "its node went silent or was tainted",
		"EvictionByEvictionAPI": "its node is being drained", "DeletionByPodGC": "its node is gone", "TerminationByKubelet": "ended by its node, which ran short or shuts down",
	}[c.Reason]
	return words(cmp.Or(what, "disrupted"), c.Reason, c.Message)
}

func exit(t *corev1.ContainerStateTerminated) string {
	how := fmt.Sprintf("exit code %d", t.ExitCode)
	if t.Signal != 0 {
		how = fmt.Sprintf("signal %d", t.Signal)
	}
	if t.Reason == "Completed" || t.Reason == "Error" {
		return words(how, t.Message)
	}
	return words(t.Reason, how, t.Message)
}

// words joins what there is to say. Messages come from far away, and are cut and made to
// stay on their line.
func words(parts ...string) string {
	var out []string
	for _, p := range parts {
		p = strings.Join(strings.Fields(strings.Map(func(r rune) rune {
			if r < ' ' || r == 0x7f {
				return ' '
			}
			return r
		}, p)), " ")
		if p != "" {
			out = append(out, p[:min(len(p), 500)])
		}
	}
	return strings.ToValidUTF8(strings.Join(out, ": "), "")
}

func condition(pod *corev1.Pod, kind corev1.PodConditionType) *corev1.PodCondition {
	for i := range pod.Status.Conditions {
		if pod.Status.Conditions[i].Type == kind {
			return &pod.Status.Conditions[i]
		}
	}
	return nil
}

// all are the states of a pod's containers, those that come first first.
func all(pod *corev1.Pod) []corev1.ContainerStatus {
	return append(append([]corev1.ContainerStatus{}, pod.Status.InitContainerStatuses...), pod.Status.ContainerStatuses...)
}

func stateOf(pod *corev1.Pod) provider.InstanceState {
	if pod.Status.Phase == corev1.PodRunning {
		return provider.InstanceRunning
	}
	return provider.InstanceStarting
}

// delivered reports whether the init container has done its work: nothing needs
// the boot Secret any more.
func delivered(pod *corev1.Pod) bool {
	if pod.Status.Phase != corev1.PodPending && pod.Status.Phase != "" {
		return true
	}
	for _, c := range pod.Status.InitContainerStatuses {
		if c.Name == agentContainer && c.State.Terminated != nil && c.State.Terminated.ExitCode == 0 {
			return true
		}
	}
	return false
}

func nodeOf(pod *corev1.Pod) string { return cmp.Or(pod.Spec.NodeName, "unknown") }
