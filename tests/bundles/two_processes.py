"""Trains one bundle after another, as one of several processes: `python two_processes.py jobs.json`.

A job is {bundle: folder, files: configs, port: of the process group}. MONAI's `run` is what its command line calls; to
import MONAI takes most of the time of a training of seconds, so that one process does them all.
"""

import json
import os
import sys

from monai.bundle import run

if __name__ == "__main__":
    for job in json.loads(open(sys.argv[1]).read()):
        os.environ["MASTER_PORT"] = str(job["port"])
        os.chdir(job["bundle"])
        print(job["bundle"], flush=True)
        run("training", config_file=job["files"])
