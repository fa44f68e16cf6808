"""The hints of a ControlNet cut for a group of rows are those that ComfyUI gives these rows in the whole batch."""

import pytest
import torch


def hints_of(control, rows):
    """For each row, as ControlNet.get_control of comfy/controlnet.py makes them for one condition."""
    from comfy.controlnet import broadcast_image_to
    from comfy.utils import repeat_to_batch_size

    hint = control.cond_hint_original
    extras = [repeat_to_batch_size(extra, hint.shape[0]) for extra in control.extra_concat_orig]
    hint = torch.cat([hint, *extras], 1)
    return (hint if hint.shape[0] == rows else broadcast_image_to(hint, rows, 1)).expand(rows, -1)


@pytest.mark.parametrize("extras", [0, 1, 2, 3])
@pytest.mark.parametrize("hints", [1, 2, 3])
@pytest.mark.parametrize("rows", [2, 3, 5])
def test_each_row_keeps_its_hint_and_its_mask(rows, hints, extras):
    from comfy.controlnet import ControlBase
    from xdit_comfyui.parallel_backend.sharding.guided.batch import BatchParallel

    control = ControlBase()
    control.cond_hint_original = torch.arange(float(hints))[:, None]
    control.extra_concat_orig = [torch.arange(10.0, 10 + extras)[:, None]] if extras else []
    whole = hints_of(control, rows)
    for first, last in ((0, rows // 2), (rows // 2, rows)):
        cut = BatchParallel(None, print)._control(control, range(first, last), rows)
        assert torch.equal(hints_of(cut, last - first), whole[first:last])
