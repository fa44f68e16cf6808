"""Dense tensors as the contiguous memory that they are."""

import pytest
import torch
from xdit_comfyui.parallel_backend.sharding.exchange.memory_order import as_contiguous, dense


def test_a_dense_tensor_is_given_as_its_own_memory():
    whole = torch.arange(24.0).view(2, 3, 4)
    turned = whole.permute(2, 0, 1)
    assert as_contiguous(turned).is_contiguous() and as_contiguous(turned).data_ptr() == whole.data_ptr()


@pytest.mark.parametrize("value", [torch.zeros(4, 6)[:, ::2], torch.zeros(4, 1).expand(4, 6)])
def test_one_with_gaps_or_overlaps_is_refused(value):
    with pytest.raises(ValueError, match="is not dense"):
        as_contiguous(value)
    assert as_contiguous(dense(value)).shape == value.shape
