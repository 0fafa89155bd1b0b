package demo

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/muster-ci/muster/internal/config"
)

// onKubernetes plays in pods of the cluster that the user's kubeconfig names.
var onKubernetes = stage{
	build: buildKubernetes,
	pool:  "connect_timeout: 1m",
}

// How long the cluster may take to answer, to start a pod, and to remove a namespace.
const (
	clusterAnswer = 15 * time.Second
	podStart      = time.Minute
	namespaceEnd  = 90 * time.Second
)

// pods is the stage on Kubernetes.
type pods struct {
	api       kubernetes.Interface
	namespace string // of the demo's runners
	probe     string // the name of the pod that looks around
}

func buildKubernetes(ctx context.Context, set props) (built, error) {
	host, port, err := net.SplitHostPort(set.control)
	if err != nil {
		return built{}, err
	}
	if config.Loopback(set.control) {
		return built{}, fmt.Errorf("pods do not reach %s: name an address of this machine that they reach, with --listen ADDRESS:%s", set.control, port)
	}
	file, err := kubeconfig(set.word("kubeconfig"), os.Getenv)
	if err != nil {
		return built{}, err
	}
	access, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(&clientcmd.ClientConfigLoadingRules{ExplicitPath: file},
		&clientcmd.ConfigOverrides{CurrentContext: set.word("context"), Timeout: clusterAnswer.String()}).ClientConfig()
	if err != nil {
		return built{}, fmt.Errorf("read %s: %w", file, err)
	}
	p := pods{namespace: set.name + "-" + workspace, probe: set.name}
	if p.api, err = kubernetes.NewForConfig(access); err != nil {
		return built{}, fmt.Errorf("read %s: %w", file, err)
	}
	if _, err := p.api.Discovery().ServerVersion(); err != nil {
		return built{}, fmt.Errorf("the cluster at %s does not answer: %w: start it, or name another kubeconfig in KUBECONFIG or with --provider-config", access.Host, err)
	}
	name := set.word("image")
	if name == "" {
		img, err := makeImage(set.agent, set.runner, set.look)
		if err != nil {
			return built{}, err
		}
		name = img.name
	}
	if err := p.look(ctx, name, set.github); err != nil {
		return built{}, err
	}
	_, githubPort, _ := net.SplitHostPort(set.github)
	network := host + "/32"
	if strings.Contains(host, ":") {
		network = host + "/128"
	}
	return built{
		section: fmt.Sprintf(`kubeconfig: %q
image: %q
agent_image: ""
agent_path: %s
namespace: %q
role: ""
max: %d
disk_mib: 1
grace: 2s
control_plane: {cidrs: [%q], port: %s}
egress: [{cidr: %q, except: [], ports: [%s]}]
`, file, name, imageAgent, set.name+"-{workspace}", 2*set.runners, network, port, network, githubPort),
		end: p.end,
	}, nil
}

// kubeconfig is the file of the user's cluster.
func kubeconfig(configured string, env func(string) string) (string, error) {
	files := append(filepath.SplitList(env("KUBECONFIG")), filepath.Join(env("HOME"), ".kube", "config"))
	if configured != "" {
		files = []string{configured}
	}
	for _, f := range files {
		if info, err := os.Stat(f); err == nil && !info.IsDir() {
			return filepath.Abs(f)
		}
	}
	return "", fmt.Errorf("there is no kubeconfig (%s): name one in KUBECONFIG, or as kubeconfig in the file of --provider-config", strings.Join(files, ", "))
}

// look starts one pod, to see whether nodes have the image and reach this machine.
func (p pods) look(ctx context.Context, image, address string) (err error) {
	const namespace = "default"
	ctx, cancel := context.WithTimeout(ctx, podStart)
	defer cancel()
	all := p.api.CoreV1().Pods(namespace)
	_, err = all.Create(ctx, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: p.probe},
		Spec: corev1.PodSpec{
			RestartPolicy: corev1.RestartPolicyNever, AutomountServiceAccountToken: new(false),
			SecurityContext: &corev1.PodSecurityContext{RunAsNonRoot: new(true), RunAsUser: new(int64(imageUser)), SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}},
			Containers: []corev1.Container{{
				Name: "look", Image: image, ImagePullPolicy: corev1.PullIfNotPresent, Command: []string{"/bin/bash", "-c", dial(address)},
				SecurityContext: &corev1.SecurityContext{AllowPrivilegeEscalation: new(false), Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}}},
			}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("make a pod in namespace %s: %w", namespace, err)
	}
	defer func() {
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), clusterAnswer)
		defer cancel()
		err = errors.Join(err, all.Delete(clean, p.probe, metav1.DeleteOptions{GracePeriodSeconds: new(int64(0))}))
	}()
	last := "no node has taken it"
	for {
		pod, err := all.Get(ctx, p.probe, metav1.GetOptions{})
		switch {
		case err == nil && pod.Status.Phase == corev1.PodSucceeded:
			return nil
		case err == nil && pod.Status.Phase == corev1.PodFailed:
			return fmt.Errorf("a pod does not reach %s, where the simulated GitHub listens: name an address of this machine that pods reach with --listen", address)
		case err == nil:
			for _, s := range pod.Status.ContainerStatuses {
				if w := s.State.Waiting; w != nil {
					last = strings.TrimSpace(w.Reason + " " + w.Message)
					if strings.HasPrefix(w.Reason, "ErrImage") || w.Reason == "ImagePullBackOff" || w.Reason == "InvalidImageName" {
						return fmt.Errorf("the node does not have image %s (%s): write it with muster demo --write-image FILE and load it on every node (kind load image-archive FILE, k3s ctr images import FILE, "+
							"ctr --namespace k8s.io images import FILE), or push it to a registry and name it as image in the file of --provider-config", image, last)
					}
				}
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the cluster did not run a pod within %s: %s", podStart, last)
		case <-time.After(300 * time.Millisecond):
		}
	}
}

// end removes the demo's namespace with all that is in it.
func (p pods) end(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, namespaceEnd)
	defer cancel()
	all := p.api.CoreV1().Namespaces()
	if err := all.Delete(ctx, p.namespace, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("remove namespace %s: %w", p.namespace, err)
	}
	for {
		_, err := all.Get(ctx, p.namespace, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("namespace %s is still there: %w", p.namespace, cmp.Or(err, context.Cause(ctx)))
		case <-time.After(300 * time.Millisecond):
		}
	}
}
