"""Files, folders and packs may be named with any bytes that the system allows."""

import os
import shutil

import pytest
from support.comfy_client import PromptFailed
from support.compare import TOLERANCE
from support.parity import relative_error
from support.prompts import Graph
from support.ranks import rank_pids
from support.waiting import answered_status

NAMES = {
    "no UTF-8": os.fsdecode(b"n\xff\xfe.safetensors"),
    "line break": "two\nlines\t.safetensors",
    "emoji and quotes": "\U0001f600 'a' \"b\" %s {x} \\.safetensors",
    "right to left": "\u202e\u0645\u0631\u062d\u0628\u0627.safetensors",
    "255 bytes": "n" * 243 + ".safetensors",
}


REFUSED_BY_STOCK = NAMES["no UTF-8"]  # safetensors takes no such name, so ComfyUI's own loaders do not either


def latent(client, model_name, lora_name, kind, seed):
    graph = Graph()
    parallel = {"parallel_config": graph.parallel_config("cpu:2", ulysses=2)}
    options = {"unet_name": model_name, "weight_dtype": "default"}
    if kind == "loader":
        model = graph.add("XDiTLoader", **options, **parallel)
    else:
        model = graph.add("UNETLoader", **options)
    model = graph.add("LoraLoaderModelOnly", model=model, lora_name=lora_name, strength_model=1.0)
    sampler, config = ("XDiTSampler", parallel) if kind == "stock in the ranks" else ("KSampler", {})
    empty = graph.add("EmptySD3LatentImage", width=64, height=64, batch_size=1)
    saved = graph.save(graph.sample(sampler, model, graph.flux_conditioning(1), empty, seed=seed, steps=2, **config))
    return client.latent(client.run(graph.prompt), saved.id)


@pytest.mark.parametrize("kind", ["loader", "stock in the ranks"])
@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_a_model_and_a_lora_of_this_name_sample_right(client, comfy, models, name, kind):
    if kind != "loader" and name == REFUSED_BY_STOCK:
        pytest.skip("ComfyUI's own loader does not open this file")
    plain, lora = models.flux(), models.flux_lora()
    for folder, source in (("diffusion_models", plain), ("loras", lora)):
        shutil.copyfile(models.models / folder / source, models.models / folder / name)
    start = comfy.log.stat().st_size
    try:
        lora_name = lora if name == REFUSED_BY_STOCK else name
        seed = 100 + list(NAMES.values()).index(name)
        expected = latent(client, plain, lora, "stock", seed)
        assert relative_error(latent(client, name, lora_name, kind, seed), expected) <= TOLERANCE
        titles = [model["title"] for rank in answered_status(client)["ranks"] for model in rank["models"]]
        assert titles and all(title.isprintable() for title in titles)
    finally:
        for folder in ("diffusion_models", "loras"):
            (models.models / folder / name).unlink()
    said = comfy.log_since(start)
    assert "Traceback" not in said and "Logging error" not in said


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_a_broken_file_of_this_name_is_named_in_one_line_and_the_next_prompt_is_right(client, comfy, models, name):
    path = models.models / "diffusion_models" / name
    path.write_bytes(b"broken")
    start = comfy.log.stat().st_size
    try:
        with pytest.raises(PromptFailed) as failed:
            latent(client, name, models.flux_lora(), "loader", 1)
    finally:
        path.unlink()
    message = failed.value.result.error.message
    assert "is no safetensors file, or a truncated one" in message
    assert message.strip().isprintable() and message.encode()
    assert "Logging error" not in comfy.log_since(start)
    seed = 200 + list(NAMES.values()).index(name)
    plain, lora = models.flux(), models.flux_lora()
    expected = latent(client, plain, lora, "stock", seed)
    assert relative_error(latent(client, plain, lora, "loader", seed), expected) <= TOLERANCE
    assert len(rank_pids(comfy)) == 2
