#!/usr/bin/env bash
# Runs the README's analysis example where nothing but the analysis's own needs is installed.
#   tests/fresh_install.sh [PYTHON [CONSTRAINTS]]
# With tests/colab.txt as CONSTRAINTS: the versions that Colab ships (for Python 3.12 or 3.13).
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${1:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet ${2:+--constraint "$2"} numpy jax scipy xarray zarr matplotlib jinja2 lazy-loader threadpoolctl
"$folder/venv/bin/python" - <<'PYTHON' >"$folder/example.py"
import re
print(re.findall(r"```python\n(.*?)```", open("README.md", encoding="utf-8").read(), re.S)[0])
PYTHON
cd "$folder"
MPLBACKEND=Agg PYTHONPATH="$root" "$folder/venv/bin/python" -W error::DeprecationWarning:ppp_jax example.py
test -s ppp.png && test -s srm.png
"$folder/venv/bin/python" -c 'import jax, numpy, xarray; print("jax", jax.__version__, "numpy", numpy.__version__, "xarray", xarray.__version__)'
