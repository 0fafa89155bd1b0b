# what: pip install of a package of one's own, and its tests
# needs: python3
## step: Install
mkdir -p p/src/pkg && cd p
printf '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n\n[project]\nname = "pkg"\nversion = "1.0"\n' > pyproject.toml
printf 'def add(a, b):\n    return a + b\n' > src/pkg/__init__.py
printf 'import unittest, pkg\n\n\nclass T(unittest.TestCase):\n    def test(self):\n        self.assertEqual(pkg.add(1, 2), 3)\n' > test_pkg.py
python3 -m pip install -q --no-build-isolation --no-deps --target $RUNNER_TEMP/site .
## step: Test
cd p && PYTHONPATH=$RUNNER_TEMP/site python3 -m unittest -q && python3 -m compileall -q src
