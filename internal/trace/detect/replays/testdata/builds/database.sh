# what: a database is made and started by a user of its own, tests speak to it with a password from a file, it is dumped and stopped
# needs: psql runuser setpriv
## step: Service
mkdir /opt/db && chown nobody /opt/db
bin=$(ls -d /usr/lib/postgresql/*/bin | tail -1)
echo none > /opt/password && chmod 644 /opt/password
runuser -u nobody -- $bin/initdb -D /opt/db/data -U app -A scram-sha-256 --pwfile /opt/password --no-sync > /dev/null
setpriv --reuid nobody --clear-groups --inh-caps=-all $bin/pg_ctl -D /opt/db/data -w -o '-p 5433 -k /opt/db' -l /opt/db/log start
## step: Test
echo '127.0.0.1:5433:*:app:none' > $HOME/.pgpass && chmod 600 $HOME/.pgpass
until (echo > /dev/tcp/127.0.0.1/5433) 2> /dev/null; do sleep 0.1; done
psql -qX -h 127.0.0.1 -p 5433 -U app postgres -c 'create table t (n int); insert into t select generate_series(1, 1000)'
test $(psql -qXtA -h 127.0.0.1 -p 5433 -U app postgres -c 'select count(*) from t') = 1000
## step: Stop
bin=$(ls -d /usr/lib/postgresql/*/bin | tail -1)
setpriv --reuid nobody --clear-groups $bin/pg_ctl -D /opt/db/data -w -m fast stop
