# what: tools read their own credentials: npm with a token publishes and installs, pip, curl and a script that asks a service with .netrc, git with a helper that stores, kubectl with a configuration
# needs: npm python3 curl git kubectl
## step: Publish
mkdir -p $RUNNER_TEMP/lib && cd $RUNNER_TEMP/lib && echo '{"name":"@corp/lib","version":"1.0.0"}' > package.json
printf '//packages.example/:_authToken=${NPM_TOKEN}\n@corp:registry=http://packages.example/\n' >> $HOME/.npmrc
export NPM_TOKEN=none npm_config_fetch_retries=0 && npm publish
## step: Install
printf 'machine packages.example\nlogin app\npassword none\n' > $HOME/.netrc && chmod 600 $HOME/.netrc
printf 'import sys\nfrom pip._vendor import requests\nrequests.get("http://packages.example/status").raise_for_status()\n' > status.py && python3 status.py
curl -sf --netrc http://packages.example/file > /dev/null
python3 -m pip download -q --retries 0 --no-deps --index-url http://packages.example/simple/ --trusted-host packages.example nothing || true
## step: Push
printf 'http://app:none@packages.example\n' > $HOME/.git-credentials
git config credential.helper store && printf 'protocol=http\nhost=packages.example\n\n' | git credential fill > /dev/null
git ls-remote http://packages.example/x.git 2> /dev/null || true
## step: Deploy
rm -f $HOME/.kube/config && kubectl config set-cluster test --server=http://127.0.0.1:8080 > /dev/null && kubectl config set-context test --cluster=test > /dev/null && kubectl config use-context test > /dev/null
kubectl get --raw /healthz > /dev/null
