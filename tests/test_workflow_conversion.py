"""From a saved workflow to a prompt: the same that ComfyUI's editor makes of it."""

import pytest
from support.templates import place_files, with_stand_ins
from support.workflow import WorkflowError, to_prompt

BYPASSED, MUTED = 4, 2
INFO = {
    "Loader": {"input": {"required": {"name": [["a", "b"]]}}, "output": ["MODEL"]},
    "Patch": {
        "input": {"required": {"model": ["MODEL"], "strength": ["FLOAT", {"default": 1.0}]}},
        "output": ["MODEL"],
    },
    "Sampler": {
        "input": {
            "required": {
                "model": ["MODEL"],
                "seed": ["INT", {"default": 0}],
                "noise": ["COMBO", {"options": ["x"], "control_after_generate": True}],
                "steps": ["INT", {"default": 20}],
                "socket_only": ["FLOAT", {"forceInput": True}],
            },
            "optional": {"codec": ["COMFY_DYNAMICCOMBO_V3", {"options": []}], "text": ["STRING", {}]},
        },
        "output": ["LATENT"],
    },
}
DYNAMIC = ["COMFY_DYNAMICCOMBO_V3", {"options": [{"key": "off", "inputs": {"required": {}}}]}]
DYNAMIC[1]["options"].append({"key": "on", "inputs": {"required": {"strength": ["INT", {}]}}})
INFO["Sampler"]["input"]["optional"]["codec"][1]["options"] = [
    {"key": "auto", "inputs": {"required": {}}},
    {"key": "h264", "inputs": {"required": {"crf": ["FLOAT", {}]}}},
    {
        "key": "av1",
        "inputs": {"required": {}, "optional": {"speed": ["INT", {}], "grain": DYNAMIC, "tiles": ["INT", {}]}},
    },
]


def node(node_id, node_type, inputs=(), widgets=(), mode=0, outputs=()):
    """A node as the editor saves it; `inputs` are (name, type, link or None)."""
    slots = [{"name": name, "type": kind, "link": link} for name, kind, link in inputs]
    shown = [{"name": kind, "type": kind} for kind in outputs]
    return {
        "id": node_id,
        "type": node_type,
        "inputs": slots,
        "outputs": shown,
        "widgets_values": list(widgets),
        "mode": mode,
    }


def workflow(*nodes, links=()):
    return {"nodes": list(nodes), "links": [list(link) for link in links], "version": 0.4}


SAMPLER_WIDGETS = [5, "randomize", "x", "fixed", 8, "auto", "hello"]
LOADER = node(1, "Loader", widgets=["a"], outputs=["MODEL"])


def sampled(*between, links, widgets=SAMPLER_WIDGETS):
    """The sampler's inputs after conversion; it takes its model from link 9."""
    sampler = node(7, "Sampler", [("model", "MODEL", 9)], widgets)
    return to_prompt(workflow(LOADER, *between, sampler, links=links), INFO)["7"]["inputs"]


def test_widget_values_are_named_and_control_values_dropped():
    inputs = sampled(links=[(9, 1, 0, 7, 0, "MODEL")])
    assert inputs == {"model": ["1", 0], "seed": 5, "noise": "x", "steps": 8, "codec": "auto", "text": "hello"}


def test_a_dynamic_combo_brings_its_inputs_along():
    widgets = [5, "randomize", "x", "fixed", 8, "h264", 23.0, "hello"]
    inputs = sampled(links=[(9, 1, 0, 7, 0, "MODEL")], widgets=widgets)
    assert (inputs["codec"], inputs["codec.crf"], inputs["text"]) == ("h264", 23.0, "hello")


def test_a_dynamic_combo_inside_another_brings_its_inputs_along():
    for grain, more in ((["on", 9], {"codec.grain.strength": 9}), (["off"], {})):
        inputs = sampled(
            links=[(9, 1, 0, 7, 0, "MODEL")], widgets=[5, "randomize", "x", "fixed", 8, "av1", 3, *grain, 4, "hello"]
        )
        brought = {name: value for name, value in inputs.items() if name.startswith("codec.")}
        assert brought == {"codec.speed": 3, "codec.grain": grain[0], **more, "codec.tiles": 4}
        assert inputs["text"] == "hello"


def test_a_hidden_optional_input_may_have_no_value():
    save = {"required": {"name": ["STRING", {}]}, "optional": {"codec": ["STRING", {"hidden": True}]}}
    (made,) = to_prompt(workflow(node(1, "Save", widgets=["x"])), {"Save": {"input": save, "output": []}}).values()
    assert made["inputs"] == {"name": "x"}


def test_an_option_that_a_dynamic_combo_lacks_is_refused():
    with pytest.raises(WorkflowError, match="node 7 .* has 1 for codec"):
        sampled(links=[(9, 1, 0, 7, 0, "MODEL")], widgets=[5, "randomize", "x", "fixed", 8, 1, "hello"])


def test_notes_are_left_out():
    note = node(2, "MarkdownNote", widgets=["read me"])
    assert list(to_prompt(workflow(LOADER, note), INFO)) == ["1"]


def test_reroutes_are_followed():
    reroute = node(2, "Reroute", [("", "*", 8)], outputs=["MODEL"])
    assert sampled(reroute, links=[(8, 1, 0, 2, 0, "MODEL"), (9, 2, 0, 7, 0, "MODEL")])["model"] == ["1", 0]


@pytest.mark.parametrize("mode, model", [(0, ["2", 0]), (BYPASSED, ["1", 0]), (MUTED, None)])
def test_bypassed_nodes_pass_through_and_muted_ones_give_nothing(mode, model):
    patch = node(2, "Patch", [("model", "MODEL", 8)], [0.5], mode, ["MODEL"])
    assert sampled(patch, links=[(8, 1, 0, 2, 0, "MODEL"), (9, 2, 0, 7, 0, "MODEL")]).get("model") == model


def test_a_linked_widget_takes_the_link_and_a_primitive_its_value():
    primitive = node(2, "PrimitiveNode", widgets=[99, "fixed"], outputs=["INT"])
    sampler = node(7, "Sampler", [("model", "MODEL", 9), ("steps", "INT", 8)], SAMPLER_WIDGETS)
    links = [(9, 1, 0, 7, 0, "MODEL"), (8, 2, 0, 7, 1, "INT")]
    prompt = to_prompt(workflow(LOADER, primitive, sampler, links=links), INFO)
    assert prompt["7"]["inputs"]["steps"] == 99
    assert "2" not in prompt


@pytest.mark.parametrize(
    "widgets, reason",
    [(SAMPLER_WIDGETS[:-1], "no value for text"), ([*SAMPLER_WIDGETS, 1], "no widgets for: \\[1\\]")],
)
def test_values_that_do_not_fit_the_node_are_refused(widgets, reason):
    with pytest.raises(WorkflowError, match=f"node 7 \\(Sampler\\).*{reason}"):
        sampled(links=[(9, 1, 0, 7, 0, "MODEL")], widgets=widgets)


def test_a_node_that_the_server_lacks_is_refused():
    with pytest.raises(WorkflowError, match="node 3: the server has no Gone"):
        to_prompt(workflow(node(3, "Gone")), INFO)


def test_a_stock_workflow_runs_on_the_server_with_stand_ins(client, models):
    nodes = [
        node(1, "UNETLoader", widgets=["flux1-dev.safetensors", "default"]),
        node(2, "DualCLIPLoader", widgets=["clip_l.safetensors", "t5xxl_fp16.safetensors", "flux", "default"]),
        node(3, "CLIPTextEncode", [("clip", "CLIP", 1)], ["a cat"]),
        node(4, "FluxGuidance", [("conditioning", "CONDITIONING", 2)], [3.5]),
        node(5, "EmptySD3LatentImage", widgets=[1024, 1024, 1]),
        node(
            6,
            "KSampler",
            [
                ("model", "MODEL", 3),
                ("positive", "CONDITIONING", 4),
                ("negative", "CONDITIONING", 5),
                ("latent_image", "LATENT", 6),
            ],
            [42, "randomize", 2, 1, "euler", "simple", 1],
        ),
        node(7, "VAELoader", widgets=["ae.safetensors"]),
        node(8, "VAEDecode", [("samples", "LATENT", 7), ("vae", "VAE", 8)]),
        node(9, "SaveImage", [("images", "IMAGE", 9)], ["picture"]),
    ]
    links = [
        (1, 2, 0, 3, 0, "CLIP"),
        (2, 3, 0, 4, 0, "CONDITIONING"),
        (3, 1, 0, 6, 0, "MODEL"),
        (4, 4, 0, 6, 1, "CONDITIONING"),
        (5, 4, 0, 6, 2, "CONDITIONING"),
        (6, 5, 0, 6, 3, "LATENT"),
        (7, 6, 0, 8, 0, "LATENT"),
        (8, 7, 0, 8, 1, "VAE"),
        (9, 8, 0, 9, 0, "IMAGE"),
    ]
    info = client.object_info()
    prompt = to_prompt(workflow(*nodes, links=links), info)
    place_files(prompt, models)
    client.validate(prompt)
    shortened, saved = with_stand_ins(prompt, info, size=(128, 64))
    assert {n["class_type"] for n in shortened.values()} == {
        *("UNETLoader", "RandomConditioning", "FluxGuidance", "EmptySD3LatentImage", "KSampler", "SaveLatent")
    }
    assert client.latent(client.run(shortened), saved[0]).shape == (1, 16, 8, 16)
