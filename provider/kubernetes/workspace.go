package kubernetes

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	authv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	netv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/rest"

	"github.com/muster-ci/muster/provider"
)

// The name of everything in a namespace that is there once.
const fenceName = "muster"

// object is what is applied: something to be found under resource and name.
type object struct {
	client    rest.Interface
	resource  string
	namespace string // "" for what belongs to the cluster
	name      string
	value     any
}

// apply makes an object so, whatever it was. Several control planes may say the
// same of one object.
func (p *Provider) apply(ctx context.Context, o object) error {
	data, err := json.Marshal(o.value)
	if err != nil {
		return fmt.Errorf("encode %s %s: %w", o.resource, o.name, err)
	}
	req := o.client.Patch(types.ApplyPatchType).NamespaceIfScoped(o.namespace, o.namespace != "").Resource(o.resource).Name(o.name).
		VersionedParams(&metav1.PatchOptions{FieldManager: "muster-" + short(p.cfg.Owner), Force: new(true)}, metav1.ParameterCodec)
	if err := req.Body(data).Do(ctx).Error(); err != nil {
		return p.class(ctx, "make "+o.resource+" "+o.name, err)
	}
	return nil
}

// refenced is how often what fences a namespace is put right.
const refenced = 10 * time.Minute

// ensure returns the namespace of a workspace, made and fenced if that is ours to do (S4-48).
func (p *Provider) ensure(ctx context.Context, workspace string) (string, error) {
	ns, given, ok := p.cfg.namespaceOf(workspace)
	if !ok {
		return "", fmt.Errorf("%w: workspace %s has no namespace: name one under namespaces, or allow create_namespaces", provider.ErrInvalid, workspace)
	}
	p.mu.Lock()
	g := p.fences[ns]
	if g == nil {
		g = &fence{turn: make(chan struct{}, 1)}
		p.fences[ns] = g
	}
	p.mu.Unlock()
	select {
	case g.turn <- struct{}{}:
		defer func() { <-g.turn }()
	case <-ctx.Done():
		return "", fmt.Errorf("wait for namespace %s: %w", ns, ctx.Err())
	}
	if !g.made.IsZero() && time.Since(g.made) < refenced {
		return ns, nil
	}
	if !given {
		if err := p.makeNamespace(ctx, ns, workspace); err != nil {
			return "", err
		}
	}
	if len(p.cfg.Registries) > 0 {
		if err := p.applyPullSecret(ctx, ns); err != nil {
			return "", err
		}
	}
	g.made = time.Now()
	return ns, nil
}

// fence is what is known of a namespace; whoever holds turn may look and change it.
type fence struct {
	turn chan struct{}
	made time.Time
}

// forget makes the next ensure look again.
func (p *Provider) forget(ns string) {
	p.mu.Lock()
	delete(p.fences, ns)
	p.mu.Unlock()
}

func (p *Provider) makeNamespace(ctx context.Context, ns, workspace string) error {
	have, err := p.client.CoreV1().Namespaces().Get(ctx, ns, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
	case err != nil:
		return p.class(ctx, "look at namespace "+ns, err)
	case have.DeletionTimestamp != nil:
		return fmt.Errorf("%w: namespace %s is being deleted; it is made again once it is gone", provider.ErrTransient, ns)
	case have.Annotations[noteWorkspace] != plain(workspace):
		// S4-46: whose namespace it is, is not guessed.
		return fmt.Errorf("%w: namespace %s exists and is not of workspace %q: rename it, or name it under namespaces", provider.ErrInvalid, ns, workspace)
	}
	if err := p.apply(ctx, object{p.client.CoreV1().RESTClient(), "namespaces", "", ns, p.cfg.namespaceObject(ns, workspace)}); err != nil {
		return err
	}
	if p.cfg.Role != "" {
		me, err := p.client.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authv1.SelfSubjectReview{}, metav1.CreateOptions{})
		if err != nil {
			return p.class(ctx, "ask who we are", err)
		}
		if err := p.apply(ctx, object{p.client.RbacV1().RESTClient(), "rolebindings", ns, "muster-" + short(p.cfg.Owner), p.cfg.binding(ns, me.Status.UserInfo.Username)}); err != nil {
			return err
		}
	}
	for _, o := range p.fenceOf(ns) {
		// What was bound a moment ago is not known everywhere yet.
		err := p.again(ctx, 5*time.Second, func(err error) bool { return p.cfg.Role != "" && isDenied(err) }, func() error { return p.apply(ctx, o) })
		if err != nil {
			return err
		}
	}
	return p.quotaCounts(ctx, ns)
}

func (c Config) namespaceObject(ns, workspace string) *corev1.Namespace {
	level := "restricted"
	switch {
	case c.Docker == dockerSidecar, c.Recorder:
		level = "privileged"
	case c.User == 0:
		level = "baseline"
	}
	return &corev1.Namespace{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Namespace"},
		ObjectMeta: metav1.ObjectMeta{
			Name: ns,
			Labels: map[string]string{
				"app.kubernetes.io/managed-by": "muster", labelOwns(c.Owner): "true",
				"pod-security.kubernetes.io/enforce": level, "pod-security.kubernetes.io/warn": level,
			},
			Annotations: map[string]string{noteWorkspace: plain(workspace)},
		},
	}
}

func (c Config) binding(ns, user string) *rbacv1.RoleBinding {
	return &rbacv1.RoleBinding{
		TypeMeta:   metav1.TypeMeta{APIVersion: "rbac.authorization.k8s.io/v1", Kind: "RoleBinding"},
		ObjectMeta: metav1.ObjectMeta{Name: "muster-" + short(c.Owner), Namespace: ns},
		Subjects:   []rbacv1.Subject{{Kind: "User", APIGroup: "rbac.authorization.k8s.io", Name: user}},
		RoleRef:    rbacv1.RoleRef{APIGroup: "rbac.authorization.k8s.io", Kind: "ClusterRole", Name: c.Role},
	}
}

// fenceOf lists what stands in every namespace that we made. The chart makes the
// same in namespaces that are given.
func (p *Provider) fenceOf(ns string) []object {
	c, core := p.cfg, p.client.CoreV1().RESTClient()
	out := []object{
		{core, "serviceaccounts", ns, account, &corev1.ServiceAccount{
			TypeMeta:                     metav1.TypeMeta{APIVersion: "v1", Kind: "ServiceAccount"},
			ObjectMeta:                   metav1.ObjectMeta{Name: account, Namespace: ns},
			AutomountServiceAccountToken: new(false),
		}},
		{core, "limitranges", ns, fenceName, c.limitRange(ns)},
		{p.client.PolicyV1().RESTClient(), "poddisruptionbudgets", ns, fenceName, budget(ns)},
	}
	if c.NetworkPolicy {
		out = append(out, object{p.client.NetworkingV1().RESTClient(), "networkpolicies", ns, fenceName, c.networkPolicy(ns)})
	}
	if q := c.resourceQuota(ns); q != nil {
		out = append(out, object{core, "resourcequotas", ns, fenceName, q})
	}
	return out
}

// budget refuses every eviction: a drain waits for the jobs of a node. Only this
// form works for pods that no controller owns.
func budget(ns string) *policyv1.PodDisruptionBudget {
	return &policyv1.PodDisruptionBudget{
		TypeMeta:   metav1.TypeMeta{APIVersion: "policy/v1", Kind: "PodDisruptionBudget"},
		ObjectMeta: metav1.ObjectMeta{Name: fenceName, Namespace: ns},
		Spec: policyv1.PodDisruptionBudgetSpec{
			MinAvailable: new(intstr.FromInt32(2147483647)),
			Selector:     &metav1.LabelSelector{MatchLabels: map[string]string{labelRole: "runner"}},
		},
	}
}

func (c Config) limitRange(ns string) *corev1.LimitRange {
	item := corev1.LimitRangeItem{
		Type: corev1.LimitTypeContainer,
		// For an offering that says nothing: the scheduler must not take its pods for free.
		DefaultRequest: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("100m"), corev1.ResourceMemory: resource.MustParse("128Mi")},
		Max:            quantities(c.ContainerMax),
	}
	return &corev1.LimitRange{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "LimitRange"},
		ObjectMeta: metav1.ObjectMeta{Name: fenceName, Namespace: ns},
		Spec:       corev1.LimitRangeSpec{Limits: []corev1.LimitRangeItem{item}},
	}
}

// countPods counts pods that have ended too: they are not cleaned up.
const countPods corev1.ResourceName = "count/pods"

func (c Config) resourceQuota(ns string) *corev1.ResourceQuota {
	hard := quantities(c.Quota)
	if c.Max > 0 {
		if hard == nil {
			hard = corev1.ResourceList{}
		}
		hard[countPods] = resource.MustParse(strconv.Itoa(c.Max))
	}
	if len(hard) == 0 {
		return nil
	}
	return &corev1.ResourceQuota{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "ResourceQuota"},
		ObjectMeta: metav1.ObjectMeta{Name: fenceName, Namespace: ns},
		Spec:       corev1.ResourceQuotaSpec{Hard: hard},
	}
}

func quantities(texts map[string]string) corev1.ResourceList {
	var out corev1.ResourceList
	for name, v := range texts {
		if out == nil {
			out = corev1.ResourceList{}
		}
		out[corev1.ResourceName(name)] = resource.MustParse(v) // Validate has read it
	}
	return out
}

// networkPolicy lets nothing in, and out only what is listed (S4-64, S4-65).
func (c Config) networkPolicy(ns string) *netv1.NetworkPolicy {
	udp, tcp := corev1.ProtocolUDP, corev1.ProtocolTCP
	at := func(protocol *corev1.Protocol, n int) netv1.NetworkPolicyPort {
		return netv1.NetworkPolicyPort{Protocol: protocol, Port: new(intstr.FromInt32(int32(n)))}
	}
	block := func(cidr string, except ...string) netv1.NetworkPolicyPeer {
		return netv1.NetworkPolicyPeer{IPBlock: &netv1.IPBlock{CIDR: cidr, Except: except}}
	}
	named := func(namespace string, pods map[string]string) netv1.NetworkPolicyPeer {
		peer := netv1.NetworkPolicyPeer{NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"kubernetes.io/metadata.name": namespace}}}
		if len(pods) > 0 {
			peer.PodSelector = &metav1.LabelSelector{MatchLabels: pods}
		}
		return peer
	}
	out := []netv1.NetworkPolicyEgressRule{{
		// The cluster's DNS, and the cache that some clusters have on every node.
		To:    []netv1.NetworkPolicyPeer{named("kube-system", map[string]string{"k8s-app": "kube-dns"}), block("169.254.20.10/32")},
		Ports: []netv1.NetworkPolicyPort{at(&udp, 53), at(&tcp, 53)},
	}}
	plane := netv1.NetworkPolicyEgressRule{Ports: []netv1.NetworkPolicyPort{at(&tcp, c.ControlPlane.Port)}}
	for _, cidr := range c.ControlPlane.CIDRs {
		plane.To = append(plane.To, block(cidr))
	}
	if c.ControlPlane.Namespace != "" {
		plane.To = append(plane.To, named(c.ControlPlane.Namespace, c.ControlPlane.Labels))
	}
	if len(plane.To) > 0 { // a rule without destinations would allow all
		out = append(out, plane)
	}
	for _, e := range c.Egress {
		rule := netv1.NetworkPolicyEgressRule{To: []netv1.NetworkPolicyPeer{block(e.CIDR, e.Except...)}}
		for _, n := range e.Ports {
			rule.Ports = append(rule.Ports, at(&tcp, n))
		}
		out = append(out, rule)
	}
	return &netv1.NetworkPolicy{
		TypeMeta:   metav1.TypeMeta{APIVersion: "networking.k8s.io/v1", Kind: "NetworkPolicy"},
		ObjectMeta: metav1.ObjectMeta{Name: fenceName, Namespace: ns},
		Spec: netv1.NetworkPolicySpec{
			PolicyTypes: []netv1.PolicyType{netv1.PolicyTypeIngress, netv1.PolicyTypeEgress},
			Egress:      out,
		},
	}
}

// quotaCounts waits until the quota of a new namespace counts: before that nothing
// is refused, because admission reads what a controller has yet to write.
func (p *Provider) quotaCounts(ctx context.Context, ns string) error {
	want := p.cfg.resourceQuota(ns)
	if want == nil {
		return nil
	}
	return p.again(ctx, 10*time.Second, func(err error) bool { return err != nil }, func() error {
		q, err := p.client.CoreV1().ResourceQuotas(ns).Get(ctx, fenceName, metav1.GetOptions{})
		if err != nil {
			return p.class(ctx, "look at the quota of namespace "+ns, err)
		}
		for name, hard := range want.Spec.Hard {
			if have, ok := q.Status.Hard[name]; !ok || have.Cmp(hard) != 0 {
				return fmt.Errorf("%w: the quota of namespace %s is not counted yet; is kube-controller-manager running?", provider.ErrTransient, ns)
			}
		}
		return nil
	})
}

// again repeats what fails for a moment, every 50 ms and at most for as long as told.
func (p *Provider) again(ctx context.Context, most time.Duration, passing func(error) bool, try func() error) error {
	deadline := time.Now().Add(most)
	for {
		err := try()
		if err == nil || !passing(err) || ctx.Err() != nil || time.Now().After(deadline) {
			return err
		}
		select {
		case <-ctx.Done():
		case <-time.After(50 * time.Millisecond):
		}
	}
}
