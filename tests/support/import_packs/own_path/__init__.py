"""A pack that puts a folder of its own on sys.path."""

import os
import sys

sys.path.append(os.path.join(os.path.dirname(__file__), "modules"))

from xdit_test_own_path import OwnPathSampler  # noqa: E402

NODE_CLASS_MAPPINGS = {"OwnPathSampler": OwnPathSampler}
