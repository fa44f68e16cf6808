"""A call's arguments taken apart and put together; whose callback only looks; settings that are put back."""

import functools
import json

import comfy.samplers
import latent_preview
import pytest
import torch
from xdit_comfyui.parallel_backend.contract.process_settings import ProcessSettings
from xdit_comfyui.parallel_backend.host.run.callback import only_looks
from xdit_comfyui.parallel_backend.rank.run.call_inputs import put_together, take_apart


def across(value, own, in_place=False):
    tensors = []
    skeleton = json.loads(json.dumps(take_apart(value, tensors)))
    return put_together(skeleton, tensors, own, in_place)


def test_tensors_and_plain_values_cross_and_the_rest_is_the_ranks_own():
    x, y, patch, own_patch = torch.ones(2), torch.zeros(()), object(), object()
    value = {"args": (x, [y, None, 3]), "kwargs": {"options": {"patches": {"a": [patch]}, "sigma": 0.5, "only": patch}}}
    own = {"args": (0, []), "kwargs": {"options": {"patches": {"a": [own_patch]}, "gone": 1}}}
    found = across(value, own)
    assert found["args"][0] is x and found["args"][1][0] is y and found["args"][1][1:] == [None, 3]
    assert found["kwargs"]["options"] == {"patches": {"a": [own_patch]}, "sigma": 0.5}


def test_dicts_of_the_rank_keep_their_identity_where_that_is_asked():
    options = {"state": [object()], "sigma": 1.0}
    own = {"options": options}
    assert across({"options": {"state": [object()], "sigma": 0.5}}, own, in_place=True)["options"] is options
    assert options["sigma"] == 0.5 and own["options"] is options
    assert across({"options": {"sigma": 0.1}}, own)["options"] is not options


def test_dicts_with_other_keys_and_containers_without_end_are_the_ranks_own():
    endless = []
    endless.append(endless)
    own = {"blocks": {("double", 0): 1}, "endless": None}
    found = across({"blocks": {("double", 0): 2}, "endless": endless}, own)
    assert found["blocks"] == {("double", 0): 1} and isinstance(found["endless"], list)


class Patcher:
    """What latent_preview asks of a MODEL."""

    load_device = "cpu"

    class model:
        latent_format = comfy.samplers.comfy.latent_formats.Flux()


def test_only_comfyuis_own_callback_is_known_to_look_only():
    own = latent_preview.prepare_callback(Patcher, 4)

    @functools.wraps(own)
    def wrapped(step, x0, x, total):
        x.mul_(0.5)
        own(step, x0, x, total)

    assert only_looks(own)
    assert not any(only_looks(callback) for callback in (wrapped, functools.partial(own), lambda *_: None, print))


CHANGES = (
    lambda: torch.set_float32_matmul_precision("medium"),
    lambda: setattr(torch.backends.cuda.matmul, "allow_tf32", True),
    lambda: torch.set_default_dtype(torch.float64),
    lambda: torch.use_deterministic_algorithms(True, warn_only=True),
    lambda: torch.backends.cuda.enable_math_sdp(False),
)


@pytest.mark.parametrize("number", range(len(CHANGES)))
def test_settings_hold_for_a_while_and_are_put_back(number):
    own = ProcessSettings.read()
    CHANGES[number]()
    theirs = ProcessSettings.read()
    own._put()
    assert ProcessSettings.read() == own and theirs.unlike(own)
    with theirs.held():
        assert ProcessSettings.read() == theirs
    assert ProcessSettings.read() == own
