package kubernetes

import (
	"context"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/muster-ci/muster"
	"github.com/muster-ci/muster/provider"
)

// C28, S4-20, S4-35, S4-52. Runners have one scaler, the planner: an autoscaler that
// counted pods would end busy ones. What an autoscaler can do well is to keep room
// on nodes. So for an offering with is_autoscale there is a Deployment of pods that
// do nothing for each pool of it, of the offering's size and of a lower priority, and an
// autoscaler that wants as many of them as the pool has runners on their way. A runner pushes one out and
// starts at once; the one that was pushed out makes the cluster add a node.

// room renders a pool's placeholders and what scales them.
func (c Config) room(ns, pool string, o muster.Offering) (*appsv1.Deployment, *autoscalingv2.HorizontalPodAutoscaler) {
	name := "muster-room-" + slug(pool, 40)
	labels := map[string]string{labelRole: "room", labelPool: labelValue(pool), "app.kubernetes.io/managed-by": "muster"}
	fence := &corev1.SecurityContext{AllowPrivilegeEscalation: new(false), Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}}}
	idle := corev1.PodSpec{
		ServiceAccountName: account, AutomountServiceAccountToken: new(false), EnableServiceLinks: new(false),
		TerminationGracePeriodSeconds: new(int64(0)),
		PriorityClassName:             c.Room.PriorityClass,
		NodeSelector:                  c.NodeSelector,
		Tolerations:                   tolerations(c.Tolerations),
		SecurityContext: &corev1.PodSecurityContext{
			RunAsNonRoot: new(true), RunAsUser: new(int64(65535)), SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
		},
		Containers: []corev1.Container{{
			Name: "room", Image: c.Room.Image, ImagePullPolicy: corev1.PullPolicy(c.PullPolicy), Resources: c.resources(o), SecurityContext: fence,
		}},
	}
	if o.Spot {
		idle.NodeSelector = map[string]string{}
		set(&idle.NodeSelector, c.NodeSelector)
		set(&idle.NodeSelector, c.SpotNodeSelector)
		idle.Tolerations = append(idle.Tolerations, tolerations(c.SpotTolerations)...)
	}
	deployment := &appsv1.Deployment{
		TypeMeta:   metav1.TypeMeta{APIVersion: "apps/v1", Kind: "Deployment"},
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: ns, Labels: labels},
		// The number of replicas is the autoscaler's alone.
		Spec: appsv1.DeploymentSpec{
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: idle},
		},
	}
	scaler := &autoscalingv2.HorizontalPodAutoscaler{
		TypeMeta:   metav1.TypeMeta{APIVersion: "autoscaling/v2", Kind: "HorizontalPodAutoscaler"},
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: ns, Labels: labels},
		Spec: autoscalingv2.HorizontalPodAutoscalerSpec{
			ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: name},
			MinReplicas:    new(int32(1)),
			MaxReplicas:    int32(c.Room.Max),
			Metrics: []autoscalingv2.MetricSpec{{
				Type: autoscalingv2.ExternalMetricSourceType,
				External: &autoscalingv2.ExternalMetricSource{
					Metric: autoscalingv2.MetricIdentifier{Name: c.Room.Metric, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"pool": labelValue(pool), "state": string(muster.RunnerProvisioning)}}},
					Target: autoscalingv2.MetricTarget{Type: autoscalingv2.AverageValueMetricType, AverageValue: resource.NewQuantity(1, resource.DecimalSI)},
				},
			}},
		},
	}
	return deployment, scaler
}

// keepRoom makes the placeholders of a pool, or removes those that it had. An error
// is told and keeps no job waiting.
func (p *Provider) keepRoom(ctx context.Context, ns, pool string, o muster.Offering) {
	if p.cfg.Room.Max == 0 {
		return
	}
	key := ns + "/" + pool
	p.mu.Lock()
	is, known := p.rooms[key]
	p.rooms[key] = o
	p.mu.Unlock()
	if known && is == o {
		return
	}
	deployment, scaler := p.cfg.room(ns, pool, o)
	var err error
	if o.Autoscale {
		err = p.apply(ctx, object{p.client.AppsV1().RESTClient(), "deployments", ns, deployment.Name, deployment})
		if err == nil {
			err = p.apply(ctx, object{p.client.AutoscalingV2().RESTClient(), "horizontalpodautoscalers", ns, scaler.Name, scaler})
		}
	} else {
		err = p.absent(ctx, "autoscaler "+scaler.Name, p.client.AutoscalingV2().HorizontalPodAutoscalers(ns).Delete(ctx, scaler.Name, metav1.DeleteOptions{}))
		if err == nil {
			err = p.absent(ctx, "deployment "+deployment.Name, p.client.AppsV1().Deployments(ns).Delete(ctx, deployment.Name, metav1.DeleteOptions{}))
		}
	}
	if err != nil {
		p.mu.Lock()
		delete(p.rooms, key) // the next runner tries again
		p.mu.Unlock()
		p.log.Error("keep room for a pool", "namespace", ns, "pool", pool, "error", err)
	}
}

// absent is the class of an error of a deletion; what is not there needs none.
func (p *Provider) absent(ctx context.Context, what string, err error) error {
	if err = p.class(ctx, "remove "+what, err); isNotFound(err) {
		return nil
	}
	return err
}

var _ provider.Provider = (*Provider)(nil)
