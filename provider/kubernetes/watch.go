package kubernetes

import (
	"cmp"
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"

	"github.com/muster-ci/muster"
)

// watch follows the pods of one namespace, and what the cluster warns of. It adds
// to what the API server answers and never stands for it: words for a pod that waits,
// the reason for one that vanished, and the sizes that find no node.
type watch struct {
	pods   cache.SharedIndexInformer
	events cache.SharedIndexInformer
}

// The indexes of a watch.
const (
	byPod    = "pod"    // warnings by the pod's UID
	byNoRoom = "noroom" // pods without a node, by size
)

// watch starts to follow a namespace, once.
func (p *Provider) watch(ns string) *watch {
	p.mu.Lock()
	defer p.mu.Unlock()
	if w := p.watches[ns]; w != nil || p.closed {
		return w
	}
	ours := informers.NewSharedInformerFactoryWithOptions(p.stream, 0, informers.WithNamespace(ns),
		informers.WithTweakListOptions(func(o *metav1.ListOptions) { o.LabelSelector = p.ours() }))
	warnings := informers.NewSharedInformerFactoryWithOptions(p.stream, 0, informers.WithNamespace(ns),
		informers.WithTweakListOptions(func(o *metav1.ListOptions) { o.FieldSelector = "involvedObject.kind=Pod,type=Warning" }))
	w := &watch{pods: ours.Core().V1().Pods().Informer(), events: warnings.Core().V1().Events().Informer()}
	// None of these fails before the informers have started.
	_ = w.pods.SetTransform(slimPod)
	_ = w.events.SetTransform(slimEvent)
	_ = w.events.AddIndexers(cache.Indexers{byPod: func(o any) ([]string, error) {
		e, _ := o.(*corev1.Event)
		return []string{string(e.InvolvedObject.UID)}, nil
	}})
	_ = w.pods.AddIndexers(cache.Indexers{byNoRoom: func(o any) ([]string, error) {
		pod, _ := o.(*corev1.Pod)
		if pod.DeletionTimestamp == nil && !stand(pod, warning{}, patience{}).noRoom.IsZero() {
			return []string{pod.Labels[labelSize]}, nil
		}
		return nil, nil
	}})
	for _, i := range []cache.SharedIndexInformer{w.pods, w.events} {
		_ = i.SetWatchErrorHandlerWithContext(func(_ context.Context, _ *cache.Reflector, err error) {
			p.log.Debug("watch of namespace interrupted", "namespace", ns, "error", err)
		})
	}
	_, _ = w.pods.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    p.sawPod,
		UpdateFunc: func(_, o any) { p.sawPod(o) },
		DeleteFunc: p.sawGone,
	})
	p.watches[ns] = w
	p.work.Go(func() { w.pods.RunWithContext(p.born) })
	p.work.Go(func() { w.events.RunWithContext(p.born) })
	return w
}

// slimPod keeps what stand and the handlers look at: a pod is ten kilobytes, and
// there are thousands.
func slimPod(o any) (any, error) {
	pod, ok := o.(*corev1.Pod)
	if !ok {
		return o, nil
	}
	out := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: pod.Name, Namespace: pod.Namespace, UID: pod.UID, ResourceVersion: pod.ResourceVersion, CreationTimestamp: pod.CreationTimestamp,
			DeletionTimestamp: pod.DeletionTimestamp, DeletionGracePeriodSeconds: pod.DeletionGracePeriodSeconds,
			Labels: map[string]string{labelRunner: pod.Labels[labelRunner], labelSize: pod.Labels[labelSize]},
		},
		Spec:   corev1.PodSpec{NodeName: pod.Spec.NodeName},
		Status: corev1.PodStatus{Phase: pod.Status.Phase, Reason: pod.Status.Reason, Message: pod.Status.Message},
	}
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodScheduled || c.Type == corev1.DisruptionTarget || c.Type == corev1.PodReady {
			out.Status.Conditions = append(out.Status.Conditions, c)
		}
	}
	keep := func(from []corev1.ContainerStatus) (to []corev1.ContainerStatus) {
		for _, c := range from {
			to = append(to, corev1.ContainerStatus{Name: c.Name, State: c.State})
		}
		return to
	}
	out.Status.InitContainerStatuses, out.Status.ContainerStatuses = keep(pod.Status.InitContainerStatuses), keep(pod.Status.ContainerStatuses)
	return out, nil
}

func slimEvent(o any) (any, error) {
	e, ok := o.(*corev1.Event)
	if !ok {
		return o, nil
	}
	return &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{Name: e.Name, Namespace: e.Namespace, UID: e.UID, ResourceVersion: e.ResourceVersion},
		InvolvedObject: corev1.ObjectReference{UID: e.InvolvedObject.UID},
		Reason:         e.Reason, Message: e.Message[:min(len(e.Message), 1000)],
		LastTimestamp: metav1.NewTime(lastSeen(e)),
	}, nil
}

func lastSeen(e *corev1.Event) time.Time {
	at := e.LastTimestamp.Time
	for _, t := range []time.Time{e.EventTime.Time, e.CreationTimestamp.Time} {
		if t.After(at) {
			at = t
		}
	}
	if e.Series != nil && e.Series.LastObservedTime.After(at) {
		at = e.Series.LastObservedTime.Time
	}
	return at
}

// sawPod notes where a pod is, and that its boot Secret has done its work.
func (p *Provider) sawPod(o any) {
	pod, ok := o.(*corev1.Pod)
	if !ok {
		return
	}
	id := muster.RunnerID(pod.Labels[labelRunner])
	p.mu.Lock()
	p.places[id] = pod.Namespace
	p.mu.Unlock()
	if delivered(pod) && pod.DeletionTimestamp == nil && pod.Status.Phase == corev1.PodRunning {
		select {
		case p.used <- pod:
		default: // its pod takes it along in the end
		}
	}
}

// keptLost is for how long, and of how many runners at most, the end of a vanished pod is
// remembered: until somebody asks about the runner, which is soon.
const (
	keptLost = 30 * time.Minute
	mostLost = 4096
)

// sawGone remembers why a pod went.
func (p *Provider) sawGone(o any) {
	if last, ok := o.(cache.DeletedFinalStateUnknown); ok {
		o = last.Obj
	}
	pod, ok := o.(*corev1.Pod)
	if !ok {
		return
	}
	id, now := muster.RunnerID(pod.Labels[labelRunner]), time.Now()
	why := stand(pod, warning{}, patience{now: now}).detail
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.lost) >= mostLost {
		for k, l := range p.lost {
			if now.Sub(l.at) > keptLost {
				delete(p.lost, k)
			}
		}
	}
	if len(p.lost) < mostLost {
		p.lost[id] = lost{cmp.Or(why, "pod was deleted from outside"), now}
	}
}

// warningOf is the last warning about a pod that has not started. Of others the
// object says all.
func (p *Provider) warningOf(ctx context.Context, pod *corev1.Pod) warning {
	if pod.Status.Phase != corev1.PodPending && pod.Status.Phase != "" {
		return warning{}
	}
	w := p.watch(pod.Namespace)
	if w == nil {
		return warning{}
	}
	if age := time.Since(pod.CreationTimestamp.Time); age > 5*time.Second {
		// After a restart the first look may come before the first list. It waits a little: words are
		// worth that, and no more.
		ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		cache.WaitForCacheSync(ctx.Done(), w.events.HasSynced)
	}
	return w.lastWarning(pod.UID)
}

func (w *watch) lastWarning(uid types.UID) warning {
	found, err := w.events.GetIndexer().ByIndex(byPod, string(uid))
	if err != nil {
		return warning{}
	}
	var last *corev1.Event
	for _, o := range found {
		if e, ok := o.(*corev1.Event); ok && (last == nil || e.LastTimestamp.After(last.LastTimestamp.Time)) {
			last = e
		}
	}
	if last == nil {
		return warning{}
	}
	return warning{last.Reason, last.Message}
}

// noRoom reports whether pods of a size wait for a node for too long already:
// another one would only wait with them.
func (p *Provider) noRoom(ns, size string) (string, bool) {
	p.mu.Lock()
	w := p.watches[ns]
	p.mu.Unlock()
	if w == nil {
		return "", false
	}
	waiting, err := w.pods.GetIndexer().ByIndex(byNoRoom, size)
	if err != nil {
		return "", false
	}
	for _, o := range waiting {
		pod, ok := o.(*corev1.Pod)
		if !ok {
			continue
		}
		s := stand(pod, warning{}, patience{})
		if time.Since(pod.CreationTimestamp.Time) > time.Duration(p.cfg.CapacityAfter) {
			return "pod " + pod.Name + " of the same size waits already: " + s.detail, true
		}
	}
	return "", false
}

// removeUsed deletes boot Secrets that were delivered.
func (p *Provider) removeUsed() {
	done := map[types.UID]time.Time{}
	for {
		var pod *corev1.Pod
		select {
		case <-p.born.Done():
			return
		case pod = <-p.used:
		}
		if !done[pod.UID].IsZero() {
			continue
		}
		ctx, cancel := context.WithTimeout(p.born, 10*time.Second)
		err := p.absent(ctx, "boot token of pod "+pod.Name, p.client.CoreV1().Secrets(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{}))
		cancel()
		if err != nil {
			p.log.Warn("boot token stays in its Secret until its pod goes", "pod", pod.Name, "error", err)
			continue
		}
		now := time.Now()
		if done[pod.UID] = now; len(done) > mostLost {
			for uid, at := range done {
				if now.Sub(at) > keptLost {
					delete(done, uid)
				}
			}
		}
	}
}
