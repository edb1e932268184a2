"""Trains as `tests.train` does, from another working directory: `--log_dir` names the folder.

python -m tests.in_folder --log_dir=FOLDER --workdir=… [flags of experiments.ablation]
"""

import os
import runpy
import sys

if __name__ == "__main__":
    (folder,) = (flag.partition("=")[2] for flag in sys.argv if flag.startswith("--log_dir="))
    sys.argv[1:] = [flag for flag in sys.argv[1:] if not flag.startswith("--log_dir=")]
    os.chdir(folder)
    runpy.run_module("tests.train", run_name="__main__", alter_sys=True)
