package kubernetes

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	client "k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/provider"
)

// Provider runs runners as pods. New makes one, Close ends what it watches.
type Provider struct {
	cfg    Config
	log    *slog.Logger
	client client.Interface // one request at a time, each bounded
	stream client.Interface // watches, which last

	mu      sync.Mutex
	fences  map[string]*fence
	rooms   map[string]muster.Offering
	watches map[string]*watch
	closed  bool
	places  map[muster.RunnerID]string // the namespace of a pod that was seen
	lost    map[muster.RunnerID]lost

	work sync.WaitGroup
	end  context.CancelFunc
	born context.Context //nolint:containedctx // the life of the provider itself: watches outlive the call that starts them
	used chan *corev1.Pod
}

// lost is why a pod went that was not ours to delete.
type lost struct {
	why string
	at  time.Time
}

// New makes a provider. It speaks to the API server when it is first asked to do something.
func New(cfg Config) (*Provider, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.Owner == "" {
		return nil, errors.New("kubernetes provider: an owner is required")
	}
	access, err := cfg.access()
	if err != nil {
		return nil, err
	}
	access.QPS, access.Burst, access.UserAgent = float32(cfg.QPS), cfg.Burst, "muster"
	// A deprecated API is our affair, not an operator's.
	access.WarningHandler = rest.NoWarnings{}
	p := &Provider{
		cfg: cfg, log: cfg.Logger, fences: map[string]*fence{}, rooms: map[string]muster.Offering{}, watches: map[string]*watch{},
		places: map[muster.RunnerID]string{}, lost: map[muster.RunnerID]lost{}, used: make(chan *corev1.Pod, 1024),
	}
	if p.log == nil {
		p.log = slog.New(slog.DiscardHandler)
	}
	if p.stream, err = client.NewForConfig(access); err != nil {
		return nil, fmt.Errorf("kubernetes provider: %w", err)
	}
	bounded := rest.CopyConfig(access)
	bounded.Timeout = time.Duration(cfg.Timeout)
	if p.client, err = client.NewForConfig(bounded); err != nil {
		return nil, fmt.Errorf("kubernetes provider: %w", err)
	}
	p.born, p.end = context.WithCancel(context.Background())
	p.work.Go(p.removeUsed)
	return p, nil
}

// access finds the cluster and our credentials.
func (c Config) access() (*rest.Config, error) {
	if c.Kubeconfig == "" {
		cfg, err := rest.InClusterConfig()
		if err != nil {
			return nil, fmt.Errorf("kubeconfig: name one, because this is no pod of a cluster: %w", err)
		}
		return cfg, nil
	}
	cfg, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(
		&clientcmd.ClientConfigLoadingRules{ExplicitPath: c.Kubeconfig}, &clientcmd.ConfigOverrides{CurrentContext: c.Context}).ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("kubeconfig: %s: %w", c.Kubeconfig, err)
	}
	return cfg, nil
}

// Close ends the watches and waits for them. What runs keeps running.
func (p *Provider) Close() error {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.end()
	p.work.Wait()
	return nil
}

// Create makes the pod of a runner, and then the Secret that it waits for.
func (p *Provider) Create(ctx context.Context, spec provider.Spec) (provider.Instance, error) {
	if err := ctx.Err(); err != nil {
		return provider.Instance{}, fmt.Errorf("create pod: %w", err)
	}
	if err := p.check(spec); err != nil {
		return provider.Instance{}, err
	}
	var pod *corev1.Pod
	// A namespace may go, or its service account may not be there yet, between one call and the next.
	err := p.again(ctx, 3*time.Second, func(err error) bool { return errors.Is(err, errUnready) }, func() (err error) {
		ns, err := p.ensure(ctx, spec.Workspace)
		if err != nil {
			return err
		}
		pod, err = p.createPod(ctx, ns, spec)
		return err
	})
	if err != nil {
		return provider.Instance{}, err
	}
	p.mu.Lock()
	p.places[spec.Runner] = pod.Namespace
	delete(p.lost, spec.Runner)
	p.mu.Unlock()
	p.watch(pod.Namespace)
	if !delivered(pod) && pod.DeletionTimestamp == nil {
		_, err := p.client.CoreV1().Secrets(pod.Namespace).Create(ctx, secret(pod, spec.Boot.Token), metav1.CreateOptions{})
		if err != nil && !apierrors.IsAlreadyExists(err) {
			return provider.Instance{}, p.class(ctx, "give pod "+pod.Name+" its boot token", err)
		}
	}
	p.keepRoom(ctx, pod.Namespace, spec.Pool, spec.Offering)
	return p.instance(ctx, pod), nil
}

// errUnready marks what a namespace lacks for a moment after it was made.
var errUnready = errors.New("namespace is not ready")

func (p *Provider) check(spec provider.Spec) error {
	switch u, err := url.Parse(spec.Boot.URL); {
	case spec.Owner != p.cfg.Owner:
		return fmt.Errorf("%w: owner is %q and must be %q", provider.ErrInvalid, spec.Owner, p.cfg.Owner)
	case !spec.Runner.Valid():
		return fmt.Errorf("%w: runner id %q", provider.ErrInvalid, spec.Runner)
	case spec.Boot.Token == "":
		return fmt.Errorf("%w: there is no boot token", provider.ErrInvalid)
	case spec.Boot.URL == "" || err != nil || u.Host == "":
		return fmt.Errorf("%w: there is no URL of the control plane", provider.ErrInvalid)
	case spec.MaxAge < 0:
		return fmt.Errorf("%w: maximum age %s is negative", provider.ErrInvalid, spec.MaxAge)
	}
	return nil
}

func (p *Provider) createPod(ctx context.Context, ns string, spec provider.Spec) (*corev1.Pod, error) {
	want, err := p.cfg.pod(spec, ns)
	if err != nil {
		return nil, err
	}
	if why, full := p.noRoom(ns, want.Labels[labelSize]); full {
		have, err := p.client.CoreV1().Pods(ns).Get(ctx, want.Name, metav1.GetOptions{})
		if err == nil {
			return have, nil
		}
		if !apierrors.IsNotFound(err) {
			return nil, p.class(ctx, "look for pod "+want.Name, err)
		}
		return nil, fmt.Errorf("%w: %s", provider.ErrCapacity, why)
	}
	var pod *corev1.Pod
	// A pod that went a moment ago may still be counted.
	stale := func(err error) bool { return errors.Is(err, provider.ErrQuota) && p.countedTooMany(ctx, ns) }
	err = p.again(ctx, 2*time.Second, stale, func() (err error) {
		pod, err = p.client.CoreV1().Pods(ns).Create(ctx, want, metav1.CreateOptions{})
		return p.class(ctx, "create pod "+want.Name+" in namespace "+ns, err)
	})
	switch {
	case err == nil:
		return pod, nil
	case apierrors.IsAlreadyExists(err), errors.Is(err, provider.ErrQuota):
		// Quota is looked at before the name: a pod that is there needs no room.
		have, getErr := p.client.CoreV1().Pods(ns).Get(ctx, want.Name, metav1.GetOptions{})
		if getErr == nil {
			return have, nil
		}
		if !apierrors.IsNotFound(getErr) {
			return nil, p.class(ctx, "look for pod "+want.Name, getErr)
		}
		return nil, err
	case apierrors.IsNotFound(err) || isUnready(err):
		p.forget(ns)
		return nil, errors.Join(err, errUnready)
	}
	return nil, err
}

// countedTooMany reports whether a namespace's quota counts more pods than there are.
func (p *Provider) countedTooMany(ctx context.Context, ns string) bool {
	if p.cfg.Max == 0 {
		return false
	}
	n := 0
	err := p.pods(ctx, ns, func(*corev1.Pod) bool { n++; return true })
	return err == nil && n < p.cfg.Max
}

// Delete asks for the end of a runner's pod with its Secret. It says ErrNotFound
// only when neither is there.
func (p *Provider) Delete(ctx context.Context, id muster.RunnerID) error {
	pod, err := p.find(ctx, id)
	if err != nil {
		return err
	}
	if pod == nil {
		return p.gone(id)
	}
	if pod.DeletionTimestamp != nil {
		return nil
	}
	// The same pod that was found, and no other of its name.
	err = p.client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &pod.UID}})
	if apierrors.IsConflict(err) {
		return fmt.Errorf("%w: delete pod %s: %w", provider.ErrTransient, pod.Name, err)
	}
	if err := p.absent(ctx, "pod "+pod.Name, err); err != nil {
		return err
	}
	// Its owner reference would take it too, a moment later.
	return p.absent(ctx, "boot token of pod "+pod.Name, p.client.CoreV1().Secrets(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{}))
}

// Get looks at a runner's pod.
func (p *Provider) Get(ctx context.Context, id muster.RunnerID) (provider.Instance, error) {
	pod, err := p.find(ctx, id)
	if err != nil {
		return provider.Instance{}, err
	}
	if pod == nil {
		return provider.Instance{}, p.gone(id)
	}
	return p.instance(ctx, pod), nil
}

// gone is the error for a runner without a pod, with what was seen of its end.
func (p *Provider) gone(id muster.RunnerID) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if l, ok := p.lost[id]; ok {
		return &provider.GoneError{Detail: l.why}
	}
	return provider.ErrNotFound
}

// find looks for a runner's pod, first where it was seen; nil without an error
// says that it is nowhere.
func (p *Provider) find(ctx context.Context, id muster.RunnerID) (*corev1.Pod, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("find pod of %s: %w", id, err)
	}
	if !id.Valid() {
		return nil, provider.ErrNotFound
	}
	p.mu.Lock()
	seen := p.places[id]
	p.mu.Unlock()
	look := func(ns string) (*corev1.Pod, error) {
		pod, err := p.client.CoreV1().Pods(ns).Get(ctx, podName(p.cfg.Owner, id), metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil, nil
		}
		if err != nil {
			return nil, p.class(ctx, "look for the pod of "+string(id), err)
		}
		return pod, nil
	}
	if seen != "" {
		if pod, err := look(seen); pod != nil || err != nil {
			return pod, err
		}
	}
	all, err := p.namespaces(ctx)
	if err != nil {
		return nil, err
	}
	for _, ns := range all {
		if ns == seen {
			continue
		}
		if pod, err := look(ns); pod != nil || err != nil {
			return pod, err
		}
	}
	p.mu.Lock()
	delete(p.places, id)
	p.mu.Unlock()
	return nil, nil
}

// List yields the owner's pods, as the API server has them.
func (p *Provider) List(ctx context.Context) iter.Seq2[provider.Instance, error] {
	return func(yield func(provider.Instance, error) bool) {
		all, err := p.namespaces(ctx)
		if err != nil {
			yield(provider.Instance{}, err)
			return
		}
		for _, ns := range all {
			stopped := false
			err := p.pods(ctx, ns, func(pod *corev1.Pod) bool {
				stopped = !yield(p.instance(ctx, pod), nil)
				return !stopped
			})
			if stopped {
				return
			}
			if err != nil {
				yield(provider.Instance{}, err)
				return
			}
		}
	}
}

// page is how many pods one answer has: a megabyte or two.
const page = 250

// pods shows the owner's pods in a namespace, page by page, until see has enough.
func (p *Provider) pods(ctx context.Context, ns string, see func(*corev1.Pod) bool) error {
	opts := metav1.ListOptions{LabelSelector: p.ours(), Limit: page}
	for {
		list, err := p.client.CoreV1().Pods(ns).List(ctx, opts)
		if err != nil {
			return p.class(ctx, "list pods of namespace "+ns, err)
		}
		for i := range list.Items {
			if !see(&list.Items[i]) {
				return nil
			}
		}
		if opts.Continue = list.Continue; opts.Continue == "" {
			return nil
		}
	}
}

// ours selects the pods of this owner's runners.
func (p *Provider) ours() string {
	return labelOwner + "=" + short(p.cfg.Owner) + "," + labelRole + "=runner"
}

// namespaces are those that may have pods of this owner.
func (p *Provider) namespaces(ctx context.Context) ([]string, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("list namespaces: %w", err)
	}
	names := slices.Collect(maps.Values(p.cfg.Namespaces))
	if p.cfg.CreateNamespaces {
		list, err := p.client.CoreV1().Namespaces().List(ctx, metav1.ListOptions{LabelSelector: labelOwns(p.cfg.Owner)})
		if err != nil {
			return nil, p.class(ctx, "list namespaces", err)
		}
		for _, ns := range list.Items {
			names = append(names, ns.Name)
		}
	}
	slices.Sort(names)
	names = slices.Compact(names)
	for _, ns := range names {
		p.watch(ns)
	}
	return names, nil
}

// instance is a pod as the contract has it.
func (p *Provider) instance(ctx context.Context, pod *corev1.Pod) provider.Instance {
	s := stand(pod, p.warningOf(ctx, pod), patience{time.Duration(p.cfg.StartTimeout), time.Now()})
	return provider.Instance{
		ID: pod.Namespace + "/" + pod.Name, Runner: muster.RunnerID(pod.Labels[labelRunner]),
		State: s.state, Detail: s.detail, CreatedAt: pod.CreationTimestamp.Time,
	}
}

// class gives an error of the API server its class. nil stays nil.
func (p *Provider) class(ctx context.Context, doing string, err error) error {
	if err == nil {
		return nil
	}
	if done := ctx.Err(); done != nil {
		return fmt.Errorf("%s: %w", doing, done)
	}
	kind := provider.ErrTransient
	switch {
	case apierrors.IsForbidden(err):
		kind = refusal(err.Error())
	case apierrors.IsInvalid(err), apierrors.IsBadRequest(err), apierrors.IsRequestEntityTooLargeError(err), apierrors.IsMethodNotSupported(err):
		kind = provider.ErrInvalid
	}
	if isDenied(err) {
		return fmt.Errorf("%w: %s: %w; grant it as deploy/kubernetes and the chart do", kind, doing, err)
	}
	return fmt.Errorf("%w: %s: %w", kind, doing, err)
}

// refusal tells the kinds of a 403 apart, which only their texts do.
func refusal(text string) error {
	switch {
	case strings.Contains(text, "exceeded quota"):
		return provider.ErrQuota
	case strings.Contains(text, "is being terminated"), strings.Contains(text, "error looking up service account"), strings.Contains(text, "unknown state"),
		strings.Contains(text, "status unknown for quota"):
		return provider.ErrTransient
	}
	return provider.ErrInvalid
}

// isDenied reports whether we lack a right; the text then says which verb on what.
func isDenied(err error) bool {
	return apierrors.IsForbidden(err) && (strings.Contains(err.Error(), " cannot ") || strings.Contains(err.Error(), "attempting to grant RBAC permissions"))
}

func isUnready(err error) bool {
	return apierrors.IsForbidden(err) && (strings.Contains(err.Error(), "error looking up service account") || strings.Contains(err.Error(), "status unknown for quota"))
}

func isNotFound(err error) bool { return apierrors.IsNotFound(err) }

// Describe says what this provider is.
func (p *Provider) Describe() provider.Description { return description() }
