# what: a deploy key comes from a secret into an agent; git over ssh, scp and a command, on a server beside the job
# needs: sshd ssh ssh-agent ssh-keygen scp git
## step: Server
mkdir -p /run/sshd $RUNNER_TEMP/sshd && cd $RUNNER_TEMP/sshd && mkdir -m 755 -p /opt/sshd
ssh-keygen -q -t ed25519 -N '' -f host && ssh-keygen -q -t ed25519 -N '' -f client && cp client.pub /opt/sshd/keys
printf 'Port 2222\nListenAddress 127.0.0.1\nHostKey %s\nAuthorizedKeysFile /opt/sshd/keys\nStrictModes no\nUsePAM no\nPermitRootLogin yes\nPidFile %s\nSubsystem sftp internal-sftp\n' $PWD/host $PWD/pid > config
/usr/sbin/sshd -f config -E log
while [ ! -s pid ]; do sleep 0.05; done
## step: Deploy
cd $RUNNER_TEMP/sshd && SSH_PRIVATE_KEY=$(cat client)
eval $(ssh-agent -s) && ssh-add -q - <<< "$SSH_PRIVATE_KEY" && ssh-add -l > /dev/null
mkdir -p $HOME/.ssh && ssh-keyscan -p 2222 127.0.0.1 >> $HOME/.ssh/known_hosts 2> /dev/null
printf 'Host deploy\n  HostName 127.0.0.1\n  Port 2222\n  User root\n' >> $HOME/.ssh/config && chmod 600 $HOME/.ssh/config
cd $GITHUB_WORKSPACE && ssh deploy true && scp -q Makefile deploy:/opt/app.mk && tar czf - util.c | ssh deploy 'tar xzf - -C /opt'
git clone -q deploy:/home/origin.git $RUNNER_TEMP/over-ssh && git push -q deploy:/home/origin.git HEAD:refs/heads/deployed
ssh-agent -k > /dev/null
kill $(cat $RUNNER_TEMP/sshd/pid)
while [ -e $RUNNER_TEMP/sshd/pid ]; do sleep 0.05; done
