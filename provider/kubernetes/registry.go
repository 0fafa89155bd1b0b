package kubernetes

import (
	"bytes"
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/muster-ci/muster/provider"
)

// Registry is one registry with what it takes to pull from it (S4-49). Secrets are
// in files, which are read anew each time a namespace is put right.
type Registry struct {
	// Kind is custom, gcp or aws.
	Kind string `json:"kind"`
	// Server is the registry's host: ghcr.io, europe-docker.pkg.dev, 123456789012.dkr.ecr.eu-west-1.amazonaws.com.
	Server string `json:"server"`
	// Username and PasswordFile are those of a custom registry.
	Username     string `json:"username,omitempty"`
	PasswordFile string `json:"password_file,omitempty"`
	// KeyFile is a service account's JSON key, for gcp.
	KeyFile string `json:"key_file,omitempty"`
	// AccessKeyID and SecretKeyFile are an IAM user's, for aws.
	AccessKeyID   string `json:"access_key_id,omitempty"`
	SecretKeyFile string `json:"secret_key_file,omitempty"`
	// Endpoint replaces the address of the ECR API, for aws through a private endpoint.
	Endpoint string `json:"endpoint,omitempty"`
}

var (
	registryHost = regexp.MustCompile(`\A[A-Za-z0-9.-]+(:[0-9]+)?\z`)
	ecrHost      = regexp.MustCompile(`\A[0-9]{12}\.dkr\.ecr(-fips)?\.([a-z0-9-]+)\.amazonaws\.com(\.cn)?\z`)
)

func (r Registry) validate(add func(string, ...any)) {
	if !registryHost.MatchString(r.Server) {
		add(`server: %q is not a registry's host such as "ghcr.io"`, r.Server)
	}
	file := func(key, path string) {
		if info, err := os.Stat(path); err != nil || info.IsDir() {
			add("%s: %q is not a file", key, path)
		}
	}
	switch r.Kind {
	case "custom":
		if r.Username == "" {
			add("username: a custom registry needs one")
		}
		file("password_file", r.PasswordFile)
	case "gcp":
		file("key_file", r.KeyFile)
	case "aws":
		if !ecrHost.MatchString(r.Server) {
			add("server: %q is not ACCOUNT.dkr.ecr.REGION.amazonaws.com", r.Server)
		}
		if r.AccessKeyID == "" {
			add("access_key_id: aws needs one that may ecr:GetAuthorizationToken")
		}
		file("secret_key_file", r.SecretKeyFile)
		if u, err := url.Parse(r.Endpoint); r.Endpoint != "" && (err != nil || u.Host == "") {
			add("endpoint: %q is not a URL", r.Endpoint)
		}
	default:
		add("kind: %q must be custom, gcp or aws", r.Kind)
	}
}

// login returns the name and password that the kubelet shows to the registry.
func (r Registry) login(ctx context.Context) (user, password string, err error) {
	read := func(name string) (string, error) {
		b, err := os.ReadFile(name)
		if err == nil && len(bytes.TrimSpace(b)) == 0 {
			err = fmt.Errorf("%s is empty", name)
		}
		if err != nil {
			return "", fmt.Errorf("%w: credentials of registry %s: %w", provider.ErrInvalid, r.Server, err)
		}
		return strings.TrimSpace(string(b)), nil
	}
	switch r.Kind {
	case "gcp":
		key, err := read(r.KeyFile)
		if err == nil && !json.Valid([]byte(key)) {
			err = fmt.Errorf("%w: key of registry %s: %s is no JSON", provider.ErrInvalid, r.Server, r.KeyFile)
		}
		return "_json_key", key, err
	case "aws":
		key, err := read(r.SecretKeyFile)
		if err != nil {
			return "", "", err
		}
		return r.ecrLogin(ctx, key, time.Now())
	}
	password, err = read(r.PasswordFile)
	return r.Username, password, err
}

// ecrLogin asks ECR for a password, which is good for 12 hours.
func (r Registry) ecrLogin(ctx context.Context, secretKey string, now time.Time) (user, password string, err error) {
	region := ecrHost.FindStringSubmatch(r.Server)[2]
	endpoint := cmp.Or(r.Endpoint, "https://api.ecr."+region+".amazonaws.com/")
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, endpoint, strings.NewReader("{}"))
	if err != nil {
		return "", "", fmt.Errorf("%w: endpoint of registry %s: %w", provider.ErrInvalid, r.Server, err)
	}
	if req.URL.Path == "" {
		req.URL.Path = "/"
	}
	req.Header.Set("Content-Type", "application/x-amz-json-1.1")
	req.Header.Set("X-Amz-Target", "AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken")
	sign(req, []byte("{}"), "ecr", region, r.AccessKeyID, secretKey, now)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", "", fmt.Errorf("%w: log in to %s: %w", provider.ErrTransient, r.Server, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return "", "", fmt.Errorf("%w: log in to %s: %w", provider.ErrTransient, r.Server, err)
	}
	if resp.StatusCode != http.StatusOK {
		class := provider.ErrTransient
		if resp.StatusCode/100 == 4 && resp.StatusCode != http.StatusTooManyRequests {
			class = provider.ErrInvalid
		}
		return "", "", fmt.Errorf("%w: log in to %s: %s: %.300s", class, r.Server, resp.Status, body)
	}
	var answer struct {
		AuthorizationData []struct {
			AuthorizationToken string `json:"authorizationToken"`
		} `json:"authorizationData"`
	}
	if err := json.Unmarshal(body, &answer); err != nil || len(answer.AuthorizationData) == 0 {
		return "", "", fmt.Errorf("%w: log in to %s: the answer holds no token", provider.ErrTransient, r.Server)
	}
	pair, err := base64.StdEncoding.DecodeString(answer.AuthorizationData[0].AuthorizationToken)
	user, password, ok := strings.Cut(string(pair), ":")
	if err != nil || !ok {
		return "", "", fmt.Errorf("%w: log in to %s: the token is not a name and a password", provider.ErrTransient, r.Server)
	}
	return user, password, nil
}

// sign signs a request as AWS wants it (Signature Version 4).
func sign(req *http.Request, body []byte, service, region, id, secretKey string, now time.Time) {
	hash := func(b []byte) string { sum := sha256.Sum256(b); return hex.EncodeToString(sum[:]) }
	mac := func(key []byte, text string) []byte {
		h := hmac.New(sha256.New, key)
		h.Write([]byte(text))
		return h.Sum(nil)
	}
	stamp := now.UTC().Format("20060102T150405Z")
	day := stamp[:8]
	req.Header.Set("X-Amz-Date", stamp)
	const names = "content-type;host;x-amz-date;x-amz-target"
	canonical := strings.Join([]string{
		req.Method, req.URL.EscapedPath(), "",
		"content-type:" + req.Header.Get("Content-Type"), "host:" + req.URL.Host, "x-amz-date:" + stamp, "x-amz-target:" + req.Header.Get("X-Amz-Target"), "",
		names, hash(body),
	}, "\n")
	scope := day + "/" + region + "/" + service + "/aws4_request"
	key := mac(mac(mac(mac([]byte("AWS4"+secretKey), day), region), service), "aws4_request")
	signature := hex.EncodeToString(mac(key, "AWS4-HMAC-SHA256\n"+stamp+"\n"+scope+"\n"+hash([]byte(canonical))))
	req.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential="+id+"/"+scope+", SignedHeaders="+names+", Signature="+signature)
}

// pullSecretOf renders the one Secret by which the kubelet pulls from every registry.
func (c Config) pullSecretOf(ctx context.Context, ns string) (*corev1.Secret, error) {
	type entry struct {
		Username string `json:"username"`
		Password string `json:"password"`
		Auth     string `json:"auth"`
	}
	auths := map[string]entry{}
	var problems []error
	for _, r := range c.Registries {
		user, password, err := r.login(ctx)
		if err != nil {
			problems = append(problems, err)
			continue
		}
		auths[r.Server] = entry{user, password, base64.StdEncoding.EncodeToString([]byte(user + ":" + password))}
	}
	if err := errors.Join(problems...); err != nil {
		return nil, err
	}
	data, err := json.Marshal(map[string]any{"auths": auths})
	if err != nil {
		return nil, err
	}
	return &corev1.Secret{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"},
		ObjectMeta: metav1.ObjectMeta{Name: pullSecret, Namespace: ns, Labels: map[string]string{labelRole: "pull"}},
		Type:       corev1.SecretTypeDockerConfigJson,
		Data:       map[string][]byte{corev1.DockerConfigJsonKey: data},
	}, nil
}

func (p *Provider) applyPullSecret(ctx context.Context, ns string) error {
	s, err := p.cfg.pullSecretOf(ctx, ns)
	if err != nil {
		return err
	}
	return p.apply(ctx, object{p.client.CoreV1().RESTClient(), "secrets", ns, pullSecret, s})
}
