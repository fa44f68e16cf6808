"""Every shipped template: valid as it is on the real server, and runs with stand-ins for what it loads."""

import json

import pytest
from comfy_host import PACK_ROOT
from support.templates import family_of, place_files, with_stand_ins
from support.workflow import to_prompt

TEMPLATES = sorted((PACK_ROOT / "example_workflows").glob("*.json"))


def ours(prompt):
    return {node["class_type"] for node in prompt.values() if node["class_type"].startswith("XDiT")}


@pytest.fixture
def place(client, models):
    """place_files; what it placed is taken away again, since two families may use one name, and some are large."""
    placed = []
    yield lambda prompt, family: placed.extend(place_files(prompt, models, family))
    for path in placed:
        path.unlink(missing_ok=True)
    client.free()
    models.delete("small-")


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.stem)
def test_a_template_is_valid_unchanged_and_runs(client, place, template):
    info, family = client.object_info(), family_of(template.stem)
    prompt = to_prompt(json.loads(template.read_text()), info)
    place(prompt, family)
    client.validate(prompt)
    runs, saved = with_stand_ins(prompt, info, family, family.size, family.steps)
    assert ours(runs) == ours(prompt) > {"XDiTParallelConfig"}
    latent = client.latent(client.run(runs, timeout=400), saved[0])
    width, height = family.size
    assert latent.shape == (1, *family.latent, height // family.scale, width // family.scale)
    assert latent.isfinite().all()


def test_the_template_browser_lists_them(client):
    listed = client.get("/workflow_templates")
    assert sorted(listed["xdit-comfyui"]) == [template.stem for template in TEMPLATES]


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.stem)
def test_a_template_has_a_thumbnail_and_names_its_files(template):
    assert template.with_suffix(".jpg").is_file()
    nodes = json.loads(template.read_text())["nodes"]
    (note,) = (node["widgets_values"][0] for node in nodes if node.get("title") == "Model files")
    for node in nodes:
        for model in node["properties"].get("models", ()):
            assert f"[{model['name']}]({model['url']}) | {model['directory']} |" in note
