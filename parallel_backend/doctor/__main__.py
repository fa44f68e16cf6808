"""The doctor as a command.

python ComfyUI/custom_nodes/<pack>/parallel_backend/doctor --help
python -m parallel_backend.doctor --help                               (from the pack's folder)
"""

import os
import runpy
import sys

if __name__ == "__main__":
    backend = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    start = runpy.run_path(os.path.join(backend, "system", "started_alone.py"))
    sys.exit(start["run"]("doctor", "The doctor"))
