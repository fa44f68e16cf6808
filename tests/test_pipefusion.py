"""PipeFusion through the real server: exact while it warms up, close to that afterwards, with any sampler."""

import pytest
from support.comfy_client import PromptFailed, PromptRefused
from support.guided_flux import guided_flux
from support.images import write_random_image
from support.parity import relative_error
from support.waiting import answered_status

TOLERANCE = 1e-5
STEPS = 6


def flux(client, models, config=None, steps=STEPS, **inputs):
    return guided_flux(client, models, config, steps=steps, **inputs)


def lora(models):
    def prepare(graph, model):
        return graph.add("LoraLoaderModelOnly", model=model, lora_name=models.flux_lora(), strength_model=1.0)

    return prepare


@pytest.mark.parametrize(
    ("config", "options"),
    [
        ({"devices": "cpu:2", "pipefusion": 2}, {"sampler_name": "heun"}),
        ({"devices": "cpu:2", "pipefusion": 2}, {"sampler_name": "dpmpp_2m_sde", "cfg": 3.0, "batch": 2}),
        ({"devices": "cpu:4", "pipefusion": 2, "ulysses": 2}, {"sampler_name": "uni_pc"}),
        ({"devices": "cpu:4", "pipefusion": 2, "cfg": 2}, {"cfg": 3.0}),
        ({"devices": "cpu:3", "pipefusion": 3, "patches": 5}, {"sampler_name": "dpmpp_2s_ancestral", "cfg": 3.0}),
    ],
    ids=str,
)
def test_warming_up_for_all_steps_is_stock(client, models, config, options):
    found = flux(client, models, {**config, "warmup_steps": STEPS}, **options)
    assert relative_error(found, flux(client, models, **options)) <= TOLERANCE


def test_lora_and_controlnet(client, comfy, models):
    hint = write_random_image(comfy.base / "input" / "staged_hint.png", 128, 96)
    options = {"controlled": hint, "prepare": lora(models)}
    config = {"devices": "cpu:3", "pipefusion": 3, "warmup_steps": STEPS}
    assert relative_error(flux(client, models, config, **options), flux(client, models, **options)) <= TOLERANCE


def test_a_rank_holds_only_the_blocks_of_its_stage(client, comfy, models):
    def weights(config):
        flux(client, models, config)
        return [rank["models"][0]["bytes"] for rank in answered_status(client)["ranks"]]

    whole = weights({"devices": "cpu:3", "ring": 3})
    staged = weights({"devices": "cpu:3", "pipefusion": 3})
    assert len(set(whole)) == 1 and max(staged) < 0.75 * whole[0]
    assert weights({"devices": "cpu:3", "ring": 3}) == whole


@pytest.mark.parametrize("sampler_name", ["euler", "dpmpp_2m_sde", "heun"])
def test_after_warming_up_it_comes_close(client, models, sampler_name):
    def error(steps, warmup):
        inputs = {"sampler_name": sampler_name, "steps": steps}
        config = {"devices": "cpu:2", "pipefusion": 2, "patches": 4, "warmup_steps": warmup}
        return relative_error(flux(client, models, config, **inputs), flux(client, models, **inputs))

    assert TOLERANCE < error(16, 15) < error(16, 1) < error(4, 1) < 0.3


def test_quantised_files_come_as_close(client, models):
    """In two patches, of which the second holds no text."""

    def error(file):
        config = {"devices": "cpu:2", "pipefusion": 2, "patches": 2}
        return relative_error(flux(client, models, config, file=file), flux(client, models, file=file))

    close = pytest.approx(error(models.flux()), rel=0.2)
    assert [error(models.quantised_flux(kind)) for kind in ("float8_e4m3fn", "nvfp4")] == [close, close]


def test_what_cannot_be_staged_is_refused_and_the_group_lives(client, models):
    with pytest.raises(PromptRefused, match="PipeFusion keeps the keys of the whole sequence"):
        flux(client, models, {"devices": "cpu:4", "pipefusion": 2, "ring": 2})
    with pytest.raises(PromptFailed, match="pipefusion 6 needs 6 blocks, Flux has 5; set pipefusion to 5 at most"):
        flux(client, models, {"devices": "cpu:6", "pipefusion": 6})

    def skip_layers(graph, model):
        return graph.add(
            "SkipLayerGuidanceDiT",
            model=model,
            scale=3.0,
            start_percent=0.0,
            end_percent=1.0,
            double_layers="1",
            single_layers="0",
            rescaling_scale=0.0,
        )

    config = {"devices": "cpu:2", "pipefusion": 2, "warmup_steps": STEPS}
    with pytest.raises(PromptFailed, match="replaces blocks of the model .* set pipefusion to 1"):
        flux(client, models, config, cfg=3.0, prepare=skip_layers)
    assert relative_error(flux(client, models, config), flux(client, models)) <= TOLERANCE
