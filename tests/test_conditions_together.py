"""Code of nodes that looks at all conditions, or all rows, of a model call: it sees them as in stock ComfyUI."""

import pytest
from support.comfy_client import PromptFailed
from support.compare import TOLERANCE
from support.images import write_random_image
from support.parity import relative_error
from support.prompts import Graph
from support.tiny_models import FLUX_CONTEXT, FLUX_POOLED, SDXL_CONTEXT, SDXL_POOLED, WAN_CONTEXT

CFG, BATCH, AUTO = {"cfg": 2}, {"batch": 2}, {}
UNDIVIDED_CFG = "every cfg group evaluates all conditions"
UNDIVIDED_BATCH = "every batch group evaluates all rows"
LOADER, STOCK = "loader", "stock"

WIDTHS = {"flux": (16, FLUX_CONTEXT, FLUX_POOLED, 3.5), "sdxl": (77, SDXL_CONTEXT, SDXL_POOLED, -1.0)}
WIDTHS["wan"] = (10, WAN_CONTEXT, 0, -1.0)
LATENTS = {
    "flux": ("EmptySD3LatentImage", {"width": 128, "height": 80}),
    "sdxl": ("EmptyLatentImage", {"width": 128, "height": 64}),
    "wan": ("EmptyHunyuanLatentVideo", {"width": 64, "height": 48, "length": 5}),
}


class Run:
    """The same graph by stock ComfyUI and by two ranks; `said`: what the console wrote meanwhile."""

    def __init__(
        self,
        client,
        comfy,
        models,
        architecture="flux",
        kind=LOADER,
        degrees=None,
        batch=1,
        patch=lambda graph, model: model,
        texts=lambda graph, positive, negative: (positive, negative),
    ):
        begin, graph = comfy.log.stat().st_size, Graph()
        options = {"unet_name": getattr(models, architecture)(), "weight_dtype": "default"}
        tokens, context, pooled, guidance = WIDTHS[architecture]
        positive, negative = texts(
            graph,
            *(
                graph.add(
                    "RandomConditioning",
                    seed=number,
                    tokens=tokens,
                    context_dim=context,
                    pooled_dim=pooled,
                    guidance=guidance,
                )  # fmt: skip
                for number in (1, 2)
            ),
        )
        node, size = LATENTS[architecture]
        latent = graph.add(node, **size, batch_size=batch)
        parallel = graph.parallel_config("cpu:2", **(degrees or {}))
        stock = graph.add("UNETLoader", **options)
        ours, sampler, extra = stock, "XDiTSampler", {"parallel_config": parallel}
        if kind == LOADER:
            ours, sampler, extra = graph.add("XDiTLoader", **options, parallel_config=parallel), "KSampler", {}
        saved = [
            graph.save(
                graph.sample(
                    name,
                    patch(graph, model),
                    positive,
                    latent,
                    negative=negative,
                    cfg=3.0,
                    steps=2,
                    **others,
                )
            )  # fmt: skip
            for name, model, others in (("KSampler", stock, {}), (sampler, ours, extra))
        ]
        result = client.run(graph.prompt)
        self.stock, self.found = (client.latent(result, node.id) for node in saved)
        self.said = comfy.log.read_bytes()[begin:].decode(errors="replace")

    @property
    def right(self):
        return relative_error(self.found, self.stock) <= TOLERANCE


def patched(node, **inputs):
    return lambda graph, model: graph.add(node, model=model, **inputs)


MIXING = [
    ("flux", patched("ForeignMixingPatch", where="attn1_output_patch"), "'attn1_output_patch'"),
    ("flux", patched("ForeignMixingPatch", where="attn1_patch"), "'attn1_patch'"),
    ("sdxl", patched("ForeignMixingPatch", where="input_block_patch"), "'input_block_patch'"),
    ("sdxl", patched("ForeignMixingReplacement"), "a replaced 'attn2'"),
    ("flux", patched("ForeignCallCounter", where="function wrapper"), "the model function wrapper"),
    ("flux", patched("ForeignCallCounter", where="apply_model"), "the apply_model wrapper"),
    ("flux", patched("ForeignCallCounter", where="diffusion_model"), "the diffusion_model wrapper"),
    ("flux", patched("ForeignCallCounter", where="calc_cond_batch"), "the calc_cond_batch wrapper"),
    ("flux", patched("ForeignCallCounter", where="injection"), "the injection 'foreign'"),
    ("flux", patched("ForeignCallCounter", where="attention"), "the attention override"),
]


@pytest.mark.parametrize("degrees", [CFG, AUTO], ids=["cfg 2", "auto"])
@pytest.mark.parametrize(("architecture", "patch", "named"), MIXING, ids=[named for *_, named in MIXING])
def test_conditions_stay_together_for_code_that_may_mix_them(
    client, comfy, models, architecture, patch, named, degrees
):
    run = Run(client, comfy, models, architecture, degrees=degrees, patch=patch)
    assert run.right
    if degrees == CFG:
        (line,) = {line for line in run.said.splitlines() if UNDIVIDED_CFG in line}
        assert named in line and "xdit-test-foreign" in line
    else:
        assert "cfg 2" not in run.said


@pytest.mark.parametrize(("architecture", "patch", "named"), MIXING, ids=[named for *_, named in MIXING])
def test_rows_stay_together_for_code_that_may_mix_them(client, comfy, models, architecture, patch, named):
    run = Run(client, comfy, models, architecture, degrees=BATCH, batch=2, patch=patch)
    assert run.right
    assert named in run.said and UNDIVIDED_BATCH in run.said


@pytest.mark.parametrize("kind", [LOADER, STOCK])
@pytest.mark.parametrize("degrees", [CFG, AUTO], ids=["cfg 2", "auto"])
def test_a_replaced_forward_of_wan_that_weighs_conditions(client, comfy, models, kind, degrees):
    run = Run(client, comfy, models, "wan", kind, degrees, patch=patched("ForeignMixingForward"))
    assert run.right
    if degrees == CFG:
        assert "the object patch 'diffusion_model.blocks.0.cross_attn.forward'" in run.said
        assert UNDIVIDED_CFG in run.said
    else:
        assert "cfg 2" not in run.said


@pytest.mark.parametrize("degrees", [CFG, BATCH], ids=["cfg 2", "batch 2"])
def test_a_forward_that_is_replaced_while_sampling(client, comfy, models, degrees):
    run = Run(client, comfy, models, degrees=degrees, batch=2, patch=patched("ForeignSwapWhileSampling"))
    assert run.right
    assert "forward_of_all_rows" in run.said and (UNDIVIDED_CFG if degrees == CFG else UNDIVIDED_BATCH) in run.said


@pytest.mark.parametrize("kind", [LOADER, STOCK])
@pytest.mark.parametrize("degrees", [CFG, AUTO], ids=["cfg 2", "auto"])
def test_an_adapter_that_is_known_to_treat_conditions_by_themselves_keeps_cfg(client, comfy, models, kind, degrees):
    run = Run(client, comfy, models, "sdxl", kind, degrees, patch=patched("ForeignIPAdapter", weight=0.5))
    assert run.right
    assert "cfg 2" in run.said and UNDIVIDED_CFG not in run.said


@pytest.mark.parametrize("node", ["FreeU_V2", "PatchModelAddDownscale", "PerturbedAttentionGuidance"])
def test_nodes_of_comfyui_that_treat_conditions_by_themselves_keep_cfg(client, comfy, models, node):
    inputs = {
        "FreeU_V2": {"b1": 1.3, "b2": 1.4, "s1": 0.9, "s2": 0.2},
        "PatchModelAddDownscale": {
            "block_number": 3, "downscale_factor": 2.0, "start_percent": 0.0, "end_percent": 0.6,
            "downscale_after_skip": True, "downscale_method": "bicubic", "upscale_method": "bicubic",
        },
        "PerturbedAttentionGuidance": {"scale": 3.0},
    }[node]  # fmt: skip
    run = Run(client, comfy, models, "sdxl", degrees=AUTO, patch=patched(node, **inputs))
    assert run.right
    assert "cfg 2" in run.said and UNDIVIDED_CFG not in run.said


@pytest.mark.parametrize("degrees", [CFG, AUTO], ids=["cfg 2", "auto"])
def test_nodes_of_comfyui_that_draw_in_each_call_keep_conditions_together(client, comfy, models, degrees):
    tiled = patched("HyperTile", tile_size=32, swap_size=2, max_depth=0, scale_depth=False)
    run = Run(client, comfy, models, "sdxl", degrees=degrees, patch=tiled)
    assert run.right
    assert "draws random numbers in each model call" in run.said if degrees else "cfg 2" not in run.said


@pytest.mark.parametrize("degrees", [CFG, AUTO], ids=["cfg 2", "auto"])
def test_self_attention_guidance_sees_the_negative_condition_on_every_rank(client, comfy, models, degrees):
    guided = patched("SelfAttentionGuidance", scale=0.5, blur_sigma=2.0)
    run = Run(client, comfy, models, "sdxl", degrees=degrees, patch=guided)
    assert run.right
    assert "keeps the attention of the negative condition" in run.said if degrees else "cfg 2" not in run.said


def controlled(comfy, models, kind, hints=1):
    image = write_random_image(comfy.base / "input" / "hint.png", 128, 80)

    def texts(graph, positive, negative):
        control = graph.add("ControlNetLoader", control_net_name=models.flux_controlnet())
        if kind is not None:
            control = graph.add("ForeignControlNet", control_net=control, kind=kind)
        hint = graph.add("LoadImage", image=image)
        for _ in range(hints - 1):
            hint = graph.add("ImageBatch", image1=hint, image2=graph.add("ImageInvert", image=hint))
        both = graph.add("ControlNetApplyAdvanced", positive=positive, negative=negative, control_net=control,
                         image=hint, strength=0.7, start_percent=0.0, end_percent=1.0)  # fmt: skip
        return both, both.out(1)

    return texts


@pytest.mark.parametrize("degrees", [CFG, BATCH], ids=["cfg 2", "batch 2"])
def test_a_controlnet_of_a_packs_own_class(client, comfy, models, degrees):
    texts = controlled(comfy, models, "keyframed", hints=2)
    run = Run(client, comfy, models, degrees=degrees, batch=2, texts=texts)
    assert run.right
    assert "the ControlNet KeyframedControlNet of conditions in xdit-test-foreign" in run.said
    assert UNDIVIDED_CFG in run.said or UNDIVIDED_BATCH in run.said


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("degrees", [CFG, BATCH, {"ulysses": 2}], ids=["cfg 2", "batch 2", "ulysses 2"])
def test_two_hints(client, comfy, models, degrees, batch):
    if degrees == BATCH and batch == 1:
        pytest.skip("a batch of one is not divided")
    run = Run(client, comfy, models, degrees=degrees, batch=batch, texts=controlled(comfy, models, None, hints=2))
    assert run.right
    assert (UNDIVIDED_CFG in run.said) == (degrees == CFG and batch == 1)


@pytest.mark.parametrize("kind", ["class", "entry"])
@pytest.mark.parametrize("degrees", [CFG, BATCH], ids=["cfg 2", "batch 2"])
def test_conditionings_of_a_packs_own(client, comfy, models, kind, degrees):
    def texts(graph, *conditionings):
        return [graph.add("ForeignConditioning", conditioning=one, kind=kind) for one in conditionings]

    run = Run(client, comfy, models, degrees=degrees, batch=2, texts=texts)
    assert run.right
    assert ("RowGuidance" if kind == "class" else "Note") in run.said
    assert UNDIVIDED_CFG in run.said or UNDIVIDED_BATCH in run.said


@pytest.mark.parametrize("degrees", [CFG, BATCH], ids=["cfg 2", "batch 2"])
def test_a_mask_for_each_image(client, comfy, models, degrees):
    images = [write_random_image(comfy.base / "input" / f"mask-{number}.png", 128, 80) for number in (1, 2)]

    def texts(graph, positive, negative):
        first, second = (graph.add("LoadImage", image=image) for image in images)
        inverted = graph.add("ImageInvert", image=second)
        masks = graph.add("ImageToMask", image=graph.add("ImageBatch", image1=first, image2=inverted), channel="red")
        masked = graph.add(
            "ConditioningSetMask", conditioning=positive, mask=masks, strength=1.0, set_cond_area="default"
        )
        return graph.add("ConditioningCombine", conditioning_1=masked, conditioning_2=positive), negative

    run = Run(client, comfy, models, degrees=degrees, batch=2, texts=texts)
    assert run.right
    assert UNDIVIDED_CFG not in run.said and UNDIVIDED_BATCH not in run.said


def test_residuals_that_are_no_rows_of_the_tokens_are_refused(client, comfy, models):
    named = "OneRowControlNet of conditions in xdit-test-foreign gives '(input|output)' residuals of shape"
    with pytest.raises(PromptFailed, match=f"{named} .*set Parallel Config's ulysses, ring"):
        Run(client, comfy, models, degrees={"ulysses": 2}, texts=controlled(comfy, models, "one row"))
    assert Run(client, comfy, models, degrees=CFG, texts=controlled(comfy, models, "one row")).right
