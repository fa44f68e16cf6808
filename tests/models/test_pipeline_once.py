"""A model call in patches computes modulations once, and gives what it gives when each patch computes them; it reads
the weights for a stream that is in one patch once.
"""

import re

import pytest
from support.model_matrix import TOLERANCE
from support.scheduling import full_run

PATCHES = 4
# Case → what the paths of the modulations match. The last stage runs that of the final layer for each patch.
MODULATIONS = {
    "flux: plain": r"_blocks.*mod",
    "flux2: plain": r"_stream_modulation",
    "sd3.5 medium: plain": r"_blocks.*adaLN",
    "sd3.5 medium: batch 2, odd size": r"_blocks.*adaLN",
    "qwen-image: plain": r"_mod\.",
    "z-image: plain": r"^layers.*adaLN",
}
# Case → what the paths of Linears for text match, where it leaves enough of the first patch to the image.
SHORT_STREAMS = {
    "flux2: plain": r"double_blocks.*txt_(attn|mlp)",
    "sd3.5 medium: batch 2, odd size": r"context_block\.(attn|mlp)",
}


@pytest.mark.parametrize(
    ("name", "compiled"),
    [
        *((name, False) for name in MODULATIONS),
        ("flux: plain", True),
        pytest.param("sd3.5 medium: batch 2, odd size", True, marks=full_run),
    ],
)
def test_modulations_run_once_for_each_model_call(rank_sets, name, compiled):
    def times(runs, pattern=MODULATIONS[name]):
        return {count for path, count in runs.items() if re.search(pattern, path)}

    for error, once, for_each, notes in rank_sets[2].run(("once", name, 2, PATCHES, compiled)):
        assert error <= (TOLERANCE if compiled else 0)
        assert times(once) == {1}, once
        assert min(times(for_each)) >= PATCHES, for_each
        if name in SHORT_STREAMS:
            assert times(once, SHORT_STREAMS[name]) <= {1}, once
        assert notes == []
